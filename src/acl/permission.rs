//! Who may do what with a file by its mode and ACL, as fs/namei.c decides it;
//! capabilities, callers and rules aside.

use super::Acl;
use crate::attr::{FileKind, Mode};
use crate::id::{Group, Id, Owner, User, View};

/// Permission bits as in a mode.
pub const READ: u8 = 4;
/// See [`READ`].
pub const WRITE: u8 = 2;
/// See [`READ`]; of a directory: to search it.
pub const EXEC: u8 = 1;

/// What decided about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everybody may: it does not matter who asks.
    Everybody,
    /// The mode's bits for the owner.
    Owner,
    /// The ACL.
    Acl,
    /// The mode's bits for the group.
    Group,
    /// The mode's bits for everybody else.
    Other,
}

/// Reports whether a file has to be asked for its ACL: where the group bits of
/// the mode are 0 the kernel does not look at it.
pub const fn acl_counts(mode: Mode) -> bool {
    mode.has(0o070)
}

/// Reports whether mode and ACL of a file allow all of `want` (bits 4 read, 2
/// write, 1 execute), and which part of them decided: `acl_permission_check`.
///
/// `owner` and `is_member` are asked only where the answer depends on it: who
/// is in a group may have to be read in /proc.
pub fn granted(
    mode: Mode,
    acl: Option<&Acl<View>>,
    owner: impl FnOnce() -> Owner<View>,
    uid: Option<Id<User, View>>,
    is_member: impl FnMut(Id<Group, View>) -> bool,
    want: u8,
) -> (bool, Class) {
    let class = |shift: u16| u16::from(want) & !(mode.bits() >> shift) == 0;
    let (user, group, other) = (class(6), class(3), class(0));
    if acl.is_none() && user && group && other {
        return (true, Class::Everybody);
    }
    let owner = owner();
    if owner.uid.is_some() && owner.uid == uid {
        return (user, Class::Owner);
    }
    if let Some(acl) = acl {
        return (acl.allows(&owner, uid, is_member, want), Class::Acl);
    }
    if group != other && owner.gid.is_some_and(is_member) {
        (group, Class::Group)
    } else {
        (other, Class::Other)
    }
}

/// Returns which capabilities allow what mode and ACL do not, if the ids of the
/// file are mapped: `CAP_DAC_READ_SEARCH`, `CAP_DAC_OVERRIDE`
/// (`generic_permission`).
pub const fn overridden(kind: FileKind, mode: Mode, want: u8) -> (bool, bool) {
    let reads = if kind.is_dir() { want & WRITE == 0 } else { want == READ };
    let all = kind.is_dir() || want & EXEC == 0 || mode.has(Mode::EXECUTE);
    (reads, all)
}

/// Reports whether a file is one that others than its owner may link to, where
/// hard links are protected (`safe_hardlink_source`), if they may read and
/// write it.
pub const fn may_be_linked(kind: FileKind, mode: Mode) -> bool {
    let group = Mode::SETGID | 0o010;
    let marked = mode.has(Mode::SETUID) || mode.bits() & group == group;
    matches!(kind, FileKind::Regular) && !marked
}
