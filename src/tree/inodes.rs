//! Inodes by number, in little room.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::inode::Inode;

/// No more room than this is given back.
const ROOM_MIN: usize = 1024;

/// A set of inodes. Each has its number in itself, and is boxed: half of the places of
/// a table may be free, and a place of a map would have the number and the inode.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    table: HashTable<Box<Inode>>,
    hasher: RandomState,
}

impl Inodes {
    pub(super) fn get(&self, number: u64) -> Option<&Inode> {
        let hash = self.hasher.hash_one(number);
        self.table.find(hash, |inode| inode.number == number).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Inode> {
        let hash = self.hasher.hash_one(number);
        self.table.find_mut(hash, |inode| inode.number == number).map(Box::as_mut)
    }

    /// Returns the inode of a number, or what `make` makes, which is added.
    pub(super) fn get_or_add(&mut self, number: u64, make: impl FnOnce() -> Inode) -> &mut Inode {
        let Self { table, hasher } = self;
        let hash = hasher.hash_one(number);
        let place = table.entry(
            hash,
            |inode| inode.number == number,
            |inode| hasher.hash_one(inode.number),
        );
        let place = match place {
            Entry::Occupied(place) => place,
            Entry::Vacant(place) => place.insert(Box::new(make())),
        };
        place.into_mut()
    }

    /// Takes an inode out.
    pub(super) fn remove(&mut self, number: u64) -> Option<Box<Inode>> {
        let Self { table, hasher } = self;
        let hash = hasher.hash_one(number);
        let (gone, _) = table.find_entry(hash, |inode| inode.number == number).ok()?.remove();
        // The kernel forgets a million inodes at a time: give the room back,
        // seldom enough that it costs nothing on average.
        let (used, room) = (table.len(), table.capacity());
        if room > ROOM_MIN && used < room >> 3 {
            table.shrink_to(used.saturating_mul(2), |inode| hasher.hash_one(inode.number));
        }
        Some(gone)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Inode> {
        self.table.iter().map(Box::as_ref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Inode> {
        self.table.iter_mut().map(Box::as_mut)
    }
}
