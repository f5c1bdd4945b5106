//! The owners of range locks, and what each holds of one file.
//!
//! An owner is what the kernel numbers so: a process for fcntl(2) locks, an
//! open file description for OFD locks. Each has an open file description of
//! its own on the host, and holds OFD locks on that, so that locks through the
//! mount and on the source exclude each other.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::budget::Share;
use super::open::{Access, Open};
use crate::error::{Errno, Error, Result};
use crate::source::{Lock, LockKind, Locks};
use crate::sync::lock;

/// The lock owners of one inode.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: HashMap<u64, Known>,
}

/// An owner, and the handles through which it has set locks.
#[derive(Debug)]
struct Known {
    owner: Arc<Owner>,
    through: Vec<u64>,
}

impl Owners {
    /// Reports whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Returns an owner.
    pub(super) fn get(&self, owner: u64) -> Option<Arc<Owner>> {
        self.known.get(&owner).map(|known| Arc::clone(&known.owner))
    }

    /// Returns all owners but this one.
    pub(super) fn others(&self, owner: u64) -> Vec<(u64, Arc<Owner>)> {
        let others = self.known.iter().filter(|&(&other, _)| other != owner);
        others.map(|(&other, known)| (other, Arc::clone(&known.owner))).collect()
    }

    /// Returns an owner, made if need be, which acts through this handle.
    pub(super) fn through(&mut self, owner: u64, handle: u64) -> Arc<Owner> {
        let known = self
            .known
            .entry(owner)
            .or_insert_with(|| Known { owner: Arc::default(), through: Vec::new() });
        if !known.through.contains(&handle) {
            known.through.push(handle);
        }
        Arc::clone(&known.owner)
    }

    /// Takes an owner out, which is to be ended.
    pub(super) fn remove(&mut self, owner: u64) -> Option<Arc<Owner>> {
        self.known.remove(&owner).map(|known| known.owner)
    }

    /// Takes the owners out that acted through this handle and no other: they are to be
    /// ended.
    ///
    /// That ends OFD locks, of which the kernel says nothing when their
    /// description is closed. A process has sent a flush before that. If it does
    /// not for this handle, `quiet`, its locks go now: an owner that acted
    /// through others as well is a process.
    pub(super) fn release(&mut self, handle: u64, quiet: bool) -> Vec<Arc<Owner>> {
        let mut gone = Vec::new();
        self.known.retain(|_, known| {
            let through = known.through.len();
            known.through.retain(|through| *through != handle);
            let ends = known.through.is_empty() || quiet && known.through.len() < through;
            if ends {
                gone.push(Arc::clone(&known.owner));
            }
            !ends
        });
        gone
    }
}

/// The locks of one owner on one file; all go when it ends, or the last reference does.
#[derive(Default)]
pub(super) struct Owner {
    held: Mutex<Option<Held>>,
    /// What is held, for those who may not wait while a lock is being set: that may take
    /// a file system long.
    shown: Mutex<Vec<Lock>>,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").finish_non_exhaustive()
    }
}

struct Held {
    locks: Box<dyn Locks>,
    access: Access,
    ranges: Ranges,
    /// Its descriptor.
    _share: Share,
}

impl Owner {
    /// Sets a lock through an open file, without waiting.
    ///
    /// `widest` finds an open file of the same inode that can be read and
    /// written: one description holds all locks of an owner, and takes shared
    /// ones only if it can be read, exclusive ones only if it can be written.
    /// An owner without locks has none: many may wait.
    ///
    /// # Errors
    /// `EAGAIN` if another owner's lock is in the way; `ENOLCK` if no open
    /// file allows all that the owner holds; as fcntl(2).
    pub(super) fn set(
        &self,
        open: &Open,
        wanted: &Lock,
        share: impl FnOnce() -> Result<Share>,
        widest: impl FnOnce() -> Option<Arc<Open>>,
    ) -> Result<()> {
        let mut held = lock(&self.held);
        let done = Self::set_as(&mut held, open, wanted, share, widest);
        self.show(held.as_ref());
        done
    }

    fn set_as(
        held: &mut Option<Held>,
        open: &Open,
        wanted: &Lock,
        share: impl FnOnce() -> Result<Share>,
        widest: impl FnOnce() -> Option<Arc<Open>>,
    ) -> Result<()> {
        let needs = needs(wanted.kind);
        let now = match held.take() {
            Some(now) if now.access.allows(needs) => now,
            Some(now) if !now.ranges.is_empty() => {
                let wide = if open.access.read && open.access.write { None } else { widest() };
                match now.widen(wide.as_deref().unwrap_or(open), share) {
                    Ok(now) => now,
                    Err((now, error)) => {
                        *held = now;
                        return Err(error);
                    }
                }
            }
            None | Some(_) => Held::new(open, share()?)?,
        };
        let now = held.insert(now);
        let done = now.locks.set(wanted);
        if done.is_ok() {
            now.ranges.set(wanted);
        }
        if now.ranges.is_empty() {
            *held = None;
        }
        done
    }

    /// Removes a lock.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn unset(&self, wanted: &Lock) -> Result<()> {
        let mut held = lock(&self.held);
        if let Some(held) = held.as_mut() {
            held.locks.set(wanted)?;
            held.ranges.set(wanted);
        }
        self.show(held.as_ref());
        Ok(())
    }

    /// Drops all locks, also while somebody else looks at them.
    pub(super) fn end(&self) {
        let held = lock(&self.held).take();
        self.show(None);
        drop(held);
    }

    fn show(&self, held: Option<&Held>) {
        *lock(&self.shown) = held.map(|held| held.ranges.0.clone()).unwrap_or_default();
    }

    /// Returns the lock of another owner that is in the way.
    ///
    /// # Errors
    /// As fcntl(2), open(2).
    pub(super) fn test(&self, open: &Open, wanted: &Lock) -> Result<Option<Lock>> {
        match lock(&self.held).as_ref() {
            Some(held) => held.locks.test(wanted),
            None => open.file.locks()?.test(wanted),
        }
    }

    /// Reports whether it holds what is in the way of another owner's lock.
    pub(super) fn is_in_the_way(&self, wanted: &Lock) -> bool {
        let shared = |range: &Lock| [range.kind, wanted.kind] == [LockKind::Shared; 2];
        let meets = |range: &Lock| range.start <= wanted.end && wanted.start <= range.end;
        lock(&self.shown).iter().any(|range| meets(range) && !shared(range))
    }

    /// Returns the process that has set the lock of this kind on a byte, if the
    /// owner holds one.
    pub(super) fn holder(&self, kind: LockKind, byte: u64) -> Option<u32> {
        let holds = |range: &&Lock| range.kind == kind && range.start <= byte && byte <= range.end;
        lock(&self.shown).iter().find(holds).map(|range| range.pid)
    }
}

impl Held {
    fn new(open: &Open, share: Share) -> Result<Self> {
        let locks = open.file.locks()?;
        Ok(Self { locks, access: open.access, ranges: Ranges::default(), _share: share })
    }

    /// Moves all locks to a description that can do more.
    ///
    /// Shared locks are had twice for a moment and so never lost. Exclusive
    /// ones are let go first, and another owner may come in between: then the
    /// owner is told `ENOLCK`.
    fn widen(
        self,
        wide: &Open,
        share: impl FnOnce() -> Result<Share>,
    ) -> std::result::Result<Self, (Option<Self>, Error)> {
        const NO_LOCKS: Error = Error::Os(Errno(libc::ENOLCK));
        if !(wide.access.read && wide.access.write) {
            return Err((Some(self), NO_LOCKS));
        }
        let mut new = match share().and_then(|share| Self::new(wide, share)) {
            Ok(new) => new,
            Err(error) => return Err((Some(self), error)),
        };
        let ranges = self.ranges.clone();
        let old = self.access.read.then_some(self);
        for range in ranges.0 {
            if let Err(error) = new.locks.set(&range) {
                return Err(old.map_or((Some(new), NO_LOCKS), |old| (Some(old), error)));
            }
            new.ranges.set(&range);
        }
        Ok(new)
    }
}

/// The access that a description needs to hold a lock.
const fn needs(kind: LockKind) -> Access {
    match kind {
        LockKind::Shared => Access { read: true, write: false },
        LockKind::Exclusive => Access { read: false, write: true },
        LockKind::None => Access { read: false, write: false },
    }
}

/// Ranges that are locked, none over another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<Lock>);

impl Ranges {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records a lock, or that there is none: it takes the place of whatever
    /// was there.
    fn set(&mut self, new: &Lock) {
        let mut ranges = Vec::with_capacity(self.0.len().saturating_add(2));
        let mut new = *new;
        for old in self.0.drain(..) {
            let apart = old.end < new.start || new.end < old.start;
            let beside =
                old.end.saturating_add(1) >= new.start && new.end.saturating_add(1) >= old.start;
            if old.kind == new.kind && beside {
                new.start = new.start.min(old.start);
                new.end = new.end.max(old.end);
            } else if apart {
                ranges.push(old);
            } else {
                if old.start < new.start {
                    ranges.push(Lock { end: new.start.saturating_sub(1), ..old });
                }
                if old.end > new.end {
                    ranges.push(Lock { start: new.end.saturating_add(1), ..old });
                }
            }
        }
        if new.kind != LockKind::None {
            ranges.push(new);
        }
        self.0 = ranges;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The ends of locks: small, so that they meet, or the end of the file.
    const END: u64 = u64::MAX >> 1;

    fn lock() -> impl Strategy<Value = Lock> {
        let kind =
            prop::sample::select(vec![LockKind::Shared, LockKind::Exclusive, LockKind::None]);
        (kind, 0..12_u64, 0..12_u64, any::<bool>()).prop_map(|(kind, a, b, whole)| {
            let end = if whole { END } else { a.max(b) };
            Lock { kind, start: a.min(b), end, pid: 0 }
        })
    }

    proptest! {
        #[test]
        fn ranges_record_what_was_set_last(locks in prop::collection::vec(lock(), 1..12)) {
            let mut ranges = Ranges::default();
            for new in &locks {
                ranges.set(new);
            }
            for at in (0..13).chain([END]) {
                let covers = |lock: &&Lock| (lock.start..=lock.end).contains(&at);
                let kind = |lock: &Lock| Some(lock.kind).filter(|kind| *kind != LockKind::None);
                let held: Vec<_> = ranges.0.iter().filter(covers).collect();
                prop_assert!(held.len() <= 1, "{at} is held twice: {held:?}");
                let last = locks.iter().rev().find(covers).and_then(kind);
                prop_assert_eq!(held.first().and_then(|lock| kind(lock)), last, "at {}", at);
            }
            // Neighbours of one kind are one, so the record does not grow.
            for (i, a) in ranges.0.iter().enumerate() {
                for b in &ranges.0[i + 1..] {
                    let touch = a.end.wrapping_add(1) == b.start || b.end + 1 == a.start;
                    prop_assert!(a.kind != b.kind || !touch, "{a:?} {b:?}");
                }
            }
        }
    }
}
