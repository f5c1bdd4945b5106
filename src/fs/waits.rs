//! Requests that wait for something on the host that nobody reports: a range
//! lock of another process, a lease.
//!
//! A waiting request never holds a worker. One thread, started before the first
//! that waits, tries all of them again in the order of arrival: at growing
//! intervals, and at once when something in this mount has let go. One that
//! cannot be had holds up no later one: who waits behind it may be its holder.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Done, Processes};
use crate::error::{Errno, Error, Result};
use crate::sync::lock;
use crate::threads;

/// The interval before the second try; it doubles from try to try.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest interval between tries.
const LONGEST: Duration = Duration::from_millis(50);

/// How a wait ends whose caller is to die, or whose file system ends.
const INTERRUPTED: Error = Error::Os(Errno(libc::EINTR));

/// How one ends for which there is no thread. `EAGAIN` would say that the lock is held,
/// to a caller who has asked to wait for it.
const NO_ROOM: Error = Error::Os(Errno(libc::ENOLCK));

/// Something to try until it is had.
trait Job: Send {
    /// Tries; `true` if the request was answered.
    fn attempt(&mut self) -> bool;

    /// Answers the request with an error.
    fn end(&mut self, error: Error);
}

struct Request<T, F> {
    attempt: F,
    done: Option<Done<T>>,
}

impl<T, F> Request<T, F> {
    fn answer(&mut self, result: Result<T>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl<T, F: FnMut() -> Result<T> + Send> Job for Request<T, F> {
    fn attempt(&mut self) -> bool {
        match (self.attempt)() {
            Err(error) if error.is(libc::EAGAIN) => false,
            result => {
                self.answer(result);
                true
            }
        }
    }

    fn end(&mut self, error: Error) {
        self.answer(Err(error));
    }
}

struct Waiter {
    /// Its place in the order of arrival.
    ticket: u64,
    /// The inode that it waits for.
    number: u64,
    /// The thread that waits for the answer.
    pid: u32,
    job: Box<dyn Job>,
    delay: Duration,
    next: Instant,
}

impl Waiter {
    fn hurry(&mut self, now: Instant) {
        self.delay = SHORTEST;
        self.next = now;
    }
}

/// Who waits, in the order of arrival.
#[derive(Default)]
struct State {
    waiters: Vec<Waiter>,
    /// Inodes of which something was let go while waiters were being tried.
    kicked: Vec<u64>,
    /// Whether some waiters are out to be tried.
    trying: bool,
    /// The ticket of the next that comes.
    tickets: u64,
    thread: Option<JoinHandle<()>>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    processes: Arc<dyn Processes>,
}

/// The list of requests that wait.
pub(super) struct Waits {
    shared: Arc<Shared>,
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").finish_non_exhaustive()
    }
}

impl Waits {
    /// Makes an empty list.
    pub(super) fn new(processes: Arc<dyn Processes>) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { state, changed: Condvar::new(), processes }) }
    }

    /// Has the thread be there, so that there is one whatever limit of threads is reached
    /// later.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.start(&mut lock(&self.shared.state))
    }

    fn start(&self, state: &mut State) -> io::Result<()> {
        if state.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            state.thread = Some(threads::start("waits", move || shared.run())?);
        }
        Ok(())
    }

    /// Tries something until it is anything but `EAGAIN`, then answers with
    /// the result.
    ///
    /// The wait ends with `EINTR` once a signal that would end it waits for
    /// the thread `pid`.
    pub(super) fn wait<T: 'static>(
        &self,
        number: u64,
        pid: u32,
        attempt: impl FnMut() -> Result<T> + Send + 'static,
        done: Done<T>,
    ) {
        let job = Box::new(Request { attempt, done: Some(done) });
        let mut state = lock(&self.shared.state);
        let ticket = state.tickets;
        state.tickets = ticket.wrapping_add(1);
        let next = Instant::now();
        let mut waiter = Waiter { ticket, number, pid, job, delay: SHORTEST, next };
        if let Err(error) = self.start(&mut state) {
            drop(state);
            log::error!("a request cannot wait: thread: {error}");
            waiter.job.end(NO_ROOM);
            return;
        }
        state.waiters.push(waiter);
        self.shared.changed.notify_one();
    }

    /// Tries those at once that wait for an inode: something was let go.
    pub(super) fn kick(&self, number: u64) {
        let mut state = lock(&self.shared.state);
        if state.trying {
            state.kicked.push(number);
        }
        let now = Instant::now();
        state.waiters.iter_mut().filter(|w| w.number == number).for_each(|w| w.hurry(now));
        self.shared.changed.notify_one();
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.stop = true;
        let thread = state.thread.take();
        drop(state);
        self.shared.changed.notify_one();
        // An answer may hold the last reference to the file system: then this
        // is the thread itself, and ends on its own.
        if let Some(thread) = thread.filter(|t| t.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            log::error!("the thread of waiting requests has panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        while let Some(due) = self.due() {
            let tried = due.into_iter().filter_map(|waiter| self.attempt(waiter)).collect();
            self.put_back(tried);
        }
        let left = std::mem::take(&mut lock(&self.state).waiters);
        for mut waiter in left {
            waiter.job.end(INTERRUPTED);
        }
    }

    /// Tries once; returns the waiter if it must go on waiting.
    fn attempt(&self, mut waiter: Waiter) -> Option<Waiter> {
        // A panic is a fault of one request; the others go on being tried.
        let tried = catch_unwind(AssertUnwindSafe(|| waiter.job.attempt()));
        if tried.is_err() {
            log::error!("a waiting request has panicked");
            waiter.job.end(Error::Internal);
        }
        if tried.unwrap_or(true) {
            return None;
        }
        if self.processes.interrupted(waiter.pid) {
            waiter.job.end(INTERRUPTED);
            return None;
        }
        waiter.next = Instant::now().checked_add(waiter.delay)?;
        waiter.delay = waiter.delay.saturating_mul(2).min(LONGEST);
        Some(waiter)
    }

    /// Waits until some are due, and takes them out; `None` at the end.
    fn due(&self) -> Option<Vec<Waiter>> {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            let now = Instant::now();
            let due: Vec<_> = state.waiters.extract_if(.., |w| w.next <= now).collect();
            if !due.is_empty() {
                state.trying = true;
                return Some(due);
            }
            state = match state.waiters.iter().map(|w| w.next).min() {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let time = next.saturating_duration_since(now);
                    let woken = self.changed.wait_timeout(state, time);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Puts back those that must go on waiting, where they were in the order.
    fn put_back(&self, tried: Vec<Waiter>) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let kicked = std::mem::take(&mut state.kicked);
        state.trying = false;
        for mut waiter in tried {
            if kicked.contains(&waiter.number) {
                waiter.hurry(now);
            }
            state.waiters.push(waiter);
        }
        state.waiters.sort_by_key(|w| w.ticket);
    }
}
