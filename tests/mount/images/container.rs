//! Images in the hands of ordinary users, who have them with the ids in them.

use std::path::PathBuf;

use crate::require;
use crate::support::images::{self, image};
use crate::support::rootless::{ANN, Rootless};
use crate::support::{raw, sandbox, sh, str};

/// Puts an image into a user's home.
fn in_home(ann: &Rootless, name: &str) -> PathBuf {
    let (from, _) = image(name).expect("tools of Debian 12 make it");
    let to = ann.home.join("image");
    images::copy(&from, &to);
    raw::chown(&to, ANN, ANN, false).expect("chown");
    to
}

/// Owners of files that ids were chosen for.
const OWNERS: &str = "cd ~/.cache/view/ids; stat -c %u:%g setuid daemon user above most";

#[test]
fn a_user_mounts_an_image_with_the_ids_in_it() {
    require!(Root, Fuse, Fusermount, UserNamespaces, Squashfs, Erofs, Ext4Loop);
    for name in ["ext4", "squashfs", "erofs"] {
        sandbox(move |sandbox| {
            let ann = Rootless::new(sandbox);
            in_home(&ann, name);
            let out = ann.does(&format!(
                "idmapfs ~/image ~/.cache/view; {OWNERS}; cd; fusermount3 -u ~/.cache/view"
            ));
            let most = u32::MAX - 1;
            let low = "0:0\n33:4\n1000:1000\n";
            assert_eq!(out, format!("{low}65536:65537\n{most}:{most}\n"), "{name}");
            // A namespace with 65536 ids: those beyond are nobody's.
            let inside = |script: &str| {
                format!(
                    "unshare --map-auto --map-root-user -m sh -euc '{script}; cd; umount ~/.cache/view'"
                )
            };
            let out = ann.does(&inside(&format!("idmapfs ~/image ~/.cache/view; {OWNERS}")));
            assert_eq!(out, format!("{low}65534:65534\n65534:65534\n"), "{name}");
            let out = ann.does(&inside(&format!(
                "idmapfs --map 0:1000:5000 ~/image ~/.cache/view; {OWNERS}"
            )));
            let moved = "1000:1000\n1033:1004\n2000:2000\n65534:65534\n65534:65534\n";
            assert_eq!(out, moved, "{name}");
            // What only its owner may read, its owner reads; and root of the namespace.
            let read = "idmapfs ~/image ~/.cache/view; cat ~/.cache/view/ids/daemon; \
                        setpriv --reuid 33 --regid 33 --clear-groups cat ~/.cache/view/ids/daemon";
            assert_eq!(ann.does(&inside(read)), "daemondaemon", "{name}");
        });
    }
}

#[test]
fn others_do_not_see_a_users_image() {
    require!(Root, Fuse, Fusermount, Erofs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        in_home(&ann, "erofs");
        ann.does("idmapfs ~/image ~/.cache/view");
        let view = ann.home.join(".cache/view");
        let said = sh(&format!("ls {} 2>&1 || true", str(&view)));
        assert!(said.contains("Permission denied"), "{said}");
        // Set-id files of the image are nobody's way to its ids.
        let mounts = ann.does("grep /.cache/view /proc/self/mountinfo");
        assert!(mounts.contains("nosuid") && mounts.contains("nodev"), "{mounts}");
        ann.does("fusermount3 -u ~/.cache/view");
    });
}

/// systemd-nspawn in a control group of its own, where no systemd runs; what it keeps of
/// machines in `/run` is the test's.
const NSPAWN: &str = "
mkdir -p /run/systemd; mount -t tmpfs none /run/systemd
umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
group=/sys/fs/cgroup/idmapfs-$$; mkdir $group; trap 'rmdir $group/*/ $group || :' EXIT
# Else it makes one in the hierarchy of old, too.
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
machine() {
    (echo $BASHPID >$group/cgroup.procs
     exec systemd-nspawn --quiet --register=no --keep-unit --timezone=off --resolv-conf=off --console=pipe \\
         --private-users=524288:65536 --private-users-ownership=off -D machine \"$@\" </dev/null)
}
";

#[test]
fn systemd_nspawn_runs_on_an_image_with_a_shift() {
    require!(Root, Fuse, Nspawn, Overlay, Erofs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let script = format!(
            "{NSPAWN} cd {here}; chown -R 0:0 rootfs; chown 33:33 rootfs/home; mkfs.erofs rootfs.erofs rootfs >/dev/null
             mkdir machine; idmapfs() {{ {program} \"$@\"; }}
             idmapfs --map 0:524288:65536 rootfs.erofs machine
             machine --read-only sh -euc 'id -u; stat -c %u:%g /etc/passwd /home; touch /x 2>&1 | grep -o Read-only
                 grep -o 524288 /proc/self/uid_map'
             umount machine; idmapfs --upper upper --map 0:524288:65536 rootfs.erofs machine
             machine sh -euc 'echo hello >/made; chown 33:33 /made; stat -c %u /made'
             umount machine; stat -c %u:%g upper/made",
            here = str(ann.rootfs.parent().unwrap()),
            program = crate::support::ours::PROGRAM,
        );
        let file = sandbox.file("nspawn", &script);
        let out = sh(&format!("unshare -m bash -eu {} 2>&1", str(&file)));
        let want = "0\n0:0\n33:33\nRead-only\n524288\n33\n524321:524321\n";
        assert_eq!(out, want);
    });
}
