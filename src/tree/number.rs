//! Which number is shown for which file.
//!
//! The layout of a number, so that no two sources of numbers can meet:
//!
//! - top bit 0: the inode number of volume 0, which is almost every file; with all
//!   others 1 the file with inode number 1, which as a node is [`super::ANCHOR`];
//! - top bits 10: 22 bits of a volume's tag, then 40 bits of inode number;
//! - top bits 11: a remapped file, 62 bits of a hash of volume and number: one
//!   whose number does not fit the above, or is taken. A number is taken while
//!   the kernel knows an earlier file by it, which may still be open; or the
//!   same file by another name, for which the rules by path are others.
//!
//! All three are functions of what the volume and the number are, so they
//! come out the same after a remount, unless a number is taken, two volumes have
//! one tag or two remapped files one hash: then whoever comes first has it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

use crate::policy::State;
use crate::source::Key;
use crate::sync::{lock, read, write};

const OTHER_VOLUME: u64 = 0b10 << 62;
const REMAPPED: u64 = 0b11 << 62;
pub(super) const FIRST: u64 = OTHER_VOLUME - 1;
const TAG_BITS: u32 = 22;
const INO_BITS: u32 = 40;

/// What tells numbers of files apart.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The volume that has a tag; volumes are few and never taken out.
    tags: RwLock<HashMap<u64, u64>>,
    remapped: Mutex<Remapped>,
    /// How many files have another number because theirs was taken: none,
    /// almost always.
    moved: AtomicUsize,
}

impl Numbers {
    /// Reports whether a number is one of [`Remapped`].
    pub(super) const fn is_remapped(number: u64) -> bool {
        number & REMAPPED == REMAPPED
    }

    /// Returns the inode number that a number is, if it is one of volume 0.
    pub(super) const fn of_root_volume(number: u64) -> Option<u64> {
        match number {
            FIRST => Some(1),
            0..FIRST => Some(number),
            _ => None,
        }
    }

    /// Returns the inode number that a number is of, if it says so by itself.
    pub(super) const fn ino(number: u64) -> Option<u64> {
        match Self::of_root_volume(number) {
            None if Self::is_remapped(number) => None,
            None => Some(number & ((1 << INO_BITS) - 1)),
            ino => ino,
        }
    }

    /// Returns the volume and the inode number that a number is of, if it says so by itself.
    pub(super) fn file(&self, number: u64) -> Option<(u64, u64)> {
        if let Some(ino) = Self::of_root_volume(number) {
            return Some((0, ino));
        }
        let ino = Self::ino(number)?;
        let tag = (number & !OTHER_VOLUME) >> INO_BITS;
        read(&self.tags).get(&tag).map(|volume| (*volume, ino))
    }

    /// Returns the number that follows from the file alone; `None` if it has
    /// to be remapped.
    pub(super) fn direct(&self, key: &Key) -> Option<u64> {
        if key.volume == 0 {
            return match key.ino {
                1 => Some(FIRST),
                2..FIRST => Some(key.ino),
                _ => None,
            };
        }
        if key.ino >> INO_BITS != 0 {
            return None;
        }
        let tag = mix(key.volume) >> (u64::BITS - TAG_BITS);
        (self.holder(tag, key.volume) == key.volume)
            .then_some(OTHER_VOLUME | tag << INO_BITS | key.ino)
    }

    /// Locks the files that are remapped.
    ///
    /// Where this and a part of the inode table are both locked, this is
    /// first.
    pub(super) fn remapped(&self) -> MutexGuard<'_, Remapped> {
        lock(&self.remapped)
    }

    /// Returns the number that a file has because its own was taken, if any.
    pub(super) fn moved(&self, key: &Key, state: &State) -> Option<u64> {
        if !self.any_moved() {
            return None;
        }
        self.remapped().moved(key, state)
    }

    /// Returns every number that a file of this volume and inode number may have,
    /// whichever of them there has been.
    pub(super) fn all(&self, key: &Key) -> Vec<u64> {
        let direct = self.direct(key);
        if direct.is_some() && !self.any_moved() {
            return direct.into_iter().collect();
        }
        let remapped = self.remapped();
        let first = direct.unwrap_or_else(|| remapped.number(key));
        let others = remapped.others.get(&(key.volume, key.ino));
        std::iter::once(first).chain(others.into_iter().flatten().copied()).collect()
    }

    /// Reports whether there are files with several numbers.
    pub(super) fn any_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed) > 0
    }

    /// Gives a file whose number is taken another one, until it is released.
    pub(super) fn claim_moved(&self, remapped: &mut Remapped, key: &Key, state: &State) -> u64 {
        let (number, new) = remapped.claim_slot(Slot::of(key, Some(state)));
        if new {
            remapped.others.entry((key.volume, key.ino)).or_default().push(number);
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        number
    }

    /// Takes a remapped number back.
    pub(super) fn release(&self, remapped: &mut Remapped, number: u64) {
        if remapped.release(number).is_some_and(|slot| slot.moved.is_some()) {
            self.moved.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns the volume that has a tag: the first that asked.
    fn holder(&self, tag: u64, volume: u64) -> u64 {
        let tags = read(&self.tags);
        if let Some(holder) = tags.get(&tag) {
            return *holder;
        }
        drop(tags);
        let mut tags = write(&self.tags);
        *tags.entry(tag).or_insert(volume)
    }
}

/// What a remapped number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot {
    volume: u64,
    ino: u64,
    /// Generation and state of the file; `None` for whatever comes first.
    moved: Option<(u64, u64)>,
}

impl Slot {
    fn of(key: &Key, state: Option<&State>) -> Self {
        let moved = state.map(|state| (key.generation, state.id()));
        Self { volume: key.volume, ino: key.ino, moved }
    }

    /// Returns what the number of this is looked for from.
    const fn hash(self) -> u64 {
        let file = mix(mix(self.volume).wrapping_add(self.ino));
        match self.moved {
            None => file,
            Some((generation, state)) => {
                mix(mix(file.wrapping_add(generation)).wrapping_add(state))
            }
        }
    }
}

/// Known files whose number does not follow from them alone.
#[derive(Debug, Default)]
pub(super) struct Remapped {
    numbers: HashMap<Slot, u64>,
    taken: HashMap<u64, Slot>,
    /// The numbers that files have because their own was taken, by volume and
    /// inode number.
    others: HashMap<(u64, u64), Vec<u64>>,
}

impl Remapped {
    /// Returns the number that a file has, or would get now.
    pub(super) fn number(&self, key: &Key) -> u64 {
        self.slot(Slot::of(key, None))
    }

    /// Returns the number that a file has because its own was taken, if any.
    pub(super) fn moved(&self, key: &Key, state: &State) -> Option<u64> {
        self.numbers.get(&Slot::of(key, Some(state))).copied()
    }

    /// Gives a file its number, until it is released.
    pub(super) fn claim(&mut self, key: &Key) -> u64 {
        self.claim_slot(Slot::of(key, None)).0
    }

    /// Records that a number stands for another state of its file.
    pub(super) fn restate(&mut self, number: u64, state: &State) {
        let Some(slot) = self.taken.get_mut(&number) else { return };
        let Some((generation, _)) = slot.moved else { return };
        if self.numbers.get(slot) == Some(&number) {
            self.numbers.remove(slot);
        }
        slot.moved = Some((generation, state.id()));
        self.numbers.insert(*slot, number);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.numbers.is_empty() && self.others.is_empty()
    }

    fn slot(&self, slot: Slot) -> u64 {
        if let Some(number) = self.numbers.get(&slot) {
            return *number;
        }
        let mut hash = slot.hash();
        while self.taken.contains_key(&(REMAPPED | hash)) {
            hash = hash.wrapping_add(1);
        }
        REMAPPED | hash
    }

    /// Returns the number, and whether it was not taken before.
    fn claim_slot(&mut self, slot: Slot) -> (u64, bool) {
        let number = self.slot(slot);
        self.numbers.insert(slot, number);
        (number, self.taken.insert(number, slot).is_none())
    }

    /// Takes a number back; returns what it stood for.
    fn release(&mut self, number: u64) -> Option<Slot> {
        let slot = self.taken.remove(&number)?;
        if self.numbers.get(&slot) == Some(&number) {
            self.numbers.remove(&slot);
        }
        let file = (slot.volume, slot.ino);
        if let Some(others) = self.others.get_mut(&file) {
            others.retain(|other| *other != number);
            if others.is_empty() {
                self.others.remove(&file);
            }
        }
        Some(slot)
    }
}

/// Spreads a number over all 64 bits (the last step of SplitMix64); part of
/// the numbers shown, so it must never change.
const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(volume: u64, ino: u64) -> Key {
        Key { volume, ino, generation: 7 }
    }

    /// A volume other than `volume` with the same tag.
    fn twin(volume: u64) -> u64 {
        let tag = |v| mix(v) >> (u64::BITS - TAG_BITS);
        (volume + 1..).find(|v| tag(*v) == tag(volume)).unwrap()
    }

    #[test]
    fn direct_numbers() {
        let numbers = Numbers::default();
        for (volume, ino, direct) in [
            (0, 0, false),
            (0, 1, true),
            (0, 2, true),
            (0, (1 << 63) - 2, true),
            (0, (1 << 63) - 1, false),
            (0, 1 << 63, false),
            (0, u64::MAX, false),
            (5, 0, true),
            (5, 1, true),
            (5, (1 << 40) - 1, true),
            (5, 1 << 40, false),
            (twin(5), 1, false),
        ] {
            let number = numbers.direct(&key(volume, ino));
            assert_eq!(number.is_some(), direct, "{volume} {ino}");
            if volume == 0 && direct {
                let number = number.unwrap();
                assert_eq!(Numbers::of_root_volume(number), Some(ino));
                assert_eq!(super::super::shown_ino(number), ino);
            }
            assert_eq!(number.and_then(Numbers::ino), direct.then_some(ino));
            assert_eq!(number.and_then(|n| numbers.file(n)), direct.then_some((volume, ino)));
            assert!(number.is_none_or(|n| n > 1 && !Numbers::is_remapped(n)), "{volume} {ino}");
        }
    }

    #[test]
    fn numbers_shown_are_fixed_for_good() {
        let numbers = Numbers::default();
        assert_eq!(numbers.direct(&key(5, 9)), Some(0xadaf_d800_0000_0009));
        assert_eq!(numbers.direct(&key(0, 1)), Some((1 << 63) - 1));
        assert_eq!(numbers.remapped().number(&key(0, 1)), 0xd692_161d_100b_05e5);
    }

    #[test]
    fn a_taken_hash_is_passed_over_until_it_is_released() {
        let mut remapped = Remapped::default();
        let first = remapped.claim(&key(0, 1));
        assert_eq!(remapped.number(&key(0, 1)), first);
        let other = key(3, 1 << 50);
        let wanted = Remapped::default().number(&other);
        remapped.taken.insert(wanted, Slot::of(&key(4, 4), None));
        let second = remapped.claim(&other);
        assert_eq!(second, wanted + 1);
        remapped.taken.remove(&wanted);
        assert_eq!(remapped.claim(&other), second, "known files keep their number");
        remapped.release(second);
        assert_eq!(remapped.number(&other), wanted);
    }
}
