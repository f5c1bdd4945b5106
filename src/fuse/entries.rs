//! What the kernel is told of names and attributes, and for how long it may
//! believe that.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use fuser::{FopenFlags, Generation, INodeNo, ReplyAttr, ReplyDirectoryPlus, ReplyEntry, Request};

use super::adapter::{Adapter, FOREVER, NOBODY};
use super::answer::{Answer, attempt, hand_over, later};
use super::{VIEW, convert};
use crate::attr::Attr;
use crate::count::{self, Count, Kind};
use crate::error::{Error, Result};
use crate::fs::{Entry, Fs, Moment, SetAttr, Ttl};
use crate::id::View;
use crate::tree::{ANCHOR, shown_ino};

/// Answers with the file of a name, to be believed for so long.
fn found(reply: ReplyEntry, ttl: Ttl, entry: &Entry) {
    let (attr, generation) = (convert::attr(&entry.attr), Generation(entry.generation));
    reply.entry_with_ttls(&seen(ttl, entry).attributes, &ttl.names, &attr, generation);
}

/// Returns how long the kernel may believe what goes with a name: what callers are to see
/// of some nodes can only be told when it is asked for, see [`convert::shown`].
fn seen(ttl: Ttl, entry: &Entry) -> Ttl {
    let same = shown_ino(entry.node) == entry.node;
    if same { ttl } else { Ttl { attributes: Duration::ZERO, ..ttl } }
}

impl Adapter {
    /// Answers with the file of a name in a directory, asked for at a moment.
    pub(super) fn entry(
        &self,
        reply: ReplyEntry,
        (moment, dir): (Moment, INodeNo),
        answer: Answer<Entry>,
    ) {
        match answer {
            Ok(entry) => {
                let ttl = self.fs.entry_at(moment, self.node(dir).unwrap_or(0), &entry);
                found(reply, ttl, &entry);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with a file that has a further name in a directory now.
    pub(super) fn linked(
        &self,
        reply: ReplyEntry,
        (moment, dir): (Moment, INodeNo),
        answer: Answer<Entry>,
    ) {
        match answer {
            Ok(entry) => {
                let ttl = self.fs.linked_at(moment, self.node(dir).unwrap_or(0), &entry);
                found(reply, ttl, &entry);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with attributes that were asked for at a moment.
    pub(super) fn attr(&self, reply: ReplyAttr, moment: Moment, answer: Answer<Attr<View>>) {
        match answer {
            Ok(attr) => {
                reply.attr(&self.fs.attributes_at(moment, attr.ino), &convert::shown(&attr));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Returns how the kernel is to treat an open directory.
    pub(super) fn dir_flags(&self, ino: INodeNo) -> FopenFlags {
        if self.node(ino).is_ok_and(|node| self.fs.keeps_listing(node)) {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
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
        let (fs, moment) = (Arc::clone(&self.fs), self.fs.moment());
        let done = later(Kind::Setattr, req.pid(), move |answer| match answer {
            Ok(attr) => reply.attr(&fs.unguarded_at(moment, node), &convert::shown(&attr)),
            Err(errno) => reply.error(errno),
        });
        hand_over(Kind::Setattr, req, || {
            self.fs.setattr_when_free(convert::caller(req), node, handle, change, done);
        });
    }

    /// Answers with the root, the one child of node 1.
    pub(super) fn look_up_in_anchor(&self, req: &Request, name: &OsStr, reply: ReplyEntry) {
        let moment = self.fs.moment();
        let answer = attempt(Kind::Lookup, req, || {
            if name == VIEW { self.fs.root(&convert::caller(req)) } else { Err(Error::Denied) }
        });
        match answer {
            Ok(root) => {
                let attributes = self.fs.attributes_at(moment, root.node);
                found(reply, Ttl { attributes, names: FOREVER }, &root);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Finds a file by its number, or the directory above it: without a name to believe in.
    pub(super) fn look_up_number(&self, req: &Request, node: u64, above: bool, reply: ReplyEntry) {
        let moment = self.fs.moment();
        let answer = attempt(Kind::Lookup, req, || {
            let caller = convert::caller(req);
            if above { self.fs.parent(&caller, node) } else { self.fs.by_number(&caller, node) }
        });
        match answer {
            Ok(mut entry) => {
                let mut attributes = self.fs.attributes_at(moment, entry.node);
                if entry.node == self.root && !self.options.anchored {
                    // As the kernel knows it; callers see another number, which can only be
                    // told when it is asked for.
                    (entry.attr.ino, entry.generation) = (ANCHOR, 0);
                    attributes = Duration::ZERO;
                }
                found(reply, Ttl { attributes, names: Duration::ZERO }, &entry);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Looks a name up in any directory but node 1 of an anchored session.
    pub(super) fn look_up(&self, req: &Request, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let moment = self.fs.moment();
        let mut missing = Duration::ZERO;
        let answer = attempt(Kind::Lookup, req, || {
            match self.fs.lookup(&convert::caller(req), parent, name) {
                Ok(entry) => Ok(Some(entry)),
                Err(error) if error.is(libc::ENOENT) && error != Error::Hidden => {
                    let (time, gone) =
                        self.fs.missing_at(moment, parent, name, self.notifier.is_busy());
                    gone.into_iter().for_each(|gone| self.notifier.later(gone));
                    missing = time;
                    if time.is_zero() { Err(error) } else { Ok(None) }
                }
                Err(error) => Err(error),
            }
        });
        match answer {
            // The kernel may use a name that it knows already without any lock, so
            // that what comes late is not to be believed.
            Ok(Some(entry)) => {
                found(reply, self.fs.entry_at(moment, parent, &entry), &entry);
            }
            // Node id 0 is "no such file, and remember that".
            Ok(None) => {
                count::add(Count::NoSuchName);
                let nothing = convert::private_directory(0, 0, NOBODY);
                reply.entry(&missing, &convert::attr(&nothing), Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Lists a directory, with attributes.
    pub(super) fn list(
        &self,
        req: &Request,
        (ino, handle): (INodeNo, u64),
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (moment, dir) = (self.fs.moment(), self.node(ino).unwrap_or(0));
        let mut listed = false;
        let answer = attempt(Kind::Readdirplus, req, || {
            let open = self.dir(req, ino, handle)?;
            self.fs.readdirplus(&convert::caller(req), open.handle, offset, &mut |line, entry| {
                let full = reply.add(
                    INodeNo(entry.node),
                    line.next,
                    line.name,
                    &seen(self.fs.entry_at(moment, dir, entry), entry).both(),
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

    /// Returns an open directory that a request is about, perhaps one that the kernel
    /// has opened without asking: with handle 0.
    ///
    /// # Errors
    /// As [`Fs::opendir`].
    pub(super) fn dir(&self, req: &Request, ino: INodeNo, handle: u64) -> Result<OpenDir<'_>> {
        if handle != 0 || !self.fs.is_alone() {
            return Ok(OpenDir { handle, close: None });
        }
        let handle = self.fs.opendir(&convert::caller(req), self.node(ino)?)?;
        Ok(OpenDir { handle, close: Some(&self.fs) })
    }
}

/// An open directory that a request is about.
#[derive(Debug)]
pub(super) struct OpenDir<'a> {
    /// Its handle.
    pub(super) handle: u64,
    /// Where it is to be closed after the request.
    close: Option<&'a Fs>,
}

impl Drop for OpenDir<'_> {
    fn drop(&mut self) {
        if let Some(fs) = self.close {
            fs.releasedir(self.handle);
        }
    }
}
