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
use crate::sys::mountinfo;

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
    let number = connection(point)?;
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

/// Returns the number of the connection: from the mount table, or for a mount
/// of another mount namespace from what its server has written down.
fn connection(point: &Path) -> Result<u32, ControlError> {
    let path = std::path::absolute(point).unwrap_or_else(|_| point.to_owned());
    if let Some(number) = known(&path)? {
        return Ok(number);
    }
    let number = resolved(&path).map_or(Ok(None), |path| known(&path))?;
    number.ok_or_else(|| ControlError::Unknown(point.to_owned()))
}

/// Returns the number of the connection of the mount at a path, as written.
fn known(path: &Path) -> Result<Option<u32>, ControlError> {
    let in_table = mountinfo::mount_at(path)
        .map_err(|why| super::directory::file(Path::new("/proc/thread-self/mountinfo"), why))?
        .filter(|mount| mountinfo::is_ours(&mount.fstype));
    if let Some(mount) = in_table {
        return Ok(Some(mount.device.1));
    }
    let records = live()?;
    Ok(records.iter().find(|record| record.target == path).map(|record| record.connection))
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
