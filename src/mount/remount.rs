//! Changing the flags of a mount that is there.

use std::path::Path;

use super::check::resolve;
use super::error::MountError;
use super::options::Flags;
use crate::sys::mount::{self, Reach};
use crate::sys::mountinfo;

/// Changes the flags that are given of the mount of ours at a path, or of the
/// kernel's idmapped one; the others stay as they are.
///
/// # Errors
/// `NotMounted` unless ours is what is mounted there; else as
/// mount_setattr(2): `EPERM` without privilege over the mount namespace.
pub fn remount(target: &Path, flags: Flags) -> Result<(), MountError> {
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    let point = resolve(target).map_err(failed)?;
    let there = mountinfo::mount_at(&point).map_err(failed)?;
    let reach = match there {
        Some(mount) if mountinfo::is_ours(&mount.fstype) => Reach::One,
        // With it, mounts below the source were copied.
        Some(mount) if mount.is_idmapped() => Reach::Tree,
        Some(_) | None => return Err(MountError::NotMounted(target.to_owned())),
    };
    let change = flags.attributes();
    mount::change_attributes(&point, reach, change.set, change.clear)
        .map_err(|why| MountError::Remount { path: target.to_owned(), why })
}
