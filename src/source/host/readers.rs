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
//! What open(2) would find out is what faccessat(2) does, for a file that was opened
//! before: with a reader there can be no lease against readers, and no key of its
//! contents goes away. File systems that ask a server get every open.

use std::sync::Arc;

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use super::Host;
use super::file::{HostFile, is_for_reading};
use super::node::Held;
use super::volume::Volume;
use crate::error::Result;
use crate::source::File;
use crate::sync::lock;
use crate::sys::daemon::descriptors;

/// How many files stay open at most.
const MOST: usize = 1 << 14;
/// How many descriptors are left out of account: as many as nodes, which take half of all,
/// must leave for what is open besides.
const FEW: u64 = 96;

/// How many files stay open.
#[derive(Debug)]
pub(super) struct Readers {
    /// As many copies of this as there are files, and one.
    count: Arc<()>,
    most: usize,
}

impl Default for Readers {
    /// Lets a third of all descriptors be such files, but for a few: they close where others
    /// are short, though not for what the server opens for itself.
    fn default() -> Self {
        let third = |all: u64| usize::try_from(all.saturating_sub(FEW) / 3).unwrap_or(MOST);
        let most = descriptors().map_or(0, third);
        Self::of(most.min(MOST))
    }
}

impl Readers {
    /// Lets at most so many files stay open.
    pub(super) fn of(most: usize) -> Self {
        Self { count: Arc::default(), most }
    }

    /// Counts one more file, if there may be.
    fn one_more(&self) -> Option<Arc<()>> {
        (Arc::strong_count(&self.count) <= self.most).then(|| Arc::clone(&self.count))
    }
}

/// A file that stays open to be read.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<HostFile>,
    _counted: Arc<()>,
}

impl Reader {
    /// Returns the file, unless somebody has it open.
    ///
    /// Two who read it share no position: the kernel reads ahead of each.
    fn idle(&self) -> Option<Arc<dyn File>> {
        (Arc::strong_count(&self.file) == 1).then(|| Arc::clone(&self.file) as Arc<dyn File>)
    }
}

impl Host {
    /// Opens a regular file.
    pub(super) fn open_held(&self, held: &Held, flags: i32) -> Result<Arc<dyn File>> {
        let volume = self.volume(held);
        let stays = is_for_reading(flags) && volume.as_ref().is_some_and(|v| v.traits.local);
        let idle = || lock(held.reader()).as_ref().and_then(Reader::idle);
        if stays
            && let Some(file) = idle()
            && self.may_still_read(held, volume.as_deref())?
        {
            return Ok(file);
        }
        let context = Arc::clone(&self.context);
        let file = HostFile::open(context, held.fd(), flags, volume.as_deref())?;
        let mut reader = lock(held.reader());
        let file = Arc::new(file.of(Arc::clone(held.opens())));
        // The node's own, and this one's.
        let alone = Arc::strong_count(held.opens()) == 2;
        let counted = if stays && alone { self.readers.one_more() } else { None };
        let next = counted.map(|counted| Reader { file: Arc::clone(&file), _counted: counted });
        let before = std::mem::replace(&mut *reader, next);
        // Closed without the lock.
        drop(reader);
        drop(before);
        Ok(file)
    }

    /// Reports whether the server could open a file again that it has open.
    fn may_still_read(&self, held: &Held, volume: Option<&Volume>) -> Result<bool> {
        if self.context.capable {
            return Ok(true);
        }
        self.context.as_onlooker(volume)?;
        let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS;
        Ok(faccessat(held.fd(), "", AccessFlags::R_OK, flags).is_ok())
    }
}
