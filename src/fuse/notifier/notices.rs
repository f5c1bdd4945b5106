//! Notifications as the kernel reads them, for what the library lacks: a name
//! that expires, and to hear whether the kernel knows the file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use crate::count::{self, Count};

/// `FUSE_NOTIFY_INVAL_INODE` of linux/fuse.h.
const INVAL_INODE: i32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY` of linux/fuse.h.
const INVAL_ENTRY: i32 = 3;
/// `FUSE_EXPIRE_ONLY` of linux/fuse.h: the name stays, and is asked for again
/// before it is used. Without it the kernel would at once unmount whatever is
/// mounted on or below that name.
const EXPIRE_ONLY: u32 = 1;

/// The size of `struct fuse_out_header`, in bytes.
const HEADER: usize = 16;

/// What came of telling the kernel something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It has it.
    Taken,
    /// It does not know the file or the name: it has let go of it, or has not
    /// read the reply yet in which it is told.
    NotKnown,
    /// It could not take it, for want of memory for example.
    NotNow,
}

/// What of a file is to be asked for again: an offset below 0 spares the pages.
#[derive(Clone, Copy)]
enum Inode {
    Attributes = -1,
    Pages = 0,
}

/// Lays out what is to be asked for again of a node.
///
/// `struct fuse_out_header` (length, code, 0) and then
/// `struct fuse_notify_inval_inode_out`: node id, offset, length (0: to the end).
fn inode(node: u64, what: Inode) -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    body.extend_from_slice(&node.to_ne_bytes());
    body.extend_from_slice(&(what as i64).to_ne_bytes());
    body.extend_from_slice(&0_i64.to_ne_bytes());
    message(INVAL_INODE, &body)
}

/// Lays out a name; `None` if it is none that the kernel can know.
///
/// The header and then `struct fuse_notify_inval_entry_out`: the node id of the
/// directory, the length of the name, flags; then the name and a NUL.
fn entry(directory: u64, name: &OsStr, flags: u32) -> Option<Vec<u8>> {
    let length = u32::try_from(name.len()).ok().filter(|length| *length > 0)?;
    let mut body = Vec::with_capacity(name.len().saturating_add(17));
    body.extend_from_slice(&directory.to_ne_bytes());
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(name.as_bytes());
    body.push(0);
    Some(message(INVAL_ENTRY, &body))
}

fn message(code: i32, body: &[u8]) -> Vec<u8> {
    let length = body.len().saturating_add(HEADER);
    let mut message = Vec::with_capacity(length);
    // A name has at most 255 bytes: the length fits by far.
    message.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&code.to_ne_bytes());
    message.extend_from_slice(&0_u64.to_ne_bytes());
    message.extend_from_slice(body);
    message
}

/// Has the kernel ask for attributes and ACLs of a node again.
///
/// This waits for no lock that a caller could hold.
///
/// # Errors
/// `ENODEV` and the like once the connection has ended.
pub(super) fn forget_attributes(device: &File, node: u64) -> io::Result<Told> {
    count::add(Count::ToldAttributes);
    tell(device, &inode(node, Inode::Attributes))
}

/// Has the kernel ask for contents and attributes of a node again, or for the
/// listing of a directory.
///
/// The kernel waits for pages that a caller has locked while it waits for us:
/// never from a thread that answers requests.
///
/// # Errors
/// As [`forget_attributes`].
pub(super) fn forget_pages(device: &File, node: u64) -> io::Result<Told> {
    count::add(Count::ToldPages);
    tell(device, &inode(node, Inode::Pages))
}

/// Has the kernel ask for a name again.
///
/// The kernel waits for the lock of the directory, which a caller may hold while
/// it waits for us: never from a thread that answers requests.
///
/// # Errors
/// As [`forget_attributes`].
pub(super) fn expire(device: &File, directory: u64, name: &OsStr) -> io::Result<Told> {
    count::add(Count::ToldName);
    entry(directory, name, EXPIRE_ONLY).map_or(Ok(Told::NotKnown), |message| tell(device, &message))
}

/// Has the kernel forget a name that is gone, with whatever is mounted there or
/// below, as the host's kernel does with the name itself.
///
/// It waits as [`expire`] does.
///
/// # Errors
/// As [`forget_attributes`].
pub(super) fn forget_name(device: &File, directory: u64, name: &OsStr) -> io::Result<Told> {
    count::add(Count::ToldName);
    entry(directory, name, 0).map_or(Ok(Told::NotKnown), |message| tell(device, &message))
}

fn tell(mut device: &File, message: &[u8]) -> io::Result<Told> {
    // The device takes a message whole or not at all.
    match device.write_all(message) {
        Ok(()) => Ok(Told::Taken),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENOTCONN | libc::EBADF) => Err(error),
            // ENOTDIR: the number has come to stand for a file that is none.
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(Told::NotKnown),
            _ => Ok(Told::NotNow),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn messages_are_laid_out_as_in_the_kernels_header() {
        let of_inode = bytes(&[
            &40_u32.to_ne_bytes(),
            &2_u32.to_ne_bytes(),
            &[0; 8],
            &7_u64.to_ne_bytes(),
            &[0xff; 8],
            &[0; 8],
        ]);
        assert_eq!(inode(7, Inode::Attributes), of_inode);
        let pages = inode(7, Inode::Pages);
        assert_eq!((&pages[..24], &pages[24..]), (&of_inode[..24], &[0; 16][..]));
        let of_name = bytes(&[
            &36_u32.to_ne_bytes(),
            &3_u32.to_ne_bytes(),
            &[0; 8],
            &9_u64.to_ne_bytes(),
            &3_u32.to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            b"a\xffb\0",
        ]);
        assert_eq!(entry(9, OsStr::from_bytes(b"a\xffb"), EXPIRE_ONLY), Some(of_name));
        assert_eq!(entry(9, OsStr::new(""), EXPIRE_ONLY), None);
    }
}
