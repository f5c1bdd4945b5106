//! What the table keeps of one file, small.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::attr::FileKind;
use crate::policy::State;
use crate::source::{FileHandle, Found, Key};

/// The longest handle that the kernel makes (`MAX_HANDLE_SZ`).
const HANDLE_MAX: usize = 128;

/// What it is, with flags; a handle, as its type and its bytes; a name.
type Rest<'a> = (u8, Option<(i32, &'a [u8])>, &'a [u8]);

/// The bits that say what it is: the topmost four of a mode.
const KIND: u8 = 0x0f;
/// The flag of a directory whose names are watched.
const HEARD: u8 = 0x10;

/// A file that the kernel knows.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) key: Key,
    /// Where its name stands in the rules by path.
    pub(super) state: State,
    /// Lookups that the kernel has not taken back.
    pub(super) count: u64,
    /// The number of the directory where the file was last found.
    parent: u64,
    /// The rest in one allocation, since a million are kept: kind and flags (one byte);
    /// the handle's length plus 1 (one byte; 0 without a handle, and then the
    /// name follows at once), its type (four bytes, little-endian), its bytes,
    /// and then the name.
    rest: Box<[u8]>,
}

impl Inode {
    /// Makes an inode that no lookup is counted of yet.
    pub(super) fn new(found: &Found, state: State, parent: u64, name: &OsStr) -> Self {
        let handle = found.handle.as_ref().map(|handle| (handle.kind, &*handle.bytes));
        let kind = u8::try_from(found.attr.kind.bits() >> 12).unwrap_or(0);
        let rest = pack(kind & KIND, handle, name.as_bytes());
        Self { key: found.key.clone(), state, count: 0, parent, rest }
    }

    /// Returns where the file was last found.
    pub(super) fn place(&self) -> (u64, &OsStr) {
        (self.parent, OsStr::from_bytes(self.unpack().2))
    }

    /// Returns what it is: a file never changes its kind.
    pub(super) fn kind(&self) -> FileKind {
        let kind = self.unpack().0 & KIND;
        FileKind::from_mode(u32::from(kind) << 12).unwrap_or(FileKind::Regular)
    }

    /// Reports whether its names are watched.
    pub(super) fn is_heard(&self) -> bool {
        self.unpack().0 & HEARD != 0
    }

    /// Records whether its names are watched.
    pub(super) fn set_heard(&mut self, heard: bool) {
        if let Some(flags) = self.rest.first_mut() {
            *flags = if heard { *flags | HEARD } else { *flags & !HEARD };
        }
    }

    /// Returns the handle, where there is one.
    pub(super) fn handle(&self) -> Option<FileHandle> {
        self.unpack().1.map(|(kind, bytes)| FileHandle { kind, bytes: bytes.into() })
    }

    /// Records where the file is now, and its handle where that is new.
    pub(super) fn update(&mut self, handle: Option<&FileHandle>, parent: u64, name: &OsStr) {
        let (flags, old_handle, old_name) = self.unpack();
        let handle = handle.map(|handle| (handle.kind, &*handle.bytes)).or(old_handle);
        if handle != old_handle || name.as_bytes() != old_name {
            self.rest = pack(flags, handle, name.as_bytes());
        }
        self.parent = parent;
    }

    fn unpack(&self) -> Rest<'_> {
        unpack(&self.rest).unwrap_or((0, None, &[]))
    }
}

fn pack(flags: u8, handle: Option<(i32, &[u8])>, name: &[u8]) -> Box<[u8]> {
    let handle = handle.filter(|(_, bytes)| bytes.len() <= HANDLE_MAX);
    let length = handle.map_or(0, |(_, bytes)| bytes.len().saturating_add(1));
    // As many as there are going to be, for them not to move when they are boxed.
    let form = if length == 0 { 0 } else { size_of::<i32>().saturating_add(length) };
    let rest = [form, name.len()].into_iter().fold(1, usize::saturating_add);
    let mut rest = Vec::with_capacity(rest.saturating_add(usize::from(length == 0)));
    rest.push(flags);
    rest.push(u8::try_from(length).unwrap_or(0));
    if let Some((kind, bytes)) = handle {
        rest.extend_from_slice(&kind.to_le_bytes());
        rest.extend_from_slice(bytes);
    }
    rest.extend_from_slice(name);
    rest.into_boxed_slice()
}

fn unpack(rest: &[u8]) -> Option<Rest<'_>> {
    let (flags, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first()?;
    let Some(length) = usize::from(*length).checked_sub(1) else {
        return Some((*flags, None, rest));
    };
    let (form, rest) = rest.split_first_chunk()?;
    let (bytes, name) = rest.split_at_checked(length)?;
    Some((*flags, Some((i32::from_le_bytes(*form), bytes)), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{Attr, Mode, Time};
    use crate::id::Owner;

    fn inode(handle: Option<FileHandle>, kind: FileKind, name: &str) -> Inode {
        let key = Key { volume: 0, ino: 9, generation: 1 };
        let attr = Attr {
            ino: 9,
            kind,
            mode: Mode::new(0),
            nlink: 1,
            owner: Owner { uid: None, gid: None },
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            locked: false,
        };
        Inode::new(&Found { key, handle, attr }, State::default(), 3, OsStr::new(name))
    }

    #[test]
    fn keeps_handle_and_place() {
        let long = "n".repeat(255);
        for length in [None, Some(0), Some(8), Some(128)] {
            for name in ["a", long.as_str()] {
                let handle =
                    length.map(|length| FileHandle { kind: -2, bytes: vec![0xab; length].into() });
                let mut inode = inode(handle.clone(), FileKind::Directory, name);
                assert_eq!(inode.handle(), handle);
                assert_eq!(inode.place(), (3, OsStr::new(name)));
                inode.update(None, 4, OsStr::new("b"));
                assert_eq!(inode.handle(), handle);
                assert_eq!(inode.place(), (4, OsStr::new("b")));
                let other = FileHandle { kind: 1, bytes: Box::new([1]) };
                inode.update(Some(&other), 4, OsStr::new("b"));
                assert_eq!(inode.handle(), Some(other));
                assert_eq!(inode.place(), (4, OsStr::new("b")));
                assert!(inode.kind().is_dir() && !inode.is_heard());
                inode.set_heard(true);
                inode.update(None, 5, OsStr::new("c"));
                assert!(inode.kind().is_dir() && inode.is_heard());
                inode.set_heard(false);
                assert!(inode.kind().is_dir() && !inode.is_heard());
            }
        }
    }

    #[test]
    fn a_handle_that_is_too_long_is_none() {
        let handle = FileHandle { kind: 1, bytes: vec![0; 129].into() };
        let inode = inode(Some(handle), FileKind::Regular, "a");
        assert_eq!((inode.handle(), inode.kind()), (None, FileKind::Regular));
        assert_eq!(inode.place(), (3, OsStr::new("a")));
    }

    #[test]
    fn is_small() {
        assert!(size_of::<Inode>() <= 72);
    }
}
