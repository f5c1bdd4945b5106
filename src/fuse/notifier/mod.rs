//! Telling the kernel, unasked, what it is to ask for again.
//!
//! One thread does it at a time (`tellers`), but for attributes, for which the kernel
//! waits for nothing. It holds no lock of ours while it tells the kernel something
//! (`telling`), and no request waits for it: the kernel may let it wait for a directory
//! that is locked by a caller who waits for us. What waits to be told is plain data
//! (`pending`), and so is how it is told (`notices`). An answer that is to go out after
//! the kernel was told waits in `first`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use self::first::First;
use self::notices::Told;
use self::tellers::{Stop, Tellers};
use self::telling::Telling;
use crate::fs::{Fs, Notice, Teller};
use crate::sys::schedule;
use crate::threads;

mod first;
mod notices;
mod pending;
mod tellers;
mod telling;

/// How many names may wait before nothing is added that can be avoided.
const BUSY: usize = 1024;

#[derive(Debug)]
struct Shared {
    tellers: Tellers,
    telling: Telling,
    first: First,
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
        let telling = Telling::new(File::from(device), fs, anchored);
        Self(Arc::new(Shared { tellers: Tellers::default(), telling, first: First::default() }))
    }

    /// Has the threads be there that tell, so that there are some whatever limit of threads
    /// is reached later.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.0.start()?;
        self.0.have_one_stand_by();
        Ok(())
    }

    /// Notes that the kernel can let a name expire.
    pub(super) fn can_expire(&self) {
        self.0.telling.can_expire();
    }

    /// Makes the kernel ask for the attributes of a node again.
    ///
    /// Unlike other notifications this one waits for no lock of the kernel, so
    /// that it may be sent from within a request.
    pub(super) fn forget_attributes(&self, node: u64) {
        self.0.telling.forget_attributes(node);
    }

    /// Makes the kernel ask for the contents and attributes of a node again, and calls
    /// `then` when it does, from this thread or another one.
    pub(super) fn forget_pages_first(&self, node: u64, then: impl FnOnce() + Send + 'static) {
        self.0.first.run(node, Box::new(then), |node| self.0.telling.forget_pages(node));
    }

    /// Has the kernel told what has changed, by the thread that hears of it: of
    /// attributes at once, of the rest soon.
    pub fn tell(&self, notice: Notice) {
        if let Notice::Attributes(number) = notice
            && !self.0.tellers.has_ended()
        {
            let told = self.0.telling.attributes(Teller::Watch, number);
            if matches!(told, Ok(Told::Taken) | Err(_)) {
                return;
            }
        }
        self.later(notice);
    }

    /// Reports whether much waits to be told.
    pub(super) fn is_busy(&self) -> bool {
        self.0.tellers.is_busy(BUSY)
    }

    /// Has the kernel told soon; waits for nothing.
    pub fn later(&self, notice: Notice) {
        self.0.tellers.add(notice);
    }

    /// Makes the kernel ask again for the attributes and ACLs of every file that
    /// it knows, and for every name; waits for that, but no longer than `patience`.
    ///
    /// Pages, open files, working directories and mounts below stay.
    pub fn all(&self, patience: Duration) -> Refreshed {
        if self.0.tellers.all(patience) { Refreshed::All } else { Refreshed::GoesOn }
    }

    /// Ends what is under way, and waits for that, but no longer than
    /// `patience`.
    ///
    /// A process that ends while its thread waits in the kernel for a directory,
    /// and the caller who has that for an answer, keeps both for ever, since the
    /// device stays open for as long as the thread is there (seen on Linux 6.18):
    /// this belongs called while requests are still answered.
    pub fn end(&self, patience: Duration) {
        self.0.tellers.end(patience);
    }
}

impl Shared {
    /// Starts one more thread, if there is to be one.
    fn start(self: &Arc<Self>) -> io::Result<()> {
        if !self.tellers.admit() {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let started = threads::start("notifier", move || shared.run());
        started.map(drop).inspect_err(|_| self.tellers.dismiss())
    }

    fn have_one_stand_by(self: &Arc<Self>) {
        if let Err(error) = self.start() {
            log::debug!("nobody stands by to tell the kernel of changes: {error}");
        }
    }

    /// Tells what there is to tell, whenever this thread is in charge.
    fn run(self: &Arc<Self>) {
        schedule::hurry();
        while let Some(charge) = self.tellers.charge() {
            if charge.is_second() {
                self.have_one_stand_by();
            }
            if self.telling.go_on(&charge) == Stop::Ended {
                break;
            }
        }
        self.tellers.dismiss();
    }
}
