//! The contents of a regular file: blocks where there is data, holes between.

use std::collections::BTreeMap;

use crate::error::{Errno, Error, Result};

/// The size of a block, in bytes.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;

/// The largest size of a file, in bytes.
const MAX: u64 = u64::MAX >> 1;

/// How many blocks there are and how many are in use.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) used: u64,
}

impl Space {
    pub(super) fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    fn take(&mut self) -> Result<()> {
        if self.free() == 0 {
            return Err(Error::Os(Errno(libc::ENOSPC)));
        }
        self.used = self.used.saturating_add(1);
        Ok(())
    }

    fn give(&mut self, blocks: usize) {
        self.used = self.used.saturating_sub(blocks as u64);
    }
}

/// The contents of a file.
#[derive(Debug, Default)]
pub(super) struct Data {
    size: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_LEN]>>,
}

/// A part of a range of bytes that lies within one block.
struct Piece {
    block: u64,
    start: usize,
    end: usize,
}

impl Piece {
    fn is_whole(&self) -> bool {
        self.start == 0 && self.end == BLOCK_LEN
    }
}

/// Cuts a range of bytes at the borders of blocks.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = Piece> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let block = at / BLOCK;
        let first = block.saturating_mul(BLOCK);
        let stop = end.min(first.saturating_add(BLOCK));
        let within = |offset: u64| usize::try_from(offset.saturating_sub(first)).unwrap_or(0);
        let piece = Piece { block, start: within(at), end: within(stop) };
        at = stop;
        Some(piece)
    })
}

/// Returns the end of a range, if a file can be as long.
pub(super) fn end_of(offset: u64, length: u64) -> Result<u64> {
    match offset.checked_add(length) {
        Some(end) if end <= MAX => Ok(end),
        _ => Err(Error::Os(Errno(libc::EFBIG))),
    }
}

impl Data {
    /// Returns the size, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns how many blocks are in use.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let end = self.size.min(offset.saturating_add(buf.len() as u64));
        let mut rest = buf;
        let mut done = 0_usize;
        for piece in pieces(offset, end) {
            let length = piece.end.saturating_sub(piece.start);
            let Some((part, tail)) = rest.split_at_mut_checked(length) else {
                break;
            };
            match self.blocks.get(&piece.block).and_then(|b| b.get(piece.start..piece.end)) {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.fill(0),
            }
            rest = tail;
            done = done.saturating_add(length);
        }
        done
    }

    /// Writes what there is space for; `ENOSPC` if that is nothing.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], space: &mut Space) -> Result<usize> {
        let end = end_of(offset, data.len() as u64)?;
        let mut rest = data;
        let mut done = 0_usize;
        for piece in pieces(offset, end) {
            let block = match self.block(piece.block, space) {
                Ok(block) => block,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            let length = piece.end.saturating_sub(piece.start);
            if let Some((part, tail)) = rest.split_at_checked(length)
                && let Some(to) = block.get_mut(piece.start..piece.end)
            {
                to.copy_from_slice(part);
                rest = tail;
            }
            done = done.saturating_add(length);
        }
        if done > 0 {
            self.size = self.size.max(offset.saturating_add(done as u64));
        }
        Ok(done)
    }

    /// Sets the size; what is cut off is gone.
    pub(super) fn resize(&mut self, size: u64, space: &mut Space) {
        self.punch(size, size.max(self.size), space);
        let beyond = self.blocks.split_off(&size.div_ceil(BLOCK));
        space.give(beyond.len());
        self.size = size;
    }

    /// Sees that there are blocks for a range; they hold zeros.
    pub(super) fn allocate(&mut self, start: u64, end: u64, space: &mut Space) -> Result<()> {
        let wanted = end.div_ceil(BLOCK).saturating_sub(start / BLOCK);
        let present = self.blocks.range(start / BLOCK..end.div_ceil(BLOCK)).count() as u64;
        if wanted.saturating_sub(present) > space.free() {
            return Err(Error::Os(Errno(libc::ENOSPC)));
        }
        for piece in pieces(start, end) {
            self.block(piece.block, space)?;
        }
        Ok(())
    }

    /// Makes the size at least that.
    pub(super) fn extend(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Turns a range into zeros and frees the blocks that are wholly in it.
    pub(super) fn punch(&mut self, start: u64, end: u64, space: &mut Space) {
        let last = self.blocks.last_key_value().map_or(0, |(&block, _)| block.saturating_add(1));
        for piece in pieces(start, end.min(last.saturating_mul(BLOCK))) {
            if piece.is_whole() {
                let gone = self.blocks.remove(&piece.block);
                space.give(gone.into_iter().count());
            } else if let Some(block) = self.blocks.get_mut(&piece.block)
                && let Some(bytes) = block.get_mut(piece.start..piece.end)
            {
                bytes.fill(0);
            }
        }
    }

    /// Returns where data begins at or after an offset within the file.
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let (block, _) = self.blocks.range(offset / BLOCK..).next()?;
        Some(offset.max(block.saturating_mul(BLOCK))).filter(|&at| at < self.size)
    }

    /// Returns where a hole begins at or after an offset; the end of the file
    /// is one.
    pub(super) fn next_hole(&self, offset: u64) -> u64 {
        let mut block = offset / BLOCK;
        while self.blocks.contains_key(&block) {
            block = block.saturating_add(1);
        }
        offset.max(block.saturating_mul(BLOCK)).min(self.size)
    }

    fn block(&mut self, block: u64, space: &mut Space) -> Result<&mut [u8; BLOCK_LEN]> {
        use std::collections::btree_map::Entry;
        Ok(match self.blocks.entry(block) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(empty) => {
                space.take()?;
                empty.insert(Box::new([0; BLOCK_LEN]))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{BLOCK, Data, Space};

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Resize(u64),
        Punch(u64, u64),
        Allocate(u64, u64),
    }

    fn offsets() -> impl Strategy<Value = u64> {
        prop_oneof![0..5 * BLOCK, (0..5_u64).prop_map(|block| block * BLOCK)]
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            (offsets(), vec(1..=255_u8, 0..6000)).prop_map(|(at, data)| Step::Write(at, data)),
            offsets().prop_map(Step::Resize),
            (offsets(), offsets()).prop_map(|(a, b)| Step::Punch(a.min(b), a.max(b))),
            (offsets(), offsets()).prop_map(|(a, b)| Step::Allocate(a.min(b), a.max(b))),
        ]
    }

    fn index(offset: u64) -> usize {
        usize::try_from(offset).unwrap()
    }

    /// Does to plain bytes what a step does to a file.
    fn model(bytes: &mut Vec<u8>, step: &Step) {
        match step {
            Step::Write(at, data) if !data.is_empty() => {
                let end = index(*at) + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[index(*at)..end].copy_from_slice(data);
            }
            Step::Resize(size) => bytes.resize(index(*size), 0),
            Step::Punch(start, end) => {
                let range = index(*start).min(bytes.len())..index(*end).min(bytes.len());
                bytes[range].fill(0);
            }
            Step::Write(..) | Step::Allocate(..) => {}
        }
    }

    proptest! {
        #[test]
        fn holes_read_as_plain_bytes(steps in vec(steps(), 1..12)) {
            let (mut data, mut bytes) = (Data::default(), Vec::new());
            let mut space = Space { total: 1000, used: 0 };
            for step in &steps {
                model(&mut bytes, step);
                match step {
                    Step::Write(at, new) => {
                        prop_assert_eq!(data.write(*at, new, &mut space), Ok(new.len()));
                    }
                    Step::Resize(size) => data.resize(*size, &mut space),
                    Step::Punch(start, end) => data.punch(*start, *end, &mut space),
                    Step::Allocate(start, end) => data.allocate(*start, *end, &mut space).unwrap(),
                }
                let mut read = vec![0xaa; bytes.len() + 10];
                prop_assert_eq!(data.read(0, &mut read), bytes.len());
                prop_assert_eq!(&read[..bytes.len()], &bytes[..]);
                prop_assert_eq!(data.size(), bytes.len() as u64);
                prop_assert_eq!(data.blocks(), space.used);
                let first = bytes.iter().position(|&byte| byte != 0).map(|at| at as u64);
                prop_assert!(data.next_data(0).unwrap_or(u64::MAX) <= first.unwrap_or(u64::MAX));
            }
            data.resize(0, &mut space);
            prop_assert_eq!(space.used, 0);
        }
    }
}
