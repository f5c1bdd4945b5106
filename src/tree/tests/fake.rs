//! A source that is a few maps: names, identities and open nodes, no more.
//! The benchmark of the tree uses it too.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::acl::{Acl, AclKind, Capability};
use crate::attr::{Attr, FileKind, Mode, Name, Time};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Ids, Owner};
use crate::source::*;

/// Runs once, before the next open.
pub struct Hook(pub Box<dyn FnOnce() + Send>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// The files by identity; each has the entries that it has as a directory.
#[derive(Debug, Default)]
struct Files {
    entries: HashMap<Key, BTreeMap<OsString, Key>>,
    links: HashMap<Key, usize>,
}

#[derive(Debug)]
pub struct Fake {
    files: Mutex<Files>,
    root: Key,
    handles: bool,
    /// How many nodes may be open at once.
    pub limit: AtomicUsize,
    /// How many nodes are open.
    pub open: Arc<AtomicUsize>,
    /// How many nodes were opened by name and by handle so far.
    pub opened: (AtomicUsize, AtomicUsize),
    pub hook: Mutex<Option<Hook>>,
}

/// What a node of this source holds.
#[derive(Debug)]
pub struct Held {
    pub key: Key,
    open: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

pub fn key(ino: u64, generation: u64) -> Key {
    Key { volume: 0, ino, generation }
}

impl Fake {
    pub fn new(root: Key, handles: bool) -> Arc<Self> {
        let mut files = Files::default();
        files.entries.insert(root.clone(), BTreeMap::new());
        Arc::new(Self {
            files: Mutex::new(files),
            root,
            handles,
            limit: AtomicUsize::new(usize::MAX),
            open: Arc::default(),
            opened: Default::default(),
            hook: Mutex::default(),
        })
    }

    /// Gives a file, new or not, a name; takes the name from another.
    pub fn add(&self, dir: &Key, name: &str, file: &Key) {
        self.remove(dir, name);
        let mut files = self.files();
        if let Some(entries) = files.entries.get_mut(dir) {
            entries.insert(name.into(), file.clone());
        }
        files.entries.entry(file.clone()).or_default();
        let links = files.links.entry(file.clone()).or_default();
        *links = links.saturating_add(1);
    }

    /// Takes a name away; the file is gone with its last one.
    pub fn remove(&self, dir: &Key, name: &str) -> Option<Key> {
        let mut files = self.files();
        let file = files.entries.get_mut(dir)?.remove(OsStr::new(name))?;
        let links = files.links.entry(file.clone()).or_default();
        *links = links.saturating_sub(1);
        if *links == 0 {
            files.links.remove(&file);
            files.entries.remove(&file);
        }
        Some(file)
    }

    /// Reports whether a file has a name.
    pub fn exists(&self, file: &Key) -> bool {
        *file == self.root || self.files().links.contains_key(file)
    }

    /// Takes all names of a file away.
    pub fn destroy(&self, file: &Key) {
        let mut files = self.files();
        for entries in files.entries.values_mut() {
            entries.retain(|_, entry| entry != file);
        }
        files.links.remove(file);
        files.entries.remove(file);
    }

    pub fn rename(&self, from: (&Key, &str), to: (&Key, &str)) {
        let file =
            self.files().entries.get(from.0).and_then(|dir| dir.get(OsStr::new(from.1)).cloned());
        if let Some(file) = file {
            self.add(to.0, to.1, &file);
            self.remove(from.0, from.1);
        }
    }

    /// Looks a name up without a node.
    pub fn find(&self, dir: &Key, name: &str) -> Result<Found> {
        let files = self.files();
        let entries = files.entries.get(dir).ok_or(Error::Os(Errno(libc::ENOENT)))?;
        let key = entries.get(OsStr::new(name)).ok_or(Error::Os(Errno(libc::ENOENT)))?;
        Ok(self.found(key))
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn found(&self, key: &Key) -> Found {
        let bytes = [key.volume.to_le_bytes(), key.ino.to_le_bytes(), key.generation.to_le_bytes()];
        let attr = Attr {
            ino: key.ino,
            kind: FileKind::Directory,
            mode: Mode::new(0o755),
            nlink: 1,
            owner: Owner { uid: None, gid: None },
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            locked: false,
            encrypted: false,
        };
        let handle = self.handles.then(|| FileHandle { kind: 1, bytes: bytes.concat().into() });
        Found { key: key.clone(), handle, attr }
    }

    fn open(&self, key: &Key, opened: &AtomicUsize) -> Result<Node> {
        if self.open.fetch_add(1, SeqCst) >= self.limit.load(SeqCst) {
            self.open.fetch_sub(1, SeqCst);
            return Err(Error::Os(Errno(libc::EMFILE)));
        }
        opened.fetch_add(1, SeqCst);
        Ok(Node::new(Held { key: key.clone(), open: Arc::clone(&self.open) }))
    }

    fn run_hook(&self) {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Hook(run)) = hook {
            run();
        }
    }
}

#[expect(unused_variables, reason = "most of a source is of no use to the tree")]
impl Source for Fake {
    fn facts(&self) -> Facts {
        let handles = self.handles;
        Facts {
            acl: false,
            handles,
            any_owner: false,
            any_file: false,
            immutable: false,
            lends: false,
        }
    }
    fn root(&self) -> Result<(Node, Found)> {
        Ok((self.open(&self.root, &self.opened.0)?, self.found(&self.root)))
    }
    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        let dir = dir.get::<Held>().ok_or(Error::Internal)?;
        self.find(&dir.key, name.as_os_str().to_str().ok_or(Error::BadName)?)
    }
    fn open_by_name(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node> {
        self.run_hook();
        match self.lookup(dir, name) {
            Ok(found) if found.key == *key => self.open(key, &self.opened.0),
            Ok(_) => Err(Error::Stale),
            Err(error) => Err(error),
        }
    }
    fn open_by_key(&self, key: &Key, handle: &FileHandle, _kind: FileKind) -> Result<Node> {
        self.run_hook();
        if !self.handles {
            return Err(Error::Unsupported);
        }
        if !self.exists(key) {
            return Err(Error::Stale);
        }
        self.open(key, &self.opened.1)
    }
    fn getattr(&self, node: &Node) -> Result<Attr<Disk>> {
        Err(Error::Unsupported)
    }
    fn setattr(
        &self,
        node: &Node,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        Err(Error::Unsupported)
    }
    fn readlink(&self, node: &Node) -> Result<OsString> {
        Err(Error::Unsupported)
    }
    fn create(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created> {
        Err(Error::Unsupported)
    }
    fn link(&self, node: &Node, dir: &Node, name: Name<'_>, rights: Rights) -> Result<Found> {
        Err(Error::Unsupported)
    }
    fn unlink(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        Err(Error::Unsupported)
    }
    fn rmdir(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        Err(Error::Unsupported)
    }
    fn rename(
        &self,
        from: (&Node, Name<'_>),
        to: (&Node, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        Err(Error::Unsupported)
    }
    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>> {
        Err(Error::Unsupported)
    }
    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>> {
        Err(Error::Unsupported)
    }
    fn statfs(&self, node: &Node) -> Result<Statfs> {
        Err(Error::Unsupported)
    }
    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        Err(Error::Unsupported)
    }
    fn set_acl(
        &self,
        node: &Node,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        Err(Error::Unsupported)
    }
    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        Err(Error::Unsupported)
    }
    fn set_capability(
        &self,
        node: &Node,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        Err(Error::Unsupported)
    }
    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        Err(Error::Unsupported)
    }
    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        Err(Error::Unsupported)
    }
    fn set_xattr(
        &self,
        node: &Node,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        rights: Rights,
    ) -> Result<()> {
        Err(Error::Unsupported)
    }
}
