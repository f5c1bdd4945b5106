//! Whose the files are that an overlay is to change: it sets the owner of what it copies.

use std::io;
use std::time::Duration;

use crate::id::{Disk, Id, Kind, NO_ID, View};
use crate::mount::error::MountError;
use crate::policy::{Pipeline, Policy};
use crate::source::image::{Image, Survey, survey};
use crate::sys::id_map::IdMap;

/// How long the files of an image are looked at before it is mounted.
const LOOKING: Duration = Duration::from_secs(2);

/// Reports whether the user namespace of a process has all ids as they are on the host.
///
/// # Errors
/// As read(2) of its maps.
pub(in crate::mount) fn is_of_the_host(process: &str) -> io::Result<bool> {
    Ok(IdMap::read(process, "uid")?.is_whole() && IdMap::read(process, "gid")?.is_whole())
}

/// Checks that a policy shows all files of an image with ids, and that a user namespace
/// has these: a file of others could not be changed, nor what is in such a directory.
///
/// `process` is a process in the namespace, by its name in `/proc`.
///
/// # Errors
/// `Unmapped`, `Outside`: one of them is not there.
pub(in crate::mount) fn reaches(
    image: &dyn Image,
    policy: &Pipeline,
    process: &str,
) -> Result<(), MountError> {
    let failed = MountError::doing("user namespace");
    let users = IdMap::read(process, "uid").map_err(&failed)?;
    let groups = IdMap::read(process, "gid").map_err(&failed)?;
    let spec = policy.spec();
    let identity = spec.users().shows_identity() && spec.groups().shows_identity();
    if identity && users.is_whole() && groups.is_whole() {
        return Ok(());
    }
    let Survey { owners, all } = survey(image, LOOKING);
    let policy: &dyn Policy = policy;
    let lacking = owners.into_iter().filter_map(|disk| {
        let shown = policy.present_owner(disk);
        lack(disk.uid, shown.uid, &users).or_else(|| lack(disk.gid, shown.gid, &groups))
    });
    if let Some((_, error)) = lacking.min_by_key(|(id, _)| *id) {
        return Err(error);
    }
    if !all {
        log::warn!(
            "upper: the image has more files than could be looked at; those of ids that the policy \
             or this user namespace has not are shown as nobody's, and cannot be changed"
        );
    }
    Ok(())
}

/// Returns an id that is shown as nobody's, and the error that says why.
fn lack<K: Kind>(
    disk: Option<Id<K, Disk>>,
    shown: Option<Id<K, View>>,
    map: &IdMap,
) -> Option<(u32, MountError)> {
    let (word, disk) = (K::WORD, disk.map_or(NO_ID, Id::raw));
    let Some(shown) = shown.map(Id::raw) else {
        return Some((disk, MountError::Unmapped(format!("{word} {disk}"))));
    };
    if map.outside(shown).is_some() {
        return None;
    }
    let moved = if shown == disk { String::new() } else { format!(", shown as {shown}") };
    Some((disk, MountError::Outside(format!("{word} {disk}{moved}"))))
}
