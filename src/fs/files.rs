//! Open files: what is done through a handle.

use std::ffi::OsStr;
use std::sync::Arc;

use super::alone::is_full;
use super::ioctl::only_appends;
use super::names::Wanted;
use super::open::Open;
use super::opens::Closed;
use super::{Done, Entry, Fs};
use crate::error::{Error, Result};
use crate::id::Caller;
use crate::source::{NewKind, Node, Place, Rights};

/// The open flags that the source is asked for.
///
/// The rest is the kernel's business, or not ours to do: `O_TRUNC` comes as a
/// change of size, an open of ours never waits, and flags of its own
/// (`FMODE_EXEC`) come with an exec.
const FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NOATIME
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT;

impl Fs {
    /// Opens a file; `done` is given its handle, perhaps later and on another
    /// thread: a lease of another process has to be broken first.
    ///
    /// # Errors
    /// `done` is given `EAGAIN` for a leased file and `O_NONBLOCK`, `EINTR` if
    /// the wait was interrupted, `ENFILE` if the caller holds too many files;
    /// as open(2).
    pub fn open(&self, caller: &Caller, node: u64, flags: i32, done: Done<u64>) {
        let number = node;
        let node = match self.node(number) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let share = self
            .may_open(caller, (number, &node), flags)
            .and_then(|()| self.lets_open((number, &node), flags))
            .and_then(|()| self.opens.share(&self.payer(caller)));
        let share = match share {
            Ok(share) => share,
            Err(error) => return done(Err(error)),
        };
        let opened = self.tree.with_room(|| self.source.open(&node, flags & FLAGS));
        let disarmed = match &opened {
            Err(error) if !error.is(libc::EAGAIN) => Ok(()),
            // A file that waits for a lease is opened elsewhere.
            Ok(_) | Err(_) => self.disarm(caller, (number, &node), flags),
        };
        match disarmed.and(opened) {
            Ok(file) => {
                let open = Open::new(number, file, flags, Some(node), share);
                done(Ok(self.opens.insert(open)));
            }
            Err(error) if error.is(libc::EAGAIN) && flags & libc::O_NONBLOCK == 0 => {
                let (source, opens) = (Arc::clone(&self.source), Arc::clone(&self.opens));
                // Who waits holds the node already.
                let mut share = Some(share);
                let attempt = move || {
                    let file = source.open(&node, flags & FLAGS)?;
                    let share = share.take().ok_or(Error::Internal)?;
                    Ok(opens.insert(Open::new(number, file, flags, Some(node.clone()), share)))
                };
                self.waits.wait(number, caller.pid, attempt, done);
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Makes and opens a file.
    ///
    /// A file that is there already is never opened: the kernel asked because
    /// it knew of none, and so has not checked whether the caller may.
    ///
    /// # Errors
    /// `Stale` (`ESTALE`) if the name exists and `O_EXCL` is not set: the
    /// kernel then looks again. `ENFILE` if the caller holds too many files; as
    /// open(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to store.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
    ) -> Result<(Entry, u64)> {
        let share = self.opens.share(&self.payer(caller))?;
        let what = NewKind::Regular(Some(flags & FLAGS));
        let make = || self.make(caller, parent, name, Wanted { what, mode, umask });
        let made = match make() {
            Err(error) if self.is_alone() && is_full(error) => {
                self.alone.shrink();
                make()
            }
            made => made,
        };
        let (entry, file) = made.map_err(|error| {
            let open = error.is(libc::EEXIST) && flags & libc::O_EXCL == 0;
            if open { Error::Stale } else { error }
        })?;
        let Some(file) = file else {
            self.forget(entry.node, 1);
            return Err(Error::Internal);
        };
        Ok((entry, self.opens.insert(Open::new(entry.node, file, flags, None, share))))
    }

    /// Reads into a buffer; returns how many bytes.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read(&self, handle: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.opens.get(handle)?.file.read(offset, buf)
    }

    /// Reads past the source's cache.
    ///
    /// # Errors
    /// As pread(2) with `O_DIRECT`.
    pub fn read_direct(&self, handle: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.opens.get(handle)?.file.read_direct(offset, buf)
    }

    /// Writes; `kill` is set where the caller may not keep set-id bits.
    ///
    /// # Errors
    /// As pwrite(2); `Denied` (`EPERM`) to write at an offset what was opened to be
    /// appended to and may only be appended to: the host does not let such a file lose
    /// `O_APPEND` (`setfl` of fs/fcntl.c), the kernel of our callers knows nothing of it.
    pub fn write(
        &self,
        caller: &Caller,
        handle: u64,
        place: Place,
        data: &[u8],
        kill: bool,
    ) -> Result<usize> {
        let (open, rights) = self.to_write(caller, handle, place, kill)?;
        open.file.write(place, data, rights)
    }

    /// Writes past the source's cache.
    ///
    /// # Errors
    /// As [`Fs::write`], and pwrite(2) with `O_DIRECT`.
    pub fn write_direct(
        &self,
        caller: &Caller,
        handle: u64,
        place: Place,
        data: &[u8],
        kill: bool,
    ) -> Result<usize> {
        let (open, rights) = self.to_write(caller, handle, place, kill)?;
        open.file.write_direct(place, data, rights)
    }

    /// Returns what a caller writes to, and with which rights.
    fn to_write(
        &self,
        caller: &Caller,
        handle: u64,
        place: Place,
        kill: bool,
    ) -> Result<(Arc<Open>, Rights)> {
        let open = self.opens.get(handle)?;
        if open.appends && place != Place::End && only_appends(&*open.file) {
            return Err(Error::Denied);
        }
        let seen = || Some(self.seen(open.number, open.file.getattr().ok()?));
        let rights = self.write_rights(caller, kill, seen);
        Ok((open, rights))
    }

    /// Writes what callers changed through shared mappings, at the offset even
    /// if the handle, which is one of several, is to append.
    ///
    /// Who changed it is not known, so no reserve is touched; no set-id bit
    /// goes, as stores to a mapping take none.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn write_back(&self, handle: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let rights = Rights { keep_setid: true, reserve: false };
        self.opens.get(handle)?.file.write(Place::At(offset), data, rights)
    }

    /// A descriptor was closed: drops the lock owner's locks on the file.
    ///
    /// Locks that the owner waits for are still waited for, as by the kernel.
    ///
    /// # Errors
    /// As close(2).
    pub fn flush(&self, handle: u64, owner: u64) -> Result<()> {
        let open = self.opens.get(handle)?;
        self.unlock(open.number, owner);
        self.tree.with_room(|| open.file.flush())
    }

    /// The last descriptor was closed: the handle is no more, nor are locks
    /// that were set through it alone, or by the owner given.
    ///
    /// Returns the node whose contents are to be watched again, if the kernel has
    /// written it by itself.
    pub fn release(&self, handle: u64, owner: Option<u64>) -> Option<Node> {
        let Closed { number, unlocked, heed } = self.opens.remove(handle)?;
        if let Some(owner) = owner {
            self.unlock(number, owner);
        }
        if unlocked {
            self.waits.kick(number);
        }
        heed
    }

    /// Writes to disk.
    ///
    /// # Errors
    /// As fsync(2), fdatasync(2).
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let open = self.opens.get(handle)?;
        self.tree.with_room(|| open.file.sync(data_only))
    }

    /// Allocates or frees space; `mode` as in fallocate(2).
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: u64,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let open = self.opens.get(handle)?;
        let file = &open.file;
        let rights = self.content_rights(caller, &self.seen(open.number, file.getattr()?));
        file.allocate(mode, offset, length, rights)
    }

    /// Finds data or a hole; other kinds of seek are the kernel's.
    ///
    /// # Errors
    /// As lseek(2): `ENXIO`; `Invalid` (`EINVAL`) for another `whence`.
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<u64> {
        if !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) {
            return Err(Error::Invalid);
        }
        let open = self.opens.get(handle)?;
        self.tree.with_room(|| open.file.seek(offset, whence))
    }

    /// Copies between open files; `from` and `to` are handle and offset.
    ///
    /// # Errors
    /// As copy_file_range(2): `EXDEV` between file systems of the source.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> Result<usize> {
        let (source, target) = (self.opens.get(from.0)?, self.opens.get(to.0)?);
        let rights = self.content_rights(caller, &self.seen(target.number, target.file.getattr()?));
        let copy = || source.file.copy_to(from.1, target.file.as_ref(), to.1, length, rights);
        self.tree.with_room(copy)
    }

    fn unlock(&self, number: u64, owner: u64) {
        if self.opens.drop_owner(number, owner) {
            self.waits.kick(number);
        }
    }
}
