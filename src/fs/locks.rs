//! Range locks, as fcntl(2) sets them through the mount.
//!
//! The kernel sends each to us and keeps none itself, so that locks through
//! two mounts of one source, and on the source itself, exclude each other.

use std::sync::Arc;

use super::deadlocks::Wanted;
use super::opens::Opens;
use super::{Done, Fs, LockRequest};
use crate::error::{Errno, Error, Result};
use crate::source::{Lock, LockKind};

impl Fs {
    /// Returns the lock that is in the way, if any.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn getlk(&self, request: &LockRequest) -> Result<Option<Lock>> {
        let open = self.opens.get(request.handle)?;
        let owner = self.opens.owner(open.number, request.owner).unwrap_or_default();
        let found = self.tree.with_room(|| owner.test(&open, &request.lock))?;
        Ok(found.map(|found| Lock { pid: self.holder(open.number, request, &found), ..found }))
    }

    /// Returns the process that holds a lock which was found in the way.
    ///
    /// The host names those of its own processes; ours it takes for locks of
    /// open files, which are nobody's.
    fn holder(&self, number: u64, request: &LockRequest, found: &Lock) -> u32 {
        if found.pid != 0 {
            return found.pid;
        }
        let byte = found.start.max(request.lock.start);
        let others = self.opens.other_owners(number, request.owner);
        others.iter().find_map(|(_, owner)| owner.holder(found.kind, byte)).unwrap_or_default()
    }

    /// Sets or removes a lock; with `wait`, `done` is called when it is had,
    /// which may be on another thread and later.
    ///
    /// # Errors
    /// `done` is given `EAGAIN` if another owner's lock is in the way and
    /// `wait` is not set; `EDEADLK` if that owner waits for this one; `EINTR` if
    /// the wait was interrupted; as fcntl(2).
    pub fn setlk(&self, mut request: LockRequest, wait: bool, done: Done<()>) {
        let number = match self.opens.get(request.handle) {
            Ok(open) => open.number,
            Err(error) => return done(Err(error)),
        };
        request.caller = self.payer(&request.caller);
        match self.tree.with_room(|| set(&self.opens, &request)) {
            Err(error) if wait && error.is(libc::EAGAIN) => {
                self.wait_for_lock(number, request, done);
            }
            result => {
                // A shared lock may have taken the place of an exclusive one.
                if result.is_ok() && request.lock.kind != LockKind::Exclusive {
                    self.waits.kick(number);
                }
                done(result);
            }
        }
    }

    fn wait_for_lock(&self, number: u64, request: LockRequest, done: Done<()>) {
        let wanted = Wanted { number, owner: request.owner, lock: request.lock };
        let Some(ticket) = self.deadlocks.enter(&self.opens, wanted) else {
            return done(Err(Error::Os(Errno(libc::EDEADLK))));
        };
        let deadlocks = Arc::clone(&self.deadlocks);
        let done: Done<()> = Box::new(move |result| {
            deadlocks.leave(ticket);
            done(result);
        });
        let (opens, pid) = (Arc::clone(&self.opens), request.caller.pid);
        self.waits.wait(number, pid, move || patiently(set(&opens, &request)), done);
    }
}

/// Goes on waiting where there is no descriptor for a try.
fn patiently(tried: Result<()>) -> Result<()> {
    tried.map_err(|error| {
        let full = error.is(libc::EMFILE) || error.is(libc::ENFILE);
        if full { Error::Os(Errno(libc::EAGAIN)) } else { error }
    })
}

/// Sets or removes a lock without waiting.
fn set(opens: &Opens, request: &LockRequest) -> Result<()> {
    let open = opens.get(request.handle)?;
    match request.lock.kind {
        LockKind::None => match opens.owner(open.number, request.owner) {
            Some(owner) => owner.unset(&request.lock),
            None => Ok(()),
        },
        LockKind::Shared | LockKind::Exclusive => {
            let owner = opens.owner_through(open.number, request.owner, request.handle);
            let share = || opens.share_of_locks(&request.caller);
            owner.set(&open, &request.lock, share, || opens.widest(open.number))
        }
    }
}
