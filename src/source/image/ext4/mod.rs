//! ext4: the superblock, the journal, inodes and the trees of extents by the library;
//! attributes, directories, extended attributes and contents from what those lead to,
//! as the kernel reads them.

mod attr;
mod contents;
mod dir;
mod extents;
mod indirect;
mod probe;
#[cfg(test)]
mod tests;
mod xattr;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use fs_ext4::Filesystem;
use fs_ext4::block_io::BlockDevice;
use fs_ext4::extent::{self, ExtentVerifyCtx};
use fs_ext4::inode::{Inode, InodeFlags};

use self::contents::Bytes;
use self::probe::Features;
use super::{About, Contents, Device, Entry, Format, Image, ImageError, Nid, eio};
use crate::attr::{Attr, FileKind};
use crate::error::{Errno, Error, Result};
use crate::id::Disk;
use crate::source::Statfs;
use crate::text::shown;

/// The format's name.
const FORMAT: &str = "ext4";

/// How many bytes of metadata the library keeps, and in how many blocks at most: it
/// looks at all of them to find the one that goes.
const KEPT: (u32, u32) = (4 << 20, 1024);

/// The inode number of the root directory.
const ROOT: u32 = 2;

/// The longest target of a symbolic link, in bytes.
const LONGEST: u64 = 4096;

/// An ext4 image.
#[derive(Debug)]
pub struct Ext4 {
    volume: Arc<Volume>,
    about: About,
    totals: Statfs,
}

/// What it takes to read files.
struct Volume {
    fs: Filesystem,
    device: Arc<Device>,
    features: Features,
    /// Where it ends, in bytes; what follows on the device is not its own.
    end: u64,
    /// Whether the journal had something that is not in its place on the device: then
    /// blocks are read through the library, which has that in memory.
    replayed: bool,
}

/// An inode, as parsed and as it is on disk.
struct Found {
    ino: u32,
    inode: Inode,
    raw: Vec<u8>,
}

/// Bytes of a file that are in one piece.
struct Span {
    /// Where they are on the device; `None`: they are zeros.
    at: Option<u64>,
    length: u64,
}

/// A device as the library reads it.
struct Blocks(Arc<Device>);

impl BlockDevice for Blocks {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_ext4::Result<()> {
        self.0.read(offset, buf).map_err(|error| fs_ext4::Error::Io(error.into()))
    }

    fn size_bytes(&self) -> u64 {
        self.0.length()
    }
}

/// Opens an image; what is in its journal is replayed in memory.
///
/// # Errors
/// If it is damaged, or has what cannot be read.
pub fn open(device: Arc<Device>) -> std::result::Result<Arc<dyn Image>, ImageError> {
    let block = probe::check(&device)?;
    let (bytes, most) = KEPT;
    let blocks = bytes.checked_div(block).unwrap_or_default().min(most);
    let fs = Filesystem::mount_with_cache(
        Arc::new(Blocks(Arc::clone(&device))),
        usize::try_from(blocks).unwrap_or_default(),
    );
    let fs = fs.map_err(|error| {
        // The features of the superblock have been looked at.
        let of_journal = matches!(error, fs_ext4::Error::Unsupported(_));
        if of_journal { probe::journal(&device) } else { damaged(&device, &error.to_string()) }
    })?;
    let volume = Volume {
        features: Features::of(&fs.sb.raw),
        end: fs.sb.filesystem_bytes().unwrap_or_default().min(device.length()),
        replayed: fs.cache_pinned_blocks() > 0,
        fs,
        device: Arc::clone(&device),
    };
    let about = volume.about();
    let totals = volume.totals();
    Ok(Arc::new(Ext4 { volume: Arc::new(volume), about, totals }))
}

/// Returns the error of an image that cannot be opened at all.
fn damaged(device: &Device, what: &str) -> ImageError {
    ImageError::Damaged {
        path: device.path().to_owned(),
        format: FORMAT,
        what: what.to_owned(),
        check: Format::Ext4.check(),
    }
}

const fn is_in_use(inode: &Inode) -> bool {
    inode.links_count > 0 && inode.mode != 0
}

/// Returns the error of what is encrypted.
const fn no_key() -> Error {
    Error::Os(Errno(libc::ENOKEY))
}

/// Returns a number of two bytes at an offset; 0 beyond the end.
fn le16(bytes: &[u8], at: usize) -> u16 {
    let rest = bytes.get(at..).and_then(|rest| rest.first_chunk());
    rest.map_or(0, |word| u16::from_le_bytes(*word))
}

/// Returns a number of four bytes at an offset; 0 beyond the end.
fn le32(bytes: &[u8], at: usize) -> u32 {
    let rest = bytes.get(at..).and_then(|rest| rest.first_chunk());
    rest.map_or(0, |word| u32::from_le_bytes(*word))
}

impl Found {
    fn has(&self, flags: InodeFlags) -> bool {
        self.inode.flags & flags.bits() != 0
    }
}

impl Volume {
    /// Returns the size of a block, in bytes.
    fn block(&self) -> u64 {
        self.fs.sb.block_size().into()
    }

    /// Reads an inode that a name leads to.
    fn find(&self, nid: Nid) -> Result<Found> {
        let ino = u32::try_from(nid.0).map_err(|_| eio())?;
        let found = self.inode(ino)?;
        if !self.is_file(ino, &found.inode) {
            return Err(self.failed(ino, &"no file"));
        }
        Ok(found)
    }

    /// Reports whether a name can lead to an inode: the others are of the file system
    /// itself.
    const fn is_file(&self, ino: u32, inode: &Inode) -> bool {
        let own = ino < self.fs.sb.first_inode && ino != ROOT;
        !own && inode.flags & InodeFlags::EA_INODE.bits() == 0
    }

    /// Reports whether there is a file of such a number, of which it is not known.
    fn is_used(&self, ino: u32) -> bool {
        let inode = self.fs.read_inode_raw(ino).and_then(|raw| Inode::parse(&raw));
        inode.is_ok_and(|inode| is_in_use(&inode) && self.is_file(ino, &inode))
    }

    /// Reads any inode that is in use.
    fn inode(&self, ino: u32) -> Result<Found> {
        let failed = |error: fs_ext4::Error| self.failed(ino, &error);
        let raw = self.fs.read_inode_raw(ino).map_err(failed)?;
        let mut inode = Inode::parse(&raw).map_err(failed)?;
        if !self.fs.csum.verify_inode(ino, inode.generation, &raw) {
            return Err(self.failed(ino, &"its checksum is wrong"));
        }
        if !is_in_use(&inode) {
            return Err(self.failed(ino, &"not in use"));
        }
        // The library takes upper halves to be in all of them, and the place of these has
        // other things in what ext2 and Hurd have made.
        let has = |feature| self.features.incompat & feature != 0;
        if !has(probe::LARGE_DIR) && !inode.is_file() {
            inode.size &= u64::from(u32::MAX);
        }
        if !has(probe::WIDE) {
            inode.file_acl &= u64::from(u32::MAX);
        }
        Ok(Found { ino, inode, raw })
    }

    /// Says what is wrong with a file.
    fn failed(&self, ino: u32, what: &dyn fmt::Display) -> Error {
        log::error!("{}: inode {ino}: {what}", shown(self.device.path()));
        eio()
    }

    /// Returns where the bytes of a file from an offset on are.
    fn span(&self, file: &Found, offset: u64) -> Result<Span> {
        let block = self.block();
        let (logical, skip) = match (offset.checked_div(block), offset.checked_rem(block)) {
            (Some(logical), Some(skip)) => (logical, skip),
            (_, _) => return Err(eio()),
        };
        let (start, count) = self.map(file, logical)?;
        let length = count.saturating_mul(block).saturating_sub(skip);
        let at = start.map(|start| start.saturating_mul(block).saturating_add(skip));
        if at.is_some_and(|at| at.saturating_add(length) > self.end) {
            return Err(self.failed(file.ino, &"its blocks are beyond the end"));
        }
        Ok(Span { at, length })
    }

    /// Returns the block that has a block of a file, `None` for zeros, and how many
    /// follow it.
    fn map(&self, file: &Found, logical: u64) -> Result<(Option<u64>, u64)> {
        let failed = |error: fs_ext4::Error| self.failed(file.ino, &error);
        if !file.inode.has_extents() {
            return indirect::map(self, file, logical);
        }
        let verify = ExtentVerifyCtx {
            ino: file.ino,
            generation: file.inode.generation,
            csum: &self.fs.csum,
        };
        let found = extent::lookup_verified(
            &file.inode.block,
            self.fs.dev.as_ref(),
            self.fs.sb.block_size(),
            logical,
            Some(&verify),
        );
        let Some(extent) = found.map_err(failed)? else {
            let next = extents::next(self, file, logical).map_err(failed)?;
            return Ok((None, next.saturating_sub(logical)));
        };
        let skip = logical.saturating_sub(extent.logical_block.into());
        let start = extent.physical_block.saturating_add(skip);
        let count = u64::from(extent.length).saturating_sub(skip);
        Ok(((!extent.uninitialized).then_some(start), count))
    }

    /// Reads blocks, or a part of one, as they are once the journal is replayed.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if self.replayed {
            self.fs.dev.read_at(at, buf).map_err(|_| eio())
        } else {
            self.device.read(at, buf)
        }
    }

    /// Fills a buffer with bytes of a file, zeros where it has none.
    fn fill(&self, file: &Found, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let span = self.span(file, offset)?;
            let length = usize::try_from(span.length).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut_checked(length).ok_or_else(eio)?;
            match span.at {
                Some(at) => self.read_at(at, part)?,
                None => part.fill(0),
            }
            if part.is_empty() {
                return Err(self.failed(file.ino, &"a part of it has no length"));
            }
            offset = offset.saturating_add(u64::try_from(part.len()).map_err(|_| eio())?);
            buf = rest;
        }
        Ok(())
    }

    fn target(&self, file: &Found) -> Result<Vec<u8>> {
        let Inode { size, block, .. } = &file.inode;
        if !file.inode.is_symlink() || *size > LONGEST {
            return Err(self.failed(file.ino, &"no symbolic link"));
        }
        let size = usize::try_from(*size).map_err(|_| eio())?;
        if file.has(InodeFlags::ENCRYPT) {
            Err(no_key())
        } else if file.has(InodeFlags::INLINE_DATA) {
            let mut target = xattr::inline(self, file)?;
            target.truncate(size);
            Ok(target)
        } else if self.is_fast(file) {
            let target = block.get(..size).filter(|target| target.len() < block.len());
            target.map(<[u8]>::to_vec).ok_or_else(|| self.failed(file.ino, &"no symbolic link"))
        } else {
            let mut target = vec![0; size];
            self.fill(file, 0, &mut target)?;
            Ok(target)
        }
    }

    /// Reports whether the target of a symbolic link is in the place of the numbers of
    /// blocks (`ext4_inode_is_fast_symlink`): it need not be there when it is short.
    fn is_fast(&self, file: &Found) -> bool {
        let Inode { size, block, file_acl, .. } = &file.inode;
        if self.features.incompat & probe::EA_INODE != 0 {
            return usize::try_from(*size).is_ok_and(|size| size < block.len());
        }
        let own = if *file_acl == 0 { 0 } else { self.blocks_of(1).saturating_mul(self.block()) };
        let block = self.fs.sb.block_size();
        attr::blocks(file, FileKind::Symlink, self.features, block) == own / 512
    }

    /// Returns how many blocks are in clusters, which blocks are taken in.
    fn blocks_of(&self, clusters: u64) -> u64 {
        clusters.checked_shl(self.shift()).unwrap_or(u64::MAX)
    }

    /// Returns how large a cluster is, as the power of two over a block.
    fn shift(&self) -> u32 {
        let superblock = &self.fs.sb;
        if self.features.ro_compat & probe::BIGALLOC == 0 {
            0
        } else {
            le32(&superblock.raw, 0x1c).saturating_sub(superblock.log_block_size)
        }
    }

    fn about(&self) -> About {
        let superblock = &self.fs.sb;
        let has = |bit| self.features.ro_compat & bit != 0;
        let mut notes = Vec::new();
        if !has(probe::METADATA_CSUM) {
            notes.push("no checksums: damage may not be seen".to_owned());
        }
        if has(probe::VERITY) {
            notes.push("fs-verity: files that have it are read without it".to_owned());
        }
        if self.features.incompat & probe::ENCRYPT != 0 {
            notes.push("encrypted files and directories cannot be read: ENOKEY".to_owned());
        }
        if self.replayed {
            notes.push("not unmounted: its journal is replayed in memory".to_owned());
        }
        if superblock.state & fs_ext4::superblock::EXT4_ERROR_FS != 0 {
            notes.push("marked as having errors: e2fsck may say more".to_owned());
        }
        // All but those that the file system keeps for itself, of which one is the root.
        let own = superblock.first_inode.saturating_sub(2);
        let free = self.fs.groups.iter().map(|group| group.free_inodes_count);
        let free = free.fold(own, u32::saturating_add);
        let label = superblock.volume_name.trim_end_matches('\0');
        About {
            format: self.features.generation(),
            features: self.features.names(),
            codecs: Vec::new(),
            block: self.block(),
            used: self.end,
            files: Some(superblock.inodes_count.saturating_sub(free).into()),
            label: (!label.is_empty()).then(|| label.to_owned()),
            uuid: Some(superblock.uuid),
            acl: true,
            notes,
        }
    }

    /// Returns what statfs(2) has of the kernel's mount (`ext4_statfs`).
    fn totals(&self) -> Statfs {
        let superblock = &self.fs.sb;
        let overhead = self.blocks_of(le32(&superblock.raw, 0x248).into());
        // Clusters that the kernel keeps for what it has promised to write, with extents.
        let extents = self.features.incompat & probe::EXTENTS != 0;
        let kept = superblock.blocks_count.checked_shr(self.shift()).filter(|_| extents);
        let kept = self.blocks_of((kept.unwrap_or_default() / 50).min(4096));
        let kept = kept.saturating_add(superblock.r_blocks_count);
        let groups = &self.fs.groups;
        let free = groups.iter().map(|group| u64::from(group.free_blocks_count));
        let bfree = self.blocks_of(free.fold(0, u64::saturating_add));
        let inodes = groups.iter().map(|group| u64::from(group.free_inodes_count));
        Statfs {
            blocks: superblock.blocks_count.saturating_sub(overhead),
            bfree,
            bavail: bfree.saturating_sub(kept),
            files: superblock.inodes_count.into(),
            ffree: inodes.fold(0, u64::saturating_add),
            bsize: superblock.block_size(),
            namelen: 255,
            frsize: superblock.block_size(),
        }
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Image for Ext4 {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> Nid {
        Nid(ROOT.into())
    }

    fn attr(&self, nid: Nid) -> Result<Attr<Disk>> {
        let found = self.volume.find(nid)?;
        let attr = attr::read(&found, self.volume.features, self.volume.fs.sb.block_size());
        attr.ok_or_else(|| self.volume.failed(found.ino, &"of no kind"))
    }

    fn by_number(&self, ino: u64) -> Result<Nid> {
        let number = u32::try_from(ino).map_err(|_| Error::Stale)?;
        if self.volume.is_used(number) { Ok(Nid(ino)) } else { Err(Error::Stale) }
    }

    fn parent(&self, dir: Nid) -> Result<Nid> {
        dir::parent(&self.volume, &self.volume.find(dir)?)
    }

    fn list(&self, dir: Nid) -> Result<Vec<Entry>> {
        dir::list(&self.volume, &self.volume.find(dir)?)
    }

    fn readlink(&self, nid: Nid) -> Result<OsString> {
        let mut target = self.volume.target(&self.volume.find(nid)?)?;
        if let Some(end) = target.iter().position(|byte| *byte == 0) {
            target.truncate(end);
        }
        Ok(OsString::from_vec(target))
    }

    fn xattrs(&self, nid: Nid) -> Result<Vec<(OsString, Vec<u8>)>> {
        xattr::read(&self.volume, &self.volume.find(nid)?)
    }

    fn open(&self, nid: Nid) -> Result<Box<dyn Contents>> {
        let found = self.volume.find(nid)?;
        Ok(Box::new(Bytes::new(Arc::clone(&self.volume), found)?))
    }

    fn statfs(&self) -> Statfs {
        self.totals
    }
}
