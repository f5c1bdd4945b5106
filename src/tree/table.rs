//! The inodes that the kernel knows, by number.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::policy::State;
use crate::source::{Found, Key, Node};
use crate::sync::lock;

use super::inode::Inode;
use super::inodes::Inodes;

/// How many parts the table has; each has a lock of its own, held for a few
/// map operations and never while the source is asked.
const SHARDS: usize = 32;
/// How many inodes take enough memory that it is given back when half of them
/// are forgotten.
pub(super) const MANY: usize = 1 << 15;
/// How many other names are kept of a file: any number could come and go.
const NAMES_MAX: usize = 16;

/// A node held open until its file is forgotten.
#[derive(Debug)]
struct Pin {
    node: Node,
    /// How often it was pinned and not unpinned.
    count: usize,
}

#[derive(Debug, Default)]
struct Shard {
    inodes: Inodes,
    /// Only for numbers that are in `inodes`.
    pins: HashMap<u64, Pin>,
    /// Other names by which files were found that the kernel may know yet;
    /// likewise.
    names: HashMap<u64, Vec<(u64, Box<OsStr>)>>,
    /// How many inodes there were at once, since this was last asked for.
    most: usize,
}

/// The inode table.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    /// Whether a forget of too much has been logged.
    complained: AtomicBool,
    /// How many inodes there were when that was last looked at.
    seen: AtomicUsize,
}

impl Table {
    /// Makes an empty table.
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, complained: AtomicBool::new(false), seen: AtomicUsize::new(0) }
    }

    /// Counts a lookup, unless the number stands for another file, or for this
    /// one by a name that other rules are for; reports whether it did.
    #[must_use]
    pub(super) fn remember(
        &self,
        number: u64,
        (parent, name): (u64, &OsStr),
        found: &Found,
        state: &State,
    ) -> bool {
        let Some(mut guard) = self.shard(number) else {
            return true;
        };
        let shard = &mut *guard;
        let mut new = false;
        let inode = shard.inodes.get_or_add(number, || {
            new = true;
            Inode::new(number, found, state.clone(), parent, name)
        });
        if !new {
            let same_rules = inode.state.epoch() == state.epoch();
            if inode.key() != found.key || same_rules && inode.state != *state {
                return false;
            }
            // Without a name it was found somewhere, which says nothing of where it is.
            if !name.is_empty() {
                let old = inode.place();
                if old != (parent, name) {
                    keep_name(shard.names.entry(number).or_default(), old, (parent, name));
                }
                inode.update(found.handle.as_ref(), parent, name);
            }
            if found.attr.encrypted {
                inode.set_encrypted();
            }
            if !same_rules {
                inode.state = state.clone();
            }
        }
        inode.count = inode.count.saturating_add(1);
        shard.most = shard.most.max(shard.inodes.len());
        true
    }

    /// Counts a lookup of a file that is known; reports whether it was.
    pub(super) fn count(&self, number: u64, key: &Key) -> bool {
        let Some(mut shard) = self.shard(number) else { return false };
        let known = shard.inodes.get_mut(number).filter(|inode| inode.key() == *key);
        known.map(|inode| inode.count = inode.count.saturating_add(1)).is_some()
    }

    /// Takes lookups back; reports whether that was the end of a file.
    pub(super) fn forget(&self, number: u64, count: u64) -> bool {
        let Some(mut shard) = self.shard(number) else { return false };
        let known = shard.inodes.get_mut(number);
        let excess = count > known.as_ref().map_or(0, |inode| inode.count);
        let mut last = false;
        if let Some(inode) = known {
            inode.count = inode.count.saturating_sub(count);
            last = inode.count == 0;
        }
        let (inode, pin) = if last { shard.remove(number) } else { (None, None) };
        drop(shard);
        drop(pin);
        if excess && !self.complained.swap(true, Ordering::Relaxed) {
            log::warn!("the kernel forgot inode {number} more often than it looked it up");
        }
        inode.is_some()
    }

    /// Reads one inode and what pins it.
    pub(super) fn read<T>(
        &self,
        number: u64,
        read: impl FnOnce(&Inode, Option<&Node>) -> T,
    ) -> Option<T> {
        let shard = self.shard(number)?;
        let inode = shard.inodes.get(number)?;
        Some(read(inode, shard.pins.get(&number).map(|pin| &pin.node)))
    }

    /// Returns where else a file was found: its directories' numbers and names.
    pub(super) fn other_names(&self, number: u64) -> Vec<(u64, OsString)> {
        let names = self.shard(number).and_then(|shard| shard.names.get(&number).cloned());
        names.unwrap_or_default().into_iter().map(|(at, name)| (at, name.into())).collect()
    }

    /// Reports whether one more name of a file would be kept.
    pub(super) fn keeps_names(&self, number: u64) -> bool {
        let Some(shard) = self.shard(number) else { return false };
        shard.names.get(&number).is_none_or(|names| names.len() < NAMES_MAX)
    }

    /// Records that the names of a directory are watched.
    pub(super) fn set_heard(&self, number: u64) {
        if let Some(mut shard) = self.shard(number)
            && let Some(inode) = shard.inodes.get_mut(number)
        {
            inode.set_heard(true);
        }
    }

    /// Records that a file is encrypted by its file system.
    pub(super) fn set_encrypted(&self, number: u64) {
        if let Some(mut shard) = self.shard(number)
            && let Some(inode) = shard.inodes.get_mut(number)
        {
            inode.set_encrypted();
        }
    }

    /// Forgets which directories are watched.
    pub(super) fn unhear(&self) {
        for mut shard in self.shards.iter().map(lock) {
            shard.inodes.iter_mut().for_each(|inode| inode.set_heard(false));
        }
    }

    /// Records where a file is now that was `from` there.
    pub(super) fn moved(&self, number: u64, from: Option<(u64, &OsStr)>, to: (u64, &OsStr)) {
        if let Some(mut guard) = self.shard(number)
            && let shard = &mut *guard
            && let Some(inode) = shard.inodes.get_mut(number)
        {
            let old = inode.place();
            if let Some(from) = from.filter(|from| *from != old && old != to) {
                keep_name(shard.names.entry(number).or_default(), old, from);
            }
            inode.update(None, to.0, to.1);
        }
    }

    /// Records another state of a file, because the rules have changed.
    pub(super) fn restate(&self, number: u64, key: &Key, state: &State) {
        if let Some(mut shard) = self.shard(number)
            && let Some(inode) = shard.inodes.get_mut(number)
            && inode.key() == *key
        {
            let old = std::mem::replace(&mut inode.state, state.clone());
            drop(shard);
            drop(old);
        }
    }

    /// Pins a node; reports whether the number still stands for that file.
    pub(super) fn pin(&self, number: u64, key: &Key, node: Node) -> bool {
        let Some(mut shard) = self.shard(number) else {
            return false;
        };
        if shard.inodes.get(number).is_none_or(|inode| inode.key() != *key) {
            return false;
        }
        if let Some(pin) = shard.pins.get_mut(&number) {
            pin.count = pin.count.saturating_add(1);
        } else {
            shard.pins.insert(number, Pin { node, count: 1 });
        }
        true
    }

    /// Takes one pin back; returns the file and its node with the last one.
    pub(super) fn unpin(&self, number: u64) -> Option<(Key, Node)> {
        let mut shard = self.shard(number)?;
        let key = shard.inodes.get(number)?.key();
        let pin = shard.pins.get_mut(&number)?;
        pin.count = pin.count.saturating_sub(1);
        if pin.count > 0 {
            return None;
        }
        shard.pins.remove(&number).map(|pin| (key, pin.node))
    }

    /// Returns how many inodes are known and how many of them are pinned.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.shards.iter().map(lock).fold((0, 0), |(inodes, pins), shard| {
            (inodes.saturating_add(shard.inodes.len()), pins.saturating_add(shard.pins.len()))
        })
    }

    /// Reports whether there were many inodes since it last said so, half of them have been
    /// forgotten, and no more have since this was last asked: the rest may be about to be.
    pub(super) fn has_ebbed(&self) -> bool {
        let (now, most) = self.shards.iter().map(lock).fold((0, 0), |(now, most), shard| {
            (shard.inodes.len().saturating_add(now), shard.most.saturating_add(most))
        });
        let falls = now < self.seen.swap(now, Ordering::Relaxed);
        let ebbed = most >= MANY && now <= most >> 1 && !falls;
        if ebbed {
            for mut shard in self.shards.iter().map(lock) {
                shard.most = shard.inodes.len();
            }
        }
        ebbed
    }

    /// Returns the number of the file that was last found at a place.
    pub(super) fn named(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let is_there = |inode: &&Inode| inode.place() == (parent, name);
        let find =
            |shard: &Mutex<Shard>| lock(shard).inodes.iter().find(is_there).map(|i| i.number);
        self.shards.iter().find_map(find)
    }

    /// Returns the numbers in one part of the table; `None` after the last.
    pub(super) fn numbers(&self, part: usize) -> Option<Vec<u64>> {
        self.shards
            .get(part)
            .map(|shard| lock(shard).inodes.iter().map(|inode| inode.number).collect())
    }

    fn shard(&self, number: u64) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(super::spread(number, self.shards.len())).map(lock)
    }
}

/// Keeps the name that a file was found by until now, if there is room, and
/// drops another one.
fn keep_name(names: &mut Vec<(u64, Box<OsStr>)>, old: (u64, &OsStr), drop: (u64, &OsStr)) {
    names.retain(|(at, name)| ![old, drop].contains(&(*at, name)));
    if names.len() < NAMES_MAX && !old.1.is_empty() {
        names.push((old.0, old.1.into()));
    }
}

impl Shard {
    fn remove(&mut self, number: u64) -> (Option<Box<Inode>>, Option<Pin>) {
        let gone = (self.inodes.remove(number), self.pins.remove(&number));
        self.names.remove(&number);
        gone
    }
}
