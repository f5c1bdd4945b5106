//! statx(2): attributes with birth time and mount id.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::NixPath;
use nix::errno::Errno;

use crate::attr::Time;

/// What statx(2) tells of a file; ids and numbers are the kernel's.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// The inode number.
    pub ino: u64,
    /// The device that the file is on, as in makedev(3).
    pub dev: u64,
    /// The id of the mount that it was reached through; 0 if unknown.
    pub mount: u64,
    /// Kind and permission bits.
    pub mode: u32,
    /// The number of hard links.
    pub nlink: u32,
    /// The owning user, in the user namespace of this process.
    pub uid: u32,
    /// The owning group, in the user namespace of this process.
    pub gid: u32,
    /// The device that a device node stands for, as in makedev(3).
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of I/O, in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Creation, where the file system records it.
    pub btime: Option<Time>,
    /// Whether it is immutable or append-only.
    pub locked: bool,
    /// Whether it is encrypted by its file system, with a key that may be missing.
    pub encrypted: bool,
}

/// Returns the attributes of a name in a directory, or with an empty name of
/// the descriptor itself. Follows no symbolic link, triggers no automount.
///
/// # Errors
/// As statx(2).
pub fn stat(at: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Stat> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;
    Ok(from_raw(&statx(at, name, 0, mask)?))
}

/// Returns mount and kind of a name in a directory, without asking whoever
/// serves the file: what is mounted there may not answer, or be this process.
/// The kind is 0 where it is not known.
///
/// # Errors
/// As statx(2).
pub fn mount_at(at: BorrowedFd<'_>, name: &OsStr) -> nix::Result<(u64, u32)> {
    let raw = statx(at, name, libc::AT_STATX_DONT_SYNC, 0)?;
    Ok((raw.stx_mnt_id, u32::from(raw.stx_mode) & libc::S_IFMT))
}

/// What is mounted at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The device number of the file system, major and minor. The next one that
    /// is mounted may get it when this one is gone.
    pub device: (u32, u32),
    /// The id of the mount, which no other one gets (before Linux 6.8: while this
    /// one is there).
    pub mount: u64,
}

/// Returns what is mounted at a path, without asking a server for anything.
/// Follows symbolic links but the last.
///
/// # Errors
/// As statx(2).
pub fn mounted(at: BorrowedFd<'_>, path: &OsStr) -> nix::Result<Mounted> {
    let mask = libc::STATX_MNT_ID | libc::STATX_MNT_ID_UNIQUE;
    let raw = statx(at, path, libc::AT_STATX_DONT_SYNC, mask)?;
    let device = (raw.stx_dev_major, raw.stx_dev_minor);
    Ok(Mounted { device, mount: raw.stx_mnt_id })
}

fn statx(
    at: BorrowedFd<'_>,
    name: &OsStr,
    flags: libc::c_int,
    mask: libc::c_uint,
) -> nix::Result<libc::statx> {
    let flags = flags | libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    let done = name.with_nix_path(|name| {
        // SAFETY: `name` ends with a NUL and `raw` has room for the result.
        unsafe { libc::statx(at.as_raw_fd(), name.as_ptr(), flags, mask, raw.as_mut_ptr()) }
    })?;
    Errno::result(done)?;
    // SAFETY: plain integers, all of them zeroed or written by the kernel.
    Ok(unsafe { raw.assume_init() })
}

fn from_raw(raw: &libc::statx) -> Stat {
    let has = |bit: libc::c_uint| raw.stx_mask & bit != 0;
    Stat {
        ino: raw.stx_ino,
        dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        mount: if has(libc::STATX_MNT_ID) { raw.stx_mnt_id } else { 0 },
        mode: u32::from(raw.stx_mode),
        nlink: raw.stx_nlink,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        rdev: libc::makedev(raw.stx_rdev_major, raw.stx_rdev_minor),
        size: raw.stx_size,
        blocks: raw.stx_blocks,
        blksize: raw.stx_blksize,
        atime: time(raw.stx_atime),
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        btime: has(libc::STATX_BTIME).then(|| time(raw.stx_btime)),
        locked: raw.stx_attributes & LOCKED != 0,
        encrypted: raw.stx_attributes & ENCRYPTED != 0,
    }
}

/// `STATX_ATTR_IMMUTABLE` and `STATX_ATTR_APPEND`.
const LOCKED: u64 = 0x30;
/// `STATX_ATTR_ENCRYPTED`.
const ENCRYPTED: u64 = 0x800;

const fn time(raw: libc::statx_timestamp) -> Time {
    Time { sec: raw.tv_sec, nsec: raw.tv_nsec }
}
