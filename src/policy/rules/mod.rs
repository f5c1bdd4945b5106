//! Rules by path, name and attributes: which files are hidden, protected or
//! shown otherwise.
//!
//! The paths of all rules are one automaton. It is fed name by name: the state
//! of a child is one step from that of its directory, so that no path is ever
//! put together. Each effect is decided by the first rule that matches the
//! file and mentions that effect.

mod automaton;
mod by_file;
mod decision;
mod index;
mod intern;
mod pattern;
mod place;
mod rule;
mod state;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

pub use rule::{Deny, Kinds, Range, Rule, Subject};
pub(super) use rule::{Effect, KINDS};
pub use state::State;
pub use verdict::{By, Hide, Verdict};

use super::error::Written;
use automaton::Automaton;
use decision::Decision;
use pattern::Hiding;
use state::At;

/// The most rules that a policy may have.
pub const MOST: usize = 10_000;

/// The rules of a policy, compiled; without any they cost nothing.
#[derive(Clone, Debug, Default)]
pub struct Rules(Option<Arc<(Automaton, State)>>);

impl Rules {
    /// No rules.
    pub const NONE: &'static Self = &Self(None);

    /// Compiles rules; of more than [`MOST`] the others may be left out.
    pub fn new(rules: &[Written<Rule>]) -> Self {
        Self((!rules.is_empty()).then(|| Arc::new(Automaton::new(rules))))
    }

    /// Reports whether there are no rules at all.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns a rule by its place in the list.
    pub fn rule(&self, at: u16) -> Option<&Rule> {
        Some(&self.automaton()?.rules.get(usize::from(at))?.rule)
    }

    /// Returns the state of the source's root, which no rule hides.
    pub fn root(&self) -> State {
        self.0.as_ref().map_or(State::NONE, |rules| rules.1.clone())
    }

    /// Returns the state of a name in a directory.
    ///
    /// `directory`: the name is that of a directory. All below what is hidden
    /// by its path is hidden too, whatever other rules say. A directory's state
    /// that is not of these rules gives one that is not either.
    #[must_use]
    pub fn step(&self, dir: &State, name: &[u8], directory: bool) -> State {
        self.automaton().map_or(State::NONE, |rules| rules.step(dir, name, directory))
    }

    /// Returns what the rules say of a file.
    ///
    /// A state that is not of these rules is hidden: it is not known what they
    /// say of that place.
    pub fn verdict(&self, state: &State, subject: &Subject) -> Verdict<'_> {
        let Some(rules) = self.automaton() else { return Verdict::default() };
        self.decision(state).map_or(Verdict { hide: true, ..Verdict::default() }, |decision| {
            decision.verdict(&rules.rules, subject)
        })
    }

    /// Reports whether a place is hidden, as far as its path tells.
    ///
    /// For a name that may be of a directory or not, see [`Rules::hides`].
    pub fn hides_name(&self, state: &State) -> Hide {
        if self.is_empty() {
            return Hide::No;
        }
        self.decision(state).map_or(Hide::Always, |decision| decision.hide)
    }

    /// Reports whether a name in a directory is hidden, whether or not there is
    /// such a file, and whatever it is.
    pub fn hides(&self, dir: &State, name: &[u8]) -> Hide {
        if self.is_empty() {
            return Hide::No;
        }
        let [file, directory] =
            [false, true].map(|directory| self.hides_name(&self.step(dir, name, directory)));
        if file == directory { file } else { Hide::Depends }
    }

    /// Reports whether a directory may have directories that are hidden, so
    /// that its link count must not tell how many there are.
    pub fn may_hide_below(&self, state: &State) -> bool {
        self.hiding(state) == Hiding::All
    }

    /// Reports whether a directory may have names that are hidden, so that its
    /// size must not tell how many there are.
    pub fn may_hide_names(&self, state: &State) -> bool {
        self.hiding(state) != Hiding::Nothing
    }

    /// Reports whether there is a rule that hides anything.
    pub fn hide_anything(&self) -> bool {
        self.automaton().is_some_and(|rules| rules.hides_some)
    }

    /// Reports whether there is a rule that may show set-id bits as not set.
    pub fn mask_set_id(&self) -> bool {
        self.automaton().is_some_and(|rules| rules.masks_set_id)
    }

    /// Returns what may be hidden in a directory; all of it, if its state is
    /// not of these rules.
    fn hiding(&self, state: &State) -> Hiding {
        let Some(rules) = self.automaton() else { return Hiding::Nothing };
        if state.epoch() != rules.epoch {
            return Hiding::All;
        }
        match &state.0 {
            At::Plain(_) | At::Decided(_) => rules.hides,
            At::Placed(place) => place.hides,
        }
    }

    /// Returns the decision at a place; `None`: the state is not of these rules.
    fn decision<'s>(&'s self, state: &'s State) -> Option<&'s Decision> {
        let rules = self.automaton().filter(|rules| rules.epoch == state.epoch())?;
        Some(match &state.0 {
            At::Plain(_) => &rules.plain,
            At::Decided(decision) => decision,
            At::Placed(place) => place.decision.as_ref().unwrap_or(&rules.plain),
        })
    }

    fn automaton(&self) -> Option<&Automaton> {
        self.0.as_ref().map(|rules| &rules.0)
    }

    fn epoch(&self) -> u64 {
        self.automaton().map_or(0, |rules| rules.epoch)
    }
}

impl State {
    /// Reports whether this is a state of these rules, and not of others that
    /// a reload has replaced.
    pub fn is_of(&self, rules: &Rules) -> bool {
        self.epoch() == rules.epoch()
    }
}
