//! Each request of the kernel, handed to the file system and answered.
//!
//! Nothing is decided here but what belongs to the transport. Every operation
//! is answered on purpose, since the kernel remembers an `ENOSYS` for as long
//! as the mount lives.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, FOREVER};
use super::answer::{attempt, empty, failed, hand_over, narrow, written, xattr};
use super::files::{Opened, Wanted, opened};
use super::{capabilities, convert};
use crate::count::{self, Kind};
use crate::error::{Errno, Error};
use crate::fs::{SetAttr, late};
use crate::tree::ANCHOR;

/// The most that is copied in one request, in bytes: a copy holds a worker, and
/// cannot be interrupted. Callers go on where it ended, as copy_file_range(2)
/// tells them to.
const MAX_COPY: u64 = 32 << 20;

/// The bit of an ioctl's number that says it takes data in: ioctl(2).
const IOC_WRITE: u32 = 1 << 30;

impl Filesystem for Adapter {
    fn init(&mut self, req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.options.exclusive &= self.fs.may_be_alone();
        let agreed = capabilities::negotiate(config, &self.options)?;
        if agreed.expires {
            self.notifier.can_expire();
        } else {
            // What cannot be taken back is not told for long.
            if self.fs.watch().is_some() {
                log::warn!(
                    "source: watched, but this kernel cannot be told of names (Linux 6.2 or later \
                     can): {}",
                    late("it")
                );
            }
            self.fs.is_deaf_now();
        }
        if agreed.alone {
            self.fs.be_alone();
        }
        // The count of this lookup is never taken back: the root stays.
        let root = self
            .fs
            .root(&convert::caller(req))
            .map_err(|error| io::Error::from_raw_os_error(error.errno().0))?;
        self.root = root.node;
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent) {
            Ok(node) if name == "." || name == ".." => {
                self.look_up_number(req, node, name == "..", reply)
            }
            Ok(parent) => self.look_up(req, parent, name, reply),
            Err(_anchor) => self.look_up_in_anchor(req, name, reply),
        }
    }

    fn forget(&self, req: &Request, ino: INodeNo, count: u64) {
        // Node 1 is not counted. There is no reply to a forget.
        count::request(Kind::Forget);
        if ino.0 != ANCHOR {
            hand_over(Kind::Forget, req, || self.fs.forget(ino.0, count));
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(anchor) = self.anchor(ino) {
            return reply.attr(&FOREVER, &convert::attr(&anchor));
        }
        let moment = self.fs.moment();
        let answer = attempt(Kind::Getattr, req, || {
            self.fs.getattr(&convert::caller(req), self.node(ino)?, opened(fh))
        });
        self.attr(reply, moment, answer);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        // Sent only with a writeback cache.
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = attempt(Kind::Setattr, req, || {
            let change = SetAttr {
                mode,
                uid: convert::new_owner(uid)?,
                gid: convert::new_owner(gid)?,
                size,
                atime: atime.map(convert::set_time),
                mtime: mtime.map(convert::set_time),
            };
            Ok((self.node(ino)?, change))
        });
        self.change(req, change, opened(fh), reply);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        match attempt(Kind::Readlink, req, || self.fs.readlink(self.node(ino)?)) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let moment = self.fs.moment();
        let answer = attempt(Kind::Mknod, req, || {
            let (caller, rdev) = (convert::caller(req), convert::decode_device(rdev));
            self.fs.mknod(&caller, self.node(parent)?, name, mode, umask, rdev)
        });
        self.entry(reply, (moment, parent), answer);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let moment = self.fs.moment();
        let answer = attempt(Kind::Mkdir, req, || {
            self.fs.mkdir(&convert::caller(req), self.node(parent)?, name, mode, umask)
        });
        self.entry(reply, (moment, parent), answer);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            attempt(Kind::Unlink, req, || {
                self.fs.unlink(&convert::caller(req), self.node(parent)?, name)
            }),
        );
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            attempt(Kind::Rmdir, req, || {
                self.fs.rmdir(&convert::caller(req), self.node(parent)?, name)
            }),
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let moment = self.fs.moment();
        let answer = attempt(Kind::Symlink, req, || {
            let caller = convert::caller(req);
            self.fs.symlink(&caller, self.node(parent)?, name, target.as_os_str())
        });
        self.entry(reply, (moment, parent), answer);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let answer = attempt(Kind::Rename, req, || {
            let (from, to) = (self.node(parent)?, self.node(new_parent)?);
            let flags = convert::rename_flags(flags)?;
            self.fs.rename(&convert::caller(req), (from, name), (to, new_name), flags)
        });
        if answer.is_err() {
            // A whiteout that was made and taken back has moved times.
            self.notifier.forget_attributes(parent.0);
        }
        empty(reply, answer);
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let moment = self.fs.moment();
        let answer = attempt(Kind::Link, req, || {
            let (node, parent) = (self.node(ino)?, self.node(parent)?);
            self.fs.link(&convert::caller(req), node, parent, name)
        });
        self.linked(reply, (moment, parent), answer);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(req, ino, flags.0, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let wanted = Wanted { mode, umask, flags };
        self.create_file(req, parent, name, wanted, reply);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        descriptor: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(req, (ino, fh), (offset, size), descriptor.0, reply);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        descriptor: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.write_file(req, (ino, fh), (offset, data), (flags, descriptor.0), reply);
    }

    fn flush(
        &self,
        req: &Request,
        _: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.fs.is_alone() {
            // Never asked again: it has flushed its cache, and the locks are its own.
            return reply.error(fuser::Errno::ENOSYS);
        }
        empty(reply, attempt(Kind::Flush, req, || self.fs.flush(fh.0, lock_owner.0)));
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.release_file(req, (ino, flags.0), fh.0, lock_owner.map(|owner| owner.0), reply);
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let sync = || self.fs.fsync(self.file(ino, fh, false)?.handle(), data_only);
        empty(reply, attempt(Kind::Fsync, req, sync));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.fs.is_alone() {
            // Never asked again; listings are kept.
            return reply.error(fuser::Errno::ENOSYS);
        }
        match attempt(Kind::Opendir, req, || {
            self.fs.opendir(&convert::caller(req), self.node(ino)?)
        }) {
            Ok(handle) => reply.opened(FileHandle(handle), self.dir_flags(ino)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, req: &Request, _: INodeNo, _: FileHandle, _: u64, reply: ReplyDirectory) {
        count::request(Kind::Readdir);
        // Never asked: readdirplus is agreed on, and always used. A plain
        // listing would need kinds that the host may not tell.
        reply.error(failed(Kind::Readdir, req.pid(), Error::Unsupported));
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list(req, (ino, fh.0), offset, reply);
    }

    fn releasedir(
        &self,
        req: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        empty(
            reply,
            attempt(Kind::Releasedir, req, || {
                self.fs.releasedir(fh.0);
                Ok(())
            }),
        );
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let sync = || self.fs.fsyncdir(self.dir(req, ino, fh.0)?.handle, data_only);
        empty(reply, attempt(Kind::Fsyncdir, req, sync));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let node = if ino.0 == ANCHOR { self.root } else { ino.0 };
        match attempt(Kind::Statfs, req, || self.fs.statfs(node)) {
            Ok(s) => reply.statfs(
                s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        // Always 0 on Linux.
        _: u32,
        reply: ReplyEmpty,
    ) {
        empty(
            reply,
            attempt(Kind::Setxattr, req, || {
                self.fs.setxattr(&convert::caller(req), self.node(ino)?, name, value, flags)
            }),
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let answer = attempt(Kind::Getxattr, req, || match self.anchor(ino) {
            None => self.fs.getxattr(&convert::caller(req), self.node(ino)?, name),
            Some(_) => Err(Error::Os(Errno(libc::ENODATA))),
        });
        xattr(reply, size, answer);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let answer = attempt(Kind::Listxattr, req, || {
            self.fs.listxattr(&convert::caller(req), self.node(ino)?)
        });
        xattr(reply, size, answer);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            attempt(Kind::Removexattr, req, || {
                self.fs.removexattr(&convert::caller(req), self.node(ino)?, name)
            }),
        );
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.check_access(req, ino, mask, reply);
    }

    fn getlk(
        &self,
        req: &Request,
        _: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let lock = (typ, start, end, pid);
        self.test_lock(req, (fh, lock_owner), lock, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let lock = (typ, start, end, pid);
        self.set_lock(req, ino, (fh, lock_owner), (lock, sleep), reply);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        count::request(Kind::Bmap);
        // Only for mounts of a block device (fuseblk); FIBMAP is then EINVAL.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: IoctlFlags,
        command: u32,
        input: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        let directory = flags.contains(IoctlFlags::FUSE_IOCTL_DIR);
        let answer = attempt(Kind::Ioctl, req, || {
            let caller = convert::caller(req);
            let dir = directory.then(|| self.dir(req, ino, fh.0)).transpose()?;
            let file = dir.as_ref().map(|dir| Opened::Handle(dir.handle));
            let file = file.map_or_else(|| self.file(ino, fh, false), Ok)?;
            let output = self.fs.ioctl(&caller, file.handle(), directory, command, input)?;
            if narrow(output.len())? <= room { Ok(output) } else { Err(Error::Invalid) }
        });
        match answer {
            Ok(output) => {
                // The flags may show in the attributes, and ctime does; the
                // kernel keeps what it has cached.
                if command & IOC_WRITE != 0 {
                    self.notifier.forget_attributes(ino.0);
                }
                reply.ioctl(0, &output);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        count::request(Kind::Poll);
        // Regular files are always ready; the kernel says so by itself after
        // this. Fifos and sockets never come here.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.allocate_file(req, (ino, fh), (mode, offset, length), reply);
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.seek_file(req, (ino, fh), (offset, whence), reply);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        // None are defined.
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        written(
            reply,
            attempt(Kind::CopyFileRange, req, || {
                let source = self.file(ino_in, handle_in, false)?;
                let target = self.file(ino_out, handle_out, true)?;
                let (from, to) = ((source.handle(), offset_in), (target.handle(), offset_out));
                let (caller, length) = (convert::caller(req), length.min(MAX_COPY));
                let copy = || self.fs.copy_file_range(&caller, from, to, length);
                self.change_contents(ino_out, to.0, copy).and_then(narrow)
            }),
        );
    }
}
