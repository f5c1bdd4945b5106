//! Mounting for an ordinary user: fusermount3, which is set-user-id root.
//!
//! It opens the device, mounts it on the target in the mount namespace of this
//! process, and sends the descriptor over the socket whose number is in
//! `_FUSE_COMMFD`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::error::MountError;
use super::options::Options;
use crate::sys::process;
use crate::text::{escape, plain};

const PROGRAM: &str = "fusermount3";

/// Mounts on the target and returns the device.
///
/// # Errors
/// What fusermount3 says; and flags that it would drop without a word.
pub(super) fn mount(options: &Options, target: &Path, name: &OsStr) -> Result<OwnedFd, MountError> {
    let words = words(options, name)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .map_err(|errno| MountError::Helper(errno.to_string()))?;
    // The one descriptor that is to be inherited; dropped right after.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|errno| MountError::Helper(errno.to_string()))?;
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(words).arg("--").arg(target);
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    let output = run(command)?;
    drop(theirs);
    succeeded(&output)?;
    match process::receive(ours.as_fd()) {
        Ok((_, Some(device))) => Ok(device),
        Ok((_, None)) => Err(MountError::Helper("no device was sent".to_owned())),
        Err(error) => Err(MountError::Helper(error.to_string())),
    }
}

/// Unmounts the target; `lazily`, even if it is busy or has lost its server.
///
/// # Errors
/// What fusermount3 says.
pub(super) fn unmount(target: &Path, lazily: bool) -> Result<(), MountError> {
    let mut command = Command::new(PROGRAM);
    command.args(["-u", "-q"]).args(lazily.then_some("-z")).arg("--").arg(target);
    succeeded(&run(command)?)
}

fn run(mut command: Command) -> Result<Output, MountError> {
    command.stdin(Stdio::null()).output().map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN) => MountError::starting("process")(error),
        _ => {
            let why = plain(&error);
            MountError::Helper(format!("{why}; install fuse3, mount as root, or use: idmapfs run"))
        }
    })
}

fn succeeded(output: &Output) -> Result<(), MountError> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("fusermount3: ");
    Err(MountError::Helper(if said.is_empty() {
        format!("failed, {}", output.status)
    } else {
        escape(said)
    }))
}

/// Returns the list of options, in which a comma and a backslash of a value
/// have a backslash before them.
fn words(options: &Options, name: &OsStr) -> Result<OsString, MountError> {
    let mut words = b"subtype=idmapfs,".to_vec();
    if options.kernel_decides() {
        words.extend_from_slice(b"default_permissions,");
    }
    words.extend_from_slice(b"fsname=");
    for byte in name.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            words.push(b'\\');
        }
        words.push(*byte);
    }
    let allow_other = options.allow_other == Some(true);
    let flags = options.flags.helper_words()?;
    for word in flags.into_iter().chain(allow_other.then_some("allow_other")) {
        words.push(b',');
        words.extend_from_slice(word.as_bytes());
    }
    Ok(OsString::from_vec(words))
}
