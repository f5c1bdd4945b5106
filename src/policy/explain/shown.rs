//! How files are shown, by ids, rules and mirrors together, and who said so.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Decision, Reason};
use crate::attr::Mode;
use crate::id::{Group, Id, Ids, Owner, View};
use crate::policy::error::Written;
use crate::policy::rules::{Deny, Rule, State, Subject, Verdict};
use crate::policy::{Others, Pipeline, Policy as _};

/// Who asks, in view ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// User and group.
    pub ids: Ids<View>,
    /// The supplementary groups.
    pub groups: Vec<Id<Group, View>>,
}

impl From<Ids<View>> for Asker {
    fn from(ids: Ids<View>) -> Self {
        Self { ids, groups: Vec::new() }
    }
}

impl Asker {
    /// Reports whether the caller is in a group.
    pub fn is_in(&self, group: Id<Group, View>) -> bool {
        group == self.ids.gid || self.groups.contains(&group)
    }
}

/// How a file is shown, each thing with the rules that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// As whom its owner and group are shown.
    #[serde(rename = "shown")]
    pub owner: [Decision; 2],
    /// Its permission bits in the view, printed in octal.
    #[serde(serialize_with = "octal")]
    pub mode: Mode,
    /// Its permission bits on disk, printed in octal.
    #[serde(serialize_with = "octal")]
    pub disk_mode: Mode,
    /// Whether it is absent from the view.
    pub hidden: bool,
    /// The hidden directory that it is below, by its place on the way.
    #[serde(skip)]
    pub below: Option<usize>,
    /// Whether nothing of it can be changed.
    pub read_only: bool,
    /// What is denied, by the words of a policy.
    #[serde(serialize_with = "words")]
    pub denied: Deny,
    /// The rules that decided, one for each effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Reason>,
    /// What it is on disk.
    #[serde(skip)]
    pub subject: Subject,
    /// The owner that the caller sees.
    #[serde(skip)]
    pub seen: Owner<View>,
    /// The owner that everybody sees who is not mirrored.
    #[serde(skip)]
    pub common: Owner<View>,
    /// The owner that a rule gives it, which no chown changes.
    #[serde(skip)]
    pub fixed: Owner<View>,
}

fn octal<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:04o}", mode.bits()))
}

fn words<S: Serializer>(deny: &Deny, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(denied(*deny))
}

fn denied(deny: Deny) -> impl Iterator<Item = &'static str> {
    Deny::WORDS.into_iter().filter(move |(_, one)| deny.contains(*one)).map(|(word, _)| word)
}

impl Shown {
    /// Returns the reason for an effect, by its key in a policy.
    pub fn reason(&self, effect: &str) -> Option<&Reason> {
        self.rules.iter().find(|reason| reason.stage == effect)
    }

    /// Reports whether user or group has no view id, in the caller's eyes.
    pub const fn is_unmapped(&self) -> bool {
        self.seen.uid.is_none() || self.seen.gid.is_none()
    }
}

impl Pipeline {
    /// Explains how the files on a way are shown, from the source's root on:
    /// that first, then each name with what it leads to.
    pub fn explain_way(
        &self,
        root: &Subject,
        way: &[(&[u8], Subject)],
        asker: Option<&Asker>,
    ) -> Vec<Shown> {
        let rules = self.rules();
        let mut state = rules.root();
        let mut all = vec![self.explain_place(&state, root, asker)];
        let mut hidden = None;
        for (at, (name, subject)) in (1_usize..).zip(way) {
            state = rules.step(&state, name, subject.kind.is_dir());
            let mut shown = self.explain_place(&state, subject, asker);
            shown.below = hidden;
            if hidden.is_some() {
                shown.hidden = true;
            } else if shown.hidden {
                hidden = Some(at);
            }
            all.push(shown);
        }
        all
    }

    /// Explains how a file at a place is shown.
    fn explain_place(&self, state: &State, subject: &Subject, asker: Option<&Asker>) -> Shown {
        let verdict = self.rules().verdict(state, subject);
        let of_rules = self.reasons(&verdict);
        let [mut user, mut group] = self.explain_owner(subject.owner);
        for (decision, id, rule) in [
            (&mut user, verdict.owner.uid.map(Id::raw), verdict.by.user),
            (&mut group, verdict.owner.gid.map(Id::raw), verdict.by.group),
        ] {
            if id.is_some() {
                let rule = rule.and_then(|at| self.rules().rule(at));
                decision.answer = id;
                decision.reasons.extend(rule.and_then(|rule| presented(rule, decision.kind)));
            }
        }
        let common =
            Owner { uid: user.answer.and_then(Id::new), gid: group.answer.and_then(Id::new) };
        let mirror = asker.and_then(|asker| self.mirror(asker));
        let mirrored = mirror.is_some();
        if let (Some(asker), Some(reason)) = (asker, mirror) {
            user.reasons.push(reason);
            user.answer = Some(asker.ids.uid.raw());
        }
        let seen = asker.filter(|_| mirrored).map(|asker| asker.ids.uid);
        Shown {
            owner: [user, group],
            mode: verdict.mode.map_or(subject.mode, |mode| mode.apply(subject.mode, subject.kind)),
            disk_mode: subject.mode,
            hidden: verdict.hide,
            below: None,
            read_only: verdict.read_only,
            denied: verdict.deny,
            rules: of_rules,
            subject: *subject,
            seen: Owner { uid: seen.or(common.uid), ..common },
            common,
            fixed: verdict.owner,
        }
    }

    /// Says that a caller sees every file as its own, where it does.
    pub(super) fn mirror(&self, asker: &Asker) -> Option<Reason> {
        let uid = asker.ids.uid;
        let (rule, at) = self.spec.callers().rule(uid, |group| asker.is_in(group))?;
        let text = format!("uid {uid} sees every file as its own");
        Some(Reason { stage: "mirror", text, rule: Some(rule), at: Some(at.to_string()) })
    }

    /// Says that a caller is not let in, where it is not.
    pub fn explain_refusal(&self, asker: &Asker) -> Option<Reason> {
        let callers = self.spec.callers();
        let in_group = |group| asker.is_in(group);
        if callers.others() == Others::Normal
            || asker.ids.uid.is_root()
            || callers.mirror(Some(asker.ids.uid), in_group)
        {
            return None;
        }
        let text = format!("only those who are mirrored get in, and uid {} is not", asker.ids.uid);
        let at = callers.refusal().map(ToString::to_string);
        Some(Reason { stage: "others", text, rule: None, at })
    }

    /// Returns the rules that decided about a file, but not its owner.
    fn reasons(&self, verdict: &Verdict<'_>) -> Vec<Reason> {
        let by = verdict.by;
        let rule = |at: Option<u16>| at.and_then(|at| self.rules().rule(at));
        let found = [
            rule(by.hide).and_then(|rule| reason("hide", rule, rule.hide.as_ref())),
            rule(by.read_only).and_then(|rule| reason("read-only", rule, rule.read_only.as_ref())),
            rule(by.mode).and_then(|rule| reason("present-mode", rule, rule.present_mode.as_ref())),
            rule(by.deny).and_then(|rule| {
                let deny = rule.deny.as_ref()?;
                let list: Vec<&str> = denied(deny.value).collect();
                let text = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
                reason("deny", rule, Some(&Written { value: text, at: deny.at.clone() }))
            }),
        ];
        found.into_iter().flatten().collect()
    }
}

/// Says which rule shows an owner of this kind.
fn presented(rule: &Rule, kind: &str) -> Option<Reason> {
    let user = rule.present_user.as_ref().map(|id| (id.value.raw(), &id.at));
    let group = rule.present_group.as_ref().map(|id| (id.value.raw(), &id.at));
    let (id, at) = if kind == "uid" { user } else { group }?;
    let value = format!("a rule shows {kind} {id}");
    reason("present-owner", rule, Some(&Written { value, at: at.clone() }))
}

fn reason<T: fmt::Display>(
    stage: &'static str,
    rule: &Rule,
    effect: Option<&Written<T>>,
) -> Option<Reason> {
    let effect = effect?;
    let (text, at) = (effect.value.to_string(), Some(effect.at.to_string()));
    Some(Reason { stage, text, rule: Some(rule.to_string()), at })
}

/// Lines about owner, mode and rules, each ended.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hidden {
            return self.line(f, "it is hidden", "hide");
        }
        if self.reason("hide").is_some() {
            self.line(f, "it is not hidden", "hide")?;
        }
        let [user, group] = &self.owner;
        write!(f, "{user}{group}")?;
        let (disk, view) = (self.disk_mode.bits(), self.mode.bits());
        let changed = self.reason("present-mode").is_some();
        let mode = if changed {
            format!("disk mode {disk:04o} is shown as mode {view:04o}")
        } else {
            format!("mode {view:04o}")
        };
        self.line(f, &mode, "present-mode")?;
        if self.reason("read-only").is_some() {
            let text = if self.read_only { "it is read-only" } else { "it is not read-only" };
            self.line(f, text, "read-only")?;
        }
        if self.reason("deny").is_some() {
            let text = if self.denied.is_empty() { "nothing is denied" } else { "denied to all" };
            self.line(f, text, "deny")?;
        }
        Ok(())
    }
}

impl Shown {
    /// Writes a line, and one for the rule that decided.
    fn line(&self, f: &mut fmt::Formatter<'_>, text: &str, effect: &str) -> fmt::Result {
        writeln!(f, "{text}")?;
        self.reason(effect).map_or(Ok(()), |reason| writeln!(f, "  {reason}"))
    }
}
