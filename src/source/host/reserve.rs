//! Making files for callers who have not the same claim to the blocks in
//! reserve as the owner of the file has.
//!
//! ext4 gives those blocks to one user, root unless told otherwise, and looks
//! at the file system uid of whoever asks (`ext4_has_free_clusters` of
//! fs/ext4/balloc.c). A new file belongs to that uid too: made as its owner, a
//! file of root's would take them for a caller who is another user of the host,
//! and a file that root makes for another would not. On an idmapped mount the
//! two ids differ, so what matters is made through one, on which root and
//! another user are exchanged.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statvfs::fstatvfs;

use super::file::HostFile;
use super::node::Held;
use super::{Host, kept, open_beneath};
use crate::attr::Mode;
use crate::error::{Error, Result};
use crate::source::{Created, File, New, NewKind};
use crate::sync::lock;
use crate::sys::cred::{NOBODY, Who};
use crate::sys::id_map::Line;
use crate::sys::stat::stat;
use crate::sys::{mount, namespace};

/// The user whom the reserve is for, unless a file system was told otherwise.
const ROOT: u32 = 0;

/// Where more blocks than that are free for users, no entry that is being made
/// reaches the reserve.
const FEW: u64 = 512;

/// The user namespaces in which root and another user are exchanged, by that
/// user. They are few: nobody, and what root of the view is stored as.
#[derive(Debug, Default)]
pub(super) struct Exchanges(Mutex<HashMap<u32, Arc<OwnedFd>>>);

impl Exchanges {
    fn with(&self, user: u32) -> io::Result<Arc<OwnedFd>> {
        if let Some(namespace) = lock(&self.0).get(&user) {
            return Ok(Arc::clone(namespace));
        }
        // Takes a process. Who made one at the same time was first.
        let all = Line { inside: 0, outside: 0, count: u32::MAX };
        let made = Arc::new(namespace::make(&exchanged(user), &[all])?);
        Ok(Arc::clone(lock(&self.0).entry(user).or_insert(made)))
    }
}

/// Maps every id to itself, but root and this user to each other.
fn exchanged(user: u32) -> Vec<Line> {
    let same = |first: u32, end: u32| Line {
        inside: first,
        outside: first,
        count: end.saturating_sub(first),
    };
    let one = |inside, outside| Line { inside, outside, count: 1 };
    let above = user.saturating_add(1);
    let lines = [one(ROOT, user), same(1, user), one(user, ROOT), same(above, u32::MAX)];
    lines.into_iter().filter(|line| line.count > 0).collect()
}

impl Host {
    /// Makes a new entry with the claim to the reserve that the caller has.
    ///
    /// Where the kernel has no idmapped mount of the directory, it is the claim
    /// of the owner.
    pub(super) fn make(&self, dir: &Held, name: &OsStr, new: &New<'_>) -> Result<Created> {
        let owner = new.owner.uid.raw();
        let other = if owner == ROOT { NOBODY } else { owner };
        if new.reserve == (owner == ROOT) || !self.context.credentials.is_host_root() {
            return self.make_as_owner(dir, name, new);
        }
        if new.reserve {
            return match self.make_as_owner(dir, name, new) {
                Err(error) if error.is(libc::ENOSPC) && self.is_short(dir) => {
                    let through = self.exchange(dir, other)?.ok_or(error)?;
                    self.make_through(through, ROOT, dir, name, new)
                }
                made => made,
            };
        }
        let through = if self.is_short(dir) { self.exchange(dir, other)? } else { None };
        match through {
            Some(through) => self.make_through(through, other, dir, name, new),
            None => self.make_as_owner(dir, name, new),
        }
    }

    /// Reports whether little is left but blocks in reserve.
    fn is_short(&self, dir: &Held) -> bool {
        fstatvfs(dir.fd()).is_ok_and(|stat| {
            stat.blocks_available() < FEW && stat.blocks_available() < stat.blocks_free()
        })
    }

    /// Returns a directory on a mount on which root and a user are exchanged;
    /// `None` where there can be none.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` for want of descriptors.
    pub(super) fn exchange(&self, dir: &Held, user: u32) -> Result<Option<OwnedFd>> {
        let mapped = || {
            let namespace = self.exchanges.with(user)?;
            let copy = mount::clone_mount(dir.fd(), Path::new("."))?;
            mount::idmap(copy.as_fd(), namespace.as_fd()).map(|()| copy)
        };
        match mapped() {
            Ok(copy) => Ok(Some(copy)),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(lack @ (Errno::EMFILE | Errno::ENFILE)) => Err(lack.into()),
                _ => {
                    log::debug!("no mount with root and {user} exchanged: {error}");
                    Ok(None)
                }
            },
        }
    }

    /// Makes an entry in a directory as `user`, whom the mount that it is
    /// reached through exchanges with the owner.
    ///
    /// Each step gives back the descriptor that the next one takes.
    pub(super) fn make_through(
        &self,
        through: OwnedFd,
        user: u32,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
    ) -> Result<Created> {
        let context = &self.context;
        context.credentials.assume(Who::Owner(user, new.owner.gid.raw()), kept(new.mode))?;
        context.credentials.umask(new.umask)?;
        let NewKind::Regular(Some(flags)) = new.what else {
            return self.make_closed(through.as_fd(), dir, name, new);
        };
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let made = open_beneath(through.as_fd(), name, create, new.mode, self.submounts)?;
        drop(through);
        // What is open on that mount would show exchanged owners, and could not
        // be linked: it is opened once more, if it still has its name.
        let here = open_beneath(dir.fd(), name, OFlag::O_PATH, Mode::new(0), self.submounts)
            .map_err(|error| if error.is(libc::ENOENT) { Error::Stale } else { error })?;
        let [seen, stat] = [made.as_fd(), here.as_fd()].map(|fd| stat(fd, OsStr::new("")));
        let (seen, stat) = (seen?, stat?);
        if (seen.dev, seen.ino) != (stat.dev, stat.ino) {
            return Err(Error::Stale);
        }
        drop(made);
        let volume = self.volume_of(dir, name, here.as_fd(), &stat)?;
        let found = self.found(&volume, here.as_fd(), &stat)?;
        let file = HostFile::open(Arc::clone(context), here.as_fd(), flags, Some(&volume))?;
        let file: Arc<dyn File> = Arc::new(file);
        Ok(Created { found, file: Some(file) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::id_map::IdMap;

    #[test]
    fn an_exchange_leaves_all_others_alone() {
        for user in [1, 2, 1000, NOBODY] {
            let lines = exchanged(user);
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let map = IdMap::parse(&text);
            assert_eq!(lines.iter().map(|line| u64::from(line.count)).sum::<u64>(), 0xffff_ffff);
            assert_eq!((map.outside(0), map.outside(user)), (Some(user), Some(0)), "{user}");
            for id in [1, 2, 3, 999, 1000, 1001, NOBODY - 1, NOBODY] {
                assert!(id == user || map.outside(id) == Some(id), "{id} of {user}");
            }
        }
    }
}
