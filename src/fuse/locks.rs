//! Range locks, as fcntl(2) sets them.

use std::sync::Arc;

use fuser::{FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock, Request};

use super::adapter::Adapter;
use super::answer::{attempt, empty, hand_over, later};
use super::convert;
use crate::count::Kind;
use crate::fs::LockRequest;
use crate::source::{Lock, LockKind};

/// A lock as it comes: its kind, its first and its last byte, and a process.
type Range = (i32, u64, u64, u32);

impl Adapter {
    /// Tells what is in the way of a lock.
    pub(super) fn test_lock(
        &self,
        req: &Request,
        (handle, owner): (FileHandle, LockOwner),
        (kind, start, end, pid): Range,
        reply: ReplyLock,
    ) {
        let answer = attempt(Kind::Getlk, req, || {
            let lock = Lock { kind: convert::lock_kind(kind)?, start, end, pid };
            let caller = convert::caller(req);
            self.fs.getlk(&LockRequest { caller, handle: handle.0, owner: owner.0, lock })
        });
        match answer {
            Ok(Some(lock)) => {
                reply.locked(lock.start, lock.end, convert::lock_type(lock.kind), lock.pid);
            }
            Ok(None) => reply.locked(start, end, convert::lock_type(LockKind::None), 0),
            Err(errno) => reply.error(errno),
        }
    }

    /// Sets or removes a lock, and answers now or later.
    ///
    /// Whoever has a lock sees what was there when it was given, also what the host has
    /// changed a moment before and we have not heard of yet. To have the kernel ask for the
    /// times before it reads is not enough: it does not believe the answer if it is told of
    /// the same change meanwhile, and reads what it has.
    pub(super) fn set_lock(
        &self,
        req: &Request,
        ino: INodeNo,
        (handle, owner): (FileHandle, LockOwner),
        ((kind, start, end, pid), wait): (Range, bool),
        reply: ReplyEmpty,
    ) {
        let kind = match attempt(Kind::Setlk, req, || convert::lock_kind(kind)) {
            Ok(kind) => kind,
            Err(errno) => return reply.error(errno),
        };
        let lock = LockRequest {
            caller: convert::caller(req),
            handle: handle.0,
            owner: owner.0,
            lock: Lock { kind, start, end, pid },
        };
        let (fs, notifier) = (Arc::clone(&self.fs), self.notifier.clone());
        let asks = kind != LockKind::None && !self.options.keep_pages;
        let done = later(Kind::Setlk, req.pid(), move |answer| {
            if answer.is_err() || !asks {
                empty(reply, answer);
            } else if fs.may_have_old_pages(handle.0) {
                notifier.forget_pages_first(ino.0, move || empty(reply, answer));
            } else {
                notifier.forget_attributes(ino.0);
                empty(reply, answer);
            }
        });
        hand_over(Kind::Setlk, req, || self.fs.setlk(lock, wait, done));
    }
}
