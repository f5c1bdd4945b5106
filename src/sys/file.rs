//! Calls on descriptors that `nix` lacks.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Writes at the end of a file, wherever that is when the write happens.
///
/// # Errors
/// As pwritev2(2).
pub fn append(fd: BorrowedFd<'_>, data: &[u8]) -> nix::Result<usize> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: `part` describes `data`, which the call only reads.
    let done = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, 0, libc::RWF_APPEND) };
    Errno::result(done).map(|done| usize::try_from(done).unwrap_or(0))
}

/// Sets the times of last access and of last change of the file behind a
/// descriptor, `O_PATH` too; `UTIME_NOW` and `UTIME_OMIT` as in utimensat(2).
///
/// # Errors
/// As utimensat(2).
pub fn set_times(fd: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> nix::Result<()> {
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the path ends with a NUL; `times` are the two that are read.
    let done = unsafe { libc::utimensat(fd.as_raw_fd(), path, times.as_ptr(), flags) };
    Errno::result(done).map(drop)
}

/// `fchmodat2`, the same on every architecture that Rust has.
const FCHMODAT2: libc::c_long = 452;

/// Sets the permission bits of the file behind a descriptor, `O_PATH` too.
///
/// # Errors
/// As fchmodat2(2), which Linux 6.6 brought: `ENOSYS`; `EOPNOTSUPP` for a
/// symbolic link.
pub fn chmod(fd: BorrowedFd<'_>, mode: u16) -> nix::Result<()> {
    let (fd, path, mode) = (fd.as_raw_fd(), c"".as_ptr(), libc::c_uint::from(mode));
    // SAFETY: the path ends with a NUL.
    let done = unsafe { libc::syscall(FCHMODAT2, fd, path, mode, libc::AT_EMPTY_PATH) };
    Errno::result(done).map(drop)
}

/// Takes the lock of flock(2) of an open file for oneself alone; `false` if another has
/// it. It ends when the last copy of the descriptor is closed.
///
/// # Errors
/// As flock(2).
pub fn try_lock(file: BorrowedFd<'_>) -> nix::Result<bool> {
    // SAFETY: takes numbers only.
    match Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}
