//! Hearing of what others change in the source, for as long as a mount is served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::options::Cache;
use crate::count::{self, Count};
use crate::fs::{Fs, Notice, SHORT, Trust};
use crate::fuse::Notifier;
use crate::source::{Happened, Source, Watch, What};
use crate::sys::schedule::{Bystander, hurry};

/// How long the kernel may believe what only this mount can change.
const UNBOUNDED: Duration = Duration::from_secs(3600);

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
                let late = SHORT.as_secs();
                let why = format!(
                    "not watched ({}): what others change in it may be seen up to {late} s late",
                    why.0
                );
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
            while let Some(fs) = fs.upgrade().filter(|_| !ended.load(Ordering::SeqCst)) {
                let waited = watch.wait(&mut |happened| tell(&fs, &notifier, happened));
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
