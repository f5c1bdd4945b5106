//! Range locks of one owner: an open file description of their own.

use std::ffi::c_short;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Context;
use crate::error::{Error, Result};
use crate::source::{Lock, LockKind, Locks};
use crate::sync::lock;
use crate::sys::cred::SetId;

/// The last byte of the longest range.
const LAST: u64 = u64::MAX >> 1;

/// The range locks of one owner on one file.
///
/// An exclusive lock needs a descriptor that can write, which would keep the
/// file system from becoming read-only. So a file that callers have open for
/// reading only is opened so here too, and opened anew when the same owner
/// asks for an exclusive lock (through another descriptor of its own).
#[derive(Debug)]
pub(super) struct HostLocks {
    context: Arc<Context>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fd: OwnedFd,
    writable: bool,
    /// The shared locks held by a descriptor that cannot write: first and last
    /// bytes.
    shared: Vec<(u64, u64)>,
}

impl HostLocks {
    /// Opens the file behind a descriptor once more.
    pub fn open(context: Arc<Context>, file: BorrowedFd<'_>, writable: bool) -> Result<Self> {
        context.as_server(SetId::Unaffected)?;
        let reopen = |flags| context.procfs.reopen(file, flags);
        let opened = match reopen(flags(writable)) {
            // A file that the server may write but not read.
            Err(Errno::EACCES) if writable => reopen(OFlag::O_WRONLY),
            // One that may only be appended to.
            Err(Errno::EPERM) if writable => reopen(OFlag::O_RDWR | OFlag::O_APPEND),
            opened => opened,
        };
        let (fd, writable) = match opened {
            // One that has become immutable: shared locks are possible still.
            Err(Errno::EPERM) if writable => (reopen(flags(false))?, false),
            opened => (opened?, writable),
        };
        Ok(Self { context, state: Mutex::new(State { fd, writable, shared: Vec::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Opens the file so that exclusive locks are possible, and moves the
    /// locks there.
    ///
    /// Shared locks do not exclude each other, so they are held twice before
    /// the first copy goes: at no moment is the range free.
    fn make_writable(&self, state: &mut State) -> Result<()> {
        self.context.as_server(SetId::Unaffected)?;
        let fd = self.context.procfs.reopen(state.fd.as_fd(), flags(true))?;
        for &(start, end) in &state.shared {
            apply(fd.as_fd(), &Lock { kind: LockKind::Shared, start, end, pid: 0 })?;
        }
        state.fd = fd;
        state.writable = true;
        state.shared.clear();
        Ok(())
    }
}

impl Locks for HostLocks {
    fn set(&self, lock: &Lock) -> Result<()> {
        let mut state = self.state();
        if lock.kind == LockKind::Exclusive && !state.writable {
            self.make_writable(&mut state)?;
        }
        apply(state.fd.as_fd(), lock)?;
        if !state.writable {
            state.record(lock);
        }
        Ok(())
    }

    fn test(&self, lock: &Lock) -> Result<Option<Lock>> {
        let mut raw = encode(lock)?;
        fcntl(&self.state().fd, FcntlArg::F_OFD_GETLK(&mut raw))?;
        Ok(decode(&raw))
    }
}

impl State {
    /// Notes what a shared lock or an unlock has changed.
    fn record(&mut self, lock: &Lock) {
        let (start, end) = (lock.start, lock.end);
        let cut = |&(first, last): &(u64, u64)| {
            let before = (first, last.min(start.saturating_sub(1)));
            let after = (first.max(end.saturating_add(1)), last);
            [(start > first, before), (end < last, after)]
                .into_iter()
                .filter_map(|(some, range)| (some && range.0 <= range.1).then_some(range))
        };
        let mut ranges: Vec<_> = self.shared.iter().flat_map(cut).collect();
        if lock.kind == LockKind::Shared {
            ranges.push((start, end));
        }
        self.shared = ranges;
    }
}

const fn flags(writable: bool) -> OFlag {
    if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY }
}

fn apply(fd: BorrowedFd<'_>, lock: &Lock) -> Result<()> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&encode(lock)?)) {
        Ok(_) => Ok(()),
        // Either may come where a lock is in the way.
        Err(Errno::EACCES) => Err(Errno::EAGAIN.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns a lock as fcntl(2) takes it.
fn encode(lock: &Lock) -> Result<libc::flock> {
    let kind = match lock.kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::None => libc::F_UNLCK,
    };
    let length = match lock.end {
        // To the end of the file, however far that moves.
        LAST.. => 0,
        end => end.checked_sub(lock.start).ok_or(Error::Invalid)?.saturating_add(1),
    };
    Ok(libc::flock {
        l_type: short(kind)?,
        l_whence: short(libc::SEEK_SET)?,
        l_start: i64::try_from(lock.start).map_err(|_| Error::Invalid)?,
        l_len: i64::try_from(length).map_err(|_| Error::Invalid)?,
        l_pid: 0,
    })
}

/// Reads the lock that is in the way; `None` if nothing is.
fn decode(raw: &libc::flock) -> Option<Lock> {
    let kind = match libc::c_int::from(raw.l_type) {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        _ => return None,
    };
    let start = u64::try_from(raw.l_start).unwrap_or(0);
    let end = match u64::try_from(raw.l_len) {
        Ok(length @ 1..) => start.saturating_add(length).saturating_sub(1),
        Ok(0) | Err(_) => LAST,
    };
    // -1 is the holder of an open file description's lock.
    Some(Lock { kind, start, end, pid: u32::try_from(raw.l_pid).unwrap_or(0) })
}

fn short(value: libc::c_int) -> Result<c_short> {
    c_short::try_from(value).map_err(|_| Error::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(kind: LockKind, start: u64, end: u64) -> Lock {
        Lock { kind, start, end, pid: 0 }
    }

    #[test]
    fn shared_ranges_are_recorded() {
        let file = tempfile::tempfile().unwrap();
        let mut state = State { fd: file.into(), writable: false, shared: Vec::new() };
        let steps = [
            (LockKind::Shared, 10, 19, vec![(10, 19)]),
            (LockKind::None, 12, 14, vec![(10, 11), (15, 19)]),
            (LockKind::Shared, 0, 10, vec![(11, 11), (15, 19), (0, 10)]),
            (LockKind::None, 19, 19, vec![(11, 11), (15, 18), (0, 10)]),
            (LockKind::None, 0, 11, vec![(15, 18)]),
            (LockKind::None, 0, LAST, vec![]),
        ];
        for (kind, start, end, after) in steps {
            state.record(&lock(kind, start, end));
            assert_eq!(state.shared, after, "{kind:?} {start} {end}");
        }
    }

    #[test]
    fn ranges_survive_the_encoding() {
        for (start, end) in [(0, 0), (5, 9), (0, LAST), (7, LAST), (LAST - 1, LAST - 1)] {
            let raw = encode(&lock(LockKind::Exclusive, start, end)).unwrap();
            assert_eq!(decode(&raw), Some(lock(LockKind::Exclusive, start, end)));
        }
        assert!(encode(&lock(LockKind::Shared, 9, 5)).is_err());
        assert!(encode(&lock(LockKind::Shared, u64::MAX, u64::MAX)).is_err());
    }
}
