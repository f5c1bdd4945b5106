//! A source of the files of an image: what all formats have in common.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::Ahead;
use super::cache::Cache;
use super::dir::ImageDir;
use super::file::ImageFile;
use super::listing::Listing;
use super::{Contents, Device, Image, Nid, Part, eio};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::attr::{Attr, FileKind, Name};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Ids};
use crate::source::local::Tables;
use crate::source::{
    Change, Created, Dir, Facts, File, FileHandle, Found, Key, New, Node, RenameFlags, Rights,
    Source, Statfs, XattrSet,
};

/// The type of our file handles; their bytes are a [`Nid`], little endian.
const HANDLE: i32 = 1;

/// The most bytes that are unpacked in one piece: no format packs more together.
const MOST: u64 = 16 << 20;

/// How far is unpacked ahead of a reader, in bytes.
const AHEAD: u64 = 1 << 20;

/// How far behind who reads on and on what was unpacked is kept: reads that the kernel
/// sends at once come in any order.
const BEHIND: u64 = 1 << 20;

/// The part of the cache that is for listings.
const LISTINGS: u64 = 8;

/// The files of an image.
///
/// Nothing in it ever changes: all that would is `EROFS`.
#[derive(Debug)]
pub struct ImageSource {
    inner: Arc<Inner>,
}

/// What files of an image share.
#[derive(Debug)]
pub(super) struct Inner {
    image: Arc<dyn Image>,
    device: Arc<Device>,
    listings: Cache<Nid, Listing>,
    blocks: Cache<(Nid, u64), Vec<u8>>,
    ahead: Ahead,
    locks: Arc<Tables>,
}

/// What is held for a file.
#[derive(Clone, Copy, Debug)]
struct ImageNode(Nid);

/// Returns the error of all changes.
pub(super) const fn read_only() -> Error {
    Error::Os(Errno(libc::EROFS))
}

impl ImageSource {
    /// Makes a source of an image; `cache` is how many bytes of memory it may keep of
    /// what it has read and unpacked.
    pub fn new(image: Arc<dyn Image>, device: Arc<Device>, cache: u64) -> Self {
        let listings = cache / LISTINGS;
        let inner = Inner {
            image,
            device,
            listings: Cache::new(listings),
            blocks: Cache::new(cache.saturating_sub(listings)),
            ahead: Ahead::new(),
            locks: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
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

impl Inner {
    /// Answers a request, once for all that is read for it: with nothing where the image has
    /// changed. So all that was answered or is kept was read while it had not.
    pub(super) fn answer<T>(&self, ask: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let answer = ask(self);
        if self.device.is_unchanged() { answer } else { Err(eio()) }
    }

    /// Returns the attributes of a file.
    pub(super) fn attr(&self, nid: Nid) -> Result<Attr<Disk>> {
        self.answer(|inner| inner.image.attr(nid))
    }

    /// Returns locks, which nobody but callers of the mount can have.
    pub(super) const fn locks(&self) -> &Arc<Tables> {
        &self.locks
    }

    /// Returns the bytes of a range that are unpacked together.
    pub(super) fn block(
        &self,
        nid: Nid,
        contents: &Arc<dyn Contents>,
        range: &Range<u64>,
    ) -> Result<Arc<Vec<u8>>> {
        let length = range.end.checked_sub(range.start).filter(|length| *length <= MOST);
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or_else(eio)?;
        let size = |block: &Vec<u8>| u64::try_from(block.capacity()).unwrap_or(u64::MAX);
        self.blocks.get((nid, range.start), size, || {
            let block = contents.unpack(range.clone())?;
            if block.len() == length { Ok(block) } else { Err(eio()) }
        })
    }

    /// Has the beginning of what is left of a file unpacked before it is asked for;
    /// `reached` is how far the reader has come by then.
    pub(super) fn go_ahead(
        self: &Arc<Self>,
        nid: Nid,
        contents: &Arc<dyn Contents>,
        rest: Range<u64>,
        reached: &Arc<AtomicU64>,
    ) {
        let (mut at, end) = (rest.start, rest.end.min(rest.start.saturating_add(AHEAD)));
        while at < end
            && let Ok(Some(range)) = contents.packed(at)
            && range.contains(&at)
        {
            at = range.end;
            if !self.blocks.has(&(nid, range.start)) {
                let (inner, contents) = (Arc::clone(self), Arc::clone(contents));
                let reached = Arc::clone(reached);
                self.ahead.leave(move || {
                    if range.end > reached.load(Ordering::Relaxed) {
                        // Whoever needs it hears of what is wrong.
                        drop(inner.answer(|inner| inner.block(nid, &contents, &range)));
                    }
                });
            }
        }
    }

    /// Gives up what was unpacked some way before a read that went on there: the kernel
    /// has its pages, and the memory is needed for what comes.
    pub(super) fn leave_behind(&self, nid: Nid, contents: &dyn Contents, read: Range<u64>) {
        let Some(mut at) = read.start.checked_sub(BEHIND) else { return };
        let end = read.end.saturating_sub(BEHIND);
        while at < end
            && let Ok(Some(range)) = contents.packed(at)
            && range.contains(&at)
        {
            at = range.end;
            if at <= end {
                self.blocks.forget(&(nid, range.start));
            }
        }
    }

    fn listing(&self, dir: Nid) -> Result<Arc<Listing>> {
        let make = || match self.image.attr(dir)?.kind.is_dir() {
            true => Listing::new(self.image.list(dir)?),
            false => Err(Error::Os(Errno(libc::ENOTDIR))),
        };
        self.listings.get(dir, Listing::bytes, make)
    }

    /// Describes a file.
    pub(super) fn found(&self, nid: Nid) -> Result<Found> {
        let attr = self.image.attr(nid)?;
        // All names of a file have one number, and no two files have.
        let key = Key { volume: 0, ino: attr.ino, generation: nid.0 };
        let bytes = Box::from(nid.0.to_le_bytes());
        Ok(Found { key, handle: Some(FileHandle { kind: HANDLE, bytes }), attr })
    }

    fn value(&self, nid: Nid, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let all = self.answer(|inner| inner.image.xattrs(nid))?;
        Ok(all.into_iter().find(|(other, _)| other == name).map(|(_, value)| value))
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
