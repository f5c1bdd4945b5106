//! A private mount for one command: `idmapfs run`.
//!
//! The process splits in two. The child makes the mount in namespaces of its
//! own and becomes the command; this process, in the namespaces it was started
//! in, serves it, so that disk ids are the host's. Nothing is seen outside, and
//! the kernel takes everything away when either ends.

mod child;
pub mod elsewhere;
mod error;
pub mod layout;
mod maps;
pub mod plan;
mod root;
mod server;
mod subid;

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::getpid;

pub use error::RunError;
pub use plan::{Files, Plan, plan};

use crate::mount::{Options, Upper, private};
use crate::sys::daemon::settle;
use crate::sys::process::{Fork, fork};

/// A command and the private mount that it is to run in.
#[derive(Clone, Copy, Debug)]
pub struct Private<'a> {
    /// The namespaces and ids.
    pub plan: &'a Plan,
    /// The mount.
    pub options: &'a Options,
    /// The device shown in the mount table.
    pub name: &'a OsStr,
    /// The directory that the mount is put over, by an absolute path; it becomes the root
    /// directory of the command if something is above an image.
    pub place: &'a Path,
    /// The command and its arguments.
    pub command: &'a [OsString],
}

/// Runs a command in a private mount; returns its exit status.
///
/// In the child this returns only on failure, which is to be printed like any
/// other.
///
/// # Errors
/// The mount cannot be made, or the command not be started.
pub fn run(private: &Private<'_>) -> Result<u8, RunError> {
    // Before anything is mounted over it.
    let source = private::source(private.options)?;
    let upper = Upper::take(private.options, private.name)?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(RunError::doing("socketpair"))?;
    let server = getpid();
    let before = SigSet::thread_get_mask().map_err(RunError::doing("signal mask"))?;
    // From here on they wait for `serve`; its threads inherit that.
    server::signals().thread_block().map_err(RunError::doing("signal mask"))?;
    match fork().map_err(RunError::no_process)? {
        Fork::Parent(child) => {
            drop(theirs);
            settle().map_err(RunError::doing("chdir"))?;
            server::serve(child, ours, private, source, upper.as_ref())
        }
        Fork::Child => {
            drop(ours);
            // What it lets go at its end belongs to the server.
            std::mem::forget(source);
            before.thread_set_mask().map_err(RunError::doing("signal mask"))?;
            match child::become_command(private, upper.as_ref(), theirs.as_fd(), server)? {}
        }
    }
}
