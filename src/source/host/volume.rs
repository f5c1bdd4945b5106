//! The file systems below a source, and what identifies a file on each.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

use super::lend;
use crate::error::{Error, Result};
use crate::source::{FileHandle, Key};
use crate::sys::fsid;
use crate::sys::handle::{self, Handle, Use};
use crate::sys::mountinfo;
use crate::sys::procfs::Procfs;
use crate::sys::stat::Stat;
use crate::sys::xfs;

/// Tags of volumes have so many bits, so that a number can carry one.
const TAG_BITS: u32 = 23;
pub(super) const TAG_MASK: u64 = (1 << TAG_BITS) - 1;

/// A part of the tree in which inode numbers are unique.
#[derive(Debug)]
pub(super) struct Volume {
    /// [`Key::volume`]: 0 for the one of the root.
    pub(super) tag: u64,
    /// A number made of what its file system is called.
    pub(super) name: Option<u64>,
    pub(super) traits: Traits,
    generation: Generation,
    opener: Option<Arc<Opener>>,
}

/// What it makes of who asks for something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    /// Whether the kernel may be told to open its files by itself.
    pub lends: bool,
    /// Whether only capabilities count for who may look and remove names: no
    /// server, and no other file system, sees the user of a call.
    pub local: bool,
    /// Whether blocks in reserve, if there are any, are for root and its group alone,
    /// or for a capability.
    pub reserves_for_root: bool,
}

/// What tells a file from an earlier one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    /// The file handle.
    Handle(Use),
    /// The birth time, where there is one.
    Birth,
    /// Nothing that would stay the same while the file is there.
    None,
}

/// What opens the files of a mount by handle.
#[derive(Debug)]
struct Opener {
    /// A directory of the mount: the kernel takes no `O_PATH` here.
    mount: OwnedFd,
    reach: Reach,
    /// The handle of that directory: those of other files have the same form.
    handle: Handle,
    kind: FsType,
    /// Whether that directory is the root of the file system, so that all files of it are
    /// below.
    whole: bool,
}

/// Which files can be opened by handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// All, as root.
    All,
    /// Directories that may be read, as an ordinary user in a mount namespace
    /// of its own.
    Directories,
}

/// Where a volume was met: a name in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The key of the directory.
    pub dir: &'a Key,
    /// The name.
    pub name: &'a OsStr,
}

impl Place<'_> {
    /// Returns the tag of a volume whose root is here: the same after the
    /// server or the host has started anew.
    ///
    /// A volume that is first met as a plain file has no place of its own: an
    /// overlay file system reports devices of its layers. Its device tells.
    pub fn tag(self) -> u64 {
        let Key { volume, ino, .. } = self.dir;
        tag(&[&volume.to_le_bytes(), &ino.to_le_bytes(), self.name.as_bytes()])
    }
}

/// Makes a tag: any number but 0, which is the root's.
pub(super) fn tag(parts: &[&[u8]]) -> u64 {
    (hash(parts) & TAG_MASK).max(1)
}

/// Returns a number made of what a file system is called, if it is called anything that
/// is the same on another day: by its UUID, else by what statfs(2) says, which is
/// all that an older kernel tells.
fn name(
    procfs: &Procfs,
    fd: BorrowedFd<'_>,
    kind: FsType,
    is_dir: bool,
) -> nix::Result<Option<u64>> {
    // Each subvolume of btrfs has numbers of its own, and an id of its own.
    if is_dir
        && kind != BTRFS_SUPER_MAGIC
        && let Ok(dir) = procfs.reopen(fd, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
        && let Some(uuid) = fsid::uuid(dir.as_fd())
    {
        return Ok(Some(hash(&[uuid.as_bytes()])));
    }
    Ok(fsid::id(fd)?.map(|id| hash(&[id.as_bytes()])))
}

/// Hashes bytes by FNV-1a, the same on every machine at all times.
fn hash(parts: &[&[u8]]) -> u64 {
    parts.iter().copied().flatten().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl From<&Handle> for FileHandle {
    fn from(handle: &Handle) -> Self {
        Self { kind: handle.kind(), bytes: handle.bytes().into() }
    }
}

/// Returns [`Key::generation`] of a file by its handle.
fn generation(handle: &Handle) -> u64 {
    hash(&[&handle.kind().to_le_bytes(), handle.bytes()])
}

impl Volume {
    /// Finds out what the file system of a descriptor has to tell files by; the
    /// tag is the root's.
    pub fn probe(procfs: &Procfs, fd: BorrowedFd<'_>, dev: u64, is_dir: bool) -> nix::Result<Self> {
        let kind = fstatfs(fd)?.filesystem_type();
        let generation = Generation::probe(fd, kind)?;
        let opener = match generation {
            Generation::Handle(Use::Open) if is_dir => Opener::probe(procfs, fd, kind)?,
            Generation::Handle(_) | Generation::Birth | Generation::None => None,
        };
        let name = name(procfs, fd, kind, is_dir)?;
        Ok(Self { tag: 0, name, traits: Traits::new(kind, dev), generation, opener })
    }

    /// Reports whether files that are no directories can be opened by handle.
    pub fn opens_files(&self) -> bool {
        self.opener.as_ref().is_some_and(|opener| opener.reach == Reach::All)
    }

    /// Reports whether any file can be opened by its handle.
    pub const fn opens_handles(&self) -> bool {
        self.opener.is_some()
    }

    /// Reports whether the place where it was met has all of its files below.
    pub fn is_whole(&self) -> bool {
        self.opener.as_ref().is_some_and(|opener| opener.whole)
    }

    /// Returns the directory where it was met, if any file can be opened by its handle.
    pub fn place(&self) -> Option<BorrowedFd<'_>> {
        self.opener.as_ref().map(|opener| opener.mount.as_fd())
    }

    /// Returns the identity of an open file of this volume.
    ///
    /// # Errors
    /// As name_to_handle_at(2).
    pub fn identify(&self, fd: BorrowedFd<'_>, stat: &Stat) -> Result<(Key, Option<FileHandle>)> {
        Ok(self.identity(self.handle(fd, OsStr::new(""))?.as_ref(), stat))
    }

    /// Returns what tells a file from earlier ones of its number besides its
    /// attributes, if anything does: of a name in a directory, or with an empty
    /// name of the descriptor itself.
    ///
    /// # Errors
    /// As name_to_handle_at(2).
    pub fn handle(&self, at: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Handle>> {
        let Generation::Handle(purpose) = self.generation else { return Ok(None) };
        match handle::handle(at, name, purpose) {
            Ok(handle) => Ok(Some(handle)),
            Err(Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reports whether a handle and attributes are of one file; `None` if that
    /// cannot be told.
    pub fn vouches(&self, handle: Option<&Handle>, stat: &Stat) -> Option<bool> {
        match self.generation {
            Generation::Handle(_) => handle?.inode().map(|ino| ino == stat.ino),
            Generation::Birth | Generation::None => Some(true),
        }
    }

    /// Returns the identity of a file by its handle and attributes.
    pub fn identity(&self, handle: Option<&Handle>, stat: &Stat) -> (Key, Option<FileHandle>) {
        let generation = match (self.generation, handle) {
            (Generation::Handle(_), Some(handle)) => generation(handle),
            (Generation::Birth, _) => stat
                .btime
                .map_or(0, |time| hash(&[&time.sec.to_le_bytes(), &time.nsec.to_le_bytes()])),
            (Generation::Handle(_) | Generation::None, _) => 0,
        };
        let kept = handle.and_then(|handle| self.keep(handle, stat));
        (Key { volume: self.tag, ino: stat.ino, generation }, kept)
    }

    /// Returns the identity of a file by its handle alone, where that tells.
    pub fn key(&self, handle: &Handle) -> Option<Key> {
        let Generation::Handle(_) = self.generation else { return None };
        let ino = handle.inode()?;
        Some(Key { volume: self.tag, ino, generation: generation(handle) })
    }

    /// Returns the handle for a later [`Volume::open`], if that can work.
    fn keep(&self, handle: &Handle, stat: &Stat) -> Option<FileHandle> {
        match self.opener.as_ref()?.reach {
            Reach::Directories if stat.mode & libc::S_IFMT != libc::S_IFDIR => None,
            Reach::All | Reach::Directories => Some(handle.into()),
        }
    }

    /// Opens a file by its handle.
    ///
    /// # Errors
    /// `Stale` if it is gone; `Unsupported` if it needs a name.
    pub fn open(&self, handle: &FileHandle) -> Result<OwnedFd> {
        let opener = self.opener.as_ref().ok_or(Error::Unsupported)?;
        let handle = Handle::new(handle.kind, &handle.bytes).ok_or(Error::Invalid)?;
        handle::open(opener.mount.as_fd(), &handle, opener.reach.flags())
            .map_err(|errno| opener.reach.refusal(errno))
    }

    /// Reports whether a handle is this file's and opens no later one of its number, so
    /// that what it opens need not be looked at.
    pub fn is_sure(&self, handle: &FileHandle, key: &Key) -> bool {
        let opener = self.opener.as_ref();
        let handle = Handle::new(handle.kind, &handle.bytes);
        opener.zip(handle).is_some_and(|(opener, handle)| {
            opener.tells_generations(&handle) && self.key(&handle).as_ref() == Some(key)
        })
    }

    /// Opens a file by its inode number: its handle is made of that, where this file system
    /// takes any generation or tells which one it is.
    ///
    /// # Errors
    /// `Stale` if there is none, or its handle cannot be made.
    pub fn open_by_number(&self, ino: u64) -> Result<OwnedFd> {
        let opener = self.opener.as_ref().filter(|opener| opener.reach == Reach::All);
        let opener = opener.ok_or(Error::Stale)?;
        let generation = match opener.kind {
            XFS_SUPER_MAGIC => xfs::generation(opener.mount.as_fd(), ino).ok_or(Error::Stale)?,
            _ => 0,
        };
        let handle = opener.handle.of_inode(ino, generation).ok_or(Error::Stale)?;
        handle::open(opener.mount.as_fd(), &handle, opener.reach.flags())
            .map_err(|errno| opener.reach.refusal(errno))
    }
}

impl Traits {
    fn new(kind: FsType, dev: u64) -> Self {
        let local = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC];
        Self {
            lends: lend::is_local(kind, dev),
            local: local.contains(&kind),
            reserves_for_root: kind != EXT4_SUPER_MAGIC || reserves_for_root(dev),
        }
    }
}

/// Reports whether a mounted ext file system says of nobody else that blocks are in
/// reserve for them (`_ext4_show_options` of fs/ext4/super.c, ext2 alike). A remount
/// that gives them to somebody later is not seen.
fn reserves_for_root(dev: u64) -> bool {
    let device = [major(dev), minor(dev)].map(|number| u32::try_from(number).ok());
    let [Some(major), Some(minor)] = device else { return false };
    let Ok(mounts) = mountinfo::mounts() else { return false };
    let mut of_device = mounts.iter().filter(|mount| mount.device == (major, minor)).peekable();
    let claims = |option: &str| option.starts_with("resuid=") || option.starts_with("resgid=");
    of_device.peek().is_some() && !of_device.any(|mount| mount.options.split(',').any(claims))
}

impl Generation {
    fn probe(fd: BorrowedFd<'_>, kind: FsType) -> nix::Result<Self> {
        if kind == OVERLAYFS_SUPER_MAGIC {
            // Handle and birth time both change when a file is copied up.
            return Ok(Self::None);
        }
        if kind == FUSE_SUPER_MAGIC {
            // The handle changes whenever the kernel forgets the file.
            return Ok(Self::Birth);
        }
        for purpose in [Use::Open, Use::Tell] {
            match handle::handle(fd, OsStr::new(""), purpose) {
                Ok(_) => return Ok(Self::Handle(purpose)),
                // Too long, or an older kernel that does not know the purpose.
                Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::EINVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Self::Birth)
    }
}

impl Opener {
    /// Finds out what can be opened by handle on the mount of a directory.
    fn probe(procfs: &Procfs, dir: BorrowedFd<'_>, kind: FsType) -> nix::Result<Option<Arc<Self>>> {
        let mount = match procfs.reopen(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(mount) => mount,
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => return Err(errno),
            Err(_) => return Ok(None),
        };
        let handle = handle::handle(dir, OsStr::new(""), Use::Open)?;
        for reach in [Reach::All, Reach::Directories] {
            match handle::open(mount.as_fd(), &handle, reach.flags()) {
                Ok(_) => {
                    let root = root_number(kind, mount.as_fd());
                    let whole = root.is_some() && handle.inode() == root;
                    return Ok(Some(Arc::new(Self { mount, reach, handle, kind, whole })));
                }
                Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => return Err(errno),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Reports whether the file system is known to open no file by a handle of another
    /// generation (`ext4_nfs_get_inode`, `xfs_nfs_get_inode`, `btrfs_get_dentry`,
    /// `shmem_match`). Some take any for one that is 0.
    fn tells_generations(&self, handle: &Handle) -> bool {
        let known = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC];
        known.contains(&self.kind) && handle.generation().is_some_and(|generation| generation != 0)
    }
}

/// Returns the inode number of the root of a file system, where that is known.
fn root_number(kind: FsType, dir: BorrowedFd<'_>) -> Option<u64> {
    match kind {
        EXT4_SUPER_MAGIC => Some(2),
        BTRFS_SUPER_MAGIC => Some(handle::BTRFS_ROOT),
        XFS_SUPER_MAGIC => xfs::root(dir),
        _ => None,
    }
}

impl Reach {
    fn flags(self) -> OFlag {
        match self {
            Self::All => OFlag::O_PATH | OFlag::O_NOFOLLOW,
            Self::Directories => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        }
    }

    /// Returns what an error of open_by_handle_at(2) says of the file.
    ///
    /// `ENOMEM` comes also where the number is just being given to a new file
    /// (`iget_locked` of fs/inode.c has one answer for both).
    fn refusal(self, errno: Errno) -> Error {
        match (errno, self) {
            (Errno::ESTALE | Errno::ENOENT | Errno::ENOMEM, _) => Error::Stale,
            (Errno::ENOTDIR | Errno::EPERM | Errno::EACCES, Self::Directories) => {
                Error::Unsupported
            }
            (errno, _) => errno.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_stable_and_never_the_roots() {
        let dir = Key { volume: 0, ino: 12, generation: 5 };
        let place = |name| Place { dir: &dir, name: OsStr::new(name) };
        assert_eq!(place("mnt").tag(), place("mnt").tag());
        assert_ne!(place("mnt").tag(), place("usb").tag());
        for name in 0..1000 {
            let name = name.to_string();
            let tag = Place { dir: &dir, name: OsStr::new(&name) }.tag();
            assert!((1..=TAG_MASK).contains(&tag));
        }
    }

    #[test]
    fn a_handle_that_does_not_open_says_why() {
        for gone in [Errno::ESTALE, Errno::ENOENT, Errno::ENOMEM] {
            assert_eq!(Reach::All.refusal(gone), Error::Stale, "{gone}");
            assert_eq!(Reach::Directories.refusal(gone), Error::Stale, "{gone}");
        }
        assert_eq!(Reach::Directories.refusal(Errno::EPERM), Error::Unsupported);
        assert!(Reach::All.refusal(Errno::EPERM).is(libc::EPERM));
        assert!(Reach::All.refusal(Errno::EMFILE).is(libc::EMFILE));
    }
}
