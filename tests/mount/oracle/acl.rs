//! The bytes of POSIX ACLs and capabilities, as the tests make them.

/// An entry: the tag, the permissions, the id.
pub type Entry = (u16, u16, u32);

pub const USER_OBJ: u16 = 0x01;
pub const USER: u16 = 0x02;
pub const GROUP_OBJ: u16 = 0x04;
pub const GROUP: u16 = 0x08;
pub const MASK: u16 = 0x10;
pub const OTHER: u16 = 0x20;

/// The id of an entry that names nobody.
pub const NO_ID: u32 = u32::MAX;

/// The xattr form: version 2, then eight bytes an entry, little endian.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for &(tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// An ACL with the base entries, these named ones and a mask of rwx.
pub fn with(user: u16, group: u16, other: u16, named: &[Entry]) -> Vec<u8> {
    let of = |tag| named.iter().filter(move |entry| entry.0 == tag).copied();
    let mut entries = vec![(USER_OBJ, user, NO_ID)];
    entries.extend(of(USER));
    entries.push((GROUP_OBJ, group, NO_ID));
    entries.extend(of(GROUP));
    if !named.is_empty() {
        entries.push((MASK, 7, NO_ID));
    }
    entries.push((OTHER, other, NO_ID));
    encode(&entries)
}

/// security.capability with one permitted, effective bit.
pub fn capability(version: u8, rootid: u32) -> Vec<u8> {
    let words: &[u32] = match version {
        1 => &[0x0100_0001, 0x2000, 0],
        2 => &[0x0200_0001, 0x2000, 0, 0, 0],
        _ => &[0x0300_0001, 0x2000, 0, 0, 0, rootid],
    };
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
