//! The numbers that the kernel gets for open files and directories.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::sync::lock;

/// How many parts the table has; each has a lock of its own.
const SHARDS: u64 = 16;

type Open<T> = HashMap<u64, Arc<T>>;

/// A table of open things by number.
///
/// A number is never 0 and never given out twice, so one that is used after
/// its release is `Unknown` and not another file.
#[derive(Debug)]
pub struct Handles<T> {
    next: AtomicU64,
    shards: Box<[Mutex<Open<T>>]>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Handles<T> {
    /// Makes an empty table.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Self { next: AtomicU64::new(1), shards }
    }

    /// Adds an open thing and returns its number.
    pub fn insert(&self, open: Arc<T>) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(mut shard) = self.shard(handle) {
            shard.insert(handle, open);
        }
        handle
    }

    /// Returns what was added under a number.
    ///
    /// # Errors
    /// `Unknown` if there is nothing, or no longer.
    pub fn get(&self, handle: u64) -> Result<Arc<T>> {
        let shard = self.shard(handle).ok_or(Error::Unknown)?;
        shard.get(&handle).map(Arc::clone).ok_or(Error::Unknown)
    }

    /// Takes out what was added under a number.
    ///
    /// It is dropped by the caller, so that a close that takes long holds
    /// nobody up.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.shard(handle)?.remove(&handle)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).fold(0, usize::saturating_add)
    }

    /// Reports whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns everything in the table, in no order.
    #[cfg(test)]
    fn all(&self) -> Vec<(u64, Arc<T>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            all.extend(shard.iter().map(|(handle, open)| (*handle, Arc::clone(open))));
        }
        all
    }

    fn shard(&self, handle: u64) -> Option<MutexGuard<'_, Open<T>>> {
        let shard = self.shards.get(usize::try_from(handle % SHARDS).ok()?)?;
        Some(lock(shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_added() {
        let handles = Handles::new();
        let first = handles.insert(Arc::new("a"));
        let second = handles.insert(Arc::new("b"));
        assert_ne!(first, 0);
        assert_ne!(first, second);
        assert_eq!(handles.get(first).as_deref(), Ok(&"a"));
        assert_eq!(handles.get(second).as_deref(), Ok(&"b"));
        assert_eq!(handles.remove(first).as_deref(), Some(&"a"));
        assert_eq!(handles.remove(first), None);
        assert_eq!(handles.all(), [(second, Arc::new("b"))]);
        assert!(handles.len() == 1 && !handles.is_empty());
    }

    #[test]
    fn a_stale_handle_is_unknown_for_good() {
        let handles = Handles::new();
        let old = handles.insert(Arc::new(0));
        drop(handles.remove(old));
        for n in 1..1000 {
            let new = handles.insert(Arc::new(n));
            assert_ne!(new, old);
            if n % 2 == 0 {
                drop(handles.remove(new));
            }
        }
        for unknown in [0, old, u64::MAX] {
            assert_eq!(handles.get(unknown), Err(Error::Unknown), "{unknown}");
            assert_eq!(handles.remove(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn threads_do_not_see_each_others_handles() {
        let handles = Handles::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let handles = &handles;
                scope.spawn(move || {
                    for n in 0..1000 {
                        let handle = handles.insert(Arc::new((thread, n)));
                        assert_eq!(*handles.get(handle).unwrap(), (thread, n));
                        if n % 10 != 0 {
                            assert_eq!(*handles.remove(handle).unwrap(), (thread, n));
                        }
                    }
                });
            }
        });
        assert_eq!(handles.all().len(), 400);
    }
}
