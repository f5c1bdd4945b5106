//! Open files: how the kernel is to treat them, and what is read and written.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use fuser::{
    BackingId, FileHandle, FopenFlags, Generation, INodeNo, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyLseek, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::adapter::Adapter;
use super::answer::{attempt, empty, failed, hand_over, later, narrow, written};
use super::passthrough::{Turn, Way};
use super::{Notifier, convert};
use crate::count::{self, Count, Kind};
use crate::error::{Error, Result};
use crate::fs::{Fs, Kept, Lending, Lent, Place};

thread_local! {
    /// Where each thread reads files into, so that no read allocates.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How a file is to be made and opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Its permission bits, before the umask.
    pub(super) mode: u32,
    /// The caller's umask.
    pub(super) umask: u32,
    /// Flags as in open(2).
    pub(super) flags: i32,
}

/// An open file that a request is about.
#[derive(Debug)]
pub(super) enum Opened {
    /// By its handle.
    Handle(u64),
    /// One that is kept open.
    Kept(Arc<Kept>),
}

impl Opened {
    /// Returns the handle.
    pub(super) fn handle(&self) -> u64 {
        match self {
            Self::Handle(handle) => *handle,
            Self::Kept(kept) => kept.handle(),
        }
    }

    /// Decides where a caller's write goes, by the offset and the flags of its descriptor
    /// (`f_flags`) that come with it.
    ///
    /// The offset of what is to be appended is the end that the kernel remembers, which
    /// the host may have moved since. Only where the kernel opens files without asking it
    /// is right: nobody else moves it, and what it has in its cache counts.
    ///
    /// What pwritev2(2) asks of one call (`RWF_APPEND`, `RWF_NOAPPEND`) shows in nothing
    /// but the offset (`fuse_write_flags` of fs/fuse/file.c). An offset that is not the
    /// end is taken for one that the kernel remembers wrongly where the descriptor
    /// appends, since that is lost data otherwise.
    fn place(&self, offset: u64, flags: i32) -> Place {
        match self {
            Self::Handle(_) if flags & libc::O_APPEND != 0 => Place::End,
            Self::Handle(_) | Self::Kept(_) => Place::At(offset),
        }
    }
}

/// Returns the handle that a request about attributes comes with; without one it
/// is about the file itself.
pub(super) fn opened(handle: Option<FileHandle>) -> Option<u64> {
    handle.map(u64::from).filter(|handle| *handle != 0)
}

/// What answers an open, now or later.
#[derive(Clone, Debug)]
struct Opening {
    fs: Arc<Fs>,
    keep_pages: bool,
    notifier: Notifier,
}

impl Opening {
    /// Decides how the kernel is to treat an open file; `register` makes the
    /// kernel open a descriptor by itself.
    ///
    /// What it opens keeps the flags of open(2) (`fuse_passthrough_open` of fs/fuse/passthrough.c).
    /// So what was opened past the cache it reads and writes by us, who are told the flags
    /// of each moment: a caller who clears this one would be refused what is not aligned.
    ///
    /// # Errors
    /// `EBUSY`; as open(2) for `O_DIRECT`.
    fn treat<'t>(
        &self,
        handle: u64,
        turn: Option<&'t Turn>,
        direct: bool,
        register: impl Fn(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Result<Treated<'t>> {
        let mut flags = FopenFlags::empty();
        flags.set(FopenFlags::FOPEN_NOFLUSH, self.fs.is_quiet(handle)?);
        let Some(turn) = turn else { return Ok(self.by_pages(handle, flags)) };
        let mut make = |file: BorrowedFd<'_>| Ok(Arc::new(register(file)?) as Lent);
        let lend = || self.fs.lend(handle, &mut make)?.downcast().map_err(|_| Error::Internal);
        // Of what goes by pages nothing has to be known.
        let lending = if turn.may_pass() { self.fs.lending(handle)? } else { Lending::Nothing };
        let (backing, by_us) = match turn.way(lending, lend)? {
            Way::Pages => return Ok(self.by_pages(handle, flags)),
            Way::Host(backing) => (backing, direct),
            Way::Mapped(backing) => (backing, true),
        };
        flags.set(FopenFlags::FOPEN_DIRECT_IO, by_us);
        count::add(Count::OpenPassthrough);
        let writes = self.fs.passed(handle)?;
        Ok(Treated { flags, backing: Some(backing), writes })
    }

    /// Has the kernel use its own cache, with what is in it if that is still true.
    ///
    /// Never `DIRECT_IO`: it takes shared memory maps away.
    fn by_pages<'t>(&self, handle: u64, mut flags: FopenFlags) -> Treated<'t> {
        count::add(Count::OpenCached);
        let keep = self.keep_pages || self.fs.keeps_pages(handle);
        flags.set(FopenFlags::FOPEN_KEEP_CACHE, keep);
        Treated { flags, backing: None, writes: false }
    }

    /// Answers an open that has succeeded.
    fn opened(
        &self,
        (ino, pid): (INodeNo, u32),
        (handle, flags): (u64, i32),
        turn: Option<Turn>,
        reply: ReplyOpen,
    ) {
        let register = |file: BorrowedFd<'_>| reply.open_backing(file);
        match self.treat(handle, turn.as_ref(), flags & libc::O_DIRECT != 0, register) {
            Ok(Treated { flags, backing, writes }) => {
                if writes {
                    // Stores to mappings change what it was told.
                    self.notifier.forget_attributes(ino.0);
                }
                match backing {
                    Some(file) => reply.opened_passthrough(FileHandle(handle), flags, file),
                    None => reply.opened(FileHandle(handle), flags),
                }
                if let Some(turn) = turn {
                    turn.keep();
                }
            }
            Err(error) => {
                self.fs.release(handle, None);
                reply.error(failed(Kind::Open, pid, error));
            }
        }
    }
}

/// How the kernel is to treat an open file.
#[derive(Debug)]
struct Treated<'t> {
    flags: FopenFlags,
    /// The file that it uses by itself.
    backing: Option<&'t BackingId>,
    /// Whether it writes that.
    writes: bool,
}

impl Adapter {
    fn opening(&self) -> Opening {
        Opening {
            fs: Arc::clone(&self.fs),
            keep_pages: self.options.keep_pages,
            notifier: self.notifier.clone(),
        }
    }

    /// Counts an open of a file, where the kernel may use that of the host.
    fn turn(&self, node: u64) -> Option<Turn> {
        self.passing.get().map(|passing| passing.enter(node))
    }

    /// Reads a file into the thread's buffer, and answers from there; `descriptor` has the
    /// flags of the caller's descriptor.
    pub(super) fn read_file(
        &self,
        req: &Request,
        (ino, handle): (INodeNo, FileHandle),
        (offset, size): (u64, u32),
        descriptor: i32,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let answer = attempt(Kind::Read, req, || {
                let size = usize::try_from(size).map_err(|_too_large| Error::Invalid)?;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let room = buffer.get_mut(..size).ok_or(Error::Internal)?;
                let file = self.file(ino, handle, false)?;
                let read = if descriptor & libc::O_DIRECT == 0 {
                    self.fs.read(file.handle(), offset, room)?
                } else {
                    self.fs.read_direct(file.handle(), offset, room)?
                };
                room.get(..read).ok_or(Error::Internal)
            });
            match answer {
                Ok(data) => reply.data(data),
                Err(errno) => reply.error(errno),
            }
        });
    }

    /// Returns a file that a request is about, perhaps one that the kernel has
    /// opened without asking: with handle 0.
    ///
    /// # Errors
    /// As [`Fs::kept`].
    pub(super) fn file(&self, ino: INodeNo, handle: FileHandle, write: bool) -> Result<Opened> {
        if handle.0 == 0 && self.fs.is_alone() {
            return self.fs.kept(self.node(ino)?, write).map(Opened::Kept);
        }
        Ok(Opened::Handle(handle.0))
    }

    /// Opens a file, and answers now or later.
    pub(super) fn open_file(&self, req: &Request, ino: INodeNo, flags: i32, reply: ReplyOpen) {
        if self.fs.is_alone() {
            // Never asked again.
            return reply.error(fuser::Errno::ENOSYS);
        }
        let node = match attempt(Kind::Open, req, || self.node(ino)) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let (opening, turn) = (self.opening(), self.turn(node));
        let by = (ino, req.pid());
        let done = later(Kind::Open, req.pid(), move |answer| match answer {
            Ok(handle) => opening.opened(by, (handle, flags), turn, reply),
            Err(errno) => reply.error(errno),
        });
        let caller = convert::caller(req);
        hand_over(Kind::Open, req, || self.fs.open(&caller, node, flags, done));
    }

    /// Makes and opens a file.
    pub(super) fn create_file(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        wanted: Wanted,
        reply: ReplyCreate,
    ) {
        let moment = self.fs.moment();
        let register = |file: BorrowedFd<'_>| reply.open_backing(file);
        let mut turn = None;
        let answer = attempt(Kind::Create, req, || {
            let caller = convert::caller(req);
            let Wanted { mode, umask, mut flags } = wanted;
            if self.fs.is_alone() {
                // It reads what it changes a part of, and knows where the end is.
                // What each caller's own flags ask for, it asks for by itself.
                flags = libc::O_RDWR | flags & libc::O_EXCL;
            }
            let parent = self.node(parent)?;
            let (entry, handle) = self.fs.create(&caller, parent, name, mode, umask, flags)?;
            // Before the kernel writes it by itself: no time at all would cost two
            // round trips. Its attributes are taken back with the release.
            let ttl = self.fs.entry_at(moment, parent, &entry).both();
            if self.fs.is_alone() {
                // Once an open was not asked, no release is sent either.
                self.fs.keep_made(entry.node, handle)?;
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                return Ok((entry, ttl, 0, Treated { flags, backing: None, writes: false }));
            }
            turn = self.turn(entry.node);
            let direct = flags & libc::O_DIRECT != 0;
            match self.opening().treat(handle, turn.as_ref(), direct, register) {
                Ok(treated) => Ok((entry, ttl, handle, treated)),
                // It is there by now: what the kernel cannot do by itself is done here.
                Err(_) if turn.as_ref().is_none_or(Turn::goes_by_pages) => {
                    let treated = self.opening().by_pages(handle, FopenFlags::empty());
                    Ok((entry, ttl, handle, treated))
                }
                Err(error) => {
                    drop(self.fs.release(handle, None));
                    self.fs.forget(entry.node, 1);
                    Err(error)
                }
            }
        });
        let (entry, ttl, handle, treated) = match answer {
            Ok(made) => made,
            Err(errno) => return reply.error(errno),
        };
        let attr = convert::attr(&entry.attr);
        let (generation, handle) = (Generation(entry.generation), FileHandle(handle));
        match treated.backing {
            Some(file) => {
                reply.created_passthrough(&ttl, &attr, generation, handle, treated.flags, file);
            }
            None => reply.created(&ttl, &attr, generation, handle, treated.flags),
        }
        if let Some(turn) = turn {
            turn.keep();
        }
    }

    /// Closes a file.
    pub(super) fn release_file(
        &self,
        req: &Request,
        (ino, flags): (INodeNo, i32),
        handle: u64,
        owner: Option<u64>,
        reply: ReplyEmpty,
    ) {
        let answer = attempt(Kind::Release, req, || {
            let passed = self.fs.release(handle, owner);
            if let (Some(file), Some(watch)) = (passed, self.fs.watch()) {
                watch.heed_contents(&file);
            }
            if let (Some(passing), Ok(node)) = (self.passing.get(), self.node(ino)) {
                passing.leave(node);
                if flags & libc::O_ACCMODE == libc::O_RDWR {
                    // Stores to mappings have changed what it was told. Of its own
                    // writes it knows.
                    self.notifier.forget_attributes(ino.0);
                }
            }
            Ok(())
        });
        empty(reply, answer);
    }

    /// Writes what a caller, or the kernel for callers, hands over: an offset and
    /// data, and the flags of the request and of the caller's descriptor.
    pub(super) fn write_file(
        &self,
        req: &Request,
        (ino, handle): (INodeNo, FileHandle),
        (offset, data): (u64, &[u8]),
        (flags, descriptor): (WriteFlags, i32),
        reply: ReplyWrite,
    ) {
        let answer = attempt(Kind::Write, req, || {
            let file = self.file(ino, handle, true)?;
            let handle = file.handle();
            // Pages that were changed in the cache: whose they are is not known.
            let written = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                self.fs.write_back(handle, offset, data)
            } else {
                let kill = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
                let place = file.place(offset, descriptor);
                let caller = convert::caller(req);
                let write = || match descriptor & libc::O_DIRECT {
                    0 => self.fs.write(&caller, handle, place, data, kill),
                    _ => self.fs.write_direct(&caller, handle, place, data, kill),
                };
                if kill { self.change_contents(ino, handle, write) } else { write() }
            };
            written.and_then(narrow)
        });
        written(reply, answer);
    }

    /// Does what changes the contents of a file. Set-id bits may go with that, of which
    /// the kernel hears nothing, so it is to ask for them again.
    pub(super) fn change_contents<T>(
        &self,
        ino: INodeNo,
        handle: u64,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let marked = self.fs.is_set_id(handle);
        let done = change();
        if marked {
            self.notifier.forget_attributes(ino.0);
        }
        done
    }

    /// Allocates or frees space of a file: a mode, from where on, and how much.
    pub(super) fn allocate_file(
        &self,
        req: &Request,
        (ino, handle): (INodeNo, FileHandle),
        (mode, offset, length): (i32, u64, u64),
        reply: ReplyEmpty,
    ) {
        let answer = attempt(Kind::Fallocate, req, || {
            let handle = self.file(ino, handle, true)?.handle();
            let allocate =
                || self.fs.fallocate(&convert::caller(req), handle, mode, offset, length);
            let done = self.change_contents(ino, handle, allocate);
            if done.is_err() {
                // A part of it may be there, and the file longer: the kernel believes
                // that nothing has changed, and nobody hears of it.
                self.notifier.forget_attributes(ino.0);
            }
            done
        });
        empty(reply, answer);
    }

    /// Finds data or a hole of a file, from an offset on.
    pub(super) fn seek_file(
        &self,
        req: &Request,
        (ino, handle): (INodeNo, FileHandle),
        (offset, whence): (i64, i32),
        reply: ReplyLseek,
    ) {
        let file = match attempt(Kind::Lseek, req, || self.file(ino, handle, false)) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno),
        };
        let (fs, pid) = (Arc::clone(&self.fs), req.pid());
        let seek = move || {
            let found = fs.lseek(file.handle(), offset, whence);
            match found.and_then(|at| i64::try_from(at).map_err(|_too_large| Error::Internal)) {
                Ok(at) => reply.offset(at),
                Err(error) => reply.error(failed(Kind::Lseek, pid, error)),
            }
        };
        hand_over(Kind::Lseek, req, || match self.fs.is_alone() {
            // What it has in its cache the kernel writes when it drops that, not before it
            // asks (`fuse_lseek` of fs/fuse/file.c): data would be taken for a hole.
            true => self.notifier.forget_pages_first(ino.0, seek),
            false => seek(),
        });
    }
}
