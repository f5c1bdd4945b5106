//! The tree that both sides start with, and the map.

use std::fs;
use std::path::{Path, PathBuf};

use super::acl;
use crate::support::idmap::{self, IdMap};
use crate::support::image::Ext4;
use crate::support::ours::{Ours, finish};
use crate::support::{Sandbox, raw, text};

/// The map: a range and a single id, other ones for groups than for users.
pub fn map() -> IdMap {
    IdMap::of(&["0:100000:1000", "2000:3000:1"], &["0:200000:1000", "2000:4000:1"])
}

/// A disk id outside the map.
const OUT: u32 = 5000;

/// How a side is served.
#[derive(Debug, Clone)]
pub enum Engine {
    /// The kernel's idmapped mount, with this map.
    Kernel(IdMap),
    /// Our mount, with the map of `map` and these further arguments.
    Ours(Vec<String>),
    /// The kernel's idmapped mount of a mount of ours that shows ids as they are, with
    /// these further arguments.
    Stacked(Vec<String>),
    /// The kernel's idmapped mount as we make it, with `engine=kernel`.
    MadeByUs,
    /// The mount of an ordinary user, who keeps the owners beside the files, with
    /// these arguments.
    Kept(Vec<String>),
}

impl Engine {
    /// Whether the client caches what is written.
    pub fn caches_writes(&self) -> bool {
        let has = |arguments: &[String], word| arguments.iter().any(|argument| argument == word);
        matches!(self, Self::Ours(words) if has(words, "exclusive") && has(words, "off"))
    }
}

/// Who runs the servers of such mounts: a user of every Debian system.
const USER: u32 = 34;

/// One of the two trees.
#[derive(Debug)]
pub struct Side {
    /// The tree as the mount shows it.
    pub view: PathBuf,
    /// The tree itself.
    pub disk: PathBuf,
    /// Our server, if it is ours.
    pub server: Option<Ours>,
    /// Whether the client caches what is written, and keeps the times of regular files.
    pub caches_writes: bool,
    /// What shows the tree itself, where the files on disk do not say it.
    _disk_server: Option<Ours>,
}

/// Two equal trees on one file system, each under its engine.
#[derive(Debug)]
pub struct World {
    /// The two sides.
    pub sides: [Side; 2],
    // Last, so that it goes after the mounts of it.
    _image: Ext4,
}

impl World {
    /// Makes the trees and mounts them.
    pub fn new(sandbox: &Sandbox, engines: [&Engine; 2]) -> Self {
        // Blocks of a page: else holes in a page come and go with writeback.
        let image = Ext4::with(sandbox, 64, "-b 4096");
        let number = crate::support::mounts().len();
        let side = |name: &str, engine: &Engine| {
            let view = sandbox.dir(&format!("view-{name}-{number}"));
            if let Engine::Kept(more) = engine {
                return kept(sandbox, &image.root.join(name), view, number, more);
            }
            let disk = image.root.join(name);
            raw::mkdir(&disk, 0o777).expect("the top");
            raw::chmod(&disk, 0o755).expect("its mode");
            plant(&disk);
            let server = match engine {
                Engine::Kernel(map) => {
                    idmap::mount(&disk, &view, map);
                    None
                }
                Engine::Ours(more) => {
                    let arguments = [map().arguments(), more.clone()].concat();
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    Some(Ours::new(&disk, &view, &arguments))
                }
                Engine::Stacked(more) => {
                    let below = sandbox.dir(&format!("below-{name}-{number}"));
                    let more: Vec<&str> = more.iter().map(String::as_str).collect();
                    let server = Ours::new(&disk, &below, &more);
                    idmap::mount(&below, &view, &map());
                    Some(server)
                }
                Engine::MadeByUs | Engine::Kept(_) => {
                    made_by_us(&disk, &view);
                    None
                }
            };
            let caches_writes = engine.caches_writes();
            Side { view, disk, server, caches_writes, _disk_server: None }
        };
        let sides = [side("one", engines[0]), side("two", engines[1])];
        Self { sides, _image: image }
    }
}

/// Plants the tree in a user's directory, whose server keeps the owners, and
/// mounts it: once with the map, and once as it is, for the files on disk.
fn kept(sandbox: &Sandbox, store: &Path, view: PathBuf, number: usize, more: &[String]) -> Side {
    let disk = sandbox.dir(&format!("disk-{number}"));
    raw::mkdir(store, 0o700).expect("a directory of the user");
    raw::chown(store, USER, USER, false).expect("chown");
    let option = more.iter().position(|word| word == "--owners").expect("where owners are kept");
    let uncached = ["--cache", "none"].map(str::to_owned);
    let as_it_is = [&more[option..option + 2], &uncached].concat();
    let start = |point: &Path, arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ours::of_user(sandbox, USER, store, point, &arguments)
    };
    let disk_server = start(&disk, &as_it_is);
    raw::chown(&disk, 0, 0, false).expect("chown through the mount");
    raw::chmod(&disk, 0o755).expect("chmod through the mount");
    plant(&disk);
    let server = start(&view, &[map().arguments(), more.to_vec()].concat());
    let (server, caches_writes) = (Some(server), false);
    Side { view, disk, server, caches_writes, _disk_server: Some(disk_server) }
}

/// Has our program make the kernel's mount.
fn made_by_us(disk: &Path, view: &Path) {
    let mut arguments = map().arguments();
    arguments.extend(
        ["--engine=kernel", crate::support::str(disk), crate::support::str(view)]
            .map(ToOwned::to_owned),
    );
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = finish(&arguments);
    assert!(done.status.success(), "{}", text(&done));
}

impl Drop for World {
    fn drop(&mut self) {
        let is_mapped = |side: &&Side| side.server.as_ref().is_none_or(|s| s.point != side.view);
        for side in self.sides.iter().filter(is_mapped) {
            // Else it would keep the image, and its loop device, in use.
            let _ = nix::mount::umount2(&side.view, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Directories: name, uid, gid, mode, all on disk.
const DIRECTORIES: [(&str, u32, u32, u32); 13] = [
    ("pub", 0, 0, 0o777),
    ("tmp", 0, 0, 0o1777),
    ("alice", 1, 1, 0o755),
    ("alice/in", 1, 2, 0o770),
    ("bob", 2, 2, 0o750),
    ("team", 1, 2, 0o2775),
    ("team/set", 2, 5, 0o2777),
    ("out", OUT, OUT, 0o777),
    ("outuid", OUT, 1, 0o1777),
    ("outgid", 1, OUT, 0o2777),
    ("one", 2000, 2000, 0o755),
    ("acl", 1, 1, 0o755),
    ("def", 2, 2, 0o777),
];

/// Files of each directory: name, uid, gid, mode.
const FILES: [(&str, u32, u32, u32); 9] = [
    ("a", 1, 1, 0o644),
    ("b", 2, 2, 0o660),
    ("c", 0, 0, 0o6755),
    ("d", OUT, OUT, 0o666),
    ("e", OUT, 1, 0o666),
    ("f", 1, OUT, 0o664),
    ("g", 1, 2, 0o2674),
    ("h", 2000, 2000, 0o4711),
    ("i", 3, 3, 0o2646),
];

/// Makes the tree; each call makes the same one.
fn plant(top: &Path) {
    let old = raw::umask(0);
    for (name, uid, gid, mode) in DIRECTORIES {
        let path = top.join(name);
        raw::mkdir(&path, mode).expect("a directory");
        for (file, uid, gid, mode) in FILES {
            let path = path.join(file);
            fs::write(&path, name.repeat(20)).expect("a file");
            own(&path, uid, gid, mode);
        }
        decorate(&path);
        own(&path, uid, gid, mode);
    }
    lists(top);
    let _ = raw::umask(old);
}

fn own(path: &Path, uid: u32, gid: u32, mode: u32) {
    raw::chown(path, uid, gid, false).expect("chown on disk");
    raw::chmod(path, mode).expect("chmod on disk");
}

/// The things that are not plain files, and attributes.
fn decorate(dir: &Path) {
    let at = |name: &str| dir.join(name);
    raw::symlink(Path::new("a"), &at("la")).expect("a symbolic link");
    raw::symlink(Path::new("d"), &at("ld")).expect("a symbolic link");
    raw::chown(&at("ld"), OUT, 1, false).expect("lchown");
    raw::symlink(Path::new("nowhere"), &at("ln")).expect("a symbolic link");
    raw::link(&at("a"), &at("aa")).expect("a hard link");
    raw::mknod(&at("p"), libc::S_IFIFO | 0o666, 0).expect("a fifo");
    raw::chown(&at("p"), 1, 1, false).expect("chown on disk");
    raw::mknod(&at("s"), libc::S_IFSOCK | 0o600, 0).expect("a socket");
    raw::mknod(&at("n"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).expect("a device");
    raw::chown(&at("n"), 2, OUT, false).expect("chown on disk");
    let put = |name: &str, key: &str, value: &[u8]| {
        raw::set_xattr(&at(name), key, value, 0).expect("an attribute on disk");
    };
    put("a", "user.a", b"one");
    put("d", "user.a", b"two");
    put("b", "trusted.t", b"three");
    put("b", "security.capability", &acl::capability(2, 0));
    put("h", "security.capability", &acl::capability(3, 1));
    put("f", "security.capability", &acl::capability(3, OUT));
    put("e", "security.capability", &acl::capability(2, 0));
}

/// ACLs, with entries that the map has and entries that it has not.
fn lists(top: &Path) {
    use acl::{GROUP, USER};
    let named = [(USER, 6, 2), (USER, 7, OUT), (GROUP, 5, 2), (GROUP, 7, OUT)];
    let default = [(USER, 7, 2), (USER, 7, OUT), (GROUP, 7, 1)];
    let put = |name: &str, key: &str, value: Vec<u8>| {
        raw::set_xattr(&top.join(name), key, &value, 0).expect("an ACL on disk");
    };
    let (access, inherited) = ("system.posix_acl_access", "system.posix_acl_default");
    put("acl", access, acl::with(7, 5, 5, &[(USER, 7, 2), (USER, 7, 2000)]));
    put("acl", inherited, acl::with(7, 5, 4, &default));
    put("def", inherited, acl::with(7, 7, 0, &[]));
    put("team/set", inherited, acl::with(7, 7, 5, &[(GROUP, 7, OUT)]));
    for dir in ["pub", "acl", "def", "alice/in"] {
        put(&format!("{dir}/a"), access, acl::with(6, 4, 0, &named));
        put(&format!("{dir}/d"), access, acl::with(6, 6, 6, &named));
        put(&format!("{dir}/g"), access, acl::with(7, 7, 4, &[(GROUP, 6, 5), (USER, 0, 2)]));
    }
}
