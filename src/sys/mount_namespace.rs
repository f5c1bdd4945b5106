//! Mount namespaces: mount_namespaces(7).

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::mountinfo::{self, Mount};

/// The number of the first mount namespace: fixed since Linux 6.18
/// (`MNT_NS_INIT_INO`), before that one of the first two that were given.
const FIRST: [u64; 3] = [0xefff_fff8, 0xf000_0000, 0xf000_0001];

/// Returns the number of the mount namespace of this process.
///
/// # Errors
/// As stat(2) of `/proc/self/ns/mnt`.
pub fn own() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/mnt")?.ino())
}

/// Reports whether a mount namespace of this number, which is this process's,
/// is the one that process 1 lives in, and so will be there to the end.
///
/// Where process 1 may not be looked at, the first of all is told by its number.
pub fn is_lasting(number: u64) -> bool {
    let first = || FIRST.contains(&number);
    fs::metadata("/proc/1/ns/mnt").map_or_else(|_| first(), |there| there.ino() == number)
}

/// Moves this process, which has one thread, into a copy of its mount
/// namespace; whatever is mounted in either later is not seen in the other.
///
/// # Errors
/// As unshare(2): `EPERM` without `CAP_SYS_ADMIN`, and then nothing has changed.
pub fn leave() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?)
}

/// Has this mount namespace, a copy, keep nothing of the old one in use but what these
/// paths need: no FUSE file system but on the way to one, and nothing of the device
/// number `gone`.
///
/// # Errors
/// If the mounts cannot be read.
pub fn prune(needed: &[PathBuf], gone: Option<(u32, u32)>) -> io::Result<()> {
    let mut detached: Vec<PathBuf> = Vec::new();
    for point in unneeded(&mountinfo::mounts()?, needed, gone) {
        if detached.iter().any(|above| point.starts_with(above) && point != *above) {
            continue;
        }
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => detached.push(point),
            // What another user namespace has mounted stays, and what is below it is
            // taken one by one.
            Err(errno) => log::debug!("{}: {errno}; it stays in use", point.display()),
        }
    }
    Ok(())
}

/// Returns the mount points that are not needed, those above others first.
fn unneeded(table: &[Mount], needed: &[PathBuf], gone: Option<(u32, u32)>) -> Vec<PathBuf> {
    let is_fuse = |mount: &Mount| mount.fstype.as_bytes().starts_with(b"fuse");
    let is_needed = |mount: &Mount| {
        let leads = needed.iter().any(|path| path.starts_with(&mount.point));
        let below = || needed.iter().any(|path| mount.point.starts_with(path));
        gone != Some(mount.device) && (leads || !is_fuse(mount) && below())
    };
    let unneeded = table.iter().filter(|mount| !is_needed(mount));
    let mut points: Vec<PathBuf> = unneeded.map(|mount| mount.point.clone()).collect();
    points.sort_by_key(|point| point.components().count());
    points
}

/// Moves this process, which has one thread, into the mount namespace of this
/// number, by way of a process or thread that lives in it.
///
/// # Errors
/// `NotFound` if there is none that this process can see; as setns(2).
pub fn enter(number: u64) -> io::Result<()> {
    let namespace = find(number).ok_or(io::ErrorKind::NotFound)?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
}

/// Opens a mount namespace by its number.
fn find(number: u64) -> Option<File> {
    let is = |path: &Path| fs::metadata(path).is_ok_and(|there| there.ino() == number);
    let processes: Vec<PathBuf> = entries(Path::new("/proc"));
    let mut links = processes.iter().map(|process| process.join("ns/mnt"));
    // Threads may live apart from their process; there are more of them.
    let link = links.find(|link| is(link)).or_else(|| {
        let tasks = processes.iter().flat_map(|process| entries(&process.join("task")));
        tasks.map(|task| task.join("ns/mnt")).find(|link| is(link))
    })?;
    let file = File::open(link).ok()?;
    // It may be another process's by now.
    file.metadata().is_ok_and(|there| there.ino() == number).then_some(file)
}

/// Returns the entries of a directory whose names are numbers.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let is_number = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, fstype: &str, minor: u32) -> Mount {
        Mount {
            device: (0, minor),
            root: "/".into(),
            point: point.into(),
            flags: String::new(),
            unbindable: false,
            fstype: fstype.into(),
            source: "x".into(),
            options: String::new(),
        }
    }

    #[test]
    fn what_is_on_the_way_is_kept_and_nothing_else() {
        let table = [
            mount("/", "ext4", 1),
            mount("/proc", "proc", 2),
            mount("/etc/passwd", "ext4", 1),
            mount("/run", "tmpfs", 3),
            mount("/run/user/7", "tmpfs", 4),
            mount("/run/user/7/gvfs", "fuse.gvfsd-fuse", 5),
            mount("/srv", "ext4", 6),
            mount("/srv/x/y", "tmpfs", 7),
            mount("/media/usb", "vfat", 8),
            mount("/media/usb/below", "tmpfs", 9),
            mount("/srv/x/mnt", "fuse.idmapfs", 10),
        ];
        let needed = ["/proc", "/etc", "/run", "/srv/x/source"].map(PathBuf::from);
        let points = |gone| {
            let points = unneeded(&table, &needed, gone);
            points.iter().map(|point| point.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let want = "/media/usb /srv/x/y /media/usb/below /srv/x/mnt /run/user/7/gvfs";
        assert_eq!(points(None), want);
        // A mount over the source is on the way there.
        let over = ["/srv/x/mnt/source"].map(PathBuf::from);
        let of = |gone| unneeded(&table[10..], &over, gone);
        assert_eq!((of(None).len(), of(Some((0, 10))).len()), (0, 1));
    }

    #[test]
    fn this_process_lives_in_its_own() {
        let number = own().unwrap();
        assert!(find(number).is_some());
        assert!(find(1).is_none());
    }
}
