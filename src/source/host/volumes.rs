//! The file systems below a source that have been met so far.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::volume::{Place, TAG_MASK, Volume, tag};
use super::watch::HostWatch;
use crate::sync::{lock, read, write};
use crate::sys::procfs::Procfs;
use crate::sys::stat::Stat;

/// The volumes met so far, by mount and device.
#[derive(Debug)]
pub(super) struct Volumes {
    root: Arc<Volume>,
    known: RwLock<HashMap<(u64, u64), Arc<Volume>>>,
    /// Held by whoever adds one: what that waits for is waited for by no other.
    adding: Mutex<()>,
    watch: OnceLock<Arc<HostWatch>>,
}

impl Volumes {
    /// Starts with the volume of the root.
    ///
    /// # Errors
    /// As open(2), statfs(2).
    pub fn new(procfs: &Procfs, root: BorrowedFd<'_>, stat: &Stat) -> nix::Result<Self> {
        let root = Arc::new(Volume::probe(procfs, root, stat.dev, true)?);
        let known = HashMap::from([((stat.mount, stat.dev), Arc::clone(&root))]);
        Ok(Self {
            root,
            known: RwLock::new(known),
            adding: Mutex::default(),
            watch: OnceLock::new(),
        })
    }

    /// Has volumes watched from now on, before anything of them is told.
    ///
    /// Returns `false` if they are watched already.
    pub fn watch(&self, watch: &Arc<HostWatch>) -> bool {
        self.watch.set(Arc::clone(watch)).is_ok()
    }

    /// Returns the volume of the root.
    pub const fn root(&self) -> &Arc<Volume> {
        &self.root
    }

    /// Returns the volume of a file, if it is known.
    pub fn get(&self, stat: &Stat) -> Option<Arc<Volume>> {
        let known = read(&self.known);
        known.get(&(stat.mount, stat.dev)).cloned()
    }

    /// Returns the volume of a tag, if it is known.
    pub fn tagged(&self, tag: u64) -> Option<Arc<Volume>> {
        if tag == self.root.tag {
            return Some(Arc::clone(&self.root));
        }
        let known = read(&self.known);
        known.values().find(|volume| volume.tag == tag).cloned()
    }

    /// Returns what a volume is called wherever it is: the root's is 0.
    pub fn lasting(&self, tag: u64) -> u64 {
        if tag == self.root.tag {
            return tag;
        }
        match self.tagged(tag).and_then(|volume| volume.name) {
            // The same file system, which is mounted below itself once more.
            name if name.is_some() && name == self.root.name => self.root.tag,
            name => name.unwrap_or(tag),
        }
    }

    /// Adds the volume of a file that is open as `fd`, met at a place.
    ///
    /// # Errors
    /// As open(2), statfs(2).
    pub fn add(
        &self,
        procfs: &Procfs,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        place: Place<'_>,
    ) -> nix::Result<Arc<Volume>> {
        let is_dir = stat.mode & libc::S_IFMT == libc::S_IFDIR;
        let mut volume = Volume::probe(procfs, fd, stat.dev, is_dir)?;
        let adding = lock(&self.adding);
        if let Some(volume) = self.get(stat) {
            return Ok(volume);
        }
        let wanted = if is_dir { place.tag() } else { tag(&[&stat.dev.to_le_bytes()]) };
        volume.tag = free(wanted, |tag| self.tagged(tag).is_some());
        let volume = Arc::new(volume);
        if let Some(watch) = self.watch.get() {
            watch.cover(&volume, fd, stat);
        }
        write(&self.known).insert((stat.mount, stat.dev), Arc::clone(&volume));
        drop(adding);
        Ok(volume)
    }
}

/// Returns the tag that is wanted, or the next one that is free.
fn free(wanted: u64, taken: impl Fn(u64) -> bool) -> u64 {
    let mut tag = wanted;
    while taken(tag) {
        tag = (tag.wrapping_add(1) & TAG_MASK).max(1);
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_tag_is_not_given_again() {
        assert_eq!(free(7, |_| false), 7);
        assert_eq!(free(7, |tag| tag < 10), 10);
        assert_eq!(free(TAG_MASK, |tag| tag == TAG_MASK), 1);
    }
}
