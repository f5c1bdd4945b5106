//! Attributes: read, changed, and what a link or a file system says of itself.

use std::ffi::OsString;
use std::sync::Arc;

use super::open::Open;
use super::rules::Seen;
use super::{Done, Fs, SetAttr};
use crate::attr::{Attr, Mode};
use crate::error::{Errno, Error, Result};
use crate::id::{Caller, Disk, Id, Kind, View};
use crate::policy::Translate;
use crate::policy::rules::Deny;
use crate::source::{Change, Node, Rights, Statfs};

/// A file whose attributes are to change.
struct Target {
    number: u64,
    node: Node,
    /// The open file that the caller acts through.
    open: Option<Arc<Open>>,
}

impl Fs {
    /// Returns the attributes of a node, through an open file if given.
    ///
    /// # Errors
    /// As statx(2); `Unknown` or `Stale` for a file that is not there.
    pub fn getattr(&self, caller: &Caller, node: u64, handle: Option<u64>) -> Result<Attr<View>> {
        let attr = match handle {
            Some(handle) => self.opens.get(handle)?.file.getattr()?,
            None => match self.node(node) {
                Ok(node) => self.source.getattr(&node)?,
                // Of a file made and opened in one step there may be no node.
                Err(Error::Stale) => self.opens.any(node).ok_or(Error::Stale)?.file.getattr()?,
                Err(error) => return Err(error),
            },
        };
        let seen = self.seen(node, attr);
        if handle.is_none() && self.is_gone(&seen) {
            return Err(Error::Stale);
        }
        Ok(self.present(caller, &seen, node))
    }

    /// Changes attributes and returns the new ones.
    ///
    /// The kernel has checked that the caller may, and has taken `S_ISGID`
    /// out of a mode that the caller may not give (`setattr_prepare`), or
    /// `access` does. No
    /// field at all is a chown(-1, -1), or comes before a write that takes
    /// set-id bits away.
    ///
    /// # Errors
    /// As chown(2), chmod(2), truncate(2), utimensat(2); `Denied` (`EPERM`)
    /// for what the policy lets nobody change; `Unmapped` (`EOVERFLOW`) for an
    /// owner that has no counterpart on disk.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: u64,
        handle: Option<u64>,
        change: &SetAttr,
    ) -> Result<Attr<View>> {
        let open = handle.map(|handle| self.opens.get(handle)).transpose()?;
        let target = Target { number: node, node: self.node_of(node, open.as_deref())?, open };
        let attr = self.change(caller, &target, change)?;
        if change.mode.is_some() {
            self.close_kept(node);
        }
        Ok(self.present(caller, &self.seen(target.number, attr), target.number))
    }

    /// Does the same; `done` is given the new attributes, perhaps later and on
    /// another thread: before a file can be cut by its name, a lease of another
    /// process has to be broken.
    ///
    /// # Errors
    /// `done` is given `EINTR` if the wait was interrupted; as
    /// [`Fs::setattr`].
    pub fn setattr_when_free(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        handle: Option<u64>,
        change: SetAttr,
        done: Done<Attr<View>>,
    ) {
        match self.setattr(&caller, node, handle, &change) {
            Err(error) if error.is(libc::EAGAIN) && change.size.is_some() => {
                let fs = Arc::downgrade(self);
                let attempt = move || {
                    let fs = fs.upgrade().ok_or(Error::Os(Errno(libc::EINTR)))?;
                    fs.setattr(&caller, node, handle, &change)
                };
                self.waits.wait(node, caller.pid, attempt, done);
            }
            result => done(result),
        }
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn readlink(&self, node: u64) -> Result<OsString> {
        let (number, node) = (node, self.node(node)?);
        self.lets_reach(number, &node)?;
        self.source.readlink(&node)
    }

    /// Returns the totals of the file system.
    ///
    /// # Errors
    /// As statfs(2).
    pub fn statfs(&self, node: u64) -> Result<Statfs> {
        self.source.statfs(&self.node(node)?)
    }

    /// Returns the file that an operation acts on: that of the handle, if any.
    fn node_of(&self, number: u64, open: Option<&Open>) -> Result<Node> {
        match open.and_then(|open| open.node.get()) {
            Some(node) => Ok(node.clone()),
            None => self.node(number),
        }
    }

    fn change(&self, caller: &Caller, target: &Target, wanted: &SetAttr) -> Result<Attr<Disk>> {
        let seen = match &target.open {
            Some(open) => open.file.getattr(),
            None => self.source.getattr(&target.node),
        };
        let seen = self.seen(target.number, seen?);
        if target.open.is_none() && self.is_gone(&seen) {
            return Err(Error::Stale);
        }
        self.lets_change(&seen)?;
        if wanted.mode.is_some() {
            self.lets(&seen, Deny::CHMOD)?;
        }
        if wanted.uid.is_some() || wanted.gid.is_some() {
            self.lets(&seen, Deny::CHOWN)?;
        }
        let asked = wanted;
        let may = || {
            let written = target.open.as_ref().is_some_and(|open| open.access.write);
            self.may_change(caller, &target.node, &seen, asked, written)
        };
        let Some(wanted) = &self.permitted(caller, target.number, asked, &seen)? else {
            return if self.checks() { may().map(|()| seen.attr) } else { Ok(seen.attr) };
        };
        let mut change = Change {
            mode: wanted.mode.map(Mode::new),
            size: wanted.size,
            atime: wanted.atime,
            mtime: wanted.mtime,
            ..Change::default()
        };
        let chown = wanted.uid.is_some() || wanted.gid.is_some();
        if chown {
            // Of a file that nobody may change the kernel says so first.
            let refused = |error| if seen.attr.locked { Error::Denied } else { error };
            let (now, shown) = (seen.attr.owner, self.shown(caller, &seen));
            let fixed = Self::owner_by_rule(&seen);
            let uid = (shown.uid, fixed.uid.is_some());
            let gid = (shown.gid, fixed.gid.is_some());
            change.uid = self.stored(wanted.uid, now.uid, uid).map_err(refused)?;
            change.gid = self.stored(wanted.gid, now.gid, gid).map_err(refused)?;
        }
        if self.checks() {
            may()?;
            let own = |mode| self.own_bits(caller, &seen, wanted.gid, mode);
            change.mode = change.mode.map(own);
        }
        let own = |mode| {
            let others = self.lent(caller, &seen) | self.handed_over(caller, &seen, mode);
            mode.without(others)
        };
        change.mode = change.mode.map(own);
        let rights = if chown {
            let rights = self.owner_rights(caller, &seen);
            // Set-id bits go by a change of mode, which nobody may make of a
            // file whose owner is unmapped (`setattr_prepare`); the FUSE client
            // leaves that change to us.
            if Self::loses_setid(&seen, rights) && !self.is_owned(caller, &seen) {
                return Err(Error::Denied);
            }
            rights
        } else if wanted.size.is_some() {
            if self.loses_setuid_alone(caller, &seen) {
                change.mode = Some(seen.attr.mode.without(Mode::SETUID));
                Self::rights(caller, true)
            } else {
                self.content_rights(caller, &seen)
            }
        } else if wanted.is_empty() {
            return self.touch(caller, target, &seen);
        } else {
            Self::rights(caller, wanted.mode.is_some())
        };
        self.apply(target, &change, rights)
    }

    /// Does what chown(-1, -1) does: the time of change is now, and set-id
    /// bits go.
    ///
    /// The FUSE client checks nothing here, and sends the same request before
    /// a write (`__remove_privs`): one that is to take set-id bits away, or by
    /// one with `CAP_FSETID` to a file that has just lost its capability. The
    /// two cannot be told apart, so what the owner may do is done. A write must
    /// not fail; it carries a flag of its own, and comes only if the file is
    /// open for writing: then nothing is done for others.
    fn touch(&self, caller: &Caller, target: &Target, seen: &Seen) -> Result<Attr<Disk>> {
        let rights = self.owner_rights(caller, seen);
        if Self::loses_setid(seen, rights) {
            let written = self.is_alone() || self.opens.is_written(target.number);
            match (self.acts_as_owner(caller, seen), written) {
                (true, _) => {}
                (false, true) => return Ok(seen.attr),
                (false, false) => return Err(Error::Denied),
            }
        }
        match self.apply(target, &Change::default(), rights) {
            // A server that may not do it must not make the write fail.
            Err(error) if error.is(libc::EPERM) => Ok(seen.attr),
            result => result,
        }
    }

    fn apply(&self, target: &Target, change: &Change, rights: Rights) -> Result<Attr<Disk>> {
        let file = target.open.as_ref().map(|open| open.file.as_ref());
        self.tree.with_room(|| self.source.setattr(&target.node, file, change, rights))
    }

    /// Returns the disk id to store for a new owner. One that is shown already
    /// stays as it is on disk: what callers see of it is not all there is. Where
    /// a rule shows another one whatever is stored, nothing else can be set.
    fn stored<K: Kind>(
        &self,
        wanted: Option<Id<K, View>>,
        now: Option<Id<K, Disk>>,
        (shown, fixed): (Option<Id<K, View>>, bool),
    ) -> Result<Option<Id<K, Disk>>>
    where
        dyn crate::policy::Policy: Translate<K>,
    {
        let Some(view) = wanted else { return Ok(None) };
        if now.is_some() && shown == Some(view) {
            return Ok(now);
        }
        if fixed {
            return Err(Error::Unmapped);
        }
        let policy = self.policy();
        Translate::<K>::store(policy.as_ref(), view).map(Some).ok_or(Error::Unmapped)
    }
}

impl SetAttr {
    /// Reports whether nothing is to be set.
    pub(super) const fn is_empty(&self) -> bool {
        let Self { mode, uid, gid, size, atime, mtime } = self;
        mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && size.is_none()
            && atime.is_none()
            && mtime.is_none()
    }
}
