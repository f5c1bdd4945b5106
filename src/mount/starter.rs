//! Who starts a mount in the background and waits for it: what it is told, by a pipe, and
//! what it sees for itself.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::stat;

use super::error::MountError;
use super::keeper::left;
use crate::sys::daemon;
use crate::sys::process::Process;
use crate::sys::signal::{Asked, Descriptor};
use crate::sys::stat::mounted;

/// What the supervisor sends when its mount is attached; else it sends an error.
const ATTACHED: &str = "attached ";

/// How long a supervisor may take to end that was asked to: longer than what it waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who waits for a mount in the background; `None`: nobody, or nobody any more.
#[derive(Debug)]
pub(super) struct Starter(pub(super) Option<File>);

impl Starter {
    /// Tells that the mount is there, and leaves the output to who waits.
    ///
    /// # Errors
    /// As write(2), open(2) of `/dev/null`.
    pub(super) fn attached(&mut self, (major, minor): (u32, u32)) -> io::Result<()> {
        let Some(mut starter) = self.0.take() else { return Ok(()) };
        write!(starter, "{ATTACHED}{major}:{minor}")?;
        daemon::silence()
    }

    /// Has nothing more to tell, as in a copy of the process that has.
    pub(super) fn leave(&mut self) {
        self.0 = None;
    }

    /// Returns what can be read, or is in error, when who waited has gone.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Tells why there is no mount, or why it has ended; if nobody waits, the log.
    pub(super) fn failed(self, error: &MountError) {
        match self.0 {
            // If the parent is gone there is nobody to tell.
            Some(mut starter) => drop(starter.write_all(error.to_string().as_bytes())),
            None => log::error!("{error}"),
        }
    }
}

/// Waits for the supervisor's word, and sees for itself that the mount is there
/// and answers.
///
/// A signal, but for the one that asks for counters and for those that are ignored, ends
/// the supervisor first, and so what that has made.
pub(super) fn wait_until_usable(
    told: &mut File,
    supervisor: &Process,
    signals: &Descriptor,
    target: &Path,
) -> Result<(), MountError> {
    let waiting = MountError::doing("waiting for the server");
    if wait(told.as_fd(), signals, None).map_err(&waiting)? == Met::Signal {
        return Err(stopped(told, supervisor, signals));
    }
    let word = hear(told)?;
    // Should the root not be answered any more, this process can be ended nevertheless.
    let (sight, seen) = io::pipe().map_err(&waiting)?;
    let (sender, found) = channel();
    let begun = thread::Builder::new().name("look".to_owned()).spawn({
        let (word, target) = (word.clone(), target.to_owned());
        move || {
            let (Ok(()) | Err(_)) = sender.send(look(&word, &target));
            drop(seen);
        }
    });
    if begun.is_err() {
        return look(&word, target);
    }
    if wait(sight.as_fd(), signals, None).map_err(&waiting)? == Met::Signal {
        return Err(stopped(told, supervisor, signals));
    }
    found.recv().unwrap_or(Err(MountError::Silent))
}

/// What was met by waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// What was waited for.
    It,
    /// A signal.
    Signal,
    /// The time was up.
    Nothing,
}

/// Waits until there is something to be read, or a signal, or the time is up.
fn wait(it: BorrowedFd<'_>, signals: &Descriptor, until: Option<Instant>) -> io::Result<Met> {
    loop {
        let mut fds = [it, signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, left(until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(signal) = signals.next()? {
            if signal != Asked::Stats {
                return Ok(Met::Signal);
            }
        }
        let [it, _signals] = fds;
        if it.any().unwrap_or(false) {
            return Ok(Met::It);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(Met::Nothing);
        }
    }
}

/// Has the supervisor take away what there is of a mount, and end; returns what it says.
fn stopped(told: &mut File, supervisor: &Process, signals: &Descriptor) -> MountError {
    let until = Instant::now().checked_add(PATIENCE);
    loop {
        let (Ok(()) | Err(_)) = supervisor.signal(Signal::SIGTERM);
        match wait(supervisor.as_fd(), signals, until) {
            // It is passed on once more.
            Ok(Met::Signal) => {}
            Ok(Met::It) => break,
            Ok(Met::Nothing) | Err(_) => {
                let (Ok(()) | Err(_)) = supervisor.signal(Signal::SIGKILL);
                return MountError::Stopped;
            }
        }
    }
    match hear(told) {
        Ok(said) if !said.is_empty() && !said.starts_with(ATTACHED) => failed(said),
        Ok(_) | Err(_) => MountError::Stopped,
    }
}

fn hear(told: &mut File) -> Result<String, MountError> {
    let mut word = String::new();
    told.read_to_string(&mut word).map_err(MountError::doing("waiting for the server"))?;
    Ok(word)
}

const fn failed(text: String) -> MountError {
    MountError::Background { text, code: 32 }
}

/// Sees that what the supervisor says is so.
fn look(word: &str, target: &Path) -> Result<(), MountError> {
    let Some(number) = word.strip_prefix(ATTACHED) else {
        return Err(if word.is_empty() { MountError::Silent } else { failed(word.to_owned()) });
    };
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    let there =
        mounted(AT_FDCWD.as_fd(), target.as_os_str()).map_err(|errno| failed(errno.into()))?;
    let (major, minor) = there.device;
    if *number != format!("{major}:{minor}") {
        return Err(failed(io::Error::other("something else has been mounted there meanwhile")));
    }
    stat(target).map(drop).map_err(|errno| failed(errno.into()))
}
