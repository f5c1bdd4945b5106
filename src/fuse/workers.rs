//! The threads that answer requests: that all of them are there.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::threads;

/// How many the library has of its own.
const LIBRARY: usize = 1;

/// What the names of the threads of the library begin with, which tells nothing of them
/// but an error at the end.
const NAMES: &str = "fuser-";

/// How long they may take to begin, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_micros(100);

/// Waits until so many workers have begun.
///
/// # Errors
/// Why they cannot, as the library says; `TimedOut`.
pub(super) fn begun(
    session: fuser::BackgroundSession,
    count: usize,
) -> io::Result<fuser::BackgroundSession> {
    let until = Instant::now().checked_add(PATIENCE);
    loop {
        if session.guard.is_finished() {
            session.join()?;
            return Err(io::ErrorKind::NotConnected.into());
        }
        match threads::named(NAMES) {
            Ok(there) if there >= count.saturating_add(LIBRARY) => return Ok(session),
            Ok(_) if until.is_none_or(|until| until <= Instant::now()) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "threads that do not begin"));
            }
            Ok(_) => thread::sleep(PAUSE),
            Err(error) => {
                log::debug!("whether all workers are there is not known: {error}");
                return Ok(session);
            }
        }
    }
}
