//! Files that the kernel reads, writes and maps by itself (passthrough).
//!
//! How it treats a file belongs to the inode, from its first open to its last
//! release: by the pages of its own cache, or by the host's file, which is
//! registered once (`fuse_file_io_open` of fs/fuse/iomode.c). So whoever opens
//! first decides, and what is open is counted here.
//!
//! Small files are no exception: to open, read and close one of 64 to 4,160 bytes
//! again and again takes 13 us so and 11 us from pages that are kept, where the host
//! takes 3; the first time, pages take one round trip more, and whoever writes the file
//! meanwhile would be slow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use fuser::BackingId;

use crate::error::{Errno, Error, Result};
use crate::fs::Lending;
use crate::sync::lock;

/// How many parts the table has; each has a lock of its own.
const SHARDS: usize = 16;

/// How the kernel treats an open file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'t> {
    /// By its own cache, which it asks us to fill.
    Pages,
    /// By the host's file alone.
    Host(&'t BackingId),
    /// By the host's file where it is mapped; each read and write is asked for.
    Mapped(&'t BackingId),
}

/// The files that the kernel has open, by number.
#[derive(Debug)]
pub(super) struct Passing {
    /// Whether more can be registered.
    allowed: AtomicBool,
    inodes: [Mutex<HashMap<u64, Open>>; SHARDS],
}

/// An inode that is open.
#[derive(Debug)]
struct Open {
    handles: usize,
    backing: Arc<Backing>,
}

/// The host's file as registered; `None` where pages are used.
type Backing = OnceLock<Option<Arc<BackingId>>>;

impl Passing {
    /// Makes an empty table.
    pub(super) fn new() -> Arc<Self> {
        let inodes = std::array::from_fn(|_| Mutex::default());
        Arc::new(Self { allowed: AtomicBool::new(true), inodes })
    }

    /// Counts an open of an inode, which is to come.
    pub(super) fn enter(self: &Arc<Self>, number: u64) -> Turn {
        let mut inodes = self.inodes(number);
        let open =
            inodes.entry(number).or_insert_with(|| Open { handles: 0, backing: Arc::default() });
        open.handles = open.handles.saturating_add(1);
        let backing = Arc::clone(&open.backing);
        Turn { of: Arc::clone(self), number, backing, kept: false }
    }

    /// Takes one open of an inode back: it is released.
    pub(super) fn leave(&self, number: u64) {
        let mut inodes = self.inodes(number);
        let last = match inodes.get_mut(&number) {
            Some(open) if open.handles > 1 => {
                open.handles = open.handles.saturating_sub(1);
                None
            }
            Some(_) => inodes.remove(&number),
            None => None,
        };
        drop(inodes);
        // The kernel is told without the lock.
        drop(last);
    }

    fn register(&self, made: Result<Arc<BackingId>>) -> Option<Arc<BackingId>> {
        match made {
            Ok(backing) => Some(backing),
            Err(error) => {
                if error.is(libc::EPERM) && self.allowed.swap(false, Ordering::Relaxed) {
                    log::warn!("no more passthrough: {error}");
                }
                log::debug!("a file is not passed through: {error}");
                None
            }
        }
    }

    fn inodes(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Open>> {
        let [first, ..] = &self.inodes;
        let part = usize::try_from(number).unwrap_or(0) % SHARDS;
        lock(self.inodes.get(part).unwrap_or(first))
    }
}

/// One open of an inode; taken back when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Turn {
    of: Arc<Passing>,
    number: u64,
    backing: Arc<Backing>,
    kept: bool,
}

impl Turn {
    /// Reports whether the host's file may be used, as far as is known yet.
    pub(super) fn may_pass(&self) -> bool {
        match self.backing.get() {
            Some(backing) => backing.is_some(),
            None => self.of.allowed.load(Ordering::Relaxed),
        }
    }

    /// Decides how the inode is treated, if that is not decided yet, and returns
    /// how this open of it is. `lend` registers its file.
    ///
    /// # Errors
    /// `EBUSY` for a file that cannot be treated as its inode is.
    pub(super) fn way(
        &self,
        lending: Lending,
        lend: impl FnOnce() -> Result<Arc<BackingId>>,
    ) -> Result<Way<'_>> {
        // Others who open it now wait here for the one that registers it.
        let backing = self.backing.get_or_init(|| {
            let pass = lending == Lending::Everything;
            if pass && self.of.allowed.load(Ordering::Relaxed) {
                self.of.register(lend())
            } else {
                None
            }
        });
        match (backing, lending) {
            (None, _) => Ok(Way::Pages),
            (Some(backing), Lending::Everything | Lending::Joining) => Ok(Way::Host(backing)),
            (Some(backing), Lending::Mappings) => Ok(Way::Mapped(backing)),
            (Some(_), Lending::Nothing) => Err(Error::Os(Errno(libc::EBUSY))),
        }
    }

    /// Decides that the inode is treated by pages, if nothing is decided yet; reports
    /// whether it is.
    pub(super) fn goes_by_pages(&self) -> bool {
        self.backing.get_or_init(|| None).is_none()
    }

    /// Leaves the open to its release.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.kept {
            self.of.leave(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn refused() -> Result<Arc<BackingId>> {
        Err(Error::Os(Errno(libc::ELOOP)))
    }

    fn is_empty(passing: &Passing) -> bool {
        passing.inodes.iter().all(|part| lock(part).is_empty())
    }

    #[test]
    fn what_the_first_open_decides_holds_to_the_last_release() {
        let passing = Passing::new();
        let asked = AtomicUsize::new(0);
        let lend = || {
            asked.fetch_add(1, Ordering::Relaxed);
            refused()
        };
        let (first, second) = (passing.enter(7), passing.enter(7));
        assert!(first.may_pass() && second.may_pass());
        for turn in [&first, &second] {
            for lending in
                [Lending::Everything, Lending::Nothing, Lending::Mappings, Lending::Joining]
            {
                assert!(matches!(turn.way(lending, lend), Ok(Way::Pages)));
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(!second.may_pass() && passing.enter(8).may_pass());
        first.keep();
        drop(second);
        assert!(!passing.enter(7).may_pass());
        passing.leave(7);
        assert!(is_empty(&passing) && passing.enter(7).may_pass());
    }

    #[test]
    fn one_refusal_for_want_of_privilege_is_enough() {
        let passing = Passing::new();
        let lend = || Err(Error::Denied);
        assert!(matches!(passing.enter(7).way(Lending::Everything, lend), Ok(Way::Pages)));
        assert!(!passing.enter(8).may_pass());
    }

    #[test]
    fn what_is_not_lent_whole_is_not_registered() {
        let passing = Passing::new();
        let lend = || -> Result<Arc<BackingId>> { unreachable!("not lent") };
        for lending in [Lending::Nothing, Lending::Mappings, Lending::Joining] {
            assert!(matches!(passing.enter(7).way(lending, lend), Ok(Way::Pages)));
        }
        assert!(is_empty(&passing));
    }
}
