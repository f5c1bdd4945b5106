//! Hearing of what others change in a directory of the host, by fanotify(7).
//!
//! With the privilege, whole file systems are marked. Without it, and where only
//! a part of a file system is below the source that has an id of its own,
//! directories are marked one by one, as the caller asks for it.

mod told;
mod volumes;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::node::{HostNode, inner};
use super::volume::Volume;
use super::{Context, Host};
use crate::error::Result;
use crate::source::{Covers, Happened, Node, Unwatched, Watch, What};
use crate::sync::lock;
use crate::sys::cred::SetId;
use crate::sys::fanotify::{Events, Group};
use crate::sys::stat::{Stat, stat};

use volumes::{Watched, refused};

/// How many bytes of events are read at a time: several hundred events.
const CHUNK: usize = 64 * 1024;

/// How long events gather now and then: a waiting reader that is woken for each
/// one costs whoever changes files more than the events do.
const NAP: Duration = Duration::from_millis(1);

/// How many batches that mattered are read before events gather again: a single
/// change, or the one after it, is told at once.
const BATCHES: u32 = 8;

/// How many marks of directories are worth taking back, to begin anew.
const MANY: usize = 1024;

/// Hears of changes in a [`Host`].
#[derive(Debug)]
pub(super) struct HostWatch {
    context: Arc<Context>,
    group: Group,
    wake: EventFd,
    /// This process, as events name it.
    own: i32,
    watched: Watched,
    /// Goes up when the marks of directories are taken back.
    era: AtomicU64,
    /// How often directories were marked in this era.
    marks: AtomicUsize,
    /// Whether a directory was not marked because others have so many marks.
    short: AtomicBool,
    /// Whether the end of an era is still to be told.
    lost: AtomicBool,
    /// How many batches were read since the last nap.
    batches: AtomicU32,
    buf: Mutex<Vec<u8>>,
}

impl Host {
    /// Begins to watch.
    pub(super) fn begin_to_watch(&self) -> std::result::Result<Arc<HostWatch>, Unwatched> {
        let root = self.root.as_fd();
        let stat = stat(root, "".as_ref()).map_err(|errno| because(errno.desc()))?;
        let watch = Arc::new(HostWatch::new(Arc::clone(&self.context))?);
        watch.cover(self.volumes.root(), root, &stat);
        // Only what somebody reads is to be marked.
        if let Some(reason) = watch.unwatched(0) {
            return Err(reason);
        }
        if self.volumes.watch(&watch) { Ok(watch) } else { Err(because("it is watched already")) }
    }
}

fn because(reason: &str) -> Unwatched {
    Unwatched(reason.to_owned())
}

/// Says why the kernel makes no group.
fn no_group(errno: Errno) -> Unwatched {
    #[expect(clippy::wildcard_enum_match_arm, reason = "errnos are open-ended")]
    match errno {
        Errno::EINVAL | Errno::ENOSYS => because("fanotify: it has to be Linux 5.17 or later"),
        Errno::EMFILE => because(
            "fanotify: this user has as many groups as fs.fanotify.max_user_groups allows, or no \
             descriptor is free",
        ),
        errno => refused(errno),
    }
}

impl HostWatch {
    fn new(context: Arc<Context>) -> std::result::Result<Self, Unwatched> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            context,
            group: Group::new().map_err(no_group)?,
            wake: EventFd::from_flags(flags).map_err(refused)?,
            own: nix::unistd::getpid().as_raw(),
            watched: Watched::default(),
            era: AtomicU64::new(1),
            marks: AtomicUsize::new(0),
            short: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            batches: AtomicU32::new(0),
            buf: Mutex::new(vec![0; CHUNK]),
        })
    }

    /// Watches a volume from now on, by an open file of it; or remembers why
    /// that cannot be done.
    pub fn cover(&self, volume: &Arc<Volume>, fd: BorrowedFd<'_>, stat: &Stat) {
        self.watched.add(&self.group, &self.context.procfs, volume, (fd, stat));
    }

    /// Marks a directory; returns the era in which it is heard of.
    fn mark(&self, dir: BorrowedFd<'_>) -> Option<u64> {
        self.context.as_server(SetId::Unaffected).ok()?;
        // Twice, since an era may end meanwhile, or has to.
        for _ in 0..2 {
            let era = self.era();
            match self.group.hear_directory(dir, ".") {
                Ok(()) if self.era() == era => {
                    self.marks.fetch_add(1, Ordering::Relaxed);
                    return Some(era);
                }
                Ok(()) => {}
                Err(Errno::ENOSPC) => self.end(era)?,
                Err(_) => return None,
            }
        }
        None
    }

    /// Ends an era, because there are as many marks as there may be; `None` if
    /// it is others who have so many.
    fn end(&self, era: u64) -> Option<()> {
        if self.marks.load(Ordering::Relaxed) < MANY {
            self.short.store(true, Ordering::Relaxed);
            return None;
        }
        let next = era.wrapping_add(1);
        let turned = self.era.compare_exchange(era, next, Ordering::SeqCst, Ordering::SeqCst);
        if turned.is_ok() {
            self.marks.store(0, Ordering::Relaxed);
            // Whoever has marked a directory before this finds the new era.
            let done = self.group.forget_files();
            self.lost.store(true, Ordering::SeqCst);
            self.wake();
            done.ok()?;
        }
        Some(())
    }

    /// Does something about a file's mark; it fails only where the file is not
    /// watched, or where memory is short: then more is heard than has to be.
    fn at(&self, file: &Node, act: impl FnOnce(&Group, BorrowedFd<'_>, &str) -> nix::Result<()>) {
        let Ok(HostNode::Held(held)) = inner(file) else { return };
        let (at, path) = self.context.procfs.place(held.fd());
        if self.context.as_server(SetId::Unaffected).is_ok() {
            let _done = act(&self.group, at, &path);
        }
    }

    /// Waits until there is something to read, or somebody has called.
    fn rest(&self) -> nix::Result<()> {
        let mut fds =
            [self.group.as_fd(), self.wake.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        match self.wake.read() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Passes on what there is to read; reports whether any of it mattered.
    fn pass(&self, each: &mut dyn FnMut(&Happened) -> bool) -> nix::Result<bool> {
        let mut buf = lock(&self.buf);
        let length = match self.group.read(&mut buf) {
            Ok(length) => length,
            // Somebody has called.
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        let mut mattered = false;
        for event in Events::new(buf.get(..length).unwrap_or_default()) {
            let told = event.is_ok_and(|event| {
                let ours = event.pid == self.own;
                // What we did by one volume is news for another one of the same files.
                let mut pass = |what, only| mattered |= each(&Happened { what, own: ours && only });
                self.watched.tell(&event, &mut pass)
            });
            if !told {
                mattered |= each(&LOST);
            }
        }
        Ok(mattered)
    }
}

/// What is said when events were lost, or not understood.
const LOST: Happened = Happened { what: What::Lost, own: false };

impl Watch for HostWatch {
    fn covers(&self, volume: u64) -> Covers {
        self.watched.covers(volume)
    }

    fn unwatched(&self, volume: u64) -> Option<Unwatched> {
        self.watched.unwatched(volume)
    }

    fn add(&self, dir: &Node) -> Option<u64> {
        let Ok(HostNode::Held(held)) = inner(dir) else { return None };
        match self.covers(held.key.volume) {
            Covers::Everything => Some(self.era()),
            Covers::Directories => self.mark(held.fd()),
            Covers::Nothing => None,
        }
    }

    fn shortage(&self) -> Option<String> {
        self.short.load(Ordering::Relaxed).then(|| refused(Errno::ENOSPC).0)
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::SeqCst)
    }

    fn wait(&self, each: &mut dyn FnMut(&Happened) -> bool) -> Result<()> {
        self.rest()?;
        if self.lost.swap(false, Ordering::SeqCst) {
            each(&LOST);
        }
        let mattered = self.pass(each)?;
        if !mattered || self.batches.fetch_add(1, Ordering::Relaxed) >= BATCHES {
            self.batches.store(0, Ordering::Relaxed);
            thread::sleep(NAP);
        }
        Ok(())
    }

    fn wake(&self) {
        // It fails only where so many have called that it is readable anyway.
        let _called = self.wake.write(1);
    }

    fn ignore_contents(&self, file: &Node) {
        // What is written by one volume is to be heard for another one of the same
        // files.
        let key = inner(file).ok().and_then(|node| match node {
            HostNode::Held(held) => Some(&held.key),
            _ => None,
        });
        if key.is_some_and(|key| self.watched.is_shared(key.volume)) {
            return;
        }
        self.at(file, Group::ignore_contents);
    }

    fn heed_contents(&self, file: &Node) {
        self.at(file, Group::heed_contents);
    }

    fn ignore_device(&self, device: BorrowedFd<'_>) {
        let (at, path) = self.context.procfs.place(device);
        // It fails where nothing of that file system can be heard.
        let _done = self.group.ignore_contents(at, &path);
    }

    fn describe(&self) -> String {
        self.watched.describe()
    }
}
