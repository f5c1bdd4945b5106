use std::io::{PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::*;

/// What a worker is asked: by which client, and how long it takes.
type Asked = (u32, Duration);

/// Workers that take what they are asked from one queue.
struct Pool {
    turns: Arc<Turns>,
    ask: Sender<Asked>,
    /// As a device can be read while there are requests.
    device: PipeWriter,
    done: Receiver<Done>,
    workers: Vec<JoinHandle<()>>,
}

/// Who asked, and which thread has answered.
type Done = (u32, Pid);

impl Pool {
    fn new(workers: usize) -> Self {
        Self::with(workers, workers, |_device| None)
    }

    /// With one more worker, which stays near its client; `None` where that may not be
    /// elsewhere, so that nobody can.
    fn near(workers: usize) -> Option<Self> {
        if processors(gettid()) < 2 {
            eprintln!("SKIP: one processor");
            return None;
        }
        Some(Self::with(workers + 1, workers, |device| Some(Near::new(device).unwrap())))
    }

    /// With so many of which `many` are of use at once.
    fn with(workers: usize, many: usize, near: impl FnOnce(OwnedFd) -> Option<Near>) -> Self {
        let (requests, device) = pipe().unwrap();
        let near = near(requests.try_clone().unwrap().into());
        let turns = Arc::new(Turns::new(many, near));
        let ((ask, asked), (tell, done)) = (channel::<Asked>(), channel());
        let asked = Arc::new(Mutex::new((asked, requests)));
        let work = || {
            let (turns, asked, tell) = (Arc::clone(&turns), Arc::clone(&asked), tell.clone());
            thread::spawn(move || {
                let next = || {
                    // It ends with the queue, as a worker does with the connection.
                    let mut asked = lock(&asked);
                    let request = asked.0.recv().ok()?;
                    asked.1.read_exact(&mut [0]).unwrap();
                    Some(request)
                };
                while let Some((client, time)) = next() {
                    let turn = turns.take(client, false);
                    thread::sleep(time);
                    tell.send((client, gettid())).unwrap();
                    drop(turn);
                }
            })
        };
        let workers = (0..workers).map(|_| work()).collect();
        Self { turns, ask, device, done, workers }
    }

    fn ask(&self, client: u32, millis: u64) {
        (&self.device).write_all(&[0]).unwrap();
        self.ask.send((client, Duration::from_millis(millis))).unwrap();
    }

    /// Asks and waits for the answer; returns by whom.
    fn served(&self, client: u32) -> Pid {
        self.ask(client, 0);
        let (asked, by) = self.done.recv().unwrap();
        assert_eq!(asked, client);
        by
    }

    /// Waits until nobody lies.
    fn all_get_up(&self) {
        let begun = Instant::now();
        while self.lying() > 0 {
            thread::yield_now();
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.turns);
        }
    }

    /// Asks for this thread until something is so.
    fn asks_until(&self, so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !so(self) {
            self.served(own());
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", self.turns);
        }
    }

    /// Asks for this thread until the near worker waits alone; returns that.
    fn come_close(&self) -> Pid {
        let near = self.turns.near.as_ref().unwrap();
        self.asks_until(|pool| {
            pool.is_close() && Some(&pool.served(own())) == near.thread() && pool.is_close()
        });
        *near.thread().unwrap()
    }

    fn is_close(&self) -> bool {
        self.turns.close.load(Ordering::SeqCst)
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
    pool.all_get_up();
    // Who lets something go calls the others, also where that was just called for
    // and nobody looks any more.
    for (pause, held) in [(0, 0), (200, 5)] {
        pool.settle(3);
        thread::sleep(Duration::from_millis(pause));
        pool.turns.hold.store(held, Ordering::SeqCst);
        pool.turns.tidy();
        pool.all_get_up();
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
        assert_eq!(pool.done.recv().map(|(client, _by)| client), Ok(1));
    }
    pool.end();
}

#[test]
fn requests_that_take_long_hold_up_nobody_while_there_are_workers() {
    let pool = Pool::with(8, 2, |_device| None);
    pool.settle(7);
    for client in 11..=15 {
        pool.ask(client, 3000);
    }
    let begun = Instant::now();
    for _ in 0..50 {
        pool.served(2);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for _ in 11..=15 {
        pool.done.recv().unwrap();
    }
    // However many ask in turn, two wait for them; one that was called while another began
    // to wait lies down after its next request.
    let mut clients = (1..=5).cycle();
    let mut lie = |pool: &Pool, least| {
        let begun = Instant::now();
        while pool.lying() < least {
            thread::sleep(Duration::from_millis(1));
            pool.served(clients.next().unwrap());
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pool.turns);
        }
    };
    for client in (1..=5).cycle().take(200) {
        pool.served(client);
    }
    assert!(pool.turns.is_much(), "{:?}", pool.turns);
    lie(&pool, 6);
    pool.turns.call();
    pool.served(1);
    lie(&pool, 6);
    pool.end();
}

#[test]
fn nobody_is_left_behind() {
    for pool in [Some(Pool::new(3)), Pool::near(3)].into_iter().flatten() {
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

/// This thread as a client.
fn own() -> u32 {
    gettid().as_raw().unsigned_abs()
}

/// How many processors a thread may use.
fn processors(thread: Pid) -> usize {
    let set = sched_getaffinity(thread).unwrap();
    (0..CpuSet::count()).filter(|&number| set.is_set(number) == Ok(true)).count()
}

#[test]
fn who_asks_in_a_row_is_answered_from_nearby() {
    let all = processors(gettid());
    let Some(pool) = Pool::near(3) else { return };
    let near = pool.come_close();
    pool.asks_until(|_| processors(near) == 1);
    // It goes where its client goes.
    let allowed = sched_getaffinity(gettid()).unwrap();
    for number in (0..CpuSet::count()).filter(|&number| allowed.is_set(number) == Ok(true)) {
        let mut here = CpuSet::new();
        here.set(number).unwrap();
        sched_setaffinity(gettid(), &here).unwrap();
        pool.asks_until(|_| sched_getaffinity(near).unwrap() == here);
    }
    sched_setaffinity(gettid(), &allowed).unwrap();
    // Several clients are answered by several, who may run anywhere.
    for client in (1..=5).cycle().take(200) {
        pool.served(client);
    }
    assert!(!pool.is_close(), "{:?}", pool.turns);
    assert_eq!(processors(near), all);
    pool.end();
}

/// One program of a script after the other.
#[test]
fn who_asks_next_is_answered_from_nearby_too() {
    let Some(mut pool) = Pool::near(2) else { return };
    let mut stays = false;
    // On a busy machine it may be held up instead.
    for _ in 0..5 {
        let first = thread::spawn(|| (pool.come_close(), pool));
        let near;
        (near, pool) = first.join().unwrap();
        // Where the first one is has been looked for in vain meanwhile.
        thread::sleep(Duration::from_millis(10));
        let answered = [(); 3].map(|()| pool.served(own()));
        stays |= answered == [near; 3] && pool.is_close();
    }
    assert!(stays, "{:?}", pool.turns);
    pool.end();
}

/// Workers without a request so far do not say that the connection is no more.
#[test]
fn who_alone_has_answered_ends_too() {
    for requests in 1..=4 {
        let Some(pool) = Pool::near(2) else { return };
        for _ in 0..requests {
            pool.served(own());
        }
        thread::sleep(Duration::from_millis(10));
        let (tell, ended) = channel();
        thread::spawn(move || {
            pool.end();
            tell.send(()).unwrap();
        });
        assert!(ended.recv_timeout(Duration::from_secs(20)).is_ok(), "after {requests}");
    }
}

#[test]
fn who_is_not_alone_is_not_answered_from_nearby() {
    let Some(pool) = Pool::near(2) else { return };
    pool.come_close();
    let (begun, lies) = (Instant::now(), || lock(&pool.turns.lying).near.lies);
    for client in (1..=5).cycle().take_while(|_| !lies()) {
        pool.served(client);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pool.turns);
    }
    // Whoever has answered last waits again.
    thread::sleep(Duration::from_millis(20));
    lock(&pool.turns.lying).near.until = None;
    for pressure in [1, 0] {
        pool.turns.row.store(ROW, Ordering::Relaxed);
        pool.turns.pressure.store(pressure, Ordering::Relaxed);
        assert_eq!(pool.turns.come_close(), pressure == 0, "{:?}", pool.turns);
    }
    pool.end();
}

/// A release does not say by whom: it is taken for the last client's, who may be gone.
#[test]
fn what_nobody_is_named_for_tells_of_the_last_client() {
    let Some(mut pool) = Pool::near(2) else { return };
    let mut seen = false;
    // On a busy machine nobody may have looked yet.
    for _ in 0..5 {
        let last = thread::spawn(|| (pool.come_close(), pool));
        (_, pool) = last.join().unwrap();
        thread::sleep(Duration::from_millis(10));
        let stayed = pool.is_close();
        pool.served(0);
        seen |= stayed && !pool.is_close();
    }
    assert!(seen, "{:?}", pool.turns);
    pool.end();
}

/// What is removed is let go with each request.
#[test]
fn who_has_much_let_go_is_answered_from_nearby_too() {
    let Some(pool) = Pool::near(2) else { return };
    pool.come_close();
    pool.turns.part(&mut lock(&pool.turns.lying), false);
    pool.asks_until(|pool| {
        pool.turns.tidy();
        pool.is_close()
    });
    // It is not sent away by what another worker lets go.
    pool.turns.tidy();
    assert!(!pool.turns.is_much(), "{:?}", pool.turns);
    pool.end();
}

#[test]
fn who_asks_no_more_leaves_nobody_on_one_processor() {
    let all = processors(gettid());
    let Some(pool) = Pool::near(2) else { return };
    let near = pool.come_close();
    let begun = Instant::now();
    while pool.is_close() || processors(near) < all {
        thread::sleep(Duration::from_millis(10));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pool.turns);
    }
    // What comes next finds somebody, too.
    for client in 1..=20 {
        pool.served(client);
    }
    pool.end();
}

#[test]
fn what_the_near_worker_is_held_up_by_holds_up_nobody_else() {
    let Some(pool) = Pool::near(2) else { return };
    let taken = (0..5).any(|_| {
        let near = pool.come_close();
        pool.ask(own(), 3000);
        let begun = Instant::now();
        for _ in 0..50 {
            pool.served(2);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        // On a busy machine it may have been held up before.
        pool.done.recv() == Ok((own(), near))
    });
    assert!(taken, "{:?}", pool.turns);
    // It is not called again for a while, and the longer the sooner that was.
    assert!(lock(&pool.turns.lying).near.until.is_some(), "{:?}", pool.turns);
    let held_up = |pause: Duration, since| {
        let mut lying = lock(&pool.turns.lying);
        (lying.near.pause, lying.near.since) = (pause, Some(since));
        pool.turns.close.store(true, Ordering::SeqCst);
        pool.turns.part(&mut lying, true);
        lying.near.pause
    };
    assert_eq!(held_up(PAUSE * 8, Instant::now().checked_sub(PAUSE * 2).unwrap()), PAUSE);
    assert_eq!(held_up(LONGEST_PAUSE, Instant::now()), LONGEST_PAUSE);
    for pause in [2, 4, 8] {
        assert_eq!(held_up(PAUSE * (pause / 2), Instant::now()), PAUSE * pause);
    }
    for _ in 0..200 {
        pool.served(own());
    }
    assert!(!pool.is_close(), "{:?}", pool.turns);
    pool.end();
}

#[test]
fn a_client_that_cannot_be_seen_is_answered_as_any_other() {
    let gone = 1 << 30;
    let Some(pool) = Pool::near(2) else { return };
    let begun = Instant::now();
    while lock(&pool.turns.lying).near.until.is_none() {
        pool.served(gone);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pool.turns);
    }
    assert!(!pool.is_close(), "{:?}", pool.turns);
    pool.end();
}
