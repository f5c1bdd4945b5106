//! Changing the flags of a mount that is there.

use std::path::Path;

use super::check::resolve;
use super::error::MountError;
use super::options::Flags;
use crate::sys::{mount, mountinfo};

/// Changes the flags that are given of the mount of ours at a path; the others
/// stay as they are.
///
/// # Errors
/// `NotMounted` unless ours is what is mounted there; else as
/// mount_setattr(2): `EPERM` without privilege over the mount namespace.
pub fn remount(target: &Path, flags: Flags) -> Result<(), MountError> {
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    let point = resolve(target).map_err(failed)?;
    let there = mountinfo::mount_at(&point).map_err(failed)?;
    if !there.is_some_and(|mount| mountinfo::is_ours(&mount.fstype)) {
        return Err(MountError::NotMounted(target.to_owned()));
    }
    let change = flags.attributes();
    mount::change_attributes(&point, change.set, change.clear)
        .map_err(|why| MountError::Remount { path: target.to_owned(), why })
}
