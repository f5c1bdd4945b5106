//! What a mount is to be, as plain data.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::namespace::Entered;
use crate::policy::Spec;
pub use crate::source::host::Submounts;
pub use crate::source::image::{ImageOptions, Partition, Replaced};
pub use crate::source::owners::Owners;

/// A mount, as its options say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory whose files are shown.
    pub source: PathBuf,
    /// The directory where they are shown.
    pub target: PathBuf,
    /// How owners are shown and stored.
    pub spec: Spec,
    /// How that is read again.
    pub renew: Renew,
    /// The flags of the mount.
    pub flags: Flags,
    /// Whether users other than the mounting one may enter; `None`: root says
    /// yes, anyone else no.
    pub allow_other: Option<bool>,
    /// The device shown in the mount table; `None`: the source.
    pub fsname: Option<OsString>,
    /// What the kernel may cache.
    pub cache: Cache,
    /// Whether the kernel may read and write files of the source by itself.
    pub passthrough: Passthrough,
    /// How many files of the source that nobody uses stay open at most; `None`: half of
    /// the descriptors that a process may have.
    pub open_files: Option<usize>,
    /// What is shown where something is mounted below the source.
    pub submounts: Submounts,
    /// Where owners are kept.
    pub owners: Owners,
    /// Which part of a file the image is, and what is kept of it.
    pub image: ImageOptions,
    /// The directory above an image that takes what is written.
    pub upper: Option<PathBuf>,
    /// What is to translate.
    pub engine: Engine,
    /// Whose namespaces this process has entered for it; `None`: it is in those that
    /// it was started in.
    pub within: Option<Entered>,
    /// Whether the kernel may map the ids of the mount in its turn.
    pub allow_idmap: bool,
    /// Whether the server stays in the foreground.
    pub foreground: bool,
    /// The process whose end is to end the mount.
    pub with_pid: Option<i32>,
    /// The options that the policy came from, as they were given: `NAME=VALUE` or
    /// `NAME` each, with paths in full.
    pub written: Vec<String>,
}

impl Options {
    /// Reports whether the kernel decides who may do what: it can where all
    /// callers are shown the same.
    pub(super) fn kernel_decides(&self) -> bool {
        self.spec.callers().is_empty()
    }
}

/// What reads the policy of a mount again, as it is written by then.
#[derive(Clone)]
pub struct Renew {
    read: Arc<dyn Fn() -> Result<Spec, String> + Send + Sync>,
    from: Vec<PathBuf>,
}

impl Renew {
    /// Makes it of what reads the policy, or says in one line what is wrong with
    /// it. It is called in the server, whose working directory is `/`. `from` are the
    /// directories of the files that are read, besides those of the system.
    pub fn new(
        read: impl Fn() -> Result<Spec, String> + Send + Sync + 'static,
        from: Vec<PathBuf>,
    ) -> Self {
        Self { read: Arc::new(read), from }
    }

    /// Reads the policy.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub(super) fn read(&self) -> Result<Spec, String> {
        (self.read)()
    }

    /// Returns the directories that it is read from.
    pub(super) fn directories(&self) -> &[PathBuf] {
        &self.from
    }
}

impl fmt::Debug for Renew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renew").field("from", &self.from).finish_non_exhaustive()
    }
}

/// The flags of a mount; `None` where the option was not given: the default,
/// or on a remount what is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Whether nothing can be changed; no by default.
    pub read_only: Option<bool>,
    /// Whether set-id bits count; no by default, since a map can turn a user's
    /// file into a set-user-id one of root.
    pub suid: Option<bool>,
    /// Whether device nodes work; no by default.
    pub dev: Option<bool>,
    /// Whether programs can be run; yes by default.
    pub exec: Option<bool>,
    /// Whether symbolic links are followed; yes by default.
    pub symfollow: Option<bool>,
    /// When access times change.
    pub atime: Option<Atime>,
    /// Whether access times of directories change; yes by default.
    pub diratime: Option<bool>,
}

/// When access times change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// Now and then.
    Relative,
    /// At every read.
    Strict,
    /// Never.
    Never,
}

/// What the kernel may cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Everything, for as long as the source is seen not to change.
    Watch,
    /// Names and attributes for this long.
    Ttl(Duration),
    /// Everything, for good: nobody else changes the source.
    Exclusive,
    /// Nothing.
    Off,
}

/// Whether the kernel reads and writes files of the source by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passthrough {
    /// Where it can and may.
    Auto,
    /// Nowhere: all goes through the server.
    Off,
}

/// What translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A server of ours.
    Fuse,
    /// The kernel's idmapped mount, which has no server.
    Kernel,
    /// The kernel where it does exactly what is asked, else a server.
    Auto,
}
