//! A directory above an image, which takes what is written: the kernel's overlayfs
//! over a mount of ours.
//!
//! It keeps its marks in `user.overlay.*`, so that it is the same for root and for
//! users in namespaces of their own. Our mount is below it alone and nowhere else to
//! be seen: it ends with the overlay.

mod belongs;
mod ids;
mod place;

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::error::MountError;
use super::options::{Flags, Options};
use crate::policy::Spec;
use crate::source::image::Image;
use crate::sys::mount::{self as kernel, Context};
use crate::text::{plain, shown};
pub(super) use ids::{is_of_the_host, reaches};
use place::Place;
pub use place::real;

/// A directory that is to be above an image, and its work directory beside it, which
/// no other mount uses for as long as this is there.
#[derive(Debug)]
pub struct Upper {
    place: Place,
    /// What has been written there belongs to, if that is known.
    belongs: Option<String>,
    /// By which the server says what it belongs to from now on: it alone reads the image,
    /// and may write no file.
    told: (PipeReader, PipeWriter),
    /// What the mount table shows as the device.
    name: OsString,
    flags: Flags,
}

impl Upper {
    /// Takes the directory that the options name, if they do: makes the work directory,
    /// which goes with this unless it was used.
    ///
    /// `name` is shown as the device in the table of mounts.
    ///
    /// # Errors
    /// `Upper`: another mount uses it, or its file system is not fit.
    pub fn take(options: &Options, name: &OsStr) -> Result<Option<Self>, MountError> {
        let Some(dir) = &options.upper else { return Ok(None) };
        let place = Place::take(dir);
        let place = place.map_err(|why| MountError::Upper { dir: dir.clone(), why })?;
        let belongs = belongs::read(&place.dir, &place.work);
        let belongs =
            belongs.map_err(|why| MountError::Upper { dir: dir.clone(), why: plain(&why) })?;
        if let Some(hint) = place.exposure() {
            log::warn!(
                "upper: other users of this host can reach {}, and run set-user-id programs that \
                 are made there; {hint}",
                shown(&place.dir)
            );
        }
        let told = io::pipe().map_err(MountError::doing("pipe"))?;
        let (name, flags) = (name.to_owned(), options.flags);
        Ok(Some(Self { place, belongs, told, name, flags }))
    }

    /// Checks, in the server, that what was written there goes with an image as a policy
    /// shows it; or has it belong to these.
    ///
    /// # Errors
    /// `Upper`: it belongs to others.
    pub(super) fn settle(&self, image: &dyn Image, spec: &Spec) -> Result<(), MountError> {
        let now = belongs::describe(image.about(), spec);
        let Some(there) = &self.belongs else {
            let (_, told) = &self.told;
            let mut told = told;
            return told.write_all(now.as_bytes()).map_err(MountError::doing("pipe"));
        };
        belongs::differs(there, &now).map_or(Ok(()), |what| {
            let file = shown(belongs::file(&self.place.work));
            Err(self.failed(format!(
                "it has files {what}; name another directory, or remove {file} if they go together"
            )))
        })
    }

    /// Removes what was made for this mount, which will not be: for a process that is about
    /// to be killed, where the other one may not.
    pub fn leave(&self) {
        self.place.leave();
    }

    /// Puts an overlay in the place of our mount, which is attached to a directory; returns
    /// the root of the overlay.
    ///
    /// # Errors
    /// If the kernel refuses; our mount may be attached then, or not.
    pub(super) fn cover(&self, target: &Path) -> Result<OwnedFd, MountError> {
        let fresh = self.as_below(target).map_err(|why| self.failed(plain(&why)))?;
        if fresh {
            self.place.lock_itself().map_err(|why| self.failed(why))?;
        }
        let covered = self.lay(target);
        if covered.is_err() {
            self.place.clear(&belongs::file(&self.place.work));
            if fresh {
                // Nobody has written to it.
                let (Ok(()) | Err(_)) = fs::remove_dir(&self.place.dir);
            }
        }
        covered
    }

    fn lay(&self, target: &Path) -> Result<OwnedFd, MountError> {
        let failed = |why| MountError::refused(target, why, String::new());
        let context = Context::open(c"overlay").map_err(failed)?;
        let attributes = self.flags.with_defaults().attributes().set;
        let overlay = self
            .configure(&context, target)
            .and_then(|()| context.mount(attributes))
            .map_err(|why| self.unfit(&why, &context.messages()))?;
        self.mark().map_err(|why| self.failed(plain(&why)))?;
        // It is held from below the overlay.
        umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| failed(errno.into()))?;
        kernel::attach(overlay.as_fd(), target).map_err(failed)?;
        Ok(overlay)
    }

    /// Writes down what the directory belongs to, unless that is known.
    fn mark(&self) -> io::Result<()> {
        if self.belongs.is_some() {
            return Ok(());
        }
        let mut text = [0; belongs::MOST];
        // It is there before the mount is.
        let (told, _) = &self.told;
        let mut told = told;
        let length = told.read(&mut text)?;
        belongs::write(&self.place.work, text.get(..length).unwrap_or_default())
    }

    fn configure(&self, context: &Context, lower: &Path) -> io::Result<()> {
        context.set(c"source", &self.name)?;
        context.set(c"lowerdir", &escaped(lower))?;
        context.set(c"upperdir", &escaped(&self.place.dir))?;
        context.set(c"workdir", &escaped(&self.place.work))?;
        // Else it would rename no directories, and make none where one was removed.
        context.flag(c"userxattr")?;
        context.create()
    }

    /// Makes the directory, if it is missing, as the root of the image is: its owner and
    /// mode are those of the root that is seen. Says whether it did.
    fn as_below(&self, lower: &Path) -> io::Result<bool> {
        let dir = &self.place.dir;
        if dir.is_dir() {
            return Ok(false);
        }
        let root = fs::metadata(lower)?;
        place::make(dir)?;
        std::os::unix::fs::lchown(dir, Some(root.uid()), Some(root.gid()))?;
        fs::set_permissions(dir, Permissions::from_mode(root.mode() & 0o7777))?;
        Ok(true)
    }

    fn failed(&self, why: String) -> MountError {
        MountError::Upper { dir: self.place.dir.clone(), why }
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
        self.failed(text + &said)
    }
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
