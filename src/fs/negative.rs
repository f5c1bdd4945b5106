//! Names that the kernel was told are missing, for it to be told when they are
//! not: bounded, so that what falls out has to be taken back.

use std::ffi::{OsStr, OsString};
use std::sync::Mutex;

use lru::LruCache;

use crate::sync::lock;

/// How many names are remembered at most.
const MOST: usize = 1 << 16;

/// A directory's number, and a name in it.
type Key = (u64, OsString);

/// Missing names, those that were asked for last.
#[derive(Debug)]
pub(super) struct Negative {
    most: usize,
    names: Mutex<LruCache<Key, ()>>,
}

impl Default for Negative {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Negative {
    fn new(most: usize) -> Self {
        // Not `LruCache::new`: that would allocate all of it at once.
        Self { most, names: Mutex::new(LruCache::unbounded()) }
    }

    /// Reports whether another name may be added: if the kernel is busy, only while
    /// none has to be taken back for it.
    pub(super) fn has_room(&self, busy: bool) -> bool {
        !busy || lock(&self.names).len() < self.most
    }

    /// Adds a name; returns another one that is not remembered any more.
    pub(super) fn add(&self, dir: u64, name: &OsStr) -> Option<Key> {
        let mut names = lock(&self.names);
        names.put((dir, name.to_owned()), ());
        if names.len() > self.most { names.pop_lru().map(|(key, ())| key) } else { None }
    }

    /// Takes a name out.
    pub(super) fn remove(&self, dir: u64, name: &OsStr) {
        let mut names = lock(&self.names);
        if !names.is_empty() {
            names.pop(&(dir, name.to_owned()));
        }
    }

    /// Returns all names.
    pub(super) fn all(&self) -> Vec<Key> {
        lock(&self.names).iter().map(|(key, ())| key.clone()).collect()
    }

    /// Returns how many names there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.names).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dir: u64, name: &str) -> Key {
        (dir, name.into())
    }

    #[test]
    fn what_was_asked_for_last_stays() {
        let names = Negative::new(2);
        assert_eq!(names.add(2, "a".as_ref()), None);
        assert_eq!(names.add(3, "a".as_ref()), None);
        assert_eq!(names.add(2, "a".as_ref()), None, "it is there already");
        assert_eq!(names.add(2, "b".as_ref()), Some(key(3, "a")));
        names.remove(2, "a".as_ref());
        names.remove(7, "a".as_ref());
        assert!(names.has_room(true));
        assert_eq!((names.len(), names.add(2, "c".as_ref())), (1, None));
        assert!(names.has_room(false) && !names.has_room(true), "it is full");
        assert_eq!((names.all().len(), names.len()), (2, 2));
    }
}
