//! Reading and writing past the host's cache (`O_DIRECT`).
//!
//! Callers set and clear the flag while a file is open (`F_SETFL` of fcntl(2)), so that it comes
//! with each request. A descriptor that has it is opened for one request alone: that takes
//! little beside what the disk takes, and no descriptor stays open that nobody counts.

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::uio::pread;

use super::file::{HostFile, position, uninterrupted};
use crate::error::{Error, Result};
use crate::source::{File as _, Place, Rights};
use crate::sys::cred::SetId;

/// What memory is aligned to that a disk reads into: a page is enough for all.
const PAGE: usize = 4096;

/// What every disk takes a part of: what is aligned to less is refused, as by the host.
const SECTOR: u64 = 512;

thread_local! {
    /// Aligned memory of each thread, since that of a request is not.
    static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `act` on so much aligned memory.
fn with_memory<T>(length: usize, act: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
    MEMORY.with_borrow_mut(|memory| {
        let wanted = length.saturating_add(PAGE);
        if memory.len() < wanted {
            memory.resize(wanted, 0);
        }
        let start = memory.as_ptr().align_offset(PAGE);
        let end = start.saturating_add(length);
        act(memory.get_mut(start..end).ok_or(Error::Internal)?)
    })
}

/// Reports whether a request may be in parts that the disk has not: a caller's memory is, so
/// that the kernel divides it elsewhere.
fn may_be_divided(at: Option<u64>, length: usize) -> bool {
    let length = u64::try_from(length).unwrap_or(1);
    length.is_multiple_of(SECTOR) && at.is_none_or(|at| at.is_multiple_of(SECTOR))
}

impl HostFile {
    /// Opens the file past the cache; `None` where that cannot be, or not any more: who has a
    /// file open goes on using it whatever its mode has become.
    fn past_the_cache(&self) -> Result<Option<OwnedFd>> {
        self.as_server(SetId::Unaffected)?;
        Ok(self.reopen(OFlag::O_DIRECT).ok())
    }

    /// Reads past the cache, or by it where there is no other way.
    pub(super) fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let Some(fd) = self.past_the_cache()? else { return self.read(offset, buf) };
        let at = position(offset)?;
        let read = with_memory(buf.len(), |memory| {
            let read = uninterrupted(|| pread(fd.as_fd(), memory, at))?;
            let (to, from) = (buf.get_mut(..read), memory.get(..read));
            to.zip(from).map(|(to, from)| to.copy_from_slice(from)).ok_or(Error::Internal)?;
            Ok(read)
        });
        match read {
            Err(error) if error.is(libc::EINVAL) && may_be_divided(Some(offset), buf.len()) => {
                self.read(offset, buf)
            }
            read => read,
        }
    }

    /// Writes past the cache, or by it where there is no other way.
    pub(super) fn write_past_cache(
        &self,
        place: Place,
        data: &[u8],
        rights: Rights,
    ) -> Result<usize> {
        let Some(fd) = self.past_the_cache()? else { return self.write(place, data, rights) };
        let written = with_memory(data.len(), |memory| {
            memory.copy_from_slice(data);
            self.write_by(fd.as_fd(), place, memory, rights)
        });
        let at = match place {
            Place::At(offset) => Some(offset),
            Place::End => None,
        };
        match written {
            Err(error) if error.is(libc::EINVAL) && may_be_divided(at, data.len()) => {
                self.write(place, data, rights)
            }
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_whatever_was_asked_for_before() {
        for length in [1, 4096, 1 << 20, 512, 0] {
            let (start, room) =
                with_memory(length, |memory| Ok((memory.as_ptr() as usize, memory.len()))).unwrap();
            assert_eq!((start % PAGE, room), (0, length));
        }
    }

    #[test]
    fn only_whole_sectors_may_be_parts_of_what_a_caller_has_aligned() {
        assert!(may_be_divided(Some(512), 1024) && may_be_divided(None, 512));
        assert!(!may_be_divided(Some(1), 512) && !may_be_divided(Some(0), 100));
    }
}
