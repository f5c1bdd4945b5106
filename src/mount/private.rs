//! The parts of a private mount: made in the namespaces of one process, served
//! by another one.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::unistd::{Gid, Uid};

use super::asking::{self, Asking};
use super::attach;
use super::check::compatible;
use super::confine::{Needs, confine};
use super::error::MountError;
use super::options::Options;
use super::processes::Proc;
use super::room;
use super::serve::{Begun, Files, Opened, begin, file_system, fits, start, watch_with};
use super::upper::Upper;
use super::watch::Watching;
use crate::fuse::{Session, SessionOptions};
use crate::id::{Ids, View};
use crate::source::Source;
use crate::sys::daemon;
use crate::sys::mount::Context;

/// How many threads there are beside those of the session and of its file system, which
/// is what watches, and how many processes the command is to find room for.
const BESIDE: usize = 2;

/// A mount that is attached nowhere yet.
#[derive(Debug)]
pub struct Detached {
    /// The device through which it is to be served.
    pub device: OwnedFd,
    /// The mount.
    pub parent: OwnedFd,
}

/// A mount that is being served; it ends when this is dropped, and leaves its source in
/// order by [`Served::end`].
#[derive(Debug)]
pub struct Served {
    // In this order: nothing is heard any more before nobody is told.
    _watching: Option<Watching>,
    _session: Session,
    source: Arc<dyn Source>,
}

impl Served {
    /// Ends serving, and what the source keeps for it.
    pub fn end(self) {
        let source = Arc::clone(&self.source);
        drop(self);
        source.leave();
    }
}

/// Makes a mount in the namespaces of this process; `ids` are its owner there,
/// `name` is shown as the device in the table of mounts.
///
/// # Errors
/// If the device cannot be opened, or the kernel refuses.
pub fn make(options: &Options, name: &OsStr, ids: Ids<View>) -> Result<Detached, MountError> {
    let context = Context::open(c"fuse").map_err(MountError::doing("mount of type fuse"))?;
    let ids = (Uid::from_raw(ids.uid.raw()), Gid::from_raw(ids.gid.raw()));
    let (device, parent) = attach::make(options, &options.target, name, &context, ids)?;
    Ok(Detached { device, parent })
}

/// Attaches a mount that is served by now, and puts what is above it in its place;
/// returns the root of what is seen.
///
/// # Errors
/// As open_tree(2), move_mount(2); what keeps overlayfs away.
pub fn put(parent: OwnedFd, target: &Path, upper: Option<&Upper>) -> Result<OwnedFd, MountError> {
    let root = attach::attach(parent, target)
        .map_err(|why| MountError::refused(target, why, String::new()))?;
    match upper {
        Some(upper) => {
            // Else it would be in use.
            drop(root);
            upper.cover(target)
        }
        None => Ok(root),
    }
}

/// The source of a private mount, opened, but not what is in an image.
#[derive(Debug)]
pub struct Ready {
    files: Files,
    needs: Needs,
    asking: Asking,
}

/// Opens the source of a private mount, as this process sees it now; of an image the
/// file alone.
///
/// # Errors
/// If it cannot be opened, or the options do not fit the policy.
pub fn source(options: &Options) -> Result<Ready, MountError> {
    compatible(options)?;
    let asking = asking::start().map_err(MountError::starting("process"))?;
    // A thread that has acted on a source never becomes a command: its umask and
    // securebits would go along.
    let Begun { files, needs } = thread::scope(|scope| {
        let begun = thread::Builder::new()
            .name("source".to_owned())
            .spawn_scoped(scope, || begin(options, &options.source))
            .map_err(MountError::starting("thread"))?;
        begun.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    // It passes signals on to the command.
    Ok(Ready { files, needs: Needs { signals: true, ..needs }, asking })
}

/// Serves the device of a mount that was made in the namespaces of another
/// process; the ids on disk are those of this one.
///
/// # Errors
/// If the image cannot be served, the policy does not fit the source, or the session
/// cannot be started.
pub fn serve(
    options: &Options,
    ready: Ready,
    upper: Option<&Upper>,
    device: OwnedFd,
    process: u32,
) -> Result<Served, MountError> {
    daemon::leave_groups();
    let descriptors = daemon::raise_descriptors().map_err(MountError::doing("RLIMIT_NOFILE"))?;
    let process = process.to_string();
    let Ready { files, needs, asking } = ready;
    let proc = Proc::open(&process).asking(asking);
    let confined = files.are_of_an_image().then(|| confine(&needs));
    let Opened { source, image, .. } = files.open(options)?;
    fits(options, upper, image.as_deref(), &process)?;
    let (fs, serving, _why) =
        file_system(options, Arc::clone(&source), descriptors, &process, proc)?;
    // A device of another user namespace cannot be cloned here.
    let serving = SessionOptions { clone_device: false, ..serving };
    let _said = confined.unwrap_or_else(|| confine(&needs));
    let fs = Arc::new(fs);
    let session = start(device, &fs, room::find(serving, BESIDE)?)?;
    let watching = watch_with(&fs, session.notifier())?;
    Ok(Served { _session: session, _watching: watching, source })
}
