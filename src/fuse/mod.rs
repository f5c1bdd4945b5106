//! The FUSE transport: a thin adapter from the kernel's requests to
//! [`Fs`](crate::fs::Fs). The only module that names `fuser`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::fs::Fs;

mod adapter;
mod answer;
mod capabilities;
mod convert;
mod dispatch;
mod entries;
mod files;
mod notices;
mod notifier;

pub use notifier::{Notifier, Refreshed};

/// The name under which an anchored session shows the file system: the one
/// child of the directory that the kernel takes for the root.
pub const VIEW: &str = "view";

/// How a session serves its file system.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How many threads answer requests; at least 1.
    pub threads: usize,
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
    /// Whether the kernel is to read and write files of the source by itself,
    /// where it can.
    #[expect(dead_code, reason = "the data path reads it next")]
    pub passthrough: bool,
}

/// A file system being served.
#[derive(Debug)]
pub struct Session {
    workers: fuser::BackgroundSession,
    notifier: Notifier,
}

impl Session {
    /// Answers the kernel's greeting and starts to serve.
    ///
    /// `device` is an open `/dev/fuse` that a mount was made with; it blocks.
    ///
    /// # Errors
    /// If the kernel lacks what the file system cannot do without, the device
    /// is gone, or no thread can be started.
    pub fn start(device: OwnedFd, fs: Arc<Fs>, options: SessionOptions) -> io::Result<Self> {
        let mut config = fuser::Config::default();
        config.n_threads = Some(options.threads.max(1));
        config.clone_fd = options.clone_device;
        let own = device.try_clone()?;
        let notifier = Notifier::new(own, &fs, options.anchored);
        let adapter = adapter::Adapter::new(fs, options, notifier.clone());
        // Who may use the mount is the kernel's decision (allow_other).
        let session = fuser::Session::from_fd(adapter, device, fuser::SessionACL::All, config)?;
        Ok(Self { workers: session.spawn()?, notifier })
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
