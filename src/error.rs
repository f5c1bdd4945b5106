//! The one table of errors of the request path.

use std::fmt;

/// A Linux error number, as in errno(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// Why a request failed; small and `Copy`, since most failures are ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The source answered with this error.
    Os(Errno),
    /// An id has no counterpart on the other side.
    Unmapped,
    /// An ACL or a capability names an id with no counterpart on disk.
    UnmappedEntry,
    /// The file that is there now is not the one that was looked up.
    Stale,
    /// The server may not make files of that owner.
    NotOurs,
    /// The mount does not show or change this.
    Denied,
    /// A rule hides this name; the kernel must not remember that it is not
    /// there.
    Hidden,
    /// The file system under the source, or the library, cannot do this.
    Unsupported,
    /// The node id or handle is not one that was given out.
    Unknown,
    /// The name is not one that a directory entry can have.
    BadName,
    /// A value from the caller is malformed or out of range.
    Invalid,
    /// The source is another one than was mounted, for good; logged when that was seen.
    Changed,
    /// A fault of the server itself; logged where it happened.
    Internal,
}

/// The result of an operation on the request path.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Returns the error number that the caller sees.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Os(errno) => errno,
            Self::Unmapped => Errno(libc::EOVERFLOW),
            Self::UnmappedEntry | Self::Invalid => Errno(libc::EINVAL),
            Self::Stale | Self::Unknown => Errno(libc::ESTALE),
            Self::NotOurs | Self::Denied => Errno(libc::EPERM),
            Self::Hidden => Errno(libc::ENOENT),
            Self::Unsupported => Errno(libc::EOPNOTSUPP),
            Self::BadName => Errno(libc::ENAMETOOLONG),
            Self::Changed | Self::Internal => Errno(libc::EIO),
        }
    }

    /// Reports whether this is the given error number.
    pub const fn is(self, errno: i32) -> bool {
        self.errno().0 == errno
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Os(Errno(errno as i32))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().map_or(Self::Internal, |raw| Self::Os(Errno(raw)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::Os(errno) => {
                return write!(f, "{}", std::io::Error::from_raw_os_error(errno.0));
            }
            Self::Unmapped => "the id has no counterpart on the other side",
            Self::UnmappedEntry => "an entry names an id with no counterpart on disk",
            Self::Stale => "another file is there now",
            Self::NotOurs => "the server may not store files of that owner",
            Self::Denied => "the mount does not allow this",
            Self::Hidden => "no such name",
            Self::Unsupported => "not supported by the source",
            Self::Unknown => "no such node or handle",
            Self::BadName => "not a name of a directory entry",
            Self::Invalid => "invalid value",
            Self::Changed => "the source has changed",
            Self::Internal => "internal error",
        };
        f.write_str(why)
    }
}

impl std::error::Error for Error {}
