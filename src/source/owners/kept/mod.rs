//! The source around another one that shows files by their records.
//!
//! A record counts only on a file of the server's own user that nobody else may write:
//! whoever may write a file can give it extended attributes. What can have
//! no record (a symbolic link, a fifo) is shown as it is if it belongs to the server's
//! user anyway; else a regular file stands for it.

mod aliases;
mod change;
mod create;
mod file;
mod ids;
mod node;
mod seen;
mod source;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};

pub use self::seen::real_mode;

use self::aliases::Aliases;
use super::Store;
use super::live::Hold;
use crate::id::{Disk, Ids};
use crate::source::{Key, Source};
use crate::sync::lock;

/// How many files may be changed at a time.
const SHARDS: usize = 64;

/// A source whose files have owners that are kept beside them.
#[derive(Debug)]
pub struct Kept {
    inner: Arc<Inner>,
    _hold: Option<Hold>,
}

/// What a source and its open files share.
struct Inner {
    below: Arc<dyn Source>,
    store: Arc<dyn Store>,
    /// The owner that everything has on disk.
    own: Ids<Disk>,
    /// Held while what is kept of a file is read, changed and written.
    shards: [Mutex<()>; SHARDS],
    hasher: RandomState,
    aliases: Aliases,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { below, store, own, .. } = self;
        f.debug_struct("Kept")
            .field("below", below)
            .field("store", store)
            .field("own", own)
            .finish()
    }
}

impl Kept {
    /// Puts a store beside a source; `own` is whom the server's files belong to.
    pub fn new(below: Arc<dyn Source>, store: Arc<dyn Store>, own: Ids<Disk>) -> Self {
        let (shards, hasher) = (std::array::from_fn(|_| Mutex::new(())), RandomState::new());
        let aliases = Aliases::default();
        Self { inner: Arc::new(Inner { below, store, own, shards, hasher, aliases }), _hold: None }
    }

    /// Keeps a hold on the records for as long as this is there.
    #[must_use]
    pub fn holding(self, hold: Hold) -> Self {
        Self { _hold: Some(hold), ..self }
    }
}

impl Inner {
    /// Keeps others from changing what is kept of a file.
    fn change_of(&self, key: &Key) -> Option<MutexGuard<'_, ()>> {
        let shards = u64::try_from(SHARDS).ok()?;
        let at = self.hasher.hash_one(key).checked_rem(shards)?;
        self.shards.get(usize::try_from(at).ok()?).map(lock)
    }
}
