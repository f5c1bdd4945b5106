//! Images that are damaged at random, mostly where their metadata is.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use idmapfs::attr::FileKind;
use idmapfs::source::image::{Device, Entry, Image, ImageError, Nid, Part};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Format;
use crate::support::rng::Rng;

/// A byte that is changed: where, and to what.
pub type Edit = (usize, u8);

/// Returns 1 to 64 changes of an image.
pub fn edits(rng: &mut Rng, image: &[u8]) -> Vec<Edit> {
    let most = 1 << rng.below(7);
    let count = 1 + rng.below(most);
    (0..count).map(|_| edit(rng, image)).collect()
}

/// Returns one change: of what is not zero more often than not, since metadata is not
/// and what nobody uses is.
pub fn edit(rng: &mut Rng, image: &[u8]) -> Edit {
    let mut at = rng.below(image.len());
    match rng.below(8) {
        // Where all three have their superblock.
        0 => at = rng.below(image.len().min(2048)),
        1 => {}
        _ => {
            for _ in 0..64 {
                if image[at] != 0 {
                    break;
                }
                at = rng.below(image.len());
            }
            // What is beside it is of the same structure.
            at = (at + rng.below(4)).min(image.len() - 1);
        }
    }
    let some = rng.next() as u8;
    let old = image[at];
    let values = [0, 1, 0x7f, 0x80, 0xff, old ^ (1 << rng.below(8)), old.wrapping_add(1), some];
    (at, rng.pick(&values))
}

/// Returns the image with these changes.
pub fn damaged(image: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut image = image.to_vec();
    for (at, byte) in edits {
        image[*at] = *byte;
    }
    image
}

/// Reads an image as far as it can be read, and wants nothing but that it ends.
///
/// # Panics
/// What a reader returns is not what it says it would be.
pub fn read_all(image: &dyn Image) {
    let (root, mut seen) = (image.root(), BTreeSet::new());
    let (mut left, mut bytes) = (vec![(root, 0)], 64 << 20);
    let _ = (image.about(), image.statfs());
    let mut inos = BTreeSet::new();
    while let Some((nid, ino)) = left.pop() {
        if seen.len() > 3_000 || !seen.insert(nid) {
            continue;
        }
        inos.insert(ino);
        left.extend(read_one(image, nid, &mut bytes).into_iter().map(|one| (one.nid, one.ino)));
    }
    // Who has a handle may ask for any number.
    let beside = inos.iter().flat_map(|ino| [ino.wrapping_sub(1), *ino, ino.wrapping_add(1)]);
    let bits = (0..64).flat_map(|bit| [1_u64 << bit, u64::MAX >> bit, u64::MAX << bit]);
    for number in (0..300).chain(beside).chain(bits) {
        if let Ok(nid) = image.by_number(number)
            && seen.len() < 4_000
            && seen.insert(nid)
        {
            drop(read_one(image, nid, &mut bytes));
        }
    }
}

/// Reads all of a file; returns the names in a directory.
fn read_one(image: &dyn Image, nid: Nid, bytes: &mut u64) -> Vec<Entry> {
    let Ok(attr) = image.attr(nid) else { return Vec::new() };
    let _ = image.xattrs(nid);
    let _ = image.parent(nid).and_then(|above| image.attr(above));
    match attr.kind {
        FileKind::Directory => return image.list(nid).unwrap_or_default(),
        FileKind::Symlink => drop(image.readlink(nid)),
        FileKind::Regular => contents(image, nid, attr.size, bytes),
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => {}
    }
    Vec::new()
}

/// Reads the start of a file, its end, and places between; `left` is how much may be read.
fn contents(image: &dyn Image, nid: Nid, size: u64, left: &mut u64) {
    let Ok(file) = image.open(nid) else { return };
    let mut buf = vec![0; 64 << 10];
    let start = (0..size.min(1 << 20)).step_by(buf.len());
    let places = (0..size).step_by((size / 8 + 1) as usize);
    for at in start.chain(places).chain([size.saturating_sub(1), size, size / 3, u64::MAX]) {
        *left = left.saturating_sub(buf.len() as u64);
        if *left == 0 {
            return;
        }
        // There is nothing to unpack at the end, as a source knows.
        let packed = if at < size { file.packed(at) } else { Ok(None) };
        match packed {
            Ok(None) => {
                let read = file.read(at, &mut buf).unwrap_or_default();
                assert!(read <= buf.len(), "{read} bytes for {}", buf.len());
            }
            Ok(Some(range)) => {
                assert!(range.contains(&at), "{range:?} without {at}");
                let length = range.end - range.start;
                // As a source does, which refuses what no format has.
                if length > 16 << 20 {
                    continue;
                }
                *left = left.saturating_sub(length);
                if let Ok(bytes) = file.unpack(range) {
                    // Of fewer it makes an error.
                    assert!(bytes.len() as u64 <= length, "{} bytes for {length}", bytes.len());
                }
            }
            Err(_) => {}
        }
    }
}

/// Opens an image that is in memory; whoever reads it has it as a file.
///
/// # Errors
/// Those of the reader.
pub fn open(format: Format, image: &[u8]) -> Result<Arc<dyn Image>, ImageError> {
    let file = memfd_create(c"image", MFdFlags::MFD_CLOEXEC).expect("a file in memory");
    let file = File::from(file);
    file.write_all_at(image, 0).expect("room for an image");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let device = Arc::new(Device::open(Path::new(&path), Part::default())?);
    match format {
        #[cfg(feature = "squashfs")]
        Format::Squashfs => idmapfs::source::image::squashfs::open(device),
        #[cfg(feature = "erofs")]
        Format::Erofs => idmapfs::source::image::erofs::open(device),
        #[cfg(feature = "ext4")]
        Format::Ext4 => idmapfs::source::image::ext4::open(device),
        // Without its reader: which says so.
        #[cfg(not(all(feature = "erofs", feature = "ext4", feature = "squashfs")))]
        _ => idmapfs::source::image::read(&device),
    }
}
