//! What is shown in place of a mount that is hidden: an empty directory that
//! nobody owns and nobody can change.

use std::ffi::OsStr;
use std::ops::ControlFlow;

use super::volume::Place;
use crate::attr::{Attr, FileKind, Mode, Time};
use crate::error::{Error, Result};
use crate::id::{Disk, Owner};
use crate::source::{Dir, DirEntry, Found, InodeFlags, InodeFlagsKind, Key, Statfs};

/// The directory in place of a hidden mount.
#[derive(Clone, Debug)]
pub(super) struct Hidden {
    /// Its identity: a volume of its own, as the mount would have.
    pub key: Key,
    parent: u64,
}

impl Hidden {
    /// Makes the directory at a place.
    pub fn new(place: Place<'_>) -> Self {
        let key = Key { volume: place.tag(), ino: 1, generation: 0 };
        Self { key, parent: place.dir.ino }
    }

    /// Describes it.
    pub fn found(&self) -> Found {
        Found { key: self.key.clone(), handle: None, attr: self.attr() }
    }

    /// Returns its attributes: unmapped owner, so that the kernel itself
    /// refuses changes; no time of its own.
    pub fn attr(&self) -> Attr<Disk> {
        Attr {
            ino: self.key.ino,
            kind: FileKind::Directory,
            mode: Mode::new(0o555),
            nlink: 2,
            owner: Owner { uid: None, gid: None },
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            locked: false,
            encrypted: false,
        }
    }

    /// Returns the totals of a file system without any room.
    pub const fn statfs() -> Statfs {
        Statfs {
            blocks: 0,
            bfree: 0,
            bavail: 0,
            files: 0,
            ffree: 0,
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
        }
    }
}

impl Dir for Hidden {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let kind = Some(FileKind::Directory);
        let entries = [
            DirEntry { name: OsStr::new("."), ino: self.key.ino, kind, next: 1, found: None },
            DirEntry { name: OsStr::new(".."), ino: self.parent, kind, next: 2, found: None },
        ];
        for entry in entries.into_iter().filter(|entry| entry.next > offset) {
            if each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn inode_flags(&self, _kind: InodeFlagsKind) -> Result<InodeFlags> {
        Err(Error::Os(crate::error::Errno(libc::ENOTTY)))
    }

    fn set_inode_flags(&self, _flags: &InodeFlags) -> Result<()> {
        Err(Error::Os(crate::error::Errno(libc::ENOTTY)))
    }
}
