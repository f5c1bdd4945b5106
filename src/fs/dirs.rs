//! Open directories.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::budget::Share;
use super::{Entry, Fs, Listed};
use crate::attr::{Attr, FileKind, Name};
use crate::error::{Error, Result};
use crate::id::{Caller, Id, User, View};
use crate::source::{Dir, DirEntry, Found, Node};
use crate::tree::ANCHOR;

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenDir {
    /// Its number.
    pub(super) number: u64,
    /// The directory, to look its names up.
    pub(super) node: Node,
    /// The directory, to list.
    pub(super) dir: Arc<dyn Dir>,
    /// Its descriptors.
    _share: Share,
}

/// The errors of a server that has no descriptors or memory left.
const LACKS: [i32; 3] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];

/// The errors of a file that is there and cannot be read.
const UNREAD: [i32; 3] = [libc::EIO, libc::EUCLEAN, libc::ENOTCONN];

/// The two names of a directory that every listing has.
#[derive(Clone, Copy)]
enum Dot {
    Own,
    Parent,
}

impl Dot {
    fn of(entry: &DirEntry<'_>) -> Option<Self> {
        match entry.name.as_bytes() {
            b"." => Some(Self::Own),
            b".." => Some(Self::Parent),
            _ => None,
        }
    }
}

impl Fs {
    /// Opens a directory; the result is its handle.
    ///
    /// # Errors
    /// As open(2); `ENFILE` if the caller holds too many descriptors.
    pub fn opendir(&self, caller: &Caller, node: u64) -> Result<u64> {
        let number = node;
        let share = self.budget.directory(&self.payer(caller))?;
        let node = self.node(number)?;
        self.may_open(caller, (number, &node), libc::O_RDONLY)?;
        self.lets_reach(number, &node)?;
        self.listen(number, &node);
        let dir = self.tree.with_room(|| self.source.opendir(&node))?;
        Ok(self.dirs.insert(Arc::new(OpenDir { number, node, dir, _share: share })))
    }

    /// Lists names with their files from an offset; an entry is counted as a
    /// lookup unless `each` breaks on it, or its name is `.` or `..`.
    ///
    /// A name that is gone meanwhile is left out. One whose file cannot be read (damage, a
    /// dead mount below) comes with node 1, which is counted for nobody, and which the kernel
    /// takes for the file of no name (`fuse_direntplus_link` of fs/fuse/readdir.c): it looks
    /// the name up, and whoever wants more than the name is told why.
    ///
    /// # Errors
    /// As getdents(2).
    pub fn readdirplus(
        &self,
        caller: &Caller,
        handle: u64,
        offset: u64,
        each: &mut dyn FnMut(Listed<'_>, &Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        let open = self.dirs.get(handle)?;
        if offset == 0 {
            self.walk(caller, open.number);
        }
        let eyes = self.eyes(caller);
        let mut out = Lines { fs: self, each, held: None, holds: self.hides_names(open.number) };
        // Of a name that may be hidden nothing is asked.
        let names = || if self.has_rules() { Vec::new() } else { open.dir.upcoming(offset) };
        let mut listing = self.ahead.list(caller.pid, &self.source, &open.node, names);
        let mut failed = None;
        open.dir.read(offset, &mut |entry| {
            let known = listing.next(entry.name);
            let file = match Dot::of(&entry) {
                Some(which) => self.dot(eyes, &open, which).map(Some),
                None => self.listed(eyes, &open, &entry, known),
            };
            match file {
                Ok(file) => {
                    let flow = out.next(&entry, file);
                    if flow.is_break() {
                        listing.is_full();
                    }
                    flow
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        let _full = out.end();
        failed.map_or(Ok(()), Err)
    }

    /// Has what comes next read, if this directory is one of several in a row.
    fn walk(&self, caller: &Caller, number: u64) {
        // Of a name that may be hidden nothing is asked.
        if !self.has_rules()
            && let Ok(Some(place)) = self.tree.place(number)
        {
            let parent = place.0;
            self.walks.step(caller.pid, &self.source, place, || self.node(parent));
        }
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        drop(self.dirs.remove(handle));
    }

    /// Writes a directory to disk.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn fsyncdir(&self, handle: u64, data_only: bool) -> Result<()> {
        self.dirs.get(handle)?.dir.sync(data_only)
    }

    /// Returns the file of an entry, which is counted as a lookup; `None` if
    /// the entry is to be left out.
    ///
    /// # Errors
    /// What says nothing of the file, but that the server lacks something: it
    /// must not look as if there were no such name.
    fn listed(
        &self,
        eyes: Option<Id<User, View>>,
        open: &OpenDir,
        entry: &DirEntry<'_>,
        known: Option<Found>,
    ) -> Result<Option<Entry>> {
        let found = Name::new(entry.name).and_then(|name| {
            self.lets_look(open.number, name)?;
            let looked;
            let found = match known.as_ref().or(entry.found) {
                Some(found) => found,
                None => match self.tree.with_room(|| self.source.lookup(&open.node, name)) {
                    Ok(found) => {
                        looked = found;
                        &looked
                    }
                    Err(error) if self.is_there(&error) => return self.unread(eyes, open, entry),
                    Err(error) => return Err(error),
                },
            };
            let seen = self.visible(open.number, name, found.attr)?;
            Ok(self.entry_to(eyes, open.number, name, (found, &seen)))
        });
        match found {
            Ok(file) => Ok(Some(file)),
            Err(error) if LACKS.iter().any(|errno| error.is(*errno)) => Err(error),
            Err(error) => {
                if !error.is(libc::ENOENT) {
                    log::debug!("{:?} is left out of a listing: {error}", entry.name);
                }
                Ok(None)
            }
        }
    }

    /// Reports whether there is a file of a name though it cannot be read; where names may be
    /// hidden nobody can say.
    fn is_there(&self, error: &Error) -> bool {
        !self.has_rules() && UNREAD.iter().any(|errno| error.is(*errno))
    }

    /// Returns what stands for the file of a name that cannot be read.
    fn unread(
        &self,
        eyes: Option<Id<User, View>>,
        open: &OpenDir,
        entry: &DirEntry<'_>,
    ) -> Result<Entry> {
        let own = self.present_to(eyes, &self.look(open.number, &open.node)?, open.number);
        let (node, kind) = (ANCHOR, entry.kind.unwrap_or(FileKind::Regular));
        Ok(Entry { node, generation: 0, attr: Attr { ino: node, kind, ..own } })
    }

    /// Returns `.` or `..`; the kernel looks at nothing but the number and the
    /// kind, so the attributes of the directory do for its parent too.
    fn dot(&self, eyes: Option<Id<User, View>>, open: &OpenDir, which: Dot) -> Result<Entry> {
        let own = self.present_to(eyes, &self.look(open.number, &open.node)?, open.number);
        let number = match which {
            Dot::Own => open.number,
            Dot::Parent => self.parent_number(open),
        };
        Ok(Entry { node: number, generation: 0, attr: Attr { ino: number, ..own } })
    }

    /// Returns the number of a directory's parent; the root is its own.
    fn parent_number(&self, open: &OpenDir) -> u64 {
        if open.number == self.tree.root().number {
            return open.number;
        }
        match self.tree.place(open.number) {
            Ok(Some((parent, _))) => parent,
            // Found by its number.
            Ok(None) | Err(_) => {
                let parent = self.source.parent(&open.node);
                parent.map_or(open.number, |(_, found)| self.tree.number(&found.key))
            }
        }
    }
}

/// Passes the lines of a listing on.
///
/// The offset that goes with a line is where the next one is, and on ext4 a hash
/// of its name. So where names may be hidden, a line is held until it is known
/// what comes next: its offset is then as if nothing else were there.
struct Lines<'a> {
    fs: &'a Fs,
    each: &'a mut dyn FnMut(Listed<'_>, &Entry) -> ControlFlow<()>,
    /// A line that waits: its name, the offset of the next, its file.
    held: Option<(OsString, u64, Entry)>,
    holds: bool,
}

impl Lines<'_> {
    /// Takes the next entry of the directory; without a file it is left out.
    fn next(&mut self, entry: &DirEntry<'_>, file: Option<Entry>) -> ControlFlow<()> {
        match (file, &mut self.held) {
            (None, None) => ControlFlow::Continue(()),
            (None, Some((_, next, _))) => {
                *next = entry.next;
                ControlFlow::Continue(())
            }
            (Some(file), _) if !self.holds => self.pass(entry.name, entry.next, &file),
            (Some(file), _) => {
                let passed = self.end();
                if passed.is_break() {
                    self.uncount(entry.name, &file);
                } else {
                    self.held = Some((entry.name.to_owned(), entry.next, file));
                }
                passed
            }
        }
    }

    /// Passes the line on that waits.
    fn end(&mut self) -> ControlFlow<()> {
        match self.held.take() {
            Some((name, next, file)) => self.pass(&name, next, &file),
            None => ControlFlow::Continue(()),
        }
    }

    fn pass(&mut self, name: &OsStr, next: u64, file: &Entry) -> ControlFlow<()> {
        let flow = (self.each)(Listed { name, next }, file);
        if flow.is_break() {
            self.uncount(name, file);
        }
        flow
    }

    /// Takes the lookup of a line back that is not passed on.
    fn uncount(&self, name: &OsStr, file: &Entry) {
        if name != "." && name != ".." && file.node != ANCHOR {
            self.fs.tree.forget(file.node, 1);
        }
    }
}
