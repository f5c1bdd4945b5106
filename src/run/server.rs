//! The process that stays behind and serves: it passes signals to the command
//! and ends as the command ends.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp};

use super::Private;
use super::child::word;
use super::error::RunError;
use super::maps;
use super::plan::Space;
use crate::mount::private::{Ready, Served};
use crate::mount::{self, Upper};
use crate::sys::process::{receive, receive_message, send};

/// The signals that the command is to get.
const PASSED: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Returns the signals that the server waits for instead of being hit by them.
pub(super) fn signals() -> SigSet {
    let mut set: SigSet = PASSED.iter().copied().collect();
    set.add(Signal::SIGCHLD);
    set
}

/// Serves until the command has ended; returns its exit status.
///
/// # Errors
/// The maps cannot be written or the session not be started. The child is gone
/// then.
pub(super) fn serve(
    child: Pid,
    socket: OwnedFd,
    private: &Private<'_>,
    source: Ready,
    upper: Option<&Upper>,
) -> Result<u8, RunError> {
    let session = match prepare(child, socket.as_fd(), private, source, upper) {
        Ok(session) => session,
        // It has said why.
        Err(RunError::Alone) => return reap(child),
        Err(error) => {
            let _gone = kill(child, Signal::SIGKILL);
            let _status = reap(child)?;
            return Err(error);
        }
    };
    drop(socket);
    let status = wait(child);
    // What the command has left behind may still hold the mount: not waited for.
    session.end();
    status
}

fn prepare(
    child: Pid,
    socket: BorrowedFd<'_>,
    private: &Private<'_>,
    source: Ready,
    upper: Option<&Upper>,
) -> Result<Served, RunError> {
    let hear = || receive(socket).map_err(|_| RunError::Alone);
    let tell = |word| send(socket, word, None).map_err(|_| RunError::Alone);
    hear()?;
    if let Space::User { users, groups } = &private.plan.space {
        maps::write(child, users, groups)?;
    }
    tell(word::MAPPED)?;
    let mounted = hear_mounted(socket)?;
    let process = u32::try_from(child.as_raw()).unwrap_or_default();
    let session = mount::private::serve(private.options, source, upper, mounted, process);
    if session.is_err() && upper.is_some() {
        // Whether it could or not, the end is the same.
        let (Ok(()) | Err(_)) = tell(word::REFUSED).and_then(|()| hear().map(drop));
    }
    let session = session?;
    tell(word::SERVED)?;
    Ok(session)
}

/// Waits for the mount; returns its device, and the number of its connection.
fn hear_mounted(socket: BorrowedFd<'_>) -> Result<(OwnedFd, u32), RunError> {
    let mut told = [0; 5];
    let (_, device) = receive_message(socket, &mut told).map_err(|_| RunError::Alone)?;
    let [_word, connection @ ..] = told;
    Ok((device.ok_or(RunError::Alone)?, u32::from_ne_bytes(connection)))
}

/// Waits for the end of a child that has nothing more to do.
pub(super) fn reap(child: Pid) -> Result<u8, RunError> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(RunError::doing("wait")(errno)),
            Ok(status) => {
                if let Some(code) = exit_code(status) {
                    return Ok(code);
                }
            }
        }
    }
}

/// Passes signals on until the command has ended.
pub(super) fn wait(child: Pid) -> Result<u8, RunError> {
    let waiting = RunError::doing::<Errno>("signals");
    let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC).map_err(&waiting)?;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(RunError::doing("wait")(errno)),
            Ok(status) => {
                if let Some(code) = exit_code(status) {
                    return Ok(code);
                }
            }
        }
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(waiting(errno)),
        };
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
        match signal {
            Some(Signal::SIGCHLD) | None => {}
            // A terminal has sent it to the whole process group.
            Some(_) if info.ssi_code == libc::SI_KERNEL && together(child) => {}
            Some(signal) => {
                if let Err(errno) = kill(child, signal) {
                    log::debug!("{signal} to the command: {errno}");
                }
            }
        }
    }
}

fn together(child: Pid) -> bool {
    getpgid(Some(child)).is_ok_and(|group| group == getpgrp())
}

/// Returns the status to end with, as a shell would; `None`: it still runs.
fn exit_code(status: WaitStatus) -> Option<u8> {
    match status {
        WaitStatus::Exited(_, code) => Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        WaitStatus::Signaled(_, signal, _) => {
            Some(u8::try_from(signal as i32).unwrap_or(0).saturating_add(128))
        }
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => None,
    }
}
