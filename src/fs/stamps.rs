//! What files were like when they were last opened, to tell whether pages from then are
//! still what they have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::cells::mix;
use crate::attr::{Attr, Time};
use crate::id::Disk;
use crate::source::is_settled;

/// How many sets of files there are.
const SETS: usize = 1 << 14;
/// How many files of a set are remembered. With fewer, a few thousand files that are
/// opened again and again would push each other out.
const FILES: usize = 4;
/// The bits of a stamp that say which file of its set it is of.
const FILE: u64 = 0xffff;

/// For how long pages are kept at most.
const HOUR: u64 = 3600;

/// A hash of what each file was like, and of which file it is; 0 for none.
type Set = [AtomicU64; FILES];

/// The files that were opened last.
#[derive(Debug)]
pub(super) struct Stamps {
    sets: Box<[Set]>,
    start: Instant,
}

impl Stamps {
    /// Makes a table that remembers none, or for `on` as many as there is room for.
    pub(super) fn new(on: bool) -> Self {
        let sets = (0..if on { SETS } else { 0 }).map(|_| Set::default()).collect();
        Self { sets, start: Instant::now() }
    }

    /// Forgets a file: pages from before are not to be kept.
    pub(super) fn forget(&self, file: (u64, u64)) {
        let (set, hash) = self.place(file);
        for cell in set.into_iter().flatten().filter(|cell| is_of(cell, hash)) {
            cell.store(0, Ordering::SeqCst);
        }
    }

    /// Reports whether a file, by volume and inode number, is as it was when it was last
    /// opened, as which it counts from now on.
    pub(super) fn is_as_last_opened(&self, file: (u64, u64), attr: &Attr<Disk>) -> bool {
        let (Some(set), hash) = self.place(file) else { return false };
        // Stores to a mapping may leave no trace at all (tmpfs), so not for ever.
        let hour = self.start.elapsed().as_secs().checked_div(HOUR).unwrap_or(0);
        let new = stamp(hash, attr, hour);
        // Where another change would leave no trace it is as good as changed.
        let next = if is_settled(attr) { new } else { 0 };
        let free = || set.iter().find(|cell| cell.load(Ordering::SeqCst) == 0);
        // Any will do; the same is not hit each time.
        let any = || set.get(usize::try_from(new >> 62).unwrap_or(0));
        let own = set.iter().find(|cell| is_of(cell, hash));
        let Some(cell) = own.or_else(free).or_else(any) else { return false };
        let old = cell.load(Ordering::SeqCst);
        if old != next && (own.is_some() || next != 0) {
            cell.store(next, Ordering::SeqCst);
        }
        old == new
    }

    /// Returns the set that a file is in, and a hash of which file it is.
    fn place(&self, (volume, ino): (u64, u64)) -> (Option<&Set>, u64) {
        let hash = mix(volume.rotate_left(32) ^ ino);
        let at = usize::try_from(hash >> 16).ok().and_then(|at| at.checked_rem(self.sets.len()));
        (at.and_then(|at| self.sets.get(at)), hash)
    }
}

/// Returns what all stamps of a file have in common; never 0.
const fn tag(hash: u64) -> u64 {
    let tag = hash & FILE;
    if tag == 0 { 1 } else { tag }
}

fn is_of(cell: &AtomicU64, hash: u64) -> bool {
    cell.load(Ordering::SeqCst) & FILE == tag(hash)
}

/// Returns what tells one state of a file from another one, or from the same in
/// another hour; never 0. Of which file says its hash.
fn stamp(file: u64, attr: &Attr<Disk>, hour: u64) -> u64 {
    let time = |time: Time| [time.sec.cast_unsigned(), u64::from(time.nsec)];
    let ([mtime, mtime_nsec], [ctime, ctime_nsec]) = (time(attr.mtime), time(attr.ctime));
    let parts = [file, mtime, mtime_nsec, ctime, ctime_nsec, attr.size, hour];
    let hash = parts.into_iter().fold(1, |hash: u64, part| mix(hash.rotate_left(5) ^ mix(part)));
    hash & !FILE | tag(file)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::source::settled::tests::attr;

    #[test]
    fn pages_are_not_kept_for_ever() {
        let attr = attr(Duration::from_secs(9), Some(5));
        assert_eq!(stamp(2, &attr, 0), stamp(2, &attr, 0));
        assert_ne!(stamp(2, &attr, 0), stamp(2, &attr, 1));
    }

    #[test]
    fn thousands_are_remembered_side_by_side() {
        let (stamps, old) = (Stamps::new(true), attr(Duration::from_secs(9), Some(5)));
        let ask = |ino, attr: &Attr<Disk>| stamps.is_as_last_opened((0, ino), attr);
        let all = 1000..9000;
        assert_eq!(all.clone().filter(|ino| ask(*ino, &Attr { ino: *ino, ..old })).count(), 0);
        let kept = all.filter(|ino| ask(*ino, &Attr { ino: *ino, ..old })).count();
        assert!(kept > 7900, "{kept}");
        let changed = Attr { ino: 1000, size: 1, ..old };
        assert!(!ask(1000, &changed) && ask(1000, &changed));
        stamps.forget((0, 1000));
        assert!(!ask(1000, &changed) && ask(1000, &changed));
        let unsettled = attr(Duration::ZERO, None);
        assert!(!ask(1000, &unsettled) && !ask(1000, &unsettled) && !ask(1000, &changed));
        assert!(!Stamps::new(false).is_as_last_opened((0, 1000), &old));
    }
}
