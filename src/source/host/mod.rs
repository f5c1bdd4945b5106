//! A directory of the host as a source.
//!
//! Every step is one name relative to a descriptor, and follows no symbolic
//! link: a rename on the host cannot lead outside. Where the server may, it
//! works on a private copy of the mounts from that directory down; else mounts
//! below it are hidden.
//!
//! A server without privilege opens files as the user that it is: what its own
//! mode bits deny that user (a file of mode 0000) is `EACCES` for callers too,
//! whoever they are in the view.

mod birth;
mod change;
mod create;
mod dir;
mod direct;
mod file;
mod hidden;
mod lend;
mod locks;
mod mounts;
mod node;
mod number;
mod readers;
mod reserve;
mod source;
mod special;
mod staging;
mod volume;
mod volumes;
mod watch;
mod xattr;

#[cfg(test)]
pub(crate) mod tests;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode as NixMode;

use crate::acl::AclKind;
use crate::attr::{Attr, FileKind, Mode};
use crate::error::{Error, Result};
use crate::id::{Disk, Id, Owner};
use crate::source::{Facts, Rights};
use crate::sys::cred::{Credentials, SetId, Who, may_open_handles};
use crate::sys::procfs::Procfs;
use crate::sys::stat::{Stat, stat};
use crate::sys::{mount, mount::Attributes, xattr as sys_xattr};
use crate::text::{plain, shown};

use readers::Readers;
use reserve::Exchanges;
use staging::Staging;
use volume::{Traits, Volume};
use volumes::Volumes;

/// What is shown of file systems that are mounted below the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Submounts {
    /// Their contents, where the server can copy the mounts.
    #[default]
    Follow,
    /// An empty read-only directory each.
    Hide,
}

/// How to open a directory of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostOptions {
    /// What is shown of mounts below the directory.
    pub submounts: Submounts,
    /// Whether files of every kind are made with [`crate::source::New::prepare`]:
    /// where that takes a directory, it is `.idmapfs` in the root, a name which is
    /// then not shown.
    pub staging: bool,
    /// Whether a file is opened anew each time that somebody opens it.
    pub reopen: bool,
    /// What is changed of the server's own copy of the mount, if it can make one: when
    /// access times change.
    pub attributes: Attributes,
}

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is nothing of that name.
    #[error("{path}: no such directory; make it first, or correct the name", path = shown(.0))]
    Missing(PathBuf),
    /// It is no directory.
    #[error("{path}: not a directory; a source is a directory", path = shown(.0))]
    NotDirectory(PathBuf),
    /// The server may not reach it.
    #[error(
        "{path}: permission denied; \
         give this user search permission on every directory of the path",
        path = shown(.0)
    )]
    Permission(PathBuf),
    /// The server needs procfs to act on files.
    #[error("/proc: {}; the proc file system has to be mounted there", .0.desc())]
    Procfs(Errno),
    /// The server cannot find out as whom it runs.
    #[error("/proc/self: {}; the server reads its capabilities and id maps there", plain(.0))]
    Credentials(std::io::Error),
    /// The kernel does not tell mounts apart.
    #[error("the kernel is too old: it has to be Linux 5.8 or later")]
    Kernel,
    /// Any other failure.
    #[error("{}: {}", shown(.path), .errno.desc())]
    Other {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        errno: Errno,
    },
}

/// A directory of the host as a source.
#[derive(Debug)]
pub struct Host {
    context: Arc<Context>,
    /// The root directory: of a private copy of the mounts, if there is one.
    root: OwnedFd,
    /// The id of the mount that the root is on.
    mount: u64,
    submounts: Submounts,
    /// Whether other mounts are shown below the directory.
    spans: bool,
    /// Whether the attributes are in force that were asked for.
    obeys: bool,
    volumes: Volumes,
    exchanges: Exchanges,
    readers: Readers,
    staging: Option<Staging>,
    facts: Facts,
}

/// What nodes and open files need of their host.
#[derive(Debug)]
struct Context {
    procfs: Procfs,
    credentials: Credentials,
    /// Whether our capabilities count for every file of a local file system, whoever
    /// this thread acts as.
    capable: bool,
}

impl Host {
    /// Opens a directory as a source.
    ///
    /// Belongs before anything is mounted over the directory or a part of it.
    ///
    /// # Errors
    /// Names the directory and the way out.
    pub fn open(path: &Path, options: &HostOptions) -> std::result::Result<Self, HostError> {
        let credentials = Credentials::of_process().map_err(HostError::Credentials)?;
        let procfs = Procfs::open().map_err(HostError::Procfs)?;
        let named = |errno| error_of(path, errno);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(AT_FDCWD, path, flags, NixMode::empty()).map_err(named)?;
        let capable = credentials.is_host_root() && !mounts::some_may_be_mapped(dir.as_fd());
        let (root, submounts, copied) = match private_copy(dir.as_fd()) {
            Some(copy) => (copy, options.submounts, true),
            // Without a copy, whatever is mounted later would show.
            None => (dir, Submounts::Hide, false),
        };
        let obeys = options.attributes == Attributes::default()
            || copied && mount::change_tree(root.as_fd(), options.attributes).is_ok();
        let root_stat = stat(root.as_fd(), OsStr::new("")).map_err(named)?;
        if root_stat.mount == 0 {
            return Err(HostError::Kernel);
        }
        let volumes = Volumes::new(&procfs, root.as_fd(), &root_stat).map_err(named)?;
        let facts = Facts {
            acl: keeps_acls(root.as_fd()),
            handles: volumes.root().opens_handles(),
            any_owner: credentials.any_owner() && credentials.knows_others(),
            any_file: credentials.any_owner() && credentials.knows_all(),
            immutable: false,
            lends: volumes.root().traits.lends && credentials.any_owner(),
        };
        let context = Arc::new(Context { procfs, credentials, capable });
        let (key, _) = volumes
            .root()
            .identify(root.as_fd(), &root_stat)
            .map_err(|error| named(Errno::from_raw(error.errno().0)))?;
        let staging = options.staging.then(|| Staging::new(key));
        let (exchanges, mount) = (Exchanges::default(), root_stat.mount);
        let spans = submounts == Submounts::Follow && mounts::has_some(path);
        Ok(Self {
            context,
            root,
            mount,
            submounts,
            spans,
            obeys,
            volumes,
            exchanges,
            readers: if options.reopen { Readers::of(0) } else { Readers::new() },
            staging,
            facts,
        })
    }

    /// Returns the directory that everything is reached from.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Reports whether files that are no directories are, or may be, opened by
    /// handle: then they are reached by no path.
    ///
    /// Of mounts below, whose file systems are met later, nothing is known yet.
    pub fn opens_files_by_handle(&self) -> bool {
        self.volumes.root().opens_files() || self.spans && may_open_handles()
    }

    /// Returns what is shown of mounts below the directory: `Hide` also where
    /// the server cannot copy the mounts.
    pub const fn submounts(&self) -> Submounts {
        self.submounts
    }

    /// Reports whether access times change when it was asked for, which takes a copy
    /// of the mount whose flags are not locked.
    pub const fn obeys(&self) -> bool {
        self.obeys
    }
}

/// Copies the mounts from a directory down, if the server may.
fn private_copy(dir: BorrowedFd<'_>) -> Option<OwnedFd> {
    if mounts::some_cannot_be_copied(dir) {
        return None;
    }
    mount::clone_tree(dir).ok()
}

/// Says why a directory cannot be opened.
fn error_of(path: &Path, errno: Errno) -> HostError {
    let path = path.to_path_buf();
    #[expect(clippy::wildcard_enum_match_arm, reason = "errnos are open-ended")]
    match errno {
        Errno::ENOENT => HostError::Missing(path),
        Errno::ENOTDIR => HostError::NotDirectory(path),
        Errno::EACCES | Errno::EPERM => HostError::Permission(path),
        errno => HostError::Other { path, errno },
    }
}

/// Reports whether the file system of a directory keeps POSIX ACLs.
fn keeps_acls(dir: BorrowedFd<'_>) -> bool {
    let probe = sys_xattr::get(sys_xattr::Way::Link(dir), OsStr::new(AclKind::Access.xattr()));
    !matches!(probe, Err(Errno::EOPNOTSUPP | Errno::ENOSYS))
}

/// Opens a name of a directory, without leaving that directory.
fn open_beneath(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlag,
    mode: Mode,
    submounts: Submounts,
) -> Result<OwnedFd> {
    let mut resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_SYMLINKS;
    if submounts == Submounts::Hide {
        resolve |= ResolveFlag::RESOLVE_NO_XDEV;
    }
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .mode(nix_mode(mode))
        .resolve(resolve);
    Ok(openat2(dir, name, how)?)
}

fn nix_mode(mode: Mode) -> NixMode {
    NixMode::from_bits_truncate(libc::mode_t::from(mode.bits()))
}

/// Says whether set-id bits stay.
const fn set_id(rights: Rights) -> SetId {
    if rights.keep_setid { SetId::Keep } else { SetId::Clear }
}

/// Says what it takes to give a file a mode: the caller's kernel has taken the
/// set-group-id bit out of one that may not have it, and no other bit is at
/// stake.
const fn kept(mode: Mode) -> SetId {
    if mode.has(Mode::SETGID) { SetId::Keep } else { SetId::Unaffected }
}

impl Context {
    /// Acts as the server itself.
    fn as_server(&self, set_id: SetId) -> Result<()> {
        self.credentials.assume(Who::Server, set_id)
    }

    /// Acts as one who may look at and open all of a volume, remove names there and
    /// set times: as whoever this thread acts as, if our capabilities count whoever
    /// that is. Two calls less: the kernel takes 2 us for each change of ids.
    fn as_onlooker(&self, volume: Option<&Volume>) -> Result<()> {
        let local = volume.is_some_and(|volume| volume.traits.local);
        let who = if local && self.capable { Who::Anyone } else { Who::Server };
        self.credentials.assume(who, SetId::Unaffected)
    }

    /// Acts as one who changes the contents of a file for a caller.
    fn as_writer(&self, rights: Rights) -> Result<()> {
        let who = if rights.reserve { Who::Server } else { Who::Nobody };
        self.credentials.assume(who, set_id(rights))
    }

    /// Acts as one who has no claim to blocks in reserve, and may be a member of any
    /// group but root's: as whoever this thread acts as, where that is all that
    /// makes a difference.
    fn as_ordinary(&self, traits: Option<Traits>, set_id: SetId) -> Result<()> {
        let plain = traits.is_some_and(|traits| traits.local && traits.reserves_for_root);
        let who = if plain && self.capable { Who::Ordinary } else { Who::Nobody };
        self.credentials.assume(who, set_id)
    }

    /// Does what may take room on the disk besides a file's contents (an entry,
    /// an attribute), with the blocks that are reserved for root or without.
    ///
    /// Servers of network file systems know nothing of our capabilities: what
    /// one refuses to nobody is tried as the server.
    fn for_caller<T>(
        &self,
        volume: Option<&Volume>,
        (rights, set_id): (Rights, SetId),
        call: impl Fn() -> nix::Result<T>,
    ) -> Result<T> {
        if !rights.reserve {
            match set_id {
                // A group could keep the bit.
                SetId::Clear => self.credentials.assume(Who::Nobody, set_id)?,
                SetId::Keep | SetId::Unaffected => {
                    self.as_ordinary(volume.map(|volume| volume.traits), set_id)?
                }
            }
            match call() {
                Err(Errno::EACCES | Errno::EPERM) => {}
                done => return Ok(done?),
            }
        }
        self.as_server(set_id)?;
        Ok(call()?)
    }

    /// Turns what statx(2) tells into attributes.
    fn attr(&self, stat: &Stat) -> Result<Attr<Disk>> {
        Ok(Attr {
            ino: stat.ino,
            kind: FileKind::from_mode(stat.mode).ok_or(Error::Internal)?,
            mode: Mode::new(stat.mode),
            nlink: stat.nlink,
            owner: Owner {
                uid: self.credentials.uid(stat.uid).and_then(Id::new),
                gid: self.credentials.gid(stat.gid).and_then(Id::new),
            },
            rdev: stat.rdev,
            size: stat.size,
            blocks: stat.blocks,
            blksize: stat.blksize,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            btime: stat.btime,
            locked: stat.locked,
            encrypted: stat.encrypted,
        })
    }
}
