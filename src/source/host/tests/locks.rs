//! Range locks, against each other and against the host's.

use std::fs;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

use super::*;
use crate::source::{InodeFlags, Lock, LockKind, Locks};

const END: u64 = u64::MAX >> 1;

fn lock(kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { kind, start, end, pid: 0 }
}

/// Opens the file and a holder of locks on it.
fn holder(host: &Host, flags: i32) -> Box<dyn Locks> {
    host.open(&walk(host, "f").0, flags).unwrap().locks().unwrap()
}

#[test]
fn owners_exclude_each_other() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("f"), "").unwrap();
    let host = fixture.host();
    let (a, b) = (holder(&host, libc::O_RDWR), holder(&host, libc::O_RDWR));
    a.set(&lock(LockKind::Exclusive, 10, 19)).unwrap();
    b.set(&lock(LockKind::Exclusive, 20, END)).unwrap();
    assert!(b.set(&lock(LockKind::Shared, 19, 19)).unwrap_err().is(libc::EAGAIN));
    let held = b.test(&lock(LockKind::Shared, 0, 15)).unwrap().unwrap();
    assert_eq!((held.kind, held.start, held.end, held.pid), (LockKind::Exclusive, 10, 19, 0));
    let held = a.test(&lock(LockKind::Shared, 30, 30)).unwrap().unwrap();
    assert_eq!((held.start, held.end), (20, END));
    assert_eq!(b.test(&lock(LockKind::Shared, 0, 5)), Ok(None));
    a.set(&lock(LockKind::None, 15, 19)).unwrap();
    b.set(&lock(LockKind::Shared, 15, 19)).unwrap();
    drop(a);
    b.set(&lock(LockKind::Exclusive, 0, END)).unwrap();
}

#[test]
fn a_reader_that_comes_to_write_keeps_its_locks() {
    let fixture = Fixture::plain();
    let path = fixture.at("f");
    fs::write(&path, "").unwrap();
    let host = fixture.host();
    let (a, b) = (holder(&host, libc::O_RDONLY), holder(&host, libc::O_RDONLY));
    a.set(&lock(LockKind::Shared, 0, 99)).unwrap();
    a.set(&lock(LockKind::None, 40, 49)).unwrap();
    b.set(&lock(LockKind::Shared, 50, 50)).unwrap();
    assert!(a.set(&lock(LockKind::Exclusive, 50, 50)).unwrap_err().is(libc::EAGAIN));
    a.set(&lock(LockKind::Exclusive, 10, 10)).unwrap();
    let host_file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let blocked = |start: i64| {
        let mut raw = libc::flock {
            l_type: libc::F_WRLCK.try_into().unwrap(),
            l_whence: 0,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(host_file.as_fd(), FcntlArg::F_OFD_GETLK(&mut raw)).unwrap();
        i32::from(raw.l_type) != libc::F_UNLCK
    };
    assert!(blocked(0) && blocked(10) && blocked(39) && blocked(50) && blocked(99));
    assert!(!blocked(40) && !blocked(49) && !blocked(100));
}

#[test]
fn a_file_that_has_become_immutable_can_be_locked_by_readers() {
    const IMMUTABLE: u32 = 0x10;
    let Some(fixture) = Fixture::ext4() else { return };
    fs::write(fixture.at("f"), "").unwrap();
    let host = fixture.host();
    let file = host.open(&walk(&host, "f").0, libc::O_RDWR).unwrap();
    file.set_inode_flags(&InodeFlags::Flags(IMMUTABLE)).unwrap();
    let locks = file.locks().unwrap();
    assert_eq!(locks.set(&lock(LockKind::Shared, 0, 9)), Ok(()));
    assert_eq!(locks.test(&lock(LockKind::Exclusive, 0, 9)), Ok(None));
    assert!(locks.set(&lock(LockKind::Exclusive, 20, 29)).unwrap_err().is(libc::EPERM));
    file.set_inode_flags(&InodeFlags::Flags(0)).unwrap();
    assert_eq!(locks.set(&lock(LockKind::Exclusive, 20, 29)), Ok(()));
}
