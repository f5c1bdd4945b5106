//! The file system as the transport holds it, and the requests that take more
//! than handing over.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{AccessFlags, INodeNo, ReplyEmpty, Request};

use super::answer::{attempt, empty};
use super::passthrough::Passing;
use super::{Notifier, SessionOptions, convert};
use crate::attr::Attr;
use crate::count::Kind;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::id::{Owner, View};
use crate::tree::ANCHOR;

/// How long the kernel may believe what never changes: node 1 and its child.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The owner of what is no file of the source: nobody.
pub(super) const NOBODY: Owner<View> = Owner { uid: None, gid: None };

/// What is shown of node 1 where it is not the root: others, that is all, may
/// walk through it. With bits for its group its ACL would be asked for.
const ANCHOR_MODE: u32 = 0o001;

/// The file system as the library calls it.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) options: SessionOptions,
    /// The number of the root, for requests about node 1.
    pub(super) root: u64,
    /// What the kernel is told things by.
    pub(super) notifier: Notifier,
    /// The files that are open, where the kernel uses those of the host by itself.
    pub(super) passing: Arc<OnceLock<Arc<Passing>>>,
}

impl Adapter {
    /// Wraps a file system.
    pub(super) const fn new(
        fs: Arc<Fs>,
        options: SessionOptions,
        notifier: Notifier,
        passing: Arc<OnceLock<Arc<Passing>>>,
    ) -> Self {
        Self { fs, options, root: ANCHOR, notifier, passing }
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
        let answer = attempt(Kind::Access, req, || {
            self.fs.access(&convert::caller(req), self.node(ino)?, convert::access(mask))
        });
        empty(reply, answer);
    }
}
