//! Who may use the blocks that ext4 keeps in reserve: the same callers for the
//! same calls as on the kernel's idmapped mount.
//!
//! The kernel asks whether the caller's own user id, not what it is stored as,
//! is the one that the reserve is for (`ext4_has_free_clusters`).

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::acl;
use super::actor::{Actor, Caller};
use super::compare;
use super::ops::{Bytes, Op, Outcome};
use crate::require;
use crate::support::idmap::{self, IdMap};
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{raw, run, sandbox, sh_as, str};

/// How often a call is made that takes a block each time.
const TIMES: usize = 10;

/// How many long names a directory is given: several blocks of them.
const NAMES: usize = 70;

/// A caller and what it is stored as; users come first, who leave the reserve
/// to the others.
const WHO: [(Caller, u32); 6] = [
    (plain("user", 100_005, 200_005), 5),
    (plain("view-root", 100_000, 200_000), 0),
    (Caller { container: true, ..plain("container-user", 1, 1) }, 1),
    (Caller { container: true, capable: true, ..plain("container-root", 0, 0) }, 0),
    (plain("root-without-capabilities", 0, 0), 1000),
    (Caller { capable: true, ..plain("root", 0, 0) }, 1000),
];

const fn plain(name: &'static str, uid: u32, gid: u32) -> Caller {
    Caller { name, uid, gid, groups: &[], capable: false, container: false }
}

/// The root of the host is stored as an ordinary user, and an ordinary user as
/// root.
fn map() -> IdMap {
    IdMap::of(&["0:100000:1000", "1000:0:1"], &["0:200000:1000", "1000:0:1"])
}

/// A name so long that a block holds few.
fn long(n: usize) -> String {
    format!("{n:0>200}")
}

/// An ACL too large for an inode, of a number; its users are those from `base`
/// on.
fn large_acl(base: u32, n: usize) -> Vec<u8> {
    let first = base + 60 * n as u32;
    let named: Vec<_> = (first..first + 60).map(|id| (acl::USER, 6, id)).collect();
    acl::with(6, 6, 0, &named)
}

/// Makes what the calls of a caller need.
fn plant(top: &Path, stored: u32) {
    let own = |path: &Path, mode| {
        raw::chown(path, stored, stored, false).unwrap();
        raw::chmod(path, mode).unwrap();
    };
    let file = |path: PathBuf, contents: &[u8]| {
        fs::write(&path, contents).unwrap();
        own(&path, 0o660);
        path
    };
    fs::create_dir(top).unwrap();
    for dir in ["d", "dirs", "files", "nodes", "links", "symlinks", "from", "to", "targets"] {
        fs::create_dir(top.join(dir)).unwrap();
        own(&top.join(dir), 0o777);
    }
    let inherits = top.join("inherits");
    fs::create_dir(&inherits).unwrap();
    raw::chown(&inherits, stored, 7, false).unwrap();
    raw::chmod(&inherits, 0o2777).unwrap();
    raw::set_xattr(&inherits, "system.posix_acl_default", &large_acl(0, TIMES), 0).unwrap();
    file(top.join("full"), &[1; TIMES * 4096]);
    for name in ["linked", "written", "allocated", "cut", "copied"] {
        file(top.join(name), b"");
    }
    for n in 0..NAMES {
        file(top.join("from").join(long(n)), b"");
    }
    for n in 0..TIMES {
        for name in ["x", "a"] {
            file(top.join(format!("{name}{n}")), b"");
        }
        // No room is left in the inode.
        let capable = file(top.join(format!("c{n}")), b"");
        raw::set_xattr(&capable, "user.fill", &[b'x'; 60], 0).unwrap();
        // Equal attributes share a block on the disk.
        let shared = file(top.join(format!("s{n}")), b"");
        for k in 0..TIMES {
            raw::set_xattr(&shared, &format!("user.{k}"), &[b'y'; 100], 0).unwrap();
        }
        let listed = file(top.join(format!("m{n}")), b"");
        raw::set_xattr(&listed, "system.posix_acl_access", &large_acl(0, TIMES), 0).unwrap();
    }
    own(top, 0o777);
}

/// Fills the disk as a user, until nothing is left but the reserve.
fn fill(image: &Ext4) {
    let dir = image.root.join("filling");
    fs::create_dir(&dir).unwrap();
    raw::chmod(&dir, 0o777).unwrap();
    let blocks = "for size in 64k 4k 4k; do \
         dd if=/dev/zero of=$size-$RANDOM bs=$size conv=fsync 2>/dev/null || true; done; sync -f .";
    sh_as(7, 7, &[], &format!("cd {}; {blocks}", str(&dir)));
    let free = run("stat", &["-f", "-c", "%f %a", str(&image.root)]);
    let free: Vec<u64> = free.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(free[0] > 1000 && free[1] < 3, "free, and free for users: {free:?}");
}

/// Calls by name, each to be made many times.
type Calls = Vec<(&'static str, Vec<Op>)>;

fn times(make: impl Fn(usize) -> Op) -> Vec<Op> {
    (0..TIMES).map(make).collect()
}

fn names(dir: &str, make: impl Fn(String) -> Op) -> Vec<Op> {
    (0..NAMES).map(|n| make(format!("{dir}/{}", long(n)))).collect()
}

/// What makes files.
fn births(top: &str) -> Calls {
    let at = |name: &str| format!("{top}/{name}");
    let make = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    let create = |path| Op::Open { path, flags: make, mode: 0o600, slot: 1 };
    let fifo = |path| Op::Mknod { path, mode: libc::S_IFIFO | 0o600, rdev: 0 };
    let short = |path| Op::Symlink { target: "x".into(), path };
    let symlink = |n| Op::Symlink { target: long(n), path: at(&format!("targets/{n}")) };
    vec![
        ("mkdir", times(|n| Op::Mkdir { path: at(&format!("dirs/{n}")), mode: 0o755 })),
        ("symlink with a long target", times(symlink)),
        ("symlink", names(&at("symlinks"), short)),
        ("mknod", names(&at("nodes"), fifo)),
        ("create", names(&at("files"), create)),
        ("create with an inherited ACL", names(&at("inherits"), create)),
    ]
}

/// What adds names to files, or changes their attributes; the caller calls the
/// user 0 of the disk `base`.
fn changes(top: &str, base: u32) -> Calls {
    let at = |name: &str| format!("{top}/{name}");
    let set = |path: String, name: &str, value: Vec<u8>| Op::SetXattr {
        path: at(&path),
        name: name.into(),
        value: Bytes(value),
        flags: 0,
    };
    let plain = |n| set(format!("x{n}"), "user.big", vec![n as u8; 3000]);
    let list = |n| set(format!("a{n}"), "system.posix_acl_access", large_acl(base, n));
    let capability = |n: usize| {
        let mut value = acl::capability(2, 0);
        value[4..6].copy_from_slice(&(1_u16 << n).to_le_bytes());
        set(format!("c{n}"), "security.capability", value)
    };
    let remove = |n| Op::RemoveXattr { path: at(&format!("s{n}")), name: format!("user.{n}") };
    let chmod = |n| Op::Chmod { path: at(&format!("m{n}")), mode: 0o600 + 8 * (n as u32 % 7) };
    let link = |to| Op::Link { from: at("linked"), to };
    let rename = |to: String| Op::Rename { from: to.replacen("/to/", "/from/", 1), to, flags: 0 };
    vec![
        ("link", names(&at("links"), link)),
        ("rename", names(&at("to"), rename)),
        ("setxattr", times(plain)),
        ("set an ACL", times(list)),
        ("set a capability", times(capability)),
        ("removexattr", times(remove)),
        ("chmod", times(chmod)),
    ]
}

/// What changes contents.
fn contents(top: &str) -> Calls {
    let path = |name: &str| format!("{top}/{name}");
    let open = |name, slot| Op::Open { path: path(name), flags: libc::O_RDWR, mode: 0, slot };
    let write = |n| Op::Pwrite { slot: 0, off: n as u64 * 4096, len: 4096 };
    let len = 4096 * TIMES as i64;
    let copy = Op::CopyRange { from: 1, to: 0, len: 4096 * TIMES };
    vec![
        ("write", [vec![open("written", 0)], times(write)].concat()),
        ("fallocate", vec![open("allocated", 0), Op::Fallocate { slot: 0, mode: 0, off: 0, len }]),
        ("ftruncate", vec![open("cut", 0), Op::Ftruncate { slot: 0, len }]),
        ("truncate", vec![Op::Truncate { path: path("cut"), len: 2 * len }]),
        ("copy_file_range", vec![open("full", 1), open("copied", 0), copy]),
    ]
}

fn succeeded(outcome: &Outcome) -> bool {
    outcome.errno == 0
}

/// Compares owner, mode and ACL of what is on both disks, below a directory.
/// How many names a block takes is left to the disk.
fn compare_births(roots: [&Path; 2], below: &Path) {
    for entry in fs::read_dir(roots[0].join(below)).unwrap().flatten() {
        let path = below.join(entry.file_name());
        let seen = roots.map(|root| {
            let stat = fs::symlink_metadata(root.join(&path)).ok()?;
            let list = raw::get_xattr(&root.join(&path), c"system.posix_acl_access");
            Some((stat.uid(), stat.gid(), stat.mode(), list.ok()))
        });
        let [Some(model), Some(ours)] = seen else { continue };
        assert_eq!(model, ours, "{}", path.display());
        if entry.file_type().unwrap().is_dir() {
            compare_births(roots, &path);
        }
    }
}

#[test]
fn the_reserve_is_for_those_of_the_model() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    sandbox(|sandbox| {
        let image = || {
            let image = Ext4::with(sandbox, 48, "-b 4096 -m 25 -N 8192");
            raw::chmod(&image.root, 0o777).unwrap();
            for (n, (_, stored)) in WHO.iter().enumerate() {
                plant(&image.root.join(n.to_string()), *stored);
            }
            fill(&image);
            image
        };
        let images = [image(), image()];
        let views = [sandbox.dir("model"), sandbox.dir("ours")];
        idmap::mount(&images[0].root, &views[0], &map());
        let arguments = map().arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ours = Ours::new(&images[1].root, &views[1], &arguments);
        let mut differences = Vec::new();
        for (n, (caller, _)) in WHO.into_iter().enumerate() {
            let mut actor = Actor::start(caller, views.clone());
            let (top, base) = (n.to_string(), if caller.container { 0 } else { 100_000 });
            let calls = [births(&top), changes(&top, base), contents(&top)].concat();
            for (name, ops) in calls {
                let outcomes: Vec<_> = ops.iter().map(|op| actor.run(op).unwrap()).collect();
                for [model, ours] in outcomes.iter().filter(|both| both.iter().all(succeeded)) {
                    assert_eq!(model.after, ours.after, "{name} by {}", caller.name);
                }
                let [model, ours] = [0, 1].map(|side| {
                    let errors = outcomes.iter().map(|both| compare::error(both[side].errno));
                    errors.collect::<BTreeSet<_>>()
                });
                println!("{name} by {}: {model:?}", caller.name);
                if model != ours {
                    differences.push(format!("{name} by {}: {model:?} {ours:?}", caller.name));
                }
            }
        }
        drop(ours);
        let _ = nix::mount::umount2(&views[0], nix::mount::MntFlags::MNT_DETACH);
        let roots = images.each_ref().map(|image| image.root.as_path());
        compare_births(roots, Path::new(""));
        assert!(differences.is_empty(), "call, model, ours:\n{}", differences.join("\n"));
    });
}

/// The kernel lets root's stores use the reserve, at the fault. Here pages come
/// without the one who changed them.
#[test]
fn stores_to_a_mapping_leave_the_reserve_alone() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::with(sandbox, 48, "-b 4096 -m 25 -N 8192");
        fill(&image);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &[]);
        let free = || run("stat", &["-f", "-c", "%f", str(&image.root)]);
        let store = |path: &Path| {
            let file = raw::open(path, libc::O_RDWR | libc::O_CREAT, 0o600).unwrap();
            raw::ftruncate(file.as_fd(), 4096).unwrap();
            let mut page = raw::Page::map(file.as_fd(), true).unwrap();
            page.set(0, 1);
            (page.sync(), fs::File::from(file))
        };
        assert_eq!(store(&image.root.join("theirs")).0, Ok(0));
        let before = free();
        let (done, file) = store(&ours.at("ours"));
        assert_eq!(done, Err(libc::ENOSPC));
        assert_eq!(free(), before);
        // The same bytes by write(2) are root's.
        file.write_all_at(&[1; 4096], 0).unwrap();
    });
}
