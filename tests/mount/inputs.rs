//! Bad input: one line that names the thing, the right exit code, no mount.

use std::fs;
use std::path::Path;

use crate::require;
use crate::support::ours::{Ours, finish};
use crate::support::{Sandbox, mount_at, raw, run, sandbox, sh, str, text};

/// Arguments (SRC, MNT and DIR are put in), exit code, a word of the message.
type Case = (&'static [&'static str], i32, &'static str);

const USAGE: [Case; 42] = [
    (&["--nonsense", "SRC", "MNT"], 1, "nonsense"),
    (&["-o", "nonsense", "SRC", "MNT"], 1, "nonsense"),
    (&["-o", "ro,nonsense=5", "SRC", "MNT"], 1, "nonsense"),
    (&[], 1, ""),
    (&["SRC"], 1, ""),
    (&["SRC", "MNT", "third"], 1, "third"),
    (&["--map", "0:100000:0", "SRC", "MNT"], 1, "0:100000:0"),
    (&["--map", "0:100000", "SRC", "MNT"], 1, "0:100000"),
    (&["--map", "0:100000:1:1", "SRC", "MNT"], 1, "0:100000:1:1"),
    (&["--map", "x:100000:1", "SRC", "MNT"], 1, "x:100000:1"),
    (&["--map", "p:0:100000:1", "SRC", "MNT"], 1, "p:0:100000:1"),
    (&["--map", "+1:100000:1", "SRC", "MNT"], 1, "+1:100000:1"),
    (&["--map", " 1:100000:1", "SRC", "MNT"], 1, "1:100000:1"),
    (&["--map", "-1:100000:1", "SRC", "MNT"], 1, "-1"),
    (&["--map", "4294967295:0:1", "SRC", "MNT"], 1, "4294967295"),
    (&["--map", "0:4294967295:1", "SRC", "MNT"], 1, "4294967295"),
    (&["--map", "4294967290:0:10", "SRC", "MNT"], 1, "4294967290:0:10"),
    (&["--map", "0:4294967290:10", "SRC", "MNT"], 1, "0:4294967290:10"),
    (&["--map", "0:100:10", "--map", "5:200:10", "SRC", "MNT"], 1, "5:200:10"),
    (&["--map", "0:100:10", "--map", "50:109:1", "SRC", "MNT"], 1, "50:109:1"),
    (&["--map", "0:1:1", "--present-as", "5:5", "SRC", "MNT"], 1, "--unmapped"),
    (&["--present-as", "no-such-user", "SRC", "MNT"], 1, "no-such-user"),
    (&["--present-as", "0:no-such-group", "SRC", "MNT"], 1, "no-such-group"),
    (&["--present-as", "4294967295", "SRC", "MNT"], 1, "4294967295"),
    (&["--unmapped", "maybe", "SRC", "MNT"], 1, "maybe"),
    (&["--cache", "for-ever", "SRC", "MNT"], 1, "for-ever"),
    (&["--cache", "ttl=-1", "SRC", "MNT"], 1, "ttl=-1"),
    (&["-o", "submounts=maybe", "SRC", "MNT"], 1, "maybe"),
    (&["--offset", "4096", "SRC", "MNT"], 1, "option offset: it is for images"),
    (&["-o", "device=DIR/loop", "SRC", "MNT"], 1, "option device: it is for images"),
    (&["--engine=kernel", "--partition=1", "SRC", "MNT"], 1, "option partition"),
    (&["explain", "--offset=4K", "SRC", "file"], 1, "option offset: it is for images"),
    (&["check", "--source=SRC", "--size=4K", "DIR/field.toml"], 1, "option size: it is for images"),
    (&["check", "--verity=ignore", "DIR/field.toml"], 1, "option verity: it is for images"),
    (&["--replaced=no", "SRC", "MNT"], 1, "option replaced: no"),
    (&["-o", "replaced=keep", "SRC", "MNT"], 1, "option replaced: it is for images"),
    (&["explain", "--replaced=eio", "SRC", "file"], 1, "option replaced: it is for images"),
    (&["--policy", "DIR/missing.toml", "SRC", "MNT"], 1, "missing.toml"),
    (&["--policy", "DIR", "SRC", "MNT"], 1, "DIR"),
    (&["--policy", "DIR/fifo", "SRC", "MNT"], 1, "fifo"),
    (&["--policy", "DIR/syntax.toml", "SRC", "MNT"], 1, "syntax.toml:3:"),
    (&["--policy", "DIR/field.toml", "SRC", "MNT"], 1, "nonsense"),
];

const MOUNT: [Case; 6] = [
    (&["DIR/missing", "MNT"], 32, "missing"),
    (&["DIR/syntax.toml", "MNT"], 32, "syntax.toml"),
    (&["SRC", "DIR/missing"], 32, "missing"),
    (&["SRC", "DIR/syntax.toml"], 32, "syntax.toml"),
    (&["DIR/fifo", "MNT"], 32, "fifo"),
    (&["DIR/loop", "MNT"], 32, "loop"),
];

fn refused(sandbox: &Sandbox, (args, code, word): Case) -> Result<(), String> {
    let place = |arg: &str| {
        let of = |name: &str, arg: String| arg.replace(name, str(&sandbox.path(name)));
        of("SRC", of("MNT", of("DIR", arg.to_owned())))
    };
    let args: Vec<String> = args.iter().map(|arg| place(arg)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = finish(&args);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let mounted = mount_at(&sandbox.path("MNT")).is_some();
    if mounted {
        run("umount", &["-l", str(&sandbox.path("MNT"))]);
    }
    let one_line = said.trim_end().lines().count() == 1 && !said.trim().is_empty();
    let clean = !said.trim_end().chars().any(char::is_control);
    let named = said.contains(&place(word));
    let exit = done.status.code() == Some(code);
    if exit && one_line && named && clean && !mounted && done.stdout.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{args:?}: want exit {code} and one line with {word:?}{}: {}",
        if mounted { ", but it is mounted" } else { "" },
        text(&done)
    ))
}

fn table(cases: &'static [Case]) {
    sandbox(move |sandbox| {
        for dir in ["SRC", "MNT", "DIR"] {
            sandbox.dir(dir);
        }
        sandbox.file("DIR/syntax.toml", "version = 1\n[ids]\nmap = = 5\n");
        sandbox.file("DIR/field.toml", "version = 1\nnonsense = true\n");
        sh(&format!("cd {}; mkfifo fifo; ln -s loop loop", str(&sandbox.path("DIR"))));
        let wrong: Vec<String> =
            cases.iter().filter_map(|&case| refused(sandbox, case).err()).collect();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    });
}

#[test]
fn usage_errors_exit_with_1() {
    require!(Root, Fuse);
    table(&USAGE);
}

#[test]
fn failed_mounts_exit_with_32() {
    require!(Root, Fuse);
    table(&MOUNT);
}

#[test]
fn a_machine_without_fuse_is_told_so() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        for dir in ["SRC", "MNT"] {
            sandbox.dir(dir);
        }
        // A /dev of this namespace alone, with little in it.
        run("mount", &["-t", "tmpfs", "dev", "/dev"]);
        for (name, minor) in [("null", 3), ("urandom", 9)] {
            let node = Path::new("/dev").join(name);
            raw::mknod(&node, libc::S_IFCHR | 0o666, libc::makedev(1, minor)).unwrap();
        }
        refused(sandbox, (&["SRC", "MNT"], 32, "/dev/fuse")).unwrap();
    });
}

#[test]
fn control_bytes_in_messages_are_escaped() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        for dir in ["SRC", "MNT"] {
            sandbox.dir(dir);
        }
        let cases: [Case; 3] = [
            (&["--map", "1\u{1b}[31m:2:3", "SRC", "MNT"], 1, "[31m:2:3"),
            (&["-o", "two\nlines", "SRC", "MNT"], 1, "lines"),
            (&["/no/such\n\u{7}source", "MNT"], 32, "source"),
        ];
        for case in cases {
            refused(sandbox, case).unwrap();
        }
    });
}

#[test]
fn a_huge_policy_is_refused_and_not_read() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        for dir in ["SRC", "MNT"] {
            sandbox.dir(dir);
        }
        let huge = sandbox.path("DIR");
        fs::File::create(&huge).unwrap().set_len(64 << 20).unwrap();
        refused(sandbox, (&["--policy", "DIR", "SRC", "MNT"], 1, "DIR")).unwrap();
        let deep = format!("version = 1\n[ids]\nmap = {}\n", "[".repeat(200_000));
        fs::write(&huge, deep).unwrap();
        refused(sandbox, (&["--policy", "DIR", "SRC", "MNT"], 1, "DIR")).unwrap();
        refused(sandbox, (&["--policy", "/dev/zero", "SRC", "MNT"], 1, "/dev/zero")).unwrap();
    });
}

#[test]
fn a_comma_in_a_value_is_written_with_a_backslash() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("a,b");
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["-o", "fsname=x\\,y,ro"]);
        assert_eq!(mount_at(&ours.point).unwrap().source, "x,y");
        assert!(Path::new(&ours.point).exists());
    });
}
