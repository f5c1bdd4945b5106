//! What the rules that match a place say of the file there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::by_file::ByFile;
use super::rule::{Compiled, Effect, Subject};
use super::verdict::{By, Hide, Verdict};
use crate::id::Owner;

/// Up to this many rules are tried one by one.
const FEW: usize = 16;

/// So often more rules are tried one by one too: many a place is left again
/// before an index of them has paid for itself.
const SELDOM: u32 = 16;

/// The rules that can decide something at a place.
#[derive(Debug)]
pub(super) struct Decision {
    /// Sorted, and none that could not decide anything.
    pub(super) rules: Box<[u16]>,
    /// Whether nothing can hide it: the root.
    pub(super) shown: bool,
    pub(super) hide: Hide,
    /// Who decides, where no rule looks at the file.
    fixed: Option<By>,
    /// How often the rules were tried one by one, though there are many.
    tried: AtomicU32,
    index: OnceLock<Box<ByFile>>,
}

impl Decision {
    /// Takes the rules that [`prune`] left.
    pub(super) fn new(all: &[Compiled], rules: &[u16], shown: bool) -> Self {
        let looks = |rule: &u16| all.get(usize::from(*rule)).is_some_and(|rule| rule.conditional);
        let depends = rules.iter().any(looks);
        let mut decision = Self {
            rules: rules.into(),
            shown,
            hide: hide(all, rules, shown),
            fixed: None,
            tried: AtomicU32::new(0),
            index: OnceLock::new(),
        };
        decision.fixed = (!depends).then(|| decision.first(all, |_| true));
        decision
    }

    /// Lets each effect be decided by the first rule that matches.
    fn first(&self, all: &[Compiled], matches: impl Fn(&Compiled) -> bool) -> By {
        let mut by = By::default();
        let mut open = open(self.shown);
        for at in &self.rules {
            let Some(rule) = all.get(usize::from(*at)) else { continue };
            let decides = rule.mentions.and(open);
            if !decides.is_none() && matches(rule) {
                by.set(decides, *at);
                open = open.without(decides);
            }
        }
        by
    }

    /// Returns which rules decide about a file.
    fn by(&self, all: &[Compiled], subject: &Subject) -> By {
        let meets = |rule: &Compiled| rule.rule.meets(subject);
        if self.rules.len() <= FEW {
            return self.first(all, meets);
        }
        let open = open(self.shown);
        if let Some(index) = self.index.get() {
            return index.decide(all, subject, open);
        }
        if self.tried.fetch_add(1, Ordering::Relaxed) < SELDOM {
            return self.first(all, meets);
        }
        let index = self.index.get_or_init(|| Box::new(ByFile::new(all, &self.rules, open)));
        index.decide(all, subject, open)
    }

    /// Returns what the rules say of a file at this place.
    pub(super) fn verdict<'r>(&self, all: &'r [Compiled], subject: &Subject) -> Verdict<'r> {
        let by = self.fixed.unwrap_or_else(|| self.by(all, subject));
        let rule = |at: Option<u16>| Some(&all.get(usize::from(at?))?.rule);
        Verdict {
            hide: rule(by.hide).is_some_and(|rule| rule.hides()),
            read_only: rule(by.read_only)
                .and_then(|rule| rule.read_only.as_ref())
                .is_some_and(|read_only| read_only.value),
            owner: Owner {
                uid: rule(by.user).and_then(|rule| Some(rule.present_user.as_ref()?.value)),
                gid: rule(by.group).and_then(|rule| Some(rule.present_group.as_ref()?.value)),
            },
            mode: rule(by.mode).and_then(|rule| Some(&rule.present_mode.as_ref()?.value)),
            deny: rule(by.deny)
                .and_then(|rule| Some(rule.deny.as_ref()?.value))
                .unwrap_or_default(),
            by,
        }
    }
}

/// Returns the effects that are to be decided.
const fn open(shown: bool) -> Effect {
    if shown { Effect::ALL.without(Effect::HIDE) } else { Effect::ALL }
}

/// Returns whether rules hide whatever is at their place.
fn hide(all: &[Compiled], rules: &[u16], shown: bool) -> Hide {
    let (mut hidden, mut visible) = (false, true);
    let mentioning = rules
        .iter()
        .filter_map(|at| all.get(usize::from(*at)))
        .filter(|rule| !shown && rule.mentions.has(Effect::HIDE));
    let mut exceptions = false;
    for rule in mentioning {
        let hides = rule.rule.hides();
        hidden |= hides;
        exceptions |= !hides;
        if !rule.conditional {
            visible = false;
            break;
        }
    }
    match (hidden, visible || exceptions) {
        (false, _) => Hide::No,
        (true, false) => Hide::Always,
        (true, true) => Hide::Depends,
    }
}

/// Leaves the rules, of those that match a place, that can decide something.
pub(super) fn prune(all: &[Compiled], rules: &mut Vec<u16>, shown: bool) {
    let mut open = open(shown);
    rules.retain(|at| {
        let Some(rule) = all.get(usize::from(*at)) else { return false };
        let decides = rule.mentions.and(open);
        if !rule.conditional {
            open = open.without(decides);
        }
        !decides.is_none()
    });
    if hide(all, rules, shown) == Hide::Always {
        // Of what is hidden nothing else is ever asked.
        let hides = |at: &u16| {
            all.get(usize::from(*at)).is_some_and(|rule| rule.mentions.has(Effect::HIDE))
        };
        rules.retain(hides);
    }
}
