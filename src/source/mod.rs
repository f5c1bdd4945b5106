//! Where files come from: one trait, and what implements it.
//!
//! A source knows disk ids only. Each call has one effect and it is atomic: it
//! happens whole, or the call fails and nothing is left. Credentials (as whom
//! the host is asked) are the source's own business.

#[cfg(test)]
pub(crate) mod conformance;
mod file;
pub mod host;
pub mod image;
mod local;
mod lock;
#[cfg(test)]
pub(crate) mod memory;
pub mod owners;
mod rules;
pub(crate) mod settled;
pub mod walk;
mod watch;
#[cfg(test)]
pub(crate) mod wrap;

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::acl::{Acl, AclKind, Capability};
use crate::attr::{Attr, FileKind, Mode, Name, Time};
use crate::error::{Error, Result};
use crate::id::{Disk, Group, Id, Ids, User};

pub use file::{File, Lending, Lent, Place};
pub use lock::{Lock, LockKind, Locks};
pub use settled::is_settled;
pub use watch::{Covers, Happened, Unwatched, Watch, What};

/// What a source can do; decided once, when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether it keeps POSIX ACLs.
    pub acl: bool,
    /// Whether [`Source::open_by_key`] can find a file without its name.
    pub handles: bool,
    /// Whether files of any owner can be made; if not, only files of the
    /// server's own ids.
    pub any_owner: bool,
    /// Whether any file can be opened, whatever its owner and mode.
    pub any_file: bool,
    /// Whether nothing in it ever changes.
    pub immutable: bool,
    /// Whether the kernel may be lent files of the root's volume, see
    /// [`File::lend`].
    pub lends: bool,
}

/// The identity of a file: the same for all its names, never that of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The volume: 0 for the one that the root is on, stable over a remount.
    pub volume: u64,
    /// The inode number on that volume.
    pub ino: u64,
    /// What tells a file from an earlier one of the same number: taken from
    /// the file handle, else the birth time; the same at every lookup.
    pub generation: u64,
}

/// The file handle of a file, as name_to_handle_at(2) gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// The type of the handle.
    pub kind: i32,
    /// Its bytes, at most 128.
    pub bytes: Box<[u8]>,
}

/// A file that a name led to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its identity.
    pub key: Key,
    /// Its handle, where [`Facts::handles`].
    pub handle: Option<FileHandle>,
    /// Its attributes at that moment.
    pub attr: Attr<Disk>,
}

/// A file of a source, held so that it can be acted on: for the host, an open
/// `O_PATH` descriptor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node(Arc<dyn Any + Send + Sync>);

impl Node {
    /// Wraps what a source holds for a file.
    pub fn new<T: Any + Send + Sync>(inner: T) -> Self {
        Self(Arc::new(inner))
    }

    /// Returns what the source put in, if it is of that type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// Returns how many clones of this node there are.
    pub fn users(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

/// What a new directory entry is to be.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// What to make, with what belongs to that kind.
    pub what: NewKind<'a>,
    /// The owner on disk. In a set-group-id directory the group is the
    /// directory's instead, as on any file system.
    pub owner: Ids<Disk>,
    /// Permission bits before the umask; ignored for a symbolic link.
    pub mode: Mode,
    /// The caller's umask: applied unless the directory has a default ACL.
    pub umask: u16,
    /// Whether blocks reserved for root may be used, see [`Rights::reserve`].
    pub reserve: bool,
    /// What is to be done with it before it has its name.
    pub prepare: Option<Prepare<'a>>,
}

/// What is done with a new file that nobody can see yet: if it fails, there is
/// no file.
#[derive(Clone, Copy)]
pub struct Prepare<'a>(pub &'a (dyn Fn(&Node, &Found) -> Result<()> + Sync));

impl fmt::Debug for Prepare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepare")
    }
}

/// The kind of a new directory entry.
#[derive(Clone, Copy, Debug)]
pub enum NewKind<'a> {
    /// A regular file, to be opened if open flags (as in open(2)) are given.
    Regular(Option<i32>),
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a OsStr),
    /// A fifo, a socket, or a device with this number.
    Special(FileKind, u64),
}

impl NewKind<'_> {
    /// Returns the kind of file that is made.
    pub const fn kind(&self) -> FileKind {
        match self {
            Self::Regular(_) => FileKind::Regular,
            Self::Directory => FileKind::Directory,
            Self::Symlink(_) => FileKind::Symlink,
            Self::Special(kind, _) => *kind,
        }
    }
}

/// What came of [`Source::create`].
#[derive(Debug)]
pub struct Created {
    /// The new file.
    pub found: Found,
    /// The open file, where flags were given.
    pub file: Option<Arc<dyn File>>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The moment of the call.
    Now,
    /// A given moment.
    At(Time),
}

/// Changes of attributes, made together; `None` leaves as is.
///
/// A change of nothing is `chown(-1, -1)`: it moves the time of the last change
/// and takes set-id bits and capabilities, as any change of owner.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// New owning user on disk.
    pub uid: Option<Id<User, Disk>>,
    /// New owning group on disk.
    pub gid: Option<Id<Group, Disk>>,
    /// New permission bits, set after the owner as they are: whether the caller
    /// may set set-group-id has been decided.
    pub mode: Option<Mode>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last change of contents.
    pub mtime: Option<SetTime>,
}

impl Change {
    /// Reports whether chown(2) is part of this change, if only
    /// `chown(-1, -1)`.
    pub const fn is_chown(&self) -> bool {
        let Self { uid, gid, mode, size, atime, mtime } = self;
        let nothing_else = mode.is_none() && size.is_none() && atime.is_none() && mtime.is_none();
        uid.is_some() || gid.is_some() || nothing_else
    }
}

/// How the host treats what is done on behalf of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whether set-id bits stay that are cleared for ordinary writers
    /// (`CAP_FSETID` over the file, or membership of its group).
    pub keep_setid: bool,
    /// Whether blocks reserved for root may be used: the caller is root of the
    /// host, whatever its files belong to on disk.
    pub reserve: bool,
}

/// Flags of renameat2(2) that a rename may carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// Fail if the new name exists.
    pub no_replace: bool,
    /// Exchange the two files.
    pub exchange: bool,
    /// Leave a whiteout under the old name.
    pub whiteout: bool,
}

/// Whether an extended attribute is to exist before it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSet {
    /// Either.
    Any,
    /// Fail with `EEXIST` if it does (`XATTR_CREATE`).
    Create,
    /// Fail with `ENODATA` if it does not (`XATTR_REPLACE`).
    Replace,
}

/// The totals of a file system, as in statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Total blocks, of `frsize` bytes.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for ordinary users.
    pub bavail: u64,
    /// Total inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred size of I/O, in bytes.
    pub bsize: u32,
    /// The longest name, in bytes.
    pub namelen: u32,
    /// The size of a block, in bytes.
    pub frsize: u32,
}

/// An entry that a directory listing yields; `.` and `..` come where the host
/// lists them.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Its name, of any bytes but `/` and NUL.
    pub name: &'a OsStr,
    /// The inode number on its directory's volume, unless something is
    /// mounted there.
    pub ino: u64,
    /// What it is, where the listing says.
    pub kind: Option<FileKind>,
    /// Where a later read goes on after this entry.
    pub next: u64,
    /// What a lookup of the name would find, where listing it has told that too.
    pub found: Option<&'a Found>,
}

/// Inode flags and extended flags that ioctl(2) reads and sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeFlags {
    /// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`: the `FS_*_FL` bits.
    Flags(u32),
    /// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`: a `struct fsxattr`.
    Extended([u8; 28]),
}

/// Which of the two sets of inode flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeFlagsKind {
    /// The `FS_*_FL` bits.
    Flags,
    /// The `struct fsxattr`.
    Extended,
}

/// Where files come from. Every error is the errno that a caller would get.
pub trait Source: Send + Sync + fmt::Debug {
    /// Returns what this source can do.
    fn facts(&self) -> Facts;

    /// Begins to watch for what others change; it can be done once.
    ///
    /// # Errors
    /// Why that cannot be done.
    fn watch(&self) -> std::result::Result<Arc<dyn Watch>, Unwatched> {
        Err(Unwatched("such a source cannot be watched".to_owned()))
    }

    /// Returns what a volume is called by who remembers its files for longer than it
    /// stays where it is: by what its file system is called, where it has a name.
    fn lasting(&self, volume: u64) -> u64 {
        volume
    }

    /// Takes away what this source has made for its own use, when nobody is served any
    /// more.
    fn leave(&self) {}

    /// Returns the root directory.
    ///
    /// # Errors
    /// As statx(2).
    fn root(&self) -> Result<(Node, Found)>;

    /// Looks a name up, without opening it.
    ///
    /// # Errors
    /// As statx(2): `ENOENT`, `ENOTDIR`.
    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found>;

    /// Looks a name up and holds what it leads to; attributes are those of the node.
    ///
    /// # Errors
    /// As [`Source::lookup`] and [`Source::open_by_name`].
    fn reach(&self, dir: &Node, name: Name<'_>) -> Result<(Node, Found)> {
        let found = self.lookup(dir, name)?;
        let node = self.open_by_name(dir, name, &found.key)?;
        let attr = self.getattr(&node)?;
        Ok((node, Found { attr, ..found }))
    }

    /// Opens the file of that name as a node, if it is still the one.
    ///
    /// # Errors
    /// `Stale` if another file or none is there; as open(2).
    fn open_by_name(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node>;

    /// Opens a file by its handle, if it still exists; `kind` is what it is.
    ///
    /// # Errors
    /// `Stale` if it is gone; `Unsupported` without [`Facts::handles`], or for
    /// kinds of file that need a name.
    fn open_by_key(&self, key: &Key, handle: &FileHandle, kind: FileKind) -> Result<Node>;

    /// Finds a file by its inode number on a volume and holds it, where it is certain that
    /// it is below the root.
    ///
    /// # Errors
    /// `Stale` if there is none, or none that can be found so.
    fn by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        let _cannot = (volume, ino);
        Err(Error::Stale)
    }

    /// Finds the directory that a directory is in and holds it; that of the root may be the
    /// root.
    ///
    /// # Errors
    /// `Stale` if it is not below the root, or cannot be found so.
    fn parent(&self, dir: &Node) -> Result<(Node, Found)> {
        let _cannot = dir;
        Err(Error::Stale)
    }

    /// Returns the attributes of a node.
    ///
    /// # Errors
    /// As statx(2).
    fn getattr(&self, node: &Node) -> Result<Attr<Disk>>;

    /// Makes all changes at once: owner before mode, then size, then times.
    ///
    /// `file` is the open file that the caller acts through, if any.
    ///
    /// # Errors
    /// As chown(2), chmod(2), truncate(2), utimensat(2); `NotOurs` for an
    /// owner that the server may not give.
    fn setattr(
        &self,
        node: &Node,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>>;

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// As readlink(2).
    fn readlink(&self, node: &Node) -> Result<OsString>;

    /// Makes a new directory entry, with its owner, mode and ACL from the
    /// first moment; an existing name is `EEXIST`.
    ///
    /// # Errors
    /// As open(2), mkdir(2), mknod(2), symlink(2); `NotOurs` for an owner that
    /// the server may not give.
    fn create(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created>;

    /// Puts a new file that is no directory in the place of another one, in one step
    /// and only if the name still leads to that.
    ///
    /// # Errors
    /// As [`Source::create`]; `Stale` if another file or none is there; `NotOurs`
    /// where the source cannot do so.
    fn replace(&self, dir: &Node, name: Name<'_>, key: &Key, new: &New<'_>) -> Result<Found> {
        let _cannot = (dir, name, key, new);
        Err(Error::NotOurs)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As link(2).
    fn link(&self, node: &Node, dir: &Node, name: Name<'_>, rights: Rights) -> Result<Found>;

    /// Removes a name of a file that is no directory.
    ///
    /// # Errors
    /// As unlink(2).
    fn unlink(&self, dir: &Node, name: Name<'_>) -> Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    fn rmdir(&self, dir: &Node, name: Name<'_>) -> Result<()>;

    /// Renames; a whiteout belongs to `owner`.
    ///
    /// # Errors
    /// As renameat2(2).
    fn rename(
        &self,
        from: (&Node, Name<'_>),
        to: (&Node, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        rights: Rights,
    ) -> Result<()>;

    /// Opens a regular file with flags as in open(2); never waits: a lease
    /// held by another process is `EAGAIN` (`EWOULDBLOCK`). Creating and
    /// truncating are calls of their own: flags for them mean nothing here, and
    /// `O_DIRECT` only to what is lent, see [`File::lending`].
    ///
    /// # Errors
    /// As open(2).
    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>>;

    /// Closes what stays open of a file to be read again, if anything does: its node alone
    /// is to be held.
    fn close_reader(&self, _node: &Node) {}

    /// Opens a directory for listing.
    ///
    /// # Errors
    /// As open(2).
    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>>;

    /// Opens a directory that nobody has asked for yet: to read it changes nothing, access
    /// times included. `None` where that cannot be, or asking ahead of time has a price.
    ///
    /// # Errors
    /// As open(2).
    fn open_ahead(&self, _node: &Node) -> Result<Option<Arc<dyn Dir>>> {
        Ok(None)
    }

    /// Returns the totals of the file system that a node is on.
    ///
    /// # Errors
    /// As statfs(2).
    fn statfs(&self, node: &Node) -> Result<Statfs>;

    /// Returns an ACL; `None` if the file has none of that kind.
    ///
    /// # Errors
    /// As getxattr(2); `Unsupported` where the source keeps none.
    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>>;

    /// Sets an ACL, or removes it with `None`.
    ///
    /// # Errors
    /// As setxattr(2).
    fn set_acl(
        &self,
        node: &Node,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()>;

    /// Returns the file capability; `None` if there is none.
    ///
    /// # Errors
    /// As getxattr(2).
    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>>;

    /// Sets the file capability, or removes it with `None` (`ENODATA` if there
    /// is none).
    ///
    /// # Errors
    /// As setxattr(2).
    fn set_capability(
        &self,
        node: &Node,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()>;

    /// Returns an extended attribute that carries no ids; ACLs and
    /// `security.capability` have calls of their own and are refused here.
    ///
    /// # Errors
    /// As getxattr(2): `ENODATA`.
    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>>;

    /// Lists the names of all extended attributes, ACLs included.
    ///
    /// # Errors
    /// As listxattr(2).
    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>>;

    /// Sets an extended attribute that carries no ids, or removes it with
    /// `None`.
    ///
    /// # Errors
    /// As setxattr(2), removexattr(2).
    fn set_xattr(
        &self,
        node: &Node,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        rights: Rights,
    ) -> Result<()>;
}

/// An open directory.
pub trait Dir: Send + Sync + fmt::Debug {
    /// Lists entries from an offset (0, or a [`DirEntry::next`]) until `each`
    /// breaks or the directory ends.
    ///
    /// # Errors
    /// As getdents(2).
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Returns names that [`Dir::read`] is going to pass on from an offset, as many
    /// as are at hand; perhaps none.
    fn upcoming(&self, offset: u64) -> Vec<OsString> {
        let _unknown = offset;
        Vec::new()
    }

    /// Writes the directory to disk.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync(&self, data_only: bool) -> Result<()>;

    /// Reads the inode flags.
    ///
    /// # Errors
    /// `ENOTTY` where the source has none.
    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags>;

    /// Sets the inode flags.
    ///
    /// # Errors
    /// `ENOTTY` where the source has none; `EPERM` without the privilege.
    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()>;
}
