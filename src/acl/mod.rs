//! POSIX ACLs and file capabilities: the ids that live outside `st_uid`.
//!
//! Pure. `codec` and `capability` hold the binary forms of the extended
//! attributes, `translate` the policy's way between the sides, `algebra` what a
//! file system does with an ACL: mode bits, chmod, inheritance, access, and
//! `permission` what mode and ACL together allow.

mod algebra;
mod capability;
mod codec;
pub mod permission;
mod translate;

#[cfg(test)]
mod tests;

pub use capability::{CAPABILITY_XATTR, Capability};
pub use codec::{Named, StandIn};

use std::result::Result as Std;

use crate::error::{Error, Result};
use crate::id::{Group, Id, Side, User};

/// Which of the two ACLs of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AclKind {
    /// The ACL that access is checked against: `system.posix_acl_access`.
    Access,
    /// What new entries of a directory inherit: `system.posix_acl_default`.
    Default,
}

impl AclKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Access, Self::Default];

    /// Returns the name of the extended attribute that carries this ACL.
    pub const fn xattr(self) -> &'static str {
        match self {
            Self::Access => "system.posix_acl_access",
            Self::Default => "system.posix_acl_default",
        }
    }
}

/// Whom an ACL entry is about; a named id is `None` where this side has no id
/// for it: such an entry matches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag<S: Side> {
    /// The owning user.
    UserObj,
    /// A named user.
    User(Option<Id<User, S>>),
    /// The owning group.
    GroupObj,
    /// A named group.
    Group(Option<Id<Group, S>>),
    /// The most that named users, named groups and the owning group get.
    Mask,
    /// Everybody else.
    Other,
}

impl<S: Side> Tag<S> {
    /// Returns the place of such entries in the order of an ACL.
    const fn rank(self) -> u8 {
        match self {
            Self::UserObj => 0,
            Self::User(_) => 1,
            Self::GroupObj => 2,
            Self::Group(_) => 3,
            Self::Mask => 4,
            Self::Other => 5,
        }
    }

    /// Reports whether this is a named user or group.
    const fn is_named(self) -> bool {
        matches!(self, Self::User(_) | Self::Group(_))
    }

    /// Reports whether this names a user or group that this side has no id for.
    const fn is_nobody(self) -> bool {
        matches!(self, Self::User(None) | Self::Group(None))
    }
}

/// One entry of an ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<S: Side> {
    /// Whom it is about.
    pub tag: Tag<S>,
    /// What they may: bits 4 read, 2 write, 1 execute.
    pub perm: u8,
}

/// A valid POSIX ACL with ids of one side, in the order of its encoding.
///
/// Valid is what `posix_acl_valid` of fs/posix_acl.c accepts: entries ordered
/// by tag, one each for the owning user, the owning group and the others, at
/// most one mask, and a mask where a user or group is named. Named entries
/// keep the order that they were given in, and may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl<S: Side> {
    entries: Vec<Entry<S>>,
}

impl<S: Side> Acl<S> {
    /// Makes an ACL of its entries.
    ///
    /// # Errors
    /// `Invalid` (`EINVAL`) for entries that are not a valid ACL.
    pub fn new(entries: Vec<Entry<S>>) -> Result<Self> {
        let count = |tag: Tag<S>| entries.iter().filter(|e| e.tag.rank() == tag.rank()).count();
        let named = entries.iter().any(|e| e.tag.is_named());
        let masks = count(Tag::Mask);
        let valid = entries.iter().map(|e| e.tag.rank()).is_sorted()
            && entries.iter().all(|e| e.perm <= 7)
            && [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|tag| count(tag) == 1)
            && masks <= 1
            && (masks == 1 || !named);
        if valid { Ok(Self { entries }) } else { Err(Error::Invalid) }
    }

    /// Returns the entries, in order.
    pub fn entries(&self) -> &[Entry<S>] {
        &self.entries
    }

    /// Returns this ACL with the named ids of another side.
    fn map<T: Side, E>(
        &self,
        user: impl Fn(Option<Id<User, S>>) -> Std<Option<Id<User, T>>, E>,
        group: impl Fn(Option<Id<Group, S>>) -> Std<Option<Id<Group, T>>, E>,
    ) -> Std<Acl<T>, E> {
        let entries = self.entries.iter().map(|entry| {
            let tag = match entry.tag {
                Tag::UserObj => Tag::UserObj,
                Tag::User(id) => Tag::User(user(id)?),
                Tag::GroupObj => Tag::GroupObj,
                Tag::Group(id) => Tag::Group(group(id)?),
                Tag::Mask => Tag::Mask,
                Tag::Other => Tag::Other,
            };
            Ok(Entry { tag, perm: entry.perm })
        });
        Ok(Acl { entries: entries.collect::<Std<_, E>>()? })
    }
}
