//! Files that go away, numbers that come back, descriptors that run out.

use super::*;
use crate::source::wrap::Call;
use crate::source::{LockKind, RenameFlags};
use std::ops::ControlFlow::Continue;

/// A way to take the last name of `a` away.
type Removal = fn(&World);

fn unlink(world: &World) {
    world.fs.unlink(&caller(0, 0), world.root(), name("a")).unwrap();
}

fn rename_over(world: &World) {
    let (by, root) = (caller(1, 1), world.root());
    world.fs.mknod(&by, root, name("b"), libc::S_IFREG, 0, 0).unwrap();
    let (from, to) = ((root, name("b")), (root, name("a")));
    world.fs.rename(&by, from, to, RenameFlags::default()).unwrap();
}

/// Lets the next opens of files meet a lease.
fn lease(source: &Wrap, times: usize) {
    (0..times).for_each(|_| source.fail(Call::Open, os(libc::EAGAIN)));
}

#[test]
fn a_number_does_not_come_back_while_the_kernel_knows_the_file() {
    for handles in [true, false] {
        let removals: [(&str, Removal); 2] = [("unlink", unlink), ("rename", rename_over)];
        for (what, remove) in removals {
            let world = World::with(IDENTITY, |source| source.handles = handles);
            let file = world.file("a", (1, 1), 0o644);
            remove(&world);
            let case = format!("{what} {handles}");
            let next = world.file("next", (1, 1), 0o644);
            assert_ne!(next.node, file.node, "{case}");
            let attr = world.fs.getattr(&caller(0, 0), file.node, None).unwrap();
            assert_eq!((attr.ino, attr.nlink), (file.node, 0), "{case}");
            world.fs.forget(file.node, 1);
            // Nothing holds it any more: this is the number again.
            world.disk_file("third", (1, 1), 0o644);
            assert_eq!(world.on_disk("third").ino, file.node, "{case}");
        }
    }
}

#[test]
fn a_removed_directory_is_held_too() {
    let world = World::new(IDENTITY);
    let dir = world.dir("d", (1, 1), 0o755);
    world.fs.rmdir(&caller(0, 0), world.root(), name("d")).unwrap();
    assert_ne!(world.file("next", (1, 1), 0o644).node, dir.node);
    assert!(world.fs.getattr(&caller(0, 0), dir.node, None).is_ok());
    let made = world.fs.mkdir(&caller(1, 1), dir.node, name("x"), 0o755, 0);
    assert!(made.unwrap_err().is(libc::ENOENT));
}

#[test]
fn a_failed_removal_holds_nothing() {
    let world = World::new(IDENTITY);
    let dir = world.dir("d", (1, 1), 0o755);
    world.fs.mknod(&caller(1, 1), dir.node, name("x"), libc::S_IFREG, 0, 0).unwrap();
    assert!(
        world.fs.rmdir(&caller(0, 0), world.root(), name("d")).unwrap_err().is(libc::ENOTEMPTY)
    );
    while world.fs.tree.shrink() > 0 {}
    assert_eq!(world.fs.tree.counts().1, 1);
}

#[test]
fn another_link_is_reached_without_handles() {
    for handles in [true, false] {
        let world = World::with(IDENTITY, |source| source.handles = handles);
        let file = world.file("a", (1, 1), 0o644);
        let root = world.disk.root(&caller(0, 0)).unwrap().node;
        let on_disk = world.disk.lookup(&caller(0, 0), root, name("a")).unwrap();
        world.disk.link(&caller(1, 1), on_disk.node, root, name("b")).unwrap();
        world.fs.unlink(&caller(0, 0), world.root(), name("a")).unwrap();
        while world.fs.tree.shrink() > 0 {}
        assert_eq!(world.fs.getattr(&caller(0, 0), file.node, None).unwrap().nlink, 1, "{handles}");
    }
}

#[test]
fn an_open_file_outlives_its_names() {
    // Gone on the host, where nobody tells us; opened, or made and opened.
    for made in [false, true] {
        let world = World::with(IDENTITY, |source| source.handles = false);
        let by = caller(1, 1);
        let (file, handle) = if made {
            world.fs.create(&by, world.root(), name("a"), 0o644, 0, libc::O_RDWR).unwrap()
        } else {
            let file = world.file("a", (1, 1), 0o644);
            (file, world.open(file.node, libc::O_RDWR).unwrap())
        };
        world
            .disk
            .unlink(&caller(0, 0), world.disk.root(&caller(0, 0)).unwrap().node, name("a"))
            .unwrap();
        while world.fs.tree.shrink() > 0 {}
        assert_eq!(world.fs.write(&by, handle, Place::At(0), b"data", true).unwrap(), 4);
        for handle in [None, Some(handle)] {
            let attr = world.fs.getattr(&caller(0, 0), file.node, handle).unwrap();
            assert_eq!((attr.ino, attr.size, attr.nlink), (file.node, 4, 0), "{made}");
        }
        if !made {
            let size = SetAttr { size: Some(2), ..SetAttr::default() };
            for handle in [None, Some(handle)] {
                let attr = world.fs.setattr(&by, file.node, handle, &size).unwrap();
                assert_eq!(attr.size, 2);
            }
        }
        world.fs.release(handle, None);
        assert_eq!(world.fs.getattr(&caller(0, 0), file.node, None).unwrap_err(), Error::Stale);
    }
}

/// The kernel may know removed files for as long as it likes, by names that
/// the host has changed: they must not take all descriptors.
#[test]
fn removed_files_hold_few_descriptors_and_open_ones_still_work() {
    let mut world = World::with(IDENTITY, |source| source.handles = false);
    world.fs.config.descriptors = 16;
    let (by, root) = (caller(1, 1), world.root());
    let files: Vec<_> = (0..6)
        .map(|i| {
            let name = format!("f{i}");
            let made = world.fs.create(&by, root, name.as_ref(), 0o644, 0, libc::O_RDWR).unwrap();
            world.fs.unlink(&by, root, name.as_ref()).unwrap();
            made
        })
        .collect();
    while world.fs.tree.shrink() > 0 {}
    assert_eq!(world.fs.tree.pins(), 2);
    for (file, handle) in &files {
        for handle in [None, Some(*handle)] {
            let size = SetAttr { size: Some(2), ..SetAttr::default() };
            let attr = world.fs.setattr(&by, file.node, handle, &size).unwrap();
            assert_eq!((attr.ino, attr.size, attr.nlink), (file.node, 2, 0));
        }
        assert!(
            world
                .fs
                .getxattr(&caller(0, 0), file.node, name("user.a"))
                .unwrap_err()
                .is(libc::ENODATA)
        );
    }
    files.iter().for_each(|(_, handle)| drop(world.fs.release(*handle, None)));
    assert_eq!(world.fs.tree.counts().1, 3);
}

#[test]
fn a_file_replaced_on_the_host_is_stale_and_never_the_other() {
    let world = World::with(IDENTITY, |source| source.handles = false);
    let file = world.file("a", (1, 1), 0o644);
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    world.disk.unlink(&caller(0, 0), root, name("a")).unwrap();
    world.disk_file("a", (2, 2), 0o600);
    let (done, result) = reply();
    world.fs.open(&caller(1, 1), file.node, libc::O_RDWR, done);
    assert_eq!(result.recv().unwrap().unwrap_err(), Error::Stale);
    assert_eq!(world.fs.getattr(&caller(0, 0), file.node, None).unwrap_err(), Error::Stale);
}

#[test]
fn descriptors_that_nothing_needs_are_given_up_for_a_caller() {
    let world = World::new(IDENTITY);
    let files: Vec<_> = (0..6).map(|i| world.file(&format!("f{i}"), (1, 1), 0o644)).collect();
    while world.disk.tree.shrink() > 0 {}
    for file in &files {
        world.fs.getattr(&caller(0, 0), file.node, None).unwrap();
    }
    world.memory.limit(world.memory.opened());
    let handle = world.open(files[0].node, libc::O_RDWR).unwrap();
    world.fs.create(&caller(1, 1), world.root(), name("new"), 0o644, 0, 0).unwrap();
    world.memory.limit(0);
    assert!(world.open(files[0].node, libc::O_RDONLY).unwrap_err().is(libc::EMFILE));
    // Who has a file open is not concerned, nor is a removal.
    assert_eq!(world.fs.write(&caller(1, 1), handle, Place::At(0), b"x", true).unwrap(), 1);
    world.fs.unlink(&caller(0, 0), world.root(), name("f1")).unwrap();
}

/// Whatever is open or locked is held by the one who asked for it, so that
/// only that one is refused more; what was waited for too.
#[test]
fn who_holds_too_much_is_refused_alone() {
    let (world, source) = World::wrapped(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    let (greedy, other, root) = (caller(7, 7), caller(8, 8), world.root());
    let open = |by: &Caller| {
        let (done, result) = reply();
        world.fs.open(by, file.node, libc::O_RDWR, done);
        result.recv_timeout(Duration::from_secs(10)).unwrap()
    };
    let lock = |by: Caller, handle, kind| {
        let (done, result) = reply();
        let lock = Lock { kind, start: by.pid.into(), end: by.pid.into(), pid: 0 };
        world.fs.setlk(LockRequest { caller: by, handle, owner: by.pid.into(), lock }, false, done);
        result.recv().unwrap()
    };
    let held = |by: &Caller| world.fs.budget.held(by).0;
    lease(&source, 3);
    let waited = open(&greedy).unwrap();
    let (_, made) = world.fs.create(&greedy, root, name("b"), 0o644, 0, libc::O_RDWR).unwrap();
    let dir = world.fs.opendir(&greedy, root).unwrap();
    assert_eq!(held(&greedy), 6);
    let owner = |pid: &u32| Caller { pid: *pid, ..greedy };
    let owners = (10..).take_while(|pid| lock(owner(pid), made, LockKind::Exclusive).is_ok());
    assert_eq!((owners.count(), held(&greedy)), (650, 656));
    assert!(open(&greedy).unwrap_err().is(libc::ENFILE));
    let full = world.fs.create(&greedy, root, name("c"), 0o644, 0, libc::O_RDWR);
    assert!(full.unwrap_err().is(libc::ENFILE));
    assert!(world.look("c").unwrap_err().is(libc::ENOENT));
    let mine = open(&other).unwrap();
    lock(other, mine, LockKind::Shared).unwrap();
    let listing = world.fs.opendir(&other, root).unwrap();
    assert_eq!(held(&other), 5);
    // A lock belongs to who locks, not to who has opened the file.
    lock(Caller { pid: 9, ..other }, made, LockKind::Shared).unwrap();
    assert_eq!((held(&greedy), held(&other)), (656, 6));
    [waited, made, mine].into_iter().for_each(|handle| drop(world.fs.release(handle, None)));
    [dir, listing].into_iter().for_each(|handle| world.fs.releasedir(handle));
    assert_eq!(world.fs.budget.held(&other), (0, 0));
}

#[test]
fn a_lease_is_waited_for_without_a_worker() {
    let (world, source) = World::wrapped(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    lease(&source, 5);
    let (done, result) = reply();
    world.fs.open(&caller(1, 1), file.node, libc::O_RDWR, done);
    let handle = result.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    assert_eq!(world.fs.write(&caller(1, 1), handle, Place::At(0), b"x", true).unwrap(), 1);

    lease(&source, 10_000);
    let refused = world.open(file.node, libc::O_RDWR | libc::O_NONBLOCK);
    assert!(refused.unwrap_err().is(libc::EAGAIN));
    let (done, result) = reply();
    world.fs.open(&caller(1, 1), file.node, libc::O_RDWR, done);
    assert!(result.recv_timeout(Duration::from_millis(20)).is_err());
    assert_eq!(world.fs.budget.held(&caller(1, 1)).0, 4, "who waits holds descriptors");
    lock(&world.processes.0).interrupted.insert(1);
    assert!(result.recv_timeout(Duration::from_secs(10)).unwrap().unwrap_err().is(libc::EINTR));
    world.fs.release(handle, None);
    // The waiting thread lets go a moment after its answer.
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        world.fs.budget.held(&caller(1, 1)).0 == 0
    });
    assert!(gone);
}

#[test]
fn a_wait_ends_with_the_file_system() {
    let (world, source) = World::wrapped(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    lease(&source, 10_000);
    let (done, result) = reply();
    world.fs.open(&caller(1, 1), file.node, libc::O_RDWR, done);
    drop(world);
    assert!(result.recv().unwrap().unwrap_err().is(libc::EINTR));
}

#[test]
fn a_name_that_cannot_be_looked_at_hides_no_other() {
    let (world, source) = World::wrapped(IDENTITY);
    for name in ["a", "b", "c"] {
        world.disk_file(name, (1, 1), 0o644);
    }
    let handle = world.fs.opendir(&caller(0, 0), world.root()).unwrap();
    source.fail(Call::Lookup, os(libc::ENOTCONN));
    let (mut names, mut unread) = (Vec::new(), Vec::new());
    let mut each = |line: Listed<'_>, entry: &Entry| {
        let name = line.name.to_str().unwrap().to_owned();
        if entry.node == crate::tree::ANCHOR {
            unread.push(name.clone());
        }
        names.push(name);
        Continue(())
    };
    world.fs.readdirplus(&caller(0, 0), handle, 0, &mut each).unwrap();
    assert_eq!(
        (names, unread),
        ([".", "..", "a", "b", "c"].map(str::to_owned).to_vec(), vec!["a".to_owned()])
    );
    source.fail(Call::Lookup, os(libc::ENOTCONN));
    assert!(world.look("a").unwrap_err().is(libc::ENOTCONN));
    source.fail(Call::Lookup, os(libc::ENOTCONN));
    let nobody = Caller { uid: None, ..caller(0, 0) };
    let made = world.fs.mkdir(&nobody, world.root(), name("a"), 0, 0);
    assert!(made.unwrap_err().is(libc::ENOTCONN));
}

#[test]
fn a_server_that_may_not_chown_does_not_fail_writes() {
    let (world, source) = World::wrapped(IDENTITY);
    let file = world.file("a", (1, 1), 0o6755);
    let by = caller(1, 1);
    source.fail(Call::Setattr, Error::NotOurs);
    let attr = world.fs.setattr(&by, file.node, None, &SetAttr::default()).unwrap();
    assert_eq!(attr.mode.bits(), 0o6755);
    source.fail(Call::Setattr, Error::NotOurs);
    let chown = SetAttr { uid: Id::new(1), ..SetAttr::default() };
    let refused = world.fs.setattr(&by, file.node, None, &chown);
    assert!(refused.unwrap_err().is(libc::EPERM));
}

/// Without handles what is below a directory is reached by names, and between
/// the move and our hearing of it neither name is right.
#[test]
fn what_is_below_a_directory_is_there_while_it_moves() {
    for exchange in [false, true] {
        let mut options = MemoryOptions::new(Ids::new(0, 0).unwrap());
        options.handles = false;
        let memory = Arc::new(Memory::new(options));
        let source = Arc::new(Wrap::new(memory.clone()));
        let world = World::over(IDENTITY, memory, source.clone());
        let (by, root) = (caller(0, 0), world.root());
        let inside = |dir: &str| {
            let dir = world.dir(dir, (1, 1), 0o755).node;
            world.fs.mknod(&by, dir, name("x"), libc::S_IFREG, 0, 0).unwrap().node
        };
        let below = [Some(inside("d")), exchange.then(|| inside("e"))];
        let flags = RenameFlags { exchange, ..RenameFlags::default() };
        let (arrived, go) = source.pause(Call::Rename);
        std::thread::scope(|scope| {
            // Gone with a failure here too, so that nobody waits for it.
            let go = go;
            scope.spawn(|| world.fs.rename(&by, (root, name("d")), (root, name("e")), flags));
            arrived.recv_timeout(Duration::from_secs(10)).unwrap();
            let top = world.disk.root(&caller(0, 0)).unwrap().node;
            world.disk.rename(&by, (top, name("d")), (top, name("e")), flags).unwrap();
            while world.fs.tree.shrink() > 0 {}
            for node in below.into_iter().flatten() {
                assert_eq!(
                    world.fs.getattr(&caller(0, 0), node, None).map(|attr| attr.ino),
                    Ok(node)
                );
            }
            go.send(()).unwrap();
        });
        // The directories are let go again.
        while world.fs.tree.shrink() > 0 {}
        assert_eq!(world.fs.tree.counts().1, 1, "{exchange}");
    }
}

#[test]
fn a_failed_create_leaves_nothing() {
    let (world, source) = World::wrapped(MAP);
    let before = world.fs.tree.counts();
    source.fail(Call::Create, os(libc::EDQUOT));
    let by = caller(100_000, 200_000);
    let made = world.fs.create(&by, world.root(), name("a"), 0o644, 0, libc::O_RDWR);
    assert!(made.unwrap_err().is(libc::EDQUOT));
    assert_eq!(world.fs.tree.counts(), before);
    assert!(world.look("a").unwrap_err().is(libc::ENOENT));
}
