//! A policy as ranges of ids that move one to one, where it is that and nothing
//! else: what the kernel's idmapped mount can do.

use std::fmt;

use super::changes;
use super::parts::cascade;
use super::spec::{Rules, Spec};
use crate::id::{Extent, Group, Kind, User};

/// What a policy does, where it moves ranges of ids.
///
/// The extents of each kind are sorted by their disk ids, overlap on neither
/// side, and are as few as they can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// The extents of users, at least one.
    pub users: Vec<Extent<User>>,
    /// The extents of groups, at least one.
    pub groups: Vec<Extent<Group>>,
}

/// What a policy does besides moving ranges of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// It shows many owners as one.
    PresentAs,
    /// It stores what callers create as another owner.
    StoreAs,
    /// It shows unmapped ids as an owner.
    Unmapped,
    /// It decides by path, name or attributes.
    Rules,
    /// It says what callers may change.
    Changes,
    /// It depends on the caller.
    Callers,
    /// It maps no id of a kind: `uid` or `gid`.
    Nothing(&'static str),
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PresentAs => "shows many owners as one (present-as)",
            Self::StoreAs => "stores what callers create as another owner (store-as)",
            Self::Unmapped => "shows unmapped ids as an owner (unmapped)",
            Self::Rules => "has rules by path, name or attributes",
            Self::Changes => "says what callers may change",
            Self::Callers => "depends on the caller (mirror)",
            Self::Nothing(word) => return write!(f, "maps no {word}"),
        })
    }
}

impl Spec {
    /// Returns the ranges that this policy moves, if that is all that it does.
    ///
    /// Ids that names have paired count as ranges of one.
    ///
    /// # Errors
    /// What it does besides.
    pub fn ranges(&self) -> Result<Ranges, Beyond> {
        if !self.callers.is_empty() {
            return Err(Beyond::Callers);
        }
        if !self.rules.is_empty() {
            return Err(Beyond::Rules);
        }
        if self.changes != changes::NORMAL {
            return Err(Beyond::Changes);
        }
        Ok(Ranges { users: self.users.ranges()?, groups: self.groups.ranges()? })
    }
}

impl<K: Kind> Rules<K> {
    fn ranges(&self) -> Result<Vec<Extent<K>>, Beyond> {
        if self.present_as.is_some() {
            return Err(Beyond::PresentAs);
        }
        if self.store_as.is_some() {
            return Err(Beyond::StoreAs);
        }
        if self.unmapped_as.is_some() {
            return Err(Beyond::Unmapped);
        }
        // What earlier parts have is not in later ones.
        let (parts, _fallen) = cascade(self.parts());
        let mut extents: Vec<Extent<K>> = parts.iter().flat_map(|part| part.extents()).collect();
        extents.sort_unstable_by_key(|extent| extent.disk());
        extents.dedup_by(|next, last| match last.joined(*next) {
            Some(joined) => {
                *last = joined;
                true
            }
            None => false,
        });
        if extents.is_empty() { Err(Beyond::Nothing(K::WORD)) } else { Ok(extents) }
    }
}
