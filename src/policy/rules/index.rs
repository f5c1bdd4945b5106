//! Which of many patterns match a name, without trying each.

use std::sync::OnceLock;

use super::pattern::Pattern;
use crate::attr::NAME_MAX;
use crate::policy::glob::{Glob, Shape};

/// Up to this many patterns are tried one by one.
const FEW: usize = 8;

/// A position in a pattern: the names before it have matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    /// Which pattern.
    pub(super) pattern: u32,
    /// How many of its names have matched.
    pub(super) part: u16,
}

/// Positions that wait for a name.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    positions: Box<[Position]>,
    /// Made when the first name comes: most directories are never searched.
    index: OnceLock<Box<Index>>,
}

impl Waiting {
    /// Takes sorted positions, none of them at the end of its pattern.
    pub(super) fn new(positions: Vec<Position>) -> Self {
        Self { positions: positions.into(), index: OnceLock::new() }
    }

    pub(super) fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Adds the positions that are reached with this name.
    pub(super) fn advance(&self, patterns: &[Pattern], name: &[u8], reached: &mut Vec<Position>) {
        let mut reach = |position: Position| {
            let part = position.part.saturating_add(1);
            reached.push(Position { part, ..position });
        };
        if self.positions.len() <= FEW {
            let matching = |at: &&Position| glob(patterns, **at).is_some_and(|g| g.matches(name));
            self.positions.iter().filter(matching).copied().for_each(reach);
            return;
        }
        let index = self.index.get_or_init(|| Box::new(Index::new(patterns, &self.positions)));
        index.find(name, |candidate| {
            let Some(at) = self.positions.get(candidate as usize) else { return };
            if glob(patterns, *at).is_some_and(|glob| glob.matches(name)) {
                reach(*at);
            }
        });
    }
}

/// Returns the pattern of the name that a position waits for.
fn glob(patterns: &[Pattern], at: Position) -> Option<&Glob> {
    let part = patterns.get(at.pattern as usize)?.parts.get(usize::from(at.part))?;
    Some(&part.glob)
}

/// Candidates for a name, by what they begin or end with.
///
/// A candidate is the place of a position in its list.
#[derive(Debug)]
struct Index {
    begins: Prefixes,
    ends: Prefixes,
    /// Those that begin and end with a wildcard.
    others: Box<[Other]>,
    /// Those that match every name.
    any: Box<[u32]>,
}

/// A pattern that can only be tried, unless the name lacks something.
#[derive(Debug)]
struct Other {
    needs: Signature,
    candidate: u32,
}

impl Index {
    fn new(patterns: &[Pattern], positions: &[Position]) -> Self {
        let (mut begins, mut ends) = (Vec::new(), Vec::new());
        let (mut others, mut any) = (Vec::new(), Vec::new());
        for (at, candidate) in positions.iter().zip(0_u32..) {
            let Some(glob) = glob(patterns, *at) else { continue };
            let (prefix, suffix) = (glob.prefix(), glob.suffix());
            if prefix.len() >= suffix.len() && !prefix.is_empty() {
                begins.push((Box::from(prefix), candidate));
            } else if !suffix.is_empty() {
                ends.push((suffix.iter().rev().copied().collect(), candidate));
            } else if glob.shape() == Shape::Prefix {
                any.push(candidate);
            } else {
                let mut needs = Signature::default();
                glob.runs().for_each(|run| needs.add(&run));
                others.push(Other { needs, candidate });
            }
        }
        let (begins, ends) = (Prefixes::new(begins), Prefixes::new(ends));
        Self { begins, ends, others: others.into(), any: any.into() }
    }

    /// Calls with every candidate that may match; one that does is not left out.
    fn find(&self, name: &[u8], mut found: impl FnMut(u32)) {
        self.any.iter().copied().for_each(&mut found);
        self.begins.find(name, &mut found);
        if !self.ends.keys.is_empty() {
            let mut buffer = [0; NAME_MAX];
            if let Some(reversed) = buffer.get_mut(..name.len()) {
                reversed.copy_from_slice(name);
                reversed.reverse();
                self.ends.find(reversed, &mut found);
            } else {
                let reversed: Vec<u8> = name.iter().rev().copied().collect();
                self.ends.find(&reversed, &mut found);
            }
        }
        if !self.others.is_empty() {
            let mut has = Signature::default();
            has.add(name);
            let candidates = self.others.iter().filter(|other| has.has(other.needs));
            candidates.map(|other| other.candidate).for_each(found);
        }
    }
}

/// Candidates by a prefix of the name.
#[derive(Debug)]
struct Prefixes {
    /// Sorted.
    keys: Box<[Prefix]>,
    candidates: Box<[u32]>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<[u8]>,
    /// The place of the longest shorter key that this one begins with.
    shorter: Option<u32>,
    /// Where its candidates begin and end.
    from: u32,
    to: u32,
}

impl Prefixes {
    fn new(mut entries: Vec<(Box<[u8]>, u32)>) -> Self {
        entries.sort_unstable();
        let mut keys: Vec<Prefix> = Vec::new();
        let mut open: Vec<u32> = Vec::new();
        let candidates = entries.iter().map(|(_, candidate)| *candidate).collect();
        for ((text, _), from) in entries.into_iter().zip(0_u32..) {
            let to = from.saturating_add(1);
            if let Some(last) = keys.last_mut().filter(|last| last.text == text) {
                last.to = to;
                continue;
            }
            let begins = |at: u32| {
                keys.get(at as usize).is_some_and(|key: &Prefix| text.starts_with(&key.text))
            };
            while open.last().is_some_and(|at| !begins(*at)) {
                open.pop();
            }
            let shorter = open.last().copied();
            open.extend(u32::try_from(keys.len()));
            keys.push(Prefix { text, shorter, from, to });
        }
        Self { keys: keys.into(), candidates }
    }

    fn find(&self, name: &[u8], found: &mut impl FnMut(u32)) {
        // Every key that the name begins with is sorted between itself and the
        // name, and so is a prefix of the last key before the name.
        let after = self.keys.partition_point(|key| *key.text <= *name);
        let mut key = after.checked_sub(1).and_then(|at| self.keys.get(at));
        while let Some(Prefix { text, shorter, from, to }) = key {
            if name.starts_with(text) {
                let candidates = self.candidates.get(*from as usize..*to as usize);
                candidates.unwrap_or_default().iter().copied().for_each(&mut *found);
            }
            key = shorter.and_then(|at| self.keys.get(at as usize));
        }
    }
}

/// Which bytes, and which pairs of bytes, a text holds: a set bit may stand
/// for several.
#[derive(Clone, Copy, Debug, Default)]
struct Signature {
    bytes: u64,
    pairs: u64,
}

impl Signature {
    /// Adds what a run of bytes holds.
    fn add(&mut self, run: &[u8]) {
        let mut last = None;
        for byte in run {
            self.bytes |= 1 << (byte & 63);
            if let Some(last) = last {
                let pair: u8 = byte.wrapping_mul(37) ^ last;
                self.pairs |= 1 << (pair & 63);
            }
            last = Some(*byte);
        }
    }

    /// Reports whether this may hold all of another.
    const fn has(self, other: Self) -> bool {
        other.bytes & !self.bytes == 0 && other.pairs & !self.pairs == 0
    }
}
