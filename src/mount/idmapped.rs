//! The kernel's idmapped mount as an engine: made, found again, and read.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, lstat};

use super::flags::Attributes;
use super::options::{Flags, Options, Submounts};
use super::unfit::{self, Unfit};
use crate::policy::Spec;
use crate::sys::id_map::Line;
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{mount as kernel, namespace, statmount};

/// Makes the mount of the source that the options ask for, attached nowhere.
///
/// # Errors
/// Why the kernel's mount would not do the same.
pub(super) fn make(options: &Options, source: &Path) -> Result<OwnedFd, Unfit> {
    unfit::of_options(options)?;
    let (users, groups) = unfit::of_policy(&options.spec)?;
    tree(source, options.submounts, (&users, &groups), attributes(options.flags))
}

/// Tries whether the kernel maps ids of a source for this user, and shows of what is
/// mounted below what is asked; nothing is left.
///
/// # Errors
/// Why it does not.
pub fn probe(source: &Path, submounts: Submounts) -> Result<(), Unfit> {
    let one = [Line { inside: 0, outside: 0, count: 1 }];
    tree(source, submounts, (&one, &one), Attributes::default()).map(drop)
}

/// Returns what to change of the flags of a copied mount.
///
/// What the source's mount forbids stays forbidden, but for what was asked for by
/// name; mount(8) says `rw` by itself.
fn attributes(flags: Flags) -> Attributes {
    let Attributes { clear, .. } = flags.attributes();
    // Access times are as those of the source unless something was said.
    let Attributes { set, .. } = Flags { atime: flags.atime, ..flags.with_defaults() }.attributes();
    Attributes { set, clear: clear & !libc::MOUNT_ATTR_RDONLY }
}

fn tree(
    source: &Path,
    submounts: Submounts,
    (users, groups): (&[Line], &[Line]),
    attributes: Attributes,
) -> Result<OwnedFd, Unfit> {
    let table = mountinfo::mounts().map_err(doing("mount table"))?;
    let below = |mount: &&Mount| mount.point != source && mount.point.starts_with(source);
    let below: Vec<&Mount> = table.iter().filter(below).collect();
    if let (Submounts::Hide, Some(mount)) = (submounts, below.first()) {
        return Err(Unfit::Covering(mount.point.clone()));
    }
    if let Some(mount) = below.iter().find(|mount| mount.unbindable || mount.fstype == "nsfs") {
        return Err(Unfit::Unbindable(mount.point.clone()));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = openat(AT_FDCWD, source, flags, Mode::empty())
        .map_err(|errno| Unfit::System { what: "source", why: errno.into() })?;
    let copy = kernel::clone_tree(dir.as_fd()).map_err(refusal("open_tree"))?;
    let namespace = namespace::make(users, groups).map_err(|why| match why.raw_os_error() {
        Some(libc::EPERM) => Unfit::Ids,
        _ => Unfit::System { what: "user namespace", why },
    })?;
    let Attributes { set, clear } = attributes;
    match kernel::idmap_tree(copy.as_fd(), namespace.as_fd(), set, clear) {
        Ok(()) => Ok(copy),
        Err(why) => Err(culprit(source, &below, namespace.as_fd())
            .unwrap_or_else(|| refusal("mount_setattr")(why))),
    }
}

fn doing(what: &'static str) -> impl Fn(io::Error) -> Unfit {
    move |why| Unfit::System { what, why }
}

fn refusal(what: &'static str) -> impl Fn(io::Error) -> Unfit {
    move |why| match why.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Unfit::Privilege,
        _ => Unfit::System { what, why },
    }
}

/// Finds the mount that could not be mapped.
fn culprit(source: &Path, below: &[&Mount], namespace: BorrowedFd<'_>) -> Option<Unfit> {
    let points = below.iter().map(|mount| mount.point.as_path());
    std::iter::once(source).chain(points).find_map(|point| {
        let copy = kernel::clone_mount(AT_FDCWD, point).ok()?;
        let why = kernel::idmap(copy.as_fd(), namespace).err()?;
        let mount = mountinfo::mount_of(point).ok().flatten()?;
        if mount.is_idmapped() {
            return Some(Unfit::Mapped(point.to_owned()));
        }
        let kind = mount.fstype.to_string_lossy().into_owned();
        let path = point.to_owned();
        (why.raw_os_error() == Some(libc::EINVAL)).then_some(Unfit::FileSystem { path, kind })
    })
}

/// A kernel idmapped mount that is there.
#[derive(Clone, Debug)]
pub struct IdMapped {
    /// Its line of the mount table.
    pub mount: Mount,
    /// Its maps of users and groups, inside the disk ids; `None` where the kernel
    /// does not tell, before Linux 6.15.
    pub maps: Option<[Vec<Line>; 2]>,
}

impl IdMapped {
    /// Finds the idmapped mount at a path, if that is what is mounted there.
    ///
    /// # Errors
    /// As read(2) of the table of mounts.
    pub fn at(point: &Path) -> io::Result<Option<Self>> {
        let there = mountinfo::mount_behind(point)?.filter(Mount::is_idmapped);
        Ok(there.map(|mount| {
            let maps = statmount::id_maps(&mount.point).ok().flatten();
            Self { mount, maps }
        }))
    }

    /// Reports whether it shows this directory: the kernel's mount has the same
    /// files.
    pub fn shows(&self, source: &Path) -> bool {
        let file = |path: &Path| lstat(path).map(|stat| (stat.st_dev, stat.st_ino));
        let source = source.canonicalize().ok();
        let source = source.and_then(|source| file(&source).ok());
        source.is_some_and(|source| file(&self.mount.point) == Ok(source))
    }

    /// Returns a place where the directory is seen without the map: below another
    /// mount of the same file system. If there is none, it is a place that this mount
    /// covers.
    pub fn source(&self) -> Option<PathBuf> {
        let table = mountinfo::mounts().ok()?;
        let plain = table.iter().filter(|mount| !mount.is_idmapped());
        let places: Vec<PathBuf> = plain
            .filter_map(|mount| mount.place_of(self.mount.device, &self.mount.root))
            .filter(|place| self.shows(place))
            .collect();
        let is_plain = |place: &&PathBuf| {
            mountinfo::holding(&table, place).is_some_and(|mount| !mount.is_idmapped())
        };
        let is_covered = |place: &&PathBuf| place.starts_with(&self.mount.point);
        places.iter().find(is_plain).or_else(|| places.iter().find(is_covered)).cloned()
    }

    /// Reports whether it does what a policy says; `None` if that is not known.
    pub fn is_by(&self, spec: &Spec) -> Option<bool> {
        let Ok((users, groups)) = unfit::of_policy(spec) else { return Some(false) };
        let told = self.maps.clone()?.map(joined);
        Some(told == [joined(users), joined(groups)])
    }

    /// Returns a flag that is asked for, by name or by default, and that it lacks.
    pub fn lacks(&self, flags: Flags) -> Option<&'static str> {
        let Flags { suid, dev, .. } = flags.with_defaults();
        let wanted = [(suid, "nosuid"), (dev, "nodev")];
        let lacks =
            |(lifted, flag): &(Option<bool>, &str)| *lifted == Some(false) && !self.mount.has(flag);
        wanted.into_iter().find(lacks).map(|(_, flag)| flag)
    }
}

/// Puts lines that go on where another ends into one.
fn joined(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_unstable_by_key(|line| line.inside);
    lines.dedup_by(|next, line| {
        let end = |start: u32| start.checked_add(line.count);
        let goes_on = end(line.inside) == Some(next.inside);
        let goes_on = goes_on && end(line.outside) == Some(next.outside);
        if goes_on {
            line.count = line.count.saturating_add(next.count);
        }
        goes_on
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::options::Atime;
    use crate::policy::{NoNames, options};

    #[test]
    fn lines_that_go_on_are_one() {
        let line = |inside, outside, count| Line { inside, outside, count };
        let told = vec![line(5, 105, 2), line(0, 100, 5), line(7, 200, 1), line(9, 202, 1)];
        assert_eq!(joined(told), [line(0, 100, 7), line(7, 200, 1), line(9, 202, 1)]);
    }

    #[test]
    fn a_policy_that_the_kernel_cannot_do_is_none_of_its_mounts() {
        let mount = mountinfo::mount_at(Path::new("/")).unwrap().unwrap();
        let line = |inside, count| Line { inside, outside: inside, count };
        let parts = vec![line(0, 7), line(7, u32::MAX - 7)];
        let there = IdMapped { mount, maps: Some([parts.clone(), parts]) };
        let untold = IdMapped { maps: None, ..there.clone() };
        assert_eq!(there.is_by(&Spec::default()), Some(true));
        assert_eq!(untold.is_by(&Spec::default()), None);
        let mut given = options::Options::default();
        assert!(given.set("present-as", Some("7:8")).unwrap());
        let unfit = Spec::from_options(&given, &NoNames).unwrap();
        assert_eq!([there.is_by(&unfit), untold.is_by(&unfit)], [Some(false); 2]);
    }

    #[test]
    fn what_the_source_forbids_is_lifted_by_name_alone() {
        let (ro, nosuid, nodev) =
            (libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_NOSUID, libc::MOUNT_ATTR_NODEV);
        let safe = nosuid | nodev;
        let default = Flags::default();
        for (flags, set, clear) in [
            (default, safe, 0),
            (Flags { read_only: Some(true), ..default }, safe | ro, 0),
            // mount(8) says rw by itself.
            (Flags { read_only: Some(false), ..default }, safe, 0),
            (Flags { suid: Some(true), ..default }, nodev, nosuid),
            (Flags { exec: Some(true), ..default }, safe, libc::MOUNT_ATTR_NOEXEC),
            (
                Flags { atime: Some(Atime::Never), ..default },
                safe | libc::MOUNT_ATTR_NOATIME,
                libc::MOUNT_ATTR__ATIME,
            ),
        ] {
            assert_eq!(attributes(flags), Attributes { set, clear }, "{flags:?}");
        }
    }
}
