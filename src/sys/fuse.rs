//! The device that a FUSE server talks to the kernel through.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Its path.
pub const FUSE_DEVICE: &str = "/dev/fuse";

mod ioctl {
    use super::BackingMap;

    // FUSE_DEV_IOC_CLONE, _BACKING_OPEN and _BACKING_CLOSE of linux/fuse.h.
    nix::ioctl_read!(clone, 229, 0, u32);
    nix::ioctl_write_ptr!(backing_open, 229, 1, BackingMap);
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);
}

/// `struct fuse_backing_map`.
#[derive(Debug)]
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Opens the device once more, for the same connection.
///
/// # Errors
/// `EINVAL` unless both devices were opened in the same user namespace.
pub fn clone_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let clone: OwnedFd = File::options().read(true).write(true).open(FUSE_DEVICE)?.into();
    let mut source = device.as_raw_fd().cast_unsigned();
    // SAFETY: the call reads a u32, which lives until it returns.
    unsafe { ioctl::clone(clone.as_raw_fd(), &raw mut source) }?;
    Ok(clone)
}

/// Finds out whether files can be registered that the kernel is to read and
/// write by itself: one in memory is, and taken back.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the initial user namespace, or if it was
/// not agreed on; `ENOTTY` on old kernels.
pub fn can_back(device: BorrowedFd<'_>) -> io::Result<()> {
    let file = memfd_create(c"idmapfs", MFdFlags::MFD_CLOEXEC)?;
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the call reads the map, which lives until it returns.
    let id = unsafe { ioctl::backing_open(device.as_raw_fd(), &raw const map) }?;
    let id = id.cast_unsigned();
    // SAFETY: the call reads a u32, which lives until it returns.
    unsafe { ioctl::backing_close(device.as_raw_fd(), &raw const id) }?;
    Ok(())
}
