//! The policy's way between the sides for ACLs and file capabilities.

use std::convert::Infallible;

use super::{Acl, Capability};
use crate::error::{Error, Result};
use crate::id::{Disk, Id, Kind, Side, User, View};
use crate::policy::{Policy, Translate};

impl Acl<Disk> {
    /// Returns what callers see.
    ///
    /// A named id without a view id of its own stays as an entry that matches
    /// nobody. So does one that shares its view id with others and is not the
    /// one that the view id is stored as: an alias never grants.
    pub fn present(&self, policy: &dyn Policy) -> Acl<View> {
        let Ok(acl) = self.map::<_, Infallible>(
            |id| Ok(present_own(policy, id)),
            |id| Ok(present_own(policy, id)),
        );
        acl
    }
}

impl Acl<View> {
    /// Returns what is stored on disk.
    ///
    /// # Errors
    /// `UnmappedEntry` (`EINVAL`) if an entry names an id that is unmapped.
    pub fn store(&self, policy: &dyn Policy) -> Result<Acl<Disk>> {
        self.map(|id| store_named(policy, id).map(Some), |id| store_named(policy, id).map(Some))
    }
}

impl Capability<Disk> {
    /// Returns what callers see; the root id is `None` where it has no view
    /// id of its own, and then the capability counts nowhere.
    pub fn present(&self, policy: &dyn Policy) -> Capability<View> {
        self.with_root(present_own(policy, self.rootid), false)
    }
}

impl Capability<View> {
    /// Returns what is stored on disk. The root id is written where it is not
    /// that of the view, as by `cap_convert_nscap` on an idmapped mount.
    ///
    /// # Errors
    /// `UnmappedEntry` (`EINVAL`) if the root id is unmapped.
    pub fn store(&self, policy: &dyn Policy) -> Result<Capability<Disk>> {
        let rootid = store_named(policy, self.rootid)?;
        let named = self.names_root || self.rootid.is_some_and(|view| !view.is_root());
        let moved = rootid.is_root() && named;
        Ok(self.with_root(Some(rootid), moved))
    }
}

impl<S: Side> Capability<S> {
    fn with_root<T: Side>(self, rootid: Option<Id<User, T>>, names_root: bool) -> Capability<T> {
        let Self { effective, permitted, inheritable, .. } = self;
        Capability { rootid, effective, permitted, inheritable, names_root }
    }
}

/// Presents an id if the view id means this one and no other.
fn present_own<K: Kind, P>(policy: &P, disk: Option<Id<K, Disk>>) -> Option<Id<K, View>>
where
    P: Translate<K> + ?Sized,
{
    let disk = disk?;
    policy.present(Some(disk)).filter(|&view| policy.store(view) == Some(disk))
}

fn store_named<K: Kind, P>(policy: &P, view: Option<Id<K, View>>) -> Result<Id<K, Disk>>
where
    P: Translate<K> + ?Sized,
{
    view.and_then(|view| policy.store(view)).ok_or(Error::UnmappedEntry)
}
