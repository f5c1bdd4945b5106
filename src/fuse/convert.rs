//! Conversions between the kernel's encodings, as the library hands them on,
//! and the plain types of the file system.

use std::ffi::c_int;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{AccessFlags, FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::attr::{Attr, FileKind, Mode, Time};
use crate::error::{Error, Result};
use crate::id::{Caller, Id, Kind, NO_ID, Owner, View};
use crate::source::{LockKind, RenameFlags, SetTime};
use crate::tree::shown_ino;

/// Returns who is behind a request. The kernel sends 4294967295 for an id that
/// the mount's user namespace does not map, and pid 0 for a process outside
/// its process id namespace.
pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: Id::new(request.uid()), gid: Id::new(request.gid()), pid: request.pid() }
}

/// Returns a new owner; the kernel sends 4294967295 for one that the mount's
/// user namespace does not map.
pub(super) fn new_owner<K: Kind>(raw: Option<u32>) -> Result<Option<Id<K, View>>> {
    raw.map(|raw| Id::new(raw).ok_or(Error::Unmapped)).transpose()
}

/// Encodes attributes. An unmapped owner goes out as 4294967295: the kernel
/// then shows the overflow id and itself refuses what it refuses on an
/// idmapped mount.
pub(super) fn attr(attr: &Attr<View>) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        // Not on the Linux wire.
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: attr.mode.bits(),
        nlink: attr.nlink,
        uid: attr.owner.uid.map_or(NO_ID, Id::raw),
        gid: attr.owner.gid.map_or(NO_ID, Id::raw),
        rdev: encode_device(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Returns the attributes of a node as callers see them: the library takes the node of
/// an entry from its attributes, so these are for other answers.
pub(super) fn shown(attr: &Attr<View>) -> FileAttr {
    FileAttr { ino: INodeNo(shown_ino(attr.ino)), ..self::attr(attr) }
}

/// Returns the attributes of a directory that is not a file of the source.
pub(super) fn private_directory(ino: u64, mode: u32, owner: Owner<View>) -> Attr<View> {
    Attr {
        ino,
        kind: FileKind::Directory,
        mode: Mode::new(mode),
        nlink: 2,
        owner,
        rdev: 0,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        btime: None,
        locked: false,
        encrypted: false,
    }
}

const fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Encodes a device number: 12 bits of major between the low 8 and the high
/// 12 bits of the minor, as the kernel's `new_encode_dev`.
///
/// Larger parts, which Linux has no devices for, are cut.
fn encode_device(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0x000f_ff00) << 12)
}

/// Decodes a device number, as the kernel's `new_decode_dev`.
pub(super) const fn decode_device(wire: u32) -> u64 {
    libc::makedev((wire >> 8) & 0xfff, (wire & 0xff) | ((wire >> 12) & 0x000f_ff00))
}

/// Makes the library's form of a time, which it encodes rightly.
fn to_system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let second =
        if time.sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second
        .and_then(|second| second.checked_add(Duration::from_nanos(time.nsec.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// Returns a time to set. Of seconds `s` below 0 and nanoseconds `n` after
/// that second, the library makes the moment `s - n`, not `s + n`; both parts
/// are still there, as the distance from the epoch.
fn from_system_time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nsec: after.subsec_nanos(),
        },
        Err(before) => Time {
            sec: 0_i64.checked_sub_unsigned(before.duration().as_secs()).unwrap_or(i64::MIN),
            nsec: before.duration().subsec_nanos(),
        },
    }
}

/// Decodes a time to set.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(from_system_time(time)),
    }
}

/// Decodes what access(2) asks for: bits 4 read, 2 write, 1 execute.
pub(super) fn access(mask: AccessFlags) -> u8 {
    let bit = |flag, bit| if mask.contains(flag) { bit } else { 0 };
    bit(AccessFlags::R_OK, 4) | bit(AccessFlags::W_OK, 2) | bit(AccessFlags::X_OK, 1)
}

/// Decodes the type of a range lock.
pub(super) fn lock_kind(wire: i32) -> Result<LockKind> {
    match wire {
        F_RDLCK => Ok(LockKind::Shared),
        F_WRLCK => Ok(LockKind::Exclusive),
        F_UNLCK => Ok(LockKind::None),
        _ => Err(Error::Invalid),
    }
}

/// Encodes the type of a range lock.
pub(super) const fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => F_RDLCK,
        LockKind::Exclusive => F_WRLCK,
        LockKind::None => F_UNLCK,
    }
}

const F_RDLCK: c_int = libc::F_RDLCK as c_int;
const F_WRLCK: c_int = libc::F_WRLCK as c_int;
const F_UNLCK: c_int = libc::F_UNLCK as c_int;

/// Decodes the flags of renameat2(2).
pub(super) fn rename_flags(flags: fuser::RenameFlags) -> Result<RenameFlags> {
    if fuser::RenameFlags::all().contains(flags) {
        Ok(RenameFlags {
            no_replace: flags.contains(fuser::RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(fuser::RenameFlags::RENAME_EXCHANGE),
            whiteout: flags.contains(fuser::RenameFlags::RENAME_WHITEOUT),
        })
    } else {
        Err(Error::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Ids;

    /// What the library does to a time on its way in (its `time.rs`).
    fn parsed_by_library(sec: i64, nsec: u32) -> SystemTime {
        if sec >= 0 {
            UNIX_EPOCH + Duration::new(sec.unsigned_abs(), nsec)
        } else {
            UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec)
        }
    }

    /// What the library does to a time on its way out.
    fn encoded_by_library(time: SystemTime) -> (i64, u32) {
        match time.duration_since(UNIX_EPOCH) {
            Ok(d) => (i64::try_from(d.as_secs()).unwrap(), d.subsec_nanos()),
            Err(e) if e.duration().subsec_nanos() == 0 => {
                (0_i64.checked_sub_unsigned(e.duration().as_secs()).unwrap(), 0)
            }
            Err(e) => (
                -i64::try_from(e.duration().as_secs()).unwrap() - 1,
                1_000_000_000 - e.duration().subsec_nanos(),
            ),
        }
    }

    #[test]
    fn times_survive_both_ways() {
        let seconds = [0, 1, -1, -2, 1_700_000_000, -1_700_000_000, 1 << 40, i64::MAX];
        for sec in seconds.into_iter().chain([i64::MIN + 1]) {
            for nsec in [0, 1, 500_000_000, 999_999_999] {
                let time = Time { sec, nsec };
                assert_eq!(from_system_time(parsed_by_library(sec, nsec)), time);
                assert_eq!(encoded_by_library(to_system_time(time)), (sec, nsec), "{time:?}");
            }
        }
        // The kernel cuts the nanoseconds of the first and last second.
        let first = Time { sec: i64::MIN, nsec: 0 };
        assert_eq!(from_system_time(parsed_by_library(i64::MIN, 0)), first);
        assert_eq!(encoded_by_library(to_system_time(first)), (i64::MIN, 0));
    }

    #[test]
    fn devices_are_encoded_as_by_the_kernel() {
        let cases = [
            ((0, 0), 0),
            ((1, 3), 0x103),
            ((8, 1), 0x801),
            ((0xfff, 0xff), 0xf_ffff),
            ((259, 0x100), 0x0011_0300),
            ((0xfff, 0xf_ffff), 0xffff_ffff),
        ];
        for ((major, minor), wire) in cases {
            let rdev = libc::makedev(major, minor);
            assert_eq!(encode_device(rdev), wire, "{major}:{minor}");
            assert_eq!(decode_device(wire), rdev, "{major}:{minor}");
        }
    }

    #[test]
    fn unmapped_owners_are_no_id_on_the_wire() {
        let mapped = private_directory(7, 0o40750, Ids::new(5, 6).unwrap().into());
        let unmapped = private_directory(7, 0o750, Owner { uid: None, gid: None });
        let (mapped, unmapped) = (attr(&mapped), attr(&unmapped));
        assert_eq!((mapped.uid, mapped.gid, mapped.perm), (5, 6, 0o750));
        assert_eq!((unmapped.uid, unmapped.gid), (NO_ID, NO_ID));
        assert_eq!(new_owner::<crate::id::User>(Some(NO_ID)), Err(Error::Unmapped));
        assert_eq!(new_owner::<crate::id::User>(None), Ok(None));
    }

    #[test]
    fn lock_types_are_those_of_fcntl() {
        for kind in [LockKind::Shared, LockKind::Exclusive, LockKind::None] {
            assert_eq!(lock_kind(lock_type(kind)), Ok(kind));
        }
        assert_eq!(lock_kind(7), Err(Error::Invalid));
    }
}
