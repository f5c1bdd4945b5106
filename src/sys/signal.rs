//! Signals, taken one by one instead of by handlers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To unmount, and end.
    End,
    /// To read the policy again.
    Reload,
    /// To say what was done.
    Stats,
}

impl Asked {
    /// Returns what this signal asks for; `None`: nothing.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are signals enough")]
    const fn by(signal: Signal) -> Option<Self> {
        match signal {
            Signal::SIGTERM | Signal::SIGINT => Some(Self::End),
            Signal::SIGHUP => Some(Self::Reload),
            Signal::SIGUSR1 => Some(Self::Stats),
            _ => None,
        }
    }

    /// Returns the signal to ask a server by: of the end it is not asked so.
    pub const fn signal(self) -> Option<Signal> {
        match self {
            Self::End => None,
            Self::Reload => Some(Signal::SIGHUP),
            Self::Stats => Some(Signal::SIGUSR1),
        }
    }
}

/// The signals that ask for something.
#[derive(Clone, Copy, Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Keeps these signals from interrupting this thread, and those threads and
    /// processes that it makes from now on.
    ///
    /// # Errors
    /// As pthread_sigmask(3).
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Waits for one that asks for something else than the end, which is left
    /// alone.
    ///
    /// # Errors
    /// As sigwait(3).
    pub fn wait(&self) -> io::Result<Option<Asked>> {
        let mut set = self.0;
        set.remove(Signal::SIGTERM);
        set.remove(Signal::SIGINT);
        Ok(Asked::by(set.wait()?))
    }

    /// Returns a descriptor that tells of all of them.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn descriptor(&self) -> io::Result<Descriptor> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Descriptor(SignalFd::with_flags(&self.0, flags)?))
    }

    /// Returns a descriptor that tells of those that whoever started this process did not
    /// have it ignore: what is blocked comes all the same.
    ///
    /// # Errors
    /// As sigaction(2), signalfd(2).
    pub fn heeded(&self) -> io::Result<Descriptor> {
        let mut set = self.0;
        for signal in self.0.iter() {
            if is_ignored(signal)? {
                set.remove(signal);
            }
        }
        Self(set).descriptor()
    }
}

/// Reports whether a signal is ignored, as nohup(1) has it, and a shell that starts
/// something beside it.
fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the call writes one action, and changes none.
    let done = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    Errno::result(done)?;
    // SAFETY: it was written.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// A descriptor that can be read when there is a signal.
#[derive(Debug)]
pub struct Descriptor(SignalFd);

impl Descriptor {
    /// Returns what is asked for next; `None` if there is no signal.
    ///
    /// # Errors
    /// As read(2).
    pub fn next(&self) -> io::Result<Option<Asked>> {
        let Some(info) = self.0.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
        Ok(Asked::by(Signal::try_from(number)?))
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reports whether a thread exists, also where its entry in `/proc` is hidden.
pub fn exists(thread: u32) -> bool {
    // SAFETY: the call takes numbers only; signal 0 is not sent.
    let done = unsafe { libc::syscall(libc::SYS_tkill, thread, 0) };
    Errno::result(done) != Err(Errno::ESRCH)
}
