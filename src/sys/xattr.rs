//! Extended attributes of the file behind an `O_PATH` descriptor.
//!
//! The calls that take a descriptor refuse `O_PATH`; its link in
//! `/proc/self/fd` works for every kind of file, symbolic links too.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// Most values are smaller than this.
const USUAL: usize = 512;
/// The most that a value or a list of names has (`XATTR_SIZE_MAX`).
const MOST: usize = 65_536;

/// Returns the value of an attribute.
///
/// # Errors
/// As getxattr(2): `ENODATA`.
pub fn get(fd: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Vec<u8>> {
    let (link, name) = (link_of(fd), c_string(name)?);
    sized(|buf| {
        let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: both strings end with a NUL; `data` has room for `len` bytes.
        unsafe { libc::getxattr(link.as_ptr(), name.as_ptr(), data, len) }
    })
}

/// Returns the names of all attributes, each ended by a NUL.
///
/// # Errors
/// As listxattr(2).
pub fn list(fd: BorrowedFd<'_>) -> nix::Result<Vec<u8>> {
    let link = link_of(fd);
    sized(|buf| {
        let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: the string ends with a NUL; `data` has room for `len` bytes.
        unsafe { libc::listxattr(link.as_ptr(), data, len) }
    })
}

/// Sets an attribute; `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or 0.
///
/// # Errors
/// As setxattr(2).
pub fn set(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8], flags: i32) -> nix::Result<()> {
    let (link, name) = (link_of(fd), c_string(name)?);
    let (data, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: both strings end with a NUL; `data` is readable for `len` bytes.
    let done = unsafe { libc::setxattr(link.as_ptr(), name.as_ptr(), data, len, flags) };
    Errno::result(done).map(drop)
}

/// Removes an attribute.
///
/// # Errors
/// As removexattr(2): `ENODATA`.
pub fn remove(fd: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
    let (link, name) = (link_of(fd), c_string(name)?);
    // SAFETY: both strings end with a NUL.
    let done = unsafe { libc::removexattr(link.as_ptr(), name.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Calls with a buffer of the usual size, then with one that always suffices.
fn sized(mut call: impl FnMut(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    let mut buf = vec![0; USUAL];
    let mut got = Errno::result(call(&mut buf));
    if matches!(got, Err(Errno::ERANGE)) {
        buf.resize(MOST, 0);
        got = Errno::result(call(&mut buf));
    }
    buf.truncate(usize::try_from(got?).unwrap_or(0));
    Ok(buf)
}

fn c_string(name: &OsStr) -> nix::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}

fn link_of(fd: BorrowedFd<'_>) -> CString {
    // A decimal number holds no NUL, so the empty default is never taken.
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}
