//! Range locks of files.

use std::fmt;

use crate::error::Result;

/// A range lock of a file, as in fcntl(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Shared, exclusive, or none.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX >> 1` is the end of the file.
    pub end: u64,
    /// The process that holds it, as far as the host can tell; 0 if not.
    pub pid: u32,
}

/// The kind of a range lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// `F_RDLCK`.
    Shared,
    /// `F_WRLCK`.
    Exclusive,
    /// `F_UNLCK`.
    None,
}

/// The range locks of one owner on one file; all go when it is dropped.
pub trait Locks: Send + Sync + fmt::Debug {
    /// Sets or removes a lock without waiting.
    ///
    /// # Errors
    /// `EAGAIN` if another owner's lock is in the way; as fcntl(2).
    fn set(&self, lock: &Lock) -> Result<()>;

    /// Returns the lock that is in the way of this one, if any.
    ///
    /// # Errors
    /// As fcntl(2).
    fn test(&self, lock: &Lock) -> Result<Option<Lock>>;
}
