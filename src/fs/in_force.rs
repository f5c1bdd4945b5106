//! The policy in force, and how it is replaced by another one.

use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::Fs;
use crate::acl::StandIn;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::sync::{read, write};

/// What decides how files are shown and stored, replaced as a whole.
#[derive(Debug)]
pub(super) struct InForce {
    both: RwLock<(Arc<dyn Policy>, StandIn)>,
    /// How often it was replaced.
    replaced: AtomicU64,
}

impl InForce {
    /// Makes the first one.
    pub(super) const fn new(policy: Arc<dyn Policy>, stand_in: StandIn) -> Self {
        Self { both: RwLock::new((policy, stand_in)), replaced: AtomicU64::new(0) }
    }

    /// Returns the policy together with the stand-ins that go with it.
    pub(super) fn both(&self) -> (Arc<dyn Policy>, StandIn) {
        let both = read(&self.both);
        (Arc::clone(&both.0), both.1.clone())
    }

    /// Returns the policy if it has any rules.
    pub(super) fn ruled(&self) -> Option<Arc<dyn Policy>> {
        let both = read(&self.both);
        (!both.0.rules().is_empty()).then(|| Arc::clone(&both.0))
    }
}

impl Fs {
    /// Returns the policy in force.
    pub(super) fn policy(&self) -> Arc<dyn Policy> {
        self.in_force.both().0
    }

    /// Puts another policy in force, for every request that begins from now on.
    ///
    /// What the kernel was told is not taken back here.
    ///
    /// # Errors
    /// `Unsupported` if one of the two policies depends on the caller and the
    /// other one does not, or if it has rules and the kernel opens files without
    /// asking: the kernel was promised otherwise at the mount.
    pub fn replace(&self, policy: Arc<dyn Policy>, stand_in: StandIn) -> Result<()> {
        let mut both = write(&self.in_force.both);
        let caller = both.0.inputs().caller != policy.inputs().caller;
        if caller || self.is_alone() && !policy.rules().is_empty() {
            return Err(Error::Unsupported);
        }
        let before = std::mem::replace(&mut *both, (policy, stand_in));
        self.in_force.replaced.fetch_add(1, Ordering::Release);
        // What was answered by the old one is not to be believed.
        self.fresh.note_all();
        // A large one is taken apart without the lock.
        drop(both);
        drop(before);
        Ok(())
    }

    /// Returns how often the policy was replaced.
    pub(super) fn replaced(&self) -> u64 {
        self.in_force.replaced.load(Ordering::Acquire)
    }

    /// Returns the number of the root.
    pub fn root_number(&self) -> u64 {
        self.tree.root().number
    }

    /// Returns the numbers that one part of the table of inodes has; `None`
    /// after the last part.
    pub fn numbers(&self, part: usize) -> Option<Vec<u64>> {
        self.tree.numbers(part)
    }

    /// Returns the names by which a number was found, with their directories'
    /// numbers; none for the root. Of very many only some.
    ///
    /// # Errors
    /// `Unknown` for a number that was not given out.
    pub fn places(&self, number: u64) -> Result<Vec<(u64, OsString)>> {
        let mut places = self.tree.other_names(number);
        places.extend(self.tree.place(number)?);
        Ok(places)
    }
}
