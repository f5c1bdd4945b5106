//! How soon a change of the source is seen on a mount.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::ChildStdout;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::child;
use crate::job::Job;
use crate::mounts::Live;
use crate::place::{DISK_ID, Place};

/// The task of the child that looks.
pub const TASK: &str = "look";

/// Changes of one measurement, if there is time for them.
const CHANGES: usize = 1000;
/// Time for them all.
const BUDGET: Duration = Duration::from_secs(8);
/// A change that takes longer is not waited for.
const NEVER: Duration = Duration::from_millis(1500);

/// The clock that every process reads the same: nanoseconds.
fn now() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// What can be seen of a file: its mode, or the lack of one.
fn seen(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.permissions().mode())
}

/// In the child: for each line, the path of a file, says when it has looked, and
/// when it sees another state of it; 0: never.
///
/// # Errors
/// The parent is gone.
pub fn look(job: &Job) -> io::Result<()> {
    for line in io::stdin().lines() {
        let path = job.root.join(line?);
        let before = seen(&path);
        say(0)?;
        let start = Instant::now();
        let mut when = 0;
        while start.elapsed() < NEVER {
            if seen(&path) != before {
                when = now()?;
                break;
            }
        }
        say(when)?;
    }
    Ok(())
}

fn say(number: u64) -> io::Result<()> {
    println!("{number}");
    io::stdout().flush()
}

fn hear(output: &mut BufReader<ChildStdout>) -> io::Result<u64> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    line.trim().parse().map_err(|_| io::Error::other("the child that looks is gone"))
}

/// Changes modes and names in the source, by turns; returns the median and the
/// 99th percentile of the nanoseconds until each is seen.
///
/// # Errors
/// As the changes, or the child fails.
pub fn measure(live: &Live, place: &Place, name: &str) -> io::Result<Vec<f64>> {
    let dir = place.source.join("scratch").join(name);
    fs::create_dir(&dir)?;
    let file = dir.join("file");
    drop(File::create(&file)?);
    for path in [&dir, &file] {
        chown(path, Some(DISK_ID), Some(DISK_ID))?;
    }
    let mut child = child::talk(TASK, live, place, name)?;
    let both = child.stdin.take().zip(child.stdout.take());
    let Some((mut input, output)) = both else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let mut output = BufReader::new(output);
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < CHANGES && start.elapsed() < BUDGET {
        writeln!(input, "scratch/{name}/file")?;
        hear(&mut output)?;
        // The child is to be at it by then.
        thread::sleep(Duration::from_millis(1));
        let before = now()?;
        match times.len() % 4 {
            0 => fs::set_permissions(&file, Permissions::from_mode(0o600))?,
            1 => fs::set_permissions(&file, Permissions::from_mode(0o644))?,
            2 => fs::rename(&file, dir.join("away"))?,
            _ => fs::rename(dir.join("away"), &file)?,
        }
        times.push(match hear(&mut output)? {
            0 => f64::INFINITY,
            when => when.saturating_sub(before) as f64,
        });
    }
    drop(input);
    child.wait()?;
    fs::remove_dir_all(&dir)?;
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::INFINITY);
    Ok(vec![at(50), at(99)])
}
