//! What is mounted below a directory.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::sys::mountinfo::{Mount, holding, mounts};

/// Reports whether a copy of the mounts below a directory would lack some: the
/// kernel leaves out unbindable ones and mounted namespaces, and what they
/// cover would show.
pub(super) fn some_cannot_be_copied(dir: BorrowedFd<'_>) -> bool {
    let (Ok(path), Ok(mounts)) = (path_of(dir), mounts()) else { return true };
    mounts.iter().any(|mount| is_left_out(mount, &path))
}

/// Reports whether a directory, or what is mounted below it, may be seen through an id
/// map of the kernel's: a capability counts there only for files whose owner and group
/// both are in the map, and for the others who asks.
pub(super) fn some_may_be_mapped(dir: BorrowedFd<'_>) -> bool {
    let (Ok(path), Ok(mounts)) = (path_of(dir), mounts()) else { return true };
    let Some(on) = holding(&mounts, &path) else { return true };
    let below = mounts.iter().filter(|mount| mount.point.starts_with(&path));
    below.chain([on]).any(Mount::is_idmapped)
}

fn path_of(dir: BorrowedFd<'_>) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// Reports whether something is mounted below a directory, as far as can be seen.
pub(super) fn has_some(dir: &Path) -> bool {
    let is_below = |mount: &Mount| mount.point != dir && mount.point.starts_with(dir);
    mounts().is_ok_and(|mounts| mounts.iter().any(is_below))
}

fn is_left_out(mount: &Mount, below: &Path) -> bool {
    let is_below = mount.point != below && mount.point.starts_with(below);
    is_below && (mount.unbindable || mount.fstype == "nsfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_copy_would_lack() {
        let cases = [
            ("/src/a b", true, "ext4", true),
            ("/src/a", false, "ext4", false),
            ("/src/ns", false, "nsfs", true),
            ("/src", true, "ext4", false),
            ("/srca", true, "ext4", false),
            ("/", true, "ext4", false),
        ];
        for (point, unbindable, fstype, left_out) in cases {
            let mount = Mount {
                device: (0, 4),
                root: "/".into(),
                point: point.into(),
                flags: "rw".to_owned(),
                unbindable,
                fstype: fstype.into(),
                source: "none".into(),
                options: String::new(),
            };
            assert_eq!(is_left_out(&mount, Path::new("/src")), left_out, "{point}");
        }
    }
}
