//! Programs that keep owners, on the mount of an ordinary user who may not.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::program_for_users;
use crate::support::{Sandbox, raw, sandbox, sh, str, text, try_sh_as, wait_for};

/// A user of every Debian system, here with subordinate ids.
const USER: u32 = 34;

/// Gives the user subordinate ids in this namespace.
fn give_ranges(sandbox: &Sandbox) {
    let ranges = sandbox.file("ranges", &format!("{USER}:100000:65536\n"));
    let none: Option<&str> = None;
    for file in ["/etc/subuid", "/etc/subgid"] {
        nix::mount::mount(Some(&ranges), file, none, MsFlags::MS_BIND, none).expect("bind it");
    }
}

/// Makes an archive and a package with what belongs to several users.
fn pack(sandbox: &Sandbox) {
    let script = format!(
        r#"
        umask 022
        cd {}
        mkdir -p tree/dir tree/sgid tree/sticky deb/DEBIAN deb/opt/p
        echo one >tree/dir/a; echo two >tree/dir/b; echo three >tree/c
        cp /bin/true tree/prog; cp /bin/true tree/setuid
        ln tree/c tree/dir/hard; ln -s c tree/root-link; ln -s nowhere tree/dir/own-link
        mkfifo tree/fifo
        chown 33:33 tree/dir tree/dir/a; chown 1000:50 tree/dir/b; chown 0:42 tree/c
        chown -h 1000:1000 tree/dir/own-link; chown 7:8 tree/fifo tree/sgid
        chmod 2775 tree/sgid; chmod 1777 tree/sticky; chmod 600 tree/dir/b; chmod 4755 tree/setuid
        setfacl -m u:33:rwx,g:50:r tree/c; setfacl -d -m u:1000:rwx,g::r tree/sgid
        setcap cap_net_raw+ep tree/prog
        setfattr -n user.note -v text tree/dir/a
        tar --acls --xattrs --xattrs-include='*' --numeric-owner -cf tree.tar -C tree .
        printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@e.org>\nDescription: d\n' \
            >deb/DEBIAN/control
        echo x >deb/opt/p/file; cp /bin/true deb/opt/p/su; mkdir deb/opt/p/dir
        ln -s file deb/opt/p/link
        chown 33:33 deb/opt/p/file; chmod 4755 deb/opt/p/su; chown 8:12 deb/opt/p/dir
        chmod 2775 deb/opt/p/dir
        dpkg-deb -Znone -b deb p.deb >/dev/null
        list tree >expected
        chmod 644 tree.tar p.deb; chmod 755 .
        "#,
        str(&sandbox.path("pack"))
    );
    sandbox.dir("pack");
    sh(&format!("{LIST}\n{script}"));
}

/// Lists a tree: all that the programs are to keep, but times of directories.
const LIST: &str = r#"
list() {
    (
        cd "$1"
        find . \( -type d -o -type p \) -printf '%p %y %U:%G %m\n' | sort
        find . ! -type d ! -type p -printf '%p %y %U:%G %m %s %n %l %Ts\n' | sort
        find . ! -type l -print0 | sort -z | xargs -0 getfacl -n 2>/dev/null
        getcap -r . | sort
        find . -print0 | sort -z | xargs -0 getfattr -hd 2>/dev/null
    )
}
"#;

/// Runs a script as root of the user's own namespaces.
fn in_namespaces(sandbox: &Sandbox, script: &str) -> String {
    let script =
        sandbox.file("script", &format!("set -eu\nPATH=$PATH:/usr/sbin:/sbin\n{LIST}{script}"));
    raw::chmod(&script, 0o644).expect("chmod");
    let line = format!(
        "XDG_STATE_HOME={} exec unshare --map-auto --map-root-user -m bash {}",
        str(&sandbox.path("state")),
        str(&script)
    );
    let done = try_sh_as(USER, USER, &[], &line);
    assert!(done.status.success(), "{}", text(&done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn nothing_gained(store: &Path) {
    // It ends a moment after its mount, and what it prepared files in with it.
    wait_for("the server's end", || !store.join(".idmapfs").exists());
    let odd = sh(&format!(
        r#"find {store} \( ! -uid {USER} -o ! -gid {USER} -o -perm /7000 -o -perm /022 \) ! -type l -ls
           getcap -r {store}"#,
        store = str(store)
    ));
    assert_eq!(odd, "", "on disk");
}

fn programs_keep_all(owners: &'static str) {
    sandbox(move |sandbox| {
        let image = Ext4::new(sandbox, 100);
        let store = image.root.join("store");
        fs::create_dir(&store).expect("a directory");
        for dir in [store.clone(), sandbox.dir("mnt"), sandbox.dir("state")] {
            raw::chown(&dir, USER, USER, false).expect("chown");
        }
        give_ranges(sandbox);
        pack(sandbox);
        let program = program_for_users(sandbox);
        let (mnt, pack) = (sandbox.path("mnt"), sandbox.path("pack"));
        let said = in_namespaces(
            sandbox,
            &format!(
                r#"
                mnt={mnt} pack={pack}
                start() {{ {program} --owners {owners} {store} $mnt; }}
                start
                mkdir $mnt/tar $mnt/rsync $mnt/dpkg
                tar --acls --xattrs --xattrs-include='*' --numeric-owner -xpf $pack/tree.tar -C $mnt/tar
                rsync -aAXH --numeric-ids $mnt/tar/ $mnt/rsync
                mkdir -p $mnt/dpkg/var/lib/dpkg/updates $mnt/dpkg/var/lib/dpkg/info
                touch $mnt/dpkg/var/lib/dpkg/status
                dpkg --root=$mnt/dpkg --log=/dev/null -i $pack/p.deb >&2
                for round in 1 2; do
                    list $mnt/tar | diff $pack/expected - >&2
                    list $mnt/rsync | diff $pack/expected - >&2
                    (cd $mnt/dpkg/opt/p; stat -c '%n %U:%G %a' dir file link su)
                    umount $mnt
                    start
                done
                umount $mnt
                "#,
                mnt = str(&mnt),
                pack = str(&pack),
                program = str(&program),
                store = str(&store)
            ),
        );
        let package = "dir mail:man 2775\nfile www-data:www-data 644\nlink root:root 777\nsu root:root 4755\n";
        assert_eq!(said, package.repeat(2));
        nothing_gained(&store);
    });
}

#[test]
fn tar_rsync_and_dpkg_keep_owners_in_attributes() {
    require!(Root, Fuse, Ext4Loop, UserNamespaces, AclTools, CapTools);
    programs_keep_all("xattr");
}

#[test]
fn tar_rsync_and_dpkg_keep_owners_in_a_database() {
    require!(Root, Fuse, Ext4Loop, UserNamespaces, AclTools, CapTools);
    programs_keep_all("db");
}
