//! Files that stay open to be read.

use std::fs::{self, Permissions};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::unprivileged::as_user;
use super::*;
use crate::source::{File, Lent};

/// Tells one open file from another.
fn address(file: &Arc<dyn File>) -> *const () {
    Arc::as_ptr(file).cast()
}

/// Waits until a further change of a file is one in its times.
fn settle() {
    sleep(Duration::from_millis(30));
}

/// How many descriptors of this process lead to a file of that name.
fn held_open(file: &str) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
    links.filter(|path| path.to_string_lossy().contains(file)).count()
}

#[test]
fn a_file_that_nobody_has_open_is_read_again_as_it_was_opened() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("read-again"), "x").unwrap();
    settle();
    let host = fixture.host();
    let (node, _) = walk(&host, "read-again");
    let open = |flags| host.open(&node, flags).unwrap();
    let first = open(libc::O_RDONLY);
    let second = open(libc::O_RDONLY);
    assert_ne!(address(&first), address(&second), "two at once have a position each");
    drop((first, second));
    assert_eq!(held_open("read-again"), 1, "who has it open counts for no third descriptor");
    let first = open(libc::O_RDONLY);
    let was = address(&first);
    drop(first);
    for flags in [libc::O_RDWR, libc::O_RDONLY | libc::O_NOATIME, libc::O_RDONLY | libc::O_SYNC] {
        let other = open(flags);
        assert_ne!(address(&other), was, "{flags:#x}");
        drop(open(libc::O_RDONLY));
        assert_eq!(held_open("read-again"), 2, "{flags:#x}");
        drop(other);
        assert_eq!(held_open("read-again"), 1, "{flags:#x}");
    }
    let again = open(libc::O_RDONLY);
    let was = address(&again);
    drop(again);
    assert_eq!(held_open("read-again"), 2);
    let again = open(libc::O_RDONLY);
    assert_eq!(address(&again), was);
    outside(|| fs::write(fixture.at("read-again"), "yz").unwrap());
    let mut bytes = [0; 4];
    assert_eq!((again.read(0, &mut bytes), &bytes), (Ok(2), b"yz\0\0"));
    drop(again);
    assert_eq!(held_open("read-again"), 2);
    drop(open(libc::O_RDONLY));
    assert_eq!(held_open("read-again"), 1, "it may change once more at the same time");
    settle();
    drop(open(libc::O_RDONLY));
    assert_eq!(held_open("read-again"), 2);
    outside(|| fs::remove_file(fixture.at("read-again")).unwrap());
    drop(node);
    assert_eq!(held_open("read-again"), 0, "it goes with its node");
}

#[test]
fn what_was_made_of_a_file_that_is_lent_lasts_as_long() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    fs::write(fixture.at("f"), "x").unwrap();
    settle();
    let host = fixture.host();
    let (node, _) = walk(&host, "f");
    let lend = |made: &Lent| {
        let file = host.open(&node, libc::O_RDONLY).unwrap();
        file.lend(&mut |_: BorrowedFd<'_>| Ok(Arc::clone(made))).unwrap()
    };
    let (one, two): (Lent, Lent) = (Arc::new(1), Arc::new(2));
    for made in [&one, &two] {
        assert_eq!(lend(made).downcast_ref(), Some(&1));
    }
    assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (2, 1));
    drop(node);
    assert_eq!(Arc::strong_count(&one), 1);
}

#[test]
fn what_a_user_may_read_no_more_is_not_read_again() {
    let Some(path) = child::path() else {
        if !is_root() {
            return;
        }
        let fixture = Fixture::plain();
        fixture.give_away();
        fs::write(fixture.at("locked-away"), "x").unwrap();
        chown(fixture.at("locked-away"), Some(1000), Some(1000)).unwrap();
        child::run(
            "readers::what_a_user_may_read_no_more_is_not_read_again",
            &fixture.path(),
            as_user,
        );
        return;
    };
    let host = Host::open(&path, &HostOptions::default()).unwrap();
    let (node, _) = walk(&host, "locked-away");
    let open = || host.open(&node, libc::O_RDONLY).map(drop);
    let chmod =
        |mode| fs::set_permissions(path.join("locked-away"), Permissions::from_mode(mode)).unwrap();
    for _ in 0..3 {
        settle();
        assert_eq!((open(), open()), (Ok(()), Ok(())));
        assert_eq!(held_open("locked-away"), 2);
        chmod(0);
        assert!(open().unwrap_err().is(libc::EACCES));
        chmod(0o400);
    }
}

#[test]
fn no_more_than_so_many_stay_open() {
    let fixture = Fixture::plain();
    let mut host = fixture.host();
    host.readers = Readers::of(3);
    (0..5).for_each(|number| fs::write(fixture.at(&format!("counted-{number}")), "x").unwrap());
    settle();
    let nodes: Vec<_> = (0..5)
        .map(|number| {
            let file = format!("counted-{number}");
            let (node, _) = walk(&host, &file);
            assert_eq!(host.open(&node, libc::O_RDONLY).unwrap().read(0, &mut [0]), Ok(1));
            node
        })
        .collect();
    assert_eq!(held_open("counted-"), 5 + 3);
    let mut nodes = nodes.into_iter();
    drop(nodes.next());
    assert_eq!(held_open("counted-"), 4 + 2);
    drop(host.open(&nodes.next_back().unwrap(), libc::O_RDONLY).unwrap());
    drop(host.open(&nodes.next_back().unwrap(), libc::O_RDONLY).unwrap());
    assert_eq!(held_open("counted-"), 2 + 2);
}
