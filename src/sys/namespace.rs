//! User namespaces that no process lives in: they give a mount its id map.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::id_map::Line;

/// Makes a user namespace with these maps of users and groups.
///
/// # Errors
/// As clone(2): `ENOSPC` or `EPERM` where there may be no more; as write(2) of
/// a map: `EPERM` for ids that this process may not give.
pub fn make(users: &[Line], groups: &[Line]) -> io::Result<OwnedFd> {
    let process = Ended::start()?;
    let proc = format!("/proc/{}", process.0);
    for (file, lines) in [("uid_map", users), ("gid_map", groups)] {
        // One write, as the kernel wants it.
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(format!("{proc}/{file}"), text)?;
    }
    Ok(File::open(format!("{proc}/ns/user"))?.into())
}

/// A process in a user namespace of its own that has ended, and that the
/// kernel keeps until it is waited for.
#[derive(Debug)]
struct Ended(Pid);

impl Ended {
    fn start() -> io::Result<Self> {
        // struct clone_args of linux/sched.h, as it was at first: flags, three
        // addresses, the signal at the end (none: nobody else is to hear of
        // it), stack and thread-local storage.
        let mut args = [0_u64; 8];
        args[0] = libc::CLONE_NEWUSER.cast_unsigned().into();
        let (pointer, size) = (args.as_ptr(), size_of_val(&args));
        // SAFETY: as fork(2), with a structure of the size given.
        let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, pointer, size) })?;
        if pid == 0 {
            // SAFETY: ends the new process, which has touched nothing that is
            // shared or locked: there may have been other threads.
            unsafe { libc::_exit(0) }
        }
        Ok(Self(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // A child without a signal at its end is seen with __WALL only.
        while waitpid(self.0, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_beside_threads() {
        let whole = Line { inside: 0, outside: 0, count: u32::MAX };
        match make(&[whole], &[whole]) {
            Ok(_) => {}
            Err(error) => eprintln!("SKIP: user namespaces: {error}"),
        }
        assert!(make(&[Line { count: 0, ..whole }], &[whole]).is_err());
    }
}
