//! What `idmapfs explain` says a caller may do is what the caller can do.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid};
use serde_json::Value;

use crate::require;
use crate::support::ours::{Ours, PROGRAM, command, finish, finish_command};
use crate::support::{Sandbox, raw, sandbox, sh, str, text, try_sh_as, wait_for};

/// A caller: user, group, supplementary groups.
type Who = (u32, u32, &'static [u32]);

const CALLERS: [Who; 4] =
    [(0, 0, &[]), (1000, 1000, &[]), (1001, 1001, &[50]), (1002, 1000, &[60])];

const FILES: [&str; 15] = [
    ".",
    "open",
    "open/a.key",
    "open/free",
    "open/link",
    "open/odd",
    "bin",
    "bin/tool",
    ".ssh",
    ".ssh/id",
    "shut",
    "shut/in",
    "sticky/mine",
    "acl",
    "strange",
];

const ACL: &str = "system.posix_acl_access";

/// The files: name, owner, mode; a slash at the end: a directory.
const MADE: [(&str, u32, u32); 12] = [
    ("open/", 1000, 0o777),
    ("bin/", 1000, 0o755),
    (".ssh/", 1000, 0o755),
    ("shut/", 1000, 0o700),
    ("sticky/", 0, 0o1777),
    ("open/a.key", 1000, 0o755),
    ("open/free", 1000, 0o666),
    ("open/odd", 1000, 0o4755),
    ("bin/tool", 1000, 0o755),
    (".ssh/id", 1000, 0o600),
    ("shut/in", 1000, 0o644),
    ("sticky/mine", 1000, 0o644),
];

/// Makes the files anew, as if nobody had changed or removed one.
fn make(source: &Path, acl: &[u8]) {
    for entry in fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }.unwrap();
    }
    let loose = [("acl", 1000, 0o640), ("strange", 5000, 0o666)];
    for (name, owner, mode) in MADE.into_iter().chain(loose) {
        let path = source.join(name);
        if name.ends_with('/') {
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "").unwrap();
        }
        raw::chown(&path, owner, if owner == 0 { 0 } else { 1000 }, false).unwrap();
        raw::chmod(&path, mode).unwrap();
    }
    raw::set_xattr(&source.join("acl"), ACL, acl, 0).unwrap();
    raw::symlink(Path::new("free"), &source.join("open/link")).unwrap();
    raw::chown(&source.join("open/link"), 1000, 1000, false).unwrap();
    raw::chown(source, 0, 0, false).unwrap();
    raw::chmod(source, 0o777).unwrap();
}

/// An ACL for one user and one group, as it is stored.
fn acl(sandbox: &Sandbox) -> Vec<u8> {
    let file = sandbox.file("acl", "");
    sh(&format!("chmod 640 {0}; setfacl -m u:1001:rw,g:60:r {0}", str(&file)));
    raw::get_xattr(&file, c"system.posix_acl_access").unwrap()
}

/// Does an operation as a caller; returns the error number, 0 for none.
fn attempt(who: Who, operation: &str, path: &Path, mode: u32) -> i32 {
    let body = || {
        let (uid, gid) = (Uid::from_raw(who.0), Gid::from_raw(who.1));
        let groups: Vec<Gid> = who.2.iter().map(|group| Gid::from_raw(*group)).collect();
        let switched = nix::unistd::setgroups(&groups)
            .and_then(|()| nix::unistd::setresgid(gid, gid, gid))
            .and_then(|()| nix::unistd::setresuid(uid, uid, uid));
        switched.map_err(|errno| errno as i32)?;
        act(who, operation, path, mode)
    };
    let child = raw::fork_and_try(body).expect("fork");
    match waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}"),
    }
}

fn act(who: Who, operation: &str, path: &Path, mode: u32) -> Result<(), i32> {
    let code = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    match operation {
        "read" if path.is_symlink() => fs::read_link(path).map(drop).map_err(code),
        "read" => raw::open(path, libc::O_RDONLY, 0).map(drop),
        "write" => raw::open(path, libc::O_WRONLY, 0).map(drop),
        "search" => raw::access(path, libc::X_OK, 0).map(drop),
        "execute" => {
            let program = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
            match nix::unistd::execv(&program, &[&program]) {
                // It has come as far as to look what is in it.
                Err(Errno::ENOEXEC) => Ok(()),
                Err(errno) => Err(errno as i32),
            }
        }
        "create" => {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            raw::open(&path.join("new"), flags, 0o600).map(drop)
        }
        "delete" if path.is_dir() => match fs::remove_dir(path).map_err(code) {
            Err(libc::ENOTEMPTY) => Ok(()),
            done => done,
        },
        "delete" => fs::remove_file(path).map_err(code),
        "link" => raw::link(path, &path.with_file_name("hard")).map(drop),
        "chmod" => raw::chmod(path, mode ^ 0o200).map(drop),
        "chown" => raw::chown(path, who.0, who.1, false).map(drop),
        other => panic!("{other}"),
    }
}

/// The number of an error that an explanation names.
fn number(errno: &Value) -> i32 {
    match errno.as_str() {
        None => 0,
        Some("EACCES") => libc::EACCES,
        Some("EPERM") => libc::EPERM,
        Some("EROFS") => libc::EROFS,
        Some("ENOENT") => libc::ENOENT,
        Some("EOVERFLOW") => libc::EOVERFLOW,
        Some(other) => panic!("{other}"),
    }
}

fn owner(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    format!("{}:{}", meta.uid(), meta.gid())
}

/// Compares one operation of a caller on one file.
fn compare(
    (ours, source, acl): (&Ours, &Path, &[u8]),
    who: Who,
    (name, file): (&str, &Value),
    row: &Value,
) -> String {
    let operation = row["operation"].as_str().unwrap();
    let mode = u32::from_str_radix(file["mode"].as_str().unwrap(), 8).unwrap();
    let got = attempt(who, operation, &ours.at(name), mode);
    let wanted = number(&row["errno"]);
    // A link also takes a directory that it can be made in, under the same rules.
    let elsewhere = [libc::EACCES, libc::EROFS, libc::EPERM, libc::EOVERFLOW, libc::EXDEV];
    let same = got == wanted || operation == "link" && wanted == 0 && elsewhere.contains(&got);
    let stored = row["stored"].as_str().filter(|_| got == 0);
    let on_disk =
        source.join(if operation == "create" { format!("{name}/new") } else { name.into() });
    let found = stored.map(|_| owner(&on_disk));
    if got == 0 && !["read", "write", "search", "execute"].contains(&operation) {
        make(source, acl);
    }
    if same && found.as_deref() == stored {
        return String::new();
    }
    format!("{who:?} {operation} {name}: error {got}, stored as {found:?}, not as said: {row}\n")
}

#[test]
fn explain_says_what_callers_can_do() {
    require!(Root, Fuse, AclTools);
    sandbox(|sandbox| {
        let rules = "
[[rules]]
path = 'bin/**'
read-only = true
[[rules]]
path = '.ssh/**'
hide = true
[[rules]]
name = '*.key'
deny = ['delete', 'exec']
[[rules]]
name = 'odd'
present-owner = '1001:1001'
present-mode = 'go-rx'
[[rules]]
path = 'sticky'
deny = ['create']
";
        let changes = "[changes]\nchown = 'ignore'\nchgrp = 'ignore'\nchmod = 'deny'\n\
                       [ids.collapse]\npresent-as = '1001:1001'\nstore-as = '1000:1000'\n";
        let mirror = "[callers]\nmirror = [1001, '@60']\n";
        let refuse = "[callers]\nmirror = [1001]\nothers = 'refuse'\n[ids]\nmap = ['0:0:2000']\n";
        let map = "[ids]\nmap = ['0:0:1001', '1001:3000:1']\n";
        let acl = acl(sandbox);
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        let protected = fs::read_to_string("/proc/sys/fs/protected_hardlinks");
        let protected = protected.is_ok_and(|text| text.trim() == "1");
        let mut wrong = String::new();
        for policy in [rules, changes, mirror, refuse, map] {
            let file = sandbox.file("p.toml", &format!("version = 1\n{policy}"));
            make(&source, &acl);
            let ours = Ours::new(&source, &point, &["--policy", str(&file), "--cache", "none"]);
            for who in CALLERS {
                let groups: String = who.2.iter().map(|group| format!(",{group}")).collect();
                let caller = format!("{}:{}{groups}", who.0, who.1);
                let args = ["explain", "--json", "--policy", str(&file), "--as", &caller];
                let done = finish(&[&args[..], &[str(&source)], &FILES].concat());
                assert!(done.status.success(), "{}", text(&done));
                let said: Value = serde_json::from_slice(&done.stdout).unwrap();
                for (name, file) in FILES.iter().zip(said["files"].as_array().unwrap()) {
                    let rows = file["access"].as_array().unwrap();
                    for row in rows.iter().filter(|row| protected || row["operation"] != "link") {
                        wrong += &compare((&ours, &source, &acl), who, (name, file), row);
                    }
                }
            }
            ours.unmount();
        }
        assert!(wrong.is_empty(), "{wrong}");
    });
}

/// What `explain --mount` says in JSON.
fn live(point: &Path, more: &[&str]) -> Value {
    let mut said = None;
    // A mount is there a moment before its server can be asked.
    wait_for("a server that is known", || {
        let done = finish(&[&["explain", "--mount", "--json", str(point)], more].concat());
        said = done.status.success().then_some(done.stdout);
        said.is_some()
    });
    serde_json::from_slice(&said.unwrap()).unwrap()
}

#[test]
fn a_live_mount_says_what_it_is() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        for (args, want) in [
            (&["--cache=ttl=1"][..], ["ttl=1", "the kernel", "directly", "follow"]),
            (&["--cache=none"], ["none", "the kernel", "directly", "follow"]),
            (&["--cache=exclusive"], ["exclusive", "the kernel", "directly", "follow"]),
            (&["--mirror=7"], ["none", "the server", "directly", "follow"]),
            (&["--submounts=hide", "--cache=none"], ["none", "the kernel", "directly", "hide"]),
        ] {
            let ours = Ours::new(&source, &sandbox.dir("mnt"), args);
            let said = live(&ours.point, &[]);
            let of = |name: &str| said["mount"][name]["what"].as_str().unwrap().to_owned();
            let got = ["cache", "permission", "mounted", "submounts"].map(of);
            assert_eq!(got, want, "{args:?}");
            assert_eq!(of("engine"), "fuse");
            assert_eq!(said["mount"]["source"], str(&source));
            assert_eq!(said["mount"]["pid"].as_i64(), Some(ours.server().as_raw().into()));
            assert!(said["flags"].as_str().unwrap().contains("nosuid"), "{said}");
            assert_eq!(said["files"], Value::Null);
        }
    });
}

#[test]
fn a_live_mount_says_when_the_kernel_would_do() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        for (args, source, what, why) in [
            (&["--map=0:100000:9"][..], &source, "yes", "engine=kernel would do the same"),
            (&["--map=0:100000:9", "--fsname=x"], &source, "no", "option fsname"),
            (&["--store-as=1:1", "--present-as=1:1"], &source, "no", "present-as"),
            (&[], &PathBuf::from("/proc/bus"), "no", "(proc)"),
        ] {
            let done = finish(&[args, &[str(source), str(&point)]].concat());
            assert!(done.status.success(), "{}", text(&done));
            let said = live(&point, &[]);
            assert_eq!(said["kernel"]["what"], what, "{args:?}: {said}");
            let got = said["kernel"]["why"].as_str().unwrap();
            assert!(got.contains(why), "{args:?}: {got}");
            let done = finish(&["explain", "--mount", str(&point)]);
            let line = format!("  engine=kernel:  {what} (");
            assert!(text(&done).contains(&line), "{}", text(&done));
            sh(&format!("umount {}", str(&point)));
        }
        // Over itself, the source is no longer seen.
        let done = finish(&[str(&source), str(&source)]);
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(live(&source, &[])["kernel"]["what"], "unknown");
        let done = finish(&["explain", "--mount", str(&source), "."]);
        assert!(text(&done).contains("it is covered by this mount"), "{}", text(&done));
        sh(&format!("umount {}", str(&source)));
        // The kernel would show what a mount covers.
        sh(&format!("mkdir {0}/sub; mount -t tmpfs none {0}/sub", str(&source)));
        let done = finish(&["--submounts=hide", str(&source), str(&point)]);
        assert!(done.status.success(), "{}", text(&done));
        let said = live(&point, &[]);
        assert_eq!(said["kernel"]["what"], "no", "{said}");
        sh(&format!("umount {} {}/sub", str(&point), str(&source)));
    });
}

#[test]
fn a_live_mount_has_paths_of_any_bytes() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let dir = sandbox.path("").join(OsStr::from_bytes(b"a\xff"));
        for name in ["src", "mnt"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("p.toml"), "version = 1\n[ids]\nmap = ['0:7:1']\n").unwrap();
        let ours = |args: &[&str]| finish_command(command(args).current_dir(&dir));
        let done = ours(&["--policy", "p.toml", "src", "mnt"]);
        assert!(done.status.success(), "{}", text(&done));
        let mut said = Value::Null;
        wait_for("a server that is known", || {
            let done = ours(&["explain", "--mount", "--json", "mnt", "."]);
            said = serde_json::from_slice(&done.stdout).unwrap_or_default();
            done.status.success()
        });
        let coded =
            |name: &str| format!("{}/a\\xff/{name}", str(&sandbox.path("")).trim_end_matches('/'));
        assert_eq!(said["mount"]["source"], coded("src"));
        assert_eq!(said["mount"]["target"], coded("mnt"));
        assert_eq!(said["mount"]["options"][0], format!("policy={}", coded("p.toml")));
        assert_eq!(said["files"][0]["shown"][0]["answer"], 7, "{said}");
        sh(&format!("umount {}/*/mnt", str(&sandbox.path(""))));
    });
}

#[test]
fn files_of_a_live_mount_are_explained_by_its_policy() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "").unwrap();
        let policy = sandbox.file("p.toml", "version = 1\n[ids]\nmap = ['0:7:1']\n");
        // The server, and whoever asks, have their working directories elsewhere.
        let mut command = command(&["--policy", "p.toml", "src", "mnt"]);
        let done = finish_command(command.current_dir(sandbox.path("")));
        assert!(done.status.success(), "{}", text(&done));
        let said = live(&point, &["f", "--as", "7:7"]);
        assert_eq!(said["files"][0]["shown"][0]["answer"], 7, "{said}");
        assert_eq!(said["files"][0]["path"], "f");
        let files = [&source, &point].map(|top| top.join("f"));
        for file in files.each_ref().map(|file| str(file)) {
            let said = live(&point, &[file]);
            assert_eq!(said["files"][0]["shown"][0]["answer"], 7, "{said}");
            assert_eq!(said["files"][0]["path"], file);
        }
        assert!(!said["files"][0]["access"].as_array().unwrap().is_empty());
        assert_eq!(said["mount"]["options"][0], format!("policy={}", str(&policy)));
        fs::write(&policy, "version = 1\n[[rules]]\nname = 'f'\nhide = true\n").unwrap();
        let asked = || finish(&["explain", "--mount", str(&point), "f"]);
        assert_eq!(asked().status.code(), Some(1));
        assert!(text(&asked()).contains("is not the policy in force (idmapfs reload"));
        assert!(finish(&["reload", str(&point)]).status.success());
        let done = asked();
        assert!(text(&done).contains("f:\n  it is hidden\n"), "{}", text(&done));
        assert!(text(&done).contains("policy:         rules=1:"), "{}", text(&done));
        assert!(text(&done).contains("no (the policy has rules"), "{}", text(&done));
        let done =
            try_sh_as(1000, 1000, &[], &format!("{PROGRAM} explain --mount {}", str(&point)));
        assert!(!done.status.success(), "{}", text(&done));
        sh(&format!("umount {}", str(&point)));
    });
}
