//! Extended attributes of the file behind an `O_PATH` descriptor.
//!
//! The calls that take a descriptor refuse `O_PATH`; its link in
//! `/proc/self/fd` works for every kind of file, symbolic links too. It costs
//! three times as much, so other ways are taken where there are some.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// Most values are smaller than this.
const USUAL: usize = 512;
/// The most that a value or a list of names has (`XATTR_SIZE_MAX`).
const MOST: usize = 65_536;

/// How the file behind a descriptor is reached.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// An `O_PATH` descriptor, by its link.
    Link(BorrowedFd<'a>),
    /// An `O_PATH` descriptor of a directory: `.` in it, where the kernel takes
    /// that (6.13) and it may be searched, else its link.
    Dir(BorrowedFd<'a>),
    /// One that is open for more.
    Open(BorrowedFd<'a>),
}

/// `setxattrat` and its relatives, the same on every architecture that Rust has;
/// they refuse `O_PATH` with an empty path (`fs/xattr.c`).
const SETXATTRAT: libc::c_long = 463;
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;
const REMOVEXATTRAT: libc::c_long = 466;

/// `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

impl Args {
    fn new(value: *const u8, size: usize, flags: i32) -> Self {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        Self { value: value.addr() as u64, size, flags: flags.cast_unsigned() }
    }
}

impl Way<'_> {
    /// Calls in the way that is quickest, else by the link.
    fn call<T>(
        self,
        open: impl FnOnce(RawFd) -> nix::Result<T>,
        dir: impl FnOnce(RawFd) -> nix::Result<T>,
        link: impl FnOnce(&CStr) -> nix::Result<T>,
    ) -> nix::Result<T> {
        let fd = match self {
            Self::Open(fd) => return open(fd.as_raw_fd()),
            Self::Link(fd) => fd,
            Self::Dir(fd) => match dir(fd.as_raw_fd()) {
                // An older kernel, or a filter that does not know the call; or it
                // may not be searched.
                Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => fd,
                done => return done,
            },
        };
        link(&link_of(fd))
    }
}

/// Returns the value of an attribute.
///
/// # Errors
/// As getxattr(2): `ENODATA`.
pub fn get(way: Way<'_>, name: &OsStr) -> nix::Result<Vec<u8>> {
    let name = c_string(name)?;
    way.call(
        |fd| {
            sized(|buf| {
                let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
                // SAFETY: the name ends with a NUL; `data` has room for `len` bytes.
                unsafe { libc::fgetxattr(fd, name.as_ptr(), data, len) }
            })
        },
        |fd| {
            sized(|buf| {
                let args = Args::new(buf.as_mut_ptr(), buf.len(), 0);
                let (dot, size) = (c".".as_ptr(), size_of::<Args>());
                let raw = &raw const args;
                // SAFETY: both strings end with a NUL; `args` names `buf` and its size.
                let got =
                    unsafe { libc::syscall(GETXATTRAT, fd, dot, 0, name.as_ptr(), raw, size) };
                isize::try_from(got).unwrap_or(-1)
            })
        },
        |link| {
            sized(|buf| {
                let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
                // SAFETY: both strings end with a NUL; `data` has room for `len` bytes.
                unsafe { libc::getxattr(link.as_ptr(), name.as_ptr(), data, len) }
            })
        },
    )
}

/// Returns the names of all attributes, each ended by a NUL.
///
/// # Errors
/// As listxattr(2).
pub fn list(way: Way<'_>) -> nix::Result<Vec<u8>> {
    way.call(
        |fd| {
            sized(|buf| {
                let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
                // SAFETY: `data` has room for `len` bytes.
                unsafe { libc::flistxattr(fd, data, len) }
            })
        },
        |fd| {
            sized(|buf| {
                let (dot, data, len) = (c".".as_ptr(), buf.as_mut_ptr(), buf.len());
                // SAFETY: the path ends with a NUL; `data` has room for `len` bytes.
                let got = unsafe { libc::syscall(LISTXATTRAT, fd, dot, 0, data, len) };
                isize::try_from(got).unwrap_or(-1)
            })
        },
        |link| {
            sized(|buf| {
                let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
                // SAFETY: the string ends with a NUL; `data` has room for `len` bytes.
                unsafe { libc::listxattr(link.as_ptr(), data, len) }
            })
        },
    )
}

/// Sets an attribute; `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or 0.
///
/// # Errors
/// As setxattr(2).
pub fn set(way: Way<'_>, name: &OsStr, value: &[u8], flags: i32) -> nix::Result<()> {
    let name = c_string(name)?;
    let (data, len) = (value.as_ptr(), value.len());
    way.call(
        |fd| {
            // SAFETY: the name ends with a NUL; `data` is readable for `len` bytes.
            let done = unsafe { libc::fsetxattr(fd, name.as_ptr(), data.cast(), len, flags) };
            Errno::result(done).map(drop)
        },
        |fd| {
            let args = Args::new(data, len, flags);
            let (dot, size, raw) = (c".".as_ptr(), size_of::<Args>(), &raw const args);
            // SAFETY: both strings end with a NUL; `args` names `value` and its size.
            let done = unsafe { libc::syscall(SETXATTRAT, fd, dot, 0, name.as_ptr(), raw, size) };
            Errno::result(done).map(drop)
        },
        |link| {
            let (link, data) = (link.as_ptr(), data.cast());
            // SAFETY: both strings end with a NUL; `data` is readable for `len` bytes.
            let done = unsafe { libc::setxattr(link, name.as_ptr(), data, len, flags) };
            Errno::result(done).map(drop)
        },
    )
}

/// Removes an attribute.
///
/// # Errors
/// As removexattr(2): `ENODATA`.
pub fn remove(way: Way<'_>, name: &OsStr) -> nix::Result<()> {
    let name = c_string(name)?;
    way.call(
        // SAFETY: the name ends with a NUL.
        |fd| Errno::result(unsafe { libc::fremovexattr(fd, name.as_ptr()) }).map(drop),
        |fd| {
            let dot = c".".as_ptr();
            // SAFETY: both strings end with a NUL.
            let done = unsafe { libc::syscall(REMOVEXATTRAT, fd, dot, 0, name.as_ptr()) };
            Errno::result(done).map(drop)
        },
        // SAFETY: both strings end with a NUL.
        |link| Errno::result(unsafe { libc::removexattr(link.as_ptr(), name.as_ptr()) }).map(drop),
    )
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
