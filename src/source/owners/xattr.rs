//! Records in extended attributes of the files themselves.
//!
//! Written is the name that fuse-overlayfs looks for on the files of this tree: its
//! own one where the root has that (an upper layer of it with `xattr_permissions=2`,
//! in versions up to 1.13), else `user.containers.override_stat`. Like it, the root
//! gets a record with the first file that does, which is how others see that
//! there are any.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::record::Virtfs;
use super::store::{KEPT, VIRTFS};
use super::{Record, Store, is_exposed};
use crate::attr::FileKind;
use crate::error::{Error, Result};
use crate::id::Ids;
use crate::source::{Key, Node, Rights, Source, XattrSet};

/// As podman, buildah, fuse-overlayfs and libkrun name a record.
const CONTAINERS: &str = "user.containers.override_stat";

/// As fuse-overlayfs named it for trees of its own.
const OVERLAY: &str = "user.fuseoverlayfs.override_stat";

/// What the store itself does takes no rights of a caller's.
const RIGHTS: Rights = Rights { keep_setid: false, reserve: false };

/// A store that keeps everything of a file in its extended attributes.
#[derive(Debug)]
pub struct Xattrs {
    /// The name of records.
    name: &'static str,
    /// Whether the root has a record.
    marked: AtomicBool,
}

impl Xattrs {
    /// Looks at what records the source has.
    ///
    /// # Errors
    /// `Unsupported` if its file system keeps no such attributes; as getxattr(2).
    pub fn new(below: &dyn Source) -> Result<Self> {
        let (root, _) = below.root()?;
        let has = |name| -> Result<bool> {
            Ok(optional(below.xattr(&root, OsStr::new(name)))?.is_some())
        };
        let name = if has(OVERLAY)? { OVERLAY } else { CONTAINERS };
        let marked = AtomicBool::new(has(name)?);
        Ok(Self { name, marked })
    }

    /// Returns the record that another program has left.
    fn foreign(&self, below: &dyn Source, node: &Node) -> Result<Option<Record>> {
        let mut virtfs = Virtfs::default();
        for name in below.xattrs(node)? {
            let read = || optional(below.xattr(node, &name));
            if name == CONTAINERS {
                return read()?.map(|text| Record::decode(&text)).transpose();
            }
            if let Some(field) = name.to_str().and_then(|name| name.strip_prefix(VIRTFS))
                && let Some(value) = read()?
            {
                virtfs.take(field, &value)?;
            }
        }
        if virtfs == Virtfs::default() {
            return Ok(None);
        }
        let attr = below.getattr(node)?;
        let (uid, gid) = (attr.owner.uid, attr.owner.gid);
        let (Some(uid), Some(gid)) = (uid, gid) else { return Err(Error::Internal) };
        virtfs.record(Ids { uid, gid }, attr.mode)
    }

    /// Removes records that other programs have left: they would be taken for this
    /// one when this one goes.
    fn tidy(&self, below: &dyn Source, node: &Node) -> Result<()> {
        for name in below.xattrs(node)? {
            let other = name.as_bytes().starts_with(VIRTFS.as_bytes())
                || (name == CONTAINERS && self.name != CONTAINERS);
            if other {
                optional(below.set_xattr(node, &name, None, XattrSet::Any, RIGHTS))?;
            }
        }
        Ok(())
    }

    /// Gives the root a record of what it is, which changes nothing of it.
    fn mark(&self, below: &dyn Source) -> Result<()> {
        if self.marked.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let (root, found) = below.root()?;
        let (owner, mode) = (found.attr.owner, found.attr.mode);
        // One that counted only later would be a surprise by then.
        if is_exposed(found.attr.kind, mode) {
            let mode = mode.bits();
            log::info!(
                "the root of the source gets no record, since others may write it (mode \
                 {mode:04o}): fuse-overlayfs looks for none below it then"
            );
        } else if let (Some(uid), Some(gid)) = (owner.uid, owner.gid) {
            let record = Record { owner: Ids { uid, gid }, mode, kind: None };
            let (name, text) = (OsStr::new(self.name), record.encode());
            let marked =
                below.set_xattr(&root, name, Some(text.as_bytes()), XattrSet::Create, RIGHTS);
            if let Err(error) = marked {
                log::debug!("the root of the source gets no record: {error}");
            }
        }
        Ok(())
    }
}

impl Store for Xattrs {
    fn get(&self, below: &dyn Source, node: &Node, _key: &Key) -> Result<Option<Record>> {
        match optional(below.xattr(node, OsStr::new(self.name)))? {
            Some(text) => Record::decode(&text).map(Some),
            None => self.foreign(below, node),
        }
    }

    fn put(&self, below: &dyn Source, node: &Node, _key: &Key, record: &Record) -> Result<()> {
        let text = record.encode();
        let set =
            |how| below.set_xattr(node, OsStr::new(self.name), Some(text.as_bytes()), how, RIGHTS);
        match set(XattrSet::Replace) {
            Err(error) if error.is(libc::ENODATA) => {
                self.mark(below)?;
                set(XattrSet::Any)?;
                self.tidy(below, node)
            }
            done => done,
        }
    }

    fn put_new(&self, below: &dyn Source, node: &Node, _key: &Key, record: &Record) -> Result<()> {
        self.mark(below)?;
        let (name, text) = (OsStr::new(self.name), record.encode());
        below.set_xattr(node, name, Some(text.as_bytes()), XattrSet::Any, RIGHTS)
    }

    fn takes(&self, kind: FileKind) -> bool {
        matches!(kind, FileKind::Regular | FileKind::Directory)
    }

    fn attribute(
        &self,
        below: &dyn Source,
        node: &Node,
        _key: &Key,
        name: &OsStr,
    ) -> Result<Vec<u8>> {
        below.xattr(node, &kept(name))
    }

    fn attributes(&self, below: &dyn Source, node: &Node, _key: &Key) -> Result<Vec<OsString>> {
        let names = below.xattrs(node)?.into_iter();
        let shown = |name: OsString| {
            let name = name.into_vec();
            name.strip_prefix(KEPT.as_bytes()).map(|name| OsString::from_vec(name.to_vec()))
        };
        Ok(names.filter_map(shown).collect())
    }

    fn set_attribute(
        &self,
        below: &dyn Source,
        node: &Node,
        _key: &Key,
        name: &OsStr,
        value: Option<&[u8]>,
    ) -> Result<()> {
        below.set_xattr(node, &kept(name), value, XattrSet::Any, RIGHTS)
    }
}

/// Returns the name under which an attribute is kept.
fn kept(name: &OsStr) -> OsString {
    let mut kept = OsString::from(KEPT);
    kept.push(name);
    kept
}

/// Makes `None` of an attribute that is not there.
fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}
