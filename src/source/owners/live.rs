//! Who works on the records of a source: any number of servers, of which one at a
//! time changes what is kept of a file, or one command that changes records behind
//! them.
//!
//! The locks are of fcntl(2), of ranges of one file (`F_OFD_SETLK`): whatever mount
//! namespace a server is in, it is the same file, the kernel wakes who waits, and
//! what a process holds ends with it. The file belongs to the server's user, in a
//! directory that nobody else may enter, so that nobody else can lock it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc::{c_short, flock, off_t};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::cred::{Credentials, SetId, Who};

/// The byte that is held for as long as records are worked on. Those before it are
/// for single files.
const RECORDS: u8 = 254;

/// The byte that keeps the file there.
const THERE: u8 = 255;

/// How often a file is opened again that others remove as they end.
const TRIES: usize = 64;

/// Where the file of a source's locks is.
#[derive(Debug)]
pub struct Place {
    /// A directory of the server's user.
    pub dir: OwnedFd,
    /// The name in it.
    pub name: OsString,
}

/// A hold on the records of a source, for as long as this is kept; by default one
/// that keeps nobody away.
#[derive(Debug, Default)]
pub struct Hold {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    place: Place,
    file: File,
}

/// A lock that ends with this.
#[derive(Debug)]
pub struct Locked<'a> {
    file: &'a File,
    byte: u8,
}

impl Hold {
    /// Holds the records as one server of perhaps several; `place` is asked again
    /// while others remove it. Without a place nobody is kept away.
    ///
    /// # Errors
    /// As open(2); `EAGAIN` if a command has them for itself.
    pub fn shared(place: &dyn Fn() -> io::Result<Option<Place>>) -> io::Result<Self> {
        Self::take(place, libc::F_RDLCK)
    }

    /// Holds the records for oneself alone.
    ///
    /// # Errors
    /// As open(2); `EAGAIN` if a server or another command holds them.
    pub fn alone(place: &dyn Fn() -> io::Result<Option<Place>>) -> io::Result<Self> {
        Self::take(place, libc::F_WRLCK)
    }

    fn take(place: &dyn Fn() -> io::Result<Option<Place>>, how: i32) -> io::Result<Self> {
        for _ in 0..TRIES {
            let Some(place) = place()? else { return Ok(Self::default()) };
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let opened =
                openat(&place.dir, place.name.as_os_str(), flags, Mode::from_bits_truncate(0o600));
            let file = match opened {
                Ok(file) => File::from(file),
                Err(Errno::ENOENT) => continue,
                Err(Errno::EROFS) => return Ok(Self::default()),
                Err(errno) => return Err(errno.into()),
            };
            match wait(&file, THERE, libc::F_RDLCK) {
                Ok(()) => {}
                // Network file systems may have no such lock: then nobody has one.
                Err(Errno::EOPNOTSUPP | Errno::ENOLCK | Errno::EINVAL) => {
                    return Ok(Self::default());
                }
                Err(errno) => return Err(errno.into()),
            }
            if is_there(&place, &file) {
                set(&file, RECORDS, how)?;
                return Ok(Self { held: Some(Held { place, file }) });
            }
        }
        Err(Errno::EAGAIN.into())
    }

    /// Waits until nobody else has one of the bytes 0 to 253.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn lock(&self, byte: u8) -> nix::Result<Option<Locked<'_>>> {
        let Some(Held { file, .. }) = &self.held else { return Ok(None) };
        wait(file, byte, libc::F_WRLCK)?;
        Ok(Some(Locked { file, byte }))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It fails for no lock that was taken.
        let _freed = set(self.file, self.byte, libc::F_UNLCK);
    }
}

impl Hold {
    /// Removes the file of the locks, if nobody else has it open for this: nobody is
    /// served any more.
    pub fn leave(&self) {
        if let Some(held) = &self.held {
            held.remove();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Held {
    /// Removes the file, if nobody else has it open for this.
    fn remove(&self) {
        let server = Credentials::of_process()
            .is_ok_and(|own| own.assume(Who::Server, SetId::Unaffected).is_ok());
        if server
            && set(&self.file, THERE, libc::F_WRLCK).is_ok()
            && is_there(&self.place, &self.file)
        {
            let (Place { dir, name }, flags) = (&self.place, UnlinkatFlags::NoRemoveDir);
            // What stays is used by whoever comes next.
            let _removed = unlinkat(dir, name.as_os_str(), flags);
        }
    }
}

/// Reports whether the name still leads to the file.
fn is_there(place: &Place, file: &File) -> bool {
    let there =
        fstatat(&place.dir, place.name.as_os_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
    match (there, fstat(file)) {
        (Ok(there), Ok(open)) => (there.st_dev, there.st_ino) == (open.st_dev, open.st_ino),
        _ => false,
    }
}

fn set(file: &File, byte: u8, kind: i32) -> nix::Result<()> {
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&range(byte, kind)?)) {
        Ok(_) => Ok(()),
        // Either may come where a lock is in the way.
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        Err(errno) => Err(errno),
    }
}

fn wait(file: &File, byte: u8, kind: i32) -> nix::Result<()> {
    let range = range(byte, kind)?;
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLKW(&range)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Returns a lock of one byte as fcntl(2) takes it.
fn range(byte: u8, kind: i32) -> nix::Result<flock> {
    let short = |number: i32| c_short::try_from(number).map_err(|_| Errno::EINVAL);
    Ok(flock {
        l_type: short(kind)?,
        l_whence: short(libc::SEEK_SET)?,
        l_start: off_t::from(byte),
        l_len: 1,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// In the child: where the lock is.
    const VARIABLE: &str = "IDMAPFS_TEST_LIVE";

    fn at(dir: &Path) -> impl Fn() -> io::Result<Option<Place>> {
        move || {
            std::fs::create_dir_all(dir)?;
            Ok(Some(Place { dir: File::open(dir)?.into(), name: "lock".into() }))
        }
    }

    /// Waits until records can be had alone: a child that another test has just forked has
    /// what was held for a moment longer.
    fn soon_alone(place: &dyn Fn() -> io::Result<Option<Place>>) -> Hold {
        let start = Instant::now();
        loop {
            match Hold::alone(place) {
                Err(_) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                held => return held.unwrap(),
            }
        }
    }

    /// Whoever is the last to end removes the file.
    fn is_left(place: &dyn Fn() -> io::Result<Option<Place>>, dir: &Path) {
        let start = Instant::now();
        while dir.join("lock").exists() && start.elapsed() < PATIENCE {
            drop(soon_alone(place));
        }
        assert!(!dir.join("lock").exists());
    }

    #[test]
    fn servers_share_records_and_a_command_has_them_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = at(dir.path());
        let busy = |held: io::Result<Hold>| held.unwrap_err().raw_os_error() == Some(libc::EAGAIN);
        let servers = [Hold::shared(&place).unwrap(), Hold::shared(&place).unwrap()];
        assert!(busy(Hold::alone(&place)));
        drop(servers);
        let command = soon_alone(&place);
        assert!(busy(Hold::shared(&place)) && busy(Hold::alone(&place)));
        drop(command);
        drop(soon_alone(&place));
        Hold::shared(&place).unwrap();
        Hold::shared(&|| Ok(None)).unwrap();
        is_left(&place, dir.path());
    }

    /// Each removes the file as it ends, and perhaps its directory.
    #[test]
    fn the_file_comes_and_goes_and_is_always_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("inner");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        // It may be removed between its making and its opening.
                        let Ok(hold) = Hold::shared(&at(&place)) else { continue };
                        let locked = hold.lock(7).unwrap().unwrap();
                        let before = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(before, 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(locked);
                        drop(hold);
                        let _in_use = std::fs::remove_dir(&place);
                    }
                });
            }
        });
    }

    /// The child holds a byte until it is killed.
    #[test]
    fn child_of_a_kill() {
        let Some(dir) = std::env::var_os(VARIABLE) else { return };
        let hold = Hold::shared(&at(Path::new(&dir))).unwrap();
        let _locked = hold.lock(3).unwrap();
        std::fs::write(Path::new(&dir).join("ready"), "").unwrap();
        std::thread::sleep(PATIENCE);
    }

    #[test]
    fn a_killed_server_frees_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "source::owners::live::tests::child_of_a_kill"])
            .env(VARIABLE, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !dir.path().join("ready").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let place = at(dir.path());
        let hold = Hold::shared(&place).unwrap();
        std::thread::scope(|scope| {
            let (told, heard) = mpsc::channel();
            scope.spawn(|| {
                let locked = hold.lock(3).unwrap();
                told.send(()).unwrap();
                drop((locked, told));
            });
            // Another file is nobody's, that one is the child's.
            drop(hold.lock(4).unwrap());
            assert!(heard.recv_timeout(Duration::from_millis(200)).is_err());
            child.kill().unwrap();
            heard.recv_timeout(PATIENCE).unwrap();
        });
        child.wait().unwrap();
        drop(hold);
        is_left(&place, dir.path());
    }
}
