//! Which of many rules a file meets by its owner, kind and mode, without trying
//! each.

use std::collections::HashMap;

use super::rule::{Compiled, Effect, Kinds, Range, Subject};
use super::verdict::By;
use crate::attr::Mode;
use crate::id::{Disk, Group, Id, Kind, User};
use crate::policy::mode::ModeTest;

/// The rules of a place, by what they ask of a file.
#[derive(Debug)]
pub(super) struct ByFile {
    /// Those that ask for a user.
    users: Ranges<User>,
    /// Of the others, those that ask for a group.
    groups: Ranges<Group>,
    /// The rest, by the modes that they ask for, and what they decide.
    modes: Modes,
    others: Box<[Alike]>,
}

/// How many tests of modes are made at once.
const AT_ONCE: usize = 32;

/// Many tests of modes in columns, so that the processor makes several with one
/// instruction.
#[derive(Debug, Default)]
struct Modes(Vec<Columns>);

/// Tests of modes: the bits that count, what they are to be, and all ones where
/// they are to be something else.
#[derive(Debug)]
struct Columns {
    masks: [u16; AT_ONCE],
    values: [u16; AT_ONCE],
    differ: [u16; AT_ONCE],
}

/// Rules that ask for the same kinds and mode and for nothing else.
#[derive(Debug)]
struct Alike {
    kinds: Kinds,
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
        let (mut modes, mut others): (Modes, Vec<Alike>) = (Modes::default(), Vec::new());
        let mut places: HashMap<(Kinds, Option<ModeTest>), usize> = HashMap::new();
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
            let place = *places.entry((rule.kinds, rule.mode)).or_insert(others.len());
            if place == others.len() {
                modes.add(place, rule.mode);
                others.push(Alike { kinds: rule.kinds, rules: Vec::new(), open });
            }
            if let Some(alike) = others.get_mut(place) {
                alike.add(*at, *mentions);
            }
        }
        let (users, groups) = (Ranges::new(users), Ranges::new(groups));
        Self { users, groups, modes, others: others.into() }
    }

    /// Returns which rules decide about a file: of those that it meets the
    /// first one that mentions an effect.
    pub(super) fn decide(&self, all: &[Compiled], subject: &Subject, open: Effect) -> By {
        let mut by = By::default();
        self.modes.passed(subject.mode, |at| {
            let alike = self.others.get(at).filter(|alike| alike.kinds.holds(subject.kind));
            let rules = alike.map_or(&[][..], |alike| &alike.rules);
            rules.iter().for_each(|(rule, effects)| by.set(*effects, *rule));
        });
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

impl Modes {
    /// Adds the next test, at this place.
    fn add(&mut self, place: usize, test: Option<ModeTest>) {
        let (mask, value, differ) = match test {
            None => (0, 0, 0),
            Some(ModeTest::Any(bits)) => (bits, 0, u16::MAX),
            Some(ModeTest::All(bits)) => (bits, bits, 0),
            Some(ModeTest::Exactly(bits)) => (u16::MAX, bits, 0),
        };
        if place.is_multiple_of(AT_ONCE) {
            // What is not filled passes for no mode.
            let (masks, values) = ([0; AT_ONCE], [0; AT_ONCE]);
            self.0.push(Columns { masks, values, differ: [u16::MAX; AT_ONCE] });
        }
        let Some(columns) = self.0.last_mut() else { return };
        let at = place % AT_ONCE;
        for (column, number) in [
            (&mut columns.masks, mask),
            (&mut columns.values, value),
            (&mut columns.differ, differ),
        ] {
            if let Some(slot) = column.get_mut(at) {
                *slot = number;
            }
        }
    }

    /// Calls with the place of each test that a mode passes, in order.
    fn passed(&self, mode: Mode, mut found: impl FnMut(usize)) {
        for (columns, first) in self.0.iter().zip((0..).step_by(AT_ONCE)) {
            let passes = columns.pass(mode.bits());
            if passes.iter().fold(0, |any, pass| any | pass) != 0 {
                let passed = passes.iter().zip(first..).filter(|(pass, _)| **pass != 0);
                passed.for_each(|(_, place)| found(place));
            }
        }
    }
}

impl Columns {
    /// Returns what is not 0 for each test that these bits pass.
    fn pass(&self, bits: u16) -> [u16; AT_ONCE] {
        let mut passes = self.differ;
        for ((pass, mask), value) in passes.iter_mut().zip(&self.masks).zip(&self.values) {
            let same = if bits & mask == *value { u16::MAX } else { 0 };
            *pass ^= same;
        }
        passes
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
