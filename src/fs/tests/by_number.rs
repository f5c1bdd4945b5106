//! Lookups of `.` and `..`.

use super::rules::with_rules;
use super::*;
use crate::source::RenameFlags;

/// Whom the map gives an id on disk.
const BY: (u32, u32) = (100_007, 200_008);

/// A directory with a file, both of which the kernel has forgotten.
fn forgotten(options: &[(&str, &str)]) -> (World, Entry, Entry) {
    let world = World::new(options);
    let by = caller(BY.0, BY.1);
    let dir = world.fs.mkdir(&by, world.root(), name("dir"), 0o755, 0).unwrap();
    let file = world.fs.mknod(&by, dir.node, name("file"), libc::S_IFREG | 0o640, 0, 0).unwrap();
    let dir = Entry { attr: world.fs.getattr(&by, dir.node, None).unwrap(), ..dir };
    for entry in [file, dir] {
        world.fs.forget(entry.node, 1);
    }
    assert_eq!(world.fs.held().inodes, 1);
    (world, dir, file)
}

fn same(one: &Entry, other: &Entry) {
    assert_eq!((one.node, one.generation, one.attr), (other.node, other.generation, other.attr));
}

#[test]
fn what_was_forgotten_is_found_and_counted() {
    let (world, dir, file) = forgotten(MAP);
    let (fs, by) = (&world.fs, caller(0, 0));
    for was in [dir, file] {
        same(&fs.by_number(&by, was.node).unwrap(), &was);
        same(&fs.by_number(&by, was.node).unwrap(), &was);
        fs.forget(was.node, 1);
        assert_eq!(fs.getattr(&by, was.node, None).unwrap(), was.attr);
        fs.forget(was.node, 1);
        assert_eq!(fs.getattr(&by, was.node, None).unwrap_err(), Error::Unknown);
    }
    assert_eq!(fs.held().inodes, 1);
    // No name is told to the kernel where none was found.
    let found = fs.by_number(&by, dir.node).unwrap();
    assert_eq!(fs.places(found.node).unwrap(), []);
    let named = world.look("dir").unwrap();
    same(&named, &dir);
    assert_eq!(fs.places(found.node).unwrap(), [(world.root(), "dir".into())]);
    fs.by_number(&by, dir.node).unwrap();
    assert_eq!(fs.places(found.node).unwrap(), [(world.root(), "dir".into())]);
}

#[test]
fn a_directory_leads_to_the_one_above_it() {
    let (world, dir, file) = forgotten(IDENTITY);
    let (fs, by) = (&world.fs, caller(0, 0));
    assert_eq!(fs.parent(&by, dir.node).unwrap_err(), Error::Unknown);
    fs.by_number(&by, dir.node).unwrap();
    let above = fs.parent(&by, dir.node).unwrap();
    same(&above, &fs.root(&by).unwrap());
    let inner = fs.mkdir(&by, dir.node, name("inner"), 0o755, 0).unwrap();
    same(&fs.parent(&by, inner.node).unwrap(), &fs.by_number(&by, dir.node).unwrap());
    // In a listing too.
    let open = fs.opendir(&by, dir.node).unwrap();
    let mut up = None;
    fs.readdirplus(&by, open, 0, &mut |line, entry| {
        if line.name == ".." {
            up = Some(entry.node);
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(up, Some(world.root()));
    fs.by_number(&by, file.node).unwrap();
    assert!(fs.parent(&by, file.node).is_err());
}

#[test]
fn what_is_gone_is_stale() {
    let (world, dir, file) = forgotten(IDENTITY);
    let (fs, by) = (&world.fs, caller(0, 0));
    let found = fs.by_number(&by, dir.node).unwrap();
    fs.unlink(&by, found.node, name("file")).unwrap();
    assert_eq!(fs.by_number(&by, file.node).unwrap_err(), Error::Stale);
    for never in [0, 77, u64::MAX, 1 << 63 | 9] {
        assert_eq!(fs.by_number(&by, never).unwrap_err(), Error::Stale, "{never}");
    }
    // The number of a new file: who has the old one is told by its generation.
    let new = fs.mknod(&by, found.node, name("new"), libc::S_IFREG | 0o640, 0, 0).unwrap();
    fs.forget(new.node, 1);
    assert_eq!(new.node, file.node);
    let known = fs.by_number(&by, file.node).unwrap();
    assert_eq!(known.generation, new.generation);
    assert_ne!(known.generation, file.generation);
}

/// A number that a file has because its own was taken says nothing of the file.
#[test]
fn a_number_that_stands_for_another_file_is_stale() {
    let world = World::new(IDENTITY);
    let by = caller(0, 0);
    let old = world.file("a", (0, 0), 0o600);
    world.disk_file("b", (0, 0), 0o600);
    let disk = world.disk.root(&by).unwrap().node;
    let plain = RenameFlags { no_replace: false, exchange: false, whiteout: false };
    world.disk.rename(&by, (disk, name("b")), (disk, name("a")), plain).unwrap();
    world.disk_file("c", (0, 0), 0o600);
    let new = world.look("c").unwrap();
    assert_ne!(new.node, old.node, "the kernel knows another file by it");
    world.fs.forget(new.node, 1);
    assert_eq!(world.fs.by_number(&by, new.node).unwrap_err(), Error::Stale);
    // Its own number stands for what is gone.
    assert_eq!(world.fs.by_number(&by, old.node).unwrap_err(), Error::Stale);
    world.fs.forget(old.node, 1);
    let now = world.fs.by_number(&by, old.node).unwrap();
    assert_eq!(now.generation, new.generation);
}

/// What a rule says of a file goes by its path, which a number does not tell.
#[test]
fn where_there_are_rules_a_file_is_found_while_it_is_known() {
    let world = World::of_file("[[rules]]\npath = \"/secret/**\"\nhide = true");
    let by = caller(0, 0);
    world.disk_file("open", (0, 0), 0o600);
    let dir = world.dir("dir", (0, 0), 0o700);
    let open = world.look("open").unwrap();
    for known in [dir, open] {
        same(&world.fs.by_number(&by, known.node).unwrap(), &known);
        world.fs.forget(known.node, 1);
    }
    same(&world.fs.parent(&by, dir.node).unwrap(), &world.fs.root(&by).unwrap());
    world.fs.forget(open.node, 1);
    assert_eq!(world.fs.by_number(&by, open.node).unwrap_err(), Error::Stale);
}

/// Rules that come later go by the path too, and so nothing is known of what has none.
#[test]
fn what_has_no_name_is_out_of_reach_once_there_are_rules() {
    let (world, dir, file) = forgotten(IDENTITY);
    let (fs, by) = (&world.fs, caller(0, 0));
    for node in [dir.node, file.node] {
        fs.by_number(&by, node).unwrap();
    }
    for rules in ["path = 'dir/**'\nhide = true", "path = 'other'\nread-only = true"] {
        fs.replace(with_rules(&format!("[[rules]]\n{rules}")), config().stand_in).unwrap();
        for node in [dir.node, file.node] {
            assert_eq!(fs.by_number(&by, node).unwrap_err(), Error::Stale, "{rules}");
            assert_eq!(fs.getattr(&by, node, None).unwrap_err(), Error::Stale, "{rules}");
            assert!(fs.setattr(&by, node, None, &SetAttr::default()).is_err(), "{rules}");
        }
        assert_eq!(fs.opendir(&by, dir.node).unwrap_err(), Error::Stale, "{rules}");
        assert_eq!(world.open(file.node, libc::O_RDONLY).unwrap_err(), Error::Stale, "{rules}");
        assert!(fs.lookup(&by, dir.node, name("file")).is_err(), "{rules}");
    }
    // A name says where it is.
    same(&world.look("dir").unwrap(), &dir);
    same(&fs.by_number(&by, dir.node).unwrap(), &dir);
    same(&fs.lookup(&by, dir.node, name("file")).unwrap(), &file);
    world.open(file.node, libc::O_RDONLY).unwrap();
}

/// Of a file with several names the last one that was found may be in a directory that the
/// kernel has forgotten.
#[test]
fn a_file_stands_where_a_name_of_it_is_known() {
    let world = World::new(IDENTITY);
    let (fs, by) = (&world.fs, caller(0, 0));
    let make = |at| fs.mkdir(&by, world.root(), name(at), 0o755, 0).unwrap().node;
    let (one, two) = (make("one"), make("two"));
    let file = fs.mknod(&by, one, name("file"), libc::S_IFREG | 0o640, 0, 0).unwrap().node;
    fs.link(&by, file, two, name("file")).unwrap();
    fs.forget(two, 1);
    let hide = |at: &str| {
        let rules = with_rules(&format!("[[rules]]\npath = '{at}/**'\nhide = true"));
        fs.replace(rules, config().stand_in).unwrap();
        fs.getattr(&by, file, None).map(drop)
    };
    assert_eq!(hide("other"), Ok(()));
    assert_eq!(hide("one"), Err(Error::Stale));
    assert_eq!(hide("other"), Ok(()));
    fs.forget(one, 1);
    assert_eq!(hide("other"), Err(Error::Stale));
}
