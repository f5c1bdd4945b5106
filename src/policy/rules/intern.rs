//! Values of which each is there once, for as long as somebody holds it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, Weak};

use crate::sync;

/// The number of tables: threads seldom meet at one.
const TABLES: usize = 16;

/// Returns a number that was never returned before, from 1 on.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A value that is there once.
#[derive(Debug)]
pub(super) struct Interned<T> {
    /// A number of its own, never used again.
    pub(super) id: u64,
    value: T,
    hash: u64,
    home: Arc<Interner<T>>,
}

impl<T> Interned<T> {
    /// Returns the number of the automaton that made this.
    pub(super) fn epoch(&self) -> u64 {
        self.home.epoch
    }
}

impl<T> Deref for Interned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Interned<T> {
    fn drop(&mut self) {
        let Some(table) = self.home.table(self.hash) else { return };
        let mut table = sync::write(table);
        if let Some(same) = table.get_mut(&self.hash) {
            same.retain(|one| one.strong_count() > 0);
            if same.is_empty() {
                table.remove(&self.hash);
            }
        }
        // What was filled by a tree that is gone is given back.
        if table.capacity() > 64 && table.len() < table.capacity() / 8 {
            table.shrink_to_fit();
        }
    }
}

/// The values by their hashes. It does not keep them.
type Table<T> = RwLock<HashMap<u64, Vec<Weak<Interned<T>>>>>;

/// Where the values of one sort are found.
#[derive(Debug)]
pub(super) struct Interner<T> {
    /// The number of the automaton.
    epoch: u64,
    tables: [Table<T>; TABLES],
    hasher: RandomState,
}

impl<T> Interner<T> {
    pub(super) fn new(epoch: u64) -> Arc<Self> {
        let tables = std::array::from_fn(|_| RwLock::default());
        Arc::new(Self { epoch, tables, hasher: RandomState::new() })
    }

    fn table(&self, hash: u64) -> Option<&Table<T>> {
        let [.., last] = hash.to_le_bytes();
        self.tables.get(usize::from(last) % TABLES)
    }

    /// Returns the value that `same` knows, or else makes it.
    ///
    /// `key` is what the value is told by.
    pub(super) fn get(
        self: &Arc<Self>,
        key: &impl Hash,
        same: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<Interned<T>> {
        let hash = self.hasher.hash_one(key);
        let Some(table) = self.table(hash) else { return self.wrap(hash, make()) };
        // Whatever is upgraded may become the last of its kind: it is dropped
        // after the lock, which its end takes.
        let mut others = Vec::new();
        let mut find = |among: Option<&Vec<Weak<Interned<T>>>>| {
            among?.iter().filter_map(Weak::upgrade).find_map(|one| {
                if same(&one) {
                    return Some(one);
                }
                others.push(one);
                None
            })
        };
        if let Some(found) = find(sync::read(table).get(&hash)) {
            return found;
        }
        let made = self.wrap(hash, make());
        let mut guard = sync::write(table);
        if let Some(found) = find(guard.get(&hash)) {
            drop(guard);
            return found;
        }
        guard.entry(hash).or_default().push(Arc::downgrade(&made));
        made
    }

    fn wrap(self: &Arc<Self>, hash: u64, value: T) -> Arc<Interned<T>> {
        Arc::new(Interned { id: next_number(), value, hash, home: Arc::clone(self) })
    }

    /// Returns how many values are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|table| sync::read(table).len()).sum()
    }
}
