//! Making and removing names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::*;

pub(super) const CHECKS: &[Check] = &[
    ("the root is a directory", root),
    ("every kind of file is made as asked", kinds),
    ("what is there is not made again", exists),
    ("what is not there is not found", missing),
    ("the umask takes bits away", umask),
    ("a set-group-id directory gives its group", set_group_id),
    ("names are of any bytes", any_bytes),
    ("targets of symbolic links", targets),
    ("a link is the same file", link),
    ("links that are refused", link_refused),
    ("unlink and rmdir take what is theirs", remove),
    ("an open file outlives its name", unlinked),
    ("a node is opened only as what it was", identity),
];

fn root(g: &Ground) {
    let (_, found) = g.source.root().unwrap();
    assert_eq!(found.attr.kind, FileKind::Directory);
    assert_eq!(found.key.volume, 0);
    assert_eq!(found.key.ino, found.attr.ino);
    assert_eq!(g.source.root().unwrap().1.key, found.key);
    assert!(g.source.statfs(&g.root).unwrap().blocks > 0);
}

fn kinds(g: &Ground) {
    let device = libc::makedev(1, 7);
    let table = [
        ("file", NewKind::Regular(None), FileKind::Regular, 0o6751, 0),
        ("dir", NewKind::Directory, FileKind::Directory, 0o1751, 0),
        ("link", NewKind::Symlink(OsStr::new("to")), FileKind::Symlink, 0o777, 0),
        ("fifo", NewKind::Special(FileKind::Fifo, 0), FileKind::Fifo, 0o640, 0),
        ("socket", NewKind::Special(FileKind::Socket, 0), FileKind::Socket, 0o600, 0),
        (
            "device",
            NewKind::Special(FileKind::CharDevice, device),
            FileKind::CharDevice,
            0o620,
            device,
        ),
    ];
    for (name, what, kind, mode, rdev) in table {
        let privileged = rdev != 0 || mode & 0o6000 != 0;
        if privileged && !g.any_owner() {
            continue;
        }
        let created = g.create(&g.root, name, what, mode).unwrap();
        assert!(created.file.is_none());
        let found = g.lookup(&g.root, name).unwrap();
        assert_eq!(created.found.key, found.key, "{name}");
        assert_eq!(created.found.handle, found.handle, "{name}");
        assert_eq!(created.found.attr, found.attr, "{name}");
        assert_eq!(found.attr, g.attr(&g.node(&g.root, name)), "{name}");
        assert_eq!(found.attr.kind, kind, "{name}");
        assert_eq!(found.attr.mode, Mode::new(mode), "{name}");
        assert_eq!(found.attr.owner, g.owner.into(), "{name}");
        assert_eq!(found.attr.rdev, rdev, "{name}");
    }
    assert_eq!(g.lookup(&g.root, "link").unwrap().attr.size, 2);
}

fn exists(g: &Ground) {
    g.make_file("file", 0o644);
    g.make_dir(&g.root, "dir");
    g.make(&g.root, "link", NewKind::Symlink(OsStr::new("nowhere")), 0);
    let kinds = [
        NewKind::Regular(None),
        NewKind::Regular(Some(libc::O_RDWR)),
        NewKind::Directory,
        NewKind::Symlink(OsStr::new("x")),
        NewKind::Special(FileKind::Fifo, 0),
    ];
    for name in ["file", "dir", "link"] {
        let before = g.lookup(&g.root, name).unwrap();
        for what in kinds {
            let again = g.create(&g.root, name, what, 0o600);
            assert_eq!(errno(again), libc::EEXIST, "{name} {what:?}");
        }
        assert_eq!(g.lookup(&g.root, name).unwrap().key, before.key);
        assert_eq!(g.lookup(&g.root, name).unwrap().attr.mode, before.attr.mode);
    }
    assert_eq!(errno(g.lookup(&g.root, "nowhere")), libc::ENOENT);
}

fn missing(g: &Ground) {
    let file = g.make_file("file", 0o644);
    assert_eq!(errno(g.lookup(&g.root, "no")), libc::ENOENT);
    assert_eq!(errno(g.lookup(&file, "no")), libc::ENOTDIR);
    assert_eq!(errno(g.create(&file, "no", NewKind::Regular(None), 0)), libc::ENOTDIR);
    assert_eq!(errno(g.source.opendir(&file)), libc::ENOTDIR);
    let dir = g.make_dir(&g.root, "dir");
    g.source.rmdir(&g.root, n("dir")).unwrap();
    for what in [NewKind::Regular(None), NewKind::Directory, NewKind::Symlink(OsStr::new("x"))] {
        assert_eq!(errno(g.create(&dir, "no", what, 0o600)), libc::ENOENT, "{what:?}");
    }
    assert_eq!(errno(g.source.link(&file, &dir, n("no"), PLAIN)), libc::ENOENT);
}

fn umask(g: &Ground) {
    let table = [
        ("file", NewKind::Regular(None), 0o666, 0o027, 0o640),
        ("open", NewKind::Regular(Some(libc::O_WRONLY)), 0o777, 0o077, 0o700),
        ("dir", NewKind::Directory, 0o777, 0o022, 0o755),
        ("fifo", NewKind::Special(FileKind::Fifo, 0), 0o777, 0o777, 0),
        ("link", NewKind::Symlink(OsStr::new("x")), 0o777, 0o777, 0o777),
    ];
    for (name, what, mode, umask, expected) in table {
        let new = New { umask, ..g.new_of(what, mode) };
        let created = g.source.create(&g.root, n(name), &new).unwrap();
        assert_eq!(created.found.attr.mode, Mode::new(expected), "{name}");
    }
}

fn set_group_id(g: &Ground) {
    if !g.any_owner() {
        return;
    }
    let dir = g.make_dir(&g.root, "dir");
    g.chmod(&dir, 0o2755);
    let other = Ids::<Disk>::new(2000, 2001).unwrap();
    let table = [
        ("file", NewKind::Regular(None), 0o755, 0o755),
        ("mandatory", NewKind::Regular(None), 0o2745, 0o2745),
        ("sub", NewKind::Directory, 0o700, 0o2700),
        ("sticky", NewKind::Directory, 0o7700, 0o3700),
        ("fifo", NewKind::Special(FileKind::Fifo, 0), 0o600, 0o600),
    ];
    for (name, what, mode, expected) in table {
        let new = New { owner: other, ..g.new_of(what, mode) };
        let attr = g.source.create(&dir, n(name), &new).unwrap().found.attr;
        assert_eq!(attr.mode, Mode::new(expected), "{name}");
        assert_eq!(attr.owner.uid, Some(other.uid), "{name}");
        assert_eq!(attr.owner.gid, Some(g.owner.gid), "{name}");
    }
    let plain = g.make_dir(&g.root, "plain");
    let attr = g.create(&plain, "sub", NewKind::Directory, 0o6711).unwrap().found.attr;
    assert_eq!(attr.mode, Mode::new(0o711));
}

fn any_bytes(g: &Ground) {
    let long = [b'x'; 255];
    for bytes in [&b"\xff\xfe"[..], b"a\nb", b"...", b" ", &long] {
        let name = Name::new(OsStr::from_bytes(bytes)).unwrap();
        let new = g.new_of(NewKind::Regular(None), 0o600);
        let key = g.source.create(&g.root, name, &new).unwrap().found.key;
        assert_eq!(g.source.lookup(&g.root, name).unwrap().key, key);
    }
}

fn targets(g: &Ground) {
    let longest = "y".repeat(4095);
    for (name, target) in [("a", "/../x//"), ("b", "\n"), ("c", longest.as_str())] {
        let node = g.make(&g.root, name, NewKind::Symlink(OsStr::new(target)), 0);
        assert_eq!(g.source.readlink(&node).unwrap(), target);
        assert_eq!(g.attr(&node).size, target.len() as u64);
    }
    let too_long = format!("{longest}z");
    let too_long = g.create(&g.root, "d", NewKind::Symlink(OsStr::new(&too_long)), 0);
    assert_eq!(errno(too_long), libc::ENAMETOOLONG);
    assert_eq!(errno(g.create(&g.root, "d", NewKind::Symlink(OsStr::new("")), 0)), libc::ENOENT);
    let no_link = g.source.readlink(&g.make_file("f", 0o600));
    assert!(matches!(errno(no_link), libc::EINVAL | libc::ENOENT));
}

fn link(g: &Ground) {
    let dir = g.make_dir(&g.root, "dir");
    for (name, what) in [
        ("file", NewKind::Regular(None)),
        ("link", NewKind::Symlink(OsStr::new("x"))),
        ("fifo", NewKind::Special(FileKind::Fifo, 0)),
    ] {
        let node = g.make(&g.root, name, what, 0o600);
        let before = g.attr(&node);
        let found = g.source.link(&node, &dir, n(name), PLAIN).unwrap();
        assert_eq!(found.key, g.key(&g.root, name), "{name}");
        assert_eq!(found.key, g.key(&dir, name), "{name}");
        assert_eq!(found.attr.nlink, 2, "{name}");
        assert!(found.attr.ctime > before.ctime, "{name}");
        assert_eq!(found.attr.mtime, before.mtime, "{name}");
        g.source.unlink(&g.root, n(name)).unwrap();
        assert_eq!(g.lookup(&dir, name).unwrap().attr.nlink, 1, "{name}");
    }
}

fn link_refused(g: &Ground) {
    let file = g.make_file("file", 0o644);
    let dir = g.make_dir(&g.root, "dir");
    assert_eq!(errno(g.source.link(&file, &g.root, n("dir"), PLAIN)), libc::EEXIST);
    assert_eq!(errno(g.source.link(&dir, &g.root, n("other"), PLAIN)), libc::EPERM);
    assert_eq!(errno(g.source.link(&file, &file, n("other"), PLAIN)), libc::ENOTDIR);
    g.source.unlink(&g.root, n("file")).unwrap();
    assert_eq!(errno(g.source.link(&file, &g.root, n("other"), PLAIN)), libc::ENOENT);
}

fn remove(g: &Ground) {
    let dir = g.make_dir(&g.root, "dir");
    g.make(&dir, "file", NewKind::Regular(None), 0o600);
    let before = g.attr(&dir);
    assert_eq!(errno(g.source.unlink(&g.root, n("dir"))), libc::EISDIR);
    assert_eq!(errno(g.source.rmdir(&dir, n("file"))), libc::ENOTDIR);
    assert_eq!(errno(g.source.rmdir(&g.root, n("dir"))), libc::ENOTEMPTY);
    assert_eq!(errno(g.source.unlink(&dir, n("no"))), libc::ENOENT);
    assert_eq!(errno(g.source.rmdir(&dir, n("no"))), libc::ENOENT);
    // tmpfs gives the directory the time of the last tick.
    std::thread::sleep(Duration::from_millis(20));
    g.source.unlink(&dir, n("file")).unwrap();
    assert!(g.attr(&dir).mtime > before.mtime);
    assert!(g.attr(&dir).ctime > before.ctime);
    g.source.rmdir(&g.root, n("dir")).unwrap();
    assert_eq!(errno(g.lookup(&g.root, "dir")), libc::ENOENT);
}

fn unlinked(g: &Ground) {
    let (node, file) = g.open_new("file", 0);
    file.write(Place::At(0), b"before", PLAIN).unwrap();
    g.source.unlink(&g.root, n("file")).unwrap();
    assert_eq!(errno(g.lookup(&g.root, "file")), libc::ENOENT);
    assert_eq!(g.attr(&node).nlink, 0);
    assert_eq!(file.getattr().unwrap().nlink, 0);
    drop(node);
    file.write(Place::At(6), b"-after", PLAIN).unwrap();
    let mut buf = [0; 32];
    assert_eq!(file.read(0, &mut buf).unwrap(), 12);
    assert_eq!(&buf[..12], b"before-after");
}

fn identity(g: &Ground) {
    let first = g.make_file("file", 0o600);
    let found = g.lookup(&g.root, "file").unwrap();
    g.source.unlink(&g.root, n("file")).unwrap();
    assert_eq!(g.source.open_by_name(&g.root, n("file"), &found.key).unwrap_err(), Error::Stale);
    drop(first);
    g.make_file("file", 0o600);
    let second = g.lookup(&g.root, "file").unwrap();
    assert_ne!(found.key, second.key, "also where the number is used again");
    assert_eq!(g.source.open_by_name(&g.root, n("file"), &found.key).unwrap_err(), Error::Stale);
    g.source.open_by_name(&g.root, n("file"), &second.key).unwrap();
    let Some(handle) = found.handle else {
        // Root of a user namespace finds directories alone by handle.
        g.make_dir(&g.root, "dir");
        let of_dir = g.lookup(&g.root, "dir").unwrap().handle;
        assert_eq!(of_dir.is_some(), g.source.facts().handles);
        return;
    };
    // A child that another test has just forked has what was open then for a moment longer.
    let (start, by_key) =
        (Instant::now(), || g.source.open_by_key(&found.key, &handle, found.attr.kind));
    while by_key().is_ok() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(by_key().unwrap_err(), Error::Stale);
    g.make_dir(&g.root, "dir");
    let dir = g.lookup(&g.root, "dir").unwrap();
    let node = g.source.open_by_key(&dir.key, &dir.handle.unwrap(), dir.attr.kind).unwrap();
    assert_eq!(g.attr(&node).ino, dir.key.ino);
}
