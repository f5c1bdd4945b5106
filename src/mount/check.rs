//! What is checked before anything is done.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::attach::clear_dead;
use super::error::MountError;
use super::options::{Cache, ImageOptions, Options};
use crate::policy::PolicyError;
use crate::sys::cred::may_mount;

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
    compatible(options)?;
    let target = resolve(&options.target)
        .map_err(|why| MountError::Target { path: options.target.clone(), why })?;
    clear_dead(&target)?;
    is_target(&options.target)?;
    // After the clearing: the source may be the mount point itself.
    let source = source(&options.source)?;
    if !is_image(&source) {
        of_directory(&options.image)?;
    }
    above(options)?;
    let name = options.fsname.clone().unwrap_or_else(|| source.clone().into_os_string());
    Ok(Paths { source, target, name })
}

/// Checks that the policy and the options can be had together.
///
/// # Errors
/// As [`callers`]; `Policy`: above an image nobody would ask it.
pub fn compatible(options: &Options) -> Result<(), MountError> {
    callers(options)?;
    if options.upper.is_none() {
        return Ok(());
    }
    // The kernel writes above by itself; below it only asks what is there.
    options.spec.only_shows().map_err(|error| {
        let what = format!("{}, and with upper no change is asked about", error.what);
        let hint = "leave that or upper out: above an image a policy shifts ids and hides";
        MountError::Policy(PolicyError { what, ..error }.hint(hint))
    })
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
fn callers(options: &Options) -> Result<(), MountError> {
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
/// `Source`: it is missing, out of reach, or neither a directory nor an image.
pub fn source(path: &Path) -> Result<PathBuf, MountError> {
    let found =
        directory(path).or_else(|why| if is_image(path) { path.canonicalize() } else { Err(why) });
    found.map_err(|why| MountError::Source { path: path.to_owned(), why })
}

/// Reports whether a source is a file system image, and not a directory.
pub fn is_image(source: &Path) -> bool {
    let kind = std::fs::metadata(source).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
}

/// Checks that no option asks for what an image does not have.
///
/// # Errors
/// `OfImage`.
pub(super) fn of_image(options: &Options) -> Result<(), MountError> {
    if !options.owners.is_native() {
        return Err(MountError::OfImage("owners", "its owners are those recorded in it"));
    }
    stays(options)?;
    if options.cache == Cache::Exclusive {
        return Err(MountError::OfImage("cache=exclusive", "it is never changed; leave it out"));
    }
    Ok(())
}

/// Checks that an image is not to be written to.
///
/// # Errors
/// `OfImage`.
pub(super) fn stays(options: &Options) -> Result<(), MountError> {
    if options.flags.read_only == Some(false) && options.upper.is_none() {
        return Err(MountError::OfImage("rw", "it is never changed; leave it out, or add upper"));
    }
    Ok(())
}

/// Checks that no option asks for what a directory does not have.
///
/// # Errors
/// `OfDirectory`.
pub fn of_directory(image: &ImageOptions) -> Result<(), MountError> {
    let ImageOptions { part, partition, devices, verity_ignored, replaced, cache: _ } = image;
    let given = [
        (part.offset != 0, "offset"),
        (part.size.is_some(), "size"),
        (partition.is_some(), "partition"),
        (!devices.is_empty(), "device"),
        (*verity_ignored, "verity"),
        (replaced.is_some(), "replaced"),
    ];
    let given = given.into_iter().find(|(given, _)| *given);
    given.map_or(Ok(()), |(_, name)| Err(MountError::OfDirectory(name)))
}

/// Checks that a directory above the source, if one is asked for, makes sense there, and
/// that this process can have it.
///
/// # Errors
/// `Upper`.
fn above(options: &Options) -> Result<(), MountError> {
    let Some(dir) = &options.upper else { return Ok(()) };
    let failed = |why: &str| Err(MountError::Upper { dir: dir.clone(), why: why.to_owned() });
    if !is_image(&options.source) {
        return failed("it is for images; what is written to a directory goes to that directory");
    }
    if may_mount().unwrap_or(false) {
        return Ok(());
    }
    failed(
        "without privilege an image is read-only; for a writable one use idmapfs run --upper, or \
         start idmapfs in a user namespace: unshare --user --map-root-user --map-auto --mount",
    )
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
