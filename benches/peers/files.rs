//! The works on names and small files, each done as the user of the mount.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::data::Aligned;
use crate::job::{Job, Sample};
use crate::place::run;
use crate::tree::{self, DIRS};

/// Times something that is done so many times.
fn timed(count: usize, body: impl FnOnce() -> io::Result<()>) -> io::Result<Sample> {
    let start = Instant::now();
    body()?;
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { nanos, count: count as u64 })
}

/// Some files of every part of the tree.
fn some(job: &Job, count: usize) -> Vec<PathBuf> {
    let count = count.min(job.files).max(1);
    let step = (job.files / count).max(1);
    // Neighbours are in different directories.
    (0..count)
        .map(|number| tree::file(&job.root, (number * step + number / DIRS) % job.files))
        .collect()
}

fn stat_all(paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| fs::symlink_metadata(path).map(drop))
}

/// A file's attributes, when they were asked for a moment ago.
pub fn stat(job: &Job) -> io::Result<Sample> {
    let paths = some(job, 1000);
    stat_all(&paths)?;
    timed(paths.len() * 20, || (0..20).try_for_each(|_| stat_all(&paths)))
}

/// A name that is not there, when it was asked for a moment ago.
pub fn missing(job: &Job) -> io::Result<Sample> {
    let dir = tree::dir(&job.root, 7);
    let paths: Vec<PathBuf> = (0..500).map(|number| dir.join(format!("none-{number}"))).collect();
    let look = || {
        let found = paths.iter().any(|path| fs::symlink_metadata(path).is_ok());
        if found { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    };
    look()?;
    timed(paths.len() * 10, || (0..10).try_for_each(|_| look()))
}

/// Lists directories and asks for the attributes of what is in them, by path.
fn walk_all(dirs: &[PathBuf]) -> io::Result<usize> {
    let mut seen = 0;
    for dir in dirs {
        for entry in fs::read_dir(dir)? {
            fs::symlink_metadata(entry?.path())?;
            seen += 1;
        }
    }
    Ok(seen)
}

fn dirs(root: &Path) -> Vec<PathBuf> {
    (0..DIRS).map(|number| tree::dir(root, number)).collect()
}

/// The whole tree once, whatever is known of it.
pub fn cold_walk(job: &Job) -> io::Result<Sample> {
    let dirs = dirs(&job.root);
    timed(job.files, || walk_all(&dirs).map(drop))
}

/// The whole tree again.
pub fn walk(job: &Job) -> io::Result<Sample> {
    let dirs = dirs(&job.root);
    walk_all(&dirs)?;
    timed(job.files, || walk_all(&dirs).map(drop))
}

/// The whole tree once, each half by a thread of its own.
pub fn two_walkers(job: &Job) -> io::Result<Sample> {
    let mut one = dirs(&job.root);
    let other = one.split_off(DIRS / 2);
    timed(job.files, || {
        thread::scope(|scope| {
            let other = scope.spawn(|| walk_all(&other));
            walk_all(&one)?;
            other.join().map_err(|_| io::ErrorKind::Other)??;
            Ok(())
        })
    })
}

/// Files by their paths, whatever is known of them.
pub fn cold_stat(job: &Job) -> io::Result<Sample> {
    let paths = some(job, job.files / 5);
    timed(paths.len(), || stat_all(&paths))
}

/// All of many small files, again and again.
pub fn read_small(job: &Job) -> io::Result<Sample> {
    let paths = some(job, job.files * 3 / 10);
    let mut buffer = Aligned::new(8192);
    let mut read = || {
        paths.iter().try_for_each(|path| {
            let mut file = File::open(path)?;
            while file.read(buffer.get())? > 0 {}
            Ok(())
        })
    };
    read()?;
    timed(paths.len() * 3, || (0..3).try_for_each(|_| read()))
}

/// Files to be made, changed or removed in a directory.
fn news(job: &Job, dir: &Path) -> Vec<PathBuf> {
    let count = (job.files / 10).max(1);
    (0..count).map(|number| dir.join(format!("new-{number:05}"))).collect()
}

fn create_all(paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| File::create_new(path)?.write_all(&[b'x'; 100]))
}

/// New files of 100 bytes.
pub fn create(job: &Job) -> io::Result<Sample> {
    let dir = job.scratch()?;
    let paths = news(job, &dir);
    let sample = timed(paths.len(), || create_all(&paths))?;
    fs::remove_dir_all(dir)?;
    Ok(sample)
}

/// Another mode and another name for each.
pub fn change(job: &Job) -> io::Result<Sample> {
    let dir = job.scratch()?;
    let paths = news(job, &dir);
    create_all(&paths)?;
    let sample = timed(paths.len(), || {
        paths.iter().try_for_each(|path| {
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            fs::rename(path, path.with_extension("old"))
        })
    })?;
    fs::remove_dir_all(dir)?;
    Ok(sample)
}

/// Every file removed.
pub fn unlink(job: &Job) -> io::Result<Sample> {
    let dir = job.scratch()?;
    let paths = news(job, &dir);
    create_all(&paths)?;
    let sample = timed(paths.len(), || paths.iter().try_for_each(fs::remove_file))?;
    fs::remove_dir_all(dir)?;
    Ok(sample)
}

/// A fifth of the tree out of an archive, by tar(1).
pub fn untar(job: &Job) -> io::Result<Sample> {
    let dir = job.scratch()?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(job.root.join("files.tar")).arg("-C").arg(&dir);
    let sample = timed(job.files / 5, || run(&mut tar))?;
    fs::remove_dir_all(dir)?;
    Ok(sample)
}

/// The second `git status` of the tree; each mount has an index of its own.
pub fn git_status(job: &Job) -> io::Result<Sample> {
    let (mount, _) = job.name.split_once('.').unwrap_or_default();
    let index = job.root.join("git").join(format!("index.{mount}"));
    if !index.exists() {
        fs::copy(job.root.join("git/index"), &index)?;
    }
    let status = || {
        let mut git = tree::git(&job.root);
        git.env("GIT_INDEX_FILE", &index).args(["status", "--porcelain"]).stdin(Stdio::null());
        let output = git.output()?;
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        if output.status.success() && said.is_empty() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        Err(io::Error::other(format!("git: {}", said.lines().next().unwrap_or("failed"))))
    };
    // What differs by mount, numbers of inodes among it, is written to the index.
    status()?;
    status()?;
    timed(1, status)
}
