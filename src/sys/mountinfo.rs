//! The table of mounts, as proc_pid_mountinfo(5) describes it.
//!
//! Reading it asks no file system for anything, so that it works where a path
//! walk would wait for a server that hangs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// A mount of this process's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device number of the file system: major and minor.
    pub device: (u32, u32),
    /// What of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// The flags of the mount.
    pub flags: String,
    /// Whether it can be bound nowhere else.
    pub unbindable: bool,
    /// The type, with its subtype after a dot.
    pub fstype: OsString,
    /// The device, or what stands for it.
    pub source: OsString,
    /// The options of the file system.
    pub options: String,
}

impl Mount {
    /// Reports whether the mount has this flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|there| there == flag)
    }

    /// Reports whether the mount has an id map of its own.
    pub fn is_idmapped(&self) -> bool {
        self.has("idmapped")
    }

    /// Returns where a directory of a file system is seen through this mount, if it
    /// is of that file system and shows it.
    pub fn place_of(&self, device: (u32, u32), root: &Path) -> Option<PathBuf> {
        let below = root.strip_prefix(&self.root).ok().filter(|_| self.device == device)?;
        // Without a slash at its end, where nothing is below.
        Some(self.point.join(below).components().collect())
    }

    /// Reports whether this is an overlay that lies above a mount of ours: what is below it
    /// was at its own mount point, and keeps its marks as ours does.
    pub fn is_above_ours(&self) -> bool {
        self.fstype == "overlay"
            && self.options.split(',').any(|option| option == "userxattr")
            && self.has_layer("lowerdir=", &self.point)
    }

    /// Reports whether this is an overlay that takes what is written in this directory.
    pub fn has_upper(&self, upper: &Path) -> bool {
        self.fstype == "overlay" && self.has_layer("upperdir=", upper)
    }

    /// Returns the directory that this overlay writes to, if it is this one or below it.
    pub fn writes_below(&self, dir: &Path) -> Option<PathBuf> {
        let layers = ["upperdir=", "workdir="].into_iter().filter_map(|option| self.layer(option));
        let mut layers = layers.filter(|_| self.fstype == "overlay");
        layers.find(|layer| layer.starts_with(as_layer(dir.as_os_str())))
    }

    /// Reports whether an option of an overlay is this path.
    fn has_layer(&self, option: &str, path: &Path) -> bool {
        self.layer(option).is_some_and(|layer| layer == as_layer(path.as_os_str()))
    }

    /// Returns the path that an option of an overlay is, without backslashes.
    fn layer(&self, option: &str) -> Option<PathBuf> {
        let value = self.options.split(',').find_map(|there| there.strip_prefix(option))?;
        Some(as_layer(&unescape(value.as_bytes())))
    }

    /// Reports whether this is a mount of ours, or what lies above one.
    pub fn is_ours(&self) -> bool {
        is_ours(&self.fstype) || self.is_above_ours()
    }

    /// Returns who has mounted a FUSE file system, as its user namespace counts.
    pub fn user_id(&self) -> Option<u32> {
        self.options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }
}

/// Returns all mounts, in the order in which they were made.
///
/// # Errors
/// As read(2) of `/proc/thread-self/mountinfo`.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let mut table = Vec::new();
    File::open("/proc/thread-self/mountinfo")?.read_to_end(&mut table)?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Returns the topmost mount at a path; the path is compared as written.
///
/// # Errors
/// As [`mounts`].
pub fn mount_at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.point == point))
}

/// Returns the topmost mount at the end of a path, whatever links lead there; `None`,
/// too, where it leads nowhere.
///
/// # Errors
/// As [`mounts`].
pub fn mount_behind(path: &Path) -> io::Result<Option<Mount>> {
    path.canonicalize().map_or(Ok(None), |point| mount_at(&point))
}

/// Returns the mount that a path is on; the path is compared as written.
///
/// # Errors
/// As [`mounts`].
pub fn mount_of(path: &Path) -> io::Result<Option<Mount>> {
    Ok(holding(&mounts()?, path).cloned())
}

/// Returns the mount of a table that a path is on; the path is compared as written.
pub fn holding<'a>(table: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let on = table.iter().filter(|mount| path.starts_with(&mount.point));
    // Of several at one point the last is on top.
    on.max_by_key(|mount| mount.point.components().count())
}

/// Returns a path without backslashes: they are of the kernel, and before that of whoever
/// writes paths as overlayfs reads them.
fn as_layer(path: &OsStr) -> PathBuf {
    path.to_string_lossy().replace('\\', "").into()
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?).into();
    let point = unescape(fields.next()?).into();
    let flags = String::from_utf8_lossy(fields.next()?).into_owned();
    // Any number of optional fields, up to a hyphen.
    let optional = fields.by_ref().take_while(|field| *field != b"-");
    let unbindable = optional.filter(|field| *field == b"unbindable").count() > 0;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        point,
        flags,
        unbindable,
        fstype: unescape(fields.next()?),
        source: unescape(fields.next()?),
        options: fields.next().map(|rest| String::from_utf8_lossy(rest).into_owned())?,
    })
}

/// Undoes the encoding of space, tab, newline, backslash and `#` as a
/// backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let digits = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

/// Reports whether this is the type of our mounts.
pub fn is_ours(fstype: &OsStr) -> bool {
    fstype.as_bytes() == b"fuse.idmapfs"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = br"36 35 0:50 /view /mnt/a\040b rw,nosuid shared:1 master:2 - fuse.idmapfs /s\134\043\012x rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, (0, 50));
        assert_eq!(mount.root, Path::new("/view"));
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert_eq!(mount.flags, "rw,nosuid");
        assert!(is_ours(&mount.fstype) && !mount.unbindable);
        assert_eq!(mount.source, OsStr::new("/s\\#\nx"));
        assert_eq!(mount.user_id(), Some(0));

        let mapped = parse(b"9 1 8:1 /s /m rw,nosuid,idmapped - ext4 /dev/sda1 rw").unwrap();
        assert!(mapped.is_idmapped() && !mount.is_idmapped());
        assert!(mapped.has("nosuid") && !mapped.has("suid"));
        for (device, root, place) in [
            ((8, 1), "/s", Some("/m")),
            ((8, 1), "/s/a", Some("/m/a")),
            ((8, 1), "/sa", None),
            ((8, 2), "/s", None),
        ] {
            assert_eq!(mapped.place_of(device, Path::new(root)), place.map(PathBuf::from));
        }

        let bare = parse(b"1 1 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!((bare.device, bare.point.as_path()), ((8, 1), Path::new("/")));
        assert!(!is_ours(&bare.fstype) && !bare.unbindable && bare.user_id().is_none());
        for (line, unbindable) in [
            (&b"1 1 8:1 / /a rw shared:1 unbindable - ext4 /dev/sda1 rw"[..], true),
            (b"1 1 8:1 / /a rw unbindable master:1 - ext4 /dev/sda1 rw", true),
            (b"1 1 8:1 / /a rw - ext4 unbindable rw", false),
        ] {
            assert_eq!(parse(line).unwrap().unbindable, unbindable);
        }
        for (point, fstype, options, above) in [
            ("/m", "overlay", "rw,lowerdir=/m,upperdir=/u,userxattr", true),
            ("/m", "overlay", "rw,lowerdir=/m,upperdir=/u", false),
            ("/m", "overlay", "rw,lowerdir=/m:/n,userxattr", false),
            ("/m", "overlay", "rw,lowerdir=/l,upperdir=/m,userxattr", false),
            ("/m", "fuse.other", "rw,lowerdir=/m,userxattr", false),
            (
                "/a\\040b\\134c:d",
                "overlay",
                "rw,lowerdir=/a\\040b\\134\\134c\\134:d,userxattr",
                true,
            ),
            ("/a,b", "overlay", "rw,lowerdir=/a\\134\\054b,userxattr", true),
        ] {
            let line = format!("9 1 0:60 / {point} rw - {fstype} /i {options}");
            let mount = parse(line.as_bytes()).unwrap();
            assert_eq!((mount.is_above_ours(), mount.is_ours()), (above, above), "{line}");
            assert_eq!(mount.has_upper(Path::new("/u")), options.contains("upperdir=/u"));
            let below = mount.writes_below(Path::new("/")).is_some();
            assert_eq!(below, mount.fstype == "overlay" && options.contains("upperdir="));
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 1 8:1 / / rw - ext4"), None);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
        let proc = mount_of(Path::new("/proc/self/none")).unwrap().unwrap();
        assert_eq!(proc.point, Path::new("/proc"));
    }
}
