//! Which workers wait for requests: one, unless more have something to do.
//!
//! The kernel wakes the worker that has waited longest. Where several wait for one
//! client, each request goes to another one, on a processor that has to be woken up or
//! that the client needs: to open, read and close small files took 0.6 to 0.8 of the
//! time with a single worker. So a worker that has answered lies down if another one
//! waits already.
//!
//! Several get up where requests come from several clients in turn, or ask for much
//! data; and one of those that lie looks every now and then whether a request takes
//! long (a disk, a server far away), and waits for the next one then, so that nobody is
//! held up by another one for more than a moment. There are more workers than are of use
//! at once: whatever a request waits for, it keeps its worker.
//!
//! Where one client asks several times in a row, the worker that stays
//! [near](super::near) it takes its requests, and all others lie. Whoever of them looks
//! sees whether it is held up: a request waits that it has not taken. They do as
//! without it then, for longer where that happens again at once.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::near::{Follower, Near};
use crate::sync::lock;
use crate::sys::schedule::{Bystander, step_back};

/// How often the guard looks, and so half of how long a request may hold up others.
const LOOK: Duration = Duration::from_millis(1);

/// After how many looks at nothing it does so no more, until a request comes.
const LOOKS: u32 = 50;

/// For how many looks a request may wait for the near worker: when it has just come,
/// that worker is about to take it.
const LATE: u32 = 2;

/// What the pressure goes up by with a request of another client than the last one,
/// what it goes down from, and from where on all workers wait.
const STEP: u32 = 4;
const MOST: u32 = 16;
const MUCH: u32 = 8;

/// For how many requests all workers wait after one that took long, or that let go of
/// something.
const HOLD: u32 = 100;

/// How many requests a client makes in a row until the near worker takes them; more if
/// others have asked lately.
const ROW: u32 = 8;

/// For how long at least, and at most, it does not once it was held up. That costs some
/// milliseconds, which are little if it does not happen as soon again.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The workers of a session.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many are of use at once.
    many: usize,
    /// How many wait for a request, or are about to; the near one does not count.
    waiting: AtomicUsize,
    /// How many requests have begun or ended.
    beats: AtomicU64,
    /// How much there is to do at once.
    pressure: AtomicU32,
    /// For how many requests all are to wait.
    hold: AtomicU32,
    /// Who asked last.
    client: AtomicU32,
    /// How often in a row, since that counts.
    row: AtomicU32,
    /// Whether nobody looks, since nothing was asked for a while.
    asleep: AtomicBool,
    /// The near worker, if there is to be one.
    near: Option<Near>,
    /// Whether it alone is to wait.
    close: AtomicBool,
    /// Whether it has let go of something since its last request.
    tidies: AtomicBool,
    lying: Mutex<Lying>,
    changed: Condvar,
    /// Has the near worker get up.
    near_called: Condvar,
}

/// The workers that do not wait for requests.
#[derive(Debug, Default)]
struct Lying {
    count: usize,
    /// How many of them are to get up.
    called: usize,
    /// Whether one of them looks.
    guarded: bool,
    /// Whether a worker has ended, and all are to.
    ended: bool,
    near: NearLying,
}

/// What becomes of the near worker, which is not counted among the others.
#[derive(Debug, Default)]
struct NearLying {
    /// Whether it lies.
    lies: bool,
    /// Whether it is to get up.
    called: bool,
    /// Since when it alone was to wait, the last time.
    since: Option<Instant>,
    /// Until when it is not called.
    until: Option<Instant>,
    /// For how long that was.
    pause: Duration,
}

thread_local! {
    /// What this thread is to the session that it answers for.
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// A worker's own state.
struct Own {
    turns: Arc<Turns>,
    /// Whether it is counted as one that waits.
    waits: bool,
    /// What it knows of its client, if it is the near worker.
    near: Option<Follower>,
    /// If it is not.
    bystander: Option<Bystander>,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.turns.end();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Turn<'t>(&'t Arc<Turns>);

impl Turns {
    /// Has workers take turns, so many of which wait at once where there is much to do,
    /// and one of which may be near its client.
    pub(super) fn new(many: usize, near: Option<Near>) -> Self {
        Self { many, near, ..Self::default() }
    }

    /// Begins a request of a client (0: nobody waits for it); `much` if it is of much data.
    pub(super) fn take(self: &Arc<Self>, client: u32, much: bool) -> Turn<'_> {
        let near = self.be_busy();
        if near {
            self.tidies.store(false, Ordering::Relaxed);
        }
        if near && self.close.load(Ordering::SeqCst) {
            self.stay_near(client);
        }
        self.beats.fetch_add(1, Ordering::SeqCst);
        self.weigh(client, much);
        self.rouse();
        Turn(self)
    }

    /// Lets go of something that no client waits for, and calls others to wait: it may
    /// take long to be gone, and many such things may come at once, whose end is not
    /// told. Until its next request this worker is taken for one that does that.
    pub(super) fn tidy(self: &Arc<Self>) {
        let near = self.be_busy();
        if self.close.load(Ordering::SeqCst) {
            if near {
                // Whoever looks sees what that holds up.
                self.tidies.store(true, Ordering::Relaxed);
                self.rouse();
            }
            return;
        }
        let held = self.hold.swap(HOLD, Ordering::SeqCst) > 0;
        // Who looks has to be awake, since the next request may be long in coming.
        if !held || self.asleep.load(Ordering::SeqCst) {
            self.call();
        }
    }

    /// Notes that this worker does not wait for requests; reports whether it is the near
    /// one.
    fn be_busy(self: &Arc<Self>) -> bool {
        let done = |own: &mut Own| (std::mem::replace(&mut own.waits, false), own.near.is_some());
        let (waited, near) = self.with_own(done).unwrap_or_default();
        if waited {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        near
    }

    /// Has the near worker, this one, take a request; where its client cannot be found,
    /// others are to wait.
    fn stay_near(self: &Arc<Self>, client: u32) {
        let found = self.with_own(|own| {
            let near = own.near.as_mut().zip(self.near.as_ref());
            near.is_none_or(|(follower, near)| follower.take(near, client))
        });
        if found == Some(false) {
            self.part(&mut lock(&self.lying), true);
        }
    }

    /// Has somebody look again.
    fn rouse(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            let lying = lock(&self.lying);
            self.asleep.store(false, Ordering::SeqCst);
            drop(lying);
            self.changed.notify_all();
        }
    }

    /// Does something with this thread's own state; `None` while the thread ends.
    fn with_own<T>(self: &Arc<Self>, act: impl FnOnce(&mut Own) -> T) -> Option<T> {
        let done = OWN.try_with(|own| {
            let mut own = own.try_borrow_mut().ok()?;
            if own.as_ref().is_none_or(|own| !Arc::ptr_eq(&own.turns, self)) {
                let near = self.near.as_ref().and_then(Near::begin);
                let bystander = near.is_none().then(Bystander::begin);
                let turns = Arc::clone(self);
                *own = Some(Own { turns, waits: false, near, bystander });
            }
            own.as_mut().map(act)
        });
        done.ok().flatten()
    }

    /// Notes who asks, and calls all workers where that is too much for one.
    fn weigh(&self, client: u32, much: bool) {
        let relaxed = Ordering::Relaxed;
        let same = client == 0 || self.client.load(relaxed) == client;
        let weighed = |before: u32| match (much, client) {
            (true, _) => MOST,
            (false, 0) => before,
            (false, _) if same => before.saturating_sub(1),
            (false, _) => before.saturating_add(STEP).min(MOST),
        };
        let before = self.pressure.fetch_update(relaxed, relaxed, |now| Some(weighed(now)));
        if !same {
            self.client.store(client, relaxed);
        }
        if !same || much {
            self.row.store(0, relaxed);
        } else if client != 0 {
            self.row.fetch_add(1, relaxed);
        }
        // Nothing to be done at 0.
        let _held = self.hold.fetch_update(relaxed, relaxed, |hold| hold.checked_sub(1));
        if before.is_ok_and(|before| before < MUCH && weighed(before) >= MUCH) {
            self.call();
        }
    }

    /// Reports whether more than one worker is to wait.
    fn is_much(&self) -> bool {
        self.pressure.load(Ordering::Relaxed) >= MUCH || self.hold.load(Ordering::Relaxed) > 0
    }

    /// Has as many workers that lie get up as are of use, but not the near one.
    fn call(&self) {
        self.call_on(&mut lock(&self.lying));
        self.changed.notify_all();
    }

    fn call_on(&self, lying: &mut Lying) {
        let missing = self.many.saturating_sub(self.waiting.load(Ordering::SeqCst));
        lying.called = lying.called.max(missing).min(lying.count);
    }

    /// Has all workers end, since one has: the connection is no more.
    fn end(&self) {
        lock(&self.lying).ended = true;
        self.changed.notify_all();
        self.near_called.notify_all();
    }

    /// Waits for requests again: now, or when called if another one waits already.
    fn wait(self: &Arc<Self>) {
        let near = self.with_own(|own| own.near.as_mut().map(Follower::answered).is_some());
        if near == Some(true) {
            self.wait_near();
            return;
        }
        let (set, read) = (Ordering::SeqCst, Ordering::SeqCst);
        let one_more =
            |waiting: usize| (!self.is_enough(waiting)).then_some(waiting.saturating_add(1));
        if self.come_close() || self.waiting.fetch_update(set, read, one_more).is_err() {
            self.lie();
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        self.with_own(|own| own.waits = true);
    }

    /// Reports whether enough workers wait if so many do.
    fn is_enough(&self, waiting: usize) -> bool {
        if self.is_much() {
            waiting >= self.many
        } else {
            waiting > 0 || self.close.load(Ordering::SeqCst)
        }
    }

    /// Lies until this worker is called, or needed.
    fn lie(self: &Arc<Self>) {
        let mut lying = lock(&self.lying);
        if self.is_much() && self.waiting.load(Ordering::SeqCst) < self.many {
            // Whoever has called meanwhile did not count this one.
            return;
        }
        lying.count = lying.count.saturating_add(1);
        let mut asleep = false;
        while !lying.ended && lying.called == 0 {
            if lying.guarded && !asleep {
                asleep = true;
                drop(lying);
                self.sleeps(asleep);
                lying = lock(&self.lying);
                continue;
            }
            if lying.guarded {
                lying = self.changed.wait(lying).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            lying.guarded = true;
            if asleep {
                asleep = false;
                drop(lying);
                self.sleeps(asleep);
                lying = lock(&self.lying);
            }
            let needed;
            (lying, needed) = self.look(lying);
            lying.guarded = false;
            if needed {
                // What it does for nobody does not say that it gets no turn.
                let held_up = !self.tidies.load(Ordering::Relaxed);
                self.part(&mut lying, held_up);
                self.hold.store(HOLD, Ordering::Relaxed);
                self.call_on(&mut lying);
            }
            // Somebody else looks from now on.
            self.changed.notify_all();
        }
        lying.count = lying.count.saturating_sub(1);
        lying.called = lying.called.saturating_sub(1);
        drop(lying);
        self.sleeps(false);
    }

    /// Notes whether this worker, which is not the near one, sleeps until it is called:
    /// then it is in nobody's way. It may have to move, and nobody is to wait for that.
    fn sleeps(self: &Arc<Self>, asleep: bool) {
        self.with_own(|own| own.bystander.as_ref().map(|bystander| bystander.sleeps(asleep)));
    }

    /// Looks whether a request takes long, until one does, or all are called; reports
    /// whether one does.
    fn look<'l>(&'l self, mut lying: MutexGuard<'l, Lying>) -> (MutexGuard<'l, Lying>, bool) {
        let (mut seen, mut idle, mut late) = (self.beats.load(Ordering::SeqCst), 0_u32, 0_u32);
        while !lying.ended && lying.called == 0 {
            if idle >= LOOKS && self.close.load(Ordering::SeqCst) {
                // What comes next is not to wait for a turn that nobody watches over.
                self.part(&mut lying, false);
                continue;
            }
            if idle >= LOOKS {
                self.asleep.store(true, Ordering::SeqCst);
                // Whoever began before this has not seen it.
                let waits = self.waiting.load(Ordering::SeqCst) > 0;
                if waits && self.beats.load(Ordering::SeqCst) == seen {
                    let asleep = |lying: &mut Lying| {
                        self.asleep.load(Ordering::SeqCst) && !lying.ended && lying.called == 0
                    };
                    let waited = self.changed.wait_while(lying, asleep);
                    lying = waited.unwrap_or_else(PoisonError::into_inner);
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle = 0;
            }
            let waited = self.changed.wait_timeout(lying, LOOK);
            lying = waited.unwrap_or_else(PoisonError::into_inner).0;
            let now = self.beats.load(Ordering::SeqCst);
            let still = now == seen;
            let held_up = if self.close.load(Ordering::SeqCst) {
                let asked = still && self.near.as_ref().is_some_and(Near::is_asked);
                late = if asked { late.saturating_add(1) } else { 0 };
                late >= LATE
            } else {
                still && self.waiting.load(Ordering::SeqCst) == 0
            };
            if held_up {
                return (lying, true);
            }
            idle = if still { idle.saturating_add(1) } else { 0 };
            seen = now;
        }
        (lying, false)
    }

    /// Has the near worker wait alone where one client asks again and again; reports
    /// whether it does from now on.
    fn come_close(&self) -> bool {
        // What holds up another worker does not hold up this one.
        if self.row.load(Ordering::Relaxed) < ROW || self.pressure.load(Ordering::Relaxed) > 0 {
            return false;
        }
        self.row.store(0, Ordering::Relaxed);
        let Some(near) = self.near.as_ref().filter(|_| !self.close.load(Ordering::SeqCst)) else {
            return false;
        };
        let now = Instant::now();
        let mut lying = lock(&self.lying);
        let state = &mut lying.near;
        if !state.lies || state.called || state.until.is_some_and(|until| now < until) {
            return false;
        }
        near.send(self.client.load(Ordering::Relaxed));
        state.called = true;
        state.since = Some(now);
        self.hold.store(0, Ordering::SeqCst);
        self.close.store(true, Ordering::SeqCst);
        drop(lying);
        self.near_called.notify_one();
        true
    }

    /// Has the near worker wait alone no more, and others in its place; not again for
    /// a while if it was held up.
    fn part(&self, lying: &mut Lying, held_up: bool) {
        if !self.close.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Some(near) = &self.near {
            near.release();
        }
        if held_up {
            let (now, near) = (Instant::now(), &mut lying.near);
            let stayed = near.since.map_or(Duration::ZERO, |since| now.duration_since(since));
            let again = if stayed < PAUSE { near.pause.saturating_mul(2) } else { PAUSE };
            near.pause = again.clamp(PAUSE, LONGEST_PAUSE);
            near.until = now.checked_add(near.pause);
        }
        if self.waiting.load(Ordering::SeqCst) == 0 {
            lying.called = lying.called.max(1).min(lying.count);
            self.changed.notify_all();
        }
    }

    /// Waits for requests again as the near worker: now, or when called.
    fn wait_near(self: &Arc<Self>) {
        if self.close.load(Ordering::SeqCst) && !self.is_much() {
            return;
        }
        let mut lying = lock(&self.lying);
        self.part(&mut lying, false);
        if self.waiting.load(Ordering::SeqCst) == 0 && lying.count == 0 {
            // The others have not had a request yet, and so would end without a word.
            return;
        }
        lying.near.lies = true;
        while !lying.ended && !lying.near.called {
            lying = self.near_called.wait(lying).unwrap_or_else(PoisonError::into_inner);
        }
        (lying.near.lies, lying.near.called) = (false, false);
        drop(lying);
        if let Err(error) = step_back() {
            log::debug!("the worker near its client runs as others do: {error}");
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.beats.fetch_add(1, Ordering::SeqCst);
        // One that fails ends, and must not lie down before.
        if !std::thread::panicking() {
            self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests;
