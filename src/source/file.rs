//! Open regular files of a source.

use std::any::Any;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{InodeFlags, InodeFlagsKind, Locks, Rights};
use crate::acl::Capability;
use crate::attr::Attr;
use crate::error::{Error, Result};
use crate::id::Disk;

/// What of an open file the kernel can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lending {
    /// Nothing.
    Nothing,
    /// What is done through mappings: how each write is treated depends on who
    /// writes.
    Mappings,
    /// Everything, if it does so for others who have the file open already.
    Joining,
    /// Everything.
    Everything,
}

/// What whoever a file was lent to made of it; the file keeps it for as long as it is open,
/// so that it is lent once.
pub type Lent = Arc<dyn Any + Send + Sync>;

/// Where the data of a write goes.
///
/// It belongs to the write and not to the open file: callers set and clear `O_APPEND`
/// while a file is open (`F_SETFL` of fcntl(2)), and pages that were changed through a
/// mapping go back to where they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To this offset.
    At(u64),
    /// To the end of the file, wherever that is when it is written.
    End,
}

/// An open regular file. All offsets and lengths are in bytes.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// As pread(2).
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes. That the file was opened with `O_APPEND` makes no difference but for one
    /// that is append-only: nothing in it is written over.
    ///
    /// # Errors
    /// As pwrite(2): `ENOSPC`, `EDQUOT`, `EFBIG`; `Denied` (`EPERM`) to write at an offset
    /// what was opened as an append-only file.
    fn write(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize>;

    /// Reads as [`File::read`], past the cache of the source where it has one and can
    /// (`O_DIRECT`).
    ///
    /// # Errors
    /// As pread(2): `EINVAL` where the source takes other parts of a file only.
    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.read(offset, buf)
    }

    /// Writes as [`File::write`], likewise.
    ///
    /// # Errors
    /// As [`File::write`] and [`File::read_direct`].
    fn write_direct(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.write(place, data, rights)
    }

    /// Reports errors of earlier writes, as close(2) would.
    ///
    /// # Errors
    /// As close(2).
    fn flush(&self) -> Result<()>;

    /// Writes contents to disk; attributes too unless `data_only`.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync(&self, data_only: bool) -> Result<()>;

    /// Allocates or frees space; `mode` as in fallocate(2).
    ///
    /// # Errors
    /// As fallocate(2).
    fn allocate(&self, mode: i32, offset: u64, length: u64, rights: Rights) -> Result<()>;

    /// Finds data or a hole; `whence` is `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// As lseek(2): `ENXIO`.
    fn seek(&self, offset: i64, whence: i32) -> Result<u64>;

    /// Copies to another open file of the same source.
    ///
    /// # Errors
    /// As copy_file_range(2).
    fn copy_to(
        &self,
        offset: u64,
        to: &dyn File,
        to_offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<usize>;

    /// Returns the attributes of the file.
    ///
    /// # Errors
    /// As statx(2).
    fn getattr(&self) -> Result<Attr<Disk>>;

    /// Reads the inode flags.
    ///
    /// # Errors
    /// `ENOTTY` where the source has none.
    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags>;

    /// Sets the inode flags.
    ///
    /// # Errors
    /// `ENOTTY` where the source has none; `EPERM` without the privilege.
    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()>;

    /// Returns the file capability, as [`Source::capability`](super::Source::capability),
    /// where that takes less than by a node.
    ///
    /// # Errors
    /// `Unsupported` where it does not; as getxattr(2).
    fn capability(&self) -> Result<Option<Capability<Disk>>> {
        Err(Error::Unsupported)
    }

    /// Opens the same file once more, to hold range locks of one owner.
    ///
    /// # Errors
    /// As open(2).
    fn locks(&self) -> Result<Box<dyn Locks>>;

    /// Returns what of it the kernel can do by itself.
    ///
    /// # Errors
    /// As fstat(2), fstatfs(2); as open(2) for `O_DIRECT`.
    fn lending(&self) -> Result<Lending> {
        Ok(Lending::Nothing)
    }

    /// Hands over a descriptor of the file that the kernel can open by itself,
    /// on a thread that acts as one without privilege meanwhile: it opens, reads and
    /// writes with the rights that the thread has. Returns what `to` has made of it,
    /// now or at an earlier time.
    ///
    /// # Errors
    /// `Unsupported` for one that is not lent; as `to`.
    fn lend(&self, _to: &mut dyn FnMut(BorrowedFd<'_>) -> Result<Lent>) -> Result<Lent> {
        Err(Error::Unsupported)
    }

    /// Returns what a source put in, for its own [`File::copy_to`].
    fn as_any(&self) -> &dyn Any;
}
