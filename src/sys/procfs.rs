//! Acting on the file behind an `O_PATH` descriptor, through its link in
//! `/proc/self/fd`.
//!
//! Such a link leads to the file itself, without a path walk that a rename
//! could redirect, and works for every kind of file on every kernel.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::linkat;

use super::file;

/// Reports whether processes have the numbers there that this one knows them by: it may
/// be that of another pid namespace.
pub fn shows_this_process(proc: BorrowedFd<'_>) -> bool {
    readlinkat(proc, "self").is_ok_and(|link| *link == *std::process::id().to_string())
}

/// The proc file system, held open.
///
/// What is mounted over `/proc` later does not matter to it, nor a fork.
#[derive(Debug)]
pub struct Procfs {
    root: OwnedFd,
}

impl Procfs {
    /// Opens `/proc` and checks that it is the proc file system.
    ///
    /// # Errors
    /// As open(2); `ENOTSUP` if something else is mounted there.
    pub fn open() -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, "/proc", flags, Mode::empty())?;
        if fstatfs(&root)?.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Errno::ENOTSUP);
        }
        // It may be that of a pid namespace in which this process is nobody.
        drop(openat(&root, "self/fd", flags, Mode::empty())?);
        Ok(Self { root })
    }

    /// Opens the file behind a descriptor once more.
    ///
    /// The caller has made sure that it is a regular file or a directory:
    /// opening a device has effects.
    ///
    /// # Errors
    /// As open(2); a file leased to another process is `EAGAIN`.
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat(&self.root, link_of(fd).as_str(), flags, Mode::empty())
    }

    /// Sets the permission bits of the file behind a descriptor; where the kernel
    /// takes that (6.6) without its link, which costs as much again.
    ///
    /// # Errors
    /// As chmod(2); `EOPNOTSUPP` for a symbolic link.
    pub fn chmod(&self, fd: BorrowedFd<'_>, mode: u16) -> nix::Result<()> {
        match file::chmod(fd, mode) {
            // An older kernel, or a filter that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                let mode = Mode::from_bits_truncate(libc::mode_t::from(mode));
                fchmodat(&self.root, link_of(fd).as_str(), mode, FchmodatFlags::FollowSymlink)
            }
            done => done,
        }
    }

    /// Gives the file behind a descriptor another name, likewise.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
        match linkat(fd, "", dir, name, AtFlags::AT_EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH.
            Err(Errno::ENOENT) => {
                linkat(&self.root, link_of(fd).as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)
            }
            done => done,
        }
    }

    /// Returns the path of the file behind a descriptor, as the kernel knows it at that
    /// moment: of a file that was opened by its handle it may not know all.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn path(&self, fd: BorrowedFd<'_>) -> nix::Result<OsString> {
        readlinkat(&self.root, link_of(fd).as_str())
    }

    /// Returns where the file behind a descriptor is found: a directory, and the
    /// path of a link from there.
    pub fn place(&self, fd: BorrowedFd<'_>) -> (BorrowedFd<'_>, String) {
        (self.root.as_fd(), link_of(fd))
    }
}

/// Returns the path of a descriptor's link, below the root of procfs.
fn link_of(fd: BorrowedFd<'_>) -> String {
    format!("self/fd/{}", fd.as_raw_fd())
}
