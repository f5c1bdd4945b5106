//! `idmapfs owners`: records of owners from and to files, their consistency, their
//! removal.

pub(super) mod ask;
mod check;
mod export;
mod extension;
mod import;
mod line;
mod remove;
pub(super) mod survey;
mod unpack;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{Exit, Fault};
use crate::attr::Name;
use crate::error::Error;
use crate::id::{Disk, Ids};
use crate::source::host::{Host, HostOptions};
use crate::source::owners::db::{self, Db};
use crate::source::owners::live::Hold;
use crate::source::owners::{self, Kept, Store, Xattrs};
use crate::source::{Found, Node, Source};
use crate::sys::{cred, daemon};
use crate::text::{plain, shown};

/// What is to be done with the records of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take them from a tar or from JSON; `-` is standard input.
    Import(PathBuf),
    /// Write JSON to standard output, or a tar to a file; `-` is standard output.
    Export(Option<PathBuf>),
    /// Say what is wrong with them; `true`: mend what needs no guess.
    Check(bool),
    /// Remove them all.
    Drop,
}

/// Where records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In attributes of the files.
    Xattr,
    /// In a database.
    Db,
}

/// A request about the records of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// What to do.
    pub action: Action,
    /// The directory.
    pub dir: PathBuf,
    /// Where its records are.
    pub kind: Kind,
    /// The directory of the database, if another than the usual one.
    pub database: Option<PathBuf>,
}

/// A directory with its records.
struct Opened {
    /// The directory as it is on disk.
    below: Arc<dyn Source>,
    /// The directory as a mount has it.
    view: Arc<Kept>,
    store: Arc<dyn Store>,
    /// The same, if it is a database.
    db: Option<Arc<Db>>,
    own: Ids<Disk>,
}

/// Does what is asked for; returns the exit status.
///
/// # Errors
/// Names what is wrong and the way out.
pub fn owners(request: &Owners, out: &mut dyn Write) -> Result<u8, Fault> {
    let alone = match &request.action {
        Action::Import(_) | Action::Drop => true,
        Action::Export(_) | Action::Check(false) => false,
        Action::Check(true) => true,
    };
    // A walk holds descriptors for each level.
    let (Ok(_) | Err(_)) = daemon::raise_descriptors();
    let opened = Opened::new(request, alone)?;
    let clean = match &request.action {
        Action::Import(from) => import::import(&opened, from)?,
        Action::Export(None) => export::json(&opened, out)?,
        Action::Export(Some(to)) => export::tar(&opened, to)?,
        Action::Check(fix) => check::check(&opened, *fix, out)?,
        Action::Drop => {
            remove::remove(&opened, out)?;
            true
        }
    };
    Ok(if clean { 0 } else { Exit::Usage.code() })
}

/// Takes the records for this command alone, or says that they are in use.
fn hold(dir: &Path, (below, db): (&Host, Option<&Db>), alone: bool) -> Result<Hold, Fault> {
    if !alone && db.is_none() && !below.has_shared_place() {
        // Who only reads makes nothing in a source that nobody serves.
        return Ok(Hold::default());
    }
    let place = || owners::place(below, db);
    let busy = |why: &io::Error| why.raw_os_error() == Some(libc::EAGAIN);
    let fault = |why: io::Error| Fault::usage(format!("{}: {}", shown(dir), plain(&why)));
    match Hold::alone(&place) {
        Err(why) if busy(&why) => {}
        held => return held.map_err(fault),
    }
    let used = || {
        Fault::mount(format!("{}: its owners are in use", shown(dir)))
            .hint("unmount every mount of it that keeps owners, or wait for the other command")
    };
    if alone {
        return Err(used());
    }
    let held = Hold::shared(&place).map_err(|why| if busy(&why) { used() } else { fault(why) })?;
    warn(&format!("{}: is mounted: what changes meanwhile may be missing", shown(dir)));
    Ok(held)
}

/// Says something that does not keep the command from going on.
pub(super) fn warn(line: &str) {
    // The exit status says it too.
    let (Ok(()) | Err(_)) = writeln!(io::stderr(), "idmapfs: {line}");
}

impl Opened {
    fn new(request: &Owners, alone: bool) -> Result<Self, Fault> {
        let below =
            Host::open(&request.dir, &HostOptions { staging: true, ..HostOptions::default() })
                .map_err(|why| Fault::usage(why.to_string()))?;
        let below = Arc::new(below);
        let (store, db): (Arc<dyn Store>, _) = match request.kind {
            Kind::Xattr => {
                let store = Xattrs::new(&*below).map_err(|error| {
                    Fault::mount(format!("{}: {error}", shown(&request.dir)))
                        .hint("its file system has to take user attributes; else --owners db")
                })?;
                (Arc::new(store), None)
            }
            Kind::Db => {
                let usual = || db::default_dir().ok_or(db::DbError::Nowhere);
                let place = request.database.clone().map_or_else(usual, Ok);
                let opened = place.and_then(|place| Db::open(&place, &request.dir, &*below));
                let db = Arc::new(opened.map_err(|why| Fault::mount(why.to_string()))?);
                (Arc::clone(&db) as Arc<dyn Store>, Some(db))
            }
        };
        let own = cred::own_ids().map_err(|why| Fault::mount(plain(&why)))?;
        let hold = hold(&request.dir, (&below, db.as_deref()), alone)?;
        let below: Arc<dyn Source> = below;
        let view = Arc::new(Kept::new(Arc::clone(&below), Arc::clone(&store), own, hold));
        Ok(Self { below, view, store, db, own })
    }

    /// Reports whether this is the directory of the database.
    fn is_hidden(&self, found: &Found) -> bool {
        self.store.hides() == Some((found.key.volume, found.key.ino))
    }
}

/// Finds a file by its path below a source, name by name and through no link.
///
/// # Errors
/// As [`Source::reach`]; `Invalid` for a path that would lead elsewhere.
fn reach(source: &dyn Source, path: &Path) -> Result<(Node, Found), Error> {
    let mut place = source.root()?;
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::Normal(name) => {
                place = source.reach(&place.0, Name::new(name)?)?;
            }
            std::path::Component::ParentDir
            | std::path::Component::RootDir
            | std::path::Component::Prefix(_) => return Err(Error::Invalid),
        }
    }
    Ok(place)
}

/// Turns a failure on the way to all files into one of the command.
fn failed(path: &Path, error: Error) -> Fault {
    Fault::mount(format!("{}: {error}", shown(named(path))))
}

/// Returns how a path below the directory is called: the directory itself is a dot.
pub(super) fn named(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
