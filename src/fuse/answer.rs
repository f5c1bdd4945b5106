//! How a request comes to its reply: failures and panics included.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fuser::{ReplyEmpty, ReplyWrite, ReplyXattr, Request};

use crate::count::{self, Count, Kind};
use crate::error::{Error, Result};
use crate::fs::Done;

/// What a request comes to: a value, or the error number of the reply.
pub(super) type Answer<T> = std::result::Result<T, fuser::Errno>;

/// Runs the work of one request, and counts it: a failure is logged once, here,
/// and a panic ends neither the thread nor the mount.
pub(super) fn attempt<T>(
    what: Kind,
    request: &Request,
    work: impl FnOnce() -> Result<T>,
) -> Answer<T> {
    count::request(what);
    guarded(what, request, work)
}

fn guarded<T>(what: Kind, request: &Request, work: impl FnOnce() -> Result<T>) -> Answer<T> {
    let pid = request.pid();
    catch_unwind(AssertUnwindSafe(work)).map_or_else(
        |_panic| {
            count::add(Count::Fault);
            let what = what.word();
            log::error!("{what} for process {pid}: a fault of the server, answered EIO");
            Err(fuser::Errno::EIO)
        },
        |result| result.map_err(|error| failed(what, pid, error)),
    )
}

/// Runs the work of one request that answers by itself, now or later; whoever
/// took it apart has counted it.
pub(super) fn hand_over(what: Kind, request: &Request, work: impl FnOnce()) {
    // A reply that is dropped on the way answers EIO, so all is said.
    let (Ok(()) | Err(_)) = guarded(what, request, || {
        work();
        Ok(())
    });
}

/// Logs a failure and returns the error number of the reply. What a caller
/// can bring about at will is no more than a debug message.
///
/// `ENOSYS` of the source goes out as `EOPNOTSUPP`: the kernel would take it
/// for every file and for good.
pub(super) fn failed(what: Kind, pid: u32, error: Error) -> fuser::Errno {
    let errno = error.errno().0;
    let (level, counted) = match errno {
        // There may be very many of these, and all has been said.
        _ if error == Error::Changed => (log::Level::Debug, Count::Failed),
        libc::EIO | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSYS | libc::EBADF => {
            (log::Level::Warn, Count::Failed)
        }
        _ => (log::Level::Debug, Count::Refused),
    };
    count::add(counted);
    log::log!(level, "{} for process {pid}: {error}", what.word());
    fuser::Errno::from_i32(if errno == libc::ENOSYS { libc::EOPNOTSUPP } else { errno })
}

/// Returns what answers a request from wherever its result comes to be.
pub(super) fn later<T: 'static>(
    what: Kind,
    pid: u32,
    reply: impl FnOnce(Answer<T>) + Send + 'static,
) -> Done<T> {
    Box::new(move |result| reply(result.map_err(|error| failed(what, pid, error))))
}

/// Answers with nothing but success or failure.
pub(super) fn empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with a number of bytes.
pub(super) fn written(reply: ReplyWrite, answer: Answer<u32>) {
    match answer {
        Ok(size) => reply.written(size),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with an extended attribute: its size, if the caller brings no room,
/// else its value.
pub(super) fn xattr(reply: ReplyXattr, room: u32, answer: Answer<Vec<u8>>) {
    match answer.map(|value| (u32::try_from(value.len()), value)) {
        Ok((Ok(size), _)) if room == 0 => reply.size(size),
        Ok((Ok(size), value)) if size <= room => reply.data(&value),
        Ok(_) => reply.error(fuser::Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

/// A result of the source that a reply has 32 bits for.
pub(super) fn narrow(size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_too_large| Error::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_is_counted_by_its_handler() {
        let sources = [
            include_str!("dispatch.rs"),
            include_str!("entries.rs"),
            include_str!("files.rs"),
            include_str!("locks.rs"),
            include_str!("adapter.rs"),
        ]
        .concat();
        for kind in Kind::ALL {
            let handler = format!("    fn {}(", kind.word());
            assert!(include_str!("dispatch.rs").contains(&handler), "{handler}");
            let counted = ["attempt(", "request("]
                .iter()
                .any(|by| sources.contains(&format!("{by}Kind::{kind:?}")));
            assert!(counted, "{kind:?}");
        }
        let handlers = include_str!("dispatch.rs").matches("\n    fn ").count();
        // `init` is no request that a caller can bring about.
        assert_eq!(handlers, Kind::ALL.len() + 1);
    }
}
