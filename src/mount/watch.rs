//! Hearing of what others change in the source, for as long as a mount is served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::options::Cache;
use crate::count::{self, Count};
use crate::fs::{Fs, Notice, SHORT, Trust, late};
use crate::fuse::Notifier;
use crate::source::{Happened, Source, Watch, What};
use crate::sys::schedule::{Bystander, hurry};

/// How long the kernel may believe what only this mount can change.
const UNBOUNDED: Duration = Duration::from_secs(3600);

/// How long nothing is said of events that are lost after that was said.
const QUIET: Duration = Duration::from_secs(60);

/// What the kernel may believe of a source.
#[derive(Debug)]
pub(super) struct Believed {
    pub(super) trust: Trust,
    /// What hears of changes.
    pub(super) watch: Option<Arc<dyn Watch>>,
    /// How the source is watched, or why it is not.
    pub(super) why: String,
}

/// Begins to watch a source where that is asked for.
pub(super) fn begin(cache: Cache, source: &dyn Source) -> Believed {
    let fixed =
        |time, why: &str| Believed { trust: Trust::For(time), watch: None, why: why.into() };
    match cache {
        Cache::Ttl(time) => {
            fixed(time, "what others change in the source is seen at the latest then")
        }
        Cache::Exclusive => fixed(UNBOUNDED, "nobody else changes the source, as promised"),
        Cache::Off => fixed(Duration::ZERO, "as asked"),
        Cache::Watch if source.facts().immutable => fixed(UNBOUNDED, "the source never changes"),
        Cache::Watch => match source.watch() {
            Ok(watch) => {
                let why = watch.describe();
                log::info!("source: watched: {why}");
                Believed { trust: Trust::Watch, watch: Some(watch), why }
            }
            Err(why) => {
                let why = format!("not watched ({}): {}", why.0, late("it"));
                log::warn!("source: {why}");
                fixed(SHORT, &why)
            }
        },
    }
}

/// The thread that hears of changes; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watching {
    watch: Arc<dyn Watch>,
    ended: Arc<AtomicBool>,
}

impl Watching {
    /// Starts it for a file system that trusts a watch.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn start(fs: &Arc<Fs>, notifier: Notifier) -> io::Result<Option<Self>> {
        let Some(watch) = fs.watch().cloned() else { return Ok(None) };
        let this = Self { watch, ended: Arc::default() };
        let (watch, ended) = (Arc::clone(&this.watch), Arc::clone(&this.ended));
        let fs = Arc::downgrade(fs);
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            hurry();
            let _bystander = Bystander::begin();
            let (mut losses, mut era) = (Losses::default(), watch.era());
            while let Some(fs) = fs.upgrade().filter(|_| !ended.load(Ordering::SeqCst)) {
                let waited = watch.wait(&mut |happened| {
                    if happened.what == What::Lost {
                        // That an era ends is told in the same way, and is nobody's fault.
                        let before = std::mem::replace(&mut era, watch.era());
                        if before == era {
                            losses.note(&fs);
                        } else {
                            log::info!("source: its directories are marked anew");
                        }
                    }
                    tell(&fs, &notifier, happened)
                });
                if let Err(error) = waited {
                    log::error!("source: no longer watched: {error}");
                    fs.is_deaf_now();
                    notifier.later(Notice::All);
                    return;
                }
            }
        })?;
        Ok(Some(this))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.watch.wake();
    }
}

/// What was said of events that were lost.
#[derive(Debug, Default)]
struct Losses {
    /// When it was said last.
    said: Option<Instant>,
    /// How often events were lost since.
    more: u64,
}

impl Losses {
    /// Takes note that events were lost, and says so, but not again and again: where it
    /// happens once it happens often.
    fn note(&mut self, fs: &Fs) {
        fs.has_missed();
        let Some(more) = self.due(Instant::now()) else { return };
        let before = if more == 0 { String::new() } else { format!(", and {more} times before") };
        log::warn!(
            "source: events of changes were lost{before}, and the kernel asks for everything \
             again: more happens at a time than fs.fanotify.max_queued_events lets wait; root can \
             raise that limit with sysctl, for mounts that are made from then on"
        );
    }

    /// Returns how often events were lost since it was said last, if it is to be said now.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < QUIET) {
            self.more = self.more.saturating_add(1);
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.more))
    }
}

/// Has the kernel told of a change; reports whether it mattered.
fn tell(fs: &Fs, notifier: &Notifier, happened: &Happened) -> bool {
    count::add(if happened.own { Count::HeardOwn } else { Count::Heard });
    if happened.what == What::Lost {
        count::add(Count::HeardLost);
    }
    let mut told = false;
    fs.heard(happened, &mut |notice| {
        told = true;
        if notice == Notice::All {
            log::info!("source: the kernel is to ask for everything again");
        }
        notifier.tell(notice);
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_said_once_a_minute() {
        let start = Instant::now();
        let mut losses = Losses::default();
        let said: Vec<_> = [0, 1, 59, 60, 100, 119, 121, 500]
            .map(|second| losses.due(start + Duration::from_secs(second)))
            .into();
        assert_eq!(said, [Some(0), None, None, Some(2), None, None, Some(2), Some(0)]);
    }
}
