//! Inode flags: `FS_IOC_GETFLAGS` and its relatives, ioctl_iflags(2).

use std::os::fd::{AsRawFd, BorrowedFd};

/// The size of `struct fsxattr` in bytes.
pub const EXTENDED: usize = 28;

// The kernel reads and writes an int, whatever the size in the number says.
nix::ioctl_read! {
    /// `FS_IOC_GETFLAGS`.
    get_flags, b'f', 1, libc::c_long
}
nix::ioctl_write_ptr! {
    /// `FS_IOC_SETFLAGS`.
    put_flags, b'f', 2, libc::c_long
}
nix::ioctl_read! {
    /// `FS_IOC_FSGETXATTR`.
    get_extended, b'X', 31, [u8; EXTENDED]
}
nix::ioctl_write_ptr! {
    /// `FS_IOC_FSSETXATTR`.
    put_extended, b'X', 32, [u8; EXTENDED]
}

/// Returns the `FS_*_FL` bits of an open file or directory.
///
/// # Errors
/// As ioctl(2): `ENOTTY` where the file system has none.
pub fn flags(fd: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut flags = [0_u32; 2];
    let raw = (&raw mut flags).cast();
    // SAFETY: `raw` has room for a long; both halves are written or zero.
    unsafe { get_flags(fd.as_raw_fd(), raw) }?;
    Ok(flags[0])
}

/// Sets the `FS_*_FL` bits of an open file or directory.
///
/// # Errors
/// As ioctl(2).
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> nix::Result<()> {
    let flags = [flags, 0];
    let raw = (&raw const flags).cast();
    // SAFETY: `raw` is readable for a long.
    unsafe { put_flags(fd.as_raw_fd(), raw) }.map(drop)
}

/// Returns the `struct fsxattr` of an open file or directory.
///
/// # Errors
/// As ioctl(2): `ENOTTY` where the file system has none.
pub fn extended(fd: BorrowedFd<'_>) -> nix::Result<[u8; EXTENDED]> {
    let mut attributes = [0; EXTENDED];
    // SAFETY: the array is as large as the structure and any bytes are valid.
    unsafe { get_extended(fd.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// Sets the `struct fsxattr` of an open file or directory.
///
/// # Errors
/// As ioctl(2).
pub fn set_extended(fd: BorrowedFd<'_>, attributes: &[u8; EXTENDED]) -> nix::Result<()> {
    // SAFETY: the array is as large as the structure.
    unsafe { put_extended(fd.as_raw_fd(), &raw const *attributes) }.map(drop)
}
