//! Permission, where what is shown depends on who asks.
//!
//! The kernel keeps one set of attributes for all callers, so it cannot decide
//! then: it asks, and each operation is checked here as fs/namei.c,
//! fs/attr.c and fs/xattr.c check it, on what this caller is shown. Without
//! such a policy the kernel decides (`default_permissions`), and none of this
//! costs anything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::open::OPEN_TO_EXECUTE;
use super::rules::{Seen, There};
use super::{Capability, Fs, SetAttr};
use crate::acl::AclKind;
use crate::acl::permission::{EXEC, READ, WRITE, acl_counts, granted, may_be_linked, overridden};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Errno, Error, Result};
use crate::id::{Caller, Group, Id, Owner, View};
use crate::policy::Others;
use crate::source::{Change, Found, Node, SetTime};

/// The error of what the mode or the ACL does not allow.
const REFUSED: Error = Error::Os(Errno(libc::EACCES));

impl Fs {
    /// Reports whether permission is checked here.
    pub const fn checks(&self) -> bool {
        self.checks
    }

    /// Checks access to a file, as access(2): bits 4 read, 2 write, 1 execute.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn access(&self, caller: &Caller, node: u64, want: u8) -> Result<()> {
        let (number, node) = (node, self.node(node)?);
        self.check(caller, (number, &node), want & (READ | WRITE | EXEC))
    }

    /// Checks access to a file if that is to be done here.
    pub(super) fn check(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        want: u8,
    ) -> Result<()> {
        if !self.checks {
            return Ok(());
        }
        self.permission(caller, node, &self.look(number, node)?, want)
    }

    /// Checks an open(2) with these flags.
    pub(super) fn may_open(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        flags: i32,
    ) -> Result<()> {
        if !self.checks {
            return Ok(());
        }
        let seen = self.look(number, node)?;
        let want = match flags & libc::O_ACCMODE {
            _ if flags & OPEN_TO_EXECUTE != 0 => EXEC,
            libc::O_RDONLY => READ,
            libc::O_WRONLY => WRITE,
            _ => READ | WRITE,
        };
        self.permission(caller, node, &seen, want)?;
        if flags & libc::O_NOATIME != 0 && !self.acts_as_owner(caller, &seen) {
            return Err(Error::Denied);
        }
        Ok(())
    }

    /// Takes what makes a program of somebody else out of a file that is opened
    /// to be written, if it is the caller's own in its own eyes alone, or by a
    /// rule.
    ///
    /// Writing would take it too, but not through a shared mapping.
    pub(super) fn disarm(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        flags: i32,
    ) -> Result<()> {
        let reads = flags & libc::O_ACCMODE == libc::O_RDONLY;
        if reads || !(self.checks || self.has_rules()) {
            return Ok(());
        }
        let seen = &self.look(number, node)?;
        if seen.attr.kind != FileKind::Regular || self.lent(caller, seen) == 0 {
            return Ok(());
        }
        let armed = Mode::SETUID | Mode::SETGID;
        if seen.attr.mode.has(armed) {
            let change = Change { mode: Some(seen.attr.mode.without(armed)), ..Change::default() };
            let rights = Self::rights(caller, true);
            self.tree.with_room(|| self.source.setattr(node, None, &change, rights))?;
        }
        match self.tree.with_room(|| self.source.capability(node)) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => self
                .tree
                .with_room(|| self.source.set_capability(node, None, Self::rights(caller, true))),
            // Where there are none, there is none to take.
            Err(error) if error.is(libc::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks a lookup in a directory.
    pub(super) fn may_search(&self, caller: &Caller, dir: (u64, &Node)) -> Result<()> {
        self.check(caller, dir, EXEC)
    }

    /// Checks that a name may be seen for what it leads to.
    ///
    /// The kernel opens fifos, and connects to sockets, without asking: those
    /// that may not do it do not get so far.
    pub(super) fn may_see(
        &self,
        caller: &Caller,
        dir: &Node,
        name: Name<'_>,
        (found, seen): (&Found, &Seen),
    ) -> Result<()> {
        let want = match seen.attr.kind {
            _ if !self.checks => return Ok(()),
            // Nobody writes to what is unmapped, says the kernel by itself.
            FileKind::Fifo if self.is_unmapped(caller, seen) => READ,
            FileKind::Socket if self.is_unmapped(caller, seen) => 0,
            FileKind::Fifo => READ | WRITE,
            FileKind::Socket => WRITE,
            FileKind::Regular
            | FileKind::Directory
            | FileKind::Symlink
            | FileKind::CharDevice
            | FileKind::BlockDevice => return Ok(()),
        };
        if self.acts_as_owner(caller, seen) {
            return Ok(());
        }
        let node = self.tree.with_room(|| self.source.open_by_name(dir, name, &found.key));
        node.and_then(|node| self.permission(caller, &node, seen, want))
    }

    /// Checks that names may be made in a directory, or taken out of it.
    pub(super) fn may_change_names(&self, caller: &Caller, dir: (u64, &Node)) -> Result<()> {
        self.check(caller, dir, WRITE | EXEC)
    }

    /// Checks that a name may be taken out of a directory, the sticky bit aside
    /// (`may_delete` of fs/namei.c).
    pub(super) fn may_take(&self, caller: &Caller, dir: (u64, &Node), seen: &Seen) -> Result<()> {
        if self.checks && self.is_unmapped(caller, seen) {
            return Err(Error::Unmapped);
        }
        self.may_change_names(caller, dir)
    }

    /// Reports whether a caller may remove files of others from a sticky
    /// directory. Of one that nothing is known of, the kernel has decided where
    /// it decides.
    pub(super) fn may_act_for_others(&self, caller: &Caller, seen: &Seen) -> bool {
        if self.checks {
            return self.has_over(caller, Capability::Fowner, seen);
        }
        let shown = self.shown(caller, seen);
        self.processes.capable_over(caller, Capability::Fowner, shown) != Some(false)
    }

    /// Checks that what moves may get another parent: if it is a directory, its
    /// `..` is written.
    pub(super) fn may_move(
        &self,
        caller: &Caller,
        dir: &Node,
        name: Name<'_>,
        there: Option<&There>,
    ) -> Result<()> {
        let is_dir = |there: &&There| there.found.attr.kind.is_dir();
        let Some(there) = there.filter(|_| self.checks).filter(is_dir) else {
            return Ok(());
        };
        let open = || self.source.open_by_name(dir, name, &there.found.key);
        let node = self.tree.with_room(open)?;
        self.permission(caller, &node, &there.seen, WRITE)
    }

    /// Checks that a file may get another name (`may_linkat` of fs/namei.c),
    /// where the host protects hard links: only of one's own files, or of what
    /// one could copy and write.
    pub(super) fn may_link(&self, caller: &Caller, node: &Node, seen: &Seen) -> Result<()> {
        if !self.checks || !self.processes.protects_links() {
            return Ok(());
        }
        if self.acts_as_owner(caller, seen) {
            return Ok(());
        }
        let safe = may_be_linked(seen.attr.kind, seen.attr.mode)
            && self.permission(caller, node, seen, READ | WRITE).is_ok();
        if safe { Ok(()) } else { Err(Error::Denied) }
    }

    /// Checks a change of attributes (`may_setattr` and `setattr_prepare` of
    /// fs/attr.c).
    ///
    /// `written` says that it is done through a file that is open for writing.
    pub(super) fn may_change(
        &self,
        caller: &Caller,
        node: &Node,
        seen: &Seen,
        wanted: &SetAttr,
        written: bool,
    ) -> Result<()> {
        self.admits(caller)?;
        // Truncation sets a time too; it is for those who may write.
        let touches = wanted.size.is_some()
            || matches!(
                (wanted.atime, wanted.mtime),
                (None, None) | (Some(SetTime::Now), Some(SetTime::Now))
            );
        let chowns = wanted.uid.is_some() || wanted.gid.is_some();
        let shown = self.shown(caller, seen);
        let stays = shown.uid.is_none() && wanted.uid.is_none()
            || shown.gid.is_none() && wanted.gid.is_none();
        if stays && (chowns || wanted.mode.is_some() || !touches) {
            return Err(Error::Unmapped);
        }
        if chowns {
            self.may_chown(caller, seen, wanted)?;
        }
        let owns = || self.acts_as_owner(caller, seen);
        if (wanted.mode.is_some() || !touches) && !owns() {
            return Err(Error::Denied);
        }
        let by_writing = match wanted.size {
            Some(_) => !written,
            None => wanted.atime.is_some() && touches && !owns(),
        };
        if by_writing {
            self.permission(caller, node, seen, WRITE)?;
        }
        Ok(())
    }

    /// Checks reading an extended attribute (`xattr_permission` of fs/xattr.c;
    /// what it says of `trusted.` and of kinds of file the kernel has seen to).
    pub(super) fn may_read_xattr(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        name: &OsStr,
    ) -> Result<()> {
        if !self.checks {
            return Ok(());
        }
        self.admits(caller)?;
        if is_left_to_the_file_system(name) {
            return Ok(());
        }
        self.check(caller, (number, node), READ)
    }

    /// Checks setting or removing an extended attribute other than an ACL.
    pub(super) fn may_write_xattr(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        name: &OsStr,
    ) -> Result<()> {
        if !self.checks {
            return Ok(());
        }
        self.admits(caller)?;
        let seen = self.look(number, node)?;
        if self.is_unmapped(caller, &seen) {
            return Err(Error::Denied);
        }
        if is_left_to_the_file_system(name) {
            return Ok(());
        }
        let shared = seen.attr.kind.is_dir() && seen.attr.mode.has(Mode::STICKY);
        if shared && name.as_bytes().starts_with(b"user.") && !self.acts_as_owner(caller, &seen) {
            return Err(Error::Denied);
        }
        self.permission(caller, node, &seen, WRITE)
    }

    /// Checks setting the file capability (`cap_convert_nscap` of
    /// security/commoncap.c).
    pub(super) fn may_set_capability(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
    ) -> Result<()> {
        if !self.checks {
            return Ok(());
        }
        self.admits(caller)?;
        let seen = self.look(number, node)?;
        let may =
            !self.is_unmapped(caller, &seen) && self.has_over(caller, Capability::Setfcap, &seen);
        if may { Ok(()) } else { Err(Error::Denied) }
    }

    /// Checks setting or removing an ACL (`set_posix_acl` of fs/posix_acl.c).
    pub(super) fn may_set_acl(
        &self,
        caller: &Caller,
        (number, node): (u64, &Node),
        kind: AclKind,
    ) -> Result<()> {
        if !self.checks {
            return Ok(());
        }
        self.admits(caller)?;
        let seen = self.look(number, node)?;
        if kind == AclKind::Default && !seen.attr.kind.is_dir() {
            return Err(REFUSED);
        }
        let may = !self.is_unmapped(caller, &seen) && self.acts_as_owner(caller, &seen);
        if may { Ok(()) } else { Err(Error::Denied) }
    }

    /// Refuses callers that the policy does not let in.
    fn admits(&self, caller: &Caller) -> Result<()> {
        let refused = self.policy().callers().others() == Others::Refuse
            && !caller.is_root()
            && !self.is_mirrored(caller);
        if refused { Err(REFUSED) } else { Ok(()) }
    }

    /// Decides as `inode_permission` of fs/namei.c.
    fn permission(&self, caller: &Caller, node: &Node, seen: &Seen, want: u8) -> Result<()> {
        self.admits(caller)?;
        // What is written back would lose the owner that is not known.
        if want & WRITE != 0 && self.is_unmapped(caller, seen) {
            return Err(REFUSED);
        }
        if self.granted(caller, node, seen, want)? || self.overrides(caller, seen, want) {
            Ok(())
        } else {
            Err(REFUSED)
        }
    }

    /// Decides by mode and ACL (`acl_permission_check`).
    fn granted(&self, caller: &Caller, node: &Node, seen: &Seen, want: u8) -> Result<bool> {
        let mode = self.shown_mode(seen);
        let acl = if acl_counts(mode) && self.source.facts().acl {
            let acl = self.tree.with_room(|| self.source.acl(node, AclKind::Access))?;
            acl.map(|acl| self.dress_acl(seen, acl.present(self.policy().as_ref())))
        } else {
            None
        };
        let shown = || self.shown(caller, seen);
        let is_member = |group: Id<Group, View>| self.processes.in_group(caller, group);
        let (granted, _) = granted(mode, acl.as_ref(), shown, caller.uid, is_member, want);
        Ok(granted)
    }

    /// Decides by capabilities (`generic_permission`).
    fn overrides(&self, caller: &Caller, seen: &Seen, want: u8) -> bool {
        let (reads, all) = overridden(seen.attr.kind, self.shown_mode(seen), want);
        reads && self.has_over(caller, Capability::DacReadSearch, seen)
            || all && self.has_over(caller, Capability::DacOverride, seen)
    }

    /// Decides as `chown_ok` and `chgrp_ok` of fs/attr.c.
    fn may_chown(&self, caller: &Caller, seen: &Seen, wanted: &SetAttr) -> Result<()> {
        let shown = self.shown(caller, seen);
        let owns = shown.uid.is_some() && shown.uid == caller.uid;
        let user = |new| owns && shown.uid == Some(new);
        let group = |new| owns && (shown.gid == Some(new) || self.processes.in_group(caller, new));
        // For what is unmapped the capability counts that is over all of it.
        let lost = |gone: bool| gone && self.processes.capable(caller, Capability::Chown);
        let capable = || self.has_over(caller, Capability::Chown, seen);
        let may = wanted.uid.is_none_or(|new| user(new) || capable() || lost(shown.uid.is_none()))
            && wanted.gid.is_none_or(|new| group(new) || capable() || lost(shown.gid.is_none()));
        if may { Ok(()) } else { Err(Error::Denied) }
    }

    /// Returns the mode that a caller may give: without `S_ISGID` for a group
    /// that it is not in.
    pub(super) fn own_bits(
        &self,
        caller: &Caller,
        seen: &Seen,
        group: Option<Id<Group, View>>,
        mode: Mode,
    ) -> Mode {
        let gid = group.or(self.shown(caller, seen).gid);
        let is_member = gid.is_some_and(|gid| self.processes.in_group(caller, gid));
        let keeps = is_member || self.has_over(caller, Capability::Fsetid, seen);
        if keeps { mode } else { mode.without(Mode::SETGID) }
    }

    /// Returns the set-id bits that would act for somebody else on the host:
    /// the file is a caller's own only because of a mirror, or it is shown as
    /// some user's or group's by a rule alone.
    pub(super) fn lent(&self, caller: &Caller, seen: &Seen) -> u16 {
        if caller.is_root() {
            return 0;
        }
        let (rule, ids) = (Self::owner_by_rule(seen), seen.policy.present_owner(seen.attr.owner));
        let mirrored = rule.uid.or(ids.uid) != caller.uid && self.is_mirrored(caller);
        let user = mirrored || rule.uid.is_some() && rule.uid != ids.uid;
        let group = rule.gid.is_some() && rule.gid != ids.gid;
        (if user { Mode::SETUID } else { 0 }) | (if group { Mode::SETGID } else { 0 })
    }

    /// Reports whether an id of the file is unmapped, in the caller's eyes.
    fn is_unmapped(&self, caller: &Caller, seen: &Seen) -> bool {
        let Owner { uid, gid } = self.shown(caller, seen);
        uid.is_none() || gid.is_none()
    }

    /// Reports whether a caller has a capability over a file
    /// (`capable_wrt_inode_uidgid`): nothing counts over an unmapped one, nor
    /// does it count whom a mirror shows as the owner.
    pub(super) fn has_over(&self, caller: &Caller, capability: Capability, seen: &Seen) -> bool {
        let owner = self.shown_to(None, seen);
        owner.uid.is_some()
            && owner.gid.is_some()
            && if self.has_unknown_callers() {
                self.has_over_any(caller, capability)
            } else {
                self.processes.capable_over(caller, capability, owner) == Some(true)
            }
    }
}

/// Reports whether reading and writing an attribute of this name is not for
/// mode and ACL to decide.
fn is_left_to_the_file_system(name: &OsStr) -> bool {
    ["security.", "system.", "trusted."]
        .iter()
        .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
}
