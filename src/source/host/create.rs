//! Names that appear, move and go: create, link, rename, unlink.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags as HostRename, renameat2};
use nix::sys::stat::{SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::file::{HostFile, Opening};
use super::node::Held;
use super::{Host, kept, nix_mode, open_beneath};
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::id::{Disk, Ids};
use crate::source::{Created, Found, New, NewKind, RenameFlags, Rights};
use crate::sys::cred::{SetId, Who};
use crate::sys::stat::stat;

impl Host {
    /// Makes a new entry as the owner that it is to have, so that the kernel
    /// gives it owner, group, mode and ACL as it comes to be.
    ///
    /// Where it cannot be looked at afterwards, it stays: nothing could tell
    /// it from another file of that name.
    pub(super) fn make_as_owner(&self, dir: &Held, name: &OsStr, new: &New<'_>) -> Result<Created> {
        self.become_owner(dir, new.owner, new.mode)?;
        self.context.credentials.umask(new.umask)?;
        if let NewKind::Regular(Some(flags)) = new.what {
            return self.make_open(dir, name, new.mode, flags);
        }
        self.make_closed(dir.fd(), dir, name, new)
    }

    /// Makes an entry without opening it; `through` is the directory on the
    /// mount to make it through.
    pub(super) fn make_closed(
        &self,
        through: BorrowedFd<'_>,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
    ) -> Result<Created> {
        let kind = add(through, name, new)?;
        let found = self.look(dir, name)?;
        if found.attr.kind != kind {
            return Err(Error::Stale);
        }
        Ok(Created { found, file: None })
    }

    /// Makes a regular file and opens it in the same call: without a free
    /// descriptor nothing is made.
    fn make_open(&self, dir: &Held, name: &OsStr, mode: Mode, flags: i32) -> Result<Created> {
        let opening = Opening::new(flags);
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let flags = opening.flags() | create;
        let fd = open_beneath(dir.fd(), name, flags, mode, self.submounts)?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, fd.as_fd(), &stat)?;
        let found = self.found(&volume, fd.as_fd(), &stat)?;
        let file = HostFile::new(Arc::clone(&self.context), fd, opening, volume.traits);
        Ok(Created { found, file: Some(Arc::new(file)) })
    }

    /// Acts as the owner of what is to be made in a directory.
    pub(super) fn become_owner(&self, dir: &Held, owner: Ids<Disk>, mode: Mode) -> Result<()> {
        let (uid, gid) = (owner.uid.raw(), owner.gid.raw());
        let credentials = &self.context.credentials;
        credentials.assume(Who::Owner(uid, gid), kept(mode))?;
        let ours = credentials.any_owner()
            || (credentials.is_own_uid(uid)
                && (credentials.is_own_gid(gid) || gives_group(dir.fd())?));
        if ours { Ok(()) } else { Err(Error::NotOurs) }
    }

    /// Takes a name away.
    pub(super) fn drop_name(&self, dir: &Held, name: &OsStr, kind: UnlinkatFlags) -> Result<()> {
        self.shown(dir, name, Errno::ENOENT)?;
        self.context.as_onlooker(self.volume(dir).as_deref())?;
        Ok(unlinkat(dir.fd(), name, kind)?)
    }

    /// Gives a file another name.
    pub(super) fn add_name(
        &self,
        node: &Held,
        dir: &Held,
        name: &OsStr,
        rights: Rights,
    ) -> Result<Found> {
        let link = || self.context.procfs.link(node.fd(), dir.fd(), name);
        let volume = self.volume(dir);
        self.context.for_caller(volume.as_deref(), (rights, SetId::Unaffected), link)?;
        let stat = stat(node.fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, node.fd(), &stat)?;
        self.found(&volume, node.fd(), &stat)
    }

    /// Renames.
    pub(super) fn move_name(
        &self,
        from: (&Held, &OsStr),
        to: (&Held, &OsStr),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let mut host = HostRename::empty();
        host.set(HostRename::RENAME_NOREPLACE, flags.no_replace);
        host.set(HostRename::RENAME_EXCHANGE, flags.exchange);
        host.set(HostRename::RENAME_WHITEOUT, flags.whiteout);
        let rename = || renameat2(from.0.fd(), from.1, to.0.fd(), to.1, host);
        match owner {
            Some(owner) if flags.whiteout => {
                self.become_owner(from.0, owner, Mode::new(0))?;
                Ok(rename()?)
            }
            _ => {
                let (volume, by) = (self.volume(to.0), (rights, SetId::Unaffected));
                self.context.for_caller(volume.as_deref(), by, rename)
            }
        }
    }
}

/// Reports whether what is made in a directory gets the directory's group.
fn gives_group(dir: BorrowedFd<'_>) -> Result<bool> {
    Ok(Mode::new(stat(dir, OsStr::new(""))?.mode).has(Mode::SETGID))
}

/// Makes an entry without opening it; returns its kind.
pub(super) fn add(dir: BorrowedFd<'_>, name: &OsStr, new: &New<'_>) -> Result<FileKind> {
    let node = |kind, rdev| -> Result<FileKind> {
        mknodat(dir, name, file_type(kind)?, nix_mode(new.mode), rdev)?;
        Ok(kind)
    };
    match new.what {
        NewKind::Regular(_) => node(FileKind::Regular, 0),
        NewKind::Special(kind, rdev) => node(kind, rdev),
        NewKind::Directory => {
            mkdirat(dir, name, nix_mode(new.mode))?;
            Ok(FileKind::Directory)
        }
        NewKind::Symlink(target) => {
            symlinkat(target, dir, name)?;
            Ok(FileKind::Symlink)
        }
    }
}

/// Returns the kind of a node as mknod(2) takes it.
fn file_type(kind: FileKind) -> Result<SFlag> {
    match kind {
        FileKind::Directory | FileKind::Symlink => Err(Error::Invalid),
        FileKind::Regular
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => SFlag::from_bits(kind.bits()).ok_or(Error::Invalid),
    }
}
