//! Open directories.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::unistd::{Whence, fdatasync, fsync, lseek};

use super::Context;
use super::file::{read_flags, write_flags};
use super::staging::{self, Hides};
use crate::attr::FileKind;
use crate::error::{Error, Result};
use crate::source::{Dir, DirEntry, InodeFlags, InodeFlagsKind};
use crate::sync::lock;
use crate::sys::cred::SetId;
use crate::sys::dirent::{self, Dirent};

/// How many bytes of a listing are read at a time.
const CHUNK: usize = 32 * 1024;

/// An open directory of the host. Offsets are the host's own.
#[derive(Debug)]
pub(super) struct HostDir {
    context: Arc<Context>,
    fd: OwnedFd,
    /// Whether the name of staging is left out.
    hides: Hides,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the descriptor stands.
    at: u64,
    /// What the last reader has left over.
    rest: Option<Rest>,
}

/// Entries that have been read but not yet passed on.
#[derive(Debug, Default)]
struct Rest {
    /// The offset that leads to the first of them.
    offset: u64,
    buf: Vec<u8>,
    /// Where the first of them starts in the buffer.
    start: usize,
    /// Where the last of them ends in the buffer.
    end: usize,
    /// Whether they have been read for the next reader, and not by the last one.
    fresh: bool,
}

impl HostDir {
    /// Wraps an open directory.
    pub fn new(context: Arc<Context>, fd: OwnedFd, hides: Hides) -> Self {
        Self { context, fd, hides, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Reports whether a name is left out.
    fn hides(&self, name: &OsStr) -> bool {
        name == staging::NAME && self.hides.hide(self.fd.as_fd(), &self.context)
    }

    /// Takes what is left over, if it goes on at an offset. A reader that goes
    /// back to the start wants to see what has changed.
    fn take(&self, offset: u64) -> Rest {
        let left = self.state().rest.take();
        match left {
            Some(rest) if rest.offset == offset && (offset != 0 || rest.fresh) => {
                Rest { fresh: false, ..rest }
            }
            // Only its memory is of use.
            Some(rest) => Rest { offset, start: 0, end: 0, fresh: false, ..rest },
            None => Rest { offset, buf: vec![0; CHUNK], start: 0, end: 0, fresh: false },
        }
    }

    /// Reads more entries; `false` at the end of the directory.
    fn fill(&self, rest: &mut Rest) -> Result<bool> {
        let mut state = self.state();
        if state.at != rest.offset {
            let offset = i64::try_from(rest.offset).map_err(|_| Error::Invalid)?;
            lseek(&self.fd, offset, Whence::SeekSet)?;
            state.at = rest.offset;
        }
        rest.start = 0;
        rest.end = 0;
        rest.end = dirent::read(self.fd.as_fd(), &mut rest.buf)?;
        let mut entries = rest.buf.get(..rest.end).unwrap_or_default();
        while let Some((entry, length)) = dirent::first(entries) {
            state.at = entry.next;
            entries = entries.get(length..).unwrap_or_default();
        }
        Ok(rest.end > 0)
    }
}

impl Dir for HostDir {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut rest = self.take(offset);
        let mut passed = false;
        let done = loop {
            if rest.pass(each, &mut passed, &|name| self.hides(name)).is_break() {
                break Ok(());
            }
            match self.fill(&mut rest) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                // What has been passed on counts; the error comes again.
                Err(_) if passed => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.state().rest = Some(rest);
        done
    }

    fn upcoming(&self, offset: u64) -> Vec<OsString> {
        let mut rest = self.take(offset);
        // What fails now does so again when it is read.
        if offset == 0 && self.fill(&mut rest).is_ok() {
            rest.fresh = true;
        }
        let mut names = rest.names();
        names.retain(|name| !self.hides(name));
        self.state().rest = Some(rest);
        names
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        let sync = if data_only { fdatasync(&self.fd) } else { fsync(&self.fd) };
        Ok(sync?)
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        read_flags(self.fd.as_fd(), kind)
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.context.as_server(SetId::Unaffected)?;
        write_flags(self.fd.as_fd(), flags)
    }
}

impl Rest {
    /// Returns the names that are left over.
    fn names(&self) -> Vec<OsString> {
        let mut entries = self.buf.get(self.start..self.end).unwrap_or_default();
        let mut names = Vec::new();
        while let Some((entry, length)) = dirent::first(entries) {
            names.push(entry.name.to_owned());
            entries = entries.get(length..).unwrap_or_default();
        }
        names
    }

    /// Passes entries on until there are no more, or the reader has enough.
    /// The entry that it breaks on is left over.
    fn pass(
        &mut self,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
        passed: &mut bool,
        hides: &dyn Fn(&OsStr) -> bool,
    ) -> ControlFlow<()> {
        let entries = |start| self.buf.get(start..self.end).unwrap_or_default();
        while let Some((entry, length)) = dirent::first(entries(self.start)) {
            if !hides(entry.name) {
                each(listed(entry))?;
                *passed = true;
            }
            self.offset = entry.next;
            self.start = self.start.saturating_add(length);
        }
        ControlFlow::Continue(())
    }
}

fn listed(entry: Dirent<'_>) -> DirEntry<'_> {
    // DT_* values are the S_IFMT bits of a mode, shifted.
    let kind = FileKind::from_mode(u32::from(entry.kind).wrapping_shl(12));
    DirEntry { name: entry.name, ino: entry.ino, kind, next: entry.next, found: None }
}
