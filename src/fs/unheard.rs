//! What is not heard of a source that is watched: told to the log once, and to
//! whoever asks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use super::Fs;
use super::cells::cell;
use super::trust::SHORT;
use crate::source::Watch;
use crate::sync::lock;

/// How many cells there are for volumes that are not watched.
const SAID: usize = 64;

/// What was said of it.
#[derive(Debug)]
pub(super) struct Unheard {
    /// The volumes that are not watched, and why.
    volumes: Mutex<Vec<(u64, String)>>,
    /// The same, to be seen without a lock: by volume, and 1 more than it.
    seen: Box<[AtomicU64]>,
    /// Why there were directories that could not be watched.
    directories: OnceLock<String>,
    /// How often events were lost.
    missed: AtomicU64,
}

impl Default for Unheard {
    fn default() -> Self {
        Self {
            volumes: Mutex::default(),
            seen: (0..SAID).map(|_| AtomicU64::new(0)).collect(),
            directories: OnceLock::new(),
            missed: AtomicU64::new(0),
        }
    }
}

impl Unheard {
    /// Logs once why nothing is heard of a volume: for each reason one warning, since
    /// hundreds of file systems can be mounted below a source.
    pub fn volume(&self, volume: u64, watch: &dyn Watch) {
        let seen = cell(&self.seen, (volume, 0));
        let mark = volume.wrapping_add(1);
        if seen.is_some_and(|seen| seen.swap(mark, Ordering::Relaxed) == mark) {
            return;
        }
        let reason = watch.unwatched(volume).map_or_else(String::new, |why| why.0);
        let mut volumes = lock(&self.volumes);
        if volumes.iter().any(|(known, _)| *known == volume) {
            return;
        }
        let is_new = volumes.iter().all(|(_, known)| *known != reason);
        volumes.push((volume, reason.clone()));
        drop(volumes);
        let level = if is_new { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "a file system below the source: not watched ({reason}): {}", late("it"));
    }

    /// Logs once why a directory is not heard of, if that is for want of marks.
    pub fn directory(&self, watch: &dyn Watch) {
        let Some(why) = watch.shortage() else { return };
        let said = format!("not every directory is watched ({why}): {}", late("the rest"));
        if self.directories.set(why).is_ok() {
            log::warn!("source: {said}; root can raise that limit with sysctl");
        }
    }
}

/// Says what it means that something is not heard of.
pub fn late(there: &str) -> String {
    format!("what others change in {there} may be seen up to {} s late", SHORT.as_secs())
}

impl Fs {
    /// Notes that events were lost, for who asks.
    pub fn has_missed(&self) {
        self.fresh.unheard.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Says how the source is watched by now, of which it was said `how` at first;
    /// `None`: it never was.
    pub fn watched_now(&self, how: &str) -> Option<String> {
        self.watch()?;
        if self.fresh.is_deaf() {
            return Some(format!("no longer watched: {}", late("it")));
        }
        let unheard = &self.fresh.unheard;
        let mut said = how.to_owned();
        let volumes = lock(&unheard.volumes);
        let reasons: BTreeSet<&str> = volumes.iter().map(|(_, reason)| &**reason).collect();
        let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
        match volumes.len() {
            0 => {}
            1 => said += &format!("; a file system below it is not ({reasons})"),
            count => said += &format!("; {count} file systems below it are not ({reasons})"),
        }
        if let Some(why) = unheard.directories.get() {
            said += &format!("; not every directory is ({why})");
        }
        match unheard.missed.load(Ordering::Relaxed) {
            0 => {}
            1 => said += "; events were lost once, and all was asked for again",
            times => {
                said += &format!("; events were lost {times} times, and all was asked for again")
            }
        }
        Some(said)
    }
}
