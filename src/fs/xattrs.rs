//! Extended attributes. Those that carry ids are typed and translated.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::changes::{ABSENT, XATTR_NAME_MAX};
use super::names::EXISTS;
use super::{Capability as Privilege, Fs};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability, StandIn};
use crate::error::{Error, Result};
use crate::id::{Caller, View};
use crate::policy::Asked;
use crate::policy::rules::Deny;
use crate::source::{Node, XattrSet};

/// What an extended attribute holds.
enum Kind {
    Acl(AclKind),
    Capability,
    /// Bytes without ids.
    Plain,
}

impl Kind {
    /// # Errors
    /// `Unsupported` for an attribute that a file system makes up itself:
    /// what it would hold is not known, and so might be ids.
    fn of(name: &OsStr) -> Result<Self> {
        if let Some(kind) = AclKind::ALL.into_iter().find(|kind| name == kind.xattr()) {
            return Ok(Self::Acl(kind));
        }
        if name == CAPABILITY_XATTR {
            return Ok(Self::Capability);
        }
        if name.as_bytes().starts_with(b"system.") {
            return Err(Error::Unsupported);
        }
        Ok(Self::Plain)
    }
}

impl Fs {
    /// Returns an extended attribute.
    ///
    /// # Errors
    /// As getxattr(2): `ENODATA`.
    pub fn getxattr(&self, caller: &Caller, number: u64, name: &OsStr) -> Result<Vec<u8>> {
        if let Some(found) = self.before_a_write(number, name)? {
            return Ok(found);
        }
        let node = self.node(number)?;
        self.may_read_xattr(caller, (number, &node), name)?;
        self.lets_reach(number, &node)?;
        let (policy, stand_in) = self.in_force.both();
        let policy = policy.as_ref();
        let name = &*Self::read_xattr(policy.changes(), name)?;
        let kind = Kind::of(name)?;
        match kind {
            Kind::Acl(kind) => {
                let acl = self.tree.with_room(|| self.source.acl(&node, kind))?.ok_or(ABSENT)?;
                let mut acl = acl.present(policy);
                if kind == AclKind::Access && self.has_rules() {
                    acl = self.dress_acl(&self.look(number, &node)?, acl);
                }
                Ok(acl.to_wire(&stand_in))
            }
            Kind::Capability => {
                let found = self.tree.with_room(|| self.source.capability(&node))?.ok_or(ABSENT)?;
                let found = found.present(policy);
                if self.stays_below(&found, &stand_in) { Err(ABSENT) } else { Ok(found.encode()) }
            }
            Kind::Plain => self.tree.with_room(|| self.source.xattr(&node, name)),
        }
    }

    /// Returns the file capability of a file that is open for writing, if nobody is to
    /// be kept out: the kernel asks for that before the first write to each new file, of
    /// which there is no node yet.
    fn before_a_write(&self, number: u64, name: &OsStr) -> Result<Option<Vec<u8>>> {
        if name != CAPABILITY_XATTR || self.checks || self.has_rules() {
            return Ok(None);
        }
        let policy = self.policy();
        let policy = policy.as_ref();
        if *Self::read_xattr(policy.changes(), name)? != *name {
            return Ok(None);
        }
        let Some(open) = self.opens.written(number) else { return Ok(None) };
        match open.file.capability() {
            Err(Error::Unsupported) => Ok(None),
            found => found?.map(|found| found.present(policy).encode()).ok_or(ABSENT).map(Some),
        }
    }

    /// Reports whether a file capability counts nowhere in the namespace of an
    /// overlay: it could not be read there (`EOVERFLOW`), nor its file copied up.
    fn stays_below(&self, capability: &Capability<View>, there: &StandIn) -> bool {
        self.config.copied_up && !capability.rootid.is_some_and(|root| there.users.has(root))
    }

    /// Lists the names of extended attributes, each ended by a NUL.
    ///
    /// Names in `trusted.` are for `CAP_SYS_ADMIN`, as for listxattr(2). Where an
    /// overlay of an ordinary user copies what is listed, those are left out that
    /// `cap_inode_setxattr` would not have it set.
    ///
    /// # Errors
    /// As listxattr(2).
    pub fn listxattr(&self, caller: &Caller, node: u64) -> Result<Vec<u8>> {
        let (number, node) = (node, self.node(node)?);
        self.lets_reach(number, &node)?;
        let names = self.tree.with_room(|| self.source.xattrs(&node))?;
        let (policy, there) = self.in_force.both();
        let changes = policy.changes();
        let names = names.iter().flat_map(|name| changes.shown_xattrs(name.as_bytes()));
        let names: Vec<_> = names.filter(|name| name.len() <= XATTR_NAME_MAX).collect();
        let trusted = |name: &[u8]| name.starts_with(b"trusted.");
        let hides = names.iter().any(|name| trusted(name))
            && !self.processes.capable(caller, Privilege::SysAdmin);
        let capability = CAPABILITY_XATTR.as_bytes();
        let stays = |name: &[u8]| -> Result<bool> {
            if !self.config.copied_up || !name.starts_with(b"security.") {
                return Ok(false);
            }
            if name != capability {
                return Ok(true);
            }
            let found = self.tree.with_room(|| self.source.capability(&node))?;
            Ok(found.is_none_or(|found| self.stays_below(&found.present(policy.as_ref()), &there)))
        };
        let mut list = Vec::new();
        for name in names.iter().filter(|name| !(hides && trusted(name))) {
            if stays(name)? {
                continue;
            }
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list)
    }

    /// Sets an extended attribute; `flags` as in setxattr(2).
    ///
    /// An empty ACL removes it; flags are ignored for ACLs, as by the kernel.
    ///
    /// # Errors
    /// As setxattr(2); `UnmappedEntry` (`EINVAL`) for an ACL or a capability
    /// that names an unmapped id, and for an ACL in place of one with entries
    /// that are not shown.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let (policy, stand_in) = self.in_force.both();
        let policy = policy.as_ref();
        let rights = Self::rights(caller, false);
        let (number, node) = (node, self.node(node)?);
        let (asked, name) = (name, &*self.set_name(policy.changes(), &node, name, value)?);
        let kind = Kind::of(name)?;
        self.lets_set((number, &node), &kind)?;
        match kind {
            Kind::Acl(kind) => {
                let acl = Acl::from_wire(value, &stand_in)?;
                if acl.is_some() && self.hides_entries(&node, kind)? {
                    return Err(Error::UnmappedEntry);
                }
                self.may_set_acl(caller, (number, &node), kind)?;
                self.set_acl(caller, (number, &node), kind, acl)
            }
            Kind::Capability => {
                let how = how(flags)?;
                let capability = Capability::decode(value)?.store(policy)?;
                self.may_set_capability(caller, (number, &node))?;
                self.demand(&node, how)?;
                self.tree.with_room(|| self.source.set_capability(&node, Some(&capability), rights))
            }
            Kind::Plain => {
                let how = how(flags)?;
                self.may_write_xattr(caller, (number, &node), asked)?;
                self.tree.with_room(|| self.source.set_xattr(&node, name, Some(value), how, rights))
            }
        }
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As removexattr(2): `ENODATA`.
    pub fn removexattr(&self, caller: &Caller, node: u64, name: &OsStr) -> Result<()> {
        let (number, node) = (node, self.node(node)?);
        let policy = self.policy();
        let (asked, name) = (name, &*self.remove_name(policy.changes(), &node, name)?);
        let kind = Kind::of(name)?;
        if matches!(kind, Kind::Capability) && self.is_about_to_change(caller, (number, &node))? {
            return Ok(());
        }
        self.lets_set((number, &node), &kind)?;
        // An attribute that files share takes room when one of them changes it.
        let rights = Self::rights(caller, false);
        match kind {
            Kind::Acl(kind) => {
                self.may_set_acl(caller, (number, &node), kind)?;
                self.set_acl(caller, (number, &node), kind, None)
            }
            Kind::Capability => {
                self.may_set_capability(caller, (number, &node))?;
                self.tree.with_room(|| self.source.set_capability(&node, None, rights))
            }
            Kind::Plain => {
                self.may_write_xattr(caller, (number, &node), asked)?;
                let how = XattrSet::Any;
                self.tree.with_room(|| self.source.set_xattr(&node, name, None, how, rights))
            }
        }
    }

    /// Reports whether a file capability is only to go because its file is
    /// about to be changed (`security_inode_killpriv`): the client asks so in
    /// the name of callers who may not remove it by removexattr(2).
    ///
    /// The change itself takes the capability on the host, if it is made.
    fn is_about_to_change(&self, caller: &Caller, (number, node): (u64, &Node)) -> Result<bool> {
        let shown = self.shown_to(None, &self.look(number, node)?);
        let may = self.processes.capable_over(caller, Privilege::Setfcap, self.reach(shown));
        // Of a caller that nothing is known of, the kernel has decided where it
        // decides.
        Ok(shown.uid.is_none() || shown.gid.is_none() || !may.unwrap_or(!self.checks()))
    }

    /// Reports whether an ACL has entries that callers are not shown: one that
    /// is read and written back would lose them.
    fn hides_entries(&self, node: &Node, kind: AclKind) -> Result<bool> {
        let (policy, stand_in) = self.in_force.both();
        if stand_in.shows_all() {
            return Ok(false);
        }
        match self.tree.with_room(|| self.source.acl(node, kind)) {
            Ok(acl) => Ok(acl.is_some_and(|acl| acl.present(policy.as_ref()).hides(&stand_in))),
            Err(Error::Unsupported) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_acl(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        kind: AclKind,
        acl: Option<Acl<View>>,
    ) -> Result<()> {
        let acl = match self.permitted_acl(caller, (number, node), kind, acl)? {
            Asked::Done(acl) => acl,
            Asked::Ignored => return Ok(()),
            Asked::Refused => return Err(Error::Denied),
        };
        let policy = self.policy();
        let acl = acl.map(|acl| acl.store(policy.as_ref())).transpose()?;
        let rights = match kind {
            AclKind::Access => {
                let seen = self.look(number, node)?;
                let mode = acl.as_ref().map_or(seen.attr.mode, |acl| acl.mode(seen.attr.mode));
                // A mode that chmod(2) would set without these bits.
                if self.handed_over(caller, &seen, mode) != 0 {
                    return Err(Error::Denied);
                }
                self.acl_rights(caller, &seen)
            }
            AclKind::Default => Self::rights(caller, false),
        };
        self.tree.with_room(|| self.source.set_acl(node, kind, acl.as_ref(), rights))
    }

    /// Checks that the rules let an attribute be set or removed.
    ///
    /// # Errors
    /// `EROFS` or `Denied` (`EPERM`).
    fn lets_set(&self, (number, node): (u64, &Node), kind: &Kind) -> Result<()> {
        if !self.has_rules() {
            return Ok(());
        }
        let seen = self.look(number, node)?;
        if matches!(kind, Kind::Acl(AclKind::Access)) {
            // The permission bits change with it.
            self.lets(&seen, Deny::CHMOD)?;
        }
        self.lets(&seen, Deny::XATTR)
    }

    /// Checks whether a file has a capability as `how` demands.
    fn demand(&self, node: &Node, how: XattrSet) -> Result<()> {
        let there = match how {
            XattrSet::Any => return Ok(()),
            XattrSet::Create | XattrSet::Replace => self.source.capability(node)?.is_some(),
        };
        match (how, there) {
            (XattrSet::Create, true) => Err(EXISTS),
            (XattrSet::Replace, false) => Err(ABSENT),
            _ => Ok(()),
        }
    }
}

/// Returns what the flags of setxattr(2) demand.
fn how(flags: i32) -> Result<XattrSet> {
    match flags {
        0 => Ok(XattrSet::Any),
        libc::XATTR_CREATE => Ok(XattrSet::Create),
        libc::XATTR_REPLACE => Ok(XattrSet::Replace),
        _ => Err(Error::Invalid),
    }
}
