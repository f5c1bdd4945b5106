//! The run-time form of a policy for one kind of ids: stages asked in order,
//! each of which decides or passes the id on.

use super::spec::Entry;
use crate::id::{Disk, Extent, Id, Kind, View};

/// Up to this many extents a walk is faster than a binary search.
const LINEAR: usize = 8;

/// The stage of extents: sorted both ways, disjoint on both sides.
#[derive(Clone, Debug)]
struct Map<K: Kind> {
    by_disk: Box<[Extent<K>]>,
    by_view: Box<[Extent<K>]>,
}

impl<K: Kind> Map<K> {
    /// Makes the stage of extents that do not overlap on either side.
    fn new(extents: impl Iterator<Item = Extent<K>>) -> Self {
        let mut by_disk: Box<[_]> = extents.collect();
        let mut by_view = by_disk.clone();
        by_disk.sort_unstable_by_key(|extent| extent.disk());
        by_view.sort_unstable_by_key(|extent| extent.view());
        Self { by_disk, by_view }
    }

    fn present(&self, disk: Id<K, Disk>) -> Option<(Id<K, View>, Extent<K>)> {
        let near = before(&self.by_disk, |extent| extent.disk() <= disk);
        near.iter().find_map(|extent| Some((extent.present(disk)?, *extent)))
    }

    fn store(&self, view: Id<K, View>) -> Option<(Id<K, Disk>, Extent<K>)> {
        let near = before(&self.by_view, |extent| extent.view() <= view);
        near.iter().find_map(|extent| Some((extent.store(view)?, *extent)))
    }
}

/// Returns the extents that can hold an id: all of a few, or else the last
/// one that begins at or before it.
fn before<K: Kind>(sorted: &[Extent<K>], begun: impl Fn(&Extent<K>) -> bool) -> &[Extent<K>] {
    if sorted.len() <= LINEAR {
        return sorted;
    }
    let end = sorted.partition_point(begun);
    sorted.get(end.saturating_sub(1)..end).unwrap_or_default()
}

/// The stage of single ids: sorted both ways, one to one.
#[derive(Clone, Debug)]
struct Table<K: Kind> {
    by_disk: Box<[Entry<K>]>,
    by_view: Box<[Entry<K>]>,
}

impl<K: Kind> Table<K> {
    /// Makes the stage of entries of which no two share an id.
    fn new(entries: impl Iterator<Item = Entry<K>>) -> Self {
        let mut by_disk: Box<[_]> = entries.collect();
        let mut by_view = by_disk.clone();
        by_disk.sort_unstable_by_key(|entry| entry.disk);
        by_view.sort_unstable_by_key(|entry| entry.view);
        Self { by_disk, by_view }
    }

    fn present(&self, disk: Id<K, Disk>) -> Option<Entry<K>> {
        let at = self.by_disk.binary_search_by_key(&disk, |entry| entry.disk).ok()?;
        self.by_disk.get(at).copied()
    }

    fn store(&self, view: Id<K, View>) -> Option<Entry<K>> {
        let at = self.by_view.binary_search_by_key(&view, |entry| entry.view).ok()?;
        self.by_view.get(at).copied()
    }
}

/// What becomes of ids that neither map nor table knows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest<K: Kind> {
    /// They are shown as one owner, and anybody may create.
    Collapse {
        /// The owner shown.
        shown: Id<K, View>,
        /// Whose the files are that a caller outside map and table creates.
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
    /// No extent holds the id.
    NoExtent,
    /// This extent holds the id.
    Extent(Extent<K>),
    /// The table has no entry for the id.
    NoEntry,
    /// The table has this entry for the id.
    Entry(Entry<K>),
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
    map: Map<K>,
    table: Table<K>,
    rest: Rest<K>,
    store_as: Option<Id<K, Disk>>,
}

impl<K: Kind> Stages<K> {
    /// Makes the stages; extents and entries are disjoint on both sides.
    pub(super) fn new(
        extents: impl Iterator<Item = Extent<K>>,
        entries: impl Iterator<Item = Entry<K>>,
        rest: Rest<K>,
        store_as: Option<Id<K, Disk>>,
    ) -> Self {
        Self { map: Map::new(extents), table: Table::new(entries), rest, store_as }
    }

    /// Sets whose the files are that callers outside map and table create.
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
        if let Some((view, extent)) = self.map.present(disk) {
            trace.step(Step::Extent(extent));
            return Some(view);
        }
        self.pass_map(trace);
        if let Some(entry) = self.table.present(disk) {
            trace.step(Step::Entry(entry));
            return Some(entry.view);
        }
        self.pass_table(trace);
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

    /// Returns the disk id that map or table store a view id as.
    pub(super) fn store_mapped(
        &self,
        view: Id<K, View>,
        trace: &mut impl Trace<K>,
    ) -> Option<Id<K, Disk>> {
        if let Some((disk, extent)) = self.map.store(view) {
            trace.step(Step::Extent(extent));
            return Some(disk);
        }
        self.pass_map(trace);
        if let Some(entry) = self.table.store(view) {
            trace.step(Step::Entry(entry));
            return Some(entry.disk);
        }
        self.pass_table(trace);
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

    fn pass_map(&self, trace: &mut impl Trace<K>) {
        if !self.map.by_disk.is_empty() {
            trace.step(Step::NoExtent);
        }
    }

    fn pass_table(&self, trace: &mut impl Trace<K>) {
        if !self.table.by_disk.is_empty() {
            trace.step(Step::NoEntry);
        }
    }

    /// Returns the view ids that can be presented: sorted, disjoint ranges
    /// that do not touch, each as its first number and its length.
    pub(super) fn presentable(&self) -> Vec<(u32, u64)> {
        let alias = match self.rest {
            Rest::Collapse { shown, .. } => Some(shown),
            Rest::Unmapped { shown } => shown,
        };
        let extents = self.map.by_view.iter().map(|e| (e.view().raw(), u64::from(e.count())));
        let entries = self.table.by_view.iter().map(|entry| (entry.view.raw(), 1));
        let mut ranges: Vec<(u32, u64)> =
            extents.chain(entries).chain(alias.map(|id| (id.raw(), 1))).collect();
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
