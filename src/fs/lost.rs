//! Files that are gone when they are used: the host gives their names to others.
//!
//! A lookup opens nothing, so what a name led to may have been replaced, and its room
//! given to something else, before the kernel asks for more of it. It looks the name up
//! once more then (`retry_estale` of include/linux/namei.h), but only once: where a name
//! is replaced again and again, what is found has to be held.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// For how many milliseconds what is found is held after a file was lost.
const WHILE: u64 = 1000;

/// When a file was lost last.
#[derive(Debug)]
pub(super) struct Lost {
    start: Instant,
    /// Until how many milliseconds after the start what is found is held; 0 if nothing
    /// was lost yet.
    until: AtomicU64,
}

impl Lost {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), until: AtomicU64::new(0) }
    }

    /// Notes that a file was lost.
    pub(super) fn note(&self) {
        self.until.store(self.now().saturating_add(WHILE), Ordering::Relaxed);
    }

    /// Reports whether what is found is to be held.
    pub(super) fn recently(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && self.now() < until
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
