//! A thread that looks things up before they are asked for. Nobody waits for it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::threads;

/// What such a thread does first; it holds the result while it lives.
pub type Begin = fn() -> Box<dyn Any>;

/// A thread that is there from the first time that it is of use.
#[derive(Debug)]
pub(super) struct Helper<T> {
    name: &'static str,
    begin: Begin,
    /// Makes what it does with each thing that it is asked for.
    work: fn() -> Box<dyn FnMut(T) + Send>,
    /// Whether there is a processor for it.
    can_help: bool,
    queue: OnceLock<Option<SyncSender<T>>>,
}

impl<T: Send + 'static> Helper<T> {
    /// Makes one that has not begun.
    pub(super) fn new(
        name: &'static str,
        begin: Begin,
        work: fn() -> Box<dyn FnMut(T) + Send>,
    ) -> Self {
        let can_help = threads::processors() > 1;
        Self { name, begin, work, can_help, queue: OnceLock::new() }
    }

    /// Reports whether there is a processor for it.
    pub(super) const fn can_help(&self) -> bool {
        self.can_help
    }

    /// Has it do something, unless it is busy; reports whether it is going to.
    pub(super) fn ask(&self, thing: T) -> bool {
        let queue = self.queue.get_or_init(|| self.start());
        queue.as_ref().is_some_and(|queue| queue.try_send(thing).is_ok())
    }

    fn start(&self) -> Option<SyncSender<T>> {
        if !self.can_help {
            return None;
        }
        let ((sender, things), begin, work) = (sync_channel(1), self.begin, self.work);
        let body = move || {
            let (_held, mut work) = (begin(), work());
            for thing in things {
                // A fault of the source is logged; others are to be helped.
                drop(catch_unwind(AssertUnwindSafe(|| work(thing))));
            }
        };
        threads::start(self.name, body).ok().map(|_| sender)
    }
}
