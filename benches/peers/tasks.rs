//! What a process that measures does, as the user of the mount.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use crate::About as _;
use crate::job::{Job, STAY};
use crate::{image_works, tree, visible, works};

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
        "verify-image" => image_works::verify(&job)?,
        visible::TASK => visible::look(&job)?,
        name => {
            let sample = works::body(name).ok_or(io::ErrorKind::InvalidInput)?(&job)?;
            println!("{} {}", sample.nanos, sample.count);
        }
    }
    Ok(ExitCode::SUCCESS)
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
