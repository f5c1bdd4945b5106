//! What SQLite's library tells only through its C interface.

use nix::errno::Errno;
use rusqlite::{Connection, ffi};

/// Returns the error of the system call that made the last call of a connection
/// fail; `None` if none did.
pub fn errno(connection: &Connection) -> Option<Errno> {
    // SAFETY: the handle is that of an open connection, which this thread alone
    // has now, and the call only reads a number of it.
    let raw = unsafe { ffi::sqlite3_system_errno(connection.handle()) };
    (raw != 0).then(|| Errno::from_raw(raw))
}
