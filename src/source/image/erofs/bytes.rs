//! Little-endian numbers in pieces of an image, none of which is believed to be there.

use crate::error::{Errno, Error, Result};

/// Returns what a caller gets of anything damaged.
pub const fn eio() -> Error {
    Error::Os(Errno(libc::EIO))
}

/// Returns as many bytes as are asked for from an index on.
pub fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    at.checked_add(length).and_then(|end| bytes.get(at..end)).ok_or_else(eio)
}

/// Returns a byte.
pub fn u8_at(bytes: &[u8], at: usize) -> Result<u8> {
    bytes.get(at).copied().ok_or_else(eio)
}

/// Returns two bytes as a number.
pub fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array(bytes, at)?))
}

/// Returns four bytes as a number.
pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

/// Returns eight bytes as a number.
pub fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

/// Returns a number of bytes as an index.
pub fn index(number: u64) -> Result<usize> {
    usize::try_from(number).map_err(|_| eio())
}

/// Returns a length as a number of bytes.
pub fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Adds, where a sum that does not fit can only come of what is damaged.
pub fn add(a: u64, b: u64) -> Result<u64> {
    a.checked_add(b).ok_or_else(eio)
}

/// Multiplies, where a product that does not fit can only come of what is damaged.
pub fn mul(a: u64, b: u64) -> Result<u64> {
    a.checked_mul(b).ok_or_else(eio)
}

/// Returns the next multiple of a power of two.
pub fn round_up(value: u64, to: u64) -> Result<u64> {
    value.checked_next_multiple_of(to).ok_or_else(eio)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    slice(bytes, at, N)?.try_into().map_err(|_| eio())
}
