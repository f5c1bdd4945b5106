//! A source as it is on disk: its root, and what rules ask of a file in it.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode as Bits;

use crate::attr::{Attr, FileKind, Mode};
use crate::id::{Disk, Id, Owner};
use crate::policy::rules::Subject;
use crate::sys::stat::Stat;

/// Opens the root of a source.
///
/// # Errors
/// As open(2).
pub fn open_root(source: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, source, flags, Bits::empty())
}

/// Returns what rules ask of a file; `None` for a kind that is not known.
pub fn subject(found: &Stat) -> Option<Subject> {
    Some(Subject {
        kind: FileKind::from_mode(found.mode)?,
        owner: Owner { uid: Id::new(found.uid), gid: Id::new(found.gid) },
        mode: Mode::new(found.mode),
    })
}

/// Returns what rules ask of a file of an image.
pub fn of(attr: &Attr<Disk>) -> Subject {
    Subject { kind: attr.kind, owner: attr.owner, mode: attr.mode }
}
