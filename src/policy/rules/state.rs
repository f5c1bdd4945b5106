//! What is known of a place after its path has been read.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::decision::Decision;
use super::intern::Interned;
use super::place::Place;

/// What a place means to the rules: where it stands in every path pattern.
///
/// Two places with the same path have the same state for as long as either is
/// held. A handle costs 16 bytes; what it stands for is there once, and goes
/// with the last handle.
#[derive(Clone)]
pub struct State(pub(super) At);

#[derive(Clone)]
pub(super) enum At {
    /// No pattern matches but those that match everywhere, and nothing waits
    /// but what waits everywhere; of the automaton with this number.
    Plain(u64),
    /// No more than that waits.
    Decided(Arc<Interned<Decision>>),
    /// A directory.
    Placed(Arc<Interned<Place>>),
}

impl State {
    /// The state of every place where there are no rules.
    pub(super) const NONE: Self = Self(At::Plain(0));

    /// Returns the number of the state, which no other state of this process
    /// has or will have; 0 is that of most places.
    ///
    /// 0 is where nothing special is known, but rules may match there too and
    /// in its children: those by name alone, for example.
    pub fn id(&self) -> u64 {
        match &self.0 {
            At::Plain(_) => 0,
            At::Decided(decision) => decision.id,
            At::Placed(place) => place.id,
        }
    }

    /// Returns the number of the automaton, which no other one of this process
    /// has or will have; 0 without rules.
    pub fn epoch(&self) -> u64 {
        match &self.0 {
            At::Plain(epoch) => *epoch,
            At::Decided(decision) => decision.epoch(),
            At::Placed(place) => place.epoch(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::NONE
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for State {}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.id().hash(hasher);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({})", self.id())
    }
}
