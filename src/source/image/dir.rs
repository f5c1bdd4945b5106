//! Open directories of an image.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::listing::Listing;
use crate::attr::FileKind;
use crate::error::{Errno, Error, Result};
use crate::source::{Dir, DirEntry, InodeFlags, InodeFlagsKind};

/// The two names that every directory has, before all others.
const DOTS: [&str; 2] = [".", ".."];

/// An open directory; an offset is the index of a name.
#[derive(Debug)]
pub(super) struct ImageDir {
    pub listing: Arc<Listing>,
    /// Its own inode number, which stands for its parent's too: those two are told
    /// callers by who knows the parent.
    pub ino: u64,
}

impl Dir for ImageDir {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let dots = DOTS.iter().map(|name| (OsStr::new(name), self.ino, Some(FileKind::Directory)));
        let names = self.listing.from(start.saturating_sub(DOTS.len()));
        let names = names.map(|(name, line)| (name, line.ino, line.kind));
        for ((name, ino, kind), index) in dots.skip(start).chain(names).zip(offset..) {
            let next = index.saturating_add(1);
            if each(DirEntry { name, ino, kind, next }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn inode_flags(&self, _kind: InodeFlagsKind) -> Result<InodeFlags> {
        Err(Error::Os(Errno(libc::ENOTTY)))
    }

    fn set_inode_flags(&self, _flags: &InodeFlags) -> Result<()> {
        Err(Error::Os(Errno(libc::ENOTTY)))
    }
}
