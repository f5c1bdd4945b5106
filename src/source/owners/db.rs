//! Records in a database beside the source: SQLite, one file for each source.
//!
//! A file is known by its volume, its inode number and its generation, so its record
//! stays with it wherever it is moved on its file system, and never meets another
//! file that is given the same number. Of one number there is one record.
//!
//! Every read asks the database: what another server of the same source has written
//! is seen by the next request. What a call has written survives kill -9, and a call
//! that fails has written nothing.

mod place;
mod schema;
mod sweep;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, TransactionBehavior, params};

use super::store::{InodeId, Record, Store, Write};
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::id::Ids;
use crate::source::{Key, Node, Source};
use crate::sync::lock;
use crate::sys::sqlite;
use crate::text::{plain, shown};

use place::Place;
pub use place::default_dir;
pub use sweep::{Seen, Swept};

/// How many connections read.
const READERS: usize = 4;

/// The most bytes of a value (`XATTR_SIZE_MAX`), and of all names of a file
/// (`XATTR_LIST_MAX`).
const MOST: usize = 65_536;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No directory is named, and there is no home.
    #[error("no place for the database: HOME is not set; name a directory with --owners-dir")]
    Nowhere,
    /// The directory cannot be made or entered.
    #[error("{}: {}; name another directory with --owners-dir", shown(.dir), plain(.why))]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// Others could change the records.
    #[error("{path}: is not this user's alone; chmod 700 it, or name another directory \
             with --owners-dir", path = shown(.0))]
    Open(PathBuf),
    /// The source cannot be asked who it is.
    #[error("{}: {}", shown(.source_dir), plain(.why))]
    Source {
        /// The source.
        source_dir: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A file of the source may get the number of one that is gone, unnoticed.
    #[error("{path}: its file system does not tell a file from an earlier one of its number; \
             use owners=xattr", path = shown(.0))]
    Alike(PathBuf),
    /// The file of the database cannot be made.
    #[error("{}: {}", shown(.file), plain(.why))]
    File {
        /// The database.
        file: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// SQLite cannot use it.
    #[error("{}: {what}", shown(.file))]
    Sqlite {
        /// The database.
        file: PathBuf,
        /// What SQLite says.
        what: String,
    },
    /// It is damaged.
    #[error("{}: the database of owners is damaged: {what}; restore it from a backup, or move \
             it away: then every file is shown as its owner on disk has it", shown(.file))]
    Corrupt {
        /// The database.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It was made by another version of this program.
    #[error("{}: made by another version of idmapfs (tables of version {version}); use that one",
            shown(.file))]
    Version {
        /// The database.
        file: PathBuf,
        /// The version of its tables.
        version: i32,
    },
    /// Several servers cannot share it there.
    #[error("{path}: the file system there cannot share a database between processes; name a \
             directory on a local one with --owners-dir", path = shown(.0))]
    Log(PathBuf),
}

/// A database of records.
#[derive(Debug)]
pub struct Db {
    place: Place,
    readers: [Mutex<Connection>; READERS],
    /// Whose turn it is to read.
    turn: AtomicUsize,
    writer: Mutex<Connection>,
}

impl Db {
    /// Opens the database of a source in a directory, and makes both if need be;
    /// `below` is that source, as the server uses it.
    ///
    /// Belongs into the process that serves: connections do not outlive a fork. The
    /// files stay open, so that nothing is looked up by name later but what SQLite
    /// removes when the last server ends.
    ///
    /// # Errors
    /// Names the database or directory and the way out.
    pub fn open(
        dir: &Path,
        source: &Path,
        below: &dyn Source,
    ) -> std::result::Result<Self, DbError> {
        let place = Place::find(dir, source, below)?;
        schema::make(&place.file)?;
        let connect = || schema::open(&place.file).map(Mutex::new);
        let writer = schema::open(&place.file)?;
        schema::check(&writer, &place.file, false)?;
        let readers = [connect()?, connect()?, connect()?, connect()?];
        let db = Self { readers, turn: AtomicUsize::new(0), writer: Mutex::new(writer), place };
        let path = source.canonicalize().unwrap_or_else(|_| source.to_owned());
        // For people who find the file.
        let noted = db.change(|writing| {
            writing
                .prepare_cached("INSERT OR REPLACE INTO about VALUES ('source', ?1)")?
                .execute([crate::text::coded(&path)])?;
            Ok(())
        });
        noted.map_err(|error| DbError::File {
            file: db.place.file.clone(),
            why: io::Error::from_raw_os_error(error.errno().0),
        })?;
        Ok(db)
    }

    /// Returns the file of the database.
    pub fn file(&self) -> &Path {
        &self.place.file
    }

    /// Returns the directory of the database.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// Reads the whole database and says what is wrong with it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> std::result::Result<(), DbError> {
        schema::check(&lock(&self.writer), &self.place.file, true)
    }

    /// Returns how many files have a record or attributes.
    ///
    /// # Errors
    /// `EIO` and what [`Db::read`] may meet.
    pub fn count(&self) -> Result<u64> {
        let count: i64 = self.read(|reading| {
            reading.prepare_cached("SELECT count(*) FROM file")?.query_row([], |row| row.get(0))
        })?;
        Ok(count.cast_unsigned())
    }

    /// Forgets everything; returns of how many files.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn clear(&self) -> Result<u64> {
        let files = self.change(|writing| {
            writing.execute("DELETE FROM attribute", [])?;
            Ok(writing.execute("DELETE FROM file", [])?)
        })?;
        self.compact()?;
        Ok(u64::try_from(files).unwrap_or(u64::MAX))
    }

    /// Gives the space of what was forgotten back to the file system.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; `EBUSY` if another server is at work for long.
    pub fn compact(&self) -> Result<()> {
        let writer = lock(&self.writer);
        let done = writer.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
        done.map_err(|why| self.failure(&writer, &why))
    }

    /// Reads, with a connection that nobody else uses now.
    fn read<T>(&self, call: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let free = self.readers.iter().find_map(|reader| reader.try_lock().ok());
        let turn = || self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(READERS).unwrap_or(0);
        let reader = match free {
            Some(reader) => reader,
            None => lock(self.readers.get(turn()).unwrap_or(&self.writer)),
        };
        call(&reader).map_err(|why| self.failure(&reader, &why))
    }

    /// Changes the database, all of it or nothing.
    fn change<T>(
        &self,
        call: impl FnOnce(&Connection) -> std::result::Result<T, Failed>,
    ) -> Result<T> {
        let mut writer = lock(&self.writer);
        let all = || {
            let writing = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = call(&writing)?;
            writing.commit()?;
            Ok(done)
        };
        match all() {
            Ok(done) => Ok(done),
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Sqlite(why)) => Err(self.failure(&writer, &why)),
        }
    }

    /// Turns a failure into an errno; what callers cannot have caused is logged.
    fn failure(&self, connection: &Connection, why: &rusqlite::Error) -> Error {
        let errno = match why.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Some(libc::ENOSPC),
            Some(ErrorCode::OutOfMemory) => Some(libc::ENOMEM),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Some(libc::EBUSY),
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
                sqlite::errno(connection).map(|errno| errno as i32)
            }
            _ => None,
        };
        match errno {
            Some(errno @ (libc::ENOSPC | libc::EDQUOT | libc::ENOMEM)) => {
                Error::Os(crate::error::Errno(errno))
            }
            errno => {
                log::error!("{}: {why}", shown(&self.place.file));
                Error::Os(crate::error::Errno(errno.unwrap_or(libc::EIO)))
            }
        }
    }
}

/// Why a change of the database came to nothing.
enum Failed {
    /// SQLite cannot.
    Sqlite(rusqlite::Error),
    /// It was refused.
    Refused(Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(why: rusqlite::Error) -> Self {
        Self::Sqlite(why)
    }
}

impl Store for Db {
    fn get(&self, below: &dyn Source, _node: &Node, key: &Key) -> Result<Option<Record>> {
        let Ok(file) = columns_of(below, key) else { return Ok(None) };
        let row = self.read(|reading| {
            reading
                .prepare_cached(
                    "SELECT uid, gid, mode, kind, rdev FROM file \
                     WHERE volume = ?1 AND ino = ?2 AND generation = ?3 AND mode IS NOT NULL",
                )?
                .query_row(file, columns)
                .optional()
        })?;
        let Some(row) = row else { return Ok(None) };
        let record = record(row);
        if record.is_none() {
            log::error!("{}: no sense in the record of inode {}", shown(self.file()), key.ino);
        }
        record.map(Some).ok_or(Error::Internal)
    }

    fn put(&self, below: &dyn Source, _node: &Node, key: &Key, record: &Record) -> Result<()> {
        let file = columns_of(below, key)?;
        self.change(|writing| put(writing, file, record))
    }

    fn write(
        &self,
        below: &dyn Source,
        _node: &Node,
        key: &Key,
        writes: &[Write<'_>],
    ) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let file = columns_of(below, key)?;
        self.change(|writing| {
            writes.iter().try_for_each(|write| match write {
                Write::Record(record) => put(writing, file, record),
                Write::Attribute(name, Some(value)) => set(writing, file, name, value),
                Write::Attribute(name, None) => drop_one(writing, file, name).map(drop),
            })
        })
    }

    fn takes(&self, kind: FileKind) -> bool {
        !matches!(kind, FileKind::CharDevice | FileKind::BlockDevice)
    }

    fn hides(&self) -> Option<InodeId> {
        self.place.hides
    }

    fn holds(&self, (volume, ino): InodeId) -> bool {
        let Some((at, dir)) = self.place.hides.filter(|hides| hides.0 == volume) else {
            return false;
        };
        let mut files = match fs::read_dir(&self.place.dir) {
            Ok(files) => files,
            Err(error) => {
                log::debug!("{}: {error}", shown(&self.place.dir));
                return true;
            }
        };
        (at, dir) == (volume, ino) || files.any(|file| file.map_or(true, |file| file.ino() == ino))
    }

    fn stays(&self) -> &[InodeId] {
        &self.place.above
    }

    fn attribute(
        &self,
        below: &dyn Source,
        _node: &Node,
        key: &Key,
        name: &OsStr,
    ) -> Result<Vec<u8>> {
        let Ok([volume, ino, generation]) = columns_of(below, key) else { return Err(none()) };
        let value = self.read(|reading| {
            reading
                .prepare_cached(
                    "SELECT value FROM attribute \
                     WHERE volume = ?1 AND ino = ?2 AND generation = ?3 AND name = ?4",
                )?
                .query_row(params![volume, ino, generation, name.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        value.ok_or(none())
    }

    fn attributes(&self, below: &dyn Source, _node: &Node, key: &Key) -> Result<Vec<OsString>> {
        let Ok(file) = columns_of(below, key) else { return Ok(Vec::new()) };
        self.read(|reading| {
            let mut select = reading.prepare_cached(
                "SELECT name FROM attribute WHERE volume = ?1 AND ino = ?2 AND generation = ?3",
            )?;
            let names = select.query_map(file, |row| row.get(0).map(OsString::from_vec))?;
            names.collect()
        })
    }

    fn set_attribute(
        &self,
        below: &dyn Source,
        _node: &Node,
        key: &Key,
        name: &OsStr,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let file = columns_of(below, key);
        match value {
            Some(value) => {
                let file = file?;
                self.change(|writing| set(writing, file, name, value))
            }
            None => {
                let file = file.map_err(|_| none())?;
                match self.change(|writing| drop_one(writing, file, name))? {
                    0 => Err(none()),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Says that there is no such attribute.
const fn none() -> Error {
    Error::Os(crate::error::Errno(libc::ENODATA))
}

/// Records what a file is.
fn put(writing: &Connection, file: [i64; 3], record: &Record) -> std::result::Result<(), Failed> {
    let [volume, ino, generation] = file;
    let kind = record.kind.map(|(kind, _)| kind.bits());
    let rdev = record.kind.map(|(_, rdev)| rdev.cast_signed());
    let (Ids { uid, gid }, mode) = (record.owner, record.mode.bits());
    writing
        .prepare_cached("INSERT OR REPLACE INTO file VALUES (?,?,?,?,?,?,?,?,NULL)")?
        .execute(params![volume, ino, generation, uid.raw(), gid.raw(), mode, kind, rdev])?;
    Ok(forget_earlier(writing, file)?)
}

/// Keeps an attribute of a file, within the bounds that the kernel has.
fn set(
    writing: &Connection,
    file: [i64; 3],
    name: &OsStr,
    value: &[u8],
) -> std::result::Result<(), Failed> {
    let refused = |errno| Err(Failed::Refused(Error::Os(crate::error::Errno(errno))));
    let (name, [volume, ino, generation]) = (name.as_bytes(), file);
    if value.len() > MOST {
        return refused(libc::E2BIG);
    }
    let others: i64 = writing
        .prepare_cached(
            "SELECT coalesce(sum(length(name) + 1), 0) FROM attribute \
             WHERE volume = ?1 AND ino = ?2 AND generation = ?3 AND name <> ?4",
        )?
        .query_row(params![volume, ino, generation, name], |row| row.get(0))?;
    let names = usize::try_from(others).unwrap_or(MOST).saturating_add(name.len());
    if names >= MOST {
        // As from a file system whose files have room for only so many.
        return refused(libc::ENOSPC);
    }
    writing.prepare_cached(ENSURE)?.execute(file)?;
    forget_earlier(writing, file)?;
    let set = "INSERT OR REPLACE INTO attribute VALUES (?,?,?,?,?)";
    writing.prepare_cached(set)?.execute(params![volume, ino, generation, name, value])?;
    Ok(())
}

/// Removes an attribute of a file; returns how many there were.
fn drop_one(
    writing: &Connection,
    [volume, ino, generation]: [i64; 3],
    name: &OsStr,
) -> std::result::Result<usize, Failed> {
    Ok(writing
        .prepare_cached(
            "DELETE FROM attribute \
             WHERE volume = ?1 AND ino = ?2 AND generation = ?3 AND name = ?4",
        )?
        .execute(params![volume, ino, generation, name.as_bytes()])?)
}

/// Makes a row for a file that has none, in place of an earlier file of its number.
const ENSURE: &str = "INSERT INTO file (volume, ino, generation) VALUES (?1, ?2, ?3) \
    ON CONFLICT DO UPDATE SET generation = excluded.generation, uid = NULL, gid = NULL, \
    mode = NULL, kind = NULL, rdev = NULL, missing = NULL \
    WHERE generation <> excluded.generation";

/// Forgets the attributes of earlier files of a number.
fn forget_earlier(writing: &Connection, file: [i64; 3]) -> rusqlite::Result<()> {
    writing
        .prepare_cached(
            "DELETE FROM attribute WHERE volume = ?1 AND ino = ?2 AND generation <> ?3",
        )?
        .execute(file)
        .map(drop)
}

/// Returns a key as the database has it, with the name of the volume that lasts.
///
/// # Errors
/// `Unsupported` if nothing tells the file from another one that may get its number.
fn columns_of(below: &dyn Source, key: &Key) -> Result<[i64; 3]> {
    if key.generation == 0 {
        return Err(Error::Unsupported);
    }
    let volume = below.lasting(key.volume).cast_signed();
    Ok([volume, key.ino.cast_signed(), key.generation.cast_signed()])
}

/// A record as the database has it.
type Columns = (i64, i64, i64, Option<i64>, Option<i64>);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

/// Reads a record; `None` if it makes no sense.
fn record((uid, gid, mode, kind, rdev): Columns) -> Option<Record> {
    let owner = Ids::new(u32::try_from(uid).ok()?, u32::try_from(gid).ok()?)?;
    let bits = u32::try_from(mode).ok().filter(|bits| *bits <= 0o7777)?;
    let kind = match kind {
        None => None,
        Some(kind) => {
            let bits = u32::try_from(kind).ok()?;
            let kind = FileKind::from_mode(bits).filter(|kind| kind.bits() == bits)?;
            Some((kind, rdev.unwrap_or(0).cast_unsigned()))
        }
    };
    Some(Record { owner, mode: Mode::new(bits), kind })
}
