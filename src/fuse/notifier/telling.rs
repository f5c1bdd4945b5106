//! What the kernel is told, in which order, and how often.
//!
//! What it does not know yet, because the answer is under way to it, it is told again:
//! files until the tree has forgotten them, names for some seconds where their directory
//! was asked for something a moment before.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::notices::{Told, expire, forget_attributes, forget_name, forget_pages};
use super::pending::{All, Job, SLOW};
use super::tellers::{Charge, Stop};
use crate::count::{self, Count};
use crate::fs::{Fs, Notice, Teller};
use crate::tree::ANCHOR;

/// How long a caller may need to read a reply that it has been woken up for.
const PAUSE: Duration = Duration::from_millis(5);

/// After what pauses a name is told again that was known; from [`SLOW`] on it waits only
/// while there is room.
const AGAIN: [Duration; 5] = [
    Duration::from_millis(3),
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The last of these: where so much is told that nothing can wait.
const LAST: usize = AGAIN.len();

/// After what pauses names that somebody asked for are told again, when all was.
const ALL_AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// How long the last pause is before a file is told again that was not known.
const LONGEST: Duration = Duration::from_millis(256);

/// How often files are tried again at once that the kernel did not know: the reply
/// that tells of them may be on its way.
const ROUNDS: usize = 3;

/// Returns how long ago a name was told first that was told so many times.
fn passed(times: usize) -> Duration {
    AGAIN.iter().take(times).sum()
}

/// Who is told, and of what.
#[derive(Debug)]
pub(super) struct Telling {
    /// A descriptor of our own of the device that the library serves.
    device: File,
    fs: Weak<Fs>,
    /// The number of the root, and the node id that the kernel has for it.
    root: (u64, u64),
    /// Whether the kernel can let a name expire. Where it cannot, it would take
    /// the message for another one, which unmounts what is mounted below.
    can_expire: AtomicBool,
}

impl Telling {
    /// Makes it for a session; `anchored` as in its options.
    pub(super) fn new(device: File, fs: &Arc<Fs>, anchored: bool) -> Self {
        let number = fs.root_number();
        Self {
            device,
            fs: Arc::downgrade(fs),
            root: (number, if anchored { number } else { ANCHOR }),
            can_expire: AtomicBool::new(false),
        }
    }

    pub(super) fn can_expire(&self) {
        self.can_expire.store(true, Ordering::SeqCst);
    }

    /// Tells the kernel of the attributes of a node; waits for nothing.
    pub(super) fn forget_attributes(&self, node: u64) {
        if let Err(error) = forget_attributes(&self.device, node) {
            log::debug!("attributes of node {node}: {error}");
        }
    }

    /// Tells the kernel of the contents of a node; waits for reads of them.
    pub(super) fn forget_pages(&self, node: u64) {
        if let Err(error) = forget_pages(&self.device, node) {
            log::debug!("contents of node {node}: {error}");
        }
    }

    /// Tells the kernel of the attributes of a file; waits for nothing.
    ///
    /// # Errors
    /// As [`forget_attributes`].
    pub(super) fn attributes(&self, who: Teller, number: u64) -> io::Result<Told> {
        let Some(fs) = self.fs() else { return Ok(Told::Taken) };
        fs.telling(who, || forget_attributes(&self.device, self.node_id(number)))
    }

    /// Tells the kernel whatever there is to tell, for as long as this thread is in charge.
    pub(super) fn go_on(&self, charge: &Charge<'_>) -> Stop {
        loop {
            let done = charge.next().and_then(|job| match job {
                Job::Name(dir, name, times) => self.tell_name(charge, dir, name, times),
                Job::File(number, pages, pause) => self.tell_file(charge, number, pages, pause),
                Job::All(all) => self.tell_all(charge, all),
                Job::Names(times) => self.tell_names_again(charge, times),
            });
            if let Err(stop) = done {
                return stop;
            }
        }
    }

    /// Tells the kernel of one name, which it has been told of so many times.
    fn tell_name(
        &self,
        charge: &Charge<'_>,
        dir: u64,
        name: OsString,
        times: usize,
    ) -> Result<(), Stop> {
        let Some(fs) = self.fs() else { return Ok(()) };
        let told = charge.tell(Notice::Name(dir, name.clone()), || {
            fs.telling(Teller::Notifier, || self.name(&fs, dir, &name, times))
        })?;
        let Some((gone, told)) = told else { return Ok(()) };
        // A name that is not known now, when nobody looks it up, is not cached. One
        // that is may have been asked for before, and the answer be read later.
        let next = match told {
            Told::NotKnown => None,
            Told::NotNow => Some((LONGEST, times)),
            Told::Taken if times > 0 && (gone || !fs.is_being_asked(dir, passed(times))) => None,
            Told::Taken if times >= SLOW && charge.is_behind()? => None,
            Told::Taken => AGAIN.get(times).map(|pause| (*pause, times.saturating_add(1))),
        };
        let Some((pause, times)) = next else { return Ok(()) };
        charge.later(pause, Job::Name(dir, name, times))
    }

    /// Tells the kernel of one name; returns whether it is gone, too.
    fn name(&self, fs: &Fs, dir: u64, name: &OsStr, times: usize) -> io::Result<(bool, Told)> {
        // Before the kernel hears of it: it may be missing again right after that.
        fs.forget_missing(dir, name);
        let node = self.node_id(dir);
        // What is gone may be forgotten: it would be kept for ever, since nobody
        // asks for it.
        let gone = times == 1 && fs.is_missing(dir, name).unwrap_or(false);
        let told = match gone {
            true => forget_name(&self.device, node, name)?,
            false if self.can_expire.load(Ordering::Relaxed) => expire(&self.device, node, name)?,
            false => Told::NotKnown,
        };
        Ok((gone, told))
    }

    /// Tells the kernel of one file.
    fn tell_file(
        &self,
        charge: &Charge<'_>,
        number: u64,
        pages: bool,
        pause: Duration,
    ) -> Result<(), Stop> {
        let Some(fs) = self.fs() else { return Ok(()) };
        let told = self.tell_contents(charge, &fs, number, pages)?;
        if told != Told::Taken && fs.knows(number) {
            let pause = pause.saturating_mul(2).clamp(Duration::from_millis(1), LONGEST);
            charge.later(pause, Job::File(number, pages, pause))?;
        }
        Ok(())
    }

    /// Tells the kernel of everything that it knows.
    ///
    /// Whatever was answered before the policy was replaced has been remembered
    /// in the tree before, so that it is met here.
    fn tell_all(&self, charge: &Charge<'_>, all: All) -> Result<(), Stop> {
        count::add(Count::ToldAll);
        // For replies that were under way when the policy was replaced.
        thread::sleep(PAUSE);
        let mut unknown = Vec::new();
        let mut part = 0_usize;
        while let Some(numbers) = self.fs().and_then(|fs| fs.numbers(part)) {
            for number in numbers {
                if self.tell_known(charge, number, all)? != Told::Taken {
                    unknown.push(number);
                }
            }
            part = part.saturating_add(1);
        }
        let missing = self.fs().map(|fs| fs.missing());
        for (dir, name) in missing.into_iter().flatten() {
            // Told as names that nobody else remembers, which these are from then on.
            self.tell_name(charge, dir, name, SLOW)?;
        }
        for _ in 0..ROUNDS {
            if unknown.is_empty() || self.fs().is_none() {
                break;
            }
            thread::sleep(PAUSE);
            let mut again = Vec::new();
            for number in unknown {
                if self.tell_known(charge, number, all)? != Told::Taken {
                    again.push(number);
                }
            }
            unknown = again;
        }
        for number in unknown {
            charge.later(PAUSE, Job::File(number, all.pages, PAUSE))?;
        }
        self.tell_names_again(charge, 0)
    }

    /// Tells the kernel once more of names that somebody asked for just before all
    /// was told, which was done so many times.
    fn tell_names_again(&self, charge: &Charge<'_>, times: usize) -> Result<(), Stop> {
        let ago = ALL_AGAIN.iter().take(times).sum();
        if let Some(pause) = ALL_AGAIN.get(times) {
            charge.later(*pause, Job::Names(times.saturating_add(1)))?;
        }
        let mut part = 0_usize;
        while let Some(fs) = self.fs()
            && let Some(numbers) = fs.numbers(part)
        {
            for (dir, name) in numbers.into_iter().filter_map(|n| fs.places(n).ok()).flatten() {
                if fs.is_being_asked(dir, ago) {
                    self.tell_name(charge, dir, name, LAST)?;
                }
            }
            part = part.saturating_add(1);
        }
        charge.told_all()
    }

    /// Tells the kernel of one file, its names first: the kernel lets that wait
    /// for lookups in its directory, which then have their reply.
    fn tell_known(&self, charge: &Charge<'_>, number: u64, all: All) -> Result<Told, Stop> {
        let Some(fs) = self.fs() else { return Ok(Told::Taken) };
        // Forgotten meanwhile?
        let Ok(places) = fs.places(number) else { return Ok(Told::Taken) };
        for (parent, name) in places {
            self.tell_name(charge, parent, name, LAST)?;
        }
        // A listing has names.
        self.tell_contents(charge, &fs, number, all.pages || fs.is_dir(number))
    }

    /// Tells the kernel of attributes, and then perhaps of contents.
    fn tell_contents(
        &self,
        charge: &Charge<'_>,
        fs: &Fs,
        number: u64,
        pages: bool,
    ) -> Result<Told, Stop> {
        let told = self.attributes(Teller::Notifier, number).or_else(|error| charge.end(&error))?;
        if !pages || told != Told::Taken {
            return Ok(told);
        }
        let told = charge.tell(Notice::Pages(number), || {
            fs.telling(Teller::Notifier, || forget_pages(&self.device, self.node_id(number)))
        })?;
        Ok(told.unwrap_or(Told::Taken))
    }

    fn node_id(&self, number: u64) -> u64 {
        let (root, node_id) = self.root;
        if number == root { node_id } else { number }
    }

    /// Returns the file system, unless all of it has ended.
    fn fs(&self) -> Option<Arc<Fs>> {
        self.fs.upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_for_seconds() {
        assert_eq!(passed(0), Duration::ZERO);
        assert_eq!(passed(SLOW), Duration::from_millis(223));
        assert_eq!(passed(LAST), Duration::from_millis(6223));
    }
}
