//! squashfs: metadata by the library, contents by ourselves, since the library
//! unpacks a block again for each part of it that is read, and what of the metadata it
//! leaves out.

mod metadata;

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use fs_core::BlockRead;
use fs_squashfs::decompress::decompress;
use fs_squashfs::inode::TYPE_EXT_FILE;
use fs_squashfs::table::{self, FragmentEntry};
use fs_squashfs::{Compressor, FileType, Filesystem, Inode};

use self::metadata::Metadata;
use super::cache::Cache;
use super::codec;
use super::{About, Contents, Device, Entry, Format, Image, ImageError, Nid, Stretch, eio};
use crate::attr::{Attr, FileKind, Mode, Time};
use crate::error::{Error, Result};
use crate::id::{Disk, Id, Owner};
use crate::source::Statfs;
use crate::text::shown;

/// The format's name.
const FORMAT: &str = "squashfs";

/// The preferred size of I/O that the kernel's own mount shows, in bytes.
const BLKSIZE: u32 = 1024;

/// The bytes of a unit that space is counted in.
const UNIT: u64 = 512;

/// How many metadata blocks of 8 KiB the library keeps unpacked.
const METADATA: usize = 512;

/// How many bytes of fragments are kept unpacked: each has the ends of many files.
const FRAGMENTS: u64 = 8 << 20;

/// What to do with what only other programs read.
const AGAIN: &str = "only 4.0 is read: unsquashfs -d DIR FILE and mksquashfs DIR NEW make it again, \
                     or squashfuse mounts it";

/// A squashfs image.
pub struct Squashfs {
    fs: Filesystem,
    metadata: Metadata,
    data: Arc<Data>,
    about: About,
}

/// What it takes to read contents.
struct Data {
    device: Arc<Device>,
    codec: Compressor,
    /// Bytes of a block of data.
    block: u64,
    fragments: Vec<FragmentEntry>,
    unpacked: Cache<u32, Vec<u8>>,
}

/// A device as the library reads it.
struct Blocks(Arc<Device>);

impl BlockRead for Blocks {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.0.read(offset, buf).map_err(|error| fs_core::Error::Io(error.into()))
    }

    fn size_bytes(&self) -> u64 {
        self.0.length()
    }
}

/// Opens an image.
///
/// # Errors
/// If it is damaged, or has what cannot be read.
pub fn open(device: Arc<Device>) -> std::result::Result<Arc<dyn Image>, ImageError> {
    refuse_unknown(&device)?;
    let damaged = |error: fs_squashfs::Error| ImageError::Damaged {
        path: device.path().to_owned(),
        format: FORMAT,
        what: error.to_string(),
        check: Format::Squashfs.check(),
    };
    let blocks: Arc<dyn BlockRead> = Arc::new(Blocks(Arc::clone(&device)));
    // The host keeps what is on its disk; unpacked data is kept by us.
    let fs = Filesystem::open_with_cache(Arc::clone(&blocks), 0).map_err(damaged)?;
    fs.set_meta_cache_capacity(METADATA);
    fs.set_data_cache_capacity(0);
    let data = Data {
        codec: fs.compressor(),
        block: fs.sb.block_size.into(),
        fragments: table::read_fragment_table(&*blocks, &fs.sb).map_err(damaged)?,
        unpacked: Cache::new(FRAGMENTS),
        device: Arc::clone(&device),
    };
    let metadata = Metadata::open(device.clone(), fs.sb.clone()).map_err(damaged)?;
    let about = about(&fs);
    Ok(Arc::new(Squashfs { fs, metadata, data: Arc::new(data), about }))
}

/// Refuses what is whole but cannot be read: other versions than 4.0, those of machines
/// with the other order of bytes, and codecs that are not known.
///
/// What is needed of the superblock (linux/fs/squashfs/squashfs_fs.h) is at the same places
/// in all versions, but for the codec.
fn refuse_unknown(device: &Device) -> std::result::Result<(), ImageError> {
    let refused = |feature: String, way: &str| ImageError::Refused {
        path: device.path().to_owned(),
        format: FORMAT,
        feature,
        way: way.to_owned(),
    };
    let mut start = [0; 32];
    if device.read(0, &mut start).is_err() {
        return Ok(());
    }
    let big = start.starts_with(b"sqsh");
    let word = |at: usize| {
        let bytes = start.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let (major, minor, codec) = (word(28), word(30), word(20));
    if big {
        let feature = format!("version {major}.{minor} in big-endian order");
        return Err(refused(feature, AGAIN));
    }
    if (major, minor) != (4, 0) {
        return Err(refused(format!("version {major}.{minor}"), AGAIN));
    }
    if !(1..=6).contains(&codec) {
        return Err(refused(
            format!("codec {codec}, which is not known"),
            "make it again with -comp xz or zstd, by the mksquashfs that made it",
        ));
    }
    Ok(())
}

fn about(fs: &Filesystem) -> About {
    // Of linux/fs/squashfs/squashfs_fs.h.
    let flags = [
        "uncompressed inodes",
        "uncompressed data",
        "",
        "uncompressed fragments",
        "no fragments",
        "fragments for all files",
        "duplicates found",
        "exportable",
        "uncompressed xattrs",
        "no xattrs",
        "compressor options",
        "uncompressed ids",
    ];
    let set = |bit: &usize| fs.sb.flags.checked_shr(u32::try_from(*bit).unwrap_or(u32::MAX));
    let named = flags
        .iter()
        .enumerate()
        .filter(|(bit, word)| !word.is_empty() && set(bit).is_some_and(|flags| flags & 1 == 1));
    About {
        format: FORMAT,
        features: named.map(|(_, word)| (*word).to_owned()).collect(),
        codecs: vec![fs.compressor().name().to_owned()],
        block: fs.sb.block_size.into(),
        used: fs.sb.bytes_used,
        files: Some(fs.sb.inode_count.into()),
        label: None,
        uuid: None,
        acl: false,
        notes: vec![
            "squashfs keeps no ACLs: mksquashfs leaves them out".to_owned(),
            "squashfs has no checksums: damage is seen only where a block cannot be unpacked"
                .to_owned(),
        ],
    }
}

impl Squashfs {
    fn inode(&self, nid: Nid) -> Result<Inode> {
        self.fs.read_inode(nid.0).map_err(|error| self.failed(nid, &error))
    }

    fn failed(&self, nid: Nid, error: &fs_squashfs::Error) -> crate::error::Error {
        log::error!("{}: inode {:#x}: {error}", shown(self.data.device.path()), nid.0);
        eio()
    }

    /// Returns how many units of 512 bytes the kernel counts for a file: those of its
    /// extended attributes, and of its contents without holes, where the inode has room for
    /// how many there are.
    fn blocks_of(&self, nid: Nid, inode: &Inode) -> fs_squashfs::Result<u64> {
        let beside = match inode.has_xattrs() {
            true => self.metadata.blocks_of(inode.xattr_index)?,
            false => 0,
        };
        if !inode.is_regular_file() {
            return Ok(beside);
        }
        let extended = inode.inode_type == TYPE_EXT_FILE;
        let has_holes = extended && inode.block_sizes.contains(&0);
        let sparse = if has_holes { self.metadata.sparse(nid.0)? } else { 0 };
        let units = inode.file_size.saturating_sub(sparse).div_ceil(UNIT);
        Ok(units.saturating_add(beside))
    }

    fn attr_of(&self, nid: Nid, inode: &Inode) -> Result<Attr<Disk>> {
        let failed = |error| self.failed(nid, &error);
        let kind = kind(inode.file_type()).ok_or_else(eio)?;
        let (uid, gid) = (
            self.fs.resolve_uid(inode.uid_idx).map_err(failed)?,
            self.fs.resolve_gid(inode.gid_idx).map_err(failed)?,
        );
        let time = Time { sec: inode.mtime.into(), nsec: 0 };
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let rdev = libc::makedev(inode.rdev_major(), inode.rdev_minor());
        let size = match kind {
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => inode.file_size,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => 0,
        };
        Ok(Attr {
            ino: inode.inode_number.into(),
            kind,
            mode: Mode::new(inode.permissions.into()),
            nlink: inode.nlink,
            owner: Owner { uid: Id::new(uid), gid: Id::new(gid) },
            rdev: if device { rdev } else { 0 },
            size,
            blocks: self.blocks_of(nid, inode).map_err(failed)?,
            blksize: BLKSIZE,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
            locked: false,
            encrypted: false,
        })
    }
}

/// Returns what a file is.
const fn kind(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegFile => FileKind::Regular,
        FileType::Dir => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::BlockDev => FileKind::BlockDevice,
        FileType::CharDev => FileKind::CharDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::Unknown => return None,
    })
}

impl fmt::Debug for Squashfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Squashfs").field("device", &self.data.device).finish_non_exhaustive()
    }
}

impl Image for Squashfs {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> Nid {
        Nid(self.fs.sb.root_inode_ref)
    }

    fn attr(&self, nid: Nid) -> Result<Attr<Disk>> {
        self.attr_of(nid, &self.inode(nid)?)
    }

    fn by_number(&self, ino: u64) -> Result<Nid> {
        let number = u32::try_from(ino).map_err(|_| Error::Stale)?;
        // Without the table of exports there is no way.
        self.fs.inode_ref_for_number(number).map(Nid).map_err(|_| Error::Stale)
    }

    fn parent(&self, dir: Nid) -> Result<Nid> {
        if dir == self.root() {
            return Ok(dir);
        }
        if !self.inode(dir)?.is_dir() {
            return Err(self.failed(dir, &fs_squashfs::Error::NotADirectory));
        }
        let parent = self.metadata.parent(dir.0).map_err(|error| self.failed(dir, &error))?;
        self.by_number(parent.into())
    }

    fn list(&self, dir: Nid) -> Result<Vec<Entry>> {
        let entries = self.fs.read_dir(&self.inode(dir)?);
        let entries = entries.map_err(|error| self.failed(dir, &error))?;
        let entry = |entry: fs_squashfs::DirEntry| Entry {
            name: OsString::from_vec(entry.name),
            nid: Nid(entry.inode_ref),
            ino: entry.inode_number.into(),
            kind: kind(FileType::from_type_id(entry.type_id)),
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn readlink(&self, nid: Nid) -> Result<OsString> {
        let target = self.fs.read_symlink_target(&self.inode(nid)?);
        target.map(OsString::from_vec).map_err(|error| self.failed(nid, &error))
    }

    fn xattrs(&self, nid: Nid) -> Result<Vec<(OsString, Vec<u8>)>> {
        let inode = self.inode(nid)?;
        if !inode.has_xattrs() {
            return Ok(Vec::new());
        }
        self.metadata.xattrs(inode.xattr_index).map_err(|error| self.failed(nid, &error))
    }

    fn open(&self, nid: Nid) -> Result<Box<dyn Contents>> {
        let inode = self.inode(nid)?;
        if !inode.is_regular_file() {
            return Err(eio());
        }
        Ok(Box::new(Blocked::new(Arc::clone(&self.data), &inode)?))
    }

    fn statfs(&self) -> Statfs {
        Statfs {
            blocks: self.fs.sb.bytes_used.div_ceil(self.data.block),
            bfree: 0,
            bavail: 0,
            files: self.fs.sb.inode_count.into(),
            ffree: 0,
            bsize: self.fs.sb.block_size,
            namelen: 256,
            frsize: self.fs.sb.block_size,
        }
    }
}

impl Data {
    /// Returns how many bytes of a file a block has.
    fn length_at(&self, index: u64, size: u64) -> u64 {
        size.saturating_sub(index.saturating_mul(self.block)).min(self.block)
    }

    /// Reads a block of data as it is in the image, and unpacks it; `word` is its size
    /// there, and whether it is packed.
    fn unpack(&self, start: u64, word: u32, most: u64) -> Result<Vec<u8>> {
        let length = table::data_on_disk_size(word);
        if u64::from(length) > self.block {
            return Err(eio());
        }
        let mut raw = vec![0; usize::try_from(length).map_err(|_| eio())?];
        self.device.read(start, &mut raw)?;
        if !table::data_is_compressed(word) {
            return Ok(raw);
        }
        let most = usize::try_from(most).map_err(|_| eio())?;
        let unpacked = match self.codec {
            Compressor::Zstd => by(codec::zstd, &raw, most),
            Compressor::Xz => by(codec::xz, &raw, most),
            Compressor::Gzip | Compressor::Lzma | Compressor::Lzo | Compressor::Lz4 => {
                decompress(self.codec, &raw, most).ok()
            }
        };
        unpacked.ok_or_else(|| {
            let (path, codec) = (shown(self.device.path()), self.codec.name());
            log::error!("{path}: block at {start}: damaged {codec} data");
            eio()
        })
    }

    /// Returns a block that has the ends of many files.
    fn fragment(&self, index: u32) -> Result<Arc<Vec<u8>>> {
        let place = usize::try_from(index).ok().and_then(|index| self.fragments.get(index));
        let FragmentEntry { start, size } = *place.ok_or_else(eio)?;
        let length = |block: &Vec<u8>| u64::try_from(block.capacity()).unwrap_or(u64::MAX);
        self.unpacked.get(index, length, || self.unpack(start, size, self.block))
    }
}

/// Unpacks a block into a buffer of the length that it has at most.
fn by(codec: fn(&[u8], &mut [u8]) -> Option<usize>, raw: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut to = vec![0; most];
    let length = codec(raw, &mut to)?;
    to.truncate(length);
    Some(to)
}

/// The contents of a file: blocks of one size, and an end in a block with others.
struct Blocked {
    data: Arc<Data>,
    size: u64,
    /// Where each block begins in the image, and its size word.
    blocks: Box<[(u64, u32)]>,
    /// The block that has the end, and where it begins there.
    end: Option<(u32, u32)>,
}

impl Blocked {
    fn new(data: Arc<Data>, inode: &Inode) -> Result<Self> {
        let mut at = inode.blocks_start;
        let place = |word: &u32| {
            let start = at;
            at = at.saturating_add(table::data_on_disk_size(*word).into());
            (start, *word)
        };
        let blocks: Box<[_]> = inode.block_sizes.iter().map(place).collect();
        let end = inode.has_fragment().then_some((inode.fragment_index, inode.fragment_offset));
        // Blocks and an end are all of it: more would have no bytes, fewer no place.
        let count = u64::try_from(blocks.len()).map_err(|_| eio())?;
        let whole = if end.is_some() {
            inode.file_size.checked_div(data.block)
        } else {
            Some(inode.file_size.div_ceil(data.block))
        };
        if whole == Some(count) {
            Ok(Self { data, size: inode.file_size, blocks, end })
        } else {
            Err(eio())
        }
    }

    /// Returns the index of a block, and where it begins in the file.
    fn index(&self, offset: u64) -> (u64, u64) {
        let index = offset.checked_div(self.data.block).unwrap_or_default();
        (index, index.saturating_mul(self.data.block))
    }

    fn block(&self, index: u64) -> Option<(u64, u32)> {
        self.blocks.get(usize::try_from(index).ok()?).copied()
    }

    /// Reads what is in a block with the ends of other files; `skip` bytes of the end
    /// come before.
    fn read_end(&self, skip: u64, buf: &mut [u8]) -> Result<usize> {
        let (index, start) = self.end.ok_or_else(eio)?;
        let block = self.data.fragment(index)?;
        let start = u64::from(start).saturating_add(skip);
        let rest = usize::try_from(start).ok().and_then(|start| block.get(start..));
        let from = rest.and_then(|rest| rest.get(..buf.len())).ok_or_else(eio)?;
        buf.copy_from_slice(from);
        Ok(buf.len())
    }
}

impl Contents for Blocked {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (index, start) = self.index(offset);
        let length = self.data.length_at(index, self.size);
        let rest = start.saturating_add(length).saturating_sub(offset);
        let most = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..most).unwrap_or_default();
        let skip = offset.saturating_sub(start);
        let Some((at, word)) = self.block(index) else {
            return if buf.is_empty() { Ok(0) } else { self.read_end(skip, buf) };
        };
        match u64::from(table::data_on_disk_size(word)) {
            0 => buf.fill(0),
            stored if stored == length => {
                self.data.device.read(at.saturating_add(skip), buf)?;
            }
            _ => return Err(eio()),
        }
        Ok(buf.len())
    }

    fn stretch(&self, offset: u64) -> Result<Stretch> {
        let (index, start) = self.index(offset);
        let is_hole = self.block(index).is_some_and(|(_, word)| word == 0);
        Ok(Stretch { is_hole, end: start.saturating_add(self.data.block) })
    }

    fn packed(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let (index, start) = self.index(offset);
        let packed = self.block(index).filter(|(_, word)| {
            table::data_is_compressed(*word) && table::data_on_disk_size(*word) > 0
        });
        let end = start.saturating_add(self.data.length_at(index, self.size));
        Ok(packed.map(|_| start..end))
    }

    fn unpack(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let (at, word) = self.block(self.index(range.start).0).ok_or_else(eio)?;
        self.data.unpack(at, word, range.end.saturating_sub(range.start))
    }
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocked").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::image::Part;

    #[test]
    fn what_is_not_known_is_no_damage() {
        let said = |magic: &[u8; 4], version: [u8; 4], codec: u8| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut superblock = [0; 4096];
            superblock[..4].copy_from_slice(magic);
            superblock[20] = codec;
            superblock[28..32].copy_from_slice(&version);
            std::fs::write(file.path(), superblock).unwrap();
            let device = Device::open(file.path(), Part::default()).unwrap();
            open(Arc::new(device)).map(drop).unwrap_err()
        };
        for (magic, version, codec, feature) in [
            (b"hsqs", [3, 0, 1, 0], 1, "version 3.1"),
            (b"hsqs", [4, 0, 1, 0], 1, "version 4.1"),
            (b"sqsh", [0, 3, 0, 0], 0, "version 3.0 in big-endian order"),
            (b"hsqs", [4, 0, 0, 0], 7, "codec 7"),
        ] {
            let error = said(magic, version, codec);
            let text = error.to_string();
            assert!(matches!(error, ImageError::Refused { .. }), "{text}");
            assert!(text.contains(feature) && text.contains("mksquashfs"), "{text}");
        }
        assert!(matches!(said(b"hsqs", [4, 0, 0, 0], 1), ImageError::Damaged { .. }));
    }
}
