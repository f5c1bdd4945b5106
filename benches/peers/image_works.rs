//! The works on an image, with the goal of each.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::thread;
use std::time::Instant;

use crate::About as _;
use crate::data::Aligned;
use crate::job::{Job, Sample};
use crate::work::{Before, NO_GOAL, Row, Unit, Work, goal, row, work};
use crate::{files, tree};

/// Bytes of each of the big files.
pub const BIG: u64 = 96 << 20;
/// Bytes of a mebibyte.
pub const MIB: usize = 1 << 20;

/// Every work on an image.
pub const WORKS: &[Work] = &[
    work("image-walk", &[row("warm walk", Unit::Each, goal(1.1))], files::walk, Before::Any),
    work("image-read", &[row("read 96 MiB again", Unit::Mib, goal(1.1))], again, Before::Any),
    work(
        "image-two",
        &[row("read 192 MiB by two again", Unit::Mib, goal(1.1))],
        two_again,
        Before::Any,
    ),
    work("image-cold-walk", &[COLD_WALK], files::cold_walk, Before::Cold),
    work("image-cold-read", &[COLD_READ], first, Before::Cold),
    work("image-cold-two", &[COLD_TWO], two, Before::Cold),
];
const COLD_WALK: Row = row("cold walk", Unit::Each, NO_GOAL);
const COLD_READ: Row = row("cold read of 96 MiB", Unit::Mib, NO_GOAL);
const COLD_TWO: Row = row("cold read of 192 MiB by two", Unit::Mib, NO_GOAL);

fn read_whole(path: &Path) -> io::Result<()> {
    let (mut file, mut buffer, mut seen) = (File::open(path)?, Aligned::new(MIB), 0);
    loop {
        match file.read(buffer.get())? {
            0 if seen == BIG => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => seen += length as u64,
        }
    }
}

fn timed(files: u64, body: impl FnOnce() -> io::Result<()>) -> io::Result<Sample> {
    let start = Instant::now();
    body()?;
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { nanos, count: files * (BIG >> 20) })
}

/// A big file.
fn first(job: &Job) -> io::Result<Sample> {
    timed(1, || read_whole(&job.root.join("one")))
}

/// Two big files, by a thread each.
fn two(job: &Job) -> io::Result<Sample> {
    timed(2, || {
        thread::scope(|scope| {
            let other = scope.spawn(|| read_whole(&job.root.join("two")));
            read_whole(&job.root.join("one"))?;
            other.join().map_err(|_| io::ErrorKind::Other)?
        })
    })
}

fn again(job: &Job) -> io::Result<Sample> {
    first(job)?;
    first(job)
}

fn two_again(job: &Job) -> io::Result<Sample> {
    two(job)?;
    two(job)
}

/// Checks the contents of some files.
///
/// # Errors
/// They cannot be read, or are others.
pub fn verify(job: &Job) -> io::Result<()> {
    for number in (0..job.files).step_by(job.files.div_ceil(97)) {
        let path = tree::file(&job.root, number);
        if fs::read(&path).about(&path.to_string_lossy())? != tree::contents(number) {
            return Err(io::Error::other(format!("{}: other contents", path.display())));
        }
    }
    Ok(())
}
