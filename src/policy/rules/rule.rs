//! A rule as written: conditions, and what it says of the files that meet
//! them all.

use std::fmt;

use crate::attr::{FileKind, Mode};
use crate::id::{Disk, Group, Id, Kind, Owner, User, View};
use crate::policy::error::{Origin, Written};
use crate::policy::glob::{Glob, PathGlob};
use crate::policy::mode::{ModeExpr, ModeTest};

/// What is known of a file on disk, as far as rules can ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What the file is.
    pub kind: FileKind,
    /// The owner, in disk ids.
    pub owner: Owner<Disk>,
    /// The permission bits on disk.
    pub mode: Mode,
}

/// The words for the kinds of files.
pub(in crate::policy) const KINDS: [(&str, FileKind); 7] = [
    ("file", FileKind::Regular),
    ("directory", FileKind::Directory),
    ("symlink", FileKind::Symlink),
    ("fifo", FileKind::Fifo),
    ("socket", FileKind::Socket),
    ("char-device", FileKind::CharDevice),
    ("block-device", FileKind::BlockDevice),
];

/// A set of kinds of files; the empty one is every kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    const fn bit(kind: FileKind) -> u8 {
        match kind {
            FileKind::Regular => 1,
            FileKind::Directory => 2,
            FileKind::Symlink => 4,
            FileKind::Fifo => 8,
            FileKind::Socket => 16,
            FileKind::CharDevice => 32,
            FileKind::BlockDevice => 64,
        }
    }

    /// Returns this set with one more kind.
    #[must_use]
    pub const fn with(self, kind: FileKind) -> Self {
        Self(self.0 | Self::bit(kind))
    }

    /// Reports whether no kind was named: each is meant.
    pub const fn is_any(self) -> bool {
        self.0 == 0
    }

    /// Reports whether a single kind is meant.
    pub const fn is_one(self) -> bool {
        self.0.is_power_of_two()
    }

    /// Reports whether a kind is meant.
    pub const fn holds(self, kind: FileKind) -> bool {
        self.is_any() || self.0 & Self::bit(kind) != 0
    }
}

/// A range of disk ids: first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<K: Kind> {
    /// The first disk id.
    pub first: Id<K, Disk>,
    /// The last disk id, not below the first.
    pub last: Id<K, Disk>,
}

impl<K: Kind> fmt::Display for Range<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return fmt::Display::fmt(&self.first, f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Operations that a rule denies.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Deny(u8);

impl Deny {
    /// Removing the file.
    pub const DELETE: Self = Self(1);
    /// Giving the file another name or place.
    pub const RENAME: Self = Self(2);
    /// Changing its mode or ACL.
    pub const CHMOD: Self = Self(4);
    /// Changing its owner or group.
    pub const CHOWN: Self = Self(8);
    /// Making files in the directory.
    pub const CREATE: Self = Self(16);
    /// Making a hard link to the file.
    pub const LINK: Self = Self(32);
    /// Executing the file.
    pub const EXEC: Self = Self(64);
    /// Changing its extended attributes.
    pub const XATTR: Self = Self(128);

    /// The words for the operations.
    pub(in crate::policy) const WORDS: [(&str, Self); 8] = [
        ("delete", Self::DELETE),
        ("rename", Self::RENAME),
        ("chmod", Self::CHMOD),
        ("chown", Self::CHOWN),
        ("create", Self::CREATE),
        ("link", Self::LINK),
        ("exec", Self::EXEC),
        ("xattr", Self::XATTR),
    ];

    /// Returns this set with another.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Reports whether all of these operations are denied.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Reports whether nothing is denied.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Deny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = (Self::WORDS.iter())
            .filter(|(_, one)| self.contains(*one))
            .map(|(word, _)| *word)
            .collect();
        f.write_str(&words.join("+"))
    }
}

impl fmt::Debug for Deny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deny({self})")
    }
}

/// The effects of rules, each decided by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Effect(u8);

impl Effect {
    pub(in crate::policy) const HIDE: Self = Self(1);
    pub(in crate::policy) const READ_ONLY: Self = Self(2);
    pub(in crate::policy) const USER: Self = Self(4);
    pub(in crate::policy) const GROUP: Self = Self(8);
    pub(in crate::policy) const MODE: Self = Self(16);
    pub(in crate::policy) const DENY: Self = Self(32);
    pub(in crate::policy) const ALL: Self = Self(63);

    pub(in crate::policy) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(in crate::policy) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(in crate::policy) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(in crate::policy) const fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(in crate::policy) const fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }
}

/// One rule. All conditions that it has must hold; of a list, one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Where the file is, from the source's root.
    pub paths: Vec<Written<PathGlob>>,
    /// The last name of its path.
    pub names: Vec<Written<Glob>>,
    /// What it is.
    pub kinds: Kinds,
    /// The disk users who may own it.
    pub users: Vec<Range<User>>,
    /// The disk groups that may own it.
    pub groups: Vec<Range<Group>>,
    /// Its permission bits on disk.
    pub mode: Option<ModeTest>,
    /// Whether it is absent from the view.
    pub hide: Option<Written<bool>>,
    /// Whether it cannot be changed.
    pub read_only: Option<Written<bool>>,
    /// The user that it is shown with.
    pub present_user: Option<Written<Id<User, View>>>,
    /// The group that it is shown with.
    pub present_group: Option<Written<Id<Group, View>>>,
    /// How its mode is shown.
    pub present_mode: Option<Written<ModeExpr>>,
    /// What is denied; nothing in it is an exception from later rules.
    pub deny: Option<Written<Deny>>,
}

impl Rule {
    /// Makes a rule that hides a path.
    pub fn hiding(path: PathGlob, at: &Origin) -> Self {
        Self {
            paths: vec![Written { value: path, at: at.clone() }],
            hide: Some(Written { value: true, at: at.clone() }),
            ..Self::default()
        }
    }

    /// Reports whether the rule looks at the path or the name.
    pub fn looks_at_path(&self) -> bool {
        !self.paths.is_empty() || !self.names.is_empty()
    }

    /// Reports whether the rule looks at more than the path and the name.
    pub fn looks_at_file(&self) -> bool {
        let Self { kinds, users, groups, mode, .. } = self;
        !kinds.is_any() || !users.is_empty() || !groups.is_empty() || mode.is_some()
    }

    /// Reports whether a file meets the conditions besides path and name.
    pub fn meets(&self, subject: &Subject) -> bool {
        self.kinds.holds(subject.kind)
            && in_ranges(&self.users, subject.owner.uid)
            && in_ranges(&self.groups, subject.owner.gid)
            && self.mode.is_none_or(|test| test.passes(subject.mode))
    }

    /// Returns the effects that the rule mentions.
    pub(in crate::policy) fn mentions(&self) -> Effect {
        let given = [
            (self.hide.is_some(), Effect::HIDE),
            (self.read_only.is_some(), Effect::READ_ONLY),
            (self.present_user.is_some(), Effect::USER),
            (self.present_group.is_some(), Effect::GROUP),
            (self.present_mode.is_some(), Effect::MODE),
            (self.deny.is_some(), Effect::DENY),
        ];
        given
            .into_iter()
            .filter(|(given, _)| *given)
            .fold(Effect::default(), |all, (_, one)| all.or(one))
    }

    /// Reports whether the rule may show set-id bits as not set.
    pub(super) fn masks_set_id(&self) -> bool {
        self.present_mode.as_ref().is_some_and(|mode| mode.value.masks_set_id())
    }

    /// Reports whether the rule hides what meets its conditions.
    pub(in crate::policy) fn hides(&self) -> bool {
        self.hide.as_ref().is_some_and(|hide| hide.value)
    }
}

/// Reports whether an id is in a list of ranges; an empty list is every id.
fn in_ranges<K: Kind>(ranges: &[Range<K>], id: Option<Id<K, Disk>>) -> bool {
    let holds = |id| ranges.iter().any(|range| range.first <= id && id <= range.last);
    ranges.is_empty() || id.is_some_and(holds)
}

fn joined<T: fmt::Display>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join("|")
}

/// The conditions and effects as words. They name what is hidden.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut condition = |key: &str, values: String| {
            if !values.is_empty() {
                words.push(format!("{key}={values}"));
            }
        };
        condition("path", joined(self.paths.iter().map(|path| &path.value)));
        condition("name", joined(self.names.iter().map(|name| &name.value)));
        let kinds =
            KINDS.iter().filter(|(_, kind)| !self.kinds.is_any() && self.kinds.holds(*kind));
        condition("type", joined(kinds.map(|(word, _)| word)));
        condition("owner", joined(&self.users));
        condition("group", joined(&self.groups));
        condition("mode", joined(self.mode));
        condition("hide", joined(self.hide.as_ref().map(|hide| hide.value)));
        condition("read-only", joined(self.read_only.as_ref().map(|value| value.value)));
        condition("present-user", joined(self.present_user.as_ref().map(|id| id.value)));
        condition("present-group", joined(self.present_group.as_ref().map(|id| id.value)));
        condition("present-mode", joined(self.present_mode.as_ref().map(|mode| &mode.value)));
        if let Some(deny) = &self.deny {
            words.push(format!("deny={}", deny.value));
        }
        write!(f, "rule({})", words.join(" "))
    }
}

/// A rule, and what is asked of it all the time.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) rule: Rule,
    pub(super) mentions: Effect,
    /// Whether it looks at the file itself.
    pub(super) conditional: bool,
}

impl Compiled {
    /// Takes a rule as written.
    pub(super) fn new(rule: &Rule) -> Self {
        Self { mentions: rule.mentions(), conditional: rule.looks_at_file(), rule: rule.clone() }
    }
}
