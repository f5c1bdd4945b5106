//! Ordinary users: `run`, user namespaces, fusermount3.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Output;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::{PROGRAM, finish, processes, program_for_users};
use crate::support::{
    Sandbox, mount_at, mounts, output, raw, sandbox, sh, str, text, try_sh_as, wait_for,
};

/// A user of every Debian system without subordinate ids.
const USER: u32 = 34;

/// A source and a mount point of that user.
fn planted(sandbox: &Sandbox) -> (PathBuf, PathBuf, PathBuf) {
    let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
    fs::write(source.join("f"), "contents").unwrap();
    for path in [&source, &point, &source.join("f")] {
        raw::chown(path, USER, USER, false).unwrap();
    }
    (program_for_users(sandbox), source, point)
}

fn as_user(script: &str) -> Output {
    try_sh_as(USER, USER, &[], script)
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const LOOK: &str = "pwd; stat -c %u:%g . f; id -u; touch new; exit 7";

/// A server of a private mount may do with files what that of any mount may.
#[test]
fn run_as_root_changes_files_of_any_owner() {
    require!(Root, Fuse, AclTools, CapTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let file = image.root.join("f");
        fs::write(&file, "x").unwrap();
        raw::chown(&file, 33, 33, false).unwrap();
        raw::chmod(&file, 0o600).unwrap();
        let script = "setfattr -n trusted.t -v t f; setfacl -m u:101:r f; chown 107:108 f
            setcap cap_net_raw+ep f; getfattr -m. f | sort | grep -c .; echo y >>f; cat f
            stat -c %u:%g f";
        let done = finish(&["run", str(&image.root), "--", "bash", "-euc", script]);
        assert_eq!(said(&done), "4\nx\ny\n107:108\n".replace("x\ny", "xy"));
        assert_eq!(fs::metadata(&file).unwrap().uid(), 107);
    });
}

#[test]
fn run_as_root_shows_its_own_mount_and_leaves_nothing() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        fs::write(source.join("f"), "x").unwrap();
        raw::chmod(&source, 0o777).unwrap();
        let before = mounts().len();
        let args = ["run", "--present-as", "1000:1000", "--store-as", "5:6", str(&source), "--"];
        let done = finish(&[&args[..], &["sh", "-c", LOOK]].concat());
        assert_eq!(done.status.code(), Some(7), "{}", text(&done));
        let out = String::from_utf8_lossy(&done.stdout);
        let lines: Vec<&str> = out.lines().skip(1).collect();
        assert_eq!(lines, ["1000:1000", "1000:1000", "1000"], "{out}");
        assert_eq!(fs::metadata(source.join("new")).unwrap().uid(), 5);
        assert_eq!(mounts().len(), before);
        wait_for("nothing left running", || processes(&source).is_empty());
    });
}

/// With `no_setuid_fixup` who gives up root by setuid(2) would keep its capabilities.
#[test]
fn run_leaves_the_command_its_umask_and_its_privilege() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let script = "umask; grep ^Cap /proc/self/status; setpriv --dump | grep Securebits";
        let natively = crate::support::sh(script);
        let state = format!("--owners-dir={}", str(&sandbox.path("state")));
        for owners in [&[][..], &["--owners=xattr"], &["--owners=db", &state]] {
            let command = [str(&image.root), "--", "sh", "-euc", script];
            let done = finish(&[&["run"][..], owners, &command].concat());
            assert_eq!(said(&done), natively, "{owners:?}");
        }
    });
}

#[test]
fn a_user_hears_of_access_times_who_has_asked_for_them() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (program, source, _) = planted(sandbox);
        for (flag, hears) in [("--ro", false), ("--ro --noatime", true), ("--nodiratime", true)] {
            let run = format!("{} run {flag} {} -- true", str(&program), str(&source));
            let done = as_user(&run);
            assert!(done.status.success(), "{}", text(&done));
            assert_eq!(text(&done).contains("access times"), hears, "{flag}: {}", text(&done));
        }
    });
}

#[test]
fn run_ends_with_its_command_though_ends_were_ignored() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        let run = format!("exec {PROGRAM} run {} -- sh -c 'exit 3'", str(&source));
        // A shell that hands that on: dash does not.
        let done = output("timeout", &["20", "bash", "-c", &format!("trap '' CHLD; {run}")]);
        assert_eq!(done.status.code(), Some(3), "{}", text(&done));
    });
}

#[test]
fn run_passes_signals_and_their_status_on() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        let args = ["run", "--present-as", "1000:1000", str(&source), "--", "sh", "-c"];
        let done = finish(&[&args[..], &["kill -TERM $$; sleep 5"]].concat());
        let code = done.status.code();
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&done.status);
        assert!(code == Some(143) || by_signal == Some(15), "{}", text(&done));
        let missing = finish(&[&args[..5], &["/no/such/command"]].concat());
        assert_eq!(missing.status.code(), Some(127), "{}", text(&missing));
    });
}

#[test]
fn run_works_for_an_ordinary_user() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (program, source, _) = planted(sandbox);
        let run = format!("{} run --present-as 1000:1000 {}", str(&program), str(&source));
        let done = as_user(&format!("{run} -- sh -c '{LOOK}'"));
        assert_eq!(done.status.code(), Some(7), "{}", text(&done));
        let out = String::from_utf8_lossy(&done.stdout);
        let lines: Vec<&str> = out.lines().skip(1).collect();
        assert_eq!(lines, ["1000:1000", "1000:1000", "1000"], "{out}");
        let new = fs::metadata(source.join("new")).unwrap();
        assert_eq!((new.uid(), new.gid()), (USER, USER));
        wait_for("nothing left running", || processes(&source).is_empty());
    });
}

/// Such a mount has no id that nobody is shown as.
#[test]
fn an_unmapped_entry_is_hidden_where_nothing_can_stand_for_it() {
    require!(Root, Fuse, UserNamespaces, AclTools, Ext4Loop);
    sandbox(|sandbox| {
        let (program, image) = (program_for_users(sandbox), Ext4::new(sandbox, 32));
        let (top, file) = (str(&image.root).to_owned(), image.root.join("f"));
        fs::write(&file, "contents").unwrap();
        let disk = str(&file);
        sh(&format!(
            "chown {USER}:{USER} {top} {disk}; chmod 600 {disk}; setfacl -m u:5:rw {disk}"
        ));
        let run = format!("{} run --present-as 1000:1000 {top}", str(&program));
        let script = "getfacl -nc f; cat f; chmod 640 f; setfacl -m g:1000:r f || echo refused";
        let out = said(&as_user(&format!("{run} -- sh -c \"{script}\" 2>&1")));
        assert!(out.contains("mask::rw-") && out.contains("contents"), "{out}");
        assert!(!out.contains("user:5") && !out.contains("user:4294"), "{out}");
        assert!(out.contains("Invalid argument") && out.contains("refused"), "{out}");
        let stored = sh(&format!("getfacl -nc {disk}"));
        assert!(stored.contains("user:5:rw-") && stored.contains("mask::r--"), "{stored}");
        assert!(!stored.contains("group:1000"), "{stored}");
    });
}

#[test]
fn run_says_how_many_subordinate_ids_are_missing() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (program, source, _) = planted(sandbox);
        let run = format!("{} run --map 0:0:70000 {} -- true", str(&program), str(&source));
        let done = as_user(&run);
        assert!(matches!(done.status.code(), Some(1 | 32)), "{}", text(&done));
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert!(error.contains("6999") || error.contains("70000"), "{error}");
    });
}

#[test]
fn a_user_mounts_by_fusermount() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let (program, source, point) = planted(sandbox);
        let (mnt, src) = (str(&point), str(&source));
        said(&as_user(&format!("{} --present-as {USER}:{USER} {src} {mnt}", str(&program))));
        let line = mount_at(&point).unwrap();
        assert_eq!(line.kind, "fuse.idmapfs");
        assert!(line.options.contains("nosuid") && line.options.contains("nodev"));
        assert_eq!(said(&as_user(&format!("cat {mnt}/f; touch {mnt}/g"))), "contents");
        assert_eq!(fs::metadata(source.join("g")).unwrap().uid(), USER);
        assert!(!try_sh_as(0, 0, &[], &format!("cat {mnt}/f")).status.success(), "root got in");
        // Nor does the user itself with another group, be it for a program's sake.
        assert!(!try_sh_as(USER, 33, &[USER], &format!("cat {mnt}/f")).status.success());
        sh(&format!(
            "cp /bin/cat {0}/cat && chown {USER}:33 {0}/cat && chmod 2755 {0}/cat",
            str(&sandbox.dir("bin"))
        ));
        let done = as_user(&format!("{}/cat {mnt}/f", str(&sandbox.path("bin"))));
        assert!(text(&done).contains("Permission denied"), "{}", text(&done));
        said(&as_user(&format!("fusermount3 -u {mnt}")));
        assert!(mount_at(&point).is_none());
        wait_for("the server's end", || processes(&point).is_empty());
    });
}

#[test]
fn a_user_may_not_store_what_is_not_theirs() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let (program, source, point) = planted(sandbox);
        let (mnt, src) = (str(&point), str(&source));
        let mount =
            format!("{} --present-as {USER}:{USER} --store-as 0:0 {src} {mnt}", str(&program));
        let done = as_user(&mount);
        if done.status.success() {
            // Mounted: then nothing may be born as root.
            let _ = as_user(&format!("touch {mnt}/g"));
            let owner = fs::metadata(source.join("g")).map(|meta| meta.uid());
            assert!(owner.is_err() || owner.is_ok_and(|uid| uid == USER));
            said(&as_user(&format!("fusermount3 -u {mnt}")));
        } else {
            assert!(matches!(done.status.code(), Some(1 | 32)), "{}", text(&done));
        }
    });
}

#[test]
fn root_of_a_user_namespace_mounts_directly() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (program, source, point) = planted(sandbox);
        let script = format!(
            "{0} --map 0:0:1 {1} {2}; stat -c %u:%g {2}/f; grep -c {2}.*fuse.idmapfs /proc/self/mountinfo; \
             touch {2}/h; umount {2}",
            str(&program),
            str(&source),
            str(&point)
        );
        let done = as_user(&format!("unshare -Urm bash -euc '{script}'"));
        assert_eq!(said(&done), "0:0\n1\n");
        assert_eq!(fs::metadata(source.join("h")).unwrap().uid(), USER);
        assert!(mount_at(&point).is_none());
    });
}

#[test]
fn a_user_without_fusermount_is_told_so() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let (program, source, point) = planted(sandbox);
        let none = sandbox.file("none", "");
        crate::support::run("mount", &["--bind", str(&none), "/usr/bin/fusermount3"]);
        let mount = format!("{} {} {}", str(&program), str(&source), str(&point));
        let done = as_user(&mount);
        assert_eq!(done.status.code(), Some(32), "{}", text(&done));
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert!(error.contains("fusermount3"), "{error}");
        assert!(mount_at(&point).is_none());
    });
}
