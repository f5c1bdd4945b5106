//! Changing attributes, and what writes do to them.

use std::ffi::OsStr;

use super::*;
use crate::attr::Time;
use crate::id::Id;

pub(super) const CHECKS: &[Check] = &[
    ("the mode is set", chmod),
    ("owner, mode, size and times change at once", at_once),
    ("a change of owner takes privileges", chown),
    ("a change that cannot be made changes nothing", refused),
    ("symbolic links have attributes of their own", symlink),
    ("times are set", times),
    ("writing takes set-id bits", writing),
    ("truncating takes set-id bits", truncating),
];

fn chmod(g: &Ground) {
    let file = g.make_file("file", 0o600);
    for mode in [0o4755, 0o2711, 0o1644, 0, 0o7777] {
        if mode & 0o6000 != 0 && !g.any_owner() {
            continue;
        }
        let before = g.attr(&file);
        let change = Change { mode: Some(Mode::new(mode)), ..Change::default() };
        let attr = g.set(&file, change, PLAIN).unwrap();
        assert_eq!(attr.mode, Mode::new(mode));
        assert_eq!(attr, g.attr(&file));
        assert!(attr.ctime > before.ctime);
        assert_eq!(attr.mtime, before.mtime);
    }
}

fn at_once(g: &Ground) {
    if !g.any_owner() {
        return;
    }
    let file = g.make_file("file", 0o600);
    let (atime, mtime) = (Time { sec: 1, nsec: 2 }, Time { sec: 1_000_000_000, nsec: 999_999_999 });
    let change = Change {
        uid: Id::new(3000),
        gid: Id::new(3001),
        mode: Some(Mode::new(0o4755)),
        size: None,
        atime: Some(SetTime::At(atime)),
        mtime: Some(SetTime::At(mtime)),
    };
    let attr = g.set(&file, change, KEEP).unwrap();
    assert_eq!(attr.owner, Ids::new(3000, 3001).unwrap().into());
    assert_eq!(attr.mode, Mode::new(0o4755), "the owner is set before the mode");
    assert_eq!((attr.atime, attr.mtime), (atime, mtime));
    let change = Change { size: Some(5), mtime: Some(SetTime::At(atime)), ..Change::default() };
    let attr = g.set(&file, change, KEEP).unwrap();
    assert_eq!((attr.size, attr.mtime), (5, atime));
}

fn chown(g: &Ground) {
    if !g.any_owner() {
        return;
    }
    let file = g.make_file("file", 0o600);
    let dir = g.make_dir(&g.root, "dir");
    let uid = |raw| Change { uid: Id::new(raw), ..Change::default() };
    let gid = |raw| Change { gid: Id::new(raw), ..Change::default() };
    for (change, mode, rights, expected) in [
        (uid(1), 0o6755, KEEP, 0o755),
        (gid(2), 0o6755, KEEP, 0o755),
        (uid(1), 0o2644, KEEP, 0o2644), // not changed, and still a chown
        (gid(3), 0o6644, PLAIN, 0o644),
        (Change::default(), 0o6755, KEEP, 0o755), // chown(-1, -1)
    ] {
        g.chmod(&file, mode);
        let attr = g.set(&file, change, rights).unwrap();
        assert_eq!(attr.mode, Mode::new(expected), "{change:?} {mode:o}");
        g.chmod(&dir, mode);
        g.set(&dir, change, rights).unwrap();
        assert_eq!(u32::from(g.mode(&dir)), mode, "not of a directory: {change:?} {mode:o}");
    }
    assert_eq!(g.attr(&file).owner, Ids::new(1, 3).unwrap().into());
}

fn refused(g: &Ground) {
    let dir = g.make_dir(&g.root, "dir");
    let fifo = g.make(&g.root, "fifo", NewKind::Special(FileKind::Fifo, 0), 0o600);
    let file = g.make_file("file", 0o600);
    let size = |size| Change { size: Some(size), ..Change::default() };
    assert_eq!(errno(g.set(&dir, size(0), PLAIN)), libc::EISDIR);
    assert_eq!(errno(g.set(&fifo, size(0), PLAIN)), libc::EINVAL);
    assert!(matches!(errno(g.set(&file, size(u64::MAX), PLAIN)), libc::EFBIG | libc::EINVAL));
    assert_eq!(g.attr(&file).size, 0);
}

fn symlink(g: &Ground) {
    g.make_file("file", 0o600);
    let link = g.make(&g.root, "link", NewKind::Symlink(OsStr::new("file")), 0);
    let mode = Change { mode: Some(Mode::new(0o600)), ..Change::default() };
    assert_eq!(errno(g.set(&link, mode, KEEP)), libc::EOPNOTSUPP);
    let time = Time { sec: 5, nsec: 6 };
    let times = Change { mtime: Some(SetTime::At(time)), ..Change::default() };
    assert_eq!(g.set(&link, times, KEEP).unwrap().mtime, time);
    if g.any_owner() {
        let owner = Change { uid: Id::new(7), ..Change::default() };
        assert_eq!(g.set(&link, owner, KEEP).unwrap().owner.uid, Id::new(7));
    }
    let target = g.lookup(&g.root, "file").unwrap().attr;
    assert_eq!(target.owner, g.owner.into());
    assert_ne!(target.mtime, time);
    assert!(matches!(errno(g.source.open(&link, libc::O_RDONLY)), libc::ELOOP));
}

fn times(g: &Ground) {
    let file = g.make_file("file", 0o600);
    for time in
        [Time { sec: -1, nsec: 5 }, Time { sec: 0, nsec: 0 }, Time { sec: 1 << 31, nsec: 1 }]
    {
        let before = g.attr(&file);
        let change = Change { mtime: Some(SetTime::At(time)), ..Change::default() };
        let attr = g.set(&file, change, PLAIN).unwrap();
        assert_eq!(attr.mtime, time);
        assert_eq!(attr.atime, before.atime);
        assert!(attr.ctime > before.ctime);
    }
    let change =
        Change { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..Change::default() };
    let attr = g.set(&file, change, PLAIN).unwrap();
    assert_eq!((attr.atime, attr.mtime), (attr.ctime, attr.ctime));
}

fn writing(g: &Ground) {
    if !g.any_owner() {
        return;
    }
    let (node, file) = g.open_new("file", 0);
    for (mode, data, rights, expected) in [
        (0o6755, &b"x"[..], KEEP, 0o6755),
        (0o6755, b"", PLAIN, 0o6755),
        (0o6755, b"x", PLAIN, 0o755),
        (0o4644, b"x", PLAIN, 0o644),
    ] {
        g.chmod(&node, mode);
        file.write(Place::At(0), data, rights).unwrap();
        assert_eq!(g.mode(&node), expected, "write {mode:o} {rights:?}");
    }
    g.chmod(&node, 0o6755);
    file.allocate(0, 0, 4096, PLAIN).unwrap();
    assert_eq!(g.mode(&node), 0o755, "allocate");
}

fn truncating(g: &Ground) {
    if !g.any_owner() {
        return;
    }
    let (node, file) = g.open_new("file", 0);
    for (rights, expected) in [(KEEP, 0o6755), (PLAIN, 0o755)] {
        g.chmod(&node, 0o6755);
        let change = Change { size: Some(3), ..Change::default() };
        assert_eq!(g.set(&node, change, rights).unwrap().mode, Mode::new(expected));
        g.chmod(&node, 0o6755);
        let change = Change { size: Some(4), ..Change::default() };
        let attr = g.source.setattr(&node, Some(&*file), &change, rights).unwrap();
        assert_eq!((attr.mode, attr.size), (Mode::new(expected), 4));
    }
}
