//! What the kernel is told of names and attributes, and for how long it may
//! believe that.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::Arc;

use fuser::{Generation, INodeNo, ReplyAttr, ReplyDirectoryPlus, ReplyEntry, Request};

use super::adapter::{Adapter, FOREVER, NOBODY};
use super::answer::{Answer, attempt, hand_over, later};
use super::{VIEW, convert};
use crate::attr::Attr;
use crate::error::Error;
use crate::fs::{Entry, SetAttr};
use crate::id::View;

impl Adapter {
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
