//! User namespaces that no process lives in, which give a mount its id map; and
//! going over into the namespaces of another process.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2};

use super::id_map::Line;

/// Makes a user namespace with these maps of users and groups.
///
/// # Errors
/// As clone(2): `ENOSPC` or `EPERM` where there may be no more; as write(2) of
/// a map: `EPERM` for ids that this process may not give.
pub fn make(users: &[Line], groups: &[Line]) -> io::Result<OwnedFd> {
    let process = Waiting::start()?;
    let proc = format!("/proc/{}", process.0);
    for (file, lines) in [("uid_map", users), ("gid_map", groups)] {
        // One write, as the kernel wants it.
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(format!("{proc}/{file}"), text)?;
    }
    Ok(File::open(format!("{proc}/ns/user"))?.into())
}

/// A process whose namespaces can be entered. Its number is no other one's while it
/// lives, which is asked after whatever is read by that number.
#[derive(Debug)]
pub struct Inhabitant {
    pid: u32,
    process: OwnedFd,
}

impl Inhabitant {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// As pidfd_open(2): `ESRCH` where there is none of that number, `EINVAL` for a
    /// number that no process can have.
    pub fn new(pid: u32) -> io::Result<Self> {
        let number = libc::pid_t::try_from(pid).map_err(|_| Errno::ESRCH)?;
        // SAFETY: takes numbers only.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) })?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self { pid, process: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Returns its number.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Passes on what was read by its number, if that was still its own.
    ///
    /// # Errors
    /// `ESRCH` if it has ended.
    fn still<T>(&self, read: T) -> io::Result<T> {
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO)? {
            0 => Ok(read),
            _ => Err(Errno::ESRCH.into()),
        }
    }

    /// Returns the user whom it belongs to, as seen here. One that may not be looked
    /// into belongs to root.
    ///
    /// # Errors
    /// As stat(2): `ENOENT` or `ESRCH` once it is gone.
    pub fn user(&self) -> io::Result<u32> {
        let found = fs::metadata(format!("/proc/{}", self.pid))?;
        self.still(found.uid())
    }

    /// Returns the name of the program, up to 15 bytes.
    ///
    /// # Errors
    /// As read(2); `ESRCH` once it is gone.
    pub fn program(&self) -> io::Result<String> {
        let name = fs::read(format!("/proc/{}/comm", self.pid))?;
        self.still(String::from_utf8_lossy(&name).trim_end().to_owned())
    }

    /// Reports whether its namespace of this kind, `user` or `mnt`, is this process's
    /// own.
    ///
    /// # Errors
    /// `EACCES` or `EPERM` where this user may not look into the process; else as
    /// stat(2), and `ESRCH` once it is gone.
    pub fn shares(&self, kind: &str) -> io::Result<bool> {
        let theirs = fs::metadata(format!("/proc/{}/ns/{kind}", self.pid))?;
        let ours = fs::metadata(format!("/proc/self/ns/{kind}"))?;
        self.still((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
    }

    /// Goes over into its user and mount namespaces, as far as they are others; the
    /// working directory is then their root. Groups are kept. This process has all
    /// capabilities in a user namespace that it has entered.
    ///
    /// # Errors
    /// As setns(2): `EPERM` where the namespaces are not this user's to enter,
    /// `EINVAL` where this process has threads, `ESRCH` when the process has ended.
    pub fn enter(&self) -> io::Result<()> {
        let mut kinds = CloneFlags::empty();
        for (kind, flag) in [("user", CloneFlags::CLONE_NEWUSER), ("mnt", CloneFlags::CLONE_NEWNS)]
        {
            if !self.shares(kind)? {
                kinds |= flag;
            }
        }
        if !kinds.is_empty() {
            setns(&self.process, kinds)?;
        }
        Ok(())
    }
}

/// A process in a user namespace of its own that waits for its end, which comes with
/// this, or with the thread that has made it.
///
/// It must live while its maps are written: of one that has ended the files in
/// `/proc` are root's of the host (`task_dump_owner` of fs/proc/base.c).
#[derive(Debug)]
struct Waiting(Pid);

impl Waiting {
    fn start() -> io::Result<Self> {
        // struct clone_args of linux/sched.h, as it was at first: flags, three
        // addresses, the signal at the end (none: nobody else is to hear of
        // it), stack and thread-local storage.
        let mut args = [0_u64; 8];
        args[0] = libc::CLONE_NEWUSER.cast_unsigned().into();
        let (pointer, size) = (args.as_ptr(), size_of_val(&args));
        let parent = Pid::this().as_raw();
        let (ready, told) = pipe2(OFlag::O_CLOEXEC)?;
        let tell = told.as_raw_fd();
        // SAFETY: as fork(2), with a structure of the size given.
        let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, pointer, size) })?;
        if pid == 0 {
            // SAFETY: waits in the new process, which touches nothing that is
            // shared or locked: there may have been other threads.
            unsafe {
                // Else its namespace is shown to CAP_SYS_PTRACE alone where this
                // process is not dumpable.
                libc::prctl(libc::PR_SET_DUMPABLE, 1);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::write(tell, c"".as_ptr().cast(), 1);
                while libc::getppid() == parent {
                    libc::pause();
                }
                libc::_exit(0)
            }
        }
        let waiting = Self(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?));
        // Nothing of it can be opened before.
        drop(told);
        File::from(ready).read_exact(&mut [0])?;
        Ok(waiting)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It is there until it is waited for.
        let _always = kill(self.0, Signal::SIGKILL);
        // A child without a signal at its end is seen with __WALL only.
        while waitpid(self.0, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespaces_are_entered_already() {
        let own = Inhabitant::new(std::process::id()).unwrap();
        assert!(own.shares("user").unwrap() && own.shares("mnt").unwrap());
        // setns(2) would say EINVAL: this process has threads.
        own.enter().unwrap();
        assert_eq!(own.user().unwrap(), nix::unistd::geteuid().as_raw());
        assert!(!own.program().unwrap().is_empty());
        for (pid, errno) in [(u32::MAX, libc::ESRCH), (0x3fff_ffff, libc::ESRCH)] {
            let found = Inhabitant::new(pid).unwrap_err();
            assert_eq!(found.raw_os_error(), Some(errno), "{pid}");
        }
    }

    #[test]
    fn nothing_is_read_by_the_number_of_one_that_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Inhabitant::new(child.id()).unwrap();
        assert!(process.user().is_ok());
        child.kill().unwrap();
        // Its number is kept until it is waited for, and its directory can be read.
        let ended = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            process.user().is_err()
        });
        assert!(ended);
        for gone in [process.user().map(drop), process.program().map(drop)] {
            assert_eq!(gone.unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
        assert!(process.shares("mnt").is_err() && process.enter().is_err());
        child.wait().unwrap();
    }

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
