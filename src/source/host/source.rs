//! The host directory behind the trait of all sources.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::UnlinkatFlags;

use super::Host;
use super::dir::HostDir;
use super::hidden::Hidden;
use super::node::{Held, HostNode, held, inner};
use crate::acl::{Acl, AclKind, Capability};
use crate::attr::{Attr, FileKind, Name};
use crate::error::Result;
use crate::id::{Disk, Ids};
use crate::source::{
    Change, Created, Dir, Facts, File, FileHandle, Found, Key, New, Node, RenameFlags, Rights,
    Source, Statfs, Unwatched, Watch, XattrSet,
};
use crate::sync::lock;
use crate::sys::stat::stat;

impl Source for Host {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn watch(&self) -> std::result::Result<Arc<dyn Watch>, Unwatched> {
        Ok(self.begin_to_watch()?)
    }

    fn lasting(&self, volume: u64) -> u64 {
        self.volumes.lasting(volume)
    }

    fn leave(&self) {
        self.leave_staging();
    }

    fn root(&self) -> Result<(Node, Found)> {
        self.find_root()
    }

    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        self.find(dir, name)
    }

    fn reach(&self, dir: &Node, name: Name<'_>) -> Result<(Node, Found)> {
        self.reach_name(dir, name)
    }

    fn open_by_name(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node> {
        self.hold(dir, name, key)
    }

    fn open_by_key(&self, key: &Key, handle: &FileHandle, kind: FileKind) -> Result<Node> {
        self.hold_by_handle(key, handle, kind)
    }

    fn by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        self.find_by_number(volume, ino)
    }

    fn parent(&self, dir: &Node) -> Result<(Node, Found)> {
        self.find_parent(held(dir, Errno::ESTALE)?)
    }

    fn getattr(&self, node: &Node) -> Result<Attr<Disk>> {
        match inner(node)? {
            HostNode::Held(held) => {
                let attr = self.context.attr(&stat(held.fd(), OsStr::new(""))?)?;
                Ok(self.without_staging(&held.key, attr))
            }
            HostNode::Hidden(hidden) => Ok(hidden.attr()),
        }
    }

    fn setattr(
        &self,
        node: &Node,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        let held = held(node, Errno::EROFS)?;
        Ok(self.without_staging(&held.key, self.change(held, file, change, rights)?))
    }

    fn readlink(&self, node: &Node) -> Result<OsString> {
        Ok(readlinkat(held(node, Errno::EINVAL)?.fd(), "")?)
    }

    fn create(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created> {
        let (dir, name) = (held(dir, Errno::EROFS)?, name.as_os_str());
        self.shown(dir, name, Errno::EPERM)?;
        match new.prepare {
            Some(prepare) => self.make_prepared(dir, name, new, prepare),
            None => self.make(dir, name, new),
        }
    }

    fn replace(&self, dir: &Node, name: Name<'_>, key: &Key, new: &New<'_>) -> Result<Found> {
        let (dir, name) = (held(dir, Errno::EROFS)?, name.as_os_str());
        self.shown(dir, name, Errno::EPERM)?;
        self.put_in_place(dir, name, key, new)
    }

    fn link(&self, node: &Node, dir: &Node, name: Name<'_>, rights: Rights) -> Result<Found> {
        let (node, dir) = (held(node, Errno::EPERM)?, held(dir, Errno::EROFS)?);
        self.shown(dir, name.as_os_str(), Errno::EPERM)?;
        self.add_name(node, dir, name.as_os_str(), rights)
    }

    fn unlink(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        self.drop_name(held(dir, Errno::ENOENT)?, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
    }

    fn rmdir(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        self.drop_name(held(dir, Errno::ENOENT)?, name.as_os_str(), UnlinkatFlags::RemoveDir)
    }

    fn rename(
        &self,
        from: (&Node, Name<'_>),
        to: (&Node, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let from = (held(from.0, Errno::ENOENT)?, from.1.as_os_str());
        let to = (held(to.0, Errno::EROFS)?, to.1.as_os_str());
        self.shown(from.0, from.1, Errno::ENOENT)?;
        self.shown(to.0, to.1, Errno::EPERM)?;
        self.move_name(from, to, flags, owner, rights)
    }

    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>> {
        self.open_held(to_open(node)?, flags)
    }

    fn close_reader(&self, node: &Node) {
        if let Ok(HostNode::Held(held)) = inner(node) {
            // Closed without the lock.
            let reader = lock(held.reader()).take();
            drop(reader);
        }
    }

    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>> {
        let held = match inner(node)? {
            HostNode::Held(held) => held,
            HostNode::Hidden(hidden) => return Ok(Arc::new(hidden.clone())),
        };
        let hides = self.hides(&held.key);
        Ok(Arc::new(HostDir::new(Arc::clone(&self.context), self.reopen_dir(held)?, hides)))
    }

    fn open_ahead(&self, node: &Node) -> Result<Option<Arc<dyn Dir>>> {
        let HostNode::Held(held) = inner(node)? else { return Ok(None) };
        // Elsewhere it may be slow, or mount something.
        let volume = self.volume(held);
        if !held.kind.is_dir() || !volume.as_ref().is_some_and(|volume| volume.traits.lends) {
            return Ok(None);
        }
        self.context.as_onlooker(volume.as_deref())?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
        // Whose directory it is not may not leave its access time alone.
        let Ok(fd) = openat(held.fd(), ".", flags, Mode::empty()) else { return Ok(None) };
        let hides = self.hides(&held.key);
        Ok(Some(Arc::new(HostDir::new(Arc::clone(&self.context), fd, hides))))
    }

    fn statfs(&self, node: &Node) -> Result<Statfs> {
        match inner(node)? {
            HostNode::Held(held) => totals(held),
            HostNode::Hidden(_) => Ok(Hidden::statfs()),
        }
    }

    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        self.read_acl(node, kind)
    }

    fn set_acl(
        &self,
        node: &Node,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.write_acl(held(node, Errno::EROFS)?, kind, acl, rights)
    }

    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        self.read_capability(node)
    }

    fn set_capability(
        &self,
        node: &Node,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.write_capability(held(node, Errno::EROFS)?, capability, rights)
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        self.read_xattr(held(node, Errno::ENODATA)?, name)
    }

    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        self.list_xattrs(node)
    }

    fn set_xattr(
        &self,
        node: &Node,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        rights: Rights,
    ) -> Result<()> {
        self.write_xattr(held(node, Errno::EROFS)?, name, value, how, rights)
    }
}

impl Host {
    fn reopen_dir(&self, node: &Held) -> Result<OwnedFd> {
        if !node.kind.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        self.context.as_onlooker(self.volume(node).as_deref())?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let own = openat(node.fd(), ".", flags | OFlag::O_CLOEXEC, Mode::empty());
        match own {
            // It may be read, but not searched.
            Err(Errno::EACCES) => Ok(self.context.procfs.reopen(node.fd(), flags)?),
            opened => Ok(opened?),
        }
    }
}

/// Returns the regular file that a node is.
fn to_open(node: &Node) -> Result<&Held> {
    let held = held(node, Errno::EISDIR)?;
    match held.kind {
        FileKind::Regular => Ok(held),
        FileKind::Directory => Err(Errno::EISDIR.into()),
        FileKind::Symlink => Err(Errno::ELOOP.into()),
        // Opening one would reach a driver, or wait for a peer.
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Err(Errno::ENXIO.into())
        }
    }
}

/// Returns the totals of the file system of a file: not by statfs(2), of which
/// `nix` leaves out the unit that blocks are counted in.
fn totals(node: &Held) -> Result<Statfs> {
    let stat = fstatvfs(node.fd())?;
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Statfs {
        blocks: stat.blocks(),
        bfree: stat.blocks_free(),
        bavail: stat.blocks_available(),
        files: stat.files(),
        ffree: stat.files_free(),
        bsize: small(stat.block_size()),
        namelen: small(stat.name_max()),
        frsize: small(stat.fragment_size()),
    })
}
