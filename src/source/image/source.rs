//! A source of the files of an image: what all formats have in common.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};
use std::sync::Arc;

use super::dir::ImageDir;
use super::file::ImageFile;
use super::inner::Inner;
use super::{Device, Image, Nid, Part, eio, read_only};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::attr::{Attr, FileKind, Name};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Ids};
use crate::source::{
    Change, Created, Dir, Facts, File, FileHandle, Found, Key, New, Node, RenameFlags, Rights,
    Source, Statfs, XattrSet,
};

/// The files of an image.
///
/// Nothing in it ever changes: all that would is `EROFS`.
#[derive(Debug)]
pub struct ImageSource {
    inner: Arc<Inner>,
}

/// What is held for a file.
#[derive(Clone, Copy, Debug)]
struct ImageNode(Nid);

impl ImageSource {
    /// Makes a source of an image; `cache` is how many bytes of memory it may keep of
    /// what it has read and unpacked.
    pub fn new(image: Arc<dyn Image>, device: Arc<Device>, cache: u64) -> Self {
        Self { inner: Arc::new(Inner::new(image, device, cache)) }
    }

    /// Returns the image.
    pub fn image(&self) -> Arc<dyn Image> {
        Arc::clone(&self.inner.image)
    }

    /// Returns which bytes of its file it is.
    pub fn part(&self) -> Part {
        let device = &self.inner.device;
        Part { offset: device.offset(), size: Some(device.length()) }
    }

    /// Returns which file it is in, by device and inode number; `None` if that cannot be seen.
    pub fn file(&self) -> Option<(u64, u64)> {
        self.inner.device.file().ok()
    }

    /// Reports whether the piece of a file that begins there is kept unpacked.
    #[cfg(test)]
    pub(super) fn keeps(&self, nid: Nid, start: u64) -> bool {
        self.inner.blocks.has(&(nid, start))
    }
}

fn nid(node: &Node) -> Result<Nid> {
    node.get().map(|ImageNode(nid)| *nid).ok_or(Error::Internal)
}

fn node(nid: Nid) -> Node {
    Node::new(ImageNode(nid))
}

/// Holds what was found.
fn reached(found: Found) -> (Node, Found) {
    (node(Nid(found.key.generation)), found)
}

impl Source for ImageSource {
    fn facts(&self) -> Facts {
        Facts {
            acl: self.inner.image.about().acl,
            handles: true,
            any_owner: true,
            any_file: true,
            immutable: true,
            lends: false,
        }
    }

    fn root(&self) -> Result<(Node, Found)> {
        let root = self.inner.image.root();
        Ok((node(root), self.inner.answer(|inner| inner.found(root))?))
    }

    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        let dir = nid(dir)?;
        self.inner.answer(|inner| {
            let listing = inner.listing(dir)?;
            let line = listing.find(name.as_os_str().as_bytes());
            inner.found(line.ok_or(Error::Os(Errno(libc::ENOENT)))?.nid)
        })
    }

    fn reach(&self, dir: &Node, name: Name<'_>) -> Result<(Node, Found)> {
        Ok(reached(self.lookup(dir, name)?))
    }

    fn open_by_name(&self, _dir: &Node, _name: Name<'_>, key: &Key) -> Result<Node> {
        Ok(node(Nid(key.generation)))
    }

    fn open_by_key(&self, key: &Key, _handle: &FileHandle, _kind: FileKind) -> Result<Node> {
        Ok(node(Nid(key.generation)))
    }

    fn by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        if volume != 0 {
            return Err(Error::Stale);
        }
        let found = self.inner.answer(|inner| inner.found(inner.image.by_number(ino)?))?;
        if found.key.ino == ino { Ok(reached(found)) } else { Err(Error::Stale) }
    }

    fn parent(&self, dir: &Node) -> Result<(Node, Found)> {
        let dir = nid(dir)?;
        let found = self.inner.answer(|inner| inner.found(inner.image.parent(dir)?))?;
        if found.attr.kind.is_dir() { Ok(reached(found)) } else { Err(eio()) }
    }

    fn getattr(&self, node: &Node) -> Result<Attr<Disk>> {
        self.inner.attr(nid(node)?)
    }

    fn setattr(
        &self,
        _node: &Node,
        _file: Option<&dyn File>,
        _change: &Change,
        _rights: Rights,
    ) -> Result<Attr<Disk>> {
        Err(read_only())
    }

    fn readlink(&self, node: &Node) -> Result<OsString> {
        let nid = nid(node)?;
        self.inner.answer(|inner| inner.image.readlink(nid))
    }

    fn create(&self, _dir: &Node, _name: Name<'_>, _new: &New<'_>) -> Result<Created> {
        Err(read_only())
    }

    fn link(&self, _node: &Node, _dir: &Node, _name: Name<'_>, _rights: Rights) -> Result<Found> {
        Err(read_only())
    }

    fn unlink(&self, _dir: &Node, _name: Name<'_>) -> Result<()> {
        Err(read_only())
    }

    fn rmdir(&self, _dir: &Node, _name: Name<'_>) -> Result<()> {
        Err(read_only())
    }

    fn rename(
        &self,
        _from: (&Node, Name<'_>),
        _to: (&Node, Name<'_>),
        _flags: RenameFlags,
        _owner: Option<Ids<Disk>>,
        _rights: Rights,
    ) -> Result<()> {
        Err(read_only())
    }

    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(read_only());
        }
        let nid = nid(node)?;
        let opened = |inner: &Inner| Ok((inner.image.attr(nid)?.size, inner.image.open(nid)?));
        let (size, contents) = self.inner.answer(opened)?;
        Ok(Arc::new(ImageFile::new(Arc::clone(&self.inner), nid, size, contents)))
    }

    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>> {
        let nid = nid(node)?;
        let opened = |inner: &Inner| Ok((inner.image.attr(nid)?.ino, inner.listing(nid)?));
        let (ino, listing) = self.inner.answer(opened)?;
        Ok(Arc::new(ImageDir { inner: Arc::clone(&self.inner), listing, ino }))
    }

    fn open_ahead(&self, node: &Node) -> Result<Option<Arc<dyn Dir>>> {
        self.opendir(node).map(Some)
    }

    fn statfs(&self, _node: &Node) -> Result<Statfs> {
        Ok(self.inner.image.statfs())
    }

    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        if !self.facts().acl {
            return Err(Error::Unsupported);
        }
        let value = self.inner.value(nid(node)?, OsStr::new(kind.xattr()))?;
        value.map_or(Ok(None), |value| Acl::decode(&value))
    }

    fn set_acl(
        &self,
        _node: &Node,
        _kind: AclKind,
        _acl: Option<&Acl<Disk>>,
        _rights: Rights,
    ) -> Result<()> {
        Err(read_only())
    }

    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        let value = self.inner.value(nid(node)?, OsStr::new(CAPABILITY_XATTR))?;
        value.map(|value| Capability::decode(&value)).transpose()
    }

    fn set_capability(
        &self,
        _node: &Node,
        _capability: Option<&Capability<Disk>>,
        _rights: Rights,
    ) -> Result<()> {
        Err(read_only())
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        let none = Error::Os(Errno(libc::ENODATA));
        let special = AclKind::ALL.iter().any(|kind| name == kind.xattr());
        if special || name == CAPABILITY_XATTR {
            return Err(Error::Unsupported);
        }
        self.inner.value(nid(node)?, name)?.ok_or(none)
    }

    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        let nid = nid(node)?;
        let all = self.inner.answer(|inner| inner.image.xattrs(nid))?;
        Ok(all.into_iter().map(|(name, _)| name).collect())
    }

    fn set_xattr(
        &self,
        _node: &Node,
        _name: &OsStr,
        _value: Option<&[u8]>,
        _how: XattrSet,
        _rights: Rights,
    ) -> Result<()> {
        Err(read_only())
    }
}

impl ImageSource {
    /// Reads a regular file by its path from the root; symbolic links are not followed.
    ///
    /// # Errors
    /// As open(2): `ENOENT`, `ENOTDIR`; `ELOOP` for a symbolic link; `EFBIG` for more
    /// than `most` bytes; `EINVAL` for what is no regular file, and for a path with `..`.
    pub fn contents(&self, path: &Path, most: u64) -> Result<Vec<u8>> {
        let (mut node, mut found) = self.root()?;
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(Error::Invalid) };
            (node, found) = self.reach(&node, Name::new(name)?)?;
        }
        let error = |errno| Err(Error::Os(Errno(errno)));
        match found.attr.kind {
            FileKind::Regular if found.attr.size <= most => {}
            FileKind::Regular => return error(libc::EFBIG),
            FileKind::Symlink => return error(libc::ELOOP),
            FileKind::Directory
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => return Err(Error::Invalid),
        }
        let mut bytes = vec![0; usize::try_from(found.attr.size).map_err(|_| eio())?];
        self.open(&node, libc::O_RDONLY)?.read(0, &mut bytes)?;
        Ok(bytes)
    }
}
