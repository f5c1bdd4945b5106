//! What a caller may keep or take on the host: set-id bits, reserved blocks.

use super::rules::{Seen, Spot};
use super::{Capability, Fs};
use crate::attr::Mode;
use crate::id::{Caller, Disk, Ids, Owner};
use crate::policy::rules::Subject;
use crate::source::Rights;

/// The group's execute bit: without it `S_ISGID` makes nothing set-group-id.
const GROUP_EXEC: u16 = 0o010;

/// Both set-id bits.
const SETID: u16 = Mode::SETUID | Mode::SETGID;

/// Reports whether `S_ISGID` is the only set-id bit and stands for nothing
/// that is executed.
fn marks_only(mode: Mode) -> bool {
    mode.has(Mode::SETGID) && !mode.has(Mode::SETUID | GROUP_EXEC)
}

impl Fs {
    /// Returns rights with a decision on set-id bits that was made elsewhere.
    ///
    /// The reserve goes by who the caller is, not by what it is stored as
    /// (`ext4_has_free_clusters` of fs/ext4/balloc.c).
    pub(super) fn rights(caller: &Caller, keep_setid: bool) -> Rights {
        Rights { keep_setid, reserve: caller.is_root() }
    }

    /// Returns the rights to change the contents of a file
    /// (`setattr_should_drop_suidgid` of fs/attr.c).
    pub(super) fn content_rights(&self, caller: &Caller, seen: &Seen) -> Rights {
        let keep = seen.attr.mode.has(SETID)
            && (self.processes.capable(caller, Capability::Fsetid)
                || marks_only(seen.attr.mode) && self.may_mark(caller, seen));
        Self::rights(caller, keep)
    }

    /// Reports whether an open file has set-id bits now.
    pub fn is_set_id(&self, handle: u64) -> bool {
        let attr = self.opens.get(handle).and_then(|open| open.file.getattr());
        attr.is_ok_and(|attr| attr.mode.has(SETID))
    }

    /// Reports whether a change of contents takes set-user-id and leaves an
    /// `S_ISGID` that marks no program, which the host does not do by itself.
    ///
    /// Only truncate(2) needs it: before other changes the client asks for the
    /// bits to go (see [`Fs::setattr`]).
    pub(super) fn loses_setuid_alone(&self, caller: &Caller, seen: &Seen) -> bool {
        seen.attr.mode.has(Mode::SETUID)
            && marks_only(seen.attr.mode.without(Mode::SETUID))
            && !self.processes.capable(caller, Capability::Fsetid)
            && self.may_mark(caller, seen)
    }

    /// Returns the rights to write where the kernel has told whether the
    /// caller lacks `CAP_FSETID`. It does so for set-id bits that it is shown.
    pub(super) fn write_rights(
        &self,
        caller: &Caller,
        kill: bool,
        marked: impl FnOnce() -> Option<Seen>,
    ) -> Rights {
        if !kill && self.ruled().is_some_and(|policy| policy.rules().mask_set_id()) {
            let seen = marked();
            return seen.map_or_else(
                || Self::rights(caller, false),
                |seen| self.content_rights(caller, &seen),
            );
        }
        let keep =
            !kill || marked().is_some_and(|s| marks_only(s.attr.mode) && self.may_mark(caller, &s));
        Self::rights(caller, keep)
    }

    /// Returns the rights to change the owner: only an `S_ISGID` that marks
    /// no program may stay (`setattr_should_drop_sgid`).
    pub(super) fn owner_rights(&self, caller: &Caller, seen: &Seen) -> Rights {
        let marks = seen.attr.mode.has(Mode::SETGID) && !seen.attr.mode.has(GROUP_EXEC);
        Self::rights(caller, marks && self.may_mark(caller, seen))
    }

    /// Reports whether a change of owner with these rights takes set-id bits.
    pub(super) fn loses_setid(seen: &Seen, rights: Rights) -> bool {
        let group = seen.attr.mode.has(Mode::SETGID) && !rights.keep_setid;
        (seen.attr.mode.has(Mode::SETUID) || group) && !seen.attr.kind.is_dir()
    }

    /// Returns the rights to set an access ACL (`posix_acl_update_mode`). On a directory
    /// `S_ISGID` runs nothing, so an unknown caller's ACL leaves it.
    pub(super) fn acl_rights(&self, caller: &Caller, seen: &Seen) -> Rights {
        let shared = self.has_unknown_callers() && seen.attr.kind.is_dir();
        let keep = seen.attr.mode.has(Mode::SETGID) && (shared || self.may_set_gid(caller, seen));
        Self::rights(caller, keep)
    }

    /// Returns the mode of a new file without the set-id bits that would act
    /// for somebody else.
    ///
    /// Where a caller's own files are shown as another's (a collapse), a
    /// set-id file would be one of the stored owner, planted by whoever may
    /// create. The root of the view may give such a file to anybody anyway.
    pub(super) fn own_setid(
        &self,
        caller: &Caller,
        owner: Ids<Disk>,
        spot: &Spot,
        new: &Subject,
    ) -> Mode {
        let mode = new.mode;
        if !mode.has(SETID) || self.actor(caller).is_root() {
            return mode;
        }
        let by_rule = spot.policy.rules().verdict(&spot.state, new).owner;
        let shown = spot.policy.present_owner(owner.into());
        let shown = Owner { uid: by_rule.uid.or(shown.uid), gid: by_rule.gid.or(shown.gid) };
        let user = if shown.uid == caller.uid { 0 } else { Mode::SETUID };
        let group = if shown.gid == caller.gid { 0 } else { Mode::SETGID };
        mode.without(user | group)
    }

    /// Returns the set-id bits of a mode with which a file would be shown as
    /// somebody else's, by a rule for such modes, and act for that one.
    ///
    /// The root of the view may give such a file to anybody anyway.
    pub(super) fn handed_over(&self, caller: &Caller, seen: &Seen, mode: Mode) -> u16 {
        if !mode.has(SETID) || caller.is_root() {
            return 0;
        }
        let mut then = seen.clone();
        then.attr.mode = mode;
        let (now, then) = (self.shown_to(None, seen), self.shown_to(None, &then));
        let user = if now.uid == then.uid { 0 } else { Mode::SETUID };
        let group = if now.gid == then.gid { 0 } else { Mode::SETGID };
        mode.bits() & (user | group)
    }

    /// Reports whether any caller is shown as the owner of the file.
    pub(super) fn is_owned(&self, caller: &Caller, seen: &Seen) -> bool {
        self.shown(caller, seen).uid.is_some()
    }

    /// Reports whether the caller may do what only the owner may
    /// (`inode_owner_or_capable` of fs/inode.c).
    pub(super) fn acts_as_owner(&self, caller: &Caller, seen: &Seen) -> bool {
        let shown = self.shown(caller, seen);
        let user = Owner { gid: None, ..shown };
        if self.has_unknown_callers() {
            return shown.uid.is_some() && self.has_over_any(caller, Capability::Fowner);
        }
        shown.uid.is_some()
            && (shown.uid == caller.uid
                || self.processes.capable_over(caller, Capability::Fowner, user) == Some(true))
    }

    /// Reports whether the caller may have `S_ISGID` on a file
    /// (`in_group_or_capable` of fs/inode.c); an unknown one is in no group.
    fn may_set_gid(&self, caller: &Caller, seen: &Seen) -> bool {
        !self.has_unknown_callers() && self.is_member(caller, seen)
            || self.has_over(caller, Capability::Fsetid, seen)
    }

    /// Reports the same of an `S_ISGID` that runs nothing: there it does no harm to go
    /// by the groups that an unknown caller is in without a map.
    fn may_mark(&self, caller: &Caller, seen: &Seen) -> bool {
        self.is_member(caller, seen) || self.has_over(caller, Capability::Fsetid, seen)
    }

    fn is_member(&self, caller: &Caller, seen: &Seen) -> bool {
        let gid = self.shown(caller, seen).gid;
        gid.is_some_and(|group| self.processes.in_group(caller, group))
    }
}
