//! Tests of what is the memory source's own, and its run through conformance.

use std::ffi::OsStr;
use std::sync::Arc;

use super::{Memory, Options};
use crate::attr::{Mode, Name};
use crate::error::Error;
use crate::id::Ids;
use crate::source::wrap::{Call, Wrap};
use crate::source::{
    Found, InodeFlags, New, NewKind, Node, Place, RenameFlags, Rights, Source, XattrSet,
    conformance,
};

const RIGHTS: Rights = Rights { keep_setid: false, reserve: false };

fn options() -> Options {
    Options::new(Ids::new(0, 0).unwrap())
}

fn n(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

fn make(source: &dyn Source, dir: &Node, name: &str, what: NewKind<'_>) -> Found {
    let owner = Ids::new(1, 1).unwrap();
    let new = New { what, owner, mode: Mode::new(0o755), umask: 0, reserve: false, prepare: None };
    source.create(dir, n(name), &new).unwrap().found
}

fn open(source: &dyn Source, dir: &Node, name: &str) -> Node {
    let key = source.lookup(dir, n(name)).unwrap().key;
    source.open_by_name(dir, n(name), &key).unwrap()
}

#[test]
fn conforms() {
    conformance::check(&|| Arc::new(Memory::new(options())));
}

#[test]
fn conforms_with_less() {
    let less = Options { acl: false, handles: false, reuse_numbers: false, ..options() };
    conformance::check(&|| Arc::new(Memory::new(less)));
}

#[test]
fn conforms_when_wrapped() {
    conformance::check(&|| Arc::new(Wrap::new(Arc::new(Memory::new(options())))));
}

#[test]
fn numbers_come_back_when_nothing_holds_the_file() {
    let memory = Memory::new(options());
    let (root, _) = memory.root().unwrap();
    let first = make(&memory, &root, "a", NewKind::Regular(None));
    let held = open(&memory, &root, "a");
    memory.unlink(&root, n("a")).unwrap();
    let second = make(&memory, &root, "b", NewKind::Regular(None));
    assert_ne!(second.key.ino, first.key.ino);
    drop(held);
    let third = make(&memory, &root, "c", NewKind::Directory);
    assert_eq!(third.key.ino, first.key.ino);
    assert_ne!(third.key.generation, first.key.generation);

    let memory = Memory::new(Options { reuse_numbers: false, ..options() });
    let (root, _) = memory.root().unwrap();
    let first = make(&memory, &root, "a", NewKind::Regular(None));
    memory.unlink(&root, n("a")).unwrap();
    assert!(make(&memory, &root, "a", NewKind::Regular(None)).key.ino > first.key.ino);
}

#[test]
fn volumes_are_grafted() {
    let memory = Memory::new(options());
    let (root, found) = memory.root().unwrap();
    let grafted = memory.graft(&root, n("mnt"), 7).unwrap();
    assert_eq!((grafted.key.volume, grafted.key.ino), (7, found.key.ino), "numbers collide");
    let mnt = open(&memory, &root, "mnt");
    let inside = make(&memory, &mnt, "file", NewKind::Regular(None));
    let outside = make(&memory, &root, "file", NewKind::Regular(None));
    assert_eq!((inside.key.volume, outside.key.volume), (7, 0));
    let file = open(&memory, &root, "file");
    let flags = RenameFlags::default();
    for (result, errno) in [
        (memory.rename((&root, n("file")), (&mnt, n("x")), flags, None, RIGHTS), libc::EXDEV),
        (memory.link(&file, &mnt, n("x"), RIGHTS).map(drop), libc::EXDEV),
        (memory.rmdir(&root, n("mnt")), libc::EBUSY),
        (memory.rename((&root, n("mnt")), (&root, n("x")), flags, None, RIGHTS), libc::EBUSY),
        (memory.graft(&root, n("mnt"), 8).map(drop), libc::EEXIST),
    ] {
        assert_eq!(result.unwrap_err().errno().0, errno);
    }
    let mut listed = Vec::new();
    let dir = memory.opendir(&root).unwrap();
    dir.read(0, &mut |entry| {
        listed.push((entry.name.to_os_string(), entry.ino));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    let covered = listed.iter().find(|(name, _)| name == "mnt").unwrap().1;
    assert_ne!(covered, grafted.key.ino, "a listing shows the covered number");
}

#[test]
fn descriptors_run_out() {
    let memory = Memory::new(options());
    let (root, _) = memory.root().unwrap();
    let found = make(&memory, &root, "a", NewKind::Regular(None));
    assert_eq!(memory.opened(), 1);
    memory.limit(2);
    let node = memory.open_by_name(&root, n("a"), &found.key).unwrap();
    let refused = |error: Error| assert!(error.is(libc::EMFILE));
    refused(memory.root().unwrap_err());
    refused(memory.open(&node, libc::O_RDWR).unwrap_err());
    refused(memory.opendir(&root).unwrap_err());
    let what = NewKind::Regular(Some(libc::O_RDWR));
    let owner = Ids::new(1, 1).unwrap();
    let new = New { what, owner, mode: Mode::new(0o600), umask: 0, reserve: false, prepare: None };
    refused(memory.create(&root, n("b"), &new).unwrap_err());
    assert!(memory.lookup(&root, n("b")).unwrap_err().is(libc::ENOENT), "nothing is left");
    let clone = node.clone();
    drop(node);
    assert_eq!(memory.opened(), 2);
    drop(clone);
    assert_eq!(memory.opened(), 1);
    memory.create(&root, n("b"), &new).unwrap();
}

#[test]
fn space_runs_out() {
    let memory = Memory::new(Options { blocks: 2, ..options() });
    let (root, _) = memory.root().unwrap();
    make(&memory, &root, "a", NewKind::Regular(None));
    let file = memory.open(&open(&memory, &root, "a"), libc::O_RDWR).unwrap();
    assert_eq!(
        file.write(Place::At(4095), &[1; 8000], RIGHTS),
        Ok(4097),
        "what there is space for"
    );
    assert!(file.write(Place::At(8192), &[1], RIGHTS).unwrap_err().is(libc::ENOSPC));
    assert!(file.allocate(0, 0, 9000, RIGHTS).unwrap_err().is(libc::ENOSPC));
    assert_eq!(memory.statfs(&root).unwrap().bfree, 0);
    drop(file);
    memory.unlink(&root, n("a")).unwrap();
    assert_eq!(memory.statfs(&root).unwrap().bfree, 2);
}

#[test]
fn immutable_files_stay_as_they_are() {
    let memory = Memory::new(options());
    let (root, _) = memory.root().unwrap();
    make(&memory, &root, "a", NewKind::Regular(None));
    let node = open(&memory, &root, "a");
    let file = memory.open(&node, libc::O_RDWR).unwrap();
    file.set_inode_flags(&InodeFlags::Flags(0x10)).unwrap();
    for error in [
        file.write(Place::At(0), b"x", RIGHTS).unwrap_err(),
        memory.open(&node, libc::O_WRONLY).unwrap_err(),
        memory.unlink(&root, n("a")).unwrap_err(),
        memory.link(&node, &root, n("b"), RIGHTS).unwrap_err(),
        memory
            .set_xattr(&node, OsStr::new("user.a"), Some(b""), XattrSet::Any, RIGHTS)
            .unwrap_err(),
        memory
            .rename((&root, n("a")), (&root, n("b")), RenameFlags::default(), None, RIGHTS)
            .unwrap_err(),
    ] {
        assert!(error.is(libc::EPERM), "{error:?}");
    }
    file.set_inode_flags(&InodeFlags::Flags(0)).unwrap();
    memory.unlink(&root, n("a")).unwrap();
}

#[test]
fn a_wrapper_counts_and_fails() {
    let inner = Arc::new(Memory::new(options()));
    let wrap = Wrap::new(Arc::clone(&inner) as Arc<dyn Source>);
    let (root, _) = wrap.root().unwrap();
    make(&wrap, &root, "a", NewKind::Regular(None));
    wrap.fail(Call::Lookup, Error::Internal);
    wrap.fail(Call::Write, Error::Denied);
    assert_eq!(wrap.lookup(&root, n("a")).unwrap_err(), Error::Internal);
    let node = open(&wrap, &root, "a");
    let file = wrap.open(&node, libc::O_RDWR).unwrap();
    assert_eq!(file.write(Place::At(0), b"x", RIGHTS), Err(Error::Denied));
    assert_eq!(file.write(Place::At(0), b"x", RIGHTS), Ok(1));
    assert_eq!((wrap.count(Call::Lookup), wrap.count(Call::Write)), (2, 2));
    assert_eq!(wrap.count(Call::Rename), 0);
    assert_eq!(inner.getattr(&node).unwrap().size, 1, "nodes pass through");
    assert_eq!(file.lending(), Ok(crate::source::Lending::Nothing));
}
