//! Where records are kept, and which of them are live.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::{ControlError, Record};

/// The extension of a record's file.
pub(super) const RECORD: &str = "json";
/// The extension of a mount's socket.
pub(super) const SOCKET: &str = "sock";

/// How long who makes or removes a record may keep others from its directory.
const TURN: Duration = Duration::from_millis(500);

/// How long is waited before a directory in which others give names is looked at again.
const PAUSE: Duration = Duration::from_millis(1);

/// The longest record that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The directory of the system, and the mode it is made with: anyone may read
/// which mounts there are.
pub(super) const SYSTEM: (&str, u32) = ("/run/idmapfs", 0o755);

/// Returns the directory of this user, making it if need be.
///
/// Root of a user namespace may be unable to write to the system's; it then
/// uses its own.
///
/// # Errors
/// If there is no directory for it, or others can write to it.
pub fn own() -> Result<PathBuf, ControlError> {
    if geteuid().is_root() {
        match make(Path::new(SYSTEM.0), SYSTEM.1) {
            Ok(()) => return Ok(SYSTEM.0.into()),
            Err(error) => log::debug!("{error}"),
        }
    }
    let dir = runtime().ok_or_else(|| {
        ControlError::Nowhere(io::Error::new(io::ErrorKind::NotFound, "XDG_RUNTIME_DIR is not set"))
    })?;
    make(&dir, 0o700)?;
    Ok(dir)
}

pub(super) fn runtime() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    dir.filter(|dir| dir.is_absolute()).map(|dir| dir.join("idmapfs"))
}

/// Returns where mounts of this user are known, and those of another one, if one is named:
/// the directories that nobody else can put something into.
pub(super) fn of_users(user: Option<u32>) -> impl Iterator<Item = PathBuf> {
    let own = geteuid().as_raw();
    // Root looks where the mounts of that user are listed, as systemd has it.
    let theirs = user.map(|user| PathBuf::from(format!("/run/user/{user}/idmapfs")));
    let dirs = [Some(SYSTEM.0.into()), runtime(), theirs].into_iter().flatten();
    // In one that somebody else has, anything could answer.
    dirs.filter(move |dir| is_kept_by(dir, &[0, own, user.unwrap_or(own)]).unwrap_or(false))
}

/// Makes a directory unless it is there, and checks that nobody else can put
/// something into it.
pub(super) fn make(dir: &Path, mode: u32) -> Result<(), ControlError> {
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => {
            // The umask of a server is 0, that of other programs is not.
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(dir, permissions).map_err(|why| file(dir, why))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(ControlError::Nowhere(error)),
    }
    if is_kept_by(dir, &[geteuid().as_raw()])? {
        Ok(())
    } else {
        Err(ControlError::Unsafe(dir.to_owned()))
    }
}

/// Reports whether this is a directory that one of these users has, and nobody
/// else can put something into.
pub(super) fn is_kept_by(dir: &Path, users: &[u32]) -> Result<bool, ControlError> {
    let found = std::fs::symlink_metadata(dir).map_err(|why| file(dir, why))?;
    Ok(found.is_dir() && users.contains(&found.uid()) && found.mode() & 0o022 == 0)
}

/// Returns the socket of a mount that is known in a directory.
pub(super) fn socket(dir: &Path, connection: u32) -> PathBuf {
    dir.join(connection.to_string()).with_extension(SOCKET)
}

/// Makes the error of a file.
pub(super) fn file(path: &Path, why: io::Error) -> ControlError {
    ControlError::File { path: path.to_owned(), why }
}

/// Returns the live mounts that this user can see: the system's and the own
/// ones. What killed servers have left is removed where that is allowed.
///
/// # Errors
/// As readdir(3), for a directory that is there.
pub fn live() -> Result<Vec<Record>, ControlError> {
    let mut records = Vec::new();
    for dir in [Some(PathBuf::from(SYSTEM.0)), runtime()].into_iter().flatten() {
        live_in(&dir, &mut records)?;
    }
    Ok(records)
}

/// Adds the live mounts of one directory. In one that somebody else has, as
/// where root was left with the environment of a user, any process could be
/// named as a server.
pub(super) fn live_in(dir: &Path, records: &mut Vec<Record>) -> Result<(), ControlError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file(dir, error)),
    };
    if !is_kept_by(dir, &[0, geteuid().as_raw()])? {
        log::debug!("{}: belongs to somebody else, and is not read", dir.display());
        return Ok(());
    }
    for entry in entries {
        let path = entry.map_err(|why| file(dir, why))?.path();
        if path.extension() == Some(OsStr::new(RECORD)) {
            records.extend(read(&path));
        }
    }
    Ok(())
}

/// Reads a record; `None` if it is stale or cannot be read.
pub(super) fn read(path: &Path) -> Option<Record> {
    match held(path)? {
        Ok(record) => parsed(record),
        Err(stale) => {
            remove(path, &stale);
            None
        }
    }
}

/// Does the same, but removes nothing: in another user's directory, that user may have the
/// path lead elsewhere at any moment.
pub(super) fn look(path: &Path) -> Option<Record> {
    held(path)?.ok().and_then(parsed)
}

/// Opens a record, if it can be read; the error is one that no server holds.
fn held(path: &Path) -> Option<Result<File, Flock<File>>> {
    // Neither a link is followed nor a fifo waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let record = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !record.metadata().ok()?.is_file() {
        return None;
    }
    Some(match Flock::lock(record, FlockArg::LockSharedNonblock) {
        Ok(stale) => Err(stale),
        Err((record, _held_by_its_server)) => Ok(record),
    })
}

fn parsed(record: File) -> Option<Record> {
    let mut text = String::new();
    record.take(LONGEST).read_to_string(&mut text).ok()?;
    Record::from_text(&text).ok()
}

/// Reports whether a path still leads to this file.
pub(super) fn is_at(path: &Path, record: &File) -> bool {
    let same = || -> io::Result<bool> {
        let (there, ours) = (std::fs::symlink_metadata(path)?, record.metadata()?);
        Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    };
    same().unwrap_or(false)
}

/// Keeps others from giving names in a directory of records, and from taking them away, or
/// does without after a while: anybody may read the system's, and so have it for long.
pub(super) fn alone(dir: &Path) -> Option<Flock<File>> {
    let until = Instant::now().checked_add(TURN)?;
    let mut dir = File::open(dir).ok()?;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => return Some(alone),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < until => dir = again,
            Err(_) => return None,
        }
        thread::sleep(PAUSE);
    }
}

/// Removes a record that no server has any more, and the socket beside it, unless another
/// one has taken the name since: none may while this is at it.
pub(super) fn remove(path: &Path, record: &File) {
    let Some(dir) = path.parent().filter(|_| is_at(path, record)) else { return };
    if !is_kept_by(dir, &[geteuid().as_raw()]).unwrap_or(false) {
        return;
    }
    // Else it is left to who comes next.
    let Some(_alone) = alone(dir) else { return };
    if !is_at(path, record) {
        return;
    }
    for stale in [path.with_extension(SOCKET), path.to_owned()] {
        if let Err(error) = std::fs::remove_file(&stale) {
            log::debug!("{}: {error}", stale.display());
        }
    }
}
