//! The host directory on real file systems.
//!
//! A thread that has called the source keeps other ids, so what the host does
//! meanwhile is done in [`outside`].

mod access;
mod birth;
mod child;
mod conformance;
mod crash;
mod create;
mod handles;
mod listing;
mod locks;
mod number;
mod onlooker;
mod races;
mod readers;
mod reserve;
mod setid;
mod submounts;
mod unprivileged;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};
use tempfile::TempDir;

use super::readers::Readers;
use super::{Host, HostOptions};
use crate::attr::{Mode, Name};
use crate::id::{Disk, Ids};
use crate::source::{Created, Found, New, NewKind, Node, Place, Rights, Source};

/// An ordinary caller.
pub(super) const PLAIN: Rights = Rights { keep_setid: false, reserve: false };
/// A caller who may keep set-id bits.
pub(super) const KEEPING: Rights = Rights { keep_setid: true, reserve: false };

/// Reports whether the test runs as root of the host; says so if not.
pub(super) fn is_root() -> bool {
    let every_id = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    let root = geteuid().is_root() && every_id;
    if !root {
        eprintln!("SKIP: needs root of the host");
    }
    root
}

/// A directory to serve; unmounted and removed at the end.
#[derive(Debug)]
pub(super) struct Fixture {
    dir: TempDir,
    mounted: bool,
}

impl Fixture {
    /// A directory where temporary files are.
    pub fn plain() -> Self {
        Self::in_new(tempfile::tempdir().unwrap())
    }

    /// A directory below another.
    pub fn below(path: &Path) -> Self {
        Self::in_new(tempfile::tempdir_in(path).unwrap())
    }

    fn in_new(dir: TempDir) -> Self {
        fs::create_dir(dir.path().join("top")).unwrap();
        Self { dir, mounted: false }
    }

    /// An empty tmpfs, in a mount namespace of this thread.
    pub fn tmpfs() -> Self {
        own_mounts();
        let mut fixture = Self::plain();
        fixture.mounted = true;
        tmpfs_at(&fixture.path());
        fixture
    }

    /// An empty ext4, as [`Fixture::image`].
    pub fn ext4() -> Option<Self> {
        Self::image(&["mkfs.ext4", "-q", "-b", "4096"], 64)
    }

    /// An empty file system in a file of so many MiB, in a mount namespace of
    /// this thread; `None` where that cannot be had.
    pub fn image(make: &[&str], size: u64) -> Option<Self> {
        own_mounts();
        let mut fixture = Self::plain();
        fixture.mounted = true;
        let image = fixture.dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(size << 20).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
        let made = run(Command::new(make[0]).args(&make[1..]).arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(fixture.path()));
        if !made {
            eprintln!("SKIP: needs {} and a loop device", make[0]);
            return None;
        }
        Some(fixture)
    }

    /// Gives the directory to the user 1000.
    pub fn give_away(&self) {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(self.path(), Some(1000), Some(1000)).unwrap();
    }

    /// The directory to serve.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("top")
    }

    /// A path below it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    /// Opens it as a source.
    pub fn host(&self) -> Host {
        Host::open(&self.path(), &HostOptions::default()).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Unmounts what a child that another test has just forked may use for a moment longer.
pub(crate) fn unmount(point: &Path) {
    let start = Instant::now();
    let mut done = umount2(point, MntFlags::empty());
    while done == Err(Errno::EBUSY) && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
        done = umount2(point, MntFlags::empty());
    }
    done.unwrap();
}

/// Makes a subvolume of btrfs with a file `f`, which has its name.
pub(super) fn subvolume(fixture: &Fixture, name: &str) {
    let mut command = Command::new("btrfs");
    command.args(["subvolume", "create"]).arg(fixture.at(name));
    assert!(command.output().unwrap().status.success());
    fs::write(fixture.at(&format!("{name}/f")), name).unwrap();
}

/// Gives this thread mounts of its own.
pub(super) fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// Mounts an empty tmpfs.
pub(super) fn tmpfs_at(path: &Path) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// Does something as the host's root, whatever this thread has become.
pub(super) fn outside<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_FS).unwrap();
                nix::sys::stat::umask(nix::sys::stat::Mode::empty());
                setfsuid(Uid::from_raw(geteuid().as_raw()));
                setfsgid(Gid::from_raw(nix::unistd::getegid().as_raw()));
                act()
            })
            .join()
            .unwrap()
    })
}

/// Makes a name.
pub(super) fn name<T: AsRef<OsStr> + ?Sized>(name: &T) -> Name<'_> {
    Name::new(name.as_ref()).unwrap()
}

/// Makes a pair of disk ids.
pub(super) fn ids(uid: u32, gid: u32) -> Ids<Disk> {
    Ids::new(uid, gid).unwrap()
}

/// Describes a new entry.
pub(super) fn new(what: NewKind<'_>, owner: Ids<Disk>, mode: u32, umask: u16) -> New<'_> {
    New { what, owner, mode: Mode::new(mode), umask, reserve: false, prepare: None }
}

/// Makes an entry.
pub(super) fn create(host: &Host, dir: &Node, entry: &str, new: &New<'_>) -> Created {
    host.create(dir, name(entry), new).unwrap()
}

/// Returns the root node.
pub(super) fn root(host: &Host) -> Node {
    host.root().unwrap().0
}

/// Walks a path of names from the root.
pub(super) fn walk(host: &Host, path: &str) -> (Node, Found) {
    path.split('/').fold(host.root().unwrap(), |(dir, _), part| {
        let found = host.lookup(&dir, name(part)).unwrap();
        let node = host.open_by_name(&dir, name(part), &found.key).unwrap();
        (node, found)
    })
}

/// Returns raw owner and mode bits of a path on the host.
pub(super) fn on_disk(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}
