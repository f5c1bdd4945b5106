//! What a process does to serve in the background.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, geteuid, setgroups, setsid};

use super::id_map::IdMap;

/// How many descriptors the kernel's table has room for from the start: 128 KiB of the
/// kernel's memory.
const RESERVED: RawFd = 16_384;

/// Closes every descriptor above standard error that this program was started
/// with: one could keep a file system busy for as long as the server lives.
///
/// What the program opens itself is marked to be closed on exec(2), and only
/// descriptors without that mark outlive the one that started it.
///
/// # Errors
/// As open(2) of `/proc/self/fd`.
pub fn close_inherited() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: the call takes numbers only.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if fd > libc::STDERR_FILENO && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            inherited.push(fd);
        }
    }
    for fd in inherited {
        // SAFETY: nothing in this program owns the descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(())
}

/// Leaves the session, the directory and the umask that this process was
/// started with.
///
/// # Errors
/// As setsid(2), chdir(2).
pub fn detach() -> io::Result<()> {
    setsid()?;
    settle()
}

/// Leaves the directory and the umask that this process was started with: the
/// first may be below the mount, the second is the callers' business.
///
/// # Errors
/// As chdir(2).
pub fn settle() -> io::Result<()> {
    chdir("/")?;
    let _callers = umask(Mode::empty());
    Ok(())
}

/// Connects standard input, output and error to nothing.
///
/// # Errors
/// As open(2).
pub fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Leaves the supplementary groups of root: a group for which the source holds
/// blocks in reserve (`resgid`) is none of its callers'.
///
/// An ordinary user's server needs its groups to reach the source, also as root of a
/// user namespace; there is no reserve to touch.
pub fn leave_groups() {
    let initial = IdMap::read("self", "gid").is_ok_and(|map| map.is_whole());
    if geteuid().is_root()
        && initial
        && let Err(errno) = setgroups(&[])
    {
        log::debug!("supplementary groups are kept: {errno}");
    }
}

/// Takes as many descriptors as allowed; returns how many may be open.
///
/// Belongs before there are threads.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_descriptors() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    reserve_descriptors(hard);
    Ok(hard)
}

/// Returns how many descriptors may be open.
///
/// # Errors
/// As getrlimit(2).
pub fn descriptors() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// Has the kernel make room for so many descriptors, if it may.
///
/// It doubles its table as it fills, and where threads share the table each time waits
/// until no processor uses the old one: `expand_fdtable` of fs/file.c. The first
/// thousands of files that a server opens would take twice as long.
fn reserve_descriptors(limit: u64) {
    let last = RESERVED.min(RawFd::try_from(limit).unwrap_or(RESERVED)).saturating_sub(1);
    // SAFETY: the call takes numbers only.
    let far = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, last) };
    if far >= 0 {
        // SAFETY: it was just made, and nothing else knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(far) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_room_for_descriptors_before_they_are_opened() {
        let limit = raise_descriptors().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(room.trim().parse::<u64>().unwrap() >= limit.min(16_384), "{room}");
    }
}
