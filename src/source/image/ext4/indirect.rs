//! Where the blocks are of files that have no extents: those of ext2 and ext3, and those
//! that were made before an ext4 had them (`ext4_block_to_path` of fs/ext4/indirect.c).
//!
//! The inode has the numbers of the first 12 blocks. Then it has the number of a block
//! with the numbers of those that come next, that of a block with such blocks, and that
//! of one with blocks of such. Number 0 is no block: zeros, at every depth.

use super::{Found, Volume, le32};
use crate::error::Result;

/// How many blocks the inode has the numbers of.
const DIRECT: u64 = 12;

/// How long a number is, in bytes.
const NUMBER: u64 = 4;

/// How deep a file may go.
const DEEPEST: u64 = 3;

/// Returns the block that has a block of a file, `None` for zeros, and how many follow
/// it, itself included.
pub(super) fn map(volume: &Volume, file: &Found, logical: u64) -> Result<(Option<u64>, u64)> {
    let numbers = &file.inode.block;
    let entry = |index: u64| index.saturating_mul(NUMBER).try_into().unwrap_or(usize::MAX);
    if logical < DIRECT {
        let all = numbers.get(..entry(DIRECT)).unwrap_or_default();
        return Ok(run(all.get(entry(logical)..).unwrap_or_default()));
    }
    let each = volume.block() / NUMBER;
    let (mut rest, mut below) = (logical.saturating_sub(DIRECT), each);
    for depth in 0..DEEPEST {
        if rest < below {
            let number = le32(numbers, entry(DIRECT.saturating_add(depth)));
            return descend(volume, file, number, (rest, below));
        }
        rest = rest.saturating_sub(below);
        below = below.saturating_mul(each);
    }
    Err(volume.failed(file.ino, &"longer than a file can be"))
}

/// Follows numbers down from a block: to the block `rest` of the `below` that it leads to.
fn descend(
    volume: &Volume,
    file: &Found,
    mut number: u32,
    (mut rest, mut below): (u64, u64),
) -> Result<(Option<u64>, u64)> {
    let block = volume.block();
    loop {
        if number == 0 {
            return Ok((None, below.saturating_sub(rest)));
        }
        let start = u64::from(number).saturating_mul(block);
        if start.saturating_add(block) > volume.end {
            return Err(volume.failed(file.ino, &"its blocks are beyond the end"));
        }
        below = below.checked_div(block / NUMBER).unwrap_or_default();
        let index = rest.checked_div(below).unwrap_or_default();
        let skip = index.saturating_mul(NUMBER);
        if below == 1 {
            let length = block.saturating_sub(skip).try_into().unwrap_or_default();
            let mut numbers = vec![0; length];
            volume.read_at(start.saturating_add(skip), &mut numbers)?;
            return Ok(run(&numbers));
        }
        let mut next = [0; 4];
        volume.read_at(start.saturating_add(skip), &mut next)?;
        number = u32::from_le_bytes(next);
        rest = rest.saturating_sub(index.saturating_mul(below));
    }
}

/// Returns the first of some blocks, and how many of them follow each other on the device.
fn run(numbers: &[u8]) -> (Option<u64>, u64) {
    let mut numbers = numbers.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number));
    let first = numbers.next().unwrap_or_default();
    let follows = |number: u32| if number == 0 { Some(0) } else { number.checked_add(1) };
    let (mut last, mut count) = (first, 1_u64);
    for number in numbers {
        if follows(last) != Some(number) {
            break;
        }
        (last, count) = (number, count.saturating_add(1));
    }
    ((first != 0).then(|| first.into()), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_follow_each_other_are_one_run() {
        let run = |numbers: &[u32]| {
            run(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
        };
        for (numbers, expected) in [
            (&[7, 8, 9, 11][..], (Some(7), 3)),
            (&[7, 7], (Some(7), 1)),
            (&[7, 0, 0], (Some(7), 1)),
            (&[0, 0, 5], (None, 2)),
            (&[0, 1], (None, 1)),
            (&[u32::MAX, 0], (Some(u64::from(u32::MAX)), 1)),
            (&[], (None, 1)),
        ] {
            assert_eq!(run(numbers), expected, "{numbers:?}");
        }
    }
}
