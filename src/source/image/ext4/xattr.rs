//! Extended attributes: those in the inode, those in its block, and those whose
//! values are files of their own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use fs_ext4::inode::InodeFlags;

use super::attr::BASE;
use super::{Found, Volume, le16, le32};
use crate::error::{Error, Result};
use crate::source::image::eio;

/// The name of what is in an inode beyond the place for the numbers of blocks.
const DATA: (u8, &[u8]) = (7, b"data");

/// An attribute.
struct Entry<'a> {
    /// What the name begins with.
    index: u8,
    name: &'a [u8],
    /// Where its value is in the region.
    start: u16,
    /// The inode that has the value instead.
    ino: u32,
    length: u32,
}

/// Names and their values.
type Values = Vec<(OsString, Vec<u8>)>;

/// What attributes begin with.
const MAGIC: u32 = 0xea02_0000;

/// How many bytes come before the attributes in a block.
const HEADER: usize = 32;

/// How many bytes an attribute has before its name.
const ENTRY: usize = 16;

/// The longest value that the kernel returns, in bytes.
const LONGEST: u32 = 64 << 10;

/// ACLs are kept in a form of their own.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Returns all extended attributes that the kernel lists, in its order.
pub(super) fn read(volume: &Volume, file: &Found) -> Result<Values> {
    let mut all = Vec::new();
    let block = (file.inode.file_acl != 0).then(|| block(volume, file)).transpose()?;
    let regions = [inside(file).map(|region| (region, 0)), block.as_deref().map(|b| (b, HEADER))];
    for (region, start) in regions.into_iter().flatten() {
        for entry in entries(region, start).ok_or_else(|| damaged(volume, file))? {
            all.extend(named(volume, file, &entry, region)?);
        }
    }
    Ok(all)
}

/// Returns the bytes that are in the inode: what is in the place of the numbers of
/// blocks, and the value of an attribute that is not listed.
pub(super) fn inline(volume: &Volume, file: &Found) -> Result<Vec<u8>> {
    let mut data = file.inode.block.to_vec();
    let region = inside(file).unwrap_or_default();
    let entries = entries(region, 0).ok_or_else(|| damaged(volume, file))?;
    if let Some(entry) = entries.iter().find(|entry| (entry.index, entry.name) == DATA) {
        let rest = value(volume, entry, region).ok_or_else(|| damaged(volume, file))??;
        data.extend(rest);
    }
    Ok(data)
}

/// Returns the region for attributes in the inode, if it has one.
fn inside(file: &Found) -> Option<&[u8]> {
    let used = usize::from(le16(&file.raw, BASE));
    let inside = file.raw.get(BASE.saturating_add(used)..).filter(|_| used != 0)?;
    if le32(inside, 0) == MAGIC { inside.get(size_of::<u32>()..) } else { None }
}

fn damaged(volume: &Volume, file: &Found) -> Error {
    volume.failed(file.ino, &"its attributes are damaged")
}

/// Reads the block of attributes, which several files may have.
fn block(volume: &Volume, file: &Found) -> Result<Vec<u8>> {
    let number = file.inode.file_acl;
    let start = number.checked_mul(volume.block());
    let start = start.filter(|start| start.saturating_add(volume.block()) <= volume.end);
    let start =
        start.ok_or_else(|| volume.failed(file.ino, &"its attributes are beyond the end"))?;
    let mut block = vec![0; usize::try_from(volume.block()).map_err(|_| eio())?];
    volume.read_at(start, &mut block)?;
    if le32(&block, 0) != MAGIC || !volume.fs.csum.verify_xattr_block(number, &block) {
        return Err(volume.failed(file.ino, &"its block of attributes is none"));
    }
    Ok(block)
}

/// Returns the attributes from an offset on; `None` if they go beyond the end.
fn entries(region: &[u8], mut at: usize) -> Option<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    // The last one is followed by zeros.
    while le32(region, at) != 0 {
        let raw = region.get(at..)?;
        let [length, index, ..] = *raw else { return None };
        let end = ENTRY.saturating_add(length.into());
        let name = raw.get(ENTRY..end).filter(|name| !name.contains(&0))?;
        let (start, ino, length) = (le16(raw, 2), le32(raw, 4), le32(raw, 8));
        entries.push(Entry { index, name, start, ino, length });
        at = at.saturating_add(end.next_multiple_of(size_of::<u32>()));
    }
    Some(entries)
}

/// Returns an attribute as the kernel shows it, if it does.
fn named(
    volume: &Volume,
    file: &Found,
    entry: &Entry<'_>,
    region: &[u8],
) -> Result<Option<(OsString, Vec<u8>)>> {
    let Some(prefix) = prefix(entry.index) else { return Ok(None) };
    let mut value = Some(value(volume, entry, region).ok_or_else(|| damaged(volume, file))??);
    if ACLS.contains(&prefix) {
        let kept = value.unwrap_or_default();
        value = acl(&kept).ok_or_else(|| damaged(volume, file))?;
    }
    let name = OsString::from_vec([prefix.as_bytes(), entry.name].concat());
    Ok(value.map(|value| (name, value)))
}

/// Returns what names of an index begin with; `None` for those that the kernel does
/// not list, such as `system.data`.
const fn prefix(index: u8) -> Option<&'static str> {
    Some(match index {
        1 => "user.",
        2 => ACLS[0],
        3 => ACLS[1],
        4 => "trusted.",
        6 => "security.",
        10 => "gnu.",
        _ => return None,
    })
}

/// Returns the value of an attribute: in the same region, or in an inode; `None` if it
/// is in neither.
fn value(volume: &Volume, entry: &Entry<'_>, region: &[u8]) -> Option<Result<Vec<u8>>> {
    let Entry { start, ino, length, .. } = *entry;
    let size = usize::try_from(length).ok().filter(|_| length <= LONGEST)?;
    if ino != 0 {
        let read = || {
            let file = volume.inode(ino)?;
            if !file.has(InodeFlags::EA_INODE) || file.inode.size != u64::from(length) {
                return Err(volume.failed(ino, &"not the value of an attribute"));
            }
            let mut value = vec![0; size];
            volume.fill(&file, 0, &mut value)?;
            Ok(value)
        };
        return Some(read());
    }
    if size == 0 {
        return Some(Ok(Vec::new()));
    }
    let value = region.get(usize::from(start)..).and_then(|rest| rest.get(..size))?;
    Some(Ok(value.to_vec()))
}

/// Returns an ACL in the form that getxattr(2) gives: every entry with an id, of
/// which those that need none have none. `Some(None)` if there is no ACL in it, `None`
/// if it is damaged.
pub(super) fn acl(kept: &[u8]) -> Option<Option<Vec<u8>>> {
    const NAMED: [u16; 2] = [0x2, 0x8];
    if kept.is_empty() {
        return Some(None);
    }
    let (version, mut rest) = kept.split_first_chunk()?;
    if u32::from_le_bytes(*version) != 1 {
        return None;
    }
    let mut value = 2_u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let entry = rest.split_first_chunk::<4>()?;
        rest = entry.1;
        value.extend(entry.0);
        let mut id = u32::MAX.to_le_bytes();
        if NAMED.contains(&le16(entry.0, 0)) {
            id = id_of(&mut rest)?;
        }
        value.extend(id);
    }
    let none = value.len() == size_of::<u32>();
    Some((!none).then_some(value))
}

/// Takes an id from the front.
fn id_of(rest: &mut &[u8]) -> Option<[u8; 4]> {
    let (id, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*id)
}
