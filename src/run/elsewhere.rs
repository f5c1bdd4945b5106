//! A command beside a mount in the namespaces of another process: `run --in`.
//!
//! The command stays in the namespaces it was started in, in an empty directory, and
//! is to be one that enters the others by itself, as podman does: there the same path
//! is the mount. When the command has ended the directory is removed, which takes the
//! mount away too; the server ends with its last user, so that a container that was
//! left running keeps its files.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::getpid;

use super::error::RunError;
use super::server;
use crate::mount::{self, Options, Stay, Within};
use crate::sys::file::try_lock;
use crate::sys::process::{Fork, fork};
use crate::text::shown;

/// What the names of the directories begin with; a process id and a number follow.
const PREFIX: &str = "view-";

/// How often it is tried to make a directory.
const TRIES: usize = 64;

/// The directory that a mount is to be put over. It is locked by flock(2): one that nobody
/// holds was left by a process that has been killed.
#[derive(Debug)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// Children have copies of it, which are to be closed, but not to unlock it.
    lock: File,
}

/// Makes a place of this process, and removes those whose processes have been
/// killed.
///
/// # Errors
/// Nothing can be made in the runtime directory of this user.
pub fn place() -> Result<Place, RunError> {
    let parent = mount::runtime().map_err(mount::MountError::from)?.join("idmapfs");
    let failed = |path: &Path, why| RunError::Place { path: path.to_owned(), why };
    match make(&parent) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(&parent, why));
        }
        Ok(()) | Err(_) => {}
    }
    mount::own_directory(&parent).map_err(|why| failed(&parent, why))?;
    sweep(&parent);
    // A process in another pid namespace may have the same number.
    for number in 0..TRIES {
        let path = parent.join(format!("{PREFIX}{}.{number}", getpid()));
        match make(&path) {
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(|why| failed(&path, why))?,
        }
        // Else somebody who sweeps has been faster.
        if let Some(lock) = hold(&path).map_err(|why| failed(&path, why))? {
            return Ok(Place { path, lock });
        }
    }
    Err(failed(&parent, Errno::EBUSY.into()))
}

fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)
}

/// Takes the lock of a directory; `None` if another holds it, or it is not there any
/// more.
fn hold(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let dir = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // Whoever held it before may have removed it.
    let held = try_lock(dir.as_fd())? && dir.metadata()?.nlink() > 0;
    Ok(held.then_some(dir))
}

/// Removes what killed processes have left.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_place = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_place && let Ok(Some(_lock)) = hold(&entry.path()) {
            clear(&entry.path());
        }
    }
}

/// Removes a directory, and with it what is mounted on it in other namespaces.
fn clear(place: &Path) {
    if let Err(error) = fs::remove_dir(place) {
        log::warn!("{}: {error}", shown(place));
    }
}

/// Makes the mount of these options, whose target is this place, in the namespaces of
/// another process, and runs a command beside it; returns its exit status.
///
/// In the child that makes the mount this returns too, with its exit status.
///
/// # Errors
/// The mount cannot be made, or the command not be started.
pub fn run(
    options: &Options,
    place: Place,
    within: &Within,
    command: &[OsString],
) -> Result<u8, RunError> {
    let Place { path, lock } = place;
    let made = match fork().map_err(RunError::no_process)? {
        Fork::Child => {
            // The server may stay for longer.
            drop(lock);
            return there(options.clone(), within);
        }
        Fork::Parent(child) => server::reap(child),
    };
    let done = if matches!(made, Ok(0)) {
        beside(&path, command)
    } else {
        // It has said why.
        clear(&path);
        made
    };
    drop(lock);
    done
}

/// Mounts in the other namespaces, served by a process of its own.
fn there(mut options: Options, within: &Within) -> Result<u8, RunError> {
    let entered = mount::enter(within).map_err(mount::MountError::from)?;
    options.within = Some(mount::Entered { stay: Stay::Users, ..entered });
    mount::mount(&options)?;
    Ok(0)
}

/// Runs the command and passes signals on to it.
fn beside(place: &Path, command: &[OsString]) -> Result<u8, RunError> {
    let before = SigSet::thread_get_mask().map_err(RunError::doing("signal mask"))?;
    server::signals().thread_block().map_err(RunError::doing("signal mask"))?;
    match fork().map_err(RunError::no_process)? {
        Fork::Parent(child) => {
            let done = server::wait(child);
            clear(place);
            done
        }
        Fork::Child => {
            before.thread_set_mask().map_err(RunError::doing("signal mask"))?;
            let (program, rest) = command.split_first().ok_or(RunError::Alone)?;
            let mut command = Command::new(program);
            let why = command.args(rest).current_dir(place).env("PWD", place).exec();
            Err(RunError::Exec { command: program.clone(), why })
        }
    }
}
