//! Changes of attributes.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::{Gid, Uid, fchownat, ftruncate};

use super::node::Held;
use super::{Host, kept, set_id};
use crate::attr::{Attr, FileKind};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::{Change, File, Rights, SetTime};
use crate::sys::file::set_times;
use crate::sys::stat::stat;

use super::file::HostFile;

impl Host {
    /// Makes changes: owner, mode, size, times. What is most likely refused
    /// comes first.
    pub(super) fn change(
        &self,
        node: &Held,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        if change.is_chown() {
            self.chown(node.fd(), change, rights)?;
        }
        if let Some(mode) = change.mode {
            // An ACL that files share takes room when one
            // of them changes it.
            let chmod = || self.context.procfs.chmod(node.fd(), mode.bits());
            self.context.for_caller(self.volume(node).as_deref(), (rights, kept(mode)), chmod)?;
        }
        if let Some(size) = change.size {
            self.truncate(node, file, size, rights)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            self.context.as_onlooker(self.volume(node).as_deref())?;
            set_times(node.fd(), &[timespec(change.atime), timespec(change.mtime)])?;
        }
        self.context.attr(&stat(node.fd(), OsStr::new(""))?)
    }

    fn chown(&self, fd: BorrowedFd<'_>, change: &Change, rights: Rights) -> Result<()> {
        self.context.as_server(set_id(rights))?;
        let uid = change.uid.map(|uid| Uid::from_raw(uid.raw()));
        let gid = change.gid.map(|gid| Gid::from_raw(gid.raw()));
        match fchownat(fd, "", uid, gid, AtFlags::AT_EMPTY_PATH) {
            Ok(()) => Ok(()),
            // EINVAL: the user namespace of the server does not map the id.
            Err(Errno::EPERM | Errno::EINVAL) => Err(Error::NotOurs),
            Err(errno) => Err(errno.into()),
        }
    }

    fn truncate(
        &self,
        node: &Held,
        file: Option<&dyn File>,
        size: u64,
        rights: Rights,
    ) -> Result<()> {
        match node.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => return Err(Error::Invalid),
        }
        let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
        let open = file.and_then(|file| file.as_any().downcast_ref::<HostFile>());
        if let Some(open) = open.filter(|file| file.is_writable()) {
            self.context.as_writer(rights)?;
            return Ok(ftruncate(open.fd(), size)?);
        }
        // Not truncate(2), which would wait for a lease to be given back.
        self.context.as_onlooker(self.volume(node).as_deref())?;
        let fd = self.context.procfs.reopen(node.fd(), OFlag::O_WRONLY)?;
        self.context.as_writer(rights)?;
        Ok(ftruncate(&fd, size)?)
    }
}

/// Returns a time as utimensat(2) takes it.
fn timespec(time: Option<SetTime>) -> libc::timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, libc::UTIME_OMIT),
        Some(SetTime::Now) => (0, libc::UTIME_NOW),
        Some(SetTime::At(time)) => (time.sec, i64::from(time.nsec)),
    };
    libc::timespec { tv_sec, tv_nsec }
}
