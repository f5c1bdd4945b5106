//! The places of an image that metadata was read from last.
//!
//! Inodes of files that are listed together are mostly near each other. So where two
//! are asked for that are near, or one that follows such, all that is around is read at
//! once; where only one is, as for a single path, a page.

use std::mem;
use std::sync::Mutex;

use lru::LruCache;

use crate::error::Result;
use crate::sync::lock;

/// What a window looks out on, in bytes.
const WINDOW: u64 = 64 << 10;

/// What is read of it at first, in bytes.
const PAGE: u64 = 4 << 10;

/// How many are kept: tools that make images put an inode where there is room left, which
/// may be some way before that of the file before it.
const KEPT: usize = 64;

/// Reads a range of bytes.
pub(super) type Read<'a> = dyn Fn(u64, &mut [u8]) -> Result<()> + 'a;

/// Some of the bytes of a window.
#[derive(Debug)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Reports whether what was read is not a page or two.
    const fn is_whole(&self) -> bool {
        self.start.is_multiple_of(WINDOW) && self.bytes.len() as u64 == WINDOW
    }

    fn get(&self, at: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(length)?)
    }
}

/// The windows that were used last, by number.
#[derive(Debug)]
pub(super) struct Windows {
    kept: Mutex<LruCache<u64, Window>>,
    /// The memory of one that is kept no more. To take new memory for each, and have it
    /// filled with zeros, takes longer than to read into it.
    spare: Mutex<Vec<u8>>,
}

impl Default for Windows {
    fn default() -> Self {
        Self { kept: Mutex::new(LruCache::unbounded()), spare: Mutex::default() }
    }
}

impl Windows {
    /// Fills a buffer from an offset of something that has this length, by way of `read`.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read(&self, at: u64, buf: &mut [u8], whole: u64, read: &Read<'_>) -> Result<()> {
        let number = at / WINDOW;
        let begin = number.saturating_mul(WINDOW);
        let end = at.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        // What is in two of them is rare, and what is large is no gain to keep.
        if end.saturating_sub(begin) > WINDOW || end.saturating_sub(at) > PAGE || end > whole {
            return read(at, buf);
        }
        let Some(is_near) = self.find(number, at, buf) else { return Ok(()) };
        let last = begin.saturating_add(WINDOW);
        let (from, to) = if is_near {
            (begin, last)
        } else {
            (at & !(PAGE - 1), end.next_multiple_of(PAGE).min(last))
        };
        let length = usize::try_from(to.min(whole).saturating_sub(from)).unwrap_or_default();
        let mut bytes = mem::take(&mut *lock(&self.spare));
        bytes.resize(length, 0);
        // Without the lock: others need not wait for the disk.
        read(from, &mut bytes)?;
        let window = Window { start: from, bytes };
        if let Some(found) = window.get(at, buf.len()) {
            buf.copy_from_slice(found);
        }
        let mut kept = lock(&self.kept);
        let old = kept.put(number, window);
        let last = if kept.len() > KEPT { kept.pop_lru().map(|(_, last)| last) } else { None };
        drop(kept);
        if let Some(gone) = old.or(last) {
            *lock(&self.spare) = gone.bytes;
        }
        Ok(())
    }

    /// Fills a buffer with what is kept, and returns `None`; else whether something near
    /// is kept.
    fn find(&self, number: u64, at: u64, buf: &mut [u8]) -> Option<bool> {
        let mut kept = lock(&self.kept);
        let Some(window) = kept.get(&number) else {
            let before = number.checked_sub(1).and_then(|number| kept.peek(&number));
            return Some(before.is_some_and(Window::is_whole));
        };
        let Some(found) = window.get(at, buf.len()) else { return Some(true) };
        buf.copy_from_slice(found);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What was read of something of this length, for reads of 64 bytes there.
    fn reads(whole: u64, offsets: &[u64]) -> Vec<(u64, usize)> {
        let (windows, made) = (Windows::default(), RefCell::new(Vec::new()));
        let byte = |at: u64| u8::try_from(at % 251).unwrap();
        let read = |at: u64, buf: &mut [u8]| {
            assert!(at + buf.len() as u64 <= whole, "beyond the end");
            made.borrow_mut().push((at, buf.len()));
            buf.iter_mut().zip(at..).for_each(|(to, at)| *to = byte(at));
            Ok(())
        };
        for at in offsets {
            let mut buf = [0; 64];
            windows.read(*at, &mut buf, whole, &read).unwrap();
            assert!(buf.iter().zip(*at..).all(|(is, at)| *is == byte(at)), "{at}");
        }
        made.into_inner()
    }

    #[test]
    fn what_is_near_is_read_at_once() {
        let whole = 1 << 20;
        let one_after_another: Vec<u64> = (0..2048).map(|number| number * 64).collect();
        let made = [(0, 4096), (0, 65536), (65536, 65536)];
        assert_eq!(reads(whole, &one_after_another), made);
        // The first of a page, and one that is in two.
        assert_eq!(reads(whole, &[5000, 8180]), [(4096, 4096), (0, 65536)]);
        assert_eq!(reads(whole, &[8180, 8100, 4096]), [(4096, 8192)]);
    }

    #[test]
    fn what_is_far_is_read_by_pages_and_little_is_kept() {
        let far: Vec<u64> = (0..70).map(|number| number << 16).collect();
        assert_eq!(reads(1 << 23, &far), far.iter().map(|at| (*at, 4096)).collect::<Vec<_>>());
        let twice = [&far[..], &far[..]].concat();
        assert_eq!(reads(1 << 23, &twice).len(), 140);
        let few = [&far[..64], &far[..64]].concat();
        assert_eq!(reads(1 << 23, &few).len(), 64);
    }

    #[test]
    fn nothing_beyond_the_end_is_asked_for() {
        assert_eq!(reads(70_000, &[69_900, 66_000]), [(69_632, 368), (65_536, 4464)]);
        let (windows, none) = (Windows::default(), RefCell::new(0));
        let read = |_, buf: &mut [u8]| {
            *none.borrow_mut() += buf.len();
            Err(super::super::eio())
        };
        for at in [69_990, 65_500, u64::MAX - 3] {
            assert!(windows.read(at, &mut [0; 64], 70_000, &read).is_err());
        }
        // As it was asked for: whoever reads says what is wrong.
        assert_eq!(*none.borrow(), 3 * 64);
    }
}
