//! What a supervisor waits for, all of it at once: its server, signals, who waits for the
//! mount, questions.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::asking;
use super::error::MountError;
use super::link::{Link, Word};
use crate::sys::process::Process;
use crate::sys::signal::Descriptor;

/// What is waited for at all times.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) server: Process,
    pub(super) link: Link,
    questions: OwnedFd,
    signals: Descriptor,
    /// The process with whose end the mount is to end, if that has not come.
    with: Option<Process>,
    /// The end was asked for, which nobody has taken up.
    asked: Cell<bool>,
    /// The end of that process has been seen: it is one for ever.
    without: Cell<bool>,
}

/// What happened; of what was waited for besides, which can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Happened<const N: usize> {
    /// The server has ended.
    pub(super) ended: bool,
    pub(super) others: [bool; N],
}

/// Returns how long it is until then; for ever if that never comes.
pub(super) fn left(until: Option<Instant>) -> PollTimeout {
    until.map_or(PollTimeout::NONE, |until| {
        let left = until.saturating_duration_since(Instant::now());
        // Not to wake up a moment before.
        let left = left.saturating_add(Duration::from_millis(1));
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    })
}

impl Keeper {
    /// Joins what is waited for; the end of the process `with` asks for the end.
    pub(super) fn new(
        (server, link): (Process, Link),
        questions: OwnedFd,
        signals: Descriptor,
        with: Option<Process>,
    ) -> Self {
        let (asked, without) = (Cell::new(false), Cell::new(false));
        Self { server, link, questions, signals, with, asked, without }
    }

    /// Reports whether the end was asked for, to who takes that up.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.take()
    }

    /// Waits until something happens, or for `until`, or not at all if the end was asked
    /// for. Questions are answered, and signals that are for the server passed on.
    ///
    /// # Errors
    /// As poll(2), or read(2) of a signalfd.
    pub(super) fn wait<const N: usize>(
        &self,
        others: [Option<BorrowedFd<'_>>; N],
        until: Option<Instant>,
    ) -> io::Result<Happened<N>> {
        let with = self.with.as_ref().filter(|_| !self.without.get()).map(|with| with.as_fd());
        let fixed = [self.server.as_fd(), self.signals.as_fd(), self.questions.as_fd()];
        let all = fixed.into_iter().chain(with).chain(others.into_iter().flatten());
        // The end of a pipe that nobody reads tells so whatever it is asked for.
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, if self.asked.get() { PollTimeout::ZERO } else { left(until) }) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = || ready.next().unwrap_or(false);
        let (ended, _signal, question) = (next(), next(), next());
        if with.is_some() && next() {
            self.without.set(true);
            self.asked.set(true);
        }
        let others = others.map(|other| other.is_some() && next());
        while let Some(signal) = self.signals.next()? {
            match signal.signal() {
                // It may have ended just now.
                Some(signal) => drop(self.server.signal(signal)),
                None => self.asked.set(true),
            }
        }
        if question
            && !ended
            && let Err(error) = asking::answer(self.questions.as_fd())
        {
            log::debug!("namespaces: {error}");
        }
        Ok(Happened { ended, others })
    }

    /// Waits for a word of a server that starts; returns what `wanted` takes of it.
    ///
    /// From when the end is asked for, or `starter` waits no more, `grace` is left for
    /// that. If the word comes in time the end stays asked for; with no grace it comes too late.
    ///
    /// # Errors
    /// `Stopped`: the end was asked for. As [`Link::expect`].
    pub(super) fn expect<T>(
        &self,
        mut starter: Option<BorrowedFd<'_>>,
        grace: Duration,
        wanted: impl FnOnce(Word) -> Option<T>,
    ) -> Result<T, MountError> {
        let mut until = None;
        loop {
            let waited = self.wait([Some(self.link.as_fd()), starter], until);
            let waited = waited.map_err(MountError::doing("the other process"))?;
            let Happened { others: [told, alone], ended } = waited;
            starter = starter.filter(|_| !alone);
            if (self.is_asked() || alone) && until.is_none() {
                until = Instant::now().checked_add(grace);
            }
            if told || ended {
                let heard = self.link.expect(wanted)?;
                self.asked.set(until.is_some());
                return if until.is_some() && grace.is_zero() {
                    Err(MountError::Stopped)
                } else {
                    Ok(heard)
                };
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Err(MountError::Stopped);
            }
        }
    }

    /// Reports whether the server ends within a time, which is over as well when the end
    /// is asked for once more.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let Some(until) = Instant::now().checked_add(time) else { return false };
        loop {
            match self.wait([], Some(until)) {
                Ok(Happened { ended: true, .. }) => return true,
                Ok(_) if !self.is_asked() && Instant::now() < until => {}
                Ok(_) => return false,
                Err(_) => return self.server.ends_within(time),
            }
        }
    }
}
