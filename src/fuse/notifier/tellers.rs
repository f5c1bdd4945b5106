//! Who tells the kernel: one thread, until that is held up.
//!
//! The kernel lets who tells it of a name wait for the directory, and a caller can have
//! that locked for as long as it likes (getdents(2) into memory that never comes). So
//! another thread stands by. It takes over when the one in charge has waited for long, and
//! leaves out what that waits for: who is free again hands in what was left out meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pending::{All, Batch, Job, Later, MOST};
use crate::count::{self, Count};
use crate::fs::Notice;
use crate::sync::lock;

/// How long the one in charge may wait for the kernel before another takes over, at first.
const HELD_UP: Duration = Duration::from_millis(50);

/// How often that is doubled at most: where the machine has too much to do, who seems to be
/// held up is back at once, and what is told of all would begin anew each time.
const DOUBLED: u32 = 5;

/// How soon who was only slow is back.
const SOON: Duration = Duration::from_secs(1);

/// How many threads there are at most: more directories than that, less two, are not
/// locked at once but by who wants to have nothing told.
const THREADS: usize = 18;

/// How much may wait for who is held up; if it is more, all is told again instead.
const MISSED: usize = 1024;

/// Why a thread tells nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The connection has ended, or is about to.
    Ended,
    /// It was held up, and another has taken over.
    Relieved,
}

#[derive(Debug, Default)]
struct State {
    /// What is told now.
    now: Batch,
    /// What is told then.
    next: Batch,
    later: Later,
    /// What is being told of all, and how often that was wanted then.
    walk: Option<(All, u64)>,
    /// How often all was to be told again.
    wanted: u64,
    /// How many of these are done.
    done: u64,
    /// How many threads there are, or are about to be.
    threads: usize,
    /// The last number that was given to one.
    last: u64,
    /// Who is in charge; 0: nobody.
    charge: u64,
    /// Whether one stands by.
    spare: bool,
    /// Whether that looks at the clock.
    awake: bool,
    /// Which file, or directory of names, the kernel is told of, and since when.
    telling: Option<(u64, Instant)>,
    /// Whether it has been told anything since the clock was looked at.
    told: bool,
    /// The files and directories of names that threads are held up by.
    held: BTreeMap<u64, Held>,
    /// How often the time was doubled after which one is held up.
    doubled: u32,
}

/// What somebody is held up by.
#[derive(Debug)]
struct Held {
    since: Instant,
    /// What of it nobody has told meanwhile.
    missed: Batch,
}

impl State {
    fn want_all(&mut self, pages: bool) -> u64 {
        self.next.all.want(pages);
        self.wanted = self.wanted.saturating_add(1);
        self.wanted
    }

    /// Puts another in the place of who is held up by a file.
    fn take_over(&mut self, who: u64, number: u64) {
        self.charge = who;
        self.telling = None;
        self.held.insert(number, Held { since: Instant::now(), missed: Batch::default() });
        if let Some((all, _)) = self.walk.take() {
            self.next.all.want(all.pages);
        }
    }

    /// Hands in what was not told of a file while somebody was held up by it.
    fn release(&mut self, number: u64, notice: Notice) {
        self.next.add(notice, MOST);
        if let Some(Held { since, missed }) = self.held.remove(&number) {
            self.next.merge(missed, MOST);
            if since.elapsed() < SOON {
                self.doubled = self.doubled.saturating_add(1).min(DOUBLED);
            }
        }
        // What was told of all then was not all.
        if self.held.is_empty() && self.done < self.wanted {
            self.next.all.want(false);
        }
    }
}

/// The threads, and what they have to do.
#[derive(Debug, Default)]
pub(super) struct Tellers {
    state: Mutex<State>,
    /// For who is in charge: there is something to do.
    work: Condvar,
    /// For who stands by: somebody tells the kernel something.
    relief: Condvar,
    /// For who waits for them: all was told, or a thread has ended.
    progress: Condvar,
    /// Whether there is no use any more.
    ended: AtomicBool,
}

impl Tellers {
    /// Has something told soon; waits for nothing.
    pub(super) fn add(&self, notice: Notice) {
        let mut state = lock(&self.state);
        if state.threads == 0 {
            return;
        }
        if notice == Notice::All {
            state.want_all(true);
        } else {
            state.next.add(notice, MOST);
        }
        self.work.notify_one();
        self.rouse(&mut state);
    }

    /// Reports whether more names wait than so many.
    pub(super) fn is_busy(&self, many: usize) -> bool {
        let state = lock(&self.state);
        state.now.names.len().saturating_add(state.next.names.len()) > many
    }

    /// Has all told again, but for pages, and waits for that, but no longer than
    /// `patience`; reports whether it is done.
    pub(super) fn all(&self, patience: Duration) -> bool {
        let mut state = lock(&self.state);
        let mine = state.want_all(false);
        self.work.notify_one();
        let waits = |state: &mut State| state.done < mine && state.threads > 0;
        let waited = self.progress.wait_timeout_while(state, patience, waits);
        !waits(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends all threads, and waits for that, but no longer than `patience`.
    pub(super) fn end(&self, patience: Duration) {
        self.ended.store(true, Ordering::SeqCst);
        let state = lock(&self.state);
        self.work.notify_all();
        self.relief.notify_all();
        let running = |state: &mut State| state.threads > 0;
        drop(self.progress.wait_timeout_while(state, patience, running));
    }

    /// Counts another thread that is about to begin; reports whether there is to be one.
    pub(super) fn admit(&self) -> bool {
        let mut state = lock(&self.state);
        let admitted = state.threads < THREADS && !self.has_ended();
        state.threads = state.threads.saturating_add(usize::from(admitted));
        admitted
    }

    /// Counts a thread no more.
    pub(super) fn dismiss(&self) {
        let mut state = lock(&self.state);
        state.threads = state.threads.saturating_sub(1);
        if state.threads == 0 {
            // What comes now has nobody to be told.
            self.ended.store(true, Ordering::SeqCst);
            let wanted = state.wanted;
            *state = State { wanted, done: wanted, ..State::default() };
        }
        if self.has_ended() {
            self.work.notify_all();
            self.relief.notify_all();
        }
        self.progress.notify_all();
    }

    /// Waits for this thread to be in charge; `None` if it is of no use.
    pub(super) fn charge(&self) -> Option<Charge<'_>> {
        let mut state = lock(&self.state);
        state.last = state.last.saturating_add(1);
        let who = state.last;
        if state.charge == 0 {
            state.charge = who;
        } else if state.spare {
            return None;
        }
        state.spare = state.charge != who;
        // Who is in charge may be held up already.
        state.awake = true;
        while state.charge != who && !self.has_ended() {
            state = self.stand_by(state, who);
        }
        if state.charge != who || self.has_ended() {
            return None;
        }
        let second = std::mem::take(&mut state.spare);
        Some(Charge { tellers: self, who, second })
    }

    /// Sees that who is in charge is not held up; else this thread is.
    ///
    /// While it is told something now and then, the clock is looked at now and then, so
    /// that nobody has to be woken up for each.
    fn stand_by<'a>(&'a self, mut state: MutexGuard<'a, State>, who: u64) -> MutexGuard<'a, State> {
        if !state.awake {
            return self.relief.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let patience = HELD_UP.saturating_mul(1 << state.doubled);
        match state.telling {
            Some((number, since)) if since.elapsed() >= patience => {
                state.take_over(who, number);
                return state;
            }
            Some(_) => {}
            None if state.told => {}
            None => {
                state.awake = false;
                state.doubled = 0;
                return state;
            }
        }
        state.told = false;
        let waited = self.relief.wait_timeout(state, HELD_UP);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Has who stands by look at the clock.
    fn rouse(&self, state: &mut State) {
        state.told = true;
        if state.spare && !state.awake {
            state.awake = true;
            self.relief.notify_one();
        }
    }
}

/// Being in charge: what the one thread does that tells the kernel.
#[derive(Debug)]
pub(super) struct Charge<'a> {
    tellers: &'a Tellers,
    who: u64,
    second: bool,
}

impl<'a> Charge<'a> {
    /// Reports whether this thread stood by before, which nobody does now.
    pub(super) const fn is_second(&self) -> bool {
        self.second
    }

    fn state(&self) -> Result<MutexGuard<'a, State>, Stop> {
        let state = lock(&self.tellers.state);
        if self.tellers.has_ended() {
            return Err(Stop::Ended);
        }
        if state.charge == self.who { Ok(state) } else { Err(Stop::Relieved) }
    }

    /// Waits until there is something to do, and takes it.
    ///
    /// # Errors
    /// At the end.
    pub(super) fn next(&self) -> Result<Job, Stop> {
        let mut state = self.state()?;
        loop {
            if let Some(all) = state.later.overflow() {
                state.next.all.want(all.pages);
            }
            let job = state
                .now
                .pop()
                .or_else(|| state.later.due().inspect(|_| count::add(Count::ToldAgain)));
            if let Some(job) = job {
                state.walk = match job {
                    Job::All(all) => Some((all, state.wanted)),
                    Job::Names(_) => Some((All::default(), state.done)),
                    Job::File(..) | Job::Name(..) => None,
                };
                return Ok(job);
            }
            if !state.next.is_empty() {
                state.now = std::mem::take(&mut state.next);
                continue;
            }
            let work = &self.tellers.work;
            drop(match state.later.pause() {
                None => work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            });
            state = self.state()?;
        }
    }

    /// Tells the kernel something, which may have to wait for the file, or for the directory
    /// of a name; `None` if somebody waits for that already, who will see to it.
    ///
    /// # Errors
    /// At the end, and for who was held up.
    pub(super) fn tell<T>(
        &self,
        notice: Notice,
        tell: impl FnOnce() -> io::Result<T>,
    ) -> Result<Option<T>, Stop> {
        let (Notice::Attributes(number) | Notice::Pages(number) | Notice::Name(number, _)) = notice
        else {
            return Ok(None);
        };
        let mut state = self.state()?;
        if let Some(held) = state.held.get_mut(&number) {
            held.missed.add(notice, MISSED);
            return Ok(None);
        }
        state.telling = Some((number, Instant::now()));
        self.tellers.rouse(&mut state);
        drop(state);
        let told = tell();
        let mut state = lock(&self.tellers.state);
        if state.charge != self.who {
            state.release(number, notice);
            self.tellers.work.notify_one();
            return Err(Stop::Relieved);
        }
        state.telling = None;
        drop(state);
        match told {
            Ok(told) => Ok(Some(told)),
            Err(error) => self.end(&error),
        }
    }

    /// Ends all of it: the kernel listens no more.
    ///
    /// # Errors
    /// Always.
    pub(super) fn end<T>(&self, error: &io::Error) -> Result<T, Stop> {
        log::debug!("notifier: {error}");
        self.tellers.ended.store(true, Ordering::SeqCst);
        Err(Stop::Ended)
    }

    /// Has something told again.
    ///
    /// # Errors
    /// As [`Charge::tell`].
    pub(super) fn later(&self, after: Duration, job: Job) -> Result<(), Stop> {
        self.state()?.later.add(after, job);
        Ok(())
    }

    /// Reports whether so much waits to be told again that nothing belongs added which can
    /// be avoided.
    ///
    /// # Errors
    /// As [`Charge::tell`].
    pub(super) fn is_behind(&self) -> Result<bool, Stop> {
        Ok(self.state()?.later.is_long())
    }

    /// Notes that all was told, but for what others are held up by.
    ///
    /// # Errors
    /// As [`Charge::tell`].
    pub(super) fn told_all(&self) -> Result<(), Stop> {
        let mut state = self.state()?;
        if let Some((_, wanted)) = state.walk.take()
            && state.held.is_empty()
        {
            state.done = wanted.max(state.done);
        }
        self.tellers.progress.notify_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, JoinHandle};

    use super::*;

    const LATEST: Duration = Duration::from_secs(10);

    fn name(dir: u64, name: &str) -> Notice {
        Notice::Name(dir, name.into())
    }

    /// Tells all that comes, with a word to `told` of each; of directory 1 when `go_on` says
    /// so.
    fn start(
        tellers: &Arc<Tellers>,
        told: Sender<Job>,
        go_on: Receiver<()>,
    ) -> JoinHandle<Option<Stop>> {
        assert!(tellers.admit());
        let tellers = Arc::clone(tellers);
        thread::spawn(move || {
            let charge = tellers.charge();
            let work = |charge: &Charge<'_>| -> Result<(), Stop> {
                loop {
                    let job = charge.next()?;
                    match &job {
                        Job::Name(dir, name, _) => {
                            let notice = Notice::Name(*dir, name.clone());
                            let wait = || {
                                if *dir == 1 {
                                    go_on.recv().unwrap();
                                }
                                Ok(())
                            };
                            if charge.tell(notice, wait)?.is_none() {
                                continue;
                            }
                        }
                        Job::All(_) => charge.told_all()?,
                        Job::File(..) | Job::Names(_) => {}
                    }
                    told.send(job).unwrap();
                }
            };
            let stop = charge.and_then(|charge| work(&charge).err());
            tellers.dismiss();
            stop
        })
    }

    #[test]
    fn who_is_held_up_is_relieved_and_what_was_left_out_is_told_then() {
        let tellers = Arc::new(Tellers::default());
        let (told, jobs) = channel();
        let ((first_may, first_waits), (second_may, second_waits)) = (channel(), channel());
        let first = start(&tellers, told.clone(), first_waits);
        let in_charge = || lock(&tellers.state).charge != 0;
        while !in_charge() {
            thread::yield_now();
        }
        let second = start(&tellers, told, second_waits);
        let next = || jobs.recv_timeout(LATEST);
        for notice in [name(1, "a"), name(2, "b")] {
            tellers.add(notice);
        }
        assert_eq!(next(), Ok(Job::Name(2, "b".into(), 0)), "the second has taken over");
        assert_eq!(lock(&tellers.state).doubled, 0);
        tellers.add(name(1, "c"));
        tellers.add(name(3, "d"));
        assert_eq!(next(), Ok(Job::Name(3, "d".into(), 0)));
        // All but what somebody is held up by is told, and that is not all.
        assert!(!tellers.all(Duration::from_millis(20)));
        assert!(matches!(next(), Ok(Job::All(_))));
        assert!(!lock(&tellers.state).next.all.wanted);
        first_may.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Some(Stop::Relieved));
        assert_eq!(lock(&tellers.state).doubled, 1, "it was only slow");
        second_may.send(()).unwrap();
        second_may.send(()).unwrap();
        let mut rest: Vec<Job> = (0..3).map(|_| next().unwrap()).collect();
        rest.sort_by_key(|job| matches!(job, Job::All(_)));
        let again = |name: &str| Job::Name(1, name.into(), 0);
        assert_eq!(rest[..2], [again("a"), again("c")]);
        assert!(matches!(rest[2], Job::All(_)));
        assert!(tellers.all(LATEST));
        tellers.end(LATEST);
        assert_eq!(second.join().unwrap(), Some(Stop::Ended));
    }

    #[test]
    fn one_stands_by_and_more_are_of_no_use() {
        let tellers = Tellers::default();
        for _ in 0..THREADS {
            assert!(tellers.admit());
        }
        assert!(!tellers.admit());
        let charge = tellers.charge().unwrap();
        assert!(!charge.is_second());
        lock(&tellers.state).spare = true;
        assert!(tellers.charge().is_none());
    }
}
