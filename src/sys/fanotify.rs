//! fanotify(7): what changes on file systems, told by file handles.
//!
//! No event brings a descriptor, and nobody who changes a file waits for it to
//! be read. The queue is bounded: what does not fit is lost, and that is told.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::NixPath;
use nix::errno::Errno;
use nix::sys::statfs::fstatfs;

use super::handle::Handle;

/// What is to be heard of: all that others can see, but for accesses.
const CHANGES: u64 = libc::FAN_ATTRIB
    | libc::FAN_MODIFY
    | libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_ONDIR;

/// A group of marks, and the queue of what happens to what is marked.
///
/// All of it ends with the process.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Group {
    /// Makes a group that is told of nothing yet.
    ///
    /// # Errors
    /// As fanotify_init(2): `EMFILE` where the user has too many, `EINVAL`
    /// before Linux 5.17.
    pub fn new() -> nix::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME_TARGET
            | libc::FAN_REPORT_FID;
        // SAFETY: the call takes numbers only.
        let fd = Errno::result(unsafe { libc::fanotify_init(flags, 0) })?;
        // SAFETY: the call has just made this descriptor; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Hears of all changes on the file system of a path.
    ///
    /// # Errors
    /// As fanotify_mark(2): `EPERM` for who may not, `EXDEV` on a part of a file
    /// system that has an id of its own, `EOPNOTSUPP` and `ENODEV` where files
    /// have no handles.
    pub fn hear_file_system(&self, at: BorrowedFd<'_>, path: &str) -> nix::Result<()> {
        self.mark(libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, CHANGES, at, path)
    }

    /// Hears of the names in the directory of a path, and of what is done by
    /// way of them.
    ///
    /// # Errors
    /// As fanotify_mark(2): `EACCES` for a directory that may not be read,
    /// `ENOSPC` where the user has too many marks.
    pub fn hear_directory(&self, at: BorrowedFd<'_>, path: &str) -> nix::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR;
        self.mark(flags, CHANGES | libc::FAN_EVENT_ON_CHILD, at, path)
    }

    /// Hears no longer of the contents of the file of a path, however often
    /// they change.
    ///
    /// # Errors
    /// As fanotify_mark(2).
    pub fn ignore_contents(&self, at: BorrowedFd<'_>, path: &str) -> nix::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORE_SURV;
        self.mark(flags, libc::FAN_MODIFY, at, path)
    }

    /// Takes [`Group::ignore_contents`] back.
    ///
    /// # Errors
    /// As fanotify_mark(2): `ENOENT` if it was not in force.
    pub fn heed_contents(&self, at: BorrowedFd<'_>, path: &str) -> nix::Result<()> {
        let flags = libc::FAN_MARK_REMOVE | libc::FAN_MARK_IGNORE;
        self.mark(flags, libc::FAN_MODIFY, at, path)
    }

    /// Takes all marks of single files and directories back.
    ///
    /// # Errors
    /// As fanotify_mark(2).
    pub fn forget_files(&self) -> nix::Result<()> {
        self.mark(libc::FAN_MARK_FLUSH, 0, self.as_fd(), "")
    }

    fn mark(
        &self,
        flags: libc::c_uint,
        mask: u64,
        at: BorrowedFd<'_>,
        path: &str,
    ) -> nix::Result<()> {
        let (group, at) = (self.0.as_raw_fd(), at.as_raw_fd());
        let done = path.with_nix_path(|path| {
            // SAFETY: `path` ends with a NUL, and the call only reads it.
            unsafe { libc::fanotify_mark(group, flags, mask, at, path.as_ptr()) }
        })?;
        Errno::result(done).map(drop)
    }

    /// Reads events into a buffer; returns how many bytes of it they take.
    ///
    /// # Errors
    /// As read(2): `EAGAIN` if there are none.
    pub fn read(&self, buf: &mut [u8]) -> nix::Result<usize> {
        nix::unistd::read(&self.0, buf)
    }
}

/// What events call a file system: the id of statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FsId(pub(super) [u8; 8]);

/// Returns what events call the file system of a descriptor.
///
/// # Errors
/// As statfs(2).
pub fn fs_id(fd: BorrowedFd<'_>) -> nix::Result<FsId> {
    let id = fstatfs(fd)?.filesystem_id();
    // SAFETY: a `fsid_t` is two integers of four bytes, which are kept private.
    Ok(FsId(unsafe { std::mem::transmute::<libc::fsid_t, [u8; 8]>(id) }))
}

/// A file that an event tells of.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its file system.
    pub fs: FsId,
    /// Its handle, as name_to_handle_at(2) gives it.
    pub handle: Handle,
}

/// A name that an event tells of.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The directory.
    pub dir: File,
    /// The name in it; a dot for the directory itself.
    pub name: &'a OsStr,
}

/// Something that has happened. Events of one process on one file may come as
/// one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    mask: u64,
    /// The process that did it, as this process sees it: 0 if it does not.
    pub pid: i32,
    /// The file that it was done to, unless that is [`Event::entry`] itself.
    pub file: Option<File>,
    /// The name that it was done by.
    pub entry: Option<Entry<'a>>,
    /// The name before a rename, if its directory is watched.
    pub old: Option<Entry<'a>>,
    /// The name after a rename, if its directory is watched.
    pub new: Option<Entry<'a>>,
}

impl Event<'_> {
    const fn is(&self, mask: u64) -> bool {
        self.mask & mask != 0
    }

    /// Reports whether events have been lost.
    pub const fn is_overflow(&self) -> bool {
        self.is(libc::FAN_Q_OVERFLOW)
    }

    /// Reports whether a name was made or removed.
    pub const fn is_name(&self) -> bool {
        self.is(libc::FAN_CREATE | libc::FAN_DELETE)
    }

    /// Reports whether attributes have changed.
    pub const fn is_attributes(&self) -> bool {
        self.is(libc::FAN_ATTRIB)
    }

    /// Reports whether contents have changed.
    pub const fn is_contents(&self) -> bool {
        self.is(libc::FAN_MODIFY)
    }
}

/// Says that what the kernel wrote is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Goes through events that were read; after one that is damaged there may be
/// no more.
#[derive(Clone, Debug)]
pub struct Events<'a>(&'a [u8]);

impl<'a> Events<'a> {
    /// Takes the bytes that [`Group::read`] has filled.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let Some((whole, rest)) = cut(bytes, 0, u32::from_ne_bytes) else {
            return Some(Err(Damaged));
        };
        self.0 = rest;
        Some(event(whole).ok_or(Damaged))
    }
}

/// The length of `struct fanotify_event_metadata`: its own length (4 bytes),
/// version (1), reserved (1), length of this part (2), mask (8), descriptor (4),
/// process (4). Records follow.
const METADATA: usize = size_of::<libc::fanotify_event_metadata>();

/// Reads an event, `None` if it is damaged.
fn event(whole: &[u8]) -> Option<Event<'_>> {
    let length = usize::from(u16::from_ne_bytes(field(whole, 6)?));
    if *whole.get(4)? != libc::FANOTIFY_METADATA_VERSION || length < METADATA {
        return None;
    }
    let mask = u64::from_ne_bytes(field(whole, 8)?);
    let pid = i32::from_ne_bytes(field(whole, 20)?);
    let mut event = Event { mask, pid, ..Event::default() };
    let mut records = whole.get(length..)?;
    // An overflow has a record of no file.
    while !records.is_empty() && !event.is_overflow() {
        let (record, rest) = cut(records, 2, |bytes| u16::from_ne_bytes(bytes).into())?;
        match *record.first()? {
            libc::FAN_EVENT_INFO_TYPE_FID => event.file = Some(file(record)?.0),
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => event.entry = Some(entry(record)?),
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => event.old = Some(entry(record)?),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => event.new = Some(entry(record)?),
            // What a later kernel may add.
            _ => {}
        }
        records = rest;
    }
    Some(event)
}

/// Reads a record of a file: type (1 byte), padding (1), length (2), id of the
/// file system (8), length of the handle (4), its type (4), its bytes. Returns
/// what follows too.
fn file(record: &[u8]) -> Option<(File, &[u8])> {
    let fs = FsId(field(record, 4)?);
    let length = usize::try_from(u32::from_ne_bytes(field(record, 12)?)).ok()?;
    let kind = i32::from_ne_bytes(field(record, 16)?);
    let (bytes, rest) = record.get(20..)?.split_at_checked(length)?;
    Some((File { fs, handle: Handle::new(kind, bytes)? }, rest))
}

/// Reads a record of a name: as [`file`], then the name, which a NUL ends.
fn entry(record: &[u8]) -> Option<Entry<'_>> {
    let (dir, rest) = file(record)?;
    let name = CStr::from_bytes_until_nul(rest).ok()?.to_bytes();
    (!name.is_empty()).then_some(Entry { dir, name: OsStr::from_bytes(name) })
}

/// Cuts off what begins with its own length, which stands at an offset.
fn cut<const N: usize>(
    bytes: &[u8],
    offset: usize,
    length: impl Fn([u8; N]) -> u32,
) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length(field(bytes, offset)?)).ok()?;
    // What is shorter than the field itself would be met again and again.
    if length < offset.checked_add(N)? {
        return None;
    }
    bytes.split_at_checked(length)
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn length_of(bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len()).unwrap()
    }

    fn record(kind: u8, handle: &[u8], name: Option<&str>) -> Vec<u8> {
        let mut body = [[7_u8; 8].as_slice(), &length_of(handle).to_ne_bytes()].concat();
        body.extend(1_i32.to_ne_bytes());
        body.extend(handle);
        if let Some(name) = name {
            body.extend(name.as_bytes());
            body.push(0);
        }
        body.resize(body.len().next_multiple_of(4), 0);
        let length = u16::try_from(body.len() + 4).unwrap().to_ne_bytes();
        [&[kind, 0], length.as_slice(), &body].concat()
    }

    fn written(mask: u64, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let length = (length_of(&records) + 24).to_ne_bytes();
        let head = [length.as_slice(), &[3, 0], &24_u16.to_ne_bytes(), &mask.to_ne_bytes()];
        let tail = [(-1_i32).to_ne_bytes(), 42_i32.to_ne_bytes()];
        [head.concat(), tail.concat(), records].concat()
    }

    const HANDLE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn events_are_taken_apart() {
        let first = written(
            libc::FAN_CREATE | libc::FAN_ATTRIB,
            &[record(2, &[9; 12], Some("a name")), record(1, &HANDLE, None)],
        );
        let second = written(
            libc::FAN_RENAME,
            &[record(10, &HANDLE, Some("old")), record(12, &HANDLE, Some("new"))],
        );
        let third = written(libc::FAN_Q_OVERFLOW, &[record(1, &[], None)]);
        let bytes = [first, second, third].concat();
        let events: Vec<_> = Events::new(&bytes).map(Result::unwrap).collect();
        let [first, second, third] = events.as_slice() else { panic!("{events:?}") };
        assert!(first.is_name() && first.is_attributes() && !first.is_contents());
        assert_eq!(first.pid, 42);
        let (entry, file) = (first.entry.unwrap(), first.file.unwrap());
        assert_eq!((entry.name, entry.dir.handle.bytes()), (OsStr::new("a name"), &[9; 12][..]));
        assert_eq!((file.fs, file.handle.bytes()), (FsId([7; 8]), &HANDLE[..]));
        assert_eq!(second.old.unwrap().name, "old");
        assert_eq!(second.new.unwrap().name, "new");
        assert!(!second.is_name() && second.entry.is_none());
        assert!(third.is_overflow() && !second.is_overflow());
    }

    #[test]
    fn damaged_events_are_said_to_be() {
        let good = written(libc::FAN_ATTRIB, &[record(2, &HANDLE, Some("x"))]);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            ("a tail", good[..20].to_vec()),
            ("longer than what was read", with(0, 200)),
            ("of no length", with(0, 0)),
            ("another version", with(4, 2)),
            ("records before their time", with(6, 8)),
            ("a record of no length", with(26, 0)),
            ("a record that is too long", with(26, 99)),
            ("a handle that is too long", with(36, 99)),
            ("a handle of many bytes", with(38, 1)),
            ("no name", with(52, 0)),
        ];
        for (what, bytes) in cases {
            let events: Vec<_> = Events::new(&bytes).collect();
            assert!(matches!(events.first(), Some(Err(Damaged))), "{what}: {events:?}");
        }
        let rest = [with(52, 0), good.clone()].concat();
        let events: Vec<_> = Events::new(&rest).map(|event| event.is_ok()).collect();
        assert_eq!(events, [false, true]);
        assert!(Events::new(&written(0, &[record(99, &[], None)])).all(|event| event.is_ok()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(Events::new(&bytes).count() <= bytes.len());
        }

        #[test]
        fn nor_do_events_with_some_bytes_changed(
            changes in prop::collection::vec((0..500_usize, any::<u8>()), 0..6),
        ) {
            let records = [record(2, &HANDLE, Some("name")), record(1, &HANDLE, None)];
            let mut bytes = written(libc::FAN_DELETE, &records).repeat(3);
            let length = bytes.len();
            for (at, byte) in changes {
                bytes[at % length] = byte;
            }
            prop_assert!(Events::new(&bytes).count() <= length);
        }
    }
}
