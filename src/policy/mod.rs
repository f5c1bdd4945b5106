//! The rules by which files are shown and stored. Pure: no file, no clock, no
//! environment, no system call.
//!
//! *Present* goes from disk to view, *store* from view to disk, and *create*
//! says what a caller's new files belong to on disk.

mod bindfs;
mod callers;
mod changes;
pub mod check;
mod clauses;
mod entry;
mod error;
pub mod explain;
mod familiar;
pub mod file;
pub mod glob;
pub mod mode;
mod names;
pub mod options;
mod parts;
mod pipeline;
mod ranges;
pub mod rules;
mod showing;
mod spec;
mod stages;
mod text;
mod xattrs;

use std::fmt;

pub use callers::{Callers, Others};
pub use changes::{Asked, Changes, Now};
pub use entry::Entry;
pub use error::{Code, Origin, PolicyError, Written};
pub use familiar::Familiar;
pub use names::{List, Names, NoNames, Place, Unread, passwd};
pub use pipeline::{Pipeline, Server};
pub use ranges::{Beyond, Ranges};
pub use rules::State;
pub use spec::{Rules, Spec};
pub use xattrs::Xattr;

use crate::id::{Caller, Disk, Group, Id, Ids, Kind, Owner, User, View};

/// What the answers of a policy depend on besides the ids themselves.
///
/// It decides every cache key and time to live: see rule 7 of the design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The caller: attributes differ between callers, so nothing is cached.
    pub caller: bool,
    /// The path: the same file may be shown differently under two names.
    pub path: bool,
}

impl Inputs {
    /// Returns what two policies together depend on.
    pub const fn or(self, other: Self) -> Self {
        Self { caller: self.caller || other.caller, path: self.path || other.path }
    }
}

/// Translation of the ids of one kind.
pub trait Translate<K: Kind> {
    /// Returns the view id that a disk id is shown as; `None`: unmapped.
    ///
    /// `disk` is `None` where the server itself cannot name the disk id.
    fn present(&self, disk: Option<Id<K, Disk>>) -> Option<Id<K, View>>;

    /// Returns the disk id that a view id is stored as; `None`: unmapped.
    ///
    /// The law of the round trip: where this is `Some(d)`, `present(d)` is the
    /// view id that was given.
    fn store(&self, view: Id<K, View>) -> Option<Id<K, Disk>>;

    /// Returns the disk id of what a caller with this id creates; `None`: it
    /// may not create.
    fn create(&self, caller: Id<K, View>) -> Option<Id<K, Disk>>;
}

/// A whole policy: users, groups, and what the answers depend on.
pub trait Policy: Translate<User> + Translate<Group> + Send + Sync + fmt::Debug {
    /// Returns what the answers depend on besides the ids.
    fn inputs(&self) -> Inputs;

    /// Returns the rules by path, name and attributes.
    fn rules(&self) -> &rules::Rules {
        rules::Rules::NONE
    }

    /// Returns what callers may change; by default, what the kernel lets them.
    fn changes(&self) -> &Changes {
        &changes::NORMAL
    }
    /// Returns what depends on the caller.
    fn callers(&self) -> &Callers;
}

impl dyn Policy + '_ {
    /// Returns the owner that callers see.
    pub fn present_owner(&self, disk: Owner<Disk>) -> Owner<View> {
        Owner {
            uid: Translate::<User>::present(self, disk.uid),
            gid: Translate::<Group>::present(self, disk.gid),
        }
    }

    /// Returns the owner on disk of what this caller creates; `None` where
    /// either id of the caller is unmapped.
    pub fn create_owner(&self, caller: &Caller) -> Option<Ids<Disk>> {
        Some(Ids {
            uid: Translate::<User>::create(self, caller.uid?)?,
            gid: Translate::<Group>::create(self, caller.gid?)?,
        })
    }
}
