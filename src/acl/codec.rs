//! The binary form of POSIX ACLs in extended attributes.
//!
//! Layout (linux/posix_acl_xattr.h), all little-endian: a u32 version, which
//! is 2, then entries of 8 bytes: u16 tag, u16 permissions, u32 id. The id of
//! an entry that names nobody is written as 4294967295 and not read.

use std::convert::Infallible;
use std::sync::Arc;

use super::{Acl, Entry, Tag};
use crate::error::{Error, Result};
use crate::id::{Group, Id, Kind, NO_ID, Side, User, View};

const VERSION: u32 = 2;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Which view ids an ACL may name on the wire, and what stands for the others.
///
/// The FUSE client refuses a whole ACL for one id that the user namespace of
/// the mount does not map, 4294967295 included. So an entry that is unmapped
/// by the policy, or there, goes out under an id that is mapped there and that
/// the policy never presents; where there is no such id (`None`) it is left
/// out, as it matches nobody anyway.
#[derive(Clone, Debug)]
pub struct StandIn {
    /// For users.
    pub users: Named<User>,
    /// For groups.
    pub groups: Named<Group>,
}

/// The ids of one kind that an ACL may name on the wire.
#[derive(Clone, Debug)]
pub struct Named<K: Kind> {
    /// What stands for every other one.
    pub stand_in: Option<Id<K, View>>,
    /// The first and the count of each range that the namespace maps.
    pub there: Arc<[(u32, u32)]>,
}

impl<K: Kind> Named<K> {
    /// Reports whether the namespace maps an id.
    pub fn has(&self, id: Id<K, View>) -> bool {
        let after = |first: u32| id.raw().checked_sub(first);
        self.there.iter().any(|&(first, count)| after(first).is_some_and(|n| n < count))
    }

    /// Returns what an id goes out as; `None`: not at all.
    fn out(&self, id: Option<Id<K, View>>) -> Option<Id<K, View>> {
        id.filter(|&id| self.has(id)).or(self.stand_in)
    }
}

impl StandIn {
    /// Reports whether every entry goes out under some id.
    pub const fn shows_all(&self) -> bool {
        self.users.stand_in.is_some() && self.groups.stand_in.is_some()
    }
}

impl<S: Side> Acl<S> {
    /// Reads the value of an extended attribute; `None` is "no ACL".
    ///
    /// An empty value and one without entries mean that there is no ACL, as
    /// for setxattr(2). A named 4294967295 is read as an id that this side
    /// does not have.
    ///
    /// # Errors
    /// `Unsupported` (`EOPNOTSUPP`) for another version, `Invalid` (`EINVAL`)
    /// for anything else that `posix_acl_from_xattr` and `posix_acl_valid`
    /// refuse.
    pub fn decode(value: &[u8]) -> Result<Option<Self>> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, rest) = value.split_first_chunk().ok_or(Error::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Error::Unsupported);
        }
        let (chunks, []) = rest.as_chunks() else {
            return Err(Error::Invalid);
        };
        if chunks.is_empty() {
            return Ok(None);
        }
        let entries: Result<Vec<_>> = chunks.iter().map(decode_entry).collect();
        Self::new(entries?).map(Some)
    }

    /// Returns the value of the extended attribute for this ACL.
    ///
    /// A named id that this side does not have is written as 4294967295.
    pub fn encode(&self) -> Vec<u8> {
        Self::encode_entries(&self.entries)
    }

    fn encode_entries<'a>(entries: impl IntoIterator<Item = &'a Entry<S>>) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in entries {
            let (tag, id) = match entry.tag {
                Tag::UserObj => (USER_OBJ, NO_ID),
                Tag::User(id) => (USER, id.map_or(NO_ID, Id::raw)),
                Tag::GroupObj => (GROUP_OBJ, NO_ID),
                Tag::Group(id) => (GROUP, id.map_or(NO_ID, Id::raw)),
                Tag::Mask => (MASK, NO_ID),
                Tag::Other => (OTHER, NO_ID),
            };
            value.extend(tag.to_le_bytes());
            value.extend(u16::from(entry.perm).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }
}

impl Acl<View> {
    /// Reads an ACL that the FUSE client sent: the stand-in is an unmapped id.
    ///
    /// # Errors
    /// As [`Acl::decode`].
    pub fn from_wire(value: &[u8], stand_in: &StandIn) -> Result<Option<Self>> {
        let Some(acl) = Self::decode(value)? else {
            return Ok(None);
        };
        let Ok(acl) = acl.map::<_, Infallible>(
            |id| Ok(id.filter(|_| id != stand_in.users.stand_in)),
            |id| Ok(id.filter(|_| id != stand_in.groups.stand_in)),
        );
        Ok(Some(acl))
    }

    /// Returns this ACL as the FUSE client takes it: ids that it may not name
    /// are written as the stand-in, or left out.
    pub fn to_wire(&self, stand_in: &StandIn) -> Vec<u8> {
        let Ok(acl) = self.map::<View, Infallible>(
            |id| Ok(stand_in.users.out(id)),
            |id| Ok(stand_in.groups.out(id)),
        );
        Self::encode_entries(acl.entries.iter().filter(|entry| !entry.tag.is_nobody()))
    }

    /// Reports whether some entry is left out on the wire.
    pub fn hides(&self, stand_in: &StandIn) -> bool {
        self.entries.iter().any(|entry| match entry.tag {
            Tag::User(id) => stand_in.users.out(id).is_none(),
            Tag::Group(id) => stand_in.groups.out(id).is_none(),
            Tag::UserObj | Tag::GroupObj | Tag::Mask | Tag::Other => false,
        })
    }
}

fn decode_entry<S: Side>(bytes: &[u8; 8]) -> Result<Entry<S>> {
    let &[t0, t1, p0, p1, id @ ..] = bytes;
    let id = u32::from_le_bytes(id);
    let tag = match u16::from_le_bytes([t0, t1]) {
        USER_OBJ => Tag::UserObj,
        USER => Tag::User(Id::new(id)),
        GROUP_OBJ => Tag::GroupObj,
        GROUP => Tag::Group(Id::new(id)),
        MASK => Tag::Mask,
        OTHER => Tag::Other,
        _ => return Err(Error::Invalid),
    };
    let perm = u8::try_from(u16::from_le_bytes([p0, p1])).map_err(|_| Error::Invalid)?;
    Ok(Entry { tag, perm })
}
