//! Ids typed by kind (user or group) and side (disk or view).
//!
//! The types are the wall that the whole file system stands behind: an id of
//! one side cannot be used as an id of the other, and the only way across is a
//! [`Translate`](crate::policy::Translate). Raw numbers enter and leave only
//! through [`Id::new`] and [`Id::raw`], which `id`, `sys`, `source/host` and
//! `fuse` call.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}

/// What an id identifies: a user or a group.
pub trait Kind: sealed::Sealed + Copy + fmt::Debug + Send + Sync + 'static {
    /// The letter that names the kind in an extent: `u` or `g`.
    const LETTER: char;
    /// The word that names the kind in messages: `uid` or `gid`.
    const WORD: &'static str;
}

/// Where an id has its meaning: on disk or in the view.
pub trait Side: sealed::Sealed + Copy + fmt::Debug + Send + Sync + 'static {
    /// The word that names the side in messages: `disk` or `view`.
    const WORD: &'static str;
}

/// The kind of user ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {}

/// The kind of group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {}

/// The side of ids that the source stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disk {}

/// The side of ids that callers see and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {}

impl sealed::Sealed for User {}
impl sealed::Sealed for Group {}
impl sealed::Sealed for Disk {}
impl sealed::Sealed for View {}

impl Kind for User {
    const LETTER: char = 'u';
    const WORD: &'static str = "uid";
}

impl Kind for Group {
    const LETTER: char = 'g';
    const WORD: &'static str = "gid";
}

impl Side for Disk {
    const WORD: &'static str = "disk";
}

impl Side for View {
    const WORD: &'static str = "view";
}

/// The number that is no id at all: `(uid_t) -1`.
pub const NO_ID: u32 = u32::MAX;

/// A uid or gid of one side, in 0..=4294967294.
pub struct Id<K: Kind, S: Side> {
    raw: u32,
    of: PhantomData<(K, S)>,
}

impl<K: Kind, S: Side> Id<K, S> {
    /// Makes an id of a raw number; 4294967295 is no id and gives `None`.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == NO_ID { None } else { Some(Self { raw, of: PhantomData }) }
    }

    /// Returns the raw number, in 0..=4294967294.
    pub const fn raw(self) -> u32 {
        self.raw
    }

    /// Reports whether this is id 0, root of its side.
    pub const fn is_root(self) -> bool {
        self.raw == 0
    }
}

impl<K: Kind, S: Side> Clone for Id<K, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Kind, S: Side> Copy for Id<K, S> {}

impl<K: Kind, S: Side> PartialEq for Id<K, S> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<K: Kind, S: Side> Eq for Id<K, S> {}

impl<K: Kind, S: Side> PartialOrd for Id<K, S> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Kind, S: Side> Ord for Id<K, S> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}

impl<K: Kind, S: Side> Hash for Id<K, S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl<K: Kind, S: Side> fmt::Debug for Id<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", S::WORD, K::WORD, self.raw)
    }
}

impl<K: Kind, S: Side> fmt::Display for Id<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.raw)
    }
}

/// The owner of a file on one side; `None` where that side has no id for it.
///
/// On the view side `None` is *unmapped*: callers are shown the overflow id.
/// On the disk side it is an id that the server's own user namespace does not
/// map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner<S: Side> {
    /// The owning user.
    pub uid: Option<Id<User, S>>,
    /// The owning group.
    pub gid: Option<Id<Group, S>>,
}

/// A complete pair of ids of one side: what a new file is born with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ids<S: Side> {
    /// The user.
    pub uid: Id<User, S>,
    /// The group.
    pub gid: Id<Group, S>,
}

impl<S: Side> Ids<S> {
    /// Makes a pair of raw numbers; `None` where either is 4294967295.
    pub const fn new(uid: u32, gid: u32) -> Option<Self> {
        match (Id::new(uid), Id::new(gid)) {
            (Some(uid), Some(gid)) => Some(Self { uid, gid }),
            _ => None,
        }
    }
}

impl<S: Side> From<Ids<S>> for Owner<S> {
    fn from(ids: Ids<S>) -> Self {
        Self { uid: Some(ids.uid), gid: Some(ids.gid) }
    }
}

impl<S: Side> fmt::Display for Ids<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// The process behind a request, in view ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The file system uid; `None` where the view has no id for the caller.
    pub uid: Option<Id<User, View>>,
    /// The file system gid; `None` where the view has no id for the caller.
    pub gid: Option<Id<Group, View>>,
    /// The thread id, in the process id namespace of the mount; 0 if unknown.
    pub pid: u32,
}
