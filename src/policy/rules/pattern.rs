//! The patterns of a rule, and what a match of one means.

use std::sync::{Arc, OnceLock};

use super::decision::Decision;
use super::intern::Interned;
use super::rule::Rule;
use crate::attr::FileKind;
use crate::policy::glob::{Part, PathGlob};

/// A condition of a rule on its place that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    pub(super) rule: u16,
    /// Which condition: [`BY_PATH`] or [`BY_NAME`]; of a rule with neither, 0.
    pub(super) condition: u8,
    /// Whether it holds for directories alone.
    pub(super) directories: bool,
}

pub(super) const BY_PATH: u8 = 1;
pub(super) const BY_NAME: u8 = 2;

/// A pattern of a rule.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) parts: Box<[Part]>,
    /// Whether all below what it matches matches too.
    pub(super) tail: bool,
    pub(super) hit: Hit,
    /// What a match of this pattern may hide.
    pub(super) hides: Hiding,
    /// What is said of files and of directories where no other pattern
    /// matches: kept, for it is asked for again and again.
    pub(super) alone: [OnceLock<Option<Arc<Interned<Decision>>>>; 2],
}

impl Pattern {
    /// Returns the patterns of a rule.
    pub(super) fn of(at: u16, rule: &Rule) -> impl Iterator<Item = Self> {
        let hides = Hiding::of(rule);
        let by_path = rule.paths.iter().map(move |path| (path.value.clone(), BY_PATH, hides));
        // A name alone does not tell whether a rule matches that has a path too.
        let hides = if rule.paths.is_empty() { hides } else { Hiding::Nothing };
        let names = rule.names.iter().map(|name| PathGlob::anywhere(name.value.clone()));
        let by_name = names.map(move |path| (path, BY_NAME, hides));
        by_path.chain(by_name).map(move |(path, condition, hides)| Self {
            hit: Hit { rule: at, condition, directories: path.directories },
            parts: path.parts,
            tail: path.tail,
            hides,
            alone: [OnceLock::new(), OnceLock::new()],
        })
    }
}

/// What may be hidden in a directory; each is more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hiding {
    Nothing,
    /// Names of what is no directory.
    Files,
    /// Names of directories too.
    All,
}

impl Hiding {
    /// Returns what a rule may hide.
    pub(super) fn of(rule: &Rule) -> Self {
        match (rule.hides(), rule.kinds.holds(FileKind::Directory)) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Files,
            (true, true) => Self::All,
        }
    }
}
