//! Plain data about files: attributes, modes, kinds, names, times.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Result};
use crate::id::{Disk, Owner, Side, View};

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// Returns the kind in the `S_IFMT` bits of a mode, if they are one.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::Regular,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => return None,
        })
    }

    /// Returns the `S_IFMT` bits of this kind.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }

    /// Reports whether this is a directory.
    pub const fn is_dir(self) -> bool {
        matches!(self, Self::Directory)
    }
}

/// The permission bits of a file: 07777, without the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode(u16);

impl Mode {
    /// The set-user-id bit.
    pub const SETUID: u16 = 0o4000;
    /// The set-group-id bit.
    pub const SETGID: u16 = 0o2000;
    /// The sticky bit of a directory: who may write may not remove others' files.
    pub const STICKY: u16 = 0o1000;

    /// All three execute bits.
    pub const EXECUTE: u16 = 0o111;

    /// Keeps the permission bits of a mode.
    pub const fn new(mode: u32) -> Self {
        Self((mode & 0o7777) as u16)
    }

    /// Returns the twelve permission bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Returns this mode without the given bits.
    pub const fn without(self, bits: u16) -> Self {
        Self(self.0 & !bits)
    }

    /// Reports whether any of the given bits is set.
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }
}

/// A point in time: seconds since the epoch (negative before it) and
/// nanoseconds after that second, 0..=999999999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub sec: i64,
    /// Nanoseconds after `sec`.
    pub nsec: u32,
}

/// The attributes of a file, with an owner of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<S: Side> {
    /// The inode number: the source's on the disk side, ours in the view.
    pub ino: u64,
    /// What the file is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: Mode,
    /// The number of hard links.
    pub nlink: u32,
    /// The owner, in ids of this side.
    pub owner: Owner<S>,
    /// The device that a device node stands for, as in makedev(3).
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of I/O, in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Creation, where the source records it.
    pub btime: Option<Time>,
    /// Whether nobody may change it: it is immutable or append-only.
    pub locked: bool,
    /// Whether names in it, its contents or its target are encrypted by the file system: a
    /// key that comes or goes changes what there is to see, and no time of it.
    pub encrypted: bool,
}

impl Attr<Disk> {
    /// Turns these attributes into what callers see.
    ///
    /// `owner` is the owner in view ids, from the policy; `ino` is the number
    /// that the mount shows for this file.
    pub const fn presented(self, owner: Owner<View>, ino: u64) -> Attr<View> {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            owner,
            rdev: self.rdev,
            size: self.size,
            blocks: self.blocks,
            blksize: self.blksize,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            locked: self.locked,
            encrypted: self.encrypted,
        }
    }
}

/// The longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;

/// The name of a directory entry: 1 to 255 bytes, no `/`, no NUL, not `.`
/// or `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a OsStr);

impl<'a> Name<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// `BadName` (`ENAMETOOLONG`) for a name longer than 255 bytes, `Invalid`
    /// (`EINVAL`) for one that is empty, `.`, `..` or holds a `/` or NUL.
    pub fn new(name: &'a OsStr) -> Result<Self> {
        let bytes = name.as_bytes();
        if bytes.len() > NAME_MAX {
            return Err(Error::BadName);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(Error::Invalid);
        }
        Ok(Self(name))
    }

    /// Returns the name as the system takes it.
    pub const fn as_os_str(self) -> &'a OsStr {
        self.0
    }

    /// Returns an owned copy.
    pub fn to_owned(self) -> OsString {
        self.0.to_os_string()
    }
}
