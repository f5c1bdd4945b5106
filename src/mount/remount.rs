//! Changing the flags of a mount that is there.

use std::path::Path;

use super::check::resolve;
use super::error::MountError;
use super::options::Flags;
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{mount as kernel, statmount};

/// What becomes of flags that are not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsaid {
    /// They stay as they are.
    Stays,
    /// They are as by default: mount(8) passes all that are to be in force, of fstab and
    /// of its command line, as it does for any file system.
    Default,
}

/// Changes the flags of the mount of ours at a path, of the overlay above
/// one, or of the kernel's idmapped one with what was copied below it.
///
/// What the source's own mount has read-only stays read-only: mount(8) says `rw` by
/// itself. What else it forbids is lifted by name alone.
///
/// # Errors
/// `NotMounted` unless ours is what is mounted there; else as
/// mount_setattr(2): `EPERM` without privilege over the mount namespace.
pub fn remount(target: &Path, flags: Flags, unsaid: Unsaid) -> Result<(), MountError> {
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    let point = resolve(target).map_err(failed)?;
    let table = mountinfo::mounts().map_err(failed)?;
    let said = flags.attributes();
    let change = match unsaid {
        Unsaid::Stays => said,
        Unsaid::Default => flags.with_defaults_of_a_remount().attributes(),
    };
    let changed = |mount: &Mount, kept: u64| {
        // Before Linux 5.14 it is no attribute.
        let follows = if mount.has("nosymfollow") { 0 } else { libc::MOUNT_ATTR_NOSYMFOLLOW };
        kernel::change_attributes(&mount.point, change.set, change.clear & !kept & !follows)
            .map_err(|why| MountError::Remount { path: target.to_owned(), why })
    };
    match table.iter().rfind(|mount| mount.point == point) {
        Some(mount) if mount.is_ours() => changed(mount, 0),
        Some(mount) if mount.is_idmapped() => copies(&table, &point).try_for_each(|mount| {
            let lifted = said.clear & !libc::MOUNT_ATTR_RDONLY;
            changed(mount, forbidden(&table, mount) & !lifted)
        }),
        Some(_) | None => Err(MountError::NotMounted(target.to_owned())),
    }
}

/// Returns the idmapped mount at a path, and those below it that were copied with it:
/// these have the same map. What others have mounted there since is theirs.
///
/// Where the kernel tells no maps, before Linux 6.15, each idmapped one counts as copied.
fn copies<'a>(table: &'a [Mount], point: &'a Path) -> impl Iterator<Item = &'a Mount> {
    let map = |point: &Path| statmount::id_maps(point).ok().flatten();
    let ours = map(point);
    let on_top =
        |mount: &&Mount| table.iter().rfind(|other| other.point == mount.point) == Some(*mount);
    table
        .iter()
        .filter(move |mount| mount.is_idmapped() && mount.point.starts_with(point))
        .filter(on_top)
        .filter(move |mount| mount.point == point || map(&mount.point) == ours)
}

/// Returns what is forbidden without an idmapped mount to who uses what it shows: by any
/// mount that shows it without a map, since each of them may have been the source. If
/// there is none, all of it may be.
fn forbidden(table: &[Mount], mount: &Mount) -> u64 {
    let shows = |plain: &&Mount| plain.place_of(mount.device, &mount.root).is_some();
    let plain: Vec<&Mount> =
        table.iter().filter(|plain| !plain.is_idmapped()).filter(shows).collect();
    let flags = [
        (libc::MOUNT_ATTR_RDONLY, "ro"),
        (libc::MOUNT_ATTR_NOEXEC, "noexec"),
        (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
    ];
    let has = |word: &str| plain.is_empty() || plain.iter().any(|plain| plain.has(word));
    flags.into_iter().filter(|(_, word)| has(word)).map(|(bit, _)| bit).sum()
}
