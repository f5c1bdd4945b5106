//! What a process that measures is told, and what it answers.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// The first word of a child; then come its task and [`Job`].
pub const WORD: &str = "--child";
/// The task that sees a path and stays.
pub const STAY: &str = "stay";

/// What a measuring process has to know.
#[derive(Debug)]
pub struct Job {
    /// The root of the mount.
    pub root: PathBuf,
    /// The user and group.
    pub id: u32,
    /// The process whose namespaces to enter.
    pub inside: Option<i32>,
    /// Files of the tree.
    pub files: usize,
    /// A name that no other job has.
    pub name: String,
}

impl Job {
    /// Enters the namespaces and becomes the user.
    ///
    /// # Errors
    /// As setns(2), setresuid(2).
    pub fn enter(&self) -> io::Result<()> {
        umask(Mode::from_bits_truncate(0o022));
        setgroups(&[])?;
        if let Some(pid) = self.inside {
            let open = |name| File::open(format!("/proc/{pid}/ns/{name}"));
            let (user, mount) = (open("user")?, open("mnt")?);
            setns(user, CloneFlags::CLONE_NEWUSER)?;
            setns(mount, CloneFlags::CLONE_NEWNS)?;
        }
        let (uid, gid) = (Uid::from_raw(self.id), Gid::from_raw(self.id));
        setresgid(gid, gid, gid)?;
        Ok(setresuid(uid, uid, uid)?)
    }

    /// Makes a directory of this job's own.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn scratch(&self) -> io::Result<PathBuf> {
        let dir = self.root.join("scratch").join(&self.name);
        fs::create_dir(&dir)?;
        Ok(dir)
    }
}

/// What was measured: nanoseconds, and of how many operations.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// All of the time.
    pub nanos: u64,
    /// Operations in it.
    pub count: u64,
}

impl Sample {
    /// Returns nanoseconds an operation.
    pub fn each(self) -> f64 {
        self.nanos as f64 / self.count.max(1) as f64
    }
}
