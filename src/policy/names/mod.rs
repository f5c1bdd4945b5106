//! Ids by name: lists of users and groups, and the pairs that they make.
//!
//! Names are resolved once, when a policy is read; what remains are pairs of
//! ids. To read the policy again is to resolve them again.

mod host;
mod pairs;
pub mod passwd;
mod words;

pub use host::{Names, NoNames};
pub(super) use passwd::is_name;
pub use words::absolute;
pub(super) use words::side;

use super::entry::Entry;
use super::error::{Code, Origin, PolicyError};
use crate::id::{Group, Kind, User};
pub(super) use passwd::Form;

/// Where a list of users or of groups comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// The host, by its name services.
    Host,
    /// A file in the form of passwd(5) or group(5).
    File(Place),
    /// The policy itself: names and ids, in the order written.
    Inline(Vec<(String, u32)>),
}

/// Where a file of names is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this absolute path of the host.
    Host(String),
    /// At this path below the source, which may not lead out of it.
    Source(String),
}

/// Why there is no text of a file, or no list of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is in the source, and there is none at hand.
    NoSource,
    /// It cannot be read, for this reason.
    Failed(String),
}

/// The users and groups of one side; a kind without a list is not translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    pub(super) users: Option<List>,
    pub(super) groups: Option<List>,
}

/// The stages by name, as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ByName {
    /// Ids pair up whose name is on both sides.
    Names { disk: Lists, view: Lists },
    /// Disk ids whose name is the prefix and a name pair up with the latter.
    Prefix { prefix: String, lists: Lists },
}

/// A pair of ids and the name that made it: the one in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair<K: Kind> {
    pub(super) name: String,
    pub(super) entry: Entry<K>,
}

/// The pairs of a stage, disjoint on both sides, in the order of the disk's
/// list.
#[derive(Clone, Debug)]
pub(super) struct Paired<K: Kind> {
    /// Where the stage was written.
    pub(super) at: Origin,
    /// What stands before a name on disk; nothing where names are the same.
    pub(super) prefix: String,
    pub(super) pairs: Vec<Pair<K>>,
    /// What its lists made doubtful.
    pub(super) doubts: Vec<Doubt>,
}

/// Two stages are equal if they decide alike.
impl<K: Kind> PartialEq for Paired<K> {
    fn eq(&self, other: &Self) -> bool {
        (&self.prefix, &self.pairs) == (&other.prefix, &other.pairs)
    }
}

impl<K: Kind> Eq for Paired<K> {}

impl<K: Kind> Paired<K> {
    /// Returns the pair with these ids.
    pub(super) fn pair(&self, entry: Entry<K>) -> Option<&Pair<K>> {
        self.pairs.iter().find(|pair| pair.entry == entry)
    }

    /// Reports whether a list was not at hand, so that pairs may be missing.
    pub(super) fn is_partial(&self) -> bool {
        self.doubts.iter().any(|doubt| doubt.code == Code::Unread)
    }
}

/// Something about a list that `check` should say.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub(super) code: Code,
    pub(super) what: String,
    pub(super) hint: &'static str,
}

/// What a list is of: the part of a kind that asks the host and reads files.
pub(super) trait Named: Kind {
    /// The word for what has a name: `user` or `group`.
    const NOUN: &'static str;
    /// The form of its file.
    const FORM: Form;
    /// Returns the list of this kind.
    fn of(lists: &Lists) -> Option<&List>;
    /// Returns all that the host lists.
    fn all(names: &dyn Names) -> Result<Vec<(String, u32)>, Unread>;
    /// Asks the host for one name.
    fn one(names: &dyn Names, name: &str) -> Option<u32>;
}

impl Named for User {
    const NOUN: &'static str = "user";
    const FORM: Form = Form::Passwd;

    fn of(lists: &Lists) -> Option<&List> {
        lists.users.as_ref()
    }

    fn all(names: &dyn Names) -> Result<Vec<(String, u32)>, Unread> {
        names.users()
    }

    fn one(names: &dyn Names, name: &str) -> Option<u32> {
        names.user(name).map(|(uid, _)| uid)
    }
}

impl Named for Group {
    const NOUN: &'static str = "group";
    const FORM: Form = Form::Group;

    fn of(lists: &Lists) -> Option<&List> {
        lists.groups.as_ref()
    }

    fn all(names: &dyn Names) -> Result<Vec<(String, u32)>, Unread> {
        names.groups()
    }

    fn one(names: &dyn Names, name: &str) -> Option<u32> {
        names.group(name)
    }
}

impl ByName {
    /// Makes the pairs of one kind; `None`: it has no list of that kind.
    ///
    /// # Errors
    /// `File`: a list cannot be read.
    pub(super) fn resolve<K: Named>(
        &self,
        at: &Origin,
        names: &dyn Names,
    ) -> Result<Option<Paired<K>>, PolicyError> {
        match self {
            Self::Names { disk, view } => {
                let (Some(disk), Some(view)) = (K::of(disk), K::of(view)) else { return Ok(None) };
                pairs::same_name(at, disk, view, names).map(Some)
            }
            Self::Prefix { prefix, lists } => match K::of(lists) {
                Some(list) => pairs::prefixed(at, prefix, list, names).map(Some),
                None => Ok(None),
            },
        }
    }
}
