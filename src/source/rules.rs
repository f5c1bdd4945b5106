//! What a Linux file system does to owner, mode and ACL by itself, for sources
//! that have no kernel to do it for them.

use std::ffi::OsStr;

use super::{Change, New, NewKind, Rights};
use crate::acl::{Acl, Tag};
use crate::attr::{FileKind, Mode};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Group, Id, Ids};

/// The longest target of a symbolic link, in bytes.
const TARGET_MAX: usize = 4095;

const GROUP_EXECUTE: u16 = 0o010;

/// What a new file is from its first moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Born {
    /// Its owner.
    pub owner: Ids<Disk>,
    /// All twelve permission bits.
    pub mode: Mode,
    /// Its access ACL, unless the mode says it all.
    pub access: Option<Acl<Disk>>,
    /// The default ACL of a directory.
    pub default: Option<Acl<Disk>>,
}

/// Returns what a new file is: `inode_init_owner`, `posix_acl_create`,
/// `vfs_prepare_mode`.
///
/// `given` is the group that a set-group-id directory gives, `default` the
/// directory's default ACL.
pub(super) fn born(
    given: Option<Id<Group, Disk>>,
    default: Option<Acl<Disk>>,
    new: &New<'_>,
) -> Born {
    let owner = Ids { uid: new.owner.uid, gid: given.unwrap_or(new.owner.gid) };
    let mode = match new.what {
        NewKind::Directory => directory_mode(new.mode, given.is_some()),
        NewKind::Regular(_) | NewKind::Special(..) => new.mode,
        NewKind::Symlink(_) => {
            let mode = Mode::new(0o777);
            return Born { owner, mode, access: None, default: None };
        }
    };
    let (mode, access) = match &default {
        Some(default) => default.inherit(mode),
        None => (mode.without(new.umask & 0o777), None),
    };
    let default = default.filter(|_| matches!(new.what, NewKind::Directory));
    Born { owner, mode, access, default }
}

/// Returns the mode of a new directory: mkdir(2) takes neither set-id bit, and
/// set-group-id is inherited.
fn directory_mode(asked: Mode, set_gid: bool) -> Mode {
    let plain = asked.without(Mode::SETUID | Mode::SETGID);
    if set_gid { Mode::new(u32::from(plain.bits() | Mode::SETGID)) } else { plain }
}

/// Sees that a symbolic link may have a target.
///
/// # Errors
/// As symlink(2): `ENOENT`, `ENAMETOOLONG`.
pub(super) fn check_target(target: &OsStr) -> Result<()> {
    match target.len() {
        0 => Err(os(libc::ENOENT)),
        1..=TARGET_MAX => Ok(()),
        _ => Err(Error::BadName),
    }
}

/// Returns a mode after contents have changed: `file_remove_privs`.
pub(super) const fn written(mode: Mode, rights: Rights) -> Mode {
    if rights.keep_setid { mode } else { mode.without(Mode::SETUID | Mode::SETGID) }
}

/// Returns the mode of a file that is no directory after a chown(2), by root or
/// not.
///
/// Set-group-id without group execute (mandatory locking, once) stays
/// with whom it always stays: `setattr_should_drop_sgid` of fs/attr.c.
pub(super) const fn chowned(mode: Mode, rights: Rights) -> Mode {
    let mode = mode.without(Mode::SETUID);
    if mode.has(GROUP_EXECUTE) || !rights.keep_setid { mode.without(Mode::SETGID) } else { mode }
}

/// Returns the mode of a file after its access ACL was set: `posix_acl_update_mode`.
pub(super) fn acl_set(acl: &Acl<Disk>, mode: Mode, rights: Rights) -> Mode {
    let mode = acl.mode(mode);
    if rights.keep_setid { mode } else { mode.without(Mode::SETGID) }
}

/// Sees that an ACL names nobody that there is no id for.
///
/// # Errors
/// `UnmappedEntry`.
pub(super) fn check_named(acl: &Acl<Disk>) -> Result<()> {
    let nameless = |tag| matches!(tag, Tag::User(None) | Tag::Group(None));
    if acl.entries().iter().any(|entry| nameless(entry.tag)) {
        return Err(Error::UnmappedEntry);
    }
    Ok(())
}

/// Sees that a file may be changed so.
///
/// # Errors
/// `Unsupported` for the mode of a symbolic link; as truncate(2).
pub(super) fn check_change(kind: FileKind, change: &Change) -> Result<()> {
    if change.mode.is_some() && kind == FileKind::Symlink {
        return Err(Error::Unsupported);
    }
    match kind {
        _ if change.size.is_none() => Ok(()),
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(os(libc::EISDIR)),
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => Err(Error::Invalid),
    }
}

/// Sees that a file may be opened.
///
/// # Errors
/// `EISDIR`, `ELOOP`, `ENXIO` for what is no regular file.
pub(super) const fn check_open(kind: FileKind) -> Result<()> {
    match kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(os(libc::EISDIR)),
        FileKind::Symlink => Err(os(libc::ELOOP)),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Err(os(libc::ENXIO))
        }
    }
}

/// Returns an error number as an error.
pub(super) const fn os(errno: i32) -> Error {
    Error::Os(Errno(errno))
}
