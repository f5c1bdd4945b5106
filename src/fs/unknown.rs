//! Callers that are not known.
//!
//! Where the kernel may map the ids of the mount in its turn (an idmapped mount of
//! it), it tells ids of a caller with new files alone, as the mapped mount has them.
//! With every other request there are none, by whatever mount it came. They are then
//! unknown, and never unmapped: what the kernel has decided, with the map at hand,
//! holds; capabilities are those of the calling thread; what is left takes what gives
//! nobody more. Ids in `/proc` are not the view's where a map lies between, and
//! whether one does is not told, so they are compared with nothing.

use super::rules::There;
use super::{Capability, Fs};
use crate::attr::{Mode, Name};
use crate::error::{Error, Result};
use crate::id::{Caller, Owner, View};
use crate::source::Node;

impl Fs {
    /// Reports whether callers are unknown.
    pub(super) const fn has_unknown_callers(&self) -> bool {
        self.config.unknown_callers
    }

    /// Returns the caller as all decisions take it but whose a new file is: an id that
    /// a map has made 0 is not root.
    pub(super) fn actor(&self, caller: &Caller) -> Caller {
        if self.config.unknown_callers {
            Caller { uid: None, gid: None, pid: caller.pid }
        } else {
            *caller
        }
    }

    /// Returns the caller by whose uid descriptors are counted: one for all while few
    /// are held, then whom the thread acts as, which has to be read in `/proc`.
    pub(super) fn payer(&self, caller: &Caller) -> Caller {
        let mut payer = self.actor(caller);
        if self.config.unknown_callers && !self.budget.is_roomy() {
            payer.uid = self.processes.acting_user(caller);
        }
        payer
    }

    /// Returns the owner over which a capability has to reach: of an unknown caller
    /// none, since the ids of the file are others on its mount.
    pub(super) fn reach(&self, shown: Owner<View>) -> Owner<View> {
        if self.config.unknown_callers { Owner { uid: None, gid: None } } else { shown }
    }

    /// Reports whether an unknown caller has a capability over a file that has an owner,
    /// wherever a map puts that.
    pub(super) fn has_over_any(&self, caller: &Caller, capability: Capability) -> bool {
        self.processes.capable_over_all(caller, capability)
    }

    /// Checks that what an unknown caller takes out of a sticky directory is what the
    /// kernel has let it take: the file that it knows by that name.
    ///
    /// # Errors
    /// `Stale` (`ESTALE`), for which the kernel looks the name up and decides again.
    pub(super) fn may_take_as_decided(
        &self,
        (parent, dir): (u64, &Node),
        name: Name<'_>,
        there: &There,
    ) -> Result<()> {
        if !self.source.getattr(dir)?.mode.has(Mode::STICKY) {
            return Ok(());
        }
        let Some(number) = self.tree.known(&there.found.key, &there.seen.state) else {
            return Err(Error::Stale);
        };
        let is_here = |place: &(u64, std::ffi::OsString)| {
            place.0 == parent && place.1.as_os_str() == name.as_os_str()
        };
        // Of a file with very many names not all are remembered.
        let known = self.tree.place(number)?.as_ref().is_some_and(is_here)
            || !self.tree.keeps_names(number)
            || self.tree.other_names(number).iter().any(is_here);
        if known { Ok(()) } else { Err(Error::Stale) }
    }
}
