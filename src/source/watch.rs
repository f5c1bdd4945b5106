//! Hearing of what others change in a source.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::BorrowedFd;

use super::{Key, Node};
use crate::error::Result;

/// How much is heard of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    /// Every change of every file, but for times of access, inode flags, what is
    /// written through shared mappings, and what an overlay file system writes
    /// to its layers.
    Everything,
    /// What is done by way of the names in directories that were added, see
    /// [`Watch::add`]: not what is done to a file by a name elsewhere.
    Directories,
    /// Nothing.
    Nothing,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Attributes, ACLs or other extended attributes of a file, its link count.
    Attributes(Key),
    /// The contents of a file, and so its size and times.
    Contents(Key),
    /// A name: made, removed, or leading elsewhere; with it the times of its
    /// directory, and the link counts of both. A rename is two of them.
    Name {
        /// The directory that has it, or had it.
        dir: Key,
        /// The name.
        name: OsString,
        /// The file that it has to do with, where that is told.
        file: Option<Key>,
    },
    /// Events were lost: anything may have changed.
    Lost,
}

/// Something that was heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What has changed.
    pub what: What,
    /// Whether this process did it.
    pub own: bool,
}

/// Hears of changes in a source; see [`super::Source::watch`].
///
/// What is heard of has happened; a change that is not heard of yet may have
/// happened already. Nobody who changes a file waits for this.
pub trait Watch: Send + Sync + fmt::Debug {
    /// Returns how much is heard of a volume, by [`super::Key::volume`].
    fn covers(&self, volume: u64) -> Covers;

    /// Says why nothing is heard of a volume, if so.
    fn unwatched(&self, volume: u64) -> Option<Unwatched>;

    /// Hears of a directory's names and their files from now on, and returns
    /// the era; `None` if it does not. Belongs before the directory is looked
    /// at.
    ///
    /// Where the whole volume is watched there is nothing to do.
    fn add(&self, dir: &Node) -> Option<u64>;

    /// Says why a directory was not added, once one was not because there are as many
    /// already as this user may have.
    fn shortage(&self) -> Option<String>;

    /// Returns the era: a directory that was added in an earlier one is heard of
    /// no longer. [`What::Lost`] follows whenever one ends.
    fn era(&self) -> u64;

    /// Waits until something has happened, and passes on what has; each call
    /// says whether it mattered.
    ///
    /// Where nothing did, and now and then where much did, the next events are
    /// let gather for a millisecond: a change then costs whoever makes it less
    /// than waking a reader each time, this process too.
    ///
    /// What is passed on may call this again, but for this function.
    ///
    /// # Errors
    /// As poll(2), read(2).
    fn wait(&self, each: &mut dyn FnMut(&Happened) -> bool) -> Result<()>;

    /// Makes a call of [`Watch::wait`] return, now or at once.
    fn wake(&self);

    /// Hears no longer of the contents of a file, which will change often.
    fn ignore_contents(&self, file: &Node);

    /// Takes [`Watch::ignore_contents`] back.
    fn heed_contents(&self, file: &Node);

    /// Hears nothing of what this server writes to its device, each of its answers,
    /// where the file system that holds the device is watched as well.
    fn ignore_device(&self, _device: BorrowedFd<'_>) {}

    /// Says in a few words how the root is watched.
    fn describe(&self) -> String;
}

/// Why a source, or a part of it, cannot be watched: a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched(pub String);
