//! Operations on directory entries.

use std::ffi::OsStr;

use super::data::Data;
use super::state::{Body, DirName, Names, Serial, State, os};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::id::{Disk, Ids};
use crate::source::rules::{self, Born};
use crate::source::{Key, New, NewKind, RenameFlags};

impl State {
    pub(super) fn entry(&self, dir: Serial, name: Name<'_>) -> Result<&DirName> {
        self.inode(dir)?.names()?.get(name.as_os_str()).ok_or(os(libc::ENOENT))
    }

    /// Sees that a name may be added to a directory.
    fn vacant(&self, dir: Serial, name: Name<'_>) -> Result<()> {
        if self.inode(dir)?.names()?.get(name.as_os_str()).is_some() {
            return Err(os(libc::EEXIST));
        }
        self.living(dir)
    }

    /// Sees that a directory has not been removed.
    fn living(&self, dir: Serial) -> Result<()> {
        if self.inode(dir)?.nlink == 0 { Err(os(libc::ENOENT)) } else { Ok(()) }
    }

    fn is_dir(&self, serial: Serial) -> bool {
        self.inode(serial).is_ok_and(|inode| inode.kind().is_dir())
    }

    /// Makes a name stand for an inode, whatever it stood for before.
    fn put(&mut self, dir: Serial, entry: DirName) -> Result<()> {
        let serial = entry.serial;
        let old = self.inode_mut(dir)?.names_mut()?.set(entry);
        self.count_child(dir, old.map(|old| old.serial), Some(serial))?;
        if let Ok(names) = self.inode_mut(serial)?.names_mut() {
            names.parent = dir;
        }
        self.modified(dir)
    }

    /// Removes a name.
    fn take(&mut self, dir: Serial, name: &OsStr) -> Result<()> {
        let old = self.inode_mut(dir)?.names_mut()?.remove(name);
        self.count_child(dir, old.map(|old| old.serial), None)?;
        self.modified(dir)
    }

    /// Keeps the link count of a directory: each subdirectory's `..` is one.
    fn count_child(&mut self, dir: Serial, old: Option<Serial>, new: Option<Serial>) -> Result<()> {
        let less = u32::from(old.is_some_and(|old| self.is_dir(old)));
        let more = u32::from(new.is_some_and(|new| self.is_dir(new)));
        let dir = self.inode_mut(dir)?;
        dir.nlink = dir.nlink.saturating_add(more).saturating_sub(less);
        Ok(())
    }

    pub(super) fn create(&mut self, dir: Serial, name: Name<'_>, new: &New<'_>) -> Result<Serial> {
        let serial = self.begin(dir, name, new)?;
        self.finish(dir, name, serial)?;
        Ok(serial)
    }

    /// Makes an inode that is to have a name.
    pub(super) fn begin(&mut self, dir: Serial, name: Name<'_>, new: &New<'_>) -> Result<Serial> {
        self.vacant(dir, name)?;
        if let NewKind::Symlink(target) = new.what {
            rules::check_target(target)?;
        }
        if let NewKind::Special(FileKind::Regular | FileKind::Directory | FileKind::Symlink, _) =
            new.what
        {
            return Err(Error::Invalid);
        }
        self.make(dir, new)
    }

    /// Gives an inode that was begun its name.
    pub(super) fn finish(&mut self, dir: Serial, name: Name<'_>, serial: Serial) -> Result<()> {
        self.vacant(dir, name)?;
        self.put(dir, DirName { name: name.to_owned(), serial, covered: None })
    }

    /// Gives a name to another inode, if it is that of what a key says.
    pub(super) fn replace(
        &mut self,
        dir: Serial,
        name: Name<'_>,
        key: &Key,
        serial: Serial,
    ) -> Result<()> {
        let old = self.entry(dir, name)?.serial;
        if self.found(old)?.key != *key {
            return Err(Error::Stale);
        }
        self.put(dir, DirName { name: name.to_owned(), serial, covered: None })?;
        self.unlinked(old)
    }

    /// Makes an inode as a directory wants its new ones.
    pub(super) fn make(&mut self, dir: Serial, new: &New<'_>) -> Result<Serial> {
        let parent = self.changing(dir)?;
        let volume = parent.volume;
        let given = parent.mode.has(Mode::SETGID).then_some(parent.owner.gid);
        let Born { owner, mode, access, default } = rules::born(given, parent.default.clone(), new);
        let body = match new.what {
            NewKind::Regular(_) => Body::File(Data::default()),
            NewKind::Directory => Body::Dir(Names::new(dir)),
            NewKind::Symlink(target) => Body::Symlink(target.to_os_string()),
            NewKind::Special(kind, rdev) => Body::Special(kind, rdev),
        };
        let serial = self.add(volume, owner, mode, body);
        let inode = self.inode_mut(serial)?;
        inode.access = access;
        inode.default = default;
        Ok(serial)
    }

    pub(super) fn link(&mut self, serial: Serial, dir: Serial, name: Name<'_>) -> Result<()> {
        self.vacant(dir, name)?;
        if self.inode(serial)?.volume != self.inode(dir)?.volume {
            return Err(os(libc::EXDEV));
        }
        self.changing(dir)?;
        let inode = self.changing(serial)?;
        if inode.kind().is_dir() {
            return Err(os(libc::EPERM));
        }
        if inode.nlink == 0 {
            return Err(os(libc::ENOENT));
        }
        inode.nlink = inode.nlink.checked_add(1).ok_or(os(libc::EMLINK))?;
        self.touch(serial)?;
        self.put(dir, DirName { name: name.to_owned(), serial, covered: None })
    }

    pub(super) fn unlink(&mut self, dir: Serial, name: Name<'_>) -> Result<()> {
        let serial = self.entry(dir, name)?.serial;
        if self.is_dir(serial) {
            return Err(os(libc::EISDIR));
        }
        self.changing(dir)?;
        self.changing(serial)?;
        self.take(dir, name.as_os_str())?;
        self.unlinked(serial)
    }

    pub(super) fn rmdir(&mut self, dir: Serial, name: Name<'_>) -> Result<()> {
        let DirName { serial, covered, .. } = *self.entry(dir, name)?;
        let names = self.inode(serial)?.names()?;
        if covered.is_some() {
            return Err(os(libc::EBUSY));
        }
        if !names.is_empty() {
            return Err(os(libc::ENOTEMPTY));
        }
        self.changing(dir)?;
        self.changing(serial)?;
        self.take(dir, name.as_os_str())?;
        self.unlinked(serial)
    }

    /// Adds a directory of another volume under a name.
    pub(super) fn graft(&mut self, dir: Serial, name: Name<'_>, volume: u64) -> Result<Serial> {
        self.vacant(dir, name)?;
        let covered = Some(self.take_number(self.inode(dir)?.volume));
        let serial = self.add_root(volume, self.options.root);
        self.put(dir, DirName { name: name.to_owned(), serial, covered })?;
        // A root is its own parent, also where something leads to it.
        self.inode_mut(serial)?.names_mut()?.parent = serial;
        Ok(serial)
    }

    /// Renames as `vfs_rename` of fs/namei.c does, in its order of checks.
    pub(super) fn rename(
        &mut self,
        from: (Serial, Name<'_>),
        to: (Serial, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
    ) -> Result<()> {
        if flags.exchange && (flags.no_replace || flags.whiteout) {
            return Err(Error::Invalid);
        }
        let whiteout = match (flags.whiteout, owner) {
            (true, owner) => Some(owner.ok_or(Error::Invalid)?),
            (false, _) => None,
        };
        let (source, target) = self.rename_pair(from, to, flags)?;
        if target.as_ref().is_some_and(|target| target.serial == source.serial) {
            return Ok(());
        }
        for serial in
            [from.0, to.0, source.serial].into_iter().chain(target.as_ref().map(|t| t.serial))
        {
            self.changing(serial)?;
        }
        if let (Some(target), false) = (&target, flags.exchange) {
            self.replaceable(source.serial, target.serial)?;
        }
        let moved =
            |serial, name: Name<'_>| DirName { name: name.to_owned(), serial, covered: None };
        self.put(to.0, moved(source.serial, to.1))?;
        self.touch(source.serial)?;
        match target {
            Some(target) if flags.exchange => {
                self.touch(target.serial)?;
                return self.put(from.0, moved(target.serial, from.1));
            }
            Some(target) => self.unlinked(target.serial)?,
            None => {}
        }
        match whiteout {
            None => self.take(from.0, from.1.as_os_str()),
            Some(owner) => {
                let what = NewKind::Special(FileKind::CharDevice, 0);
                let new = New {
                    what,
                    owner,
                    mode: Mode::new(0),
                    umask: 0,
                    reserve: false,
                    prepare: None,
                };
                let serial = self.make(from.0, &new)?;
                self.put(from.0, moved(serial, from.1))
            }
        }
    }

    /// Returns what a rename moves and what is under the new name.
    fn rename_pair(
        &self,
        from: (Serial, Name<'_>),
        to: (Serial, Name<'_>),
        flags: RenameFlags,
    ) -> Result<(DirName, Option<DirName>)> {
        if self.inode(from.0)?.volume != self.inode(to.0)?.volume {
            return Err(os(libc::EXDEV));
        }
        let source = self.entry(from.0, from.1)?.clone();
        let target = self.inode(to.0)?.names()?.get(to.1.as_os_str()).cloned();
        match &target {
            Some(_) if flags.no_replace => return Err(os(libc::EEXIST)),
            None if flags.exchange => return Err(os(libc::ENOENT)),
            Some(target) if self.is_within(from.0, target.serial) => {
                return Err(if flags.exchange { Error::Invalid } else { os(libc::ENOTEMPTY) });
            }
            Some(_) | None => {}
        }
        if self.is_within(to.0, source.serial) {
            return Err(Error::Invalid);
        }
        self.living(to.0)?;
        let grafted = |entry: &DirName| entry.covered.is_some();
        if grafted(&source) || target.as_ref().is_some_and(grafted) {
            return Err(os(libc::EBUSY));
        }
        Ok((source, target))
    }

    /// Sees that one file may take the place of another.
    fn replaceable(&self, source: Serial, target: Serial) -> Result<()> {
        match (self.is_dir(source), self.inode(target)?.names()) {
            (true, Ok(names)) if !names.is_empty() => Err(os(libc::ENOTEMPTY)),
            (true, Ok(_)) | (false, Err(_)) => Ok(()),
            (true, Err(not_dir)) => Err(not_dir),
            (false, Ok(_)) => Err(os(libc::EISDIR)),
        }
    }

    /// Reports whether a directory is another one, or somewhere below it.
    fn is_within(&self, dir: Serial, above: Serial) -> bool {
        let mut at = dir;
        loop {
            if at == above {
                return true;
            }
            match self.inode(at).and_then(|inode| inode.names()) {
                Ok(names) if names.parent != at => at = names.parent,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}
