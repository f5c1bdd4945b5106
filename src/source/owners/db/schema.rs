//! The file of a database: making it whole or not at all, opening it, what is wrong
//! with one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::DbError;

/// "IdMO": what SQLite's header says of whose file it is.
const APPLICATION: i32 = 0x4964_4d4f;

/// The version of the tables.
const VERSION: i32 = 1;

/// How long a connection waits for one of another process.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most pages of a database that is read through as it is opened: 64 MiB, some
/// two million records, a quarter of a second.
const MOST_CHECKED: i64 = 16_384;

/// Numbers of 64 bits without a sign are stored as those with one of the same bits.
/// `mode` is null where a file has attributes and no record. `missing` is when a
/// sweep did not find the file, in seconds since the epoch.
const TABLES: &str = "
    CREATE TABLE file (
        volume INTEGER NOT NULL, ino INTEGER NOT NULL, generation INTEGER NOT NULL,
        uid INTEGER, gid INTEGER, mode INTEGER, kind INTEGER, rdev INTEGER, missing INTEGER,
        PRIMARY KEY (volume, ino)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE attribute (
        volume INTEGER NOT NULL, ino INTEGER NOT NULL, generation INTEGER NOT NULL,
        name BLOB NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (volume, ino, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;";

/// Makes the database, unless it is there.
///
/// It gets its name when it is complete: an empty file is never one that was being
/// made.
///
/// # Errors
/// If it cannot be made.
pub(super) fn make(file: &Path) -> Result<(), DbError> {
    let at = |why| DbError::File { file: file.to_owned(), why };
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    loop {
        if file.symlink_metadata().is_ok() {
            return Ok(());
        }
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let made = open.open(&new).map_err(at)?;
        let made = Flock::lock(made, FlockArg::LockExclusive).map_err(|(_, why)| at(why.into()))?;
        // Whoever had the lock before may have finished it.
        if !is_at(&made, &new) {
            continue;
        }
        if file.symlink_metadata().is_ok() {
            std::fs::remove_file(&new).map_err(at)?;
            return Ok(());
        }
        // Left behind by one who was killed meanwhile.
        made.set_len(0).map_err(at)?;
        for suffix in ["-wal", "-shm"] {
            let mut stale = new.as_os_str().to_owned();
            stale.push(suffix);
            match std::fs::remove_file(stale) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(at(why)),
                Ok(()) | Err(_) => {}
            }
        }
        fill(&new).map_err(|why| fault(file, why))?;
        std::fs::rename(&new, file).map_err(at)?;
        return Ok(());
    }
}

fn is_at(made: &File, path: &Path) -> bool {
    match (made.metadata(), path.symlink_metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn fill(new: &Path) -> rusqlite::Result<()> {
    let mut connection = connect(new)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // The header remembers it.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let filling = connection.transaction()?;
    filling.execute_batch(TABLES)?;
    filling.pragma_update(None, "application_id", APPLICATION)?;
    filling.pragma_update(None, "user_version", VERSION)?;
    filling.commit()?;
    // The last connection brings everything into the file and removes the log.
    connection.close().map_err(|(_, why)| why)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

/// Opens a connection to a database that is there.
///
/// What it has written is there after a kill -9. After a power failure, what was
/// written in the last moments may be missing, and the database is whole.
///
/// # Errors
/// If it cannot be opened, or is none of ours.
pub(super) fn open(file: &Path) -> Result<Connection, DbError> {
    let named = |why| fault(file, why);
    let connection = connect(file).map_err(named)?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    if number("application_id").map_err(named)? != APPLICATION {
        return Err(DbError::Corrupt {
            file: file.to_owned(),
            what: "it is none of idmapfs".into(),
        });
    }
    match number("user_version").map_err(named)? {
        VERSION => {}
        version => return Err(DbError::Version { file: file.to_owned(), version }),
    }
    // Where its log cannot be shared, SQLite answers with what it has instead.
    let mode = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let mode: String = connection.pragma_query_value(None, "journal_mode", mode).map_err(named)?;
    if mode != "wal" {
        return Err(DbError::Log(file.to_owned()));
    }
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(named)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(named)?;
    connection.pragma_update(None, "cache_size", -1024).map_err(named)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Reads a database through and says what is wrong, unless it is a big one.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(
    connection: &Connection,
    file: &Path,
    whatever_size: bool,
) -> Result<(), DbError> {
    let named = |why| fault(file, why);
    let pages: i64 =
        connection.pragma_query_value(None, "page_count", |row| row.get(0)).map_err(named)?;
    if pages > MOST_CHECKED && !whatever_size {
        return Ok(());
    }
    let said: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(named)?;
    let said = said.lines().last().unwrap_or_default().to_owned();
    if said == "ok" { Ok(()) } else { Err(DbError::Corrupt { file: file.to_owned(), what: said }) }
}

/// Says what keeps a database from being used.
pub(super) fn fault(file: &Path, why: rusqlite::Error) -> DbError {
    let file = file.to_owned();
    match why.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            DbError::Corrupt { file, what: said(&why) }
        }
        _ => DbError::Sqlite { file, what: said(&why) },
    }
}

fn said(why: &rusqlite::Error) -> String {
    if let rusqlite::Error::SqliteFailure(_, Some(text)) = why {
        text.clone()
    } else {
        why.to_string()
    }
}
