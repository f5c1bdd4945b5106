//! How many descriptors callers may hold of what the server may have.
//!
//! Whoever opens files until there are no more descriptors is refused while
//! some are left, so that others can still walk, look and list.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Errno, Error, Result};

/// What the server holds for itself: its devices, the root, `/proc`, its
/// record and socket, and what a request opens for a moment.
const OWN: usize = 24;

/// The descriptors of an open file: its own, and that of its node.
pub(super) const FILE: usize = 2;
/// The descriptors of an open directory, likewise.
pub(super) const DIRECTORY: usize = 2;
/// The descriptor that holds the locks of one owner.
pub(super) const LOCKS: usize = 1;

/// The descriptors that callers hold.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    /// How many all of them may be.
    most: usize,
    /// How many may be used when something other than a directory is opened.
    most_of_files: usize,
}

impl Budget {
    /// Makes the budget of a server that may have so many descriptors.
    pub(super) fn new(descriptors: usize) -> Arc<Self> {
        let most = descriptors.saturating_sub(OWN).max(8);
        let most_of_files = most.saturating_sub(most / 8);
        Arc::new(Self { used: AtomicUsize::new(0), most, most_of_files })
    }

    /// Takes what an open file or the locks of an owner need.
    ///
    /// # Errors
    /// `ENFILE` if callers hold too much already.
    pub(super) fn file(self: &Arc<Self>, count: usize) -> Result<Share> {
        self.take(count, self.most_of_files)
    }

    /// Takes what an open directory needs.
    ///
    /// # Errors
    /// As [`Budget::file`].
    pub(super) fn directory(self: &Arc<Self>) -> Result<Share> {
        self.take(DIRECTORY, self.most)
    }

    fn take(self: &Arc<Self>, count: usize, most: usize) -> Result<Share> {
        let more = |used: usize| used.checked_add(count).filter(|sum| *sum <= most);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(|_before| Share { of: Arc::clone(self), count })
            .map_err(|_full| Error::Os(Errno(libc::ENFILE)))
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Budget>,
    count: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_given_back_and_directories_have_more() {
        let budget = Budget::new(OWN + 16);
        let files: Vec<_> = (0..7).map(|_| budget.file(FILE).unwrap()).collect();
        assert_eq!(budget.file(FILE).err(), Some(Error::Os(Errno(libc::ENFILE))));
        assert!(budget.file(LOCKS).is_err(), "files have taken all of theirs");
        let dir = budget.directory().unwrap();
        assert!(budget.directory().is_err());
        drop((files, dir));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_small_limit_leaves_something_for_everything() {
        for descriptors in [0, 20, 64, 256] {
            let budget = Budget::new(descriptors);
            let file = budget.file(FILE).unwrap();
            assert!(budget.file(LOCKS).is_ok() && budget.directory().is_ok());
            drop(file);
        }
    }
}
