//! For how many threads there is room, found out before the first one is started.
//!
//! Another process has them for a moment, and they end with it.

use std::io;

use nix::sys::wait::WaitStatus;

use super::error::{MountError, room_hint};
use crate::fuse::SessionOptions;
use crate::sys::process::{Fork, Process, fill_with_threads, fork};
use crate::text::plain;

/// How many workers are needed at least: one of them may wait for something.
const LEAST: usize = 2;

/// How many threads it takes to have a worker near its client: it, and the scout.
const NEAR: usize = 2;

/// How many others a session and its file system have: that of the library, and those
/// that start others, tell the kernel (one, and one who stands by), let requests wait, and
/// tidy.
const OTHERS: usize = 6;

/// Returns the options with as many workers as there is room for; `beside` are the
/// threads and processes that are to find some later. The process has one thread.
///
/// # Errors
/// `Start`: there is none for those that are needed.
pub(super) fn find(options: SessionOptions, beside: usize) -> Result<SessionOptions, MountError> {
    let taken = beside.saturating_add(OTHERS);
    let all = [options.threads, options.reserve, NEAR, taken];
    let most = all.into_iter().fold(0, usize::saturating_add);
    let room = match count(most) {
        Ok(room) => room,
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => 0,
        Err(error) => {
            log::debug!("how many threads there is room for is not known: {error}");
            return Ok(options);
        }
    };
    if room >= most {
        return Ok(options);
    }
    // As pthread_create(3) says it of any limit.
    let why = io::Error::from_raw_os_error(libc::EAGAIN);
    let Some(serving) = share(options, room.saturating_sub(taken)) else {
        return Err(MountError::starting("thread")(why));
    };
    log::warn!(
        "{} of {} threads serve, {} of {} are in reserve, and requests that wait for something \
         may hold up others: {}{}",
        serving.threads,
        options.threads,
        serving.reserve,
        options.reserve,
        plain(&why),
        room_hint(&why)
    );
    Ok(serving)
}

/// Shares out what room there is for workers; `None` if it is too little. Half of what is
/// left then is left to others.
fn share(options: SessionOptions, room: usize) -> Option<SessionOptions> {
    let least = options.threads.min(LEAST);
    let mut left = room.checked_sub(least)?;
    let mut take = |most: usize| {
        let share = left.min(most);
        left = left.saturating_sub(share);
        share
    };
    let threads = least.saturating_add(take(options.threads.saturating_sub(least)));
    let near = take(NEAR) == NEAR && options.near;
    let reserve = options.reserve.min(left / 2);
    Some(SessionOptions { threads, reserve, near, ..options })
}

/// Counts for how many threads there is room; not beyond `most`.
///
/// # Errors
/// As fork(2), pidfd_open(2), waitpid(2).
fn count(most: usize) -> io::Result<usize> {
    match fork()? {
        Fork::Child => {
            // It is a thread itself.
            let count = fill_with_threads(most.saturating_sub(1)).saturating_add(1);
            // This process was made to find that out. An exit status is a byte.
            std::process::exit(i32::from(u8::try_from(count).unwrap_or(u8::MAX)))
        }
        Fork::Parent(pid) => {
            let status = Process::of(pid)?.wait()?;
            let WaitStatus::Exited(_, count) = status else {
                return Err(io::Error::other(format!("{status:?}")));
            };
            usize::try_from(count).map_err(io::Error::other)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_goes_to_those_first_who_are_needed() {
        let options = SessionOptions {
            threads: 4,
            reserve: 16,
            near: true,
            clone_device: true,
            anchored: true,
            acl: true,
            keep_pages: false,
            allow_idmap: false,
            exclusive: false,
            writes: true,
            passthrough: Ok(()),
        };
        let shared = |room| {
            let options = share(options, room)?;
            Some((options.threads, options.near, options.reserve))
        };
        for (room, want) in [
            (0, None),
            (1, None),
            (2, Some((2, false, 0))),
            (3, Some((3, false, 0))),
            (4, Some((4, false, 0))),
            (5, Some((4, false, 0))),
            (6, Some((4, true, 0))),
            (8, Some((4, true, 1))),
            (21, Some((4, true, 7))),
            (60, Some((4, true, 16))),
        ] {
            assert_eq!(shared(room), want, "{room}");
        }
    }
}
