//! What all that is open of an image shares: its reader, and what is kept of what that has
//! read and unpacked.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::Ahead;
use super::cache::Cache;
use super::listing::Listing;
use super::{Contents, Device, Image, Nid, eio};
use crate::attr::Attr;
use crate::error::{Errno, Error, Result};
use crate::id::Disk;
use crate::source::local::Tables;
use crate::source::{FileHandle, Found, Key};

/// The type of our file handles; their bytes are a [`Nid`], little endian.
const HANDLE: i32 = 1;

/// The most bytes that are unpacked in one piece: no format packs more together.
const MOST: u64 = 16 << 20;

/// How far is unpacked ahead of a reader, in bytes.
const AHEAD: u64 = 1 << 20;

/// How far behind who reads on and on what was unpacked is kept: reads that the kernel
/// sends at once come in any order.
const BEHIND: u64 = 1 << 20;

/// The part of the cache that is for listings.
const LISTINGS: u64 = 8;

/// What files of an image share.
#[derive(Debug)]
pub(super) struct Inner {
    pub image: Arc<dyn Image>,
    pub device: Arc<Device>,
    listings: Cache<Nid, Listing>,
    pub blocks: Cache<(Nid, u64), Vec<u8>>,
    ahead: Ahead,
    locks: Arc<Tables>,
}

impl Inner {
    /// Shares an image; `cache` is how many bytes of memory may be kept of what has been
    /// read and unpacked.
    pub fn new(image: Arc<dyn Image>, device: Arc<Device>, cache: u64) -> Self {
        let listings = cache / LISTINGS;
        Self {
            image,
            device,
            listings: Cache::new(listings),
            blocks: Cache::new(cache.saturating_sub(listings)),
            ahead: Ahead::new(),
            locks: Arc::default(),
        }
    }

    /// Answers a request, once for all that is read for it: with nothing where the image has
    /// changed. So all that was answered or is kept was read while it had not.
    pub fn answer<T>(&self, ask: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let answer = ask(self);
        if self.device.is_unchanged() { answer } else { Err(Error::Changed) }
    }

    /// Returns the attributes of a file.
    pub fn attr(&self, nid: Nid) -> Result<Attr<Disk>> {
        self.answer(|inner| inner.image.attr(nid))
    }

    /// Returns locks, which nobody but callers of the mount can have.
    pub const fn locks(&self) -> &Arc<Tables> {
        &self.locks
    }

    /// Returns the bytes of a range that are unpacked together.
    pub fn block(
        &self,
        nid: Nid,
        contents: &Arc<dyn Contents>,
        range: &Range<u64>,
    ) -> Result<Arc<Vec<u8>>> {
        let length = range.end.checked_sub(range.start).filter(|length| *length <= MOST);
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or_else(eio)?;
        let size = |block: &Vec<u8>| u64::try_from(block.capacity()).unwrap_or(u64::MAX);
        self.blocks.get((nid, range.start), size, || {
            let block = contents.unpack(range.clone())?;
            if block.len() == length { Ok(block) } else { Err(eio()) }
        })
    }

    /// Has the beginning of what is left of a file unpacked before it is asked for;
    /// `reached` is how far the reader has come by then.
    pub fn go_ahead(
        self: &Arc<Self>,
        nid: Nid,
        contents: &Arc<dyn Contents>,
        rest: Range<u64>,
        reached: &Arc<AtomicU64>,
    ) {
        let (mut at, end) = (rest.start, rest.end.min(rest.start.saturating_add(AHEAD)));
        while at < end
            && let Ok(Some(range)) = contents.packed(at)
            && range.contains(&at)
        {
            at = range.end;
            if !self.blocks.has(&(nid, range.start)) {
                let (inner, contents) = (Arc::clone(self), Arc::clone(contents));
                let reached = Arc::clone(reached);
                self.ahead.leave(move || {
                    if range.end > reached.load(Ordering::Relaxed) {
                        // Whoever needs it hears of what is wrong.
                        drop(inner.answer(|inner| inner.block(nid, &contents, &range)));
                    }
                });
            }
        }
    }

    /// Gives up what was unpacked some way before a read that went on there: the kernel
    /// has its pages, and the memory is needed for what comes.
    pub fn leave_behind(&self, nid: Nid, contents: &dyn Contents, read: Range<u64>) {
        let Some(mut at) = read.start.checked_sub(BEHIND) else { return };
        let end = read.end.saturating_sub(BEHIND);
        while at < end
            && let Ok(Some(range)) = contents.packed(at)
            && range.contains(&at)
        {
            at = range.end;
            if at <= end {
                self.blocks.forget(&(nid, range.start));
            }
        }
    }

    /// Returns the names in a directory.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn listing(&self, dir: Nid) -> Result<Arc<Listing>> {
        let make = || match self.image.attr(dir)?.kind.is_dir() {
            true => Listing::new(self.image.list(dir)?),
            false => Err(Error::Os(Errno(libc::ENOTDIR))),
        };
        self.listings.get(dir, Listing::bytes, make)
    }

    /// Describes a file.
    pub fn found(&self, nid: Nid) -> Result<Found> {
        let attr = self.image.attr(nid)?;
        // All names of a file have one number, and no two files have.
        let key = Key { volume: 0, ino: attr.ino, generation: nid.0 };
        let bytes = Box::from(nid.0.to_le_bytes());
        Ok(Found { key, handle: Some(FileHandle { kind: HANDLE, bytes }), attr })
    }

    /// Returns the value of an extended attribute, if it is set.
    pub fn value(&self, nid: Nid, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let all = self.answer(|inner| inner.image.xattrs(nid))?;
        Ok(all.into_iter().find(|(other, _)| other == name).map(|(_, value)| value))
    }
}
