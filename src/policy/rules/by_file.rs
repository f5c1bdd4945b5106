//! Which of many rules a file meets by its owner, kind and mode, without trying
//! each.

use std::collections::HashMap;

use super::automaton::Compiled;
use super::decision::By;
use super::rule::{Effect, Kinds, Range, Rule, Subject};
use crate::id::{Disk, Group, Id, Kind, User};
use crate::policy::mode::ModeTest;

/// The rules of a place, by what they ask of a file.
#[derive(Debug)]
pub(super) struct ByFile {
    /// Those that ask for a user.
    users: Ranges<User>,
    /// Of the others, those that ask for a group.
    groups: Ranges<Group>,
    /// The rest, by what they ask for, and what they decide.
    asked: Box<[Asked]>,
    others: Box<[Alike]>,
}

/// What a rule asks for besides an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    kinds: Kinds,
    /// Whether the bits of the mask are not to have the value.
    differ: bool,
    mask: u16,
    value: u16,
}

/// Rules that ask for the same kinds and mode and for nothing else.
#[derive(Debug)]
struct Alike {
    /// Those that decide something if a file meets them, with what they decide.
    rules: Vec<(u16, Effect)>,
    /// What none of them decides.
    open: Effect,
}

/// Ranges of ids, each with a rule that asks for it.
#[derive(Debug)]
struct Ranges<K: Kind>(Box<[Ranged<K>]>);

/// One range.
#[derive(Debug)]
struct Ranged<K: Kind> {
    range: Range<K>,
    /// The largest id in this range and all that are sorted before.
    reach: Id<K, Disk>,
    rule: u16,
}

impl ByFile {
    /// Takes the rules of a place, sorted, and the effects that are to be decided.
    pub(super) fn new(all: &[Compiled], rules: &[u16], open: Effect) -> Self {
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        let (mut asked, mut others): (Vec<Asked>, Vec<Alike>) = (Vec::new(), Vec::new());
        let mut places: HashMap<Asked, usize> = HashMap::new();
        for at in rules {
            let Some(Compiled { rule, mentions, .. }) = all.get(usize::from(*at)) else { continue };
            if !rule.users.is_empty() {
                users.extend(rule.users.iter().map(|range| (*range, *at)));
                continue;
            }
            if !rule.groups.is_empty() {
                groups.extend(rule.groups.iter().map(|range| (*range, *at)));
                continue;
            }
            let asks = Asked::of(rule);
            let place = *places.entry(asks).or_insert(others.len());
            if place == others.len() {
                asked.push(asks);
                others.push(Alike { rules: Vec::new(), open });
            }
            if let Some(alike) = others.get_mut(place) {
                alike.add(*at, *mentions);
            }
        }
        let (users, groups) = (Ranges::new(users), Ranges::new(groups));
        Self { users, groups, asked: asked.into(), others: others.into() }
    }

    /// Returns which rules decide about a file: of those that it meets the
    /// first one that mentions an effect.
    pub(super) fn decide(&self, all: &[Compiled], subject: &Subject, open: Effect) -> By {
        let mut by = By::default();
        let pairs = self.asked.iter().zip(&self.others);
        for (_, alike) in pairs.filter(|(asked, _)| asked.passes(subject)) {
            alike.rules.iter().for_each(|(rule, effects)| by.set(*effects, *rule));
        }
        let mut meets = |at: u16| {
            let rule = all.get(usize::from(at)).filter(|rule| rule.rule.meets(subject));
            if let Some(rule) = rule {
                by.set(rule.mentions.and(open), at);
            }
        };
        self.users.find(subject.owner.uid, &mut meets);
        self.groups.find(subject.owner.gid, &mut meets);
        by
    }
}

impl Asked {
    fn of(rule: &Rule) -> Self {
        let (mask, value, differ) = match rule.mode {
            None => (0, 0, false),
            Some(ModeTest::Any(bits)) => (bits, 0, true),
            Some(ModeTest::All(bits)) => (bits, bits, false),
            Some(ModeTest::Exactly(bits)) => (u16::MAX, bits, false),
        };
        Self { kinds: rule.kinds, differ, mask, value }
    }

    fn passes(&self, subject: &Subject) -> bool {
        let same = subject.mode.bits() & self.mask == self.value;
        (same != self.differ) & self.kinds.holds(subject.kind)
    }
}

impl Alike {
    /// Adds a rule, which comes after all that were added.
    fn add(&mut self, rule: u16, mentions: Effect) {
        let decides = mentions.and(self.open);
        if !decides.is_none() {
            self.rules.push((rule, decides));
            self.open = self.open.without(decides);
        }
    }
}

impl<K: Kind> Ranges<K> {
    fn new(mut ranges: Vec<(Range<K>, u16)>) -> Self {
        ranges.sort_unstable_by_key(|(range, rule)| (range.first, *rule));
        let mut reach = None;
        let ranges = ranges.into_iter().map(|(range, rule)| {
            let furthest = reach.map_or(range.last, |reach| range.last.max(reach));
            reach = Some(furthest);
            Ranged { range, reach: furthest, rule }
        });
        Self(ranges.collect())
    }

    /// Calls with every rule that asks for a range with this id.
    fn find(&self, id: Option<Id<K, Disk>>, found: &mut impl FnMut(u16)) {
        let Some(id) = id else { return };
        let begun = self.0.partition_point(|ranged| ranged.range.first <= id);
        // Whatever is sorted before one that nothing reaches beyond ends there.
        let near = self.0.get(..begun).unwrap_or_default().iter().rev();
        for ranged in near.take_while(|ranged| ranged.reach >= id) {
            if ranged.range.last >= id {
                found(ranged.rule);
            }
        }
    }
}
