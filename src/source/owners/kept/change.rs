//! Changes of owner, mode and size, and what goes with them.

use std::ffi::OsStr;

use super::super::Record;
use super::keep::Next;
use super::node::KeptNode;
use super::seen::{Seen, Standing, real_mode};
use super::{Inner, Kept, RIGHTS};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR};
use crate::attr::{Attr, FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::rules;
use crate::source::{Change, File, Found, Key, New, NewKind, Node, Prepare, Rights, SetTime};

impl Inner {
    /// Makes changes; `file` is what is open below.
    pub(super) fn change(
        &self,
        held: &KeptNode,
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        let (_alone, under, key) = self.alone(held)?;
        let seen = self.look(&under, &key)?;
        rules::check_change(seen.shown().kind, change)?;
        let of_record = change.is_chown() || change.mode.is_some() || change.size.is_some();
        let old = seen.record().filter(|_| of_record && seen.standing != Standing::Foreign);
        let Some(old) = old else {
            let attr = self.below.setattr(&under, file, change, rights)?;
            return Ok(Seen { attr, ..seen }.shown());
        };
        let next = changed(&old, seen.shown().kind, change, rights);
        // What the file is on disk can say all that there is to say.
        let suffices = next == old && change.mode.is_none();
        match seen.standing {
            Standing::Kindless if suffices || self.native(&old, &next) => {
                let attr = self.below.setattr(&under, file, change, rights)?;
                Ok(Seen { attr, ..seen }.shown())
            }
            Standing::Kindless => {
                let (real, attr) = self.stand_in(held, &seen, (next, None), change)?;
                self.aliases.add(real, held.key.clone());
                Ok(attr)
            }
            Standing::Bare | Standing::Exposed if suffices => {
                let attr = self.below.setattr(&under, file, change, rights)?;
                Ok(Seen { attr, ..seen }.shown())
            }
            Standing::Recorded(_) | Standing::Bare | Standing::Exposed | Standing::Foreign => {
                self.change_record(&under, &key, (&seen, next), file, change, rights)
            }
        }
    }

    /// Reports whether a file that can have no record can be told by the source below.
    fn native(&self, old: &Record, next: &Record) -> bool {
        old.owner == next.owner && !next.mode.has(Mode::SETUID | Mode::SETGID)
    }

    fn change_record(
        &self,
        node: &Node,
        key: &Key,
        (seen, next): (&Seen, Record),
        file: Option<&dyn File>,
        change: &Change,
        rights: Rights,
    ) -> Result<Attr<Disk>> {
        let real = real_mode(seen.attr.kind, next.mode);
        let mut kept = Next::record(next);
        if (change.is_chown() || change.size.is_some()) && !seen.attr.kind.is_dir() {
            kept = kept.stripped();
        }
        if let Some(acl) = self.chmoded(node, key, seen, change.mode)? {
            kept = kept.acl(AclKind::Access, Some(acl));
        }
        self.keep(node, key, seen, &kept)?;
        // Once more where nothing else moves the time of the last change.
        let moves = change.size.is_some() && real == seen.attr.mode;
        // A symbolic link has no mode to set; a change of nothing moves that time, too.
        let moves = moves || seen.attr.kind == FileKind::Symlink;
        let below = Change {
            uid: None,
            gid: None,
            mode: (!moves).then_some(real),
            size: change.size,
            atime: change.atime,
            mtime: change.mtime,
        };
        let attr = self.below.setattr(node, file, &below, rights)?;
        Ok(Seen { attr, standing: Standing::Recorded(next) }.shown())
    }

    /// Takes the privileges that go before contents change.
    pub(super) fn kill(&self, held: &KeptNode, rights: Rights) -> Result<()> {
        let (under, key) = self.under(held)?;
        if !self.privileged(&under, &key, rights)? {
            return Ok(());
        }
        let (_alone, under, key) = self.alone(held)?;
        let seen = self.look(&under, &key)?;
        if let Standing::Recorded(record) = seen.standing {
            let next = Record { mode: rules::written(record.mode, rights), ..record };
            return self.keep(&under, &key, &seen, &Next::record(next).stripped());
        }
        if seen.counts() { self.drop_capability(&under, &key) } else { Ok(()) }
    }

    /// Reports whether writing a file takes something from what is kept of it.
    pub(super) fn privileged(&self, node: &Node, key: &Key, rights: Rights) -> Result<bool> {
        let record = self.store.get(&*self.below, node, key)?;
        if record.is_some_and(|record| rules::written(record.mode, rights) != record.mode) {
            return Ok(true);
        }
        match self.store.attribute(&*self.below, node, key, OsStr::new(CAPABILITY_XATTR)) {
            Ok(_) => Ok(true),
            Err(error) if error.is(libc::ENODATA) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a regular file in the place of one that can have no record, with an access
    /// ACL; returns what that is.
    pub(super) fn stand_in(
        &self,
        held: &KeptNode,
        seen: &Seen,
        (next, access): (Record, Option<&Acl<Disk>>),
        change: &Change,
    ) -> Result<(Key, Attr<Disk>)> {
        let (Some((dir, name)), 0..=1) = (&held.place, seen.attr.nlink) else {
            return Err(Error::NotOurs);
        };
        let (under, key) = self.under(held)?;
        let record = Record { kind: Some((seen.attr.kind, seen.attr.rdev)), ..next };
        let link = seen.attr.kind == FileKind::Symlink;
        let target = if link { Some(self.below.readlink(&under)?) } else { None };
        let time = |asked: Option<SetTime>, old| asked.or(Some(SetTime::At(old)));
        let times = Change {
            atime: time(change.atime, seen.attr.atime),
            mtime: time(change.mtime, seen.attr.mtime),
            ..Change::default()
        };
        let prepare = |node: &Node, found: &Found| {
            self.begin(node, &found.key, (&record, target.as_deref()))?;
            self.give_acl(node, &found.key, AclKind::Access, access)?;
            self.below.setattr(node, None, &times, RIGHTS).map(drop)
        };
        let new = New {
            what: NewKind::Regular(None),
            owner: self.own,
            mode: real_mode(FileKind::Regular, record.mode),
            umask: 0,
            reserve: false,
            prepare: Some(Prepare(&prepare)),
        };
        let dir = self.under(Kept::held(dir)?)?.0;
        let found = self.below.replace(&dir, Name::new(name)?, &key, &new)?;
        let attr = Seen { attr: found.attr, standing: Standing::Recorded(record) }.shown();
        Ok((found.key, attr))
    }
}

/// Returns what a record is after a change.
fn changed(old: &Record, kind: FileKind, change: &Change, rights: Rights) -> Record {
    let mut next = *old;
    next.owner.uid = change.uid.unwrap_or(next.owner.uid);
    next.owner.gid = change.gid.unwrap_or(next.owner.gid);
    if change.is_chown() && !kind.is_dir() {
        next.mode = rules::chowned(next.mode, rights);
    }
    next.mode = change.mode.unwrap_or(next.mode);
    if change.size.is_some() {
        next.mode = rules::written(next.mode, rights);
    }
    next
}
