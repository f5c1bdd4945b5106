//! Open files that the kernel reads and writes by itself.
//!
//! What a caller may do with them has been decided when they were opened, and
//! the host treats every writer as one without privilege. What else is asked of
//! an open file comes here as ever.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Fs;
use crate::error::Result;
use crate::source::{Lending, Lent};
use crate::sync::lock;

/// The files that somebody may store to, by number, through a mapping of the host's
/// file: it outlives the descriptor, and nobody is told when it ends.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    count: AtomicUsize,
    numbers: Mutex<HashSet<u64>>,
}

impl Mapped {
    fn add(&self, number: u64) {
        let mut numbers = lock(&self.numbers);
        numbers.insert(number);
        self.count.store(numbers.len(), Ordering::Relaxed);
    }

    fn remove(&self, number: u64, unless: impl FnOnce() -> bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut numbers = lock(&self.numbers);
        // Looked at under the lock: one that came back may be mapped again.
        if !unless() {
            numbers.remove(&number);
            self.count.store(numbers.len(), Ordering::Relaxed);
        }
    }

    fn has(&self, number: u64) -> bool {
        self.count.load(Ordering::Relaxed) != 0 && lock(&self.numbers).contains(&number)
    }
}

impl Fs {
    /// Returns what of an open file the kernel can do by itself.
    ///
    /// # Errors
    /// `Unknown` for a handle that is not open; as fstat(2).
    pub fn lending(&self, handle: u64) -> Result<Lending> {
        self.opens.get(handle)?.file.lending()
    }

    /// Hands over a descriptor of an open file that the kernel can open by
    /// itself, with the rights that this thread has meanwhile; returns what is made
    /// of it, or was at an earlier time.
    ///
    /// # Errors
    /// `Unknown` for a handle that is not open; `Unsupported` for a file that is
    /// not lent; as `to`.
    pub fn lend(
        &self,
        handle: u64,
        to: &mut dyn FnMut(BorrowedFd<'_>) -> Result<Lent>,
    ) -> Result<Lent> {
        self.opens.get(handle)?.file.lend(to)
    }

    /// Notes that the kernel reads an open file by itself from now on, and writes
    /// it if it is open for that; reports whether it is.
    ///
    /// # Errors
    /// `Unknown` for a handle that is not open.
    pub fn passed(&self, handle: u64) -> Result<bool> {
        let open = self.opens.get(handle)?;
        self.opens.lent(&open);
        // A shared mapping that can be written takes a descriptor that does both.
        if open.access.read && open.access.write {
            self.mapped.add(open.number);
        }
        Ok(open.access.write)
    }

    /// Reports whether an open file is closed without a flush: it was opened for
    /// reading while nobody had a lock on it.
    ///
    /// # Errors
    /// `Unknown` for a handle that is not open.
    pub fn is_quiet(&self, handle: u64) -> Result<bool> {
        Ok(self.opens.get(handle)?.is_quiet())
    }

    /// Reports whether the kernel writes a file by itself, by a descriptor or
    /// through a mapping: what was told of its size and times is soon wrong.
    pub fn is_passed_writing(&self, number: u64) -> bool {
        self.opens.is_passed_writing(number)
    }

    /// Reports whether somebody may change a file through a mapping unheard, though
    /// it is closed: until the kernel forgets it.
    pub(super) fn may_be_mapped(&self, number: u64) -> bool {
        self.mapped.has(number)
    }

    /// Notes that the kernel has taken lookups of a file back.
    pub(super) fn is_unmapped_if_forgotten(&self, number: u64) {
        self.mapped.remove(number, || self.tree.knows(number));
    }

    /// Has the contents of a file ignored for as long as the kernel writes it by
    /// itself: its callers' writes look like others', and its size and times are
    /// not believed meanwhile. [`Fs::release`] says when the last of them is done.
    ///
    /// Called by one thread, the one that hears of changes.
    pub(super) fn ignore_contents(&self, number: u64) {
        let Some(watch) = self.watch() else { return };
        let Some(node) = self.opens.ignore(number, || self.node(number).ok()) else { return };
        watch.ignore_contents(&node);
        // The last release may have come in between, and heeded it too early.
        if !self.opens.is_ignored(number) {
            watch.heed_contents(&node);
        }
    }
}
