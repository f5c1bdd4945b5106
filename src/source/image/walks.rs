//! Who goes through the directories of an image one after another, and what comes next.
//!
//! A client asks for nothing while it takes a listing in and looks at what is listed. So
//! the next directory can be read meanwhile, by a thread of its own.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::Nid;
use super::listing::Listing;
use crate::sync::lock;

/// In how many directories a walk is followed: as deep as one goes, in both orders.
const KEPT: usize = 32;

/// How many directories in one are followed.
const MANY: usize = 4096;

/// The directories that a walk may be in.
#[derive(Debug, Default)]
pub(super) struct Walks(Mutex<VecDeque<Walk>>);

/// The directories in one, in an order that they may be opened in.
#[derive(Debug)]
struct Walk {
    of: Nid,
    order: Box<[Nid]>,
    /// How many of them were.
    done: usize,
}

impl Walk {
    /// Notes that a directory is opened; reports whether that is one of a walk.
    fn step(&mut self, dir: Nid) -> bool {
        if self.order.get(self.done) == Some(&dir) {
            self.done = self.done.saturating_add(1);
            return true;
        }
        let begins = self.order.first() == Some(&dir);
        if begins {
            self.done = 1;
        }
        begins
    }
}

impl Walks {
    /// Notes what is in a directory of which a client gets to know.
    pub fn enter(&self, of: Nid, listing: &Listing) {
        let mut walks = lock(&self.0);
        if walks.iter().any(|walk| walk.of == of) {
            return;
        }
        for order in listing.dirs().into_iter().filter(|order| order.len() > 1) {
            walks.truncate(KEPT.saturating_sub(1));
            let order = order.iter().take(MANY).copied().collect();
            walks.push_front(Walk { of, order, done: 0 });
        }
    }

    /// Notes that a directory is opened; returns which one is next, if another one of the
    /// same walk was opened before.
    pub fn open(&self, dir: Nid) -> Option<Nid> {
        let mut walks = lock(&self.0);
        let mut next = None;
        for index in 0..walks.len() {
            let walk = walks.get_mut(index)?;
            if walk.step(dir) {
                next = walk.order.get(walk.done).copied().filter(|_| walk.done > 1).or(next);
                // Where nobody has been for long makes room for others.
                if let Some(walk) = walks.remove(index) {
                    walks.push_front(walk);
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::FileKind;
    use crate::source::image::Entry;

    /// A directory with directories of these numbers, named so that this is their order.
    fn listing(numbers: &[u64], name: impl Fn(u64) -> u64) -> Listing {
        let entry = |nid: &u64| Entry {
            name: format!("{:08}", name(*nid)).into(),
            nid: Nid(*nid),
            ino: *nid,
            kind: Some(FileKind::Directory),
        };
        Listing::new(numbers.iter().map(entry).collect()).unwrap()
    }

    fn opened(walks: &Walks, dirs: &[u64]) -> Vec<Option<u64>> {
        dirs.iter().map(|dir| walks.open(Nid(*dir)).map(|next| next.0)).collect()
    }

    #[test]
    fn a_walk_is_followed_into_what_it_comes_to() {
        let walks = Walks::default();
        walks.enter(Nid(0), &listing(&[1, 2, 3, 4], |nid| nid));
        assert_eq!(opened(&walks, &[1, 2]), [None, Some(3)]);
        walks.enter(Nid(2), &listing(&[21, 22, 23], |nid| nid));
        assert_eq!(opened(&walks, &[21, 22, 23]), [None, Some(23), None]);
        assert_eq!(opened(&walks, &[3, 4]), [Some(4), None]);
        // Once more from the beginning.
        assert_eq!(opened(&walks, &[1, 2, 21, 22]), [None, Some(3), None, Some(23)]);
    }

    #[test]
    fn what_is_opened_here_and_there_is_no_walk() {
        let walks = Walks::default();
        walks.enter(Nid(0), &listing(&[1, 2, 3, 4, 5], |nid| nid));
        assert_eq!(opened(&walks, &[3, 4, 5, 2, 9, 1, 5, 4]), [None; 8]);
    }

    #[test]
    fn names_in_their_order_are_a_walk_too() {
        let walks = Walks::default();
        walks.enter(Nid(0), &listing(&[1, 2, 3, 4], |nid| 9 - nid));
        assert_eq!(opened(&walks, &[4, 3, 2, 1]), [None, Some(2), Some(1), None]);
        assert_eq!(opened(&walks, &[1, 2, 3, 4]), [None, Some(3), Some(4), None]);
    }

    #[test]
    fn those_where_nobody_has_been_for_long_make_room() {
        let walks = Walks::default();
        for of in (0..100).map(|number| number * 10_000) {
            let below: Vec<u64> = (of + 1..of + 6000).collect();
            walks.enter(Nid(of), &listing(&below, |nid| nid));
            // One that is still used.
            walks.open(Nid(if of % 20_000 == 0 { 1 } else { 2 }));
        }
        let kept = lock(&walks.0);
        assert_eq!(kept.len(), KEPT);
        assert!(kept.iter().all(|walk| walk.order.len() <= MANY));
        assert!(kept.iter().any(|walk| walk.of == Nid(0)));
    }
}
