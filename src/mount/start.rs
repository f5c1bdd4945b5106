//! Starting a server: in the foreground, or in a process of its own that the
//! starting one waits for.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::stat;
use nix::unistd::pipe2;

use super::attach::refused;
use super::check::{Paths, check};
use super::engine::{self, Chosen, Server};
use super::error::MountError;
use super::options::Options;
use super::serve::serve;
use crate::sys::daemon;
use crate::sys::mount as kernel;
use crate::sys::process::{Fork, fork};
use crate::sys::stat::mounted;

/// Mounts.
///
/// In the background it returns as soon as the mount can be used; in the
/// foreground, when it has been unmounted and its server has ended. A mount of the
/// kernel's has none. The process must have one thread only.
///
/// # Errors
/// Each error is one line that names the thing and the way out; nothing is
/// mounted then, unless the server fails later in the foreground.
pub fn mount(options: &Options) -> Result<(), MountError> {
    let paths = check(options)?;
    let why = match engine::choose(options, &paths.source)? {
        Chosen::Kernel(tree) => {
            return kernel::attach(tree.as_fd(), &paths.target)
                .map_err(|why| refused(&paths.target, why, String::new()));
        }
        Chosen::Server(why) => why,
    };
    if options.foreground {
        daemon::settle().map_err(MountError::doing("chdir"))?;
        return serve(options, &paths, &why, |_device| Ok(()));
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| MountError::System { what: "pipe", why: errno.into() })?;
    match fork().map_err(MountError::doing("fork"))? {
        Fork::Parent(_) => {
            // Else the end of the pipe would never be seen.
            drop(writer);
            wait_until_usable(File::from(reader), &paths.target)
        }
        Fork::Child => {
            drop(reader);
            let code = in_background(options, &paths, &why, File::from(writer));
            // This process is a copy made to serve; its caller is the other one.
            std::process::exit(code.into())
        }
    }
}

/// What the server sends when its mount is attached; else it sends an error.
const ATTACHED: &str = "attached ";

fn in_background(options: &Options, paths: &Paths, why: &Server, parent: File) -> u8 {
    let started = (|| {
        daemon::close_inherited().map_err(MountError::doing("close"))?;
        daemon::detach().map_err(MountError::doing("setsid"))
    })();
    let mut waiting = Some(parent);
    let served = started.and_then(|()| {
        serve(options, paths, why, |(major, minor)| {
            if let Some(mut parent) = waiting.take() {
                write!(parent, "{ATTACHED}{major}:{minor}")?;
            }
            daemon::silence()
        })
    });
    let Err(error) = served else { return 0 };
    match waiting {
        // If the parent is gone there is nobody to tell.
        Some(mut parent) => drop(parent.write_all(error.to_string().as_bytes())),
        None => log::error!("{error}"),
    }
    error.exit_code()
}

/// Waits for the server's word, and sees for itself that the mount is there
/// and answers.
fn wait_until_usable(mut server: File, target: &Path) -> Result<(), MountError> {
    let mut word = String::new();
    server.read_to_string(&mut word).map_err(MountError::doing("waiting for the server"))?;
    let Some(number) = word.strip_prefix(ATTACHED) else {
        let silent = "the server ended before it was ready; see its log";
        return Err(MountError::Background(if word.is_empty() { silent.into() } else { word }));
    };
    let failed = |why| MountError::Target { path: target.to_owned(), why };
    let there =
        mounted(AT_FDCWD.as_fd(), target.as_os_str()).map_err(|errno| failed(errno.into()))?;
    let (major, minor) = there.device;
    if *number != format!("{major}:{minor}") {
        return Err(failed(io::Error::other("something else has been mounted there meanwhile")));
    }
    stat(target).map(drop).map_err(|errno| failed(errno.into()))
}
