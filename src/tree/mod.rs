//! What is known of the files that the kernel knows: numbers, generations,
//! lookup counts, and the nodes held open for them.
//!
//! A node id on the wire is the inode number shown. While the kernel has lookups
//! of a number, it stands for one file: another one that the host gives the same
//! inode number meanwhile is shown under a number of its own.

mod handles;
mod inode;
mod inodes;
mod nodes;
mod number;
mod open;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::attr::Name;
use crate::count::{self, Count};
use crate::error::{Error, Result};
use crate::policy::State;
use crate::source::{Found, Key, Node, Source};

pub use handles::Handles;

use nodes::Nodes;
use number::Numbers;
use table::Table;

/// The node id of the root that the kernel makes before it asks anything.
pub const ANCHOR: u64 = 1;

/// Returns the inode number that callers are to see of a node that is not the anchor:
/// the node's own, but for one, since no other node than the anchor can be 1.
pub const fn shown_ino(number: u64) -> u64 {
    if number == number::FIRST { 1 } else { number }
}

/// What the kernel is told of a file: its number and which file of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node id, which is also the inode number shown; never 0 or 1.
    pub number: u64,
    /// The generation of the number.
    pub generation: u64,
}

/// The table of inodes.
///
/// It is safe to use from many threads at once, and holds no lock while it
/// asks the source.
#[derive(Debug)]
pub struct Tree {
    source: Arc<dyn Source>,
    root: Identity,
    /// Open for good, so that the number of the root cannot come back.
    root_node: Node,
    numbers: Numbers,
    table: Table,
    nodes: Nodes,
    /// Whether any file was encrypted: mostly none is, and nobody looks it up then.
    any_encrypted: AtomicBool,
}

impl Tree {
    /// Makes a table that knows the root, and holds at most `capacity` nodes
    /// open that nothing else needs.
    ///
    /// # Errors
    /// As [`Source::root`].
    pub fn new(source: Arc<dyn Source>, capacity: usize) -> Result<Self> {
        let (root_node, found) = source.root()?;
        let numbers = Numbers::default();
        let number = match numbers.direct(&found.key) {
            Some(number) => number,
            None => numbers.remapped().claim(&found.key),
        };
        let root = Identity { number, generation: found.key.generation };
        let table = Table::new();
        let _first = table.remember(number, (ANCHOR, OsStr::new("")), &found, &State::default());
        let (nodes, any_encrypted) = (Nodes::new(capacity), found.attr.encrypted.into());
        Ok(Self { source, root, root_node, numbers, table, nodes, any_encrypted })
    }

    /// Returns the identity of the root; it is never forgotten.
    pub fn root(&self) -> Identity {
        self.root
    }

    /// Counts one lookup of the file that `name` in `parent` led to, which has
    /// this state there.
    ///
    /// A file whose number the kernel knows an earlier one by gets another, and
    /// so does one for each further state that its names have. Lookups of the
    /// root are not counted.
    pub fn remember(&self, parent: u64, name: Name<'_>, found: &Found, state: &State) -> Identity {
        self.remember_at((parent, name.as_os_str()), found, state)
    }

    /// Does the same for a file that was found without a name: where it was found with one
    /// before, that stays.
    pub fn remember_nameless(&self, found: &Found, state: &State) -> Identity {
        self.remember_at((ANCHOR, OsStr::new("")), found, state)
    }

    /// Counts one more lookup of a file that the kernel knows.
    ///
    /// # Errors
    /// `Unknown` if it does not, or knows another one by that number.
    pub fn remember_again(&self, number: u64, key: &Key) -> Result<Identity> {
        if number == self.root.number {
            return Ok(self.root);
        }
        let counted = self.table.count(number, key);
        counted.then_some(Identity { number, generation: key.generation }).ok_or(Error::Unknown)
    }

    fn remember_at(&self, place: (u64, &OsStr), found: &Found, state: &State) -> Identity {
        if found.attr.encrypted {
            self.any_encrypted.store(true, Ordering::Relaxed);
        }
        let number = self.count(place, found, state);
        if number == self.root.number {
            return self.root;
        }
        Identity { number, generation: found.key.generation }
    }

    /// Counts one lookup; returns the number.
    fn count(&self, place: (u64, &OsStr), found: &Found, state: &State) -> u64 {
        let key = &found.key;
        let counted =
            |number| number == self.root.number || self.table.remember(number, place, found, state);
        let direct = self.numbers.direct(key);
        if let Some(number) = direct
            && self.numbers.moved(key, state).is_none()
            && counted(number)
        {
            return number;
        }
        let mut remapped = self.numbers.remapped();
        if direct.is_none() && remapped.moved(key, state).is_none() {
            let number = remapped.claim(key);
            if counted(number) {
                return number;
            }
        }
        let number = self.numbers.claim_moved(&mut remapped, key, state);
        // Another state is one that a reload has replaced.
        self.table.restate(number, key, state);
        if !counted(number) {
            log::error!("inode {number} stands for two files");
        }
        number
    }

    /// Takes `count` lookups of a number back; at 0 the file is forgotten.
    pub fn forget(&self, number: u64, count: u64) {
        if number == self.root.number || number == ANCHOR {
            return;
        }
        let gone = if Numbers::is_remapped(number) {
            let mut remapped = self.numbers.remapped();
            let gone = self.table.forget(number, count);
            if gone {
                self.numbers.release(&mut remapped, number);
            }
            gone
        } else {
            self.table.forget(number, count)
        };
        if gone {
            self.nodes.remove(number);
        }
    }

    /// Returns the number shown for a file, without counting.
    pub fn number(&self, key: &Key) -> u64 {
        self.numbers.direct(key).unwrap_or_else(|| self.numbers.remapped().number(key))
    }

    /// Returns the number of a file that the kernel knows: the one for this
    /// state, else the one for whatever came first.
    pub fn known(&self, key: &Key, state: &State) -> Option<u64> {
        if let Some(number) = self.numbers.moved(key, state) {
            return Some(number);
        }
        let number = self.number(key);
        self.table.read(number, |inode, _| inode.key() == *key)?.then_some(number)
    }

    /// Returns every number that may stand for a file, or for an earlier one of the
    /// same volume and inode number; whether any is known is not said.
    pub fn all_numbers(&self, key: &Key) -> Vec<u64> {
        self.numbers.all(key)
    }

    /// Reports whether there are files with several numbers.
    pub fn any_moved(&self) -> bool {
        self.numbers.any_moved()
    }

    /// Reports whether a number was given out.
    pub fn knows(&self, number: u64) -> bool {
        self.table.read(number, |_, _| ()).is_some()
    }

    /// Returns the volume and the inode number behind a number.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out, unless it says so by itself.
    pub fn file(&self, number: u64) -> Result<(u64, u64)> {
        let known = || {
            let key = self.table.read(number, |inode, _| inode.key())?;
            Some((key.volume, key.ino))
        };
        self.numbers.file(number).or_else(known).ok_or(Error::Unknown)
    }

    /// Reports whether there is room to remember one more name of a file than
    /// those by which the kernel may know it.
    pub fn keeps_names(&self, number: u64) -> bool {
        self.table.keeps_names(number)
    }

    /// Reports whether the names of a directory were said to be watched.
    pub fn is_heard(&self, number: u64) -> bool {
        self.table.read(number, |inode, _| inode.is_heard()).unwrap_or(false)
    }

    /// Records that the names of a directory are watched.
    pub fn set_heard(&self, number: u64) {
        self.table.set_heard(number);
    }

    /// Reports whether a file is known to be encrypted by its file system.
    pub fn is_encrypted(&self, number: u64) -> bool {
        self.any_encrypted.load(Ordering::Relaxed)
            && self.table.read(number, |inode, _| inode.is_encrypted()).unwrap_or(false)
    }

    /// Records that a file is encrypted by its file system.
    pub fn set_encrypted(&self, number: u64) {
        self.any_encrypted.store(true, Ordering::Relaxed);
        self.table.set_encrypted(number);
    }

    /// Forgets which directories are watched.
    pub fn unhear(&self) {
        self.table.unhear();
    }

    /// Returns the state that a file has where it was last found.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out.
    pub fn state(&self, number: u64) -> Result<State> {
        self.table.read(number, |inode, _| inode.state.clone()).ok_or(Error::Unknown)
    }

    /// Reports whether a file that was given out is a directory.
    pub fn is_dir(&self, number: u64) -> bool {
        self.table.read(number, |inode, _| inode.kind().is_dir()).unwrap_or(false)
    }

    /// Records another state of a file, because the rules have changed.
    pub fn restate(&self, number: u64, state: &State) {
        let Ok(key) = self.key(number) else { return };
        if Numbers::is_remapped(number) {
            self.numbers.remapped().restate(number, state);
        }
        self.table.restate(number, &key, state);
    }

    /// Returns the identity of the file behind a number.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out.
    pub fn key(&self, number: u64) -> Result<Key> {
        self.table.read(number, |inode, _| inode.key()).ok_or(Error::Unknown)
    }

    /// Returns the file behind a number, opened again if need be and then
    /// verified.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out, `Stale` if the file is
    /// no longer where it was and cannot be found; `EMFILE` and `ENFILE` if
    /// closing other nodes did not help.
    pub fn node(&self, number: u64) -> Result<Node> {
        if let Some(node) = self.held(number)? {
            count::add(Count::NodeHeld);
            return Ok(node);
        }
        count::add(Count::NodeReopened);
        self.reopen(number)
    }

    /// Returns where a number was last found: its parent's number and its
    /// name; `None` for the root, and for what was only found without a name.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out.
    pub fn place(&self, number: u64) -> Result<Option<(u64, OsString)>> {
        if number == self.root.number {
            return Ok(None);
        }
        let place = self.table.read(number, |inode, _| {
            let (parent, name) = inode.place();
            (!name.is_empty()).then(|| (parent, name.to_owned()))
        });
        place.ok_or(Error::Unknown)
    }

    /// Returns the number of the file that was found by a name, looking through all that are
    /// known.
    pub fn named(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.table.named(parent, name)
    }

    /// Returns other places where a number was found, of which the kernel may
    /// know the names yet; of many only some.
    pub fn other_names(&self, number: u64) -> Vec<(u64, OsString)> {
        self.table.other_names(number)
    }

    /// Returns the numbers that one part of the table knows; `None` after the
    /// last part.
    ///
    /// All parts together are every number that was known all the while.
    pub fn numbers(&self, part: usize) -> Option<Vec<u64>> {
        self.table.numbers(part)
    }

    /// Holds a node of a number open until it is forgotten, so that the host
    /// cannot give the inode number to another file meanwhile.
    ///
    /// Pins are counted; they do not take room in the cache.
    ///
    /// # Errors
    /// As [`Tree::node`].
    pub fn pin(&self, number: u64) -> Result<()> {
        if number == self.root.number {
            return Ok(());
        }
        let key = self.key(number)?;
        let node = self.node(number)?;
        self.pin_node(number, &key, node)
    }

    /// As [`Tree::pin`], by a node of the file that is open for other reasons:
    /// this takes no descriptor more.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out, `Stale` if it has come
    /// to stand for another file.
    pub fn pin_open(&self, number: u64, node: Node) -> Result<()> {
        if number == self.root.number {
            return Ok(());
        }
        self.pin_node(number, &self.key(number)?, node)
    }

    fn pin_node(&self, number: u64, key: &Key, node: Node) -> Result<()> {
        if !self.table.pin(number, key, node) {
            return Err(Error::Stale);
        }
        self.nodes.remove(number);
        Ok(())
    }

    /// Takes one [`Tree::pin`] back, where the file has kept a name after all.
    pub fn unpin(&self, number: u64) {
        if let Some((key, node)) = self.table.unpin(number) {
            drop(self.keep(number, key, node));
        }
    }

    /// Returns how many nodes are pinned.
    pub fn pins(&self) -> usize {
        self.table.counts().1
    }

    /// Records that a file has moved to another name.
    ///
    /// Only the place of that one file changes: what is below a directory has
    /// the directory's number as its place. A directory that is pinned from
    /// before the move until this call is never looked for under its old name.
    #[cfg(test)]
    pub fn moved(&self, number: u64, parent: u64, name: Name<'_>) {
        self.move_on(number, None, (parent, name));
    }

    /// Does the same for a file that may have other names than the one it moved
    /// from.
    pub fn moved_from(&self, number: u64, from: (u64, Name<'_>), to: (u64, Name<'_>)) {
        self.move_on(number, Some(from), to);
    }

    fn move_on(&self, number: u64, from: Option<(u64, Name<'_>)>, to: (u64, Name<'_>)) {
        if number != self.root.number {
            let from = from.as_ref().map(|from| (from.0, from.1.as_os_str()));
            self.table.moved(number, from, (to.0, to.1.as_os_str()));
        }
    }

    /// Closes nodes that nothing needs, for descriptors to become free;
    /// returns how many.
    ///
    /// Each call lets half of the cached nodes go, those not used for longest.
    pub fn shrink(&self) -> usize {
        self.nodes.shrink()
    }

    /// Reports whether many inodes have been forgotten since it last said so:
    /// their memory is worth giving back.
    pub fn has_ebbed(&self) -> bool {
        self.table.has_ebbed()
    }

    /// Returns how many inodes are known and how many nodes are open, the root
    /// included.
    pub fn counts(&self) -> (usize, usize) {
        let (inodes, pins) = self.table.counts();
        (inodes, self.nodes.len().saturating_add(pins).saturating_add(1))
    }
}

/// Returns which of `parts` parts of a table a number belongs to.
fn spread(number: u64, parts: usize) -> usize {
    // Neighbouring numbers go to different parts, and so do multiples of any
    // power of 2 (Fibonacci hashing).
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    usize::try_from(hash).ok().and_then(|hash| hash.checked_rem(parts)).unwrap_or(0)
}
