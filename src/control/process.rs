//! A mount that is known by a process: outside of its namespace a private one has no
//! path, and what is mounted at the path that it has inside is another.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::directory::{self, RECORD};

/// Returns the socket of the mount whose server is the process of this number, or has
/// started it: the next one above.
pub(super) fn socket_of(word: &Path) -> Option<PathBuf> {
    let number = word.to_str()?.parse().ok()?;
    let above = |process: &Process| process.parent.and_then(Process::of);
    let mut processes = std::iter::successors(Process::of(number), above);
    processes.find_map(|process| process.socket())
}

/// A process, as far as its status tells: proc_pid_status(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// None above the first one.
    parent: Option<u32>,
    user: u32,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        Self::told(pid, &std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn told(pid: u32, status: &str) -> Option<Self> {
        let first = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key));
            value?.split_whitespace().next()?.parse::<u32>().ok()
        };
        let parent = first("PPid:").filter(|parent| *parent != 0);
        Some(Self { pid, parent, user: first("Uid:")? })
    }

    /// Returns the socket of the mount that it serves.
    fn socket(&self) -> Option<PathBuf> {
        directory::of_users(Some(self.user)).find_map(|dir| self.socket_in(&dir))
    }

    fn socket_in(&self, dir: &Path) -> Option<PathBuf> {
        let entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
        let records = entries.filter(|path| path.extension() == Some(OsStr::new(RECORD)));
        let its = records.filter_map(|path| directory::look(&path)).find(|it| it.is_of(self.pid));
        its.map(|record| directory::socket(dir, record.connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Record, publish};

    #[test]
    fn processes_are_known_by_their_status() {
        let own = Process::of(std::process::id()).unwrap();
        assert_eq!(own.user, nix::unistd::getuid().as_raw());
        assert_eq!(own.parent, Some(std::os::unix::process::parent_id()));
        assert_eq!(Process::of(1).unwrap().parent, None);
        let text = "Name:\tPPid:\nPPid:\t7\nUid:\t8\t9\t9\t9\n";
        assert_eq!(Process::told(5, text), Some(Process { pid: 5, parent: Some(7), user: 8 }));
        for word in ["", "x", "-1", "./1", "1/", "99999999999"] {
            assert_eq!(socket_of(Path::new(word)), None, "{word}");
        }
    }

    #[test]
    fn a_mount_is_found_by_its_process_alone() {
        let dir = tempfile::tempdir().unwrap();
        let own = Process::of(std::process::id()).unwrap();
        let path = dir.path().join("7.json");
        assert_eq!(own.socket_in(dir.path()), None);
        let record = Record::new(Path::new("/source"), None, 7, String::new());
        let line = record.to_line().unwrap();
        let lock = publish::write(&path, &line, record.mode()).unwrap();
        assert_eq!(own.socket_in(dir.path()), Some(dir.path().join("7.sock")));
        let parent = Process { pid: own.parent.unwrap(), ..own };
        assert_eq!(parent.socket_in(dir.path()), None);
        // One that had its number before.
        let other = Record { start_time: 1, ..record };
        let other_lock = publish::write(&path, &other.to_line().unwrap(), 0o600).unwrap();
        assert_eq!(own.socket_in(dir.path()), None);
        // What nobody holds is left to whose it is.
        drop((lock, other_lock));
        std::fs::write(&path, line).unwrap();
        assert_eq!(own.socket_in(dir.path()), None);
        assert!(path.exists());
    }
}
