//! Who starts a mount in the background and waits for it: what it is told, by a pipe, and
//! what it sees for itself.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::stat;

use super::error::MountError;
use crate::sys::daemon;
use crate::sys::stat::mounted;

/// What the supervisor sends when its mount is attached; else it sends an error.
const ATTACHED: &str = "attached ";

/// Who waits for a mount in the background; `None`: nobody, or nobody any more.
#[derive(Debug)]
pub(super) struct Starter(pub(super) Option<File>);

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

    /// Tells why there is no mount, or why it has ended; if nobody waits, the log.
    pub(super) fn failed(self, error: &MountError) {
        match self.0 {
            // If the parent is gone there is nobody to tell.
            Some(mut starter) => drop(starter.write_all(error.to_string().as_bytes())),
            None => log::error!("{error}"),
        }
    }
}

/// Waits for the supervisor's word, and sees for itself that the mount is there
/// and answers.
pub(super) fn wait_until_usable(mut supervisor: File, target: &Path) -> Result<(), MountError> {
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
