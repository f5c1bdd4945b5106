//! The way out of a mount whose server hangs: fusectl's `abort`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::ControlError;
use super::directory::live;
use crate::sys::mount::Context;
use crate::sys::mountinfo::{self, Mount};

/// Where the kernel's list of connections is usually mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Ends the connection of the mount at a path: whoever waits for its server
/// gets an error, and so does its server. The mount stays, dead, until it is
/// unmounted.
///
/// Where the kernel's list is out of reach, as for an ordinary user on a system
/// that has not mounted it, the server is killed instead. Nothing here asks the
/// mount for anything, or waits for its server.
///
/// # Errors
/// `Unknown` if no mount of ours is there, `Abort` if this user may not.
pub fn abort(point: &Path) -> Result<(), ControlError> {
    abort_connection(find(point)?.connection)
}

/// Does the same for a connection by its number.
///
/// # Errors
/// `Abort` if this user may not.
pub fn abort_connection(number: u32) -> Result<(), ControlError> {
    let aborted = open_abort(number)
        .or_else(|error| {
            let unlisted = error.kind() == io::ErrorKind::NotFound;
            if unlisted { open_in_private_list(number) } else { Err(error) }
        })
        .and_then(|file| (&file).write_all(b"1"));
    let Err(why) = aborted else { return Ok(()) };
    match live()?.iter().find(|record| record.connection == number) {
        Some(record) if record.kill().is_ok() => Ok(()),
        _ => Err(ControlError::Abort { number, why }),
    }
}

/// A mount, as it is found by its mount point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The number of the connection.
    pub(super) connection: u32,
    /// Who has mounted it; `None` where only its record is known.
    pub(super) user: Option<u32>,
}

/// Finds a mount: in the mount table, or for one of another mount namespace in
/// what its server has written down.
///
/// # Errors
/// `Unknown` if no mount of ours is there; `Kernel` if the kernel's is there.
pub(super) fn find(point: &Path) -> Result<Found, ControlError> {
    let path = std::path::absolute(point).unwrap_or_else(|_| point.to_owned());
    if let Some(found) = known(&path)? {
        return Ok(found);
    }
    let resolved = resolved(&path).unwrap_or(path);
    if let Some(found) = known(&resolved)? {
        return Ok(found);
    }
    let point = point.to_owned();
    Err(match in_table(&resolved)? {
        Some(mount) if mount.is_idmapped() => ControlError::Kernel(point),
        _ => ControlError::Unknown(point),
    })
}

fn in_table(path: &Path) -> Result<Option<Mount>, ControlError> {
    mountinfo::mount_at(path)
        .map_err(|why| super::directory::file(Path::new("/proc/thread-self/mountinfo"), why))
}

/// Finds the mount at a path, as written.
fn known(path: &Path) -> Result<Option<Found>, ControlError> {
    let ours = in_table(path)?.filter(|mount| mountinfo::is_ours(&mount.fstype));
    if let Some(mount) = ours {
        return Ok(Some(Found { connection: mount.device.1, user: mount.user_id() }));
    }
    let records = live()?;
    let known = records.iter().find(|record| record.target.as_deref() == Some(path));
    Ok(known.map(|record| Found { connection: record.connection, user: None }))
}

/// Returns a path that is free of symbolic links, but for its last step:
/// resolving that one would ask the mount.
///
/// Only for a path that is not known as it is: a mount on the way may hang too.
fn resolved(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?.canonicalize().ok()?;
    Some(parent.join(path.file_name()?))
}

fn open_abort(number: u32) -> io::Result<File> {
    File::options().write(true).open(format!("{CONNECTIONS}/{number}/abort"))
}

/// Opens the file in an instance of the list that is mounted nowhere.
fn open_in_private_list(number: u32) -> io::Result<File> {
    let context = Context::open(c"fusectl")?;
    context.create()?;
    let list: OwnedFd = context.mount(0)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(&list, format!("{number}/abort").as_str(), flags, Mode::empty())?;
    Ok(File::from(file))
}
