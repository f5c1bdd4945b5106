//! What was read and unpacked, kept within a number of bytes.

use std::hash::Hash;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::count::{self, Count};
use crate::error::Result;
use crate::sync::lock;

/// The least number of bytes that an entry is counted with: what keeping it takes.
const LEAST: u64 = 128;

/// Values that can be made again, the last used ones of which are kept.
#[derive(Debug)]
pub(super) struct Cache<K: Eq + Hash, V> {
    kept: Mutex<Kept<K, V>>,
    limit: u64,
}

/// Whoever makes a value holds its lock: others who want the same wait for it, which is
/// less work than making it twice.
type Slot<V> = Arc<Mutex<Option<Arc<V>>>>;

#[derive(Debug)]
struct Kept<K: Eq + Hash, V> {
    slots: LruCache<K, (Slot<V>, u64)>,
    bytes: u64,
}

impl<K: Eq + Hash + Copy, V> Cache<K, V> {
    /// Makes a cache that keeps this many bytes, and a value for as long as it is in
    /// use.
    pub fn new(limit: u64) -> Self {
        let kept = Kept { slots: LruCache::unbounded(), bytes: 0 };
        Self { kept: Mutex::new(kept), limit }
    }

    /// Returns a value that is kept, or makes it; `size` says how many bytes it takes.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub fn get(
        &self,
        key: K,
        size: impl FnOnce(&V) -> u64,
        make: impl FnOnce() -> Result<V>,
    ) -> Result<Arc<V>> {
        let slot = Arc::clone(&lock(&self.kept).slots.get_or_insert(key, Default::default).0);
        let mut held = lock(&slot);
        if let Some(value) = &*held {
            count::add(Count::ImageKept);
            return Ok(Arc::clone(value));
        }
        count::add(Count::ImageMade);
        let made = make().map(Arc::new);
        let mut kept = lock(&self.kept);
        match made {
            Ok(value) => {
                *held = Some(Arc::clone(&value));
                kept.count(&key, &slot, size(&value).saturating_add(LEAST));
                kept.shrink(self.limit);
                Ok(value)
            }
            Err(error) => {
                kept.drop_slot(&key, &slot);
                Err(error)
            }
        }
    }

    /// Reports whether a value is kept, or being made.
    pub fn has(&self, key: &K) -> bool {
        lock(&self.kept).slots.contains(key)
    }

    /// Gives up a value, which lives on for those who use it.
    pub fn forget(&self, key: &K) {
        let mut kept = lock(&self.kept);
        if let Some((slot, bytes)) = kept.slots.pop(key) {
            kept.bytes = kept.bytes.saturating_sub(bytes);
            drop(kept);
            // Without the lock: to free much takes a while.
            drop(slot);
        }
    }

    /// Returns how many bytes are kept.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        lock(&self.kept).bytes
    }
}

impl<K: Eq + Hash + Copy, V> Kept<K, V> {
    /// Counts what a slot holds by now, if it was not pushed out while that was made.
    fn count(&mut self, key: &K, slot: &Slot<V>, size: u64) {
        if let Some((kept, bytes)) = self.slots.peek_mut(key)
            && Arc::ptr_eq(kept, slot)
        {
            self.bytes = self.bytes.saturating_sub(*bytes).saturating_add(size);
            *bytes = size;
        }
    }

    fn shrink(&mut self, limit: u64) {
        // What is being made is counted with nothing, and is among the last used.
        while self.bytes > limit
            && let Some((_, (_, bytes))) = self.slots.pop_lru()
        {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    fn drop_slot(&mut self, key: &K, slot: &Slot<V>) {
        if self.slots.peek(key).is_some_and(|(kept, _)| Arc::ptr_eq(kept, slot))
            && let Some((_, bytes)) = self.slots.pop(key)
        {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::{Errno, Error};

    fn get(cache: &Cache<u64, Vec<u8>>, key: u64, length: usize) -> Arc<Vec<u8>> {
        let size = |value: &Vec<u8>| u64::try_from(value.len()).unwrap();
        cache.get(key, size, || Ok(vec![0; length])).unwrap()
    }

    #[test]
    fn the_last_used_are_kept_within_the_limit() {
        let cache = Cache::new(10_000);
        for key in 0..100 {
            get(&cache, key, 1000);
            get(&cache, 0, 1000);
            assert!(cache.bytes() <= 10_000);
        }
        assert!(cache.has(&0) && cache.has(&99) && !cache.has(&1));
        // What is larger than all that may be kept is returned all the same.
        assert_eq!(get(&cache, 1000, 20_000).len(), 20_000);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn what_is_given_up_is_made_again() {
        let cache = Cache::new(10_000);
        let used = get(&cache, 1, 1000);
        cache.forget(&1);
        cache.forget(&2);
        assert!(!cache.has(&1) && cache.bytes() == 0);
        assert_eq!(used.len(), 1000);
        assert_eq!(get(&cache, 1, 2000).len(), 2000);
    }

    #[test]
    fn what_fails_is_tried_again() {
        let cache = Cache::<u64, Vec<u8>>::new(1000);
        let eio = Error::Os(Errno(libc::EIO));
        assert_eq!(cache.get(1, |_| 1, || Err(eio)), Err(eio));
        assert!(!cache.has(&1));
        assert_eq!(get(&cache, 1, 5).len(), 5);
    }

    #[test]
    fn a_value_is_made_once_whoever_asks() {
        let (cache, made) = (Cache::new(1000), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let make = || {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(made.fetch_add(1, Ordering::Relaxed))
                    };
                    assert_eq!(*cache.get(7, |_| 8, make).unwrap(), 0);
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
