//! Why a private mount could not be made, or a command not be run in it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use thiserror::Error;

use super::layout::Shortage;
use crate::mount::MountError;
use crate::text::{plain, shown};

/// Why there is no command running in a private mount.
#[derive(Debug, Error)]
pub enum RunError {
    /// The user's own id is not shown, and no other was named.
    #[error("the policy does not show {word} {id}, your own; name the ids to run as with --as")]
    NoOwn {
        /// `uid` or `gid`.
        word: &'static str,
        /// The id on disk.
        id: u32,
    },
    /// The ids to run as are not among those of the mount.
    #[error("{word} {id} is no {word} that the policy can show, so nothing can run as it")]
    NotShown {
        /// `uid` or `gid`.
        word: &'static str,
        /// The id in the view.
        id: u32,
    },
    /// There are too few ids to lay the view ids on.
    #[error("{}", short(.word, .shortage, *.wanted, *.have, .file))]
    Short {
        /// `uid` or `gid`.
        word: &'static str,
        /// What is wrong.
        shortage: Shortage,
        /// How many view ids there are.
        wanted: u64,
        /// How many subordinate ids the user has.
        have: u64,
        /// Where they are written.
        file: &'static str,
    },
    /// Subordinate ids could not be used.
    #[error("{program}: {why}")]
    Helper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it said.
        why: String,
    },
    /// The kernel or the administrator allows no namespaces.
    #[error("own namespaces: {}; {hint}", .0.desc(), hint = namespaces_hint(*.0))]
    Namespaces(Errno),
    /// The mount could not be made.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The command could not be started.
    #[error("{}: {}", shown(.command), plain(.why))]
    Exec {
        /// The command.
        command: OsString,
        /// The error.
        why: io::Error,
    },
    /// The mount could not be put in place.
    #[error("mount on {}: {}", shown(.path), plain(.why))]
    Place {
        /// The directory.
        path: PathBuf,
        /// The error.
        why: io::Error,
    },
    /// The system refuses what is needed.
    #[error("{what}: {}", plain(.why))]
    System {
        /// What was to be done.
        what: &'static str,
        /// The error.
        why: io::Error,
    },
    /// The other process ended first, and has said why.
    #[error("the server ended")]
    Alone,
}

impl RunError {
    /// Makes an error of a failed step.
    pub(super) fn doing<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |why| Self::System { what, why: why.into() }
    }

    /// Makes an error of a process that is not to be had.
    pub(super) fn no_process(why: io::Error) -> Self {
        MountError::Start { what: "process", why }.into()
    }

    /// Returns the exit status: that of a shell for the command, else that of
    /// mount(8).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoOwn { .. } | Self::NotShown { .. } | Self::Short { .. } => 1,
            Self::Mount(error) => error.exit_code(),
            Self::Exec { why, .. } if why.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            Self::Helper { .. }
            | Self::Namespaces(_)
            | Self::Place { .. }
            | Self::System { .. }
            | Self::Alone => 32,
        }
    }
}

fn short(word: &str, shortage: &Shortage, wanted: u64, have: u64, file: &str) -> String {
    match shortage {
        Shortage::Missing(missing) => format!(
            "the policy can show {wanted} {word}s; beside your own you have {have} subordinate \
             ones in {file}: {missing} are missing (root adds them with usermod \
             --add-sub{word}s FIRST-LAST; or show fewer: a smaller --map, or --present-as)"
        ),
        Shortage::Scattered(lines) => format!(
            "the {word}s of the policy lie in {lines} pieces on yours; the kernel takes 340 (show \
             fewer: a smaller --map, or --present-as)"
        ),
    }
}

fn namespaces_hint(errno: Errno) -> &'static str {
    if errno == Errno::ENOSPC {
        "raise user.max_user_namespaces with sysctl, or mount by fusermount3: idmapfs SOURCE \
         MOUNTPOINT"
    } else {
        "ask for kernel.unprivileged_userns_clone=1, user.max_user_namespaces or \
         kernel.apparmor_restrict_unprivileged_userns=0 with sysctl, run as root, or mount by \
         fusermount3: idmapfs SOURCE MOUNTPOINT"
    }
}
