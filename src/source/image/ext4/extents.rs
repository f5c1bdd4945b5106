//! Where a hole ends of a file that has extents (`ext4_ext_next_allocated_block` of
//! fs/ext4/extents.c).

use fs_ext4::extent::{EXT4_EXT_MAX_DEPTH, EXT4_EXT_NODE_SIZE, ExtentHeader};
use fs_ext4::{Error, Result};

use super::{Found, Volume, le16, le32};

/// Where in an entry of an index the number of the block is that it leads to: its lower
/// half, and its upper one.
const BELOW: (usize, usize) = (4, 8);

/// Returns where the extent begins that follows a block which is in none, in blocks of the
/// file, and always behind it; the end of all numbers if there is none.
///
/// The blocks on the way are those that were verified when no extent was found.
pub(super) fn next(volume: &Volume, file: &Found, logical: u64) -> Result<u64> {
    let mut next = u64::MAX;
    let mut node = file.inode.block.to_vec();
    let mut header = ExtentHeader::parse(&node)?;
    for _ in 0..=EXT4_EXT_MAX_DEPTH {
        // Extents and entries of an index begin with the first block that they are about.
        let entries = node.chunks_exact(EXT4_EXT_NODE_SIZE).skip(1).take(header.entries.into());
        let first = |entry: &[u8]| u64::from(le32(entry, 0));
        if let Some(entry) = entries.clone().find(|entry| first(entry) > logical) {
            next = next.min(first(entry));
        }
        if header.is_leaf() {
            return Ok(next);
        }
        let before = entries.clone().take_while(|entry| first(entry) <= logical).last();
        let Some(entry) = before.or_else(|| entries.clone().next()) else { return Ok(next) };
        let below = u64::from(le32(entry, BELOW.0)) | u64::from(le16(entry, BELOW.1)) << 32;
        node = vec![0; usize::try_from(volume.block()).unwrap_or_default()];
        volume.fs.dev.read_at(below.saturating_mul(volume.block()), &mut node)?;
        header = ExtentHeader::parse(&node)?;
    }
    Err(Error::CorruptExtentTree("deeper than can be"))
}
