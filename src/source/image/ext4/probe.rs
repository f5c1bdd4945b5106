//! What the superblock of ext4 says, before the library sees it: what it would call
//! damaged, or read wrong, is refused by its name.

use std::sync::Arc;

use super::{FORMAT, le16, le32};
use crate::source::image::{Device, ImageError};

/// Where the superblock is, and how long it is, in bytes.
const PLACE: (u64, usize) = (1024, 1024);

const MAGIC: u16 = 0xef53;

/// Features that files are kept by, by bit: as `dumpe2fs` names them.
const INCOMPAT: [&str; 18] = [
    "compression",
    "filetype",
    "needs_recovery",
    "journal_dev",
    "meta_bg",
    "",
    "extent",
    "64bit",
    "mmp",
    "flex_bg",
    "ea_inode",
    "",
    "dirdata",
    "metadata_csum_seed",
    "large_dir",
    "inline_data",
    "encrypt",
    "casefold",
];

/// Features that must be known to write.
const RO_COMPAT: [&str; 17] = [
    "sparse_super",
    "large_file",
    "",
    "huge_file",
    "uninit_bg",
    "dir_nlink",
    "extra_isize",
    "snapshot",
    "quota",
    "bigalloc",
    "metadata_csum",
    "replica",
    "read-only",
    "project",
    "shared_blocks",
    "verity",
    "orphan_present",
];

/// Features that need not be known.
const COMPAT: [&str; 13] = [
    "dir_prealloc",
    "imagic_inodes",
    "has_journal",
    "ext_attr",
    "resize_inode",
    "dir_index",
    "lazy_bg",
    "",
    "",
    "sparse_super2",
    "fast_commit",
    "stable_inodes",
    "orphan_file",
];

/// Which features are read right; all others keep files in a way of their own.
const KNOWN: u32 = 0x1_e7d6;

pub(super) const NEEDS_RECOVERY: u32 = 0x4;
const JOURNAL_DEV: u32 = 0x8;
pub(super) const EXTENTS: u32 = 0x40;
pub(super) const WIDE: u32 = 0x80;
pub(super) const EA_INODE: u32 = 0x400;
pub(super) const LARGE_DIR: u32 = 0x4000;
pub(super) const ENCRYPT: u32 = 0x1_0000;
const CASEFOLD: u32 = 0x2_0000;

pub(super) const HUGE_FILE: u32 = 0x8;
pub(super) const BIGALLOC: u32 = 0x200;
pub(super) const METADATA_CSUM: u32 = 0x400;
pub(super) const VERITY: u32 = 0x8000;

const HAS_JOURNAL: u32 = 0x4;
pub(super) const DIR_INDEX: u32 = 0x20;
const FAST_COMMIT: u32 = 0x400;

/// The features that ext2 and ext3 had, of those that keep files in a way of their own and
/// those that must be known to write.
const OLD: (u32, u32) = (0x16, 0x7);

/// The largest blocks that are read, as the power of two over 1024 bytes.
const LARGEST: u32 = 6;

/// The most groups of blocks: what is known of each is kept in memory.
const GROUPS: u64 = 1 << 21;

/// What to do with a journal that is not replayed.
const WRITE_BACK: &str = "have e2fsck -p write back what is in the journal";

/// The features of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub compat: u32,
    pub incompat: u32,
    pub ro_compat: u32,
}

impl Features {
    /// Reads them from a superblock.
    pub fn of(superblock: &[u8]) -> Self {
        let [compat, incompat, ro_compat] = [0x5c, 0x60, 0x64].map(|at| le32(superblock, at));
        Self { compat, incompat, ro_compat }
    }

    /// Returns the oldest file system that has them all.
    pub const fn generation(self) -> &'static str {
        let (incompat, ro_compat) = OLD;
        if self.incompat & !incompat != 0 || self.ro_compat & !ro_compat != 0 {
            FORMAT
        } else if self.compat & HAS_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Returns their names.
    pub fn names(self) -> Vec<String> {
        let kinds: [(&[&str], u32); 3] =
            [(&COMPAT, self.compat), (&INCOMPAT, self.incompat), (&RO_COMPAT, self.ro_compat)];
        kinds.into_iter().flat_map(|(names, bits)| named(names, bits)).collect()
    }
}

/// Returns the names of the bits that are set.
fn named(names: &[&str], bits: u32) -> Vec<String> {
    let set = (0..u32::BITS).filter(|bit| bits.checked_shr(*bit).is_some_and(|rest| rest & 1 == 1));
    let name = |bit: u32| {
        let name = usize::try_from(bit).ok().and_then(|bit| names.get(bit));
        let name = name.filter(|name| !name.is_empty());
        name.map_or_else(|| format!("an unknown feature (bit {bit})"), |name| (*name).to_owned())
    };
    set.map(name).collect()
}

/// Looks at the superblock; returns the size of a block, in bytes.
///
/// # Errors
/// If there is no ext4, or one with what is not read.
pub(super) fn check(device: &Arc<Device>) -> Result<u32, ImageError> {
    let mut superblock = [0; PLACE.1];
    if device.read(PLACE.0, &mut superblock).is_err() {
        return Err(super::damaged(device, "it ends before its superblock"));
    }
    if le16(&superblock, 0x38) != MAGIC {
        return Err(super::damaged(device, "there is no superblock"));
    }
    refusal(&superblock).map_or(Ok(()), |why| Err(refused(device, why)))?;
    let log = le32(&superblock, 0x18);
    let group = u64::from(le32(&superblock, 0x20));
    let blocks = u64::from(le32(&superblock, 0x4));
    let wide = Features::of(&superblock).incompat & WIDE != 0;
    let high = if wide { u64::from(le32(&superblock, 0x150)) << 32 } else { 0 };
    let blocks = blocks | high;
    if log > LARGEST || blocks.checked_div(group).is_none_or(|groups| groups > GROUPS) {
        return Err(super::damaged(device, "its blocks and groups are of no possible size"));
    }
    Ok(1024 << log)
}

fn refused(device: &Device, (feature, way): (String, &str)) -> ImageError {
    let (path, way) = (device.path().to_owned(), way.to_owned());
    ImageError::Refused { path, format: FORMAT, feature, way }
}

/// Returns why an image is refused whose journal is to be replayed, and has features of its
/// own that the library does not know.
pub(super) fn journal(device: &Device) -> ImageError {
    let what = "needs_recovery and a journal of another form (journal_async_commit)";
    refused(device, (what.to_owned(), WRITE_BACK))
}

/// Returns what is not read, and what can be done.
fn refusal(superblock: &[u8]) -> Option<(String, &'static str)> {
    const KERNEL: &str = "root can have the kernel mount it (--engine kernel)";
    let Features { compat, incompat, ro_compat } = Features::of(superblock);
    let has = |bit| incompat & bit != 0;
    let name = |bit| named(&INCOMPAT, bit).join(", ");
    let (journal, device) = (le32(superblock, 0xe0), le32(superblock, 0xe4));
    if le32(superblock, 0x4c) == 0 && compat | incompat | ro_compat != 0 {
        // The library takes them to be none, the kernel does not.
        Some(("features of a revision that has none".to_owned(), KERNEL))
    } else if has(JOURNAL_DEV) {
        Some((name(JOURNAL_DEV), "this is the journal of another file system: give that one"))
    } else if has(CASEFOLD) {
        Some((
            name(CASEFOLD),
            "names would be found only as they are written; have the kernel mount it as root (--engine kernel)",
        ))
    } else if incompat & !KNOWN != 0 {
        Some((name(incompat & !KNOWN), KERNEL))
    } else if compat & HAS_JOURNAL != 0 && has(NEEDS_RECOVERY) && (journal == 0 || device != 0) {
        let way = "have e2fsck -p -j JOURNAL write back what is in it";
        Some(("needs_recovery and an external journal".to_owned(), way))
    } else if compat & FAST_COMMIT != 0 && has(NEEDS_RECOVERY) {
        let what = "fast_commit and needs_recovery";
        Some((what.to_owned(), WRITE_BACK))
    } else {
        None
    }
}
