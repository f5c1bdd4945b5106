//! New files: made as the server's own, with their record before their name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{Arc, Mutex};

use super::super::Record;
use super::file::KeptFile;
use super::seen::{Seen, Standing, real_mode};
use super::{Inner, Kept, RIGHTS};
use crate::acl::{Acl, AclKind};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::rules::{self, Born};
use crate::source::{Created, Found, Key, New, NewKind, Node, Place, Prepare};
use crate::sync::lock;

/// How a new file is made on disk.
enum Form<'a> {
    /// As what it is, without a record.
    Itself,
    /// With a record, as this.
    Recorded(NewKind<'a>),
}

impl Kept {
    /// Makes a new entry.
    pub(super) fn make(&self, dir: &Node, name: Name<'_>, new: &New<'_>) -> Result<Created> {
        if let NewKind::Symlink(target) = new.what {
            rules::check_target(target)?;
        }
        if let NewKind::Special(FileKind::Regular | FileKind::Directory | FileKind::Symlink, _) =
            new.what
        {
            return Err(Error::Invalid);
        }
        let born = self.born(dir, new)?;
        match self.form(new, &born) {
            Form::Itself => self.make_itself(dir, name, new, born.mode),
            Form::Recorded(what) => self.make_recorded(dir, name, (new, what), &born),
        }
    }

    /// Returns what a new file in a directory is.
    pub(super) fn born(&self, dir: &Node, new: &New<'_>) -> Result<Born> {
        let (under, key) = self.inner.under(Self::held(dir)?)?;
        let seen = self.inner.look(&under, &key)?;
        let parent = seen.shown();
        let given = if parent.mode.has(Mode::SETGID) { parent.owner.gid } else { None };
        let default = self.inner.acl(&under, &key, &seen, AclKind::Default)?;
        Ok(rules::born(given, default, new))
    }

    /// Returns how a new file is made.
    fn form<'a>(&self, new: &New<'a>, born: &Born) -> Form<'a> {
        let Inner { store, own, .. } = &*self.inner;
        let kind = new.what.kind();
        match new.what {
            NewKind::Symlink(_) if !store.takes(kind) && born.owner == *own => Form::Itself,
            // A whiteout, which other programs look for: it needs no privilege.
            NewKind::Special(FileKind::CharDevice, 0)
                if born.owner == *own && !born.mode.has(Mode::SETUID | Mode::SETGID) =>
            {
                Form::Itself
            }
            // A device on disk would be one for whoever mounts that disk elsewhere.
            NewKind::Special(FileKind::CharDevice | FileKind::BlockDevice, _) => {
                Form::Recorded(NewKind::Regular(None))
            }
            NewKind::Symlink(_) | NewKind::Special(..) if !store.takes(kind) => {
                Form::Recorded(NewKind::Regular(None))
            }
            NewKind::Regular(_)
            | NewKind::Directory
            | NewKind::Symlink(_)
            | NewKind::Special(..) => Form::Recorded(new.what),
        }
    }

    fn make_itself(
        &self,
        dir: &Node,
        name: Name<'_>,
        new: &New<'_>,
        mode: Mode,
    ) -> Result<Created> {
        let prepare = |node: &Node, found: &Found| match new.prepare {
            Some(Prepare(outer)) => outer(&self.nameless(node.clone(), &found.key), found),
            None => Ok(()),
        };
        let prepare = new.prepare.map(|_| Prepare(&prepare));
        let below = New { owner: self.inner.own, mode, umask: 0, prepare, ..*new };
        let Created { found, .. } = self.inner.below.create(&self.under(dir)?, name, &below)?;
        let seen = Seen { attr: found.attr, standing: Standing::Kindless };
        Ok(Created { found: self.inner.present(found, &seen), file: None })
    }

    /// Makes a file with a record; the kind on disk is another one than that of the
    /// new file where a regular file stands for it.
    fn make_recorded(
        &self,
        dir: &Node,
        name: Name<'_>,
        (new, what): (&New<'_>, NewKind<'_>),
        born: &Born,
    ) -> Result<Created> {
        let disk = what.kind();
        let kind = match new.what {
            _ if new.what.kind() == disk => None,
            NewKind::Special(kind, rdev) => Some((kind, rdev)),
            NewKind::Regular(_) | NewKind::Directory | NewKind::Symlink(_) => {
                Some((new.what.kind(), 0))
            }
        };
        let record = Record { owner: born.owner, mode: born.mode, kind };
        let target = if let (NewKind::Symlink(target), Some(_)) = (new.what, kind) {
            Some(target)
        } else {
            None
        };
        let seen = |found: &Found| Seen { attr: found.attr, standing: Standing::Recorded(record) };
        let made = Mutex::new(None);
        let prepare = |node: &Node, found: &Found| {
            self.inner.begin(node, &found.key, (&record, target))?;
            for (kind, acl) in [(AclKind::Access, &born.access), (AclKind::Default, &born.default)]
            {
                self.inner.give_acl(node, &found.key, kind, acl.as_ref())?;
            }
            let node = self.nameless(node.clone(), &found.key);
            if let Some(Prepare(outer)) = new.prepare {
                outer(&node, &self.inner.present(found.clone(), &seen(found)))?;
            }
            *lock(&made) = Some(node);
            Ok(())
        };
        let below = New {
            what,
            owner: self.inner.own,
            mode: real_mode(disk, born.mode),
            umask: 0,
            reserve: new.reserve,
            prepare: Some(Prepare(&prepare)),
        };
        let Created { found, file } = self.inner.below.create(&self.under(dir)?, name, &below)?;
        let node = lock(&made).take().ok_or(Error::Internal)?;
        let flags = if let NewKind::Regular(Some(flags)) = what { flags } else { 0 };
        let seen = seen(&found);
        let found = self.inner.present(found, &seen);
        let file = file.map(|file| KeptFile::new(Arc::clone(&self.inner), file, node, flags));
        Ok(Created { found, file: file.map(|file| Arc::new(file) as _) })
    }
}

impl Inner {
    /// Writes what is in a new file that nobody can see yet: the target of the symbolic
    /// link that it stands for, and its record.
    pub(super) fn begin(
        &self,
        node: &Node,
        key: &Key,
        (record, target): (&Record, Option<&OsStr>),
    ) -> Result<()> {
        if let Some(target) = target {
            let bytes = target.as_bytes();
            let file = self.below.open(node, libc::O_WRONLY)?;
            if file.write(Place::At(0), bytes, RIGHTS)? < bytes.len() {
                return Err(rules::os(libc::ENOSPC));
            }
        }
        self.store.put_new(&*self.below, node, key, record)
    }

    /// Gives a new file an ACL, if there is one.
    pub(super) fn give_acl(
        &self,
        node: &Node,
        key: &Key,
        kind: AclKind,
        acl: Option<&Acl<Disk>>,
    ) -> Result<()> {
        let Some(acl) = acl else { return Ok(()) };
        let (name, value) = (OsStr::new(kind.xattr()), acl.encode());
        self.store.set_attribute(&*self.below, node, key, name, Some(&value))
    }

    /// Reads the target of the symbolic link that a regular file stands for.
    pub(super) fn read_target(&self, node: &Node, size: u64) -> Result<OsString> {
        let file = self.below.open(node, libc::O_RDONLY)?;
        let mut target = vec![0; usize::try_from(size).map_or(4096, |size| size.min(4096))];
        let length = file.read(0, &mut target)?;
        target.truncate(length);
        let target = OsString::from_vec(target);
        // Somebody has written what no link can hold.
        let sound = rules::check_target(&target).is_ok() && !target.as_bytes().contains(&0);
        if sound { Ok(target) } else { Err(Error::Internal) }
    }
}
