//! Extended attributes, and the ids in some of them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::node::{Held, HostNode, inner};
use super::special::{capability, if_set, refuse_special};
use super::{Host, set_id};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::{Node, Rights, XattrSet};
use crate::sys::cred::SetId;
use crate::sys::xattr;

impl Host {
    /// Reads an ACL.
    pub(super) fn read_acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        match inner(node)? {
            HostNode::Held(held) => self.read_held_acl(held, kind),
            HostNode::Hidden(_) => Ok(None),
        }
    }

    /// Reads an ACL of a file that is held.
    pub(super) fn read_held_acl(&self, held: &Held, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        match self.read_special(held, kind.xattr()) {
            Ok(Some(value)) => Acl::decode(&value),
            Ok(None) => Ok(None),
            Err(error) if error.is(libc::EOPNOTSUPP) => Err(Error::Unsupported),
            Err(error) => Err(error),
        }
    }

    /// Sets or removes an ACL.
    pub(super) fn write_acl(
        &self,
        node: &Held,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let name = OsStr::new(kind.xattr());
        let volume = self.volume(node);
        self.context.for_caller(volume.as_deref(), (rights, set_id(rights)), || match acl {
            Some(acl) => xattr::set(node.way(), name, &acl.encode(), 0),
            None => match xattr::remove(node.way(), name) {
                // There is none, which is what was asked for.
                Err(Errno::ENODATA) => Ok(()),
                done => done,
            },
        })
    }

    /// Reads the file capability.
    pub(super) fn read_capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        let HostNode::Held(held) = inner(node)? else { return Ok(None) };
        self.context.as_onlooker(self.volume(held).as_deref())?;
        capability(held.way())
    }

    /// Sets or removes the file capability.
    pub(super) fn write_capability(
        &self,
        node: &Held,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let name = OsStr::new(CAPABILITY_XATTR);
        let (volume, by) = (self.volume(node), (rights, SetId::Unaffected));
        self.context.for_caller(volume.as_deref(), by, || match capability {
            Some(capability) => xattr::set(node.way(), name, &capability.encode(), 0),
            None => xattr::remove(node.way(), name),
        })
    }

    /// Reads an attribute that holds ids; `None` if it is not set.
    fn read_special(&self, held: &Held, name: &str) -> Result<Option<Vec<u8>>> {
        self.context.as_onlooker(self.volume(held).as_deref())?;
        if_set(held.way(), name)
    }

    /// Reads an attribute that holds no ids.
    pub(super) fn read_xattr(&self, node: &Held, name: &OsStr) -> Result<Vec<u8>> {
        refuse_special(name)?;
        self.context.as_onlooker(self.volume(node).as_deref())?;
        Ok(xattr::get(node.way(), name)?)
    }

    /// Lists the names of all attributes.
    pub(super) fn list_xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        let HostNode::Held(held) = inner(node)? else { return Ok(Vec::new()) };
        self.context.as_onlooker(self.volume(held).as_deref())?;
        let list = xattr::list(held.way())?;
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsStr::from_bytes(name).to_os_string()).collect())
    }

    /// Sets or removes an attribute that holds no ids.
    pub(super) fn write_xattr(
        &self,
        node: &Held,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        rights: Rights,
    ) -> Result<()> {
        refuse_special(name)?;
        let flags = match how {
            XattrSet::Any => 0,
            XattrSet::Create => libc::XATTR_CREATE,
            XattrSet::Replace => libc::XATTR_REPLACE,
        };
        let (volume, by) = (self.volume(node), (rights, SetId::Unaffected));
        self.context.for_caller(volume.as_deref(), by, || match value {
            Some(value) => xattr::set(node.way(), name, value, flags),
            None => xattr::remove(node.way(), name),
        })
    }
}
