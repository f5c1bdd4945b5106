//! Two trees that are to be the same, looked at in every way there is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};

use crate::support::raw;

/// Differences after which nobody wants more.
const ENOUGH: usize = 20;

/// Directories with more names than this have each name compared, and few files.
const LONG: usize = 2_000;

/// Of those, each so many names.
const STEP: usize = 37;

/// Files of more bytes than this are read in places.
const LARGE: u64 = 64 << 20;

/// What a listing of ours has for inode number 1.
const NODE_OF_ONE: u64 = i64::MAX as u64;

/// What is not compared, because nobody keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Except {
    /// Nothing.
    Nothing,
    /// The ids that stand in ACLs for those that are not mapped.
    StandIns,
    /// The inode numbers, and what the others are counted in.
    Identity,
}

/// A comparison under way.
#[derive(Debug)]
struct Comparison {
    except: Except,
    found: Vec<String>,
    files: usize,
}

/// Returns what of a tree is otherwise in another one, and how many files were compared.
pub fn differences(one: &Path, other: &Path, except: Except) -> (Vec<String>, usize) {
    let mut this = Comparison { except, found: Vec::new(), files: 0 };
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        if this.found.len() >= ENOUGH {
            break;
        }
        let at = |root: &Path| {
            if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) }
        };
        let pair = [at(one), at(other)];
        this.files += 1;
        if this.file(&path, &pair) {
            left.extend(this.directory(&path, &pair));
        }
    }
    (this.found, this.files)
}

/// Has all entries of an ACL that stand for nobody do so by the same id.
fn nobody(acl: &mut [u8]) {
    let entries = acl.get_mut(4..).unwrap_or_default().as_chunks_mut::<8>().0;
    for [.., a, b, c, d] in entries {
        if u32::from_le_bytes([*a, *b, *c, *d]) >= u32::MAX - 1 {
            [*a, *b, *c, *d] = [0xff; 4];
        }
    }
}

/// A name of a directory, with all that the listing says of it.
type Names = BTreeMap<OsString, (u64, char)>;

impl Comparison {
    /// Notes a difference between what each of two gives.
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, path: &Path, what: &str, [a, b]: [T; 2]) {
        if a != b {
            let short = |value: T| format!("{value:?}").chars().take(300).collect::<String>();
            self.found.push(format!("{path:?}: {what}: {} and {}", short(a), short(b)));
        }
    }

    /// Compares a file of any kind; says whether it is a directory.
    fn file(&mut self, path: &Path, pair: &[PathBuf; 2]) -> bool {
        let [a, b] = [0, 1].map(|at| raw::statx(Ok(&pair[at])));
        let kind = a.map_or(0, |stat| u32::from(stat.stx_mode) & libc::S_IFMT);
        let size = a.map_or(0, |stat| stat.stx_size);
        for ((what, one), (_, other)) in self.fields(a).into_iter().zip(self.fields(b)) {
            self.check(path, what, [one, other]);
        }
        self.check(path, "errno of stat", [a.err(), b.err()]);
        let names = [0, 1].map(|at| match raw::list_xattr(&pair[at]) {
            // A squashfs in which no file has any has not even the call.
            Err(libc::EOPNOTSUPP) => Ok(Vec::new()),
            other => other,
        });
        for name in names[0].iter().flatten() {
            let mut values = [0, 1].map(|at| raw::get_xattr(&pair[at], name));
            if self.except == Except::StandIns && name.to_bytes().starts_with(b"system.posix_acl") {
                values.iter_mut().flatten().for_each(|value| nobody(value));
            }
            self.check(path, &format!("value of {name:?}"), values);
        }
        self.check(path, "attributes", names);
        let none = [0, 1].map(|at| raw::get_xattr(&pair[at], c"user.no-such"));
        self.check(path, "an attribute that is not there", none);
        match kind {
            libc::S_IFLNK => {
                let errno = |error: std::io::Error| error.raw_os_error();
                let targets = [0, 1].map(|at| fs::read_link(&pair[at]).map_err(errno));
                self.check(path, "target", targets);
            }
            libc::S_IFREG => self.contents(path, pair, size),
            _ => {}
        }
        kind == libc::S_IFDIR
    }

    /// What stat(2) says, by name.
    fn fields(&self, stat: raw::Sys<libc::statx>) -> Vec<(&'static str, i128)> {
        let Ok(stat) = stat else { return Vec::new() };
        let time = |time: libc::statx_timestamp| {
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        let mut fields = vec![
            ("mode", stat.stx_mode.into()),
            ("uid", stat.stx_uid.into()),
            ("gid", stat.stx_gid.into()),
            ("rdev major", stat.stx_rdev_major.into()),
            ("rdev minor", stat.stx_rdev_minor.into()),
            ("mtime", time(stat.stx_mtime)),
        ];
        let is_dir = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        if self.except != Except::Identity || !is_dir {
            fields.extend([("size", stat.stx_size.into()), ("nlink", stat.stx_nlink.into())]);
        }
        if self.except != Except::Identity {
            fields.extend([
                ("ino", stat.stx_ino.into()),
                ("blocks", stat.stx_blocks.into()),
                ("blksize", stat.stx_blksize.into()),
                ("atime", time(stat.stx_atime)),
                ("ctime", time(stat.stx_ctime)),
            ]);
        }
        fields
    }

    /// Compares every byte, and reads of every odd kind.
    fn contents(&mut self, path: &Path, pair: &[PathBuf; 2], size: u64) {
        let files = [0, 1].map(|at| File::open(&pair[at]));
        let [Ok(one), Ok(other)] = &files else {
            let errno = files.map(|file| file.err().and_then(|error| error.raw_os_error()));
            self.found.push(format!("{path:?}: errno of open: {errno:?}"));
            return;
        };
        // Before anything is read: what the kernel has in memory of a hole is data to it.
        let told = [one, other].map(|file| holes(file, size));
        // Those of a squashfs and of an erofs not every kernel tells.
        let all_data = [Ok(0), Ok(size.cast_signed())];
        let tells = !told[0].starts_with(&all_data)
            || fstatfs(one).is_ok_and(|of| of.filesystem_type() == EXT4_SUPER_MAGIC);
        if self.except != Except::Identity && tells {
            self.check(path, "holes", told);
        }
        for (at, length) in reads(size) {
            let read = |file: &File| {
                let mut buf = vec![0x55; length];
                let done = file.read_at(&mut buf, at).map_err(|error| error.raw_os_error());
                done.map(|count| {
                    buf.truncate(count);
                    buf
                })
            };
            let (one, other) = (read(one), read(other));
            if one != other {
                let lengths = [&one, &other].map(|read| read.as_ref().map(Vec::len));
                let first = one.iter().flatten().zip(other.iter().flatten());
                let first = first.enumerate().find(|(_, (a, b))| a != b);
                self.found.push(format!(
                    "{path:?} ({size} bytes): {length} bytes from {at}: {lengths:?}, \
                     the first that differs: {first:?}"
                ));
                return;
            }
        }
    }

    /// Compares the names of a directory; returns what is to be compared of it.
    fn directory(&mut self, path: &Path, pair: &[PathBuf; 2]) -> Vec<PathBuf> {
        let lists = [0, 1].map(|at| self.names(&pair[at]));
        let [Ok(one), Ok(other)] = lists else {
            self.found.push(format!("{path:?}: errno of a listing: {:?}", lists.map(Result::err)));
            return Vec::new();
        };
        for (name, entry) in &one {
            match other.get(name) {
                None => self.found.push(format!("{path:?}: {name:?} is missing")),
                // A listing has no other number for it.
                Some((NODE_OF_ONE, kind)) if *entry == (1, *kind) => {}
                Some(same) => self.check(&path.join(name), "number and type", [*entry, *same]),
            }
        }
        let more = other.keys().filter(|name| !one.contains_key(*name));
        self.found.extend(more.map(|name| format!("{path:?}: {name:?} is too many")));
        let step = if one.len() > LONG { STEP } else { 1 };
        one.into_keys().step_by(step).map(|name| path.join(name)).collect()
    }

    fn names(&self, dir: &Path) -> Result<Names, Option<i32>> {
        let errno = |error: std::io::Error| error.raw_os_error();
        let mut names = Names::new();
        for entry in fs::read_dir(dir).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            let kind = entry.file_type().map_err(errno)?;
            let kind = match kind {
                _ if kind.is_dir() => 'd',
                _ if kind.is_file() => 'f',
                _ if kind.is_symlink() => 'l',
                _ if kind.is_char_device() => 'c',
                _ if kind.is_block_device() => 'b',
                _ if kind.is_fifo() => 'p',
                _ => 's',
            };
            let ino = if self.except != Except::Identity { entry.ino() } else { 0 };
            assert!(!entry.file_name().as_bytes().contains(&b'/'), "a name with a slash");
            let again = names.insert(entry.file_name(), (ino, kind));
            assert!(again.is_none(), "{dir:?}: {:?} is there twice", entry.file_name());
        }
        Ok(names)
    }
}

/// Which reads are tried of a file: where, and how many bytes.
fn reads(size: u64) -> Vec<(u64, usize)> {
    const STRETCH: u64 = 1 << 20;
    let mut reads = Vec::new();
    // Before all is known to the kernel: places that no reader ahead comes by.
    for (at, length) in
        [(size / 2, 3), (size.saturating_sub(1), 2), (size.saturating_sub(4097), 4099)]
    {
        reads.push((at, length));
    }
    if size > LARGE {
        use crate::support::images::tree::{HUGE, ISLANDS};
        let places = ISLANDS.into_iter().chain((0..HUGE).step_by(331 << 20));
        reads.extend(places.map(|at| (at.saturating_sub(5_001), 50_000)));
    } else {
        reads.extend((0..size).step_by(STRETCH as usize).map(|at| (at, STRETCH as usize)));
    }
    let odd = [0, 1, 4_095, 4_096, 8_191, 65_535, 131_071, 131_072, 1_048_575];
    reads.extend(odd.into_iter().filter(|at| *at <= size).map(|at| (at, 4_099)));
    reads.extend([(size, 10), (size + 1, 10), (size + 4_096, 1), (1 << 62, 5)]);
    reads
}

/// Returns where data and holes are, by turns, and what is said of other places.
fn holes(file: &File, size: u64) -> Vec<raw::Sys> {
    const MOST: usize = 2_000;
    let seek = |at: u64, whence| raw::lseek(file.as_fd(), at.cast_signed(), whence);
    let kinds = [libc::SEEK_DATA, libc::SEEK_HOLE];
    let (mut found, mut at) = (Vec::new(), 0);
    for whence in kinds.into_iter().cycle().take(MOST) {
        found.push(seek(at, whence));
        let Some(Ok(next)) = found.last() else { break };
        at = next.cast_unsigned();
    }
    let odd = [1, 4_095, 100_001, size / 2, size.saturating_sub(1), size, size + 1, 1 << 62];
    found.extend(odd.into_iter().flat_map(|at| kinds.map(|whence| seek(at, whence))));
    found
}

/// Returns what is wrong with the order of a directory: that it is another one the
/// next time, or after a seek.
pub fn disorder(path: &Path) -> Option<String> {
    let stream = raw::Directory::open(path).ok()?;
    let mut places = Vec::new();
    loop {
        let at = stream.tell();
        let Some(name) = stream.next() else { break };
        places.push((at, name));
    }
    stream.rewind();
    for (_, name) in &places {
        let again = stream.next();
        if again.as_ref() != Some(name) {
            return Some(format!("{path:?}: {name:?} the first time, then {again:?}"));
        }
    }
    // Backwards, so that nothing is where the last read has left it.
    let step = places.len() / 50 + 1;
    for index in (0..places.len()).rev().step_by(step) {
        stream.seek(places[index].0);
        for (_, name) in places[index..].iter().take(3) {
            let again = stream.next();
            if again.as_ref() != Some(name) {
                return Some(format!("{path:?}: after a seek {again:?} instead of {name:?}"));
            }
        }
    }
    None
}
