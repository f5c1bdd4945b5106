//! Where a directory above an image is, and that no other mount has it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use crate::sys::mountinfo;
use crate::sys::xattr::{self, Way};
use crate::text::{plain, shown};

/// What the name of the work directory ends with.
const WORK: &str = ".work";

/// What overlayfs makes in it.
const INSIDE: &str = "work";

/// How long a server may need to end after its mount has gone.
const ENDING: Duration = Duration::from_secs(2);

/// How long is waited before that is looked at again.
const PAUSE: Duration = Duration::from_millis(10);

/// The attribute by which is tried whether a file system keeps what overlayfs needs.
const TRIAL: &str = "user.overlay.trial";

/// The bits of modes: of a directory that everybody may go through, and of one that is
/// everybody's to make files in.
const SEARCHED_BY_OTHERS: u32 = 0o001;
const SHARED: u32 = 0o1000;

/// What is said of a directory that another mount has.
const USED: &str = "another mount uses it; name another directory, or umount that one";

/// Returns where a directory is, whatever links lead there, or where it is to be made.
///
/// # Errors
/// As realpath(3): its parent is not there, or it is a link that leads nowhere.
pub fn real(dir: &Path) -> io::Result<PathBuf> {
    match (dir.canonicalize(), dir.parent(), dir.file_name()) {
        (Err(error), Some(parent), Some(own))
            if error.kind() == io::ErrorKind::NotFound && dir.symlink_metadata().is_err() =>
        {
            Ok(parent.canonicalize()?.join(own))
        }
        (found, ..) => found,
    }
}

/// A directory and its work directory beside it, which no other mount uses for as long as
/// this is there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) work: PathBuf,
    /// Whether the work directory was made for this mount.
    fresh: bool,
    locks: RefCell<Vec<Flock<File>>>,
}

impl Place {
    /// Takes a directory, which need not be there: makes the work directory.
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub(super) fn take(dir: &Path) -> Result<Self, String> {
        let said = |error: io::Error| plain(&error);
        let dir = real(dir).map_err(said)?;
        if fs::metadata(&dir).is_ok_and(|found| !found.is_dir()) {
            return Err("no directory".to_owned());
        }
        let Some(work) = beside(&dir) else {
            return Err("a directory is needed that can have another one beside it".to_owned());
        };
        soon_free(|| above(&dir, &work))?;
        let fresh = make(&work).map_err(said)?;
        let mut place = Self { dir, work, fresh, locks: RefCell::default() };
        let work = open(&place.work).map_err(said)?;
        let work = lock_soon(work).map_err(|errno| {
            // Whoever was faster has it by now.
            place.fresh = false;
            if errno == Errno::EWOULDBLOCK { USED.to_owned() } else { said(errno.into()) }
        })?;
        place.lock_itself()?;
        soon_free(|| below(&place.dir))?;
        keeps_marks(&work).map_err(|errno| {
            let keeps_none = "its file system keeps no user.* attributes; name a directory on ext4, \
                              XFS, Btrfs or tmpfs";
            if errno == Errno::EOPNOTSUPP { keeps_none.to_owned() } else { said(errno.into()) }
        })?;
        place.locks.borrow_mut().push(work);
        Ok(place)
    }

    /// Locks the directory itself, if it is there: by another name it is the same one. One
    /// that may not be read is known by its work directory alone.
    ///
    /// # Errors
    /// Another mount has it.
    pub(super) fn lock_itself(&self) -> Result<(), String> {
        let Ok(dir) = open(&self.dir) else { return Ok(()) };
        match lock_soon(dir) {
            Ok(lock) => self.locks.borrow_mut().push(lock),
            Err(Errno::EWOULDBLOCK) => return Err(USED.to_owned()),
            Err(errno) => log::debug!("{}: {errno}", shown(&self.dir)),
        }
        Ok(())
    }

    /// Says what helps where users who have no part in the mount can reach the directory:
    /// its mode is that of a root directory, and so are those of what is in it.
    pub(super) fn exposure(&self) -> Option<String> {
        let parent = self.dir.parent()?;
        if statvfs(parent).is_ok_and(|about| about.flags().contains(FsFlags::ST_NOSUID)) {
            return None;
        }
        let mut known = parent.ancestors().map(|at| fs::metadata(at).map(|found| found.mode()));
        // What may not be looked at is closed.
        if !known.all(|mode| mode.is_ok_and(|mode| mode & SEARCHED_BY_OTHERS != 0)) {
            return None;
        }
        let own = fs::metadata(parent).is_ok_and(|found| found.uid() == geteuid().as_raw());
        let shared = fs::metadata(parent).is_ok_and(|found| found.mode() & SHARED != 0);
        Some(if own && !shared {
            format!("close the way to it: chmod go-x {}", shown(parent))
        } else {
            "name one in a directory that is yours alone (mode 0700)".to_owned()
        })
    }

    /// Removes what was made for this mount, unless one has used it.
    pub(super) fn leave(&self) {
        if self.fresh {
            // What a mount has used is not empty.
            let (Ok(()) | Err(_)) = fs::remove_dir(&self.work);
        }
    }

    /// Removes what overlayfs has made, and a file of ours, where that was for a mount that
    /// has failed.
    pub(super) fn clear(&self, ours: &Path) {
        if self.fresh {
            // Else there is nothing of it.
            let (Ok(()) | Err(_)) = fs::remove_file(ours);
            let (Ok(()) | Err(_)) = fs::remove_dir(self.work.join(INSIDE));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Makes a directory for its owner alone, unless it is there; says whether it did.
///
/// # Errors
/// As mkdir(2).
pub(super) fn make(dir: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

/// Returns the work directory of a directory: none of a root.
fn beside(dir: &Path) -> Option<PathBuf> {
    let mut work = dir.file_name()?.to_owned();
    work.push(WORK);
    Some(dir.with_file_name(work))
}

/// Finds a directory that a mount has and that a directory is in, or is the work
/// directory of.
///
/// Locks tell that in all namespaces: the paths in tables of mounts are of one.
fn above(dir: &Path, work: &Path) -> Option<PathBuf> {
    let is_work = |at: &Path| at.as_os_str().as_bytes().ends_with(WORK.as_bytes()) && is_held(at);
    let is_upper = |at: &Path| beside(at).is_some_and(|work| is_held(&work));
    let found = dir.ancestors().find(|at| is_work(at) || *at != dir && is_upper(at));
    found.or_else(|| Some(work).filter(|work| is_upper(work))).map(Path::to_owned)
}

/// Finds a directory that an overlay has below a directory, or there, of those that are
/// seen from here.
fn below(dir: &Path) -> Option<PathBuf> {
    mountinfo::mounts().ok()?.into_iter().find_map(|mount| mount.writes_below(dir))
}

/// Waits for a directory that is found to be found no more.
fn soon_free(find: impl Fn() -> Option<PathBuf>) -> Result<(), String> {
    let until = Instant::now().checked_add(ENDING);
    while let Some(used) = find() {
        if until.is_none_or(|until| Instant::now() >= until) {
            let used = shown(used);
            return Err(format!(
                "another mount uses {used}; name a directory that is neither in that one nor \
                 above it, or umount it"
            ));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn open(dir: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir)
}

/// Reports whether a mount has locked a directory.
fn is_held(dir: &Path) -> bool {
    let Ok(dir) = open(dir) else { return false };
    let lock = Flock::lock(dir, FlockArg::LockSharedNonblock);
    lock.is_err_and(|(_, errno)| errno == Errno::EWOULDBLOCK)
}

/// Locks a directory that the server of a mount that has just been unmounted may hold for
/// a moment longer.
fn lock_soon(mut dir: File) -> Result<Flock<File>, Errno> {
    let until = Instant::now().checked_add(ENDING);
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => return Ok(alone),
            Err((again, Errno::EWOULDBLOCK))
                if until.is_some_and(|until| Instant::now() < until) =>
            {
                dir = again;
                thread::sleep(PAUSE);
            }
            Err((_, errno)) => return Err(errno),
        }
    }
}

/// Tries whether attributes can be kept where overlayfs needs them.
fn keeps_marks(dir: &File) -> nix::Result<()> {
    let (way, name) = (Way::Open(dir.as_fd()), OsStr::new(TRIAL));
    xattr::set(way, name, b"y", 0)?;
    xattr::remove(way, name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_taken_by_what_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        fs::create_dir_all(at("a/in")).unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("loose")).unwrap();
        assert_eq!(real(&at("link")).unwrap(), real(&at("a")).unwrap());
        assert_eq!(real(&at("link/in/new")).unwrap(), real(&at("a/in")).unwrap().join("new"));
        assert!(real(&at("loose")).is_err());
        assert_eq!(beside(Path::new("/a")).unwrap(), Path::new("/a.work"));
        assert_eq!(beside(Path::new("/")), None);
        let held = lock_soon(open(&at("a")).unwrap()).unwrap();
        assert!(is_held(&at("a")) && !is_held(&at("a/in")));
        drop(held);
        assert!(!is_held(&at("a")));
    }

    #[test]
    fn who_can_reach_a_directory_is_looked_at() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().canonicalize().unwrap();
        let place = Place {
            dir: parent.join("a"),
            work: parent.join("a.work"),
            fresh: false,
            locks: RefCell::default(),
        };
        // Whether the way there is open is not ours to say.
        for (mode, closed) in [(0o700, true), (0o750, true), (0o711, false)] {
            fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
            let hint = place.exposure();
            assert!(hint.is_none() || !closed && hint.unwrap().contains("chmod go-x "), "{mode:o}");
        }
    }

    #[test]
    fn what_nobody_has_used_is_not_left() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, work) = (parent.path().join("a"), parent.path().join("a.work"));
        for kept in [false, true] {
            match Place::take(&dir) {
                Ok(place) if kept => fs::create_dir(place.work.join("work")).unwrap(),
                Ok(_) => {}
                Err(why) => {
                    println!("SKIP: {why}");
                    return;
                }
            }
            assert_eq!((work.exists(), dir.exists()), (kept, false));
        }
    }
}
