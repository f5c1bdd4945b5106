//! The process that keeps a mount: it makes the mount, has another process serve
//! it, and takes it away at the end, which a confined server may not.
//!
//! It has one thread and waits for whatever happens first. What may hang, it has
//! done in a process of its own.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::asking;
use super::attach::{self, Place, Way};
use super::check::Paths;
use super::engine::Server;
use super::error::{MountError, room_hint};
use super::keeper::{Happened, Keeper};
use super::link::{Link, Word};
use super::namespace;
use super::options::Options;
use super::serve::{ASIDE, Ties, serve};
use super::starter::Starter;
use super::upper::Upper;
use crate::control;
use crate::sys::process::{Fork, Process, apart, fork};
use crate::sys::signal::Signals;
use crate::sys::{daemon, mount_namespace};
use crate::text::{plain, shown};

/// How long the last users of a mount that was taken away are still served.
const GRACE: Duration = Duration::from_secs(1);

/// How long an unmount may take before the server ends without it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a server may take to end, and one that was killed.
const ENDING: Duration = Duration::from_secs(3);

/// Makes the mount, has it served, and keeps it until it is unmounted, or a
/// signal or the end of the process `with` asks for the end.
///
/// `why` says why there is a server; `starter` is told as soon as the mount is at its
/// place and known.
///
/// # Errors
/// Whatever keeps the mount from being made, or ends its serving early.
pub(super) fn supervise(
    options: &Options,
    paths: &Paths,
    why: &Server,
    with: Option<Process>,
    starter: &mut Starter,
) -> Result<(), MountError> {
    daemon::leave_groups();
    let upper = Upper::take(options, &paths.name)?;
    // Before the server is made, which is not to be hit by them either.
    let signals = Signals::block().map_err(MountError::doing("signals"))?;
    let pair = Link::pair().and_then(|ends| Ok((ends, asking::pair()?)));
    let ((ours, theirs), (asking, questions)) = pair.map_err(MountError::doing("socketpair"))?;
    match fork().map_err(MountError::starting("process"))? {
        Fork::Child => {
            drop((ours, questions, with));
            starter.leave();
            let code = in_server(
                options,
                paths,
                why,
                upper.as_ref(),
                Ties { link: theirs, asking, signals },
            );
            // This process is a copy made to serve; its caller is the other one.
            std::process::exit(code.into())
        }
        Fork::Parent(pid) => {
            drop((theirs, asking));
            let server = Process::of(pid).map_err(MountError::doing("pidfd"))?;
            let signals = signals.descriptor().map_err(MountError::doing("signalfd"))?;
            let keeper = Keeper::new((server, ours), questions, signals, with);
            match keep(options, paths, upper.as_ref(), &keeper, starter) {
                Ok((place, origin)) => {
                    log::debug!("server: process {}", keeper.server.pid());
                    Ending { place, origin }.after(&keeper)
                }
                Err(error) => Err(give_up(&keeper, error)),
            }
        }
    }
}

/// Ends a server whose mount was not made, or is undone; says why there is none.
fn give_up(keeper: &Keeper, error: MountError) -> MountError {
    make_room(keeper);
    let ended = keeper.server.ends_within(ENDING);
    let status = if ended { keeper.server.wait().ok() } else { None };
    match (error, status) {
        (error, Some(WaitStatus::Exited(..))) => error,
        (MountError::Silent, Some(WaitStatus::Signaled(_, signal, _))) => {
            clear();
            MountError::Killed(signal.as_str())
        }
        (error, _) => {
            log::debug!("server: did not end by itself, and was killed");
            clear();
            if matches!(error, MountError::Stopped) { MountError::Hung } else { error }
        }
    }
}

/// Serves; returns the exit status, which the supervisor sees.
fn in_server(
    options: &Options,
    paths: &Paths,
    why: &Server,
    upper: Option<&Upper>,
    ties: Ties,
) -> u8 {
    let link = match ties.link.as_fd().try_clone_to_owned() {
        Ok(link) => Link::from(link),
        Err(_) => return 1,
    };
    let Err(error) = serve(options, paths, why, upper, ties) else { return 0 };
    // It may have ended: then there is nobody to tell.
    let code = error.exit_code();
    let (Ok(()) | Err(_)) = link.tell(&Word::Failed(error));
    code
}

/// Makes the mount, and attaches it once it is served; returns where, and the number
/// of the mount namespace that it was made in, if this process has left that.
///
/// Until it is attached a server that hangs is not waited for when the end is asked for.
/// From then on it is for some time, and the end is the same as if that came later.
fn keep(
    options: &Options,
    paths: &Paths,
    upper: Option<&Upper>,
    keeper: &Keeper,
    starter: &mut Starter,
) -> Result<(Place, Option<u64>), MountError> {
    let opened = |word| matches!(word, Word::Opened).then_some(());
    keeper.expect(starter.as_fd(), Duration::ZERO, opened)?;
    let (device, mount) = attach::begin(options, &paths.target, &paths.name)?;
    let way = mount.way();
    let origin = namespace::passing().filter(|_| way == Way::Own);
    let served = serving(keeper, starter, Word::Made { way, device });
    served.inspect_err(|_| {
        make_room(keeper);
        attach::undo(&mount, &paths.target);
    })?;
    let place = attach::complete(mount, &paths.target, upper)?;
    let known = (|| {
        let Place { device, mount, connection, .. } = place;
        tell(&keeper.link, &Word::Attached { device, mount, connection });
        let known = |word| matches!(word, Word::Known).then_some(());
        keeper.expect(starter.as_fd(), ENDING, known)?;
        starter.attached(device).map_err(MountError::doing("telling that the mount is there"))
    })();
    known.inspect_err(|_| {
        make_room(keeper);
        undo(&place, None);
    })?;
    let left = origin.filter(|_| leave(&place));
    Ok((place, left))
}

fn serving(keeper: &Keeper, starter: &Starter, made: Word) -> Result<(), MountError> {
    tell(&keeper.link, &made);
    // With a copy of the device here the mount would outlive its server.
    drop(made);
    let serving = |word| matches!(word, Word::Serving).then_some(());
    keeper.expect(starter.as_fd(), Duration::ZERO, serving)
}

/// Has a server end whose mount is to be undone, which may take another process; kills one
/// that hangs.
fn make_room(keeper: &Keeper) {
    keeper.link.end();
    if !keeper.ends_within(ENDING) {
        let (Ok(()) | Err(_)) = keeper.server.signal(Signal::SIGKILL);
    }
}

fn tell(link: &Link, word: &Word) {
    // If it has ended, the next answer says why.
    let (Ok(()) | Err(_)) = link.tell(word);
}

/// Leaves the mount namespace, and the mount in it; reports whether that was done.
fn leave(place: &Place) -> bool {
    let needed = ["/proc", "/run", "/sys", "/dev"].map(PathBuf::from);
    let left = mount_namespace::leave();
    match left.and_then(|()| mount_namespace::prune(&needed, Some(place.device))) {
        Ok(()) => true,
        Err(error) => {
            log::info!("the mount stays when the rest of its container ends: {error}");
            false
        }
    }
}

/// Where the mount is, and how it is taken away.
#[derive(Debug)]
struct Ending {
    place: Place,
    /// The number of the mount namespace that it is in, if this process is not.
    origin: Option<u64>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has asked for it.
    Serving,
    /// The mount is being taken away, or is and has users.
    Unmounting,
    /// The server was told to end.
    Ending,
    /// The server was killed.
    Killed,
    /// The connection was aborted: nothing more can be done.
    Aborted,
    /// It does not end.
    GivenUp,
}

impl Stage {
    /// Returns what comes next, if it comes now: by being asked for, the second time
    /// at once, or since the time for this stage is up.
    const fn next(self, asked: bool, late: bool) -> Option<Self> {
        match self {
            Self::Serving if asked => Some(Self::Unmounting),
            Self::Unmounting if asked || late => Some(Self::Ending),
            Self::Ending if late => Some(Self::Killed),
            Self::Killed if late => Some(Self::Aborted),
            Self::Aborted if late => Some(Self::GivenUp),
            Self::Serving | Self::Unmounting | Self::Ending | Self::Killed => None,
            Self::Aborted | Self::GivenUp => None,
        }
    }
}

impl Ending {
    /// Waits for the end; takes away what is left of the mount then.
    fn after(self, keeper: &Keeper) -> Result<(), MountError> {
        let waited = self.wait(keeper);
        let status = match waited {
            Ok(true) => keeper.server.wait().map(Some),
            Ok(false) => Ok(None),
            Err(error) => {
                keeper.link.end();
                end(&keeper.server, self.place.connection);
                Err(error)
            }
        };
        let status = status.map_err(MountError::Session);
        undo(&self.place, self.origin);
        outcome(status?, &keeper.link)
    }

    /// Waits for the end of the server; `false` if it does not end.
    fn wait(&self, keeper: &Keeper) -> io::Result<bool> {
        let (mut stage, mut deadline) = (Stage::Serving, None);
        let mut unmounting = None::<Process>;
        loop {
            let waiting = [unmounting.as_ref().map(|process| process.as_fd())];
            let Happened { ended, others: [unmounted] } = keeper.wait(waiting, deadline)?;
            if ended {
                return Ok(true);
            }
            let asked = keeper.is_asked();
            let gone = unmounted && stage == Stage::Unmounting;
            if unmounted && let Some(process) = unmounting.take() {
                process.wait()?;
            }
            if gone {
                deadline = Instant::now().checked_add(GRACE);
            }
            let late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            let Some(next) = stage.next(asked, late) else { continue };
            let time = match next {
                Stage::Serving => continue,
                Stage::Unmounting => match self.unmount() {
                    Ok(process) => {
                        unmounting = Some(process);
                        PATIENCE
                    }
                    Err(error) => {
                        // The server goes first then, and so there is room.
                        log::warn!("unmount: {}{}", plain(&error), room_hint(&error));
                        Duration::ZERO
                    }
                },
                Stage::Ending => {
                    keeper.link.end();
                    ENDING
                }
                Stage::Killed => {
                    let (Ok(()) | Err(_)) = keeper.server.signal(Signal::SIGKILL);
                    ENDING
                }
                Stage::Aborted => {
                    abort(self.place.connection);
                    ENDING
                }
                Stage::GivenUp => return Ok(false),
            };
            (stage, deadline) = (next, Instant::now().checked_add(time));
        }
    }

    /// Begins to unmount.
    fn unmount(&self) -> io::Result<Process> {
        apart(|| {
            if enter(self.origin)
                && let Err(error) = self.place.unmount()
            {
                log::warn!("{error}");
            }
        })
    }
}

/// Ends a server whose link has been ended, whatever it takes.
fn end(server: &Process, connection: u32) {
    if !server.ends_within(ENDING) {
        let (Ok(()) | Err(_)) = server.signal(Signal::SIGKILL);
        if !server.ends_within(ENDING) {
            abort(connection);
        }
    }
    if server.ends_within(ENDING) {
        let (Ok(_) | Err(_)) = server.wait();
    }
}

fn abort(connection: u32) {
    aside("abort", || {
        if let Err(error) = control::abort_connection(connection) {
            log::warn!("{error}");
        }
    });
}

/// Takes away what is left of a mount.
fn undo(place: &Place, origin: Option<u64>) {
    let detached = aside("unmount", || {
        if enter(origin)
            && let Err(error) = place.detach()
        {
            log::warn!("{error}");
        }
    });
    if !detached {
        log::warn!("{}: left as it is, without a server", shown(&place.target));
    }
}

/// Does something at the end in a process of its own, but waits for that not for long;
/// reports whether it was done. Where no process can be had, this one does it, which has
/// nothing else left to do.
fn aside(what: &str, act: impl Fn()) -> bool {
    let process = match apart(&act) {
        Ok(process) => process,
        Err(error) => {
            log::debug!("{what}: not by another process: {error}");
            act();
            return true;
        }
    };
    if !process.ends_within(ASIDE) {
        let (Ok(()) | Err(_)) = process.signal(Signal::SIGKILL);
    }
    let ended = process.ends_within(GRACE);
    if ended {
        let (Ok(_) | Err(_)) = process.wait();
    }
    ended
}

/// Enters the mount namespace in which the mount is, in a process made for that.
fn enter(origin: Option<u64>) -> bool {
    let Some(number) = origin else { return true };
    match mount_namespace::enter(number) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            log::debug!("the mount namespace is gone, and the mount with it");
            false
        }
        Err(error) => {
            log::warn!("the mount namespace cannot be entered: {error}");
            false
        }
    }
}

/// Clears away what a server that was killed had published: it is stale now, and goes by
/// being read.
fn clear() {
    let (Ok(_) | Err(_)) = control::live();
}

/// Says how the server ended.
fn outcome(status: Option<WaitStatus>, link: &Link) -> Result<(), MountError> {
    match status {
        Some(WaitStatus::Exited(_, 0)) => Ok(()),
        Some(WaitStatus::Signaled(_, signal, _)) => {
            clear();
            Err(MountError::Killed(signal.as_str()))
        }
        None => Err(MountError::Stuck),
        Some(_) => match link.hear() {
            Ok(Word::Failed(error)) => Err(error),
            _ => Err(MountError::Killed("an error that it had no time to tell")),
        },
    }
}
