//! What is open.

use std::any::Any;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::node::KeptNode;
use super::{Inner, Kept, RIGHTS};
use crate::attr::{Attr, FileKind};
use crate::error::Result;
use crate::id::Disk;
use crate::source::{
    Dir, DirEntry, File, InodeFlags, InodeFlagsKind, Lending, Lent, Locks, Node, Place, Rights,
};

/// An open regular file.
#[derive(Debug)]
pub(super) struct KeptFile {
    inner: Arc<Inner>,
    below: Arc<dyn File>,
    node: Node,
    /// Whether it is open for writing.
    writes: bool,
}

impl KeptFile {
    /// Wraps an open file; flags as in open(2).
    pub fn new(inner: Arc<Inner>, below: Arc<dyn File>, node: Node, flags: i32) -> Self {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        Self { inner, below, node, writes }
    }

    /// Returns the open file below.
    pub fn below(&self) -> &dyn File {
        &*self.below
    }

    fn held(&self) -> Result<&KeptNode> {
        Kept::held(&self.node)
    }

    /// Takes the privileges that go before so much is written.
    fn before_write(&self, length: usize, rights: Rights) -> Result<()> {
        if length == 0 || !self.writes {
            return Ok(());
        }
        self.inner.kill(self.held()?, rights)
    }
}

impl File for KeptFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.below.read(offset, buf)
    }

    fn write(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.before_write(data.len(), rights)?;
        self.below.write(place, data, rights)
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.below.read_direct(offset, buf)
    }

    fn write_direct(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.before_write(data.len(), rights)?;
        self.below.write_direct(place, data, rights)
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.below.sync(data_only)
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64, rights: Rights) -> Result<()> {
        self.before_write(usize::try_from(length).unwrap_or(usize::MAX), rights)?;
        self.below.allocate(mode, offset, length, rights)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        self.below.seek(offset, whence)
    }

    fn copy_to(
        &self,
        offset: u64,
        to: &dyn File,
        to_offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<usize> {
        let Some(to) = to.as_any().downcast_ref::<Self>() else {
            return self.below.copy_to(offset, to, to_offset, length, rights);
        };
        to.before_write(usize::try_from(length).unwrap_or(usize::MAX), rights)?;
        self.below.copy_to(offset, &*to.below, to_offset, length, rights)
    }

    fn getattr(&self) -> Result<Attr<Disk>> {
        let held = self.held()?;
        let (under, key) = self.inner.under(held)?;
        let seen = self.inner.recorded(&under, &key, self.below.getattr()?)?;
        Ok(Attr { ino: held.key.ino, ..seen.shown() })
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        self.below.inode_flags(kind)
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.below.set_inode_flags(flags)
    }

    fn locks(&self) -> Result<Box<dyn Locks>> {
        self.below.locks()
    }

    fn lending(&self) -> Result<Lending> {
        let lending = self.below.lending()?;
        if lending != Lending::Everything || !self.writes {
            return Ok(lending);
        }
        let (under, key) = self.inner.under(self.held()?)?;
        // The kernel knows nothing of what is kept, and would leave it.
        let judged = self.inner.privileged(&under, &key, RIGHTS)?;
        Ok(if judged { Lending::Mappings } else { Lending::Everything })
    }

    fn lend(&self, to: &mut dyn FnMut(BorrowedFd<'_>) -> Result<Lent>) -> Result<Lent> {
        self.below.lend(to)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct KeptDir {
    inner: Arc<Inner>,
    below: Arc<dyn Dir>,
}

impl KeptDir {
    /// Wraps an open directory.
    pub fn new(inner: Arc<Inner>, below: Arc<dyn Dir>) -> Self {
        Self { inner, below }
    }
}

impl Dir for KeptDir {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let hidden = self.inner.store.hides().map(|(_, ino)| ino);
        self.below.read(offset, &mut |entry| {
            // Numbers are of this volume; where it is another one, only directories
            // could be mistaken, and a lookup still finds them.
            if hidden == Some(entry.ino) && entry.kind.is_none_or(FileKind::is_dir) {
                return ControlFlow::Continue(());
            }
            // A regular file may stand for another kind, which takes a look at it.
            let kind = entry.kind.filter(|kind| *kind != FileKind::Regular);
            each(DirEntry {
                ino: self.inner.aliases.shown_number(entry.ino),
                kind,
                found: None,
                ..entry
            })
        })
    }

    fn upcoming(&self, offset: u64) -> Vec<OsString> {
        self.below.upcoming(offset)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.below.sync(data_only)
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        self.below.inode_flags(kind)
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.below.set_inode_flags(flags)
    }
}
