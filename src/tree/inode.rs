//! What the table keeps of one file, small.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::attr::FileKind;
use crate::policy::State;
use crate::source::{FileHandle, Found, Key};

use super::number::Numbers;

/// The longest handle that the kernel makes (`MAX_HANDLE_SZ`).
const HANDLE_MAX: usize = 128;
/// How many bytes take no allocation of their own: what is kept of most files, and
/// no more than makes an inode of 88 bytes, which the allocator gives exactly.
const SHORT: usize = 30;

/// The bits that say what it is: the topmost four of a mode.
const KIND: u8 = 0x0f;
/// The flag of a directory whose names are watched.
const HEARD: u8 = 0x10;
/// The flag of an inode number that does not follow from the node's.
const INO: u8 = 0x20;
/// The flag of a handle whose type takes more than a byte.
const WIDE: u8 = 0x40;
/// The flag of a file that is encrypted by its file system.
const ENCRYPTED: u8 = 0x80;

/// A file that the kernel knows. A million are kept, so what follows from the rest
/// is left out.
#[derive(Debug)]
pub(super) struct Inode {
    /// The number that the kernel knows it by.
    pub(super) number: u64,
    volume: u64,
    generation: u64,
    /// Where its name stands in the rules by path.
    pub(super) state: State,
    /// Lookups that the kernel has not taken back.
    pub(super) count: u64,
    /// The number of the directory where the file was last found.
    parent: u64,
    rest: Rest,
}

/// Bytes, in the inode itself if they are few: kind and flags (one byte); the
/// handle's length plus 1 (one byte; 0 without a handle); with `INO` the inode number
/// (eight bytes, little-endian); of a handle its type (one byte, with `WIDE`
/// four, little-endian) and its bytes; and then the name.
#[derive(Debug)]
enum Rest {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// What these bytes say.
#[derive(Clone, Copy, Default)]
struct Said<'a> {
    /// Kind, `HEARD` and `ENCRYPTED`.
    flags: u8,
    ino: Option<u64>,
    /// Type and bytes.
    handle: Option<(i32, &'a [u8])>,
    name: &'a [u8],
}

impl Inode {
    /// Makes an inode that no lookup is counted of yet.
    pub(super) fn new(number: u64, found: &Found, state: State, parent: u64, name: &OsStr) -> Self {
        let Key { volume, ino, generation } = found.key;
        let kind = u8::try_from(found.attr.kind.bits() >> 12).unwrap_or(0) & KIND;
        let said = Said {
            flags: if found.attr.encrypted { kind | ENCRYPTED } else { kind },
            ino: (Numbers::ino(number) != Some(ino)).then_some(ino),
            handle: found.handle.as_ref().map(|handle| (handle.kind, &*handle.bytes)),
            name: name.as_bytes(),
        };
        Self { number, volume, generation, state, count: 0, parent, rest: Rest::pack(&said) }
    }

    /// Returns which file it is.
    pub(super) fn key(&self) -> Key {
        let ino = self.rest.unpack().ino.or_else(|| Numbers::ino(self.number)).unwrap_or(0);
        Key { volume: self.volume, ino, generation: self.generation }
    }

    /// Returns where the file was last found.
    pub(super) fn place(&self) -> (u64, &OsStr) {
        (self.parent, OsStr::from_bytes(self.rest.unpack().name))
    }

    /// Returns what it is: a file never changes its kind.
    pub(super) fn kind(&self) -> FileKind {
        let kind = self.rest.unpack().flags & KIND;
        FileKind::from_mode(u32::from(kind) << 12).unwrap_or(FileKind::Regular)
    }

    /// Reports whether its names are watched.
    pub(super) fn is_heard(&self) -> bool {
        self.rest.unpack().flags & HEARD != 0
    }

    /// Records whether its names are watched.
    pub(super) fn set_heard(&mut self, heard: bool) {
        if let Some(flags) = self.rest.flags() {
            *flags = if heard { *flags | HEARD } else { *flags & !HEARD };
        }
    }

    /// Reports whether it is encrypted by its file system.
    pub(super) fn is_encrypted(&self) -> bool {
        self.rest.unpack().flags & ENCRYPTED != 0
    }

    /// Records that it is encrypted: an empty directory may become so, and stays so.
    pub(super) fn set_encrypted(&mut self) {
        if let Some(flags) = self.rest.flags() {
            *flags |= ENCRYPTED;
        }
    }

    /// Returns the handle, where there is one.
    pub(super) fn handle(&self) -> Option<FileHandle> {
        let (kind, bytes) = self.rest.unpack().handle?;
        Some(FileHandle { kind, bytes: bytes.into() })
    }

    /// Records where the file is now, and its handle where that is new.
    pub(super) fn update(&mut self, handle: Option<&FileHandle>, parent: u64, name: &OsStr) {
        let old = self.rest.unpack();
        let handle = handle.map(|handle| (handle.kind, &*handle.bytes)).or(old.handle);
        if handle != old.handle || name.as_bytes() != old.name {
            self.rest = Rest::pack(&Said { handle, name: name.as_bytes(), ..old });
        }
        self.parent = parent;
    }
}

impl Rest {
    fn pack(said: &Said<'_>) -> Self {
        let handle = said.handle.filter(|(_, bytes)| bytes.len() <= HANDLE_MAX);
        let (kind, bytes) = handle.unwrap_or((0, &[]));
        let length = handle.map_or(0, |(_, bytes)| bytes.len().saturating_add(1));
        let length = u8::try_from(length).unwrap_or(0);
        let ino = said.ino.unwrap_or(0).to_le_bytes();
        let (ino, with_ino): (&[u8], _) = if said.ino.is_some() { (&ino, INO) } else { (&[], 0) };
        let wide = if u8::try_from(kind).is_ok() { 0 } else { WIDE };
        let kind = kind.to_le_bytes();
        let [low, ..] = kind;
        let kind: &[u8] = match (handle, wide) {
            (None, _) => &[],
            (Some(_), 0) => &[low],
            (Some(_), _) => &kind,
        };
        let flags = said.flags & (KIND | HEARD | ENCRYPTED) | with_ino | wide;
        Self::of(&[&[flags, length], ino, kind, bytes, said.name])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut bytes = [0; SHORT];
        let mut room = bytes.as_mut_slice();
        for part in parts {
            let Some((here, rest)) = room.split_at_mut_checked(part.len()) else {
                return Self::Long(parts.concat().into_boxed_slice());
            };
            here.copy_from_slice(part);
            room = rest;
        }
        let length = u8::try_from(SHORT.saturating_sub(room.len())).unwrap_or(0);
        Self::Short { length, bytes }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or(&[]),
            Self::Long(bytes) => bytes,
        }
    }

    fn flags(&mut self) -> Option<&mut u8> {
        match self {
            Self::Short { bytes, .. } => bytes.first_mut(),
            Self::Long(bytes) => bytes.first_mut(),
        }
    }

    fn unpack(&self) -> Said<'_> {
        unpack(self.bytes()).unwrap_or_default()
    }
}

fn unpack(bytes: &[u8]) -> Option<Said<'_>> {
    let ([flags, length], bytes) = bytes.split_first_chunk()?;
    let (ino, bytes) = if flags & INO == 0 {
        (None, bytes)
    } else {
        let (ino, bytes) = bytes.split_first_chunk()?;
        (Some(u64::from_le_bytes(*ino)), bytes)
    };
    let flags = *flags;
    let Some(length) = usize::from(*length).checked_sub(1) else {
        return Some(Said { flags, ino, handle: None, name: bytes });
    };
    let (kind, bytes) = if flags & WIDE == 0 {
        let (kind, bytes) = bytes.split_first()?;
        (i32::from(*kind), bytes)
    } else {
        let (kind, bytes) = bytes.split_first_chunk()?;
        (i32::from_le_bytes(*kind), bytes)
    };
    let (handle, name) = bytes.split_at_checked(length)?;
    Some(Said { flags, ino, handle: Some((kind, handle)), name })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::attr::{Attr, Mode, Time};
    use crate::id::Owner;
    use crate::source::settled;

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
            encrypted: false,
        };
        Inode::new(9, &Found { key, handle, attr }, State::default(), 3, OsStr::new(name))
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
                assert!(inode.kind().is_dir() && !inode.is_heard() && !inode.is_encrypted());
                inode.set_encrypted();
                inode.set_heard(true);
                inode.update(None, 6, OsStr::new("d"));
                assert!(inode.kind().is_dir() && inode.is_heard() && inode.is_encrypted());
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
    fn the_inode_number_is_kept_where_the_number_does_not_say_it() {
        let attr = settled::tests::attr(Duration::ZERO, None);
        for (volume, ino, number) in [
            (0, 1, crate::tree::number::FIRST),
            (0, 9, 9),
            (3, 9, 1 << 63 | 9),
            (3, (1 << 40) - 1, 1 << 63 | ((1 << 40) - 1)),
            (3, 1 << 40, u64::MAX),
            (0, u64::MAX, 3 << 62),
            (0, 7, 3 << 62),
        ] {
            let key = Key { volume, ino, generation: 1 };
            let found = Found { key: key.clone(), handle: None, attr };
            let mut inode = Inode::new(number, &found, State::default(), 3, OsStr::new("a"));
            assert_eq!((inode.key(), inode.place()), (key.clone(), (3, OsStr::new("a"))));
            let handle = FileHandle { kind: 0x81, bytes: Box::new([5; 12]) };
            for name in ["b".repeat(255), "c".to_owned()] {
                inode.update(Some(&handle), 4, OsStr::new(&name));
                assert_eq!((inode.key(), inode.place()), (key.clone(), (4, OsStr::new(&name))));
                assert_eq!(inode.handle(), Some(handle.clone()));
            }
        }
    }

    #[test]
    fn is_small() {
        // With what the allocator adds, a multiple of 16.
        assert_eq!(size_of::<Inode>(), 88);
    }
}
