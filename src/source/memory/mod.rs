//! A source in memory, for tests of what stands on a source.
//!
//! It behaves as a Linux file system does for a privileged server: modes, ACLs
//! and their inheritance, set-id bits, link counts, unlinked files that are
//! still open, listings that changes do not disturb. Permissions are not
//! checked: a source trusts its caller. One lock guards plain data.

mod attrs;
mod data;
mod names;
mod open;
mod state;
mod watch;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use self::open::{MemoryDir, MemoryFile};
use self::state::{Serial, State};
pub use self::watch::Script;
use super::{
    Change, Created, Dir, Facts, File, FileHandle, Found, Key, New, NewKind, Node, Prepare,
    RenameFlags, Rights, Source, Statfs, XattrSet,
};
use crate::acl::{Acl, AclKind, Capability};
use crate::attr::{Attr, FileKind, Name};
use crate::error::{Error, Result};
use crate::id::{Disk, Ids};
use crate::sync::lock;

/// What a memory source can do, and how it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The owner of the roots of all volumes; their mode is 0755.
    pub root: Ids<Disk>,
    /// Whether it keeps POSIX ACLs.
    pub acl: bool,
    /// Whether a file can be opened by its handle.
    pub handles: bool,
    /// Whether the number of a file that is gone is given to the next new one
    /// (with another generation), as ext4 does.
    pub reuse_numbers: bool,
    /// How many blocks of 4096 bytes all contents may take.
    pub blocks: u64,
    /// Whether directories can be opened ahead of time.
    pub ahead: bool,
}

impl Options {
    /// Returns the usual options: everything on but what happens by itself, 1 GiB of space.
    pub const fn new(root: Ids<Disk>) -> Self {
        Self { root, acl: true, handles: true, reuse_numbers: true, blocks: 1 << 18, ahead: false }
    }
}

/// A source in memory. The first inode of every volume has number 1.
pub struct Memory {
    shared: Arc<Shared>,
}

/// What a source, its nodes and its open files share.
struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

/// An inode that is kept alive, as an open descriptor keeps it.
struct Held {
    shared: Arc<Shared>,
    serial: Serial,
}

impl Held {
    /// Holds the inode that `act` returns; `EMFILE` comes before its effect.
    fn open<T>(
        shared: &Arc<Shared>,
        act: impl FnOnce(&mut State) -> Result<(Serial, T)>,
    ) -> Result<(Self, T)> {
        let mut state = shared.lock();
        state.room()?;
        let (serial, value) = act(&mut state)?;
        state.hold(serial)?;
        Ok((Self { shared: Arc::clone(shared), serial }, value))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.shared.lock())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.lock().release(self.serial);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl Memory {
    /// Makes an empty source.
    pub fn new(options: Options) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::new(options)) }) }
    }

    /// Adds a new directory of another volume under a name, as if mounted
    /// there.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn graft(&self, dir: &Node, name: Name<'_>, volume: u64) -> Result<Found> {
        let dir = self.serial(dir)?;
        let mut state = self.shared.lock();
        let serial = state.graft(dir, name, volume)?;
        state.found(serial)
    }

    /// Lets at most that many nodes, files, directories and lock owners be
    /// open at a time: one more is `EMFILE`.
    pub fn limit(&self, opened: usize) {
        self.shared.lock().limit = opened;
    }

    /// Returns how many nodes, files, directories and lock owners are open.
    pub fn opened(&self) -> usize {
        self.shared.lock().opened()
    }

    fn serial(&self, node: &Node) -> Result<Serial> {
        let held: &Held = node.get().ok_or(Error::Internal)?;
        if Arc::ptr_eq(&held.shared, &self.shared) { Ok(held.serial) } else { Err(Error::Internal) }
    }

    fn node<T>(&self, act: impl FnOnce(&mut State) -> Result<(Serial, T)>) -> Result<(Node, T)> {
        let (held, value) = Held::open(&self.shared, act)?;
        Ok((Node::new(held), value))
    }

    fn file(
        &self,
        flags: i32,
        act: impl FnOnce(&mut State) -> Result<(Serial, Found)>,
    ) -> Result<(Arc<dyn File>, Found)> {
        let (held, found) = Held::open(&self.shared, act)?;
        Ok((Arc::new(MemoryFile { held, flags }), found))
    }
}

impl Memory {
    /// Makes a file that is prepared before it has its name, not under the lock.
    fn create_prepared(
        &self,
        dir: Serial,
        name: Name<'_>,
        new: &New<'_>,
        Prepare(prepare): Prepare<'_>,
    ) -> Result<Created> {
        let (node, found) = self.node(|state| {
            let serial = state.begin(dir, name, new)?;
            Ok((serial, state.found(serial)?))
        })?;
        let serial = self.serial(&node)?;
        let named = prepare(&node, &found).and_then(|()| {
            let file: Option<Arc<dyn File>> = if let NewKind::Regular(Some(flags)) = new.what {
                let (held, ()) = Held::open(&self.shared, |_| Ok((serial, ())))?;
                Some(Arc::new(MemoryFile { held, flags }))
            } else {
                None
            };
            self.shared.lock().finish(dir, name, serial)?;
            Ok(file)
        });
        if named.is_err() {
            self.shared.lock().unlinked(serial)?;
        }
        let file = named?;
        Ok(Created { found: self.shared.lock().found(serial)?, file })
    }
}

impl Source for Memory {
    fn facts(&self) -> Facts {
        let options = self.shared.lock().options;
        let (acl, handles) = (options.acl, options.handles);
        Facts { acl, handles, any_owner: true, any_file: true, immutable: false, lends: false }
    }

    fn root(&self) -> Result<(Node, Found)> {
        self.node(|state| Ok((state.root, state.found(state.root)?)))
    }

    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        let dir = self.serial(dir)?;
        let state = self.shared.lock();
        state.found(state.entry(dir, name)?.serial)
    }

    fn open_by_name(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node> {
        let dir = self.serial(dir)?;
        let (node, ()) = self.node(|state| {
            let serial = state.entry(dir, name).map_err(|_| Error::Stale)?.serial;
            let same = state.found(serial)?.key == *key;
            if same { Ok((serial, ())) } else { Err(Error::Stale) }
        })?;
        Ok(node)
    }

    fn open_by_key(&self, key: &Key, handle: &FileHandle, _kind: FileKind) -> Result<Node> {
        let (node, ()) = self.node(|state| {
            if !state.options.handles {
                return Err(Error::Unsupported);
            }
            let serial = state.by_handle(handle)?;
            let same = state.found(serial)?.key == *key;
            if same { Ok((serial, ())) } else { Err(Error::Stale) }
        })?;
        Ok(node)
    }

    fn by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        self.node(|state| {
            let serial = state.by_number(volume, ino)?;
            Ok((serial, state.found(serial)?))
        })
    }

    fn parent(&self, dir: &Node) -> Result<(Node, Found)> {
        let dir = self.serial(dir)?;
        self.node(|state| {
            let parent = state.inode(dir)?.names()?.parent;
            Ok((parent, state.found(parent)?))
        })
    }

    fn getattr(&self, node: &Node) -> Result<Attr<Disk>> {
        let serial = self.serial(node)?;
        Ok(self.shared.lock().inode(serial)?.attr())
    }

    fn setattr(
        &self,
        node: &Node,
        _file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        let serial = self.serial(node)?;
        self.shared.lock().setattr(serial, change, rights)
    }

    fn readlink(&self, node: &Node) -> Result<OsString> {
        let serial = self.serial(node)?;
        self.shared.lock().readlink(serial)
    }

    fn create(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created> {
        let dir = self.serial(dir)?;
        if let Some(prepare) = new.prepare {
            return self.create_prepared(dir, name, new, prepare);
        }
        let NewKind::Regular(Some(flags)) = new.what else {
            let mut state = self.shared.lock();
            let serial = state.create(dir, name, new)?;
            return Ok(Created { found: state.found(serial)?, file: None });
        };
        let (file, found) = self.file(flags, |state| {
            let serial = state.create(dir, name, new)?;
            Ok((serial, state.found(serial)?))
        })?;
        Ok(Created { found, file: Some(file) })
    }

    fn replace(&self, dir: &Node, name: Name<'_>, key: &Key, new: &New<'_>) -> Result<Found> {
        let dir = self.serial(dir)?;
        let (node, found) = self.node(|state| {
            let serial = state.make(dir, new)?;
            Ok((serial, state.found(serial)?))
        })?;
        let serial = self.serial(&node)?;
        let prepared = new.prepare.map_or(Ok(()), |Prepare(prepare)| prepare(&node, &found));
        let mut state = self.shared.lock();
        match prepared.and_then(|()| state.replace(dir, name, key, serial)) {
            Ok(()) => state.found(serial),
            Err(error) => {
                state.unlinked(serial)?;
                Err(error)
            }
        }
    }

    fn link(&self, node: &Node, dir: &Node, name: Name<'_>, _rights: Rights) -> Result<Found> {
        let (serial, dir) = (self.serial(node)?, self.serial(dir)?);
        let mut state = self.shared.lock();
        state.link(serial, dir, name)?;
        state.found(serial)
    }

    fn unlink(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        let dir = self.serial(dir)?;
        self.shared.lock().unlink(dir, name)
    }

    fn rmdir(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        let dir = self.serial(dir)?;
        self.shared.lock().rmdir(dir, name)
    }

    fn rename(
        &self,
        from: (&Node, Name<'_>),
        to: (&Node, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        _rights: Rights,
    ) -> Result<()> {
        let from = (self.serial(from.0)?, from.1);
        let to = (self.serial(to.0)?, to.1);
        self.shared.lock().rename(from, to, flags, owner)
    }

    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>> {
        let serial = self.serial(node)?;
        let (file, _) = self.file(flags, |state| {
            open::may_open(state, serial, flags)?;
            Ok((serial, state.found(serial)?))
        })?;
        Ok(file)
    }

    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>> {
        let serial = self.serial(node)?;
        let (held, ()) = Held::open(&self.shared, |state| {
            state.inode(serial)?.names()?;
            Ok((serial, ()))
        })?;
        Ok(Arc::new(MemoryDir { held }))
    }

    fn open_ahead(&self, node: &Node) -> Result<Option<Arc<dyn Dir>>> {
        if self.shared.lock().options.ahead { self.opendir(node).map(Some) } else { Ok(None) }
    }

    fn statfs(&self, node: &Node) -> Result<Statfs> {
        self.serial(node)?;
        Ok(self.shared.lock().statfs())
    }

    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        let serial = self.serial(node)?;
        self.shared.lock().acl(serial, kind)
    }

    fn set_acl(
        &self,
        node: &Node,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        let serial = self.serial(node)?;
        self.shared.lock().set_acl(serial, kind, acl, rights)
    }

    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        let serial = self.serial(node)?;
        Ok(self.shared.lock().inode(serial)?.capability)
    }

    fn set_capability(
        &self,
        node: &Node,
        capability: Option<&Capability<Disk>>,
        _rights: Rights,
    ) -> Result<()> {
        let serial = self.serial(node)?;
        self.shared.lock().set_capability(serial, capability)
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        let serial = self.serial(node)?;
        self.shared.lock().xattr(serial, name)
    }

    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        let serial = self.serial(node)?;
        self.shared.lock().xattrs(serial)
    }

    fn set_xattr(
        &self,
        node: &Node,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        _rights: Rights,
    ) -> Result<()> {
        let serial = self.serial(node)?;
        self.shared.lock().set_xattr(serial, name, value, how)
    }
}
