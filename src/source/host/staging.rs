//! Where files are made that are to be seen only when they are ready: a
//! directory `.idmapfs` in the root, which the source does not show.
//!
//! It has the mode 01700, which no file has that callers make where owners are kept
//! beside the files: by that and the name it is known, and not shown, in a source
//! around this one too.
//!
//! Each server has a directory of its own there, made when it is first needed
//! and held by a lock of flock(2). Whoever finds one that nobody holds removes
//! it with all that a server that was killed has left in it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode as NixMode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::node::Held;
use super::{Context, Host, Submounts, open_beneath};
use crate::acl::AclKind;
use crate::attr::{Attr, Mode};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::Key;
use crate::sync::lock;
use crate::sys::cred::SetId;
use crate::sys::dirent;
use crate::sys::stat::{Stat, stat};
use crate::sys::xattr as sys_xattr;

/// The name of the directory, in the root.
pub(super) const NAME: &str = ".idmapfs";

/// The mode of that directory.
const MODE: u32 = 0o1700;

/// How often it is tried again when others remove or make what is being made.
pub(super) const TRIES: usize = 64;

/// How many bytes of a listing are read at a time.
const CHUNK: usize = 8 * 1024;

/// The staging of a source.
#[derive(Debug)]
pub(super) struct Staging {
    /// The root, in which the name is hidden.
    root: Key,
    now: Mutex<Option<Arc<Stage>>>,
}

/// The directory of one server.
#[derive(Debug)]
pub(super) struct Stage {
    dir: Flock<OwnedFd>,
    name: OsString,
    next: AtomicU64,
}

impl Stage {
    /// Returns the directory, open for more than its path.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Returns the path of the directory below the root.
    pub fn path(&self) -> std::path::PathBuf {
        std::path::Path::new(NAME).join(&self.name)
    }

    /// Returns a name that nothing in it has.
    pub fn fresh(&self) -> OsString {
        self.next.fetch_add(1, Ordering::Relaxed).to_string().into()
    }

    fn is_gone(&self) -> bool {
        stat(self.fd(), OsStr::new("")).is_ok_and(|stat| stat.nlink == 0)
    }
}

/// What a directory does not show of the name of staging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hides {
    /// All is shown.
    Nothing,
    /// The name, in the root.
    Name,
    /// The name of a directory of a source that is served by itself.
    Marked,
}

impl Hides {
    /// Reports whether the name is not shown in a directory.
    pub fn hide(self, dir: BorrowedFd<'_>, context: &Context) -> bool {
        match self {
            Self::Nothing => false,
            Self::Name => true,
            Self::Marked => stat(dir, OsStr::new(NAME)).is_ok_and(|stat| {
                stat.mode == libc::S_IFDIR | MODE && context.credentials.is_own_uid(stat.uid)
            }),
        }
    }
}

impl Staging {
    /// Stages for a root, nothing of which is made yet.
    pub fn new(root: Key) -> Self {
        Self { root, now: Mutex::default() }
    }

    /// Reports whether somebody has removed this server's directory.
    pub fn is_gone(&self) -> bool {
        let now = lock(&self.now).clone();
        now.is_some_and(|stage| stage.is_gone())
    }
}

impl Host {
    /// Reports whether a name in a directory is hidden.
    pub(super) fn is_staging(&self, dir: &Held, name: &OsStr) -> bool {
        name == NAME && self.hides(&dir.key).hide(dir.fd(), &self.context)
    }

    /// Sees that a name is not a hidden one; with `errno` if it is.
    pub(super) fn shown(&self, dir: &Held, name: &OsStr, errno: Errno) -> Result<()> {
        if self.is_staging(dir, name) { Err(errno.into()) } else { Ok(()) }
    }

    /// Returns whether a directory has a name that is not shown.
    pub(super) fn hides(&self, dir: &Key) -> Hides {
        match &self.staging {
            None => Hides::Nothing,
            Some(staging) if staging.root == *dir => Hides::Name,
            Some(_) => Hides::Marked,
        }
    }

    /// Takes the hidden directory out of what the root says of itself: its link
    /// count is the number of directories in it.
    pub(super) fn without_staging(&self, dir: &Key, mut attr: Attr<Disk>) -> Attr<Disk> {
        // On some file systems it is always 1.
        if attr.nlink > 2 && self.hides(dir) == Hides::Name && self.has_shared_place() {
            attr.nlink = attr.nlink.saturating_sub(1);
        }
        attr
    }

    /// Returns this server's directory, made anew where there is none (any more).
    ///
    /// # Errors
    /// `Unsupported` without [`super::HostOptions::staging`]; `Denied` where the
    /// name leads to something else; as mkdir(2), open(2), flock(2).
    pub(super) fn stage(&self) -> Result<Arc<Stage>> {
        let staging = self.staging.as_ref().ok_or(Error::Unsupported)?;
        let there = |stage: &Arc<Stage>| !stage.is_gone();
        let known = lock(&staging.now).clone();
        if let Some(stage) = known.filter(there) {
            return Ok(stage);
        }
        // Nobody else has one either.
        let mut now = lock(&staging.now);
        if let Some(stage) = now.clone().filter(there) {
            return Ok(stage);
        }
        let stage = Arc::new(self.new_stage()?);
        *now = Some(Arc::clone(&stage));
        Ok(stage)
    }

    /// Reports whether there is a directory that servers share.
    pub fn has_shared_place(&self) -> bool {
        stat(self.root.as_fd(), OsStr::new(NAME)).is_ok()
    }

    /// Opens the directory that all servers of this source share, and makes it if
    /// need be; `None` where this server can make none.
    ///
    /// # Errors
    /// As mkdir(2), open(2), where that may be otherwise the next time.
    pub fn shared_place(&self) -> Result<Option<OwnedFd>> {
        self.context.as_server(SetId::Unaffected)?;
        self.context.credentials.umask(0o077)?;
        for _ in 0..TRIES {
            match self.shared_stage(true) {
                // Another server has just removed it.
                Ok(None) => {}
                Err(error)
                    if [libc::EROFS, libc::EACCES, libc::EPERM].iter().any(|n| error.is(*n)) =>
                {
                    return Ok(None);
                }
                opened => return opened,
            }
        }
        Err(Errno::EBUSY.into())
    }

    fn new_stage(&self) -> Result<Stage> {
        self.context.as_server(SetId::Unaffected)?;
        self.context.credentials.umask(0o077)?;
        let mut number = 0_u64;
        for _ in 0..TRIES {
            let Some(top) = self.shared_stage(true)? else { continue };
            tidy(top.as_fd());
            let name = format!("{}.{number}", std::process::id());
            match mkdirat(&top, name.as_str(), NixMode::S_IRWXU) {
                Ok(()) => {}
                Err(Errno::EEXIST) => {
                    number = number.saturating_add(1);
                    continue;
                }
                // The last server has just removed what it left.
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno.into()),
            }
            if let Some(dir) = hold(top.as_fd(), OsStr::new(&name))? {
                return Ok(Stage { dir, name: name.into(), next: AtomicU64::new(0) });
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Opens what all servers share, and makes it if wanted; `None` if it is not
    /// there.
    fn shared_stage(&self, make: bool) -> Result<Option<OwnedFd>> {
        let root = self.root.as_fd();
        if make {
            match mkdirat(root, NAME, NixMode::from_bits_truncate(MODE)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let opened = open_beneath(root, OsStr::new(NAME), flags, Mode::new(0), Submounts::Hide);
        let top = match opened {
            Ok(top) => top,
            Err(error) if error.is(libc::ENOENT) => return Ok(None),
            Err(error) if [libc::EMFILE, libc::ENFILE].iter().any(|lack| error.is(*lack)) => {
                return Err(error);
            }
            Err(_) => return Err(foreign()),
        };
        let seen = stat(top.as_fd(), OsStr::new(""))?;
        if !self.context.credentials.is_own_uid(seen.uid) {
            return Err(foreign());
        }
        if make {
            // It comes with what the root gives to all that is made in it.
            let default = OsStr::new(AclKind::Default.xattr());
            match sys_xattr::remove(sys_xattr::Way::Open(top.as_fd()), default) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
            if seen.mode & 0o7777 != MODE {
                fchmod(&top, NixMode::from_bits_truncate(MODE))?;
            }
        }
        Ok(Some(top))
    }

    /// Reports whether a file that is no directory is one of the servers', or is being made
    /// without a name.
    ///
    /// # Errors
    /// As open(2), where the server lacks something.
    pub(super) fn is_staged(&self, file: &Stat) -> Result<bool> {
        if self.staging.is_none() {
            return Ok(false);
        }
        let is_it = |dir: BorrowedFd<'_>, name: &OsStr| {
            stat(dir, name).is_ok_and(|there| (there.dev, there.ino) == (file.dev, file.ino))
        };
        let open = |dir: BorrowedFd<'_>, name: &OsStr| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            match open_beneath(dir, name, flags, Mode::new(0), Submounts::Hide) {
                Err(error) if [libc::EMFILE, libc::ENFILE].iter().any(|lack| error.is(*lack)) => {
                    Err(error)
                }
                opened => Ok(opened.ok()),
            }
        };
        let root = self.root.as_fd();
        if file.nlink == 0 || is_it(root, OsStr::new(NAME)) {
            return Ok(true);
        }
        let Some(top) = open(root, OsStr::new(NAME))? else { return Ok(false) };
        for name in names(top.as_fd()) {
            if is_it(top.as_fd(), &name) {
                return Ok(true);
            }
            let Some(stage) = open(top.as_fd(), &name)? else { continue };
            if names(stage.as_fd()).iter().any(|name| is_it(stage.as_fd(), name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what servers have left that were killed.
    pub fn clean_staging(&self) {
        if self.staging.is_none() || self.context.as_server(SetId::Unaffected).is_err() {
            return;
        }
        if let Ok(Some(top)) = self.shared_stage(false) {
            tidy(top.as_fd());
            let _in_use = unlinkat(self.root.as_fd(), NAME, UnlinkatFlags::RemoveDir);
        }
    }

    /// Removes this server's directory; one that is needed again is made anew.
    pub(super) fn leave_staging(&self) {
        let Some(staging) = &self.staging else { return };
        if self.context.as_server(SetId::Unaffected).is_err() {
            return;
        }
        let own = lock(&staging.now).take().map(|stage| stage.path());
        // What is not empty is removed by whoever comes next.
        for path in own.into_iter().chain([NAME.into()]) {
            let _in_use = unlinkat(self.root.as_fd(), &path, UnlinkatFlags::RemoveDir);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.leave_staging();
    }
}

/// Says that the name is taken by what is not ours.
fn foreign() -> Error {
    log::warn!(
        "{NAME} in the root of the source is no directory of this user; \
         remove it, new files are prepared there"
    );
    Error::Denied
}

/// Opens a directory and takes its lock; `None` if another holds it, or it is
/// not there any more.
fn hold(top: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Flock<OwnedFd>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let dir = match open_beneath(top, name, flags, Mode::new(0), Submounts::Hide) {
        Ok(dir) => dir,
        Err(error) if error.is(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let dir = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(dir) => dir,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    // Whoever held it before may have removed it.
    let same = |a: Stat, b: Stat| (a.dev, a.ino) == (b.dev, b.ino) && a.nlink > 0;
    let there = match stat(top, name) {
        Ok(there) => same(stat(dir.as_fd(), OsStr::new(""))?, there),
        Err(_) => false,
    };
    Ok(there.then_some(dir))
}

/// Removes the directories that nobody holds.
fn tidy(top: BorrowedFd<'_>) {
    for name in names(top) {
        // What a user keeps in a directory of that name is none of a server's.
        if !is_ours(&name, 2) {
            continue;
        }
        let Ok(Some(dir)) = hold(top, &name) else { continue };
        for left in names(dir.as_fd()).into_iter().filter(|left| is_ours(left, 1)) {
            remove(dir.as_fd(), &left);
        }
        if let Err(errno) = unlinkat(top, name.as_os_str(), UnlinkatFlags::RemoveDir) {
            let name = name.display();
            log::warn!("{NAME}/{name}: left by a server that is gone: {}", errno.desc());
        }
    }
}

/// Reports whether a server gives such names: so many numbers with dots between.
fn is_ours(name: &OsStr, numbers: usize) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.to_str()
        .is_some_and(|name| name.split('.').count() == numbers && name.split('.').all(number))
}

/// Removes whatever has a name.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &OsStr) {
    let done = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => unlinkat(dir, name, UnlinkatFlags::RemoveDir),
        done => done,
    };
    if let Err(errno) = done {
        log::debug!("{NAME}: {}: {}", name.display(), errno.desc());
    }
}

/// Lists the names in a directory; as many as can be read.
fn names(dir: BorrowedFd<'_>) -> Vec<OsString> {
    let mut names = Vec::new();
    let mut buf = vec![0; CHUNK];
    while let Ok(length @ 1..) = dirent::read(dir, &mut buf) {
        let mut rest = buf.get(..length).unwrap_or_default();
        while let Some((entry, length)) = dirent::first(rest) {
            if entry.name != "." && entry.name != ".." {
                names.push(entry.name.to_owned());
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    names
}
