//! Runs one target: changes inputs, keeps those that reach new code, makes
//! small what breaks a law, and prints it as a test.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};
use std::{env, process, thread};

use super::measure::{Reached, measured};
use crate::rng::Rng;

/// Inputs of a run that has no time given.
const FEW: usize = 400;
/// No input gets longer than so many bytes.
const LONGEST: usize = 64 * 1024;
/// A single input that takes so long does not end.
const ENDLESS: Duration = Duration::from_secs(60);
/// How long a failing input is made smaller.
const SHRINKING: Duration = Duration::from_secs(10);

/// Something that takes inputs, and what must be so of it.
pub trait Target {
    /// Its name: that of its test.
    const NAME: &'static str;
    /// The most memory that an input may take, in bytes: at all, and more for
    /// each of its bytes.
    const MEMORY: (usize, usize);
    /// The most processor time that an input may take: at all, and more for
    /// each of its bytes.
    const TIME: (Duration, Duration);

    /// Returns the inputs to begin with.
    fn collection(&self) -> Vec<Vec<u8>>;

    /// Changes an input once; `other` is another one to take from.
    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]);

    /// Takes an input; panics where a law is broken.
    fn check(&self, input: &[u8]);
}

thread_local! {
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a target for as long as the environment says.
pub fn run<T: Target>(target: &T) {
    listen();
    let seconds: Option<u64> =
        env::var("IDMAPFS_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = env::var("IDMAPFS_FUZZ_SEED").map_or_else(
        |_| end.map_or(0, |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64),
        |text| text.parse().unwrap(),
    );
    let at_hand = AtHand::new(T::NAME);
    let mut pool = target.collection();
    pool.extend(at_hand.left.clone());
    println!(
        "{}: seed {seed}, {} inputs to begin with; the one at hand is in {}",
        T::NAME,
        pool.len(),
        at_hand.path.display()
    );
    let (mut rng, mut reached) = (Rng::new(seed), Reached::default());
    for input in &pool {
        try_one(target, &at_hand, input);
        reached.add();
    }
    let (mut tried, first) = (0, pool.len());
    while end.map_or(tried < FEW, |end| Instant::now() < end) {
        let input = changed(target, &mut rng, &pool, first);
        try_one(target, &at_hand, &input);
        if reached.add() {
            pool.push(input);
        }
        tried += 1;
    }
    let (edges, all) = reached.edges();
    println!(
        "{}: {tried} inputs, {} of them reached new code: {edges} of {all} edges",
        T::NAME,
        pool.len() - first
    );
    at_hand.done();
}

/// Returns an input of the pool, changed once or more often.
fn changed<T: Target>(target: &T, rng: &mut Rng, pool: &[Vec<u8>], first: usize) -> Vec<u8> {
    // What was found lately is most likely to lead on.
    let lately = pool.len().saturating_sub(64).max(first);
    let from = if lately < pool.len() && rng.chance(40) { lately } else { 0 };
    let mut input = rng.pick(&pool[from..]);
    for _ in 0..1 << rng.below(5) {
        let other = &pool[rng.below(pool.len())];
        target.change(rng, &mut input, other);
        input.truncate(LONGEST);
    }
    input
}

fn try_one<T: Target>(target: &T, at_hand: &AtHand, input: &[u8]) {
    at_hand.set(input);
    let Err(said) = outcome(target, input) else { return };
    let small = shrink(target, input, &said);
    let said = outcome(target, &small).err().unwrap_or(said);
    at_hand.done();
    panic!(
        "{}: {said}\nas an input of FOUND:\n    b\"{}\",\nas text:\n{}\n",
        T::NAME,
        small.escape_ascii(),
        String::from_utf8_lossy(&small)
    );
}

/// Takes one input; an error is what was said of a law that it breaks.
fn outcome<T: Target>(target: &T, input: &[u8]) -> Result<(), String> {
    Reached::begin();
    let check = || panic::catch_unwind(AssertUnwindSafe(|| target.check(input)));
    let (done, memory, mut time) = measured(check);
    if done.is_err() {
        return Err(SAID.take().unwrap_or_default());
    }
    let (at_all, each) = T::MEMORY;
    let most = at_all + each * input.len();
    if memory > most {
        return Err(format!("takes {memory} bytes for {}, not {most}", input.len()));
    }
    let (at_all, each) = T::TIME;
    let most = at_all + each * input.len() as u32;
    // Whoever shares the processor's caches must not count.
    for _ in 0..3 {
        if time <= most {
            return Ok(());
        }
        time = measured(check).2.min(time);
    }
    Err(format!("takes {time:?} for {} bytes, not {most:?}", input.len()))
}

/// Takes from an input what it does not need to fail in the same place.
fn shrink<T: Target>(target: &T, input: &[u8], said: &str) -> Vec<u8> {
    // A panic says its place in the first line; what is too much, how much.
    let place = |said: &str| {
        let first = said.lines().next().unwrap_or_default();
        first.chars().filter(|c| first.starts_with("tests/") || !c.is_ascii_digit()).collect()
    };
    let wanted: String = place(said);
    let end = Instant::now() + SHRINKING;
    let (mut small, mut length) = (input.to_vec(), input.len() / 2);
    while length > 0 {
        let mut at = 0;
        while at < small.len() && Instant::now() < end {
            let mut less = small.clone();
            less.drain(at..(at + length).min(small.len()));
            let same = |said: String| -> bool { place(&said) == wanted };
            if outcome(target, &less).is_err_and(same) {
                small = less;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    small
}

/// Keeps what panics of this thread say, instead of printing it.
fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let at = info.location().map(ToString::to_string).unwrap_or_default();
            if at.starts_with("tests/fuzz/engine.rs") {
                return print(info);
            }
            let text = info.payload().downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| info.payload().downcast_ref::<&str>().copied());
            SAID.set(Some(format!("{at}\n{}", text.unwrap_or_default())));
        }));
    });
}

/// The input at hand, where it outlives the process: a stack that overflows,
/// or memory that runs out, leaves no time to print it.
struct AtHand {
    path: PathBuf,
    file: File,
    /// The input that ended the run before.
    left: Option<Vec<u8>>,
    /// When it was taken up, in milliseconds since the start.
    since: Arc<AtomicU64>,
    start: Instant,
}

impl AtHand {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        let left = fs::read(&path).ok().filter(|left| !left.is_empty());
        let (file, since) = (File::create(&path).unwrap(), Arc::new(AtomicU64::new(0)));
        let start = Instant::now();
        let watched = (Arc::downgrade(&since), path.clone(), name.to_owned());
        thread::spawn(move || {
            let (since, path, name) = watched;
            while let Some(since) = since.upgrade() {
                let since = Duration::from_millis(since.load(Ordering::Relaxed));
                if start.elapsed().saturating_sub(since) > ENDLESS {
                    let input = fs::read(&path).unwrap_or_default();
                    eprintln!("{name}: does not end\n    b\"{}\",", input.escape_ascii());
                    process::exit(101);
                }
                thread::sleep(Duration::from_secs(1));
            }
        });
        Self { path, file, left, since, start }
    }

    fn set(&self, input: &[u8]) {
        self.since.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.file.set_len(input.len() as u64).unwrap();
        self.file.write_all_at(input, 0).unwrap();
    }

    fn done(&self) {
        self.file.set_len(0).unwrap();
    }
}
