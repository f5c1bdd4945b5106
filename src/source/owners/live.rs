//! Who works on the records of a directory: any number of servers, or one command
//! that changes records behind them.
//!
//! The lock is one of flock(2) on the directory itself: whatever mount namespace
//! a server is in, it is the same one, and it ends with the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// A hold on the records of a directory, for as long as this is kept.
#[derive(Debug)]
pub struct Hold {
    _lock: Option<Flock<File>>,
}

impl Hold {
    /// Holds the records as one server of perhaps several.
    ///
    /// # Errors
    /// As open(2); `EAGAIN` if a command has them for itself.
    pub fn shared(source: &Path) -> io::Result<Self> {
        Self::take(source, FlockArg::LockSharedNonblock)
    }

    /// Holds the records for oneself alone.
    ///
    /// # Errors
    /// As open(2); `EAGAIN` if a server or another command holds them.
    pub fn alone(source: &Path) -> io::Result<Self> {
        Self::take(source, FlockArg::LockExclusiveNonblock)
    }

    fn take(source: &Path, how: FlockArg) -> io::Result<Self> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_NONBLOCK).bits();
        let dir = File::options().read(true).custom_flags(flags).open(source)?;
        match Flock::lock(dir, how) {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            // Network file systems may have no such lock: then nobody has one.
            Err((_, Errno::EOPNOTSUPP | Errno::ENOLCK | Errno::EINVAL | Errno::EBADF)) => {
                Ok(Self { _lock: None })
            }
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_share_records_and_a_command_has_them_alone() {
        let dir = tempfile::tempdir().unwrap();
        let busy = |held: io::Result<Hold>| held.unwrap_err().raw_os_error() == Some(libc::EAGAIN);
        let servers = [Hold::shared(dir.path()).unwrap(), Hold::shared(dir.path()).unwrap()];
        assert!(busy(Hold::alone(dir.path())));
        drop(servers);
        let command = Hold::alone(dir.path()).unwrap();
        assert!(busy(Hold::shared(dir.path())) && busy(Hold::alone(dir.path())));
        drop(command);
        Hold::shared(dir.path()).unwrap();
    }
}
