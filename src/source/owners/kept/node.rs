//! What holds a file, and how it is found.

use std::ffi::OsString;
use std::sync::Mutex;

use super::seen::Seen;
use super::{Inner, Kept};
use crate::attr::{FileKind, Name};
use crate::error::{Errno, Error, Result};
use crate::source::{Found, Key, Node};
use crate::sync::lock;

/// A file that is held.
#[derive(Debug)]
pub(super) struct KeptNode {
    /// The identity that is shown.
    pub key: Key,
    /// What is held below, and its identity there: another one once a
    /// regular file stands for it.
    under: Mutex<(Node, Key)>,
    /// Where it was found, if it can have no record: there a regular file can come to
    /// stand for it.
    pub place: Option<(Node, OsString)>,
}

/// A file found below.
pub(super) struct Met {
    pub node: Node,
    pub found: Found,
    pub seen: Seen,
}

impl Kept {
    /// Returns what a node of this source holds.
    pub(super) fn held(node: &Node) -> Result<&KeptNode> {
        node.get().ok_or(Error::Internal)
    }

    /// Returns what is held below for a node.
    pub(super) fn under(&self, node: &Node) -> Result<Node> {
        Ok(self.inner.under(Self::held(node)?)?.0)
    }

    /// Finds what is below a name.
    pub(super) fn meet(&self, dir: &Node, name: Name<'_>) -> Result<Met> {
        let (node, found) = self.inner.below.reach(&self.under(dir)?, name)?;
        if self.inner.store.hides() == Some((found.key.volume, found.key.ino)) {
            return Err(Error::Os(Errno(libc::ENOENT)));
        }
        let seen = self.inner.recorded(&node, &found.key, found.attr)?;
        Ok(Met { node, found, seen })
    }

    /// Makes a node of what was found in a directory.
    pub(super) fn node(&self, met: Met, dir: &Node, name: Name<'_>) -> (Node, Found) {
        let Met { node, found, seen } = met;
        let named = self.needs_name(found.attr.kind).then(|| (dir.clone(), name.to_owned()));
        let real = found.key.clone();
        let found = self.inner.present(found, &seen);
        let key = found.key.clone();
        (Node::new(KeptNode { key, under: Mutex::new((node, real)), place: named }), found)
    }

    /// Makes a node of what was opened as what a key says; `kind` is what it is on disk.
    pub(super) fn wrap(
        &self,
        node: Node,
        key: &Key,
        kind: FileKind,
        at: (&Node, Name<'_>),
    ) -> Node {
        let place = self.needs_name(kind).then(|| (at.0.clone(), at.1.to_owned()));
        let under = Mutex::new((node, self.inner.aliases.real(key)));
        Node::new(KeptNode { key: key.clone(), under, place })
    }

    /// Makes a node of what needs no name.
    pub(super) fn nameless(&self, node: Node, key: &Key) -> Node {
        let under = Mutex::new((node, key.clone()));
        Node::new(KeptNode { key: key.clone(), under, place: None })
    }

    /// Makes a node of what was found below without a name.
    pub(super) fn hold_nameless(&self, (node, found): (Node, Found)) -> Result<(Node, Found)> {
        let seen = self.inner.recorded(&node, &found.key, found.attr)?;
        let found = self.inner.present(found, &seen);
        Ok((self.nameless(node, &found.key), found))
    }

    fn needs_name(&self, disk: FileKind) -> bool {
        !self.inner.store.takes(disk)
    }
}

impl Inner {
    /// Returns what is held below, and its identity there.
    pub(super) fn under(&self, node: &KeptNode) -> Result<(Node, Key)> {
        let mut under = lock(&node.under);
        let real = self.aliases.real(&node.key);
        if real != under.1
            && let Some((dir, name)) = &node.place
        {
            // A regular file has come to stand for what is held.
            let dir = self.under(Kept::held(dir)?)?.0;
            let opened = self.below.open_by_name(&dir, Name::new(name)?, &real)?;
            *under = (opened, real);
        }
        Ok(under.clone())
    }

    /// Returns what was found as it is shown.
    pub(super) fn present(&self, found: Found, seen: &Seen) -> Found {
        let key = self.aliases.shown(found.key);
        let mut attr = seen.shown();
        attr.ino = key.ino;
        // What stands for any other kind may change, which takes its name.
        let nameless = matches!(attr.kind, FileKind::Regular | FileKind::Directory);
        let handle = found.handle.filter(|_| nameless);
        Found { key, handle, attr }
    }
}
