//! Making files that are prepared before they have a name: nobody sees them
//! half made, and whoever kills the server leaves no file that is.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags as HostRename, renameat2};
use nix::unistd::{Gid, fchownat, linkat};

use super::create::add;
use super::file::{HostFile, Opening};
use super::node::{Held, HostNode, held};
use super::staging::{Stage, TRIES, remove};
use super::volume::Traits;
use super::{Host, open_beneath};
use crate::acl::{Acl, AclKind};
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::id::{Disk, Id, Ids};
use crate::source::{Created, File, Found, Key, New, NewKind, Node, Prepare, Rights};
use crate::sys::cred::SetId;
use crate::sys::stat::{Stat, stat};

/// A new file that has no name, or one that is not shown.
struct Unborn {
    node: Node,
    found: Found,
    file: Option<Arc<dyn File>>,
}

/// What a directory gives to all that is made in it.
struct Inherited {
    /// The group, in a set-group-id directory.
    gid: Option<u32>,
    /// The default ACL.
    acl: Option<Acl<Disk>>,
}

/// A name in staging, which is removed unless it has moved.
struct Staged {
    stage: Arc<Stage>,
    name: OsString,
}

impl Staged {
    /// Leaves what is there under a name that nobody tidies up.
    fn keep(mut self) {
        let (stage, name) = (Arc::clone(&self.stage), std::mem::take(&mut self.name));
        let mut kept = OsString::from("kept-");
        kept.push(&name);
        let (fd, flags) = (stage.fd(), HostRename::RENAME_NOREPLACE);
        let moved = renameat2(fd, name.as_os_str(), fd, kept.as_os_str(), flags);
        let at = stage.path().join(if moved.is_ok() { kept } else { name });
        log::warn!("{}: what another program has put in the way of a server", at.display());
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            remove(self.stage.fd(), &self.name);
        }
    }
}

impl Host {
    /// Makes a new entry that is prepared before it has its name.
    ///
    /// A server without privilege can make a directory so only if the owner may
    /// write in it, since it has to be moved.
    pub(super) fn make_prepared(
        &self,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
        prepare: Prepare<'_>,
    ) -> Result<Created> {
        if let NewKind::Regular(flags) = new.what {
            match self.make_nameless(dir, name, new, flags) {
                // It is not on every file system.
                Err(error) if error.is(libc::EOPNOTSUPP) || error.is(libc::EISDIR) => {}
                Err(error) => return Err(error),
                Ok(unborn) => {
                    (prepare.0)(&unborn.node, &unborn.found)?;
                    return self.give_name(unborn, dir, name, new);
                }
            }
        }
        match self.make_staged(dir, name, new, prepare) {
            // Somebody has removed the directory that it was made in.
            Err(error) if error.is(libc::ENOENT) && self.stage_is_gone() => {
                self.make_staged(dir, name, new, prepare)
            }
            made => made,
        }
    }

    /// Makes a regular file without a name; what is open of it is so before
    /// anybody can see it, so that nothing is left without a descriptor free.
    fn make_nameless(
        &self,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
        flags: Option<i32>,
    ) -> Result<Unborn> {
        self.become_owner(dir, new.owner, new.mode)?;
        self.context.credentials.umask(new.umask)?;
        let wanted = Opening::new(flags.unwrap_or(libc::O_RDWR));
        // It takes one that may write.
        let reads = wanted.flags() & OFlag::O_ACCMODE == OFlag::O_RDONLY;
        let access = if reads { OFlag::O_RDWR } else { wanted.flags() & OFlag::O_ACCMODE };
        let others = wanted.flags() & !OFlag::O_ACCMODE;
        let how = OFlag::O_TMPFILE | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | access | others;
        let opened = open_beneath(dir.fd(), OsStr::new("."), how, new.mode, self.submounts);
        let fd = opened.map_err(|error| if is_removed(dir, error) { gone() } else { error })?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, fd.as_fd(), &stat)?;
        let found = self.found(&volume, fd.as_fd(), &stat)?;
        let context = &self.context;
        let file = match flags {
            None => None,
            Some(flags) if reads => {
                match HostFile::open(Arc::clone(context), fd.as_fd(), flags, Some(&volume)) {
                    // The mode denies its owner what the call that makes it may.
                    Err(error) if error.is(libc::EACCES) => {
                        Some(self.opened(&fd, wanted, volume.traits)?)
                    }
                    opened => Some(opened?),
                }
            }
            Some(_) => Some(self.opened(&fd, wanted, volume.traits)?),
        };
        let file = file.map(|file| -> Arc<dyn File> { Arc::new(file) });
        let held = Held::open(fd, found.key.clone(), found.attr.kind);
        let node = Node::new(HostNode::Held(held));
        Ok(Unborn { node, found, file })
    }

    fn opened(&self, fd: &OwnedFd, opening: Opening, traits: Traits) -> Result<HostFile> {
        Ok(HostFile::new(Arc::clone(&self.context), fd.try_clone()?, opening, traits))
    }

    /// Gives a file its first name.
    fn give_name(
        &self,
        unborn: Unborn,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
    ) -> Result<Created> {
        let fd = held(&unborn.node, Errno::EIO)?.fd();
        let link = || self.context.procfs.link(fd, dir.fd(), name);
        self.context.for_caller(self.volume(dir).as_deref(), by(new), link)?;
        self.born(unborn)
    }

    /// Describes a file that has its name.
    fn born(&self, unborn: Unborn) -> Result<Created> {
        let fd = held(&unborn.node, Errno::EIO)?.fd();
        let attr = self.context.attr(&stat(fd, OsStr::new(""))?)?;
        Ok(Created { found: Found { attr, ..unborn.found }, file: unborn.file })
    }

    fn stage_is_gone(&self) -> bool {
        self.staging.as_ref().is_some_and(super::staging::Staging::is_gone)
    }

    /// Makes an entry where nobody looks, and moves it.
    fn make_staged(
        &self,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
        prepare: Prepare<'_>,
    ) -> Result<Created> {
        let (mut staged, unborn) = self.make_ready(dir, name, new, Some(prepare))?;
        self.move_out(&staged, dir, name, new)?;
        // It is where it belongs.
        staged.name.clear();
        self.born(unborn)
    }

    /// Makes an entry that is to take the place of another file, and puts it there
    /// if the name leads to that file.
    pub(super) fn put_in_place(
        &self,
        dir: &Held,
        name: &OsStr,
        key: &Key,
        new: &New<'_>,
    ) -> Result<Found> {
        if new.what.kind().is_dir() {
            return Err(Error::Invalid);
        }
        self.leads_to(dir.fd(), dir, name, key)?;
        let (staged, unborn) = self.make_ready(dir, name, new, new.prepare)?;
        let stage = staged.stage.fd();
        let exchange = || {
            let flags = HostRename::RENAME_EXCHANGE;
            renameat2(stage, staged.name.as_os_str(), dir.fd(), name, flags)
        };
        let volume = self.volume(dir);
        match self.context.for_caller(volume.as_deref(), by(new), exchange) {
            Err(error) if error.is(libc::ENOENT) => return Err(Error::Stale),
            Err(error) if error.is(libc::EINVAL) => return Err(Error::NotOurs),
            done => done?,
        }
        // What had the name is in staging now, and goes with the guard.
        if let Err(error) = self.leads_to(stage, dir, &staged.name, key) {
            let back = self.context.for_caller(volume.as_deref(), by(new), exchange);
            if let Err(why) = back {
                // It has no other name, and is nobody's to remove.
                staged.keep();
                return Err(why);
            }
            return Err(error);
        }
        Ok(self.born(unborn)?.found)
    }

    /// Sees that a name leads to a file; `dir` is where it belongs.
    fn leads_to(&self, at: BorrowedFd<'_>, dir: &Held, name: &OsStr, key: &Key) -> Result<()> {
        self.context.as_server(SetId::Unaffected)?;
        let opened = open_beneath(at, name, OFlag::O_PATH, Mode::new(0), self.submounts);
        let fd = opened.map_err(|error| match error.is(libc::ENOENT) {
            true => Error::Stale,
            false => error,
        })?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, fd.as_fd(), &stat)?;
        let (found, _) = volume.identify(fd.as_fd(), &stat)?;
        if found == *key { Ok(()) } else { Err(Error::Stale) }
    }

    /// Makes an entry in staging, with all that it is to have.
    fn make_ready(
        &self,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
        prepare: Option<Prepare<'_>>,
    ) -> Result<(Staged, Unborn)> {
        let stage = self.stage()?;
        let inherited = self.inherited(dir, new.what.kind())?;
        let mode = inherited.acl.as_ref().map_or(new.mode, |acl| acl.inherit(new.mode).0);
        let umask = if inherited.acl.is_some() { 0 } else { new.umask };
        let owner = self.born_as(new.owner, &inherited);
        self.become_owner(dir, owner, mode)?;
        self.context.credentials.umask(umask)?;
        let made = New { owner, mode, umask, ..*new };
        let (staged, unborn) = self.stage_fresh(&stage, dir, name, &made)?;
        self.bequeath(&unborn, new, &inherited)?;
        prepare.map_or(Ok(()), |prepare| (prepare.0)(&unborn.node, &unborn.found))?;
        Ok((staged, unborn))
    }

    /// Makes an entry in staging under a name that nothing there has.
    fn stage_fresh(
        &self,
        stage: &Arc<Stage>,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
    ) -> Result<(Staged, Unborn)> {
        for _ in 0..TRIES {
            let mut staged = Staged { name: stage.fresh(), stage: Arc::clone(stage) };
            match self.stage_one(&staged, dir, name, new) {
                Ok(unborn) => return Ok((staged, unborn)),
                // What another program has put there is not this one's to remove.
                Err(error) if error.is(libc::EEXIST) => staged.name.clear(),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Makes an entry under its name in staging.
    fn stage_one(
        &self,
        staged: &Staged,
        dir: &Held,
        name: &OsStr,
        new: &New<'_>,
    ) -> Result<Unborn> {
        let stage = staged.stage.fd();
        let at = |flags, mode| open_beneath(stage, &staged.name, flags, mode, self.submounts);
        let mut open = None;
        if let NewKind::Regular(Some(flags)) = new.what {
            let opening = Opening::new(flags);
            let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            open = Some((at(opening.flags() | create, new.mode)?, opening));
        } else {
            add(stage, &staged.name, new)?;
        }
        let fd = at(OFlag::O_PATH, Mode::new(0))?;
        let stat = stat(fd.as_fd(), OsStr::new(""))?;
        let volume = self.volume_of(dir, name, fd.as_fd(), &stat)?;
        let found = self.found(&volume, fd.as_fd(), &stat)?;
        let context = &self.context;
        let file = open.map(|(fd, opening)| -> Arc<dyn File> {
            Arc::new(HostFile::new(Arc::clone(context), fd, opening, volume.traits))
        });
        Ok(Unborn { node: node(fd, &found), found, file })
    }

    /// Finds out what a directory gives to what is made in it.
    fn inherited(&self, dir: &Held, kind: FileKind) -> Result<Inherited> {
        let Stat { mode, gid, .. } = stat(dir.fd(), OsStr::new(""))?;
        let gid = Mode::new(mode).has(Mode::SETGID).then_some(gid);
        let acl = if self.facts.acl && kind != FileKind::Symlink {
            self.read_held_acl(dir, AclKind::Default)?
        } else {
            None
        };
        Ok(Inherited { gid, acl })
    }

    /// Returns as whom a file is made that inherits a group: where the server
    /// may, as one of that group.
    fn born_as(&self, owner: Ids<Disk>, inherited: &Inherited) -> Ids<Disk> {
        let any = self.context.credentials.any_owner();
        let gid = inherited.gid.filter(|_| any).and_then(Id::new);
        Ids { gid: gid.unwrap_or(owner.gid), ..owner }
    }

    /// Gives a new file what it inherits besides its mode.
    fn bequeath(&self, unborn: &Unborn, new: &New<'_>, inherited: &Inherited) -> Result<()> {
        let node = held(&unborn.node, Errno::EIO)?;
        if let Some(gid) = inherited.gid {
            self.give_group(node, gid, unborn.found.attr.mode)?;
        }
        let Some(default) = &inherited.acl else { return Ok(()) };
        let rights = Rights { keep_setid: true, ..rights(new) };
        if let (_, Some(access)) = default.inherit(new.mode) {
            self.write_acl(node, AclKind::Access, Some(&access), rights)?;
        }
        if node.kind.is_dir() {
            self.write_acl(node, AclKind::Default, Some(default), rights)?;
        }
        Ok(())
    }

    /// Gives a file the group of its set-group-id directory, which a directory
    /// hands down. A server that is not in that group keeps its own.
    fn give_group(&self, node: &Held, gid: u32, mode: Mode) -> Result<()> {
        self.context.as_server(SetId::Keep)?;
        let group = Some(Gid::from_raw(gid));
        match fchownat(node.fd(), "", None, group, AtFlags::AT_EMPTY_PATH) {
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        let given = if node.kind.is_dir() { mode.bits() | Mode::SETGID } else { mode.bits() };
        if node.kind.is_dir() || mode.has(Mode::SETUID) || mode.has(Mode::SETGID) {
            self.context.procfs.chmod(node.fd(), given)?;
        }
        Ok(())
    }

    /// Moves an entry from staging to its name, unless that is taken.
    fn move_out(&self, staged: &Staged, dir: &Held, name: &OsStr, new: &New<'_>) -> Result<()> {
        let (stage, from) = (staged.stage.fd(), staged.name.as_os_str());
        let is_dir = new.what.kind().is_dir();
        self.context.for_caller(self.volume(dir).as_deref(), by(new), || {
            match renameat2(stage, from, dir.fd(), name, HostRename::RENAME_NOREPLACE) {
                // Not every file system can; what is no directory has a second way.
                Err(Errno::EINVAL) if !is_dir => {
                    linkat(stage, from, dir.fd(), name, AtFlags::empty())?;
                    remove(stage, from);
                    Ok(())
                }
                moved => moved,
            }
        })
    }
}

/// Reports whether making a file in a directory has failed because that has
/// been removed: `__ext4_new_inode` of fs/ext4/ialloc.c says `EPERM` then.
fn is_removed(dir: &Held, error: Error) -> bool {
    let nlink = || stat(dir.fd(), OsStr::new("")).map(|stat| stat.nlink);
    error.is(libc::EPERM) && nlink() == Ok(0)
}

fn gone() -> Error {
    Errno::ENOENT.into()
}

/// Makes a node of what has just been made.
fn node(fd: OwnedFd, found: &Found) -> Node {
    Node::new(HostNode::Held(Held::new(fd, found.key.clone(), found.attr.kind)))
}

/// Returns what the caller has a claim to.
const fn rights(new: &New<'_>) -> Rights {
    Rights { keep_setid: false, reserve: new.reserve }
}

/// Returns the same, and that no set-id bit is at stake.
const fn by(new: &New<'_>) -> (Rights, SetId) {
    (rights(new), SetId::Unaffected)
}
