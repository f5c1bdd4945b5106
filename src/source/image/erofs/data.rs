//! The bytes of files, and of metadata, which may be in a file as well.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::super::Stretch;
use super::bytes::{add, count, eio, index, mul, round_up, u16_at, u32_at};
use super::devices::Devices;
use super::extents::Extents;
use super::index::{Header, Index, Shape, Written};
use super::inode::{self, Inode, Layout, Space};
use super::pages::{PAGE, Pages};
use super::place::{Piece, Place};
use super::superblock::Super;
use super::unpack::unpack;
use crate::error::Result;
use crate::sync::lock;

/// Extents, rather than an index of clusters.
const EXTENTS: u16 = 0x1;

/// In the size of clusters: the whole file is in the file of fragments.
const ALL_FRAGMENT: u8 = 0x80;

/// Bits of the format of chunks: their size, whether there are whole entries, and whether
/// block numbers are longer.
const CHUNK_BITS: u16 = 0x1f;
const CHUNK_INDEXES: u16 = 0x20;
const CHUNK_48BIT: u16 = 0x40;

/// How much of a file of fragments is taken at once.
const FRAGMENTS: u64 = 128 << 10;

/// How many unpacked pieces of a file of fragments or metadata are kept, and bytes.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 8 << 20;

/// How many times its size on the device a packed directory or link may be.
const MOST_RATIO: u64 = 256;

/// An image: where everything else is read from.
#[derive(Debug)]
pub struct Volume {
    devices: Devices,
    /// Its superblock.
    pub sup: Super,
    packed: Option<Inner>,
    metabox: Option<Inner>,
}

impl Volume {
    /// Finds the files of the image that others are in.
    pub fn open(devices: Devices, sup: Super) -> Result<Self> {
        let mut volume = Self { devices, sup, packed: None, metabox: None };
        // The metabox may have its end in the file of fragments; that one has no such end.
        volume.packed = volume.sup.packed.map(|nid| volume.inner(nid)).transpose()?;
        volume.metabox = volume.sup.metabox.map(|nid| volume.inner(nid)).transpose()?;
        Ok(volume)
    }

    fn inner(&self, nid: u64) -> Result<Inner> {
        let data = Data::open(self, &self.inode(nid)?)?;
        Ok(Inner { data, kept: Mutex::default() })
    }

    /// Returns how many blocks there are, those of further files among them.
    pub fn blocks(&self) -> u64 {
        self.sup.blocks.saturating_add(self.devices.told() >> self.sup.block_bits)
    }

    /// Reads the inode of a number.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        let (space, at) = Inode::place(nid, &self.sup)?;
        let mut bytes = [0; inode::LENGTH];
        let length = self.rest(space, at)?.min(count(bytes.len()));
        let bytes = bytes.get_mut(..index(length)?).ok_or_else(eio)?;
        self.metadata(space, at, bytes)?;
        Inode::parse(bytes, nid, &self.sup)
    }

    /// Fills a buffer with metadata.
    pub fn metadata(&self, space: Space, at: u64, buf: &mut [u8]) -> Result<()> {
        match space {
            Space::Device => self.devices.own().read_near(at, buf),
            Space::Metabox => self.metabox.as_ref().ok_or_else(eio)?.read(self, at, buf),
        }
    }

    /// Returns where the names' prefixes are.
    pub fn prefix_bytes(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let inner = self.metabox.as_ref().or(self.packed.as_ref());
        match inner.filter(|_| !self.sup.plain_prefixes()) {
            Some(inner) => inner.read(self, at, buf),
            None => self.devices.own().read(at, buf),
        }
    }

    /// Returns how much metadata there is from an offset on; it is there at all.
    fn rest(&self, space: Space, at: u64) -> Result<u64> {
        let end = match space {
            Space::Device => self.devices.own().length(),
            Space::Metabox => self.metabox.as_ref().ok_or_else(eio)?.data.size,
        };
        end.checked_sub(at).filter(|rest| *rest > 0).ok_or_else(eio)
    }

    /// Reports whether a file may be so long that all of it is to be held in memory.
    fn justifies(&self, data: &Data) -> bool {
        let is_plain = matches!(data.layout, Map::Flat { .. } | Map::Chunks(_));
        let is_here = is_plain && data.space == Space::Device;
        let ratio = if is_here { 1 } else { MOST_RATIO };
        data.size <= self.devices.length().saturating_mul(ratio)
    }
}

/// What some bytes of a file became.
type Unpacked = (Range<u64>, Arc<Vec<u8>>);

/// A file that parts of other files or inodes are in.
#[derive(Debug)]
struct Inner {
    data: Data,
    kept: Mutex<Vec<Unpacked>>,
}

impl Inner {
    fn read(&self, volume: &Volume, at: u64, buf: &mut [u8]) -> Result<()> {
        let mut done: usize = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = add(at, count(done))?;
            if offset >= self.data.size {
                return Err(eio());
            }
            let mut read = self.data.read(volume, offset, rest)?;
            if read == 0 {
                let (start, unpacked) = self.unpacked(volume, offset)?;
                let from = unpacked.get(index(offset.saturating_sub(start))?..).ok_or_else(eio)?;
                read = from.len().min(rest.len());
                let (to, from) = (rest.get_mut(..read), from.get(..read));
                to.ok_or_else(eio)?.copy_from_slice(from.ok_or_else(eio)?);
                if read == 0 {
                    return Err(eio());
                }
            }
            done = done.saturating_add(read);
        }
        Ok(())
    }

    /// Returns the unpacked piece around an offset, and where it begins.
    fn unpacked(&self, volume: &Volume, offset: u64) -> Result<(u64, Arc<Vec<u8>>)> {
        let mut kept = lock(&self.kept);
        if let Some(place) = kept.iter().position(|(range, _)| range.contains(&offset)) {
            // The last one is the one that was used last.
            let found = kept.remove(place);
            let (start, bytes) = (found.0.start, Arc::clone(&found.1));
            kept.push(found);
            return Ok((start, bytes));
        }
        drop(kept);
        let range = self.data.packed(volume, offset)?.ok_or_else(eio)?;
        let bytes = Arc::new(self.data.unpack(volume, &range)?);
        let mut kept = lock(&self.kept);
        kept.push((range.clone(), Arc::clone(&bytes)));
        while kept.len() > 1
            && (kept.len() > KEPT
                || kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > KEPT_BYTES)
        {
            drop(kept.remove(0));
        }
        Ok((range.start, bytes))
    }
}

/// The data of a file.
#[derive(Debug)]
pub struct Data {
    /// How many bytes it has.
    pub size: u64,
    space: Space,
    layout: Map,
    pages: Pages,
    /// Whether this is the file of fragments itself.
    is_packed: bool,
}

#[derive(Debug)]
enum Map {
    /// Up to an offset in blocks from one on, then behind the inode.
    Flat {
        start: Option<u64>,
        until: u64,
        tail: u64,
    },
    Chunks(Chunks),
    Clusters(Index),
    Extents(Extents),
    Fragment(u64),
}

#[derive(Debug)]
struct Chunks {
    /// Where their entries begin, in bytes.
    at: u64,
    /// The size of a chunk, as a power of two.
    bits: u32,
    block_bits: u32,
    format: u16,
}

impl Data {
    /// Reads where the data of a file is.
    pub fn open(volume: &Volume, inode: &Inode) -> Result<Self> {
        let pages = Pages::default();
        let end = inode.end()?;
        let sup = &volume.sup;
        let block = sup.block();
        let layout = match inode.layout {
            Layout::Flat { start, inline } => {
                let whole = inode.size.div_ceil(block).saturating_sub(u64::from(inline));
                let until = if inline { mul(whole, block)? } else { inode.size };
                // The tail is in one block, as the kernel has it.
                let tail_end =
                    add(end & block.saturating_sub(1), inode.size.saturating_sub(until))?;
                if tail_end > block {
                    return Err(eio());
                }
                let start = start.map(|start| mul(start, block)).transpose()?;
                Map::Flat { start, until, tail: end }
            }
            Layout::Chunks(format) => Map::Chunks(Chunks::new(format, end, sup.block_bits)?),
            Layout::Full => Self::packed_map(volume, inode, Written::Full, &pages)?,
            Layout::Compact => Self::packed_map(volume, inode, Written::Compact, &pages)?,
        };
        let is_packed = sup.packed == Some(inode.nid);
        Ok(Self { size: inode.size, space: inode.space, layout, pages, is_packed })
    }

    fn packed_map(volume: &Volume, inode: &Inode, written: Written, pages: &Pages) -> Result<Map> {
        let at = round_up(inode.end()?, 8)?;
        let mut bytes = [0; Header::LENGTH];
        volume.metadata(inode.space, at, &mut bytes)?;
        let header = Header::parse(&bytes)?;
        if header.clusters & ALL_FRAGMENT != 0 {
            let at = u64::from_le_bytes(bytes) & !(1 << 63);
            return Ok(Map::Fragment(at));
        }
        let block_bits = volume.sup.block_bits;
        let shape = Shape {
            size: inode.size,
            block_bits,
            bits: block_bits.saturating_add(u32::from(header.clusters & 15)),
            at: add(at, 8)?,
        };
        if matches!(written, Written::Full) && header.has(EXTENTS) {
            return Ok(Map::Extents(Extents::new(header, shape)?));
        }
        let source = source(volume, inode.space);
        Ok(Map::Clusters(Index::open(header, shape, written, pages, &source)?))
    }

    /// Returns the piece that a byte is in.
    fn piece(&self, volume: &Volume, offset: u64) -> Result<Piece> {
        let source = source(volume, self.space);
        match &self.layout {
            Map::Flat { until, tail, .. } if offset >= *until => {
                Ok(Piece { range: *until..self.size, place: Place::Inline(*tail) })
            }
            Map::Flat { start, until, .. } => {
                let place = start.map_or(Place::Hole, Place::Plain);
                Ok(Piece { range: 0..*until, place })
            }
            Map::Chunks(chunks) => {
                chunks.piece(offset, (self.size, &volume.devices), &self.pages, &source)
            }
            Map::Clusters(index) => index.piece(offset, &self.pages, &source),
            Map::Extents(extents) => extents.piece(offset, &self.pages, &source),
            Map::Fragment(at) => Ok(Piece { range: 0..self.size, place: Place::Fragment(*at) }),
        }
    }

    /// Reads what needs no unpacking; 0 where packed bytes begin, and at the end.
    pub fn read(&self, volume: &Volume, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.size.saturating_sub(offset).min(count(buf.len()));
        let buf = buf.get_mut(..index(rest)?).ok_or_else(eio)?;
        // Pieces that follow each other in the file and on the device are read at once.
        let mut run: Option<(u64, Range<usize>)> = None;
        let mut done: usize = 0;
        while done < buf.len() {
            let at = add(offset, count(done))?;
            let Piece { range, place } = self.piece(volume, at)?;
            let skip = at.checked_sub(range.start).ok_or_else(eio)?;
            let left = range.end.checked_sub(at).filter(|left| *left > 0).ok_or_else(eio)?;
            let end = done.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
            let end = end.min(buf.len());
            match (place, &mut run) {
                (Place::Packed { .. } | Place::Fragment(_), _) => break,
                (Place::Plain(from), Some((first, to)))
                    if to.end == done && add(*first, count(to.len()))? == add(from, skip)? =>
                {
                    to.end = end;
                }
                (Place::Plain(from), _) => {
                    volume.fill(run.replace((add(from, skip)?, done..end)), buf)?;
                }
                (Place::Hole, _) => buf.get_mut(done..end).ok_or_else(eio)?.fill(0),
                (Place::Inline(from), _) => {
                    let to = buf.get_mut(done..end).ok_or_else(eio)?;
                    volume.metadata(self.space, add(from, skip)?, to)?;
                }
            }
            done = end;
        }
        volume.fill(run, buf)?;
        Ok(done)
    }

    /// Returns whether a byte is of a hole, and where that ends.
    pub fn stretch(&self, volume: &Volume, offset: u64) -> Result<Stretch> {
        let Piece { range, place } = self.piece(volume, offset)?;
        Ok(Stretch { is_hole: matches!(place, Place::Hole), end: range.end })
    }

    /// Returns the bytes that are unpacked together with one; `None` if it is not packed.
    pub fn packed(&self, volume: &Volume, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.size {
            return Ok(None);
        }
        let Piece { range, place } = self.piece(volume, offset)?;
        match place {
            Place::Packed { .. } => Ok(Some(range)),
            Place::Fragment(_) => {
                let skip = offset.saturating_sub(range.start) & !(FRAGMENTS - 1);
                let start = add(range.start, skip)?;
                Ok(Some(start..start.saturating_add(FRAGMENTS).min(range.end)))
            }
            Place::Hole | Place::Plain(_) | Place::Inline(_) => Ok(None),
        }
    }

    /// Unpacks a range that [`Data::packed`] returned.
    pub fn unpack(&self, volume: &Volume, range: &Range<u64>) -> Result<Vec<u8>> {
        let piece = self.piece(volume, range.start)?;
        let wanted = range.end.checked_sub(range.start).ok_or_else(eio)?;
        match piece.place {
            Place::Packed { at, length, inline, algorithm } if piece.range == *range => {
                if !volume.sup.may_use(algorithm) {
                    return Err(eio());
                }
                let mut bytes = vec![0; index(length)?];
                if inline {
                    volume.metadata(self.space, at, &mut bytes)?;
                } else {
                    volume.devices.read(at, &mut bytes)?;
                }
                let padded = volume.sup.is_padded();
                unpack(algorithm, &bytes, padded, wanted)
            }
            Place::Fragment(at) if !self.is_packed && wanted <= FRAGMENTS => {
                let inner = volume.packed.as_ref().ok_or_else(eio)?;
                let skip = range.start.checked_sub(piece.range.start).ok_or_else(eio)?;
                let mut bytes = vec![0; index(wanted)?];
                inner.read(volume, add(at, skip)?, &mut bytes)?;
                Ok(bytes)
            }
            Place::Packed { .. }
            | Place::Fragment(_)
            | Place::Hole
            | Place::Plain(_)
            | Place::Inline(_) => Err(eio()),
        }
    }

    /// Returns all of a file that is no larger than what it is to be held in memory for.
    pub fn whole(&self, volume: &Volume, most: u64) -> Result<Vec<u8>> {
        if self.size > most || !volume.justifies(self) {
            return Err(eio());
        }
        let mut bytes = vec![0; index(self.size)?];
        let mut done: usize = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = count(done);
            let mut read = self.read(volume, offset, rest)?;
            if read == 0 {
                let range = self.packed(volume, offset)?.ok_or_else(eio)?;
                let unpacked = self.unpack(volume, &range)?;
                read = unpacked.len().min(rest.len());
                if range.start != offset || read == 0 {
                    return Err(eio());
                }
                let (to, from) = (rest.get_mut(..read), unpacked.get(..read));
                to.ok_or_else(eio)?.copy_from_slice(from.ok_or_else(eio)?);
            }
            done = done.saturating_add(read);
        }
        Ok(bytes)
    }
}

impl Volume {
    /// Reads one run of bytes from the device.
    fn fill(&self, run: Option<(u64, Range<usize>)>, buf: &mut [u8]) -> Result<()> {
        let Some((at, to)) = run else { return Ok(()) };
        self.devices.read(at, buf.get_mut(to).ok_or_else(eio)?)
    }
}

impl Chunks {
    fn new(format: u16, end: u64, block_bits: u32) -> Result<Self> {
        if format & !(CHUNK_BITS | CHUNK_INDEXES | CHUNK_48BIT) != 0 {
            return Err(eio());
        }
        let bits = block_bits.saturating_add(u32::from(format & CHUNK_BITS));
        let at = round_up(end, if format & CHUNK_INDEXES == 0 { 4 } else { 8 })?;
        Ok(Self { at, bits, block_bits, format })
    }

    fn piece(
        &self,
        offset: u64,
        (size, devices): (u64, &Devices),
        pages: &Pages,
        source: &super::pages::Source<'_>,
    ) -> Result<Piece> {
        let chunk = offset >> self.bits;
        let is_whole = self.format & CHUNK_INDEXES != 0;
        let length = if is_whole { 8 } else { 4 };
        let at = add(self.at, mul(chunk, length)?)?;
        let block = pages.with(at, index(length)?, source, |bytes| self.block(bytes))?;
        let start = chunk << self.bits;
        let range = start..add(start, 1 << self.bits)?.min(size);
        let place =
            |(device, block)| add(devices.start(device)?, mul(block, 1 << self.block_bits)?);
        let at = block.map(place).transpose()?;
        Ok(Piece { range, place: at.map_or(Place::Hole, Place::Plain) })
    }

    /// Returns the device and the block that an entry names; `None` for a hole.
    fn block(&self, bytes: &[u8]) -> Result<Option<(u16, u64)>> {
        if self.format & CHUNK_INDEXES == 0 {
            let block = u32_at(bytes, 0)?;
            return Ok(Some((0, u64::from(block))).filter(|_| block != u32::MAX));
        }
        let is_long = self.format & CHUNK_48BIT != 0;
        let high = if is_long { u64::from(u16_at(bytes, 0)?) << 32 } else { 0 };
        let none = if is_long { (1 << 48) - 1 } else { u64::from(u32::MAX) };
        let block = high | u64::from(u32_at(bytes, 4)?);
        Ok(Some((u16_at(bytes, 2)?, block)).filter(|_| block != none))
    }
}

/// Returns what reads pages of metadata.
fn source(volume: &Volume, space: Space) -> impl Fn(u64) -> Result<Vec<u8>> {
    move |page| {
        let at = mul(page, PAGE)?;
        let mut bytes = vec![0; index(volume.rest(space, at)?.min(PAGE))?];
        volume.metadata(space, at, &mut bytes)?;
        Ok(bytes)
    }
}
