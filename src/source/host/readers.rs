//! Files that stay open to be read, so that who reads one again need not wait for it to be
//! opened, lent, and closed.
//!
//! Such a file belongs to its node, and goes with it: when the kernel forgets the file,
//! when descriptors run short, and when nobody has asked for it for some time. A node
//! keeps a deleted file on the disk just as well, so what is kept open here takes no
//! room that would be free without it. One thing is different on the host: nobody gets a
//! lease for writing on a file that is open (fcntl(2), `F_SETLEASE`).
//!
//! It goes too when the file is opened otherwise, or once more, meanwhile: who has a file
//! open counts for two descriptors (`fs/budget`), and that would be a third one, which
//! closes for no shortage.
//!
//! A file is opened anew where it has changed in any way since it was opened, contents,
//! owner, mode or ACL: then open(2) may have another answer, and who decides about opens on
//! the host (fanotify(7)) may be asked again. Nothing else that could be in the way comes
//! up while the file is open: neither a lease against readers, nor the loss of the key of
//! its contents. File systems that ask a server get every open.
//!
//! Nothing encrypted (fscrypt) stays open: its key could not be taken away from the host.

use std::ffi::OsStr;
use std::sync::Arc;

use super::Host;
use super::file::{HostFile, is_for_reading};
use super::node::Held;
use crate::attr::{Attr, Time};
use crate::count::{self, Count};
use crate::error::Result;
use crate::id::Disk;
use crate::source::{File, is_settled};
use crate::sync::lock;
use crate::sys::daemon::descriptors;
use crate::sys::stat::stat;

/// How many files stay open at most.
const MOST: usize = 1 << 14;
/// How many descriptors are for what the server opens for itself: of the others, a third may
/// be such files, beside the half of all that nodes may be.
const FEW: u64 = 96;

/// How many files stay open.
#[derive(Debug)]
pub(super) struct Readers {
    /// As many copies of this as there are files, and one.
    count: Arc<()>,
    most: usize,
}

impl Readers {
    /// Lets a third of all descriptors be such files, but for a few: they close where others
    /// are short, though not for what the server opens for itself.
    pub(super) fn new() -> Self {
        let third = |all: u64| usize::try_from(all.saturating_sub(FEW) / 3).unwrap_or(MOST);
        Self::of(descriptors().map_or(0, third).min(MOST))
    }

    /// Lets at most so many files stay open.
    pub(super) fn of(most: usize) -> Self {
        Self { count: Arc::default(), most }
    }

    /// Has one more file stay open, if there may be.
    fn keep(&self, file: &Arc<HostFile>, state: State) -> Option<Reader> {
        let counted = (!self.is_full()).then(|| Arc::clone(&self.count))?;
        Some(Reader { file: Arc::clone(file), state, _counted: counted })
    }

    fn is_full(&self) -> bool {
        Arc::strong_count(&self.count) > self.most
    }
}

/// What of a file is another whenever it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    size: u64,
    mtime: Time,
    ctime: Time,
}

impl State {
    const fn of(attr: &Attr<Disk>) -> Self {
        Self { size: attr.size, mtime: attr.mtime, ctime: attr.ctime }
    }
}

/// A file that stays open to be read.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<HostFile>,
    /// What it was like when it was opened.
    state: State,
    _counted: Arc<()>,
}

impl Reader {
    /// Returns the file, unless somebody has it open, and what it was like.
    ///
    /// Two who read it share no position: the kernel reads ahead of each.
    fn idle(&self) -> Option<(Arc<HostFile>, State)> {
        (Arc::strong_count(&self.file) == 1).then(|| (Arc::clone(&self.file), self.state))
    }
}

impl Host {
    /// Opens a regular file.
    pub(super) fn open_held(&self, held: &Held, flags: i32) -> Result<Arc<dyn File>> {
        let volume = self.volume(held);
        let stays = is_for_reading(flags) && volume.as_ref().is_some_and(|v| v.traits.local);
        let idle = || lock(held.reader()).as_ref().and_then(Reader::idle);
        if stays
            && let Some((file, state)) = idle()
            && State::of(&file.getattr()?) == state
        {
            count::add(Count::OpenAgain);
            return Ok(file);
        }
        // Before it is opened: what changes meanwhile has it opened once more.
        let state = if stays && !self.readers.is_full() { self.settled(held)? } else { None };
        let context = Arc::clone(&self.context);
        let file = HostFile::open(context, held.fd(), flags, volume.as_deref())?;
        let mut reader = lock(held.reader());
        let file = Arc::new(file.of(Arc::clone(held.opens())));
        // The node's own, and this one's.
        let alone = Arc::strong_count(held.opens()) == 2;
        let next = state.filter(|_| alone).and_then(|state| self.readers.keep(&file, state));
        let before = std::mem::replace(&mut *reader, next);
        // Closed without the lock.
        drop(reader);
        drop(before);
        Ok(file)
    }

    /// Returns what a file is like, if whatever changes from now on makes that another.
    fn settled(&self, held: &Held) -> Result<Option<State>> {
        let attr = self.context.attr(&stat(held.fd(), OsStr::new(""))?)?;
        Ok((is_settled(&attr) && !attr.encrypted).then(|| State::of(&attr)))
    }
}
