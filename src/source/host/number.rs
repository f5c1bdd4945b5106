//! Files that are known by their inode number alone.
//!
//! The number says nothing of where the file is, and it may be outside of the source, on the
//! same file system. So what is found has to be reached from the root as well, by the path
//! that the kernel knows of it; or, of what is no directory, the whole file system is shown.
//! What is not shown by its name is not found by its number either.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode as NixMode;

use super::node::{Held, HostNode};
use super::staging::Hides;
use super::volume::Volume;
use super::{Host, open_beneath, staging};
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::source::{Found, Node};
use crate::sys::cred::SetId;
use crate::sys::stat::{Stat, stat};

/// How often a path is tried that others may change before it is gone: each fails where a
/// directory on the way is moved between two calls.
const TRIES: usize = 16;

impl Host {
    /// Finds a file by its inode number.
    pub(super) fn find_by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        let volume = self.volumes.tagged(volume).ok_or(Error::Stale)?;
        self.context.as_server(SetId::Unaffected)?;
        let fd = volume.open_by_number(ino)?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let found = self.found(&volume, fd.as_fd(), &stat)?;
        let shown = if !found.attr.kind.is_dir() && self.has_all_of(&volume) {
            !self.is_staged(&stat)?
        } else {
            self.is_below(fd.as_fd(), &stat)
        };
        if stat.ino != ino || !shown {
            return Err(Error::Stale);
        }
        let held = Held::new(fd, found.key.clone(), found.attr.kind);
        Ok((Node::new(HostNode::Held(held)), found))
    }

    /// Finds the directory that a directory is in.
    pub(super) fn find_parent(&self, dir: &Held) -> Result<(Node, Found)> {
        self.context.as_server(SetId::Unaffected)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(dir.fd(), "..", flags, NixMode::empty())?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        if !self.is_below(fd.as_fd(), &stat) {
            return Err(Error::Stale);
        }
        let volume = self.volumes.get(&stat).ok_or(Error::Stale)?;
        let mut found = self.found(&volume, fd.as_fd(), &stat)?;
        found.attr = self.without_staging(&found.key, found.attr);
        let held = Held::new(fd, found.key.clone(), FileKind::Directory);
        Ok((Node::new(HostNode::Held(held)), found))
    }

    /// Reports whether all files of a volume are below the root: it was met there at its own
    /// root, and that has not been moved away since.
    fn has_all_of(&self, volume: &Volume) -> bool {
        let is_there = |dir: BorrowedFd<'_>| {
            stat(dir, OsStr::new("")).is_ok_and(|stat| self.is_below(dir, &stat))
        };
        volume.is_whole()
            && (volume.tag == self.volumes.root().tag || volume.place().is_some_and(is_there))
    }

    /// Reports whether a path of names leads from the root to an open file, or it is the
    /// root.
    fn is_below(&self, fd: BorrowedFd<'_>, stat: &Stat) -> bool {
        let leads = || self.path_of(fd).is_some_and(|path| self.leads(&path, stat));
        (0..TRIES).any(|_| leads())
    }

    /// Returns the path of a file from the root, as the kernel knows it at this moment;
    /// `None` if it is none from there.
    fn path_of(&self, fd: BorrowedFd<'_>) -> Option<PathBuf> {
        let root = self.context.procfs.path(self.root.as_fd()).ok()?;
        let path = PathBuf::from(self.context.procfs.path(fd).ok()?);
        path.strip_prefix(root).ok().map(Path::to_path_buf)
    }

    /// Reports whether a path of names that are shown leads to a file.
    fn leads(&self, path: &Path, stat: &Stat) -> bool {
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let (top, flags) = (self.root.as_fd(), OFlag::O_PATH);
            open_beneath(top, path.as_os_str(), flags, Mode::new(0), self.submounts)
        };
        let hides = |dir: &Path| match (&self.staging, dir.as_os_str().is_empty()) {
            (None, _) => false,
            (Some(_), true) => true,
            (Some(_), false) => {
                open(dir).map_or(true, |dir| Hides::Marked.hide(dir.as_fd(), &self.context))
            }
        };
        let hidden = path.ancestors().any(|path| {
            path.file_name().is_some_and(|name| name == staging::NAME)
                && path.parent().is_none_or(hides)
        });
        !hidden
            && open(path)
                .and_then(|there| Ok(self::stat(there.as_fd(), OsStr::new(""))?))
                .is_ok_and(|there| {
                    (there.mount, there.dev, there.ino) == (stat.mount, stat.dev, stat.ino)
                })
    }
}
