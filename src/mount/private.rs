//! The parts of a private mount: made in the namespaces of one process, served
//! by another one.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::unistd::{Gid, Uid};

use super::asking::{self, Asking};
use super::attach::{self, Way};
use super::check::{Paths, compatible};
use super::confine::{Needs, confine};
use super::describe::Made;
use super::engine::Server;
use super::error::MountError;
use super::options::Options;
use super::processes::Proc;
use super::reload::Reloader;
use super::room;
use super::serve::{Begun, Files, Opened, begin, file_system, fits, start, watch_with};
use super::upper::Upper;
use super::watch::Watching;
use crate::control::Record;
use crate::fuse::{Session, SessionOptions};
use crate::id::{Ids, View};
use crate::source::Source;
use crate::sys::daemon;
use crate::sys::mount::Context;
use crate::sys::stat::mounted;

/// How many threads there are beside those of the session and of its file system, which
/// are what watches and what answers the control socket, and how many processes the
/// command is to find room for.
const BESIDE: usize = 3;

/// A mount that is attached nowhere yet.
#[derive(Debug)]
pub struct Detached {
    /// The device through which it is to be served.
    pub device: OwnedFd,
    /// The mount.
    pub parent: OwnedFd,
    /// The number of the connection.
    pub connection: u32,
}

/// A mount that is being served; it ends when this is dropped, and leaves everything in
/// order by [`Served::end`].
#[derive(Debug)]
pub struct Served {
    // In this order: nothing is heard any more before nobody is told.
    _watching: Option<Watching>,
    _session: Session,
    source: Arc<dyn Source>,
    reloader: Arc<Reloader>,
}

impl Served {
    /// Ends serving, what is known of the mount, and what the source keeps for it.
    pub fn end(self) {
        self.reloader.end();
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
    let made = mounted(parent.as_fd(), OsStr::new("")).map_err(io::Error::from);
    let (_, connection) = made.map_err(MountError::doing("the new mount"))?.device;
    Ok(Detached { device, parent, connection })
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
/// process, with that number of its connection; the ids on disk are those of this one.
/// When this returns the server can be asked.
///
/// # Errors
/// If the image cannot be served, the policy does not fit the source, or the session
/// cannot be started.
pub fn serve(
    options: &Options,
    ready: Ready,
    upper: Option<&Upper>,
    (device, connection): (OwnedFd, u32),
    process: u32,
) -> Result<Served, MountError> {
    daemon::leave_groups();
    let descriptors = daemon::raise_descriptors().map_err(MountError::doing("RLIMIT_NOFILE"))?;
    let process = process.to_string();
    let Ready { files, needs, asking } = ready;
    let proc = Proc::open(&process).asking(asking);
    let confined = files.are_of_an_image().then(|| confine(&needs));
    let Opened { source, submounts, image, part } = files.open(options)?;
    fits(options, upper, image.as_deref(), &process)?;
    let (fs, serving, believed) =
        file_system(options, Arc::clone(&source), descriptors, &process, proc)?;
    // A device of another user namespace cannot be cloned here.
    let serving = SessionOptions { clone_device: false, ..serving };
    let confined = confined.unwrap_or_else(|| confine(&needs));
    let fs = Arc::new(fs);
    let serving = room::find(serving, BESIDE)?;
    let session = start(device, &fs, serving)?;
    let watching = watch_with(&fs, session.notifier())?;
    let paths = Paths {
        source: options.source.clone(),
        target: options.target.clone(),
        name: options.source.clone().into(),
    };
    let made = Made {
        options,
        paths: &paths,
        why: &Server::Private,
        way: Way::Own,
        serving,
        source: source.facts(),
        submounts,
        part,
        believed,
        data: session.data_path(),
        confined,
        // That of a FUSE file system is 0 and the number of its connection.
        device: (0, connection),
        process: &process,
    };
    let reloader = Reloader::new(&made, fs, session.notifier());
    // Its path is one of another namespace.
    reloader.publish(Record::new(&paths.source, None, connection, options.spec.describe()));
    Ok(Served { _session: session, _watching: watching, source, reloader })
}
