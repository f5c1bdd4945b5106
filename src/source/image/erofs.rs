//! EROFS, of any layout, packed or not, in one file or several.
//!
//! Our own reader, by the format's documentation (fs/erofs/erofs_fs.h and
//! Documentation/filesystems/erofs.rst of the kernel): bytes that are not packed are read
//! straight from the device into the caller's buffer, and what is packed is unpacked a piece
//! at a time, for a cache that is not here.

mod bytes;
mod data;
mod devices;
mod dir;
mod extents;
mod index;
mod inode;
mod lz4;
mod pages;
mod place;
mod superblock;
#[cfg(test)]
mod tests;
mod unpack;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use super::{About, Contents, Device, Entry, Format, Image, ImageError, Nid, Stretch};
use crate::attr::{Attr, FileKind};
use crate::error::{Errno, Error, Result};
use crate::id::Disk;
use crate::source::Statfs;

use bytes::{eio, index};
use data::{Data, Volume};
use devices::Devices;
use superblock::{Bad, Super};

/// The longest target of a symbolic link that the kernel shows, in bytes.
const LINK_MAX: u64 = 4095;

/// What an image begins with that has only names and attributes: its files are all holes
/// (`struct lcfs_erofs_header_s` of composefs).
const COMPOSEFS: [u8; 4] = 0xd078_629a_u32.to_le_bytes();

/// Opens an image.
///
/// # Errors
/// If it is damaged, or has features that are not understood.
pub fn open(device: Arc<Device>) -> std::result::Result<Arc<dyn Image>, ImageError> {
    let path = device.path().to_owned();
    let damaged = |what: String| ImageError::Damaged {
        path: path.clone(),
        format: "erofs",
        what,
        check: Format::Erofs.check(),
    };
    let unreadable = |error: Error| {
        let why = std::io::Error::from(error);
        ImageError::File { path: path.clone(), why }
    };
    let mut bytes = [0; superblock::LENGTH];
    if device.length() < superblock::AT.saturating_add(bytes::count(bytes.len())) {
        return Err(damaged("it ends within the superblock".to_owned()));
    }
    device.read(superblock::AT, &mut bytes).map_err(unreadable)?;
    let refused = |feature, way: &str| ImageError::Refused {
        path: path.clone(),
        format: "erofs",
        feature,
        way: way.to_owned(),
    };
    let mut start = [0; 4];
    device.read(0, &mut start).map_err(unreadable)?;
    if start == COMPOSEFS {
        return Err(refused(
            "contents that are in other files, by their digest (composefs)".to_owned(),
            "mount it as root: mount.composefs -o basedir=OBJECTS; then idmapfs shows that \
             directory",
        ));
    }
    let bad = |bad| match bad {
        Bad::Damaged(what) => damaged(what),
        Bad::Devices(what, way) => refused(what, &way),
        Bad::Refused(feature) => refused(
            feature,
            "make the image anew without it, or mount it as root: mount -t erofs -o ro,loop",
        ),
    };
    let sup = Super::parse(&bytes).map_err(bad)?;
    let end = sup.blocks.checked_mul(sup.block());
    if end.is_none_or(|end| end > device.length()) {
        return Err(damaged(format!("it has {} blocks, and the file ends before", sup.blocks)));
    }
    if !sum_holds(&device, &sup).map_err(unreadable)? {
        return Err(damaged("the superblock's checksum is wrong".to_owned()));
    }
    let broken = |what: &str| damaged(format!("{what} cannot be read"));
    let devices = Devices::new(device, &sup).map_err(bad)?;
    let volume = Volume::open(devices, sup).map_err(|_| broken("files that others are in"))?;
    let prefixes = xattr::prefixes(&volume).map_err(|_| broken("prefixes of attributes"))?;
    let about = about(&volume.sup);
    let root = Nid(volume.sup.root);
    let image = Erofs { volume: Arc::new(volume), prefixes, about };
    match image.attr(root) {
        Ok(attr) if attr.kind.is_dir() => Ok(Arc::new(image)),
        _ => Err(damaged("the root is no directory".to_owned())),
    }
}

fn sum_holds(device: &Device, sup: &Super) -> Result<bool> {
    let Some(length) = sup.sum_length() else { return Ok(true) };
    let mut bytes = vec![0; index(length)?];
    device.read(superblock::AT, &mut bytes)?;
    Ok(superblock::sum_is_right(&bytes))
}

fn about(sup: &Super) -> About {
    About {
        format: "erofs",
        features: sup.features(),
        codecs: sup.codecs(),
        block: sup.block(),
        used: sup.blocks.saturating_mul(sup.block()),
        files: Some(sup.files),
        label: sup.label.clone(),
        uuid: Some(sup.uuid).filter(|uuid| *uuid != [0; 16]),
        acl: true,
        notes: vec![
            "only the superblock has a checksum: damage elsewhere may not be noticed".to_owned(),
            "files have one time: that of the last change of contents".to_owned(),
        ],
    }
}

struct Erofs {
    volume: Arc<Volume>,
    prefixes: xattr::Prefixes,
    about: About,
}

impl fmt::Debug for Erofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Erofs").field("about", &self.about).finish_non_exhaustive()
    }
}

impl Erofs {
    /// Returns all entries of a directory.
    fn entries(&self, dir: Nid) -> Result<Vec<Entry>> {
        let inode = self.volume.inode(dir.0)?;
        if !inode.kind.is_dir() {
            return Err(Error::Os(Errno(libc::ENOTDIR)));
        }
        let bytes = Data::open(&self.volume, &inode)?.whole(&self.volume, u64::MAX)?;
        let mut entries = Vec::new();
        for block in bytes.chunks(index(self.volume.sup.block())?) {
            dir::parse(block, &self.volume.sup, &mut entries)?;
        }
        Ok(entries)
    }
}

impl Image for Erofs {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> Nid {
        Nid(self.volume.sup.root)
    }

    fn attr(&self, nid: Nid) -> Result<Attr<Disk>> {
        self.volume.inode(nid.0)?.attr(&self.volume.sup)
    }

    fn by_number(&self, ino: u64) -> Result<Nid> {
        let nid = self.volume.sup.nid(ino);
        // What is there may be anything.
        self.volume.inode(nid).map_err(|_| Error::Stale)?;
        Ok(Nid(nid))
    }

    fn parent(&self, dir: Nid) -> Result<Nid> {
        let mut entries = self.entries(dir)?.into_iter();
        entries.find(|entry| entry.name == "..").map(|entry| entry.nid).ok_or_else(eio)
    }

    fn list(&self, dir: Nid) -> Result<Vec<Entry>> {
        let mut entries = self.entries(dir)?;
        entries.retain(|entry| entry.name != "." && entry.name != "..");
        Ok(entries)
    }

    fn readlink(&self, nid: Nid) -> Result<OsString> {
        let inode = self.volume.inode(nid.0)?;
        if inode.kind != FileKind::Symlink {
            return Err(Error::Invalid);
        }
        let target = Data::open(&self.volume, &inode)?.whole(&self.volume, LINK_MAX)?;
        let target = target.split(|byte| *byte == 0).next().unwrap_or_default();
        if target.is_empty() {
            return Err(eio());
        }
        Ok(OsStr::from_bytes(target).to_owned())
    }

    fn xattrs(&self, nid: Nid) -> Result<Vec<(OsString, Vec<u8>)>> {
        xattr::read(&self.volume, &self.prefixes, &self.volume.inode(nid.0)?)
    }

    fn open(&self, nid: Nid) -> Result<Box<dyn Contents>> {
        let inode = self.volume.inode(nid.0)?;
        if inode.kind != FileKind::Regular {
            return Err(Error::Invalid);
        }
        let data = Data::open(&self.volume, &inode)?;
        Ok(Box::new(Regular { volume: Arc::clone(&self.volume), data }))
    }

    fn statfs(&self) -> Statfs {
        let sup = &self.volume.sup;
        let block = u32::try_from(sup.block()).unwrap_or(u32::MAX);
        Statfs {
            blocks: self.volume.blocks(),
            bfree: 0,
            bavail: 0,
            files: u64::MAX,
            ffree: u64::MAX.saturating_sub(sup.files),
            bsize: block,
            namelen: 255,
            frsize: block,
        }
    }
}

/// A regular file.
struct Regular {
    volume: Arc<Volume>,
    data: Data,
}

impl fmt::Debug for Regular {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Regular").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Contents for Regular {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.data.read(&self.volume, offset, buf)
    }

    fn stretch(&self, offset: u64) -> Result<Stretch> {
        self.data.stretch(&self.volume, offset)
    }

    fn packed(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.data.packed(&self.volume, offset)
    }

    fn unpack(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.data.unpack(&self.volume, &range)
    }
}
