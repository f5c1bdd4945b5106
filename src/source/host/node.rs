//! Files held open as `O_PATH` descriptors, and how they are found.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::hidden::Hidden;
use super::volume::{Place, Volume};
use super::{Host, Submounts, open_beneath};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::source::{FileHandle, Found, Key, Node};
use crate::sys::cred::SetId;
use crate::sys::stat::{Stat, mount_at, stat};

/// What a [`Node`] of a host is.
#[derive(Debug)]
pub(super) enum HostNode {
    /// A file of the host.
    Held(Held),
    /// What is shown in place of a hidden mount.
    Hidden(Hidden),
}

/// A file of the host, held open without any access to its contents.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
    /// Its identity.
    pub key: Key,
    /// What it is: a file never changes its kind.
    pub kind: FileKind,
}

impl Held {
    /// Returns the `O_PATH` descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns what a node is.
pub(super) fn inner(node: &Node) -> Result<&HostNode> {
    node.get().ok_or(Error::Internal)
}

/// Returns the file that a node holds; for what stands in place of a hidden
/// mount, an error.
pub(super) fn held(node: &Node, hidden: Errno) -> Result<&Held> {
    match inner(node)? {
        HostNode::Held(held) => Ok(held),
        HostNode::Hidden(_) => Err(hidden.into()),
    }
}

/// A name that leads to a file, and whether a mount there is to be hidden.
enum Led {
    To(Stat),
    Hidden(Hidden),
}

impl Host {
    /// Returns the root.
    pub(super) fn find_root(&self) -> Result<(Node, Found)> {
        let stat = stat(self.root.as_fd(), OsStr::new(""))?;
        let volume = Arc::clone(self.volumes.root());
        let (key, handle) = volume.identify(self.root.as_fd(), OsStr::new(""), &stat)?;
        let held = Held { fd: self.root.try_clone()?, key: key.clone(), kind: FileKind::Directory };
        let found = Found { key, handle, attr: self.context.attr(&stat)? };
        Ok((Node::new(HostNode::Held(held)), found))
    }

    /// Looks a name up.
    pub(super) fn find(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        let dir = held(dir, Errno::ENOENT)?;
        let name = name.as_os_str();
        self.context.as_server(SetId::Unaffected)?;
        match self.lead(dir, name)? {
            Led::To(stat) => {
                let volume = self.volume(dir, name, &stat)?;
                self.found(&volume, dir.fd(), name, &stat)
            }
            Led::Hidden(hidden) => Ok(hidden.found()),
        }
    }

    /// Sees where a name leads, without touching a mount that is hidden.
    fn lead(&self, dir: &Held, name: &OsStr) -> Result<Led> {
        if self.submounts == Submounts::Hide {
            // Asked first, since whoever serves a mount may not answer: it may
            // even be this server.
            let (mount, kind) = mount_at(dir.fd(), name)?;
            if mount != self.mount {
                return hide(dir, name, kind);
            }
        }
        let stat = stat(dir.fd(), name)?;
        if self.submounts == Submounts::Hide && stat.mount != self.mount {
            return hide(dir, name, stat.mode);
        }
        Ok(Led::To(stat))
    }

    /// Describes a file whose volume is known: a name in a directory, or with
    /// an empty name the descriptor itself.
    pub(super) fn found(
        &self,
        volume: &Volume,
        at: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
    ) -> Result<Found> {
        let (key, handle) = volume.identify(at, name, stat)?;
        Ok(Found { key, handle, attr: self.context.attr(stat)? })
    }

    /// Returns the volume of a file that a name in a directory led to.
    pub(super) fn volume(&self, dir: &Held, name: &OsStr, seen: &Stat) -> Result<Arc<Volume>> {
        if let Some(volume) = self.volumes.get(seen) {
            return Ok(volume);
        }
        let fd = open_beneath(dir.fd(), name, OFlag::O_PATH, Mode::new(0), self.submounts)?;
        let now = stat(fd.as_fd(), OsStr::new(""))?;
        if (now.mount, now.dev) != (seen.mount, seen.dev) {
            return Err(Error::Stale);
        }
        self.volume_of(dir, name, fd.as_fd(), &now)
    }

    /// Returns the volume of an open file that a name in a directory led to.
    pub(super) fn volume_of(
        &self,
        dir: &Held,
        name: &OsStr,
        fd: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<Arc<Volume>> {
        if let Some(volume) = self.volumes.get(stat) {
            return Ok(volume);
        }
        let place = Place { dir: &dir.key, name };
        Ok(self.volumes.add(&self.context.procfs, fd, stat, place)?)
    }

    /// Opens a name as a node, if the expected file is there.
    pub(super) fn hold(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node> {
        let dir = held(dir, Errno::ESTALE)?;
        let name = name.as_os_str();
        self.context.as_server(SetId::Unaffected)?;
        let opened = open_beneath(dir.fd(), name, OFlag::O_PATH, Mode::new(0), self.submounts);
        let fd = match opened {
            Ok(fd) => fd,
            Err(error) if error.is(libc::EXDEV) => return self.hold_hidden(dir, name, key),
            Err(error) if error.is(libc::ENOENT) => return Err(Error::Stale),
            Err(error) => return Err(error),
        };
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, fd.as_fd(), &stat)?;
        verified(fd, volume, &stat, key)
    }

    fn hold_hidden(&self, dir: &Held, name: &OsStr, key: &Key) -> Result<Node> {
        match self.lead(dir, name)? {
            Led::Hidden(hidden) if hidden.key == *key => Ok(Node::new(HostNode::Hidden(hidden))),
            Led::Hidden(_) | Led::To(_) => Err(Error::Stale),
        }
    }

    /// Opens a file by its handle, if it is still the expected one.
    pub(super) fn hold_by_handle(&self, key: &Key, handle: &FileHandle) -> Result<Node> {
        let volume = self.volumes.tagged(key.volume).ok_or(Error::Unsupported)?;
        self.context.as_server(SetId::Unaffected)?;
        let fd = volume.open(handle)?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        verified(fd, volume, &stat, key)
    }
}

/// Makes a node of a descriptor that is the expected file.
fn verified(fd: OwnedFd, volume: Arc<Volume>, stat: &Stat, key: &Key) -> Result<Node> {
    let (found, _) = volume.identify(fd.as_fd(), OsStr::new(""), stat)?;
    if found != *key {
        return Err(Error::Stale);
    }
    let kind = FileKind::from_mode(stat.mode).ok_or(Error::Internal)?;
    Ok(Node::new(HostNode::Held(Held { fd, key: found, kind })))
}

/// Says what stands in place of a mount.
fn hide(dir: &Held, name: &OsStr, mode: u32) -> Result<Led> {
    match FileKind::from_mode(mode) {
        // The kind is not known where the mount does not answer; what is
        // mounted is nearly always a directory.
        Some(FileKind::Directory) | None => {
            Ok(Led::Hidden(Hidden::new(Place { dir: &dir.key, name })))
        }
        Some(_) => Err(Error::Denied),
    }
}
