//! What is checked before anything is done.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::attach::clear_dead;
use super::error::MountError;
use super::options::Options;

/// Where everything is, by paths that stay right in another directory.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    /// What the table of mounts shows as the device.
    pub(super) name: OsString,
}

/// Checks source and mount point, and clears what an earlier server that was
/// killed has left on the mount point.
///
/// # Errors
/// Whatever would make the mount fail for the options given.
pub(super) fn check(options: &Options) -> Result<Paths, MountError> {
    callers(options)?;
    let target = resolve(&options.target)
        .map_err(|why| MountError::Target { path: options.target.clone(), why })?;
    clear_dead(&target)?;
    is_target(&options.target)?;
    // After the clearing: the source may be the mount point itself.
    let source = source(&options.source)?;
    let name = options.fsname.clone().unwrap_or_else(|| source.clone().into_os_string());
    Ok(Paths { source, target, name })
}

/// Checks that nothing is asked for that the kernel would decide by what some
/// other caller was shown, or that hides callers from a policy about them.
///
/// It runs set-id programs as the owner that it was told last, whoever asked, and
/// opens devices without asking at all.
///
/// # Errors
/// `Callers`: `suid` or `dev` beside a policy that depends on the caller; `Unknown`:
/// `allow-idmap` beside one.
pub fn callers(options: &Options) -> Result<(), MountError> {
    if options.allow_idmap && !options.kernel_decides() {
        return Err(MountError::Unknown);
    }
    let unfit = [(options.flags.suid, "suid"), (options.flags.dev, "dev")];
    let asked = unfit.into_iter().find(|(flag, _)| *flag == Some(true));
    match asked {
        Some((_, name)) if !options.kernel_decides() => Err(MountError::Callers(name)),
        _ => Ok(()),
    }
}

/// Returns the source by an absolute path without symbolic links.
///
/// # Errors
/// `Source`: it is missing, out of reach, or no directory.
pub fn source(path: &Path) -> Result<PathBuf, MountError> {
    directory(path).map_err(|why| MountError::Source { path: path.to_owned(), why })
}

/// Checks that something can be mounted at a path.
///
/// # Errors
/// `Target`: it is missing, out of reach, or no directory.
pub fn is_target(path: &Path) -> Result<(), MountError> {
    let found = directory(path).map(drop);
    found.map_err(|why| MountError::Target { path: path.to_owned(), why })
}

fn directory(path: &Path) -> io::Result<PathBuf> {
    let path = path.canonicalize()?;
    let is_dir = std::fs::metadata(&path)?.is_dir();
    if is_dir { Ok(path) } else { Err(io::Error::from_raw_os_error(libc::ENOTDIR)) }
}

/// Makes a path absolute and free of symbolic links, also where the last step
/// leads to a mount whose server is gone.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        (resolved, ..) => resolved,
    }
}
