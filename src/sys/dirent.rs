//! Directory listings: getdents64(2).

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// An entry of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// The inode number.
    pub ino: u64,
    /// The offset of the next entry, for lseek(2).
    pub next: u64,
    /// The kind: a `DT_*` value.
    pub kind: u8,
    /// The name.
    pub name: &'a OsStr,
}

/// Fills a buffer with entries from the descriptor's position; returns how
/// many bytes, 0 at the end.
///
/// # Errors
/// As getdents(2).
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> nix::Result<usize> {
    let (data, len) = (buf.as_mut_ptr(), buf.len());
    // SAFETY: `data` has room for `len` bytes.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), data, len) };
    Errno::result(got).map(|got| usize::try_from(got).unwrap_or(0))
}

/// Splits the first entry off what [`read`] has filled; returns it with its
/// length in the buffer.
pub fn first(buf: &[u8]) -> Option<(Dirent<'_>, usize)> {
    // struct linux_dirent64: u64 ino, i64 off, u16 length, u8 kind, name, NUL.
    let ino = u64::from_ne_bytes(buf.get(..8)?.try_into().ok()?);
    let next = u64::from_ne_bytes(buf.get(8..16)?.try_into().ok()?);
    let length = usize::from(u16::from_ne_bytes(buf.get(16..18)?.try_into().ok()?));
    let kind = *buf.get(18)?;
    let name = buf.get(19..length)?.split(|byte| *byte == 0).next()?;
    Some((Dirent { ino, next, kind, name: OsStr::from_bytes(name) }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ino: u64, next: u64, kind: u8, name: &[u8], pad: usize) -> Vec<u8> {
        let mut made = ino.to_ne_bytes().to_vec();
        made.extend(next.to_ne_bytes());
        let length = u16::try_from(19 + name.len() + pad).unwrap();
        made.extend(length.to_ne_bytes());
        made.push(kind);
        made.extend(name);
        made.extend(vec![0; pad]);
        made
    }

    #[test]
    fn entries_are_split() {
        let mut buf = entry(7, u64::MAX >> 1, libc::DT_DIR, b"\xff name", 3);
        let one = buf.len();
        buf.extend(entry(8, 9, libc::DT_REG, b"b", 1));
        let (first_entry, length) = first(&buf).unwrap();
        assert_eq!(first_entry.name, OsStr::from_bytes(b"\xff name"));
        assert_eq!((first_entry.ino, first_entry.next), (7, u64::MAX >> 1));
        assert_eq!(length, one);
        let (second, _) = first(&buf[length..]).unwrap();
        assert_eq!((second.ino, second.kind, second.name), (8, libc::DT_REG, OsStr::new("b")));
    }

    #[test]
    fn a_cut_entry_is_none() {
        let whole = entry(7, 1, 4, b"name", 1);
        for cut in 0..whole.len() {
            assert!(first(&whole[..cut]).is_none(), "{cut}");
        }
        let mut short = whole;
        short[16..18].copy_from_slice(&3u16.to_ne_bytes());
        assert!(first(&short).is_none());
    }
}
