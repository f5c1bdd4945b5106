//! The files that callers have open, by handle and by inode number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::budget::{Budget, FILE, LOCKS, Share};
use super::open::Open;
use super::owners::{Owner, Owners};
use crate::error::Result;
use crate::id::Caller;
use crate::source::{Lock, Node};
use crate::sync::lock;
use crate::tree::Handles;

/// What is open of one inode.
#[derive(Debug, Default)]
struct Inode {
    handles: Vec<(u64, Arc<Open>)>,
    owners: Owners,
    /// Whether its contents were heard of while the kernel writes them.
    heard: bool,
    /// Its node, if they are not watched meanwhile.
    unwatched: Option<Node>,
}

/// What is left of a handle that was closed.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// The number of its node.
    pub number: u64,
    /// Whether there were locks.
    pub unlocked: bool,
    /// The node whose contents are to be watched again.
    pub heed: Option<Node>,
}

/// How many parts the table by inode has; each has a lock of its own.
const SHARDS: usize = 16;

/// The table of open files.
#[derive(Debug)]
pub(super) struct Opens {
    budget: Arc<Budget>,
    table: Handles<Open>,
    inodes: [Mutex<HashMap<u64, Inode>>; SHARDS],
    /// How many handles the kernel writes by itself.
    passed_writing: AtomicUsize,
}

impl Opens {
    /// Makes an empty table.
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        let inodes = std::array::from_fn(|_| Mutex::default());
        Self { budget, table: Handles::new(), inodes, passed_writing: AtomicUsize::new(0) }
    }

    /// Takes the descriptors of a file that a caller is to open.
    ///
    /// # Errors
    /// `ENFILE` if the caller holds too many.
    pub(super) fn share(&self, caller: &Caller) -> Result<Share> {
        self.budget.file(caller, FILE)
    }

    /// Takes the descriptor of the locks of an owner, on behalf of a caller.
    ///
    /// # Errors
    /// `ENFILE` if the caller holds too many.
    pub(super) fn share_of_locks(&self, caller: &Caller) -> Result<Share> {
        self.budget.file(caller, LOCKS)
    }

    /// Returns how many files are open.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Adds an open file and returns its handle.
    pub(super) fn insert(&self, open: Open) -> u64 {
        let open = Arc::new(open);
        let handle = self.table.insert(Arc::clone(&open));
        let mut inodes = self.inodes(open.number);
        let inode = inodes.entry(open.number).or_default();
        // Whoever opens it to write may have to do with locks.
        open.quiet.store(!open.access.write && inode.owners.is_empty(), Ordering::Relaxed);
        inode.handles.push((handle, open));
        handle
    }

    /// Notes that the kernel reads and writes a file by itself.
    pub(super) fn lent(&self, open: &Open) {
        let before = open.lent.swap(true, Ordering::Relaxed);
        if !before && open.access.write {
            self.passed_writing.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reports whether the kernel writes an inode by itself: it changes without
    /// our being told, by the descriptor or through a mapping.
    pub(super) fn is_passed_writing(&self, number: u64) -> bool {
        self.passed_writing.load(Ordering::Relaxed) != 0
            && self.find(number, Open::is_passed_writing).is_some()
    }

    /// Notes that an inode's contents were heard of; if the kernel writes it by itself
    /// and they are watched, and this is not the first time, that they are not; returns
    /// its node, which is to be ignored then.
    ///
    /// Most files are written once: two marks would cost more than one more event.
    pub(super) fn ignore(&self, number: u64, node: impl FnOnce() -> Option<Node>) -> Option<Node> {
        if !self.is_passed_writing(number) {
            return None;
        }
        let again = |inode: &mut Inode| std::mem::replace(&mut inode.heard, true);
        if !self.inodes(number).get_mut(&number).is_some_and(again) {
            return None;
        }
        let node = node()?;
        let mut inodes = self.inodes(number);
        let inode = inodes.get_mut(&number)?;
        let writes = inode.handles.iter().any(|(_, open)| open.is_passed_writing());
        if !writes || inode.unwatched.is_some() {
            return None;
        }
        inode.unwatched = Some(node.clone());
        Some(node)
    }

    /// Reports whether an inode's contents are not watched.
    pub(super) fn is_ignored(&self, number: u64) -> bool {
        self.inodes(number).get(&number).is_some_and(|inode| inode.unwatched.is_some())
    }

    /// Returns an open file.
    ///
    /// # Errors
    /// `Unknown` for a handle that is not open.
    pub(super) fn get(&self, handle: u64) -> Result<Arc<Open>> {
        self.table.get(handle)
    }

    /// Closes a handle; the locks that were set through it and no other handle
    /// go.
    pub(super) fn remove(&self, handle: u64) -> Option<Closed> {
        let open = self.table.remove(handle)?;
        let number = open.number;
        let mut inodes = self.inodes(number);
        let inode = inodes.get_mut(&number)?;
        inode.handles.retain(|(number, _)| *number != handle);
        let gone = inode.owners.release(handle, open.is_quiet());
        let mut heed = None;
        if open.is_passed_writing() {
            self.passed_writing.fetch_sub(1, Ordering::Relaxed);
            if !inode.handles.iter().any(|(_, open)| open.is_passed_writing()) {
                heed = inode.unwatched.take();
            }
        }
        let last = if inode.handles.is_empty() { inodes.remove(&number) } else { None };
        drop(inodes);
        // Only now, with no lock held, do descriptors close.
        let unlocked = !gone.is_empty() || last.is_some_and(|last| !last.owners.is_empty());
        gone.iter().for_each(|owner| owner.end());
        Some(Closed { number, unlocked, heed })
    }

    /// Returns some open file of an inode.
    pub(super) fn any(&self, number: u64) -> Option<Arc<Open>> {
        self.find(number, |_| true)
    }

    /// Returns an open file of an inode that can be read and written.
    pub(super) fn widest(&self, number: u64) -> Option<Arc<Open>> {
        self.find(number, |open| open.access.read && open.access.write)
    }

    /// Reports whether an inode is open for writing.
    pub(super) fn is_written(&self, number: u64) -> bool {
        self.written(number).is_some()
    }

    /// Returns some file of an inode that is open for writing.
    pub(super) fn written(&self, number: u64) -> Option<Arc<Open>> {
        self.find(number, |open| open.access.write)
    }

    /// Returns the node by which some open file of an inode was opened.
    pub(super) fn node(&self, number: u64) -> Option<Node> {
        self.find(number, |open| open.node.get().is_some())?.node.get().cloned()
    }

    /// Gives those open files of an inode a node that have none.
    pub(super) fn adopt(&self, number: u64, node: &Node) {
        if let Some(inode) = self.inodes(number).get(&number) {
            for (_, open) in &inode.handles {
                open.node.get_or_init(|| node.clone());
            }
        }
    }

    /// Returns a lock owner of an inode, if it has any locks.
    pub(super) fn owner(&self, number: u64, owner: u64) -> Option<Arc<Owner>> {
        self.inodes(number).get(&number)?.owners.get(owner)
    }

    /// Returns the lock owners of an inode but one.
    pub(super) fn other_owners(&self, number: u64, owner: u64) -> Vec<(u64, Arc<Owner>)> {
        let inodes = self.inodes(number);
        inodes.get(&number).map(|inode| inode.owners.others(owner)).unwrap_or_default()
    }

    /// Returns the lock owners of an inode that hold what is in the way of another
    /// one's lock.
    pub(super) fn in_the_way(&self, number: u64, owner: u64, wanted: &Lock) -> Vec<u64> {
        let others = self.other_owners(number, owner);
        let holds = others.iter().filter(|(_, other)| other.is_in_the_way(wanted));
        holds.map(|(number, _)| *number).collect()
    }

    /// Returns a lock owner of an inode, which acts through this handle.
    pub(super) fn owner_through(&self, number: u64, owner: u64, handle: u64) -> Arc<Owner> {
        self.inodes(number).entry(number).or_default().owners.through(owner, handle)
    }

    /// Drops all locks of an owner on an inode; returns whether it was known.
    pub(super) fn drop_owner(&self, number: u64, owner: u64) -> bool {
        let gone = self.inodes(number).get_mut(&number).and_then(|i| i.owners.remove(owner));
        gone.map(|owner| owner.end()).is_some()
    }

    /// Reports whether nothing is open and nobody holds a lock.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.inodes.iter().all(|part| lock(part).is_empty())
    }

    fn find(&self, number: u64, fits: impl Fn(&Open) -> bool) -> Option<Arc<Open>> {
        let inodes = self.inodes(number);
        let mut handles = inodes.get(&number)?.handles.iter();
        handles.find(|(_, open)| fits(open)).map(|(_, open)| Arc::clone(open))
    }

    fn inodes(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Inode>> {
        let [first, ..] = &self.inodes;
        let part = usize::try_from(number).unwrap_or(0) % SHARDS;
        lock(self.inodes.get(part).unwrap_or(first))
    }
}
