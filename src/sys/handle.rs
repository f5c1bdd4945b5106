//! File handles: name_to_handle_at(2), open_by_handle_at(2).

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::OFlag;

/// The most bytes that a handle has.
const MAX: usize = 128;

/// A file handle, laid out as the kernel's `struct file_handle`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Handle {
    length: u32,
    kind: i32,
    bytes: [u8; MAX],
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("kind", &self.kind).field("bytes", &self.bytes()).finish()
    }
}

impl Handle {
    /// Makes a handle of its parts; `None` if there are more than 128 bytes.
    pub fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        let mut padded = [0; MAX];
        padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { length: u32::try_from(bytes.len()).ok()?, kind, bytes: padded })
    }

    /// Returns the type of the handle.
    pub const fn kind(&self) -> i32 {
        self.kind
    }

    /// Returns the bytes of the handle.
    pub fn bytes(&self) -> &[u8] {
        usize::try_from(self.length).ok().and_then(|n| self.bytes.get(..n)).unwrap_or_default()
    }
}

impl Handle {
    /// Returns the inode number that the handle names, where its form is known.
    ///
    /// Forms do not change, since network file systems have handles last over
    /// a restart. Numbers are in the byte order of the machine.
    pub fn inode(&self) -> Option<u64> {
        let word = |at| self.word(at).map(u64::from);
        let long = |at: usize| -> Option<u64> {
            Some(u64::from_ne_bytes(*self.bytes().get(at..)?.first_chunk()?))
        };
        match (self.kind, self.length) {
            // FILEID_INO32_GEN: number, generation (ext4 and most others).
            (0x01, 8) => word(0),
            // Of the same type: generation, low and high half (tmpfs).
            (0x01, 12) => Some(word(4)? | word(8)? << 32),
            // FILEID_INO64_GEN: number, generation (xfs; handles that only tell).
            (0x81, 12) => long(0),
            // Number, subvolume, generation.
            (BTRFS, 20) => long(0),
            _ => None,
        }
    }

    /// Returns what tells the file from earlier ones of its number, where its form is known.
    pub fn generation(&self) -> Option<u32> {
        match (self.kind, self.length) {
            (0x01, 8) => self.word(4),
            (0x01, 12) => self.word(0),
            (0x81, 12) => self.word(8),
            (BTRFS, 20) => self.word(16),
            _ => None,
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.bytes().get(at..)?.first_chunk()?))
    }

    /// Returns the subvolume of btrfs that the handle names, if it is of btrfs:
    /// inode numbers are unique in each.
    pub fn subvolume(&self) -> Option<u64> {
        let words = self.bytes().split_at_checked(8)?.1;
        Some(u64::from_ne_bytes(*words.first_chunk().filter(|_| self.kind == BTRFS)?))
    }

    /// Returns the handle of the root of the whole file system that this one is
    /// of, if it is of btrfs: what is mounted is often a subvolume below.
    pub fn whole(&self) -> Option<Self> {
        self.subvolume()?;
        // BTRFS_FS_TREE_OBJECTID, of any generation.
        let parts = [BTRFS_ROOT.to_ne_bytes(), 5_u64.to_ne_bytes(), [0; 8]].concat();
        Self::new(BTRFS, parts.get(..20)?)
    }

    /// Returns the handle that the file of another inode number has on the file system that
    /// this one is of, where its form is known. Generation 0 is any, on file systems that
    /// take it so (`ext4_nfs_get_inode` of fs/ext4/super.c, `btrfs_get_dentry`).
    pub fn of_inode(&self, ino: u64, generation: u32) -> Option<Self> {
        let generation = generation.to_ne_bytes();
        let bytes = match (self.kind, self.length) {
            (0x01, 8) => [&u32::try_from(ino).ok()?.to_ne_bytes()[..], &generation].concat(),
            (0x81, 12) => [&ino.to_ne_bytes()[..], &generation].concat(),
            (BTRFS, 20) => {
                [&ino.to_ne_bytes()[..], &self.subvolume()?.to_ne_bytes(), &generation].concat()
            }
            _ => return None,
        };
        Self::new(self.kind, &bytes)
    }
}

/// `FILEID_BTRFS_WITHOUT_PARENT` of linux/exportfs.h.
const BTRFS: i32 = 0x4d;

/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of the root of each subvolume.
pub const BTRFS_ROOT: u64 = 256;

/// What a handle is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Opening the file again.
    Open,
    /// Telling files apart only (`AT_HANDLE_FID`, since 6.5): more file
    /// systems have such handles.
    Tell,
}

/// Returns the handle of a name in a directory, or with an empty name of the
/// descriptor itself.
///
/// # Errors
/// As name_to_handle_at(2): `EOPNOTSUPP` where the file system has none.
pub fn handle(at: BorrowedFd<'_>, name: &OsStr, purpose: Use) -> nix::Result<Handle> {
    let flags = match purpose {
        Use::Open => libc::AT_EMPTY_PATH,
        Use::Tell => libc::AT_EMPTY_PATH | libc::AT_HANDLE_FID,
    };
    let mut made = Handle { length: 128, kind: 0, bytes: [0; MAX] };
    let mut mount: libc::c_int = 0;
    let done = name.with_nix_path(|name| {
        let raw = (&raw mut made).cast();
        // SAFETY: `name` ends with a NUL, `raw` is laid out as the kernel has
        // it with room for the `length` bytes that it names.
        unsafe {
            libc::name_to_handle_at(at.as_raw_fd(), name.as_ptr(), raw, &raw mut mount, flags)
        }
    })?;
    Errno::result(done).map(|_| made)
}

/// Opens the file of a handle, on the mount of a descriptor that is not
/// `O_PATH`.
///
/// # Errors
/// As open_by_handle_at(2): `ESTALE` if the file is gone, `EPERM` without the
/// privilege.
pub fn open(mount: BorrowedFd<'_>, handle: &Handle, flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut copy = *handle;
    let raw = (&raw mut copy).cast();
    // SAFETY: `raw` is laid out as the kernel has it, with as many bytes as
    // its length says.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), raw, flags.bits()) };
    let fd = Errno::result(fd)?;
    // SAFETY: the call has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_forms_name_their_inode() {
        let (low, high, other) = (7_u32.to_ne_bytes(), 3_u32.to_ne_bytes(), 9_u32.to_ne_bytes());
        let wide = (7_u64 | 3 << 32).to_ne_bytes();
        let cases: [(i32, Vec<u8>, Option<u64>); 8] = [
            (0x01, [low, other].concat(), Some(7)),
            (0x01, [other, low, high].concat(), Some(7 | 3 << 32)),
            (0x81, [&wide[..], &other].concat(), Some(7 | 3 << 32)),
            (0x4d, [&wide[..], &wide, &other].concat(), Some(7 | 3 << 32)),
            (0x81, wide.to_vec(), None),
            (0x02, [low, other].concat(), None),
            (0x01, vec![], None),
            (0xfe, wide.to_vec(), None),
        ];
        for (kind, bytes, ino) in cases {
            let handle = Handle::new(kind, &bytes).unwrap();
            assert_eq!(handle.inode(), ino, "{kind:#x} {bytes:?}");
            assert_eq!(handle.generation(), ino.and(Some(9)), "{kind:#x} {bytes:?}");
        }
    }

    #[test]
    fn a_handle_of_another_number_has_the_same_form() {
        for (kind, length) in [(0x01, 8), (0x81, 12), (0x4d, 20)] {
            let handle = Handle::new(kind, &vec![3; length]).unwrap();
            let other = handle.of_inode(77, 9).unwrap();
            assert_eq!((other.kind(), other.bytes().len()), (kind, length));
            assert_eq!((other.inode(), other.subvolume()), (Some(77), handle.subvolume()));
            assert_eq!(other.bytes()[length - 4..], 9_u32.to_ne_bytes());
        }
        // The first has no room for it, and of tmpfs a generation has to be right.
        assert!(Handle::new(0x01, &[3; 8]).unwrap().of_inode(1 << 32, 0).is_none());
        assert!(Handle::new(0x01, &[3; 12]).unwrap().of_inode(77, 0).is_none());
    }

    #[test]
    fn handles_of_btrfs_name_their_subvolume() {
        let bytes = [260_u64.to_ne_bytes().as_slice(), &256_u64.to_ne_bytes(), &[9; 4]].concat();
        let handle = Handle::new(0x4d, &bytes).unwrap();
        assert_eq!(handle.subvolume(), Some(256));
        let whole = handle.whole().unwrap();
        assert_eq!((whole.inode(), whole.subvolume()), (Some(256), Some(5)));
        for (kind, bytes) in [(0x81, &bytes[..12]), (0x4d, &bytes[..8]), (1, &bytes)] {
            let other = Handle::new(kind, bytes).unwrap();
            assert_eq!((other.subvolume(), other.whole().is_none()), (None, true));
        }
    }
}
