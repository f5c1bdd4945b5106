//! The differences between our mount and the kernel's that are known, by name.
//!
//! docs/semantics.md gives the kernel's reason for each. One that leaves the
//! trees unequal is made good on the kernel's side, so that the run goes on.

use std::os::fd::AsFd as _;
use std::path::Path;

use super::ops::{Op, Outcome};
use super::world::Side;
use super::{acl, compare};
use crate::support::raw;

/// A known difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// The client's permission check comes before our id check.
    DeniedBeforeUnmappedCreate,
    /// So does its check of who may make device nodes.
    DeviceBeforeUnmappedCreate,
    /// So does its check of what may be linked.
    LinkRefusedBeforeUnmapped,
    /// So for a stranger's chown.
    NotOwnerBeforeUnmappedChown,
    /// The client takes the capability before it asks for a chown, which is
    /// then refused.
    CapabilityBeforeUnmappedChown,
    /// The client asks for the removal of a capability as for chown(-1, -1).
    SetIdWithCapability,
    /// What the kernel writes by itself it writes as nobody, from the first open
    /// to the last close: set-id bits that come meanwhile go, whoever writes.
    SetIdWhilePassed,
    /// A stranger's chown(-1, -1) of a set-id file that is open for writing, or may be
    /// where opens are not told, looks like what comes before a write: nothing is done.
    ChownOfNothingWhileWritten,
    /// fchown decides on the owner that the client saw last, before a change on
    /// the disk.
    OwnerAsLastSeen,
    /// The server does not hear of descriptors opened with O_PATH, and lets a file
    /// go that was deleted on the disk.
    PathOfDeleted,
    /// A file has another number while the client knows an earlier one by its own.
    NumberTaken,
    /// The client keeps no times of a fifo that is written to.
    FifoTimes,
    /// Where it caches what is written, the client keeps the times of regular files by
    /// itself, until it forgets them.
    TimesOfTheClient,
    /// The client moves positions in directories by itself.
    DirectorySeek,
    /// The client does not know of immutable and append-only files.
    InodeFlags,
    /// The kernel would store the overflow id, as the owner of a whiteout.
    WhiteoutOfNobody,
    /// An unmapped ACL entry is shown as 4294967294 instead of 4294967295.
    StandInId,
    /// Where we decide, a fifo or socket cannot be looked up by those who may not
    /// use it: the client opens it without asking.
    SpecialNotShown,
    /// Where we decide, the client refuses for another reason before it asks us:
    /// the same refusal by another name.
    OrderOfRefusals,
    /// Where we decide, the client opens a file to get at its inode flags, as the
    /// caller, whatever the caller has open.
    FlagsByOpening,
    /// Where we decide, capabilities count for access(2) too.
    AccessWithCapabilities,
    /// Of an unknown caller it is not known that it is in the file's group: an `S_ISGID`
    /// goes that stays for members.
    MarkOfUnknown,
    /// Nor that it owns the file: chown(-1, -1) of a set-id file is refused.
    ChownOfNothingByUnknown,
    /// Nor that no id is stored for it, where it only gives a file another name.
    NameOfUnknown,
    /// O_TMPFILE is not carried by the library.
    Tmpfile,
    /// The birth time is not carried by the library.
    BirthTime,
    /// Where it caches what is written, the client takes writes that an immutable or
    /// append-only file refuses later: not tried.
    LockedWhileCached,
    /// Where an ordinary user's server keeps the owners, it may not set the flags
    /// of inodes that root may: not tried.
    FlagsOfAnotherUser,
}

/// What marks the birth time in a line.
pub const BTIME: &str = " btime";

/// What marks a number that a file has because its own was taken.
pub const TAKEN: &str = " number taken";

/// What marks times that the client keeps by itself.
pub const OWN_TIMES: &str = " times of the client";

/// What marks a ctime that moved on disk, maybe for a change that was made before.
pub const LATE_CTIME: &str = " ctime moved by the client";

/// How `exec` shows that a descriptor's file is gone.
const STALE: &str = "fstat errno 116";

/// What marks a file capability in a line.
pub const CAPABILITY: &str = " security.capability=";

/// Returns the known difference that two outcomes differ by, if they do;
/// `locked`: a file of the operation is immutable or append-only.
pub fn of_outcomes(op: &Op, kernel: &Outcome, ours: &Outcome, locked: bool) -> Option<Known> {
    match (op, kernel.errno, ours.errno) {
        _ if denied_before_unmapped(op, kernel, ours) => Some(Known::DeniedBeforeUnmappedCreate),
        (Op::Mknod { mode, .. }, libc::EOVERFLOW, libc::EPERM)
            if matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) =>
        {
            Some(Known::DeviceBeforeUnmappedCreate)
        }
        (Op::Link { .. }, libc::EOVERFLOW, libc::EPERM) => Some(Known::LinkRefusedBeforeUnmapped),
        (Op::Lseek { .. }, ..) if kernel.after.contains(" mode 04") => Some(Known::DirectorySeek),
        (Op::Read { .. }, libc::EINVAL, libc::EISDIR) => Some(Known::DirectorySeek),
        (_, libc::EPERM, _) | (Op::Lock { .. }, 0, libc::EPERM) if locked => {
            Some(Known::InodeFlags)
        }
        (Op::Chown { .. } | Op::Fchown { .. }, libc::EOVERFLOW, libc::EPERM) => {
            Some(Known::NotOwnerBeforeUnmappedChown)
        }
        (Op::Fchown { .. }, libc::EPERM, libc::EOVERFLOW) => Some(Known::OwnerAsLastSeen),
        (Op::Fchown { uid: u32::MAX, gid: u32::MAX, .. }, libc::EPERM, 0) => {
            Some(Known::ChownOfNothingWhileWritten)
        }
        (Op::Open { flags, .. }, _, libc::EOPNOTSUPP)
            if flags & libc::O_TMPFILE == libc::O_TMPFILE =>
        {
            Some(Known::Tmpfile)
        }
        (Op::GetXattr { name, .. }, 0, 0)
            if name.starts_with("system.posix_acl") && stand_in(&kernel.value) == ours.value =>
        {
            Some(Known::StandInId)
        }
        _ if (kernel.errno, &kernel.value) == (ours.errno, &ours.value)
            && kernel.after.contains(" nlink 0 ")
            && ours.after.contains(STALE) =>
        {
            Some(Known::PathOfDeleted)
        }
        // Of a file without names the kernel's cannot be made the same.
        _ if (kernel.errno, &kernel.value) == (ours.errno, &ours.value)
            && kernel.after.contains(" nlink 0 ")
            && without_set_id(&kernel.after) == ours.after =>
        {
            Some(Known::SetIdWhilePassed)
        }
        // Whether there was a capability is seen when the file is looked at.
        _ if op.writes()
            && (kernel.errno, &kernel.value) == (ours.errno, &ours.value)
            && without_set_id(&kernel.after) == ours.after =>
        {
            Some(Known::SetIdWithCapability)
        }
        _ => None,
    }
}

/// Returns the known difference that two outcomes differ by where permission is
/// decided by us.
pub fn when_we_decide(op: &Op, kernel: &Outcome, ours: &Outcome) -> Option<Known> {
    const OTHER: [i32; 5] =
        [libc::EPERM, libc::EOVERFLOW, libc::ENOTDIR, libc::EISDIR, libc::ENOTEMPTY];
    match (op, kernel.errno, ours.errno) {
        (
            Op::Rename { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Mknod { .. }
            | Op::Open { .. },
            libc::EACCES,
            other,
        ) if OTHER.contains(&other) => Some(Known::OrderOfRefusals),
        // The client leaves sticky directories and hard links to us, and knows
        // that the other directory has no owner.
        (Op::Rename { .. } | Op::Link { .. }, libc::EPERM, libc::EACCES) => {
            Some(Known::OrderOfRefusals)
        }
        (Op::Rename { .. } | Op::Unlink { .. } | Op::Rmdir { .. }, libc::EPERM, other)
            if OTHER.contains(&other) =>
        {
            Some(Known::OrderOfRefusals)
        }
        // It searches the directory of the new name last.
        (Op::Rename { .. } | Op::Link { .. }, libc::EACCES, libc::ENOENT | libc::EXDEV) => {
            Some(Known::OrderOfRefusals)
        }
        (Op::GetFlags { .. } | Op::SetFlags { .. } | Op::GetFsxattr { .. }, _, libc::EACCES) => {
            Some(Known::FlagsByOpening)
        }
        _ => None,
    }
}

/// Whether this is chown(-1, -1) that is refused by the kernel, and not done by ours.
pub fn chown_of_nothing(op: &Op, kernel: &Outcome, ours: &Outcome) -> bool {
    let (Op::Chown { uid, gid, .. } | Op::Fchown { uid, gid, .. }) = op else { return false };
    (*uid, *gid, kernel.errno, ours.errno) == (u32::MAX, u32::MAX, libc::EPERM, 0)
}

/// Whether this is EACCES where the kernel says EOVERFLOW to a create.
pub fn denied_before_unmapped(op: &Op, kernel: &Outcome, ours: &Outcome) -> bool {
    op.creates() && (kernel.errno, ours.errno) == (libc::EOVERFLOW, libc::EACCES)
}

/// Returns the known difference that the lines of a file differ by, if they do;
/// `had_capability` and `errors` tell of the file before and of the outcomes.
pub fn of_lines(
    op: &Op,
    errors: [i32; 2],
    had_capability: bool,
    [kernel, ours]: &[String; 2],
) -> Option<Known> {
    let chown = matches!(op, Op::Chown { .. } | Op::Fchown { .. });
    let fifo = |line: &str| line.starts_with("disk mode 01");
    if matches!(op, Op::SetFlags { .. }) && errors == [0, libc::EACCES] {
        return Some(Known::FlagsByOpening);
    }
    if chown && errors == [libc::EOVERFLOW; 2] && had_capability {
        let spared = without_capability(kernel);
        return (spared == ours.replace(" ctime moved", ""))
            .then_some(Known::CapabilityBeforeUnmappedChown);
    }
    if op.writes() && had_capability && without_set_id(kernel) == *ours {
        return Some(Known::SetIdWithCapability);
    }
    if op.writes() && fifo(kernel) && without_times(kernel) == without_times(ours) {
        return Some(Known::FifoTimes);
    }
    None
}

/// Makes the kernel's file as ours became by a known difference.
pub fn settle(known: Known, kernel: &Path, ours: &Path) {
    match known {
        Known::CapabilityBeforeUnmappedChown => {
            raw::remove_xattr(kernel, CAPABILITY.trim().trim_end_matches('=')).expect("it has one");
        }
        Known::FlagsByOpening => {
            let [from, to] = [ours, kernel].map(|path| raw::open(path, libc::O_RDONLY, 0));
            let (from, to) = (from.expect("by root"), to.expect("by root"));
            let flags = raw::get_flags(from.as_fd()).expect("it has flags");
            raw::set_flags(to.as_fd(), flags).expect("by root");
        }
        Known::SetIdWithCapability => {
            let mode = raw::statx(Ok(ours)).expect("it is there").stx_mode;
            raw::chmod(kernel, u32::from(mode) & 0o7777).expect("by root");
        }
        _ => {}
    }
}

/// Gives the kernel's fifos the times of ours, after a write to one of them:
/// it may have another name by now than when it was opened.
pub fn settle_fifos(sides: &[Side; 2]) {
    let times = |side: &Side, path: &str| {
        let stat = raw::statx(Ok(&side.disk.join(path))).ok()?;
        let time = |time: libc::statx_timestamp| (time.tv_sec, i64::from(time.tv_nsec));
        let fifo = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFIFO;
        fifo.then_some([time(stat.stx_atime), time(stat.stx_mtime)])
    };
    for path in compare::walk(&sides[0]).1 {
        let (kernel, ours) = (times(&sides[0], &path), times(&sides[1], &path));
        if let (Some(_), Some(ours)) = (kernel, ours) {
            raw::utimens(&sides[0].disk.join(&path), ours, false).expect("by root");
        }
    }
}

/// Whether outcomes differ by what is written as nobody.
pub fn set_id_while_passed(op: &Op, kernel: &Outcome, ours: &Outcome) -> bool {
    matches!(op, Op::Write { .. } | Op::Pwrite { .. })
        && kernel.after != ours.after
        && without_set_id(&kernel.after) == ours.after
}

/// Whether outcomes differ by a lost `S_ISGID` at most.
pub fn mark_of_unknown(op: &Op, kernel: &Outcome, ours: &Outcome) -> bool {
    let keeps = matches!(op, Op::Chmod { .. } | Op::Fchmod { .. });
    !keeps
        && (kernel.errno, &kernel.value) == (ours.errno, &ours.value)
        && (kernel.after == ours.after || without_bits(&kernel.after, 0o2000) == ours.after)
}

/// Takes `S_ISGID` from the kernel's files where nothing but that is missing on ours;
/// reports whether there were any.
pub fn settle_marks(sides: &[Side; 2]) -> bool {
    let lost = |[kernel, ours]: [u32; 2]| kernel ^ ours == 0o2000 && kernel & 0o2000 != 0;
    settle_modes(sides, lost)
}

/// Whether this is chown(-1, -1) that is refused to an unknown caller, or not done for
/// one because the file is open for writing.
pub fn chown_of_nothing_by_unknown(op: &Op, kernel: &Outcome, ours: &Outcome) -> bool {
    let (Op::Chown { uid, gid, .. } | Op::Fchown { uid, gid, .. }) = op else { return false };
    let passed_over = matches!(op, Op::Fchown { .. }) && ours.errno == 0;
    (*uid, *gid) == (u32::MAX, u32::MAX)
        && kernel.errno == 0
        && (ours.errno == libc::EPERM || passed_over)
}

/// Gives set-id bits and capabilities back to the kernel's files that ours have kept.
pub fn settle_kept(sides: &[Side; 2]) {
    settle_modes(sides, |[kernel, ours]| ours & !0o6000 == kernel & !0o6000);
    let of = |side: &Side, path: &str| {
        raw::get_xattr(&side.disk.join(path), c"security.capability").ok()
    };
    for path in compare::walk(&sides[0]).1 {
        if let (None, Some(kept)) = (of(&sides[0], &path), of(&sides[1], &path)) {
            let name = CAPABILITY.trim().trim_end_matches('=');
            raw::set_xattr(&sides[0].disk.join(&path), name, &kept, 0).expect("by root");
        }
    }
}

/// Gives the kernel's files the mode of ours where it differs like that; reports
/// whether there were any.
fn settle_modes(sides: &[Side; 2], differs: impl Fn([u32; 2]) -> bool) -> bool {
    let mode = |side: &Side, path: &str| {
        let mode = raw::statx(Ok(&side.disk.join(path))).ok()?.stx_mode;
        Some(u32::from(mode)).filter(|mode| mode & libc::S_IFMT == libc::S_IFREG)
    };
    let mut any = false;
    for path in compare::walk(&sides[0]).1 {
        if let (Some(kernel), Some(ours)) = (mode(&sides[0], &path), mode(&sides[1], &path))
            && kernel != ours
            && differs([kernel, ours])
        {
            raw::chmod(&sides[0].disk.join(&path), ours & 0o7777).expect("by root");
            any = true;
        }
    }
    any
}

/// Takes set-id bits from the kernel's files that ours have lost, after a write
/// to one of them: it may have another name by now than when it was opened.
pub fn settle_set_id(sides: &[Side; 2]) {
    settle_modes(sides, |[kernel, ours]| kernel & !0o6000 == ours);
}

/// Takes the capability from the kernel's file that ours has lost to a refused
/// fchown: the file may have another name by now than when it was opened.
pub fn settle_capability(sides: &[Side; 2]) -> bool {
    let name = CAPABILITY.trim().trim_end_matches('=');
    let has = |side: &Side, path: &str| {
        raw::get_xattr(&side.disk.join(path), c"security.capability").is_ok()
    };
    let lost = |path: &String| has(&sides[0], path) && !has(&sides[1], path);
    let Some(path) = compare::walk(&sides[0]).1.into_iter().find(lost) else { return false };
    raw::remove_xattr(&sides[0].disk.join(path), name).expect("it has one");
    true
}

fn without_capability(line: &str) -> String {
    let Some((before, rest)) = line.split_once(CAPABILITY) else { return line.to_owned() };
    let end = rest.find([' ', ';']).unwrap_or(rest.len());
    format!("{before}{}", &rest[end..])
}

/// The line up to the times that `compare::look` ends it with.
fn without_times(line: &str) -> &str {
    line.rsplit_once(';').map_or(line, |(file, _)| file)
}

/// The line with no set-id bit in any mode.
fn without_set_id(line: &str) -> String {
    without_bits(line, 0o6000)
}

/// The line with none of these bits in any mode.
fn without_bits(line: &str, bits: u32) -> String {
    let mut parts = line.split("mode ");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (mode, rest) = part.split_at(part.find(' ').unwrap_or(part.len()));
        let mode = u32::from_str_radix(mode, 8).expect("an octal mode") & !bits;
        shown += &format!("mode {mode:06o}{rest}");
    }
    shown
}

/// The kernel's ACL as ours shows it: the other number in unmapped entries.
fn stand_in(value: &str) -> String {
    let mut shown = value.to_owned();
    for start in (8..value.len()).step_by(16) {
        let tag = value.get(start..start + 2).and_then(|tag| u16::from_str_radix(tag, 16).ok());
        let named = matches!(tag, Some(acl::USER | acl::GROUP));
        let id = start + 8..start + 16;
        if named && value.get(id.clone()) == Some("ffffffff") {
            shown.replace_range(id, "feffffff");
        }
    }
    shown
}
