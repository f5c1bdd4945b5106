//! Extended attributes: some behind the inode, some that files share.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::bytes::{add, count, eio, slice, u8_at, u16_at};
use super::data::Volume;
use super::inode::{Inode, Space};
use crate::error::Result;

/// How long the header is that is before those of a file, in bytes.
const HEADER: usize = 12;

/// How long an entry without name and value is, in bytes.
const ENTRY: usize = 4;

/// The bit of a name's index that says that it is one of the image's own prefixes.
const LONG: u8 = 0x80;

/// Extended attributes, by name.
pub type Xattrs = Vec<Xattr>;

type Xattr = (OsString, Vec<u8>);

/// The prefixes of names that an image has of its own; `None` for those that the kernel
/// does not know.
pub type Prefixes = Vec<Option<Vec<u8>>>;

/// Returns the prefix that every image has for an index.
const fn short(number: u8) -> Option<&'static [u8]> {
    match number {
        1 => Some(b"user."),
        2 => Some(b"system.posix_acl_access"),
        3 => Some(b"system.posix_acl_default"),
        4 => Some(b"trusted."),
        6 => Some(b"security."),
        _ => None,
    }
}

/// Reads the prefixes of an image.
pub fn prefixes(volume: &Volume) -> Result<Prefixes> {
    let (number, mut at) = volume.sup.prefixes;
    let mut prefixes = Vec::new();
    for _ in 0..number {
        at = at.checked_next_multiple_of(4).ok_or_else(eio)?;
        let mut length = [0; 2];
        volume.prefix_bytes(at, &mut length)?;
        let length = u16::from_le_bytes(length);
        if !(1..=256).contains(&length) {
            return Err(eio());
        }
        let mut bytes = vec![0; usize::from(length)];
        volume.prefix_bytes(add(at, 2)?, &mut bytes)?;
        at = add(at, u64::from(length).saturating_add(2))?;
        let (base, infix) = bytes.split_first().ok_or_else(eio)?;
        prefixes.push(short(*base).map(|base| [base, infix].concat()));
    }
    Ok(prefixes)
}

/// Reads all extended attributes of a file.
pub fn read(volume: &Volume, prefixes: &Prefixes, inode: &Inode) -> Result<Xattrs> {
    let (at, length) = inode.xattrs;
    let mut found = Vec::new();
    if length == 0 {
        return Ok(found);
    }
    let mut body = vec![0; length];
    volume.metadata(inode.space, at, &mut body)?;
    let number = usize::from(u8_at(&body, 4)?);
    let ids = slice(&body, HEADER, number.saturating_mul(4))?;
    let mut rest = body.get(HEADER.saturating_add(ids.len())..).ok_or_else(eio)?;
    // What is left is less than an entry, or the zeros of one that has been removed.
    while rest.len() >= ENTRY {
        let (whole, entry) = parse(rest, prefixes)?;
        found.extend(entry);
        rest = rest.get(whole..).unwrap_or_default();
    }
    for id in ids.as_chunks::<4>().0 {
        found.extend(shared(volume, prefixes, u32::from_le_bytes(*id))?);
    }
    Ok(found)
}

fn shared(volume: &Volume, prefixes: &Prefixes, id: u32) -> Result<Option<Xattr>> {
    let space = if volume.sup.shared_in_metabox() { Space::Metabox } else { Space::Device };
    let at = add(volume.sup.shared_at, u64::from(id) << 2)?;
    let mut head = [0; ENTRY];
    volume.metadata(space, at, &mut head)?;
    let more = usize::from(u8_at(&head, 0)?).saturating_add(usize::from(u16_at(&head, 2)?));
    let mut bytes = head.to_vec();
    bytes.resize(ENTRY.saturating_add(more), 0);
    let rest = bytes.get_mut(ENTRY..).ok_or_else(eio)?;
    volume.metadata(space, add(at, count(ENTRY))?, rest)?;
    Ok(parse(&bytes, prefixes)?.1)
}

/// Parses an entry; returns how many bytes it takes too. `None` if the kernel has no such
/// names.
fn parse(bytes: &[u8], prefixes: &Prefixes) -> Result<(usize, Option<Xattr>)> {
    let length = usize::from(u8_at(bytes, 0)?);
    let number = u8_at(bytes, 1)?;
    let name = slice(bytes, ENTRY, length)?;
    let start = ENTRY.saturating_add(length);
    let value = slice(bytes, start, usize::from(u16_at(bytes, 2)?))?;
    let whole = start.saturating_add(value.len()).next_multiple_of(4);
    let prefix = if number & LONG == 0 {
        short(number)
    } else {
        prefixes.get(usize::from(number & !LONG)).and_then(Option::as_deref)
    };
    let Some(prefix) = prefix else { return Ok((whole, None)) };
    let name = OsStr::from_bytes(&[prefix, name].concat()).to_owned();
    Ok((whole, Some((name, value.to_vec()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_their_prefixes() {
        let prefixes = vec![Some(b"user.long.".to_vec()), None];
        type Case<'a> = (&'a [u8], usize, Option<(&'a str, &'a [u8])>);
        let cases: [Case<'_>; 6] = [
            (&[1, 1, 2, 0, b'a', b'v', b'w', 9], 8, Some(("user.a", b"vw"))),
            (&[0, 2, 1, 0, 7], 8, Some(("system.posix_acl_access", &[7]))),
            (&[3, 6, 0, 0, b'c', b'a', b'p', 0], 8, Some(("security.cap", b""))),
            (&[1, 0x80, 0, 0, b'x'], 8, Some(("user.long.x", b""))),
            (&[1, 0x81, 0, 0, b'x'], 8, None),
            (&[1, 5, 0, 0, b'x'], 8, None),
        ];
        for (bytes, whole, expected) in cases {
            let (length, entry) = parse(bytes, &prefixes).unwrap();
            let expected = expected.map(|(name, value)| (OsString::from(name), value.to_vec()));
            assert_eq!((length, entry), (whole, expected), "{bytes:?}");
        }
        for damaged in [&[][..], &[2, 1, 0, 0, b'a'], &[0, 1, 1, 0], &[0, 1, 0]] {
            assert!(parse(damaged, &prefixes).is_err(), "{damaged:?}");
        }
    }
}
