//! Operations on attributes, ACLs, extended attributes and inode flags.

use std::ffi::{OsStr, OsString};

use super::data::end_of;
use super::state::{Body, IMMUTABLE, Inode, NOATIME, Serial, State, os};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::attr::{Attr, FileKind, Time};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::rules;
use crate::source::{Change, InodeFlags, InodeFlagsKind, Rights, SetTime, XattrSet};

const SYNC: u32 = 0x08;
const NODUMP: u32 = 0x40;

/// The flags that there are: `FS_*_FL` and `FS_XFLAG_*` of linux/fs.h.
const FLAGS: [(u32, u32); 4] = [(SYNC, 0x20), (IMMUTABLE, 0x08), (NODUMP, 0x80), (NOATIME, 0x40)];

impl Inode {
    /// Takes the privileges that go when contents change.
    pub(super) fn kill_privileges(&mut self, rights: Rights) {
        self.capability = None;
        self.mode = rules::written(self.mode, rights);
    }

    /// Takes the privileges that go with a new owner.
    fn kill_for_owner(&mut self, rights: Rights) {
        if self.kind().is_dir() {
            return;
        }
        self.capability = None;
        self.mode = rules::chowned(self.mode, rights);
    }

    fn acl_slot(&mut self, kind: AclKind) -> &mut Option<Acl<Disk>> {
        match kind {
            AclKind::Access => &mut self.access,
            AclKind::Default => &mut self.default,
        }
    }
}

impl State {
    pub(super) fn setattr(
        &mut self,
        serial: Serial,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        let now = self.now();
        let inode = self.changing(serial)?;
        // Everything that can fail is looked at before anything is changed.
        rules::check_change(inode.kind(), change)?;
        if let Some(size) = change.size {
            end_of(0, size)?;
        }
        inode.owner.uid = change.uid.unwrap_or(inode.owner.uid);
        inode.owner.gid = change.gid.unwrap_or(inode.owner.gid);
        if change.is_chown() {
            inode.kill_for_owner(rights);
        }
        if let Some(mode) = change.mode {
            inode.mode = mode;
            inode.access = inode.access.take().map(|acl| acl.chmod(mode));
        }
        if let Some(size) = change.size {
            inode.kill_privileges(rights);
            inode.mtime = now;
            let (data, space) = self.contents(serial)?;
            data.resize(size, space);
        }
        let inode = self.inode_mut(serial)?;
        inode.atime = set_time(change.atime, now).unwrap_or(inode.atime);
        inode.mtime = set_time(change.mtime, now).unwrap_or(inode.mtime);
        inode.ctime = now;
        Ok(inode.attr())
    }

    pub(super) fn readlink(&self, serial: Serial) -> Result<OsString> {
        match &self.inode(serial)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            Body::File(_) | Body::Dir(_) | Body::Special(..) => Err(Error::Invalid),
        }
    }

    /// Sees that an inode may have ACLs.
    fn takes_acls(&self, serial: Serial) -> Result<()> {
        let link = self.inode(serial)?.kind() == FileKind::Symlink;
        if link || !self.options.acl { Err(Error::Unsupported) } else { Ok(()) }
    }

    pub(super) fn acl(&self, serial: Serial, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        self.takes_acls(serial)?;
        let inode = self.inode(serial)?;
        Ok(match kind {
            AclKind::Access => inode.access.clone(),
            AclKind::Default => inode.default.clone(),
        })
    }

    pub(super) fn set_acl(
        &mut self,
        serial: Serial,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.takes_acls(serial)?;
        acl.map_or(Ok(()), rules::check_named)?;
        let inode = self.changing(serial)?;
        let stored = match (kind, acl) {
            (_, None) => None,
            (AclKind::Default, Some(_)) if !inode.kind().is_dir() => return Err(os(libc::EACCES)),
            (AclKind::Default, Some(acl)) => Some(acl.clone()),
            (AclKind::Access, Some(acl)) => {
                inode.mode = rules::acl_set(acl, inode.mode, rights);
                (!acl.is_minimal()).then(|| acl.clone())
            }
        };
        *inode.acl_slot(kind) = stored;
        self.touch(serial)
    }

    pub(super) fn set_capability(
        &mut self,
        serial: Serial,
        capability: Option<&Capability<Disk>>,
    ) -> Result<()> {
        let inode = self.changing(serial)?;
        match capability {
            Some(Capability { rootid: None, .. }) => return Err(Error::UnmappedEntry),
            None if inode.capability.is_none() => return Err(os(libc::ENODATA)),
            Some(_) | None => inode.capability = capability.copied(),
        }
        self.touch(serial)
    }

    pub(super) fn xattr(&self, serial: Serial, name: &OsStr) -> Result<Vec<u8>> {
        plain_xattr(name)?;
        self.inode(serial)?.xattrs.get(name).cloned().ok_or(os(libc::ENODATA))
    }

    pub(super) fn xattrs(&self, serial: Serial) -> Result<Vec<OsString>> {
        let inode = self.inode(serial)?;
        let special = [
            (inode.access.is_some(), AclKind::Access.xattr()),
            (inode.default.is_some(), AclKind::Default.xattr()),
            (inode.capability.is_some(), CAPABILITY_XATTR),
        ];
        let special = special.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.into());
        Ok(special.chain(inode.xattrs.keys().cloned()).collect())
    }

    pub(super) fn set_xattr(
        &mut self,
        serial: Serial,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
    ) -> Result<()> {
        plain_xattr(name)?;
        let inode = self.changing(serial)?;
        let of_user = name.as_encoded_bytes().starts_with(b"user.");
        if of_user && !matches!(inode.kind(), FileKind::Regular | FileKind::Directory) {
            return Err(os(libc::EPERM));
        }
        match (inode.xattrs.contains_key(name), value, how) {
            (true, Some(_), XattrSet::Create) => return Err(os(libc::EEXIST)),
            (false, None, _) | (false, Some(_), XattrSet::Replace) => {
                return Err(os(libc::ENODATA));
            }
            (true, Some(_), XattrSet::Any | XattrSet::Replace)
            | (false, Some(_), XattrSet::Any | XattrSet::Create)
            | (true, None, _) => {}
        }
        match value {
            Some(value) => inode.xattrs.insert(name.to_os_string(), value.to_vec()),
            None => inode.xattrs.remove(name),
        };
        self.touch(serial)
    }

    pub(super) fn inode_flags(&self, serial: Serial, kind: InodeFlagsKind) -> Result<InodeFlags> {
        let inode = self.inode(serial)?;
        if kind == InodeFlagsKind::Flags {
            return Ok(InodeFlags::Flags(inode.flags));
        }
        let extended = FLAGS.iter().filter(|(flag, _)| inode.flags & flag != 0);
        let extended = extended.fold(0, |bits, (_, extended)| bits | extended);
        // struct fsxattr: flags, extent size, extents, project, cow extent
        // size, each a u32, and 8 bytes of padding.
        let mut bytes = [0; 28];
        for (chunk, word) in bytes.as_chunks_mut().0.iter_mut().zip([extended, 0, 0, inode.project])
        {
            *chunk = u32::to_ne_bytes(word);
        }
        Ok(InodeFlags::Extended(bytes))
    }

    pub(super) fn set_inode_flags(&mut self, serial: Serial, flags: &InodeFlags) -> Result<()> {
        let all = FLAGS.iter().fold(0, |bits, (flag, _)| bits | flag);
        let inode = self.inode_mut(serial)?;
        match flags {
            InodeFlags::Flags(flags) if flags & !all != 0 => return Err(Error::Unsupported),
            InodeFlags::Flags(flags) => inode.flags = *flags,
            InodeFlags::Extended(bytes) => {
                let mut words = bytes.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word));
                let mut next = || words.next().unwrap_or(0);
                let [extended, _, _, project] = [next(), next(), next(), next()];
                let named = FLAGS.iter().filter(|(_, bit)| extended & bit != 0);
                let known = FLAGS.iter().fold(0, |bits, (_, bit)| bits | bit);
                if extended & !known != 0 {
                    return Err(Error::Unsupported);
                }
                inode.flags = named.fold(0, |bits, (flag, _)| bits | flag);
                inode.project = project;
            }
        }
        self.touch(serial)
    }
}

fn set_time(time: Option<SetTime>, now: Time) -> Option<Time> {
    time.map(|time| match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    })
}

/// Sees that an extended attribute is one that carries no ids.
fn plain_xattr(name: &OsStr) -> Result<()> {
    let bytes = name.as_encoded_bytes();
    let known = [&b"user."[..], b"trusted.", b"security."];
    if name != CAPABILITY_XATTR && known.into_iter().any(|prefix| bytes.starts_with(prefix)) {
        Ok(())
    } else {
        Err(Error::Unsupported)
    }
}
