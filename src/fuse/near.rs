//! The worker that stays on the processor of its client.
//!
//! Client and server wake each other up with each request. On one processor that is a
//! switch from one to the other; on two it takes an interrupt, and a processor out of
//! its sleep, each way: up to ten times as long as what is asked for.
//!
//! The scheduler does not keep them together by itself. It has a thread run where it
//! ran last if nothing runs there, so that the server stays away; and it has the client
//! run somewhere else while the server still runs where both were, unless that has the
//! idle policy (`sched_idle_cpu` of kernel/sched/fair.c). So this worker has it, and
//! is sent after its client.
//!
//! Where that is, `/proc` tells a thread that answers nobody: what is read there can
//! wait for the client itself. A process that closes a file while it starts a program
//! waits for our answer with `exec_update_lock` held, and so does its `stat`.
//!
//! With this policy the worker gets hardly a turn where something else wants to run, and
//! where all processors are busy none has to be woken up: then it stays nowhere. When it
//! is to wait for requests, and that others do as soon as it is held up, is the
//! business of [`Turns`](super::turns::Turns).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, gettid};

use crate::sync::lock;
use crate::sys::schedule::{
    Bystander, Load, Processors, Seen, give_room_back, make_room, own_proc, step_back, step_forward,
};

/// How often the scout looks where the client is. What comes late calls it sooner; and
/// some kernels send the client to a processor that is awake, where it would meet the scout.
const LOOK: Duration = Duration::from_millis(4);

/// After how many looks in a row at processors that all have something else to do it gives
/// up: client and worker have one for both of them.
const FULL: u32 = 8;

/// What comes later than this after an answer was perhaps on the way from another
/// processor; and how long the scout is not called again.
const LATE: Duration = Duration::from_micros(15);
const CALLED: Duration = Duration::from_micros(50);

/// What all threads know of the worker.
#[derive(Debug)]
pub(super) struct Near {
    /// Where requests come from.
    device: OwnedFd,
    /// The thread.
    thread: OnceLock<Pid>,
    scout: Arc<Scout>,
}

impl Near {
    /// Makes it possible that a thread becomes this worker; `device` is where requests
    /// come from.
    ///
    /// # Errors
    /// `Unsupported` if there is one processor, or no `/proc` where clients can be
    /// found; if that cannot be opened, or no thread be started; as sched_getaffinity(2).
    pub(super) fn new(device: OwnedFd) -> io::Result<Self> {
        let allowed = Processors::allowed()?;
        if allowed.count() < 2 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "there is one processor"));
        }
        let search =
            Search { worker: None, client: 0, at: None, allowed, due: false, ended: false };
        let scout = Arc::new(Scout {
            proc: own_proc()?,
            search: search.into(),
            changed: Condvar::new(),
            in_vain: AtomicBool::new(false),
        });
        let runs = Arc::clone(&scout);
        thread::Builder::new().name("scout".to_owned()).spawn(move || runs.run())?;
        Ok(Self { device, thread: OnceLock::new(), scout })
    }

    /// Has this thread be the worker, unless another one is, or it may not.
    pub(super) fn begin(&self) -> Option<Follower> {
        if self.thread.get().is_some() || self.thread.set(gettid()).is_err() {
            return None;
        }
        if let Err(error) = step_back() {
            log::debug!("no worker stays near its client: {error}");
            return None;
        }
        Some(Follower::default())
    }

    /// Returns the thread that is the worker.
    #[cfg(test)]
    pub(super) fn thread(&self) -> Option<&Pid> {
        self.thread.get()
    }

    /// Reports whether a request waits that no worker has taken.
    pub(super) fn is_asked(&self) -> bool {
        let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Begins to send the worker after a client. All others make room.
    pub(super) fn send(&self, client: u32) {
        let mut search = lock(&self.scout.search);
        (search.worker, search.at) = (self.thread.get().copied(), None);
        self.scout.in_vain.store(false, Ordering::SeqCst);
        self.scout.call(search, client);
    }

    /// Lets all threads run wherever there is room, this worker too, and as the others do
    /// if that is allowed.
    pub(super) fn release(&self) {
        let mut search = lock(&self.scout.search);
        let Some(worker) = search.worker.take() else { return };
        search.ask_where();
        let anywhere = search.allowed.again().unwrap_or(search.allowed);
        give_room_back(anywhere);
        if let Err(errno) = anywhere.keep(worker) {
            log::debug!("the worker near its client stays there: {errno}");
        }
        if let Err(error) = step_forward(worker) {
            log::trace!("the worker near its client stays back: {error}");
        }
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        lock(&self.scout.search).ended = true;
        self.scout.changed.notify_all();
    }
}

/// Who looks where the client is.
#[derive(Debug)]
struct Scout {
    proc: OwnedFd,
    search: Mutex<Search>,
    changed: Condvar,
    /// Whether the client cannot be seen, or is where the server may not run, or each
    /// processor has something else to do.
    in_vain: AtomicBool,
}

/// What is looked for.
#[derive(Debug)]
struct Search {
    /// The worker, while it is to be near.
    worker: Option<Pid>,
    /// The client's thread.
    client: u32,
    /// The processor that the worker keeps to.
    at: Option<usize>,
    /// Those that the server may use, when that was asked last.
    allowed: Processors,
    /// Whether to look at once.
    due: bool,
    ended: bool,
}

impl Scout {
    /// Has it look for a client at once.
    fn call(&self, mut search: MutexGuard<'_, Search>, client: u32) {
        if search.client != client {
            // That the last one cannot be seen, since it has ended, says nothing of this.
            self.in_vain.store(false, Ordering::SeqCst);
        }
        (search.client, search.due) = (client, true);
        drop(search);
        self.changed.notify_all();
    }

    /// Sends the worker after the client, until the end.
    fn run(&self) {
        let _bystander = Bystander::begin();
        let (mut seen, mut crowd) = (None, Crowd::new(&self.proc));
        while let Some(client) = self.next() {
            // Nothing is held: this may take as long as the client likes.
            let there = where_is(&mut seen, &self.proc, client).filter(|_| !crowd.is_full());
            let mut search = lock(&self.search);
            if search.client == client && !search.send(there) {
                self.in_vain.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Waits until it is to look; returns for whom, or `None` at the end.
    fn next(&self) -> Option<u32> {
        let mut search = lock(&self.search);
        while !(search.ended || search.due && search.worker.is_some()) {
            if search.worker.is_none() {
                search = self.changed.wait(search).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.changed.wait_timeout(search, LOOK);
            search = waited.unwrap_or_else(PoisonError::into_inner).0;
            search.due = true;
        }
        search.due = false;
        (!search.ended).then_some(search.client)
    }
}

impl Search {
    /// Asks where the server may run: somebody may have changed that, for each thread.
    fn ask_where(&mut self) {
        if let Ok(allowed) = Processors::allowed()
            && allowed != self.allowed
        {
            (self.allowed, self.at) = (allowed, None);
        }
    }

    /// Has the worker run where its client is, and all others elsewhere; reports whether
    /// it can.
    fn send(&mut self, there: Option<usize>) -> bool {
        let (Some(worker), Some(there)) = (self.worker, there) else {
            return self.worker.is_none();
        };
        self.ask_where();
        if self.at == Some(there) {
            return true;
        }
        let sent = self.allowed.only(there).is_some_and(|only| only.keep(worker).is_ok());
        make_room(self.allowed.without(there).unwrap_or(self.allowed));
        self.at = sent.then_some(there);
        sent
    }
}

/// What else there is to do.
struct Crowd {
    /// `None` if that is not told.
    load: Option<Load>,
    looked: Option<Instant>,
    /// How many looks in a row have seen that there is enough.
    full: u32,
}

impl Crowd {
    fn new(proc: &OwnedFd) -> Self {
        Self { load: Load::open(proc.as_fd()).ok(), looked: None, full: 0 }
    }

    /// Looks, unless it just has; reports whether it has seen enough.
    fn is_full(&mut self) -> bool {
        let now = Instant::now();
        let since = self.looked.map(|looked| now.saturating_duration_since(looked));
        if since.is_none_or(|since| since >= LOOK) {
            self.looked = Some(now);
            // One of client and worker runs.
            let full =
                self.load.as_ref().is_some_and(|load| load.is_full_besides(1).unwrap_or(false));
            let in_a_row = since.is_some_and(|since| since < LOOK.saturating_mul(FULL));
            self.full = if full && in_a_row { self.full.saturating_add(1) } else { 0 };
        }
        self.full >= FULL
    }
}

/// Returns the processor of a client; `seen` is what was opened of the last one.
fn where_is(seen: &mut Option<(u32, Seen)>, proc: &OwnedFd, client: u32) -> Option<usize> {
    if seen.as_ref().is_none_or(|(known, _)| *known != client) {
        *seen = Seen::open(proc.as_fd(), client).ok().map(|opened| (client, opened));
    }
    seen.as_ref()?.1.processor().ok()
}

/// What the worker itself knows.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// Who asked last.
    client: u32,
    /// When it had answered.
    answered: Option<Instant>,
    /// When it called the scout.
    called: Option<Instant>,
}

impl Follower {
    /// Takes a request of a client (0: it is not told which, and so the last one); reports
    /// whether it is known where that is, so far.
    pub(super) fn take(&mut self, near: &Near, client: u32) -> bool {
        let now = Instant::now();
        let client = if client == 0 { self.client } else { client };
        if client == 0 {
            return true;
        }
        let long = |since: Option<Instant>, time| {
            since.is_none_or(|since| now.saturating_duration_since(since) > time)
        };
        let same = std::mem::replace(&mut self.client, client) == client;
        if !same || long(self.answered, LATE) && long(self.called, CALLED) {
            self.called = Some(now);
            near.scout.call(lock(&near.scout.search), client);
        }
        !near.scout.in_vain.load(Ordering::SeqCst)
    }

    /// Notes that it has answered.
    pub(super) fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{SysconfVar, sysconf};

    use super::*;

    #[test]
    fn nobody_stays_where_all_processors_have_enough_to_do() {
        let (requests, _device) = std::io::pipe().unwrap();
        let Ok(near) = Near::new(requests.into()) else {
            eprintln!("SKIP: one processor");
            return;
        };
        // This thread is client and worker.
        near.thread.set(gettid()).unwrap();
        near.send(gettid().as_raw().unsigned_abs());
        let in_vain = || near.scout.in_vain.load(Ordering::SeqCst);
        let (begun, ended) = (Instant::now(), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..sysconf(SysconfVar::_NPROCESSORS_ONLN).unwrap().unwrap() + 2 {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            while !in_vain() && begun.elapsed() < Duration::from_secs(20) {
                thread::sleep(LOOK);
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert!(in_vain());
        near.release();
    }

    #[test]
    fn what_comes_late_has_the_client_looked_for_whoever_waits_for_it() {
        let (requests, _device) = std::io::pipe().unwrap();
        let Ok(near) = Near::new(requests.into()) else {
            eprintln!("SKIP: one processor");
            return;
        };
        let (mut follower, client) = (Follower::default(), gettid().as_raw().unsigned_abs());
        assert!(follower.take(&near, 0));
        assert!(follower.called.is_none());
        for told in [client, client, 0] {
            follower.answered();
            thread::sleep(LATE + CALLED);
            let before = Instant::now();
            assert!(follower.take(&near, told));
            assert!(follower.called >= Some(before), "{told}");
            assert_eq!(follower.client, client);
        }
    }
}
