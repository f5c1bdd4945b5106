//! Each request, answered in a turn of its worker.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;
use super::near::Near;
use super::turns::Turns;

/// An [`Adapter`] whose workers take turns.
#[derive(Debug)]
pub(super) struct Served {
    adapter: Adapter,
    turns: Arc<Turns>,
}

impl Served {
    /// Has the workers of an adapter take turns, as [`Turns::new`] has it.
    pub(super) fn new(adapter: Adapter, many: usize, near: Option<Near>) -> Self {
        Self { adapter, turns: Arc::new(Turns::new(many, near)) }
    }
}

/// From how many bytes on a request is of much data, of which several come at once.
const MUCH: usize = 64 << 10;

/// Hands requests on, each in a turn; those of data with how many bytes.
macro_rules! in_turn {
    ($($(@($bytes:expr))? $request:ident($($given:ident: $type:ty),*);)*) => {
        $(fn $request(&self, req: &Request, $($given: $type),*) {
            let _turn = self.turns.take(req.pid(), in_turn!(much $($bytes)?));
            self.adapter.$request(req, $($given),*);
        })*
    };
    (much $bytes:expr) => { $bytes >= MUCH };
    (much) => { false };
}

impl Filesystem for Served {
    fn init(&mut self, req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.adapter.init(req, config)
    }

    /// Many may come as one request, and the library does not tell where that ends.
    fn forget(&self, req: &Request, ino: INodeNo, count: u64) {
        self.turns.tidy();
        self.adapter.forget(req, ino, count);
    }

    in_turn! {
        lookup(parent: INodeNo, name: &OsStr, reply: ReplyEntry);
        getattr(ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr);
        setattr(ino: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>,
            size: Option<u64>, atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>,
            ctime: Option<SystemTime>, fh: Option<FileHandle>, crtime: Option<SystemTime>,
            chgtime: Option<SystemTime>, bkuptime: Option<SystemTime>,
            flags: Option<BsdFileFlags>, reply: ReplyAttr);
        readlink(ino: INodeNo, reply: ReplyData);
        mknod(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry);
        mkdir(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
        unlink(parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
        rmdir(parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
        symlink(parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry);
        rename(parent: INodeNo, name: &OsStr, new_parent: INodeNo, new_name: &OsStr,
            flags: RenameFlags, reply: ReplyEmpty);
        link(ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry);
        open(ino: INodeNo, flags: OpenFlags, reply: ReplyOpen);
        create(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32,
            reply: ReplyCreate);
        @(size as usize) read(ino: INodeNo, fh: FileHandle, offset: u64, size: u32, flags: OpenFlags,
            owner: Option<LockOwner>, reply: ReplyData);
        @(data.len()) write(ino: INodeNo, fh: FileHandle, offset: u64, data: &[u8], how: WriteFlags,
            flags: OpenFlags, owner: Option<LockOwner>, reply: ReplyWrite);
        flush(ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty);
        release(ino: INodeNo, fh: FileHandle, flags: OpenFlags, owner: Option<LockOwner>,
            flush: bool, reply: ReplyEmpty);
        fsync(ino: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty);
        opendir(ino: INodeNo, flags: OpenFlags, reply: ReplyOpen);
        readdir(ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory);
        readdirplus(ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus);
        releasedir(ino: INodeNo, fh: FileHandle, flags: OpenFlags, reply: ReplyEmpty);
        fsyncdir(ino: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty);
        statfs(ino: INodeNo, reply: ReplyStatfs);
        setxattr(ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32,
            reply: ReplyEmpty);
        getxattr(ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr);
        listxattr(ino: INodeNo, size: u32, reply: ReplyXattr);
        removexattr(ino: INodeNo, name: &OsStr, reply: ReplyEmpty);
        access(ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty);
        getlk(ino: INodeNo, fh: FileHandle, owner: LockOwner, start: u64, end: u64, kind: i32,
            pid: u32, reply: ReplyLock);
        setlk(ino: INodeNo, fh: FileHandle, owner: LockOwner, start: u64, end: u64, kind: i32,
            pid: u32, sleep: bool, reply: ReplyEmpty);
        bmap(ino: INodeNo, block: u32, index: u64, reply: ReplyBmap);
        ioctl(ino: INodeNo, fh: FileHandle, flags: IoctlFlags, command: u32, input: &[u8],
            room: u32, reply: ReplyIoctl);
        poll(ino: INodeNo, fh: FileHandle, notifier: PollNotifier, events: PollEvents,
            flags: PollFlags, reply: ReplyPoll);
        fallocate(ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32,
            reply: ReplyEmpty);
        lseek(ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
        copy_file_range(ino_in: INodeNo, handle_in: FileHandle, offset_in: u64,
            ino_out: INodeNo, handle_out: FileHandle, offset_out: u64, length: u64,
            flags: CopyFileRangeFlags, reply: ReplyWrite);
    }
}

#[cfg(test)]
mod tests {
    use crate::count::Kind;

    #[test]
    fn no_request_is_left_to_the_library() {
        for kind in Kind::ALL {
            let handed_on = [format!(" {}(ino", kind.word()), format!(" {}(parent", kind.word())];
            let itself = format!("fn {}(", kind.word());
            let here = |text: &String| include_str!("served.rs").contains(text.as_str());
            assert!(handed_on.iter().chain([&itself]).any(here), "{kind:?}");
        }
    }
}
