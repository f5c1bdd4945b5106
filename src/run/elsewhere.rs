//! A command beside a mount in the namespaces of another process: `run --in`.
//!
//! The command stays in the namespaces it was started in, in an empty directory, and
//! is to be one that enters the others by itself, as podman does: there the same path
//! is the mount. When the command has ended the directory is removed, which takes the
//! mount away too; the server ends with its last user, so that a container that was
//! left running keeps its files.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, kill};
use nix::unistd::{Pid, geteuid, getpid};

use super::error::RunError;
use super::server;
use crate::mount::{self, Options, Within};
use crate::sys::process::{Fork, fork};
use crate::text::shown;

/// What the names of the directories begin with; the process id follows.
const PREFIX: &str = "view-";

/// Makes the directory that a mount of this process is to be put over, and removes
/// those whose processes have been killed.
///
/// # Errors
/// Nothing can be made in the runtime directory of this user.
pub fn place() -> Result<PathBuf, RunError> {
    let parent = mount::runtime().join("idmapfs");
    let failed = |path: &Path, why| RunError::Place { path: path.to_owned(), why };
    make(&parent).map_err(|why| failed(&parent, why))?;
    let found = fs::symlink_metadata(&parent).map_err(|why| failed(&parent, why))?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(failed(&parent, io::Error::other("is somebody else's, or open to others")));
    }
    sweep(&parent);
    let place = parent.join(format!("{PREFIX}{}", getpid()));
    make(&place).map_err(|why| failed(&place, why))?;
    Ok(place)
}

fn make(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes what killed processes have left.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<i32>().ok());
        if let Some(pid) = pid.filter(|pid| *pid > 0)
            && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
        {
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

/// Makes the mount of these options, whose target is a [`place`], in the namespaces of
/// another process, and runs a command beside it; returns its exit status.
///
/// In the child that makes the mount this returns too, with its exit status.
///
/// # Errors
/// The mount cannot be made, or the command not be started.
pub fn run(options: &Options, within: &Within, command: &[OsString]) -> Result<u8, RunError> {
    let place = &options.target;
    let made = match fork().map_err(RunError::doing("fork"))? {
        Fork::Child => return there(options.clone(), within),
        Fork::Parent(child) => server::reap(child),
    };
    if matches!(made, Ok(0)) {
        return beside(place, command);
    }
    // It has said why.
    clear(place);
    made
}

/// Mounts in the other namespaces, served by a process of its own.
fn there(mut options: Options, within: &Within) -> Result<u8, RunError> {
    options.within = Some(mount::enter(within).map_err(mount::MountError::from)?);
    mount::mount(&options)?;
    Ok(0)
}

/// Runs the command and passes signals on to it.
fn beside(place: &Path, command: &[OsString]) -> Result<u8, RunError> {
    let before = SigSet::thread_get_mask().map_err(RunError::doing("signal mask"))?;
    server::signals().thread_block().map_err(RunError::doing("signal mask"))?;
    match fork().map_err(RunError::doing("fork"))? {
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
