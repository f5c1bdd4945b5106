//! What is worth knowing about rules: those that never decide, and those that
//! take more than they seem to.

use super::Findings;
use crate::attr::{FileKind, Mode, NAME_MAX};
use crate::id::Owner;
use crate::policy::error::{Code, Written};
use crate::policy::glob::PathGlob;
use crate::policy::rules::{Effect, Hide, Rule, Rules, Subject};
use crate::policy::spec::Spec;

/// The keys of the effects.
const KEYS: [(Effect, &str); 6] = [
    (Effect::HIDE, "hide"),
    (Effect::READ_ONLY, "read-only"),
    (Effect::USER, "present-owner"),
    (Effect::GROUP, "present-owner"),
    (Effect::MODE, "present-mode"),
    (Effect::DENY, "deny"),
];

impl Findings {
    /// Looks at each rule and at those before it.
    pub(super) fn by_path(&mut self, spec: &Spec) {
        let compiled = Rules::new(spec.rules());
        for (at, rule) in spec.rules().iter().enumerate() {
            let earlier = spec.rules().get(..at).unwrap_or_default();
            let shadowed = self.overruled(rule, earlier);
            if !shadowed && !self.below_hidden(rule, &compiled) {
                self.useless(rule, earlier);
            }
            self.closed(rule);
            self.presented(rule, spec);
        }
    }

    /// Effects that earlier rules have decided; reports whether none is left.
    fn overruled(&mut self, rule: &Written<Rule>, earlier: &[Written<Rule>]) -> bool {
        let mut left = rule.value.mentions();
        let mut first = None;
        for other in earlier {
            let taken = left.and(other.value.mentions());
            if !taken.is_none() && covers(&other.value, &rule.value) {
                first = first.or(Some(&other.at));
                left = left.without(taken);
            }
        }
        let Some(first) = first else { return false };
        let taken = rule.value.mentions().without(left);
        let mut keys: Vec<&str> =
            KEYS.iter().filter(|(effect, _)| taken.has(*effect)).map(|(_, key)| *key).collect();
        keys.dedup();
        let what = if left.is_none() {
            format!("the rule never decides: {first} matches the same files and comes first")
        } else {
            format!("its {} never decides: {first} comes first", keys.join(", "))
        };
        self.warning(Code::Shadowed, &rule.at, what, "put exceptions before what they are from");
        left.is_none()
    }

    /// A rule for files that are hidden with their directory.
    fn below_hidden(&mut self, rule: &Written<Rule>, compiled: &Rules) -> bool {
        let mut by = None;
        for path in &rule.value.paths {
            match hidden_above(&path.value, compiled) {
                Some(rule) => by = Some((path, rule)),
                None => return false,
            }
        }
        let Some((path, hiding)) = by else { return false };
        let text = compiled.rule(hiding).and_then(|rule| rule.hide.as_ref());
        let hiding = text.map(|hide| hide.at.to_string()).unwrap_or_default();
        let what = format!("`{}` is below a directory that {hiding} hides", path.value);
        let hint = "show each directory above it first, by hide = false";
        self.warning(Code::Dead, &rule.at, what, hint);
        true
    }

    /// Patterns and effects that come to nothing.
    fn useless(&mut self, rule: &Written<Rule>, earlier: &[Written<Rule>]) {
        let Written { value, at } = rule;
        let parts = value
            .paths
            .iter()
            .flat_map(|path| path.value.parts.iter().map(move |part| (&part.glob, &path.at)));
        let names = value.names.iter().map(|name| (&name.value, &name.at));
        for (glob, at) in parts.chain(names) {
            if glob.prefix().len().saturating_add(glob.suffix().len()) > NAME_MAX {
                let what = format!("no name has more than {NAME_MAX} bytes");
                self.warning(Code::Dead, at, what, "");
            }
        }
        let excepted = earlier.iter().any(|rule| rule.value.hide.is_some() && !rule.value.hides());
        let others = value.mentions().without(Effect::HIDE);
        if value.hides() && !others.is_none() && !excepted {
            let what = "what is hidden is not asked for its other effects".to_owned();
            self.note(Code::Dead, at, what, "leave them out, or hide");
        }
        let links = value.kinds.holds(FileKind::Symlink);
        let only_links = links && value.kinds.is_one();
        if only_links && let Some(mode) = &value.present_mode {
            let what = "the mode of a symbolic link means nothing and is not changed".to_owned();
            self.warning(Code::Dead, &mode.at, what, "");
        }
    }

    /// A mode that takes the right to search directories from everybody.
    fn closed(&mut self, rule: &Written<Rule>) {
        let Some(mode) = &rule.value.present_mode else { return };
        let open = Mode::new(0o777);
        let shown = mode.value.apply(open, FileKind::Directory);
        if rule.value.kinds.holds(FileKind::Directory) && !shown.has(Mode::EXECUTE) {
            let what = format!("`{}` is for directories too: nobody could enter them", mode.value);
            let hint = "write { files = \"..\", directories = \"..\" }, or a clause with X";
            self.warning(Code::Closed, &mode.at, what, hint);
        }
    }
}

/// Reports whether every file that `other` matches is matched by `rule`; if
/// that is not seen, `false`.
fn covers(rule: &Rule, other: &Rule) -> bool {
    let same = rule.kinds == other.kinds
        && rule.users == other.users
        && rule.groups == other.groups
        && rule.mode == other.mode;
    if rule.looks_at_file() && !same {
        return false;
    }
    let everywhere =
        |path: &Written<PathGlob>| path.value.parts.is_empty() && !path.value.directories;
    let path =
        |wanted: &Written<PathGlob>| rule.paths.iter().any(|path| path.value.covers(&wanted.value));
    let paths = rule.paths.is_empty()
        || rule.paths.iter().any(everywhere)
        || (!other.paths.is_empty() && other.paths.iter().all(path));
    let names = rule.names.is_empty()
        || (!other.names.is_empty()
            && (other.names.iter())
                .all(|wanted| rule.names.iter().any(|name| name.value.covers(&wanted.value))));
    paths && names
}

/// Returns the rule that hides a directory above all that a pattern matches.
fn hidden_above(path: &PathGlob, rules: &Rules) -> Option<u16> {
    let directory = Subject {
        kind: FileKind::Directory,
        owner: Owner { uid: None, gid: None },
        mode: Mode::new(0o755),
    };
    let above = path.parts.len().saturating_sub(1);
    let mut state = rules.root();
    for part in path.parts.iter().take(above) {
        let name = part.glob.literal().filter(|_| !part.gap)?;
        state = rules.step(&state, name, true);
        if rules.hides_name(&state) == Hide::Always {
            return rules.verdict(&state, &directory).by.hide;
        }
    }
    None
}
