//! A directory above an image, which takes what is written: the kernel's overlayfs
//! over a mount of ours.
//!
//! It keeps its marks in `user.overlay.*`, so that it is the same for root and for
//! users in namespaces of their own. Our mount is below it alone and nowhere else to
//! be seen: it ends with the overlay.

mod ids;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use super::attach::refused;
use super::error::MountError;
use super::options::{Flags, Options};
use crate::sys::mount::{self as kernel, Context};
use crate::sys::xattr::{self, Way};
use crate::text::plain;
pub(super) use ids::{is_of_the_host, reaches};

/// What the name of the work directory ends with.
const WORK: &str = ".work";

/// How long a server may need to end after its mount has gone.
const ENDING: Duration = Duration::from_secs(2);

/// How long is waited before that is looked at again.
const PAUSE: Duration = Duration::from_millis(10);

/// The attribute by which is tried whether a file system keeps what overlayfs needs.
const TRIAL: &str = "user.overlay.trial";

/// A directory that is to be above an image, and its work directory beside it, which
/// no other mount uses for as long as this is there.
#[derive(Debug)]
pub struct Upper {
    dir: PathBuf,
    work: PathBuf,
    /// What the mount table shows as the device.
    name: OsString,
    flags: Flags,
    _alone: Flock<File>,
}

impl Upper {
    /// Takes the directory that the options name, if they do: makes the work directory.
    ///
    /// `name` is shown as the device in the table of mounts.
    ///
    /// # Errors
    /// `Upper`: another mount uses it, or its file system is not fit.
    pub fn take(options: &Options, name: &OsStr) -> Result<Option<Self>, MountError> {
        let Some(dir) = &options.upper else { return Ok(None) };
        let failed = |why: &str| MountError::Upper { dir: dir.clone(), why: why.to_owned() };
        let said = |error: io::Error| failed(&plain(&error));
        let (Some(parent), Some(own)) = (dir.parent(), dir.file_name()) else {
            return Err(failed("a directory is needed that can have another one beside it"));
        };
        let parent = parent.canonicalize().map_err(said)?;
        let dir = parent.join(own);
        if fs::metadata(&dir).is_ok_and(|found| !found.is_dir()) {
            return Err(failed("no directory"));
        }
        let mut work = own.to_owned();
        work.push(WORK);
        let work = parent.join(work);
        make(&work).map_err(said)?;
        let alone = File::open(&work).map_err(said)?;
        let alone = lock_soon(alone).map_err(|errno| {
            let used = "another mount uses it; name another directory, or umount that one";
            if errno == Errno::EWOULDBLOCK { failed(used) } else { said(errno.into()) }
        })?;
        keeps_marks(&alone).map_err(|errno| {
            let keeps_none = "its file system keeps no user.* attributes; name a directory on ext4, \
                              XFS, Btrfs or tmpfs";
            if errno == Errno::EOPNOTSUPP { failed(keeps_none) } else { said(errno.into()) }
        })?;
        let (name, flags) = (name.to_owned(), options.flags);
        Ok(Some(Self { dir, work, name, flags, _alone: alone }))
    }

    /// Puts an overlay in the place of our mount, which is attached to a directory; returns
    /// the root of the overlay.
    ///
    /// # Errors
    /// If the kernel refuses; our mount may be attached then, or not.
    pub(super) fn cover(&self, target: &Path) -> Result<OwnedFd, MountError> {
        let failed = |why| refused(target, why, String::new());
        self.as_below(target)
            .map_err(|why| MountError::Upper { dir: self.dir.clone(), why: plain(&why) })?;
        let context = Context::open(c"overlay").map_err(failed)?;
        let attributes = self.flags.with_defaults().attributes().set;
        let overlay = self
            .configure(&context, target)
            .and_then(|()| context.mount(attributes))
            .map_err(|why| self.unfit(&why, &context.messages()))?;
        // It is held from below the overlay.
        umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| failed(errno.into()))?;
        kernel::attach(overlay.as_fd(), target).map_err(failed)?;
        Ok(overlay)
    }

    fn configure(&self, context: &Context, lower: &Path) -> io::Result<()> {
        context.set(c"source", &self.name)?;
        context.set(c"lowerdir", &escaped(lower))?;
        context.set(c"upperdir", &escaped(&self.dir))?;
        context.set(c"workdir", &escaped(&self.work))?;
        // Else it would rename no directories, and make none where one was removed.
        context.flag(c"userxattr")?;
        context.create()
    }

    /// Makes the directory, if it is missing, as the root of the image is: its owner and
    /// mode are those of the root that is seen.
    fn as_below(&self, lower: &Path) -> io::Result<()> {
        if self.dir.is_dir() {
            return Ok(());
        }
        let root = fs::metadata(lower)?;
        make(&self.dir)?;
        std::os::unix::fs::lchown(&self.dir, Some(root.uid()), Some(root.gid()))?;
        fs::set_permissions(&self.dir, Permissions::from_mode(root.mode() & 0o7777))
    }

    fn unfit(&self, why: &io::Error, kernel: &str) -> MountError {
        let text = match why.raw_os_error() {
            Some(libc::EINVAL) => {
                "overlayfs cannot write there; name a directory on ext4, XFS, Btrfs or tmpfs, with \
                 the one beside it on the same mount"
                    .to_owned()
            }
            Some(libc::EPERM) => {
                "this kernel lets users mount no overlayfs: Linux 5.11 is the first that does"
                    .to_owned()
            }
            _ => format!("overlayfs: {}", plain(why)),
        };
        let said = if kernel.is_empty() { String::new() } else { format!(" ({kernel})") };
        MountError::Upper { dir: self.dir.clone(), why: text + &said }
    }
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

/// Makes a directory for its owner alone, unless it is there.
fn make(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Tries whether attributes can be kept where overlayfs needs them.
fn keeps_marks(dir: &File) -> nix::Result<()> {
    let (way, name) = (Way::Open(dir.as_fd()), OsStr::new(TRIAL));
    xattr::set(way, name, b"y", 0)?;
    xattr::remove(way, name)
}

/// Writes a path as overlayfs reads it: a colon would end it.
fn escaped(path: &Path) -> OsString {
    let special = |byte: &u8| matches!(byte, b'\\' | b':' | b',');
    let bytes = path.as_os_str().as_bytes().iter();
    let bytes = bytes.flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte]));
    OsString::from_vec(bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_path_is_escaped() {
        let path = Path::new(OsStr::from_bytes(b"/a:b,c\\d\xff"));
        assert_eq!(escaped(path).as_bytes(), b"/a\\:b\\,c\\\\d\xff");
    }
}
