//! A process that measures, as who starts it sees it.

use std::io;
use std::process::{Child, Command, Stdio};

use crate::job::WORD;
use crate::mounts::Live;
use crate::place::Place;

/// Prepares a child for a task on a mount.
pub fn command(task: &str, live: &Live, place: &Place, name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD).arg(task).arg(&live.root).arg(live.id.to_string());
    command.arg(live.inside.unwrap_or(0).to_string()).arg(place.files.to_string()).arg(name);
    command.stdin(Stdio::null()).current_dir("/");
    command
}

/// Runs a child to its end; returns the numbers that it printed.
///
/// # Errors
/// It failed, with what it said.
pub fn run(task: &str, live: &Live, place: &Place, name: &str) -> io::Result<Vec<u64>> {
    let child = command(task, live, place, name).output()?;
    if !child.status.success() {
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        return Err(io::Error::other(said.lines().next().unwrap_or("killed").to_owned()));
    }
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    Ok(said.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// Starts a child that is talked to.
///
/// # Errors
/// As spawning it.
pub fn talk(task: &str, live: &Live, place: &Place, name: &str) -> io::Result<Child> {
    command(task, live, place, name).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}
