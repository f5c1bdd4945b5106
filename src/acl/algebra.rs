//! What a file system does with an ACL, as fs/posix_acl.c does it.

use super::{Acl, Entry, Tag};
use crate::attr::Mode;
use crate::id::{Group, Id, Owner, Side, User};

impl<S: Side> Acl<S> {
    /// Returns the ACL that says the same as the permission bits of a mode.
    pub fn from_mode(mode: Mode) -> Self {
        let entry = |tag, shift| Entry { tag, perm: class_bits(mode, shift) };
        Self {
            entries: vec![entry(Tag::UserObj, 6), entry(Tag::GroupObj, 3), entry(Tag::Other, 0)],
        }
    }

    /// Reports whether mode bits say all that this ACL says: it has only
    /// entries for the owning user, the owning group and the others.
    pub fn is_minimal(&self) -> bool {
        self.mask().is_none() && !self.entries.iter().any(|e| e.tag.is_named())
    }

    /// Returns a mode with the permission bits of this ACL; the group bits are
    /// the mask where there is one. The bits above 0777 stay.
    pub fn mode(&self, old: Mode) -> Mode {
        let bits = self.entries.iter().fold(0, |bits, entry| match self.class(entry.tag) {
            Some(shift) => bits | u32::from(entry.perm) << shift,
            None => bits,
        });
        Mode::new(u32::from(old.without(0o777).bits()) | bits)
    }

    /// Returns this ACL after a chmod(2) to that mode.
    #[must_use]
    pub fn chmod(&self, mode: Mode) -> Self {
        self.with_classes(mode, |_, bits| bits)
    }

    /// Returns what a new file gets of this default ACL: its mode, and its
    /// access ACL unless the mode says it all.
    ///
    /// `mode` is what the creator asked for; no umask is applied. A new
    /// directory gets the default ACL itself besides.
    pub fn inherit(&self, mode: Mode) -> (Mode, Option<Self>) {
        let access = self.with_classes(mode, |perm, bits| perm & bits);
        let mode = access.mode(mode);
        (mode, (!access.is_minimal()).then_some(access))
    }

    /// Reports whether this ACL of a file with that owner lets a process do
    /// all of `want` (bits 4 read, 2 write, 1 execute), capabilities aside.
    ///
    /// `is_member` tells whether it is in a group; it is asked only where the
    /// answer decides. A process without an id on this side is nobody.
    ///
    /// This is `posix_acl_permission`; the kernel does not come so far where
    /// the group bits of the mode are 0.
    pub fn allows(
        &self,
        owner: &Owner<S>,
        uid: Option<Id<User, S>>,
        mut is_member: impl FnMut(Id<Group, S>) -> bool,
        want: u8,
    ) -> bool {
        let mask = self.mask().unwrap_or(7);
        let mut in_group = |gid: Option<Id<Group, S>>| gid.is_some_and(&mut is_member);
        let mut in_any = false;
        for entry in &self.entries {
            let grants = entry.perm & want == want;
            match entry.tag {
                Tag::UserObj if uid.is_some() && owner.uid == uid => return grants,
                Tag::User(id) if uid.is_some() && id == uid => {
                    return entry.perm & mask & want == want;
                }
                Tag::GroupObj if in_group(owner.gid) => in_any = true,
                Tag::Group(id) if in_group(id) => in_any = true,
                Tag::Other => return grants && !in_any,
                Tag::UserObj | Tag::User(_) | Tag::GroupObj | Tag::Group(_) | Tag::Mask => continue,
            }
            // The first group entry that would do decides, by the mask.
            if grants {
                return mask & want == want;
            }
        }
        false
    }

    fn mask(&self) -> Option<u8> {
        self.entries.iter().find(|e| matches!(e.tag, Tag::Mask)).map(|e| e.perm)
    }

    /// Returns where the bits of an entry are in a mode: 6 for the user class,
    /// 3 for the group class, 0 for others; `None` if they are in none.
    fn class(&self, tag: Tag<S>) -> Option<u32> {
        match tag {
            Tag::UserObj => Some(6),
            Tag::Mask => Some(3),
            Tag::GroupObj => self.mask().is_none().then_some(3),
            Tag::Other => Some(0),
            Tag::User(_) | Tag::Group(_) => None,
        }
    }

    /// Changes the entries that are in a mode, by their permissions and the
    /// mode's bits for them.
    fn with_classes(&self, mode: Mode, change: impl Fn(u8, u8) -> u8) -> Self {
        let entries = self.entries.iter().map(|&Entry { tag, perm }| {
            let perm = match self.class(tag) {
                Some(shift) => change(perm, class_bits(mode, shift)),
                None => perm,
            };
            Entry { tag, perm }
        });
        Self { entries: entries.collect() }
    }
}

/// Returns the three permission bits at a shift.
fn class_bits(mode: Mode, shift: u32) -> u8 {
    let [low, _] = (mode.bits() >> shift & 7).to_le_bytes();
    low
}
