use super::*;
use crate::source::wrap::Call;
use std::ops::ControlFlow::{Break, Continue};

/// Makes a directory with files `a0`, `a1`, and so on.
fn full(world: &World, files: u32) -> Entry {
    let dir = world.dir("d", (1, 1), 0o755);
    let inside = world
        .disk
        .lookup(&caller(0, 0), world.disk.root(&caller(0, 0)).unwrap().node, name("d"))
        .unwrap();
    for i in 0..files {
        let name = format!("a{i}");
        let by = caller(i, i);
        world.disk.mknod(&by, inside.node, name.as_ref(), libc::S_IFREG, 0, 0).unwrap();
    }
    dir
}

/// Lists all, `step` entries a call, as name and number.
fn list(world: &World, handle: u64, step: usize) -> Vec<(String, u64)> {
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let (mut got, from) = (0, offset);
        let mut each = |line: Listed<'_>, entry: &Entry| {
            if got == step {
                return Break(());
            }
            got += 1;
            offset = line.next;
            let name = line.name.to_str().unwrap().to_owned();
            if !name.starts_with('.') {
                world.fs.forget(entry.node, 1);
            }
            all.push((name, entry.node));
            Continue(())
        };
        world.fs.readdirplus(&caller(0, 0), handle, from, &mut each).unwrap();
        if got == 0 {
            return all;
        }
    }
}

#[test]
fn listings_go_on_where_they_stopped() {
    let world = World::new(MAP);
    let dir = full(&world, 10);
    let handle = world.fs.opendir(&caller(0, 0), dir.node).unwrap();
    let all = list(&world, handle, 1000);
    assert_eq!(all.len(), 12);
    assert_eq!(list(&world, handle, 3), all);
    assert_eq!(all[0], (".".into(), dir.node));
    assert_eq!(all[1], ("..".into(), world.root()));
    for (name, ino) in &all[2..] {
        assert_eq!(world.fs.lookup(&caller(0, 0), dir.node, name.as_ref()).unwrap().node, *ino);
    }
    let root = world.fs.opendir(&caller(0, 0), world.root()).unwrap();
    assert_eq!(
        list(&world, root, 9)[..2],
        [(".".into(), world.root()), ("..".into(), world.root())]
    );
    world.fs.fsyncdir(handle, true).unwrap();
    world.fs.releasedir(handle);
    let gone = world.fs.readdirplus(&caller(0, 0), handle, 0, &mut |_, _| Continue(()));
    assert_eq!(gone.unwrap_err(), Error::Unknown);
}

#[test]
fn a_listing_is_the_same_with_a_helper_and_counts_what_it_tells_alone() {
    let world = World::new(MAP);
    let dir = full(&world, 300);
    let handle = world.fs.opendir(&caller(0, 0), dir.node).unwrap();
    let all = list(&world, handle, 1000);
    let known = world.fs.tree.counts().0;
    for step in [1000, 100, 7, 40, 299] {
        for _ in 0..20 {
            assert_eq!(list(&world, handle, step), all, "{step}");
        }
        // Looked up ahead is not told: the kernel has nothing to take back.
        assert_eq!(world.fs.tree.counts().0, known, "{step}");
    }
}

#[test]
fn files_that_come_with_a_listing_are_counted_once() {
    let world = World::new(MAP);
    let dir = full(&world, 4);
    let handle = world.fs.opendir(&caller(0, 0), dir.node).unwrap();
    let before = world.fs.tree.counts().0;
    let mut nodes = Vec::new();
    let mut each = |line: Listed<'_>, entry: &Entry| {
        assert_eq!(entry.attr.ino, entry.node);
        if nodes.len() == 5 {
            return Break(());
        }
        if entry.attr.kind == FileKind::Regular {
            let i = line.next - 3;
            let expected = 100_000 + u32::try_from(i).unwrap();
            assert_eq!(entry.attr.owner.uid.map(Id::raw), Some(expected));
        }
        nodes.push(entry.node);
        Continue(())
    };
    world.fs.readdirplus(&caller(0, 0), handle, 0, &mut each).unwrap();
    // `.`, `..` and three files: the fourth was refused.
    assert_eq!(nodes[..2], [dir.node, world.root()]);
    assert_eq!(world.fs.tree.counts().0, before + 3);
    for node in &nodes[2..] {
        world.fs.getattr(&caller(0, 0), *node, None).unwrap();
        world.fs.forget(*node, 1);
        assert_eq!(world.fs.getattr(&caller(0, 0), *node, None).unwrap_err(), Error::Unknown);
    }
    assert_eq!(world.fs.tree.counts().0, before);
}

#[test]
fn a_listing_survives_removals() {
    let world = World::new(IDENTITY);
    let dir = full(&world, 200);
    let handle = world.fs.opendir(&caller(0, 0), dir.node).unwrap();
    let mut removed = 0;
    let mut each = |line: Listed<'_>, entry: &Entry| {
        if entry.attr.kind == FileKind::Regular {
            world.fs.unlink(&caller(0, 0), dir.node, line.name).unwrap();
            world.fs.forget(entry.node, 1);
            removed += 1;
        }
        Continue(())
    };
    world.fs.readdirplus(&caller(0, 0), handle, 0, &mut each).unwrap();
    assert_eq!(removed, 200);
    world.fs.rmdir(&caller(0, 0), world.root(), name("d")).unwrap();
}

#[test]
fn a_name_that_is_gone_is_left_out() {
    let world = World::new(IDENTITY);
    let dir = full(&world, 3);
    let handle = world.fs.opendir(&caller(0, 0), dir.node).unwrap();
    let inside = world
        .disk
        .lookup(&caller(0, 0), world.disk.root(&caller(0, 0)).unwrap().node, name("d"))
        .unwrap()
        .node;
    let mut names = Vec::new();
    let mut each = |line: Listed<'_>, _: &Entry| {
        if line.name == "a0" {
            world.disk.unlink(&caller(0, 0), inside, name("a1")).unwrap();
        }
        names.push(line.name.to_str().unwrap().to_owned());
        Continue(())
    };
    world.fs.readdirplus(&caller(0, 0), handle, 0, &mut each).unwrap();
    assert_eq!(names, [".", "..", "a0", "a2"]);
}

#[test]
fn what_is_mounted_below_has_numbers_of_its_own() {
    let world = World::new(IDENTITY);
    let (root, _) = world.memory.root().unwrap();
    world.memory.graft(&root, Name::new(name("below")).unwrap(), 7).unwrap();
    let below = world.look("below").unwrap();
    world.file("file", (1, 1), 0o644);
    let by = caller(1, 1);
    let inside = world.fs.mknod(&by, below.node, name("inside"), libc::S_IFREG, 0, 0).unwrap();
    let handle = world.fs.opendir(&caller(0, 0), below.node).unwrap();
    let all = list(&world, handle, 9);
    let expected =
        [(".".into(), below.node), ("..".into(), world.root()), ("inside".into(), inside.node)];
    assert_eq!(all, expected);
    assert_ne!(inside.node, world.look("file").unwrap().node);
}

/// A server without descriptors has not seen that a name is gone.
#[test]
fn a_listing_fails_rather_than_leave_names_out() {
    let (world, wrap) = World::wrapped(IDENTITY);
    let dir = full(&world, 3);
    let handle = world.fs.opendir(&caller(0, 0), dir.node).unwrap();
    for (errno, fails) in [(libc::EMFILE, true), (libc::ENOMEM, true), (libc::EIO, false)] {
        for _ in 0..9 {
            wrap.fail(Call::Lookup, os(errno));
        }
        let result = world.fs.readdirplus(&caller(0, 0), handle, 0, &mut |_, _| Continue(()));
        assert_eq!(result.is_err_and(|error| error.is(errno)), fails, "{errno}");
        while world.look("d").is_err() {}
    }
    assert_eq!(list(&world, handle, 9).len(), 5);
}
