//! Where packed files are, extent by extent: `struct z_erofs_extent`, of images with
//! 48-bit block numbers.

use std::sync::Mutex;

use super::bytes::{add, eio, index, mul, round_up, u32_at, u64_at};
use super::index::{FRAGMENT, Header, INTERLACED, Shape};
use super::pages::{Pages, Source};
use super::place::{Piece, Place, raw};
use super::unpack::{MOST_PACKED, MOST_UNPACKED};
use crate::error::Result;
use crate::sync::lock;

/// The bits of an extent's length that are a length.
const LENGTH: u32 = (2 << 20) - 1;

/// Where the algorithm is in an extent's length, plus one; 0 for none.
const ALGORITHM: u32 = 28;

/// The extents of a file.
#[derive(Debug)]
pub struct Extents {
    shape: Shape,
    header: Header,
    /// How long a record is, in bytes.
    record: u64,
    /// Where records of four bytes have been added up to: a cluster, and where its data is.
    sum: Mutex<Option<(u64, u64)>>,
}

/// A record, and the bytes of the file that it is of.
struct Extent {
    start: u64,
    end: u64,
    length: u32,
    at: u64,
    is_last: bool,
}

impl Extents {
    /// Takes what the header of an index says.
    pub fn new(header: Header, shape: Shape) -> Result<Self> {
        let record = 4 << ((header.advise >> 1) & 3);
        let shape = Shape { at: round_up(shape.at, record)?, ..shape };
        Ok(Self { shape, header, record, sum: Mutex::new(None) })
    }

    /// Returns the piece that a byte of the file is in.
    pub fn piece(&self, offset: u64, pages: &Pages, source: &Source<'_>) -> Result<Piece> {
        let extent = match self.record {
            4 => self.added(offset, pages, source)?,
            8 => self.even(offset, pages, source)?,
            _ => self.searched(offset, pages, source)?,
        };
        let range = extent.start..extent.end.min(self.shape.size);
        if !range.contains(&offset) {
            return Err(eio());
        }
        if extent.is_last && self.header.has(FRAGMENT) {
            let high = if self.record > 4 { extent.at << 32 } else { 0 };
            return Ok(Piece { range, place: Place::Fragment(high | u64::from(extent.length)) });
        }
        let length = u64::from(extent.length & LENGTH);
        if length == 0 {
            return Ok(Piece { range, place: Place::Hole });
        }
        let unpacked = range.end.saturating_sub(range.start);
        if length > MOST_PACKED || unpacked > MOST_UNPACKED {
            return Err(eio());
        }
        let at = extent.at;
        if let Some(algorithm) = (extent.length >> ALGORITHM).checked_sub(1) {
            let algorithm = u8::try_from(algorithm).map_err(|_| eio())?;
            return Ok(Piece {
                range,
                place: Place::Packed { at, length, inline: false, algorithm },
            });
        }
        let block = 1_u64 << self.shape.block_bits;
        let aligned = (at | length) & block.saturating_sub(1) == 0;
        let interlaced = Some(block).filter(|_| aligned && self.header.has(INTERLACED));
        raw(range, offset, (at, length), false, interlaced)
    }

    /// Finds one of those that have a length only, as long as a cluster each: the data of
    /// one begins where that of the one before ends.
    fn added(&self, offset: u64, pages: &Pages, source: &Source<'_>) -> Result<Extent> {
        let wanted = offset >> self.shape.bits;
        let first = add(self.shape.at, 8)?;
        let known = lock(&self.sum).filter(|(cluster, _)| *cluster <= wanted);
        let (mut cluster, mut at) = match known {
            Some(known) => known,
            None => (0, pages.with(self.shape.at, 8, source, |bytes| u64_at(bytes, 0))?),
        };
        loop {
            let place = add(first, mul(cluster, 4)?)?;
            let length = pages.with(place, 4, source, |bytes| u32_at(bytes, 0))?;
            if cluster == wanted {
                *lock(&self.sum) = Some((cluster, at));
                return Ok(self.cluster(cluster, length, at));
            }
            at = add(at, u64::from(length & LENGTH))?;
            cluster = add(cluster, 1)?;
        }
    }

    /// Finds one of those that are as long as a cluster each.
    fn even(&self, offset: u64, pages: &Pages, source: &Source<'_>) -> Result<Extent> {
        let cluster = offset >> self.shape.bits;
        let place = add(self.shape.at, mul(cluster, 8)?)?;
        pages.with(place, 8, source, |bytes| {
            Ok(self.cluster(cluster, u32_at(bytes, 0)?, u64::from(u32_at(bytes, 4)?)))
        })
    }

    const fn cluster(&self, cluster: u64, length: u32, at: u64) -> Extent {
        let start = cluster << self.shape.bits;
        let end = start.saturating_add(1 << self.shape.bits);
        Extent { start, end, length, at, is_last: end >= self.shape.size }
    }

    /// Finds one of those that say where they begin: they are in order.
    fn searched(&self, offset: u64, pages: &Pages, source: &Source<'_>) -> Result<Extent> {
        let upper = (u64::from(self.header.clusters) << 8) | u64::from(self.header.algorithms);
        let all = u64::from(self.header.low) | (upper << 32);
        let (mut low, mut high) = (0, all);
        let mut end = self.shape.size;
        let mut found = None;
        while low < high {
            let middle = low.midpoint(high);
            let place = add(self.shape.at, mul(middle, self.record)?)?;
            let (start, length, at) =
                pages.with(place, index(self.record)?, source, |b| self.record(b))?;
            if start > offset {
                high = middle;
                end = end.min(start);
            } else {
                low = middle.saturating_add(1);
                found = Some((start, length, at));
            }
        }
        let (start, length, at) = found.ok_or_else(eio)?;
        Ok(Extent { start, end, length, at, is_last: low >= all })
    }

    fn record(&self, bytes: &[u8]) -> Result<(u64, u32, u64)> {
        let at = u64_at(bytes, 4)?;
        let low = u64::from(u32_at(bytes, 12)?);
        let high = if self.record > 16 { u64::from(u32_at(bytes, 16)?) << 32 } else { 0 };
        Ok((high | low, u32_at(bytes, 0)?, at))
    }
}
