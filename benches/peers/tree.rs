//! The tree that is measured on: which file is where, and what is in it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::run;

/// Directories of the tree.
pub const DIRS: usize = 200;
/// Bytes of the file that is read again and again.
pub const BIG: u64 = 512 << 20;
/// Bytes of the file that is written here and there.
pub const RANDOM: u64 = 64 << 20;

/// Returns a directory of the tree.
pub fn dir(root: &Path, number: usize) -> PathBuf {
    root.join(format!("tree/d{:03}", number % DIRS))
}

/// Returns a file of the tree.
pub fn file(root: &Path, number: usize) -> PathBuf {
    dir(root, number).join(format!("file-{number:05}"))
}

/// Returns the contents of a file: 64 to 4,160 bytes.
pub fn contents(number: usize) -> Vec<u8> {
    let mut random = Random::new(number as u64);
    let length = 64 + random.below(4097) as usize;
    let word = random.next().to_le_bytes();
    word.iter().copied().cycle().take(length).collect()
}

/// Numbers that look random and are the same every time.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Starts a row of numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Returns the next one (xorshift64*).
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns the next one below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}

/// Builds all that the works need in an empty source.
///
/// # Errors
/// As the calls that write it.
pub fn build(source: &Path, files: usize) -> io::Result<()> {
    fs::create_dir(source.join("tree"))?;
    fs::create_dir(source.join("scratch"))?;
    for number in 0..DIRS {
        fs::create_dir(dir(source, number))?;
    }
    for number in 0..files {
        fs::write(file(source, number), contents(number))?;
    }
    for (name, bytes) in [("big", BIG), ("random", RANDOM)] {
        let mut file = File::create(source.join(name))?;
        for block in 0..bytes >> 20 {
            file.write_all(&block_of(block))?;
        }
    }
    archive(source)
}

/// Returns a mebibyte of a big file.
fn block_of(block: u64) -> Vec<u8> {
    block.to_le_bytes().iter().copied().cycle().take(1 << 20).collect()
}

/// Packs a fifth of the tree.
fn archive(source: &Path) -> io::Result<()> {
    let dirs = (0..DIRS / 5).map(|number| format!("d{number:03}"));
    let tar = source.join("files.tar");
    run(Command::new("tar").arg("-C").arg(source.join("tree")).arg("-cf").arg(tar).args(dirs))
}

/// Puts the tree under git, which keeps its own files beside it.
///
/// # Errors
/// git is not there, or fails.
pub fn repository(source: &Path) -> io::Result<()> {
    for words in [
        &["init", "-q"][..],
        &["-c", "core.compression=0", "add", "-A"],
        &["-c", "user.name=peers", "-c", "user.email=peers@localhost", "commit", "-qm", "all"],
        // One file instead of one for each.
        &["-c", "core.compression=0", "repack", "-qad"],
        &["prune-packed", "-q"],
    ] {
        run(git(source).args(words))?;
    }
    Ok(())
}

/// Returns git with the repository of this root, and nobody's configuration.
pub fn git(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.env("GIT_DIR", root.join("git"))
        .env("GIT_WORK_TREE", root.join("tree"))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .current_dir(root.join("tree"));
    git
}

/// Makes many empty files, a thousand to a directory.
///
/// # Errors
/// As mkdir(2) and open(2).
pub fn many(source: &Path, count: usize) -> io::Result<()> {
    let top = source.join("many");
    for number in 0..count.div_ceil(1000) {
        let dir = top.join(format!("d{number:04}"));
        fs::create_dir_all(&dir)?;
        for file in 0..1000.min(count - number * 1000) {
            drop(File::create(dir.join(format!("f{file:03}")))?);
        }
    }
    Ok(())
}

/// Asks for the attributes of them all.
///
/// # Errors
/// As readdir(3) and lstat(2).
pub fn walk_many(root: &Path) -> io::Result<()> {
    for dir in fs::read_dir(root.join("many"))? {
        for file in fs::read_dir(dir?.path())? {
            file?.metadata()?;
        }
    }
    Ok(())
}
