//! Carries an operation out on one side: the code that a caller runs.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ops::{Op, Outcome, SLOTS};
use crate::support::raw::{self, Sys};

/// A caller's view of one side: its root, and what it has open there.
#[derive(Debug)]
pub struct Hands {
    root: PathBuf,
    slots: [Option<std::fs::File>; SLOTS],
    writes: u8,
}

impl Hands {
    /// Starts with nothing open.
    pub fn new(root: PathBuf) -> Self {
        Self { root, slots: [const { None }; SLOTS], writes: 0 }
    }

    /// Does one operation and describes what came of it.
    pub fn run(&mut self, op: &Op) -> Outcome {
        let result = self.on_path(op).or_else(|()| self.on_slot(op));
        let (errno, value) = match result {
            Ok(Ok(value)) => (0, value),
            Ok(Err(errno)) => (errno, String::new()),
            Err(()) => (libc::ENOSYS, "no such operation".into()),
        };
        let after = op.slots().iter().map(|&slot| self.after(slot)).collect();
        Outcome { errno, value, after }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path == "." { self.root.clone() } else { self.root.join(path) }
    }

    /// Operations on paths; `Err(())` for one that is not.
    fn on_path(&mut self, op: &Op) -> Result<Sys<String>, ()> {
        let done = |result: Sys<i64>| result.map(|_| String::new());
        Ok(match op {
            Op::Open { path, flags, mode, slot } => {
                self.close(*slot);
                raw::open(&self.at(path), *flags, *mode).map(|fd: OwnedFd| {
                    self.slots[*slot] = Some(fd.into());
                    String::new()
                })
            }
            Op::Truncate { path, len } => done(raw::truncate(&self.at(path), *len)),
            Op::Mkdir { path, mode } => done(raw::mkdir(&self.at(path), *mode)),
            Op::Mknod { path, mode, rdev } => done(raw::mknod(&self.at(path), *mode, *rdev)),
            Op::Symlink { target, path } => done(raw::symlink(Path::new(target), &self.at(path))),
            Op::Link { from, to } => done(raw::link(&self.at(from), &self.at(to))),
            Op::Unlink { path } => io(std::fs::remove_file(self.at(path))),
            Op::Rmdir { path } => io(std::fs::remove_dir(self.at(path))),
            Op::Rename { from, to, flags } => {
                done(raw::rename(&self.at(from), &self.at(to), *flags))
            }
            Op::Chmod { path, mode } => done(raw::chmod(&self.at(path), *mode)),
            Op::Chown { path, uid, gid, follow } => {
                done(raw::chown(&self.at(path), *uid, *gid, *follow))
            }
            Op::Utimens { path, atime, mtime, follow } => {
                done(raw::utimens(&self.at(path), [*atime, *mtime], *follow))
            }
            Op::Access { path, mode, flags } => done(raw::access(&self.at(path), *mode, *flags)),
            Op::Stat { path } => raw::statx(Ok(&self.at(path))).map(|stat| describe(&stat)),
            Op::Readlink { path } => match std::fs::read_link(self.at(path)) {
                Ok(target) => Ok(target.display().to_string()),
                Err(error) => Err(error.raw_os_error().unwrap_or(-1)),
            },
            Op::Readdir { path } => readdir(&self.at(path)),
            Op::SetXattr { path, name, value, flags } => {
                done(raw::set_xattr(&self.at(path), name, &value.0, *flags))
            }
            Op::GetXattr { path, name } => {
                let name = CString::new(name.as_str()).map_err(|_| ())?;
                raw::get_xattr(&self.at(path), &name).map(|value| hex(&value))
            }
            Op::ListXattr { path } => raw::list_xattr(&self.at(path)).map(|v| format!("{v:?}")),
            Op::RemoveXattr { path, name } => done(raw::remove_xattr(&self.at(path), name)),
            Op::Umask { mask } => {
                raw::umask(*mask);
                Ok(String::new())
            }
            _ => return Err(()),
        })
    }

    /// Operations on slots; EBADF for an empty one.
    fn on_slot(&mut self, op: &Op) -> Result<Sys<String>, ()> {
        let done = |result: Sys<i64>| result.map(|_| String::new());
        let number = |result: Sys<i64>| result.map(|n| n.to_string());
        if let Op::Close { slot } = op {
            self.close(*slot);
            return Ok(Ok(String::new()));
        }
        let [first, ..] = op.slots()[..] else { return Err(()) };
        self.writes = self.writes.wrapping_add(1);
        let fill = self.writes;
        let Some(file) = &self.slots[first] else { return Ok(Err(libc::EBADF)) };
        let fd = file.as_fd();
        Ok(match *op {
            Op::Read { len, .. } => read(file, len),
            Op::Pread { off, len, .. } => pread(file, off, len),
            Op::Write { len, .. } => write(file, fill, len),
            Op::Pwrite { off, len, .. } => bytes(file.write_at(&vec![fill; len], off)),
            Op::Ftruncate { len, .. } => done(raw::ftruncate(fd, len)),
            Op::Fallocate { mode, off, len, .. } => done(raw::fallocate(fd, mode, off, len)),
            Op::Fchmod { mode, .. } => done(raw::fchmod(fd, mode)),
            Op::Fchown { uid, gid, .. } => done(raw::fchown(fd, uid, gid)),
            Op::Lseek { off, whence, .. } => number(raw::lseek(fd, off, whence)),
            Op::CopyRange { to, len, .. } => match &self.slots[to] {
                Some(to) => number(raw::copy_range(fd, to.as_fd(), len)),
                None => Err(libc::EBADF),
            },
            Op::Lock { command, kind, start, len, .. } => raw::lock(fd, command, kind, start, len)
                .map(|lock| format!("type {} at {}+{}", lock.l_type, lock.l_start, lock.l_len)),
            Op::Flock { operation, .. } => done(raw::flock(fd, operation)),
            Op::GetFlags { .. } => raw::get_flags(fd).map(|flags| format!("{flags:#x}")),
            Op::SetFlags { set, clear, .. } => raw::get_flags(fd)
                .and_then(|flags| done(raw::set_flags(fd, (flags | set) & !clear))),
            Op::GetFsxattr { .. } => raw::get_fsxattr(fd).map(|fsx| format!("{fsx:x?}")),
            Op::Fsync { .. } => io(file.sync_all()),
            _ => return Err(()),
        })
    }

    /// Closes a slot, its own locks first: a FUSE server hears of the end of an
    /// open file a moment after close(2), which would make runs differ.
    fn close(&mut self, slot: usize) {
        if let Some(file) = self.slots[slot].take() {
            let _ = raw::lock(file.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, 0, 0);
        }
    }

    fn after(&self, slot: usize) -> String {
        let Some(file) = &self.slots[slot] else { return format!("[{slot} closed]") };
        match raw::statx(Err(file.as_fd())) {
            Ok(stat) => format!("[{slot} {}]", describe(&stat)),
            Err(errno) => format!("[{slot} fstat errno {errno}]"),
        }
    }
}

fn io(result: std::io::Result<()>) -> Sys<String> {
    result.map(|()| String::new()).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn bytes(result: std::io::Result<usize>) -> Sys<String> {
    result.map(|n| n.to_string()).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn read(mut file: &std::fs::File, len: usize) -> Sys<String> {
    let mut buf = vec![0; len];
    let n = std::io::Read::read(&mut file, &mut buf).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
    Ok(digest(&buf[..n]))
}

fn pread(file: &std::fs::File, off: u64, len: usize) -> Sys<String> {
    let mut buf = vec![0; len];
    let n = file.read_at(&mut buf, off).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
    Ok(digest(&buf[..n]))
}

fn write(mut file: &std::fs::File, fill: u8, len: usize) -> Sys<String> {
    bytes(std::io::Write::write(&mut file, &vec![fill; len]))
}

/// The length and a checksum (FNV-1a) of contents.
pub fn digest(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{} bytes #{hash:016x}", bytes.len())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What stat shows that must be equal on both sides.
///
/// A directory's size is left to the source; numbers and times are compared
/// with the disk by `compare`.
pub fn describe(stat: &libc::statx) -> String {
    format!(
        "mode {:06o} nlink {} uid {} gid {} size {} rdev {}:{}",
        stat.stx_mode,
        stat.stx_nlink,
        stat.stx_uid,
        stat.stx_gid,
        stat.stx_size,
        stat.stx_rdev_major,
        stat.stx_rdev_minor
    )
}

fn readdir(path: &Path) -> Sys<String> {
    let entries = std::fs::read_dir(path).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| e.raw_os_error().unwrap_or(-1))?;
        let kind = entry.file_type().map_or('?', letter);
        names.push(format!("{kind} {}", String::from_utf8_lossy(entry.file_name().as_bytes())));
    }
    names.sort();
    Ok(names.join(", "))
}

/// The kind that a directory entry tells, as ls(1) shows it.
fn letter(kind: std::fs::FileType) -> char {
    use std::os::unix::fs::FileTypeExt;
    let kinds = [
        (kind.is_file(), '-'),
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'l'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 's'),
        (kind.is_char_device(), 'c'),
        (kind.is_block_device(), 'b'),
    ];
    kinds.iter().find(|(is, _)| *is).map_or('?', |(_, letter)| *letter)
}
