//! POSIX ACLs and file capabilities: the ids that live outside `st_uid`.
//! Pure: binary codecs, and translation by a policy in both directions.

use crate::id::{Group, Id, Side, User};

/// Which of the two ACLs of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AclKind {
    /// The ACL that access is checked against: `system.posix_acl_access`.
    Access,
    /// What new entries of a directory inherit: `system.posix_acl_default`.
    Default,
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

/// One entry of an ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<S: Side> {
    /// Whom it is about.
    pub tag: Tag<S>,
    /// What they may: bits 4 read, 2 write, 1 execute.
    pub perm: u8,
}

/// A POSIX ACL with ids of one side, in the order of its encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl<S: Side> {
    /// The entries.
    pub entries: Vec<Entry<S>>,
}

/// A file capability (`security.capability`) with a root id of one side.
///
/// Version 2 on the wire is a capability whose root id is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability<S: Side> {
    /// The root of the user namespaces in which it counts; `None`: unmapped.
    pub rootid: Option<Id<User, S>>,
    /// Whether the permitted set is also effective at exec.
    pub effective: bool,
    /// The permitted set, one bit a capability.
    pub permitted: u64,
    /// The inheritable set, one bit a capability.
    pub inheritable: u64,
}
