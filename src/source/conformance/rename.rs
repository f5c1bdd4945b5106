//! Renaming.

use std::ffi::OsStr;

use super::*;

pub(super) const CHECKS: &[Check] = &[
    ("a rename moves and replaces", moves),
    ("renames that are refused", refused),
    ("a rename without replacing", no_replace),
    ("an exchange", exchange),
    ("a whiteout is left", whiteout),
    ("directories count their subdirectories", link_counts),
];

const REPLACE: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: false };
const NO_REPLACE: RenameFlags = RenameFlags { no_replace: true, ..REPLACE };
const EXCHANGE: RenameFlags = RenameFlags { exchange: true, ..REPLACE };
const WHITEOUT: RenameFlags = RenameFlags { whiteout: true, ..REPLACE };

fn moves(g: &Ground) {
    let dir = g.make_dir(&g.root, "dir");
    let file = g.make_file("a", 0o600);
    let key = g.key(&g.root, "a");
    let before = g.attr(&file);
    g.rename((&g.root, "a"), (&dir, "b"), REPLACE).unwrap();
    assert_eq!(errno(g.lookup(&g.root, "a")), libc::ENOENT);
    assert_eq!(g.key(&dir, "b"), key);
    assert!(g.attr(&file).ctime > before.ctime);

    let replaced = g.make_file("c", 0o600);
    g.rename((&dir, "b"), (&g.root, "c"), REPLACE).unwrap();
    assert_eq!(g.key(&g.root, "c"), key);
    assert_eq!(g.attr(&replaced).nlink, 0);

    g.make_dir(&g.root, "empty");
    g.rename((&g.root, "dir"), (&g.root, "empty"), REPLACE).unwrap();
    assert_eq!(errno(g.lookup(&g.root, "dir")), libc::ENOENT);

    g.source.link(&file, &g.root, n("d"), PLAIN).unwrap();
    g.rename((&g.root, "c"), (&g.root, "d"), REPLACE).unwrap();
    assert_eq!(g.key(&g.root, "c"), key, "a rename onto the same file does nothing");
    assert_eq!(g.key(&g.root, "d"), key);
}

fn refused(g: &Ground) {
    let dir = g.make_dir(&g.root, "dir");
    let sub = g.make_dir(&dir, "sub");
    g.make_dir(&g.root, "empty");
    g.make_file("file", 0o600);
    let gone = g.make_dir(&g.root, "gone");
    g.source.rmdir(&g.root, n("gone")).unwrap();
    let both = RenameFlags { no_replace: true, exchange: true, whiteout: false };
    let whiteout = RenameFlags { no_replace: false, exchange: true, whiteout: true };
    let root = &g.root;
    for (from, to, flags, expected) in [
        ((root, "no"), (root, "new"), REPLACE, libc::ENOENT),
        ((root, "file"), (root, "empty"), REPLACE, libc::EISDIR),
        ((root, "empty"), (root, "file"), REPLACE, libc::ENOTDIR),
        ((root, "empty"), (root, "dir"), REPLACE, libc::ENOTEMPTY),
        ((root, "dir"), (&sub, "new"), REPLACE, libc::EINVAL),
        ((root, "dir"), (&dir, "new"), REPLACE, libc::EINVAL),
        ((root, "dir"), (&dir, "sub"), REPLACE, libc::EINVAL),
        ((&dir, "sub"), (root, "dir"), REPLACE, libc::ENOTEMPTY),
        ((&dir, "sub"), (root, "dir"), EXCHANGE, libc::EINVAL),
        ((root, "file"), (&gone, "new"), REPLACE, libc::ENOENT),
        ((root, "file"), (root, "empty"), both, libc::EINVAL),
        ((root, "file"), (root, "empty"), whiteout, libc::EINVAL),
    ] {
        let (from_name, to_name) = (from.1, to.1);
        let result = g.rename(from, to, flags);
        assert_eq!(errno(result), expected, "{from_name} to {to_name} {flags:?}");
    }
}

fn no_replace(g: &Ground) {
    g.make_file("a", 0o600);
    g.make_file("b", 0o600);
    let key = g.key(&g.root, "a");
    assert_eq!(errno(g.rename((&g.root, "a"), (&g.root, "b"), NO_REPLACE)), libc::EEXIST);
    assert_eq!(errno(g.rename((&g.root, "a"), (&g.root, "a"), NO_REPLACE)), libc::EEXIST);
    g.rename((&g.root, "a"), (&g.root, "c"), NO_REPLACE).unwrap();
    assert_eq!(g.key(&g.root, "c"), key);
}

fn exchange(g: &Ground) {
    let dir = g.make_dir(&g.root, "dir");
    g.make_dir(&dir, "sub");
    g.make(&dir, "link", NewKind::Symlink(OsStr::new("x")), 0);
    g.make_file("file", 0o600);
    let (file, sub) = (g.key(&g.root, "file"), g.key(&dir, "sub"));
    g.rename((&g.root, "file"), (&dir, "sub"), EXCHANGE).unwrap();
    assert_eq!((g.key(&g.root, "file"), g.key(&dir, "sub")), (sub, file));
    let link = g.key(&dir, "link");
    g.rename((&dir, "link"), (&dir, "sub"), EXCHANGE).unwrap();
    assert_eq!(g.key(&dir, "sub"), link);
    assert_eq!(errno(g.rename((&dir, "sub"), (&g.root, "no"), EXCHANGE)), libc::ENOENT);
}

fn whiteout(g: &Ground) {
    g.make_file("a", 0o600);
    let key = g.key(&g.root, "a");
    let result = g.rename((&g.root, "a"), (&g.root, "b"), WHITEOUT);
    if errno(result) == libc::EINVAL {
        println!("SKIP: the source's file system has no whiteouts");
        return;
    }
    assert_eq!(g.key(&g.root, "b"), key);
    let left = g.lookup(&g.root, "a").unwrap().attr;
    assert_eq!((left.kind, left.rdev), (FileKind::CharDevice, 0));
    assert_eq!(left.owner, g.owner.into());
}

fn link_counts(g: &Ground) {
    let (a, b) = (g.make_dir(&g.root, "a"), g.make_dir(&g.root, "b"));
    if g.attr(&a).nlink != 2 {
        println!("SKIP: the source's file system does not count subdirectories");
        return;
    }
    let counts = |expected: (u32, u32), what: &str| {
        assert_eq!((g.attr(&a).nlink, g.attr(&b).nlink), expected, "{what}");
    };
    g.make_dir(&a, "sub");
    g.make(&a, "file", NewKind::Regular(None), 0o600);
    counts((3, 2), "made");
    g.rename((&a, "sub"), (&b, "sub"), REPLACE).unwrap();
    counts((2, 3), "moved");
    g.rename((&a, "file"), (&b, "sub"), EXCHANGE).unwrap();
    counts((3, 2), "exchanged");
    g.make_dir(&b, "empty");
    g.rename((&a, "file"), (&b, "empty"), REPLACE).unwrap();
    counts((2, 3), "replaced");
    g.source.rmdir(&b, n("empty")).unwrap();
    counts((2, 2), "removed");
}
