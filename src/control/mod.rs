//! What is known of a live mount, outside of its server: a locked file and a
//! socket, named by the mount's device minor.
//!
//! They are in `/run/idmapfs` for root and in `$XDG_RUNTIME_DIR/idmapfs` for
//! others. The file can be read while the server hangs; the lock on it is held
//! for as long as the server lives, so that what a killed one has left is
//! recognised.
//!
//! A private mount is known by its process outside of its namespace, and by no path.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::text::{plain, shown};

mod abort;
mod directory;
mod facts;
mod path;
mod process;
mod publish;
mod record;
mod request;

pub use abort::{abort, abort_connection};
pub use directory::{live, own as directory};
pub use facts::{Bytes, Facts, Said, Stats};
pub use publish::{Answers, Outcome, Published, publish};
pub use record::Record;
pub use request::{describe, reload, stats};

#[cfg(test)]
mod tests;

/// Why what is known of a mount cannot be kept or used.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is nowhere to keep it.
    #[error("neither /run/idmapfs nor $XDG_RUNTIME_DIR/idmapfs can be used: {}", plain(.0))]
    Nowhere(io::Error),
    /// The directory belongs to somebody else, or is open to others.
    #[error("{}: must be a directory that only this user can write to", shown(.0))]
    Unsafe(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {}", shown(.path), plain(.why))]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        why: io::Error,
    },
    /// Nothing of ours is mounted there.
    #[error("{}: no idmapfs is mounted there, nor known of", shown(.0))]
    Unknown(PathBuf),
    /// The kernel translates, and no server.
    #[error("{}: a kernel idmapped mount, without a server", shown(.0))]
    Kernel(PathBuf),
    /// The server of a mount cannot be asked.
    #[error("{}: its server cannot be asked: {}{}", shown(.point), plain(.why), ask_hint(.why))]
    Ask {
        /// The mount point.
        point: PathBuf,
        /// The error.
        why: io::Error,
    },
    /// The server of a mount has said no, in one line.
    #[error("{0}")]
    Refused(String),
    /// The connection cannot be aborted.
    #[error("FUSE connection {number}: {}{}", plain(.why), abort_hint(.why))]
    Abort {
        /// The number of the connection.
        number: u32,
        /// The error.
        why: io::Error,
    },
}

fn ask_hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::ENOENT) => "; it keeps no socket, or in a place that is not known here",
        // A socket is of one mount: nobody listens at what the view shows of it.
        Some(libc::ECONNREFUSED) => {
            "; it has ended, or its socket is seen through the mount itself: ask from outside"
        }
        Some(libc::ECONNRESET) => "; it has ended",
        Some(libc::EACCES) => "; only its user and root may ask it",
        Some(libc::EAGAIN) => "; it has not answered in time, and may still do it",
        _ => "",
    }
}

fn abort_hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::ENOENT) => "; it has ended already",
        Some(libc::EACCES | libc::EPERM) => {
            "; only its user and root may abort it, and where fusectl is not mounted only root"
        }
        _ => "",
    }
}
