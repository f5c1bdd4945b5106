//! The file that an image is in.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ImageError;
use super::named::{Lost, Named, Replaced};
use super::streams::Streams;
use super::windows::Windows;
use crate::error::{Error, Result};
use crate::text::shown;

/// Which bytes of a file the image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; `None`: to the end of the file.
    pub size: Option<u64>,
}

impl Part {
    /// Returns how long it is in something of this length; `None` if it is not within, or
    /// has no bytes.
    fn within(self, whole: u64) -> Option<u64> {
        let rest = whole.checked_sub(self.offset)?;
        let length = self.size.unwrap_or(rest);
        (length > 0 && length <= rest).then_some(length)
    }
}

/// A part of a file, read and never mapped: one that is cut short must not end us.
///
/// Offsets are those of the part. Whether the file has changed costs as much to find out
/// as to read of it, so whoever answers with what was read asks once, after all of it was:
/// see [`Device::is_unchanged`]. Once that says no, nothing is read any more.
#[derive(Debug)]
pub struct Device {
    streams: Streams,
    path: PathBuf,
    offset: u64,
    length: u64,
    state: State,
    changed: AtomicBool,
    /// Its name, if that is looked at.
    named: Option<Arc<Named>>,
    /// What is to become of it when another file has that.
    replaced: Replaced,
    windows: Windows,
    /// Other files that the image has data in.
    further: Vec<Arc<Self>>,
}

/// What of a file changes when somebody writes to it; nothing of a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    size: u64,
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { size: metadata.size(), modified }
    }
}

impl Device {
    /// Opens a part of a file or of a block device; reads nothing of it.
    ///
    /// # Errors
    /// If it cannot be opened, is neither, or has no such part.
    pub fn open(path: &Path, part: Part) -> std::result::Result<Self, ImageError> {
        let failed = |why| ImageError::File { path: path.to_owned(), why };
        let is_one = |metadata: &Metadata| {
            let kind = metadata.file_type();
            kind.is_file() || kind.is_block_device()
        };
        let wrong = || ImageError::Kind(path.to_owned());
        // Before it is opened as well: a fifo would wait for a writer.
        if !is_one(&fs::metadata(path).map_err(failed)?) {
            return Err(wrong());
        }
        let (mut file, metadata, named) = opened(path).map_err(failed)?;
        if !is_one(&metadata) {
            return Err(wrong());
        }
        let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if end == 0 {
            return Err(ImageError::Empty(path.to_owned()));
        }
        let length =
            part.within(end).ok_or_else(|| ImageError::Part { path: path.to_owned(), end })?;
        Ok(Self {
            streams: Streams::new(file, &metadata),
            path: path.to_owned(),
            offset: part.offset,
            length,
            state: State::of(&metadata),
            changed: AtomicBool::new(false),
            named: named.map(Arc::new),
            replaced: Replaced::default(),
            windows: Windows::default(),
            further: Vec::new(),
        })
    }

    /// Has it known what is to become of it when its path comes to name another file.
    #[must_use]
    pub const fn once_replaced(mut self, replaced: Replaced) -> Self {
        self.replaced = replaced;
        self
    }

    /// Has it known which other files the image has data in, all of each.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn with_further(mut self, paths: &[PathBuf]) -> std::result::Result<Self, ImageError> {
        for path in paths {
            let device = Self::open(path, Part::default())?.once_replaced(self.replaced);
            self.further.push(Arc::new(device));
        }
        Ok(self)
    }

    /// Returns the other files that the image has data in.
    pub fn further(&self) -> &[Arc<Self>] {
        &self.further
    }

    /// Returns a part of this one.
    ///
    /// # Errors
    /// If there is no such part.
    pub fn part(&self, part: Part) -> std::result::Result<Self, ImageError> {
        let path = self.path.clone();
        let length = part.within(self.length);
        let place = length.zip(self.offset.checked_add(part.offset));
        let Some((length, offset)) = place else {
            return Err(ImageError::Part { path, end: self.length });
        };
        let changed = AtomicBool::new(self.changed.load(Ordering::Relaxed));
        let (windows, further) = (Windows::default(), self.further.clone());
        Ok(Self {
            streams: self.streams.clone(),
            path,
            offset,
            length,
            state: self.state,
            changed,
            named: self.named.clone(),
            replaced: self.replaced,
            windows,
            further,
        })
    }

    /// Returns the path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where in the file it begins, in bytes.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns which file it is in: the device that the file is on, and its inode number.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn file(&self) -> io::Result<(u64, u64)> {
        self.streams.first().metadata().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// Returns how long it is, in bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Fills a buffer from an offset.
    ///
    /// # Errors
    /// `EIO` beyond the end, where the file cannot be read, and for ever once it has
    /// been seen to have changed.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let eio = super::eio();
        let length = u64::try_from(buf.len()).map_err(|_| eio)?;
        let end = offset.checked_add(length).filter(|end| *end <= self.length);
        let at = end.and(self.offset.checked_add(offset)).ok_or(eio)?;
        if self.changed.load(Ordering::Relaxed) {
            return Err(eio);
        }
        self.streams.at(at).read_exact_at(buf, at).map_err(|error| {
            if self.is_unchanged() {
                log::error!("{}: at {at}: {error}", shown(&self.path));
            }
            eio
        })
    }

    /// Does the same for what is small, and likely to be followed by more from near there.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn read_near(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.windows.read(offset, buf, self.length, &|at, buf| self.read(at, buf))
    }

    /// Reports whether the file is still as it was when it was opened, and still the one
    /// that it is to be, the further ones too, and so are all bytes that were read before
    /// this is called. Says once when it is not, and when it has lost its name.
    pub fn is_unchanged(&self) -> bool {
        if self.changed.load(Ordering::Relaxed) {
            return false;
        }
        let why = match self.streams.first().metadata() {
            Ok(now) if State::of(&now) == self.state => self.lost(&now),
            Ok(_) | Err(_) => Some("changed"),
        };
        let Some(why) = why else {
            return self.further.iter().all(|device| device.is_unchanged());
        };
        if !self.changed.swap(true, Ordering::Relaxed) {
            let path = shown(&self.path);
            log::error!("{path}: {why} while mounted; no more of it is read: mount it again");
        }
        false
    }

    /// Returns why no more of the file is to be read, though it is what it was.
    fn lost(&self, now: &Metadata) -> Option<&'static str> {
        let fd = self.streams.first().as_fd();
        match self.named.as_ref()?.lost(fd, now, self.replaced)? {
            Lost::Unread(why) => Some(why),
            Lost::Shown(what) => {
                let path = shown(&self.path);
                log::warn!("{path}: {what}; the mount shows what it was until it ends");
                None
            }
        }
    }
}

/// How often a file is opened whose name is another's by then.
const TRIES: usize = 3;

/// Opens a file, and finds the name that it has.
fn opened(path: &Path) -> io::Result<(File, Metadata, Option<Named>)> {
    let open = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let named = Named::of(path, file.as_fd(), &metadata);
        io::Result::Ok((file, metadata, named))
    };
    let mut opened = open()?;
    for _ in 1..TRIES {
        let (_, metadata, named) = &opened;
        if named.is_some() || !metadata.file_type().is_file() {
            break;
        }
        // It may have been replaced just now.
        opened = open()?;
    }
    Ok(opened)
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.streams.first().as_fd()
    }
}

/// Reads of other libraries are reported in their words.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno().0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn part(offset: u64, size: Option<u64>) -> Part {
        Part { offset, size }
    }

    #[test]
    fn a_part_is_read_and_nothing_around_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let device = Device::open(file.path(), part(2, Some(5))).unwrap();
        let mut buf = [0; 5];
        device.read(0, &mut buf).unwrap();
        assert_eq!((&buf, device.length()), (b"23456", 5));
        assert!(device.read(1, &mut buf).unwrap_err().is(libc::EIO));
        assert!(device.read(u64::MAX, &mut buf[..1]).unwrap_err().is(libc::EIO));
        for wrong in [part(10, None), part(11, None), part(8, Some(3)), part(1, Some(0))] {
            let refused = Device::open(file.path(), wrong).unwrap_err();
            assert!(matches!(refused, ImageError::Part { end: 10, .. }), "{refused}");
        }
        let inner = device.part(part(1, None)).unwrap();
        let mut rest = [0; 4];
        inner.read(0, &mut rest).unwrap();
        assert_eq!((&rest, inner.offset(), inner.length()), (b"3456", 3, 4));
        assert!(inner.read(1, &mut rest).unwrap_err().is(libc::EIO));
        for wrong in [part(5, None), part(0, Some(6)), part(u64::MAX, None)] {
            let refused = device.part(wrong).unwrap_err();
            assert!(matches!(refused, ImageError::Part { end: 5, .. }), "{refused}");
        }
    }

    #[test]
    fn nothing_is_read_once_the_file_has_changed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let device = Device::open(file.path(), Part::default()).unwrap();
        let mut buf = [0; 10];
        device.read(0, &mut buf).unwrap();
        assert!(device.is_unchanged());
        file.as_file().set_len(50).unwrap();
        assert!(!device.is_unchanged());
        assert!(device.read(0, &mut buf).unwrap_err().is(libc::EIO));
        file.as_file().set_len(100).unwrap();
        assert!(device.read(0, &mut buf).unwrap_err().is(libc::EIO));
        assert!(!device.is_unchanged());
    }

    #[test]
    fn nothing_is_read_once_another_file_has_the_name() {
        for (replaced, is_shown) in [(Replaced::Eio, false), (Replaced::Keep, true)] {
            for lost in ["own", "further"] {
                let dir = tempfile::tempdir().unwrap();
                let at = |name| dir.path().join(name);
                for name in ["own", "further", "new"] {
                    fs::write(at(name), [7; 100]).unwrap();
                }
                let whole = Device::open(&at("own"), Part::default()).unwrap();
                let whole = whole.once_replaced(replaced).with_further(&[at("further")]).unwrap();
                let device = whole.part(part(50, None)).unwrap();
                assert!(device.is_unchanged());
                fs::rename(at("new"), at(lost)).unwrap();
                assert_eq!(device.is_unchanged(), is_shown, "{lost}");
                let named = if lost == "own" { &device } else { &device.further()[0] };
                let mut buf = [0; 10];
                let eio = named.read(0, &mut buf).err().map(|error| error.is(libc::EIO));
                assert_eq!(eio, (!is_shown).then_some(true), "{lost}");
                assert_eq!(device.is_unchanged(), is_shown, "{lost}");
            }
        }
    }

    #[test]
    fn directories_and_devices_of_characters_and_fifos_are_no_images() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [Path::new("/"), Path::new("/dev/null"), &fifo] {
            let refused = Device::open(path, Part::default()).unwrap_err();
            assert!(matches!(refused, ImageError::Kind(_)), "{refused}");
        }
    }
}
