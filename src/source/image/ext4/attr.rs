//! Attributes, from the inode as it is on disk (`struct ext4_inode`).

use super::probe::{self, Features};
use super::{Found, le16, le32};
use crate::attr::{Attr, FileKind, Mode, Time};
use crate::id::{Disk, Id, Owner};
use fs_ext4::inode::InodeFlags;

/// The part of an inode that all have, in bytes.
pub(super) const BASE: usize = 128;

/// How long the rest is taken to be where it says 0: the kernel makes use of it.
const UNUSED: u16 = 32;

const NANOSECOND: u32 = 999_999_999;

/// Returns the attributes of a file, as the kernel shows them; `None` if it is of no
/// kind.
pub(super) fn read(file: &Found, features: Features, block: u32) -> Option<Attr<Disk>> {
    let inode = &file.inode;
    let kind = FileKind::from_mode(inode.mode.into())?;
    let time = |base, extra| time(&file.raw, base, extra).unwrap_or_default();
    let locked = InodeFlags::IMMUTABLE.union(InodeFlags::APPEND);
    Some(Attr {
        ino: file.ino.into(),
        kind,
        mode: Mode::new(inode.mode.into()),
        nlink: inode.links_count.into(),
        owner: Owner { uid: Id::new(inode.uid), gid: Id::new(inode.gid) },
        rdev: rdev(kind, &inode.block),
        size: inode.size,
        blocks: blocks(file, kind, features, block),
        blksize: block,
        atime: time(0x8, 0x8c),
        mtime: time(0x10, 0x88),
        ctime: time(0xc, 0x84),
        btime: self::time(&file.raw, 0x90, 0x94),
        locked: file.has(locked),
        encrypted: false,
    })
}

/// Returns the space taken, in units of 512 bytes.
pub(super) fn blocks(file: &Found, kind: FileKind, features: Features, block: u32) -> u64 {
    let taken = if features.ro_compat & probe::HUGE_FILE == 0 {
        le32(&file.raw, 0x1c).into()
    } else if file.has(InodeFlags::HUGE_FILE) {
        file.inode.blocks.saturating_mul(u64::from(block / 512))
    } else {
        file.inode.blocks
    };
    // What is in the inode takes none, but some programs hold that for a hole.
    let inline = kind == FileKind::Regular && file.has(InodeFlags::INLINE_DATA);
    taken.saturating_add(if inline { file.inode.size.div_ceil(512) } else { 0 })
}

/// Returns the number of a device, which is in its first block in the old form, in
/// the second one in the new.
pub(super) fn rdev(kind: FileKind, block: &[u8]) -> u64 {
    if !matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
        return 0;
    }
    let (old, new) = (le32(block, 0), le32(block, 4));
    if old != 0 {
        libc::makedev((old >> 8) & 0xff, old & 0xff)
    } else {
        libc::makedev((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00))
    }
}

/// Returns a time, if the inode is long enough for it: seconds with a sign, and what
/// the longer form has: bits above them, and nanoseconds.
pub(super) fn time(raw: &[u8], base: usize, extra: usize) -> Option<Time> {
    let rest = raw.len().saturating_sub(BASE);
    let used = match le16(raw, BASE) {
        0 => UNUSED,
        used => used,
    };
    let end = BASE.saturating_add(rest.min(used.into()));
    let has = |at: usize| at < BASE || at.saturating_add(4) <= end;
    let sec = i64::from(le32(raw, base).cast_signed());
    let more = if has(extra) { le32(raw, extra) } else { 0 };
    let sec = sec.saturating_add(i64::from(more & 3) << 32);
    has(base).then_some(Time { sec, nsec: (more >> 2).min(NANOSECOND) })
}
