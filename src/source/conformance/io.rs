//! Contents, and the locks on them.

use super::*;
use crate::source::{InodeFlags, InodeFlagsKind, Lock, LockKind};

pub(super) const CHECKS: &[Check] = &[
    ("what is written is read", contents),
    ("appending writes at the end", append),
    ("an open file does what it was opened for", access_modes),
    ("a file may be born unreadable and open", born_open),
    ("a file is emptied, cut and extended", sizes),
    ("space is allocated and freed", allocate),
    ("data and holes are found", holes),
    ("contents are copied", copy),
    ("locks exclude other owners", locks),
    ("part of a lock is given back", lock_ranges),
    ("inode flags", flags),
];

fn read(file: &dyn File, offset: u64, length: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; length];
    let done = file.read(offset, &mut buf).unwrap();
    buf.truncate(done);
    buf
}

fn contents(g: &Ground) {
    let (node, file) = g.open_new("file", 0);
    let before = g.attr(&node);
    assert_eq!(file.write(Place::At(0), b"hello", PLAIN), Ok(5));
    assert_eq!(file.write(Place::At(10), b"world", PLAIN), Ok(5));
    assert_eq!(read(&*file, 0, 100), b"hello\0\0\0\0\0world");
    assert_eq!(read(&*file, 12, 2), b"rl");
    assert_eq!(read(&*file, 15, 5), b"");
    assert_eq!(read(&*file, 1 << 40, 5), b"");
    assert_eq!(g.attr(&node).size, 15);
    assert!(g.attr(&node).mtime > before.mtime);
    file.flush().unwrap();
    file.sync(true).unwrap();
    file.sync(false).unwrap();

    let long: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(file.write(Place::At(4090), &long, PLAIN), Ok(long.len()));
    assert_eq!(read(&*file, 4090, long.len()), long);
    assert_eq!(file.getattr().unwrap(), g.attr(&node));
    let other = g.source.open(&node, libc::O_RDONLY).unwrap();
    assert_eq!(read(&*other, 4090, 100), &long[..100]);
}

fn append(g: &Ground) {
    for (name, flags) in [("opened to append", libc::O_APPEND), ("opened to write", 0)] {
        let (node, file) = g.open_new(name, flags);
        file.write(Place::End, b"one", PLAIN).unwrap();
        file.write(Place::End, b"two", PLAIN).unwrap();
        g.set(&node, Change { size: Some(4), ..Change::default() }, PLAIN).unwrap();
        file.write(Place::End, b"end", PLAIN).unwrap();
        assert_eq!(read(&*file, 0, 100), b"onetend", "{name}");
        file.write(Place::At(1), b"NE", PLAIN).unwrap();
        assert_eq!(read(&*file, 0, 100), b"oNEtend", "{name}");
    }
}

fn access_modes(g: &Ground) {
    let node = g.make_file("file", 0o600);
    let open = |flags| g.source.open(&node, flags).unwrap();
    let mut buf = [0; 4];
    assert_eq!(errno(open(libc::O_WRONLY).read(0, &mut buf)), libc::EBADF);
    assert_eq!(errno(open(libc::O_RDONLY).write(Place::At(0), b"x", PLAIN)), libc::EBADF);
    assert_eq!(errno(open(libc::O_RDONLY).allocate(0, 0, 1, PLAIN)), libc::EBADF);
    let dir = g.make_dir(&g.root, "dir");
    assert_eq!(errno(g.source.open(&dir, libc::O_RDWR)), libc::EISDIR);
}

fn born_open(g: &Ground) {
    let what = NewKind::Regular(Some(libc::O_RDWR | libc::O_EXCL));
    let file = g.create(&g.root, "file", what, 0).unwrap().file.unwrap();
    file.write(Place::At(0), b"x", PLAIN).unwrap();
    assert_eq!(read(&*file, 0, 9), b"x");
    assert_eq!(file.getattr().unwrap().mode, Mode::new(0));
}

fn sizes(g: &Ground) {
    let (node, file) = g.open_new("file", 0);
    let resize = |size| {
        let change = Change { size: Some(size), ..Change::default() };
        assert_eq!(g.set(&node, change, PLAIN).unwrap().size, size);
    };
    file.write(Place::At(0), &[1; 10_000], PLAIN).unwrap();
    resize(5000);
    resize(9000);
    let bytes = read(&*file, 0, 20_000);
    assert_eq!(bytes.len(), 9000);
    assert!(bytes[..5000].iter().all(|&b| b == 1) && bytes[5000..].iter().all(|&b| b == 0));
    resize(1 << 40);
    assert_eq!(read(&*file, (1 << 40) - 2, 9), [0, 0]);
    resize(0);
    assert_eq!(file.write(Place::At(3), b"x", PLAIN), Ok(1));
    assert_eq!(read(&*file, 0, 9), b"\0\0\0x");
}

fn allocate(g: &Ground) {
    let (node, file) = g.open_new("file", 0);
    let (keep, punch) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE);
    assert_eq!(errno(file.allocate(0, 0, 0, PLAIN)), libc::EINVAL);
    file.allocate(keep, 0, 100_000, PLAIN).unwrap();
    let attr = g.attr(&node);
    assert_eq!(attr.size, 0);
    assert!(attr.blocks >= 100_000 / 512, "{} blocks", attr.blocks);
    file.allocate(0, 0, 12_000, PLAIN).unwrap();
    assert_eq!(g.attr(&node).size, 12_000);
    file.write(Place::At(0), &[1; 12_000], PLAIN).unwrap();
    file.allocate(punch | keep, 4000, 5000, PLAIN).unwrap();
    let bytes = read(&*file, 0, 12_000);
    let zeros: Vec<usize> = (0..12_000).filter(|&i| bytes[i] == 0).collect();
    assert_eq!((zeros.len(), zeros[0]), (5000, 4000));
}

fn holes(g: &Ground) {
    let (_, file) = g.open_new("file", 0);
    let far = 1 << 20;
    file.write(Place::At(far), b"data", PLAIN).unwrap();
    let end = far + 4;
    assert_eq!(errno(file.seek(end.cast_signed(), libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(errno(file.seek(end.cast_signed(), libc::SEEK_HOLE)), libc::ENXIO);
    assert_eq!(errno(file.seek(-1, libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(file.seek(far.cast_signed(), libc::SEEK_HOLE), Ok(end));
    assert_eq!(file.seek(far.cast_signed(), libc::SEEK_DATA), Ok(far));
    let first = file.seek(0, libc::SEEK_HOLE).unwrap();
    let data = file.seek(0, libc::SEEK_DATA).unwrap();
    assert!((first, data) == (0, far) || (first, data) == (end, 0), "{first} {data}");
}

fn copy(g: &Ground) {
    let (_, from) = g.open_new("from", 0);
    let (node, to) = g.open_new("to", 0);
    from.write(Place::At(0), b"0123456789", PLAIN).unwrap();
    assert_eq!(from.copy_to(2, &*to, 1, 4, PLAIN), Ok(4));
    assert_eq!(read(&*to, 0, 99), b"\x002345");
    assert_eq!(from.copy_to(8, &*to, 5, 100, PLAIN), Ok(2));
    assert_eq!(from.copy_to(50, &*to, 0, 100, PLAIN), Ok(0));
    assert_eq!(read(&*to, 0, 99), b"\x00234589");
    let reader = g.source.open(&node, libc::O_RDONLY).unwrap();
    assert_eq!(errno(from.copy_to(0, &*reader, 0, 1, PLAIN)), libc::EBADF);
    assert_eq!(errno(from.copy_to(0, &*from, 1, 5, PLAIN)), libc::EINVAL);
}

const END: u64 = u64::MAX >> 1;

fn lock(kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { kind, start, end, pid: 0 }
}

fn locks(g: &Ground) {
    use LockKind::{Exclusive, None, Shared};
    let (_, file) = g.open_new("file", 0);
    let (a, b) = (file.locks().unwrap(), file.locks().unwrap());
    a.set(&lock(Shared, 0, 9)).unwrap();
    b.set(&lock(Shared, 5, END)).unwrap();
    assert_eq!(errno(a.set(&lock(Exclusive, 0, 9))), libc::EAGAIN);
    let way = a.test(&lock(Exclusive, 0, 9)).unwrap().unwrap();
    assert_eq!((way.kind, way.start, way.end), (Shared, 5, END));
    assert_eq!(a.test(&lock(Exclusive, 0, 4)).unwrap(), Option::None);
    assert_eq!(a.test(&lock(Shared, 0, END)).unwrap(), Option::None);
    b.set(&lock(None, 0, END)).unwrap();
    a.set(&lock(Exclusive, 0, END)).unwrap();
    assert_eq!(errno(b.set(&lock(Shared, 3, 3))), libc::EAGAIN);
    drop(a);
    b.set(&lock(Exclusive, 0, END)).unwrap();
}

fn lock_ranges(g: &Ground) {
    use LockKind::{Exclusive, None, Shared};
    let (_, file) = g.open_new("file", 0);
    let (a, b) = (file.locks().unwrap(), file.locks().unwrap());
    a.set(&lock(Exclusive, 10, 19)).unwrap();
    a.set(&lock(None, 13, 14)).unwrap();
    a.set(&lock(Shared, 18, 18)).unwrap();
    for (at, kind) in [
        (9, Option::None),
        (10, Some(Exclusive)),
        (12, Some(Exclusive)),
        (13, Option::None),
        (14, Option::None),
        (15, Some(Exclusive)),
        (18, Some(Shared)),
        (19, Some(Exclusive)),
        (20, Option::None),
    ] {
        let found = b.test(&lock(Exclusive, at, at)).unwrap();
        assert_eq!(found.map(|found| found.kind), kind, "byte {at}");
    }
    assert_eq!(errno(b.set(&lock(Shared, 5, 4))), libc::EINVAL);
}

fn flags(g: &Ground) {
    const NODUMP: u32 = 0x40;
    let (_, file) = g.open_new("file", 0);
    let Ok(InodeFlags::Flags(old)) = file.inode_flags(InodeFlagsKind::Flags) else {
        println!("SKIP: the source's file system has no inode flags");
        return;
    };
    file.set_inode_flags(&InodeFlags::Flags(old | NODUMP)).unwrap();
    assert_eq!(file.inode_flags(InodeFlagsKind::Flags), Ok(InodeFlags::Flags(old | NODUMP)));
    let extended = file.inode_flags(InodeFlagsKind::Extended).unwrap();
    file.set_inode_flags(&InodeFlags::Flags(old)).unwrap();
    file.set_inode_flags(&extended).unwrap();
    assert_eq!(file.inode_flags(InodeFlagsKind::Flags), Ok(InodeFlags::Flags(old | NODUMP)));
}
