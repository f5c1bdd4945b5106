//! What is worth knowing about a policy that can be used: findings with
//! stable codes, for people and for scripts.

mod changes;
mod rules;
mod situation;
mod source;

use std::fmt;

use serde::{Serialize, Serializer};

use super::error::{Code, Origin, PolicyError};
use super::file;
use super::names::{Named, Names, Paired};
use super::parts::Word;
use super::spec::{Rules, Spec};
use crate::id::{Extent, Id, Kind, NO_ID};

pub use situation::{Reach, Situation};
pub use source::Matches;

/// The number that an unmapped id is shown as.
const OVERFLOW: u32 = 65_534;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is as it should be, if it is meant.
    Note,
    /// It is seldom meant.
    Warning,
    /// The policy cannot be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One finding about a policy.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, for scripts.
    pub code: Code,
    /// The rule that it is about.
    #[serde(serialize_with = "as_text")]
    pub at: Origin,
    /// What was found.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

fn as_text<S: Serializer>(at: &Origin, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl From<PolicyError> for Finding {
    fn from(PolicyError { code, at, what, hint }: PolicyError) -> Self {
        Self { severity: Severity::Error, code, at, what, hint }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, code, at, what, hint } = self;
        write!(f, "{at}: {severity}[{code}]: {what}")?;
        hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Checks a policy file: its one error, or else what was found in it.
pub fn check_file(path: &str, text: &str, names: &dyn Names) -> Vec<Finding> {
    match file::parse(path, text, names) {
        Ok(spec) => check(&spec),
        Err(error) => vec![error.into()],
    }
}

/// Checks a policy wherever it is used.
pub fn check(spec: &Spec) -> Vec<Finding> {
    check_for(spec, &Situation::default())
}

/// Checks a policy for a mount and a server, users before groups.
pub fn check_for(spec: &Spec, situation: &Situation) -> Vec<Finding> {
    let mut found = Findings { all: Vec::new(), suid: situation.suid };
    found.one_kind(spec);
    found.rules(spec.users());
    found.rules(spec.groups());
    found.changes(spec);
    found.by_path(spec);
    found.situation(spec, situation);
    found.all
}

struct Findings {
    all: Vec<Finding>,
    /// Whether set-id bits count on the mount.
    suid: bool,
}

impl Findings {
    fn add(&mut self, severity: Severity, code: Code, at: &Origin, what: String, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.all.push(Finding { severity, code, at: at.clone(), what, hint });
    }

    fn note(&mut self, code: Code, at: &Origin, what: String, hint: &str) {
        self.add(Severity::Note, code, at, what, hint);
    }

    fn warning(&mut self, code: Code, at: &Origin, what: String, hint: &str) {
        self.add(Severity::Warning, code, at, what, hint);
    }

    fn rules<K: Named>(&mut self, rules: &Rules<K>) {
        self.names(rules);
        self.shadowed(rules);
        self.mapped_root(rules);
        self.holes(rules);
        self.collapse(rules);
        self.stored(rules);
        self.alias(rules);
    }

    /// Ids of one kind are translated, those of the other are not.
    fn one_kind(&mut self, spec: &Spec) {
        let (users, groups) = (spec.users(), spec.groups());
        let (kind, other) = match (users.shows_identity(), groups.shows_identity()) {
            (false, true) => ("users", "groups"),
            (true, false) => ("groups", "users"),
            (true, true) | (false, false) => return,
        };
        let at = first_place(users).or_else(|| first_place(groups)).unwrap_or(&Origin::Whole);
        let what = format!("{kind} are translated, {other} are shown as they are");
        self.warning(Code::OneKind, at, what, "a rule without u: or g: is for both");
    }

    /// Root of one side is somebody else on the other.
    fn mapped_root<K: Kind>(&mut self, rules: &Rules<K>) {
        let word = K::WORD;
        let (view_root, disk_root) = (Id::new(0), Id::new(0));
        let extents = rules.map.iter().map(|rule| (rule.value, &rule.at));
        let entries = rules
            .table
            .iter()
            .map(|rule| (Extent::single(rule.value.disk, rule.value.view), &rule.at));
        let pairs = rules.names.iter().chain(&rules.prefix).flat_map(|stage| {
            let pairs = stage.pairs.iter().map(|pair| pair.entry);
            pairs.map(|entry| (Extent::single(entry.disk, entry.view), &stage.at))
        });
        for (extent, at) in extents.chain(entries).chain(pairs) {
            match view_root.and_then(|root| extent.store(root)) {
                Some(disk) if !disk.is_root() => {
                    self.shown_as_root(at, format!("disk {word} {disk} is shown as root"));
                }
                Some(_) | None => {}
            }
            match disk_root.and_then(|root| extent.present(root)) {
                Some(view) if !view.is_root() => {
                    let what = format!("what {word} {view} creates belongs to root on disk");
                    self.note(Code::Root, at, what, "keep such files away from the host's users");
                }
                Some(_) | None => {}
            }
        }
    }

    /// What the lists of names made doubtful.
    fn names<K: Kind>(&mut self, rules: &Rules<K>) {
        for stage in rules.names.iter().chain(&rules.prefix) {
            for doubt in &stage.doubts {
                if doubt.code == Code::Hole && rules.present_as.is_some() {
                    continue; // The collapse has all that is left.
                }
                let odd = matches!(doubt.code, Code::Duplicate | Code::Skipped | Code::Dead);
                let severity = if odd { Severity::Warning } else { Severity::Note };
                self.add(severity, doubt.code, &stage.at, doubt.what.clone(), doubt.hint);
            }
        }
    }

    /// Pairs that fall away, since an earlier stage has one of their ids.
    fn shadowed<K: Kind>(&mut self, rules: &Rules<K>) {
        for lost in rules.fallen() {
            let stage = |stage: &Option<Paired<K>>| stage.as_ref().map(|stage| stage.at.clone());
            let at = match lost.word {
                Word::Map => rules.map.first().map(|rule| rule.at.clone()),
                Word::Table => (rules.table.iter().find(|rule| rule.value == lost.first))
                    .map(|rule| rule.at.clone()),
                Word::Names => stage(&rules.names),
                Word::Prefix => stage(&rules.prefix),
            };
            let (word, first) = (lost.word.as_str(), lost.first);
            let what = match lost.count {
                1 => format!("{first} of {word} falls away"),
                many => format!("{many} pairs of {word} fall away, the first is {first}"),
            };
            let hint = "an earlier stage has the disk id or the view id";
            self.note(Code::Shadowed, &at.unwrap_or(Origin::Whole), what, hint);
        }
    }

    /// Ids between two ranges that nothing covers, counted once for a kind.
    fn holes<K: Kind>(&mut self, rules: &Rules<K>) {
        if rules.present_as.is_some() {
            return;
        }
        let single = rules.entries().chain(rules.named());
        let mut single: Vec<u32> = single.map(|entry| entry.disk.raw()).collect();
        single.sort_unstable();
        single.dedup();
        let mut count: usize = 0;
        let mut first = None;
        for pair in rules.map.windows(2) {
            let [before, after] = pair else { continue };
            let end = before.value.disk().raw().saturating_add(before.value.count());
            let next = after.value.disk().raw();
            let covered = single
                .partition_point(|id| *id < next)
                .saturating_sub(single.partition_point(|id| *id < end));
            let ranges = before.value.count() > 1 && after.value.count() > 1;
            let open = u64::from(next.saturating_sub(end)) > covered as u64;
            if ranges && open {
                count = count.saturating_add(1);
                first = first.or(Some((end, next.saturating_sub(1), &after.at)));
            }
        }
        if let Some((from, to, at)) = first {
            let more =
                if count > 1 { format!(", and {count} holes in all") } else { String::new() };
            let what = format!("disk {}s {from} to {to} are in no extent{more}", K::WORD);
            self.note(Code::Hole, at, what, "files of these owners are shown as unmapped");
        }
    }

    /// What a collapse does that its writer may not expect.
    fn collapse<K: Kind>(&mut self, rules: &Rules<K>) {
        let Some(present) = &rules.present_as else { return };
        let (word, shown, at) = (K::WORD, present.value, &present.at);
        if rules.store_as.is_none() {
            let what = format!(
                "new files belong to the server's own {word} if it is unprivileged, else to what \
                 is shown as {shown}"
            );
            self.note(Code::Server, at, what, "store-as says it for every server");
        }
        if shown.is_root() {
            self.shown_as_root(at, format!("every other owner is shown as {word} 0, root"));
        }
        if let Some(disk) = rules.stages().store_mapped(shown, &mut ()) {
            let what = format!(
                "{word} {shown} has files of its own, and is shown as the owner of \
                                all files outside the map; chown to it stores disk {word} {disk}"
            );
            self.warning(Code::Alias, at, what, "present them as an id outside the map");
        }
        self.dead(rules, at);
    }

    /// What `store-as` does that its writer may not expect.
    fn stored<K: Kind>(&mut self, rules: &Rules<K>) {
        let Some(store) = &rules.store_as else { return };
        let (word, disk, at) = (K::WORD, store.value, &store.at);
        if disk.is_root() {
            let what = "whatever callers create belongs to root on disk".to_owned();
            self.warning(Code::Root, at, what, "name the user who needs the files");
        }
        if disk.raw() == OVERFLOW {
            let what = format!("disk {word} {OVERFLOW} is the overflow id: nobody owns the files");
            self.warning(Code::Overflow, at, what, "give the files to a user of their own");
        }
        let seen = rules.stages().present(Some(disk), &mut ());
        if let (Some(seen), Some(shown)) = (seen, rules.present_as())
            && seen != shown
        {
            let what = format!("new files are shown as {word} {seen}, not as {shown}");
            self.note(Code::Elsewhere, at, what, "");
        }
    }

    /// What the alias of unmapped ids does that its writer may not expect.
    fn alias<K: Kind>(&mut self, rules: &Rules<K>) {
        let Some(alias) = &rules.unmapped_as else { return };
        let (word, shown, at) = (K::WORD, alias.value, &alias.at);
        if shown.is_root() {
            self.shown_as_root(at, format!("every unmapped owner is shown as {word} 0, root"));
        }
        if let Some(disk) = rules.stages().store_mapped(shown, &mut ()) {
            let what = format!(
                "{word} {shown} is shown as the owner of every unmapped file and \
                                has the owner's rights on it; chown to it stores disk {word} {disk}"
            );
            self.warning(Code::Alias, at, what, "choose an id outside the map");
        }
        self.dead(rules, at);
    }

    /// A rule for the rest where the stages before it leave no rest.
    fn dead<K: Kind>(&mut self, rules: &Rules<K>, at: &Origin) {
        if rules.stages().covered() >= u64::from(NO_ID) {
            let what = format!(
                "every disk {} is mapped: this is for those without a name in the \
                                server's namespace alone",
                K::WORD
            );
            self.note(Code::Dead, at, what, "");
        }
    }
}

/// Returns where the first rule that shows ids was written.
fn first_place<K: Kind>(rules: &Rules<K>) -> Option<&Origin> {
    let map = rules.map.first().map(|rule| &rule.at);
    let table = || rules.table.first().map(|rule| &rule.at);
    let named = || rules.names.iter().chain(&rules.prefix).map(|stage| &stage.at).next();
    map.or_else(table).or_else(named).or_else(|| rules.present_as.as_ref().map(|rule| &rule.at))
}
