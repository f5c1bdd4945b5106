//! Starting a server: in the foreground, or in a process of its own that the
//! starting one waits for.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::check::{Paths, check};
use super::engine::{self, Chosen, Server};
use super::error::MountError;
use super::namespace::Stay;
use super::options::Options;
use super::starter::{Starter, wait_until_usable};
use super::supervise::supervise;
use crate::sys::daemon;
use crate::sys::mount as kernel;
use crate::sys::process::{Fork, Process, fork};
use crate::sys::signal::Signals;

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
                .map_err(|why| MountError::refused(&paths.target, why, String::new()));
        }
        Chosen::Server(why) => why,
    };
    if options.foreground {
        daemon::settle().map_err(MountError::doing("chdir"))?;
        return supervise(options, &paths, &why, with, &mut Starter(None));
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| MountError::System { what: "pipe", why: errno.into() })?;
    // The supervisor is to end in order even if it is asked to before it has begun.
    let signals = Signals::block().map_err(MountError::doing("signals"))?;
    match fork().map_err(MountError::starting("process"))? {
        Fork::Parent(pid) => {
            // Else the end of the pipe would never be seen.
            drop(writer);
            let supervisor = Process::of(pid).map_err(MountError::doing("pidfd"))?;
            let signals = signals.heeded().map_err(MountError::doing("signalfd"))?;
            wait_until_usable(&mut File::from(reader), &supervisor, &signals, &paths.target)
        }
        Fork::Child => {
            drop(reader);
            let code = in_background(options, &paths, &why, with, File::from(writer));
            // This process is a copy made to serve; its caller is the other one.
            std::process::exit(code.into())
        }
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
    starter.failed(&error);
    error.exit_code()
}
