//! Names: looked up, made, moved, removed.

use std::ffi::OsStr;
use std::sync::Arc;

use super::{Capability, Entry, Fs};
use crate::attr::{Attr, FileKind, Mode, Name};
use crate::error::{Errno, Error, Result};
use crate::id::{Caller, Disk, Ids};
use crate::source::{File, Found, New, NewKind, Node, RenameFlags};

/// The error of a name that is taken.
pub(super) const EXISTS: Error = Error::Os(Errno(libc::EEXIST));

/// What a new name is to lead to, as the caller asks for it.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// What to make.
    pub what: NewKind<'a>,
    /// Permission bits; others are ignored.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

impl Fs {
    /// Looks a name up and counts it.
    ///
    /// # Errors
    /// `ENOENT` where there is none; as [`Name::new`], `Tree::node` and
    /// `Source::lookup`.
    pub fn lookup(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<Entry> {
        let name = Name::new(name)?;
        let dir = self.node(parent)?;
        let found = self.tree.with_room(|| self.source.lookup(&dir, name))?;
        Ok(self.entry(caller, parent, name, &found))
    }

    /// Makes a file, fifo, socket or device; `mode` holds the kind, and 0 for
    /// the kind is a file, as for mknod(2).
    ///
    /// # Errors
    /// As mknod(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to store.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u64,
    ) -> Result<Entry> {
        let what = match FileKind::from_mode(mode) {
            Some(FileKind::Regular) => NewKind::Regular(None),
            None if mode & libc::S_IFMT == 0 => NewKind::Regular(None),
            Some(FileKind::Directory | FileKind::Symlink) | None => return Err(Error::Invalid),
            Some(
                kind @ (FileKind::Fifo
                | FileKind::Socket
                | FileKind::CharDevice
                | FileKind::BlockDevice),
            ) => NewKind::Special(kind, rdev),
        };
        self.make(caller, parent, name, Wanted { what, mode, umask }).map(|made| made.0)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As mkdir(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to store.
    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let wanted = Wanted { what: NewKind::Directory, mode, umask };
        self.make(caller, parent, name, wanted).map(|made| made.0)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As symlink(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to
    /// store.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry> {
        let wanted = Wanted { what: NewKind::Symlink(target), mode: 0o777, umask: 0 };
        self.make(caller, parent, name, wanted).map(|made| made.0)
    }

    /// Removes a name of a file.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<()> {
        let name = Name::new(name)?;
        let dir = self.node(parent)?;
        let found = self.source.lookup(&dir, name)?;
        self.may_remove(caller, &dir, &found)?;
        let held = self.hold(Some(&found));
        self.settle(held, self.source.unlink(&dir, name))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<()> {
        let name = Name::new(name)?;
        let dir = self.node(parent)?;
        let found = self.source.lookup(&dir, name)?;
        self.may_remove(caller, &dir, &found)?;
        let held = self.hold(Some(&found));
        self.settle(held, self.source.rmdir(&dir, name))
    }

    /// Renames.
    ///
    /// # Errors
    /// As renameat2(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to
    /// store and the new name does not exist yet, or a whiteout is to be left.
    pub fn rename(
        &self,
        caller: &Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let (old_name, new_name) = (Name::new(from.1)?, Name::new(to.1)?);
        let (old_dir, new_dir) = (self.node(from.0)?, self.node(to.0)?);
        let moving = self.source.lookup(&old_dir, old_name)?;
        self.may_remove(caller, &old_dir, &moving)?;
        let there = self.existing(&new_dir, new_name)?;
        if flags.no_replace && there.is_some() {
            return Err(EXISTS);
        }
        if let Some(there) = &there {
            self.may_remove(caller, &new_dir, there)?;
        }
        let owner = self.policy().create_owner(caller);
        // What is exchanged adds no name; a whiteout is a new file. (The kernel
        // makes one over an existing name too, and stores no id at all for it.)
        let adds = flags.whiteout || (there.is_none() && !flags.exchange);
        if adds && owner.is_none() {
            return Err(Error::Unmapped);
        }
        let replaced = there.as_ref().filter(|there| !flags.exchange && there.key != moving.key);
        let held = self.hold(replaced);
        let swapped = there.as_ref().filter(|_| flags.exchange);
        let carried = [Some(&moving), swapped].map(|found| self.carry(found));
        let whiteout = owner.filter(|_| flags.whiteout);
        let (old, new) = ((&old_dir, old_name), (&new_dir, new_name));
        let rights = Self::rights(caller, false);
        let renamed = self.tree.with_room(|| self.source.rename(old, new, flags, whiteout, rights));
        if renamed.is_ok() {
            let places = [(Some(&moving), to.0, new_name), (swapped, from.0, old_name)];
            for (found, parent, name) in places {
                if let Some(number) = found.and_then(|found| self.tree.known(&found.key)) {
                    self.tree.moved(number, parent, name);
                }
            }
        }
        carried.into_iter().flatten().for_each(|number| self.tree.unpin(number));
        self.settle(held, renamed)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As link(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to store.
    pub fn link(&self, caller: &Caller, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let name = Name::new(name)?;
        let (file, dir) = (self.node(node)?, self.node(parent)?);
        self.birth(caller, &dir, name)?;
        let rights = Self::rights(caller, false);
        let found = self.tree.with_room(|| self.source.link(&file, &dir, name, rights))?;
        Ok(self.entry(caller, parent, name, &found))
    }

    /// Makes a name and what it leads to; the name is counted.
    pub(super) fn make(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        wanted: Wanted<'_>,
    ) -> Result<(Entry, Option<Arc<dyn File>>)> {
        let name = Name::new(name)?;
        let dir = self.node(parent)?;
        let owner = self.birth(caller, &dir, name)?;
        let mode = self.own_setid(caller, owner, Mode::new(wanted.mode));
        let umask = Mode::new(wanted.umask).bits();
        let reserve = Self::rights(caller, false).reserve;
        let new = New { what: wanted.what, owner, mode, umask, reserve };
        let created = self.tree.with_room(|| self.source.create(&dir, name, &new))?;
        Ok((self.entry(caller, parent, name, &created.found), created.file))
    }

    /// Checks a sticky directory (`check_sticky` of fs/namei.c) on what is there.
    ///
    /// The kernel has checked what it remembers of the name; somebody else may
    /// have made a file of that name on the host since.
    fn may_remove(&self, caller: &Caller, dir: &Node, found: &Found) -> Result<()> {
        let dir = self.source.getattr(dir)?;
        let own = |attr: &Attr<Disk>| {
            let shown = self.shown(caller, attr).uid;
            shown.is_some() && shown == caller.uid
        };
        let may = !dir.mode.has(Mode::STICKY)
            || own(&found.attr)
            || own(&dir)
            || self.processes.capable_over(
                caller,
                Capability::Fowner,
                self.shown(caller, &found.attr),
            ) != Some(false);
        if may { Ok(()) } else { Err(Error::Denied) }
    }

    /// Returns what the caller's new files belong to; a name that is taken
    /// comes first, as in `may_create` of fs/namei.c.
    fn birth(&self, caller: &Caller, dir: &Node, name: Name<'_>) -> Result<Ids<Disk>> {
        if let Some(owner) = self.policy().create_owner(caller) {
            return Ok(owner);
        }
        let taken = self.existing(dir, name)?.is_some();
        Err(if taken { EXISTS } else { Error::Unmapped })
    }

    /// Returns what a name leads to, if it exists.
    fn existing(&self, dir: &Node, name: Name<'_>) -> Result<Option<Found>> {
        match self.source.lookup(dir, name) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds a directory open while it moves, if what is below it is reached by
    /// names: until the new place is known, another request may ask for it.
    fn carry(&self, found: Option<&Found>) -> Option<u64> {
        let found = found.filter(|found| found.attr.kind.is_dir() && found.handle.is_none())?;
        let number = self.tree.known(&found.key)?;
        self.tree.pin(number).ok().map(|()| number)
    }

    /// Holds a file open that is about to lose this name, if the kernel still
    /// knows it and could not reach it, or the host could reuse its number;
    /// returns its number.
    ///
    /// Without it the removal goes on all the same: the file is then `ESTALE`.
    /// So it is where many are held already, but for those who have it open: a
    /// caller may know any number of files by `O_PATH`, and the kernel by names
    /// that the host has changed.
    fn hold(&self, found: Option<&Found>) -> Option<u64> {
        let found = found?;
        let last = found.attr.nlink <= 1 || found.attr.kind.is_dir();
        if !last && self.source.facts().handles {
            return None;
        }
        let number = self.tree.known(&found.key)?;
        let held = self.tree.pins();
        if held >= self.config.descriptors / 8 || !self.budget.one_more(held) {
            // Whoever has it open keeps the file through that.
            if self.opens.any(number).is_some()
                && let Ok(node) = self.tree.node(number)
            {
                self.opens.adopt(number, &node);
            }
            return None;
        }
        // The node of an open file is within its share of descriptors; another
        // one of the same file would not be.
        let pin = || match self.opens.node(number) {
            Some(node) => self.tree.pin_open(number, node),
            None => self.tree.pin(number),
        };
        match self.tree.with_room(pin) {
            Ok(()) => Some(number),
            Err(error) => {
                log::debug!("inode {number} is not held for its last users: {error}");
                None
            }
        }
    }

    /// Lets a file go that was held for a removal which then failed.
    fn settle(&self, held: Option<u64>, removed: Result<()>) -> Result<()> {
        if let (Some(number), Err(_)) = (held, &removed) {
            self.tree.unpin(number);
        }
        removed
    }
}
