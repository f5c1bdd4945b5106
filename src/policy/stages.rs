//! The run-time form of a policy for one kind of ids: stages asked in order,
//! each of which decides or passes the id on.

use super::parts::{Hit, Pairs, Part, Word, cascade};
use crate::id::{Disk, Id, Kind, View};

/// What becomes of ids that no part knows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest<K: Kind> {
    /// They are shown as one owner, and anybody may create.
    Collapse {
        /// The owner shown.
        shown: Id<K, View>,
        /// Whose the files are that a caller whom no part knows creates.
        sink: Option<Id<K, Disk>>,
    },
    /// They have no counterpart; they may still be shown under an alias.
    Unmapped {
        /// The alias shown, which cannot be stored.
        shown: Option<Id<K, View>>,
    },
}

/// One step of a decision: the stage that was asked, and what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<K: Kind> {
    /// The server cannot name the disk id.
    Unnamed,
    /// `store-as` decided whose new files are.
    StoreAs(Id<K, Disk>),
    /// This part does not have the id.
    Passed(Word),
    /// This part has the id, in this extent or entry.
    Hit(Word, Hit<K>),
    /// The collapse shows the rest as this.
    Shown(Id<K, View>),
    /// The collapse stores what is shown as this view id.
    Sink(Id<K, View>, Option<Id<K, Disk>>),
    /// The collapse stores no other view id.
    NotShown(Id<K, View>),
    /// Unmapped, and shown under this alias.
    Alias(Id<K, View>),
    /// Unmapped.
    Unmapped,
}

/// Whoever listens to a decision being made.
///
/// The listener of the request path is `()`, which costs nothing.
pub(super) trait Trace<K: Kind> {
    /// Takes the next step.
    fn step(&mut self, step: Step<K>);
}

impl<K: Kind> Trace<K> for () {
    fn step(&mut self, _: Step<K>) {}
}

impl<K: Kind> Trace<K> for Vec<Step<K>> {
    fn step(&mut self, step: Step<K>) {
        self.push(step);
    }
}

/// The stages of one kind of ids.
#[derive(Clone, Debug)]
pub(super) struct Stages<K: Kind> {
    parts: Box<[Part<K>]>,
    rest: Rest<K>,
    store_as: Option<Id<K, Disk>>,
}

impl<K: Kind> Stages<K> {
    /// Makes the stages, the parts in the order in which they are asked.
    pub(super) fn new(
        written: impl IntoIterator<Item = (Word, Pairs<K>)>,
        rest: Rest<K>,
        store_as: Option<Id<K, Disk>>,
    ) -> Self {
        let (parts, _) = cascade(written);
        Self { parts, rest, store_as }
    }

    /// Sets whose the files are that callers whom no part knows create.
    pub(super) fn set_sink(&mut self, disk: Id<K, Disk>) {
        if let Rest::Collapse { sink, .. } = &mut self.rest {
            *sink = Some(disk);
        }
    }

    /// Returns the view id that a disk id is shown as.
    pub(super) fn present(
        &self,
        disk: Option<Id<K, Disk>>,
        trace: &mut impl Trace<K>,
    ) -> Option<Id<K, View>> {
        let Some(disk) = disk else {
            trace.step(Step::Unnamed);
            return self.present_rest(trace);
        };
        for part in &self.parts {
            if let Some((view, by)) = part.present(disk) {
                trace.step(Step::Hit(part.word, by));
                return Some(view);
            }
            trace.step(Step::Passed(part.word));
        }
        self.present_rest(trace)
    }

    fn present_rest(&self, trace: &mut impl Trace<K>) -> Option<Id<K, View>> {
        let (step, view) = match self.rest {
            Rest::Collapse { shown, .. } => (Step::Shown(shown), Some(shown)),
            Rest::Unmapped { shown: Some(alias) } => (Step::Alias(alias), Some(alias)),
            Rest::Unmapped { shown: None } => (Step::Unmapped, None),
        };
        trace.step(step);
        view
    }

    /// Returns the disk id that one of the parts stores a view id as.
    pub(super) fn store_mapped(
        &self,
        view: Id<K, View>,
        trace: &mut impl Trace<K>,
    ) -> Option<Id<K, Disk>> {
        for part in &self.parts {
            if let Some((disk, by)) = part.store(view) {
                trace.step(Step::Hit(part.word, by));
                return Some(disk);
            }
            trace.step(Step::Passed(part.word));
        }
        None
    }

    /// Returns the disk id that a view id is stored as by chown and the like.
    ///
    /// Where this is `Some(d)`, `d` is shown as the view id.
    pub(super) fn store(
        &self,
        view: Id<K, View>,
        trace: &mut impl Trace<K>,
    ) -> Option<Id<K, Disk>> {
        if let Some(disk) = self.store_mapped(view, trace) {
            return Some(disk);
        }
        match self.rest {
            Rest::Collapse { shown, sink } if view == shown => {
                // An explicit store-as may be shown as somebody else.
                let disk = sink.filter(|disk| self.present(Some(*disk), &mut ()) == Some(shown));
                trace.step(Step::Sink(shown, disk));
                disk
            }
            Rest::Collapse { shown, .. } => {
                trace.step(Step::NotShown(shown));
                None
            }
            Rest::Unmapped { .. } => {
                trace.step(Step::Unmapped);
                None
            }
        }
    }

    /// Returns the disk id of what a caller creates.
    pub(super) fn create(
        &self,
        caller: Id<K, View>,
        trace: &mut impl Trace<K>,
    ) -> Option<Id<K, Disk>> {
        if let Some(disk) = self.store_as {
            trace.step(Step::StoreAs(disk));
            return Some(disk);
        }
        if let Some(disk) = self.store_mapped(caller, trace) {
            return Some(disk);
        }
        match self.rest {
            Rest::Collapse { shown, sink } => {
                trace.step(Step::Sink(shown, sink));
                sink
            }
            Rest::Unmapped { .. } => {
                trace.step(Step::Unmapped);
                None
            }
        }
    }

    /// Returns how many ids the parts have on each side.
    pub(super) fn covered(&self) -> u64 {
        let counts = self.parts.iter().flat_map(Part::views).map(|(_, count)| count);
        counts.fold(0, u64::saturating_add)
    }

    /// Returns the view ids that can be presented: sorted, disjoint ranges
    /// that do not touch, each as its first number and its length.
    pub(super) fn presentable(&self) -> Vec<(u32, u64)> {
        let alias = match self.rest {
            Rest::Collapse { shown, .. } => Some(shown),
            Rest::Unmapped { shown } => shown,
        };
        let parts = self.parts.iter().flat_map(Part::views);
        let mut ranges: Vec<(u32, u64)> = parts.chain(alias.map(|id| (id.raw(), 1))).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let end = u64::from(last.0).saturating_add(last.1);
            if u64::from(next.0) > end {
                return false;
            }
            let next_end = u64::from(next.0).saturating_add(next.1);
            last.1 = end.max(next_end).saturating_sub(u64::from(last.0));
            true
        });
        ranges
    }
}
