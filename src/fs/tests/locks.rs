use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use super::*;
use crate::source::LockKind::{self, Exclusive, None as Unlock, Shared};

const SOON: Duration = Duration::from_secs(10);
const WHILE: Duration = Duration::from_millis(20);

/// Owners as the kernel numbers them; what they are does not matter.
const ALICE: u64 = 11;
const BOB: u64 = 22;

fn range(kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { kind, start, end, pid: 0 }
}

fn request(handle: u64, owner: u64, kind: LockKind, start: u64, end: u64) -> LockRequest {
    let pid = u32::try_from(owner).unwrap();
    let lock = Lock { pid, ..range(kind, start, end) };
    LockRequest { caller: Caller { pid, ..caller(1, 1) }, handle, owner, lock }
}

fn set(fs: &Fs, request: LockRequest) -> Result<()> {
    let (done, result) = reply();
    fs.setlk(request, false, done);
    result.try_recv().unwrap()
}

fn wait(fs: &Fs, request: LockRequest) -> Receiver<Result<()>> {
    let (done, result) = reply();
    fs.setlk(request, true, done);
    result
}

/// A world with one file, open three times in the mount and once on the host.
struct Opened {
    world: World,
    read: u64,
    write: u64,
    both: u64,
    host: u64,
}

fn opened() -> Opened {
    let world = World::new(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    let on_disk = world.disk.lookup(&caller(0, 0), root, name("a")).unwrap();
    let host = open(&world.disk, on_disk.node, libc::O_RDWR).unwrap();
    let [read, write, both] = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]
        .map(|flags| world.open(file.node, flags).unwrap());
    Opened { world, read, write, both, host }
}

/// Reports what another owner on the host finds in its way.
fn seen(opened: &Opened, start: u64, end: u64) -> Option<LockKind> {
    let request = request(opened.host, 99, Exclusive, start, end);
    opened.world.disk.getlk(&request).unwrap().map(|lock| lock.kind)
}

fn blocked<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| error.is(libc::EAGAIN))
}

#[test]
fn owners_exclude_each_other_in_the_mount_and_on_the_host() {
    let o = opened();
    let (fs, host) = (&o.world.fs, &o.world.disk);
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(o.both, ALICE, Shared, 20, 29)).unwrap();
    for (start, end, kind) in [(0, 9, Some(Exclusive)), (10, 19, None), (25, 99, Some(Shared))] {
        let wanted = request(o.both, BOB, Exclusive, start, end);
        assert_eq!(fs.getlk(&wanted).unwrap().map(|lock| lock.kind), kind);
        assert_eq!(seen(&o, start, end), kind);
        assert_eq!(blocked(set(fs, wanted)), kind.is_some());
        set(fs, request(o.both, BOB, Unlock, start, end)).unwrap();
    }
    // The owner itself finds nothing in its way.
    let own = fs.getlk(&request(o.both, ALICE, Exclusive, 0, 99)).unwrap();
    assert_eq!(own, Option::None);
    set(fs, request(o.both, ALICE, Exclusive, 0, 99)).unwrap();
    assert!(blocked(set(host, request(o.host, BOB, Shared, 50, 50))));
    set(fs, request(o.both, ALICE, Unlock, 40, 60)).unwrap();
    set(host, request(o.host, BOB, Shared, 50, 50)).unwrap();
    assert!(blocked(set(fs, request(o.both, ALICE, Exclusive, 45, 55))));
}

#[test]
fn nothing_is_opened_to_unlock_or_to_test() {
    let o = opened();
    let before = o.world.memory.opened();
    set(&o.world.fs, request(o.read, ALICE, Unlock, 0, 9)).unwrap();
    o.world.fs.getlk(&request(o.read, ALICE, Shared, 0, 9)).unwrap();
    assert_eq!(o.world.memory.opened(), before);
}

#[test]
fn one_description_holds_all_locks_of_an_owner() {
    // Shared through a handle to read, then exclusive through others.
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.read, ALICE, Shared, 0, 9)).unwrap();
    set(fs, request(o.read, ALICE, Shared, 50, 59)).unwrap();
    set(fs, request(o.both, ALICE, Exclusive, 5, 20)).unwrap();
    let held = [(0, 4, Shared), (5, 20, Exclusive), (50, 59, Shared)];
    for (start, end, kind) in held {
        assert_eq!(seen(&o, start, end), Some(kind), "{start}");
    }
    assert_eq!(seen(&o, 21, 49), None);
    // Through one to write only: some handle of the file can do both.
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.write, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(o.read, ALICE, Shared, 20, 29)).unwrap();
    assert_eq!((seen(&o, 0, 9), seen(&o, 20, 29)), (Some(Exclusive), Some(Shared)));
    // No handle can do both, and the owner holds something.
    let o = opened();
    let fs = &o.world.fs;
    fs.release(o.both, None);
    set(fs, request(o.write, ALICE, Exclusive, 0, 9)).unwrap();
    let refused = set(fs, request(o.read, ALICE, Shared, 20, 29));
    assert!(refused.unwrap_err().is(libc::ENOLCK));
    assert_eq!((seen(&o, 0, 9), seen(&o, 20, 29)), (Some(Exclusive), None));
    set(fs, request(o.write, ALICE, Unlock, 0, 99)).unwrap();
    set(fs, request(o.read, ALICE, Shared, 20, 29)).unwrap();
    assert_eq!(seen(&o, 20, 29), Some(Shared));
}

#[test]
fn a_lock_in_the_way_names_the_process_that_has_set_it() {
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(o.both, ALICE, Shared, 20, 29)).unwrap();
    set(fs, request(o.both, BOB, Shared, 20, 39)).unwrap();
    let holder = |owner: u64, start| {
        let found = fs.getlk(&request(o.both, owner, Exclusive, start, start)).unwrap();
        found.map(|lock| u64::from(lock.pid))
    };
    assert_eq!(holder(33, 5), Some(ALICE));
    assert_eq!(holder(33, 35), Some(BOB));
    assert_eq!((holder(ALICE, 25), holder(BOB, 25)), (Some(BOB), Some(ALICE)));
    assert_eq!(holder(ALICE, 5), None);
    set(fs, request(o.both, ALICE, Unlock, 0, 99)).unwrap();
    assert_eq!(holder(33, 25), Some(BOB));
}

#[test]
fn locks_go_at_once_while_another_looks_at_them() {
    let o = opened();
    let fs = &o.world.fs;
    let number = fs.opens.get(o.both).unwrap().number;
    let flush = |o: &Opened| o.world.fs.flush(o.read, ALICE).unwrap();
    let release = |o: &Opened| drop(o.world.fs.release(o.both, None));
    for ends in [&flush as &dyn Fn(&Opened), &release] {
        set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
        let looked_at = fs.opens.other_owners(number, BOB);
        assert_eq!((looked_at.len(), seen(&o, 0, 9)), (1, Some(Exclusive)));
        ends(&o);
        assert_eq!(seen(&o, 0, 9), None);
    }
}

#[test]
fn a_flush_drops_the_locks_of_its_owner() {
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(o.both, BOB, Exclusive, 20, 29)).unwrap();
    // Whichever descriptor of the file it was that was closed.
    fs.flush(o.read, ALICE).unwrap();
    assert_eq!((seen(&o, 0, 9), seen(&o, 20, 29)), (None, Some(Exclusive)));
    fs.flush(o.read, 77).unwrap();
    assert_eq!(seen(&o, 20, 29), Some(Exclusive));
    fs.release(o.read, Some(BOB));
    assert_eq!(seen(&o, 20, 29), None);
}

#[test]
fn a_release_drops_the_locks_set_through_the_handle() {
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(o.write, BOB, Exclusive, 20, 29)).unwrap();
    set(fs, request(o.both, BOB, Exclusive, 30, 39)).unwrap();
    fs.release(o.both, None);
    assert_eq!(seen(&o, 0, 9), None);
    assert_eq!(seen(&o, 20, 39), Some(Exclusive));
    fs.release(o.write, None);
    assert_eq!(seen(&o, 0, 99), None);
    let gone = set(fs, request(o.write, BOB, Shared, 0, 9));
    assert_eq!(gone.unwrap_err(), Error::Unknown);
}

#[test]
fn a_release_without_a_flush_drops_what_its_process_has_set_through_it() {
    let world = World::new(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    let fs = &world.fs;
    let [both, read] = [libc::O_RDWR, libc::O_RDONLY].map(|f| world.open(file.node, f).unwrap());
    assert_eq!((fs.is_quiet(both), fs.is_quiet(read)), (Ok(false), Ok(true)));
    set(fs, request(read, ALICE, Shared, 0, 9)).unwrap();
    set(fs, request(both, ALICE, Exclusive, 20, 29)).unwrap();
    set(fs, request(both, BOB, Exclusive, 40, 49)).unwrap();
    let late = world.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(fs.is_quiet(late), Ok(false), "there are locks");
    fs.release(read, None);
    let free = |start, end| fs.getlk(&request(both, 99, Exclusive, start, end)).unwrap().is_none();
    assert!(free(0, 29) && !free(40, 49));
    fs.release(late, None);
    assert!(!free(40, 49));
    fs.release(both, None);
    assert!(fs.opens.is_empty());
}

#[test]
fn a_wait_ends_when_the_lock_is_let_go() {
    type Letting = fn(&Opened);
    let ways: [(&str, Letting); 5] = [
        ("unlock", |o| set(&o.world.fs, request(o.both, ALICE, Unlock, 0, 9)).unwrap()),
        ("downgrade", |o| set(&o.world.fs, request(o.both, ALICE, Shared, 0, 9)).unwrap()),
        ("flush", |o| o.world.fs.flush(o.both, ALICE).unwrap()),
        ("release", |o| drop(o.world.fs.release(o.both, None))),
        ("host", |o| {
            // Nobody tells us.
            set(&o.world.disk, request(o.host, BOB, Unlock, 0, 9)).unwrap();
            set(&o.world.fs, request(o.both, ALICE, Unlock, 0, 9)).unwrap();
        }),
    ];
    for (way, let_go) in ways {
        let o = opened();
        if way == "host" {
            set(&o.world.disk, request(o.host, BOB, Exclusive, 0, 9)).unwrap();
        } else {
            set(&o.world.fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
        }
        let waiting = wait(&o.world.fs, request(o.read, BOB, Shared, 0, 4));
        assert!(waiting.recv_timeout(WHILE).is_err(), "{way}");
        let_go(&o);
        waiting.recv_timeout(SOON).unwrap().unwrap();
        assert_eq!(seen(&o, 0, 4), Some(Shared), "{way}");
    }
}

#[test]
fn those_who_wait_are_tried_in_the_order_of_arrival() {
    const WAITERS: usize = 5;
    let world = World::new(IDENTITY);
    let waits = &world.fs.waits;
    // What the first of all finds decides for the others: so it does not
    // matter where in a round the lock is let go.
    let (free, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut answers = Vec::new();
    for i in 0..WAITERS {
        let (free, open, order) = (Arc::clone(&free), Arc::clone(&open), Arc::clone(&order));
        let (done, answer) = reply();
        let attempt = move || {
            if i == 0 {
                open.store(free.load(SeqCst), SeqCst);
            }
            if !open.load(SeqCst) {
                return Err(os(libc::EAGAIN));
            }
            lock(&order).push(i);
            Ok(())
        };
        waits.wait(7, 1, attempt, done);
        answers.push(answer);
    }
    std::thread::sleep(WHILE);
    free.store(true, SeqCst);
    waits.kick(7);
    for answer in answers {
        answer.recv_timeout(SOON).unwrap().unwrap();
    }
    assert_eq!(*lock(&order), (0..WAITERS).collect::<Vec<_>>());
}

#[test]
fn everyone_who_waits_has_a_turn() {
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    let mut waiting: Vec<_> = (100..105)
        .map(|owner| (owner, wait(fs, request(o.both, owner, Exclusive, 0, 9))))
        .collect();
    let mut holder = ALICE;
    while !waiting.is_empty() {
        set(fs, request(o.both, holder, Unlock, 0, 9)).unwrap();
        let has = loop {
            if let Some(has) = waiting.iter().position(|(_, answer)| answer.try_recv().is_ok()) {
                break has;
            }
            std::thread::yield_now();
        };
        holder = waiting.remove(has).0;
    }
}

#[test]
fn who_would_wait_for_ever_is_refused() {
    const CAROL: u64 = 33;
    let o = opened();
    let fs = &o.world.fs;
    let file = o.world.file("b", (1, 1), 0o644);
    let other = o.world.open(file.node, libc::O_RDWR).unwrap();
    // Each holds something, two of them to read, and waits for the next one, round two files.
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(other, BOB, Exclusive, 0, 9)).unwrap();
    for owner in [BOB, CAROL] {
        set(fs, request(o.both, owner, Shared, 50, 59)).unwrap();
    }
    let bob = wait(fs, request(o.both, BOB, Exclusive, 5, 5));
    let carol = wait(fs, request(other, CAROL, Shared, 9, 99));
    let alice = wait(fs, request(o.both, ALICE, Exclusive, 59, 59));
    assert!(alice.recv_timeout(SOON).unwrap().is_err_and(|error| error.is(libc::EDEADLK)));
    // So are others, and what one does not wait for is no matter.
    let alice = wait(fs, request(other, ALICE, Shared, 0, 0));
    assert!(alice.recv_timeout(SOON).unwrap().is_err_and(|error| error.is(libc::EDEADLK)));
    let alice = wait(fs, request(o.both, ALICE, Shared, 50, 59));
    assert_eq!(alice.recv_timeout(SOON).unwrap(), Ok(()));
    assert!(bob.recv_timeout(WHILE).is_err() && carol.recv_timeout(WHILE).is_err());
    // Those who wait have what they wait for when it is let go.
    set(fs, request(o.both, ALICE, Unlock, 0, 99)).unwrap();
    assert_eq!(bob.recv_timeout(SOON).unwrap(), Ok(()));
    set(fs, request(other, BOB, Unlock, 0, 99)).unwrap();
    assert_eq!(carol.recv_timeout(SOON).unwrap(), Ok(()));
    // Nobody is taken for one who waits any more.
    let bob = wait(fs, request(other, BOB, Exclusive, 9, 9));
    let carol = wait(fs, request(o.both, CAROL, Exclusive, 5, 5));
    assert!(carol.recv_timeout(SOON).unwrap().is_err_and(|error| error.is(libc::EDEADLK)));
    set(fs, request(other, CAROL, Unlock, 0, 99)).unwrap();
    assert_eq!(bob.recv_timeout(SOON).unwrap(), Ok(()));
    let carol = wait(fs, request(o.both, CAROL, Exclusive, 5, 5));
    assert!(carol.recv_timeout(WHILE).is_err());
}

/// Each looks for the other's lock while that one is being tried for.
#[test]
fn of_two_who_begin_to_wait_at_once_one_is_refused() {
    let o = opened();
    let fs = &o.world.fs;
    for round in 0..300 {
        for (owner, at) in [(ALICE, 0), (BOB, 1)] {
            set(fs, request(o.both, owner, Exclusive, at, at)).unwrap();
        }
        let both = Barrier::new(2);
        let crosses = |owner, at| {
            both.wait();
            let waited = wait(fs, request(o.both, owner, Exclusive, at, at));
            let result = waited.recv_timeout(SOON).expect("an end");
            set(fs, request(o.both, owner, Unlock, 0, 9)).unwrap();
            result.is_err_and(|error| error.is(libc::EDEADLK))
        };
        let refused = thread::scope(|scope| {
            let alice = scope.spawn(|| crosses(ALICE, 1));
            [crosses(BOB, 0), alice.join().unwrap()]
        });
        assert!(refused[0] != refused[1], "round {round}: {refused:?}");
    }
}

#[test]
fn a_wait_that_is_interrupted_holds_nothing() {
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    let doomed = wait(fs, request(o.both, BOB, Exclusive, 0, 9));
    let other = wait(fs, request(o.both, 33, Exclusive, 0, 9));
    lock(&o.world.processes.0).interrupted.insert(u32::try_from(BOB).unwrap());
    let ended = doomed.recv_timeout(SOON).unwrap();
    assert!(ended.unwrap_err().is(libc::EINTR));
    fs.flush(o.both, ALICE).unwrap();
    other.recv_timeout(SOON).unwrap().unwrap();
}

#[test]
fn a_flush_by_another_thread_does_not_end_a_wait() {
    let o = opened();
    let fs = &o.world.fs;
    set(fs, request(o.both, ALICE, Exclusive, 0, 9)).unwrap();
    set(fs, request(o.both, BOB, Exclusive, 20, 29)).unwrap();
    let waiting = wait(fs, request(o.both, BOB, Exclusive, 0, 9));
    fs.flush(o.read, BOB).unwrap();
    assert_eq!(seen(&o, 20, 29), None);
    assert!(waiting.recv_timeout(WHILE).is_err());
    fs.flush(o.both, ALICE).unwrap();
    waiting.recv_timeout(SOON).unwrap().unwrap();
    assert_eq!(seen(&o, 0, 9), Some(Exclusive));
}

#[test]
fn waits_end_with_the_file_system() {
    let o = opened();
    set(&o.world.disk, request(o.host, ALICE, Exclusive, 0, 9)).unwrap();
    let waiting = wait(&o.world.fs, request(o.both, BOB, Exclusive, 0, 9));
    let Opened { world, .. } = o;
    drop(world.fs);
    assert!(waiting.recv().unwrap().unwrap_err().is(libc::EINTR));
}

#[test]
fn many_threads_lock_one_file_in_turn() {
    let o = opened();
    let inside = Mutex::new(0_u32);
    std::thread::scope(|scope| {
        for owner in 0..4 {
            let (o, inside) = (&o, &inside);
            scope.spawn(move || {
                for _ in 0..50 {
                    let got = wait(&o.world.fs, request(o.both, owner, Exclusive, 3, 3));
                    got.recv_timeout(SOON).unwrap().unwrap();
                    {
                        let mut inside = inside.try_lock().unwrap();
                        *inside += 1;
                    }
                    set(&o.world.fs, request(o.both, owner, Unlock, 0, 9)).unwrap();
                }
            });
        }
    });
    assert_eq!(*lock(&inside), 200);
}

#[test]
fn a_panic_of_one_that_waits_is_its_own() {
    let world = World::new(IDENTITY);
    let waits = &world.fs.waits;
    let (done, bad) = reply::<()>();
    waits.wait(7, 1, || panic!("as told"), done);
    assert_eq!(bad.recv_timeout(SOON).unwrap(), Err(Error::Internal));
    let (done, good) = reply();
    waits.wait(7, 1, || Ok(5), done);
    assert_eq!(good.recv_timeout(SOON).unwrap(), Ok(5));
}
