//! Listing directories.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::*;
use crate::source::Dir;

pub(super) const CHECKS: &[Check] = &[
    ("a listing names every entry once", whole),
    ("a listing goes on where it was left", parts),
    ("deleting while listing loses nothing", deleting),
    ("a listing may ask about its entries", reentrant),
    ("a directory that is gone lists nothing", gone),
];

type Entries = BTreeMap<String, (u64, Option<FileKind>)>;

/// Reads at most `count` entries; returns where to go on.
fn read(dir: &dyn Dir, offset: u64, count: usize, into: &mut Entries) -> u64 {
    let (mut left, mut next) = (count, offset);
    dir.read(offset, &mut |entry| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        next = entry.next;
        let name = entry.name.to_str().unwrap();
        let dots = matches!(name, "." | "..");
        let old = (!dots).then(|| into.insert(name.into(), (entry.ino, entry.kind))).flatten();
        assert_eq!(old, None, "{name} twice");
        ControlFlow::Continue(())
    })
    .unwrap();
    next
}

fn whole(g: &Ground) {
    let mut expected = Entries::new();
    for i in 0..150 {
        let name = format!("file{i}");
        g.make_file(&name, 0o600);
        expected.insert(name.clone(), (g.key(&g.root, &name).ino, Some(FileKind::Regular)));
    }
    g.make_dir(&g.root, "dir");
    expected.insert("dir".into(), (g.key(&g.root, "dir").ino, Some(FileKind::Directory)));
    let dir = g.source.opendir(&g.root).unwrap();
    for _ in 0..2 {
        let mut entries = Entries::new();
        read(&*dir, 0, usize::MAX, &mut entries);
        assert_eq!(entries.len(), expected.len(), "twice from the start");
        for (name, (ino, kind)) in &entries {
            let (expected, is) = expected[name];
            assert_eq!(*ino, expected, "{name}");
            // Not every source knows what a name leads to without a look at it.
            assert!(kind.is_none() || *kind == is, "{name}: {kind:?}");
        }
    }
    dir.sync(false).unwrap();
}

fn parts(g: &Ground) {
    for i in 0..40 {
        g.make_file(&format!("file{i}"), 0o600);
    }
    let dir = g.source.opendir(&g.root).unwrap();
    let (mut entries, mut offset) = (Entries::new(), 0);
    loop {
        let next = read(&*dir, offset, 7, &mut entries);
        if next == offset {
            break;
        }
        offset = next;
    }
    assert_eq!(entries.len(), 40);
    let other = g.source.opendir(&g.root).unwrap();
    let mut more = Entries::new();
    read(&*other, offset, 7, &mut more);
    assert!(more.is_empty(), "an offset holds for another open directory too");
}

fn deleting(g: &Ground) {
    for i in 0..200 {
        g.make_file(&format!("file{i}"), 0o600);
    }
    let dir = g.source.opendir(&g.root).unwrap();
    let (mut seen, mut offset) = (Entries::new(), 0);
    loop {
        let mut some = Entries::new();
        let next = read(&*dir, offset, 9, &mut some);
        if next == offset {
            break;
        }
        offset = next;
        for name in some.keys() {
            g.source.unlink(&g.root, n(name)).unwrap();
        }
        seen.append(&mut some);
    }
    assert_eq!(seen.len(), 200);
}

fn reentrant(g: &Ground) {
    g.make_file("a", 0o600);
    g.make_dir(&g.root, "b");
    let dir = g.source.opendir(&g.root).unwrap();
    let mut count = 0;
    dir.read(0, &mut |entry| {
        if let Ok(name) = Name::new(entry.name) {
            let found = g.source.lookup(&g.root, name).unwrap();
            assert_eq!(found.key.ino, entry.ino);
            assert_eq!(entry.kind.unwrap_or(found.attr.kind), found.attr.kind);
            count += 1;
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(count, 2);
}

fn gone(g: &Ground) {
    let node = g.make_dir(&g.root, "dir");
    let dir = g.source.opendir(&node).unwrap();
    g.source.rmdir(&g.root, n("dir")).unwrap();
    let mut listed = 0;
    let result = dir.read(0, &mut |_| {
        listed += 1;
        ControlFlow::Continue(())
    });
    assert!(matches!(errno(result), 0 | libc::ENOENT));
    assert_eq!(listed, 0);
}
