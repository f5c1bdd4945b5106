//! Processes: a fork that is safe, and descriptors sent between the two.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::{ForkResult, Pid};

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
/// # Errors
/// `EBUSY` where there are threads: in the new process their locks would be
/// held for ever. Else as fork(2).
pub fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: there is no other thread, so the child may do what any process may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Sends one byte over a socket, with a descriptor if one is given.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, byte: u8, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let data = [byte];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&data)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one byte from a socket, with the descriptor that came with it.
///
/// # Errors
/// `UnexpectedEof` where the other end is closed; else as recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut data = [0];
    let mut space = cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut data)];
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
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let [byte] = data;
    Ok((byte, fds.pop()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

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
    fn a_process_with_threads_does_not_fork() {
        // The test harness has threads.
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }
}
