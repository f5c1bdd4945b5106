//! What the policy lets callers change: owners, modes, extended attributes.
//!
//! Whether the caller may do what it asks for is decided by the kernel, or by
//! `access`; here it may still be refused, done in another way, or said to be
//! done.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::names::Wanted;
use super::rules::Seen;
use super::{Fs, SetAttr};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR};
use crate::attr::Mode;
use crate::error::{Errno, Error, Result};
use crate::id::{Caller, View};
use crate::policy::{Asked, Changes, Now, Xattr};
use crate::source::Node;

/// The longest name of an extended attribute, in bytes.
pub(super) const XATTR_NAME_MAX: usize = 255;

/// The error of an extended attribute that is not set.
pub(super) const ABSENT: Error = Error::Os(Errno(libc::ENODATA));

/// Returns a value that is to be set, if it still is.
fn kept<T>(asked: Option<Asked<T>>) -> Result<Option<T>> {
    match asked {
        Some(Asked::Done(value)) => Ok(Some(value)),
        Some(Asked::Ignored) | None => Ok(None),
        Some(Asked::Refused) => Err(Error::Denied),
    }
}

/// Returns the name of an attribute on disk as the system takes it.
fn disk_name(name: Cow<'_, [u8]>) -> Result<Cow<'_, OsStr>> {
    match name {
        Cow::Borrowed(name) => Ok(Cow::Borrowed(OsStr::from_bytes(name))),
        Cow::Owned(name) if name.len() > XATTR_NAME_MAX => Err(Error::Os(Errno(libc::ERANGE))),
        Cow::Owned(name) => Ok(Cow::Owned(OsStr::from_bytes(&name).to_owned())),
    }
}

impl Fs {
    /// Returns what is left to do of a change of attributes; `None`: nothing
    /// is. A change that asks for nothing stays one: see [`Fs::setattr`].
    ///
    /// # Errors
    /// `Denied` (`EPERM`) for a part that is refused: then no part is done.
    pub(super) fn permitted(
        &self,
        caller: &Caller,
        number: u64,
        wanted: &SetAttr,
        seen: &Seen,
    ) -> Result<Option<SetAttr>> {
        let policy = self.policy();
        let changes = policy.changes();
        let mut left = *wanted;
        left.uid = kept(wanted.uid.map(|uid| changes.chown(uid)))?;
        left.gid = kept(wanted.gid.map(|gid| changes.chgrp(gid)))?;
        if let Some(mode) = wanted.mode
            && !changes.chmod_is_normal()
        {
            let asked = changes.chmod(&self.mode_now(caller, seen, number), Mode::new(mode));
            left.mode = kept(Some(asked))?.map(|mode| u32::from(mode.bits()));
        }
        let nothing = left.is_empty() && !wanted.is_empty();
        Ok(if nothing { None } else { Some(left) })
    }

    fn mode_now(&self, caller: &Caller, seen: &Seen, number: u64) -> Now {
        let shown = self.present(caller, seen, number).mode;
        Now { kind: seen.attr.kind, shown, disk: seen.attr.mode }
    }

    /// Returns the ACL to set instead of the one given: an access ACL changes
    /// the mode. What is ignored need not be one that could be stored.
    pub(super) fn permitted_acl(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        kind: AclKind,
        acl: Option<Acl<View>>,
    ) -> Result<Asked<Option<Acl<View>>>> {
        let policy = self.policy();
        let changes = policy.changes();
        if kind == AclKind::Default || changes.chmod_is_normal() {
            return Ok(Asked::Done(acl));
        }
        let plain = self.is_mode_alone(node, kind, acl.as_ref().is_none_or(Acl::is_minimal))?;
        if plain && acl.is_none() {
            return Ok(Asked::Done(None));
        }
        let seen = self.look(number, node)?;
        let now = self.mode_now(caller, &seen, number);
        let mode = acl.as_ref().map_or(now.shown, |acl| acl.mode(now.shown));
        let asked = if plain { changes.chmod(&now, mode) } else { changes.set_acl(&now, mode) };
        Ok(match asked {
            Asked::Done(mode) => Asked::Done(acl.map(|acl| acl.chmod(mode))),
            Asked::Ignored => Asked::Ignored,
            Asked::Refused => Asked::Refused,
        })
    }

    /// Reports whether setting such an ACL changes no more than the mode does:
    /// programs that copy modes do it, on files that never had an ACL.
    fn is_mode_alone(&self, node: &Node, kind: AclKind, minimal: bool) -> Result<bool> {
        Ok(minimal && self.tree.with_room(|| self.source.acl(node, kind))?.is_none())
    }

    /// Returns the mode and the umask of a new file.
    pub(super) fn born(&self, wanted: &Wanted<'_>) -> (Mode, u16) {
        let (mode, umask) = (Mode::new(wanted.mode), Mode::new(wanted.umask).bits());
        self.policy().changes().create(wanted.what.kind(), mode, umask)
    }

    /// Returns the name on disk of an attribute that is to be read.
    ///
    /// # Errors
    /// `ENODATA` for one that is hidden, `ERANGE` for a name that is too long
    /// on disk.
    pub(super) fn read_xattr<'a>(changes: &Changes, name: &'a OsStr) -> Result<Cow<'a, OsStr>> {
        match changes.xattr(name.as_bytes()) {
            Xattr::Is(name) => disk_name(name),
            Xattr::Refused(name) => Ok(Cow::Borrowed(OsStr::from_bytes(name))),
            Xattr::Hidden => Err(ABSENT),
        }
    }

    /// Returns the name on disk of an attribute that is to be set.
    ///
    /// # Errors
    /// `Denied` (`EPERM`) for one that is hidden or refused, `ERANGE` for a
    /// name that is too long on disk.
    pub(super) fn set_name<'a>(
        &self,
        changes: &Changes,
        node: &Node,
        name: &'a OsStr,
        value: &[u8],
    ) -> Result<Cow<'a, OsStr>> {
        match changes.xattr(name.as_bytes()) {
            Xattr::Is(name) => disk_name(name),
            Xattr::Hidden => Err(Error::Denied),
            Xattr::Refused(_) => {
                let acl = || Acl::from_wire(value, &self.in_force.both().1);
                let minimal = |kind| {
                    let acl = acl()?;
                    // A mode does not say who gets a default ACL.
                    let minimal = acl.is_none_or(|a| kind == AclKind::Access && a.is_minimal());
                    self.is_mode_alone(node, kind, minimal)
                };
                match AclKind::ALL.into_iter().find(|kind| name == kind.xattr()) {
                    Some(kind) if minimal(kind)? => Ok(Cow::Borrowed(name)),
                    Some(_) | None => Err(Error::Denied),
                }
            }
        }
    }

    /// Returns the name on disk of an attribute that is to be removed.
    ///
    /// # Errors
    /// `ENODATA` for one that is hidden, `Denied` (`EPERM`) for one that is
    /// refused, `ERANGE` for a name that is too long on disk. `Unsupported`
    /// (`EOPNOTSUPP`) for a file capability that is refused: the kernel
    /// removes those before a change of the file, and takes that for an answer
    /// (`cap_inode_killpriv`); the change itself removes it on the host.
    pub(super) fn remove_name<'a>(
        &self,
        changes: &Changes,
        node: &Node,
        name: &'a OsStr,
    ) -> Result<Cow<'a, OsStr>> {
        match changes.xattr(name.as_bytes()) {
            Xattr::Is(name) => disk_name(name),
            Xattr::Hidden => Err(ABSENT),
            Xattr::Refused(_) if name == CAPABILITY_XATTR => Err(Error::Unsupported),
            Xattr::Refused(_) => match AclKind::ALL.into_iter().find(|kind| name == kind.xattr()) {
                Some(kind) if self.is_mode_alone(node, kind, true)? => Ok(Cow::Borrowed(name)),
                Some(_) | None => Err(Error::Denied),
            },
        }
    }
}
