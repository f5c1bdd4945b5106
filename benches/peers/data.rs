//! The works on big files.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use crate::job::{Job, Sample};
use crate::tree::{BIG, RANDOM, Random};

const MIB: u64 = 1 << 20;
/// Bytes of a file that is written from its start to its end.
const WRITTEN: u64 = 256 * MIB;
/// Blocks that are read or written here and there.
const BLOCKS: u64 = 20_000;
const BLOCK: usize = 4096;

fn timed(count: u64, body: impl FnOnce() -> io::Result<()>) -> io::Result<Sample> {
    let start = Instant::now();
    body()?;
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { nanos, count })
}

/// Bytes that begin with a page.
///
/// Where they begin decides how fast some processors copy (AMD's `rep movsb` takes
/// five times as long to some places in a page), and the allocator would give a
/// place that depends on the length of the arguments.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// Makes so many.
    pub fn new(length: usize) -> Self {
        let bytes = vec![b'w'; length + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { bytes, start, length }
    }

    /// Returns them.
    pub fn get(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

/// Reads a file from its start to its end.
///
/// # Errors
/// As open(2) and read(2); it has another size.
pub fn read_whole(path: &Path) -> io::Result<()> {
    let mut buffer = Aligned::new(MIB as usize);
    let mut file = File::open(path)?;
    let mut seen = 0;
    loop {
        match file.read(buffer.get())? {
            0 if seen == BIG => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => seen += length as u64,
        }
    }
}

/// 512 MiB that this mount has not read, while the disk's are in memory.
pub fn first_read(job: &Job) -> io::Result<Sample> {
    timed(BIG / MIB, || read_whole(&job.root.join("big")))
}

/// 512 MiB, opened and read again.
pub fn reread(job: &Job) -> io::Result<Sample> {
    let path = job.root.join("big");
    read_whole(&path)?;
    timed(BIG / MIB, || read_whole(&path))
}

/// Blocks of the same file, anywhere.
pub fn random_read(job: &Job) -> io::Result<Sample> {
    let path = job.root.join("big");
    read_whole(&path)?;
    let (file, mut random) = (File::open(path)?, Random::new(1));
    let mut buffer = Aligned::new(BLOCK);
    timed(BLOCKS, || {
        (0..BLOCKS).try_for_each(|_| {
            file.read_exact_at(buffer.get(), random.below(BIG / BLOCK as u64) * BLOCK as u64)
        })
    })
}

/// Blocks of a file that is there, anywhere.
pub fn random_write(job: &Job) -> io::Result<Sample> {
    let file = File::options().write(true).open(job.root.join("random"))?;
    let (mut buffer, mut random) = (Aligned::new(BLOCK), Random::new(2));
    timed(BLOCKS, || {
        (0..BLOCKS).try_for_each(|_| {
            file.write_all_at(buffer.get(), random.below(RANDOM / BLOCK as u64) * BLOCK as u64)
        })?;
        drop(file);
        Ok(())
    })
}

/// A new file, by so many bytes a call, with its close.
fn write(job: &Job, by: usize) -> io::Result<Sample> {
    let dir = job.scratch()?;
    let mut buffer = Aligned::new(by);
    let sample = timed(WRITTEN / MIB, || {
        let mut file = File::create_new(dir.join("new"))?;
        (0..WRITTEN / by as u64).try_for_each(|_| file.write_all(buffer.get()))
    })?;
    fs::remove_dir_all(dir)?;
    Ok(sample)
}

/// 256 MiB by 1 MiB.
pub fn write_large(job: &Job) -> io::Result<Sample> {
    write(job, MIB as usize)
}

/// 256 MiB by 4 KiB.
pub fn write_small(job: &Job) -> io::Result<Sample> {
    write(job, BLOCK)
}
