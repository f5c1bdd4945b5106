//! One owner for everything: present-as, store-as.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::require;
use crate::support::ours::Ours;
use crate::support::{raw, sandbox, sh, sh_as, str, try_sh_as};

const AS: [&str; 4] = ["--present-as", "1000:1000", "--store-as", "2000:2001"];

#[test]
fn everything_is_shown_as_one_owner() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        sh(&format!(
            "cd {}; touch a b c; chown 1:2 a; chown 5000:1000 b; chown 65534:0 c; chmod 600 a b c",
            str(&source)
        ));
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &AS);
        for name in ["a", "b", "c", "."] {
            let meta = fs::metadata(ours.at(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (1000, 1000), "{name}");
        }
        sh_as(1000, 1000, &[], &format!("cd {}; cat a b c; echo x >> b", str(&ours.point)));
        let refused = try_sh_as(1001, 1001, &[], &format!("cat {}/a", str(&ours.point)));
        assert!(!refused.status.success());
        assert_eq!(fs::metadata(source.join("b")).unwrap().uid(), 5000);
    });
}

#[test]
fn whatever_is_created_belongs_to_the_stored_owner() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        raw::chmod(&source, 0o777).unwrap();
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &AS);
        for (uid, name) in [(0, "root"), (1000, "owner"), (1001, "other")] {
            sh_as(
                uid,
                uid,
                &[],
                &format!(
                    "cd {}; : > {name}; mkdir {name}.d; ln -s x {name}.l; mkfifo {name}.p",
                    str(&ours.point)
                ),
            );
            for name in ["", ".d", ".l", ".p"].map(|kind| format!("{name}{kind}")) {
                let disk = fs::symlink_metadata(source.join(&name)).unwrap();
                assert_eq!((disk.uid(), disk.gid()), (2000, 2001), "{name}");
                let view = fs::symlink_metadata(ours.at(&name)).unwrap();
                assert_eq!((view.uid(), view.gid()), (1000, 1000), "{name}");
            }
        }
    });
}

#[test]
fn only_the_presented_owner_or_root_makes_set_id_files() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        raw::chmod(&source, 0o777).unwrap();
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &AS);
        for (uid, kept) in [(1001, false), (1000, true)] {
            let caller = crate::support::raw::fork({
                let path = ours.at(&format!("by{uid}"));
                move || {
                    let id = nix::unistd::Uid::from_raw(uid);
                    let group = nix::unistd::Gid::from_raw(uid);
                    let _ = nix::unistd::setgroups(&[]);
                    let _ = nix::unistd::setresgid(group, group, group);
                    let _ = nix::unistd::setresuid(id, id, id);
                    let _ = raw::umask(0);
                    let _ = raw::open(&path, libc::O_CREAT | libc::O_WRONLY, 0o4755);
                    let fifo = path.with_extension("p");
                    let _ = raw::mknod(&fifo, libc::S_IFIFO | 0o6755, 0);
                }
            })
            .unwrap();
            nix::sys::wait::waitpid(caller, None).unwrap();
            let mode = fs::metadata(source.join(format!("by{uid}"))).unwrap().mode();
            assert_eq!(mode & 0o4000 != 0, kept, "by {uid}: {mode:o}");
            let fifo = fs::metadata(source.join(format!("by{uid}.p"))).unwrap().mode();
            assert!(kept || fifo & 0o6000 == 0, "by {uid}: {fifo:o}");
        }
        let chmod = try_sh_as(1001, 1001, &[], &format!("chmod u+s {}/by1001", str(&ours.point)));
        assert!(!chmod.status.success(), "a stranger may not chmod");
    });
}

#[test]
fn chown_to_the_presented_owner_alone_is_done() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &AS);
        fs::write(source.join("f"), "").unwrap();
        let before = fs::metadata(source.join("f")).unwrap().uid();
        assert!(raw::chown(&ours.at("f"), 4321, u32::MAX, false).is_err());
        assert_eq!(fs::metadata(source.join("f")).unwrap().uid(), before);
    });
}

#[test]
fn names_are_taken_for_users_and_groups() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["--present-as", "daemon:mail"]);
        let shown = sh(&format!("stat -c %U:%G {}", str(&ours.point)));
        assert_eq!(shown.trim(), "daemon:mail");
    });
}
