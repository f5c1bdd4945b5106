//! Making, attaching and changing mounts: fsopen(2), fsmount(2), open_tree(2),
//! move_mount(2), mount_setattr(2); and the FUSE device.

use std::ffi::{CStr, OsStr, c_int, c_long, c_uint};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::NixPath as _;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;

// Of linux/mount.h; the same on every architecture.
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;

/// A file system being set up.
#[derive(Debug)]
pub struct Context(File);

impl Context {
    /// Starts to set up a file system of this type.
    ///
    /// # Errors
    /// As fsopen(2): `EPERM` without `CAP_SYS_ADMIN` over the mount namespace,
    /// `ENODEV` for an unknown type, `ENOSYS` on old kernels.
    pub fn open(fstype: &CStr) -> io::Result<Self> {
        // SAFETY: the type is a string that ends with a NUL.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
        own(fd).map(|fd| Self(fd.into()))
    }

    /// Sets an option that has a value.
    ///
    /// # Errors
    /// As fsconfig(2); [`Context::messages`] says more.
    pub fn set(&self, key: &CStr, value: &OsStr) -> io::Result<()> {
        let call = |value: &CStr| self.configure(FSCONFIG_SET_STRING, Some(key), Some(value));
        value.as_bytes().with_nix_path(call)?
    }

    /// Sets an option that has none.
    ///
    /// # Errors
    /// As fsconfig(2).
    pub fn flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Makes the file system.
    ///
    /// # Errors
    /// As fsconfig(2); [`Context::messages`] says more.
    pub fn create(&self) -> io::Result<()> {
        self.configure(FSCONFIG_CMD_CREATE, None, None)
    }

    /// Makes a mount of it that is attached nowhere.
    ///
    /// `attributes` are `MOUNT_ATTR_*` flags.
    ///
    /// # Errors
    /// As fsmount(2).
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        let context = self.0.as_raw_fd();
        // SAFETY: the call takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes) };
        own(fd)
    }

    /// Returns what the kernel has to say of the failures so far.
    pub fn messages(&self) -> String {
        let mut text = Vec::new();
        let mut line = [0; 4096];
        // Each read is one message; there are few, and then ENODATA.
        while let Ok(length @ 1..) = (&self.0).read(&mut line) {
            let message = line.get(..length).unwrap_or_default();
            // "e " is the level.
            text.push(message.get(2..).unwrap_or_default().trim_ascii().to_vec());
        }
        String::from_utf8_lossy(&text.join(&b"; "[..])).into_owned()
    }

    fn configure(
        &self,
        command: c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> io::Result<()> {
        let key = key.map_or(std::ptr::null(), CStr::as_ptr);
        let value = value.map_or(std::ptr::null(), CStr::as_ptr);
        let context = self.0.as_raw_fd();
        // SAFETY: both are null or strings that end with a NUL, as the command asks for.
        let done =
            unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0 as c_int) };
        Ok(Errno::result(done).map(drop)?)
    }
}

/// Copies the mount of a path into one that is attached nowhere; the path is
/// its root.
///
/// # Errors
/// As open_tree(2): `EINVAL` before Linux 6.15 where `dir` is itself on a mount
/// that is attached nowhere.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    open_tree(dir, path, 0)
}

/// Copies the mount of a directory, from that directory down and with all that
/// is mounted below it, into a tree that is attached nowhere.
///
/// Nothing that is mounted or unmounted elsewhere later changes the copy.
///
/// # Errors
/// As open_tree(2): `EPERM` without `CAP_SYS_ADMIN` over the mount namespace.
pub fn clone_tree(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let below = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let tree = open_tree(dir, Path::new(""), below)?;
    // Else what is mounted on the original would appear in the copy.
    let attr =
        libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    mount_setattr(tree.as_fd(), Path::new(""), below, &attr)?;
    Ok(tree)
}

/// `flags` are `AT_*` flags.
fn open_tree(dir: BorrowedFd<'_>, path: &Path, flags: c_int) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags.cast_unsigned();
    let fd = path.with_nix_path(|path| {
        // SAFETY: the path ends with a NUL.
        unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) }
    })?;
    own(fd)
}

/// Attaches a mount to a directory.
///
/// # Errors
/// As move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let done = target.with_nix_path(|target| {
        // SAFETY: both paths end with a NUL.
        unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                mount.as_raw_fd(),
                c"".as_ptr(),
                AT_FDCWD.as_raw_fd(),
                target.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        }
    })?;
    Ok(Errno::result(done).map(drop)?)
}

/// What to set and what to clear of a mount: `MOUNT_ATTR_*` flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Those that it gets.
    pub set: u64,
    /// Those that it loses.
    pub clear: u64,
}

/// Changes the attributes of mounts that are attached nowhere, one and all below it.
///
/// # Errors
/// As mount_setattr(2): `EPERM` for flags that are locked, as in a user namespace
/// all are that it has found; then none of them has changed.
pub fn change_tree(tree: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    let Attributes { set, clear } = attributes;
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    mount_setattr(tree, Path::new(""), libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &attr)
}

/// Changes the attributes of the mount at a path, and of none below it:
/// `MOUNT_ATTR_*` flags.
///
/// # Errors
/// As mount_setattr(2): `EINVAL` if nothing is mounted right there, `EPERM`
/// for flags that are locked, or without the privilege.
pub fn change_attributes(target: &Path, set: u64, clear: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    mount_setattr(AT_FDCWD, target, 0, &attr)
}

/// Gives a mount that is attached nowhere the id map of a user namespace.
///
/// # Errors
/// As mount_setattr(2): `EINVAL` for a file system that cannot, `EPERM` where
/// the mount has a map already, or without `CAP_SYS_ADMIN` over both.
pub fn idmap(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = namespace.as_raw_fd().cast_unsigned().into();
    let attr_set = libc::MOUNT_ATTR_IDMAP;
    let attr = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd };
    mount_setattr(mount, Path::new(""), libc::AT_EMPTY_PATH, &attr)
}

/// Gives mounts that are attached nowhere, one and all below it, the id map of a
/// user namespace, and changes their attributes: `MOUNT_ATTR_*` flags.
///
/// # Errors
/// As [`idmap`]; then none of them has changed.
pub fn idmap_tree(
    tree: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    let userns_fd = namespace.as_raw_fd().cast_unsigned().into();
    let attr_set = set | libc::MOUNT_ATTR_IDMAP;
    let attr = libc::mount_attr { attr_set, attr_clr: clear, propagation: 0, userns_fd };
    mount_setattr(tree, Path::new(""), libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &attr)
}

/// `flags` are `AT_*` flags.
fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: c_int,
    attr: &libc::mount_attr,
) -> io::Result<()> {
    let (attr, size) = (&raw const *attr, size_of::<libc::mount_attr>());
    let done = path.with_nix_path(|path| {
        // SAFETY: the path ends with a NUL; `attr` is the kernel's structure, with its size.
        unsafe {
            let (dir, path) = (dir.as_raw_fd(), path.as_ptr());
            libc::syscall(libc::SYS_mount_setattr, dir, path, flags, attr, size)
        }
    })?;
    Ok(Errno::result(done).map(drop)?)
}

/// Holds what is mounted at a path, without asking whoever serves it. Follows symbolic
/// links but the last.
///
/// # Errors
/// As open(2).
pub fn hold(target: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(target, flags, Mode::empty())?)
}

/// Returns a path that leads to what a descriptor holds, where there is `/proc`.
pub fn path_of(held: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// Writes what is cached of a file system to it.
///
/// # Errors
/// As syncfs(2).
pub fn sync(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the call takes a number only.
    let done = unsafe { libc::syncfs(file.as_fd().as_raw_fd()) };
    Ok(Errno::result(done).map(drop)?)
}

fn own(fd: c_long) -> io::Result<OwnedFd> {
    let fd = c_int::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the call has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
