//! A second thread that looks files of a listing up while the first one does.
//!
//! A caller that lists a directory waits for all of the answer, on a processor
//! that is idle meanwhile. So the names that are likely to fit are shown to a helper,
//! which starts from the last one; whatever it has found when the listing comes
//! there need not be looked up again. Nobody waits for it, and nothing that
//! it found is used for another request: the kernel takes what it is told for
//! younger than the request.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::helper::{Begin, Helper};
use crate::attr::Name;
use crate::source::{Found, Node, Source};

/// With fewer names than this waking the helper takes longer than it saves.
const FEW: usize = 24;

/// After so many listings of one thread in a row it is alone: two of them take
/// turns.
const ROW: usize = 8;

/// The bytes that a line takes in an answer besides its name: `struct
/// fuse_direntplus` of linux/fuse.h.
const LINE: usize = 152;

/// The smallest answer that the kernel asks for, in bytes.
const SMALLEST: usize = 4096;

/// The helper, and who lists.
#[derive(Debug)]
pub(super) struct Ahead {
    helper: Helper<Arc<Batch>>,
    /// How many listings are under way: with two there is no idle processor.
    listings: AtomicUsize,
    /// The thread that asked for the last one, and how often in a row it has.
    last: AtomicU32,
    row: AtomicUsize,
    /// How many bytes an answer is likely to have room for.
    room: AtomicUsize,
}

/// Names of a directory, and the files that have been found already.
#[derive(Debug)]
struct Batch {
    source: Arc<dyn Source>,
    dir: Node,
    names: Vec<OsString>,
    found: Vec<OnceLock<Found>>,
    /// How many of them the listing has come to.
    passed: AtomicUsize,
    over: AtomicBool,
}

/// A listing under way.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    ahead: &'a Ahead,
    batch: Option<Arc<Batch>>,
    /// How many lines there were, and how many bytes they take.
    lines: usize,
    bytes: usize,
}

impl Ahead {
    /// Makes one whose helper has not begun.
    pub(super) fn new(begin: Begin) -> Self {
        Self {
            helper: Helper::new("ahead", begin, || Box::new(|batch| help(&batch))),
            listings: AtomicUsize::new(0),
            last: AtomicU32::new(0),
            row: AtomicUsize::new(0),
            room: AtomicUsize::new(0),
        }
    }

    /// Starts a listing of a directory for a caller's thread; `names` returns
    /// those that come next.
    pub(super) fn list(
        &self,
        pid: u32,
        source: &Arc<dyn Source>,
        dir: &Node,
        names: impl FnOnce() -> Vec<OsString>,
    ) -> Listing<'_> {
        let (first, only) = (self.listings.fetch_add(1, Ordering::Relaxed) == 0, self.is_only(pid));
        let mut listing = Listing { ahead: self, batch: None, lines: 0, bytes: 0 };
        if first && only && self.helper.can_help() {
            let mut room = self.room.load(Ordering::Relaxed).max(SMALLEST);
            let fits = |name: &OsString| {
                room = room.saturating_sub(line(name.len()));
                room > 0
            };
            let names: Vec<OsString> = names().into_iter().take_while(fits).collect();
            if names.len() >= FEW {
                let found = names.iter().map(|_| OnceLock::new()).collect();
                let (passed, over) = (AtomicUsize::new(0), AtomicBool::new(false));
                let (source, dir) = (Arc::clone(source), dir.clone());
                let batch = Arc::new(Batch { source, dir, names, found, passed, over });
                listing.batch = self.helper.ask(Arc::clone(&batch)).then_some(batch);
            }
        }
        listing
    }

    /// Reports whether nobody else has been listing of late.
    fn is_only(&self, pid: u32) -> bool {
        if self.last.swap(pid, Ordering::Relaxed) != pid {
            self.row.store(0, Ordering::Relaxed);
        }
        self.row.fetch_add(1, Ordering::Relaxed) >= ROW
    }
}

impl Listing<'_> {
    /// Takes the next line; returns its file if it has been found already.
    pub(super) fn next(&mut self, name: &OsStr) -> Option<Found> {
        let at = self.lines;
        self.lines = at.saturating_add(1);
        self.bytes = self.bytes.saturating_add(line(name.len()));
        let batch = self.batch.as_ref()?;
        batch.passed.store(self.lines, Ordering::Relaxed);
        if batch.names.get(at)? != name {
            return None;
        }
        batch.found.get(at)?.get().cloned()
    }

    /// Notes that the answer had no room for the last line.
    pub(super) fn is_full(&self) {
        self.ahead.room.store(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.ahead.listings.fetch_sub(1, Ordering::Relaxed);
        self.ahead.room.fetch_max(self.bytes, Ordering::Relaxed);
        if let Some(batch) = &self.batch {
            batch.over.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns how many bytes a line takes in an answer.
const fn line(name: usize) -> usize {
    LINE.saturating_add(name).next_multiple_of(8)
}

/// Looks names up from the last one on, until the listing has come there.
fn help(batch: &Batch) {
    for (at, (name, found)) in batch.names.iter().zip(&batch.found).enumerate().rev() {
        let met = batch.passed.load(Ordering::Relaxed) > at;
        if met || batch.over.load(Ordering::Relaxed) {
            break;
        }
        // `.` and `..` are no names.
        if let Ok(name) = Name::new(name)
            && let Ok(file) = batch.source.lookup(&batch.dir, name)
        {
            // Nobody else sets it. What failed is looked up once more.
            let (Ok(()) | Err(_)) = found.set(file);
        }
    }
}
