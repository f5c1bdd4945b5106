//! Changing the flags of a mount that is there.

use std::path::Path;

use super::check::resolve;
use super::error::MountError;
use super::options::Flags;
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{mount as kernel, statmount};

/// Changes the flags that are given of the mount of ours at a path, of the overlay above
/// one, or of the kernel's idmapped one with what was copied below it; the others stay as they are.
///
/// What the source's own mount has read-only stays read-only: mount(8) says `rw` by
/// itself.
///
/// # Errors
/// `NotMounted` unless ours is what is mounted there; else as
/// mount_setattr(2): `EPERM` without privilege over the mount namespace.
pub fn remount(target: &Path, flags: Flags) -> Result<(), MountError> {
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    let point = resolve(target).map_err(failed)?;
    let table = mountinfo::mounts().map_err(failed)?;
    let change = flags.attributes();
    let changed = |point: &Path, clear| {
        kernel::change_attributes(point, change.set, clear)
            .map_err(|why| MountError::Remount { path: target.to_owned(), why })
    };
    match table.iter().rfind(|mount| mount.point == point) {
        Some(mount) if mount.is_ours() => changed(&point, change.clear),
        Some(mount) if mount.is_idmapped() => copies(&table, &point).try_for_each(|mount| {
            let kept = if is_writable(&table, mount) { 0 } else { libc::MOUNT_ATTR_RDONLY };
            changed(&mount.point, change.clear & !kept)
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

/// Reports whether what an idmapped mount shows can be written to without it: by every
/// mount that shows it without a map, since any of them may have been the source.
fn is_writable(table: &[Mount], mount: &Mount) -> bool {
    let shows = |plain: &&Mount| plain.place_of(mount.device, &mount.root).is_some();
    let mut plain = table.iter().filter(|plain| !plain.is_idmapped()).filter(shows).peekable();
    plain.peek().is_some() && plain.all(|plain| !plain.has("ro"))
}
