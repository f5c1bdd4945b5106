//! Telling the kernel, unasked, what it is to ask for again.
//!
//! One thread does it, but for attributes, for which the kernel waits for nothing.
//! It holds no lock of ours while it tells the kernel something, and no request
//! waits for it: the kernel may let it wait for a directory that is locked by a
//! caller who waits for us.
//!
//! What the kernel does not know yet, because the answer is under way to it, it
//! is told again: files until the tree has forgotten them, names for some seconds
//! where their directory was asked for something a moment before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::notices::{Told, expire, forget_attributes, forget_name, forget_pages};
use crate::count::{self, Count};
use crate::fs::{Fs, Notice, Teller};
use crate::sync::lock;
use crate::sys::schedule;
use crate::threads;
use crate::tree::ANCHOR;

/// How long a caller may need to read a reply that it has been woken up for.
const PAUSE: Duration = Duration::from_millis(5);

/// After what pauses a name is told again that was known.
const AGAIN: [Duration; 5] = [
    Duration::from_millis(3),
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The first of these for which a name waits only while there is room.
const SLOW: usize = 3;

/// The last of these: where so much is told that nothing can wait.
const LAST: usize = AGAIN.len();

/// After what pauses names that somebody asked for are told again, when all was.
const ALL_AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// How long the last pause is before a file is told again that was not known.
const LONGEST: Duration = Duration::from_millis(256);

/// How often files are tried again at once that the kernel did not know: the reply
/// that tells of them may be on its way.
const ROUNDS: usize = 3;

/// How much may wait to be told; if it is more, all is told again instead.
const MOST: usize = 1 << 16;

/// How much may wait before nothing is added that can be avoided.
const BUSY: usize = 1024;

/// Everything, to be told again.
#[derive(Clone, Copy, Debug, Default)]
struct All {
    /// Whether it is to be.
    wanted: bool,
    /// Whether pages are to be read again, too.
    pages: bool,
}

/// What there is to do.
#[derive(Debug, Default)]
struct Work {
    /// Names, each once.
    names: HashSet<(u64, OsString)>,
    /// Files, and whether their pages are to go, too.
    files: HashMap<u64, bool>,
    all: All,
    /// How often all was to be told again.
    wanted: u64,
    /// How many of these are done.
    done: u64,
    /// Whether the thread is there.
    running: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.files.is_empty() && !self.all.wanted
    }

    fn len(&self) -> usize {
        self.names.len().saturating_add(self.files.len())
    }

    fn want_all(&mut self, pages: bool) {
        self.all = All { wanted: true, pages: self.all.pages | pages };
        self.wanted = self.wanted.saturating_add(1);
    }
}

/// Something to be told later.
#[derive(Debug)]
enum Again {
    /// A file, and whether its pages are to go; what the pause was before.
    File(u64, bool, Duration),
    /// A name, and how often it was told.
    Name(u64, OsString, usize),
    /// All names that somebody was asking for; how often that was done.
    Names(usize),
}

/// What is to be told again, in the order of time.
#[derive(Debug, Default)]
struct Later {
    by_time: BTreeMap<(Instant, u64), Again>,
    /// The files among it.
    files: HashSet<u64>,
    /// The names among it that wait for long.
    slow: HashSet<(u64, OsString)>,
    count: u64,
}

impl Later {
    fn add(&mut self, after: Duration, what: Again) {
        if let Again::File(number, ..) = what
            && !self.files.insert(number)
        {
            return;
        }
        if let Again::Name(dir, name, times) = &what
            && *times > SLOW
            && !self.slow.insert((*dir, name.clone()))
        {
            return;
        }
        let Some(when) = Instant::now().checked_add(after) else { return };
        self.count = self.count.wrapping_add(1);
        self.by_time.insert((when, self.count), what);
    }

    /// Takes the first out that is due.
    fn due(&mut self) -> Option<Again> {
        let first = self.by_time.first_entry()?;
        if first.key().0 > Instant::now() {
            return None;
        }
        let what = first.remove();
        match &what {
            Again::File(number, ..) => drop(self.files.remove(number)),
            Again::Name(dir, name, times) if *times > SLOW => {
                self.slow.remove(&(*dir, name.clone()));
            }
            Again::Name(..) | Again::Names(_) => {}
        }
        Some(what)
    }

    /// Returns how long nothing is due.
    fn pause(&self) -> Option<Duration> {
        let (when, _) = self.by_time.first_key_value()?.0;
        Some(when.saturating_duration_since(Instant::now()))
    }
}

#[derive(Debug)]
struct Shared {
    /// A descriptor of our own of the device that the library serves.
    device: File,
    fs: Weak<Fs>,
    /// The number of the root, and the node id that the kernel has for it.
    root: (u64, u64),
    /// Whether the kernel can let a name expire. Where it cannot, it would take
    /// the message for another one, which unmounts what is mounted below.
    can_expire: AtomicBool,
    work: Mutex<Work>,
    changed: Condvar,
    /// Whether there is no use any more.
    ended: AtomicBool,
}

/// Makes the kernel ask again.
#[derive(Clone, Debug)]
pub struct Notifier(Arc<Shared>);

/// How far the kernel has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It has been told everything.
    All,
    /// It is still being told.
    GoesOn,
}

impl Notifier {
    /// Makes it for a session; `anchored` as in its options.
    pub(super) fn new(device: OwnedFd, fs: &Arc<Fs>, anchored: bool) -> Self {
        let number = fs.root_number();
        Self(Arc::new(Shared {
            device: File::from(device),
            fs: Arc::downgrade(fs),
            root: (number, if anchored { number } else { ANCHOR }),
            can_expire: AtomicBool::new(false),
            work: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
        }))
    }

    /// Has the thread be there that tells, so that there is one whatever limit of threads
    /// is reached later.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.0.start(&mut lock(&self.0.work))
    }

    /// Notes that the kernel can let a name expire.
    pub(super) fn can_expire(&self) {
        self.0.can_expire.store(true, Ordering::SeqCst);
    }

    /// Makes the kernel ask for the attributes of a node again.
    ///
    /// Unlike other notifications this one waits for no lock of the kernel, so
    /// that it may be sent from within a request.
    pub(super) fn forget_attributes(&self, node: u64) {
        if let Err(error) = forget_attributes(&self.0.device, node) {
            log::debug!("attributes of node {node}: {error}");
        }
    }

    /// Has the kernel told what has changed, by the thread that hears of it: of
    /// attributes at once, of the rest soon.
    pub fn tell(&self, notice: Notice) {
        if let Notice::Attributes(number) = notice {
            let told = self.0.fs().map_or(Ok(Told::Taken), |fs| {
                fs.telling(Teller::Watch, || self.0.tell_attributes(number))
            });
            if matches!(told, Ok(Told::Taken) | Err(_)) {
                return;
            }
        }
        self.later(notice);
    }

    /// Reports whether much waits to be told.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.0.work).names.len() > BUSY
    }

    /// Has the kernel told soon; waits for nothing.
    pub fn later(&self, notice: Notice) {
        let shared = &self.0;
        let mut work = lock(&shared.work);
        match notice {
            Notice::Attributes(number) => {
                work.files.entry(number).or_insert(false);
            }
            Notice::Pages(number) => {
                work.files.insert(number, true);
            }
            Notice::Name(dir, name) => {
                work.names.insert((dir, name));
            }
            Notice::All => work.want_all(true),
        }
        if work.len() > MOST {
            // Missing names among them are remembered nowhere else.
            if work.names.len() > MOST.saturating_mul(4) {
                work.names.clear();
            }
            let files = std::mem::take(&mut work.files);
            work.want_all(files.into_values().any(|pages| pages));
        }
        if let Err(error) = shared.start(&mut work) {
            log::error!("the kernel is not told of changes: thread: {error}");
        }
        drop(work);
        shared.changed.notify_all();
    }

    /// Makes the kernel ask again for the attributes and ACLs of every file that
    /// it knows, and for every name; waits for that, but no longer than `patience`.
    ///
    /// Pages, open files, working directories and mounts below stay.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn all(&self, patience: Duration) -> io::Result<Refreshed> {
        let mut work = lock(&self.0.work);
        work.want_all(false);
        let mine = work.wanted;
        self.0.start(&mut work)?;
        self.0.changed.notify_all();
        let waits = |work: &mut Work| work.done < mine && work.running;
        let waited = self.0.changed.wait_timeout_while(work, patience, waits);
        let (work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(if work.done < mine && work.running { Refreshed::GoesOn } else { Refreshed::All })
    }

    /// Ends what is under way, and waits for that, but no longer than
    /// `patience`.
    ///
    /// A process that ends while its thread waits in the kernel for a directory,
    /// and the caller who has that for an answer, keeps both for ever, since the
    /// device stays open for as long as the thread is there (seen on Linux 6.18):
    /// this belongs called while requests are still answered.
    pub fn end(&self, patience: Duration) {
        self.0.ended.store(true, Ordering::SeqCst);
        let work = lock(&self.0.work);
        self.0.changed.notify_all();
        let running = |work: &mut Work| work.running;
        drop(self.0.changed.wait_timeout_while(work, patience, running));
    }
}

/// Returns how long ago a name was told first that was told so many times.
fn passed(times: usize) -> Duration {
    AGAIN.iter().take(times).sum()
}

impl Shared {
    /// Starts the thread, unless it is there.
    fn start(self: &Arc<Self>, work: &mut MutexGuard<'_, Work>) -> io::Result<()> {
        if !work.running && !self.ended.load(Ordering::SeqCst) {
            let shared = Arc::clone(self);
            threads::start("notifier", move || shared.run())?;
            work.running = true;
        }
        Ok(())
    }

    /// Tells what there is to tell, until the end.
    fn run(&self) {
        schedule::hurry();
        let mut later = Later::default();
        while let Some(work) = self.next(&later) {
            let (all, wanted) = (work.all, work.wanted);
            if let Err(error) = self.round(work, &mut later) {
                log::debug!("notifier: {error}");
                break;
            }
            if all.wanted {
                lock(&self.work).done = wanted;
                self.changed.notify_all();
            }
        }
        let mut work = lock(&self.work);
        *work = Work { wanted: work.wanted, done: work.wanted, ..Work::default() };
        // What comes now has nobody to be told.
        self.ended.store(true, Ordering::SeqCst);
        drop(work);
        self.changed.notify_all();
    }

    /// Waits until there is something to do, and takes it; `None` at the end.
    fn next(&self, later: &Later) -> Option<Work> {
        let mut work = lock(&self.work);
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            let pause = later.pause();
            if !work.is_empty() || pause.is_some_and(|pause| pause.is_zero()) {
                let left =
                    Work { wanted: work.wanted, done: work.done, running: true, ..Work::default() };
                return Some(std::mem::replace(&mut *work, left));
            }
            work = match pause {
                None => self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    let waited = self.changed.wait_timeout(work, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Tells everything that there is to tell now.
    fn round(&self, work: Work, later: &mut Later) -> io::Result<()> {
        if later.by_time.len() > MOST {
            let pages =
                later.by_time.values().any(|again| matches!(again, Again::File(_, true, _)));
            *later = Later::default();
            self.tell_all(All { wanted: true, pages }, later)?;
        }
        if work.all.wanted {
            self.tell_all(work.all, later)?;
        }
        // Names first: the kernel lets that wait for whoever lists the directory,
        // and then its pages are there to be dropped.
        for (dir, name) in work.names {
            self.tell_name(dir, name, 0, later)?;
        }
        for (number, pages) in work.files {
            self.tell_file(number, pages, Duration::ZERO, later)?;
        }
        while let Some(again) = later.due() {
            count::add(Count::ToldAgain);
            match again {
                Again::File(number, pages, pause) => self.tell_file(number, pages, pause, later)?,
                Again::Name(dir, name, times) => self.tell_name(dir, name, times, later)?,
                Again::Names(times) => self.tell_names_again(times, later)?,
            }
        }
        Ok(())
    }

    /// Tells the kernel of one name, which it has been told of so many times.
    fn tell_name(
        &self,
        dir: u64,
        name: OsString,
        times: usize,
        later: &mut Later,
    ) -> io::Result<()> {
        let Some(fs) = self.fs() else { return Ok(()) };
        let node = self.node_id(dir);
        // What is gone may be forgotten: it would be kept for ever, since nobody
        // asks for it.
        let (gone, told) = fs.telling(Teller::Notifier, || {
            let gone = times == 1 && fs.is_missing(dir, &name).unwrap_or(false);
            let told = match gone {
                true => forget_name(&self.device, node, &name),
                false if self.can_expire.load(Ordering::Relaxed) => {
                    expire(&self.device, node, &name)
                }
                false => Ok(Told::NotKnown),
            };
            (gone, told)
        });
        let told = told?;
        // A name that is not known now, when nobody looks it up, is not cached. One
        // that is may have been asked for before, and the answer be read later.
        let next = match told {
            Told::NotKnown => None,
            Told::NotNow => Some((LONGEST, times)),
            Told::Taken if times > 0 && (gone || !fs.is_being_asked(dir, passed(times))) => None,
            Told::Taken if times >= SLOW && later.by_time.len() > MOST / 2 => None,
            Told::Taken => AGAIN.get(times).map(|pause| (*pause, times.saturating_add(1))),
        };
        if let Some((pause, times)) = next {
            later.add(pause, Again::Name(dir, name, times));
        }
        Ok(())
    }

    /// Tells the kernel of one file.
    fn tell_file(
        &self,
        number: u64,
        pages: bool,
        pause: Duration,
        later: &mut Later,
    ) -> io::Result<()> {
        let Some(fs) = self.fs() else { return Ok(()) };
        let told = self.tell_contents(&fs, number, pages)?;
        if told != Told::Taken && fs.knows(number) {
            let pause = pause.saturating_mul(2).clamp(Duration::from_millis(1), LONGEST);
            later.add(pause, Again::File(number, pages, pause));
        }
        Ok(())
    }

    fn tell_attributes(&self, number: u64) -> io::Result<Told> {
        forget_attributes(&self.device, self.node_id(number))
    }

    /// Tells the kernel of everything that it knows.
    ///
    /// Whatever was answered before the policy was replaced has been remembered
    /// in the tree before, so that it is met here.
    fn tell_all(&self, all: All, later: &mut Later) -> io::Result<()> {
        count::add(Count::ToldAll);
        // For replies that were under way when the policy was replaced.
        thread::sleep(PAUSE);
        let mut unknown = Vec::new();
        let mut part = 0_usize;
        while let Some(numbers) = self.fs().and_then(|fs| fs.numbers(part)) {
            for number in numbers {
                if self.tell_known(number, all, later)? != Told::Taken {
                    unknown.push(number);
                }
            }
            part = part.saturating_add(1);
        }
        let missing = self.fs().map(|fs| fs.take_missing());
        for (dir, name) in missing.into_iter().flatten() {
            // These are remembered nowhere else from now on.
            self.tell_name(dir, name, SLOW, later)?;
        }
        for _ in 0..ROUNDS {
            if unknown.is_empty() || self.fs().is_none() {
                break;
            }
            thread::sleep(PAUSE);
            let mut again = Vec::new();
            for number in unknown {
                if self.tell_known(number, all, later)? != Told::Taken {
                    again.push(number);
                }
            }
            unknown = again;
        }
        for number in unknown {
            later.add(PAUSE, Again::File(number, all.pages, PAUSE));
        }
        self.tell_names_again(0, later)
    }

    /// Tells the kernel once more of names that somebody asked for just before all
    /// was told, which was done so many times.
    fn tell_names_again(&self, times: usize, later: &mut Later) -> io::Result<()> {
        let ago = ALL_AGAIN.iter().take(times).sum();
        if let Some(pause) = ALL_AGAIN.get(times) {
            later.add(*pause, Again::Names(times.saturating_add(1)));
        }
        let mut part = 0_usize;
        while let Some(fs) = self.fs()
            && let Some(numbers) = fs.numbers(part)
        {
            for (dir, name) in numbers.into_iter().filter_map(|n| fs.places(n).ok()).flatten() {
                if fs.is_being_asked(dir, ago) {
                    self.tell_name(dir, name, LAST, later)?;
                }
            }
            part = part.saturating_add(1);
        }
        Ok(())
    }

    /// Tells the kernel of one file, its names first: the kernel lets that wait
    /// for lookups in its directory, which then have their reply.
    fn tell_known(&self, number: u64, all: All, later: &mut Later) -> io::Result<Told> {
        let Some(fs) = self.fs() else { return Ok(Told::Taken) };
        // Forgotten meanwhile?
        let Ok(places) = fs.places(number) else { return Ok(Told::Taken) };
        for (parent, name) in places {
            self.tell_name(parent, name, LAST, later)?;
        }
        // A listing has names.
        self.tell_contents(&fs, number, all.pages || fs.is_dir(number))
    }

    /// Tells the kernel of attributes, and then perhaps of contents.
    fn tell_contents(&self, fs: &Fs, number: u64, pages: bool) -> io::Result<Told> {
        fs.telling(Teller::Notifier, || {
            let told = self.tell_attributes(number)?;
            if !pages || told != Told::Taken {
                return Ok(told);
            }
            forget_pages(&self.device, self.node_id(number))
        })
    }

    fn node_id(&self, number: u64) -> u64 {
        let (root, node_id) = self.root;
        if number == root { node_id } else { number }
    }

    /// Returns the file system, unless all of it has ended.
    fn fs(&self) -> Option<Arc<Fs>> {
        if self.ended.load(Ordering::Relaxed) { None } else { self.fs.upgrade() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_waits_once_for_long_and_often_for_a_moment() {
        let mut later = Later::default();
        let name = |times| Again::Name(2, "f".into(), times);
        for times in [1, 1, SLOW + 1, SLOW + 1, SLOW + 2] {
            later.add(Duration::ZERO, name(times));
        }
        assert_eq!(later.by_time.len(), 3);
        while later.due().is_some() {}
        later.add(Duration::ZERO, name(SLOW + 2));
        assert!(later.due().is_some() && later.slow.is_empty());
    }

    #[test]
    fn names_are_told_for_seconds() {
        assert_eq!(passed(0), Duration::ZERO);
        assert_eq!(passed(SLOW), Duration::from_millis(223));
        assert_eq!(passed(LAST), Duration::from_millis(6223));
    }
}
