//! The name that a file was opened by: whether it still has it, or another file does.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    fstatfs,
};

use crate::sys::procfs::Procfs;
use crate::sys::stat::mount_at;

/// What becomes of a mount when the path of its image comes to name another file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replaced {
    /// No more of what was mounted is read: `EIO`.
    #[default]
    Eio,
    /// What was mounted is shown until the mount ends.
    Keep,
}

/// How many symbolic links in a row are followed, as path_resolution(7) has it.
const LINKS: usize = 40;

/// How long after a change of a file another one may have the same time: where an inode
/// has no room for more, it has whole seconds, and the clock of files is behind by a tick.
const TICK: Duration = Duration::from_secs(2);

/// File systems on which whatever takes a name from a file sets the time of the last
/// change of its inode: a rename, of it or over it, and unlink(2). An overlay leaves the
/// file below as it is, others have no such time, or that of somebody else's clock.
const TELL: [FsType; 5] =
    [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC];

/// A name in a directory, and when it was last looked at.
///
/// Where that time tells, it is looked at when the time is another one, or so late that
/// there may have been another change since; and for as long as it leads nowhere. On other
/// file systems it is looked at each time.
#[derive(Debug)]
pub(super) struct Named {
    /// The directory, by a descriptor that is good for nothing else.
    dir: OwnedFd,
    name: OsString,
    /// Whether the file's time tells of changes of its name.
    tells: bool,
    /// The time of the last change by which the name was last looked at, in nanoseconds.
    looked: AtomicI64,
    /// Whether it was said that the file has the name no more.
    said: AtomicBool,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// The file.
    Here,
    /// Nowhere.
    Nowhere,
    /// Another file.
    Elsewhere,
    /// Not to the file any more, and this process may not see where else.
    Away,
}

/// Why a file that has lost its name is not to be read any more; or that it is still shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is still shown, which is to be said now.
    Shown(&'static str),
    /// No more of it is to be read.
    Unread(&'static str),
}

impl Named {
    /// Finds the name of a regular file that was opened by a path: the last of those that
    /// symbolic links lead to. `None` if it has none that could come to be another's.
    pub fn of(path: &Path, fd: BorrowedFd<'_>, file: &Metadata) -> Option<Self> {
        if !file.file_type().is_file() {
            return None;
        }
        let (dir, name) = resolve(path).ok()??;
        // What is mounted over a name stays there whatever is renamed.
        let mount = |name: &OsStr| mount_at(dir.as_fd(), name).ok().map(|(mount, _)| mount);
        if mount(OsStr::new("")) != mount(&name) {
            return None;
        }
        let (looked, said) = (AtomicI64::new(i64::MIN), AtomicBool::new(false));
        let tells = fstatfs(fd).is_ok_and(|on| TELL.contains(&on.filesystem_type()));
        let named = Self { dir, name, tells, looked, said };
        (named.leads(fd, file) == Leads::Here).then_some(named)
    }

    /// Reports, as often as asked, that the file is to be read no more, and once that it is
    /// still shown without its name; `now` is what it was found to be just before.
    pub fn lost(&self, fd: BorrowedFd<'_>, now: &Metadata, then: Replaced) -> Option<Lost> {
        let changed = nanoseconds(now);
        if self.looked.load(Ordering::Relaxed) == changed {
            return None;
        }
        let leads = self.leads(fd, now);
        let what = match leads {
            Leads::Here => None,
            Leads::Nowhere => Some("removed or moved away"),
            Leads::Elsewhere => Some("replaced by another file"),
            Leads::Away => {
                Some("removed, moved away or replaced (its directory may not be searched)")
            }
        };
        let ends = matches!(leads, Leads::Elsewhere | Leads::Away) && then == Replaced::Eio;
        if let Some(what) = what.filter(|_| ends) {
            return Some(Lost::Unread(what));
        }
        let waits = leads == Leads::Nowhere && then == Replaced::Eio;
        if self.tells && !waits && is_over(now) {
            self.looked.store(changed, Ordering::Relaxed);
        }
        what.filter(|_| !self.said.swap(true, Ordering::Relaxed)).map(Lost::Shown)
    }

    /// Looks at what the name leads to; `fd` is the file.
    fn leads(&self, fd: BorrowedFd<'_>, file: &Metadata) -> Leads {
        // A symbolic link that was put there may lead to the file itself.
        match fstatat(&self.dir, self.name.as_os_str(), AtFlags::AT_NO_AUTOMOUNT) {
            Ok(found) if (found.st_dev, found.st_ino) == (file.dev(), file.ino()) => Leads::Here,
            Ok(_) => Leads::Elsewhere,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Leads::Nowhere,
            Err(_) if self.is_off(fd, file) => Leads::Away,
            Err(_) => Leads::Here,
        }
    }

    /// Reports whether a file is known to have another name now, or none: that can be seen
    /// where the directory may not be searched.
    fn is_off(&self, fd: BorrowedFd<'_>, file: &Metadata) -> bool {
        let path = || Procfs::open().and_then(|procfs| procfs.path(fd)).map(PathBuf::from);
        // Of one that is removed it has the old name, and ` (deleted)`.
        file.nlink() == 0 || path().is_ok_and(|path| path.file_name() != Some(&self.name))
    }
}

/// Returns the directory and the last name of a path, when no symbolic link is left to
/// follow; `None` if that is none of a file.
fn resolve(path: &Path) -> io::Result<Option<(OwnedFd, OsString)>> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let (mut dir, mut path): (Option<OwnedFd>, _) = (None, path.to_owned());
    for _ in 0..LINKS {
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let at = dir.as_ref().map_or(AT_FDCWD, AsFd::as_fd);
        let there = openat(at, parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        match readlinkat(&there, name) {
            Ok(target) => (dir, path) = (Some(there), target.into()),
            Err(Errno::EINVAL) => return Ok(Some((there, name.to_owned()))),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

/// Returns the time of the last change of an inode.
fn nanoseconds(file: &Metadata) -> i64 {
    file.ctime().wrapping_mul(1_000_000_000).wrapping_add(file.ctime_nsec())
}

/// Reports whether a further change of a file would have another time than its last one.
fn is_over(file: &Metadata) -> bool {
    let seconds = u64::try_from(file.ctime()).unwrap_or(0);
    let changed = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    // A time that is still to come is by another clock, which nothing is known of.
    let since = changed.map(|changed| SystemTime::now().duration_since(changed));
    since.is_none_or(|since| since.map_or(true, |since| since > TICK))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::thread::sleep;

    use tempfile::TempDir;

    use super::*;

    const GONE: Option<Lost> = Some(Lost::Shown("removed or moved away"));
    const OTHER: &str = "replaced by another file";
    const ENDS: Option<Lost> = Some(Lost::Unread(OTHER));

    /// A file `image` in a directory `in` of a new one.
    struct Place {
        top: TempDir,
        file: File,
        named: Named,
    }

    impl Place {
        fn new() -> Self {
            let top = tempfile::tempdir().unwrap();
            fs::create_dir(top.path().join("in")).unwrap();
            fs::write(top.path().join("in/image"), "it").unwrap();
            Self::of(top, "in/image")
        }

        fn of(top: TempDir, path: &str) -> Self {
            let path = top.path().join(path);
            let file = File::open(&path).unwrap();
            let named = Named::of(&path, file.as_fd(), &file.metadata().unwrap()).unwrap();
            Self { top, file, named }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.top.path().join(path)
        }

        fn lost(&self, then: Replaced) -> Option<Lost> {
            self.named.lost(self.file.as_fd(), &self.file.metadata().unwrap(), then)
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.at(from), self.at(to)).unwrap();
        }

        fn put(&self, path: &str) {
            fs::write(self.at(path), "another").unwrap();
        }
    }

    type Case = (&'static str, fn(&Place), Option<Lost>);

    const CASES: &[Case] = &[
        ("nothing", |_| {}, None),
        (
            "mode",
            |it| fs::set_permissions(it.at("in/image"), fs::Permissions::from_mode(0o600)).unwrap(),
            None,
        ),
        ("link", |it| fs::hard_link(it.at("in/image"), it.at("other")).unwrap(), None),
        ("its directory moved", |it| it.rename("in", "out"), None),
        ("removed", |it| fs::remove_file(it.at("in/image")).unwrap(), GONE),
        ("removed with its directory", |it| fs::remove_dir_all(it.at("in")).unwrap(), GONE),
        ("moved", |it| it.rename("in/image", "in/old"), GONE),
        (
            "a link to it in its place",
            |it| {
                it.rename("in/image", "in/old");
                symlink("old", it.at("in/image")).unwrap();
            },
            None,
        ),
        (
            "a link to nothing in its place",
            |it| {
                it.rename("in/image", "in/old");
                symlink("nothing", it.at("in/image")).unwrap();
            },
            GONE,
        ),
        (
            "renamed over",
            |it| {
                it.put("new");
                it.rename("new", "in/image");
            },
            ENDS,
        ),
        (
            "renamed over, with another name",
            |it| {
                fs::hard_link(it.at("in/image"), it.at("in/kept")).unwrap();
                it.put("new");
                it.rename("new", "in/image");
            },
            ENDS,
        ),
        (
            "removed and made anew",
            |it| {
                fs::remove_file(it.at("in/image")).unwrap();
                it.put("in/image");
            },
            ENDS,
        ),
        (
            "moved, and a directory there",
            |it| {
                it.rename("in/image", "in/old");
                fs::create_dir(it.at("in/image")).unwrap();
            },
            ENDS,
        ),
    ];

    #[test]
    fn another_file_by_the_name_is_told_from_none() {
        for (name, change, want) in CASES {
            let place = Place::new();
            assert_eq!(place.lost(Replaced::Eio), None, "{name}");
            change(&place);
            assert_eq!(place.lost(Replaced::Eio), *want, "{name}");
            // What is shown is said once, what is not read is not read again.
            let again = want.filter(|lost| matches!(lost, Lost::Unread(_)));
            assert_eq!(place.lost(Replaced::Eio), again, "{name}");
        }
        for (name, change, want) in CASES {
            let place = Place::new();
            change(&place);
            let shown = want.map(|(Lost::Shown(what) | Lost::Unread(what))| Lost::Shown(what));
            assert_eq!(place.lost(Replaced::Keep), shown, "{name}");
            assert_eq!(place.lost(Replaced::Keep), None, "{name}");
        }
    }

    #[test]
    fn what_comes_to_a_name_that_was_gone_is_seen_without_a_change_of_the_file() {
        let place = Place::new();
        place.rename("in/image", "in/old");
        assert_eq!(place.lost(Replaced::Eio), GONE);
        sleep(TICK.saturating_mul(2));
        assert_eq!(place.lost(Replaced::Eio), None);
        // It comes back, and goes once more.
        place.rename("in/old", "in/image");
        assert_eq!(place.lost(Replaced::Eio), None);
        place.rename("in/image", "in/old");
        assert_eq!(place.lost(Replaced::Eio), None);
        place.put("in/image");
        assert_eq!(place.lost(Replaced::Eio), ENDS);
    }

    #[test]
    fn a_name_is_not_looked_at_until_the_file_has_changed() {
        let place = Place::new();
        if !place.named.tells {
            // Where temporary files are on an overlay, it is looked at each time.
            return;
        }
        let looked = || place.named.looked.load(Ordering::Relaxed);
        assert_eq!((place.lost(Replaced::Eio), looked()), (None, i64::MIN));
        sleep(TICK.saturating_mul(2));
        let changed = nanoseconds(&place.file.metadata().unwrap());
        assert_eq!((place.lost(Replaced::Eio), looked()), (None, changed));
        // As if a rename had not changed it.
        let Place { top, file, mut named } = place;
        named.name = "nothing".into();
        let place = Place { top, file, named };
        assert_eq!(place.lost(Replaced::Eio), None);
        let _linked = fs::hard_link(place.at("in/image"), place.at("in/other"));
        assert_eq!(place.lost(Replaced::Eio), GONE);
    }

    #[test]
    fn links_on_the_way_may_be_switched() {
        let top = tempfile::tempdir().unwrap();
        for dir in ["one", "two", "links"] {
            fs::create_dir(top.path().join(dir)).unwrap();
            fs::write(top.path().join(dir).join("image"), dir).unwrap();
        }
        symlink("one", top.path().join("current")).unwrap();
        symlink("../current/image", top.path().join("links/near")).unwrap();
        symlink(top.path().join("links/near"), top.path().join("far")).unwrap();
        let place = Place::of(top, "far");
        for link in ["current", "links/near", "far"] {
            fs::remove_file(place.at(link)).unwrap();
            symlink(place.at("two/image"), place.at(link)).unwrap();
        }
        assert_eq!(place.lost(Replaced::Eio), None);
        place.rename("two/image", "one/image");
        assert_eq!(place.lost(Replaced::Eio), ENDS);
    }

    #[test]
    fn what_has_no_name_of_its_own_is_not_looked_at() {
        let (file, null) = (tempfile::tempfile().unwrap(), File::open("/dev/null").unwrap());
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()));
        for (path, file) in [(link.as_path(), &file), (Path::new("/dev/null"), &null)] {
            assert!(Named::of(path, file.as_fd(), &file.metadata().unwrap()).is_none(), "{path:?}");
        }
    }
}
