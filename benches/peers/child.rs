//! The process that measures, as the user of the mount.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::About as _;
use crate::mounts::{DISK_ID, Live};
use crate::place::Place;
use crate::{images, tree, visible, work};

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

/// Does the task of a child.
///
/// # Errors
/// Whatever fails of it.
pub fn main(words: &[OsString]) -> io::Result<ExitCode> {
    let word = |at: usize| words.get(at).map(OsString::as_os_str).unwrap_or_default();
    let task = word(1).to_string_lossy();
    if task == STAY {
        return stay(word(2));
    }
    let number = |at| word(at).to_string_lossy().parse::<u32>().about("a number");
    let inside = i32::try_from(number(4)?).ok().filter(|pid| *pid != 0);
    let job = Job {
        root: word(2).into(),
        id: number(3)?,
        inside,
        files: number(5)? as usize,
        name: word(6).to_string_lossy().into_owned(),
    };
    job.enter().about("becoming the user")?;
    match task.as_ref() {
        "build" => tree::build(&job.root, job.files)?,
        "repository" => tree::repository(&job.root)?,
        "many" => tree::many(&job.root, job.name.parse().about("a number")?)?,
        "walk-many" => tree::walk_many(&job.root)?,
        "verify" => verify(&job)?,
        "verify-image" => images::verify(&job)?,
        visible::TASK => visible::look(&job)?,
        name => {
            let sample = work::body(name).ok_or(io::ErrorKind::InvalidInput)?(&job)?;
            println!("{} {}", sample.nanos, sample.count);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Job {
    /// Enters the namespaces and becomes the user.
    fn enter(&self) -> io::Result<()> {
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

/// Says that a path is there, and waits to be killed.
fn stay(path: &OsStr) -> io::Result<ExitCode> {
    fs::symlink_metadata(path)?;
    println!("{}", std::process::id());
    io::stdout().flush()?;
    loop {
        thread::park();
    }
}

/// Checks that a mount shows what is there and stores what it should.
fn verify(job: &Job) -> io::Result<()> {
    let wrong =
        |what: &str, path: &Path| Err(io::Error::other(format!("{}: {what}", path.display())));
    for number in (0..job.files).step_by(job.files.div_ceil(97)) {
        let path = tree::file(&job.root, number);
        let meta = fs::symlink_metadata(&path).about(&path.to_string_lossy())?;
        if (meta.uid(), meta.gid()) != (job.id, job.id) {
            return wrong(&format!("shown with owner {}:{}", meta.uid(), meta.gid()), &path);
        }
        if fs::read(&path)? != tree::contents(number) {
            return wrong("other contents", &path);
        }
    }
    let new = job.scratch()?.join("new");
    fs::write(&new, "new")?;
    let meta = fs::symlink_metadata(&new)?;
    if (meta.uid(), meta.gid(), meta.len()) != (job.id, job.id, 3) {
        return wrong("a new file is shown wrong", &new);
    }
    Ok(())
}

/// Checks on the disk what [`verify`] has made, and removes it.
///
/// # Errors
/// It has another owner.
pub fn verify_disk(place: &Place, name: &str) -> io::Result<()> {
    let dir = place.source.join("scratch").join(name);
    let meta = fs::symlink_metadata(dir.join("new"))?;
    fs::remove_dir_all(&dir)?;
    if (meta.uid(), meta.gid()) == (DISK_ID, DISK_ID) {
        return Ok(());
    }
    Err(io::Error::other(format!("a new file is stored as {}:{}", meta.uid(), meta.gid())))
}
