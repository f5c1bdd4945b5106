//! What the rules say of a file, and which of them.

use super::rule::{Deny, Effect};
use crate::id::{Owner, View};
use crate::policy::mode::ModeExpr;

/// Whether a name is hidden, as far as its place tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hide {
    /// Whatever it is, it is shown.
    No,
    /// Whatever it is, it is hidden.
    Always,
    /// It depends on the file.
    Depends,
}

/// The rules that decided, by their places in the list of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// The rule that hides or shows.
    pub hide: Option<u16>,
    /// The rule that protects, or does not.
    pub read_only: Option<u16>,
    /// The rule that gives the user.
    pub user: Option<u16>,
    /// The rule that gives the group.
    pub group: Option<u16>,
    /// The rule that changes the mode.
    pub mode: Option<u16>,
    /// The rule that denies, or does not.
    pub deny: Option<u16>,
}

impl By {
    /// Lets a rule decide these effects, but for those that an earlier one does.
    pub(super) fn set(&mut self, effects: Effect, rule: u16) {
        for (effect, slot) in [
            (Effect::HIDE, &mut self.hide),
            (Effect::READ_ONLY, &mut self.read_only),
            (Effect::USER, &mut self.user),
            (Effect::GROUP, &mut self.group),
            (Effect::MODE, &mut self.mode),
            (Effect::DENY, &mut self.deny),
        ] {
            if effects.has(effect) && slot.is_none_or(|earlier| rule < earlier) {
                *slot = Some(rule);
            }
        }
    }
}

/// What the rules say of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'r> {
    /// Whether it is absent from the view.
    pub hide: bool,
    /// Whether it, and the names in it, cannot be changed.
    pub read_only: bool,
    /// The owner that it is shown with, in view ids; `None` leaves the user,
    /// or the group, to the stages of the ids.
    pub owner: Owner<View>,
    /// How its mode is shown.
    pub mode: Option<&'r ModeExpr>,
    /// What is denied.
    pub deny: Deny,
    /// Which rules decided.
    pub by: By,
}

impl Default for Verdict<'_> {
    fn default() -> Self {
        Self {
            hide: false,
            read_only: false,
            owner: Owner { uid: None, gid: None },
            mode: None,
            deny: Deny::default(),
            by: By::default(),
        }
    }
}
