//! Why owners cannot be kept beside a source.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::text::{plain, shown};

use super::db::DbError;

/// Why owners cannot be kept beside a source.
#[derive(Debug, thiserror::Error)]
pub enum OwnersError {
    /// The file system of the source keeps no extended attributes of users.
    #[error(
        "option owners: xattr: the file system of the source keeps no user.* attributes; \
         ext4, XFS, Btrfs and, from Linux 6.6 on, tmpfs do"
    )]
    NoXattrs,
    /// The attributes of the source's root cannot be read.
    #[error("option owners: xattr: the attributes of the source cannot be read: {0}")]
    Xattrs(Error),
    /// The database cannot be used.
    #[error("option owners: db: {0}")]
    Db(#[from] DbError),
    /// A command works on the records.
    #[error(
        "{path}: idmapfs owners, or another program, has it locked; wait for that to end",
        path = shown(.0)
    )]
    Busy(PathBuf),
    /// The source cannot be locked.
    #[error("{}: {}", shown(.0), plain(.1))]
    Source(PathBuf, io::Error),
    /// The server's own ids cannot be had.
    #[error("option owners: the ids of this user: {}", plain(.0))]
    Ids(io::Error),
}

impl OwnersError {
    /// Says why a source cannot be held.
    pub(super) fn of_hold(path: &Path, why: io::Error) -> Self {
        if why.raw_os_error() == Some(libc::EAGAIN) {
            Self::Busy(path.to_owned())
        } else {
            Self::Source(path.to_owned(), why)
        }
    }

    /// Says why the attributes of a source are of no use.
    pub(super) const fn of_xattrs(error: Error) -> Self {
        if error.is(libc::EOPNOTSUPP) { Self::NoXattrs } else { Self::Xattrs(error) }
    }
}
