//! Which volumes are watched, and how.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
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
use crate::sys::handle::Handle;
use crate::sys::procfs::Procfs;
use crate::sys::stat::Stat;

/// File systems that only this kernel changes, and that name a file in an event
/// as name_to_handle_at(2) does for as long as it exists.
const LOCAL: [FsType; 5] =
    [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC];

/// File systems in which nothing ever changes: erofs, iso9660, squashfs, by
/// their numbers in linux/magic.h.
const UNCHANGING: [FsType; 3] = [FsType(0xe0f5_e1e2), FsType(0x9660), FsType(0x7371_7368)];

/// The volumes met so far, and how they are watched.
///
/// What is told of an event may lead to new volumes, so the state is read as it
/// was, with no lock held.
#[derive(Debug, Default)]
pub(super) struct Watched(RwLock<Arc<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    /// The volumes that show a file system: more than one where parts of it are
    /// mounted apart.
    by_fs: HashMap<FsId, Vec<Shown>>,
    /// What came of watching, by [`Key::volume`].
    verdicts: HashMap<u64, Result<Covers, Unwatched>>,
}

/// A volume that shows a file system.
#[derive(Clone, Debug)]
struct Shown {
    /// The part that it shows, where inode numbers are those of a part.
    subvolume: Option<u64>,
    volume: Arc<Volume>,
}

impl Shown {
    fn is(&self, other: &Self) -> bool {
        self.subvolume == other.subvolume && self.volume.tag == other.volume.tag
    }
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
        let verdict = match fstatfs(fd).map(|fs| fs.filesystem_type()) {
            Ok(kind) if UNCHANGING.contains(&kind) => Ok(Covers::Everything),
            Ok(kind) => recognized(volume, fd, stat, kind)
                .and_then(|handle| self.mark(group, procfs, volume, (fd, &handle, stat))),
            Err(errno) => Err(refused(errno)),
        };
        self.change(|state| drop(state.verdicts.insert(volume.tag, verdict)));
    }

    /// Marks as much as can be marked.
    fn mark(
        &self,
        group: &Group,
        procfs: &Procfs,
        volume: &Arc<Volume>,
        (fd, handle, stat): (BorrowedFd<'_>, &Handle, &Stat),
    ) -> Result<Covers, Unwatched> {
        let whole = handle.whole().and_then(|whole| volume.open(&(&whole).into()).ok());
        for top in [whole.as_ref().map(AsFd::as_fd), Some(fd)].into_iter().flatten() {
            // Before the mark: what it brings has to find the volume.
            self.expect(fs_id(top).map_err(refused)?, handle.subvolume(), volume);
            let (at, path) = procfs.place(top);
            match group.hear_file_system(at, &path) {
                Ok(()) => return Ok(Covers::Everything),
                Err(errno) if stat.mode & libc::S_IFMT != libc::S_IFDIR => {
                    return Err(refused(errno));
                }
                Err(_) => {}
            }
        }
        let (at, path) = procfs.place(fd);
        group.hear_directory(at, &path).map_err(refused)?;
        Ok(Covers::Directories)
    }

    /// Expects events of a volume under the id of a file system.
    fn expect(&self, fs: FsId, subvolume: Option<u64>, volume: &Arc<Volume>) {
        let shown = Shown { subvolume, volume: Arc::clone(volume) };
        self.change(|state| {
            let others = state.by_fs.entry(fs).or_default();
            // Each once: what it does itself is told apart only where it is alone.
            if !others.iter().any(|other| other.is(&shown)) {
                others.push(shown);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(Arc::make_mut(&mut write(&self.0)));
    }

    fn now(&self) -> Arc<State> {
        Arc::clone(&read(&self.0))
    }

    /// Returns how much is heard of a volume.
    pub fn covers(&self, volume: u64) -> Covers {
        match read(&self.0).verdicts.get(&volume) {
            Some(Ok(covers)) => *covers,
            Some(Err(_)) | None => Covers::Nothing,
        }
    }

    /// Reports whether a file system is shown by this volume and another one, where
    /// each has a number of its own for a file.
    pub fn is_shared(&self, volume: u64) -> bool {
        let state = self.now();
        state.by_fs.values().any(|all| {
            let mine = all.iter().filter(|shown| shown.volume.tag == volume);
            mine.into_iter().any(|mine| {
                let here = all.iter().filter(|other| other.subvolume == mine.subvolume);
                here.count() > 1
            })
        })
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
    /// there, and whether no other volume shows it; reports whether it is known who
    /// it is.
    pub fn each(&self, file: &File, call: &mut dyn FnMut(&Volume, Key, bool)) -> bool {
        let state = self.now();
        let Some(volumes) = state.by_fs.get(&file.fs) else { return false };
        let subvolume = file.handle.subvolume();
        let here = || volumes.iter().filter(|shown| shown.subvolume == subvolume);
        let only = here().nth(1).is_none();
        let mut known = true;
        for shown in here() {
            match shown.volume.key(&file.handle) {
                Some(key) => call(&shown.volume, key, only),
                None => known = false,
            }
        }
        known
    }
}

/// Says what the system does not let the watch do.
pub(super) fn refused(errno: Errno) -> Unwatched {
    if errno == Errno::ENOSPC {
        return because(
            "fanotify: this user has as many marks as fs.fanotify.max_user_marks allows",
        );
    }
    Unwatched(format!("fanotify: {}", errno.desc()))
}

/// Returns the handle of an open file, if events name the files of its file system
/// in a way that can be told.
fn recognized(
    volume: &Volume,
    fd: BorrowedFd<'_>,
    stat: &Stat,
    kind: FsType,
) -> Result<Handle, Unwatched> {
    match kind {
        OVERLAYFS_SUPER_MAGIC => return Err(because("overlay file systems tell too little")),
        FUSE_SUPER_MAGIC => return Err(because("it is served by FUSE")),
        kind if !LOCAL.contains(&kind) => {
            return Err(because("others than this host may change it, or it tells too little"));
        }
        _ => {}
    }
    let handle = volume.handle(fd, OsStr::new("")).ok().flatten();
    handle
        .filter(|handle| volume.key(handle).is_some_and(|key| key.ino == stat.ino))
        .ok_or_else(|| because("its file handles are of an unknown form"))
}
