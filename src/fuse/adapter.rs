//! The file system as the transport holds it, and the requests that take more
//! than handing over.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{
    AccessFlags, FopenFlags, Generation, INodeNo, Notifier, ReplyAttr, ReplyData,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, Request,
};

use super::answer::{Answer, attempt, empty, hand_over, later};
use super::{SessionOptions, VIEW, convert};
use crate::attr::Attr;
use crate::error::{Error, Result};
use crate::fs::{Entry, Fs, SetAttr};
use crate::id::{Owner, View};
use crate::tree::ANCHOR;

/// How long the kernel may believe what never changes: node 1 and its child.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The owner of what is no file of the source: nobody.
const NOBODY: Owner<View> = Owner { uid: None, gid: None };

/// What is shown of node 1 where it is not the root: others, that is all, may
/// walk through it. With bits for its group its ACL would be asked for.
const ANCHOR_MODE: u32 = 0o001;

thread_local! {
    /// Where each thread reads files into, so that no read allocates.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The file system as the library calls it.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) options: SessionOptions,
    /// The number of the root, for requests about node 1.
    pub(super) root: u64,
    /// What the kernel is told things by; there once the session has started.
    notifier: Arc<OnceLock<Notifier>>,
    /// Whether the kernel can let names expire; known once it has greeted.
    pub(super) can_expire: Arc<AtomicBool>,
}

impl Adapter {
    /// Wraps a file system.
    pub(super) fn new(
        fs: Arc<Fs>,
        options: SessionOptions,
        notifier: Arc<OnceLock<Notifier>>,
        can_expire: Arc<AtomicBool>,
    ) -> Self {
        Self { fs, options, root: ANCHOR, notifier, can_expire }
    }

    /// Returns the number of the file that the kernel calls by this node id.
    pub(super) fn node(&self, ino: INodeNo) -> Result<u64> {
        match ino.0 {
            ANCHOR if self.options.anchored => Err(Error::Denied),
            ANCHOR => Ok(self.root),
            number => Ok(number),
        }
    }

    /// Returns the attributes of node 1 where it is not the root.
    pub(super) fn anchor(&self, ino: INodeNo) -> Option<Attr<View>> {
        (self.options.anchored && ino.0 == ANCHOR)
            .then(|| convert::private_directory(ANCHOR, ANCHOR_MODE, NOBODY))
    }

    /// Makes the kernel ask for the attributes of a file again.
    ///
    /// Unlike other notifications this one waits for no lock of the kernel, so
    /// that it may be sent from within a request.
    pub(super) fn forget_attributes(&self, ino: INodeNo) {
        // An offset below 0 spares the pages.
        if let Some(Err(error)) =
            self.notifier.get().map(|notifier| notifier.inval_inode(ino, -1, 0))
        {
            log::debug!("attributes of node {ino}: {error}");
        }
    }

    /// Answers with the file of a name.
    pub(super) fn entry(&self, reply: ReplyEntry, answer: Answer<Entry>) {
        match answer {
            Ok(entry) => reply.entry(
                &self.fs.ttl().positive,
                &convert::attr(&entry.attr),
                Generation(entry.generation),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with attributes.
    pub(super) fn attr(&self, reply: ReplyAttr, answer: Answer<Attr<View>>) {
        match answer {
            Ok(attr) => reply.attr(&self.fs.ttl().positive, &convert::attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    /// Changes attributes, and answers now or later.
    pub(super) fn change(
        &self,
        req: &Request,
        change: Answer<(u64, SetAttr)>,
        handle: Option<u64>,
        reply: ReplyAttr,
    ) {
        let (node, change) = match change {
            Ok(change) => change,
            Err(errno) => return reply.error(errno),
        };
        let (fs, since) = (Arc::clone(&self.fs), self.fs.replaced());
        let done = later("setattr", req.pid(), move |answer| match answer {
            Ok(attr) => reply.attr(&fs.ttl_since(since).positive, &convert::attr(&attr)),
            Err(errno) => reply.error(errno),
        });
        hand_over("setattr", req, || {
            self.fs.setattr_when_free(convert::caller(req), node, handle, change, done);
        });
    }

    /// Answers with the root, the one child of node 1.
    pub(super) fn look_up_in_anchor(&self, req: &Request, name: &OsStr, reply: ReplyEntry) {
        let answer = attempt("lookup of the root", req, || {
            if name == VIEW { self.fs.root(&convert::caller(req)) } else { Err(Error::Denied) }
        });
        match answer {
            Ok(root) => reply.entry_with_ttls(
                &self.fs.ttl().positive,
                &FOREVER,
                &convert::attr(&root.attr),
                Generation(root.generation),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers access(2), and chdir(2), where the kernel does not decide.
    pub(super) fn check_access(
        &self,
        req: &Request,
        ino: INodeNo,
        mask: AccessFlags,
        reply: ReplyEmpty,
    ) {
        if !self.fs.checks() {
            // Not asked with default_permissions; if it ever is, this says so
            // for good.
            return reply.error(fuser::Errno::ENOSYS);
        }
        let answer = attempt("access", req, || {
            self.fs.access(&convert::caller(req), self.node(ino)?, convert::access(mask))
        });
        empty(reply, answer);
    }

    /// Returns how the kernel is to treat an open file.
    pub(super) const fn open_flags(&self) -> FopenFlags {
        // Never DIRECT_IO: it takes shared memory maps away.
        if self.options.keep_pages { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
    }

    /// Looks a name up in any directory but node 1 of an anchored session.
    pub(super) fn look_up(&self, req: &Request, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let since = self.fs.replaced();
        let negative = self.fs.ttl().negative;
        let answer =
            attempt("lookup", req, || match self.fs.lookup(&convert::caller(req), parent, name) {
                Ok(entry) => Ok(Some(entry)),
                Err(error)
                    if error.is(libc::ENOENT) && error != Error::Hidden && !negative.is_zero() =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            });
        match answer {
            // The kernel may use a name that it knows already without any lock, so
            // that what comes late is not to be believed.
            Ok(Some(entry)) => reply.entry(
                &self.fs.ttl_since(since).positive,
                &convert::attr(&entry.attr),
                Generation(entry.generation),
            ),
            // Node id 0 is "no such file, and remember that".
            Ok(None) => {
                let nothing = convert::private_directory(0, 0, NOBODY);
                reply.entry(&negative, &convert::attr(&nothing), Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
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
            let answer = attempt("read", req, || {
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

    /// Lists a directory, with attributes.
    pub(super) fn list(
        &self,
        req: &Request,
        handle: u64,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ttl = self.fs.ttl().positive;
        let mut listed = false;
        let answer = attempt("readdirplus", req, || {
            self.fs.readdirplus(&convert::caller(req), handle, offset, &mut |line, entry| {
                let full = reply.add(
                    INodeNo(entry.node),
                    line.next,
                    line.name,
                    &ttl,
                    &convert::attr(&entry.attr),
                    Generation(entry.generation),
                );
                listed |= !full;
                if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        match answer {
            // What was listed has been counted, so it has to reach the kernel;
            // the failure comes again with the next call.
            Ok(()) => reply.ok(),
            Err(_later) if listed => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}
