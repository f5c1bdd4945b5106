//! Which number is shown for which file.
//!
//! The layout of a number, so that no two sources of numbers can meet:
//!
//! - top bit 0: the inode number of volume 0, which is almost every file;
//! - top bits 10: 22 bits of a volume's tag, then 40 bits of inode number;
//! - top bits 11: a remapped file, 62 bits of a hash of volume and number.
//!
//! All three are functions of what the volume and the number are, so they
//! come out the same after a remount, unless two volumes have one tag or two
//! remapped files one hash: then whoever comes first has it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, RwLock};

use crate::source::Key;
use crate::sync::{lock, read, write};

const OTHER_VOLUME: u64 = 0b10 << 62;
const REMAPPED: u64 = 0b11 << 62;
const TAG_BITS: u32 = 22;
const INO_BITS: u32 = 40;

/// What tells numbers of files apart.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The volume that has a tag; volumes are few and never taken out.
    tags: RwLock<HashMap<u64, u64>>,
    remapped: Mutex<Remapped>,
}

impl Numbers {
    /// Reports whether a number is one of [`Remapped`].
    pub(super) const fn is_remapped(number: u64) -> bool {
        number & REMAPPED == REMAPPED
    }

    /// Returns the number that follows from the file alone; `None` if it has
    /// to be remapped.
    pub(super) fn direct(&self, key: &Key) -> Option<u64> {
        if key.volume == 0 {
            // 0 is no inode and 1 is the anchor.
            return (2..OTHER_VOLUME).contains(&key.ino).then_some(key.ino);
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

/// Known files whose number does not follow from them alone.
#[derive(Debug, Default)]
pub(super) struct Remapped {
    /// From volume and inode number.
    numbers: HashMap<(u64, u64), u64>,
    pub(super) taken: HashSet<u64>,
}

impl Remapped {
    /// Returns the number that a file has, or would get now.
    pub(super) fn number(&self, key: &Key) -> u64 {
        if let Some(number) = self.numbers.get(&(key.volume, key.ino)) {
            return *number;
        }
        let mut hash = mix(mix(key.volume).wrapping_add(key.ino));
        while self.taken.contains(&(REMAPPED | hash)) {
            hash = hash.wrapping_add(1);
        }
        REMAPPED | hash
    }

    /// Gives a file its number, until it is released.
    pub(super) fn claim(&mut self, key: &Key) -> u64 {
        let number = self.number(key);
        self.numbers.insert((key.volume, key.ino), number);
        self.taken.insert(number);
        number
    }

    /// Takes the number of a file back.
    pub(super) fn release(&mut self, key: &Key) {
        if let Some(number) = self.numbers.remove(&(key.volume, key.ino)) {
            self.taken.remove(&number);
        }
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
            (0, 1, false),
            (0, 2, true),
            (0, (1 << 63) - 1, true),
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
                assert_eq!(number, Some(ino));
            }
            assert!(number.is_none_or(|n| n > 1 && !Numbers::is_remapped(n)), "{volume} {ino}");
        }
    }

    #[test]
    fn numbers_shown_are_fixed_for_good() {
        let numbers = Numbers::default();
        assert_eq!(numbers.direct(&key(5, 9)), Some(0xadaf_d800_0000_0009));
        assert_eq!(numbers.remapped().number(&key(0, 1)), 0xd692_161d_100b_05e5);
    }

    #[test]
    fn a_taken_hash_is_passed_over_until_it_is_released() {
        let mut remapped = Remapped::default();
        let first = remapped.claim(&key(0, 1));
        assert_eq!(remapped.number(&key(0, 1)), first);
        let wanted = Remapped::default().number(&key(3, 1 << 50));
        remapped.taken.insert(wanted);
        let second = remapped.claim(&key(3, 1 << 50));
        assert_eq!(second, wanted + 1);
        remapped.taken.remove(&wanted);
        assert_eq!(remapped.claim(&key(3, 1 << 50)), second, "known files keep their number");
        remapped.release(&key(3, 1 << 50));
        assert_eq!(remapped.number(&key(3, 1 << 50)), wanted);
    }
}
