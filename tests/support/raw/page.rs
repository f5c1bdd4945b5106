//! Mapped pages.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};

use super::{Sys, check};

/// A page of a file, mapped for reading and writing.
#[derive(Debug)]
pub struct Page(NonNull<u8>);

/// The size that is mapped.
const PAGE: usize = 4096;

impl Page {
    /// Maps the first page, shared with the file or private.
    pub fn map(fd: BorrowedFd<'_>, shared: bool) -> Sys<Self> {
        Self::map_at(fd, shared, 0)
    }

    /// Maps one page at an offset.
    pub fn map_at(fd: BorrowedFd<'_>, shared: bool, off: i64) -> Sys<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(null_mut(), PAGE, protection, flags, fd.as_raw_fd(), off) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        Ok(Self(NonNull::new(at.cast()).expect("a mapping is not at 0")))
    }

    /// The byte at an offset.
    pub fn get(&self, at: usize) -> u8 {
        assert!(at < PAGE, "outside the page");
        // SAFETY: inside the mapping; volatile, since others change the file.
        unsafe { self.0.as_ptr().add(at).read_volatile() }
    }

    /// Stores a byte at an offset.
    pub fn set(&mut self, at: usize, byte: u8) {
        assert!(at < PAGE, "outside the page");
        // SAFETY: inside the mapping, which is writable.
        unsafe { self.0.as_ptr().add(at).write_volatile(byte) }
    }

    /// Has getdents64(2) list a directory into the page; returns how many bytes came. It
    /// takes as long as the page does to come.
    pub fn list(&mut self, dir: BorrowedFd<'_>) -> Sys {
        let (dir, to) = (dir.as_raw_fd(), self.0.as_ptr());
        // SAFETY: the kernel writes at most a page, and the mapping is ours and that long.
        check(unsafe { libc::syscall(libc::SYS_getdents64, dir, to, PAGE) })
    }

    /// Waits until the page is in the file.
    pub fn sync(&self) -> Sys {
        // SAFETY: the mapping is ours and a page long.
        check(unsafe { libc::msync(self.0.as_ptr().cast(), PAGE, libc::MS_SYNC) })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing points into it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}
