//! The process that becomes the command: it makes the mount in namespaces of
//! its own, hands the device to the server, and changes into the command.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, fchdir, getppid, setgroups, setresgid, setresuid};

use super::Private;
use super::error::RunError;
use super::plan::{Plan, Space};
use super::root::become_root;
use crate::mount::Upper;
use crate::mount::private::{make, put};
use crate::sys::process::{receive, send, send_message};

/// What the two processes tell each other, one byte each.
pub(super) mod word {
    /// The child is in its namespaces.
    pub(in crate::run) const APART: u8 = b'a';
    /// The server has written the id maps.
    pub(in crate::run) const MAPPED: u8 = b'm';
    /// The child has mounted; the device comes along, and the number of the connection in
    /// four more bytes.
    pub(in crate::run) const DEVICE: u8 = b'd';
    /// The server serves.
    pub(in crate::run) const SERVED: u8 = b's';
    /// The server does not, and is about to kill the child.
    pub(in crate::run) const REFUSED: u8 = b'r';
    /// The child has removed what was made for the mount.
    pub(in crate::run) const CLEARED: u8 = b'c';
}

/// Becomes the command.
///
/// # Errors
/// Always, since success does not return.
pub(super) fn become_command(
    private: &Private<'_>,
    upper: Option<&Upper>,
    socket: BorrowedFd<'_>,
    server: Pid,
) -> Result<Infallible, RunError> {
    die_with(server)?;
    let plan = private.plan;
    let mut flags = CloneFlags::CLONE_NEWNS;
    if matches!(plan.space, Space::User { .. }) {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(RunError::Namespaces)?;
    tell(socket, word::APART)?;
    hear(socket, word::MAPPED)?;
    // What the host mounts and unmounts is seen here, and nothing there of what is done here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        // Where AppArmor takes the capabilities of new user namespaces, this is refused first.
        .map_err(RunError::Namespaces)?;
    let made = make(private.options, private.name, plan.ids)?;
    let mut told = vec![word::DEVICE];
    told.extend(made.connection.to_ne_bytes());
    send_message(socket, &told, Some(made.device.as_fd())).map_err(|_| RunError::Alone)?;
    // With a copy of it here the mount would outlive its server.
    drop(made.device);
    hear_served(socket, upper)?;
    let place = enter(made.parent, private.place, upper)?;
    become_ids(plan)?;
    // The kernel forgets it when ids change.
    die_with(server)?;
    exec(private.command, place)
}

/// Asks to be killed when the server dies.
fn die_with(server: Pid) -> Result<(), RunError> {
    set_pdeathsig(Signal::SIGKILL).map_err(RunError::doing("parent death signal"))?;
    // It may have died before.
    if getppid() == server { Ok(()) } else { Err(RunError::Alone) }
}

fn tell(socket: BorrowedFd<'_>, word: u8) -> Result<(), RunError> {
    send(socket, word, None).map_err(|_| RunError::Alone)
}

fn hear(socket: BorrowedFd<'_>, expected: u8) -> Result<(), RunError> {
    match receive(socket) {
        Ok((word, _)) if word == expected => Ok(()),
        _ => Err(RunError::Alone),
    }
}

/// Waits for the mount to be served. Where it will not be, what was made for what is above
/// it is removed: the server has given up what that takes.
fn hear_served(socket: BorrowedFd<'_>, upper: Option<&Upper>) -> Result<(), RunError> {
    match receive(socket) {
        Ok((word::SERVED, _)) => Ok(()),
        Ok((word::REFUSED, _)) => {
            upper.inspect(|upper| upper.leave());
            tell(socket, word::CLEARED)?;
            // The end comes before an answer.
            hear(socket, word::SERVED)
        }
        _ => Err(RunError::Alone),
    }
}

/// Attaches the mount and makes it the working directory, or, where something is above
/// it, the root directory; returns where that is by then.
fn enter<'a>(
    parent: OwnedFd,
    place: &'a Path,
    upper: Option<&Upper>,
) -> Result<&'a Path, RunError> {
    let failed = |why: io::Error| RunError::Place { path: place.to_owned(), why };
    let view = put(parent, place, upper)?;
    fchdir(view).map_err(|errno| failed(errno.into()))?;
    if upper.is_none() {
        return Ok(place);
    }
    become_root().map_err(failed)?;
    Ok(Path::new("/"))
}

/// Takes the ids of the command; as one that is not root this gives all
/// capabilities up, at the latest when the command starts.
fn become_ids(plan: &Plan) -> Result<(), RunError> {
    let (uid, gid) = (Uid::from_raw(plan.ids.uid.raw()), Gid::from_raw(plan.ids.gid.raw()));
    if !plan.keep_groups {
        setgroups(&[gid]).map_err(RunError::doing("supplementary groups"))?;
    }
    setresgid(gid, gid, gid).map_err(RunError::doing("group of the command"))?;
    setresuid(uid, uid, uid).map_err(RunError::doing("user of the command"))
}

fn exec(command: &[OsString], place: &Path) -> Result<Infallible, RunError> {
    let program = command.first().map_or(OsStr::new(""), |program| program.as_os_str());
    // It restores the signals that the server has blocked.
    let why = Command::new(program).args(command.iter().skip(1)).env("PWD", place).exec();
    Err(RunError::Exec { command: program.to_owned(), why })
}
