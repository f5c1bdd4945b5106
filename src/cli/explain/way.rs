//! The files on the way from the source's root to one below it, as they are on
//! disk.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::super::disk::{of, subject};
use crate::acl::{Acl, AclKind};
use crate::attr::Name;
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::policy::rules::Subject;
use crate::source::image::ImageSource;
use crate::source::{Found, Node, Source as _};
use crate::sys::stat::stat;
use crate::sys::xattr;

/// A file on the way.
#[derive(Debug)]
pub struct Step {
    /// Its name; that of the root is empty.
    pub name: OsString,
    /// What it is.
    pub subject: Subject,
    /// Its access ACL, if it has one.
    pub acl: Option<Acl<Disk>>,
}

/// Where the files of a source are.
#[derive(Debug)]
pub enum Root {
    /// Below a directory.
    Directory(OwnedFd),
    /// In an image.
    Image(Box<ImageSource>),
}

/// Returns the files on the way to a path, from the root on. No step leads
/// outside; symbolic links are followed, but the last one, and none in an image.
///
/// An absolute path is one below any of `tops`: by which the root is known.
///
/// # Errors
/// As open(2), `EXDEV` for a path that leads out of the source.
pub fn way(root: &Root, tops: &[&Path], path: &Path) -> nix::Result<Vec<Step>> {
    let mut below = tops.iter().filter_map(|top| path.strip_prefix(top).ok());
    let below: PathBuf = match below.next() {
        Some(below) if path.is_absolute() => below.components().collect(),
        _ => path.to_owned(),
    };
    match root {
        Root::Directory(root) => way_below(root, &below),
        Root::Image(image) => {
            way_in(image, &below).map_err(|error| Errno::from_raw(error.errno().0))
        }
    }
}

fn way_in(image: &ImageSource, below: &Path) -> Result<Vec<Step>> {
    let step = |name: &OsStr, node: &Node, found: &Found| -> Result<Step> {
        let acl = match image.acl(node, AclKind::Access) {
            Err(Error::Unsupported) => None,
            acl => acl?,
        };
        Ok(Step { name: name.to_owned(), subject: of(&found.attr), acl })
    };
    let (mut node, found) = image.root()?;
    let mut steps = vec![step(OsStr::new(""), &node, &found)?];
    for part in below.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Errno::EXDEV.into());
            }
        };
        let (next, found) = image.reach(&node, Name::new(name)?)?;
        steps.push(step(name, &next, &found)?);
        node = next;
    }
    Ok(steps)
}

fn way_below(root: &OwnedFd, below: &Path) -> nix::Result<Vec<Step>> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let end = open_below(root, below, ResolveFlag::empty())?;
    let real = place(end.as_fd())?.strip_prefix(place(root.as_fd())?).map(Path::to_owned);
    let real = real.map_err(|_| Errno::EXDEV)?;
    let mut steps = vec![step(OsStr::new(""), root.as_fd())?];
    let mut so_far = PathBuf::new();
    for part in real.components() {
        let Component::Normal(name) = part else { return Err(Errno::EXDEV) };
        so_far.push(name);
        // It is the way that was just found, unless somebody moves it.
        let fd = open_below(root, &so_far, ResolveFlag::RESOLVE_NO_SYMLINKS)?;
        steps.push(step(name, fd.as_fd())?);
    }
    Ok(steps)
}

fn open_below(root: &OwnedFd, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | resolve);
    openat2(root, path, how)
}

/// Returns the path of an open file.
fn place(fd: BorrowedFd<'_>) -> nix::Result<PathBuf> {
    nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).map(PathBuf::from)
}

fn step(name: &OsStr, fd: BorrowedFd<'_>) -> nix::Result<Step> {
    let found = stat(fd, OsStr::new(""))?;
    let subject = subject(&found).ok_or(Errno::EINVAL)?;
    let acl = match xattr::get(xattr::Way::Link(fd), OsStr::new(AclKind::Access.xattr())) {
        Ok(value) => Acl::decode(&value).map_err(|_| Errno::EIO)?,
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => None,
        Err(errno) => return Err(errno),
    };
    Ok(Step { name: name.to_owned(), subject, acl })
}
