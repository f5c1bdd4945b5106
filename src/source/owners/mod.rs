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

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Source;
use super::host::Host;
use crate::id::{Disk, Ids};
use crate::sys::cred::own_ids;
use crate::text::shown;

use db::{Db, DbError};
use live::{Hold, Place};

pub use error::OwnersError;
pub use kept::{Kept, is_exposed, real_mode};
pub use store::{InodeId, Record, Store, Write};
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

    /// Returns the directory in which files are made for them, besides the source.
    pub fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Native | Self::Xattr => None,
            Self::Db(dir) => dir.clone().or_else(db::default_dir),
        }
    }

    /// Reports whether owners are those that the file system has.
    pub const fn is_native(&self) -> bool {
        matches!(self, Self::Native)
    }
}

/// Puts the owners that are kept beside a source around it; `path` is where that is.
///
/// Belongs into the process that serves: neither the locks of the source nor a database
/// are to be shared with one that goes on by itself.
///
/// # Errors
/// Names what is missing and the way out.
pub fn open(
    below: Arc<Host>,
    path: &Path,
    owners: &Owners,
) -> Result<Arc<dyn Source>, OwnersError> {
    if owners.is_native() {
        return Ok(below);
    }
    // The one place where the store of a database is made.
    let db = if let Owners::Db(dir) = owners {
        let dir = dir.clone().or_else(db::default_dir).ok_or(DbError::Nowhere)?;
        Some(Arc::new(Db::open(&dir, path, &*below)?))
    } else {
        None
    };
    let hold = Hold::shared(&|| place(&below, db.as_deref()))
        .map_err(|why| OwnersError::of_hold(path, why))?;
    let store: Arc<dyn Store> = if let Some(db) = db {
        sweep(&db, &*below);
        db
    } else {
        Arc::new(Xattrs::new(&*below).map_err(OwnersError::of_xattrs)?)
    };
    let own: Ids<Disk> = own_ids().map_err(OwnersError::Ids)?;
    Ok(Arc::new(Kept::new(below, store, own, hold)))
}

/// Returns where the locks of a source are: beside its database, else in the directory
/// that its servers share; `None` where no file can be made.
///
/// # Errors
/// As open(2), mkdir(2).
pub fn place(below: &Host, db: Option<&Db>) -> io::Result<Option<Place>> {
    if let Some(db) = db {
        let mut name = db.file().file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        return Ok(Some(Place { dir: File::open(db.dir())?.into(), name }));
    }
    let shared = below.shared_place();
    let dir = shared.map_err(|error| io::Error::from_raw_os_error(error.errno().0))?;
    Ok(dir.map(|dir| Place { dir, name: "lock".into() }))
}

/// Removes records of files that are long gone; what keeps that from being done is no
/// reason not to serve.
fn sweep(db: &Db, below: &dyn Source) {
    match db.sweep(below) {
        Ok(Some(swept)) if swept.removed > 0 => {
            log::info!("{}: {} records of files that are gone", shown(db.file()), swept.removed);
        }
        Ok(_) => {}
        Err(error) => log::warn!("{}: not swept: {error}", shown(db.file())),
    }
}
