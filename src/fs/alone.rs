//! Serving a source that nobody else changes: the kernel opens files without
//! asking, caches what is written, and keeps locks to itself.
//!
//! What it then reads and writes comes with no handle. A few files are kept open
//! for that, by number and by what they are opened for, and verified by their
//! identity, since a number may come back for another file. One that has lost its
//! last name is held by the tree for as long as the kernel knows it; where that fails,
//! a new file of its number is shown as another one by the tree, so that what is
//! written to the old one does not reach it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::Fs;
use super::open::Open;
use super::opens::Opens;
use crate::error::{Error, Result};
use crate::source::Key;
use crate::sync::lock;

/// A file that is kept open for whoever comes.
#[derive(Debug)]
pub struct Kept {
    opens: Arc<Opens>,
    key: Key,
    handle: u64,
}

impl Kept {
    /// Returns its handle, which is good for as long as this is there.
    pub const fn handle(&self) -> u64 {
        self.handle
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.opens.remove(self.handle));
    }
}

/// The files that are kept open, by number and whether they can be written; the
/// least recently used ones are closed first.
#[derive(Debug)]
pub(super) struct Alone {
    on: AtomicBool,
    most: usize,
    files: Mutex<LruCache<(u64, bool), Arc<Kept>>>,
}

impl Alone {
    /// Makes an empty table of at most so many files, but at least one.
    pub(super) fn new(most: usize) -> Self {
        let files = Mutex::new(LruCache::unbounded());
        Self { on: AtomicBool::new(false), most: most.max(1), files }
    }

    fn get(&self, number: u64, write: bool, key: &Key) -> Option<Arc<Kept>> {
        let mut files = lock(&self.files);
        files.get(&(number, write)).filter(|kept| kept.key == *key).map(Arc::clone)
    }

    fn put(&self, number: u64, write: bool, kept: &Arc<Kept>) {
        let mut files = lock(&self.files);
        let old = files.push((number, write), Arc::clone(kept));
        let last = if files.len() > self.most { files.pop_lru() } else { None };
        // Closed without the lock.
        drop(files);
        drop((old, last));
    }

    fn remove(&self, number: u64) {
        let mut files = lock(&self.files);
        let gone = [false, true].map(|write| files.pop(&(number, write)));
        drop(files);
        drop(gone);
    }

    /// Lets the less recently used half go; returns how many.
    pub(super) fn shrink(&self) -> usize {
        let mut files = lock(&self.files);
        let half = files.len().div_ceil(2);
        let gone: Vec<_> = (0..half).map_while(|_| files.pop_lru()).collect();
        drop(files);
        gone.len()
    }
}

/// Reports whether there are no descriptors left.
pub(super) fn is_full(error: Error) -> bool {
    error.is(libc::EMFILE) || error.is(libc::ENFILE)
}

impl Fs {
    /// Reports whether the kernel may open files without asking: where nothing but
    /// owner, mode and ACL, which it checks, decides who may, and nothing keeps the
    /// server from writing what they have: it opens files later than they did.
    pub fn may_be_alone(&self) -> bool {
        !self.checks() && !self.has_rules() && self.source.facts().any_file
    }

    /// Serves from now on a source that nobody else changes, as was agreed with
    /// the kernel.
    pub fn be_alone(&self) {
        self.alone.on.store(true, Ordering::Relaxed);
    }

    /// Reports whether the kernel opens files without asking.
    pub fn is_alone(&self) -> bool {
        self.alone.on.load(Ordering::Relaxed)
    }

    /// Returns a file that the kernel has opened without asking.
    ///
    /// # Errors
    /// `Unknown` or `Stale` for a file that is not there; as open(2).
    pub fn kept(&self, number: u64, write: bool) -> Result<Arc<Kept>> {
        let key = self.tree.key(number)?;
        if let Some(kept) = self.alone.get(number, write, &key) {
            return Ok(kept);
        }
        let node = self.node(number)?;
        let flags = if write { libc::O_WRONLY } else { libc::O_RDONLY };
        let open = || self.tree.with_room(|| self.source.open(&node, flags));
        let file = match open() {
            Err(error) if is_full(error) => {
                self.alone.shrink();
                open()
            }
            opened => opened,
        }?;
        let open = Open::new(number, file, flags, Some(node), None);
        let handle = self.opens.insert(open);
        Ok(self.keep((number, key), write, handle))
    }

    /// Keeps an open file that was just made, for writing: the kernel sends no
    /// release for it.
    ///
    /// # Errors
    /// `Unknown` for a file that is not there.
    pub fn keep_made(&self, number: u64, handle: u64) -> Result<()> {
        let key = self.tree.key(number)?;
        // It counts for nobody from here on: it may be closed at any time.
        self.opens.get(handle)?.give_share_back();
        drop(self.keep((number, key), true, handle));
        Ok(())
    }

    fn keep(&self, (number, key): (u64, Key), write: bool, handle: u64) -> Arc<Kept> {
        let kept = Arc::new(Kept { opens: Arc::clone(&self.opens), key, handle });
        self.alone.put(number, write, &kept);
        // Looked at last: whoever forgets the number removes the file after that.
        if self.tree.key(number).as_ref() != Ok(&kept.key) {
            self.alone.remove(number);
        }
        kept
    }

    /// Closes what is kept open of a file that may be opened no longer as it was.
    pub(super) fn close_kept(&self, number: u64) {
        if self.is_alone() {
            self.alone.remove(number);
        }
    }

    /// Closes what is kept open of a number that the kernel has forgotten.
    pub(super) fn close_forgotten(&self, number: u64) {
        if self.is_alone() && self.tree.key(number).is_err() {
            self.alone.remove(number);
        }
    }
}
