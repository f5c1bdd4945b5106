//! Open regular files.

use std::any::Any;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, copy_file_range, fallocate};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, close, dup, fdatasync, fsync, lseek};

use super::locks::HostLocks;
use super::special::capability;
use super::volume::{Traits, Volume};
use super::{Context, lend};
use crate::acl::Capability;
use crate::attr::Attr;
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::{File, InodeFlags, InodeFlagsKind, Lending, Lent, Locks, Place, Rights};
use crate::sys::cred::SetId;
use crate::sys::file::append;
use crate::sys::inode_flags;
use crate::sys::stat::stat;
use crate::sys::xattr::Way;

/// How a file is opened: what of a caller's flags the host is to know.
///
/// Creating and truncating are requests of their own. `O_DIRECT` and `O_APPEND` are
/// left out: callers change them, and each request says what they are, see
/// [`super::direct`] and [`HostFile`]. At first it is tried whether the host has the former.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    flags: OFlag,
    direct: bool,
}

impl Opening {
    /// Takes the flags of open(2).
    pub fn new(flags: i32) -> Self {
        let known = OFlag::O_ACCMODE | OFlag::O_NOATIME | OFlag::O_SYNC | OFlag::O_DSYNC;
        Self {
            flags: OFlag::from_bits_truncate(flags) & known,
            direct: flags & libc::O_DIRECT != 0,
        }
    }

    /// Returns the flags for the host.
    pub const fn flags(self) -> OFlag {
        self.flags
    }

    /// Reports whether the file can be written.
    fn writes(self) -> bool {
        matches!(self.flags & OFlag::O_ACCMODE, OFlag::O_WRONLY | OFlag::O_RDWR)
    }
}

/// An open regular file of the host.
///
/// A file opened with `O_APPEND` is opened without it, since each write says where
/// it goes ([`Place`]): what is appended goes to the end that the host sees. One
/// that is append-only on the host cannot be opened so; its mappings cannot be
/// written, and all that it takes is appended.
#[derive(Debug)]
pub(super) struct HostFile {
    context: Arc<Context>,
    fd: OwnedFd,
    opening: Opening,
    /// Whether the host lets data go to the end only.
    append_only: bool,
    /// What its volume makes of who asks for something.
    traits: Traits,
    /// What was made of it when it was lent.
    lent: OnceLock<Lent>,
    /// What its node counts it by, see [`super::readers`].
    _of: Option<Arc<()>>,
}

impl HostFile {
    /// Opens the regular file behind a descriptor, on a volume.
    pub fn open(
        context: Arc<Context>,
        node: BorrowedFd<'_>,
        flags: i32,
        volume: Option<&Volume>,
    ) -> Result<Self> {
        let opening = Opening::new(flags);
        let traits = volume.map(|volume| volume.traits).unwrap_or_default();
        context.as_onlooker(volume)?;
        match reopen(&context, node, opening.flags()) {
            // A file that may only be appended to.
            Err(Errno::EPERM) if flags & libc::O_APPEND != 0 => {
                let fd = context.procfs.reopen(node, opening.flags() | OFlag::O_APPEND)?;
                Ok(Self { append_only: true, ..Self::new(context, fd, opening, traits) })
            }
            opened => opened.map(|fd| Self::new(context, fd, opening, traits)).map_err(Into::into),
        }
    }

    /// Wraps an open file. It stays `O_NONBLOCK`, which means nothing for a
    /// regular file but in procfs and the like, where reading may wait.
    pub fn new(context: Arc<Context>, fd: OwnedFd, opening: Opening, traits: Traits) -> Self {
        Self { context, fd, opening, append_only: false, traits, lent: OnceLock::new(), _of: None }
    }

    /// Counts it by its node.
    pub fn of(self, node: Arc<()>) -> Self {
        Self { _of: Some(node), ..self }
    }

    /// Returns the descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Acts as the server itself.
    pub fn as_server(&self, set_id: SetId) -> Result<()> {
        self.context.as_server(set_id)
    }

    /// Opens the file once more, as it was, with further flags.
    ///
    /// # Errors
    /// As open(2).
    pub fn reopen(&self, further: OFlag) -> nix::Result<OwnedFd> {
        let append = if self.append_only { OFlag::O_APPEND } else { OFlag::empty() };
        reopen(&self.context, self.fd(), self.opening.flags() | append | further)
    }

    /// Writes by a descriptor of the file.
    pub fn write_by(
        &self,
        fd: BorrowedFd<'_>,
        place: Place,
        data: &[u8],
        rights: Rights,
    ) -> Result<usize> {
        let at = match place {
            // Wherever it is to be, the host would put it at the end.
            Place::At(_) if self.append_only => return Err(Error::Denied),
            Place::At(offset) => Some(position(offset)?),
            Place::End => None,
        };
        self.context.as_writer(rights)?;
        let write = || at.map_or_else(|| append(fd, data), |at| pwrite(fd, data, at));
        Ok(uninterrupted(write)?)
    }

    /// Reports whether the file can be written.
    pub fn is_writable(&self) -> bool {
        self.opening.writes()
    }
}

impl File for HostFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let fd = self.fd();
        let mut done = 0_usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match pread(fd, rest, position(at)?) {
                Ok(0) => break,
                Ok(more) => done = done.saturating_add(more),
                Err(Errno::EINTR) => {}
                // The error comes again when the next read starts there.
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }

    fn write(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.write_by(self.fd(), place, data, rights)
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_past_cache(offset, buf)
    }

    fn write_direct(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.write_past_cache(place, data, rights)
    }

    fn flush(&self) -> Result<()> {
        if self.traits.lends {
            // A file system of this host alone does nothing when a copy is closed.
            return Ok(());
        }
        let fd = self.fd();
        // Closing a copy tells the file system what closing ours would.
        match dup(fd) {
            Ok(copy) => Ok(close(copy)?),
            // No descriptor for that: the data is what a close could lose.
            Err(Errno::EMFILE | Errno::ENFILE) if self.is_writable() => self.sync(true),
            Err(Errno::EMFILE | Errno::ENFILE) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        let fd = self.fd();
        let sync = if data_only { fdatasync(fd) } else { fsync(fd) };
        Ok(sync?)
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64, rights: Rights) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Error::Unsupported)?;
        let (offset, length) = (position(offset)?, position(length)?);
        let fd = self.fd();
        self.context.as_writer(rights)?;
        Ok(uninterrupted(|| fallocate(fd, mode, offset, length))?)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(Error::Invalid),
        };
        u64::try_from(lseek(self.fd(), offset, whence)?).map_err(|_| Error::Internal)
    }

    fn copy_to(
        &self,
        offset: u64,
        to: &dyn File,
        to_offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<usize> {
        let to = to.as_any().downcast_ref::<Self>().ok_or(Errno::EXDEV)?;
        let (mut offset, mut to_offset) = (position(offset)?, position(to_offset)?);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (fd, to) = (self.fd(), to.fd());
        self.context.as_writer(rights)?;
        let copied = copy_file_range(fd, Some(&mut offset), to, Some(&mut to_offset), length);
        Ok(copied?)
    }

    fn getattr(&self) -> Result<Attr<Disk>> {
        self.context.attr(&stat(self.fd(), OsStr::new(""))?)
    }

    /// On a file system of this host alone it does not matter who asks.
    fn capability(&self) -> Result<Option<Capability<Disk>>> {
        if self.traits.lends { capability(Way::Open(self.fd())) } else { Err(Error::Unsupported) }
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        read_flags(self.fd(), kind)
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        let fd = self.fd();
        self.context.as_server(SetId::Unaffected)?;
        write_flags(fd, flags)
    }

    fn locks(&self) -> Result<Box<dyn Locks>> {
        let (context, file) = (Arc::clone(&self.context), self.fd());
        Ok(Box::new(HostLocks::open(context, file, self.is_writable())?))
    }

    fn lending(&self) -> Result<Lending> {
        if !self.traits.lends || !self.context.credentials.any_owner() {
            return Ok(Lending::Nothing);
        }
        if self.opening.direct {
            // As open(2) of the host: it may have no such thing.
            self.as_server(SetId::Unaffected)?;
            drop(self.reopen(OFlag::O_DIRECT)?);
        }
        if !self.is_writable() {
            // For the sake of who opens it meanwhile to append: see below.
            let locked = self.lent.get().is_none() && stat(self.fd(), OsStr::new(""))?.locked;
            return Ok(if locked { Lending::Joining } else { Lending::Everything });
        }
        if self.append_only {
            // A mapping could write anywhere; it takes a descriptor that reads.
            let reads = self.opening.flags.contains(OFlag::O_RDWR);
            return Ok(if reads { Lending::Nothing } else { Lending::Mappings });
        }
        lend::of_written(self.fd())
    }

    fn lend(&self, to: &mut dyn FnMut(BorrowedFd<'_>) -> Result<Lent>) -> Result<Lent> {
        if let Some(lent) = self.lent.get() {
            return Ok(Arc::clone(lent));
        }
        let file = self.fd();
        // For reading too: what is lent first serves those who write it later.
        self.context.as_ordinary(Some(self.traits), SetId::Clear)?;
        let lent = to(file)?;
        Ok(Arc::clone(self.lent.get_or_init(|| lent)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reports whether flags as in open(2) ask for nothing but to read.
pub(super) const fn is_for_reading(flags: i32) -> bool {
    flags & (libc::O_ACCMODE | libc::O_APPEND | libc::O_NOATIME | libc::O_SYNC | libc::O_DIRECT)
        == libc::O_RDONLY
}

/// Opens the file behind a descriptor once more.
fn reopen(context: &Context, node: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
    match context.procfs.reopen(node, flags) {
        // Only the owner may leave the time of access alone; the file can
        // be opened nevertheless.
        Err(Errno::EPERM) if flags.contains(OFlag::O_NOATIME) => {
            context.procfs.reopen(node, flags.difference(OFlag::O_NOATIME))
        }
        opened => opened,
    }
}

/// Reads the inode flags of an open file or directory.
pub(super) fn read_flags(fd: BorrowedFd<'_>, kind: InodeFlagsKind) -> Result<InodeFlags> {
    Ok(match kind {
        InodeFlagsKind::Flags => InodeFlags::Flags(inode_flags::flags(fd)?),
        InodeFlagsKind::Extended => InodeFlags::Extended(inode_flags::extended(fd)?),
    })
}

/// Sets the inode flags of an open file or directory.
pub(super) fn write_flags(fd: BorrowedFd<'_>, flags: &InodeFlags) -> Result<()> {
    match flags {
        InodeFlags::Flags(flags) => inode_flags::set_flags(fd, *flags)?,
        InodeFlags::Extended(attributes) => inode_flags::set_extended(fd, attributes)?,
    }
    Ok(())
}

/// Returns an offset or a length as the kernel takes it.
pub(super) fn position(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::Invalid)
}

/// Calls until no signal has come in between.
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}
