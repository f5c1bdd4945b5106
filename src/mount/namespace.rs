//! The namespaces that a mount is made in: those this process was started in, or
//! those of another process, into which it goes before it does anything else.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use thiserror::Error;

use crate::sys::cred::may_mount;
use crate::sys::id_map::IdMap;
use crate::sys::mount_namespace;
use crate::sys::namespace::Inhabitant;
use crate::text::{escape, plain, shown};

/// Whose namespaces a mount is to be made in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Within {
    /// Those that rootless podman keeps for all containers of a user.
    Podman,
    /// Those of the process of this number.
    Process(u32),
    /// Those of the process whose number is in this file.
    File(PathBuf),
}

impl Within {
    /// Reads `podman`, a process id, or the path of a file; a path has a slash.
    pub fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str() {
            Some("podman") => Some(Self::Podman),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|pid| *pid != 0).map(Self::Process)
            }
            _ if text.as_bytes().contains(&b'/') => Some(Self::File(PathBuf::from(text))),
            _ => None,
        }
    }
}

/// A process whose namespaces have been entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Its number.
    pub pid: u32,
    /// Why it was this one, for people.
    pub why: &'static str,
    /// How long a mount stays there.
    pub stay: Stay,
}

/// How long a mount in namespaces that were entered stays, unless it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As long as the process whose namespaces they are lives.
    Process,
    /// As long as anybody uses it.
    Users,
}

/// Why the namespaces of another process cannot be entered.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// podman cannot be started.
    #[error("podman: {}; install podman, or name a process with --in PID", plain(.0))]
    NoPodman(io::Error),
    /// podman cannot make its namespaces.
    #[error("podman unshare: {0}")]
    Podman(String),
    /// podman keeps no process.
    #[error(
        "{}: podman keeps no pause process there; run it as an ordinary user with the same \
         XDG_RUNTIME_DIR", shown(.0)
    )]
    NoPause(PathBuf),
    /// The file with podman's process leads to another one.
    #[error(
        "{}: process {pid} is {what}, not podman's pause process of this user; remove the file, \
         or run: podman system migrate", shown(.file)
    )]
    NotPause {
        /// The file.
        file: PathBuf,
        /// The process.
        pid: u32,
        /// What it is.
        what: String,
    },
    /// Root's podman has no namespaces of its own.
    #[error("option in: podman: root's podman uses the host's namespaces; leave the option out")]
    Root,
    /// A file has no process id.
    #[error("{}: {}", shown(.path), plain(.why))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// There is no such process.
    #[error("process {0}: there is none of that number")]
    Gone(u32),
    /// The namespaces are somebody else's.
    #[error(
        "process {pid}: user {user} has made its namespaces, and this user may not enter them; \
         run this as that user"
    )]
    Foreign {
        /// The process.
        pid: u32,
        /// Whose it is.
        user: u32,
    },
    /// The runtime directory may be somebody else's doing.
    #[error("{}: {}; set XDG_RUNTIME_DIR to a directory of your own", shown(.path), plain(.why))]
    Runtime {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// The working directory is not there.
    #[error(
        "working directory {}: {} in the namespace of process {pid}; go elsewhere first",
        shown(.path), plain(.why)
    )]
    Directory {
        /// The process.
        pid: u32,
        /// The directory.
        path: PathBuf,
        /// The error.
        why: io::Error,
    },
    /// The system refuses it.
    #[error("namespaces of process {pid}: {}", plain(.why))]
    System {
        /// The process.
        pid: u32,
        /// The error.
        why: io::Error,
    },
}

/// Goes into the namespaces of another process, and to the directory there that has
/// the path of the working directory here; returns whose they are.
///
/// From then on ids are those of that user namespace, and this process may do there
/// what its root may. It must have one thread only.
///
/// # Errors
/// There is no such process, or its namespaces are not this user's to enter.
pub fn enter(within: &Within) -> Result<Entered, NamespaceError> {
    let here = std::env::current_dir();
    let (process, why) = match within {
        Within::Podman => (podman()?, "podman's"),
        Within::Process(pid) => (take(*pid)?, "as asked"),
        Within::File(path) => (take(number(path)?)?, "as asked"),
    };
    let pid = process.pid();
    process.enter().map_err(|why| refused(&process, why))?;
    if let Ok(path) = here {
        std::env::set_current_dir(&path).map_err(|why| NamespaceError::Directory {
            pid,
            path,
            why,
        })?;
    }
    Ok(Entered { pid, why, stay: Stay::Process })
}

fn take(pid: u32) -> Result<Inhabitant, NamespaceError> {
    Inhabitant::new(pid).map_err(|why| match why.raw_os_error() {
        Some(libc::ESRCH | libc::EINVAL) => NamespaceError::Gone(pid),
        _ => NamespaceError::System { pid, why },
    })
}

fn refused(process: &Inhabitant, why: io::Error) -> NamespaceError {
    let pid = process.pid();
    match (why.raw_os_error(), process.user()) {
        (Some(libc::ESRCH | libc::ENOENT), _) | (_, Err(_)) => NamespaceError::Gone(pid),
        (Some(libc::EPERM | libc::EACCES), Ok(user)) => NamespaceError::Foreign { pid, user },
        (_, Ok(_)) => NamespaceError::System { pid, why },
    }
}

/// Reads a process id from a file.
fn number(path: &Path) -> Result<u32, NamespaceError> {
    let failed = |why| NamespaceError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let number = text.trim().parse().ok().filter(|pid| *pid != 0);
    number.ok_or_else(|| failed(io::Error::other("has no process id")))
}

/// Returns the process that keeps rootless podman's namespaces; has podman start one
/// where there is none.
fn podman() -> Result<Inhabitant, NamespaceError> {
    let file = runtime()?.join(PAUSE_FILE);
    if let Some(process) = pause(&file)? {
        return Ok(process);
    }
    if is_in_podmans() {
        return Err(NamespaceError::NoPause(file));
    }
    if geteuid().is_root() {
        return Err(NamespaceError::Root);
    }
    start()?;
    pause(&file)?.ok_or(NamespaceError::NoPause(file))
}

/// Reports whether podman has made the namespaces of this process: the variable is
/// set for what `podman unshare` runs.
fn is_in_podmans() -> bool {
    std::env::var_os("_CONTAINERS_USERNS_CONFIGURED").is_some_and(|value| !value.is_empty())
}

/// Returns the pause process that a file names; `None`: there is no file, or no
/// such process.
fn pause(file: &Path) -> Result<Option<Inhabitant>, NamespaceError> {
    let pid = match number(file) {
        Ok(pid) => pid,
        Err(NamespaceError::File { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let process = match take(pid) {
        Ok(process) => process,
        Err(NamespaceError::Gone(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let other = |what| NamespaceError::NotPause { file: file.to_owned(), pid, what };
    let Ok(user) = process.user() else { return Ok(None) };
    if user != geteuid().as_raw() {
        return Err(other(format!("one of user {user}")));
    }
    let Ok(program) = process.program() else { return Ok(None) };
    if !PAUSES.contains(&program.as_str()) {
        return Err(other(escape(&program)));
    }
    Ok(Some(process))
}

/// What podman's pause process is called: catatonit(1), or podman itself.
const PAUSES: [&str; 3] = ["catatonit", "podman pause", "podman"];

/// Where rootless podman writes its pause process down, in the runtime directory: podman(1),
/// in `pkg/util/utils_supported.go`.
const PAUSE_FILE: &str = "libpod/tmp/pause.pid";

/// Returns the directory of this user for what lives no longer than the system, as
/// podman finds it. It need not be there.
///
/// # Errors
/// It is where anybody could have made it, and somebody else has, or may write it.
pub fn runtime() -> Result<PathBuf, NamespaceError> {
    let uid = geteuid();
    let set = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    if let Some(dir) = set.filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    if usual.is_dir() {
        return Ok(usual);
    }
    let path = PathBuf::from(format!("/tmp/podman-run-{uid}"));
    match own_directory(&path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::Runtime { path, why })
        }
        Ok(()) | Err(_) => Ok(path),
    }
}

/// Sees that a path is a directory of this user's that nobody else may write.
///
/// # Errors
/// What it is instead; as lstat(2).
pub fn own_directory(path: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other("is somebody else's, or open to others"))
}

/// Has podman make its namespaces, and a process that keeps them.
fn start() -> Result<(), NamespaceError> {
    let mut command = Command::new("podman");
    command.args(["unshare", "true"]).stdin(Stdio::null());
    let output = command.output().map_err(NamespaceError::NoPodman)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    Err(NamespaceError::Podman(
        last.map_or_else(|| format!("failed, {}", output.status), |line| escape(line.trim())),
    ))
}

/// Returns the number of this mount namespace if it may end before the mount, and this
/// process may leave it: a process in it would keep it, and the mount, for ever.
pub(super) fn passing() -> Option<u64> {
    let number = mount_namespace::own().ok().filter(|_| may_mount().unwrap_or(false));
    number.filter(|number| !mount_namespace::is_lasting(*number))
}

/// Returns the id map of the users of a process's user namespace, `initial` for that of
/// the host; the process by its name in `/proc`.
pub(super) fn map(process: &str) -> String {
    match IdMap::read(process, "uid") {
        Ok(map) if map.is_whole() => "initial".to_owned(),
        Ok(map) => {
            let lines: Vec<String> = map.lines().iter().map(ToString::to_string).collect();
            lines.join(", ")
        }
        Err(_) => "unknown".to_owned(),
    }
}

/// Says which ids of a policy there are not in the user namespace of a process, by its
/// name in `/proc`; `kind` is `uid` or `gid`. A policy that shows all ids means those
/// that there are.
///
/// # Errors
/// As read(2) of the map.
pub(super) fn missing(
    process: &str,
    kind: &str,
    shown: &[(u32, u64)],
) -> io::Result<Option<String>> {
    let whole = shown.iter().any(|(_, count)| *count >= u64::from(u32::MAX));
    let map = IdMap::read(process, kind)?;
    let ends = shown.iter().flat_map(|&(first, count)| {
        let last = u64::from(first).saturating_add(count).saturating_sub(1);
        [first, u32::try_from(last).unwrap_or(u32::MAX)]
    });
    let first = ends.into_iter().find(|id| map.outside(*id).is_none());
    Ok(first.filter(|_| !whole).map(|id| {
        let lines: Vec<String> = map.lines().iter().map(ToString::to_string).collect();
        let map = lines.join(", ");
        format!(
            "{kind} {id} is none of this user namespace ({map}): what it owns is nobody's there"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_podman_a_process_or_a_file() {
        for (text, want) in [
            ("podman", Some(Within::Podman)),
            ("17", Some(Within::Process(17))),
            ("./podman", Some(Within::File("./podman".into()))),
            ("/run/x.pid", Some(Within::File("/run/x.pid".into()))),
            ("0", None),
            ("", None),
            ("docker", None),
            ("99999999999", None),
            ("-1", None),
        ] {
            assert_eq!(Within::parse(OsStr::new(text)), want, "{text}");
        }
    }

    #[test]
    fn ids_that_a_namespace_has_not_are_told() {
        let whole = [(0, u64::from(u32::MAX))];
        let all = IdMap::read("self", "uid").unwrap().is_whole();
        for (shown, want) in [(&whole[..], false), (&[], false), (&[(4_294_967_290, 1)], !all)] {
            assert_eq!(missing("self", "uid", shown).unwrap().is_some(), want, "{shown:?}");
        }
    }

    #[test]
    fn a_directory_is_ones_own_if_nobody_else_may_write_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        for (mode, fine) in [(0o700, true), (0o755, true), (0o770, false), (0o1777, false)] {
            std::fs::set_permissions(&own, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(own_directory(&own).is_ok(), fine, "{mode:o}");
        }
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
        let (link, file) = (dir.path().join("link"), dir.path().join("file"));
        std::os::unix::fs::symlink(&own, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(own_directory(&link).is_err() && own_directory(&file).is_err());
    }

    #[test]
    fn what_is_no_pause_process_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pause.pid");
        assert!(pause(&file).unwrap().is_none());
        for (text, want) in [
            ("", "has no process id"),
            ("x", "has no process id"),
            ("1", "process 1 is "),
            (&std::process::id().to_string(), "not podman's pause process of this user"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = pause(&file).unwrap_err().to_string();
            assert!(error.contains(want) && error.lines().count() == 1, "{error}");
        }
        std::fs::write(&file, "1073741823").unwrap();
        assert!(pause(&file).unwrap().is_none());
        let error = enter(&Within::File(file)).unwrap_err().to_string();
        assert_eq!(error, "process 1073741823: there is none of that number");
    }
}
