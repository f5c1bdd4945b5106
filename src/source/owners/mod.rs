//! Owners kept beside the files, for a server that may not give files away.
//!
//! A source around another one: every file on disk belongs to the server's own
//! ids, and what it is to callers (owner, mode, kind) is a [`Record`], kept by a
//! [`Store`].

pub mod db;
mod error;
mod kept;
pub mod live;
mod record;
mod store;
mod xattr;

use std::path::PathBuf;
use std::sync::Arc;

use super::Source;
use crate::id::{Disk, Ids};
use crate::sys::cred::own_ids;

pub use error::OwnersError;
pub use kept::Kept;
pub use store::{Record, Store};
pub use xattr::Xattrs;

/// Where owners are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// In the files' own attributes, as the file system of the source has them.
    #[default]
    Native,
    /// In extended attributes of the files.
    Xattr,
    /// In a database in this directory; `None`: where the user's state is.
    Db(Option<PathBuf>),
}

impl Owners {
    /// Returns the word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Xattr => "xattr",
            Self::Db(_) => "db",
        }
    }

    /// Reports whether owners are those that the file system has.
    pub const fn is_native(&self) -> bool {
        matches!(self, Self::Native)
    }
}

/// Puts the owners that are kept beside a source around it.
///
/// # Errors
/// Names what is missing and the way out.
pub fn open(below: Arc<dyn Source>, owners: &Owners) -> Result<Arc<dyn Source>, OwnersError> {
    let store: Arc<dyn Store> = match owners {
        Owners::Native => return Ok(below),
        Owners::Xattr => Arc::new(Xattrs::new(&*below).map_err(OwnersError::of_xattrs)?),
        // The one place where the store of a database is made.
        Owners::Db(_) => return Err(OwnersError::NoDatabase),
    };
    let own: Ids<Disk> = own_ids().map_err(OwnersError::Ids)?;
    Ok(Arc::new(Kept::new(below, store, own)))
}
