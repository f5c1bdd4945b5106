//! Open directories of an image.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::inner::Inner;
use super::listing::Listing;
use crate::attr::FileKind;
use crate::error::{Errno, Error, Result};
use crate::source::{Dir, DirEntry, Found, InodeFlags, InodeFlagsKind};

/// The two names that every directory has, before all others.
const DOTS: [&str; 2] = [".", ".."];

/// How many files are looked at together: some may be more than the answer has room for.
const TOGETHER: usize = 16;

/// An open directory; an offset is the index of a name.
#[derive(Debug)]
pub(super) struct ImageDir {
    pub inner: Arc<Inner>,
    pub listing: Arc<Listing>,
    /// Its own inode number, which stands for its parent's too: those two are told
    /// callers by who knows the parent.
    pub ino: u64,
}

impl ImageDir {
    /// Returns the files of names from an index on; none for those that cannot be read,
    /// which is said when they are looked up.
    fn files(&self, index: usize) -> Result<Vec<Option<Found>>> {
        self.inner.answer(|inner| {
            let lines = self.listing.from(index).take(TOGETHER);
            Ok(lines.map(|(_, line)| inner.found(line.nid).ok()).collect())
        })
    }
}

impl Dir for ImageDir {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut offsets = offset..;
        let mut next = || offsets.next().map_or(u64::MAX, |offset| offset.saturating_add(1));
        for name in DOTS.iter().skip(start).map(OsStr::new) {
            let (ino, kind) = (self.ino, Some(FileKind::Directory));
            if each(DirEntry { name, ino, kind, next: next(), found: None }).is_break() {
                return Ok(());
            }
        }
        let mut index = start.saturating_sub(DOTS.len());
        loop {
            let files = self.files(index)?;
            if files.is_empty() {
                return Ok(());
            }
            for ((name, line), found) in self.listing.from(index).zip(&files) {
                let (ino, kind, found) = (line.ino, line.kind, found.as_ref());
                if each(DirEntry { name, ino, kind, next: next(), found }).is_break() {
                    return Ok(());
                }
            }
            index = index.saturating_add(files.len());
        }
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
