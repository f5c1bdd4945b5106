//! Making the mount, and taking it away again.
//!
//! With privilege over the mount namespace the file system is made and mounted
//! by the new mount calls, served, and only then its visible root attached to
//! the target; otherwise fusermount3 mounts it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use super::error::MountError;
use super::helper;
use super::options::{Flags, Options};
use super::upper::Upper;
#[cfg(test)]
use crate::fs::Fs;
#[cfg(test)]
use crate::fuse::Session;
use crate::fuse::{SessionOptions, VIEW};
use crate::sys::fuse;
use crate::sys::mount::{self as kernel, Context};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::stat::{self, Mounted};
use crate::text::shown;

/// Who mounted, and so who can unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// This process.
    Own,
    /// fusermount3.
    Helper,
}

/// Where a file system of ours is mounted.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) target: PathBuf,
    /// The device number of the file system.
    pub(super) device: (u32, u32),
    /// The id of the mount.
    pub(super) mount: u64,
    /// The number of the FUSE connection.
    pub(super) connection: u32,
    pub(super) way: Way,
}

/// A mount that is not served yet.
#[derive(Debug)]
pub(super) enum Unserved {
    /// It is attached nowhere yet.
    Detached(OwnedFd),
    /// fusermount3 has attached it.
    Attached,
}

impl Unserved {
    /// Returns who has made it.
    pub(super) const fn way(&self) -> Way {
        match self {
            Self::Detached(_) => Way::Own,
            Self::Attached => Way::Helper,
        }
    }
}

/// Makes a mount; returns its device first, which is to be served before
/// [`complete`] is called.
///
/// `name` is shown as the device in the table of mounts.
///
/// # Errors
/// If the device cannot be opened, or the kernel or fusermount3 refuses; then
/// nothing is mounted.
pub(super) fn begin(
    options: &Options,
    target: &Path,
    name: &OsStr,
) -> Result<(OwnedFd, Unserved), MountError> {
    match Context::open(c"fuse") {
        Ok(context) => {
            let ids = (geteuid(), getegid());
            let (device, parent) = make(options, target, name, &context, ids)?;
            Ok((device, Unserved::Detached(parent)))
        }
        // In another's namespaces its program would be another's too.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && options.within.is_none() => {
            Ok((helper::mount(options, target, name)?, Unserved::Attached))
        }
        Err(why) if why.raw_os_error() == Some(libc::ENODEV) => Err(MountError::Device(why)),
        Err(why) => Err(MountError::refused(target, why, String::new())),
    }
}

/// Attaches a mount that is served by now, unless it is attached already, and puts
/// what is above it in its place.
///
/// # Errors
/// As open_tree(2), move_mount(2), or what keeps overlayfs away; then nothing is
/// mounted.
pub(super) fn complete(
    mount: Unserved,
    target: &Path,
    upper: Option<&Upper>,
) -> Result<Place, MountError> {
    let (way, failed) = (mount.way(), |why| MountError::refused(target, why, String::new()));
    let root = match mount {
        Unserved::Detached(parent) => Some(attach(parent, target).map_err(failed)?),
        Unserved::Attached => None,
    };
    let at = |root: Option<OwnedFd>| match root {
        Some(root) => mounted_at(root.as_fd(), Path::new("")).map_err(failed),
        None => mounted_at(AT_FDCWD, target).map_err(failed),
    };
    let place = at(root).and_then(|Mounted { device, mount }| {
        let place = Place::new(target, device, mount, device.1, way);
        let Some(upper) = upper else { return Ok(place) };
        let Mounted { device, mount } = at(Some(upper.cover(target)?))?;
        Ok(Place { device, mount, ..place })
    });
    place.inspect_err(|_| {
        // There would be a mount without a server.
        take_away(way, target, MntFlags::MNT_DETACH).unwrap_or_else(|left| log::warn!("{left}"));
    })
}

/// Takes away what was begun and cannot be served.
pub(super) fn undo(mount: &Unserved, target: &Path) {
    if let Unserved::Attached = mount
        && let Err(left) = take_away(Way::Helper, target, MntFlags::MNT_DETACH)
    {
        log::warn!("{left}");
    }
}

/// Makes a mount, serves it, and attaches it.
///
/// # Errors
/// As [`begin`], [`complete`].
#[cfg(test)]
pub(super) fn mount(
    options: &Options,
    target: &Path,
    name: &OsStr,
    fs: Arc<Fs>,
    serving: SessionOptions,
) -> Result<(Session, Place), MountError> {
    let (device, mount) = begin(options, target, name)?;
    let serving = with_clones(serving, device.as_fd());
    let session = Session::start(device, fs, serving).map_err(MountError::Session)?;
    Ok((session, complete(mount, target, None)?))
}

/// Makes the file system and a mount of it that is attached nowhere; returns
/// its device first.
///
/// # Errors
/// If the device cannot be opened, or the kernel refuses.
pub(super) fn make(
    options: &Options,
    target: &Path,
    name: &OsStr,
    context: &Context,
    ids: (Uid, Gid),
) -> Result<(OwnedFd, OwnedFd), MountError> {
    let device = File::options().read(true).write(true).open(fuse::FUSE_DEVICE);
    let device = OwnedFd::from(device.map_err(MountError::Device)?);
    let flags = match options.upper {
        // Writing is for what is above.
        Some(_) => Flags { read_only: Some(true), ..options.flags },
        None => options.flags,
    };
    let attributes = flags.with_defaults().attributes().set;
    let parent = configure(context, options, name, device.as_fd(), ids)
        .and_then(|()| context.mount(attributes))
        .map_err(|why| MountError::refused(target, why, context.messages()))?;
    Ok((device, parent))
}

fn configure(
    context: &Context,
    options: &Options,
    name: &OsStr,
    device: BorrowedFd<'_>,
    (uid, gid): (Uid, Gid),
) -> io::Result<()> {
    let number = |number: String| OsString::from(number);
    context.set(c"source", name)?;
    context.set(c"subtype", OsStr::new("idmapfs"))?;
    context.set(c"fd", &number(device.as_raw_fd().to_string()))?;
    context.set(c"rootmode", OsStr::new("40000"))?;
    context.set(c"user_id", &number(uid.to_string()))?;
    context.set(c"group_id", &number(gid.to_string()))?;
    if options.kernel_decides() {
        context.flag(c"default_permissions")?;
    }
    if options.allow_other.unwrap_or(uid.is_root()) {
        context.flag(c"allow_other")?;
    }
    context.create()
}

/// Attaches the visible root, which is a child of the root of the mount.
///
/// The parent mount goes when its descriptor is closed; the file system stays
/// with the child, whose root is returned.
///
/// # Errors
/// As open_tree(2), move_mount(2).
pub(super) fn attach(parent: OwnedFd, target: &Path) -> io::Result<OwnedFd> {
    match kernel::clone_mount(parent.as_fd(), Path::new(VIEW)) {
        Ok(child) => kernel::attach(child.as_fd(), target).map(|()| child),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            attach_before_6_15(parent, target)
        }
        Err(error) => Err(error),
    }
}

/// Does the same where a mount that is attached nowhere cannot be copied: its
/// root is on the target for a moment.
pub(super) fn attach_before_6_15(parent: OwnedFd, target: &Path) -> io::Result<OwnedFd> {
    kernel::attach(parent.as_fd(), target)?;
    // An open descriptor of the root would make the mount busy.
    drop(parent);
    let child = kernel::clone_mount(AT_FDCWD, &target.join(VIEW));
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    let child = child?;
    kernel::attach(child.as_fd(), target).map(|()| child)
}

/// Gives each thread a descriptor of its own where the device lets us.
pub(super) fn with_clones(serving: SessionOptions, device: BorrowedFd<'_>) -> SessionOptions {
    let clone = fuse::clone_device(device);
    if let Err(error) = &clone {
        log::debug!("threads share one device: {error}");
    }
    SessionOptions { clone_device: clone.is_ok(), ..serving }
}

fn mounted_at(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Mounted> {
    Ok(stat::mounted(dir, path.as_os_str())?)
}

impl Place {
    /// Names a place; `device` is the device number of the file system, `mount`
    /// the id of the mount, `connection` the number of that of its server.
    pub(super) fn new(
        target: &Path,
        device: (u32, u32),
        mount: u64,
        connection: u32,
        way: Way,
    ) -> Self {
        Self { target: target.to_owned(), device, mount, connection, way }
    }

    /// Reports whether ours is still what is mounted at the target. The mount
    /// that comes after it may have its device number.
    fn is_there(&self) -> bool {
        self.is(AT_FDCWD, &self.target)
    }

    /// Reports whether ours is what is there.
    fn is(&self, dir: BorrowedFd<'_>, path: &Path) -> bool {
        let ours = Mounted { device: self.device, mount: self.mount };
        mounted_at(dir, path).is_ok_and(|mounted| mounted == ours)
    }

    /// Unmounts, if ours is still what is mounted at the target. If it is
    /// busy, what was written through memory maps is flushed, and the mount
    /// taken out of the tree.
    ///
    /// # Errors
    /// As umount2(2), or what fusermount3 says.
    pub(super) fn unmount(&self) -> Result<(), MountError> {
        if !self.is_there() {
            return Ok(());
        }
        match take_away(self.way, &self.target, MntFlags::empty()) {
            Ok(()) => Ok(()),
            Err(busy) => {
                log::info!("{busy}; it will be gone when its users let go");
                if let Err(error) = File::open(&self.target).and_then(kernel::sync) {
                    log::warn!("flushing: {error}");
                }
                self.detach()
            }
        }
    }

    /// Takes the mount out of the tree, without asking its server for anything.
    ///
    /// # Errors
    /// As [`Place::unmount`].
    pub(super) fn detach(&self) -> Result<(), MountError> {
        let held = kernel::hold(&self.target);
        let Some(held) = held.ok().filter(|held| self.is(held.as_fd(), Path::new(""))) else {
            return Ok(());
        };
        match self.way {
            Way::Own => detach(held.as_fd(), &self.target),
            Way::Helper => helper::unmount(&self.target, true),
        }
    }
}

/// Takes the mount that is held out of the tree, if it is there: not one that has taken
/// its place meanwhile.
fn detach(held: BorrowedFd<'_>, target: &Path) -> Result<(), MountError> {
    let failed = |errno: Errno| MountError::refused(target, errno.into(), String::new());
    match umount2(&kernel::path_of(held), MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) if !same(held, target) => Ok(()),
        // There is no /proc.
        Err(Errno::ENOENT) => take_away(Way::Own, target, MntFlags::MNT_DETACH),
        Err(errno) => Err(failed(errno)),
    }
}

fn take_away(way: Way, target: &Path, flags: MntFlags) -> Result<(), MountError> {
    match way {
        Way::Own => umount2(target, flags | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| MountError::refused(target, errno.into(), String::new())),
        Way::Helper => helper::unmount(target, flags.contains(MntFlags::MNT_DETACH)),
    }
}

/// Reports whether what is held is what is mounted at a path.
fn same(held: BorrowedFd<'_>, target: &Path) -> bool {
    let there = mounted_at(AT_FDCWD, target);
    there.is_ok_and(|there| mounted_at(held, Path::new("")).is_ok_and(|held| held == there))
}

/// Takes away mounts of ours at a path that have lost their server.
///
/// # Errors
/// As umount2(2), or what fusermount3 says.
pub(super) fn clear_dead(target: &Path) -> Result<(), MountError> {
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    while let Some(dead) = dead_and_ours(target).map_err(failed)? {
        log::info!("{}: clearing a mount whose server is gone", shown(target));
        match detach(dead.as_fd(), target) {
            Err(MountError::Mount { why, .. }) if why.raw_os_error() == Some(libc::EPERM) => {
                helper::unmount(target, true)?;
            }
            done => done?,
        }
    }
    Ok(())
}

/// Holds a mount of ours that has lost its server, or the overlay above one.
fn dead_and_ours(target: &Path) -> io::Result<Option<OwnedFd>> {
    let Some(mount) = mountinfo::mount_at(target)?.filter(Mount::is_ours) else { return Ok(None) };
    let held = kernel::hold(target)?;
    // Not stat(2), which the kernel may answer from its cache.
    let answer = if mount.is_above_ours() {
        // An overlay has totals of its own, and looks for names that nobody has had below.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!(".idmapfs-{}-{}", std::process::id(), now.as_nanos());
        stat::stat(held.as_fd(), OsStr::new(&name)).map(drop)
    } else {
        fstatfs(&held).map(drop)
    };
    Ok(matches!(answer, Err(Errno::ENOTCONN)).then_some(held))
}
