//! Records of files that are gone: found by a walk of the whole source, and removed.
//!
//! A walk may miss a file that is being moved, and one that was moved out of the
//! source may come back. So what a sweep at the start of a server does not find is
//! marked, and removed by one that is a week later if it was not found in between.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Db, DbError, columns_of, schema};
use crate::error::Result;
use crate::source::walk::Walk;
use crate::source::{Key, Source};

/// How long after a sweep the next one is due, in seconds.
const DAY: i64 = 86_400;

/// For how long a record is kept of a file that is not found, in seconds.
const KEPT: i64 = DAY * 7;

/// The most names that a sweep at the start looks at.
const MOST: usize = 20_000;

/// The longest that it takes.
const LONGEST: Duration = Duration::from_millis(200);

/// What came of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many records are of files that were not found, and are kept for now.
    pub marked: usize,
    /// How many records were removed.
    pub removed: usize,
}

/// The files that a walk has passed.
#[derive(Debug)]
pub struct Seen {
    connection: Connection,
}

impl Seen {
    /// Starts with none; they are kept in a temporary file.
    fn new(file: &Path) -> std::result::Result<Self, DbError> {
        let connection = schema::open(file)?;
        let made = connection.execute_batch(
            "PRAGMA temp_store = FILE;
             CREATE TEMP TABLE seen (
                volume INTEGER, ino INTEGER, generation INTEGER, PRIMARY KEY (volume, ino)
             ) WITHOUT ROWID;
             BEGIN",
        );
        made.map_err(|why| schema::fault(file, why))?;
        Ok(Self { connection })
    }

    /// Adds a file of a source.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn add(&self, db: &Db, below: &dyn Source, key: &Key) -> Result<()> {
        // It can have no record, and is no sign that its volume was met: what is shown in
        // place of a mount is such a one.
        let Ok(file) = columns_of(below, key) else { return Ok(()) };
        let add = || {
            let mut add =
                self.connection.prepare_cached("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)")?;
            add.execute(file)
        };
        add().map(drop).map_err(|why| db.failure(&self.connection, &why))
    }

    /// Calls with the inode number of each record whose file was not seen, on volumes
    /// that were.
    ///
    /// # Errors
    /// `EIO`.
    pub fn orphans(&self, db: &Db, each: &mut dyn FnMut(u64)) -> Result<()> {
        let mut list = || {
            let mut select = self.connection.prepare(&format!("SELECT ino FROM file {UNSEEN}"))?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                each(row.get::<_, i64>(0)?.cast_unsigned());
            }
            Ok(())
        };
        list().map_err(|why| db.failure(&self.connection, &why))
    }

    /// Removes each record whose file was not seen, on volumes that were; returns how
    /// many.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn remove_orphans(&self, db: &Db) -> Result<usize> {
        let remove = || {
            // One that begins by reading could not write after another's write.
            self.connection.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
            self.connection.execute(&format!("DELETE FROM attribute {UNSEEN_OF_ATTRIBUTE}"), [])?;
            let removed = self.connection.execute(&format!("DELETE FROM file {UNSEEN}"), [])?;
            self.connection.execute_batch("COMMIT; BEGIN")?;
            Ok(removed)
        };
        remove().map_err(|why| db.failure(&self.connection, &why))
    }

    /// Ends what was begun, so that others may change the database as a whole.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn end(&self, db: &Db) -> Result<()> {
        let done = self.connection.execute_batch("COMMIT");
        done.map_err(|why| db.failure(&self.connection, &why))
    }

    /// Marks what was not seen, and removes what was marked long ago.
    fn mark(&self, now: i64) -> rusqlite::Result<Swept> {
        let connection = &self.connection;
        connection.execute(
            "UPDATE file SET missing = NULL WHERE missing IS NOT NULL AND EXISTS \
             (SELECT 1 FROM seen WHERE seen.volume = file.volume AND seen.ino = file.ino \
              AND seen.generation = file.generation)",
            [],
        )?;
        let long_ago = now.saturating_sub(KEPT);
        connection.execute(
            "DELETE FROM attribute WHERE volume IN (SELECT volume FROM seen) AND EXISTS \
             (SELECT 1 FROM file \
             WHERE file.volume = attribute.volume AND file.ino = attribute.ino AND missing <= ?)",
            [long_ago],
        )?;
        let gone = "DELETE FROM file WHERE volume IN (SELECT volume FROM seen) AND missing <= ?";
        let removed = connection.execute(gone, [long_ago])?;
        let mark = format!("UPDATE file SET missing = ? {UNSEEN} AND missing IS NULL");
        connection.execute(&mark, [now])?;
        let marked = "SELECT count(*) FROM file WHERE missing IS NOT NULL";
        let marked: i64 = connection.query_row(marked, [], |row| row.get(0))?;
        connection.execute(
            "INSERT OR REPLACE INTO about VALUES ('swept', ?)",
            params![now.to_string()],
        )?;
        connection.execute_batch("COMMIT; PRAGMA incremental_vacuum")?;
        Ok(Swept { marked: usize::try_from(marked).unwrap_or(usize::MAX), removed })
    }
}

/// Files that were not seen, on volumes that were: what is not mounted today is not
/// gone.
const UNSEEN: &str = "WHERE volume IN (SELECT volume FROM seen) \
    AND NOT EXISTS (SELECT 1 FROM seen WHERE seen.volume = file.volume \
    AND seen.ino = file.ino AND seen.generation = file.generation)";

const UNSEEN_OF_ATTRIBUTE: &str = "WHERE volume IN (SELECT volume FROM seen) \
    AND NOT EXISTS (SELECT 1 FROM seen WHERE seen.volume = attribute.volume AND seen.ino = attribute.ino \
    AND seen.generation = attribute.generation)";

impl Db {
    /// Starts to note the files that are there.
    ///
    /// # Errors
    /// If the database cannot be opened once more.
    pub fn seen(&self) -> std::result::Result<Seen, DbError> {
        Seen::new(self.file())
    }

    /// Looks for records of files that are gone, if the last time is a day ago and
    /// the source is a small one; `None` if not.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn sweep(&self, below: &dyn Source) -> Result<Option<Swept>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.sweep_at(below, i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// As [`Db::sweep`], at a time in seconds since the epoch.
    pub(super) fn sweep_at(&self, below: &dyn Source, now: i64) -> Result<Option<Swept>> {
        let last: Option<String> = self.read(|reading| {
            let mut last = reading.prepare_cached("SELECT value FROM about WHERE key = 'swept'")?;
            last.query_row([], |row| row.get(0)).optional()
        })?;
        let last = last.and_then(|last| last.parse().ok()).unwrap_or(0_i64);
        // A clock that was set back is no reason to wait for years.
        if (0..DAY).contains(&now.saturating_sub(last)) || self.count()? == 0 {
            return Ok(None);
        }
        let start = Instant::now();
        let seen = self.seen().map_err(|why| {
            log::warn!("{why}");
            crate::error::Error::Internal
        })?;
        seen.add(self, below, &below.root()?.1.key)?;
        for (count, step) in Walk::new(below)?.enumerate() {
            let Ok(step) = step else { return Ok(None) };
            if count >= MOST || start.elapsed() > LONGEST {
                return Ok(None);
            }
            seen.add(self, below, &step.found.key)?;
        }
        seen.mark(now).map(Some).map_err(|why| self.failure(&seen.connection, &why))
    }
}
