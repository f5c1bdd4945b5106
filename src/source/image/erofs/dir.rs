//! Directories: blocks of `struct erofs_dirent`, each followed by its names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::super::{Entry, Nid};
use super::bytes::{eio, slice, u8_at, u16_at, u64_at};
use super::superblock::Super;
use crate::attr::{FileKind, NAME_MAX};
use crate::error::Result;

/// How long an entry without its name is, in bytes.
const ENTRY: usize = 12;

/// What the numbers of kinds stand for, from 1 on.
const KINDS: [FileKind; 7] = [
    FileKind::Regular,
    FileKind::Directory,
    FileKind::CharDevice,
    FileKind::BlockDevice,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::Symlink,
];

/// Adds the names in one block, `.` and `..` too.
pub fn parse(block: &[u8], sup: &Super, entries: &mut Vec<Entry>) -> Result<()> {
    // The first name begins where the last entry ends.
    let first = usize::from(u16_at(block, 8)?);
    if first < ENTRY || first > block.len() {
        return Err(eio());
    }
    let (records, _) = slice(block, 0, first)?.as_chunks::<ENTRY>();
    let mut records = records.iter().peekable();
    while let Some(record) = records.next() {
        let start = usize::from(u16_at(record, 8)?);
        let end = match records.peek() {
            Some(next) => usize::from(u16_at(*next, 8)?),
            None => block.len(),
        };
        let name = block.get(start..end).ok_or_else(eio)?;
        // Zeros follow the last one.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&b'/') {
            return Err(eio());
        }
        let nid = u64_at(record, 0)?;
        let kind = usize::from(u8_at(record, 10)?).checked_sub(1);
        entries.push(Entry {
            name: OsStr::from_bytes(name).to_owned(),
            nid: Nid(nid),
            ino: sup.ino(nid),
            kind: kind.and_then(|kind| KINDS.get(kind)).copied(),
        });
    }
    Ok(())
}
