//! What is written down of a live mount.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::path;

/// A live mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this form: 1.
    pub version: u32,
    /// The process of the server.
    pub pid: u32,
    /// When it was started, in clock ticks after boot: with the pid, it names
    /// one process for ever.
    pub start_time: u64,
    /// The directory that is shown. In JSON, bytes of paths that are not UTF-8, and
    /// backslashes, are `\xNN`.
    #[serde(with = "path")]
    pub source: PathBuf,
    /// Where it is mounted; `None`: it is private, in a mount namespace of one command's,
    /// and here that path is another's.
    #[serde(default, with = "path::optional", skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// What translates: `fuse`.
    pub engine: String,
    /// The number of the FUSE connection: the minor of the device number.
    pub connection: u32,
    /// The policy, in the words of the options.
    pub policy: String,
}

impl Record {
    /// Describes a mount that this process serves by a FUSE connection; without a
    /// `target` a private one.
    pub fn new(source: &Path, target: Option<&Path>, connection: u32, policy: String) -> Self {
        Self {
            version: 1,
            pid: std::process::id(),
            start_time: start_time("self").unwrap_or(0),
            source: source.to_owned(),
            target: target.map(Path::to_owned),
            engine: "fuse".to_owned(),
            connection,
            policy,
        }
    }

    /// Reports whether the process of this number is the server.
    pub(super) fn is_of(&self, pid: u32) -> bool {
        self.pid == pid && start_time(&pid.to_string()) == Some(self.start_time)
    }

    /// Kills the server, if the process of that number still is the server.
    pub(super) fn kill(&self) -> io::Result<()> {
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        if !self.is_of(self.pid) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?)
    }

    /// Returns the mode of the file: what is mounted where all may see, of a private mount
    /// nobody.
    pub(super) const fn mode(&self) -> u32 {
        if self.target.is_some() { 0o644 } else { 0o600 }
    }

    /// Returns the JSON form, as one line.
    pub(super) fn to_line(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// Reads the JSON form.
    pub(super) fn from_text(text: &str) -> io::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }
}

/// Returns when a process was started: field 22 of proc_pid_stat(5).
fn start_time(process: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything; after it comes field 3.
    text.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn records_are_one_line_and_come_back() {
        let source = Path::new(OsStr::from_bytes(b"/a\n\xff\\xff"));
        for target in [Some(Path::new("/mnt")), None] {
            let record = Record::new(source, target, 50, "map=0:1:2".to_owned());
            assert!(record.is_of(std::process::id()));
            let line = record.to_line().unwrap();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(Record::from_text(&line).unwrap(), record);
            assert_eq!(line.contains("target"), target.is_some());
        }
    }
}
