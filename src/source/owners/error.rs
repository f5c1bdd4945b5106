//! Why owners cannot be kept beside a source.

use std::io;

use crate::error::Error;
use crate::text::plain;

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
    /// This version has no database.
    #[error("option owners: db: not in this version; owners=xattr keeps them in the files")]
    NoDatabase,
    /// The server's own ids cannot be had.
    #[error("option owners: the ids of this user: {}", plain(.0))]
    Ids(io::Error),
}

impl OwnersError {
    /// Says why the attributes of a source are of no use.
    pub(super) const fn of_xattrs(error: Error) -> Self {
        if error.is(libc::EOPNOTSUPP) { Self::NoXattrs } else { Self::Xattrs(error) }
    }
}
