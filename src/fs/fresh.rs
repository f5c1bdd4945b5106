//! For how long the kernel may believe what it was told.
//!
//! A request begins at a [`Moment`]. Whoever hears of a change counts it, and
//! notes that count in the cell of the file; so an answer that was sought before
//! that is known by its moment, and goes out as one that is not to be believed.
//! What was believed already is taken back by a notice, see
//! [`Fs::heard`](super::Fs::heard). No answer waits for a lock here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::cells::cell;
use super::negative::Negative;
use super::open::Open;
use super::stamps::Stamps;
use super::trust::{LONG, SHORT, Trust, Ttl};
use super::unheard::Unheard;
use super::{Entry, Fs, Notice};
use crate::source::{Covers, Node, Watch, is_settled};

/// How many cells there are for files; files share them by hash.
const CELLS: usize = 4096;

/// How long the kernel may take a notice to be read by it. Then it may hang, for
/// as long as the source does, and what is answered until it goes on is not
/// for long.
const STUCK: u64 = 1000;
/// How long ago a directory has been asked for something, for the answer to be
/// still under way perhaps; in milliseconds.
const UNDER_WAY: u64 = 1000;

/// When a request began, in changes that had been heard of by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

/// Who tells the kernel something just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// The thread that hears of changes.
    Watch,
    /// The thread that tells what may have to wait.
    Notifier,
}

/// What is known of changes.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) trust: Trust,
    watch: OnceLock<Arc<dyn Watch>>,
    /// Whether nothing is heard any more, for good.
    deaf: AtomicBool,
    /// How many changes have been heard of.
    now: AtomicU64,
    /// The last of them, by file.
    changed: Box<[AtomicU64]>,
    /// The last that may have changed anything.
    all: AtomicU64,
    /// When names of a directory were last told for long, in milliseconds.
    answered: Box<[AtomicU64]>,
    /// What files were like when they were last opened.
    stamps: Stamps,
    /// Since when somebody tells the kernel something, in milliseconds; 0: they
    /// do not.
    telling: [AtomicU64; 2],
    start: Instant,
    /// What is not heard of, although something is.
    pub(super) unheard: Unheard,
    /// Whether any directory was marked since all was lost.
    pub(super) marked: AtomicBool,
    pub(super) negative: Negative,
}

impl Fresh {
    pub(super) fn new(trust: Trust) -> Self {
        let cells = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            trust,
            watch: OnceLock::new(),
            deaf: AtomicBool::new(false),
            now: AtomicU64::new(0),
            changed: cells(CELLS),
            all: AtomicU64::new(0),
            answered: cells(CELLS),
            stamps: Stamps::new(trust == Trust::Watch),
            telling: [AtomicU64::new(0), AtomicU64::new(0)],
            start: Instant::now(),
            unheard: Unheard::default(),
            marked: AtomicBool::new(false),
            negative: Negative::default(),
        }
    }

    /// Notes a change of a file.
    pub(super) fn note(&self, file: (u64, u64)) {
        let now = self.now.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        if let Some(cell) = cell(&self.changed, file) {
            cell.fetch_max(now, Ordering::SeqCst);
        }
    }

    /// Notes that anything may have changed.
    pub(super) fn note_all(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        self.all.fetch_max(now, Ordering::SeqCst);
    }

    /// Notes a change of contents: pages from before are not to be kept.
    pub(super) fn note_contents(&self, file: (u64, u64)) {
        self.stamps.forget(file);
    }

    /// Reports whether nothing has been heard of since that moment.
    fn holds(&self, moment: Moment, file: (u64, u64)) -> bool {
        let changed = cell(&self.changed, file).map_or(u64::MAX, |c| c.load(Ordering::SeqCst));
        changed <= moment.0 && self.all.load(Ordering::SeqCst) <= moment.0
    }

    fn covers(&self, volume: u64) -> Covers {
        let Some(watch) = self.watch.get().filter(|_| !self.is_deaf()) else {
            return Covers::Nothing;
        };
        let covers = watch.covers(volume);
        if covers == Covers::Nothing {
            self.unheard.volume(volume, watch.as_ref());
        }
        covers
    }

    /// Reports whether nothing is heard any more, for good.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Returns the milliseconds since this was made, and 1.
    fn clock(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Returns how long what is heard of may be believed.
    fn long(&self) -> Duration {
        let stuck = self.telling.iter().any(|since| match since.load(Ordering::SeqCst) {
            0 => false,
            since => self.clock().saturating_sub(since) > STUCK,
        });
        if stuck { SHORT } else { LONG }
    }

    fn answered(&self, dir: (u64, u64)) {
        if let Some(cell) = cell(&self.answered, dir) {
            cell.store(self.clock(), Ordering::SeqCst);
        }
    }
}

impl Fs {
    /// Believes what the watch of the source hears of; `watch` is what passes it
    /// on to [`Fs::heard`].
    pub fn trust_watch(&self, watch: Arc<dyn Watch>) {
        // It can be done once.
        let (Ok(()) | Err(_)) = self.fresh.watch.set(watch);
    }

    /// Returns what hears of changes in the source.
    pub fn watch(&self) -> Option<&Arc<dyn Watch>> {
        self.fresh.watch.get()
    }

    /// Notes that nothing is heard any more; everything has to be told again then.
    pub fn is_deaf_now(&self) {
        self.fresh.deaf.store(true, Ordering::SeqCst);
        self.lose();
    }

    /// Returns the moment at which a request begins.
    pub fn moment(&self) -> Moment {
        Moment(self.fresh.now.load(Ordering::SeqCst))
    }

    /// Returns how long the kernel may believe attributes of a file that were
    /// asked for at a moment.
    pub fn attributes_at(&self, moment: Moment, number: u64) -> Duration {
        let Ok(file) = self.tree.file(number) else { return Duration::ZERO };
        // What the kernel writes by itself is not heard of.
        if self.is_passed_writing(number) {
            return Duration::ZERO;
        }
        let time = match self.fresh.trust {
            Trust::For(time) => time,
            Trust::Watch => match self.fresh.covers(file.0) {
                // Nobody tells of keys.
                Covers::Everything if !self.tree.is_encrypted(number) => self.fresh.long(),
                Covers::Everything | Covers::Directories | Covers::Nothing => SHORT,
            },
        };
        // Nor are stores to mappings of what is closed by now.
        let time = if self.may_be_mapped(number) { time.min(SHORT) } else { time };
        if self.fresh.holds(moment, file) { time } else { Duration::ZERO }
    }

    /// Returns how long the kernel may believe attributes that it does not compare
    /// with what it was told meanwhile: those of an answer to a change, or to a
    /// link. So a notice may be overwritten by them.
    pub fn unguarded_at(&self, moment: Moment, number: u64) -> Duration {
        let time = self.attributes_at(moment, number);
        if self.fresh.trust == Trust::Watch { time.min(SHORT) } else { time }
    }

    /// Does as [`Fs::entry_at`] for the answer to a link, which is of a file that the
    /// kernel knows.
    pub fn linked_at(&self, moment: Moment, dir: u64, entry: &Entry) -> Ttl {
        let attributes = self.unguarded_at(moment, entry.node);
        Ttl { attributes, names: self.entry_at(moment, dir, entry).names.min(attributes) }
    }

    /// Returns how long the kernel may believe where names in a directory lead
    /// that were asked for at a moment.
    pub fn names_at(&self, moment: Moment, dir: u64) -> Duration {
        let Ok(file) = self.tree.file(dir) else { return Duration::ZERO };
        let time = match self.fresh.trust {
            Trust::For(time) => time,
            Trust::Watch if self.hears_names(file.0, dir) => {
                self.fresh.answered(file);
                self.fresh.long()
            }
            Trust::Watch => SHORT,
        };
        if self.fresh.holds(moment, file) { time } else { Duration::ZERO }
    }

    /// Returns how long the kernel may believe what a name in a directory led to.
    pub fn entry_at(&self, moment: Moment, dir: u64, entry: &Entry) -> Ttl {
        let (attributes, names) =
            (self.attributes_at(moment, entry.node), self.names_at(moment, dir));
        // What cannot be remembered cannot be taken back.
        let most = if self.tree.keeps_names(entry.node) { LONG.max(names) } else { SHORT };
        // With attributes that have expired the kernel still decides who may remove or
        // change a file, unless it looks the name up again.
        Ttl { attributes, names: names.min(most).min(attributes) }
    }

    /// Returns how long the kernel may believe that there is no such name; what
    /// it has to be told then, so that all it knows for long is remembered. If it
    /// has to be told too much already (`busy`), it is told nothing instead.
    pub fn missing_at(
        &self,
        moment: Moment,
        dir: u64,
        name: &std::ffi::OsStr,
        busy: bool,
    ) -> (Duration, Option<Notice>) {
        let watched = self.fresh.trust == Trust::Watch;
        let gone = match self.tree.file(dir) {
            Ok((volume, _)) if watched && self.hears_names(volume, dir) => {
                if !self.fresh.negative.has_room(busy) {
                    return (self.names_at(moment, dir).min(SHORT), None);
                }
                self.fresh.negative.add(dir, name)
            }
            Ok(_) | Err(_) => None,
        };
        let gone = gone.map(|(dir, name)| Notice::Name(dir, name));
        (self.names_at(moment, dir), gone)
    }

    /// Reports whether a listing of a directory may be kept by the kernel.
    pub fn keeps_listing(&self, number: u64) -> bool {
        let Ok((volume, _)) = self.tree.file(number) else { return false };
        // What hides by its owner or mode comes and goes without the directory.
        if self.checks() || self.hides_names(number) {
            return false;
        }
        match self.fresh.trust {
            Trust::For(time) if time <= Duration::ZERO => false,
            // The kernel compares times, so that these have to tell.
            Trust::For(_) => self
                .node(number)
                .and_then(|node| self.source.getattr(&node))
                .is_ok_and(|attr| is_settled(&attr) && !attr.encrypted),
            Trust::Watch => self.hears_names(volume, number),
        }
    }

    /// Reports whether pages of an open file are still what it has: it is as it was
    /// when it was last opened, and no other change of its contents has been heard
    /// of.
    pub fn keeps_pages(&self, handle: u64) -> bool {
        if self.fresh.trust != Trust::Watch {
            return false;
        }
        let Ok(open) = self.opens.get(handle) else { return false };
        let Ok(file) = self.tree.file(open.number) else { return false };
        if self.fresh.covers(file.0) == Covers::Nothing {
            return false;
        }
        open.file.getattr().is_ok_and(|attr| self.fresh.stamps.is_as_last_opened(file, &attr))
    }

    /// Reports whether the kernel may have pages of an open file that are older than what it
    /// has now, which counts as the last open. It has none of what it reads by itself.
    pub fn may_have_old_pages(&self, handle: u64) -> bool {
        let lent = |open: &Open| open.lent.load(Ordering::Relaxed);
        self.opens.get(handle).is_ok_and(|open| !lent(&open)) && !self.keeps_pages(handle)
    }

    /// Has the names of a directory watched, before any of them is looked up, if
    /// that is to be asked for directory by directory.
    pub(super) fn listen(&self, number: u64, dir: &Node) {
        let Some(watch) = self.fresh.watch.get() else { return };
        let Ok((volume, _)) = self.tree.file(number) else { return };
        if self.fresh.covers(volume) != Covers::Directories || self.tree.is_heard(number) {
            return;
        }
        // A mark would keep its key in use.
        if self.tree.is_encrypted(number) {
            return;
        }
        let moment = self.moment();
        if watch.add(dir).is_none() {
            return self.fresh.unheard.directory(watch.as_ref());
        }
        self.fresh.marked.store(true, Ordering::SeqCst);
        self.tree.set_heard(number);
        // All that was added may have been given up meanwhile.
        if self.fresh.all.load(Ordering::SeqCst) > moment.0 {
            self.tree.unhear();
        }
    }

    /// Reports whether all is heard that happens to names in a directory: nobody tells of
    /// keys, by which other names come in the place of all.
    fn hears_names(&self, volume: u64, dir: u64) -> bool {
        let hears = match self.fresh.covers(volume) {
            Covers::Everything => true,
            Covers::Directories => self.tree.is_heard(dir),
            Covers::Nothing => false,
        };
        hears && !self.tree.is_encrypted(dir)
    }

    /// Reports whether names of a directory were told for long so short a time
    /// before something that happened `ago` that the kernel may not have read the
    /// answer by then.
    pub fn is_being_asked(&self, dir: u64, ago: Duration) -> bool {
        let Ok(file) = self.tree.file(dir) else { return false };
        let Some(cell) = cell(&self.fresh.answered, file) else { return true };
        let then = cell.load(Ordering::SeqCst);
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        then != 0 && self.fresh.clock().saturating_sub(then) < UNDER_WAY.saturating_add(ago)
    }

    /// Runs what tells the kernel something, which may have to wait: after a while
    /// nothing is answered for long.
    pub fn telling<T>(&self, who: Teller, tell: impl FnOnce() -> T) -> T {
        let [watch, notifier] = &self.fresh.telling;
        let since = match who {
            Teller::Watch => watch,
            Teller::Notifier => notifier,
        };
        let now = self.fresh.clock();
        since.store(now, Ordering::SeqCst);
        let told = tell();
        // Where that took long, another may tell something by now.
        let (Ok(_) | Err(_)) = since.compare_exchange(now, 0, Ordering::SeqCst, Ordering::SeqCst);
        told
    }
}
