//! An open file, and what it was opened for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::budget::Share;
use crate::source::{File, Node};
use crate::sync::lock;

/// The flag that the kernel opens a file with that is to be executed
/// (`FMODE_EXEC`); no caller can give it by itself.
pub(super) const OPEN_TO_EXECUTE: i32 = 0x20;

/// What an open file was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Whether it can be read.
    pub read: bool,
    /// Whether it can be written.
    pub write: bool,
}

impl Access {
    /// Returns the access that flags as in open(2) ask for.
    pub(super) const fn of(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Self { read: true, write: false },
            libc::O_WRONLY => Self { read: false, write: true },
            _ => Self { read: true, write: true },
        }
    }

    /// Reports whether this is enough for what needs `other`.
    pub(super) const fn allows(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write)
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Open {
    /// The number of its node.
    pub number: u64,
    /// The file.
    pub file: Arc<dyn File>,
    /// What it was opened for.
    pub access: Access,
    /// Whether it was opened with `O_APPEND`; by now it may be otherwise.
    pub appends: bool,
    /// Its node, which may outlive all its names; a file that was made and
    /// opened in one step has none until it loses a name.
    pub node: OnceLock<Node>,
    /// Whether the kernel reads and writes it by itself.
    pub lent: AtomicBool,
    /// Whether it is closed without a flush: nobody had a lock on the file.
    pub quiet: AtomicBool,
    /// Its descriptors, where they count for a caller.
    share: Mutex<Option<Share>>,
}

impl Open {
    /// Makes an open file; `node` is what it was opened by.
    pub(super) fn new(
        number: u64,
        file: Arc<dyn File>,
        flags: i32,
        node: Option<Node>,
        share: impl Into<Option<Share>>,
    ) -> Self {
        let node = node.map_or_else(OnceLock::new, OnceLock::from);
        let (lent, quiet) = (AtomicBool::new(false), AtomicBool::new(false));
        Self {
            number,
            file,
            access: Access::of(flags),
            appends: flags & libc::O_APPEND != 0,
            node,
            lent,
            quiet,
            share: Mutex::new(share.into()),
        }
    }

    /// Lets its descriptors count for nobody.
    pub(super) fn give_share_back(&self) {
        drop(lock(&self.share).take());
    }

    /// Reports whether it is closed without a flush.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Reports whether the kernel writes it by itself.
    pub(super) fn is_passed_writing(&self) -> bool {
        self.access.write && self.lent.load(Ordering::Relaxed)
    }
}
