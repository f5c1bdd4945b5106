//! Renames: what moves, what it meets, and whether it may.

use std::ffi::OsStr;

use super::Fs;
use super::names::{EXISTS, NOBODY};
use super::rules::{ELSEWHERE, There};
use crate::attr::{FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::id::Caller;
use crate::policy::rules::{Deny, Subject};
use crate::source::{Node, RenameFlags};

/// A name in a directory.
struct Place<'a> {
    parent: u64,
    dir: Node,
    name: Name<'a>,
}

impl Place<'_> {
    const fn dir(&self) -> (u64, &Node) {
        (self.parent, &self.dir)
    }
}

/// A rename that may be made.
struct Move<'a> {
    old: Place<'a>,
    new: Place<'a>,
    moving: There,
    /// What the new name leads to.
    there: Option<There>,
}

impl Fs {
    /// Renames.
    ///
    /// # Errors
    /// As renameat2(2); `Unmapped` (`EOVERFLOW`) if the caller has no id to
    /// store and the new name does not exist yet, or a whiteout is to be left;
    /// `EXDEV` where other rules are in force at the new place.
    pub fn rename(
        &self,
        caller: &Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let checked = || self.checked(caller, self.named(from)?, self.named(to)?, flags);
        let Move { old, new, moving, there } = self.under_one_policy(checked)?;
        let owner = self.policy().create_owner(caller);
        // What is exchanged adds no name; a whiteout is a new file. (The kernel
        // makes one over an existing name too, and stores no id at all for it.)
        let added = there.is_none() && !flags.exchange && !self.has_unknown_callers();
        let adds = flags.whiteout || added;
        if adds && owner.is_none() {
            return Err(Error::Unmapped);
        }
        if there.is_none() {
            self.may_change_names(caller, new.dir())?;
        }
        let there = there.as_ref();
        if old.parent != new.parent {
            self.may_move(caller, &old.dir, old.name, Some(&moving))?;
            self.may_move(caller, &new.dir, new.name, there.filter(|_| flags.exchange))?;
        }
        let same = there.is_some_and(|there| there.found.key == moving.found.key);
        let held = self.hold(there.filter(|_| !flags.exchange && !same));
        let swapped = there.filter(|_| flags.exchange);
        let carried = [Some(&moving), swapped].map(|there| self.carry(there));
        let whiteout = owner.filter(|_| flags.whiteout);
        let places = ((&old.dir, old.name), (&new.dir, new.name));
        let rights = Self::rights(&self.actor(caller), false);
        let renamed =
            self.tree.with_room(|| self.source.rename(places.0, places.1, flags, whiteout, rights));
        if renamed.is_ok() {
            for (there, from, to) in [(Some(&moving), &old, &new), (swapped, &new, &old)] {
                if let Some(number) = there.and_then(|there| self.known_as(there)) {
                    self.tree.moved_from(number, (from.parent, from.name), (to.parent, to.name));
                }
            }
        }
        carried.into_iter().flatten().for_each(|number| self.tree.unpin(number));
        self.settle(held, renamed)
    }

    fn named<'a>(&self, (parent, name): (u64, &'a OsStr)) -> Result<Place<'a>> {
        Ok(Place { parent, name: Name::new(name)?, dir: self.node(parent)? })
    }

    /// Checks that a rename may be made.
    fn checked<'a>(
        &self,
        caller: &Caller,
        old: Place<'a>,
        new: Place<'a>,
        flags: RenameFlags,
    ) -> Result<Move<'a>> {
        self.lets_look(old.parent, old.name)?;
        let found = self.source.lookup(&old.dir, old.name)?;
        let moving = self.lets_drop(old.dir(), old.name, found, Deny::RENAME)?;
        // Before anything is said of what is there: the name may be hidden.
        self.lets_name(new.parent, new.name)?;
        let there = self.existing(&new.dir, new.name)?;
        let adds = if there.is_some() { Deny::default() } else { Deny::CREATE };
        let spot = self.lets_add(new.dir(), new.name, &moving.seen.subject(), adds)?;
        self.may_remove(caller, old.dir(), old.name, &moving)?;
        if flags.no_replace && there.is_some() {
            return Err(EXISTS);
        }
        if flags.whiteout {
            self.lets_leave(caller, &old)?;
        }
        let mut elsewhere = spot.state != moving.seen.state;
        let there = match there {
            None => None,
            Some(found) => {
                let op = if flags.exchange { Deny::RENAME } else { Deny::DELETE };
                let there = self.lets_drop(new.dir(), new.name, found, op)?;
                self.may_remove(caller, new.dir(), new.name, &there)?;
                if flags.exchange {
                    let subject = there.seen.subject();
                    let spot = self.lets_add(old.dir(), old.name, &subject, Deny::default())?;
                    elsewhere |= spot.state != there.seen.state;
                }
                Some(there)
            }
        };
        if elsewhere { Err(ELSEWHERE) } else { Ok(Move { old, new, moving, there }) }
    }

    /// Checks that the old name may get a whiteout, which is a new file.
    fn lets_leave(&self, caller: &Caller, old: &Place<'_>) -> Result<()> {
        let owner = self.policy().create_owner(caller).map_or(NOBODY, Into::into);
        let whiteout = Subject { kind: FileKind::CharDevice, owner, mode: Mode::new(0) };
        self.lets_add(old.dir(), old.name, &whiteout, Deny::CREATE).map(drop)
    }

    /// Holds a directory open while it moves, if what is below it is reached by
    /// names: until the new place is known, another request may ask for it.
    fn carry(&self, there: Option<&There>) -> Option<u64> {
        let there =
            there.filter(|there| there.found.attr.kind.is_dir() && there.found.handle.is_none())?;
        let number = self.known_as(there)?;
        self.tree.pin(number).ok().map(|()| number)
    }

    /// Returns the number of a file that the kernel knows.
    fn known_as(&self, there: &There) -> Option<u64> {
        self.tree.known(&there.found.key, &there.seen.state)
    }
}
