//! Open files: how the kernel is to treat them, and what is read and written.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{
    FileHandle, FopenFlags, Generation, INodeNo, ReplyCreate, ReplyData, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use super::adapter::Adapter;
use super::answer::{attempt, hand_over, later, narrow, written};
use super::convert;
use crate::count::{self, Count, Kind};
use crate::error::Error;
use crate::fs::Fs;

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

/// Returns how the kernel is to treat an open file; `keep` says that nothing can
/// change its pages.
fn open_flags(fs: &Fs, keep: bool, handle: u64) -> FopenFlags {
    count::add(Count::OpenCached);
    // Never DIRECT_IO: it takes shared memory maps away.
    if keep || fs.keeps_pages(handle) { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

impl Adapter {
    /// Returns how the kernel is to treat an open file.
    pub(super) fn open_flags(&self, handle: u64) -> FopenFlags {
        open_flags(&self.fs, self.options.keep_pages, handle)
    }

    /// Reads a file into the thread's buffer, and answers from there.
    pub(super) fn read_file(
        &self,
        req: &Request,
        handle: u64,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let answer = attempt(Kind::Read, req, || {
                let size = usize::try_from(size).map_err(|_too_large| Error::Invalid)?;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let room = buffer.get_mut(..size).ok_or(Error::Internal)?;
                let read = self.fs.read(handle, offset, room)?;
                room.get(..read).ok_or(Error::Internal)
            });
            match answer {
                Ok(data) => reply.data(data),
                Err(errno) => reply.error(errno),
            }
        });
    }

    /// Opens a file, and answers now or later.
    pub(super) fn open_file(&self, req: &Request, ino: INodeNo, flags: i32, reply: ReplyOpen) {
        let node = match attempt(Kind::Open, req, || self.node(ino)) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let (fs, keep) = (Arc::clone(&self.fs), self.options.keep_pages);
        let done = later(Kind::Open, req.pid(), move |answer| match answer {
            Ok(handle) => reply.opened(FileHandle(handle), open_flags(&fs, keep, handle)),
            Err(errno) => reply.error(errno),
        });
        hand_over(Kind::Open, req, || {
            self.fs.open(&convert::caller(req), node, flags, done);
        });
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
        let answer = attempt(Kind::Create, req, || {
            let caller = convert::caller(req);
            let Wanted { mode, umask, flags } = wanted;
            self.fs.create(&caller, self.node(parent)?, name, mode, umask, flags)
        });
        match answer {
            Ok((entry, handle)) => reply.created(
                &self.fs.entry_at(moment, self.node(parent).unwrap_or(0), &entry).both(),
                &convert::attr(&entry.attr),
                Generation(entry.generation),
                FileHandle(handle),
                self.open_flags(handle),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    /// Writes what a caller, or the kernel for callers, hands over: data and
    /// where it goes.
    pub(super) fn write_file(
        &self,
        req: &Request,
        handle: u64,
        (offset, data): (u64, &[u8]),
        flags: WriteFlags,
        reply: ReplyWrite,
    ) {
        let answer = attempt(Kind::Write, req, || {
            // Pages of shared mappings: whose they are is not known.
            let written = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                self.fs.write_back(handle, offset, data)
            } else {
                let kill = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
                self.fs.write(&convert::caller(req), handle, offset, data, kill)
            };
            written.and_then(narrow)
        });
        written(reply, answer);
    }
}
