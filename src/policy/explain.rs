//! Decisions with their reasons: the evaluator of the request path, asked by
//! somebody who listens.

mod shown;

use std::fmt;

use serde::Serialize;

pub use shown::{Asker, Shown};

use super::entry::Entry;
use super::error::Written;
use super::names::{Named, Paired};
use super::parts::{Hit, Word};
use super::pipeline::Pipeline;
use super::spec::Rules;
use super::stages::{Stages, Step};
use crate::id::{Disk, Extent, Id, Ids, Kind, Owner, Side as _, View};
use crate::text::escape;

/// What a policy is asked about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// What is this disk id shown as?
    Present,
    /// What is this view id stored as, by chown for example?
    Store,
    /// Whose on disk are the files that a caller with this view id creates?
    Create,
}

impl Question {
    /// Returns the word for the question: that of the policy's method.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Store => "store",
            Self::Create => "create",
        }
    }
}

/// What one stage said on the way to an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The stage, by the word that writes it in a policy where there is one.
    pub stage: &'static str,
    /// What the stage said.
    pub text: String,
    /// The extent, entry or rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where the rule was written: `FILE:LINE:COLUMN`, or the option.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// A question, its answer, and the stages that were asked, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What was asked.
    pub question: Question,
    /// The kind of the ids: `uid` or `gid`.
    pub kind: &'static str,
    /// The id asked about, of the disk for `present`, else of the view;
    /// nothing for a disk id that the server cannot name.
    pub id: Option<u32>,
    /// The id on the other side; nothing: unmapped, so shown as the overflow
    /// id, or refused with `EOVERFLOW`.
    pub answer: Option<u32>,
    /// What each stage said; the last one decided.
    pub reasons: Vec<Reason>,
}

impl Pipeline {
    /// Explains as whom callers see a file of this owner: uid, then gid.
    pub fn explain_owner(&self, owner: Owner<Disk>) -> [Decision; 2] {
        [
            present(&self.users, self.spec.users(), owner.uid),
            present(&self.groups, self.spec.groups(), owner.gid),
        ]
    }

    /// Explains as whom one caller sees a file of this owner: as its own, where
    /// the policy mirrors it.
    pub fn explain_owner_to(&self, owner: Owner<Disk>, caller: impl Into<Asker>) -> [Decision; 2] {
        let [mut user, group] = self.explain_owner(owner);
        let asker = caller.into();
        if let Some(reason) = self.mirror(&asker) {
            user.reasons.push(reason);
            user.answer = Some(asker.ids.uid.raw());
        }
        [user, group]
    }

    /// Explains whose a file is that a caller with these ids creates.
    pub fn explain_create(&self, caller: Ids<View>) -> [Decision; 2] {
        [
            create(&self.users, self.spec.users(), caller.uid),
            create(&self.groups, self.spec.groups(), caller.gid),
        ]
    }

    /// Explains what a change of owner to these ids stores.
    pub fn explain_store(&self, owner: Ids<View>) -> [Decision; 2] {
        [
            store(&self.users, self.spec.users(), owner.uid),
            store(&self.groups, self.spec.groups(), owner.gid),
        ]
    }
}

impl Pipeline {
    /// Explains what callers may change, where that is not just what the
    /// kernel lets them: one reason for each rule, the answer in its text.
    pub fn explain_changes(&self) -> Vec<Reason> {
        let words = self.spec.changes().words().into_iter();
        words
            .map(|(stage, text, at)| Reason { stage, text, rule: None, at: Some(at.to_string()) })
            .collect()
    }
}

fn present<K: Named>(stages: &Stages<K>, rules: &Rules<K>, id: Option<Id<K, Disk>>) -> Decision {
    let mut steps = Vec::new();
    let answer = stages.present(id, &mut steps).map(Id::raw);
    decision(Question::Present, rules, id.map(Id::raw), answer, &steps)
}

fn store<K: Named>(stages: &Stages<K>, rules: &Rules<K>, id: Id<K, View>) -> Decision {
    let mut steps = Vec::new();
    let answer = stages.store(id, &mut steps).map(Id::raw);
    decision(Question::Store, rules, Some(id.raw()), answer, &steps)
}

fn create<K: Named>(stages: &Stages<K>, rules: &Rules<K>, id: Id<K, View>) -> Decision {
    let mut steps = Vec::new();
    let answer = stages.create(id, &mut steps).map(Id::raw);
    decision(Question::Create, rules, Some(id.raw()), answer, &steps)
}

fn decision<K: Named>(
    question: Question,
    rules: &Rules<K>,
    id: Option<u32>,
    answer: Option<u32>,
    steps: &[Step<K>],
) -> Decision {
    let reasons = steps.iter().map(|step| reason(question, rules, id, *step)).collect();
    Decision { question, kind: K::WORD, id, answer, reasons }
}

/// Puts a step into words and finds where its rule was written.
fn reason<K: Named>(
    question: Question,
    rules: &Rules<K>,
    id: Option<u32>,
    step: Step<K>,
) -> Reason {
    let word = K::WORD;
    let plain = |stage, text: String| Reason { stage, text, rule: None, at: None };
    match step {
        Step::Unnamed => plain("server", format!("the server has no name for the disk {word}")),
        Step::StoreAs(disk) => Reason {
            at: place(rules.store_as.as_ref()),
            ..plain("store-as", format!("whatever callers create belongs to disk {word} {disk}"))
        },
        Step::Passed(part) => plain(part.as_str(), passed(question, rules, id, part)),
        Step::Hit(..) if rules.shows_identity() => {
            plain("identity", format!("no rule for {word}s: each is itself"))
        }
        Step::Hit(part, by) => hit(rules, part, by),
        Step::Shown(_) | Step::Sink(..) | Step::NotShown(_) => Reason {
            at: place(rules.present_as.as_ref()),
            ..plain("present-as", collapsed(question, step))
        },
        Step::Alias(view) => Reason {
            at: place(rules.unmapped_as.as_ref()),
            ..plain("unmapped", format!("no counterpart; shown as {word} {view}, not stored"))
        },
        Step::Unmapped => plain(
            "unmapped",
            match question {
                Question::Present => "no counterpart: shown as the overflow id",
                Question::Store | Question::Create => "no counterpart: refused",
            }
            .to_owned(),
        ),
    }
}

/// Says why a part passed an id on: it does not have it, or had to leave it to
/// an earlier part, which then has the id on the other side.
fn passed<K: Named>(question: Question, rules: &Rules<K>, id: Option<u32>, part: Word) -> String {
    let written = rules.parts().into_iter().find(|(word, _)| *word == part);
    let fallen = written.zip(id).and_then(|((_, pairs), id)| match question {
        Question::Present => {
            let entry = pairs.of_disk(Id::new(id)?)?;
            Some((entry, View::WORD, entry.view.raw()))
        }
        Question::Store | Question::Create => {
            let entry = pairs.of_view(Id::new(id)?)?;
            Some((entry, Disk::WORD, entry.disk.raw()))
        }
    });
    if let Some((entry, side, id)) = fallen {
        return format!("{entry} fell away: an earlier stage has {side} {} {id}", K::WORD);
    }
    match part {
        Word::Map => "no extent holds it",
        Word::Table => "no entry for it",
        Word::Names => "its name is not on both sides, or it has none",
        Word::Prefix => "it has no name that the prefix pairs up",
    }
    .to_owned()
}

/// Puts what a part translates one to one into words.
fn hit<K: Named>(rules: &Rules<K>, part: Word, by: Hit<K>) -> Reason {
    let of = |rule: String, text: String, at: Option<String>| Reason {
        stage: part.as_str(),
        text,
        rule: Some(rule),
        at,
    };
    match by {
        Hit::Extent(piece) => {
            // Of an extent with holes only a piece was asked.
            let holds =
                |rule: &&Written<Extent<K>>| rule.value.present(piece.disk()) == Some(piece.view());
            let rule = rules.map.iter().find(holds);
            let extent = rule.map_or(piece, |rule| rule.value);
            of(extent.to_string(), format!("in extent {extent}"), place(rule))
        }
        Hit::Entry(entry) => {
            let stage = match part {
                Word::Names => rules.names.as_ref(),
                Word::Prefix => rules.prefix.as_ref(),
                Word::Map | Word::Table => None,
            };
            match stage {
                Some(stage) => {
                    let at = Some(stage.at.to_string());
                    of(entry.to_string(), named(stage, entry), at)
                }
                None => {
                    let rule = rules.table.iter().find(|rule| rule.value == entry);
                    of(entry.to_string(), format!("entry {entry}"), place(rule))
                }
            }
        }
    }
}

/// Says which names made a pair.
fn named<K: Named>(stage: &Paired<K>, entry: Entry<K>) -> String {
    let (noun, word, prefix) = (K::NOUN, K::WORD, &stage.prefix);
    let Some(pair) = stage.pair(entry) else { return format!("pair {entry}") };
    let (name, Entry { disk, view }) = (&pair.name, entry);
    if prefix.is_empty() {
        return escape(&format!("{noun} {name} is disk {word} {disk} and view {word} {view}"));
    }
    escape(&format!("disk {noun} {prefix}{name}, {word} {disk}, is {name}, view {word} {view}"))
}

/// Puts what the collapse said into words.
fn collapsed<K: Kind>(question: Question, step: Step<K>) -> String {
    let word = K::WORD;
    match (step, question) {
        (Step::Shown(view), _) => format!("every other owner is shown as {word} {view}"),
        (Step::Sink(_, Some(disk)), Question::Create) => {
            format!("anybody may create; the file belongs to disk {word} {disk}")
        }
        (Step::Sink(view, Some(disk)), _) => format!("{word} {view} is stored as {disk}"),
        (Step::Sink(view, None), _) => {
            format!("what is stored would not be shown as {word} {view}: refused")
        }
        (Step::NotShown(view), _) => format!("it would be shown as {word} {view}: refused"),
        _ => String::new(),
    }
}

fn place<T>(rule: Option<&Written<T>>) -> Option<String> {
    rule.map(|rule| rule.at.to_string())
}

/// A line with the answer and one for each stage, each ended.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { question, kind, id, answer, reasons } = self;
        let id = id.map_or_else(|| "unknown to the server".to_owned(), |id| id.to_string());
        match (question, answer) {
            (Question::Present, Some(view)) => {
                writeln!(f, "disk {kind} {id} is shown as {kind} {view}")?;
            }
            (Question::Present, None) => {
                writeln!(f, "disk {kind} {id} is unmapped: shown as the overflow id")?;
            }
            (Question::Store, Some(disk)) => {
                writeln!(f, "chown to {kind} {id} stores disk {kind} {disk}")?;
            }
            (Question::Store, None) => writeln!(f, "chown to {kind} {id} is refused: EOVERFLOW")?,
            (Question::Create, Some(disk)) => {
                writeln!(f, "a file created by {kind} {id} belongs to disk {kind} {disk}")?;
            }
            (Question::Create, None) => writeln!(f, "{kind} {id} cannot create: EOVERFLOW")?,
        }
        reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, text, at, .. } = self;
        write!(f, "{stage}: {text}")?;
        at.as_ref().map_or(Ok(()), |at| write!(f, " ({at})"))
    }
}
