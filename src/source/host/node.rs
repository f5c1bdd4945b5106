//! Files held open as `O_PATH` descriptors, and how they are found.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::hidden::Hidden;
use super::readers::Reader;
use super::volume::{Place, Volume};
use super::{Host, Submounts, open_beneath};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::source::{FileHandle, Found, Key, Node};
use crate::sys::cred::SetId;
use crate::sys::handle::Handle;
use crate::sys::stat::{Stat, mount_at, stat};
use crate::sys::xattr::Way;

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
    /// Whether the descriptor is `O_PATH`.
    is_path: bool,
    /// The file as it was opened to be read, to be read again.
    reader: Mutex<Option<Reader>>,
    /// As many copies of this as there are files opened by this node, and one.
    opens: Arc<()>,
}

impl Held {
    /// Holds a file by a descriptor.
    pub fn new(fd: OwnedFd, key: Key, kind: FileKind) -> Self {
        Self { fd, key, kind, is_path: true, reader: Mutex::default(), opens: Arc::default() }
    }

    /// Holds a file by a descriptor that is not `O_PATH`.
    pub fn open(fd: OwnedFd, key: Key, kind: FileKind) -> Self {
        Self { fd, key, kind, is_path: false, reader: Mutex::default(), opens: Arc::default() }
    }

    /// Returns how its attributes are reached.
    pub fn way(&self) -> Way<'_> {
        match (self.is_path, self.kind.is_dir()) {
            (false, _) => Way::Open(self.fd()),
            (true, true) => Way::Dir(self.fd()),
            (true, false) => Way::Link(self.fd()),
        }
    }

    /// Returns where the file is kept open to be read.
    pub const fn reader(&self) -> &Mutex<Option<Reader>> {
        &self.reader
    }

    /// Returns what files have a copy of that are opened by this node.
    pub const fn opens(&self) -> &Arc<()> {
        &self.opens
    }

    /// Returns the descriptor, mostly an `O_PATH` one.
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

/// How often a name is looked at again that another file has come to in the
/// middle, before a descriptor is spent on it.
const GLANCES: usize = 4;

/// What came of a glance at a name.
enum Glance {
    /// The file.
    Seen(Found),
    /// Two files: one has come in place of the other.
    Changing,
    /// Nothing that can be told like this.
    Elsewhere,
}

impl Host {
    /// Returns the root.
    pub(super) fn find_root(&self) -> Result<(Node, Found)> {
        let stat = stat(self.root.as_fd(), OsStr::new(""))?;
        let volume = Arc::clone(self.volumes.root());
        let (key, handle) = volume.identify(self.root.as_fd(), &stat)?;
        let held = Held::new(self.root.try_clone()?, key.clone(), FileKind::Directory);
        let attr = self.without_staging(&key, self.context.attr(&stat)?);
        let found = Found { key, handle, attr };
        Ok((Node::new(HostNode::Held(held)), found))
    }

    /// Looks a name up.
    pub(super) fn find(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        let dir = held(dir, Errno::ENOENT)?;
        self.shown(dir, name.as_os_str(), Errno::ENOENT)?;
        self.look(dir, name.as_os_str())
    }

    /// Describes the file that a name in a directory leads to.
    ///
    /// Handle and attributes come from two calls, and the host may put another
    /// file there in between. What the two say is believed if they are of one
    /// file: the kernel makes an inode unusable (`EIO`) that comes with the
    /// identity of another.
    pub(super) fn look(&self, dir: &Held, name: &OsStr) -> Result<Found> {
        let volume = self.volume(dir);
        self.context.as_onlooker(volume.as_deref())?;
        if let Some(volume) = volume {
            for _ in 0..GLANCES {
                match self.glance(dir, name, &volume) {
                    Ok(Glance::Seen(found)) => return Ok(found),
                    Ok(Glance::Changing) => {}
                    Err(error) if error.is(libc::ENOENT) => return Err(error),
                    // Another file system may want to see the server itself.
                    Ok(Glance::Elsewhere) | Err(_) => break,
                }
            }
        }
        self.context.as_server(SetId::Unaffected)?;
        self.look_closer(dir, name)
    }

    /// Does so with two calls, if the file is on the volume of the directory.
    fn glance(&self, dir: &Held, name: &OsStr, volume: &Volume) -> Result<Glance> {
        if let Some(hidden) = self.covered(dir, name)? {
            return Ok(Glance::Seen(hidden.found()));
        }
        // The handle first: where the number goes to a new file in between,
        // what is described is the old one, and nothing opens that.
        let handle = volume.handle(dir.fd(), name)?;
        let stat = stat(dir.fd(), name)?;
        let same = self.volumes.get(&stat).is_some_and(|other| other.tag == volume.tag);
        Ok(match volume.vouches(handle.as_ref(), &stat) {
            Some(true) if same => Glance::Seen(self.described(volume, handle.as_ref(), &stat)?),
            Some(false) if same => Glance::Changing,
            Some(_) | None => Glance::Elsewhere,
        })
    }

    /// Does the same through a descriptor.
    fn look_closer(&self, dir: &Held, name: &OsStr) -> Result<Found> {
        Ok(self.take(dir, name)?.1)
    }

    /// Looks a name up and holds what it leads to.
    pub(super) fn reach_name(&self, dir: &Node, name: Name<'_>) -> Result<(Node, Found)> {
        let dir = held(dir, Errno::ENOENT)?;
        self.shown(dir, name.as_os_str(), Errno::ENOENT)?;
        self.context.as_onlooker(self.volume(dir).as_deref())?;
        self.take(dir, name.as_os_str())
    }

    fn take(&self, dir: &Held, name: &OsStr) -> Result<(Node, Found)> {
        let fd = match open_beneath(dir.fd(), name, OFlag::O_PATH, Mode::new(0), self.submounts) {
            Err(error) if error.is(libc::EXDEV) => {
                let hidden = self.covered(dir, name)?.ok_or(Error::Stale)?;
                let found = hidden.found();
                return Ok((Node::new(HostNode::Hidden(hidden)), found));
            }
            opened => opened?,
        };
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, fd.as_fd(), &stat)?;
        let found = self.found(&volume, fd.as_fd(), &stat)?;
        let held = Held::new(fd, found.key.clone(), found.attr.kind);
        Ok((Node::new(HostNode::Held(held)), found))
    }

    /// Returns what is shown in place of a mount that is to be hidden.
    ///
    /// Belongs before anything else is asked of a name: whoever serves a mount
    /// may not answer, and may even be this server.
    fn covered(&self, dir: &Held, name: &OsStr) -> Result<Option<Hidden>> {
        if self.submounts == Submounts::Follow {
            return Ok(None);
        }
        let (mount, kind) = mount_at(dir.fd(), name)?;
        if mount == self.mount { Ok(None) } else { hide(dir, name, kind).map(Some) }
    }

    /// Describes an open file whose volume is known.
    pub(super) fn found(&self, volume: &Volume, fd: BorrowedFd<'_>, stat: &Stat) -> Result<Found> {
        self.described(volume, volume.handle(fd, OsStr::new(""))?.as_ref(), stat)
    }

    fn described(&self, volume: &Volume, handle: Option<&Handle>, stat: &Stat) -> Result<Found> {
        let (key, handle) = volume.identity(handle, stat);
        Ok(Found { key, handle, attr: self.context.attr(stat)? })
    }

    /// Returns the volume of a file that is held.
    pub(super) fn volume(&self, node: &Held) -> Option<Arc<Volume>> {
        self.volumes.tagged(node.key.volume)
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
        if self.is_staging(dir, name) {
            return Err(Error::Stale);
        }
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
        match self.covered(dir, name)? {
            Some(hidden) if hidden.key == *key => Ok(Node::new(HostNode::Hidden(hidden))),
            Some(_) | None => Err(Error::Stale),
        }
    }

    /// Opens a file by its handle, if it is still the expected one.
    pub(super) fn hold_by_handle(
        &self,
        key: &Key,
        handle: &FileHandle,
        kind: FileKind,
    ) -> Result<Node> {
        let volume = self.volumes.tagged(key.volume).ok_or(Error::Unsupported)?;
        self.context.as_onlooker(Some(&volume))?;
        let fd = volume.open(handle)?;
        let is_it = || -> Result<bool> {
            let now = volume.handle(fd.as_fd(), OsStr::new(""))?;
            Ok(now.and_then(|handle| volume.key(&handle)).as_ref() == Some(key))
        };
        if volume.is_sure(handle, key) || is_it()? {
            return Ok(Node::new(HostNode::Held(Held::new(fd, key.clone(), kind))));
        }
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        verified(fd, volume, &stat, key)
    }
}

/// Makes a node of a descriptor that is the expected file.
fn verified(fd: OwnedFd, volume: Arc<Volume>, stat: &Stat, key: &Key) -> Result<Node> {
    let (found, _) = volume.identify(fd.as_fd(), stat)?;
    if found != *key {
        return Err(Error::Stale);
    }
    let kind = FileKind::from_mode(stat.mode).ok_or(Error::Internal)?;
    Ok(Node::new(HostNode::Held(Held::new(fd, found, kind))))
}

/// Says what stands in place of a mount.
fn hide(dir: &Held, name: &OsStr, mode: u32) -> Result<Hidden> {
    match FileKind::from_mode(mode) {
        // The kind is not known where the mount does not answer; what is
        // mounted is nearly always a directory.
        Some(FileKind::Directory) | None => Ok(Hidden::new(Place { dir: &dir.key, name })),
        Some(_) => Err(Error::Denied),
    }
}
