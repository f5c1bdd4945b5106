//! The contents of files: nothing of them is packed.

use std::fmt;
use std::sync::Arc;

use fs_ext4::inode::InodeFlags;

use super::{Found, Volume, no_key, xattr};
use crate::error::Result;
use crate::source::image::{Contents, Stretch};

/// The contents of a file.
pub(super) struct Bytes {
    volume: Arc<Volume>,
    file: Found,
    /// All of it, where it is in the inode.
    inline: Option<Vec<u8>>,
}

impl Bytes {
    /// Opens a regular file.
    pub fn new(volume: Arc<Volume>, file: Found) -> Result<Self> {
        if !file.inode.is_file() {
            return Err(volume.failed(file.ino, &"no regular file"));
        }
        if file.has(InodeFlags::ENCRYPT) {
            return Err(no_key());
        }
        let inline =
            file.has(InodeFlags::INLINE_DATA).then(|| xattr::inline(&volume, &file)).transpose()?;
        Ok(Self { volume, file, inline })
    }
}

impl Contents for Bytes {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.file.inode.size.saturating_sub(offset);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..length).unwrap_or_default();
        let Some(inline) = &self.inline else {
            self.volume.fill(&self.file, offset, buf)?;
            return Ok(length);
        };
        // Whatever is missing of it is zeros, as for the kernel.
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = inline.get(start..).unwrap_or_default();
        let (data, zeros) = buf.split_at_mut(from.len().min(length));
        data.copy_from_slice(from.get(..data.len()).unwrap_or_default());
        zeros.fill(0);
        Ok(length)
    }

    /// Blocks that are there and were never written to are a hole, as the kernel has it.
    fn stretch(&self, offset: u64) -> Result<Stretch> {
        if self.inline.is_some() {
            return Ok(Stretch { is_hole: false, end: u64::MAX });
        }
        let span = self.volume.span(&self.file, offset)?;
        Ok(Stretch { is_hole: span.at.is_none(), end: offset.saturating_add(span.length) })
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes").field("ino", &self.file.ino).finish_non_exhaustive()
    }
}
