//! What the server knows of files: in which directory each was found, and by which name.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirEntryExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, ftruncate, unlinkat};

use super::lock;

/// A name that is not there.
pub const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// What is known of a file.
#[derive(Clone, Debug)]
struct Node {
    parent: Arc<OwnedFd>,
    name: OsString,
    /// Of a directory.
    own: Option<Arc<OwnedFd>>,
    known: u64,
}

/// The files that the kernel knows.
#[derive(Debug)]
pub struct Nodes {
    all: Mutex<HashMap<u64, Node>>,
    /// The last listing of each directory.
    listing: Mutex<HashMap<u64, Listing>>,
}

type Listing = Arc<Vec<(OsString, FileAttr)>>;

/// What is to be changed of a file.
#[derive(Debug)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeOrNow>,
    pub mtime: Option<TimeOrNow>,
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Nodes {
    /// Knows the root alone, which is this directory.
    pub fn new(root: &Path) -> io::Result<Self> {
        let own = Arc::new(openat(AT_FDCWD, root, DIRECTORY, Mode::empty())?);
        let root = Node { parent: Arc::clone(&own), name: ".".into(), own: Some(own), known: 1 };
        let all = Mutex::new(HashMap::from([(INodeNo::ROOT.0, root)]));
        Ok(Self { all, listing: Mutex::default() })
    }

    fn node(&self, ino: INodeNo) -> io::Result<Node> {
        let found = lock(&self.all).get(&ino.0).cloned();
        found.ok_or_else(|| Errno::ESTALE.into())
    }

    fn dir(&self, ino: INodeNo) -> io::Result<Arc<OwnedFd>> {
        self.node(ino)?.own.ok_or_else(|| Errno::ENOTDIR.into())
    }

    /// Looks a name up, and counts that the kernel knows its file.
    pub fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let dir = self.dir(parent)?;
        let attr = attr(&fstatat(&*dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?);
        self.keep(&dir, name, &attr)?;
        Ok(attr)
    }

    /// Counts that the kernel knows a file.
    pub fn count(&self, parent: INodeNo, name: &OsStr, attr: &FileAttr) {
        if let Ok(dir) = self.dir(parent) {
            let (Ok(()) | Err(_)) = self.keep(&dir, name, attr);
        }
    }

    fn keep(&self, dir: &Arc<OwnedFd>, name: &OsStr, attr: &FileAttr) -> io::Result<()> {
        if let Some(node) = lock(&self.all).get_mut(&attr.ino.0) {
            node.known += 1;
            return Ok(());
        }
        let open = || openat(&**dir, name, DIRECTORY, Mode::empty()).map(Arc::new);
        let own = (attr.kind == FileType::Directory).then(open).transpose()?;
        let node = Node { parent: Arc::clone(dir), name: name.to_owned(), own, known: 1 };
        lock(&self.all).insert(attr.ino.0, node);
        Ok(())
    }

    /// Counts that the kernel knows a file that often less.
    pub fn forget(&self, ino: INodeNo, count: u64) {
        let mut all = lock(&self.all);
        if let Some(node) = all.get_mut(&ino.0) {
            node.known = node.known.saturating_sub(count);
            if node.known == 0 {
                all.remove(&ino.0);
            }
        }
    }

    /// Looks at a file.
    pub fn attr(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let node = self.node(ino)?;
        let found = fstatat(&*node.parent, &*node.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(FileAttr { ino, ..attr(&found) })
    }

    /// Changes a file, which may be open; returns what it is then.
    pub fn change(
        &self,
        ino: INodeNo,
        file: Option<&File>,
        change: &SetAttr,
    ) -> io::Result<FileAttr> {
        let node = self.node(ino)?;
        let (dir, name) = (&*node.parent, &*node.name);
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = change.mode {
            let mode = Mode::from_bits_truncate(mode);
            fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        if let Some(size) = change.size {
            let size = size.try_into().unwrap_or(i64::MAX);
            match file {
                Some(file) => ftruncate(file, size)?,
                None => ftruncate(self.open(ino, nix::libc::O_WRONLY)?, size)?,
            }
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let (atime, mtime) = (time(change.atime), time(change.mtime));
            utimensat(dir, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?;
        }
        self.attr(ino)
    }

    /// Makes a directory.
    pub fn make_dir(&self, parent: INodeNo, name: &OsStr, mode: u32) -> io::Result<FileAttr> {
        mkdirat(&*self.dir(parent)?, name, Mode::from_bits_truncate(mode))?;
        self.find(parent, name)
    }

    /// Removes a name.
    pub fn remove(&self, parent: INodeNo, name: &OsStr, is_dir: bool) -> io::Result<()> {
        let how = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        Ok(unlinkat(&*self.dir(parent)?, name, how)?)
    }

    /// Renames a file.
    pub fn rename(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> io::Result<()> {
        let (old, new) = (self.dir(from.0)?, self.dir(to.0)?);
        renameat(&*old, from.1, &*new, to.1)?;
        // Which one it was.
        let found = fstatat(&*new, to.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if let Some(node) = lock(&self.all).get_mut(&node(found.st_ino).0) {
            (node.parent, node.name) = (new, to.1.to_owned());
        }
        Ok(())
    }

    /// Opens a file.
    pub fn open(&self, ino: INodeNo, flags: i32) -> io::Result<File> {
        let node = self.node(ino)?;
        let flags = OFlag::from_bits_retain(flags & !nix::libc::O_CREAT) | OFlag::O_CLOEXEC;
        Ok(openat(&*node.parent, &*node.name, flags | OFlag::O_NOFOLLOW, Mode::empty())?.into())
    }

    /// Makes a file and opens it.
    pub fn create(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> io::Result<(File, FileAttr)> {
        let dir = self.dir(parent)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_CREAT | OFlag::O_CLOEXEC;
        let file = openat(&*dir, name, flags, Mode::from_bits_truncate(mode))?;
        let attr = attr(&fstat(file.as_fd())?);
        self.keep(&dir, name, &attr)?;
        Ok((file.into(), attr))
    }

    /// Returns what is in a directory: as it is now, or as it was the last time.
    pub fn list(&self, ino: INodeNo, anew: bool) -> io::Result<Listing> {
        let known = lock(&self.listing).get(&ino.0).cloned().filter(|_| !anew);
        if let Some(known) = known {
            return Ok(known);
        }
        let dir = self.dir(ino)?;
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let mut list = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let found = fstatat(&*dir, &*name, AtFlags::AT_SYMLINK_NOFOLLOW);
            list.push((
                name,
                found.map_or(FileAttr { ino: node(entry.ino()), ..NOTHING }, |found| attr(&found)),
            ));
        }
        let list = Arc::new(list);
        lock(&self.listing).insert(ino.0, Arc::clone(&list));
        Ok(list)
    }
}

fn time(time: Option<TimeOrNow>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(time)) => {
            TimeSpec::from_duration(time.duration_since(UNIX_EPOCH).unwrap_or_default())
        }
    }
}

/// As which number the kernel knows a file: 1 is the root's.
fn node(ino: u64) -> INodeNo {
    INodeNo(ino + 1)
}

fn attr(stat: &FileStat) -> FileAttr {
    let time = |seconds: i64, nanos: i64| UNIX_EPOCH + Duration::new(seconds as u64, nanos as u32);
    let kind = match stat.st_mode & nix::libc::S_IFMT {
        nix::libc::S_IFDIR => FileType::Directory,
        nix::libc::S_IFLNK => FileType::Symlink,
        _ => FileType::RegularFile,
    };
    FileAttr {
        ino: node(stat.st_ino),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        kind,
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        blksize: stat.st_blksize as u32,
        ..NOTHING
    }
}
