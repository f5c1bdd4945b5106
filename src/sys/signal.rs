//! Signals, taken one by one instead of by handlers.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

/// What a signal asks a server for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To end.
    End,
    /// To read its policy again.
    Reload,
    /// To say what it has done.
    Stats,
}

/// The signals that ask a server for something.
#[derive(Clone, Copy, Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Keeps these signals from interrupting this thread and those that it
    /// makes from now on.
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

    /// Waits for one of them.
    ///
    /// # Errors
    /// As sigwait(3).
    pub fn wait(&self) -> io::Result<Asked> {
        let signal = self.0.wait()?;
        let others = [(Signal::SIGHUP, Asked::Reload), (Signal::SIGUSR1, Asked::Stats)];
        Ok(others.into_iter().find_map(|(of, asked)| (of == signal).then_some(asked)))
            .map(|asked| asked.unwrap_or(Asked::End))
    }
}

/// Reports whether a thread exists, also where its entry in `/proc` is hidden.
pub fn exists(thread: u32) -> bool {
    // SAFETY: the call takes numbers only; signal 0 is not sent.
    let done = unsafe { libc::syscall(libc::SYS_tkill, thread, 0) };
    Errno::result(done) != Err(Errno::ESRCH)
}
