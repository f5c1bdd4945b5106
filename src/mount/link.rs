//! What the supervisor and the server of a mount tell each other, over one
//! socket: each step once, in the order given here; its end is that of the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};

use super::attach::Way;
use super::error::MountError;
use crate::sys::process::{receive_message, send_message};

/// What is told.
#[derive(Debug)]
pub(super) enum Word {
    /// By the server: the source is open.
    Opened,
    /// By the supervisor: the mount is made, and this is its device.
    Made {
        /// Who made it.
        way: Way,
        /// The device.
        device: OwnedFd,
    },
    /// By the server: requests are answered.
    Serving,
    /// By the supervisor: the mount is at its place.
    Attached {
        /// The device number of the file system.
        device: (u32, u32),
        /// The id of the mount.
        mount: u64,
        /// The number of the FUSE connection.
        connection: u32,
    },
    /// By the server: the mount is known.
    Known,
    /// By the server, instead of any other word: why it ends.
    Failed(MountError),
}

/// One end.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

/// The longest message in bytes; what is longer is cut.
const LONGEST: usize = 8192;

// Of the kernel, which mark an end that is not there any more.
const GONE: io::ErrorKind = io::ErrorKind::UnexpectedEof;

impl Link {
    /// Makes both ends.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (one, two) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(two)))
    }

    /// Tells the other side something.
    ///
    /// # Errors
    /// As sendmsg(2): `EPIPE` if it has ended.
    pub fn tell(&self, word: &Word) -> io::Result<()> {
        let (mut text, mut fd) = (Vec::new(), None);
        match word {
            Word::Opened => text.push(b'o'),
            Word::Made { way, device } => {
                let way = if *way == Way::Own { b'm' } else { b'h' };
                text.push(way);
                fd = Some(device.as_fd());
            }
            Word::Serving => text.push(b's'),
            Word::Attached { device: (major, minor), mount, connection } => {
                text.push(b'a');
                text.extend(major.to_ne_bytes());
                text.extend(minor.to_ne_bytes());
                text.extend(mount.to_ne_bytes());
                text.extend(connection.to_ne_bytes());
            }
            Word::Known => text.push(b'k'),
            Word::Failed(error) => {
                text.extend([b'f', error.exit_code()]);
                text.extend(error.to_string().bytes());
                text.truncate(LONGEST);
            }
        }
        send_message(self.0.as_fd(), &text, fd)
    }

    /// Waits for what the other side tells.
    ///
    /// # Errors
    /// `UnexpectedEof` if it has ended; else as recvmsg(2).
    pub fn hear(&self) -> io::Result<Word> {
        let mut buffer = [0; LONGEST];
        let (length, fd) = receive_message(self.0.as_fd(), &mut buffer)?;
        let text = buffer.get(..length).unwrap_or_default();
        parse(text, fd).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Waits for what the other side tells before it may do anything else;
    /// returns what `wanted` takes of it.
    ///
    /// # Errors
    /// What the other side says is wrong, or that it has ended.
    pub fn expect<T>(&self, wanted: impl FnOnce(Word) -> Option<T>) -> Result<T, MountError> {
        match self.hear() {
            Ok(Word::Failed(error)) => Err(error),
            Ok(word) => {
                let disorder = || MountError::doing("the other process")(GONE.into());
                wanted(word).ok_or_else(disorder)
            }
            Err(why) if [GONE, io::ErrorKind::ConnectionReset].contains(&why.kind()) => {
                Err(MountError::Silent)
            }
            Err(why) => Err(MountError::doing("the other process")(why)),
        }
    }

    /// Does the same, but waits no longer than `time`.
    ///
    /// # Errors
    /// The same; that nothing was told by then of `what`.
    pub fn expect_within<T>(
        &self,
        time: Duration,
        what: &'static str,
        wanted: impl FnOnce(Word) -> Option<T>,
    ) -> Result<T, MountError> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(0) => Err(MountError::doing(what)(Errno::ETIMEDOUT.into())),
            // It is heard, or hearing says what is wrong.
            Ok(_) | Err(_) => self.expect(wanted),
        }
    }

    /// Ends both directions, for whoever has this end too.
    pub fn end(&self) {
        // It fails only where it has ended already.
        let (Ok(()) | Err(_)) = shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.0), Shutdown::Both);
    }
}

impl From<OwnedFd> for Link {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse(text: &[u8], fd: Option<OwnedFd>) -> Option<Word> {
    let (tag, rest) = text.split_first()?;
    match tag {
        b'o' => Some(Word::Opened),
        b'm' | b'h' => {
            let way = if *tag == b'm' { Way::Own } else { Way::Helper };
            Some(Word::Made { way, device: fd? })
        }
        b's' => Some(Word::Serving),
        b'a' => {
            let (major, rest) = rest.split_first_chunk()?;
            let (minor, rest) = rest.split_first_chunk()?;
            let device = (u32::from_ne_bytes(*major), u32::from_ne_bytes(*minor));
            let (mount, rest) = rest.split_first_chunk()?;
            let (mount, connection) = (u64::from_ne_bytes(*mount), rest.first_chunk()?);
            Some(Word::Attached { device, mount, connection: u32::from_ne_bytes(*connection) })
        }
        b'k' => Some(Word::Known),
        b'f' => {
            let (code, text) = rest.split_first()?;
            let text = String::from_utf8_lossy(text).into_owned();
            Some(Word::Failed(MountError::Background { text, code: *code }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_as_they_were_told() {
        let (one, other) = Link::pair().unwrap();
        let device = OwnedFd::from(tempfile::tempfile().unwrap());
        let words = [
            Word::Opened,
            Word::Made { way: Way::Helper, device },
            Word::Serving,
            Word::Attached { device: (0, 300), mount: 1 << 40, connection: 299 },
            Word::Known,
        ];
        for word in &words {
            one.tell(word).unwrap();
        }
        assert!(matches!(other.hear(), Ok(Word::Opened)));
        let made = other.hear().unwrap();
        assert!(matches!(made, Word::Made { way: Way::Helper, .. }), "{made:?}");
        assert!(matches!(other.hear(), Ok(Word::Serving)));
        let place = other.hear().unwrap();
        let want = |mount| mount == 1 << 40;
        assert!(
            matches!(place, Word::Attached { device: (0, 300), mount, connection: 299 } if want(mount))
        );
        assert!(matches!(other.hear(), Ok(Word::Known)));
        one.tell(&Word::Failed(MountError::Callers("suid"))).unwrap();
        let error = other.expect(|_| Some(())).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.to_string(), MountError::Callers("suid").to_string());
        let early = other.expect_within(Duration::from_millis(5), "a word", |_| Some(()));
        assert_eq!(early.unwrap_err().to_string(), "a word: Connection timed out");
        drop(one);
        assert!(matches!(other.expect(|_| Some(())), Err(MountError::Silent)));
    }
}
