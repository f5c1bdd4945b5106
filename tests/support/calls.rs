//! System calls that few programs make; unsafe as those of `raw`.
#![allow(unsafe_code, reason = "system calls that nix does not wrap")]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::raw::Sys;

fn check(done: i64) -> Sys {
    if done < 0 { Err(Errno::last_raw()) } else { Ok(done) }
}

/// ioctl(2) with a structure of which these are the bytes, as long as its kind has it.
pub fn ioctl(fd: BorrowedFd<'_>, number: u64, bytes: &mut [u8]) -> Sys {
    // SAFETY: the bytes are as long as what goes with the number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, bytes.as_mut_ptr()) }.into())
}

/// preadv2(2) with flags, into one buffer.
pub fn read(fd: BorrowedFd<'_>, bytes: &mut [u8], at: i64, flags: i32) -> Sys {
    let buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: one buffer with its length.
    check(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const buffer, 1, at, flags) } as i64)
}

/// pwritev2(2) with flags, of one buffer.
pub fn write(fd: BorrowedFd<'_>, bytes: &mut [u8], at: i64, flags: i32) -> Sys {
    let buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: one buffer with its length.
    check(unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const buffer, 1, at, flags) } as i64)
}

/// swapon(2), and swapoff(2) at once.
pub fn swap(file: &Path) -> Sys {
    let file = CString::new(file.as_os_str().as_bytes()).expect("no NUL in a test's path");
    // SAFETY: a C string, valid for the length of the call.
    check(unsafe { libc::swapon(file.as_ptr(), 0) }.into())?;
    // SAFETY: likewise.
    check(unsafe { libc::swapoff(file.as_ptr()) }.into())
}

/// fcntl(2) with a command that takes nothing.
pub fn fcntl(fd: BorrowedFd<'_>, command: i32) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), command) }.into())
}

/// statx(2) of a name: what of a mask is filled in, and the id of the mount.
pub fn statx(path: &Path, mask: u32) -> Sys<(u32, u64)> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a test's path");
    let mut buf = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (cwd, flags) = (libc::AT_FDCWD, libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: a C string and one statx structure.
    check(unsafe { libc::statx(cwd, path.as_ptr(), flags, mask, buf.as_mut_ptr()) }.into())?;
    // SAFETY: the structure is plain integers and was zeroed.
    let buf = unsafe { buf.assume_init() };
    Ok((buf.stx_mask & mask, buf.stx_mnt_id))
}
