//! How many descriptors each caller may hold of what the server may have.
//!
//! Whoever opens more and more is refused while some are left for others: a
//! caller, that is a uid of the view, may hold three times what it leaves
//! free of seven eighths. So one alone gets three quarters of these, the next
//! one three quarters of the rest, and so on. The last eighth is for a few files
//! and a few directories that everyone may hold whatever others do, and the
//! last of it for directories alone: whoever is refused, or comes late, can
//! still walk and list.
//!
//! Root of the view (uid 0) is a caller like others, since the descriptors end
//! for it as well, but it may hold more: seven times what it leaves free of
//! all, and the very last. It stands for the services of a whole system, and for all who
//! come through an overlay on top of the view; and whatever others hold, an
//! administrator must be able to look into it. So the kernel's own limit
//! (`file-max`: `alloc_empty_file`, fs/file_table.c) does not bind
//! `CAP_SYS_ADMIN`. Here the id decides, not the capability, which would have
//! to be read in `/proc` at every open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use crate::error::{Errno, Error, Result};
use crate::id::{Caller, Id, User, View};
use crate::sync::lock;

/// What the server holds for itself: its devices, the root, `/proc`, its
/// record and socket, and what a request opens for a moment.
const OWN: usize = 24;

/// The descriptors of an open file: its own, and that of its node.
pub(super) const FILE: usize = 2;
/// The descriptors of an open directory, likewise.
pub(super) const DIRECTORY: usize = 2;
/// The descriptor that holds the locks of one owner.
pub(super) const LOCKS: usize = 1;

/// What descriptors are held for.
#[derive(Clone, Copy, Debug)]
enum What {
    /// An open file, or the locks of an owner.
    File,
    /// An open directory.
    Directory,
}

/// How far a caller may go beyond a few.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// How many times what it leaves free it may hold.
    times: usize,
    /// How many eighths of all do not count as free.
    eighths: usize,
    /// How many quarters of the last descriptors must be left, by a few too.
    quarters: usize,
}

const FILES: Bound = Bound { times: 3, eighths: 1, quarters: 4 };
const DIRECTORIES: Bound = Bound { times: 3, eighths: 1, quarters: 1 };
const FILES_OF_ROOT: Bound = Bound { times: 7, eighths: 0, quarters: 3 };
const DIRECTORIES_OF_ROOT: Bound = Bound { times: 15, eighths: 0, quarters: 0 };

/// Who holds descriptors; all callers without an id in the view are one.
type Uid = Option<Id<User, View>>;

/// The descriptors that callers hold.
#[derive(Debug)]
pub(super) struct Budget {
    held: Mutex<Held>,
    /// How many all of them may be.
    most: usize,
    /// How many of each kind everyone may hold while there are any but the last.
    few: usize,
    /// How many the last are, which are for listing and for root.
    last: usize,
}

/// How many descriptors are held.
#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// By those who hold any, which add up to `all`.
    by: HashMap<Uid, Own>,
    /// Those of removed files that are held for whoever knows them, in addition
    /// to `all`; as last told, which may be more than there are by now.
    removed: usize,
}

/// What one caller holds.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    files: usize,
    directories: usize,
}

impl Own {
    const fn part(&mut self, what: What) -> &mut usize {
        match what {
            What::File => &mut self.files,
            What::Directory => &mut self.directories,
        }
    }

    const fn sum(self) -> usize {
        self.files.saturating_add(self.directories)
    }
}

impl Budget {
    /// Makes the budget of a server that may have so many descriptors.
    pub(super) fn new(descriptors: usize) -> Arc<Self> {
        let most = descriptors.saturating_sub(OWN).max(8);
        let few = (most / 64).clamp(8, 32);
        let last = (most / 32).min(few);
        Arc::new(Self { held: Mutex::default(), most, few, last })
    }

    /// Takes what an open file or the locks of an owner need.
    ///
    /// # Errors
    /// `ENFILE` if the caller holds too much of what there is.
    pub(super) fn file(self: &Arc<Self>, caller: &Caller, count: usize) -> Result<Share> {
        let bound = if caller.is_root() { FILES_OF_ROOT } else { FILES };
        self.take(caller.uid, What::File, count, bound)
    }

    /// Takes what an open directory needs.
    ///
    /// # Errors
    /// As [`Budget::file`].
    pub(super) fn directory(self: &Arc<Self>, caller: &Caller) -> Result<Share> {
        let bound = if caller.is_root() { DIRECTORIES_OF_ROOT } else { DIRECTORIES };
        self.take(caller.uid, What::Directory, DIRECTORY, bound)
    }

    /// Reports whether so little is held that it does not matter by whom.
    pub(super) fn is_roomy(&self) -> bool {
        lock(&self.held).all < self.most / 4
    }

    /// Tells how many removed files are held, and reports whether there is room
    /// for one more, which is then counted.
    pub(super) fn one_more(&self, removed: usize) -> bool {
        let mut held = lock(&self.held);
        let sum = removed.saturating_add(1);
        let room = held.all.saturating_add(sum).saturating_add(self.last) <= self.most;
        held.removed = if room { sum } else { removed };
        room
    }

    /// Tells how many removed files are held.
    pub(super) fn removed(&self, count: usize) {
        lock(&self.held).removed = count;
    }

    fn take(self: &Arc<Self>, uid: Uid, what: What, count: usize, bound: Bound) -> Result<Share> {
        const FULL: Error = Error::Os(Errno(libc::ENFILE));
        let mut held = lock(&self.held);
        let all = held.all.saturating_add(count);
        let mut own = held.by.get(&uid).copied().unwrap_or_default();
        let part = own.part(what);
        *part = part.saturating_add(count);
        let few = *part <= self.few;
        let used = all.saturating_add(held.removed);
        let free = self.most.checked_sub(used).ok_or(FULL)?;
        let last = self.last.saturating_mul(bound.quarters) / 4;
        let kept = (self.most / 8).saturating_mul(bound.eighths);
        let fair = free.saturating_sub(kept).saturating_mul(bound.times);
        if free < last || !(few || own.sum() <= fair) {
            return Err(FULL);
        }
        held.all = all;
        held.by.insert(uid, own);
        drop(held);
        Ok(Share { of: Arc::clone(self), uid, what, count })
    }

    /// Returns how many descriptors a caller holds, and how many all do.
    #[cfg(test)]
    pub(super) fn held(&self, caller: &Caller) -> (usize, usize) {
        let held = lock(&self.held);
        (held.by.get(&caller.uid).map_or(0, |own| own.sum()), held.all)
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Budget>,
    uid: Uid,
    what: What,
    count: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = lock(&self.of.held);
        held.all = held.all.saturating_sub(self.count);
        if let Entry::Occupied(mut own) = held.by.entry(self.uid) {
            let part = own.get_mut().part(self.what);
            *part = part.saturating_sub(self.count);
            // There are more uids than there is memory for.
            if own.get().sum() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const FULL: Error = Error::Os(Errno(libc::ENFILE));

    fn user(uid: u32) -> Caller {
        Caller { uid: Id::new(uid), gid: Id::new(1), pid: 1 }
    }

    /// Takes as much as there is.
    fn all(take: impl Fn() -> Result<Share>) -> Vec<Share> {
        std::iter::from_fn(|| take().ok()).collect()
    }

    #[test]
    fn one_alone_gets_most_and_each_after_it_most_of_the_rest() {
        let budget = Budget::new(OWN + 6400);
        let mut kept = Vec::new();
        for (uid, files) in [(1, 2100), (2, 525), (3, 131), (4, 33)] {
            let shares = all(|| budget.file(&user(uid), FILE));
            assert_eq!(shares.len(), files, "{uid}");
            assert_eq!(budget.file(&user(uid), FILE).err(), Some(FULL));
            kept.extend(shares);
        }
        kept.drain(..2100);
        // The rest of what the others let go is for whoever comes.
        assert_eq!(all(|| budget.file(&user(5), FILE)).len(), 1583);
        kept.clear();
        assert!(lock(&budget.held).by.is_empty(), "whoever holds nothing is not remembered");
        assert_eq!(budget.held(&user(1)), (0, 0));
        assert_eq!(all(|| budget.file(&user(3), FILE)).len(), 2100);
    }

    #[test]
    fn everyone_may_have_a_few_and_the_last_are_for_listing_and_then_for_root() {
        let budget = Budget::new(OWN + 512);
        let few: Vec<_> = (1..=80).flat_map(|uid| all(|| budget.file(&user(uid), LOCKS))).collect();
        let each: Vec<_> = (1..=5).map(|uid| budget.held(&user(uid)).0).collect();
        assert_eq!((each, few.len()), (vec![336, 84, 21, 8, 8], 504));
        let file = budget.file(&user(0), FILE).unwrap();
        assert_eq!(budget.file(&user(0), LOCKS).err(), Some(FULL));
        let listing = [6, 7].map(|uid| budget.directory(&user(uid)).unwrap());
        assert_eq!(budget.directory(&user(8)).err(), Some(FULL));
        let root = budget.directory(&user(0)).unwrap();
        assert_eq!(budget.held(&user(0)), (4, 512));
        drop((few, file, listing, root));
        assert_eq!(budget.held(&user(0)), (0, 0));
    }

    #[test]
    fn more_is_left_for_directories_and_for_root() {
        let budget = Budget::new(OWN + 640);
        let nobody = Caller { uid: None, ..user(1) };
        for (caller, files, directories) in
            [(user(1), 210, 5), (nobody, 210, 5), (user(0), 280, 20)]
        {
            let held = all(|| budget.file(&caller, FILE));
            let listed = all(|| budget.directory(&caller));
            assert_eq!((held.len(), listed.len()), (files, directories), "{caller:?}");
            let other = all(|| budget.file(&user(2), FILE));
            assert!(other.len() >= 5, "{}", other.len());
        }
    }

    #[test]
    fn what_holds_removed_files_is_not_free() {
        let budget = Budget::new(OWN + 512);
        assert!(budget.one_more(63));
        let held = all(|| budget.file(&user(1), FILE));
        assert_eq!(held.len() * 2, (448 - 64) / 4 * 3);
        assert!((64..160).all(|count| budget.one_more(count)));
        assert!(!budget.one_more(216), "the last are for those who list");
        assert_eq!(budget.held(&user(1)), (288, 288));
        budget.removed(0);
        assert_eq!(all(|| budget.file(&user(1), FILE)).len(), (336 - 288) / 2);
    }

    #[test]
    fn a_small_limit_leaves_something_for_everything() {
        for descriptors in [0, 20, 64, 256] {
            let (budget, by) = (Budget::new(descriptors), user(1));
            let file = budget.file(&by, FILE).unwrap();
            assert!(budget.file(&by, LOCKS).is_ok() && budget.directory(&by).is_ok());
            drop(file);
        }
    }

    proptest! {
        #[test]
        fn what_is_held_adds_up(
            descriptors in 0..400_usize,
            steps in prop::collection::vec((0..5_u32, 0..3_u8, any::<prop::sample::Index>()), 1..400),
        ) {
            let budget = Budget::new(descriptors);
            let mut shares: Vec<Share> = Vec::new();
            for (uid, what, which) in steps {
                let by = user(uid);
                match what {
                    0 if !shares.is_empty() => drop(shares.swap_remove(which.index(shares.len()))),
                    1 => shares.extend(budget.directory(&by)),
                    _ => shares.extend(budget.file(&by, FILE)),
                }
                let sum = |of: Option<u32>| -> usize {
                    let fits = |s: &&Share| of.is_none() || s.uid == of.and_then(Id::new);
                    shares.iter().filter(fits).map(|share| share.count).sum()
                };
                prop_assert_eq!(budget.held(&by), (sum(Some(uid)), sum(None)));
                prop_assert!(sum(None) <= budget.most);
                let holders: HashSet<_> = shares.iter().map(|share| share.uid).collect();
                prop_assert_eq!(lock(&budget.held).by.len(), holders.len());
            }
        }
    }
}
