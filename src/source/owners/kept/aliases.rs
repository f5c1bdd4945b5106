//! Files that another one has come to stand for, and whose identity stays.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::source::Key;
use crate::sync::lock;

/// How many are remembered; of the oldest the identity changes then, as after a
/// remount.
const MOST: usize = 1 << 16;

/// Which identity is shown of which file on disk.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Whether there are any: almost never.
    any: AtomicBool,
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    /// From what is on disk to what is shown.
    shown: HashMap<Key, Key>,
    /// From what is shown to what is on disk.
    real: HashMap<Key, Key>,
    /// The same of inode numbers alone, for listings.
    numbers: HashMap<u64, u64>,
    /// What is on disk, oldest first.
    order: VecDeque<Key>,
}

impl Aliases {
    /// Has a file on disk shown as another one that it took the place of.
    pub fn add(&self, real: Key, shown: Key) {
        let mut maps = lock(&self.maps);
        if maps.order.len() >= MOST
            && let Some(oldest) = maps.order.pop_front()
            && let Some(shown) = maps.shown.remove(&oldest)
        {
            maps.real.remove(&shown);
            maps.numbers.remove(&oldest.ino);
        }
        maps.order.push_back(real.clone());
        maps.numbers.insert(real.ino, shown.ino);
        maps.real.insert(shown.clone(), real.clone());
        maps.shown.insert(real, shown);
        self.any.store(true, Ordering::Release);
    }

    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Returns what a file on disk is shown as.
    pub fn shown(&self, real: Key) -> Key {
        if !self.any() {
            return real;
        }
        lock(&self.maps).shown.get(&real).cloned().unwrap_or(real)
    }

    /// Returns the inode number that is shown of one on disk.
    pub fn shown_number(&self, real: u64) -> u64 {
        if !self.any() {
            return real;
        }
        lock(&self.maps).numbers.get(&real).copied().unwrap_or(real)
    }

    /// Returns what is on disk of what is shown.
    pub fn real(&self, shown: &Key) -> Key {
        if !self.any() {
            return shown.clone();
        }
        lock(&self.maps).real.get(shown).unwrap_or(shown).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64) -> Key {
        Key { volume: 0, ino, generation: 0 }
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let aliases = Aliases::default();
        let most = u64::try_from(MOST).unwrap();
        for ino in 0..=most {
            aliases.add(key(ino + most * 2), key(ino));
        }
        assert_eq!(aliases.shown(key(most * 2)), key(most * 2));
        assert_eq!(aliases.real(&key(0)), key(0));
        assert_eq!(aliases.shown(key(most * 2 + 1)), key(1));
        assert_eq!(aliases.real(&key(1)), key(most * 2 + 1));
        assert_eq!(lock(&aliases.maps).real.len(), MOST);
    }
}
