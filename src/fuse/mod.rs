//! The FUSE transport: a thin adapter from the kernel's requests to
//! [`Fs`](crate::fs::Fs). The only module that names `fuser`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::fs::Fs;
use crate::sys::fuse::can_back;

mod adapter;
mod answer;
mod capabilities;
mod convert;
mod dispatch;
mod entries;
mod files;
mod locks;
mod near;
mod notifier;
mod passthrough;
mod served;
mod turns;
mod workers;

use passthrough::Passing;

pub use notifier::{Notifier, Refreshed};

/// The name under which an anchored session shows the file system: the one
/// child of the directory that the kernel takes for the root.
pub const VIEW: &str = "view";

/// How a session serves its file system.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How many threads answer requests; at least 1.
    pub threads: usize,
    /// How many more take the place of those whose requests wait for something.
    pub reserve: usize,
    /// Whether one more may stay near its client.
    pub near: bool,
    /// Whether each thread gets a clone of the device. It takes a `/dev/fuse`
    /// that was opened in the user namespace of this process.
    pub clone_device: bool,
    /// Whether node 1 is a private directory that holds the root as [`VIEW`],
    /// instead of being the root itself.
    ///
    /// The kernel makes the inode of node 1 before it knows what the server
    /// can do, and so never caches its ACL: each path walk would ask for it.
    pub anchored: bool,
    /// Whether the kernel evaluates POSIX ACLs.
    pub acl: bool,
    /// Whether pages stay cached from one open to the next. True only for what
    /// nobody else can change: a change within one tick of the host's clock
    /// leaves no trace in the attributes.
    pub keep_pages: bool,
    /// Whether the kernel may map the ids of the mount in its turn (an idmapped
    /// mount of it); it takes [`Fs`] to know its callers as unknown.
    pub allow_idmap: bool,
    /// Whether nobody else changes the source, and the file system serves it so
    /// ([`Fs::be_alone`]) where the kernel does not use its files by itself.
    pub exclusive: bool,
    /// Whether anything is ever written, for the kernel to cache.
    pub writes: bool,
    /// Whether the kernel is to read and write files of the source by itself,
    /// where it can; or why not.
    pub passthrough: Result<(), &'static str>,
}

/// A file system being served.
#[derive(Debug)]
pub struct Session {
    workers: fuser::BackgroundSession,
    notifier: Notifier,
    data: DataPath,
}

/// Who reads and writes files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// The kernel, by itself (passthrough).
    Kernel,
    /// The kernel opens files without asking, and the server reads and writes what
    /// is missing in its cache or has been changed there.
    Cache,
    /// The server, for the given reason.
    Server(&'static str),
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("the kernel reads and writes files by itself"),
            Self::Cache => f.write_str("the kernel opens files without asking, and caches them"),
            Self::Server(why) => write!(f, "the server reads and writes files: {why}"),
        }
    }
}

impl Session {
    /// Answers the kernel's greeting and starts to serve; returns when all workers are
    /// there.
    ///
    /// `device` is an open `/dev/fuse` that a mount was made with; it blocks.
    ///
    /// # Errors
    /// If the kernel lacks what the file system cannot do without, the device
    /// is gone; `EAGAIN` if no thread can be started.
    pub fn start(device: OwnedFd, fs: Arc<Fs>, options: SessionOptions) -> io::Result<Self> {
        let mut config = fuser::Config::default();
        let own = device.try_clone()?;
        let notifier = Notifier::new(own, &fs, options.anchored);
        notifier.begin()?;
        let near = options.near.then(|| near(options.threads, &device)).flatten();
        let others = options.reserve.saturating_add(usize::from(near.is_some()));
        let count = options.threads.saturating_add(others).max(1);
        config.n_threads = Some(count);
        config.clone_fd = options.clone_device;
        let (passing, probe) = (Arc::new(OnceLock::new()), device.try_clone()?);
        let of_adapter = (notifier.clone(), Arc::clone(&passing));
        let adapter = adapter::Adapter::new(Arc::clone(&fs), options, of_adapter.0, of_adapter.1);
        // Who may use the mount is the kernel's decision (allow_other).
        let served = served::Served::new(adapter, options.threads, near);
        let session = fuser::Session::from_fd(served, device, fuser::SessionACL::All, config)?;
        let data = if fs.is_alone() { DataPath::Cache } else { data_path(options, probe.as_fd()) };
        if data == DataPath::Kernel {
            passing.get_or_init(Passing::new);
        }
        log::info!("{data}");
        let workers = workers::begun(session.spawn()?, count)?;
        Ok(Self { workers, notifier, data })
    }

    /// Returns who reads and writes files.
    pub const fn data_path(&self) -> &DataPath {
        &self.data
    }

    /// Returns what makes the kernel ask again for what it was told.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits for the end: an unmount of the last copy of the mount, or an
    /// abort of the connection.
    ///
    /// # Errors
    /// If a thread ended before that.
    pub fn wait(self) -> io::Result<()> {
        let ended = self.workers.join();
        // There is nobody to be told any more.
        self.notifier.end(Duration::ZERO);
        match ended {
            // So ends a worker that had just taken a request (fuse_dev_do_read); the
            // library knows of ENODEV alone.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            ended => ended,
        }
    }
}

/// Finds out whether one more worker can stay near its client.
fn near(threads: usize, device: &OwnedFd) -> Option<near::Near> {
    if threads < 2 {
        // There would be nobody to see that it is held up.
        return None;
    }
    let near = device.try_clone().and_then(near::Near::new);
    near.inspect_err(|error| log::debug!("no worker stays near its client: {error}")).ok()
}

/// Finds out who reads and writes files of a session that has been agreed on.
fn data_path(options: SessionOptions, device: BorrowedFd<'_>) -> DataPath {
    if let Err(why) = options.passthrough {
        return DataPath::Server(why);
    }
    match can_back(device).map_err(|error| error.raw_os_error()) {
        Ok(()) => DataPath::Kernel,
        Err(Some(libc::EPERM)) => {
            DataPath::Server("passthrough takes CAP_SYS_ADMIN on the host, and Linux 6.9 or later")
        }
        Err(_) => DataPath::Server("the kernel has no passthrough; Linux 6.9 or later has it"),
    }
}
