//! Open files of an image.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::inner::Inner;
use super::{Contents, Nid, eio, read_only};
use crate::attr::Attr;
use crate::error::{Errno, Error, Result};
use crate::id::Disk;
use crate::source::local::LocalLocks;
use crate::source::{File, InodeFlags, InodeFlagsKind, Locks, Place, Rights};

/// How far from where the last read ended one goes on: several that the kernel sends at
/// once are answered in any order.
const NEAR: u64 = 256 << 10;

/// How many stretches are looked at to find a hole or data: an image can have files of
/// very many, and nobody else is answered by that thread meanwhile.
const STRETCHES: u32 = 1 << 18;

/// An open file.
#[derive(Debug)]
pub(super) struct ImageFile {
    inner: Arc<Inner>,
    nid: Nid,
    size: u64,
    contents: Arc<dyn Contents>,
    /// How far reads that go on have come: one that begins there is followed by others.
    next: Arc<AtomicU64>,
}

impl ImageFile {
    pub fn new(inner: Arc<Inner>, nid: Nid, size: u64, contents: Box<dyn Contents>) -> Self {
        Self { inner, nid, size, contents: Arc::from(contents), next: Arc::default() }
    }

    /// Reports whether a read is one of several that go on and on.
    fn goes_on(&self, offset: u64, end: u64) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        let is_near = offset > 0 && offset.abs_diff(next) <= NEAR;
        self.next.store(if is_near { end.max(next) } else { end }, Ordering::Relaxed);
        is_near
    }

    /// Reads what is in one piece at an offset; the buffer ends within the file.
    fn read_some(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let Some(range) = self.contents.packed(offset)? else {
            return self.contents.read(offset, buf);
        };
        let block = self.inner.block(self.nid, &self.contents, &range)?;
        let skip = offset.checked_sub(range.start).and_then(|skip| usize::try_from(skip).ok());
        let rest = skip.and_then(|skip| block.get(skip..)).unwrap_or_default();
        let length = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }

    /// Returns where the next hole or data is, from an offset on.
    fn next(&self, mut at: u64, wants_hole: bool) -> Result<Option<u64>> {
        for _ in 0..STRETCHES {
            if at >= self.size {
                return Ok(None);
            }
            let stretch = self.contents.stretch(at)?;
            if stretch.is_hole == wants_hole {
                return Ok(Some(at));
            }
            if stretch.end <= at {
                return Err(eio());
            }
            at = stretch.end;
        }
        // A hole may be told of as data, never the other way round.
        Ok((!wants_hole).then_some(at))
    }

    /// Reads up to the end of the file, whatever pieces that is in.
    fn read_all(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = rest.min(buf.len());
        let mut done: usize = 0;
        while let Some(left) = buf.get_mut(done..wanted).filter(|left| !left.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).map_err(|_| eio())?);
            let read = self.read_some(at, left)?;
            if read == 0 {
                return Err(eio());
            }
            done = done.saturating_add(read);
        }
        Ok(done)
    }
}

impl File for ImageFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let done = self.inner.answer(|_| self.read_all(offset, buf))?;
        let end = offset.saturating_add(u64::try_from(done).map_err(|_| eio())?);
        if self.goes_on(offset, end) {
            self.inner.go_ahead(self.nid, &self.contents, end..self.size, &self.next);
            self.inner.leave_behind(self.nid, &*self.contents, offset..end);
        }
        Ok(done)
    }

    fn write(&self, _place: Place, _data: &[u8], _rights: Rights) -> Result<usize> {
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, _mode: i32, _offset: u64, _length: u64, _rights: Rights) -> Result<()> {
        Err(read_only())
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        let at = u64::try_from(offset).ok().filter(|at| *at < self.size);
        let at = at.ok_or(Error::Os(Errno(libc::ENXIO)))?;
        let wants_hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return Err(Error::Invalid),
        };
        let found = self.inner.answer(|_| self.next(at, wants_hole))?;
        // There is a hole at the end of every file.
        found.or(wants_hole.then_some(self.size)).ok_or(Error::Os(Errno(libc::ENXIO)))
    }

    fn copy_to(
        &self,
        _offset: u64,
        _to: &dyn File,
        _to_offset: u64,
        _length: u64,
        _rights: Rights,
    ) -> Result<usize> {
        Err(read_only())
    }

    fn getattr(&self) -> Result<Attr<Disk>> {
        self.inner.attr(self.nid)
    }

    fn inode_flags(&self, _kind: InodeFlagsKind) -> Result<InodeFlags> {
        Err(Error::Os(Errno(libc::ENOTTY)))
    }

    fn set_inode_flags(&self, _flags: &InodeFlags) -> Result<()> {
        Err(Error::Os(Errno(libc::ENOTTY)))
    }

    fn locks(&self) -> Result<Box<dyn Locks>> {
        Ok(Box::new(LocalLocks::new(Arc::clone(self.inner.locks()), self.nid.0)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
