//! Tables of a fixed size in which each file has a cell, which it shares with others: to
//! be read and written without a lock.

use std::sync::atomic::AtomicU64;

/// Returns the cell of a file, by volume and inode number.
pub(super) fn cell(cells: &[AtomicU64], (volume, ino): (u64, u64)) -> Option<&AtomicU64> {
    let hash = mix(volume.rotate_left(32) ^ ino);
    usize::try_from(hash)
        .ok()
        .and_then(|hash| hash.checked_rem(cells.len()))
        .and_then(|at| cells.get(at))
}

/// Spreads a number over all 64 bits.
pub(super) const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n ^ (n >> 29)
}
