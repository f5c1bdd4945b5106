//! Making a mount known, for as long as its server lives.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use serde::Serialize;

use super::directory::{self, RECORD, SOCKET};
use super::request::{self, Reply};
use super::{ControlError, Facts, Record, Stats};
use crate::sync::lock;

/// How long a client may take over its line.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long no client is taken after one could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest line of a client, in bytes.
const LINE: u64 = 4096;

/// A mount that is known; forgotten when this is dropped.
#[derive(Debug)]
pub struct Published {
    record: PathBuf,
    known: Arc<Known>,
}

/// What the socket's thread knows too.
#[derive(Debug)]
struct Known {
    record: Mutex<Record>,
    /// The record's file, locked.
    lock: Mutex<Flock<File>>,
}

/// What came of a reload: what else there is to say, or in one line what is
/// wrong.
pub type Outcome = Result<Option<String>, String>;

/// What a server answers, besides its record; `None` if it is about to end.
pub trait Answers: Send {
    /// Puts the policy in force as it is written now.
    fn reload(&self) -> Option<Outcome>;

    /// Says what the mount is.
    fn facts(&self) -> Option<Facts>;

    /// Says what was done, and what is held.
    fn stats(&self) -> Option<Stats>;
}

impl Drop for Published {
    fn drop(&mut self) {
        // The number of a mount that has just gone may be another one's already.
        directory::remove(&self.record, &lock(&self.known.lock));
    }
}

impl Published {
    /// Writes down that the mount has another policy, in the words of the options.
    ///
    /// # Errors
    /// If the record cannot be written; the old one stays.
    pub fn describe(&self, policy: &str) -> Result<(), ControlError> {
        let mut record = lock(&self.known.record);
        if record.policy == policy {
            return Ok(());
        }
        let new = Record { policy: policy.to_owned(), ..record.clone() };
        let written = new.to_line().and_then(|line| write(&self.record, &line, new.mode()));
        let locked = written.map_err(|why| directory::file(&self.record, why))?;
        // The old file has lost its name, and now its lock.
        drop(std::mem::replace(&mut *lock(&self.known.lock), locked));
        *record = new;
        Ok(())
    }
}

/// Makes a mount known: writes its record, locked, and answers on its socket
/// from a thread, in which `answers` are asked for.
///
/// # Errors
/// If there is no directory for it, or a file there cannot be made.
pub fn publish(record: Record, answers: impl Answers + 'static) -> Result<Published, ControlError> {
    publish_in(&directory::own()?, record, Box::new(answers))
}

/// Does the same in this directory.
pub(super) fn publish_in(
    dir: &Path,
    record: Record,
    answers: Box<dyn Answers>,
) -> Result<Published, ControlError> {
    let path = dir.join(record.connection.to_string()).with_extension(RECORD);
    // Whoever is about to remove what a killed one of that number has left would take ours.
    let alone = directory::alone(dir);
    let written = record.to_line().and_then(|line| write(&path, &line, record.mode()));
    let locked = written.map_err(|why| directory::file(&path, why))?;
    let known = Known { record: Mutex::new(record), lock: Mutex::new(locked) };
    let published = Published { record: path, known: Arc::new(known) };
    let socket = published.record.with_extension(SOCKET);
    let listener = listen_at(&socket);
    // Before what was made is perhaps taken back, which has to be alone itself.
    drop(alone);
    let listener = listener.map_err(|why| directory::file(&socket, why))?;
    let known = Arc::downgrade(&published.known);
    let info = move || known.upgrade().and_then(|known| lock(&known.record).to_line().ok());
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || answer(&listener, &info, &*answers))
        .map_err(|why| directory::file(&socket, why))?;
    Ok(published)
}

/// Writes a file that has its lock before it has its name.
pub(super) fn write(path: &Path, line: &str, mode: u32) -> io::Result<Flock<File>> {
    let unnamed = path.with_extension(format!("new-{}", std::process::id()));
    // A server of that number may have been killed before it gave it its name.
    match std::fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = File::options().write(true).create_new(true).mode(mode).open(&unnamed)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno);
    let named = lock.map_err(io::Error::from).and_then(|lock| {
        (&*lock).write_all(line.as_bytes())?;
        std::fs::rename(&unnamed, path)?;
        Ok(lock)
    });
    if named.is_err() {
        // The first error is the one to tell.
        let (Ok(()) | Err(_)) = std::fs::remove_file(&unnamed);
    }
    named
}

/// Makes a socket that only this user and root can connect to, from its first
/// moment: a socket is born with the mode of its descriptor.
pub(super) fn listen_at(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // What was there belonged to a mount that is gone: the record is ours.
        Ok(()) | Err(_) => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(8)?)?;
    Ok(UnixListener::from(fd))
}

/// Answers clients, one after the other; `info` returns the record.
pub(super) fn answer(
    listener: &UnixListener,
    info: &dyn Fn() -> Option<String>,
    answers: &dyn Answers,
) {
    for client in listener.incoming() {
        let answered = match client {
            Ok(client) => answer_line(client, info, answers),
            Err(error) => {
                // For want of descriptors, say: it would fail again at once.
                thread::sleep(PAUSE);
                Err(error)
            }
        };
        if let Err(error) = answered {
            log::debug!("control: {error}");
        }
    }
}

/// What is said of a request that is none.
const UNKNOWN: &str = "unknown request; known are: info, describe, stats, reload";

fn json_line(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// Answers one line of a client with one line.
fn answer_line(
    client: UnixStream,
    info: &dyn Fn() -> Option<String>,
    answers: &dyn Answers,
) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&client).take(LINE)).read_line(&mut line)?;
    let reply = match line.trim_end() {
        request::INFO => info(),
        request::RELOAD => answers.reload().map(|outcome| match &outcome {
            Ok(said) => Reply::Done(said.as_deref().unwrap_or_default()).line(),
            Err(why) => Reply::Wrong(why).line(),
        }),
        request::DESCRIBE => answers.facts().map(|facts| json_line(&facts)).transpose()?,
        request::STATS => answers.stats().map(|stats| json_line(&stats)).transpose()?,
        _ => Some(Reply::Wrong(UNKNOWN).line()),
    };
    // No answer says that the server has ended.
    reply.map_or(Ok(()), |reply| (&client).write_all(reply.as_bytes()))
}
