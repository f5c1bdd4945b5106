//! ACLs, capabilities and other extended attributes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::super::Record;
use super::keep::Next;
use super::node::KeptNode;
use super::seen::{Seen, Standing, real_mode};
use super::{Inner, RIGHTS};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::attr::FileKind;
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::rules::{self, os};
use crate::source::{Change, Key, Node, Rights, XattrSet};

impl Inner {
    /// Returns an ACL of a file.
    pub(super) fn acl(
        &self,
        node: &Node,
        key: &Key,
        seen: &Seen,
        kind: AclKind,
    ) -> Result<Option<Acl<Disk>>> {
        if seen.shown().kind == FileKind::Symlink {
            return Err(Error::Unsupported);
        }
        if !matches!(seen.standing, Standing::Recorded(_)) {
            return self.below_acl(node, kind);
        }
        match self.store.attribute(&*self.below, node, key, OsStr::new(kind.xattr())) {
            Ok(value) => Acl::decode(&value),
            Err(error) if error.is(libc::ENODATA) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the ACL that the file below has, if it can have one.
    pub(super) fn below_acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        match self.below.acl(node, kind) {
            Err(error) if error.is(libc::EOPNOTSUPP) => Ok(None),
            read => read,
        }
    }

    /// Sets or removes an ACL.
    pub(super) fn set_acl(
        &self,
        held: &KeptNode,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let (_alone, under, key) = self.alone(held)?;
        let seen = self.look(&under, &key)?;
        let shown = seen.shown();
        if shown.kind == FileKind::Symlink {
            return Err(Error::Unsupported);
        }
        if matches!(seen.standing, Standing::Foreign | Standing::Kindless) {
            return self.below.set_acl(&under, kind, acl, rights);
        }
        acl.map_or(Ok(()), rules::check_named)?;
        let old = seen.record().ok_or(Error::NotOurs)?;
        let (next, stored) = match (kind, acl) {
            (_, None) => (old, None),
            (AclKind::Default, Some(_)) if !shown.kind.is_dir() => return Err(os(libc::EACCES)),
            (AclKind::Default, Some(acl)) => (old, Some(acl)),
            (AclKind::Access, Some(acl)) => {
                let mode = rules::acl_set(acl, old.mode, rights);
                (Record { mode, ..old }, (!acl.is_minimal()).then_some(acl))
            }
        };
        let none = acl.is_none() && self.acl(&under, &key, &seen, kind)?.is_none();
        if none {
            return Ok(());
        }
        let kept = Next::record(next).acl(kind, stored.cloned());
        self.keep(&under, &key, &seen, &kept)?;
        let standing = Standing::Recorded(next);
        self.touch(&under, &Seen { standing, ..seen })
    }

    /// Moves the time of the last change of a file of which something kept has changed.
    fn touch(&self, node: &Node, seen: &Seen) -> Result<()> {
        let Standing::Recorded(record) = seen.standing else { return Ok(()) };
        // A symbolic link has no mode to set; a change of nothing moves that time, too.
        let mode =
            (seen.attr.kind != FileKind::Symlink).then(|| real_mode(seen.attr.kind, record.mode));
        let change = Change { mode, ..Change::default() };
        self.below.setattr(node, None, &change, RIGHTS).map(drop)
    }

    /// Returns the capability of a file.
    pub(super) fn capability(
        &self,
        node: &Node,
        key: &Key,
        seen: &Seen,
    ) -> Result<Option<Capability<Disk>>> {
        if seen.counts() {
            let name = OsStr::new(CAPABILITY_XATTR);
            match self.store.attribute(&*self.below, node, key, name) {
                Ok(value) => return Capability::decode(&value).map(Some),
                Err(error) if error.is(libc::ENODATA) => {}
                Err(error) => return Err(error),
            }
        }
        self.below_capability(node)
    }

    /// Returns the capability that the file below has, if it can have one.
    pub(super) fn below_capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        match self.below.capability(node) {
            Err(error) if error.is(libc::EOPNOTSUPP) => Ok(None),
            read => read,
        }
    }

    /// Sets or removes the capability of a file.
    pub(super) fn set_capability(
        &self,
        held: &KeptNode,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let (_alone, under, key) = self.alone(held)?;
        let seen = self.look(&under, &key)?;
        if matches!(seen.standing, Standing::Foreign | Standing::Kindless) {
            return self.below.set_capability(&under, capability, rights);
        }
        let name = OsStr::new(CAPABILITY_XATTR);
        let old = seen.record().ok_or(Error::NotOurs)?;
        match capability {
            Some(Capability { rootid: None, .. }) => return Err(Error::UnmappedEntry),
            Some(capability) => {
                let kept = Next::record(old).attribute(name, &capability.encode());
                self.keep(&under, &key, &seen, &kept)?;
            }
            None => {
                let below = self.below_capability(&under)?.is_some();
                match self.store.set_attribute(&*self.below, &under, &key, name, None) {
                    Err(error) if error.is(libc::ENODATA) && below => {}
                    done => done?,
                }
                if below {
                    self.below.set_capability(&under, None, rights)?;
                }
            }
        }
        // By now it has a record, if anything was set.
        let seen = self.look(&under, &key)?;
        self.touch(&under, &seen)
    }

    /// Returns an extended attribute that carries no ids.
    pub(super) fn xattr(&self, node: &Node, key: &Key, name: &OsStr) -> Result<Vec<u8>> {
        let space = self.space(name)?;
        let seen = self.look(node, key)?;
        let users = matches!(space, Space::User | Space::Record);
        if users && !has_user_xattrs(seen.shown().kind) {
            return Err(os(libc::ENODATA));
        }
        if space != Space::User && seen.counts() {
            match self.store.attribute(&*self.below, node, key, name) {
                Err(error) if error.is(libc::ENODATA) => {}
                read => return read,
            }
        }
        // What has such a name below is none of a caller's.
        if space == Space::Record {
            return Err(os(libc::ENODATA));
        }
        self.below.xattr(node, name)
    }

    /// Lists the extended attributes of a file.
    pub(super) fn xattrs(&self, node: &Node, key: &Key) -> Result<Vec<OsString>> {
        let seen = self.look(node, key)?;
        let recorded = matches!(seen.standing, Standing::Recorded(_));
        let user = has_user_xattrs(seen.shown().kind);
        let is_acl = |name: &OsStr| AclKind::ALL.iter().any(|kind| name == kind.xattr());
        let mut names = self.below.xattrs(node)?;
        names.retain(|name| {
            let hidden = self.store.is_own(name)
                || (recorded && is_acl(name))
                || (!user && name.as_bytes().starts_with(b"user."));
            !hidden
        });
        if seen.counts() {
            for name in self.store.attributes(&*self.below, node, key)? {
                // An ACL without a record says nothing.
                let theirs = user || !name.as_bytes().starts_with(b"user.");
                if !names.contains(&name) && (recorded || !is_acl(&name)) && theirs {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    /// Sets or removes an extended attribute that carries no ids.
    pub(super) fn set_xattr(
        &self,
        held: &KeptNode,
        name: &OsStr,
        (value, how): (Option<&[u8]>, XattrSet),
        rights: Rights,
    ) -> Result<()> {
        let space = self.space(name)?;
        let (_alone, under, key) = self.alone(held)?;
        let seen = self.look(&under, &key)?;
        match (space, seen.standing) {
            (Space::User | Space::Record, _) if !has_user_xattrs(seen.shown().kind) => {
                Err(Error::Denied)
            }
            (Space::Record, Standing::Foreign | Standing::Kindless) => Err(Error::Denied),
            (Space::User, _) | (Space::Kept, Standing::Foreign | Standing::Kindless) => {
                self.below.set_xattr(&under, name, value, how, rights)
            }
            (
                Space::Kept | Space::Record,
                Standing::Recorded(_) | Standing::Bare | Standing::Exposed,
            ) => self.set_kept(&under, &key, &seen, name, (value, how)),
        }
    }

    fn set_kept(
        &self,
        node: &Node,
        key: &Key,
        seen: &Seen,
        name: &OsStr,
        (value, how): (Option<&[u8]>, XattrSet),
    ) -> Result<()> {
        let old = seen.record().ok_or(Error::NotOurs)?;
        if how != XattrSet::Any {
            let there = match self.xattr(node, key, name) {
                Ok(_) => true,
                Err(error) if error.is(libc::ENODATA) => false,
                Err(error) => return Err(error),
            };
            match how {
                XattrSet::Create if there => return Err(os(libc::EEXIST)),
                XattrSet::Replace if !there => return Err(os(libc::ENODATA)),
                XattrSet::Any | XattrSet::Create | XattrSet::Replace => {}
            }
        }
        match value {
            Some(value) => {
                self.keep(node, key, seen, &Next::record(old).attribute(name, value))?;
            }
            None => self.store.set_attribute(&*self.below, node, key, name, None)?,
        }
        self.touch(node, &self.look(node, key)?)
    }
}

/// Who keeps an extended attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// The source below.
    User,
    /// The store: an ordinary user may not set it.
    Kept,
    /// The store: below, what has this name may be a record.
    Record,
}

impl Inner {
    /// # Errors
    /// `Unsupported` for attributes that carry ids and have calls of their own, and for
    /// those that file systems make up.
    fn space(&self, name: &OsStr) -> Result<Space> {
        let bytes = name.as_bytes();
        match () {
            () if name == CAPABILITY_XATTR => Err(Error::Unsupported),
            () if self.store.is_own(name) => Ok(Space::Record),
            () if bytes.starts_with(b"user.") => Ok(Space::User),
            () if bytes.starts_with(b"trusted.") || bytes.starts_with(b"security.") => {
                Ok(Space::Kept)
            }
            () => Err(Error::Unsupported),
        }
    }
}

/// Reports whether files of a kind can have attributes of users: `xattr_permission`
/// of fs/xattr.c.
const fn has_user_xattrs(kind: FileKind) -> bool {
    matches!(kind, FileKind::Regular | FileKind::Directory)
}
