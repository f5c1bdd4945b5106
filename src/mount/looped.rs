//! The kernel's own mount of an image, by a loop device: only where it is asked for, since
//! the kernel trusts what it parses.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use super::options::{Options, Replaced};
use super::unfit::{self, Unfit};
use crate::source::image::{self, Device, Format};
use crate::sys::loops::Loop;
use crate::sys::mount::{self as kernel, Context};
use crate::sys::namespace;

/// What loop devices count in, in bytes.
const SECTOR: u64 = 512;

/// Where the superblock of erofs says what it takes to be read, 4 bytes, and how many
/// further devices it has data on, 2 bytes; and the bit of the former for the latter.
const TAKES: u64 = 1024 + 80;
const DEVICES: u64 = 1024 + 86;
const HAS_DEVICES: u8 = 8;

/// Reports whether an erofs has data elsewhere. Without those devices the kernel takes it
/// from behind its own blocks, whatever is there.
fn has_further_devices(device: &Device) -> Result<bool, Unfit> {
    let (mut takes, mut devices) = ([0; 4], [0; 2]);
    let read = device.read(TAKES, &mut takes).and_then(|()| device.read(DEVICES, &mut devices));
    let failed = |error| Unfit::System { what: "erofs", why: io::Error::from(error) };
    read.map_err(failed)?;
    Ok(takes[0] & HAS_DEVICES != 0 && devices != [0; 2])
}

/// Makes the mount of an image that the options ask for, attached nowhere, and read-only.
///
/// # Errors
/// Why the kernel's mount would not do the same.
pub(super) fn make(options: &Options, source: &Path) -> Result<OwnedFd, Unfit> {
    unfit::of_options(options)?;
    if options.upper.is_some() {
        return Err(Unfit::Option("upper", "the kernel's mount has nothing above it"));
    }
    if options.image.replaced == Some(Replaced::Eio) {
        return Err(Unfit::Option("replaced=eio", "the kernel's mount shows what was mounted"));
    }
    let (users, groups) = unfit::of_policy(&options.spec)?;
    let device = image::locate(image::device(source, &options.image)?, &options.image)?;
    let format = image::probe(&device)?;
    if format == Format::Erofs && device.further().is_empty() && has_further_devices(&device)? {
        return Err(Unfit::Devices);
    }
    let format = format.word();
    let privilege = |what| {
        move |why: io::Error| match why.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Unfit::Privilege,
            _ => Unfit::System { what, why },
        }
    };
    let looped = |device: &Device| Loop::new(device.as_fd(), device.offset(), device.length());
    let own = looped(&device).map_err(privilege("loop device"))?;
    let further = device.further().iter().map(|device| looped(device));
    let further = further.collect::<io::Result<Vec<Loop>>>().map_err(privilege("loop device"))?;
    let word = CString::new(format).unwrap_or_default();
    let context = Context::open(&word).map_err(privilege("file system of the kernel"))?;
    let set = options.flags.with_defaults().attributes().set | libc::MOUNT_ATTR_RDONLY;
    let made = context
        .set(c"source", own.path.as_os_str())
        .and_then(|()| {
            further.iter().try_for_each(|device| context.set(c"device", device.path.as_os_str()))
        })
        .and_then(|()| context.flag(c"ro"))
        .and_then(|()| context.create())
        .and_then(|()| context.mount(set));
    let made = made.map_err(|why| {
        if why.raw_os_error() == Some(libc::EROFS) && format == "ext4" {
            return Unfit::Journal;
        }
        let why = match context.messages() {
            said if said.is_empty() => why,
            said => io::Error::other(said),
        };
        match device.length() % SECTOR {
            0 => Unfit::System { what: format, why },
            rest => Unfit::Sector { kind: format, rest, why },
        }
    })?;
    if !options.spec.is_identity() {
        let namespace = namespace::make(&users, &groups).map_err(privilege("user namespace"))?;
        kernel::idmap(made.as_fd(), namespace.as_fd()).map_err(|why| match why.raw_os_error() {
            Some(libc::EINVAL) => {
                Unfit::FileSystem { path: source.to_owned(), kind: format.to_owned() }
            }
            _ => privilege("mount_setattr")(why),
        })?;
    }
    Ok(made)
}
