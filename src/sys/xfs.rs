//! What XFS tells of a file by its inode number: `XFS_IOC_BULKSTAT`,
//! ioctl_xfs_bulkstat(2). It takes `CAP_SYS_ADMIN`.

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct xfs_bulkstat_req` of xfs/xfs_fs.h, with room for one file.
#[derive(Debug, Default)]
#[repr(C)]
struct Request {
    asked: Asked,
    told: Told,
}

/// `struct xfs_bulk_ireq`.
#[derive(Debug, Default)]
#[repr(C)]
struct Asked {
    ino: u64,
    flags: u32,
    room: u32,
    count: u32,
    group: u32,
    reserved: [u64; 5],
}

/// `struct xfs_bulkstat`.
#[derive(Debug, Default)]
#[repr(C)]
struct Told {
    ino: u64,
    sizes_and_times: [u64; 7],
    generation: u32,
    rest: [u32; 31],
}

/// `XFS_BULK_IREQ_SPECIAL`: the number stands for a certain file.
const SPECIAL: u32 = 1 << 1;

/// `XFS_BULK_IREQ_SPECIAL_ROOT`.
const ROOT: u64 = 1;

// The number of the call has the size of what is asked, without the answer.
nix::ioctl_read! {
    bulkstat, b'X', 127, Asked
}

/// Returns the generation of the file that has an inode number, on the file system of an
/// open file; `None` if there is no such file, or it is not told.
pub fn generation(fd: BorrowedFd<'_>, ino: u64) -> Option<u32> {
    // It goes on to the next number that is in use.
    ask(fd, ino, 0).filter(|told| told.ino == ino).map(|told| told.generation)
}

/// Returns the inode number of the root directory; `None` if that is not told.
pub fn root(fd: BorrowedFd<'_>) -> Option<u64> {
    ask(fd, ROOT, SPECIAL).map(|told| told.ino)
}

fn ask(fd: BorrowedFd<'_>, ino: u64, flags: u32) -> Option<Told> {
    let asked = Asked { ino, flags, room: 1, ..Asked::default() };
    let mut request = Request { asked, told: Told::default() };
    let raw = (&raw mut request).cast();
    // SAFETY: what is asked is followed by room for as many answers as it says.
    unsafe { bulkstat(fd.as_raw_fd(), raw) }.ok()?;
    (request.asked.count == 1).then_some(request.told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernels() {
        assert_eq!((size_of::<Asked>(), size_of::<Told>()), (64, 192));
        assert_eq!(std::mem::offset_of!(Told, generation), 64);
        assert_eq!(std::mem::offset_of!(Request, told), 64);
    }
}
