//! Files by their number alone.
//!
//! Who has a file handle (open_by_handle_at(2), a server of NFS) comes back when the kernel has
//! forgotten the file, after a remount too: then it asks for `.` by the number, and for `..`
//! of a directory to find out where that is (`fuse_export_operations` of fs/fuse/inode.c). It
//! compares the generation by itself. Neither is asked for on behalf of a path, so that nobody
//! has to be permitted to search one.

use super::rules::Seen;
use super::{Entry, Fs};
use crate::error::{Error, Result};
use crate::id::Caller;
use crate::policy::State;
use crate::source::{Found, Node};
use crate::tree::Identity;

impl Fs {
    /// Finds a file by its number, and counts that as a lookup.
    ///
    /// # Errors
    /// `Stale` (`ESTALE`) if there is none by that number, if the source cannot find it so, or
    /// if rules say what may be seen of it: those go by its path.
    pub fn by_number(&self, caller: &Caller, number: u64) -> Result<Entry> {
        match self.known_by_number(caller, number) {
            Err(Error::Unknown) => {}
            known => return known,
        }
        let (volume, ino) = self.tree.file(number).map_err(|_unknown| Error::Stale)?;
        let found = self.without_names(|| self.source.by_number(volume, ino))?;
        let entry = self.nameless(caller, found);
        if entry.node == number {
            return Ok(entry);
        }
        // The number stands for another file now.
        self.forget(entry.node, 1);
        Err(Error::Stale)
    }

    /// Finds the directory that a directory is in, and counts that as a lookup.
    ///
    /// # Errors
    /// As [`Fs::by_number`].
    pub fn parent(&self, caller: &Caller, number: u64) -> Result<Entry> {
        let dir = self.node(number)?;
        if !self.tree.is_dir(number) {
            return Err(Error::Stale);
        }
        let found = self.without_names(|| self.source.parent(&dir));
        match (found, self.tree.place(number)) {
            (Ok(found), _) => Ok(self.nameless(caller, found)),
            (Err(_), Ok(Some((parent, _)))) => self.known_by_number(caller, parent),
            (Err(error), _) => Err(error),
        }
    }

    /// Finds a file that the kernel knows.
    ///
    /// # Errors
    /// `Unknown` if it does not; as [`Fs::by_number`].
    fn known_by_number(&self, caller: &Caller, number: u64) -> Result<Entry> {
        let key = self.tree.key(number)?;
        let node = self.node(number)?;
        self.lets_reach(number, &node)?;
        let seen = self.look(number, &node)?;
        // It may be forgotten meanwhile.
        let identity = self.tree.remember_again(number, &key)?;
        Ok(self.entry_of(caller, identity, &seen))
    }

    /// Has the source find something of which no name is known.
    fn without_names(&self, find: impl Fn() -> Result<(Node, Found)>) -> Result<(Node, Found)> {
        if self.has_rules() { Err(Error::Stale) } else { self.tree.with_room(find) }
    }

    /// Counts a lookup of what was found without a name.
    fn nameless(&self, caller: &Caller, (node, found): (Node, Found)) -> Entry {
        let (attr, state, policy) = (found.attr, State::default(), self.policy());
        let identity = self.tree.remember_nameless(&found, &state);
        // It would keep the key of what is encrypted in use.
        if !attr.encrypted {
            self.tree.hold(identity.number, found.key, node);
        }
        self.entry_of(caller, identity, &Seen { attr, state, policy })
    }

    fn entry_of(&self, caller: &Caller, identity: Identity, seen: &Seen) -> Entry {
        let Identity { number, generation } = identity;
        Entry { node: number, generation, attr: self.present(caller, seen, number) }
    }
}
