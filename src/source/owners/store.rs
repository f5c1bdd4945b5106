//! What is recorded of a file, and where that is kept.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use crate::attr::{FileKind, Mode};
use crate::error::Result;
use crate::id::{Disk, Ids};
use crate::source::{Key, Node, Source};

/// A file of a source, by its volume and inode number.
pub type InodeId = (u64, u64);

/// What comes before the names of attributes that are kept in attributes.
pub(super) const KEPT: &str = "user.idmapfs.";

/// The numbers that QEMU keeps.
pub(super) const VIRTFS: &str = "user.virtfs.";

/// What names of records begin with: ours and those of other programs.
const RECORDS: [&str; 4] = [KEPT, VIRTFS, "user.containers.override_", "user.fuseoverlayfs."];

/// What a file is to callers, whatever it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner, in disk ids.
    pub owner: Ids<Disk>,
    /// All twelve permission bits.
    pub mode: Mode,
    /// What it is, and the device that it stands for; `None`: what it is on
    /// disk.
    pub kind: Option<(FileKind, u64)>,
}

/// A change of what is kept of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Its record.
    Record(Record),
    /// An attribute, or with `None` that there is none.
    Attribute(&'a OsStr, Option<Vec<u8>>),
}

/// Where records are kept, and the extended attributes that the source below
/// does not let the server store: `security.*`, `trusted.*`, ACLs.
///
/// All calls name a file by its node in the source below and by its key. A
/// record that a call has written is there after the server was killed.
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns what is recorded of a file.
    ///
    /// # Errors
    /// As getxattr(2); `EIO` if the record makes no sense.
    fn get(&self, below: &dyn Source, node: &Node, key: &Key) -> Result<Option<Record>>;

    /// Records what a file is, in place of any earlier record.
    ///
    /// # Errors
    /// As setxattr(2): `ENOSPC`, `EDQUOT`.
    fn put(&self, below: &dyn Source, node: &Node, key: &Key, record: &Record) -> Result<()>;

    /// Records what a file is that nobody can see yet.
    ///
    /// # Errors
    /// As [`Store::put`].
    fn put_new(&self, below: &dyn Source, node: &Node, key: &Key, record: &Record) -> Result<()> {
        self.put(below, node, key, record)
    }

    /// Writes several things of a file, in this order: whoever is killed in the middle has
    /// written the first of them, or, if the store can do that, all or nothing.
    ///
    /// # Errors
    /// As [`Store::put`], [`Store::set_attribute`].
    fn write(
        &self,
        below: &dyn Source,
        node: &Node,
        key: &Key,
        writes: &[Write<'_>],
    ) -> Result<()> {
        for write in writes {
            match write {
                Write::Record(record) => self.put(below, node, key, record)?,
                Write::Attribute(name, value) => {
                    match self.set_attribute(below, node, key, name, value.as_deref()) {
                        Err(error) if value.is_none() && error.is(libc::ENODATA) => {}
                        done => done?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Reports whether a file that is this on disk can have a record; if not, a
    /// regular file stands for it.
    fn takes(&self, kind: FileKind) -> bool;

    /// Reports whether an extended attribute of the source below is the store's
    /// own, or another program's record of an owner, to this store or to another one:
    /// callers neither see nor set those. What a caller sets by such a name is kept
    /// as an attribute, so that it means something to programs of callers alone.
    fn is_own(&self, name: &OsStr) -> bool {
        RECORDS.iter().any(|record| name.as_bytes().starts_with(record.as_bytes()))
    }

    /// Returns which directory of the source below holds the records: callers do not
    /// see it.
    fn hides(&self) -> Option<InodeId> {
        None
    }

    /// Reports whether a file of the source below is that directory, or in it.
    fn holds(&self, file: InodeId) -> bool {
        let _none = file;
        false
    }

    /// Returns the directories above that one, in the source: callers do not move
    /// them, since the next server would look for the records where they were.
    fn stays(&self) -> &[InodeId] {
        &[]
    }

    /// Returns an extended attribute that is kept here.
    ///
    /// # Errors
    /// `ENODATA` if there is none; as getxattr(2).
    fn attribute(
        &self,
        below: &dyn Source,
        node: &Node,
        key: &Key,
        name: &OsStr,
    ) -> Result<Vec<u8>>;

    /// Lists the extended attributes that are kept here, by the names that callers
    /// use.
    ///
    /// # Errors
    /// As listxattr(2).
    fn attributes(&self, below: &dyn Source, node: &Node, key: &Key) -> Result<Vec<OsString>>;

    /// Keeps an extended attribute, or removes it with `None` (`ENODATA` if there
    /// is none).
    ///
    /// # Errors
    /// As setxattr(2), removexattr(2).
    fn set_attribute(
        &self,
        below: &dyn Source,
        node: &Node,
        key: &Key,
        name: &OsStr,
        value: Option<&[u8]>,
    ) -> Result<()>;
}
