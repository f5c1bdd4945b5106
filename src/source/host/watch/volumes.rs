//! Which volumes are watched, and how.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, RwLock};

use nix::errno::Errno;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType,
    OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

use super::super::volume::Volume;
use super::because;
use crate::source::{Covers, Key, Unwatched};
use crate::sync::{read, write};
use crate::sys::fanotify::{File, FsId, Group, fs_id};
use crate::sys::procfs::Procfs;
use crate::sys::stat::Stat;

/// `EROFS_SUPER_MAGIC_V1` of linux/magic.h.
const EROFS: FsType = FsType(0xe0f5_e1e2);

/// `SQUASHFS_MAGIC` of linux/magic.h.
const SQUASHFS: FsType = FsType(0x7371_7368);

/// File systems that only this kernel changes, and that name a file in an event
/// as name_to_handle_at(2) does for as long as it exists.
const LOCAL: [FsType; 7] = [
    BTRFS_SUPER_MAGIC,
    EROFS,
    EXT4_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    SQUASHFS,
    TMPFS_MAGIC,
    XFS_SUPER_MAGIC,
];

/// The volumes met so far, and how they are watched.
#[derive(Debug, Default)]
pub(super) struct Watched(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    /// The volumes that show a file system: more than one where parts of it are
    /// mounted apart.
    by_fs: HashMap<FsId, Vec<Arc<Volume>>>,
    /// What came of watching, by [`Key::volume`].
    verdicts: HashMap<u64, Result<Covers, Unwatched>>,
}

impl Watched {
    /// Watches a volume by an open file of it.
    pub fn add(
        &self,
        group: &Group,
        procfs: &Procfs,
        volume: &Arc<Volume>,
        (fd, stat): (BorrowedFd<'_>, &Stat),
    ) {
        let verdict = match recognized(volume, fd, stat) {
            Ok(fs) => {
                // Before the mark: what it brings has to find the volume.
                write(&self.0).by_fs.entry(fs).or_default().push(Arc::clone(volume));
                mark(group, procfs, fd, stat)
            }
            Err(unwatched) => Err(unwatched),
        };
        write(&self.0).verdicts.insert(volume.tag, verdict);
    }

    /// Returns how much is heard of a volume.
    pub fn covers(&self, volume: u64) -> Covers {
        match read(&self.0).verdicts.get(&volume) {
            Some(Ok(covers)) => *covers,
            Some(Err(_)) | None => Covers::Nothing,
        }
    }

    /// Says why nothing is heard of a volume, if so.
    pub fn unwatched(&self, volume: u64) -> Option<Unwatched> {
        match read(&self.0).verdicts.get(&volume) {
            Some(Ok(_)) => None,
            Some(Err(unwatched)) => Some(unwatched.clone()),
            None => Some(because("it was met before the watch began")),
        }
    }

    /// Says how the root is watched.
    pub fn describe(&self) -> String {
        match self.covers(0) {
            Covers::Everything => "the whole file system (fanotify)",
            Covers::Directories => "each directory that is shown (fanotify)",
            Covers::Nothing => "not at all",
        }
        .to_owned()
    }

    /// Calls for each volume that shows the file of an event, with its key
    /// there; reports whether it is known who it is.
    pub fn each(&self, file: &File, call: &mut dyn FnMut(&Volume, Key)) -> bool {
        let state = read(&self.0);
        let volumes = state.by_fs.get(&file.fs).map(Vec::as_slice).unwrap_or_default();
        let known = volumes.iter().filter_map(|volume| Some((volume, volume.key(&file.handle)?)));
        known.map(|(volume, key)| call(volume, key)).count() > 0
    }
}

/// Returns what events call the file system of an open file, if they name its
/// files in a way that can be told.
fn recognized(volume: &Volume, fd: BorrowedFd<'_>, stat: &Stat) -> Result<FsId, Unwatched> {
    let refused = |errno: Errno| because(errno.desc());
    let kind = fstatfs(fd).map_err(refused)?.filesystem_type();
    match kind {
        OVERLAYFS_SUPER_MAGIC => return Err(because("overlay file systems tell too little")),
        FUSE_SUPER_MAGIC => return Err(because("it is served by FUSE")),
        kind if !LOCAL.contains(&kind) => {
            return Err(because("others than this host may change it, or it tells too little"));
        }
        _ => {}
    }
    let handle = volume.handle(fd, OsStr::new("")).ok().flatten();
    let key = handle.and_then(|handle| volume.key(&handle));
    match key {
        Some(key) if key.ino == stat.ino => fs_id(fd).map_err(refused),
        Some(_) | None => Err(because("its file handles are of an unknown form")),
    }
}

/// Marks all that can be marked.
fn mark(
    group: &Group,
    procfs: &Procfs,
    fd: BorrowedFd<'_>,
    stat: &Stat,
) -> Result<Covers, Unwatched> {
    let (at, path) = procfs.place(fd);
    let whole = match group.hear_file_system(at, &path) {
        Ok(()) => return Ok(Covers::Everything),
        Err(errno) => errno,
    };
    if stat.mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(Unwatched(format!("fanotify: {}", whole.desc())));
    }
    match group.hear_directory(at, &path) {
        Ok(()) => Ok(Covers::Directories),
        Err(errno) => Err(Unwatched(format!("fanotify: {}", errno.desc()))),
    }
}
