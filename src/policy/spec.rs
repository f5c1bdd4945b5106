//! The parsed form of a policy: plain data that options and files both build.

use std::fmt;

use super::callers::Callers;
use super::changes::Changes;
use super::entry::Entry;
use super::error::{Code, Origin, PolicyError, Written, quote, set};
use super::names::{ByName, Names, Paired};
use super::parts::{Fallen, Pairs, Word, cascade};
use super::rules::Rule;
use super::stages::{Rest, Stages};
use super::text::{self, Scope, SomeIds};
use crate::id::{Disk, Extent, Group, Id, Kind, Side, User, View};
use crate::text::escape;

/// The rules for one kind of ids; none at all is the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules<K: Kind> {
    pub(super) map: Vec<Written<Extent<K>>>,
    pub(super) table: Vec<Written<Entry<K>>>,
    pub(super) names: Option<Paired<K>>,
    pub(super) prefix: Option<Paired<K>>,
    /// The order in which these are asked.
    pub(super) order: [Word; 4],
    pub(super) present_as: Option<Written<Id<K, View>>>,
    pub(super) store_as: Option<Written<Id<K, Disk>>>,
    pub(super) unmapped_as: Option<Written<Id<K, View>>>,
}

impl<K: Kind> Default for Rules<K> {
    fn default() -> Self {
        Self {
            map: Vec::new(),
            table: Vec::new(),
            names: None,
            prefix: None,
            order: Word::ORDER,
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

    /// Returns the pairs of ids that names made, those of a prefix last; an
    /// earlier stage may have their ids.
    pub fn named(&self) -> impl Iterator<Item = Entry<K>> {
        let stages = self.names.iter().chain(&self.prefix);
        stages.flat_map(|stage| stage.pairs.iter().map(|pair| pair.entry))
    }

    /// Returns the owner that all ids are shown as that no stage has.
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
        !self.has_parts() && self.present_as.is_none()
    }

    /// Reports whether there is a map, a table, or a stage by name.
    pub(super) fn has_parts(&self) -> bool {
        let ranges = !self.map.is_empty() || !self.table.is_empty();
        ranges || self.names.is_some() || self.prefix.is_some()
    }

    /// Returns what is translated one to one, in the order of the stages.
    pub(super) fn parts(&self) -> Vec<(Word, Pairs<K>)> {
        if self.shows_identity() {
            return vec![(Word::Map, Pairs::Extents(vec![Extent::IDENTITY]))];
        }
        let of = |stage: &Option<Paired<K>>| {
            let stage = stage.as_ref()?;
            Some(Pairs::Entries(stage.pairs.iter().map(|pair| pair.entry).collect()))
        };
        let part = |word: Word| {
            let pairs = match word {
                Word::Map if self.map.is_empty() => None,
                Word::Map => Some(Pairs::Extents(self.extents().collect())),
                Word::Table if self.table.is_empty() => None,
                Word::Table => Some(Pairs::Entries(self.entries().collect())),
                Word::Names => of(&self.names),
                Word::Prefix => of(&self.prefix),
            };
            pairs.map(|pairs| (word, pairs))
        };
        self.order.into_iter().filter_map(part).collect()
    }

    /// Returns the pairs that fall away, stage by stage.
    pub(super) fn fallen(&self) -> Vec<Fallen<K>> {
        cascade(self.parts()).1
    }

    /// Makes the stages, without what depends on who runs the server.
    pub(super) fn stages(&self) -> Stages<K> {
        let rest = match self.present_as() {
            Some(shown) => Rest::Collapse { shown, sink: self.store_as() },
            None => Rest::Unmapped { shown: self.unmapped_as() },
        };
        Stages::new(self.parts(), rest, self.store_as())
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
        // Who has not seen a list cannot say that an id is not in it.
        let partial = self.names.iter().chain(&self.prefix).any(Paired::is_partial);
        match &self.store_as {
            Some(disk)
                if !partial && self.stages().present(Some(disk.value), &mut ()).is_none() =>
            {
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

/// A policy as parsed: ids, files, changes and callers.
///
/// Equality is that of what was written, wherever it was, and of extents and
/// entries in whatever order: two equal policies decide alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub(super) users: Rules<User>,
    pub(super) groups: Rules<Group>,
    pub(super) rules: Vec<Written<Rule>>,
    /// The stages by name as written; their pairs are in the rules.
    pub(super) names: Option<ByName>,
    pub(super) prefix: Option<ByName>,
    pub(super) changes: Changes,
    pub(super) callers: Callers,
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

    /// Returns what callers may change.
    pub const fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Returns what depends on the caller.
    pub const fn callers(&self) -> &Callers {
        &self.callers
    }

    /// Reports whether every id is shown and stored as itself, and neither a
    /// rule nor a change says anything.
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// Checks and sorts the rules: the last step of every parser.
    pub(super) fn finish(mut self) -> Result<Self, PolicyError> {
        self.set_order(self.users.order);
        self.users.validate()?;
        self.groups.validate()?;
        self.callers.finish()?;
        self.users.sort();
        self.groups.sort();
        self.changes.finish();
        Ok(self)
    }

    /// Sets the order in which the stages are asked.
    ///
    /// Stages that are not there come last, and a map before a table that it
    /// stands beside: neither can make a difference.
    pub(super) fn set_order(&mut self, mut order: [Word; 4]) {
        let there = |word: &Word| match word {
            Word::Map => !(self.users.map.is_empty() && self.groups.map.is_empty()),
            Word::Table => !(self.users.table.is_empty() && self.groups.table.is_empty()),
            Word::Names => self.names.is_some(),
            Word::Prefix => self.prefix.is_some(),
        };
        order.sort_by_key(|word| if there(word) { None } else { Some(*word) });
        for at in 1..order.len() {
            if order.get(at.saturating_sub(1)..=at) == Some(&[Word::Table, Word::Map]) {
                order.swap(at.saturating_sub(1), at);
            }
        }
        self.users.order = order;
        self.groups.order = order;
    }

    /// Reads `[u:|g:]disk:view:count` and adds it to the maps.
    pub(super) fn add_extent(&mut self, at: &Origin, text: &str) -> Result<(), PolicyError> {
        let (scope, rest) = Scope::split(text);
        if scope.users() {
            let value = text::extent(at, text, rest)?;
            self.users.map.push(Written { value, at: at.clone() });
        }
        if scope.groups() {
            let value = text::extent(at, text, rest)?;
            self.groups.map.push(Written { value, at: at.clone() });
        }
        Ok(())
    }

    /// Reads `[u:|g:]disk:view`, each a number or (after a prefix) a name, and
    /// adds it to the tables.
    pub(super) fn add_entry(
        &mut self,
        at: &Origin,
        text: &str,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        let (scope, rest) = Scope::split(text);
        let bad = |what: &str| {
            PolicyError::new(
                Code::Value,
                at.clone(),
                format!("table entry {}: {what}", quote(text)),
            )
            .hint("an entry is [u:|g:]disk:view, such as u:1000:33")
        };
        let Some((disk, view)) = rest.split_once(':').filter(|(_, view)| !view.contains(':'))
        else {
            return Err(bad("not disk:view"));
        };
        if scope == Scope::Both && !(text::is_number(disk) && text::is_number(view)) {
            return Err(bad("a name needs u: or g: before the entry, to say what it names"));
        }
        if scope.users() {
            let value = Entry {
                disk: text::user(at, disk, names)?.uid,
                view: text::user(at, view, names)?.uid,
            };
            self.users.table.push(Written { value, at: at.clone() });
        }
        if scope.groups() {
            let value =
                Entry { disk: text::group(at, disk, names)?, view: text::group(at, view, names)? };
            self.groups.table.push(Written { value, at: at.clone() });
        }
        Ok(())
    }

    /// Sets a stage by name, and finds its pairs.
    pub(super) fn set_by_name(
        &mut self,
        at: &Origin,
        stage: ByName,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        let (users, groups) = (stage.resolve(at, names)?, stage.resolve(at, names)?);
        match stage {
            ByName::Names { .. } => {
                (self.users.names, self.groups.names, self.names) = (users, groups, Some(stage));
            }
            ByName::Prefix { .. } => {
                (self.users.prefix, self.groups.prefix, self.prefix) = (users, groups, Some(stage));
            }
        }
        Ok(())
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
        for word in u.order {
            let rules = match word {
                Word::Map => texts(
                    u.extents().map(|e| e.to_string()).collect(),
                    g.extents().map(|e| e.to_string()).collect(),
                ),
                Word::Table => texts(
                    u.entries().map(|e| e.to_string()).collect(),
                    g.entries().map(|e| e.to_string()).collect(),
                ),
                Word::Names => self.names.iter().flat_map(ByName::words).collect(),
                Word::Prefix => self.prefix.iter().flat_map(ByName::words).collect(),
            };
            words.extend(rules.into_iter().map(|text| format!("{}={text}", word.as_str())));
        }
        words.extend(owner_word("present-as=", u.present_as(), g.present_as()));
        words.extend(owner_word("store-as=", u.store_as(), g.store_as()));
        words.extend(owner_word("unmapped=present-as=", u.unmapped_as(), g.unmapped_as()));
        if !self.rules.is_empty() {
            let texts = self.rules.iter().map(|rule| rule.value.to_string());
            let texts: Vec<String> = texts.collect();
            words.push(format!("rules={}:{:016x}", texts.len(), digest(&texts.join(","))));
        }
        let changes = self.changes.words().into_iter();
        words.extend(changes.map(|(word, value, _)| format!("{word}={value}")));
        words.extend((!self.callers.is_empty()).then(|| self.callers.to_string()));
        // A prefix, a file's name and an expression are as they were written.
        f.write_str(&escape(&words.join(",")))
    }
}

/// Returns a number that tells texts apart: FNV-1a.
///
/// Everybody may read the line that it is for, and rules name what is hidden.
pub(super) fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
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
