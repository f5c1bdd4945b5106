//! A server that does the host's call for each request and nothing else: what any server
//! takes on this machine, with this library.
//!
//! It shows a mount whose ids the kernel shifts, or of an image, to one user. It hears of no change, checks
//! nothing, finds a file by whatever has its name now, and forgets what it knows only
//! when the kernel does: a floor for times, and no file system to use.

mod nodes;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use fuser::{
    BackingId, BsdFileFlags, Config, Errno, FileAttr, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow, WriteFlags,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::About as _;
use crate::mounts::VIEW_ID;
use nodes::{Nodes, SetAttr};

/// The first word of a process that serves; the source and the mount point come after it,
/// and [`PASS`] where the kernel is to read and write by itself.
pub const WORD: &str = "--floor";
/// Has the kernel read and write by itself.
pub const PASS: &str = "passthrough";

/// How long the kernel may keep what it was told.
const EVER: Duration = Duration::from_secs(1 << 30);
/// The most that comes in one request, in bytes.
const MUCH: u32 = 1 << 20;

/// Serves until the mount is gone.
///
/// # Errors
/// It cannot be mounted.
pub fn main(words: &[OsString]) -> io::Result<ExitCode> {
    let [_, source, point, rest @ ..] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Its threads inherit them: files are made as the one user that is served. Of an image
    // they read what everybody may.
    setfsgid(Gid::from_raw(VIEW_ID));
    setfsuid(Uid::from_raw(VIEW_ID));
    let (passes, nodes) = (rest.iter().any(|word| word == PASS), Nodes::new(source.as_ref())?);
    let mut config = Config::default();
    // As many as ours has for clients that wait.
    (config.n_threads, config.clone_fd, config.acl) = (Some(2), true, SessionACL::All);
    let name = MountOption::FSName("floor".to_owned());
    config.mount_options = vec![MountOption::DefaultPermissions, name];
    let floor = Floor {
        nodes,
        passes,
        files: Mutex::default(),
        lent: Mutex::default(),
        next: AtomicU64::new(1),
    };
    fuser::mount(floor, point, &config).about("floor")?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Floor {
    nodes: Nodes,
    passes: bool,
    files: Mutex<HashMap<u64, Open>>,
    /// What the kernel reads and writes by itself, by inode: for all who have it open the same.
    lent: Mutex<HashMap<u64, Weak<BackingId>>>,
    next: AtomicU64,
}

/// A file that is open, and what is lent of it as long.
type Open = (Arc<File>, Option<Arc<BackingId>>);

impl Floor {
    fn keep(&self, file: File, lent: Option<Arc<BackingId>>) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.files).insert(number, (Arc::new(file), lent));
        FileHandle(number)
    }

    fn lend(
        &self,
        ino: u64,
        register: impl FnOnce() -> io::Result<BackingId>,
    ) -> io::Result<Option<Arc<BackingId>>> {
        if !self.passes {
            return Ok(None);
        }
        let mut lent = lock(&self.lent);
        if let Some(known) = lent.get(&ino).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        let new = Arc::new(register()?);
        lent.insert(ino, Arc::downgrade(&new));
        Ok(Some(new))
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let found = lock(&self.files).get(&handle.0).map(|(file, _)| Arc::clone(file));
        found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EBADF))
    }

    fn close(&self, handle: FileHandle) {
        let gone = lock(&self.files).remove(&handle.0);
        drop(gone);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn entry(reply: ReplyEntry, found: io::Result<FileAttr>) {
    match found {
        Ok(attr) => reply.entry(&EVER, &attr, Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

fn empty(reply: ReplyEmpty, done: io::Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        let lent = if self.passes { InitFlags::FUSE_PASSTHROUGH } else { InitFlags::empty() };
        let offered = config.capabilities();
        let limit = |limit| io::Error::other(format!("the limit is {limit:?}"));
        config.add_capabilities((wanted | lent) & offered).map_err(|flags| limit(flags.bits()))?;
        config.set_max_stack_depth(1).map_err(|most| limit(most.into()))?;
        config.set_max_write(MUCH).map(drop).map_err(|most| limit(most.into()))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.nodes.find(parent, name) {
            // The kernel is to remember that, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                reply.entry(&EVER, &nodes::NOTHING, Generation(0));
            }
            found => entry(reply, found),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.nodes.forget(ino, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.nodes.attr(ino) {
            Ok(attr) => reply.attr(&EVER, &attr),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let file = fh.and_then(|handle| self.file(handle).ok());
        let change = SetAttr { mode, uid, gid, size, atime, mtime };
        match self.nodes.change(ino, file.as_deref(), &change) {
            Ok(attr) => reply.attr(&EVER, &attr),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.nodes.make_dir(parent, name, mode & !umask));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.nodes.remove(parent, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.nodes.remove(parent, name, true));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.nodes.rename((parent, name), (new_parent, new_name)));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.nodes.open(ino, flags.0).and_then(|file| {
            let lent = self.lend(ino.0, || reply.open_backing(file.as_fd()))?;
            Ok((file, lent))
        });
        match opened {
            Ok((file, Some(lent))) => {
                let handle = self.keep(file, Some(Arc::clone(&lent)));
                reply.opened_passthrough(handle, FopenFlags::empty(), &lent);
            }
            Ok((file, None)) => reply.opened(self.keep(file, None), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made =
            self.nodes.create(parent, name, mode & !umask, flags).and_then(|(file, attr)| {
                let lent = self.lend(attr.ino.0, || reply.open_backing(file.as_fd()))?;
                Ok((file, attr, lent))
            });
        let (same, none) = (Generation(0), FopenFlags::empty());
        match made {
            Ok((file, attr, Some(lent))) => {
                let handle = self.keep(file, Some(Arc::clone(&lent)));
                reply.created_passthrough(&EVER, &attr, same, handle, none, &lent);
            }
            Ok((file, attr, None)) => {
                reply.created(&EVER, &attr, same, self.keep(file, None), none);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        ROOM.with_borrow_mut(|room| {
            room.resize(size as usize, 0);
            match self.file(handle).and_then(|file| file.read_at(room, offset)) {
                Ok(read) => reply.data(room.get(..read).unwrap_or_default()),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.file(handle).and_then(|file| file.write_at(data, offset)) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.close(handle);
    }

    /// Never asked for again: it knows no locks.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Never asked for again: it knows no attributes.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    /// Never asked for again.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let entries = match self.nodes.list(ino, offset == 0) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error.into()),
        };
        for (at, (name, attr)) in entries.iter().enumerate().skip(offset as usize) {
            if reply.add(attr.ino, at as u64 + 1, name, &EVER, attr, Generation(0)) {
                break;
            }
            self.nodes.count(ino, name, attr);
        }
        reply.ok();
    }
}
