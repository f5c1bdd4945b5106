//! The operations, as data: they are sent to callers and printed in reports.

use serde::{Deserialize, Serialize};

/// Descriptor slots of each caller.
pub const SLOTS: usize = 4;

/// The value of an attribute; printed as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes {}", self.0.len(), super::exec::hex(&self.0[..self.0.len().min(60)]))
    }
}

/// An operation on a path, relative to the root of a side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// open(2) into a slot; what the slot held is closed first.
    Open { path: String, flags: i32, mode: u32, slot: usize },
    /// close(2).
    Close { slot: usize },
    /// read(2) at the slot's position.
    Read { slot: usize, len: usize },
    /// pread(2).
    Pread { slot: usize, off: u64, len: usize },
    /// write(2) at the slot's position.
    Write { slot: usize, len: usize },
    /// pwrite(2).
    Pwrite { slot: usize, off: u64, len: usize },
    /// ftruncate(2).
    Ftruncate { slot: usize, len: i64 },
    /// fallocate(2).
    Fallocate { slot: usize, mode: i32, off: i64, len: i64 },
    /// fchmod(2).
    Fchmod { slot: usize, mode: u32 },
    /// fchown(2).
    Fchown { slot: usize, uid: u32, gid: u32 },
    /// lseek(2), also to holes and data.
    Lseek { slot: usize, off: i64, whence: i32 },
    /// copy_file_range(2).
    CopyRange { from: usize, to: usize, len: usize },
    /// fcntl(2) F_SETLK, F_GETLK and their OFD kinds.
    Lock { slot: usize, command: i32, kind: i32, start: i64, len: i64 },
    /// flock(2), not waiting.
    Flock { slot: usize, operation: i32 },
    /// FS_IOC_GETFLAGS.
    GetFlags { slot: usize },
    /// FS_IOC_SETFLAGS: the present flags with these changed.
    SetFlags { slot: usize, set: u32, clear: u32 },
    /// FS_IOC_FSGETXATTR.
    GetFsxattr { slot: usize },
    /// fsync(2).
    Fsync { slot: usize },
    /// truncate(2).
    Truncate { path: String, len: i64 },
    /// mkdir(2).
    Mkdir { path: String, mode: u32 },
    /// mknod(2) of any kind; a character device 0 is a whiteout.
    Mknod { path: String, mode: u32, rdev: u64 },
    /// symlink(2).
    Symlink { target: String, path: String },
    /// link(2).
    Link { from: String, to: String },
    /// unlink(2).
    Unlink { path: String },
    /// rmdir(2).
    Rmdir { path: String },
    /// renameat2(2).
    Rename { from: String, to: String, flags: u32 },
    /// chmod(2).
    Chmod { path: String, mode: u32 },
    /// chown(2), lchown(2).
    Chown { path: String, uid: u32, gid: u32, follow: bool },
    /// utimensat(2).
    Utimens { path: String, atime: (i64, i64), mtime: (i64, i64), follow: bool },
    /// faccessat2(2).
    Access { path: String, mode: i32, flags: i32 },
    /// statx(2).
    Stat { path: String },
    /// readlink(2).
    Readlink { path: String },
    /// The entries of a directory.
    Readdir { path: String },
    /// lsetxattr(2).
    SetXattr { path: String, name: String, value: Bytes, flags: i32 },
    /// lgetxattr(2).
    GetXattr { path: String, name: String },
    /// llistxattr(2).
    ListXattr { path: String },
    /// lremovexattr(2).
    RemoveXattr { path: String, name: String },
    /// umask(2).
    Umask { mask: u32 },
}

impl Op {
    /// Whether it changes the contents of a file.
    pub fn writes(&self) -> bool {
        match self {
            Self::Open { flags, .. } => flags & libc::O_TRUNC != 0,
            Self::Write { .. }
            | Self::Pwrite { .. }
            | Self::Ftruncate { .. }
            | Self::Truncate { .. }
            | Self::Fallocate { .. }
            | Self::CopyRange { .. } => true,
            _ => false,
        }
    }

    /// The paths that the operation names.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Open { path, .. }
            | Self::Truncate { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Mknod { path, .. }
            | Self::Symlink { path, .. }
            | Self::Unlink { path }
            | Self::Rmdir { path }
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::Utimens { path, .. }
            | Self::Access { path, .. }
            | Self::Stat { path }
            | Self::Readlink { path }
            | Self::Readdir { path }
            | Self::SetXattr { path, .. }
            | Self::GetXattr { path, .. }
            | Self::ListXattr { path }
            | Self::RemoveXattr { path, .. } => vec![path],
            Self::Link { from, to } | Self::Rename { from, to, .. } => vec![from, to],
            _ => vec![],
        }
    }

    /// The directories in which the operation makes or takes names.
    pub fn parents(&self) -> Vec<String> {
        let parent = |path: &str| path.rsplit_once('/').map_or(".", |(up, _)| up).to_owned();
        match self {
            Self::Open { path, flags, .. } if flags & libc::O_TMPFILE == libc::O_TMPFILE => {
                vec![path.clone()]
            }
            _ => self.paths().into_iter().map(parent).collect(),
        }
    }

    /// The slots that the operation uses.
    pub fn slots(&self) -> Vec<usize> {
        match *self {
            Self::Open { slot, .. }
            | Self::Read { slot, .. }
            | Self::Pread { slot, .. }
            | Self::Write { slot, .. }
            | Self::Pwrite { slot, .. }
            | Self::Ftruncate { slot, .. }
            | Self::Fallocate { slot, .. }
            | Self::Fchmod { slot, .. }
            | Self::Fchown { slot, .. }
            | Self::Lseek { slot, .. }
            | Self::Lock { slot, .. }
            | Self::Flock { slot, .. }
            | Self::GetFlags { slot }
            | Self::SetFlags { slot, .. }
            | Self::GetFsxattr { slot }
            | Self::Fsync { slot } => vec![slot],
            Self::CopyRange { from, to, .. } => vec![from, to],
            _ => vec![],
        }
    }

    /// Whether the operation may make a new name.
    pub fn creates(&self) -> bool {
        match self {
            Self::Open { flags, .. } => {
                flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
            }
            Self::Mkdir { .. }
            | Self::Mknod { .. }
            | Self::Symlink { .. }
            | Self::Link { .. }
            | Self::Rename { .. } => true,
            _ => false,
        }
    }

    /// The word for statistics: the variant's name.
    pub fn word(&self) -> String {
        let shown = format!("{self:?}");
        shown.split([' ', '{']).next().unwrap_or_default().to_owned()
    }
}

/// What an operation gave: the error number or 0, and what was seen, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The error number, 0 for success.
    pub errno: i32,
    /// What the call returned, in a form that is equal on both sides.
    pub value: String,
    /// fstat(2) of the slots used, afterwards.
    pub after: String,
}
