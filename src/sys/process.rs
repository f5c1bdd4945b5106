//! Processes: a fork that is safe, and descriptors sent between the two.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, getppid};

/// How long other threads may take to end that this one has waited for, in milliseconds.
const LEAVING: u32 = 100;

/// The two processes after a fork.
#[derive(Clone, Copy, Debug)]
pub enum Fork {
    /// This is the old one; that is the new one.
    Parent(Pid),
    /// This is the new one.
    Child,
}

/// Makes a second process of one that has a single thread.
///
/// From then on both hear of children that end, which whoever started them may have
/// ignored. A thread that was waited for may be listed for a moment more, and is waited for.
///
/// # Errors
/// `EBUSY` where there are threads: in the new process their locks would be
/// held for ever. Else as fork(2).
pub fn fork() -> io::Result<Fork> {
    let mut patience = LEAVING;
    while std::fs::read_dir("/proc/self/task")?.count() != 1 {
        patience = patience.checked_sub(1).ok_or(io::Error::from_raw_os_error(libc::EBUSY))?;
        thread::sleep(Duration::from_millis(1));
    }
    // Else a child that ends is gone without `SIGCHLD`, and without its status.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    // SAFETY: there is no other thread, so the child may do what any process may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// A process that is known by its number and by a descriptor, so that it is
/// never taken for another one of the same number.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// As pidfd_open(2): `ESRCH` if there is none.
    pub fn of(pid: Pid) -> io::Result<Self> {
        // SAFETY: the call takes numbers only.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self { pid, descriptor: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Returns its number.
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// As pidfd_send_signal(2): `ESRCH` if it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let (fd, none) = (self.descriptor.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: without information of our own the kernel makes it.
        let done = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as libc::c_int, none, 0)
        };
        Ok(Errno::result(done).map(drop)?)
    }

    /// Reports whether it has ended, or does so within this time.
    pub fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        // No signal interrupts a process that takes them by descriptor.
        poll(&mut fds, time).is_ok_and(|ready| ready > 0)
    }

    /// Waits for its end, if it is a child.
    ///
    /// # Errors
    /// As waitpid(2).
    pub fn wait(&self) -> io::Result<WaitStatus> {
        loop {
            match waitpid(self.pid, None) {
                Err(Errno::EINTR) => {}
                done => return Ok(done?),
            }
        }
    }
}

impl AsFd for Process {
    /// It can be read when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Does something in a process of its own, which has one thread, as this one,
/// and is killed when this one ends.
///
/// # Errors
/// As [`fork`], pidfd_open(2).
pub fn apart(act: impl FnOnce()) -> io::Result<Process> {
    let parent = getpid();
    match fork()? {
        Fork::Parent(child) => Process::of(child),
        Fork::Child => {
            // It may have ended before it was asked for.
            if set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent {
                act();
            }
            std::process::exit(0)
        }
    }
}

/// Has threads until there is no room for more, or there are so many; returns how many.
///
/// They wait, and end with the process, which is to end next. The library knows nothing of
/// them: its own would take 80 us each, for which whoever mounts something waits.
pub fn fill_with_threads(most: usize) -> usize {
    /// In units of 16 bytes: they do nothing but wait.
    const STACK: usize = 256;
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: waits for a signal; there is nothing to look at, and no time.
            unsafe { libc::syscall(libc::SYS_ppoll, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) };
        }
    }
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let starts = |_: &usize| {
        let stack = Box::leak(vec![0_u128; STACK].into_boxed_slice());
        let top = stack.as_mut_ptr_range().end.cast();
        // SAFETY: the stack is that thread's alone, for ever. The thread shares all else with
        // this one, and makes nothing but system calls.
        unsafe { libc::clone(wait, top, flags, std::ptr::null_mut()) != -1 }
    };
    (0..most).take_while(starts).count()
}

/// Sends one byte over a socket, with a descriptor if one is given.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, byte: u8, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send_message(socket, &[byte], fd)
}

/// Sends a message over a socket, with a descriptor if one is given.
///
/// # Errors
/// As sendmsg(2).
pub fn send_message(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let (slices, flags) = ([IoSlice::new(message)], MsgFlags::MSG_NOSIGNAL);
    sendmsg::<()>(socket.as_raw_fd(), &slices, control, flags, None)?;
    Ok(())
}

/// Receives one byte from a socket, with the descriptor that came with it.
///
/// # Errors
/// `UnexpectedEof` where the other end is closed; else as recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut data = [0];
    let (_, fd) = receive_message(socket, &mut data)?;
    let [byte] = data;
    Ok((byte, fd))
}

/// Receives a message from a socket, with the descriptor that came with it;
/// returns its length, which is not 0.
///
/// # Errors
/// `UnexpectedEof` where the other end is closed; else as recvmsg(2).
pub fn receive_message(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let (length, mut fds) = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel has just made these descriptors for us alone.
                        fds.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
                    }
                }
                break (message.bytes, fds);
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((length, fds.pop()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Read as _;

    #[test]
    fn bytes_and_descriptors_cross_a_socket() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        send(a.as_fd(), b'x', None).unwrap();
        let (byte, fd) = receive(b.as_fd()).unwrap();
        assert_eq!((byte, fd.is_none()), (b'x', true));

        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"hello").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        send(a.as_fd(), b'y', Some(file.as_fd())).unwrap();
        drop(file);
        let (byte, fd) = receive(b.as_fd()).unwrap();
        let mut text = String::new();
        std::fs::File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!((byte, text.as_str()), (b'y', "hello"));

        drop(a);
        assert_eq!(receive(b.as_fd()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_process_is_told_its_end_and_of_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let process = Process::of(pid).unwrap();
        assert!(!process.ends_within(Duration::from_millis(1)));
        process.signal(Signal::SIGKILL).unwrap();
        assert!(process.ends_within(Duration::from_secs(10)));
        child.wait().unwrap();
        assert_eq!(process.signal(Signal::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        // Above the largest possible process id.
        let none = Process::of(Pid::from_raw(1 << 23)).unwrap_err();
        assert!(matches!(none.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)), "{none}");
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test harness has threads.
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }
}
