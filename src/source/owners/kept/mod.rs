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
mod keep;
mod node;
mod seen;
mod source;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

pub use self::seen::{is_exposed, real_mode};

use self::aliases::Aliases;
use self::node::KeptNode;
use super::Store;
use super::live::{Hold, Locked};
use crate::error::Result;
use crate::id::{Disk, Ids};
use crate::source::{Key, Node, Rights, Source};
use crate::sync::lock;

/// How many files may be changed at a time.
const SHARDS: usize = 64;

/// Which bits of a file's number say what it is locked by.
const SHARD: u8 = 63;

/// What the server does for itself takes no rights of a caller's.
const RIGHTS: Rights = Rights { keep_setid: false, reserve: false };

/// A source whose files have owners that are kept beside them.
#[derive(Debug)]
pub struct Kept {
    inner: Arc<Inner>,
}

/// What a source and its open files share.
struct Inner {
    /// Ends before the source below does, which tidies up behind it.
    hold: Hold,
    below: Arc<dyn Source>,
    store: Arc<dyn Store>,
    /// The owner that everything has on disk.
    own: Ids<Disk>,
    /// Held while what is kept of a file is read, changed and written.
    shards: [Mutex<()>; SHARDS],
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

/// What keeps all others from changing what is kept of a file: other servers, then
/// other threads of this one.
struct Alone<'a> {
    _servers: Option<Locked<'a>>,
    _threads: Option<MutexGuard<'a, ()>>,
}

impl Kept {
    /// Puts a store beside a source; `own` is whom the server's files belong to,
    /// `hold` is on the records, and kept for as long as this is there.
    pub fn new(below: Arc<dyn Source>, store: Arc<dyn Store>, own: Ids<Disk>, hold: Hold) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(()));
        let aliases = Aliases::default();
        Self { inner: Arc::new(Inner { hold, below, store, own, shards, aliases }) }
    }
}

impl Inner {
    /// Keeps others from changing what is kept of a file; returns what is held below
    /// by then, and its identity there.
    fn alone(&self, held: &KeptNode) -> Result<(Alone<'_>, Node, Key)> {
        let mut real = self.aliases.real(&held.key);
        loop {
            let alone = self.lock(real.ino)?;
            let now = self.aliases.real(&held.key);
            if now == real {
                let (node, key) = self.under(held)?;
                return Ok((alone, node, key));
            }
            // A regular file has come to stand for it meanwhile.
            real = now;
        }
    }

    /// Locks all files whose number on disk, which is the same to every server, ends
    /// in the same bits.
    fn lock(&self, ino: u64) -> Result<Alone<'_>> {
        let [low, ..] = ino.to_le_bytes();
        let shard = low & SHARD;
        let threads = self.shards.get(usize::from(shard)).map(lock);
        Ok(Alone { _servers: self.hold.lock(shard)?, _threads: threads })
    }
}
