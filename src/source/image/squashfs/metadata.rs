//! What of the metadata the library leaves out, or takes otherwise than the kernel.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use fs_core::BlockRead as _;
use fs_squashfs::metablock::{MetaCache, MetaCursor, MetadataRef};
use fs_squashfs::superblock::Superblock;
use fs_squashfs::{Error, Result};

use super::{Blocks, UNIT};
use crate::source::image::Device;

/// How many metadata blocks of 8 KiB are kept unpacked.
const KEPT: usize = 64;

/// How many bytes of a directory's inode come before the number of its parent
/// (`parent_inode` of linux/fs/squashfs/squashfs_fs.h): in both kinds that directories have.
const PARENT: usize = 28;

/// How many bytes of the inode of a regular file with holes come before how many bytes are
/// in them (`sparse` of `struct squashfs_lreg_inode`).
const SPARSE: usize = 32;

/// What the table of sets of attributes is when there is none.
const NO_TABLE: u64 = u64::MAX;

/// How long the header of that table is, an entry of it, and how many are in a block.
const HEADER: u64 = 16;
const ENTRY: u16 = 16;
const IN_BLOCK: u32 = 512;

/// In the kind of an attribute: which prefix its name has, and that its value is elsewhere
/// (`SQUASHFS_XATTR_PREFIX_MASK` and `SQUASHFS_XATTR_VALUE_OOL`).
const PREFIX: u16 = 0xff;
const ELSEWHERE: u16 = 0x100;

/// The most bytes of a file's attributes, and what one of them takes besides.
const MOST: usize = 16 << 20;
const EACH: usize = 32;

/// Extended attributes, by name.
pub(super) type Xattrs = Vec<(OsString, Vec<u8>)>;

/// A set of attributes, which several files may have.
struct Set {
    place: u64,
    count: u32,
    size: u32,
}

/// Where sets of attributes are.
#[derive(Clone, Copy)]
struct Table {
    /// What their places are counted from, in bytes.
    start: u64,
    /// How many there are.
    sets: u32,
}

/// A reader of metadata.
pub(super) struct Metadata {
    blocks: Blocks,
    superblock: Superblock,
    table: Option<Table>,
    kept: MetaCache,
}

impl Metadata {
    /// Reads what must be known of the tables.
    pub(super) fn open(device: Arc<Device>, superblock: Superblock) -> Result<Self> {
        let blocks = Blocks(device);
        let mut table = None;
        if superblock.xattr_id_table_start != NO_TABLE {
            let mut header = [0; 12];
            blocks.read_at(superblock.xattr_id_table_start, &mut header)?;
            let [a, b, c, d, e, f, g, h, sets @ ..] = header;
            let start = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            table = Some(Table { start, sets: u32::from_le_bytes(sets) });
        }
        Ok(Self { blocks, superblock, table, kept: MetaCache::new(KEPT) })
    }

    fn cursor(&self, start: u64, within: u16) -> Result<MetaCursor<'_, Blocks>> {
        MetaCursor::new(&self.blocks, &self.superblock, start, within, Some(&self.kept))
    }

    fn inode(&self, nid: u64) -> Result<MetaCursor<'_, Blocks>> {
        let place = MetadataRef::from_packed(nid);
        self.cursor(place.start_abs(self.superblock.inode_table_start), place.in_block)
    }

    /// Returns the inode number of the directory that a directory is in.
    pub(super) fn parent(&self, dir: u64) -> Result<u32> {
        let mut inode = self.inode(dir)?;
        inode.read_exact(PARENT)?;
        inode.read_u32()
    }

    /// Returns how many bytes of a regular file with holes are said to be in them: mksquashfs
    /// leaves a byte of a file that is all hole, and gensquashfs does not.
    pub(super) fn sparse(&self, nid: u64) -> Result<u64> {
        let mut inode = self.inode(nid)?;
        inode.read_exact(SPARSE)?;
        inode.read_u64()
    }

    /// Returns how many units of 512 bytes the kernel counts for a set of attributes.
    pub(super) fn blocks_of(&self, index: u32) -> Result<u64> {
        let Some(table) = self.table else { return Ok(0) };
        let size = self.set(table, index)?.size;
        // As `squashfs_read_inode` of fs/squashfs/inode.c has it, for none as well.
        let units = u64::from(size.wrapping_sub(1)).checked_div(UNIT).unwrap_or_default();
        Ok(units.saturating_add(1))
    }

    /// Reads a set of attributes. How long it is said to be is not looked at: tar2sqfs counts
    /// in another way than mksquashfs, and the kernel does not look either.
    pub(super) fn xattrs(&self, index: u32) -> Result<Xattrs> {
        let Some(table) = self.table else { return Ok(Xattrs::new()) };
        let set = self.set(table, index)?;
        let mut cursor = self.at(table, set.place)?;
        let (mut found, mut left) = (Xattrs::new(), MOST);
        for _ in 0..set.count {
            let (kind, length) = (cursor.read_u16()?, cursor.read_u16()?.into());
            left = take(left, EACH.saturating_add(length))?;
            let name = cursor.read_exact(length)?;
            let mut value = value(&mut cursor, &mut left)?;
            if kind & ELSEWHERE != 0 {
                let place = value.first_chunk().ok_or(SHORT)?;
                value = self::value(&mut self.at(table, u64::from_le_bytes(*place))?, &mut left)?;
            }
            if let Some(prefix) = prefix(kind) {
                found.push((OsString::from_vec([prefix, &name].concat()), value));
            }
        }
        Ok(found)
    }

    /// Goes to a place in the table of attributes.
    fn at(&self, table: Table, place: u64) -> Result<MetaCursor<'_, Blocks>> {
        let place = MetadataRef::from_packed(place);
        let start = table.start.checked_add(place.block_offset).ok_or(SHORT)?;
        self.cursor(start, place.in_block)
    }

    fn set(&self, table: Table, index: u32) -> Result<Set> {
        if index >= table.sets {
            return Err(Error::BadInode("it has a set of attributes that is not there"));
        }
        let (block, within) = (index / IN_BLOCK, index % IN_BLOCK);
        let header = self.superblock.xattr_id_table_start.checked_add(HEADER);
        let at = header.and_then(|start| start.checked_add(u64::from(block).saturating_mul(8)));
        let mut place = [0; 8];
        self.blocks.read_at(at.ok_or(SHORT)?, &mut place)?;
        let within = u16::try_from(within).map_err(|_| SHORT)?.saturating_mul(ENTRY);
        let mut entry = self.cursor(u64::from_le_bytes(place), within)?;
        Ok(Set { place: entry.read_u64()?, count: entry.read_u32()?, size: entry.read_u32()? })
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").finish_non_exhaustive()
    }
}

const SHORT: Error = Error::BadMetadata("attributes that are cut short");

/// Takes so many bytes of what is left for the attributes of a file.
fn take(left: usize, bytes: usize) -> Result<usize> {
    left.checked_sub(bytes).ok_or(Error::BadMetadata("more attributes than any file has"))
}

fn value(cursor: &mut MetaCursor<'_, Blocks>, left: &mut usize) -> Result<Vec<u8>> {
    let length = usize::try_from(cursor.read_u32()?).map_err(|_| SHORT)?;
    *left = take(*left, length)?;
    cursor.read_exact(length)
}

/// Returns the prefix of names of a kind; `None`: the kernel has no such names.
const fn prefix(kind: u16) -> Option<&'static [u8]> {
    if kind & !(PREFIX | ELSEWHERE) != 0 {
        return None;
    }
    match kind & PREFIX {
        0 => Some(b"user."),
        1 => Some(b"trusted."),
        2 => Some(b"security."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::image::Part;

    /// Where the blocks of attributes, of their table and its header are in the image.
    const SETS: u64 = 200;
    const IDS: u64 = 600;
    const TABLE: u64 = 900;

    /// A metadata block that is not packed.
    fn block(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap() | 0x8000;
        [&length.to_le_bytes()[..], bytes].concat()
    }

    fn pair(kind: u16, name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(name.len()).unwrap();
        let size = u32::try_from(value.len()).unwrap();
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), name, &size.to_le_bytes(), value].concat()
    }

    /// Opens an image that has these attributes, in sets by place, count and size.
    fn metadata(pairs: &[u8], sets: &[(u64, u32, u32)]) -> Metadata {
        let mut image = vec![0; 4096];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = usize::try_from(at).unwrap();
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, b"hsqs");
        put(12, &4096_u32.to_le_bytes());
        put(20, &[1, 0, 12, 0]);
        put(28, &[4]);
        put(40, &4096_u64.to_le_bytes());
        for at in [48, 64, 72, 80, 88] {
            put(at, &[0xff; 8]);
        }
        put(56, &TABLE.to_le_bytes());
        put(SETS, &block(pairs));
        let ids = |(place, count, size): &(u64, u32, u32)| {
            [&place.to_le_bytes()[..], &count.to_le_bytes(), &size.to_le_bytes()].concat()
        };
        put(IDS, &block(&sets.iter().flat_map(ids).collect::<Vec<_>>()));
        put(TABLE, &SETS.to_le_bytes());
        put(TABLE + 8, &u32::try_from(sets.len()).unwrap().to_le_bytes());
        put(TABLE + HEADER, &IDS.to_le_bytes());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &image).unwrap();
        let device = Device::open(file.path(), Part::default()).unwrap();
        Metadata::open(Arc::new(device), Superblock::parse(&image).unwrap()).unwrap()
    }

    #[test]
    fn sets_are_read_whatever_size_they_are_said_to_have() {
        let pairs = [
            pair(0, b"a", b"first"),
            pair(2, b"capability", b"x"),
            pair(7, b"of no kind", b""),
            pair(0x201, b"neither", b""),
            pair(0x101, b"far", &0_u64.to_le_bytes()),
        ];
        let far = u64::try_from(pairs.concat().len()).unwrap();
        let mut pairs = pairs.concat();
        let at = pairs.len() - 8;
        pairs[at..].copy_from_slice(&far.to_le_bytes());
        pairs.extend(3_u32.to_le_bytes().into_iter().chain(*b"far"));
        let metadata = metadata(&pairs, &[(0, 5, 1), (0, 1, 513), (0, 0, 0), (0, 9, 2)]);
        let wanted: [(&str, &[u8]); 3] =
            [("user.a", b"first"), ("security.capability", b"x"), ("trusted.far", b"far")];
        let wanted = wanted.map(|(name, value)| (OsString::from(name), value.to_vec()));
        assert_eq!(metadata.xattrs(0).unwrap(), wanted);
        assert_eq!(metadata.xattrs(1).unwrap(), wanted[..1]);
        assert_eq!(metadata.xattrs(2).unwrap(), []);
        assert!(metadata.xattrs(3).is_err() && metadata.xattrs(4).is_err());
        let blocks = [0, 1, 2].map(|index| metadata.blocks_of(index).unwrap());
        assert_eq!(blocks, [1, 2, 1 << 23]);
        assert!(metadata.blocks_of(4).is_err());
    }

    #[test]
    fn no_set_takes_all_memory() {
        // A value of a name that is elsewhere: each time the same.
        let many = pair(0x100, b"n", &0_u64.to_le_bytes()).repeat(10);
        let mut pairs = many.clone();
        let far = u64::try_from(many.len()).unwrap();
        for at in (0..many.len()).step_by(many.len() / 10) {
            pairs[at + 9..at + 17].copy_from_slice(&far.to_le_bytes());
        }
        pairs.extend(u32::MAX.to_le_bytes());
        assert!(metadata(&pairs, &[(0, 10, 0)]).xattrs(0).is_err());
        assert!(metadata(&pair(0, b"n", b""), &[(0, u32::MAX, 0)]).xattrs(0).is_err());
        assert!(metadata(&[], &[(u64::MAX, 1, 0)]).xattrs(0).is_err());
    }
}
