//! Starting a server: in the foreground, or in a process of its own that the
//! starting one waits for.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::stat;
use nix::unistd::{Pid, pipe2};

use super::attach::refused;
use super::check::{Paths, check};
use super::engine::{self, Chosen, Server};
use super::error::MountError;
use super::namespace::Stay;
use super::options::Options;
use super::supervise::supervise;
use crate::sys::daemon;
use crate::sys::mount as kernel;
use crate::sys::process::{Fork, Process, fork};
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
    // At once, since another process may have its number later.
    let entered = options.within.as_ref().filter(|entered| entered.stay == Stay::Process);
    let entered = entered.and_then(|entered| i32::try_from(entered.pid).ok());
    let with = options.with_pid.or(entered).map(process).transpose()?;
    let why = match engine::choose(options, &paths.source)? {
        Chosen::Kernel(tree) => {
            return kernel::attach(tree.as_fd(), &paths.target)
                .map_err(|why| refused(&paths.target, why, String::new()));
        }
        Chosen::Server(why) => why,
    };
    if options.foreground {
        daemon::settle().map_err(MountError::doing("chdir"))?;
        return supervise(options, &paths, &why, with, &mut Starter(None));
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| MountError::System { what: "pipe", why: errno.into() })?;
    match fork().map_err(MountError::starting("process"))? {
        Fork::Parent(_) => {
            // Else the end of the pipe would never be seen.
            drop(writer);
            wait_until_usable(File::from(reader), &paths.target)
        }
        Fork::Child => {
            drop(reader);
            let code = in_background(options, &paths, &why, with, File::from(writer));
            // This process is a copy made to serve; its caller is the other one.
            std::process::exit(code.into())
        }
    }
}

/// What the supervisor sends when its mount is attached; else it sends an error.
const ATTACHED: &str = "attached ";

/// Who waits for a mount in the background; `None`: nobody, or nobody any more.
#[derive(Debug)]
pub(super) struct Starter(Option<File>);

impl Starter {
    /// Tells that the mount is there, and leaves the output to who waits.
    ///
    /// # Errors
    /// As write(2), open(2) of `/dev/null`.
    pub(super) fn attached(&mut self, (major, minor): (u32, u32)) -> io::Result<()> {
        let Some(mut starter) = self.0.take() else { return Ok(()) };
        write!(starter, "{ATTACHED}{major}:{minor}")?;
        daemon::silence()
    }

    /// Has nothing more to tell, as in a copy of the process that has.
    pub(super) fn leave(&mut self) {
        self.0 = None;
    }
}

/// Takes hold of the process whose end is to end the mount.
fn process(pid: i32) -> Result<Process, MountError> {
    Process::of(Pid::from_raw(pid)).map_err(|why| MountError::WithPid(pid, why))
}

fn in_background(
    options: &Options,
    paths: &Paths,
    why: &Server,
    with: Option<Process>,
    parent: File,
) -> u8 {
    let started = (|| {
        daemon::close_inherited().map_err(MountError::doing("close"))?;
        daemon::detach().map_err(MountError::doing("setsid"))
    })();
    let mut starter = Starter(Some(parent));
    let served = started.and_then(|()| supervise(options, paths, why, with, &mut starter));
    let Err(error) = served else { return 0 };
    match starter.0 {
        // If the parent is gone there is nobody to tell.
        Some(mut parent) => drop(parent.write_all(error.to_string().as_bytes())),
        None => log::error!("{error}"),
    }
    error.exit_code()
}

/// Waits for the supervisor's word, and sees for itself that the mount is there
/// and answers.
fn wait_until_usable(mut supervisor: File, target: &Path) -> Result<(), MountError> {
    let mut word = String::new();
    supervisor.read_to_string(&mut word).map_err(MountError::doing("waiting for the server"))?;
    let Some(number) = word.strip_prefix(ATTACHED) else {
        let failed = |text| MountError::Background { text, code: 32 };
        return Err(if word.is_empty() { MountError::Silent } else { failed(word) });
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
