//! Permission where we decide, and what mirrored callers see.

use super::*;
use crate::acl::AclKind;
use crate::attr::Mode;
use crate::source::{RenameFlags, SetTime};

/// Permission is decided here, and nobody of the tests is mirrored.
const DECIDES: &[(&str, &str)] = &[("mirror", "9999")];
/// Ids are moved besides.
const MOVED: &[(&str, &str)] =
    &[("mirror", "9999"), ("map", "u:0:100000:1000"), ("map", "g:0:200000:1000")];
/// User 7 and members of 50 see all as their own.
const MIRROR: &[(&str, &str)] = &[("mirror", "7:@50")];
/// The same, and nobody else gets in.
const ONLY: &[(&str, &str)] = &[("mirror-only", "7:@50")];

const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: false };

fn decides(options: &[(&str, &str)]) -> World {
    let world = World::new(options);
    // Whoever is in the tests as 0 is root; so is the one that makes files.
    lock(&world.processes.0).capable.insert(0);
    world
}

fn errno<T>(result: Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno().0)
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn one_class_of_the_mode_decides() {
    let world = decides(DECIDES);
    lock(&world.processes.0).groups.insert((3, 20));
    for (mode, by, want, wanted) in [
        (0o400, (1, 10), 4, true),
        (0o400, (1, 10), 2, false),
        (0o077, (1, 10), 4, false), // the owner's class alone
        (0o040, (2, 20), 4, true),
        (0o040, (3, 30), 4, true), // a supplementary group
        (0o007, (2, 20), 4, false),
        (0o004, (2, 30), 4, true),
        (0o004, (2, 30), 6, false),
        (0o000, (2, 30), 0, true),
        (0o000, (0, 0), 6, true),
        (0o000, (0, 0), 1, false), // nobody executes what is no program
        (0o001, (0, 0), 7, true),
    ] {
        let name = format!("{mode:o}{by:?}{want}");
        let file = world.file(&name, (1, 20), mode);
        let got = world.fs.access(&caller(by.0, by.1), file.node, want);
        assert_eq!(got, if wanted { Ok(()) } else { Err(os(libc::EACCES)) }, "{name}");
    }
}

#[test]
fn directories_are_searched_with_a_capability_for_reading() {
    let world = decides(DECIDES);
    let dir = world.dir("d", (1, 1), 0o700);
    let by = caller(5, 5);
    assert_eq!(errno(world.fs.lookup(&by, dir.node, name("x"))), libc::EACCES);
    // What is refused says nothing of the name, be it one or not.
    let long = "x".repeat(300);
    assert_eq!(errno(world.fs.lookup(&by, dir.node, name(&long))), libc::EACCES);
    assert_eq!(errno(world.fs.opendir(&by, dir.node)), libc::EACCES);
    lock(&world.processes.0).capable.insert(5);
    assert_eq!(errno(world.fs.lookup(&by, dir.node, name("x"))), libc::ENOENT);
    assert_eq!(errno(world.fs.opendir(&by, dir.node)), 0);
}

#[test]
fn lists_decide_in_view_ids() {
    let world = decides(MOVED);
    let file = world.file("f", (1, 1), 0o640);
    let access = AclKind::Access.xattr();
    let value = acl(&[(1, 6, !0), (2, 6, 2), (4, 4, !0), (8, 7, 3), (16, 5, !0), (32, 0, !0)]);
    let disk = world.disk.lookup(&caller(1, 1), world.disk.tree.root().number, name("f")).unwrap();
    world.disk.setxattr(&caller(1, 1), disk.node, name(access), &value, 0).unwrap();
    for (by, want, wanted) in [
        ((100_001, 200_001), 6, 0),
        ((100_002, 200_009), 4, 0),
        ((100_002, 200_009), 2, libc::EACCES), // the mask
        ((100_009, 200_003), 5, 0),
        ((100_009, 200_009), 4, libc::EACCES),
        // The numbers of the disk are not those of the view.
        ((2, 200_009), 4, libc::EACCES),
    ] {
        let got = world.fs.access(&caller(by.0, by.1), file.node, want);
        assert_eq!(errno(got), wanted, "{by:?} {want}");
    }
}

#[test]
fn opens_are_checked_by_their_flags() {
    let world = decides(DECIDES);
    let open = |node, by: (u32, u32), flags| {
        let (done, result) = reply();
        world.fs.open(&caller(by.0, by.1), node, flags, done);
        errno(result.recv_timeout(Duration::from_secs(10)).unwrap())
    };
    let file = world.file("f", (1, 1), 0o644).node;
    assert_eq!(open(file, (2, 2), libc::O_RDONLY), 0);
    assert_eq!(open(file, (2, 2), libc::O_WRONLY), libc::EACCES);
    assert_eq!(open(file, (2, 2), libc::O_RDWR), libc::EACCES);
    assert_eq!(open(file, (1, 1), libc::O_RDWR), 0);
    assert_eq!(open(file, (2, 2), libc::O_NOATIME), libc::EPERM);
    assert_eq!(open(file, (1, 1), libc::O_NOATIME), 0);
    // A program need not be readable for those who run it.
    let program = world.file("p", (1, 1), 0o711).node;
    assert_eq!(open(program, (2, 2), libc::O_RDONLY), libc::EACCES);
    assert_eq!(open(program, (2, 2), libc::O_RDONLY | 0x20), 0);
    assert_eq!(open(file, (2, 2), libc::O_RDONLY | 0x20), libc::EACCES);
}

#[test]
fn names_belong_to_those_who_may_write_their_directory() {
    let world = decides(DECIDES);
    lock(&world.processes.0).protects_links = true;
    let (fs, root) = (&world.fs, world.root());
    let file = world.file("f", (1, 1), 0o644).node;
    let closed = world.dir("closed", (1, 1), 0o755).node;
    let sticky = world.dir("sticky", (3, 3), 0o1777).node;
    let open = world.dir("open", (3, 3), 0o777).node;
    let (one, two) = (caller(1, 1), caller(2, 2));
    let make = |by: &Caller, dir, of| fs.mknod(by, dir, name(of), libc::S_IFREG | 0o644, 0, 0);
    assert_eq!(errno(make(&two, closed, "x")), libc::EACCES);
    assert_eq!(errno(fs.mkdir(&two, closed, name("x"), 0o755, 0)), libc::EACCES);
    assert_eq!(errno(fs.symlink(&two, closed, name("x"), name("y"))), libc::EACCES);
    assert_eq!(errno(fs.create(&two, closed, name("x"), 0o644, 0, libc::O_RDWR)), libc::EACCES);
    assert_eq!(errno(make(&one, closed, "x")), 0);
    assert_eq!(errno(fs.unlink(&two, closed, name("x"))), libc::EACCES);
    let there = (closed, name("x"));
    assert_eq!(errno(fs.rename(&two, there, (open, name("x")), PLAIN)), libc::EACCES);
    assert_eq!(errno(make(&two, open, "mine")), 0);
    assert_eq!(errno(fs.rename(&two, (open, name("mine")), there, PLAIN)), libc::EACCES);
    assert_eq!(errno(fs.rename(&one, there, (open, name("x")), PLAIN)), 0);
    // One may take another's file out of a directory that is open to all.
    assert_eq!(errno(fs.unlink(&two, open, name("x"))), 0);
    assert_eq!(errno(make(&one, sticky, "s")), 0);
    assert_eq!(errno(fs.unlink(&two, sticky, name("s"))), libc::EPERM);
    assert_eq!(errno(fs.unlink(&caller(3, 3), sticky, name("s"))), 0);
    // What could not be copied is not to be kept by a link.
    assert_eq!(errno(fs.link(&two, file, open, name("l"))), libc::EPERM);
    assert_eq!(errno(fs.link(&one, file, open, name("l"))), 0);
    lock(&world.processes.0).protects_links = false;
    assert_eq!(errno(fs.link(&two, file, open, name("m"))), 0);
    // A directory that gets another parent is written to.
    assert_eq!(errno(fs.mkdir(&one, open, name("d"), 0o755, 0)), 0);
    assert_eq!(errno(fs.rename(&two, (open, name("d")), (sticky, name("d")), PLAIN)), libc::EACCES);
    assert_eq!(errno(fs.rename(&two, (open, name("d")), (open, name("e")), PLAIN)), 0);
    assert_eq!(errno(fs.rmdir(&two, root, name("open"))), libc::EACCES);
}

#[test]
fn attributes_are_changed_by_the_owner() {
    let world = decides(DECIDES);
    lock(&world.processes.0).groups.insert((1, 20));
    let file = world.file("f", (1, 1), 0o666).node;
    let set =
        |by: u32, change: SetAttr| errno(world.fs.setattr(&caller(by, by), file, None, &change));
    let none = SetAttr::default();
    let mode = |mode| SetAttr { mode: Some(mode), ..none };
    assert_eq!(set(2, mode(0o600)), libc::EPERM);
    assert_eq!(set(1, mode(0o606)), 0);
    // Set-group-id is for members.
    assert_eq!(set(1, mode(0o2755)), 0);
    assert_eq!(world.stored("f"), (1, 1, 0o2755));
    let chgrp = |gid| SetAttr { gid: Id::new(gid), ..none };
    assert_eq!(set(1, chgrp(30)), libc::EPERM);
    assert_eq!(set(1, chgrp(20)), 0);
    assert_eq!(set(2, chgrp(20)), libc::EPERM);
    let chown = |uid| SetAttr { uid: Id::new(uid), ..none };
    assert_eq!(set(1, chown(2)), libc::EPERM);
    assert_eq!(set(1, chown(1)), 0);
    assert_eq!(set(2, chown(1)), libc::EPERM);
    assert_eq!(set(0, SetAttr { uid: Id::new(5), gid: Id::new(5), ..none }), 0);
    assert_eq!(set(0, mode(0o606)), 0);
    assert_eq!(set(5, mode(0o2706)), 0);
    assert_eq!(world.stored("f"), (5, 5, 0o2706));
    // Truncation is writing; times of now are set by those who may write.
    assert_eq!(set(2, SetAttr { size: Some(3), ..none }), 0);
    let now = SetAttr { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..none };
    assert_eq!(set(2, now), 0);
    assert_eq!(set(2, SetAttr { atime: None, ..now }), libc::EPERM);
    assert_eq!(set(5, mode(0o600)), 0);
    assert_eq!(set(2, now), libc::EACCES);
    assert_eq!(set(2, SetAttr { size: Some(0), ..none }), libc::EACCES);
}

#[test]
fn set_group_id_is_not_given_for_a_foreign_group() {
    let world = decides(DECIDES);
    let file = world.file("f", (1, 20), 0o644).node;
    let mode = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
    world.fs.setattr(&caller(1, 1), file, None, &mode).unwrap();
    assert_eq!(world.stored("f"), (1, 20, 0o4755));
}

#[test]
fn what_is_unmapped_is_changed_by_nobody() {
    let world = decides(MOVED);
    let file = world.file("f", (5000, 5000), 0o666).node;
    let root = caller(0, 0);
    let dir = world.dir("d", (1, 1), 0o777).node;
    assert_eq!(errno(world.fs.access(&root, file, 4)), 0);
    assert_eq!(errno(world.fs.access(&root, file, 2)), libc::EACCES);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(errno(world.fs.setattr(&root, file, None, &mode)), libc::EOVERFLOW);
    assert_eq!(errno(world.fs.unlink(&root, world.root(), name("f"))), libc::EOVERFLOW);
    assert_eq!(errno(world.fs.setxattr(&root, file, name("user.a"), b"x", 0)), libc::EPERM);
    let user = SetAttr { uid: Id::new(100_001), ..SetAttr::default() };
    let owner = SetAttr { gid: Id::new(200_001), ..user };
    assert_eq!(errno(world.fs.setattr(&root, file, None, &user)), libc::EOVERFLOW);
    assert_eq!(errno(world.fs.setattr(&caller(1, 1), file, None, &owner)), libc::EPERM);
    assert_eq!(errno(world.fs.setattr(&root, file, None, &owner)), 0);
    // Who has no id to store comes before what the directory says.
    let closed = world.dir("closed", (1, 1), 0o700).node;
    for dir in [dir, closed] {
        let made = world.fs.mkdir(&caller(5, 5), dir, name("x"), 0o755, 0);
        assert_eq!(errno(made), libc::EOVERFLOW);
    }
}

#[test]
fn attributes_with_names_are_checked() {
    let world = decides(DECIDES);
    let file = world.file("f", (1, 1), 0o640).node;
    let sticky = world.dir("s", (1, 1), 0o1777).node;
    let (fs, one, two) = (&world.fs, caller(1, 1), caller(2, 2));
    let user = name("user.a");
    assert_eq!(errno(fs.setxattr(&one, file, user, b"x", 0)), 0);
    assert_eq!(errno(fs.getxattr(&one, file, user)), 0);
    assert_eq!(errno(fs.getxattr(&two, file, user)), libc::EACCES);
    assert_eq!(errno(fs.setxattr(&two, file, user, b"x", 0)), libc::EACCES);
    assert_eq!(errno(fs.removexattr(&two, file, user)), libc::EACCES);
    assert_eq!(errno(fs.setxattr(&two, sticky, user, b"x", 0)), libc::EPERM);
    assert_eq!(errno(fs.setxattr(&one, sticky, user, b"x", 0)), 0);
    let list = acl(&[(1, 6, !0), (4, 6, !0), (32, 0, !0)]);
    let access = name(AclKind::Access.xattr());
    let default = name(AclKind::Default.xattr());
    assert_eq!(errno(fs.setxattr(&two, file, access, &list, 0)), libc::EPERM);
    assert_eq!(errno(fs.setxattr(&two, file, default, &list, 0)), libc::EACCES);
    assert_eq!(errno(fs.removexattr(&two, file, access)), libc::EPERM);
    assert_eq!(errno(fs.setxattr(&one, file, access, &list, 0)), 0);
    assert_eq!(world.stored("f"), (1, 1, 0o660));
    let capability = [0x0200_0001_u32, 0x2000, 0, 0, 0].map(u32::to_le_bytes).concat();
    let key = name("security.capability");
    assert_eq!(errno(fs.setxattr(&one, file, key, &capability, 0)), libc::EPERM);
    assert_eq!(errno(fs.setxattr(&caller(0, 0), file, key, &capability, 0)), 0);
}

#[test]
fn fifos_and_sockets_are_not_found_by_those_who_may_not_use_them() {
    let world = decides(DECIDES);
    let (disk, root) = (&world.disk, world.root());
    let top = disk.tree.root().number;
    for (of, mode) in [("fifo", libc::S_IFIFO | 0o600), ("socket", libc::S_IFSOCK | 0o600)] {
        disk.mknod(&caller(1, 1), top, name(of), mode, 0, 0).unwrap();
        assert_eq!(errno(world.fs.lookup(&caller(2, 2), root, name(of))), libc::EACCES);
        assert_eq!(errno(world.fs.lookup(&caller(1, 1), root, name(of))), 0);
        assert_eq!(errno(world.fs.lookup(&caller(0, 0), root, name(of))), 0);
    }
}

#[test]
fn a_mirrored_caller_owns_what_it_sees() {
    let world = decides(MIRROR);
    lock(&world.processes.0).groups.insert((8, 50));
    let file = world.file("f", (1, 20), 0o600).node;
    let fs = &world.fs;
    let shown = |uid| numbers(&fs.getattr(&caller(uid, 99), file, None).unwrap());
    assert_eq!(shown(7), (Some(7), Some(20)));
    assert_eq!(shown(8), (Some(8), Some(20)), "by group");
    assert_eq!(shown(1), (Some(1), Some(20)));
    assert_eq!(shown(0), (Some(1), Some(20)), "root sees what is so");
    let seven = caller(7, 99);
    assert_eq!(errno(fs.access(&seven, file, 6)), 0);
    assert_eq!(errno(fs.access(&caller(9, 9), file, 4)), libc::EACCES);
    // To give it to oneself changes nothing on disk; to another, one may not.
    let chown = |uid| SetAttr { uid: Id::new(uid), ..SetAttr::default() };
    assert_eq!(errno(fs.setattr(&seven, file, None, &chown(7))), 0);
    assert_eq!(errno(fs.setattr(&seven, file, None, &chown(8))), libc::EPERM);
    assert_eq!(world.stored("f"), (1, 20, 0o600));
    let mode = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
    let changed = fs.setattr(&seven, file, None, &mode).unwrap();
    assert_eq!(numbers(&changed), (Some(7), Some(20)));
    // A set-id program would be one of the owner on disk.
    assert_eq!(world.stored("f"), (1, 20, 0o755));
    // Nor does one stay where it is about to be written, by a mapping perhaps.
    let armed = world.file("armed", (1, 20), 0o6755).node;
    let capability = [0x0200_0001_u32, 0x2000, 0, 0, 0].map(u32::to_le_bytes).concat();
    let key = name("security.capability");
    assert_eq!(errno(fs.setxattr(&caller(0, 0), armed, key, &capability, 0)), 0);
    for (flags, left) in [(libc::O_RDONLY, 0o6755), (libc::O_RDWR, 0o755)] {
        let (done, result) = reply();
        fs.open(&seven, armed, flags, done);
        fs.release(result.recv_timeout(Duration::from_secs(10)).unwrap().unwrap(), None);
        assert_eq!(world.stored("armed"), (1, 20, left));
        let gone = fs.getxattr(&seven, armed, key).is_err();
        assert_eq!(gone, flags == libc::O_RDWR);
    }
    // Nor does whoever is not let in take a capability away.
    let only = decides(&[("mirror-only", "7")]);
    let node = only.file("armed", (1, 20), 0o755).node;
    assert_eq!(errno(only.fs.setxattr(&caller(0, 0), node, key, &capability, 0)), 0);
    lock(&only.processes.0).capable.insert(5);
    assert_eq!(errno(only.fs.removexattr(&caller(5, 5), node, key)), libc::EACCES);
    assert_eq!(errno(only.fs.getxattr(&caller(0, 0), node, key)), 0);
    // An open that a rule refuses takes nothing.
    let mut ruled = decides(&[("mirror", "7")]);
    ruled.rule("callers = { mirror = [7] }\nrules = [{ path = 'kept', read-only = true }]");
    let kept = ruled.file("kept", (1, 20), 0o6755).node;
    let (done, result) = reply();
    ruled.fs.open(&seven, kept, libc::O_RDWR, done);
    assert_eq!(errno(result.recv_timeout(Duration::from_secs(10)).unwrap()), libc::EROFS);
    assert_eq!(ruled.stored("kept"), (1, 20, 0o6755));
    // What is its own on disk as well is a program of its own.
    let own = world.file("own", (7, 99), 0o755).node;
    fs.setattr(&seven, own, None, &mode).unwrap();
    assert_eq!(world.stored("own"), (7, 99, 0o4755));
    // The owner's entry of a list goes with the owner.
    let list = acl(&[(1, 6, !0), (2, 4, 5), (4, 0, !0), (16, 4, !0), (32, 0, !0)]);
    let key = name(AclKind::Access.xattr());
    assert_eq!(errno(fs.setxattr(&seven, file, key, &list, 0)), 0);
    assert_eq!(errno(fs.access(&seven, file, 6)), 0);
    assert_eq!(errno(fs.access(&caller(5, 5), file, 4)), 0);
    // Listings are seen with the same eyes.
    let handle = fs.opendir(&caller(7, 99), world.root()).unwrap();
    let mut owners = HashSet::new();
    fs.readdirplus(&seven, handle, 0, &mut |_, entry| {
        owners.insert(entry.attr.owner.uid.map(Id::raw));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(owners, HashSet::from([Some(7)]));
}

#[test]
fn capabilities_of_a_mirrored_caller_are_over_what_is_so() {
    // Of files that belong to nobody whom the view knows, not even a mirrored
    // owner with every capability may give any away.
    let world = decides(&[("mirror", "7"), ("map", "0:100000:5"), ("map", "7:7:1")]);
    lock(&world.processes.0).capable.insert(7);
    let file = world.file("f", (5000, 7), 0o600).node;
    let seven = caller(7, 7);
    let shown = world.fs.getattr(&seven, file, None).unwrap();
    assert_eq!(numbers(&shown), (Some(7), Some(7)));
    let chown = SetAttr { uid: Id::new(100_001), ..SetAttr::default() };
    assert_eq!(errno(world.fs.setattr(&seven, file, None, &chown)), libc::EPERM);
    assert_eq!(errno(world.fs.access(&seven, file, 6)), 0);
}

#[test]
fn others_are_refused_but_root() {
    let world = decides(ONLY);
    let file = world.file("f", (1, 1), 0o666).node;
    let root = world.root();
    let (fs, by) = (&world.fs, caller(1, 1));
    assert_eq!(errno(fs.lookup(&by, root, name("f"))), libc::EACCES);
    assert_eq!(errno(fs.opendir(&by, root)), libc::EACCES);
    assert_eq!(errno(fs.access(&by, file, 0)), libc::EACCES);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(errno(fs.setattr(&by, file, None, &mode)), libc::EACCES);
    assert_eq!(errno(fs.getxattr(&by, file, name("user.a"))), libc::EACCES);
    assert_eq!(errno(fs.mkdir(&by, root, name("d"), 0o755, 0)), libc::EACCES);
    assert_eq!(errno(fs.unlink(&by, root, name("f"))), libc::EACCES);
    for may in [caller(7, 7), caller(0, 0), caller(3, 50)] {
        assert_eq!(errno(fs.lookup(&may, root, name("f"))), 0, "{may:?}");
    }
}

#[test]
fn where_the_kernel_decides_nothing_is_asked() {
    let world = World::new(IDENTITY);
    let file = world.file("f", (1, 1), 0o600).node;
    let by = caller(2, 2);
    assert!(!world.fs.checks());
    world.fs.lookup(&by, world.root(), name("f")).unwrap();
    world.fs.getxattr(&by, file, name("user.a")).unwrap_err();
    world.fs.opendir(&by, world.root()).unwrap();
    assert_eq!(lock(&world.processes.0).asked, 0);
}

/// Two mirrored callers at once, on the same files, each see their own.
#[test]
fn callers_never_see_each_others_view() {
    let world = Arc::new(decides(&[("mirror", "7:8")]));
    let files: Vec<u64> =
        (0..4).map(|n| world.file(&format!("f{n}"), (1, 1), 0o600).node).collect();
    let root = world.root();
    std::thread::scope(|scope| {
        for uid in [7, 8] {
            let (world, files) = (Arc::clone(&world), &files);
            scope.spawn(move || {
                let by = caller(uid, uid);
                let own = |attr: &Attr<View>| assert_eq!(numbers(attr), (Some(uid), Some(1)));
                for n in 0..300_u32 {
                    let at = n as usize % files.len();
                    let node = files[at];
                    own(&world.fs.getattr(&by, node, None).unwrap());
                    let mode = SetAttr { mode: Some(0o600 | (n % 8)), ..SetAttr::default() };
                    own(&world.fs.setattr(&by, node, None, &mode).unwrap());
                    let of = format!("f{at}");
                    let entry = world.fs.lookup(&by, root, name(&of)).unwrap();
                    own(&entry.attr);
                    world.fs.forget(entry.node, 1);
                }
            });
        }
    });
    assert_eq!(world.stored("f0").0, 1);
    assert!(!Mode::new(world.stored("f0").2.into()).has(0o070));
}
