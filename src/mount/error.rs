//! Why a mount could not be made: each one line that names the thing and the
//! way out.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::unfit::Unfit;
use crate::text::{plain, shown};

/// Why a mount could not be made, changed or served.
#[derive(Debug, Error)]
pub enum MountError {
    /// The source cannot be used.
    #[error("source {}: {}{}", shown(.path), plain(.why), source_hint(.why))]
    Source {
        /// The source, as given.
        path: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// The mount point cannot be used.
    #[error("mount point {}: {}{}", shown(.path), plain(.why), way_out(.why))]
    Target {
        /// The mount point, as given.
        path: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// Nothing of ours is mounted there.
    #[error("{}: no idmapfs is mounted there", shown(.0))]
    NotMounted(PathBuf),
    /// The flags of a mount cannot be changed.
    #[error("remount of {}: {}{}", shown(.path), plain(.why), remount_hint(.why))]
    Remount {
        /// The mount point, as given.
        path: PathBuf,
        /// The error.
        why: io::Error,
    },
    /// The FUSE device cannot be opened.
    #[error("/dev/fuse: {}; {}", plain(.0), device_hint(.0))]
    Device(io::Error),
    /// The kernel refuses the mount.
    #[error("mount on {}: {}{}", shown(.target), plain(.why), said(.kernel))]
    Mount {
        /// The mount point.
        target: PathBuf,
        /// The error.
        why: io::Error,
        /// What the kernel said besides.
        kernel: String,
    },
    /// Mounting for an ordinary user failed.
    #[error("fusermount3: {0}")]
    Helper(String),
    /// There are not enough descriptors.
    #[error(
        "option open-files: {asked} is more than {most}, half of the files that a process may \
         have open; raise that before: ulimit -n {}",
        .asked.saturating_mul(2)
    )]
    OpenFiles {
        /// How many files are to stay open.
        asked: usize,
        /// How many can.
        most: usize,
    },
    /// There are too few for a server.
    #[error(
        "a process may have {limit} files open, and a server needs {least} or more; raise that \
         before: ulimit -n {least}"
    )]
    Descriptors {
        /// How many descriptors there are.
        limit: usize,
        /// How many there have to be.
        least: usize,
    },
    /// An option takes privilege.
    #[error("option {0} takes root; without it, leave it out or use: idmapfs run")]
    Unprivileged(&'static str),
    /// The source cannot be opened.
    #[error("source {0}")]
    Open(#[from] crate::source::host::HostError),
    /// The image cannot be served.
    #[error("image {0}")]
    Image(#[from] crate::source::image::ImageError),
    /// An option makes no sense for an image.
    #[error("option {0}: the source is an image: {1}")]
    OfImage(&'static str, &'static str),
    /// An option makes no sense where the source is no image.
    #[error("option {0}: it is for images, and the source is none; leave it out")]
    OfDirectory(&'static str),
    /// The directory above an image cannot be used.
    #[error("option upper: {}: {why}", shown(.dir))]
    Upper {
        /// The directory.
        dir: PathBuf,
        /// What is wrong, and the way out.
        why: String,
    },
    /// The image has ids that the user namespace has not.
    #[error(
        "option upper: the image has files of {0}, which this user namespace has not: overlayfs \
         could not change them; map the ids of the image to some that it has, or leave the option \
         out"
    )]
    Outside(String),
    /// The image has ids that the policy shows as none.
    #[error(
        "option upper: the image has files of {0}, which the policy does not map: overlayfs could \
         not change them; map that id too, or leave upper out"
    )]
    Unmapped(String),
    /// Owners cannot be kept beside the source.
    #[error("{0}")]
    Owners(#[from] crate::source::owners::OwnersError),
    /// The namespaces that it is to be made in cannot be entered.
    #[error(transparent)]
    Namespace(#[from] super::namespace::NamespaceError),
    /// The policy does not fit the user namespace of the server.
    #[error("{0}")]
    Policy(#[from] crate::policy::PolicyError),
    /// An option cannot stand beside a policy that depends on the caller.
    #[error(
        "option {0}: not beside a policy that depends on the caller (mirror): the kernel keeps one \
         owner of each file for all callers, and decides that by whoever was shown it last"
    )]
    Callers(&'static str),
    /// Callers are not known where the kernel maps ids.
    #[error(
        "option allow-idmap: not beside a policy that depends on the caller (mirror): the kernel \
         then tells who a caller is only with new files; leave one of the two out"
    )]
    Unknown,
    /// The kernel's engine was asked for, and would not do the same.
    #[error("option engine: kernel: {0}; with engine=auto or engine=fuse a server does it")]
    Engine(Unfit),
    /// Talking to the kernel failed.
    #[error("FUSE session: {}", plain(.0))]
    Session(io::Error),
    /// The system refuses what a server needs.
    #[error("{what}: {}", plain(.why))]
    System {
        /// What was to be done.
        what: &'static str,
        /// The error.
        why: io::Error,
    },
    /// There is no room for a thread or process, or no memory.
    #[error("cannot start a {what}: {}{}", plain(.why), room_hint(.why))]
    Start {
        /// `thread` or `process`.
        what: &'static str,
        /// The error.
        why: io::Error,
    },
    /// The server failed, for this reason.
    #[error("{text}")]
    Background {
        /// The reason.
        text: String,
        /// The exit status that says so.
        code: u8,
    },
    /// The server ended and gave no reason.
    #[error("the server ended before it was ready; see its log")]
    Silent,
    /// A signal, or the end of who waits for the mount, came while it was being made.
    #[error("the mount was not made: its end was asked for while it was being made")]
    Stopped,
    /// The same, and the server did not end by itself.
    #[error(
        "the mount was not made: its end was asked for, and the server, which waited for \
         something, was killed; does the source answer?"
    )]
    Hung,
    /// The server was killed.
    #[error("the server was ended by {0}; the mount is gone")]
    Killed(&'static str),
    /// The server does not end.
    #[error(
        "the server does not end, though it was killed: the kernel keeps it; the mount is gone"
    )]
    Stuck,
    /// The process whose end is to end the mount is not there.
    #[error("option with-pid: no process {0} is there: {err}", err = plain(.1))]
    WithPid(i32, io::Error),
}

impl MountError {
    /// Says that something could not be mounted at a path; `kernel` is what the kernel
    /// said besides.
    pub(super) fn refused(target: &Path, why: io::Error, kernel: String) -> Self {
        Self::Mount { target: target.to_owned(), why, kernel }
    }

    /// Returns the exit status that says so, as mount(8) has it: 1 for a wrong
    /// use, 32 for a mount that failed.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Policy(_)
            | Self::Callers(_)
            | Self::OfImage(..)
            | Self::OfDirectory(_)
            | Self::Unknown => 1,
            Self::Background { code, .. } => *code,
            Self::Engine(why) if why.is_asked() => 1,
            Self::Source { .. }
            | Self::Namespace(_)
            | Self::Open(_)
            | Self::Image(_)
            | Self::Upper { .. }
            | Self::Outside(_)
            | Self::Unmapped(_)
            | Self::Owners(_)
            | Self::Engine(_)
            | Self::Target { .. }
            | Self::NotMounted(_)
            | Self::Remount { .. }
            | Self::Device(_)
            | Self::Mount { .. }
            | Self::Helper(_)
            | Self::Unprivileged(_)
            | Self::Session(_)
            | Self::System { .. }
            | Self::Start { .. }
            | Self::Silent
            | Self::Stopped
            | Self::Hung
            | Self::Stuck
            | Self::Killed(_)
            | Self::OpenFiles { .. }
            | Self::Descriptors { .. }
            | Self::WithPid(..) => 32,
        }
    }

    /// Returns what makes an error of a failed step.
    pub(super) const fn doing(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |why| Self::System { what, why }
    }

    /// Returns what makes an error of a thread or process that is not to be had.
    pub(super) const fn starting(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |why| Self::Start { what, why }
    }

    /// Makes an error of a session that cannot be started.
    pub(super) fn session(why: io::Error) -> Self {
        match why.raw_os_error() {
            // Its device blocks: only a thread is to be had later.
            Some(libc::EAGAIN) => Self::Start { what: "thread", why },
            _ => Self::Session(why),
        }
    }
}

/// Says what helps where there are too many threads and processes.
pub(crate) fn room_hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::EAGAIN) => "; raise the limit of processes (pids.max, ulimit -u)",
        _ => "",
    }
}

fn remount_hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::EPERM) => "; it takes root: unmount, and mount with the other flags",
        _ => "",
    }
}

fn source_hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::ENOTDIR) => "; a source is a directory, or an image in a file or block device",
        _ => way_out(why),
    }
}

fn way_out(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::ENOENT) => "; make it first, or correct the name",
        Some(libc::ENOTDIR) => "; a mount point is a directory",
        Some(libc::EACCES) => "; this user needs search permission on every directory of the path",
        Some(libc::ENOTCONN) => "; the server of what is mounted there is gone: umount it first",
        _ => "",
    }
}

fn said(kernel: &str) -> String {
    if kernel.is_empty() { String::new() } else { format!(" ({kernel})") }
}

fn device_hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::ENOENT) => "load it with: modprobe fuse; or give the container the device",
        Some(libc::EACCES) => "it is to be readable and writable for all (mode 0666)",
        _ => "is the fuse module loaded?",
    }
}
