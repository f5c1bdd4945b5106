//! File system images: what readers of a format provide, and a source of it.
//!
//! A reader parses one format and answers questions about files by number. It
//! caches nothing that is large and decides nothing: names are found, blocks kept
//! and changes refused in one place for all formats.

mod ahead;
mod archive;
mod cache;
#[cfg(any(feature = "erofs", feature = "squashfs"))]
mod codec;
mod device;
mod dir;
mod ends;
#[cfg(feature = "erofs")]
pub mod erofs;
mod error;
#[cfg(feature = "ext4")]
pub mod ext4;
mod file;
mod inner;
mod listing;
mod mbr;
mod named;
mod packed;
mod partition;
mod probe;
mod program;
mod source;
#[cfg(feature = "squashfs")]
pub mod squashfs;
mod streams;
mod survey;
#[cfg(test)]
mod tests;
mod ways;
mod windows;

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::attr::{Attr, FileKind};
use crate::error::{Errno, Error, Result};
use crate::id::Disk;
use crate::source::Statfs;

pub use archive::{in_directory, of_layers};
pub use device::{Device, Part};
pub use error::ImageError;
pub use named::Replaced;
pub use packed::{Packed, START, packed};
pub use partition::Partition;
pub use probe::{Format, probe};
pub use source::ImageSource;
pub use survey::{Survey, survey};

/// How much of an image is kept in memory unless told otherwise, in bytes.
pub const DEFAULT_CACHE: u64 = 128 << 20;

/// What is to be known to open an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Which bytes of the file it is.
    pub part: Part,
    /// Which partition of those bytes.
    pub partition: Option<Partition>,
    /// Other files that the image has data in.
    pub devices: Vec<PathBuf>,
    /// Whether hashes beside a partition are ignored.
    pub verity_ignored: bool,
    /// What becomes of it when its path names another file; `None`: the default.
    pub replaced: Option<Replaced>,
    /// How many bytes of memory may be kept of what was read and unpacked.
    pub cache: u64,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            part: Part::default(),
            partition: None,
            devices: Vec::new(),
            verity_ignored: false,
            replaced: None,
            cache: DEFAULT_CACHE,
        }
    }
}

/// Opens the file of an image, and the others that it has data in; reads nothing.
///
/// # Errors
/// As [`Device::open`].
pub fn device(path: &Path, options: &ImageOptions) -> std::result::Result<Device, ImageError> {
    let replaced = options.replaced.unwrap_or_default();
    Device::open(path, options.part)?.once_replaced(replaced).with_further(&options.devices)
}

/// Opens the image in a part of a file, whatever its format.
///
/// # Errors
/// Names the file, what is wrong with it, and the way out.
pub fn open(whole: Device, options: &ImageOptions) -> std::result::Result<ImageSource, ImageError> {
    let device = Arc::new(locate(whole, options)?);
    let image = read(&device)?;
    for note in &image.about().notes {
        log::info!("image: {note}");
    }
    Ok(ImageSource::new(image, device, options.cache))
}

/// Returns the partition that is the image, where one is asked for; else all of a device.
///
/// # Errors
/// As [`open`].
pub fn locate(whole: Device, options: &ImageOptions) -> std::result::Result<Device, ImageError> {
    match &options.partition {
        None => Ok(whole),
        Some(wanted) => whole.part(partition::find(&whole, wanted, options.verity_ignored)?),
    }
}

/// Returns the reader of an image.
///
/// # Errors
/// As [`open`].
pub fn read(device: &Arc<Device>) -> std::result::Result<Arc<dyn Image>, ImageError> {
    let format = probe(device)?;
    if format != Format::Erofs && !device.further().is_empty() {
        return Err(ImageError::Refused {
            path: device.path().to_owned(),
            format: format.word(),
            feature: "further devices".to_owned(),
            way: "leave the option device out, which is for erofs".to_owned(),
        });
    }
    // A fault of a reader must not look as one of the mount.
    catch_unwind(AssertUnwindSafe(|| read_as(format, device))).unwrap_or_else(|_fault| {
        Err(ImageError::Damaged {
            path: device.path().to_owned(),
            format: format.word(),
            what: "its reader fails".to_owned(),
            check: format.check(),
        })
    })
}

fn read_as(
    format: Format,
    device: &Arc<Device>,
) -> std::result::Result<Arc<dyn Image>, ImageError> {
    match format {
        #[cfg(feature = "squashfs")]
        Format::Squashfs => squashfs::open(Arc::clone(device)),
        #[cfg(not(feature = "squashfs"))]
        Format::Squashfs => absent(device, format),
        #[cfg(feature = "erofs")]
        Format::Erofs => erofs::open(Arc::clone(device)),
        #[cfg(not(feature = "erofs"))]
        Format::Erofs => absent(device, format),
        #[cfg(feature = "ext4")]
        Format::Ext4 => ext4::open(Arc::clone(device)),
        #[cfg(not(feature = "ext4"))]
        Format::Ext4 => absent(device, format),
    }
}

/// Says that there is no reader of a format.
#[cfg(not(all(feature = "erofs", feature = "ext4", feature = "squashfs")))]
fn absent(device: &Device, format: Format) -> std::result::Result<Arc<dyn Image>, ImageError> {
    Err(ImageError::Absent { path: device.path().to_owned(), format: format.word() })
}

/// Returns the error of what is damaged.
const fn eio() -> Error {
    Error::Os(Errno(libc::EIO))
}

/// Returns the error of all changes.
const fn read_only() -> Error {
    Error::Os(Errno(libc::EROFS))
}

/// A file of an image, by the number that its reader finds it by: all names of a
/// file have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(pub u64);

/// A name in a directory of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// The file that it leads to.
    pub nid: Nid,
    /// The inode number of that file, as the kernel shows it; 0 if only the file says.
    pub ino: u64,
    /// What it is, where the directory says.
    pub kind: Option<FileKind>,
}

/// What is known of an image without looking at its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The format: `ext4`, `squashfs`, `erofs`.
    pub format: &'static str,
    /// Its features, in the words of its own tools.
    pub features: Vec<String>,
    /// How its files are compressed, in the words of its own tools.
    pub codecs: Vec<String>,
    /// The size of a block, in bytes.
    pub block: u64,
    /// How many bytes of the device belong to it.
    pub used: u64,
    /// How many files it has, where it says.
    pub files: Option<u64>,
    /// Its name, if it has one.
    pub label: Option<String>,
    /// Its UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// Whether the format keeps POSIX ACLs.
    pub acl: bool,
    /// What a user should know of it, each a line: what is not verified, what is
    /// not kept.
    pub notes: Vec<String>,
}

/// A reader of one format. Every error is the errno that a caller would get: what is
/// damaged is `EIO`.
pub trait Image: Send + Sync + fmt::Debug {
    /// Returns what is known of the image.
    fn about(&self) -> &About;

    /// Returns the root directory.
    fn root(&self) -> Nid;

    /// Returns the attributes of a file, as the kernel's own mount would show them.
    ///
    /// # Errors
    /// `EIO`.
    fn attr(&self, nid: Nid) -> Result<Attr<Disk>>;

    /// Returns the file that has an inode number, where the format has a way from one to the
    /// other.
    ///
    /// # Errors
    /// `Stale` if there is none, or no such way; `EIO`.
    fn by_number(&self, ino: u64) -> Result<Nid> {
        let _no_way = ino;
        Err(Error::Stale)
    }

    /// Returns the directory that a directory is in; of the root it is the root.
    ///
    /// # Errors
    /// `EIO`; as [`Image::by_number`].
    fn parent(&self, dir: Nid) -> Result<Nid> {
        let _no_way = dir;
        Err(Error::Stale)
    }

    /// Returns all names in a directory but `.` and `..`, in the order of the kernel's
    /// own mount where that is known.
    ///
    /// # Errors
    /// `EIO`.
    fn list(&self, dir: Nid) -> Result<Vec<Entry>>;

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// `EIO`.
    fn readlink(&self, nid: Nid) -> Result<OsString>;

    /// Returns all extended attributes of a file with their values, as getxattr(2)
    /// gives them: ACLs in their version 2.
    ///
    /// # Errors
    /// `EIO`.
    fn xattrs(&self, nid: Nid) -> Result<Vec<(OsString, Vec<u8>)>>;

    /// Opens a regular file.
    ///
    /// # Errors
    /// `EIO`; `ENOKEY` for one that is encrypted.
    fn open(&self, nid: Nid) -> Result<Box<dyn Contents>>;

    /// Returns the totals of the file system.
    fn statfs(&self) -> Statfs;
}

/// Bytes of a file that are alike: all of a hole, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whether they are of a hole.
    pub is_hole: bool,
    /// Where they end, in the file; may be beyond its end.
    pub end: u64,
}

/// The contents of a regular file.
pub trait Contents: Send + Sync + fmt::Debug {
    /// Reads bytes that need no unpacking, holes among them; fewer than asked for at the
    /// end of the file and where packed ones begin, 0 only at the end.
    ///
    /// # Errors
    /// `EIO`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Returns what the byte at an offset is in: a hole, as the kernel's own mount would tell
    /// of it, or data; what follows may be of the same sort. `end` is behind the offset.
    ///
    /// # Errors
    /// `EIO`.
    fn stretch(&self, offset: u64) -> Result<Stretch> {
        let _no_holes = offset;
        Ok(Stretch { is_hole: false, end: u64::MAX })
    }

    /// Returns which bytes of the file are unpacked together with the one at this
    /// offset; `None` if that one is not packed.
    ///
    /// # Errors
    /// `EIO`.
    fn packed(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let _none = offset;
        Ok(None)
    }

    /// Unpacks the bytes of a range that [`Contents::packed`] returned; all of them, or
    /// it fails.
    ///
    /// # Errors
    /// `EIO`.
    fn unpack(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let _none = range;
        Ok(Vec::new())
    }
}
