//! Unpacking ahead of those who read on and on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use crate::sync::lock;
use crate::sys::schedule::Bystander;
use crate::threads;

/// How much may wait to be unpacked; what does not fit, whoever reads it unpacks.
const WAITING: usize = 32;

/// The most threads that unpack ahead.
const THREADS: usize = 4;

/// What is to be done ahead.
type Work = Box<dyn FnOnce() + Send>;

/// Threads that begin when there is something for them to do: not before the server
/// has given up what it does not need.
#[derive(Debug)]
pub(super) struct Ahead {
    /// How many there are to be.
    threads: usize,
    queue: OnceLock<Option<SyncSender<Work>>>,
}

impl Ahead {
    /// Makes none yet.
    pub fn new() -> Self {
        Self { threads: threads::processors().min(THREADS), queue: OnceLock::new() }
    }

    /// Leaves something to be done, if there is room for it.
    pub fn leave(&self, work: impl FnOnce() + Send + 'static) {
        if let Some(queue) = self.queue.get_or_init(|| start(self.threads)) {
            // What is not done ahead is done by those who need it.
            let _full = queue.try_send(Box::new(work));
        }
    }
}

/// Starts the threads; `None` if there can be none.
fn start(count: usize) -> Option<SyncSender<Work>> {
    let (sender, receiver) = sync_channel::<Work>(WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    let started = (0..count).filter(|_| {
        let receiver = Arc::clone(&receiver);
        let work = move || {
            let _bystander = Bystander::begin();
            while let Some(work) = next(&receiver) {
                // The fault is logged; others need what waits.
                drop(catch_unwind(AssertUnwindSafe(work)));
            }
        };
        threads::start("ahead", work).is_ok()
    });
    (started.count() > 0).then_some(sender)
}

fn next(receiver: &Mutex<Receiver<Work>>) -> Option<Work> {
    lock(receiver).recv().ok()
}
