//! The process that keeps a mount: it makes the mount, has another process serve
//! it, and takes it away at the end, which a confined server may not.
//!
//! It has one thread and waits for whatever happens first. What may hang, it has
//! done in a process of its own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::asking;
use super::attach::{self, Place, Way};
use super::check::Paths;
use super::engine::Server;
use super::error::{MountError, room_hint};
use super::link::{Link, Word};
use super::namespace;
use super::options::Options;
use super::serve::{ASIDE, Ties, serve};
use super::starter::Starter;
use super::upper::Upper;
use crate::control;
use crate::sys::process::{Fork, Process, apart, fork};
use crate::sys::signal::{Descriptor, Signals};
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
            let serving = (&server, &ours);
            let kept =
                keep(options, paths, upper.as_ref(), serving, starter).map(|(place, origin)| {
                    log::debug!("server: process {}", server.pid());
                    let keeper = Keeper { server: &server, link: &ours, questions, signals, with };
                    Ending { place, origin }.after(keeper)
                });
            match kept {
                Ok(ended) => ended,
                Err(error) => {
                    ours.end();
                    match (error, end(&server, None)) {
                        (MountError::Silent, Some(WaitStatus::Signaled(_, signal, _))) => {
                            Err(MountError::Killed(signal.as_str()))
                        }
                        (error, _) => Err(error),
                    }
                }
            }
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
fn keep(
    options: &Options,
    paths: &Paths,
    upper: Option<&Upper>,
    (server, link): (&Process, &Link),
    starter: &mut Starter,
) -> Result<(Place, Option<u64>), MountError> {
    link.expect(|word| matches!(word, Word::Opened).then_some(()))?;
    let (device, mount) = attach::begin(options, &paths.target, &paths.name)?;
    let way = mount.way();
    let origin = namespace::passing().filter(|_| way == Way::Own);
    let served = serving(link, Word::Made { way, device });
    served.inspect_err(|_| {
        make_room(server, link);
        attach::undo(&mount, &paths.target);
    })?;
    let place = attach::complete(mount, &paths.target, upper)?;
    let known = (|| {
        let Place { device, mount, connection, .. } = place;
        tell(link, &Word::Attached { device, mount, connection });
        link.expect(|word| matches!(word, Word::Known).then_some(()))?;
        starter.attached(device).map_err(MountError::doing("telling that the mount is there"))
    })();
    known.inspect_err(|_| {
        make_room(server, link);
        undo(&place, None);
    })?;
    let left = origin.filter(|_| leave(&place));
    Ok((place, left))
}

fn serving(link: &Link, made: Word) -> Result<(), MountError> {
    tell(link, &made);
    // With a copy of the device here the mount would outlive its server.
    drop(made);
    link.expect(|word| matches!(word, Word::Serving).then_some(()))
}

/// Has a server end whose mount is to be undone, which may take another process.
fn make_room(server: &Process, link: &Link) {
    link.end();
    if !server.ends_within(ENDING) {
        log::debug!("server: does not end at once");
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

/// What is waited for.
#[derive(Debug)]
struct Keeper<'a> {
    server: &'a Process,
    link: &'a Link,
    questions: OwnedFd,
    signals: Descriptor,
    with: Option<Process>,
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
    fn after(self, keeper: Keeper<'_>) -> Result<(), MountError> {
        let waited = self.wait(&keeper);
        let status = match waited {
            Ok(true) => keeper.server.wait().map(Some),
            Ok(false) => Ok(None),
            Err(error) => {
                keeper.link.end();
                let _ended = end(keeper.server, Some(self.place.connection));
                Err(error)
            }
        };
        let status = status.map_err(MountError::Session);
        undo(&self.place, self.origin);
        outcome(status?, keeper.link)
    }

    /// Waits for the end of the server; `false` if it does not end.
    fn wait(&self, keeper: &Keeper<'_>) -> io::Result<bool> {
        let (mut stage, mut deadline) = (Stage::Serving, None);
        let (mut unmounting, mut with) = (None::<Process>, keeper.with.as_ref());
        loop {
            let ready = keeper.poll(unmounting.as_ref(), with, deadline)?;
            if ready.ended {
                return Ok(true);
            }
            let mut asked = ready.with;
            // Once: it will have ended for ever.
            with = with.filter(|_| !ready.with);
            while let Some(signal) = keeper.signals.next()? {
                match signal.signal() {
                    // It may have ended just now.
                    Some(signal) => drop(keeper.server.signal(signal)),
                    None => asked = true,
                }
            }
            if ready.question
                && let Err(error) = asking::answer(keeper.questions.as_fd())
            {
                log::debug!("namespaces: {error}");
            }
            let gone = ready.unmounted && stage == Stage::Unmounting;
            if ready.unmounted
                && let Some(process) = unmounting.take()
            {
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

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    ended: bool,
    question: bool,
    unmounted: bool,
    /// The process has ended with which the mount is to end.
    with: bool,
}

impl Keeper<'_> {
    /// Waits until something happens.
    fn poll(
        &self,
        unmounting: Option<&Process>,
        with: Option<&Process>,
        until: Option<Instant>,
    ) -> io::Result<Ready> {
        let fixed = [self.server.as_fd(), self.signals.as_fd(), self.questions.as_fd()];
        let others = [unmounting, with];
        // A descriptor of no process is never ready.
        let mut fds: Vec<PollFd<'_>> =
            fixed.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        fds.extend(
            others.into_iter().flatten().map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)),
        );
        let time = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            // Not to wake up a moment before.
            let left = left.saturating_add(Duration::from_millis(1));
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, time) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = || ready.next().unwrap_or(false);
        let (ended, _signal, question) = (next(), next(), next());
        let unmounted = unmounting.is_some() && next();
        let with = with.is_some() && next();
        Ok(Ready { ended, question, unmounted, with })
    }
}

/// Ends a server whose link has been ended, whatever it takes; returns how it ended,
/// if it has.
fn end(server: &Process, connection: Option<u32>) -> Option<WaitStatus> {
    if !server.ends_within(ENDING) {
        let (Ok(()) | Err(_)) = server.signal(Signal::SIGKILL);
        if !server.ends_within(ENDING)
            && let Some(connection) = connection
        {
            abort(connection);
        }
    }
    if server.ends_within(ENDING) { server.wait().ok() } else { None }
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

/// Says how the server ended.
fn outcome(status: Option<WaitStatus>, link: &Link) -> Result<(), MountError> {
    match status {
        Some(WaitStatus::Exited(_, 0)) => Ok(()),
        Some(WaitStatus::Signaled(_, signal, _)) => {
            // What it had published is stale now, and goes by being read.
            let (Ok(_) | Err(_)) = control::live();
            Err(MountError::Killed(signal.as_str()))
        }
        _ => match link.hear() {
            Ok(Word::Failed(error)) => Err(error),
            _ => Err(MountError::Killed("an error that it had no time to tell")),
        },
    }
}
