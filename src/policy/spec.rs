//! The parsed form of a policy: plain data that options and files both build.

use std::fmt;

use super::error::{Code, Origin, PolicyError, Written};
use super::rules::Rule;
use super::stages::{Rest, Stages};
use super::text::SomeIds;
use crate::id::{Disk, Extent, Group, Id, Kind, Side, User, View};

/// A single disk id and the view id that it is shown as.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry<K: Kind> {
    /// The disk id.
    pub disk: Id<K, Disk>,
    /// The view id.
    pub view: Id<K, View>,
}

impl<K: Kind> fmt::Display for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", K::LETTER, self.disk, self.view)
    }
}

impl<K: Kind> fmt::Debug for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The rules for one kind of ids; none at all is the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules<K: Kind> {
    pub(super) map: Vec<Written<Extent<K>>>,
    pub(super) table: Vec<Written<Entry<K>>>,
    pub(super) present_as: Option<Written<Id<K, View>>>,
    pub(super) store_as: Option<Written<Id<K, Disk>>>,
    pub(super) unmapped_as: Option<Written<Id<K, View>>>,
}

impl<K: Kind> Default for Rules<K> {
    fn default() -> Self {
        Self {
            map: Vec::new(),
            table: Vec::new(),
            present_as: None,
            store_as: None,
            unmapped_as: None,
        }
    }
}

impl<K: Kind> Rules<K> {
    /// Returns the extents, sorted by disk id.
    pub fn extents(&self) -> impl Iterator<Item = Extent<K>> {
        self.map.iter().map(|rule| rule.value)
    }

    /// Returns the table of single ids, sorted by disk id.
    pub fn entries(&self) -> impl Iterator<Item = Entry<K>> {
        self.table.iter().map(|rule| rule.value)
    }

    /// Returns the owner that all ids outside map and table are shown as.
    pub fn present_as(&self) -> Option<Id<K, View>> {
        self.present_as.as_ref().map(|rule| rule.value)
    }

    /// Returns the owner on disk of whatever callers create.
    pub fn store_as(&self) -> Option<Id<K, Disk>> {
        self.store_as.as_ref().map(|rule| rule.value)
    }

    /// Returns the alias that unmapped ids are shown under.
    pub fn unmapped_as(&self) -> Option<Id<K, View>> {
        self.unmapped_as.as_ref().map(|rule| rule.value)
    }

    /// Reports whether an id is shown as itself because no rule says else.
    pub fn shows_identity(&self) -> bool {
        self.map.is_empty() && self.table.is_empty() && self.present_as.is_none()
    }

    /// Makes the stages, without what depends on who runs the server.
    pub(super) fn stages(&self) -> Stages<K> {
        let identity = self.shows_identity().then_some(Extent::IDENTITY);
        let rest = match self.present_as() {
            Some(shown) => Rest::Collapse { shown, sink: self.store_as() },
            None => Rest::Unmapped { shown: self.unmapped_as() },
        };
        Stages::new(self.extents().chain(identity), self.entries(), rest, self.store_as())
    }

    /// Brings the rules into the one order in which they are compared.
    fn sort(&mut self) {
        self.map.sort_by_key(|rule| rule.value.disk());
        self.table.sort_by_key(|rule| rule.value.disk);
    }

    /// Checks what holds whoever runs the server.
    fn validate(&self) -> Result<(), PolicyError> {
        if let (Some(present), Some(unmapped)) = (&self.present_as, &self.unmapped_as) {
            let what = format!("nothing is left to be unmapped: present-as at {}", present.at);
            return Err(PolicyError::new(Code::Conflict, unmapped.at.clone(), what)
                .hint("leave out one of present-as and unmapped"));
        }
        if let Some(error) = self.overlap() {
            return Err(error);
        }
        match &self.store_as {
            Some(disk) if self.stages().present(Some(disk.value), &mut ()).is_none() => {
                let (word, id) = (K::WORD, disk.value);
                let what = format!("new files of disk {word} {id} would be shown as unmapped");
                Err(PolicyError::new(Code::Lost, disk.at.clone(), what)
                    .hint("map that id, or add `unmapped present-as=USER[:GROUP]`"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Finds two rules that claim the same id of either side.
    fn overlap(&self) -> Option<PolicyError> {
        self.overlap_on(Disk::WORD, |extent| extent.disk().raw())
            .or_else(|| self.overlap_on(View::WORD, |extent| extent.view().raw()))
    }

    fn overlap_on(&self, side: &str, first: fn(Extent<K>) -> u32) -> Option<PolicyError> {
        let singles = self.entries().map(|entry| Extent::single(entry.disk, entry.view));
        let mut claims: Vec<(u32, u32, usize)> = (self.extents().chain(singles).enumerate())
            .map(|(rule, extent)| (first(extent), extent.count(), rule))
            .collect();
        claims.sort_unstable();
        // Of ranges sorted by their start two neighbours overlap if any two do.
        let found = claims.windows(2).find_map(|pair| match pair {
            [a, b] if b.0.saturating_sub(a.0) < a.1 => Some((a.2.min(b.2), a.2.max(b.2), b.0)),
            _ => None,
        });
        let (earlier, later, id) = found?;
        let ((earlier, earlier_at), (later, at)) = self.rule(earlier).zip(self.rule(later))?;
        let what = format!(
            "`{later}` overlaps `{earlier}` ({earlier_at}): both have {side} {} {id}",
            K::WORD
        );
        let hint = "an id may be in one extent or entry of each side";
        Some(PolicyError::new(Code::Overlap, at.clone(), what).hint(hint))
    }

    /// Returns an extent, or after the extents an entry, as written.
    fn rule(&self, at: usize) -> Option<(String, &Origin)> {
        let entry = || self.table.get(at.checked_sub(self.map.len())?);
        match self.map.get(at) {
            Some(rule) => Some((rule.value.to_string(), &rule.at)),
            None => entry().map(|rule| (rule.value.to_string(), &rule.at)),
        }
    }
}

/// A policy as parsed: rules for users and for groups.
///
/// Equality is that of the rules, wherever and in whatever order they were
/// written: two equal policies decide alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub(super) users: Rules<User>,
    pub(super) groups: Rules<Group>,
    pub(super) rules: Vec<Written<Rule>>,
}

impl Spec {
    /// Returns the rules for users.
    pub const fn users(&self) -> &Rules<User> {
        &self.users
    }

    /// Returns the rules for groups.
    pub const fn groups(&self) -> &Rules<Group> {
        &self.groups
    }

    /// Returns the rules by path, name and attributes, in order.
    pub fn rules(&self) -> &[Written<Rule>] {
        &self.rules
    }

    /// Reports whether every id is shown and stored as itself, and no rule
    /// says anything.
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// Checks and sorts the rules: the last step of every parser.
    pub(super) fn finish(mut self) -> Result<Self, PolicyError> {
        self.users.validate()?;
        self.groups.validate()?;
        self.users.sort();
        self.groups.sort();
        Ok(self)
    }

    /// Sets the owner shown for the rest.
    pub(super) fn set_present(
        &mut self,
        at: &Origin,
        ids: SomeIds<View>,
    ) -> Result<(), PolicyError> {
        set(&mut self.users.present_as, at, ids.uid)?;
        set(&mut self.groups.present_as, at, ids.gid)
    }

    /// Sets the owner on disk of new files.
    pub(super) fn set_store(&mut self, at: &Origin, ids: SomeIds<Disk>) -> Result<(), PolicyError> {
        set(&mut self.users.store_as, at, ids.uid)?;
        set(&mut self.groups.store_as, at, ids.gid)
    }

    /// Sets the alias of unmapped ids.
    pub(super) fn set_unmapped(
        &mut self,
        at: &Origin,
        ids: SomeIds<View>,
    ) -> Result<(), PolicyError> {
        set(&mut self.users.unmapped_as, at, ids.uid)?;
        set(&mut self.groups.unmapped_as, at, ids.gid)
    }

    /// Describes the policy in one line, for logs and for comparing mounts.
    ///
    /// The words are those of the options; equal policies have equal lines.
    pub fn describe(&self) -> String {
        self.to_string()
    }
}

/// Fills a rule that can be given once.
fn set<T>(slot: &mut Option<Written<T>>, at: &Origin, value: Option<T>) -> Result<(), PolicyError> {
    let Some(value) = value else { return Ok(()) };
    if let Some(earlier) = slot {
        let what = format!("said before by {}", earlier.at);
        return Err(PolicyError::new(Code::Conflict, at.clone(), what).hint("leave one out"));
    }
    *slot = Some(Written { value, at: at.clone() });
    Ok(())
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_identity() {
            return f.write_str("identity");
        }
        let mut words = Vec::new();
        let texts = |u: Vec<String>, g: Vec<String>| {
            // What both kinds have in common is written once.
            let same =
                u.len() == g.len() && u.iter().zip(&g).all(|(u, g)| u.get(1..) == g.get(1..));
            if same {
                u.iter().filter_map(|text| text.get(2..)).map(str::to_owned).collect()
            } else {
                [u, g].concat()
            }
        };
        let (u, g) = (&self.users, &self.groups);
        let map: Vec<String> = texts(
            u.extents().map(|e| e.to_string()).collect(),
            g.extents().map(|e| e.to_string()).collect(),
        );
        words.extend(map.into_iter().map(|text| format!("map={text}")));
        let table: Vec<String> = texts(
            u.entries().map(|e| e.to_string()).collect(),
            g.entries().map(|e| e.to_string()).collect(),
        );
        words.extend(table.into_iter().map(|text| format!("table={text}")));
        words.extend(owner_word("present-as=", u.present_as(), g.present_as()));
        words.extend(owner_word("store-as=", u.store_as(), g.store_as()));
        words.extend(owner_word("unmapped=present-as=", u.unmapped_as(), g.unmapped_as()));
        words.extend(self.rules.iter().map(|rule| rule.value.to_string()));
        f.write_str(&words.join(","))
    }
}

fn owner_word(
    word: &str,
    uid: Option<impl fmt::Display>,
    gid: Option<impl fmt::Display>,
) -> Option<String> {
    match (uid, gid) {
        (Some(uid), Some(gid)) => Some(format!("{word}{uid}:{gid}")),
        (Some(uid), None) => Some(format!("{word}u:{uid}")),
        (None, Some(gid)) => Some(format!("{word}g:{gid}")),
        (None, None) => None,
    }
}
