//! What is wrong is said, and mended where that takes no guess.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use nix::fcntl::{Flock, FlockArg};

use super::ground::{Ground, STORES, full};

fn open_up(ground: &Ground, name: &str, mode: u32) {
    fs::set_permissions(ground.at(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_wrong_is_said_line_by_line() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.good("import", "dir", &["--from", "-"], &full());
        open_up(&ground, "dir/big", 0o644);
        open_up(&ground, "dir/etc", 0o755);
        open_up(&ground, "dir/etc/ping", 0o660);
        fs::write(ground.at("dir/null"), "contents").unwrap();
        let told = ground.bad("check", "dir", &[], b"");
        for line in [
            "big: mode 0644 on disk is too open (--fix mends it)",
            "etc: mode 0755 on disk is too open (--fix mends it)",
            "etc/ping: its record does not count: on disk others may write it (mode 0660); \
             if it is sound: chmod go-w",
            "null: stands for a file without contents and has some",
        ] {
            assert!(told.lines().any(|told| told == line), "{store}: {line}: {told}");
        }
        assert_eq!(told.lines().count(), 4, "{told}");
        let told = ground.bad("check", "dir", &["--fix"], b"");
        assert!(told.contains("big: mode 0644 on disk is too open: mended"), "{told}");
        let mode = |name: &str| ground.at(name).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("dir/big"), mode("dir/etc"), mode("dir/etc/ping")), (0o600, 0o700, 0o660));
        assert_eq!(ground.bad("check", "dir", &[], b"").lines().count(), 2);
        open_up(&ground, "dir/etc/ping", 0o700);
        fs::write(ground.at("dir/null"), "").unwrap();
        assert_eq!(ground.good("check", "dir", &[], b""), b"");
    }
}

#[test]
fn records_of_files_that_are_gone_are_found() {
    let ground = Ground::new("db");
    ground.good("import", "dir", &["--from", "-"], &full());
    fs::remove_file(ground.at("dir/big")).unwrap();
    fs::remove_file(ground.at("dir/fifo")).unwrap();
    let told = ground.bad("check", "dir", &[], b"");
    assert_eq!(told.matches("is gone and has a record (--fix removes it)").count(), 2, "{told}");
    let told = String::from_utf8(ground.good("check", "dir", &["--fix"], b"")).unwrap();
    assert_eq!(told.matches("is gone and has a record: removed").count(), 2, "{told}");
    assert_eq!(ground.good("check", "dir", &[], b""), b"");
}

#[test]
fn records_without_sense_are_found() {
    let ground = Ground::new("xattr");
    let set = |name: &str, value: &str| {
        let path = ground.file(&format!("dir/{name}"), b"");
        open_up(&ground, &format!("dir/{name}"), 0o600);
        let mut setfattr = ground.command("setfattr");
        setfattr.args(["-n", "user.containers.override_stat", "-v", value]).arg(path);
        setfattr.status().is_ok_and(|done| done.success())
    };
    if !set("nonsense", "0:root:x") {
        return eprintln!("SKIP: needs setfattr and a file system with user attributes");
    }
    set("targetless", "0:0:0777:symlink");
    set("good", "0:0:0644");
    let told = ground.bad("check", "dir", &["--fix"], b"");
    assert!(told.contains("nonsense: its record makes no sense"), "{told}");
    assert!(told.contains("targetless: stands for a symbolic link without a target"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn a_database_within_the_directory_is_left_out() {
    let ground = Ground::new("db");
    let state = ground.at("dir/state");
    let place = ["--owners-dir", state.to_str().unwrap()];
    let with = |more: &[&'static str]| [&place[..], more].concat();
    ground.good("import", "dir", &with(&["--from", "-"]), &full());
    assert!(fs::read_dir(&state).unwrap().count() > 0);
    ground.good("check", "dir", &place, b"");
    let tar = ground.good("export", "dir", &with(&["--tar", "-"]), b"");
    let names = super::ground::contents(&tar);
    assert!(names.contains_key("null") && !names.keys().any(|name| name.contains("state")));
}

/// As a server holds it.
#[test]
fn what_is_mounted_is_not_changed() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.good("import", "dir", &["--from", "-"], &full());
        let served = ground.serve("dir");
        for (action, args) in
            [("import", &["--from", "-"][..]), ("drop", &[]), ("check", &["--fix"])]
        {
            let told = ground.bad(action, "dir", args, &full());
            assert!(told.contains("in use") && told.contains("unmount"), "{told}");
        }
        for (action, args) in [("export", &[][..]), ("export", &["--tar", "-"]), ("check", &[])] {
            let output = ground.run(action, "dir", args, b"");
            assert!(output.status.success(), "{action}");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains("is mounted"), "{told}");
        }
        drop(served);
        ground.good("drop", "dir", &[], b"");
    }
}

/// Anybody who may read a directory can lock that.
#[test]
fn a_lock_on_the_source_itself_is_in_nobodys_way() {
    for store in STORES {
        let ground = Ground::new(store);
        let root = fs::File::open(ground.at("dir")).unwrap();
        let _locked = Flock::lock(root, FlockArg::LockExclusiveNonblock).unwrap();
        ground.good("import", "dir", &["--from", "-"], &full());
        ground.good("check", "dir", &[], b"");
    }
}

#[test]
fn a_line_says_what_is_wrong_with_the_arguments() {
    let ground = Ground::new("xattr");
    for (action, args, wanted) in [
        ("list", &[][..], "import, export, check or drop"),
        ("import", &[], "--from FILE"),
        ("check", &["--tar", "x"], "goes with owners export"),
        ("drop", &["--fix"], "goes with owners check"),
        ("drop", &["--owners-dir", "x"], "goes with --owners db"),
        ("drop", &["--owners", "native"], "xattr or db"),
    ] {
        let told = ground.bad(action, "dir", args, b"");
        assert!(told.contains(wanted) && told.lines().count() == 1, "{told}");
    }
    let told = ground.bad("check", "nowhere", &[], b"");
    assert!(told.contains("nowhere"), "{told}");
}
