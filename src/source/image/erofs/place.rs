//! Where the bytes of a file are.

use std::ops::Range;

use super::bytes::{add, eio};
use crate::error::Result;

/// Some bytes of a file, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which bytes of the file; never none.
    pub range: Range<u64>,
    /// Where they are.
    pub place: Place,
}

/// Where bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: they are zeros.
    Hole,
    /// On the device from there on, as they are.
    Plain(u64),
    /// With the metadata from there on, as they are.
    Inline(u64),
    /// Packed.
    Packed {
        /// Where.
        at: u64,
        /// In how many bytes.
        length: u64,
        /// Whether that is with the metadata.
        inline: bool,
        /// By which algorithm.
        algorithm: u8,
    },
    /// In the file of fragments from there on.
    Fragment(u64),
}

/// Returns the piece around a byte of a range that is not packed, but where packed data
/// would be: `at` and how many bytes.
///
/// `interlaced` is the size of a block where bytes have the same place in their block as in
/// the file: what comes before the end of the first block is at the end.
pub fn raw(
    range: Range<u64>,
    offset: u64,
    (at, length): (u64, u64),
    inline: bool,
    interlaced: Option<u64>,
) -> Result<Piece> {
    if range.end.checked_sub(range.start).is_none_or(|wanted| wanted > length) {
        return Err(eio());
    }
    let place = if inline { Place::Inline } else { Place::Plain };
    let Some(block) = interlaced else {
        return Ok(Piece { range, place: place(at) });
    };
    let until = range.start.checked_next_multiple_of(block).ok_or_else(eio)?;
    if offset >= until {
        return Ok(Piece { range: until..range.end, place: place(at) });
    }
    let first = until.saturating_sub(range.start);
    let at = add(at, length.checked_sub(first).ok_or_else(eio)?)?;
    Ok(Piece { range: range.start..until.min(range.end), place: place(at) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interlaced_bytes_are_where_they_are_in_the_file() {
        let at = |offset| raw(5000..8500, offset, (81920, 4096), false, Some(4096)).unwrap();
        assert_eq!(at(5000), Piece { range: 5000..8192, place: Place::Plain(82824) });
        assert_eq!(at(8191), at(5000));
        assert_eq!(at(8192), Piece { range: 8192..8500, place: Place::Plain(81920) });
        let aligned = raw(4096..8192, 5000, (0, 4096), true, Some(4096)).unwrap();
        assert_eq!(aligned, Piece { range: 4096..8192, place: Place::Inline(0) });
        let shifted = raw(5000..8500, 8400, (81920, 4096), false, None).unwrap();
        assert_eq!(shifted, Piece { range: 5000..8500, place: Place::Plain(81920) });
        assert!(raw(0..4097, 0, (0, 4096), false, None).is_err());
    }
}
