//! Where packed files are, cluster by cluster: `struct z_erofs_lcluster_index`, and its
//! compact form.
//!
//! Each cluster of a file has an entry: one that begins a piece says where in the cluster
//! it begins and in which block its data is; others say how far back and ahead the next
//! such entry is. What the fields mean, fs/erofs/zmap.c says.

use super::bytes::{add, count, eio, index, mul, u8_at, u16_at, u32_at};
use super::pages::{Pages, Source};
use super::place::{Piece, Place, raw};
use super::unpack::{MOST_PACKED, MOST_UNPACKED};
use crate::error::Result;

/// In entries of two bytes rather than four, where they are aligned.
const COMPACTED_2B: u16 = 0x1;
/// Pieces of the first and the second algorithm may take several blocks.
const BIG_1: u16 = 0x2;
const BIG_2: u16 = 0x4;
/// The last piece is behind the index.
const INLINE: u16 = 0x8;
/// Plain pieces are at the place in their block that they have in the file.
pub const INTERLACED: u16 = 0x10;
/// The last piece is in the file of fragments.
pub const FRAGMENT: u16 = 0x20;

/// In an entry's distance: it is the number of blocks instead.
const COUNT: u32 = 1 << 11;

/// What stands before the index: `struct z_erofs_map_header`.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Its first four bytes: an offset or a length.
    pub low: u32,
    /// Bits of what the index is like.
    pub advise: u16,
    /// Algorithms, or the upper part of a count.
    pub algorithms: u8,
    /// The size of a cluster.
    pub clusters: u8,
}

impl Header {
    /// How many bytes it has.
    pub const LENGTH: usize = 8;

    /// Parses a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self {
            low: u32_at(bytes, 0)?,
            advise: u16_at(bytes, 4)?,
            algorithms: u8_at(bytes, 6)?,
            clusters: u8_at(bytes, 7)?,
        })
    }

    /// Reports whether it has a bit.
    pub const fn has(&self, bit: u16) -> bool {
        self.advise & bit != 0
    }
}

/// What is common to the ways of packing a file.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The size of the file, in bytes.
    pub size: u64,
    /// The size of a block, as a power of two.
    pub block_bits: u32,
    /// The size of a cluster, as a power of two.
    pub bits: u32,
    /// Where the index begins, in bytes.
    pub at: u64,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// A piece begins here.
    Head { algorithm: Algorithm, from: u64, block: u64 },
    /// One goes on: how far back it begins, and how far ahead the next one does.
    Rest { back: u64, ahead: u64, blocks: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Plain,
    First,
    Second,
}

/// How entries are written, as the inode says.
#[derive(Clone, Copy, Debug)]
pub enum Written {
    /// In eight bytes each.
    Full,
    /// In four or two bytes each.
    Compact,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Full,
    /// How many entries of four bytes come first, then of two, before all others.
    Compact(u64, u64),
}

/// What the last piece is instead of blocks.
#[derive(Clone, Copy, Debug)]
enum Tail {
    Inline { at: u64, length: u64 },
    Fragment(u64),
}

/// The index of a file.
#[derive(Debug)]
pub struct Index {
    shape: Shape,
    form: Form,
    header: Header,
    /// The cluster that the last piece begins in, and what it is.
    tail: Option<(u64, Tail)>,
}

impl Index {
    /// Reads what must be known of an index.
    pub fn open(
        header: Header,
        shape: Shape,
        written: Written,
        pages: &Pages,
        source: &Source<'_>,
    ) -> Result<Self> {
        let form = match written {
            Written::Full => Form::Full,
            Written::Compact if header.has(BIG_1) != header.has(BIG_2) => return Err(eio()),
            Written::Compact => Self::compact(header, shape),
        };
        let mut index = Self { shape, form, header, tail: None };
        let inline = header.has(INLINE) && header.low >> 16 != 0;
        let fragment = header.has(FRAGMENT);
        if let Some(last) = shape.size.checked_sub(1).filter(|_| inline || fragment) {
            let (head, block, _) = index.begin(last, pages, source)?;
            let full = matches!(form, Form::Full);
            let tail = if fragment {
                let high = if full { block << 32 } else { 0 };
                Tail::Fragment(high | u64::from(header.low))
            } else {
                let (_, _, end) = index.entry_at(last >> shape.bits)?;
                Tail::Inline { at: end, length: u64::from(header.low >> 16) }
            };
            index.tail = Some((head >> shape.bits, tail));
        }
        Ok(index)
    }

    /// Returns how many entries are in which form: those of two bytes in packs of 32, which
    /// are aligned.
    fn compact(header: Header, shape: Shape) -> Form {
        let all = shape.size.div_ceil(1 << shape.block_bits);
        let first = (32_u64.saturating_sub(shape.at % 32) / 4) & 7;
        let rest = all.checked_sub(first).filter(|_| header.has(COMPACTED_2B));
        Form::Compact(first, rest.unwrap_or(0) & !15)
    }

    /// Returns the piece that a byte of the file is in.
    pub fn piece(&self, offset: u64, pages: &Pages, source: &Source<'_>) -> Result<Piece> {
        let (start, block, algorithm) = self.begin(offset, pages, source)?;
        let head = start >> self.shape.bits;
        let end = self.end(head, pages, source)?;
        if end <= offset {
            return Err(eio());
        }
        let tail = self.tail.filter(|(cluster, _)| *cluster == head).map(|(_, tail)| tail);
        let (at, length, inline) = match tail {
            Some(Tail::Fragment(from)) => {
                return Ok(Piece { range: start..end, place: Place::Fragment(from) });
            }
            Some(Tail::Inline { at, length }) => (at, length, true),
            None => {
                let blocks = self.blocks(head, algorithm, pages, source)?;
                (mul(block, 1 << self.shape.block_bits)?, blocks << self.shape.block_bits, false)
            }
        };
        if length > MOST_PACKED || end.checked_sub(start).is_none_or(|all| all > MOST_UNPACKED) {
            return Err(eio());
        }
        let algorithm = match algorithm {
            Algorithm::Plain => {
                let interlaced = self.header.has(INTERLACED).then_some(1 << self.shape.block_bits);
                return raw(start..end, offset, (at, length), inline, interlaced);
            }
            Algorithm::First => self.header.algorithms & 15,
            Algorithm::Second => self.header.algorithms >> 4,
        };
        let place = Place::Packed { at, length, inline, algorithm };
        Ok(Piece { range: start..end, place })
    }

    /// Returns where in the file the piece begins that a byte is in, in which block its
    /// data is, and how it is packed.
    fn begin(
        &self,
        offset: u64,
        pages: &Pages,
        source: &Source<'_>,
    ) -> Result<(u64, u64, Algorithm)> {
        let mut cluster = offset >> self.shape.bits;
        // A piece that is longer is refused, so nobody needs to look further back.
        let furthest = offset.saturating_sub(MOST_UNPACKED) >> self.shape.bits;
        loop {
            let back = match self.entry(cluster, pages, source)? {
                Entry::Head { algorithm, from, block } => {
                    let start = (cluster << self.shape.bits) | from;
                    if start <= offset {
                        return Ok((start, block, algorithm));
                    }
                    1
                }
                Entry::Rest { back, .. } => back,
            };
            let earlier = cluster.checked_sub(back).filter(|at| back > 0 && *at >= furthest);
            cluster = earlier.ok_or_else(eio)?;
        }
    }

    /// Returns where in the file the piece ends that begins in a cluster.
    fn end(&self, head: u64, pages: &Pages, source: &Source<'_>) -> Result<u64> {
        let mut cluster = add(head, 1)?;
        let most = add(head, (MOST_UNPACKED >> self.shape.bits).saturating_add(1))?;
        while cluster <= most {
            if mul(cluster, 1 << self.shape.bits)? >= self.shape.size {
                return Ok(self.shape.size);
            }
            match self.entry(cluster, pages, source)? {
                Entry::Head { from, .. } => {
                    let end = (cluster << self.shape.bits) | from;
                    return Ok(end.min(self.shape.size));
                }
                // mkfs.erofs before 1.0 left out how far ahead it is.
                Entry::Rest { ahead, .. } => cluster = add(cluster, ahead.max(1))?,
            }
        }
        Err(eio())
    }

    /// Returns how many blocks the data takes of the piece that begins in a cluster.
    fn blocks(
        &self,
        head: u64,
        algorithm: Algorithm,
        pages: &Pages,
        source: &Source<'_>,
    ) -> Result<u64> {
        let bit = match algorithm {
            Algorithm::First => BIG_1,
            Algorithm::Plain | Algorithm::Second => BIG_2,
        };
        let next = add(head, 1)?;
        if !self.header.has(bit) || mul(next, 1 << self.shape.bits)? >= self.shape.size {
            return Ok(1);
        }
        match self.entry(next, pages, source)? {
            Entry::Head { .. } => Ok(1),
            Entry::Rest { blocks, .. } => blocks.ok_or_else(eio),
        }
    }

    /// Returns where the entry of a cluster is, or the pack that it is in, how long that is,
    /// and where it ends.
    fn entry_at(&self, cluster: u64) -> Result<(u64, u64, u64)> {
        let at = self.shape.at;
        let (at, length) = match self.form {
            // Eight bytes are left free before the first.
            Form::Full => (add(at, add(mul(cluster, 8)?, 8)?)?, 8),
            Form::Compact(first, short) => {
                let (skip, length) = match cluster.checked_sub(first) {
                    None => (mul(cluster & !1, 4)?, 8),
                    Some(from) if from < short => (add(mul(first, 4)?, mul(from & !15, 2)?)?, 32),
                    Some(from) => {
                        let from = from.saturating_sub(short) & !1;
                        (add(mul(first, 4)?, add(mul(short, 2)?, mul(from, 4)?)?)?, 8)
                    }
                };
                (add(at, skip)?, length)
            }
        };
        Ok((at, length, add(at, length)?))
    }

    fn entry(&self, cluster: u64, pages: &Pages, source: &Source<'_>) -> Result<Entry> {
        let (at, length, _) = self.entry_at(cluster)?;
        pages.with(at, index(length)?, source, |bytes| match self.form {
            Form::Full => self.full(bytes),
            Form::Compact(first, short) => {
                let from = cluster.checked_sub(first);
                let place = match from.filter(|from| *from < short) {
                    Some(from) => from & 15,
                    None => from.map_or(cluster, |from| from.saturating_sub(short)) & 1,
                };
                Pack { bytes, shape: self.shape, is_big: self.header.has(BIG_1) }
                    .entry(index(place)?)
            }
        })
    }

    fn full(&self, bytes: &[u8]) -> Result<Entry> {
        let kind = u16_at(bytes, 0)?;
        if let Some(algorithm) = algorithm(u32::from(kind & 3)) {
            let from = u64::from(u16_at(bytes, 2)?);
            let block = u64::from(u32_at(bytes, 4)?);
            return head(algorithm, from, block, self.shape.bits);
        }
        let back = u32::from(u16_at(bytes, 4)?);
        let ahead = u64::from(u16_at(bytes, 6)?);
        rest(back, ahead, self.header.has(BIG_1) || self.header.has(BIG_2))
    }
}

/// Returns the algorithm of an entry that begins a piece, by its kind.
const fn algorithm(kind: u32) -> Option<Algorithm> {
    match kind {
        0 => Some(Algorithm::Plain),
        1 => Some(Algorithm::First),
        3 => Some(Algorithm::Second),
        _ => None,
    }
}

fn head(algorithm: Algorithm, from: u64, block: u64, bits: u32) -> Result<Entry> {
    let entry = Entry::Head { algorithm, from, block };
    (from < 1 << bits).then_some(entry).ok_or_else(eio)
}

fn rest(back: u32, ahead: u64, may_count: bool) -> Result<Entry> {
    if back & COUNT == 0 {
        return Ok(Entry::Rest { back: u64::from(back), ahead, blocks: None });
    }
    let blocks = Some(u64::from(back & !COUNT)).filter(|_| may_count).ok_or_else(eio)?;
    Ok(Entry::Rest { back: 1, ahead, blocks: Some(blocks) })
}

/// Entries that share a block number: 2 in 8 bytes, 16 in 32, the last four of which are
/// that number.
struct Pack<'a> {
    bytes: &'a [u8],
    shape: Shape,
    is_big: bool,
}

impl Pack<'_> {
    const fn entries(&self) -> usize {
        if self.bytes.len() == 8 { 2 } else { 16 }
    }

    /// Returns the lower bits of an entry, and its kind.
    fn bits(&self, place: usize) -> Result<(u32, u32)> {
        let each = if self.entries() == 2 { 16 } else { 14 };
        let at = place.saturating_mul(each);
        let low = self.shape.bits.max(12);
        // Two more bits are the kind, and an entry has no more than `each`.
        if self.entries() == 16 && low > 12 || low > 14 {
            return Err(eio());
        }
        let value = u32_at(self.bytes, at / 8)? >> (at % 8);
        Ok((value & !(u32::MAX << low), (value >> low) & 3))
    }

    fn entry(&self, place: usize) -> Result<Entry> {
        let (low, kind) = self.bits(place)?;
        if let Some(algorithm) = algorithm(kind) {
            let last = self.bytes.len().saturating_sub(4);
            let block = add(u64::from(u32_at(self.bytes, last)?), self.blocks_before(place)?)?;
            return head(algorithm, u64::from(low), block, self.shape.bits);
        }
        let ahead = self.ahead(place)?;
        if low & COUNT != 0 || place.saturating_add(1) < self.entries() {
            return rest(low, ahead, self.is_big);
        }
        // The last of a pack says how far ahead it is; the one before says how far back.
        let (before, kind) = self.bits(place.checked_sub(1).ok_or_else(eio)?)?;
        let back = match algorithm(kind) {
            Some(_) => 0,
            None if before & COUNT != 0 => 1,
            None => before,
        };
        Ok(Entry::Rest { back: u64::from(back).saturating_add(1), ahead, blocks: None })
    }

    /// Returns how far ahead the next piece begins, as far as this pack says.
    fn ahead(&self, place: usize) -> Result<u64> {
        let mut ahead = 0;
        for at in place..self.entries() {
            let (low, kind) = self.bits(at)?;
            if algorithm(kind).is_some() {
                return Ok(ahead);
            }
            ahead = add(ahead, 1)?;
            if at.saturating_add(1) == self.entries() && low & COUNT == 0 {
                ahead = add(ahead, u64::from(low))?.saturating_sub(1);
            }
        }
        Ok(ahead)
    }

    /// Returns how many blocks of pieces before an entry are to be added to the number of
    /// the pack.
    fn blocks_before(&self, place: usize) -> Result<u64> {
        let mut at = place;
        let mut blocks: u64 = if self.is_big { 0 } else { 1 };
        while at > 0 {
            at = at.saturating_sub(1);
            let (low, kind) = self.bits(at)?;
            if algorithm(kind).is_some() {
                blocks = blocks.saturating_add(1);
                continue;
            }
            let low = if self.is_big && low & COUNT != 0 {
                blocks = blocks.saturating_add(u64::from(low & !COUNT));
                1
            } else if self.is_big {
                // It has been counted with the entry behind its head.
                u64::from(low).checked_sub(2).ok_or_else(eio)?
            } else {
                u64::from(low)
            };
            match count(at).checked_sub(low) {
                // One more only where its head is in this pack.
                Some(earlier) => {
                    at = index(earlier)?;
                    blocks = blocks.saturating_add(u64::from(!self.is_big));
                }
                None => break,
            }
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { size: 40_000, block_bits: 12, bits: 12, at: 32 };

    fn pack(entries: [(u32, u32); 2]) -> Vec<u8> {
        let [first, second] = entries.map(|(low, kind)| low | (kind << 12));
        [first | (second << 16), 100].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn entries_of_a_pack_share_a_block_number() {
        let entry = |entries, is_big, place| {
            let bytes = pack(entries);
            Pack { bytes: &bytes, shape: SHAPE, is_big }.entry(place)
        };
        let head = |algorithm, from, block| Ok(Entry::Head { algorithm, from, block });
        let rest = |back, ahead, blocks| Ok(Entry::Rest { back, ahead, blocks });
        // A piece that begins, and goes on into the next pack.
        let long = [(0x123, 1), (3, 2)];
        assert_eq!(entry(long, false, 0), head(Algorithm::First, 0x123, 101));
        assert_eq!(entry(long, false, 1), rest(1, 3, None));
        // Two that begin: the block of the second follows that of the first.
        let two = [(0, 0), (7, 3)];
        assert_eq!(entry(two, false, 1), head(Algorithm::Second, 7, 102));
        assert_eq!(entry(two, true, 1), head(Algorithm::Second, 7, 101));
        assert_eq!(entry(two, true, 0), head(Algorithm::Plain, 0, 100));
        // One that takes four blocks.
        let big = [(5, 1), (COUNT | 4, 2)];
        assert_eq!(entry(big, true, 1), rest(1, 1, Some(4)));
        assert!(entry(big, false, 1).is_err());
        // One that began before, and one that begins.
        let end = [(2, 2), (9, 1)];
        assert_eq!(entry(end, false, 0), rest(2, 1, None));
        assert_eq!(entry(end, false, 1), head(Algorithm::First, 9, 101));
    }

    #[test]
    fn pieces_end_where_the_next_begins() {
        // A header before them, and eight bytes that are free.
        let mut bytes = vec![0; 48];
        let lines: [(u16, u16, u32); 4] =
            [(1, 0, 50), (2, 0, (1 << 16) | 1), (1, 100, 51), (0, 4000, 52)];
        for (kind, from, low) in lines {
            bytes.extend(kind.to_le_bytes().into_iter().chain(from.to_le_bytes()));
            bytes.extend(low.to_le_bytes());
        }
        let source = |page| if page == 0 { Ok(bytes.clone()) } else { Err(eio()) };
        let header = Header { low: 0, advise: 0, algorithms: 0x30, clusters: 0 };
        let shape = Shape { size: 16_380, at: 40, ..SHAPE };
        let pages = Pages::default();
        let index = Index::open(header, shape, Written::Full, &pages, &source).unwrap();
        let piece = |offset| index.piece(offset, &pages, &source).unwrap();
        let packed = |at| Place::Packed { at, length: 4096, inline: false, algorithm: 0 };
        for offset in [0, 4096, 8291] {
            assert_eq!(piece(offset), Piece { range: 0..8292, place: packed(50 << 12) });
        }
        assert_eq!(piece(8292), Piece { range: 8292..16_288, place: packed(51 << 12) });
        assert_eq!(piece(16_379), Piece { range: 16_288..16_380, place: Place::Plain(52 << 12) });
    }
}
