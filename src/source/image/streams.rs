//! The descriptors that a file is read by, of each of which the host reads ahead.
//!
//! It does so where a read begins at the end of the one before. With one descriptor for
//! all, two readers of two files look like one that jumps to and fro, and wait for the
//! disk with each read.

use std::fs::{self, File, Metadata};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::Arc;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{major, minor};

use crate::sys::procfs::Procfs;

/// How many there are, unless no more can be opened.
const COUNT: usize = 8;

/// For how many bytes one of them is the same: which file of an image they belong to does
/// not matter to it.
const ZONE: u64 = 32 << 20;

/// From how many KiB on the host reads far enough ahead by itself. Most disks have 128,
/// and are a sixth faster with twice that; one that had 8192 was a tenth slower.
const FAR: u32 = 1024;

/// Descriptors of one file, each with a place of its own.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    first: Arc<File>,
    others: Arc<[File]>,
}

impl Streams {
    /// Opens a regular file or a block device, which this is one of, some times more.
    pub fn new(first: File, metadata: &Metadata) -> Self {
        let procfs = Procfs::open();
        let again = || procfs.as_ref().ok()?.reopen(first.as_fd(), OFlag::O_RDONLY).ok();
        let others: Arc<[File]> = (1..COUNT).map_while(|_| again().map(File::from)).collect();
        if ahead(metadata).is_none_or(|kib| kib < FAR) {
            for file in others.iter().chain([&first]) {
                // No more than advice, and some file systems take none.
                let (Ok(()) | Err(_)) =
                    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
            }
        }
        Self { first: Arc::new(first), others }
    }

    /// Returns the descriptor that was there before.
    pub fn first(&self) -> &File {
        &self.first
    }

    /// Returns what to read at an offset by.
    pub fn at(&self, offset: u64) -> &File {
        let count = self.others.len().saturating_add(1);
        let zone = usize::try_from(offset / ZONE).unwrap_or(usize::MAX);
        let other = zone.checked_rem(count).and_then(|which| which.checked_sub(1));
        other.and_then(|other| self.others.get(other)).unwrap_or(&self.first)
    }
}

/// Returns how far the host reads ahead on the disk of a file, in KiB, where it says.
fn ahead(of: &Metadata) -> Option<u32> {
    let disk = if of.file_type().is_block_device() { of.rdev() } else { of.dev() };
    let disk = format!("/sys/dev/block/{}:{}", major(disk), minor(disk));
    // The second is a partition's.
    let said = ["queue/read_ahead_kb", "../queue/read_ahead_kb"];
    let said = said.iter().find_map(|name| fs::read_to_string(format!("{disk}/{name}")).ok())?;
    said.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    #[test]
    fn what_is_far_from_each_other_is_read_by_descriptors_of_their_own() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        let streams = Streams::new(file, &metadata);
        let mut near = streams.at(ZONE - 1);
        near.seek(SeekFrom::Start(7)).unwrap();
        assert_eq!(streams.at(0).stream_position().unwrap(), 7);
        for zone in 1..8 {
            assert_eq!(streams.at(zone * ZONE).stream_position().unwrap(), 0, "{zone}");
        }
        assert_eq!(streams.at(8 * ZONE).stream_position().unwrap(), 7);
    }
}
