//! Files that are known by their inode number alone.
//!
//! The number says nothing of where the file is, and it may be outside of the source, on the
//! same file system. So what is found has to be reached from the root as well, by the path
//! that the kernel knows of it; or, of what is no directory, the whole file system is shown.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode as NixMode;

use super::node::{Held, HostNode};
use super::{Host, open_beneath, staging};
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::source::{Found, Node};
use crate::sys::cred::SetId;
use crate::sys::stat::{Stat, stat};

impl Host {
    /// Finds a file by its inode number.
    pub(super) fn find_by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        let volume = self.volumes.tagged(volume).ok_or(Error::Stale)?;
        self.context.as_server(SetId::Unaffected)?;
        let fd = volume.open_by_number(ino)?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let found = self.found(&volume, fd.as_fd(), &stat)?;
        let anywhere = volume.is_whole() && !found.attr.kind.is_dir();
        if stat.ino != ino || !(anywhere || self.is_below(fd.as_fd(), &stat)) {
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

    /// Reports whether a path of names leads from the root to an open file, or it is the
    /// root.
    fn is_below(&self, fd: BorrowedFd<'_>, stat: &Stat) -> bool {
        let path = |fd| self.context.procfs.path(fd);
        let (Ok(root), Ok(path)) = (path(self.root.as_fd()), path(fd)) else { return false };
        let Ok(path) = Path::new(&path).strip_prefix(&root) else { return false };
        if self.staging.is_some() && path.iter().any(|name| name == staging::NAME) {
            return false;
        }
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let top = self.root.as_fd();
        open_beneath(top, path.as_os_str(), OFlag::O_PATH, Mode::new(0), self.submounts)
            .and_then(|there| Ok(self::stat(there.as_fd(), OsStr::new(""))?))
            .is_ok_and(|there| {
                (there.mount, there.dev, there.ino) == (stat.mount, stat.dev, stat.ino)
            })
    }
}
