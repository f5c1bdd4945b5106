//! The users and groups that the name services of the host list.

use std::ffi::CStr;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

/// A list is read with one position for the whole process.
static READING: Mutex<()> = Mutex::new(());

/// Returns the users with their uids, in the order of the name services.
///
/// Names that are not UTF-8 are left out.
///
/// # Errors
/// As getpwent(3).
pub fn users() -> nix::Result<Vec<(String, u32)>> {
    let _turn = READING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the call takes nothing; the position is ours while we hold the lock.
    unsafe { libc::setpwent() };
    let found = all(|| {
        // SAFETY: the call takes nothing; nobody else makes it, see `READING`.
        let entry = unsafe { libc::getpwent() };
        // SAFETY: it is null or an entry that is whole until the next call.
        let entry = unsafe { entry.as_ref() }?;
        Some((entry.pw_name, entry.pw_uid))
    });
    // SAFETY: as for the first call.
    unsafe { libc::endpwent() };
    found
}

/// Returns the groups with their gids, in the order of the name services.
///
/// Names that are not UTF-8 are left out.
///
/// # Errors
/// As getgrent(3).
pub fn groups() -> nix::Result<Vec<(String, u32)>> {
    let _turn = READING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the call takes nothing; the position is ours while we hold the lock.
    unsafe { libc::setgrent() };
    let found = all(|| {
        // SAFETY: the call takes nothing; nobody else makes it, see `READING`.
        let entry = unsafe { libc::getgrent() };
        // SAFETY: it is null or an entry that is whole until the next call.
        let entry = unsafe { entry.as_ref() }?;
        Some((entry.gr_name, entry.gr_gid))
    });
    // SAFETY: as for the first call.
    unsafe { libc::endgrent() };
    found
}

/// The errors that a list was cut short by, as getpwent(3) has them.
const FAILURES: [Errno; 6] =
    [Errno::EINTR, Errno::EIO, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ERANGE];

/// Collects entries to the end of a list; `next` gives a C string and an id.
fn all(
    mut next: impl FnMut() -> Option<(*mut libc::c_char, u32)>,
) -> nix::Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    loop {
        Errno::clear();
        let Some((name, id)) = next() else {
            // Name services leave other errors behind at the end of their lists.
            let error = Errno::last();
            return if FAILURES.contains(&error) { Err(error) } else { Ok(found) };
        };
        if name.is_null() {
            continue;
        }
        // SAFETY: the name of an entry is a C string, whole until the next call.
        let name = unsafe { CStr::from_ptr(name) };
        if let Ok(name) = name.to_str() {
            found.push((name.to_owned(), id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_listed() {
        for _ in 0..2 {
            assert!(users().unwrap().contains(&("root".to_owned(), 0)));
            assert!(groups().unwrap().contains(&("root".to_owned(), 0)));
        }
    }
}
