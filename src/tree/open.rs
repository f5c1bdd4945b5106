//! How a closed node is opened again: by its handle, else by its parent and
//! name, and always verified.

use std::collections::HashSet;
use std::ffi::OsString;

use crate::attr::{FileKind, Name};
use crate::error::{Error, Result};
use crate::source::{FileHandle, Key, Node};

use super::Tree;

/// How often to try once more what failed for a reason that is likely gone.
const RETRIES: usize = 8;

/// One file on a path to be walked down.
struct Step {
    number: u64,
    key: Key,
    kind: FileKind,
    parent: u64,
    name: OsString,
}

/// What the table knows of a file that has to be opened.
struct Closed {
    step: Step,
    handle: Option<FileHandle>,
}

impl Tree {
    /// Returns the node of a number if it is open.
    pub(super) fn held(&self, number: u64) -> Result<Option<Node>> {
        if number == self.root.number {
            return Ok(Some(self.root_node.clone()));
        }
        let (key, pinned) = self
            .table
            .read(number, |inode, pinned| (inode.key(), pinned.cloned()))
            .ok_or(Error::Unknown)?;
        Ok(pinned.or_else(|| self.nodes.get(number, &key)))
    }

    /// Opens the file of a number, and the directories above it as needed.
    pub(super) fn reopen(&self, number: u64) -> Result<Node> {
        let mut path = Vec::new();
        for _ in 0..RETRIES {
            path.clear();
            let result = self.climb(number, &mut path).and_then(|node| self.descend(node, &path));
            // Something may have moved on the way between looking its place
            // up and going there.
            if result.as_ref().err() != Some(&Error::Stale) || !self.has_moved(&path) {
                return result;
            }
        }
        Err(Error::Stale)
    }

    /// Runs `open`, and while it fails for want of descriptors, makes room
    /// and runs it again.
    ///
    /// # Errors
    /// As `open`: `EMFILE` or `ENFILE` if there was no room to be made.
    pub fn with_room<T>(&self, mut open: impl FnMut() -> Result<T>) -> Result<T> {
        let mut result = open();
        for _ in 0..RETRIES {
            match &result {
                Err(error) if error.is(libc::EMFILE) || error.is(libc::ENFILE) => {}
                Ok(_) | Err(_) => break,
            }
            if self.shrink() == 0 {
                break;
            }
            result = open();
        }
        result
    }

    /// Goes up from a file to the nearest one that is open or can be opened
    /// by its handle; the files to open below it are added to `path`, the
    /// lowest first.
    fn climb(&self, number: u64, path: &mut Vec<Step>) -> Result<Node> {
        // What is recorded of several files may be of different times, and so
        // may go round in a circle.
        let mut seen = HashSet::new();
        let mut at = number;
        while seen.insert(at) {
            // A directory that is not known any more says nothing of where
            // the file is.
            let lost = if at == number { Error::Unknown } else { Error::Stale };
            if let Some(node) = self.held(at).map_err(|_| lost)? {
                return Ok(node);
            }
            let Closed { step, handle } = self.closed(at).ok_or(lost)?;
            if let Some(handle) = handle {
                match self.with_room(|| self.source.open_by_key(&step.key, &handle, step.kind)) {
                    Ok(node) => return Ok(self.keep_unless_encrypted(at, step.key, node)),
                    Err(Error::Unsupported | Error::Stale) => {}
                    Err(error) => return Err(error),
                }
            }
            at = step.parent;
            path.push(step);
        }
        Err(Error::Stale)
    }

    /// Opens one file after another, down from `node`.
    fn descend(&self, mut node: Node, path: &[Step]) -> Result<Node> {
        for step in path.iter().rev() {
            let name = Name::new(&step.name)?;
            let open = || self.source.open_by_name(&node, name, &step.key);
            let next = self.with_room(open).map_err(|error| {
                let gone = error.is(libc::ENOENT) || error.is(libc::ENOTDIR);
                if gone { Error::Stale } else { error }
            })?;
            node = self.keep_unless_encrypted(step.number, step.key.clone(), next);
        }
        Ok(node)
    }

    /// Has an open node of a number at hand for a while.
    pub fn hold(&self, number: u64, key: Key, node: Node) {
        drop(self.keep(number, key, node));
    }

    /// Caches an open node, unless it would keep the key of an encrypted file in use, which
    /// can be opened again by its handle.
    fn keep_unless_encrypted(&self, number: u64, key: Key, node: Node) -> Node {
        let has_handle = || self.table.read(number, |inode, _| inode.handle().is_some());
        if self.is_encrypted(number) && has_handle() == Some(true) {
            return node;
        }
        self.keep(number, key, node)
    }

    /// Caches an open node, unless the number has come to stand for another
    /// file or for none.
    pub(super) fn keep(&self, number: u64, key: Key, node: Node) -> Node {
        let node = self.nodes.put(number, key.clone(), node);
        // Looked at last: whoever changes the table removes the node after
        // that, so one of the two sees the other.
        if self.table.read(number, |inode, _| inode.key() == key) != Some(true) {
            self.nodes.remove(number);
        }
        node
    }

    fn closed(&self, number: u64) -> Option<Closed> {
        self.table.read(number, |inode, _| {
            let (parent, name) = inode.place();
            let (key, kind) = (inode.key(), inode.kind());
            let step = Step { number, key, kind, parent, name: name.to_owned() };
            Closed { step, handle: inode.handle() }
        })
    }

    /// Reports whether a file on a path is recorded in another place now.
    fn has_moved(&self, path: &[Step]) -> bool {
        path.iter().any(|step| {
            self.table.read(step.number, |inode, _| {
                inode.key() == step.key && inode.place() == (step.parent, &step.name)
            }) != Some(true)
        })
    }
}
