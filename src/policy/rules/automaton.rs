//! The automaton that is fed with the names of a path, one after the other.
//!
//! A position in a pattern that stands at `**` waits in every place below. So
//! such positions are kept in [`Layer`]s, which all places below share; all
//! other positions wait for one name only. What waits everywhere, from the
//! root on, is in the automaton itself: in no layer.

use std::sync::Arc;

use super::decision::{Decision, prune};
use super::index::{Position, Waiting};
use super::intern::{Interned, Interner, next_number};
use super::pattern::{BY_NAME, BY_PATH, Hiding, Hit, Pattern};
use super::place::{Layer, Place, layers};
use super::rule::{Compiled, Rule};
use super::state::{At, State};
use super::verdict::Hide;
use crate::policy::error::Written;

/// So many layers are merged into one: a search looks at each.
const DEEPEST: u8 = 16;

/// The compiled rules.
#[derive(Debug)]
pub(super) struct Automaton {
    pub(super) epoch: u64,
    pub(super) rules: Box<[Compiled]>,
    patterns: Box<[Pattern]>,
    /// The positions that wait everywhere.
    waiting: Waiting,
    /// The conditions that hold everywhere.
    hits: Box<[Hit]>,
    /// What is said of every file.
    pub(super) plain: Arc<Interned<Decision>>,
    settled: [Option<Arc<Interned<Decision>>>; 2],
    /// Which children of every directory may be hidden.
    pub(super) hides: Hiding,
    /// Whether any rule hides anything.
    pub(super) hides_some: bool,
    /// Whether any rule may show set-id bits as not set.
    pub(super) masks_set_id: bool,
    decisions: Arc<Interner<Decision>>,
    layers: Arc<Interner<Layer>>,
    pub(super) places: Arc<Interner<Place>>,
}

/// What the positions that were reached mean.
#[derive(Default)]
struct Reached {
    hits: Vec<Hit>,
    /// A pattern that has matched.
    matched: Option<u32>,
    /// Positions for one name.
    next: Vec<Position>,
    /// Positions for all names below.
    kept: Vec<Position>,
    ended: Vec<u32>,
}

impl Automaton {
    /// Compiles rules, at most 65536 of them, and returns the root's state.
    pub(super) fn new(rules: &[Written<Rule>]) -> (Self, State) {
        let epoch = next_number();
        let rules: Box<[Compiled]> = rules.iter().map(|rule| Compiled::new(&rule.value)).collect();
        let patterns: Box<[Pattern]> =
            (0..=u16::MAX).zip(&rules).flat_map(|(at, rule)| Pattern::of(at, &rule.rule)).collect();
        let mut hits: Vec<Hit> = (0..=u16::MAX)
            .zip(&rules)
            .filter(|(_, rule)| !rule.rule.looks_at_path())
            .map(|(rule, _)| Hit { rule, condition: 0, directories: false })
            .collect();
        let (mut waiting, mut next) = (Vec::new(), Vec::new());
        for (pattern, number) in patterns.iter().zip(0_u32..) {
            let at = Position { pattern: number, part: 0 };
            match pattern.parts.first() {
                None => hits.push(pattern.hit),
                Some(part) if part.gap => waiting.push(at),
                Some(_) => next.push(at),
            }
        }
        hits.sort_unstable();
        let hides = hits_hide(&rules, &hits).max(positions_hide(&patterns, &waiting));
        let decisions = Interner::new(epoch);
        let plain = decide(&rules, &hits, &[], false, false);
        let mut automaton = Self {
            epoch,
            plain: intern(&decisions, &rules, &plain, false),
            hides_some: rules.iter().any(|rule| rule.rule.hides()),
            masks_set_id: rules.iter().any(|rule| rule.rule.masks_set_id()),
            rules,
            patterns,
            waiting: Waiting::new(waiting),
            hits: hits.into(),
            settled: [None, None],
            hides,
            decisions,
            layers: Interner::new(epoch),
            places: Interner::new(epoch),
        };
        automaton.settled = automaton.settle(&automaton.hits);
        let root = automaton.root(next);
        (automaton, root)
    }

    /// Returns the state of the root, which nothing hides.
    fn root(&self, next: Vec<Position>) -> State {
        let mut decision = self.settled(None, true);
        if decision.as_ref().unwrap_or(&self.plain).hide != Hide::No {
            let rules = decide(&self.rules, &self.hits, &[], true, true);
            decision = Some(intern(&self.decisions, &self.rules, &rules, true));
        }
        self.place(decision, None, next)
    }

    /// Returns the state of a name in a directory.
    pub(super) fn step(&self, dir: &State, name: &[u8], directory: bool) -> State {
        let (decision, layer, waiting) = match &dir.0 {
            At::Plain(epoch) if *epoch == self.epoch => (None, None, None),
            At::Decided(decision) if decision.epoch() == self.epoch => (Some(decision), None, None),
            At::Placed(place) if place.epoch() == self.epoch => {
                (place.decision.as_ref(), place.layer.as_ref(), Some(&place.waiting))
            }
            // What does not know its place stays what it is: hidden.
            At::Plain(_) | At::Decided(_) | At::Placed(_) => return dir.clone(),
        };
        if decision.unwrap_or(&self.plain).hide == Hide::Always {
            return dir.clone();
        }
        let mut positions = Vec::new();
        self.waiting.advance(&self.patterns, name, &mut positions);
        for layer in layers(layer) {
            layer.waiting.advance(&self.patterns, name, &mut positions);
        }
        if let Some(waiting) = waiting {
            waiting.advance(&self.patterns, name, &mut positions);
        }
        let reached = self.reached(layer, positions, directory);
        let decision = self.decision(layer, &reached, directory);
        let hidden = decision.as_ref().unwrap_or(&self.plain).hide == Hide::Always;
        if !directory || hidden {
            return self.flat(decision);
        }
        let layer = if reached.kept.is_empty() && reached.ended.is_empty() {
            layer.cloned()
        } else {
            Some(self.layer(layer, reached.kept, reached.ended))
        };
        self.place(decision, layer, reached.next)
    }

    /// Sorts out what the positions mean that a name has reached.
    fn reached(
        &self,
        layer: Option<&Arc<Interned<Layer>>>,
        mut positions: Vec<Position>,
        directory: bool,
    ) -> Reached {
        positions.sort_unstable();
        let mut reached = Reached::default();
        for at in positions {
            let Some(pattern) = self.patterns.get(at.pattern as usize) else { continue };
            let part = pattern.parts.get(usize::from(at.part));
            if part.is_none() && (directory || !pattern.hit.directories) {
                reached.hits.push(pattern.hit);
                reached.matched = Some(at.pattern);
            }
            // Whatever is still to come of a position is to come of a later
            // one at `**` as well.
            if !directory || layers(layer).any(|layer| layer.covers(at)) {
                continue;
            }
            match part {
                Some(part) if part.gap => reached.kept.push(at),
                Some(_) => reached.next.push(at),
                None if pattern.tail => reached.ended.push(at.pattern),
                None => {}
            }
        }
        reached.hits.sort_unstable();
        reached.hits.dedup();
        reached
    }

    /// Returns what is said of a name; `None`: what is said of every file.
    fn decision(
        &self,
        layer: Option<&Arc<Interned<Layer>>>,
        reached: &Reached,
        directory: bool,
    ) -> Option<Arc<Interned<Decision>>> {
        if reached.hits.is_empty() {
            return self.settled(layer, directory);
        }
        let below = layer.map_or(&*self.hits, |layer| &*layer.hits);
        let decide = || self.decided(below, &reached.hits, directory);
        let alone = reached.hits.len() == 1 && below.len() == self.hits.len();
        let pattern = reached.matched.filter(|_| alone);
        match pattern.and_then(|pattern| self.patterns.get(pattern as usize)) {
            Some(Pattern { alone: [file, dir], .. }) => {
                let kept = if directory { dir } else { file };
                kept.get_or_init(decide).clone()
            }
            None => decide(),
        }
    }

    /// Returns what is said where no pattern matches but those that have
    /// matched above.
    fn settled(
        &self,
        layer: Option<&Arc<Interned<Layer>>>,
        directory: bool,
    ) -> Option<Arc<Interned<Decision>>> {
        let [file, dir] = layer.map_or(&self.settled, |layer| &layer.settled);
        if directory { dir.clone() } else { file.clone() }
    }

    /// Returns what is said where these conditions hold; `None`: nothing but
    /// what is said of every file.
    fn decided(
        &self,
        below: &[Hit],
        new: &[Hit],
        directory: bool,
    ) -> Option<Arc<Interned<Decision>>> {
        let rules = decide(&self.rules, below, new, directory, false);
        let plain = *rules == *self.plain.rules;
        (!plain).then(|| intern(&self.decisions, &self.rules, &rules, false))
    }

    fn settle(&self, hits: &[Hit]) -> [Option<Arc<Interned<Decision>>>; 2] {
        [false, true].map(|directory| self.decided(hits, &[], directory))
    }

    /// Returns the layer with these positions and ends below another.
    fn layer(
        &self,
        above: Option<&Arc<Interned<Layer>>>,
        mut kept: Vec<Position>,
        mut ended: Vec<u32>,
    ) -> Arc<Interned<Layer>> {
        let mut above = above.cloned();
        if above.as_ref().is_some_and(|above| above.depth >= DEEPEST) {
            for layer in layers(above.as_ref()) {
                kept.extend(layer.waiting.positions());
                ended.extend(&layer.ended);
            }
            kept.sort_unstable();
            ended.sort_unstable();
            above = None;
        }
        let id = above.as_ref().map(|above| above.id);
        let same = |layer: &Layer| {
            layer.above.as_ref().map(|above| above.id) == id
                && *layer.waiting.positions() == *kept
                && *layer.ended == *ended
        };
        self.layers.get(&(id, &kept, &ended), same, || {
            let below = above.as_ref().map_or(&*self.hits, |above| &*above.hits);
            let ends = ended.iter().filter_map(|at| self.patterns.get(*at as usize));
            let mut hits: Vec<Hit> =
                below.iter().copied().chain(ends.map(|pattern| pattern.hit)).collect();
            hits.sort_unstable();
            hits.dedup();
            Layer {
                settled: self.settle(&hits),
                depth: above.as_ref().map_or(0, |above| above.depth.saturating_add(1)),
                hides: positions_hide(&self.patterns, &kept).max(hits_hide(&self.rules, &hits)),
                above: above.clone(),
                waiting: Waiting::new(kept.clone()),
                ended: ended.clone().into(),
                hits: hits.into(),
            }
        })
    }

    /// Returns the state of a directory.
    fn place(
        &self,
        decision: Option<Arc<Interned<Decision>>>,
        layer: Option<Arc<Interned<Layer>>>,
        next: Vec<Position>,
    ) -> State {
        if layer.is_none() && next.is_empty() {
            return self.flat(decision);
        }
        let told = |decision: &Option<Arc<Interned<Decision>>>, layer: &Option<Arc<_>>| {
            (decision.as_ref().map(|d| d.id), layer.as_ref().map(|l: &Arc<Interned<Layer>>| l.id))
        };
        let ids = told(&decision, &layer);
        let same = |place: &Place| {
            told(&place.decision, &place.layer) == ids && *place.waiting.positions() == *next
        };
        let place = self.places.get(&(ids, &next), same, || Place {
            hides: layers(layer.as_ref())
                .map(|layer| layer.hides)
                .fold(self.hides.max(positions_hide(&self.patterns, &next)), Hiding::max),
            decision: decision.clone(),
            layer: layer.clone(),
            waiting: Waiting::new(next.clone()),
        });
        State(At::Placed(place))
    }

    /// Returns how many decisions, layers and places are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> [usize; 3] {
        [self.decisions.len(), self.layers.len(), self.places.len()]
    }

    fn flat(&self, decision: Option<Arc<Interned<Decision>>>) -> State {
        State(decision.map_or(At::Plain(self.epoch), At::Decided))
    }
}

/// Returns which children may be hidden where these conditions hold.
fn hits_hide(rules: &[Compiled], hits: &[Hit]) -> Hiding {
    let rules = hits.iter().filter_map(|hit| rules.get(usize::from(hit.rule)));
    rules.map(|rule| Hiding::of(&rule.rule)).fold(Hiding::Nothing, Hiding::max)
}

/// Returns what the next name may hide.
fn positions_hide(patterns: &[Pattern], positions: &[Position]) -> Hiding {
    let last = |at: &Position| {
        let pattern = patterns.get(at.pattern as usize)?;
        let last = usize::from(at.part).saturating_add(1) == pattern.parts.len();
        last.then_some(pattern.hides)
    };
    positions.iter().filter_map(last).fold(Hiding::Nothing, Hiding::max)
}

/// Returns the rules that can decide something where these conditions hold,
/// those of both sorted lists together.
fn decide(
    rules: &[Compiled],
    below: &[Hit],
    new: &[Hit],
    directory: bool,
    shown: bool,
) -> Vec<u16> {
    let mut found: Vec<u16> = Vec::new();
    let (mut below, mut new) = (below.iter().peekable(), new.iter().peekable());
    // The rule that is being looked at, and which of its conditions hold.
    let (mut current, mut holding) = (None, 0);
    loop {
        let hit = match (below.peek(), new.peek()) {
            (Some(a), Some(b)) if a > b => new.next(),
            (Some(_), _) => below.next(),
            (None, _) => new.next(),
        };
        let Some(hit) = hit else { break };
        if hit.directories && !directory {
            continue;
        }
        if current != Some(hit.rule) {
            (current, holding) = (Some(hit.rule), 0);
        }
        holding |= hit.condition;
        let Some(rule) = rules.get(usize::from(hit.rule)).map(|rule| &rule.rule) else { continue };
        let path = rule.paths.is_empty() || holding & BY_PATH != 0;
        let name = rule.names.is_empty() || holding & BY_NAME != 0;
        if path && name && found.last() != Some(&hit.rule) {
            found.push(hit.rule);
        }
    }
    prune(rules, &mut found, shown);
    found
}

/// Returns the decision of these rules.
fn intern(
    decisions: &Arc<Interner<Decision>>,
    all: &[Compiled],
    rules: &[u16],
    shown: bool,
) -> Arc<Interned<Decision>> {
    let same = |decision: &Decision| *decision.rules == *rules && decision.shown == shown;
    decisions.get(&(rules, shown), same, || Decision::new(all, rules, shown))
}
