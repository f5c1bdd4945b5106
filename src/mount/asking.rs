//! In which user namespace callers are: a confined server may not look, and
//! asks its supervisor, or where it has none a process made for that.
//!
//! The kernel shows it to those who might trace the process, which a process
//! under Landlock may not for any outside (`domain_ptrace` of
//! security/landlock/task.c), and another user only with `CAP_SYS_PTRACE`.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::fcntl::readlink;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::getpid;

use crate::control;
use crate::sync::lock;
use crate::sys::process::{Fork, Process, fork, receive_message, send_message};

/// How long an answer may take; a supervisor has little to do.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take a server to end that asks nothing any more.
const ENDING: Duration = Duration::from_secs(10);

/// The longest answer in bytes: a process number and the name of a namespace.
const LONGEST: usize = 64;

/// Makes a socket for the server's questions, and the end that answers.
///
/// # Errors
/// As socketpair(2).
pub(super) fn pair() -> io::Result<(Asking, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (asks, answers) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let supervisor = getpid().as_raw().unsigned_abs();
    Ok((Asking { socket: Mutex::new(asks), supervisor }, answers))
}

/// Starts a process that answers until nobody asks any more. Then it clears away what the
/// server had published, should that have been killed.
///
/// This belongs before anything is opened: it holds all that was open by then.
///
/// # Errors
/// As socketpair(2), pidfd_open(2), fork(2).
pub(super) fn start() -> io::Result<Asking> {
    let (asking, answers) = pair()?;
    // In the new process it would be too late: the parent there may be another by then.
    let server = Process::of(getpid())?;
    match fork()? {
        Fork::Parent(_) => Ok(asking),
        Fork::Child => {
            drop(asking);
            // A terminal sends them to the whole process group. Its end is the server's.
            let _blocked = SigSet::all().thread_block();
            while answer(answers.as_fd()).is_ok() {}
            if server.ends_within(ENDING) {
                // It is stale now, and goes by being read.
                let (Ok(_) | Err(_)) = control::live();
            }
            std::process::exit(0)
        }
    }
}

/// The server's end.
#[derive(Debug)]
pub(super) struct Asking {
    socket: Mutex<OwnedFd>,
    /// Who answers, and waits for the server when it makes the mount.
    supervisor: u32,
}

impl Asking {
    /// Returns the name of the user namespace of a process; `None` if it has
    /// ended, or nobody may know.
    pub(super) fn namespace_of(&self, pid: u32) -> Option<String> {
        if pid == self.supervisor {
            return readlink("/proc/self/ns/user").ok()?.into_string().ok();
        }
        let socket = lock(&self.socket);
        send_message(socket.as_fd(), &pid.to_ne_bytes(), None).ok()?;
        let end = Instant::now().checked_add(PATIENCE)?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if poll(&mut fds, time).ok()? == 0 {
                return None;
            }
            let mut buffer = [0; LONGEST];
            let (length, _) = receive_message(socket.as_fd(), &mut buffer).ok()?;
            let (of, name) = buffer.get(..length)?.split_first_chunk()?;
            // Else it is late, of a question that nobody waits for any more.
            if u32::from_ne_bytes(*of) == pid {
                let name = String::from_utf8_lossy(name).into_owned();
                return Some(name).filter(|name| !name.is_empty());
            }
        }
    }
}

/// Answers one question, which waits on the socket.
///
/// # Errors
/// `UnexpectedEof` if nobody asks any more; as recvmsg(2), sendmsg(2).
pub(super) fn answer(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut pid = [0; 4];
    receive_message(socket, &mut pid)?;
    let path = format!("/proc/{}/ns/user", u32::from_ne_bytes(pid));
    let name = readlink(path.as_str()).unwrap_or_default();
    let mut text = pid.to_vec();
    text.extend(name.as_encoded_bytes());
    send_message(socket, &text, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_told_and_late_answers_are_not_taken_for_others() {
        let (mut asking, answers) = pair().unwrap();
        let (own, gone) = (asking.supervisor, 1 << 23);
        let here = asking.namespace_of(own);
        assert!(here.as_deref().is_some_and(|name| name.starts_with("user:[")), "{here:?}");
        // Asked as of any other, who ends, and of one that never was.
        asking.supervisor = 0;
        assert_eq!(asking.namespace_of(gone), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    answer(answers.as_fd()).unwrap();
                }
            });
            assert_eq!(asking.namespace_of(own), here);
            assert_eq!(asking.namespace_of(gone), None);
        });
        drop(asking);
        let end = answer(answers.as_fd()).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
