//! The root directory of a command.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::sys::mount as kernel;

/// What of the host programs need wherever they are.
const HOST: [&str; 3] = ["dev", "proc", "sys"];

/// Makes the working directory, which is the root of a mount, the root directory of this
/// mount namespace, with the host's devices and processes where it has directories for
/// them; nothing else of the host is left.
///
/// # Errors
/// As mount(2), pivot_root(2).
pub(super) fn become_root() -> io::Result<()> {
    for name in HOST {
        let host = File::open(Path::new("/").join(name))?;
        let copy = kernel::clone_tree(host.as_fd())?;
        // A symbolic link of the image is not followed.
        match kernel::attach(copy.as_fd(), Path::new(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                log::info!("the image has no /{name}");
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                log::info!("/{name} of the image is no directory");
            }
            done => done?,
        }
    }
    // The old root is put over the new one, and taken away: pivot_root(2).
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}
