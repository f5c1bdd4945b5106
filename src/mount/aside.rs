//! What is read in a process of its own, which has nothing to lose: of an image, before
//! there is a server.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::confine::keep_nothing;
use crate::sys::process::apart;
use crate::text::plain;

/// What the answer begins with, if it is what was read; else why nothing was.
const READ: u8 = b'+';

/// Reads something in a process of its own that keeps nothing but what is open.
///
/// # Errors
/// What `read` says, or why there is no answer.
pub fn aside(read: impl Fn() -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    let failed = |what: &str, why: &io::Error| format!("{what}: {}", plain(why));
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe", &errno.into()))?;
    let made = apart(|| {
        keep_nothing();
        let mut answer = read().map_or_else(String::into_bytes, |mut found| {
            found.insert(0, READ);
            found
        });
        if answer.is_empty() {
            answer.push(b'?');
        }
        if let Ok(sink) = theirs.try_clone() {
            // It may have ended meanwhile.
            let (Ok(()) | Err(_)) = File::from(sink).write_all(&answer);
        }
    });
    let process = match made {
        // There are threads: it is a server, which has given all that up before.
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => return read(),
        made => made.map_err(|why| failed("fork", &why))?,
    };
    drop(theirs);
    let mut answer = Vec::new();
    let heard = File::from(ours).read_to_end(&mut answer);
    let (Ok(_) | Err(_)) = process.wait();
    heard.map_err(|why| failed("pipe", &why))?;
    match answer.split_first() {
        Some((&READ, found)) => Ok(found.to_vec()),
        Some(_) => Err(String::from_utf8_lossy(&answer).into_owned()),
        None => Err("what reads it has ended".to_owned()),
    }
}
