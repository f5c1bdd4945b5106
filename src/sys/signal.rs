//! Signals, taken one by one instead of by handlers.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

/// The signals that tell a server to end, and the one that it takes without
/// effect: a terminal that goes away is not its business.
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
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Waits until one of them asks the server to end.
    ///
    /// # Errors
    /// As sigwait(3).
    pub fn wait_for_end(&self) -> io::Result<()> {
        while self.0.wait()? == Signal::SIGHUP {}
        Ok(())
    }
}

/// Reports whether a thread exists, also where its entry in `/proc` is hidden.
pub fn exists(thread: u32) -> bool {
    // SAFETY: the call takes numbers only; signal 0 is not sent.
    let done = unsafe { libc::syscall(libc::SYS_tkill, thread, 0) };
    Errno::result(done) != Err(Errno::ESRCH)
}
