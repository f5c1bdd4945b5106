//! Which patterns of a policy match something in a given source.

use super::{Finding, Severity};
use crate::policy::error::{Code, Origin, Written};
use crate::policy::rules::{MOST, Rule, Rules, State, Subject};
use crate::policy::spec::Spec;

/// The rules of a policy, and which of them have decided about a file.
///
/// A rule with several patterns is one rule for each of them here, so that
/// each shows whether it decides; together they say what the one rule says.
#[derive(Debug)]
pub struct Matches {
    rules: Rules,
    parts: Vec<Part>,
    /// How many have not decided yet.
    left: usize,
}

/// One combination of the patterns of a rule.
#[derive(Debug)]
struct Part {
    /// The rule, its path and its name, by their places.
    rule: usize,
    path: Option<usize>,
    name: Option<usize>,
    decided: bool,
}

impl Matches {
    /// Takes the rules of a policy.
    pub fn new(spec: &Spec) -> Self {
        let combinations = |rule: &Written<Rule>| {
            rule.value.paths.len().max(1).saturating_mul(rule.value.names.len().max(1))
        };
        let all = spec.rules().iter().map(combinations).fold(0, usize::saturating_add);
        // Of too many, a rule as a whole has to do.
        let (rules, parts): (Vec<_>, Vec<_>) =
            if all > MOST { whole(spec).unzip() } else { split(spec).unzip() };
        Self { rules: Rules::new(&rules), left: parts.len(), parts }
    }

    /// Returns the rules, by which places are found.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes a file into account; reports whether it is hidden, so that nothing
    /// below it counts.
    pub fn see(&mut self, state: &State, subject: &Subject) -> bool {
        let verdict = self.rules.verdict(state, subject);
        let (hidden, by) = (verdict.hide, verdict.by);
        let others = [by.read_only, by.user, by.group, by.mode, by.deny];
        let others = others.into_iter().filter(|_| !hidden);
        for at in others.chain([by.hide]).flatten() {
            if let Some(part) = self.parts.get_mut(usize::from(at))
                && !part.decided
            {
                part.decided = true;
                self.left = self.left.saturating_sub(1);
            }
        }
        hidden
    }

    /// Reports whether every pattern has decided about some file.
    pub const fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Returns a finding for each pattern that has decided about no file in the
    /// source of this name.
    pub fn findings(&self, spec: &Spec, source: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        for (at, rule) in spec.rules().iter().enumerate() {
            let parts = || self.parts.iter().filter(|part| part.rule == at);
            if !parts().any(|part| part.decided) {
                found.push(nothing(source, &rule.at, "the rule decides about"));
                continue;
            }
            let Rule { paths, names, .. } = &rule.value;
            for (number, path) in paths.iter().enumerate() {
                let mut of = parts().filter(|part| part.path == Some(number)).peekable();
                if of.peek().is_some() && !of.any(|part| part.decided) {
                    found.push(nothing(
                        source,
                        &path.at,
                        &format!("`{}` decides about", path.value),
                    ));
                }
            }
            for (number, name) in names.iter().enumerate() {
                let mut of = parts().filter(|part| part.name == Some(number)).peekable();
                if of.peek().is_some() && !of.any(|part| part.decided) {
                    found.push(nothing(
                        source,
                        &name.at,
                        &format!("`{}` decides about", name.value),
                    ));
                }
            }
        }
        found
    }
}

fn nothing(source: &str, at: &Origin, what: &str) -> Finding {
    let what = format!("{what} nothing in {source}");
    let hint = "nothing matches, or earlier patterns decide; it counts for what is created later";
    Finding {
        severity: Severity::Note,
        code: Code::Unmatched,
        at: at.clone(),
        what,
        hint: Some(hint.to_owned()),
    }
}

/// Returns each rule as it is.
fn whole(spec: &Spec) -> impl Iterator<Item = (Written<Rule>, Part)> {
    spec.rules().iter().enumerate().map(|(rule, written)| {
        (written.clone(), Part { rule, path: None, name: None, decided: false })
    })
}

/// Returns each rule once for every combination of its patterns.
fn split(spec: &Spec) -> impl Iterator<Item = (Written<Rule>, Part)> {
    let numbers = |count: usize| {
        let none = (count == 0).then_some(None);
        (0..count).map(Some).chain(none)
    };
    spec.rules().iter().enumerate().flat_map(move |(rule, written)| {
        let Rule { paths, names, .. } = &written.value;
        numbers(paths.len()).flat_map(move |path| {
            numbers(names.len()).map(move |name| {
                let one = Rule {
                    paths: path.and_then(|at| paths.get(at)).cloned().into_iter().collect(),
                    names: name.and_then(|at| names.get(at)).cloned().into_iter().collect(),
                    ..written.value.clone()
                };
                let value = Written { value: one, at: written.at.clone() };
                (value, Part { rule, path, name, decided: false })
            })
        })
    })
}
