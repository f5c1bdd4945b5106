//! Options of bindfs, given to it and to us as they are: what callers are
//! told, what they see, and what is on disk afterwards is the same.

use std::path::Path;

use crate::require;
use crate::support::ours::Ours;
use crate::support::{Sandbox, run, sandbox, sh, str, text, try_sh_as};

/// Those who work, each in a directory of their own, as uid and gid.
const CALLERS: [u32; 3] = [0, 1000, 1001];

/// Fills a source: in each directory the same.
const FILL: &str = "
chown 1000:1000 .; chmod 775 .
for caller in 0 1000 1001; do
    mkdir $caller; cd $caller
    echo x > file; echo o > other; echo p > prog; mkdir dir; echo d > dir/d
    chmod 644 file; chmod 664 other; chmod 755 prog; chmod 775 dir
    setfattr -n user.b -v 2 file
    chown 1000:1000 file dir .; chown 1001:1001 other prog; chmod 775 .
    cd ..
done";

/// What each caller does; prints what came of it.
const WORK: &str = r#"
try() {
    local said status=0
    said=$("$@" 2>&1 >/dev/null) || status=$?
    echo "$* -> $status ${said##*: }"
}
cd "$1" 2>/dev/null || { echo "cannot enter"; exit 0; }
umask 022
try touch new
try mkdir newdir
try ln -s file newlink
try sh -c 'echo more >> file'
try sh -c 'echo more >> other'
try chown 1000 other
try chown 1001 file
try chgrp 1000 other
try chown 0:0 file
try chmod 600 file
try chmod 755 file
try chmod a+x new
try chmod 777 dir
try setfattr -n user.a -v 1 file
try getfattr -n user.b file
try mv file moved
try mv other dir/other
try rm moved
try rmdir newdir
try rm -f new
try truncate -s 0 prog
stat -c '%n %u:%g %a %s' * dir/* 2>/dev/null || true
"#;

/// Returns what comes of the work of all callers, on the mount and on disk.
fn outcome(source: &Path, point: &Path) -> String {
    let mut found = String::new();
    for caller in CALLERS {
        let script = format!("set -- {}/{caller}\n{WORK}", str(point));
        let done = try_sh_as(caller, caller, &[], &script);
        assert!(done.status.success(), "{}", text(&done));
        found += &format!("as {caller}:\n{}", String::from_utf8_lossy(&done.stdout));
    }
    let disk = format!("cd {}; stat -c '%n %u:%g %a %s' */* */dir/*", str(source));
    found + "on disk:\n" + &sh(&disk)
}

/// Works on a new source under both; returns what differs, line by line.
fn differences(sandbox: &Sandbox, options: &str) -> Vec<[String; 2]> {
    let place = |who: &str| {
        let [source, point] = ["src", "mnt"].map(|what| sandbox.dir(&format!("{who}/{what}")));
        sh(&format!("cd {}; {FILL}", str(&source)));
        (source, point)
    };
    let (source, point) = place("bindfs");
    run("bindfs", &["-o", options, str(&source), str(&point)]);
    let theirs = outcome(&source, &point);
    run("umount", &["-l", str(&point)]);
    let (source, point) = place("ours");
    let ours = Ours::new(&source, &point, &["-o", options]);
    let ours = outcome(&source, &ours.point);
    assert_eq!(theirs.lines().count(), ours.lines().count(), "{options}:\n{theirs}\n{ours}");
    let both = theirs.lines().zip(ours.lines()).filter(|(theirs, ours)| theirs != ours);
    both.map(|(theirs, ours)| [theirs.to_owned(), ours.to_owned()]).collect()
}

#[test]
fn options_of_bindfs_do_what_they_do_there() {
    require!(Root, Fuse, Bindfs);
    for options in [
        "create-as-user",
        "create-for-user=1000",
        "create-for-group=1000",
        "create-with-perms=0640:a+X",
        "create-with-perms=g=u",
        "perms=0644:a+X",
        "perms=0000:u+rD",
        "perms=a-w:gd+w",
        "perms=a-w",
        "map=1000/1001:1001/1000:@1000/@1001:@1001/@1000",
        "chown-ignore",
        "chown-deny",
        "chgrp-ignore",
        "chgrp-deny",
        "chmod-ignore",
        "chmod-deny",
        "chmod-filter=g-w:o-rwx",
        "chmod-filter=0600:u+X",
        "chmod-ignore,chmod-allow-x",
        "chmod-deny,chmod-allow-x",
        "xattr-rw",
        "delete-deny",
        "rename-deny",
        "delete-deny,rename-deny,perms=a+r,chown-ignore",
        "mirror=1001",
        "mirror-only=1001",
    ] {
        sandbox(move |sandbox| {
            let found = differences(sandbox, options);
            assert!(found.is_empty(), "{options}: {found:#?}");
        });
    }
}

#[test]
fn what_differs_from_bindfs_is_known() {
    require!(Root, Fuse, Bindfs);
    for (options, theirs, ours) in [
        // Every file is the user's: chown to another would not be shown, and
        // what root makes belongs to the user on disk too.
        ("force-user=1000", "chown 1001 file -> 0", "Value too large for defined data type"),
        ("force-user=1000", "newlink 0:0 777", "newlink 1000:0 777"),
        ("xattr-none", "-> 1 Operation not supported", "-> 1 Operation not permitted"),
        ("xattr-none", "-> 1 Operation not supported", "-> 1 No such attribute"),
        ("xattr-ro", "-> 1 Permission denied", "-> 1 Operation not permitted"),
    ] {
        sandbox(move |sandbox| {
            let found = differences(sandbox, options);
            let known =
                found.iter().any(|[there, here]| there.contains(theirs) && here.contains(ours));
            assert!(known, "{options}: {found:#?}");
        });
    }
}
