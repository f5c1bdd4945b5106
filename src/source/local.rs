//! Range locks that a source keeps by itself, as open file description locks:
//! fcntl(2).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Lock, LockKind, Locks};
use crate::error::{Errno, Error, Result};
use crate::sync::lock as locked;

/// The locks of files that nobody else can lock, by the number of the file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tables: Mutex<HashMap<u64, Table>>,
    owners: AtomicU64,
}

/// The locks of one owner on one of them.
#[derive(Debug)]
pub(super) struct LocalLocks {
    tables: Arc<Tables>,
    file: u64,
    owner: u64,
}

impl LocalLocks {
    /// Makes an owner of locks on a file.
    pub(super) fn new(tables: Arc<Tables>, file: u64) -> Self {
        let owner = tables.owners.fetch_add(1, Ordering::Relaxed);
        Self { tables, file, owner }
    }
}

impl Locks for LocalLocks {
    fn set(&self, lock: &Lock) -> Result<()> {
        locked(&self.tables.tables).entry(self.file).or_default().set(self.owner, lock)
    }

    fn test(&self, lock: &Lock) -> Result<Option<Lock>> {
        locked(&self.tables.tables).entry(self.file).or_default().test(self.owner, lock)
    }
}

impl Drop for LocalLocks {
    fn drop(&mut self) {
        if let Entry::Occupied(mut table) = locked(&self.tables.tables).entry(self.file) {
            table.get_mut().drop_owner(self.owner);
            if table.get().held.is_empty() {
                table.remove();
            }
        }
    }
}

/// The locks of one file, each with its owner.
#[derive(Debug, Default)]
pub(super) struct Table {
    held: Vec<(u64, Lock)>,
}

impl Table {
    /// Sets or removes a lock of an owner, without waiting.
    pub(super) fn set(&mut self, owner: u64, lock: &Lock) -> Result<()> {
        if self.test(owner, lock)?.is_some() {
            return Err(Error::Os(Errno(libc::EAGAIN)));
        }
        self.held = std::mem::take(&mut self.held)
            .into_iter()
            .flat_map(|held| if held.0 == owner { rest_of(held, lock) } else { vec![held] })
            .collect();
        if lock.kind != LockKind::None {
            self.held.push((owner, *lock));
        }
        Ok(())
    }

    /// Returns the lock of another owner that is in the way.
    pub(super) fn test(&self, owner: u64, lock: &Lock) -> Result<Option<Lock>> {
        if lock.start > lock.end {
            return Err(Error::Invalid);
        }
        let in_the_way = |(other, held): &&(u64, Lock)| {
            *other != owner && overlap(held, lock) && excludes(held.kind, lock.kind)
        };
        // The holder is an open file, so there is no process to name.
        Ok(self.held.iter().find(in_the_way).map(|(_, held)| Lock { pid: 0, ..*held }))
    }

    /// Removes all locks of an owner.
    pub(super) fn drop_owner(&mut self, owner: u64) {
        self.held.retain(|(other, _)| *other != owner);
    }
}

fn overlap(a: &Lock, b: &Lock) -> bool {
    a.start <= b.end && b.start <= a.end
}

fn excludes(a: LockKind, b: LockKind) -> bool {
    match (a, b) {
        (LockKind::None, _) | (_, LockKind::None) => false,
        (LockKind::Shared, LockKind::Shared) => false,
        (LockKind::Exclusive, _) | (_, LockKind::Exclusive) => true,
    }
}

/// Returns what is left of a lock outside of the range of another.
fn rest_of((owner, held): (u64, Lock), cut: &Lock) -> Vec<(u64, Lock)> {
    if !overlap(&held, cut) {
        return vec![(owner, held)];
    }
    let before =
        (held.start < cut.start).then(|| Lock { end: cut.start.saturating_sub(1), ..held });
    let after = (held.end > cut.end).then(|| Lock { start: cut.end.saturating_add(1), ..held });
    before.into_iter().chain(after).map(|lock| (owner, lock)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{Lock, LockKind, Table, excludes};

    const BYTES: usize = 12;

    fn any_lock() -> impl Strategy<Value = Lock> {
        let kind =
            prop_oneof![Just(LockKind::Shared), Just(LockKind::Exclusive), Just(LockKind::None)];
        (kind, 0..BYTES as u64, 0..BYTES as u64).prop_map(|(kind, a, b)| Lock {
            kind,
            start: a.min(b),
            end: a.max(b),
            pid: 0,
        })
    }

    proptest! {
        /// Ranges behave as a lock of its own on every byte would.
        #[test]
        fn ranges_are_locks_of_bytes(steps in vec((0..3_usize, any_lock()), 1..40)) {
            let mut table = Table::default();
            let mut bytes = [[LockKind::None; BYTES]; 3];
            for (owner, lock) in steps {
                let range = usize::try_from(lock.start).unwrap()..=usize::try_from(lock.end).unwrap();
                let free = (0..3).filter(|&other| other != owner).all(|other| {
                    bytes[other][range.clone()].iter().all(|&held| !excludes(held, lock.kind))
                });
                prop_assert_eq!(table.test(owner as u64, &lock).unwrap().is_none(), free);
                prop_assert_eq!(table.set(owner as u64, &lock).is_ok(), free);
                if free {
                    bytes[owner][range].fill(lock.kind);
                }
            }
        }
    }
}
