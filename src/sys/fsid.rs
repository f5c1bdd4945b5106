//! What a file system is called, whatever device it is on today.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::fanotify::{FsId, fs_id};

/// The size of `struct fsuuid2` of linux/fs.h: a length, then 16 bytes.
const ROOM: usize = 17;

nix::ioctl_read! {
    /// `FS_IOC_GETFSUUID`, since Linux 6.9.
    get_uuid, 0x15, 0, [u8; ROOM]
}

/// Returns the UUID of the file system of an open file, in lower-case hexadecimal
/// digits; `None` where it has none or the kernel does not tell.
pub fn uuid(fd: BorrowedFd<'_>) -> Option<String> {
    let mut answer = [0; ROOM];
    // SAFETY: the array is as large as the structure and any bytes are valid.
    unsafe { get_uuid(fd.as_raw_fd(), &raw mut answer) }.ok()?;
    let [length, bytes @ ..] = answer;
    hex(bytes.get(..usize::from(length))?)
}

/// Returns the id that statfs(2) gives the file system of an open file, in hexadecimal
/// digits; `None` where that is 0. Some make it of the UUID, some of the device number.
///
/// # Errors
/// As statfs(2).
pub fn id(fd: BorrowedFd<'_>) -> nix::Result<Option<String>> {
    let FsId(bytes) = fs_id(fd)?;
    Ok(hex(&bytes))
}

/// Returns the digits, unless all of them are 0.
fn hex(bytes: &[u8]) -> Option<String> {
    let told = bytes.iter().any(|byte| *byte != 0);
    told.then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_file_system_is_called_the_same_each_time() {
        let dir = std::fs::File::open("/").unwrap();
        assert_eq!(uuid(dir.as_fd()), uuid(dir.as_fd()));
        assert_eq!(id(dir.as_fd()), id(dir.as_fd()));
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(uuid(proc.as_fd()), None);
        assert_eq!(hex(&[0, 0]), None);
        assert_eq!(hex(&[0, 0x1f]).as_deref(), Some("001f"));
    }
}
