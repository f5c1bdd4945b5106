//! Which workers wait for requests: one, unless more have something to do.
//!
//! The kernel wakes the worker that has waited longest. Where several wait for one
//! client, each request goes to another one, on a processor that has to be woken up or
//! that the client needs: to open, read and close small files took 0.6 to 0.8 of the
//! time with a single worker. So a worker that has answered lies down if another one
//! waits already.
//!
//! They get up again where requests come from several clients in turn, or ask for much
//! data; and one of those that lie looks every now and then whether a request takes
//! long (a disk, a server far away), and waits for the next one then, so that nobody is
//! held up by another one for more than a moment.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sync::lock;

/// How often the guard looks, and so half of how long a request may hold up others.
const LOOK: Duration = Duration::from_millis(1);

/// After how many looks at nothing it does so no more, until a request comes.
const LOOKS: u32 = 50;

/// What the pressure goes up by with a request of another client than the last one,
/// what it goes down from, and from where on all workers wait.
const STEP: u32 = 4;
const MOST: u32 = 16;
const MUCH: u32 = 8;

/// For how many requests all workers wait after one that took long, or that let go of
/// something.
const HOLD: u32 = 100;

/// The workers of a session.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many wait for a request, or are about to.
    waiting: AtomicUsize,
    /// How many requests have begun or ended.
    beats: AtomicU64,
    /// How much there is to do at once.
    pressure: AtomicU32,
    /// For how many requests all are to wait.
    hold: AtomicU32,
    /// Who asked last.
    client: AtomicU32,
    /// Whether nobody looks, since nothing was asked for a while.
    asleep: AtomicBool,
    lying: Mutex<Lying>,
    changed: Condvar,
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
    /// Begins a request of a client (0: nobody waits for it); `much` if it is of data.
    pub(super) fn take(self: &Arc<Self>, client: u32, much: bool) -> Turn<'_> {
        self.be_busy();
        self.beats.fetch_add(1, Ordering::SeqCst);
        self.weigh(client, much);
        if self.asleep.load(Ordering::SeqCst) {
            let lying = lock(&self.lying);
            self.asleep.store(false, Ordering::SeqCst);
            drop(lying);
            self.changed.notify_all();
        }
        Turn(self)
    }

    /// Lets go of something that no client waits for, and calls others to wait: it may
    /// take long to be gone, and many such things may come at once, whose end is not
    /// told. Until its next request this worker is taken for one that does that.
    pub(super) fn tidy(self: &Arc<Self>) {
        self.be_busy();
        let held = self.hold.swap(HOLD, Ordering::SeqCst) > 0;
        // Who looks has to be awake, since the next request may be long in coming.
        if !held || self.asleep.load(Ordering::SeqCst) {
            self.call();
        }
    }

    /// Notes that this worker does not wait for requests.
    fn be_busy(self: &Arc<Self>) {
        let waited = self.with_own(|own| std::mem::replace(&mut own.waits, false));
        if waited == Some(true) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Does something with this thread's own state; `None` while the thread ends.
    fn with_own<T>(self: &Arc<Self>, act: impl FnOnce(&mut Own) -> T) -> Option<T> {
        let done = OWN.try_with(|own| {
            let mut own = own.try_borrow_mut().ok()?;
            if own.as_ref().is_none_or(|own| !Arc::ptr_eq(&own.turns, self)) {
                *own = Some(Own { turns: Arc::clone(self), waits: false });
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
        // Nothing to be done at 0.
        let _held = self.hold.fetch_update(relaxed, relaxed, |hold| hold.checked_sub(1));
        if before.is_ok_and(|before| before < MUCH && weighed(before) >= MUCH) {
            self.call();
        }
    }

    /// Reports whether all workers are to wait.
    fn is_much(&self) -> bool {
        self.pressure.load(Ordering::Relaxed) >= MUCH || self.hold.load(Ordering::Relaxed) > 0
    }

    /// Has all workers that lie get up.
    fn call(&self) {
        let mut lying = lock(&self.lying);
        lying.called = lying.count;
        drop(lying);
        self.changed.notify_all();
    }

    /// Has all workers end, since one has: the connection is no more.
    fn end(&self) {
        lock(&self.lying).ended = true;
        self.changed.notify_all();
    }

    /// Waits for requests again: now, or when called if another one waits already.
    fn wait(self: &Arc<Self>) {
        let one_more = |waiting: usize| {
            let enough = waiting > 0 && !self.is_much();
            (!enough).then_some(waiting.saturating_add(1))
        };
        let (set, read) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.waiting.fetch_update(set, read, one_more).is_err() {
            self.lie();
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        self.with_own(|own| own.waits = true);
    }

    /// Lies until this worker is called, or needed.
    fn lie(&self) {
        let mut lying = lock(&self.lying);
        if self.is_much() {
            // Whoever has called meanwhile did not count this one.
            return;
        }
        lying.count = lying.count.saturating_add(1);
        while !lying.ended && lying.called == 0 {
            if lying.guarded {
                lying = self.changed.wait(lying).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            lying.guarded = true;
            let needed;
            (lying, needed) = self.look(lying);
            lying.guarded = false;
            // Somebody else looks from now on.
            self.changed.notify_all();
            if needed {
                self.hold.store(HOLD, Ordering::Relaxed);
                lying.called = lying.count;
            }
        }
        lying.count = lying.count.saturating_sub(1);
        lying.called = lying.called.saturating_sub(1);
    }

    /// Looks whether a request takes long, until one does, or all are called; reports
    /// whether one does.
    fn look<'l>(&'l self, mut lying: MutexGuard<'l, Lying>) -> (MutexGuard<'l, Lying>, bool) {
        let (mut seen, mut idle) = (self.beats.load(Ordering::SeqCst), 0_u32);
        while !lying.ended && lying.called == 0 {
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
            let nobody = self.waiting.load(Ordering::SeqCst) == 0;
            if now == seen && nobody {
                return (lying, true);
            }
            idle = if now == seen { idle.saturating_add(1) } else { 0 };
            seen = now;
        }
        (lying, false)
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
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, JoinHandle};
    use std::time::Instant;

    use super::*;

    /// What a worker is asked: by which client, and how long it takes.
    type Asked = (u32, Duration);

    /// Workers that take what they are asked from one queue.
    struct Pool {
        turns: Arc<Turns>,
        ask: Sender<Asked>,
        done: Receiver<u32>,
        workers: Vec<JoinHandle<()>>,
    }

    impl Pool {
        fn new(workers: usize) -> Self {
            let turns = Arc::<Turns>::default();
            let ((ask, asked), (tell, done)) = (channel::<Asked>(), channel());
            let asked = Arc::new(Mutex::new(asked));
            let work = || {
                let (turns, asked, tell) = (Arc::clone(&turns), Arc::clone(&asked), tell.clone());
                thread::spawn(move || {
                    loop {
                        // It ends with the queue, as a worker does with the connection.
                        let Ok((client, time)) = lock(&asked).recv() else { return };
                        let turn = turns.take(client, false);
                        thread::sleep(time);
                        tell.send(client).unwrap();
                        drop(turn);
                    }
                })
            };
            let workers = (0..workers).map(|_| work()).collect();
            Self { turns, ask, done, workers }
        }

        fn ask(&self, client: u32, millis: u64) {
            self.ask.send((client, Duration::from_millis(millis))).unwrap();
        }

        /// Asks and waits for the answer.
        fn served(&self, client: u32) {
            self.ask(client, 0);
            assert_eq!(self.done.recv(), Ok(client));
        }

        fn lying(&self) -> usize {
            lock(&self.turns.lying).count
        }

        /// Asks for one client until so many lie.
        fn settle(&self, lying: usize) {
            let begun = Instant::now();
            while self.lying() != lying {
                self.served(1);
                assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.turns);
            }
        }

        /// Ends, and waits for all workers.
        fn end(self) {
            drop(self.ask);
            self.workers.into_iter().for_each(|worker| worker.join().unwrap());
        }
    }

    #[test]
    fn one_worker_waits_for_one_client_and_all_for_several() {
        let pool = Pool::new(4);
        pool.settle(3);
        for client in (1..=5).cycle().take(200) {
            pool.served(client);
        }
        assert_eq!(pool.lying(), 0, "{:?}", pool.turns);
        // Who lets something go calls the others, also where that was just called for
        // and nobody looks any more.
        for (pause, held) in [(0, 0), (200, 5)] {
            pool.settle(3);
            thread::sleep(Duration::from_millis(pause));
            pool.turns.hold.store(held, Ordering::SeqCst);
            pool.turns.tidy();
            let begun = Instant::now();
            while pool.lying() > 0 {
                thread::yield_now();
                assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pool.turns);
            }
            pool.turns.hold.store(0, Ordering::SeqCst);
        }
        pool.end();
    }

    #[test]
    fn a_request_that_takes_long_holds_up_nobody() {
        let pool = Pool::new(2);
        for pause in [0, 200] {
            pool.settle(1);
            // Whoever looks sleeps when nothing is asked for a while.
            thread::sleep(Duration::from_millis(pause));
            pool.ask(1, 3000);
            let begun = Instant::now();
            for _ in 0..50 {
                pool.served(2);
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            assert_eq!(pool.done.recv(), Ok(1));
        }
        pool.end();
    }

    #[test]
    fn nobody_is_left_behind() {
        let pool = Pool::new(3);
        let begun = Instant::now();
        for request in 0..20_000_u32 {
            pool.ask(request / 64, 0);
            if request % 7 == 0 {
                while pool.done.try_recv().is_ok() {}
            }
        }
        pool.end();
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
