//! Names: looked up, made, removed; `rename` moves them.

use std::ffi::OsStr;
use std::sync::Arc;

use super::rules::{ELSEWHERE, Seen, There};
use super::{Entry, Fs};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Errno, Error, Result};
use crate::id::{Caller, Disk, Ids, Owner};
use crate::policy::rules::{Deny, Subject};
use crate::source::{File, Found, New, NewKind, Node};

/// The error of a name that is taken.
pub(super) const EXISTS: Error = Error::Os(Errno(libc::EEXIST));

/// The owner of what nobody can make.
pub(super) const NOBODY: Owner<Disk> = Owner { uid: None, gid: None };

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
    /// `Source::lookup`, but `ENOMEM` for a known name in what the server may not search.
    pub fn lookup(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<Entry> {
        let dir = self.node(parent).map_err(|error| self.keeping((parent, name), error))?;
        self.may_search(caller, (parent, &dir))?;
        let name = Name::new(name)?;
        self.lets_look(parent, name)?;
        self.listen(parent, &dir);
        let looked = if self.lost.recently() {
            let reached = self.tree.with_room(|| self.source.reach(&dir, name));
            reached.map(|(node, found)| (Some(node), found))
        } else {
            self.tree.with_room(|| self.source.lookup(&dir, name)).map(|found| (None, found))
        };
        let (node, found) =
            looked.map_err(|error| self.keeping((parent, name.as_os_str()), error))?;
        let seen = self.visible(parent, name, found.attr)?;
        self.may_see(caller, &dir, name, (&found, &seen))?;
        let entry = self.entry_to(self.eyes(caller), parent, name, (&found, &seen));
        if let Some(node) = node {
            self.tree.hold(entry.node, found.key, node);
        }
        Ok(entry)
    }

    /// Returns the error of a name that cannot be looked up now: `ENOMEM` instead of `EACCES`
    /// for one that is known.
    ///
    /// The kernel looks a name that it knows up again, and takes `EACCES` for a name that is gone
    /// (`fuse_dentry_revalidate` of fs/fuse/dir.c): it lets go of it, and of what is mounted
    /// there. A directory that a server without privilege may not search says nothing of the
    /// sort; nor may a caller see what is below, who comes by that server.
    fn keeping(&self, (parent, name): (u64, &OsStr), error: Error) -> Error {
        let keeps = error.is(libc::EACCES) && !self.checks();
        if keeps && self.tree.named(parent, name).is_some() {
            Error::Os(Errno(libc::ENOMEM))
        } else {
            error
        }
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
        self.lets_look(parent, name)?;
        let found = self.source.lookup(&dir, name)?;
        let there = self.lets_drop((parent, &dir), name, found, Deny::DELETE)?;
        self.may_remove(caller, (parent, &dir), name, &there)?;
        let held = self.hold(Some(&there));
        self.settle(held, self.source.unlink(&dir, name))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<()> {
        let name = Name::new(name)?;
        let dir = self.node(parent)?;
        self.lets_look(parent, name)?;
        let found = self.source.lookup(&dir, name)?;
        let there = self.lets_drop((parent, &dir), name, found, Deny::DELETE)?;
        self.may_remove(caller, (parent, &dir), name, &there)?;
        let held = self.hold(Some(&there));
        self.settle(held, self.source.rmdir(&dir, name))
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As link(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to store.
    pub fn link(&self, caller: &Caller, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let name = Name::new(name)?;
        let (file, dir) = (self.node(node)?, self.node(parent)?);
        self.under_one_policy(|| {
            let seen = self.look(node, &file)?;
            self.may_link(caller, &file, &seen)?;
            self.lets(&seen, Deny::LINK)?;
            let spot = self.lets_add((parent, &dir), name, &seen.subject(), Deny::CREATE)?;
            if !self.has_unknown_callers() {
                self.birth(caller, (parent, &dir), name)?;
            }
            if spot.state == seen.state { Ok(()) } else { Err(ELSEWHERE) }
        })?;
        let rights = Self::rights(caller, false);
        self.listen(parent, &dir);
        let found = self.tree.with_room(|| self.source.link(&file, &dir, name, rights))?;
        self.entry(caller, parent, name, &found)
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
        let (mode, umask) = self.born(&wanted);
        let mut new =
            Subject { kind: wanted.what.kind(), owner: NOBODY, mode: mode.without(umask) };
        if let Some(owner) = self.policy().create_owner(caller) {
            new.owner = owner.into();
        }
        let spot = self.lets_add((parent, &dir), name, &new, Deny::CREATE)?;
        let owner = self.birth(caller, (parent, &dir), name)?;
        // A default ACL may take the place of the umask.
        let own = [mode, mode.without(umask)].into_iter().fold(mode, |own, asked| {
            new.mode = asked;
            let kept = self.own_setid(caller, owner, &spot, &new);
            own.without(asked.bits() & !kept.bits())
        });
        let (mode, reserve) = (own, Self::rights(&self.actor(caller), false).reserve);
        let new = New { what: wanted.what, owner, mode, umask, reserve, prepare: None };
        self.listen(parent, &dir);
        let created = self.tree.with_room(|| self.source.create(&dir, name, &new))?;
        Ok((self.entry(caller, parent, name, &created.found)?, created.file))
    }

    /// Checks a sticky directory (`check_sticky` of fs/namei.c) on what is there.
    ///
    /// Where the kernel decides, it has checked what it remembers of the name; somebody else may
    /// have made a file of that name on the host since.
    pub(super) fn may_remove(
        &self,
        caller: &Caller,
        (parent, dir): (u64, &Node),
        name: Name<'_>,
        there: &There,
    ) -> Result<()> {
        let seen = &there.seen;
        self.may_take(caller, (parent, dir), seen)?;
        if self.has_unknown_callers() {
            return self.may_take_as_decided((parent, dir), name, there);
        }
        let own = |seen: &Seen| {
            let shown = self.shown(caller, seen).uid;
            shown.is_some() && shown == caller.uid
        };
        if own(seen) {
            return Ok(());
        }
        let dir = self.look(parent, dir)?;
        let may =
            !dir.attr.mode.has(Mode::STICKY) || own(&dir) || self.may_act_for_others(caller, seen);
        if may { Ok(()) } else { Err(Error::Denied) }
    }

    /// Returns what the caller's new files belong to; a name that is taken
    /// comes first, as in `may_create` of fs/namei.c.
    fn birth(&self, caller: &Caller, dir: (u64, &Node), name: Name<'_>) -> Result<Ids<Disk>> {
        if let Some(owner) = self.policy().create_owner(caller) {
            return self.may_change_names(caller, dir).map(|()| owner);
        }
        let taken = self.existing(dir.1, name)?.is_some();
        Err(if taken { EXISTS } else { Error::Unmapped })
    }

    /// Returns what a name leads to, if it exists.
    pub(super) fn existing(&self, dir: &Node, name: Name<'_>) -> Result<Option<Found>> {
        match self.source.lookup(dir, name) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds a file open that is about to lose this name, if the kernel still
    /// knows it and could not reach it, or the host could reuse its number;
    /// returns its number.
    ///
    /// Without it the removal goes on all the same: the file is then `ESTALE`.
    /// So it is where many are held already, but for those who have it open: a
    /// caller may know any number of files by `O_PATH`, and the kernel by names
    /// that the host has changed.
    pub(super) fn hold(&self, there: Option<&There>) -> Option<u64> {
        let There { found, seen } = there?;
        let last = found.attr.nlink <= 1 || found.attr.kind.is_dir();
        if !last && self.source.facts().handles {
            return None;
        }
        let number = self.tree.known(&found.key, &seen.state)?;
        let held = self.tree.pins();
        // Of those that the kernel opens without asking, all may be open.
        let part = if self.is_alone() { 2 } else { 8 };
        if held.saturating_mul(part) >= self.config.descriptors || !self.budget.one_more(held) {
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
            Ok(()) => {
                if let Ok(node) = self.tree.node(number) {
                    // It counts for one descriptor.
                    self.source.close_reader(&node);
                }
                Some(number)
            }
            Err(error) => {
                log::debug!("inode {number} is not held for its last users: {error}");
                None
            }
        }
    }

    /// Lets a file go that was held for a removal which then failed.
    pub(super) fn settle(&self, held: Option<u64>, removed: Result<()>) -> Result<()> {
        if let (Some(number), Err(_)) = (held, &removed) {
            self.tree.unpin(number);
        }
        removed
    }
}
