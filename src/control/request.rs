//! Asking the server of a mount for something, over its socket: one line, and
//! one line in return.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::unistd::geteuid;
use serde::de::DeserializeOwned;

use super::abort::{Found, find};
use super::{ControlError, Facts, Stats, directory, process};
use crate::text::escape;

/// The request for the record.
pub(super) const INFO: &str = "info";
/// The request for what the mount is.
pub(super) const DESCRIBE: &str = "describe";
/// The request for what was done and is held.
pub(super) const STATS: &str = "stats";
/// The request to read the policy again.
pub(super) const RELOAD: &str = "reload";

/// How long an answer may take: several reloads can wait for one another.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest answer that is read, in bytes: options with a long map have some.
const LONGEST: u64 = 16 << 20;

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// It is done; there may be something else to say.
    Done(&'a str),
    /// It is not, for this reason.
    Wrong(&'a str),
}

impl Reply<'_> {
    /// Returns the line: `ok`, `ok: WHAT` or `error: WHAT`.
    pub(super) fn line(self) -> String {
        match self {
            Self::Done("") => "ok\n".to_owned(),
            Self::Done(said) => format!("ok: {}\n", escape(said)),
            Self::Wrong(why) => format!("error: {}\n", escape(why)),
        }
    }

    /// Reads a line; `None` if it is no reply.
    fn of(line: &str) -> Option<Reply<'_>> {
        let line = line.strip_suffix('\n')?;
        if line == "ok" {
            return Some(Reply::Done(""));
        }
        match line.split_once(": ")? {
            ("ok", said) => Some(Reply::Done(said)),
            ("error", why) => Some(Reply::Wrong(why)),
            _ => None,
        }
    }
}

/// Has the server of the mount at a path read its policy again; returns what
/// else it has to say. Nothing here asks the mount itself for anything.
///
/// # Errors
/// `Refused` if the policy is wrong, and then the old one stays; `Unknown` if no
/// mount of ours is there; `Ask` if its server is gone, or this user may not.
pub fn reload(point: &Path) -> Result<Option<String>, ControlError> {
    let answer = asked(point, RELOAD)?;
    match Reply::of(&answer) {
        Some(Reply::Done("")) => Ok(None),
        Some(Reply::Done(said)) => Ok(Some(said.to_owned())),
        Some(Reply::Wrong(why)) => Err(ControlError::Refused(why.to_owned())),
        None => Err(no_answer(point)),
    }
}

/// Has the server of the mount at a path say what the mount is.
///
/// # Errors
/// As [`reload`], but for `Refused`: it comes from a server of an earlier version.
pub fn describe(point: &Path) -> Result<Facts, ControlError> {
    object(point, DESCRIBE)
}

/// Has the server of the mount at a path say what it has done, and what it holds.
///
/// # Errors
/// As [`describe`].
pub fn stats(point: &Path) -> Result<Stats, ControlError> {
    object(point, STATS)
}

/// Asks for an object in JSON.
fn object<T: DeserializeOwned>(point: &Path, request: &str) -> Result<T, ControlError> {
    let answer = asked(point, request)?;
    if let Some(Reply::Wrong(why)) = Reply::of(&answer) {
        return Err(ControlError::Refused(why.to_owned()));
    }
    serde_json::from_str(&answer).map_err(|_cut| no_answer(point))
}

/// Asks the server of the mount at a path, or of a process that it is known by, for
/// something; returns its line.
fn asked(point: &Path, request: &str) -> Result<String, ControlError> {
    let connected = match find(point) {
        Ok(found) => connect(found),
        Err(ControlError::Unknown(unknown)) => match process::socket_of(point) {
            Some(socket) => UnixStream::connect(socket),
            None => return Err(ControlError::Unknown(unknown)),
        },
        Err(error) => return Err(error),
    };
    let failed = |why| ControlError::Ask { point: point.to_owned(), why };
    connected.and_then(|socket| ask(socket, request)).map_err(failed)
}

fn no_answer(point: &Path) -> ControlError {
    let why = io::Error::from_raw_os_error(libc::ECONNRESET);
    ControlError::Ask { point: point.to_owned(), why }
}

/// Connects to the socket of a mount, wherever it may be.
fn connect(found: Found) -> io::Result<UnixStream> {
    let own = geteuid().as_raw();
    if found.user.is_some_and(|user| own != 0 && own != user) {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    let mut why = io::Error::from_raw_os_error(libc::ENOENT);
    for dir in directory::of_users(found.user) {
        match UnixStream::connect(directory::socket(&dir, found.connection)) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Sends one line, and returns the one that comes back.
fn ask(mut socket: UnixStream, request: &str) -> io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(socket.take(LONGEST)).read_line(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_one_line_and_come_back() {
        for (reply, line) in [
            (Reply::Done(""), "ok\n"),
            (Reply::Done("and more"), "ok: and more\n"),
            (Reply::Wrong("p.toml:3:8: no"), "error: p.toml:3:8: no\n"),
        ] {
            assert_eq!(reply.line(), line);
            assert_eq!(Reply::of(line), Some(reply));
        }
        assert_eq!(Reply::Wrong("a\nok").line(), "error: a\\nok\n");
        for line in ["", "ok", "\n", "okay\n", "maybe: x\n", "{\"version\":1}\n"] {
            assert_eq!(Reply::of(line), None, "{line}");
        }
    }
}
