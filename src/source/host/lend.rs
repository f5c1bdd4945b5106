//! Which files the kernel may open, read and write by itself.
//!
//! It does so with the credentials of the thread that lends, for every caller
//! alike: without `CAP_FSETID`, as one who has no claim to blocks in reserve. So
//! set-id bits and capabilities go with every write, but for a set-group-id bit that
//! comes later and makes no program run as that group. Where the caller makes a
//! difference, writes come here.
//!
//! On a file system where the user makes no other difference that is whoever the
//! thread acts as already: a change of ids takes the kernel 2 to 4 us.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use nix::sys::stat::major;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,
};
use nix::sys::statvfs::fstatvfs;

use crate::attr::Mode;
use crate::error::Result;
use crate::source::Lending;
use crate::sys::stat::stat;

/// File systems of this host alone that are on no device of their own. ZFS and
/// bcachefs: `statfs` of their tools.
const LOCAL: [FsType; 4] =
    [TMPFS_MAGIC, BTRFS_SUPER_MAGIC, FsType(0x2fc1_2fc1), FsType(0xca45_1a4e)];

/// Reports whether a file system asks nobody elsewhere who opens a file, and has
/// files that are the same for everyone who does.
///
/// Servers of network file systems refuse nobody; files of procfs depend on who
/// opens them; of what is stacked the kernel lends nothing.
pub(super) fn is_local(kind: FsType, dev: u64) -> bool {
    let on_a_device = major(dev) != 0 && kind != FUSE_SUPER_MAGIC && kind != OVERLAYFS_SUPER_MAGIC;
    on_a_device || LOCAL.contains(&kind)
}

/// Returns what of a file that is open for writing the kernel can do by itself.
///
/// # Errors
/// As fstat(2), fstatfs(2).
pub(super) fn of_written(fd: BorrowedFd<'_>) -> Result<Lending> {
    let mode = Mode::new(stat(fd, OsStr::new(""))?.mode);
    let judged = mode.has(Mode::SETUID | Mode::SETGID) || has_little_left(fd)?;
    Ok(if judged { Lending::Mappings } else { Lending::Everything })
}

/// How many bytes are enough for writers who come and go: with fewer free, and
/// fewer than are in reserve for root, who writes may soon make a difference.
const ENOUGH: u64 = 64 << 20;

fn has_little_left(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = fstatvfs(fd)?;
    let free = stat.blocks_available();
    let reserve = stat.blocks_free().saturating_sub(free);
    let enough = ENOUGH.checked_div(stat.fragment_size()).unwrap_or(u64::MAX);
    Ok(free < reserve.min(enough))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::makedev;
    use nix::sys::statfs::{NFS_SUPER_MAGIC, PROC_SUPER_MAGIC, XFS_SUPER_MAGIC};

    use super::*;

    #[test]
    fn only_local_file_systems_are_lent() {
        let (disk, none) = (makedev(253, 1), makedev(0, 44));
        for (kind, dev, local) in [
            (XFS_SUPER_MAGIC, disk, true),
            (TMPFS_MAGIC, none, true),
            (BTRFS_SUPER_MAGIC, none, true),
            (FUSE_SUPER_MAGIC, disk, false),
            (FUSE_SUPER_MAGIC, none, false),
            (OVERLAYFS_SUPER_MAGIC, none, false),
            (OVERLAYFS_SUPER_MAGIC, disk, false),
            (NFS_SUPER_MAGIC, none, false),
            (PROC_SUPER_MAGIC, none, false),
        ] {
            assert_eq!(is_local(kind, dev), local, "{kind:?} on {dev:#x}");
        }
    }
}
