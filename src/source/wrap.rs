//! A source around another one, for tests: it passes every call on, counts
//! them, and can let one fail.
//!
//! It also shows what a wrapper must do: pass nodes on as they are, and let
//! [`File::as_any`] and [`File::lend`] answer for what it wraps.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::{
    Change, Created, Dir, DirEntry, Facts, File, FileHandle, Found, InodeFlags, InodeFlagsKind,
    Key, Lending, Lent, Lock, Locks, New, Node, Place, Prepare, RenameFlags, Rights, Source,
    Statfs, Unwatched, Watch, XattrSet,
};
use crate::acl::{Acl, AclKind, Capability};
use crate::attr::{Attr, FileKind, Name};
use crate::error::{Error, Result};
use crate::id::{Disk, Ids};
use crate::sync::lock;

/// The calls of a source, of its files, directories and locks.
///
/// Reads of attributes and of inode flags are counted together, whatever they
/// go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Root,
    Lookup,
    OpenByName,
    OpenByKey,
    Getattr,
    Setattr,
    Readlink,
    Create,
    Link,
    Unlink,
    Rmdir,
    Rename,
    Open,
    Opendir,
    OpenAhead,
    Statfs,
    Acl,
    SetAcl,
    Capability,
    SetCapability,
    Xattr,
    Xattrs,
    SetXattr,
    Read,
    Write,
    Flush,
    Sync,
    Allocate,
    Seek,
    CopyTo,
    InodeFlags,
    SetInodeFlags,
    Locks,
    SetLock,
    TestLock,
    ReadDir,
}

/// A call that is to wait: what it tells that it is there, and waits for.
type Pause = (Call, Sender<()>, Receiver<()>);

/// What has been called, and what is to fail.
#[derive(Debug, Default)]
struct Ledger {
    counts: Mutex<HashMap<Call, usize>>,
    faults: Mutex<Vec<(Call, Error)>>,
    pauses: Mutex<Vec<Pause>>,
}

impl Ledger {
    /// Counts a call; waits, and fails, if that was asked for.
    fn enter(&self, call: Call) -> Result<()> {
        let mut pauses = lock(&self.pauses);
        let pause = pauses.iter().position(|(of, ..)| *of == call).map(|at| pauses.remove(at));
        drop(pauses);
        if let Some((_, here, go)) = pause {
            // A test that has ended does not wait any more.
            let _ended = here.send(()).map(|()| go.recv());
        }
        let mut counts = lock(&self.counts);
        let count = counts.entry(call).or_default();
        *count = count.saturating_add(1);
        let mut faults = lock(&self.faults);
        match faults.iter().position(|(of, _)| *of == call) {
            Some(at) => Err(faults.remove(at).1),
            None => Ok(()),
        }
    }
}

/// A source that passes every call on to another one.
#[derive(Debug)]
pub struct Wrap {
    inner: Arc<dyn Source>,
    /// What new files are prepared with where the caller does not.
    prepare: Option<Prepare<'static>>,
    ledger: Arc<Ledger>,
}

impl Wrap {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self { inner, prepare: None, ledger: Arc::default() }
    }

    /// Wraps a source in which every new file is prepared.
    pub fn preparing(inner: Arc<dyn Source>, prepare: Prepare<'static>) -> Self {
        Self { prepare: Some(prepare), ..Self::new(inner) }
    }

    /// Returns how often something was called, failures included.
    pub fn count(&self, call: Call) -> usize {
        let counts = lock(&self.ledger.counts);
        counts.get(&call).copied().unwrap_or(0)
    }

    /// Lets the next call of a kind fail without any effect; faults of the
    /// same kind come one after the other.
    pub fn fail(&self, call: Call, error: Error) {
        let mut faults = lock(&self.ledger.faults);
        faults.push((call, error));
    }

    /// Lets the next call of a kind wait before it has any effect: it says so
    /// to the receiver, and goes on when it hears from the sender.
    pub fn pause(&self, call: Call) -> (Receiver<()>, Sender<()>) {
        let ((here, told), (go, wait)) = (channel(), channel());
        lock(&self.ledger.pauses).push((call, here, wait));
        (told, go)
    }

    fn file(&self, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(WrapFile { inner, ledger: Arc::clone(&self.ledger) })
    }
}

impl Source for Wrap {
    fn facts(&self) -> Facts {
        self.inner.facts()
    }

    fn lasting(&self, volume: u64) -> u64 {
        self.inner.lasting(volume)
    }

    fn watch(&self) -> std::result::Result<Arc<dyn Watch>, Unwatched> {
        self.inner.watch()
    }

    fn leave(&self) {
        self.inner.leave();
    }

    fn close_reader(&self, node: &Node) {
        self.inner.close_reader(node);
    }

    fn root(&self) -> Result<(Node, Found)> {
        self.ledger.enter(Call::Root)?;
        self.inner.root()
    }

    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        self.ledger.enter(Call::Lookup)?;
        self.inner.lookup(dir, name)
    }

    fn open_by_name(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node> {
        self.ledger.enter(Call::OpenByName)?;
        self.inner.open_by_name(dir, name, key)
    }

    fn open_by_key(&self, key: &Key, handle: &FileHandle, kind: FileKind) -> Result<Node> {
        self.ledger.enter(Call::OpenByKey)?;
        self.inner.open_by_key(key, handle, kind)
    }

    fn by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        self.inner.by_number(volume, ino)
    }

    fn parent(&self, dir: &Node) -> Result<(Node, Found)> {
        self.inner.parent(dir)
    }

    fn getattr(&self, node: &Node) -> Result<Attr<Disk>> {
        self.ledger.enter(Call::Getattr)?;
        self.inner.getattr(node)
    }

    fn setattr(
        &self,
        node: &Node,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        self.ledger.enter(Call::Setattr)?;
        self.inner.setattr(node, file, change, rights)
    }

    fn readlink(&self, node: &Node) -> Result<OsString> {
        self.ledger.enter(Call::Readlink)?;
        self.inner.readlink(node)
    }

    fn create(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created> {
        self.ledger.enter(Call::Create)?;
        let new = New { prepare: new.prepare.or(self.prepare), ..*new };
        let Created { found, file } = self.inner.create(dir, name, &new)?;
        Ok(Created { found, file: file.map(|file| self.file(file)) })
    }

    fn replace(&self, dir: &Node, name: Name<'_>, key: &Key, new: &New<'_>) -> Result<Found> {
        self.inner.replace(dir, name, key, new)
    }

    fn link(&self, node: &Node, dir: &Node, name: Name<'_>, rights: Rights) -> Result<Found> {
        self.ledger.enter(Call::Link)?;
        self.inner.link(node, dir, name, rights)
    }

    fn unlink(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        self.ledger.enter(Call::Unlink)?;
        self.inner.unlink(dir, name)
    }

    fn rmdir(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        self.ledger.enter(Call::Rmdir)?;
        self.inner.rmdir(dir, name)
    }

    fn rename(
        &self,
        from: (&Node, Name<'_>),
        to: (&Node, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.ledger.enter(Call::Rename)?;
        self.inner.rename(from, to, flags, owner, rights)
    }

    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>> {
        self.ledger.enter(Call::Open)?;
        Ok(self.file(self.inner.open(node, flags)?))
    }

    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>> {
        self.ledger.enter(Call::Opendir)?;
        let inner = self.inner.opendir(node)?;
        Ok(Arc::new(WrapDir { inner, ledger: Arc::clone(&self.ledger) }))
    }

    fn open_ahead(&self, node: &Node) -> Result<Option<Arc<dyn Dir>>> {
        self.ledger.enter(Call::OpenAhead)?;
        let inner = self.inner.open_ahead(node)?;
        Ok(inner.map(|inner| Arc::new(WrapDir { inner, ledger: Arc::clone(&self.ledger) }) as _))
    }

    fn statfs(&self, node: &Node) -> Result<Statfs> {
        self.ledger.enter(Call::Statfs)?;
        self.inner.statfs(node)
    }

    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        self.ledger.enter(Call::Acl)?;
        self.inner.acl(node, kind)
    }

    fn set_acl(
        &self,
        node: &Node,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.ledger.enter(Call::SetAcl)?;
        self.inner.set_acl(node, kind, acl, rights)
    }

    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        self.ledger.enter(Call::Capability)?;
        self.inner.capability(node)
    }

    fn set_capability(
        &self,
        node: &Node,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.ledger.enter(Call::SetCapability)?;
        self.inner.set_capability(node, capability, rights)
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        self.ledger.enter(Call::Xattr)?;
        self.inner.xattr(node, name)
    }

    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        self.ledger.enter(Call::Xattrs)?;
        self.inner.xattrs(node)
    }

    fn set_xattr(
        &self,
        node: &Node,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        rights: Rights,
    ) -> Result<()> {
        self.ledger.enter(Call::SetXattr)?;
        self.inner.set_xattr(node, name, value, how, rights)
    }
}

/// An open file of a wrapped source.
#[derive(Debug)]
struct WrapFile {
    inner: Arc<dyn File>,
    ledger: Arc<Ledger>,
}

impl File for WrapFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.ledger.enter(Call::Read)?;
        self.inner.read(offset, buf)
    }

    fn write(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.ledger.enter(Call::Write)?;
        self.inner.write(place, data, rights)
    }

    fn flush(&self) -> Result<()> {
        self.ledger.enter(Call::Flush)?;
        self.inner.flush()
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.ledger.enter(Call::Sync)?;
        self.inner.sync(data_only)
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64, rights: Rights) -> Result<()> {
        self.ledger.enter(Call::Allocate)?;
        self.inner.allocate(mode, offset, length, rights)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        self.ledger.enter(Call::Seek)?;
        self.inner.seek(offset, whence)
    }

    fn copy_to(
        &self,
        offset: u64,
        to: &dyn File,
        to_offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<usize> {
        self.ledger.enter(Call::CopyTo)?;
        self.inner.copy_to(offset, to, to_offset, length, rights)
    }

    fn getattr(&self) -> Result<Attr<Disk>> {
        self.ledger.enter(Call::Getattr)?;
        self.inner.getattr()
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        self.ledger.enter(Call::InodeFlags)?;
        self.inner.inode_flags(kind)
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.ledger.enter(Call::SetInodeFlags)?;
        self.inner.set_inode_flags(flags)
    }

    fn locks(&self) -> Result<Box<dyn Locks>> {
        self.ledger.enter(Call::Locks)?;
        let inner = self.inner.locks()?;
        Ok(Box::new(WrapLocks { inner, ledger: Arc::clone(&self.ledger) }))
    }

    fn lending(&self) -> Result<Lending> {
        self.inner.lending()
    }

    fn lend(&self, to: &mut dyn FnMut(BorrowedFd<'_>) -> Result<Lent>) -> Result<Lent> {
        self.inner.lend(to)
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

/// The locks of one owner, of a wrapped source.
#[derive(Debug)]
struct WrapLocks {
    inner: Box<dyn Locks>,
    ledger: Arc<Ledger>,
}

impl Locks for WrapLocks {
    fn set(&self, lock: &Lock) -> Result<()> {
        self.ledger.enter(Call::SetLock)?;
        self.inner.set(lock)
    }

    fn test(&self, lock: &Lock) -> Result<Option<Lock>> {
        self.ledger.enter(Call::TestLock)?;
        self.inner.test(lock)
    }
}

/// An open directory of a wrapped source.
#[derive(Debug)]
struct WrapDir {
    inner: Arc<dyn Dir>,
    ledger: Arc<Ledger>,
}

impl Dir for WrapDir {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.ledger.enter(Call::ReadDir)?;
        self.inner.read(offset, each)
    }

    fn upcoming(&self, offset: u64) -> Vec<OsString> {
        self.inner.upcoming(offset)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.ledger.enter(Call::Sync)?;
        self.inner.sync(data_only)
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        self.ledger.enter(Call::InodeFlags)?;
        self.inner.inode_flags(kind)
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.ledger.enter(Call::SetInodeFlags)?;
        self.inner.set_inode_flags(flags)
    }
}
