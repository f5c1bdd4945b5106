//! The calls of a source: what is not told by records is what is below.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::super::Record;
use super::file::{KeptDir, KeptFile};
use super::seen::Standing;
use super::watch::KeptWatch;
use super::{Inner, Kept};
use crate::acl::{Acl, AclKind, Capability};
use crate::attr::{Attr, FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::id::{Disk, Ids};
use crate::source::rules;
use crate::source::{
    Change, Created, Dir, Facts, File, FileHandle, Found, Key, New, NewKind, Node, RenameFlags,
    Rights, Source, Statfs, Unwatched, Watch, XattrSet,
};

impl Source for Kept {
    fn facts(&self) -> Facts {
        let below = self.inner.below.facts();
        Facts {
            acl: true,
            handles: below.handles,
            any_owner: true,
            any_file: true,
            immutable: below.immutable,
            // The kernel takes files from root of the host alone.
            lends: below.lends && below.any_file,
        }
    }

    fn lasting(&self, volume: u64) -> u64 {
        self.inner.below.lasting(volume)
    }

    fn watch(&self) -> std::result::Result<Arc<dyn Watch>, Unwatched> {
        Ok(Arc::new(KeptWatch::new(self.inner.below.watch()?, Arc::clone(&self.inner))))
    }

    fn leave(&self) {
        self.inner.hold.leave();
        self.inner.below.leave();
    }

    fn close_reader(&self, node: &Node) {
        if let Ok(under) = self.under(node) {
            self.inner.below.close_reader(&under);
        }
    }

    fn root(&self) -> Result<(Node, Found)> {
        self.hold_nameless(self.inner.below.root()?)
    }

    fn lookup(&self, dir: &Node, name: Name<'_>) -> Result<Found> {
        let met = self.meet(dir, name)?;
        Ok(self.inner.present(met.found, &met.seen))
    }

    fn reach(&self, dir: &Node, name: Name<'_>) -> Result<(Node, Found)> {
        let met = self.meet(dir, name)?;
        Ok(self.node(met, dir, name))
    }

    fn open_by_name(&self, dir: &Node, name: Name<'_>, key: &Key) -> Result<Node> {
        let real = self.inner.aliases.real(key);
        let below = &self.inner.below;
        let node = below.open_by_name(&self.under(dir)?, name, &real)?;
        let kind = below.getattr(&node)?.kind;
        Ok(self.wrap(node, key, kind, (dir, name)))
    }

    fn open_by_key(&self, key: &Key, handle: &FileHandle, kind: FileKind) -> Result<Node> {
        match kind {
            FileKind::Regular | FileKind::Directory => {
                let node = self.inner.below.open_by_key(key, handle, kind)?;
                Ok(self.nameless(node, key))
            }
            // What stands for it may change, which takes its name.
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => Err(Error::Unsupported),
        }
    }

    fn by_number(&self, volume: u64, ino: u64) -> Result<(Node, Found)> {
        let below = self.inner.below.by_number(volume, ino)?;
        // A file system that is mounted below itself has its files by two numbers.
        let volumes = [volume, self.inner.below.lasting(volume)];
        if volumes.into_iter().any(|volume| self.inner.store.holds((volume, ino))) {
            return Err(Error::Stale);
        }
        let (node, found) = self.hold_nameless(below)?;
        // All others need a name, as in `open_by_key`.
        let nameless = matches!(found.attr.kind, FileKind::Regular | FileKind::Directory);
        if nameless && found.key.ino == ino { Ok((node, found)) } else { Err(Error::Stale) }
    }

    fn parent(&self, dir: &Node) -> Result<(Node, Found)> {
        self.hold_nameless(self.inner.below.parent(&self.under(dir)?)?)
    }

    fn getattr(&self, node: &Node) -> Result<Attr<Disk>> {
        let held = Self::held(node)?;
        let (under, key) = self.inner.under(held)?;
        let seen = self.inner.look(&under, &key)?;
        Ok(Attr { ino: held.key.ino, ..seen.shown() })
    }

    fn setattr(
        &self,
        node: &Node,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        let held = Self::held(node)?;
        let file = file.and_then(|file| file.as_any().downcast_ref::<KeptFile>());
        let file = file.map(KeptFile::below);
        let attr = self.inner.change(held, file, change, rights)?;
        Ok(Attr { ino: held.key.ino, ..attr })
    }

    fn readlink(&self, node: &Node) -> Result<OsString> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        let seen = self.inner.look(&under, &key)?;
        match (seen.shown().kind, seen.attr.kind) {
            (FileKind::Symlink, FileKind::Regular) => {
                self.inner.read_target(&under, seen.attr.size)
            }
            _ => self.inner.below.readlink(&under),
        }
    }

    fn create(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created> {
        self.make(dir, name, new)
    }

    fn link(&self, node: &Node, dir: &Node, name: Name<'_>, rights: Rights) -> Result<Found> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        let found = self.inner.below.link(&under, &self.under(dir)?, name, rights)?;
        let seen = self.inner.recorded(&under, &key, found.attr)?;
        Ok(self.inner.present(found, &seen))
    }

    fn unlink(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        self.inner.below.unlink(&self.under(dir)?, name)
    }

    fn rmdir(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        self.inner.below.rmdir(&self.under(dir)?, name)
    }

    fn rename(
        &self,
        from: (&Node, Name<'_>),
        to: (&Node, Name<'_>),
        flags: RenameFlags,
        owner: Option<Ids<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.inner.lets_move(from.0, from.1)?;
        if flags.exchange {
            self.inner.lets_move(to.0, to.1)?;
        }
        let (old, new) = (self.under(from.0)?, self.under(to.0)?);
        let below = owner.map(|_| self.inner.own);
        self.inner.below.rename((&old, from.1), (&new, to.1), flags, below, rights)?;
        match owner {
            Some(owner) if flags.whiteout => self.give_whiteout(from, owner),
            Some(_) | None => Ok(()),
        }
    }

    fn open(&self, node: &Node, flags: i32) -> Result<Arc<dyn File>> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        let seen = self.inner.look(&under, &key)?;
        rules::check_open(seen.shown().kind)?;
        let file = self.inner.below.open(&under, flags)?;
        Ok(Arc::new(KeptFile::new(Arc::clone(&self.inner), file, node.clone(), flags)))
    }

    fn opendir(&self, node: &Node) -> Result<Arc<dyn Dir>> {
        let held = Self::held(node)?;
        let dir = self.inner.below.opendir(&self.inner.under(held)?.0)?;
        Ok(Arc::new(KeptDir::new(Arc::clone(&self.inner), dir)))
    }

    fn open_ahead(&self, node: &Node) -> Result<Option<Arc<dyn Dir>>> {
        let below = self.inner.under(Self::held(node)?)?.0;
        let dir = self.inner.below.open_ahead(&below)?;
        Ok(dir.map(|dir| Arc::new(KeptDir::new(Arc::clone(&self.inner), dir)) as _))
    }

    fn statfs(&self, node: &Node) -> Result<Statfs> {
        self.inner.below.statfs(&self.under(node)?)
    }

    fn acl(&self, node: &Node, kind: AclKind) -> Result<Option<Acl<Disk>>> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        let seen = self.inner.look(&under, &key)?;
        self.inner.acl(&under, &key, &seen, kind)
    }

    fn set_acl(
        &self,
        node: &Node,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.inner.set_acl(Self::held(node)?, kind, acl, rights)
    }

    fn capability(&self, node: &Node) -> Result<Option<Capability<Disk>>> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        let seen = self.inner.look(&under, &key)?;
        self.inner.capability(&under, &key, &seen)
    }

    fn set_capability(
        &self,
        node: &Node,
        capability: Option<&Capability<Disk>>,
        rights: Rights,
    ) -> Result<()> {
        self.inner.set_capability(Self::held(node)?, capability, rights)
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        self.inner.xattr(&under, &key, name)
    }

    fn xattrs(&self, node: &Node) -> Result<Vec<OsString>> {
        let (under, key) = self.inner.under(Self::held(node)?)?;
        self.inner.xattrs(&under, &key)
    }

    fn set_xattr(
        &self,
        node: &Node,
        name: &OsStr,
        value: Option<&[u8]>,
        how: XattrSet,
        rights: Rights,
    ) -> Result<()> {
        self.inner.set_xattr(Self::held(node)?, name, (value, how), rights)
    }
}

impl Inner {
    /// Sees that a name leads to nothing that is to stay where it is.
    fn lets_move(&self, dir: &Node, name: Name<'_>) -> Result<()> {
        let stays = self.store.stays();
        if stays.is_empty() {
            return Ok(());
        }
        let key = self.below.lookup(&self.under(Kept::held(dir)?)?.0, name)?.key;
        if stays.contains(&(key.volume, key.ino)) { Err(rules::os(libc::EBUSY)) } else { Ok(()) }
    }
}

impl Kept {
    /// Gives a whiteout that was left under a name to whom it is to belong. Nobody
    /// knows it yet: it need not keep its identity.
    fn give_whiteout(&self, at: (&Node, Name<'_>), owner: Ids<Disk>) -> Result<()> {
        let (what, mode) = (NewKind::Special(FileKind::CharDevice, 0), Mode::new(0));
        let new = New { what, owner, mode, umask: 0, reserve: false, prepare: None };
        let born = self.born(at.0, &new)?;
        let met = self.meet(at.0, at.1)?;
        let seen = met.seen;
        let is_one = seen.attr.kind == FileKind::CharDevice && seen.attr.rdev == 0;
        if born.owner == self.inner.own || !is_one || seen.standing != Standing::Kindless {
            return Ok(());
        }
        let (node, _) = self.node(met, at.0, at.1);
        let record = Record { owner: born.owner, mode: born.mode, kind: None };
        let made = (record, born.access.as_ref());
        self.inner.stand_in(Self::held(&node)?, &seen, made, &Change::default()).map(drop)
    }
}
