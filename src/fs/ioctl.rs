//! Inode flags: the only ioctls that the source is asked for.

use std::sync::Arc;

use super::dirs::OpenDir;
use super::open::Open;
use super::rules::Seen;
use super::{Capability, Fs};
use crate::error::{Errno, Error, Result};
use crate::id::Caller;
use crate::source::{File, InodeFlags, InodeFlagsKind};

/// `FS_IOC_GETFLAGS`: `_IOR('f', 1, long)`, though what is read is an int.
const GET_FLAGS: u32 = 0x8008_6601;
/// `FS_IOC_SETFLAGS`: `_IOW('f', 2, long)`, an int likewise.
const SET_FLAGS: u32 = 0x4008_6602;
/// `FS_IOC_FSGETXATTR`: `_IOR('X', 31, struct fsxattr)`.
const GET_EXTENDED: u32 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`: `_IOW('X', 32, struct fsxattr)`.
const SET_EXTENDED: u32 = 0x401c_5820;

/// `FS_IMMUTABLE_FL` and `FS_APPEND_FL`.
const LOCKED_FLAGS: u32 = 0x30;
/// `FS_XFLAG_IMMUTABLE` and `FS_XFLAG_APPEND`.
const LOCKED_EXTENDED: u32 = 0x18;

/// `FS_APPEND_FL`.
const APPEND_ONLY: u32 = 0x20;

enum Target {
    File(Arc<Open>),
    Dir(Arc<OpenDir>),
}

impl Target {
    fn get(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        match self {
            Self::File(open) => open.file.inode_flags(kind),
            Self::Dir(open) => open.dir.inode_flags(kind),
        }
    }

    fn set(&self, flags: &InodeFlags) -> Result<()> {
        match self {
            Self::File(open) => open.file.set_inode_flags(flags),
            Self::Dir(open) => open.dir.set_inode_flags(flags),
        }
    }
}

impl Fs {
    /// Answers an ioctl of an open file or directory: reads or sets the inode
    /// flags; the result is what it writes back.
    ///
    /// The 32-bit numbers of the same commands are not known: the kernel turns
    /// them into these for a 32-bit caller, and passes them on unchecked for
    /// any other.
    ///
    /// # Errors
    /// `ENOTTY` for any other command, or where the source has no flags;
    /// `Invalid` (`EINVAL`) for a value of a wrong size; `Denied` (`EPERM`).
    pub fn ioctl(
        &self,
        caller: &Caller,
        handle: u64,
        directory: bool,
        command: u32,
        input: &[u8],
    ) -> Result<Vec<u8>> {
        let (kind, sets) = match command {
            GET_FLAGS => (InodeFlagsKind::Flags, false),
            SET_FLAGS => (InodeFlagsKind::Flags, true),
            GET_EXTENDED => (InodeFlagsKind::Extended, false),
            SET_EXTENDED => (InodeFlagsKind::Extended, true),
            _ => return Err(Error::Os(Errno(libc::ENOTTY))),
        };
        let target = if directory {
            Target::Dir(self.dirs.get(handle)?)
        } else {
            Target::File(self.opens.get(handle)?)
        };
        if !sets {
            return target.get(kind).map(|flags| encode(&flags));
        }
        let flags = decode(kind, input).ok_or(Error::Invalid)?;
        let attr = match &target {
            Target::File(open) => open.file.getattr()?,
            Target::Dir(open) => self.source.getattr(&open.node)?,
        };
        let number = match &target {
            Target::File(open) => open.number,
            Target::Dir(open) => open.number,
        };
        let seen = self.seen(number, attr);
        self.lets_change(&seen)?;
        self.may_set_flags(caller, &seen, &target.get(kind)?, &flags)?;
        target.set(&flags)?;
        self.close_kept(number);
        Ok(Vec::new())
    }

    /// Checks what `vfs_fileattr_set` of fs/file_attr.c checks: the owner or
    /// `CAP_FOWNER`, and for what locks a file `CAP_LINUX_IMMUTABLE`.
    ///
    /// The kernel has done so since 5.13, with the capabilities themselves;
    /// this keeps an older one from lending anybody the server's own.
    fn may_set_flags(
        &self,
        caller: &Caller,
        seen: &Seen,
        now: &InodeFlags,
        new: &InodeFlags,
    ) -> Result<()> {
        let locks = locked(now) != locked(new);
        // A kernel that does not tell callers has seen to the owner (6.12).
        if (self.has_unknown_callers() || self.acts_as_owner(caller, seen))
            && (!locks || self.processes.capable(caller, Capability::LinuxImmutable))
        {
            Ok(())
        } else {
            Err(Error::Denied)
        }
    }
}

/// Reports whether a file may only be appended to.
pub(super) fn only_appends(file: &dyn File) -> bool {
    let flags = file.inode_flags(InodeFlagsKind::Flags);
    matches!(flags, Ok(InodeFlags::Flags(flags)) if flags & APPEND_ONLY != 0)
}

/// Returns the flags that keep a file from being changed.
fn locked(flags: &InodeFlags) -> u32 {
    match flags {
        InodeFlags::Flags(flags) => flags & LOCKED_FLAGS,
        InodeFlags::Extended([a, b, c, d, ..]) => {
            u32::from_ne_bytes([*a, *b, *c, *d]) & LOCKED_EXTENDED
        }
    }
}

fn encode(flags: &InodeFlags) -> Vec<u8> {
    match flags {
        InodeFlags::Flags(flags) => flags.to_ne_bytes().to_vec(),
        InodeFlags::Extended(bytes) => bytes.to_vec(),
    }
}

fn decode(kind: InodeFlagsKind, input: &[u8]) -> Option<InodeFlags> {
    match kind {
        InodeFlagsKind::Flags => {
            let flags = input.first_chunk()?;
            Some(InodeFlags::Flags(u32::from_ne_bytes(*flags)))
        }
        InodeFlagsKind::Extended => Some(InodeFlags::Extended(*input.first_chunk()?)),
    }
}
