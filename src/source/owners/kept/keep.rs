//! Writing what a file is from now on.
//!
//! A record, ACLs and the capability are written one after another where the store
//! cannot do it at once. Whoever is killed in between leaves a file to which nobody has
//! more rights than before, or than were to be.

use std::ffi::OsStr;

use super::super::{Record, Write};
use super::seen::{Seen, Standing, real_mode};
use super::{Inner, RIGHTS};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR};
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::{Change, Key, Node};

/// What is kept of a file from now on.
#[derive(Clone, Debug)]
pub(super) struct Next<'a> {
    record: Record,
    /// An ACL, if that changes, or that there is none.
    acl: Option<(AclKind, Option<Acl<Disk>>)>,
    /// Whether it loses its capability.
    strips: bool,
    /// Another attribute that it gets.
    attribute: Option<(&'a OsStr, Vec<u8>)>,
}

impl<'a> Next<'a> {
    /// Changes the record at most.
    pub const fn record(record: Record) -> Self {
        Self { record, acl: None, strips: false, attribute: None }
    }

    /// Changes an ACL, too.
    pub fn acl(self, kind: AclKind, acl: Option<Acl<Disk>>) -> Self {
        Self { acl: Some((kind, acl)), ..self }
    }

    /// Takes the capability, too.
    pub fn stripped(self) -> Self {
        Self { strips: true, ..self }
    }

    /// Sets an attribute, too.
    pub fn attribute(self, name: &'a OsStr, value: &[u8]) -> Self {
        Self { attribute: Some((name, value.to_vec())), ..self }
    }

    /// Returns what comes before the record whatever else does.
    fn start(&self) -> Vec<Write<'a>> {
        let capability = || Write::Attribute(OsStr::new(CAPABILITY_XATTR), None);
        self.strips.then(capability).into_iter().collect()
    }

    /// Adds what comes last.
    fn end(&self, writes: &mut Vec<Write<'a>>) {
        let attribute = self.attribute.clone();
        writes.extend(attribute.map(|(name, value)| Write::Attribute(name, Some(value))));
    }

    /// Returns what is to be written of a file with a record.
    ///
    /// The kernel asks an ACL where there is one, and else the mode, whose group bits are
    /// the mask of the ACL: so an ACL is there before the mode that belongs to it, and
    /// goes after that. Where owner or set-id bits change as well, nobody but the owner
    /// may do anything in between: an ACL does not count with group bits of 0.
    fn after(&self, old: &Record) -> Vec<Write<'a>> {
        let mut writes = self.start();
        let record = (*old != self.record).then_some(Write::Record(self.record));
        match (&self.acl, record) {
            (None, record) => writes.extend(record),
            (Some((kind, acl)), None) => writes.push(of_acl(*kind, acl.as_ref())),
            (Some((kind, acl)), Some(record)) => {
                let set_id = old.mode.bits() & !self.record.mode.bits() & SET_ID;
                let acl = (of_acl(*kind, acl.as_ref()), acl.is_some());
                match acl {
                    (acl, _) if old.owner != self.record.owner || set_id != 0 => {
                        writes.push(Write::Record(closed(old, self.record.mode)));
                        writes.extend([acl, record]);
                    }
                    (acl, true) => writes.extend([acl, record]),
                    (acl, false) => writes.extend([record, acl]),
                }
            }
        }
        self.end(&mut writes);
        writes
    }
}

/// The set-id bits.
const SET_ID: u16 = 0o6000;

fn of_acl<'a>(kind: AclKind, acl: Option<&Acl<Disk>>) -> Write<'a> {
    Write::Attribute(OsStr::new(kind.xattr()), acl.map(Acl::encode))
}

/// Returns a record that gives its owner what both modes do, and others nothing.
fn closed(old: &Record, next: Mode) -> Record {
    let mode = Mode::new(u32::from(old.mode.bits() & next.bits() & 0o700));
    Record { mode, ..*old }
}

impl Inner {
    /// Writes what a file is from now on.
    pub(super) fn keep(&self, node: &Node, key: &Key, seen: &Seen, next: &Next<'_>) -> Result<()> {
        let old = seen.record().ok_or(Error::NotOurs)?;
        match seen.standing {
            Standing::Recorded(_) => {
                self.strip_below(node, next)?;
                let writes = next.after(&old);
                let written = self.store.write(&*self.below, node, key, &writes);
                if written.is_err()
                    && writes
                        .iter()
                        .any(|write| *write == Write::Record(closed(&old, next.record.mode)))
                {
                    // What cannot be written is no reason to lock anybody out.
                    let _again = self.store.put(&*self.below, node, key, &old);
                }
                written
            }
            Standing::Bare => {
                self.strip_below(node, next)?;
                self.take_over(node, key, next)
            }
            Standing::Exposed => {
                let moved = self.beside(node, next)?;
                self.strip_below(node, next)?;
                // What others may have left there must not count, also if this ends
                // in the middle.
                let shut =
                    Record { mode: closed(&next.record, next.record.mode).mode, ..next.record };
                self.store.put(&*self.below, node, key, &shut)?;
                self.clear(node, key)?;
                let mode = Some(real_mode(seen.attr.kind, next.record.mode));
                let change = Change { mode, ..Change::default() };
                self.below.setattr(node, None, &change, RIGHTS)?;
                self.clear(node, key)?;
                self.move_over(node, key, next, moved)
            }
            Standing::Kindless | Standing::Foreign => Err(Error::NotOurs),
        }
    }

    /// Moves ACLs and the capability of a file to where they are kept, with a record.
    fn take_over(&self, node: &Node, key: &Key, next: &Next<'_>) -> Result<()> {
        let moved = self.beside(node, next)?;
        self.move_over(node, key, next, moved)
    }

    /// Returns what a file without a record has itself, as it is to be kept.
    fn beside<'a>(&self, node: &Node, next: &Next<'a>) -> Result<Vec<Write<'a>>> {
        let mut writes = next.start();
        for kind in AclKind::ALL {
            let acl = match &next.acl {
                Some((changed, acl)) if *changed == kind => acl.clone(),
                Some(_) | None => self.below_acl(node, kind)?,
            };
            writes.push(of_acl(kind, acl.as_ref()));
        }
        if let Some(capability) = self.below_capability(node)?.filter(|_| !next.strips) {
            let name = OsStr::new(CAPABILITY_XATTR);
            writes.push(Write::Attribute(name, Some(capability.encode())));
        }
        Ok(writes)
    }

    /// Writes that, then the record from which on it counts, and removes it below.
    fn move_over<'a>(
        &self,
        node: &Node,
        key: &Key,
        next: &Next<'a>,
        mut writes: Vec<Write<'a>>,
    ) -> Result<()> {
        writes.push(Write::Record(next.record));
        next.end(&mut writes);
        self.store.write(&*self.below, node, key, &writes)?;
        for kind in AclKind::ALL {
            if self.below_acl(node, kind)?.is_some() {
                self.below.set_acl(node, kind, None, RIGHTS)?;
            }
        }
        if self.below_capability(node)?.is_some() {
            // It stays where the server may not remove it.
            let _stays = self.below.set_capability(node, None, RIGHTS);
        }
        Ok(())
    }

    /// Removes what is kept beside the record.
    fn clear(&self, node: &Node, key: &Key) -> Result<()> {
        let names = self.store.attributes(&*self.below, node, key)?;
        let all: Vec<_> = names.iter().map(|name| Write::Attribute(name, None)).collect();
        self.store.write(&*self.below, node, key, &all)
    }

    /// Takes the capability that the file below has, if it is to lose it.
    fn strip_below(&self, node: &Node, next: &Next<'_>) -> Result<()> {
        if !next.strips || self.below_capability(node)?.is_none() {
            return Ok(());
        }
        self.below.set_capability(node, None, RIGHTS)
    }

    /// Takes the file capability, if there is one.
    pub(super) fn drop_capability(&self, node: &Node, key: &Key) -> Result<()> {
        let none = [Write::Attribute(OsStr::new(CAPABILITY_XATTR), None)];
        self.store.write(&*self.below, node, key, &none)?;
        match self.below_capability(node)? {
            Some(_) => self.below.set_capability(node, None, RIGHTS),
            None => Ok(()),
        }
    }

    /// Returns the access ACL as a new mode makes it, if there is one.
    pub(super) fn chmoded(
        &self,
        node: &Node,
        key: &Key,
        seen: &Seen,
        mode: Option<Mode>,
    ) -> Result<Option<Acl<Disk>>> {
        let Some(mode) = mode.filter(|_| seen.shown().kind != FileKind::Symlink) else {
            return Ok(None);
        };
        let old = self.acl(node, key, seen, AclKind::Access)?;
        Ok(old.and_then(|old| Some(old.chmod(mode)).filter(|new| *new != old)))
    }
}
