//! Making the kernel ask again for all that it was told.
//!
//! One thread does it, and only for as long as there is something to do. It
//! holds no lock of ours while it tells the kernel something, and no request
//! waits for it: the kernel may let it wait for a directory that is locked by a
//! caller who waits for us.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::notices::{Told, expire, forget_attributes};
use crate::fs::Fs;
use crate::sync::lock;
use crate::tree::ANCHOR;

/// How long a caller may need to read a reply that it has been woken up for.
const PAUSE: Duration = Duration::from_millis(5);

/// How often files are tried again that the kernel did not know: the reply that
/// tells of them may be on its way.
const ROUNDS: usize = 3;

/// What there is to do.
#[derive(Debug, Default)]
struct Work {
    /// How often all was to be told again.
    wanted: u64,
    /// How many of these are done.
    done: u64,
    /// Whether names are to be asked for again, too.
    names: bool,
    /// Whether the thread is there.
    running: bool,
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
    can_expire: Arc<AtomicBool>,
    work: Mutex<Work>,
    changed: Condvar,
    /// Whether there is no use any more.
    ended: AtomicBool,
}

/// Makes the kernel ask again.
#[derive(Clone, Debug)]
pub struct Refresh(Arc<Shared>);

/// How far the kernel has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It has been told everything.
    All,
    /// It is still being told.
    GoesOn,
}

impl Refresh {
    /// Makes it for a session; `anchored` as in its options.
    pub(super) fn new(
        device: OwnedFd,
        fs: &Arc<Fs>,
        anchored: bool,
        can_expire: Arc<AtomicBool>,
    ) -> Self {
        let number = fs.root_number();
        Self(Arc::new(Shared {
            device: File::from(device),
            fs: Arc::downgrade(fs),
            root: (number, if anchored { number } else { ANCHOR }),
            can_expire,
            work: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
        }))
    }

    /// Makes the kernel ask again for the attributes and ACLs of every file that
    /// it knows, and with `names` also for every name; waits for that, but no
    /// longer than `patience`.
    ///
    /// Pages, open files, working directories and mounts below stay.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn all(&self, names: bool, patience: Duration) -> io::Result<Refreshed> {
        let mut work = lock(&self.0.work);
        work.wanted = work.wanted.saturating_add(1);
        work.names |= names;
        let mine = work.wanted;
        if !work.running {
            let shared = Arc::clone(&self.0);
            thread::Builder::new().name("refresh".to_owned()).spawn(move || shared.run())?;
            work.running = true;
        }
        let waits = |work: &mut Work| work.done < mine;
        let waited = self.0.changed.wait_timeout_while(work, patience, waits);
        let (work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(if work.done < mine { Refreshed::GoesOn } else { Refreshed::All })
    }

    /// Ends what is under way, and waits for that, but no longer than
    /// `patience`.
    ///
    /// A process that ends while its thread waits in the kernel for a directory,
    /// and the caller who has that for an answer, keeps both for ever, since the
    /// device stays open for as long as the thread is there (seen on Linux 6.18):
    /// this belongs called while requests are still answered.
    pub fn end(&self, patience: Duration) {
        self.0.ended.store(true, Ordering::Relaxed);
        let running = |work: &mut Work| work.running;
        drop(self.0.changed.wait_timeout_while(lock(&self.0.work), patience, running));
    }
}

impl Shared {
    /// Does what there is to do until there is nothing more.
    fn run(&self) {
        loop {
            let mut work = lock(&self.work);
            if work.done >= work.wanted {
                work.running = false;
                drop(work);
                self.changed.notify_all();
                return;
            }
            let (wanted, names) = (work.wanted, std::mem::take(&mut work.names));
            drop(work);
            if let Err(error) = self.tell_all(names) {
                log::debug!("refresh: {error}");
            }
            lock(&self.work).done = wanted;
            self.changed.notify_all();
        }
    }

    /// Tells the kernel of everything that it knows.
    ///
    /// Whatever was answered before the policy was replaced has been remembered
    /// in the tree before, so that it is met here.
    fn tell_all(&self, names: bool) -> io::Result<()> {
        // For replies that were under way when the policy was replaced.
        thread::sleep(PAUSE);
        let names = names && self.can_expire.load(Ordering::Relaxed);
        let mut unknown = Vec::new();
        let mut part = 0_usize;
        while let Some(numbers) = self.fs().and_then(|fs| fs.numbers(part)) {
            for number in numbers {
                if self.tell(number, names)? != Told::Taken {
                    unknown.push(number);
                }
            }
            part = part.saturating_add(1);
        }
        for _ in 0..ROUNDS {
            if unknown.is_empty() || self.fs().is_none() {
                break;
            }
            thread::sleep(PAUSE);
            let mut again = Vec::new();
            for number in unknown {
                if self.tell(number, names)? != Told::Taken {
                    again.push(number);
                }
            }
            unknown = again;
        }
        Ok(())
    }

    /// Tells the kernel of one file, its names first: the kernel lets that wait
    /// for lookups in its directory, which then have their reply.
    fn tell(&self, number: u64, names: bool) -> io::Result<Told> {
        let Some(places) = self.fs().and_then(|fs| fs.places(number).ok()) else {
            // Forgotten meanwhile, or all of it has ended.
            return Ok(Told::Taken);
        };
        let mut all = Told::Taken;
        for (parent, name) in places.iter().filter(|_| names) {
            // A name that is not known is not cached.
            if expire(&self.device, self.node_id(*parent), name)? == Told::NotNow {
                all = Told::NotNow;
            }
        }
        let attributes = forget_attributes(&self.device, self.node_id(number))?;
        Ok(if all == Told::Taken { attributes } else { all })
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
