//! Loop devices: loop(4).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;

use nix::errno::Errno;

// Of linux/loop.h.
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// How often another process may be quicker.
const TRIES: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [[u8; 64]; 2],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A read-only loop device; it is free again once neither this nor a mount uses it.
#[derive(Debug)]
pub struct Loop {
    /// Where it is.
    pub path: PathBuf,
    _device: File,
}

impl Loop {
    /// Makes a device of some bytes of a file; `size` 0 is all to its end.
    ///
    /// # Errors
    /// As open(2) of the devices, or ioctl(2): without `CAP_SYS_ADMIN` it is `EACCES`.
    pub fn new(file: impl AsFd, offset: u64, size: u64) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        let fd = file.as_fd().as_raw_fd().cast_unsigned();
        let flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
        let config = Config {
            fd,
            block_size: 0,
            info: Info {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset,
                size,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags,
                names: [[0; 64]; 2],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        for _ in 0..TRIES {
            // SAFETY: the call takes numbers only.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let path = PathBuf::from(format!("/dev/loop{}", Errno::result(number)?));
            let device = File::open(&path)?;
            // SAFETY: `config` is the kernel's structure, which it only reads.
            let done =
                unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
            match Errno::result(done) {
                Ok(_) => return Ok(Self { path, _device: device }),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}
