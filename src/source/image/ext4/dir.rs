//! Directories, in the order in which the kernel lists them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use fs_ext4::dir::{self, DirEntry, DirEntryType};
use fs_ext4::hash::{self, HashVersion};
use fs_ext4::inline_data;
use fs_ext4::inode::InodeFlags;

use super::{Found, Volume, le16, le32, no_key, probe, xattr};
use crate::attr::FileKind;
use crate::error::Result;
use crate::source::image::{Entry, Nid, eio};

/// How many bytes are read in one go.
const PIECE: u64 = 128 << 10;

/// The most blocks that may be missing.
const HOLES: u64 = 1 << 16;

/// Where the first block of an index says how names are hashed.
const VERSION: usize = 0x1c;

/// Where the entries of the first block of an index begin.
const ROOT_ENTRIES: usize = 0x20;

/// Returns all names but `.` and `..`.
pub(super) fn list(volume: &Volume, dir: &Found) -> Result<Vec<Entry>> {
    if !dir.inode.is_dir() {
        return Err(volume.failed(dir.ino, &"no directory"));
    }
    if dir.has(InodeFlags::ENCRYPT) {
        return Err(no_key());
    }
    let (mut entries, version) = if dir.has(InodeFlags::INLINE_DATA) {
        (inline(volume, dir)?, None)
    } else {
        blocks(volume, dir)?
    };
    entries.retain(|entry| !matches!(&*entry.name, b"." | b".."));
    if let Some(version) = hashed(volume, dir, version) {
        entries = in_order(entries, version, &volume.fs.sb.hash_seed);
    }
    let entry = |entry: DirEntry| Entry {
        name: OsString::from_vec(entry.name),
        nid: Nid(entry.inode.into()),
        ino: entry.inode.into(),
        kind: kind(entry.file_type),
    };
    Ok(entries.into_iter().map(entry).collect())
}

/// Returns the directory that one is in: its second entry, where `.` is the first, or the
/// first number of one that is in its inode.
pub(super) fn parent(volume: &Volume, dir: &Found) -> Result<Nid> {
    if !dir.inode.is_dir() {
        return Err(volume.failed(dir.ino, &"no directory"));
    }
    if dir.has(InodeFlags::ENCRYPT) {
        return Err(no_key());
    }
    if dir.has(InodeFlags::INLINE_DATA) {
        return Ok(Nid(le32(&dir.inode.block, 0).into()));
    }
    let mut block = vec![0; usize::try_from(volume.block()).map_err(|_| eio())?];
    volume.fill(dir, 0, &mut block)?;
    let second = block.get(usize::from(le16(&block, 4))..).unwrap_or_default();
    match second.get(6..10) {
        Some([2, _, b'.', b'.']) => Ok(Nid(le32(second, 0).into())),
        _ => Err(volume.failed(dir.ino, &"a directory without `..`")),
    }
}

/// Returns what is in the inode itself.
fn inline(volume: &Volume, dir: &Found) -> Result<Vec<DirEntry>> {
    let mut data = xattr::inline(volume, dir)?;
    data.truncate(usize::try_from(dir.inode.size).unwrap_or(usize::MAX));
    let rest = data.get(dir.inode.block.len()..).unwrap_or_default();
    let entries = inline_data::dir_entries(dir.ino, &dir.inode, rest, true);
    entries.map_err(|error| volume.failed(dir.ino, &error))
}

/// Returns what is in blocks, and how their names are hashed if it says so.
fn blocks(volume: &Volume, dir: &Found) -> Result<(Vec<DirEntry>, Option<u8>)> {
    let block = volume.block();
    let (mut entries, mut version) = (Vec::new(), None);
    // Two of the same would be an image that is larger in memory than on disk.
    let mut seen = HashSet::new();
    let (mut at, mut holes) = (0, 0_u64);
    while at < dir.inode.size {
        let span = volume.span(dir, at)?;
        let Some(start) = span.at else {
            holes = holes.saturating_add(1);
            // There is none in a sound one; the kernel goes on, too.
            if holes > HOLES {
                return Err(volume.failed(dir.ino, &"a directory of holes"));
            }
            at = at.saturating_add(block);
            continue;
        };
        let length = span.length.min(dir.inode.size.saturating_sub(at)).min(PIECE.max(block));
        let mut piece = vec![0; usize::try_from(length).map_err(|_| eio())?];
        volume.read_at(start, &mut piece)?;
        let (whole, size) = (length.checked_rem(block), usize::try_from(block));
        let (Some(0), Ok(size)) = (whole, size) else {
            return Err(volume.failed(dir.ino, &"a directory with a part of a block"));
        };
        for (part, place) in piece.chunks_exact(size).zip((start..).step_by(size)) {
            if !seen.insert(place) {
                return Err(volume.failed(dir.ino, &"a directory with a block twice"));
            }
            if version.is_none() && is_indexed(volume, dir) {
                version = Some(root(volume, dir, part)?);
            } else {
                entries.extend(parse(volume, dir, part)?);
            }
        }
        at = at.saturating_add(length);
    }
    Ok((entries, version))
}

/// Reads the first block of an index, which has no names but `.` and `..`: how those
/// of the others are hashed.
fn root(volume: &Volume, dir: &Found, block: &[u8]) -> Result<u8> {
    let (ino, generation) = (dir.ino, dir.inode.generation);
    if volume.fs.csum.verify_dx_tail(ino, generation, block, ROOT_ENTRIES) == Some(false) {
        return Err(volume.failed(ino, &"the checksum of its index is wrong"));
    }
    block.get(VERSION).copied().ok_or_else(eio)
}

/// Reads a block of names; those of an index are seen as blocks without any.
fn parse(volume: &Volume, dir: &Found, block: &[u8]) -> Result<Vec<DirEntry>> {
    // Without the feature the upper byte of the length is 0, and so is the kind.
    let (ino, generation) = (dir.ino, dir.inode.generation);
    let whole = usize::from(le16(block, 4)) == block.len();
    let long = is_long(block);
    let parsed = if le32(block, 0) == 0 && (long || whole && is_indexed(volume, dir)) {
        Ok(Vec::new())
    } else if long {
        dir::parse_block(&shortened(block), true)
    } else {
        dir::parse_block_verified(block, true, ino, generation, &volume.fs.csum)
    };
    parsed.map_err(|error| volume.failed(ino, &error))
}

/// Reports whether the first entry of a block is all of it and longer than its length has
/// room for (`ext4_rec_len_from_disk`): then there is no checksum behind it.
fn is_long(block: &[u8]) -> bool {
    block.len() > usize::from(u16::MAX) && matches!(le16(block, 4), 0 | u16::MAX)
}

/// Returns such a block with an entry that is not in use at its end.
fn shortened(block: &[u8]) -> Vec<u8> {
    const UNUSED: [u8; 12] = [0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0];
    let mut block = block.to_vec();
    let rest = block.len().saturating_sub(UNUSED.len());
    let length = u16::try_from(rest).unwrap_or_default().to_le_bytes();
    for (to, from) in block.iter_mut().skip(4).zip(length) {
        *to = from;
    }
    for (to, from) in block.iter_mut().skip(rest).zip(UNUSED) {
        *to = from;
    }
    block
}

/// Reports whether directories may have an index.
const fn indices(volume: &Volume) -> bool {
    volume.features.compat & probe::DIR_INDEX != 0
}

/// Reports whether a directory has an index; without the feature the kernel sees none.
fn is_indexed(volume: &Volume, dir: &Found) -> bool {
    indices(volume) && dir.has(InodeFlags::INDEX)
}

/// Returns how names are hashed, if the kernel lists them by their hashes
/// (`is_dx_dir`): those of an index, and those of a single block.
fn hashed(volume: &Volume, dir: &Found, version: Option<u8>) -> Option<HashVersion> {
    let superblock = &volume.fs.sb;
    if !indices(volume) {
        return None;
    }
    let version = if is_indexed(volume, dir) {
        version?
    } else if dir.inode.size == volume.block() || dir.has(InodeFlags::INLINE_DATA) {
        superblock.default_hash_version
    } else {
        return None;
    };
    let unsigned = superblock.unsigned_hash();
    HashVersion::from_u8(version).map(|version| hash::effective_version(version, unsigned))
}

/// Sorts names by their hashes; of those with the same, the kernel has the first one
/// first and then the last.
fn in_order(entries: Vec<DirEntry>, version: HashVersion, seed: &[u32; 4]) -> Vec<DirEntry> {
    let key = |entry: &DirEntry| {
        let hash = hash::name_hash(&entry.name, version, seed);
        (hash.major, hash.minor)
    };
    let mut keyed: Vec<_> = entries.into_iter().map(|entry| (key(&entry), entry)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    for same in keyed.chunk_by_mut(|(a, _), (b, _)| a == b) {
        if let Some((_, others)) = same.split_first_mut() {
            others.reverse();
        }
    }
    keyed.into_iter().map(|(_, entry)| entry).collect()
}

/// Returns what a directory says that a file is.
const fn kind(kind: DirEntryType) -> Option<FileKind> {
    Some(match kind {
        DirEntryType::RegFile => FileKind::Regular,
        DirEntryType::Directory => FileKind::Directory,
        DirEntryType::CharDev => FileKind::CharDevice,
        DirEntryType::BlockDev => FileKind::BlockDevice,
        DirEntryType::Fifo => FileKind::Fifo,
        DirEntryType::Socket => FileKind::Socket,
        DirEntryType::Symlink => FileKind::Symlink,
        DirEntryType::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_may_be_as_long_as_the_largest_block() {
        for length in [0, u16::MAX] {
            let mut block = vec![0; 1 << 16];
            block[..4].copy_from_slice(&12_u32.to_le_bytes());
            block[4..6].copy_from_slice(&length.to_le_bytes());
            block[6..12].copy_from_slice(b"\x04\x01name");
            assert!(is_long(&block) && !is_long(&block[..1 << 15]));
            let names = dir::parse_block(&shortened(&block), true).unwrap();
            let names: Vec<_> = names.into_iter().map(|entry| (entry.inode, entry.name)).collect();
            assert_eq!(names, [(12, b"name".to_vec())]);
        }
        let mut block = vec![0; 1 << 16];
        block[4..6].copy_from_slice(&65524_u16.to_le_bytes());
        assert!(!is_long(&block));
    }
}
