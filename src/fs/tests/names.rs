use super::*;
use crate::source::RenameFlags;

const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: false };

#[test]
fn new_files_belong_to_the_stored_caller() {
    let cases = [
        (IDENTITY, (7, 8), (7, 8), (7, 8)),
        (MAP, (100_007, 200_008), (7, 8), (100_007, 200_008)),
        (COLLAPSE, (33, 44), (5000, 5000), (1000, 1000)),
        (COLLAPSE, (0, 0), (5000, 5000), (1000, 1000)),
    ];
    for (options, by, stored, shown) in cases {
        let world = World::new(options);
        let (root, by) = (world.root(), caller(by.0, by.1));
        let fs = &world.fs;
        let made = [
            fs.mknod(&by, root, name("file"), libc::S_IFREG | 0o640, 0, 0),
            fs.mknod(&by, root, name("plain"), 0o640, 0, 0),
            fs.mknod(&by, root, name("fifo"), libc::S_IFIFO | 0o640, 0, 0),
            fs.mknod(&by, root, name("device"), libc::S_IFCHR | 0o640, 0, 0x105),
            fs.mkdir(&by, root, name("dir"), 0o640, 0),
            fs.symlink(&by, root, name("link"), name("target")),
            fs.create(&by, root, name("open"), 0o640, 0, libc::O_RDWR).map(|made| made.0),
        ];
        let names = ["file", "plain", "fifo", "device", "dir", "link", "open"];
        for (made, name) in made.into_iter().zip(names) {
            let made = made.unwrap();
            assert_eq!(numbers(&made.attr), (Some(shown.0), Some(shown.1)), "{name}");
            assert_eq!(made.node, made.attr.ino);
            let mode = if name == "link" { 0o777 } else { 0o640 };
            assert_eq!(world.stored(name), (stored.0, stored.1, mode), "{name}");
        }
        assert_eq!(fs.readlink(world.look("link").unwrap().node).unwrap(), "target");
        assert_eq!(world.look("device").unwrap().attr.rdev, 0x105);
    }
}

#[test]
fn the_umask_is_for_directories_without_a_default_acl() {
    let world = World::new(IDENTITY);
    let by = caller(0, 0);
    let made = world.fs.mknod(&by, world.root(), name("a"), libc::S_IFREG | 0o666, 0o027, 0);
    assert_eq!(made.unwrap().attr.mode.bits(), 0o640);
}

#[test]
fn only_kinds_that_mknod_makes_are_made() {
    let world = World::new(IDENTITY);
    for kind in [libc::S_IFDIR, libc::S_IFLNK, 0o030_000] {
        let made = world.fs.mknod(&caller(0, 0), world.root(), name("a"), kind | 0o644, 0, 0);
        assert_eq!(made.unwrap_err(), Error::Invalid, "{kind:o}");
    }
}

/// Every way to add a name, to `new`; `old` is a file that is there.
fn additions(world: &World, by: &Caller, new: &str) -> Vec<(&'static str, Result<()>)> {
    let (fs, root) = (&world.fs, world.root());
    let to = (root, name(new));
    let old = world.look("old").unwrap().node;
    vec![
        ("mknod", fs.mknod(by, root, to.1, libc::S_IFREG, 0, 0).map(drop)),
        ("fifo", fs.mknod(by, root, to.1, libc::S_IFIFO, 0, 0).map(drop)),
        ("mkdir", fs.mkdir(by, root, to.1, 0o755, 0).map(drop)),
        ("symlink", fs.symlink(by, root, to.1, name("x")).map(drop)),
        ("create", fs.create(by, root, to.1, 0o644, 0, libc::O_EXCL).map(drop)),
        ("link", fs.link(by, old, root, to.1).map(drop)),
    ]
}

#[test]
fn a_caller_without_an_id_to_store_adds_no_name() {
    let unmapped = [
        caller(0, 0),
        caller(100_000, 0),
        caller(0, 200_000),
        Caller { uid: None, gid: Id::new(200_000), pid: 1 },
        Caller { uid: Id::new(100_000), gid: None, pid: 1 },
    ];
    for by in unmapped {
        let world = World::new(MAP);
        world.disk_file("old", (1, 1), 0o666);
        world.dir("setgid", (1, 1), 0o2777);
        for (what, result) in additions(&world, &by, "new") {
            assert_eq!(result, Err(Error::Unmapped), "{what} by {by:?}");
        }
        for (what, result) in additions(&world, &by, "old") {
            assert_eq!(result, Err(os(libc::EEXIST)), "{what} by {by:?}");
        }
        let inside = world.look("setgid").unwrap().node;
        let made = world.fs.mkdir(&by, inside, name("new"), 0o755, 0);
        assert_eq!(made.unwrap_err(), Error::Unmapped);
        assert!(world.look("new").unwrap_err().is(libc::ENOENT));
        // What is there can be opened, whoever the caller is.
        let made = world.fs.create(&by, world.root(), name("old"), 0o644, 0, libc::O_RDWR);
        assert_eq!(made.unwrap_err(), Error::Stale);
    }
}

#[test]
fn a_caller_without_an_id_to_store_renames_over_and_exchanges() {
    let exchange = RenameFlags { exchange: true, ..PLAIN };
    let whiteout = RenameFlags { whiteout: true, ..PLAIN };
    let no_replace = RenameFlags { no_replace: true, ..PLAIN };
    let careful = RenameFlags { whiteout: true, no_replace: true, ..PLAIN };
    let cases = [
        ("a", "new", PLAIN, Err(Error::Unmapped)),
        ("a", "new", no_replace, Err(Error::Unmapped)),
        ("a", "new", whiteout, Err(Error::Unmapped)),
        ("a", "b", whiteout, Err(Error::Unmapped)),
        ("a", "b", careful, Err(os(libc::EEXIST))),
        ("a", "b", no_replace, Err(os(libc::EEXIST))),
        ("none", "new", PLAIN, Err(os(libc::ENOENT))),
        ("a", "new", exchange, Err(os(libc::ENOENT))),
        ("a", "b", exchange, Ok(())),
        ("a", "b", PLAIN, Ok(())),
    ];
    for (from, to, flags, expected) in cases {
        let world = World::new(MAP);
        let files = [world.file("a", (1, 1), 0o666), world.file("b", (2, 2), 0o666)];
        let root = world.root();
        let (from, to) = ((root, name(from)), (root, name(to)));
        assert_eq!(world.fs.rename(&caller(0, 0), from, to, flags), expected, "{from:?} {flags:?}");
        if expected.is_ok() {
            assert_eq!(world.look("b").unwrap().node, files[0].node);
            let a = world.look("a").map(|a| a.node);
            assert_eq!(a.ok(), flags.exchange.then_some(files[1].node));
        }
    }
}

#[test]
fn a_whiteout_belongs_to_the_stored_caller() {
    for (options, by, stored) in
        [(MAP, (100_004, 200_005), (4, 5)), (COLLAPSE, (8, 9), (5000, 5000))]
    {
        let world = World::new(options);
        world.file("a", (1, 1), 0o644);
        let root = world.root();
        let flags = RenameFlags { whiteout: true, ..PLAIN };
        let by = caller(by.0, by.1);
        world.fs.rename(&by, (root, name("a")), (root, name("b")), flags).unwrap();
        assert_eq!(world.stored("a"), (stored.0, stored.1, 0));
        assert_eq!(world.on_disk("a").kind, FileKind::CharDevice);
    }
}

#[test]
fn names_are_checked() {
    let world = World::new(IDENTITY);
    let long = "x".repeat(256);
    for (bad, error) in [("", Error::Invalid), ("..", Error::Invalid), (&long, Error::BadName)] {
        assert_eq!(world.look(bad).unwrap_err(), error);
        let made = world.fs.mkdir(&caller(0, 0), world.root(), name(bad), 0o755, 0);
        assert_eq!(made.unwrap_err(), error);
    }
    assert!(world.look("none").unwrap_err().is(libc::ENOENT));
    assert_eq!(world.fs.lookup(&caller(0, 0), 99, name("a")).unwrap_err(), Error::Unknown);
}

#[test]
fn hard_links_are_one_file() {
    let world = World::new(MAP);
    let a = world.file("a", (1, 1), 0o644);
    let by = caller(100_001, 200_001);
    let b = world.fs.link(&by, a.node, world.root(), name("b")).unwrap();
    assert_eq!((b.node, b.attr.nlink), (a.node, 2));
    world.fs.unlink(&caller(0, 0), world.root(), name("a")).unwrap();
    assert_eq!(world.fs.getattr(&caller(0, 0), a.node, None).unwrap().nlink, 1);
}

#[test]
fn a_moved_file_and_what_is_below_it_are_found_again() {
    for handles in [true, false] {
        let world = World::with(IDENTITY, |source| source.handles = handles);
        let by = caller(0, 0);
        let root = world.root();
        let dir = world.fs.mkdir(&by, root, name("dir"), 0o755, 0).unwrap();
        let below = world.fs.mknod(&by, dir.node, name("below"), 0, 0, 0).unwrap();
        let other = world.file("other", (1, 1), 0o644);
        world.fs.rename(&by, (root, name("dir")), (root, name("moved")), PLAIN).unwrap();
        let exchange = RenameFlags { exchange: true, ..PLAIN };
        let pair = ((root, name("moved")), (root, name("other")));
        world.fs.rename(&by, pair.0, pair.1, exchange).unwrap();
        while world.fs.tree.shrink() > 0 {}
        for node in [dir.node, below.node, other.node] {
            assert_eq!(world.fs.getattr(&caller(0, 0), node, None).unwrap().ino, node, "{handles}");
        }
        assert_eq!(world.look("other").unwrap().node, dir.node);
    }
}

/// What is open takes no more descriptors for having lost its name.
#[test]
fn an_open_file_without_a_name_is_held_by_the_node_it_was_opened_by() {
    let world = World::new(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    world.open(file.node, libc::O_RDWR).unwrap();
    // The cache lets go; the open file has its node still.
    while world.fs.tree.shrink() > 0 {}
    world.fs.unlink(&caller(0, 0), world.root(), name("a")).unwrap();
    let node = world.fs.opens.node(file.node).unwrap();
    assert_eq!((world.fs.tree.pins(), node.users()), (1, 3), "open, pinned, and here");
    assert_eq!(world.fs.getattr(&caller(0, 0), file.node, None).unwrap().nlink, 0);
}
