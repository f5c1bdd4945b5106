//! The invertible parts of a policy, in the order in which they are asked:
//! no two of them claim the same id of either side.

use super::entry::Entry;
use crate::id::{Disk, Extent, Id, Kind, View};

/// Up to this many extents a walk is faster than a binary search.
const LINEAR: usize = 8;

/// The parts that translate one id to one, by the words that write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    /// Extents.
    Map,
    /// Single ids.
    Table,
    /// Ids whose name exists on both sides.
    Names,
    /// Ids whose name on disk is a prefix and the name in the view.
    Prefix,
}

impl Word {
    /// The order in which they are asked where nothing else is written.
    pub(super) const ORDER: [Self; 4] = [Self::Map, Self::Table, Self::Names, Self::Prefix];

    /// Returns the word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Table => "table",
            Self::Names => "names",
            Self::Prefix => "prefix",
        }
    }
}

/// What one part translates, as it was written: pairs disjoint on both sides.
#[derive(Clone, Debug)]
pub(super) enum Pairs<K: Kind> {
    /// Ranges of them.
    Extents(Vec<Extent<K>>),
    /// Single ones.
    Entries(Vec<Entry<K>>),
}

impl<K: Kind> Pairs<K> {
    /// Returns the pair of a disk id.
    pub(super) fn of_disk(&self, disk: Id<K, Disk>) -> Option<Entry<K>> {
        match self {
            Self::Extents(extents) => {
                extents.iter().find_map(|e| Some(Entry { disk, view: e.present(disk)? }))
            }
            Self::Entries(entries) => entries.iter().copied().find(|entry| entry.disk == disk),
        }
    }

    /// Returns the pair of a view id.
    pub(super) fn of_view(&self, view: Id<K, View>) -> Option<Entry<K>> {
        match self {
            Self::Extents(extents) => {
                extents.iter().find_map(|e| Some(Entry { disk: e.store(view)?, view }))
            }
            Self::Entries(entries) => entries.iter().copied().find(|entry| entry.view == view),
        }
    }
}

/// Extents sorted both ways, disjoint on both sides.
#[derive(Clone, Debug)]
struct Map<K: Kind> {
    by_disk: Box<[Extent<K>]>,
    by_view: Box<[Extent<K>]>,
}

impl<K: Kind> Map<K> {
    /// Takes extents that do not overlap on either side.
    fn new(extents: Vec<Extent<K>>) -> Self {
        let mut by_disk = extents.into_boxed_slice();
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

/// Single ids, sorted both ways, one to one.
#[derive(Clone, Debug)]
struct Table<K: Kind> {
    by_disk: Box<[Entry<K>]>,
    by_view: Box<[Entry<K>]>,
}

impl<K: Kind> Table<K> {
    /// Takes entries of which no two share an id.
    fn new(entries: Vec<Entry<K>>) -> Self {
        let mut by_disk = entries.into_boxed_slice();
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

/// What decided in a part: the extent or the entry that has the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit<K: Kind> {
    /// An extent, or the piece of one that earlier parts have left.
    Extent(Extent<K>),
    /// An entry.
    Entry(Entry<K>),
}

#[derive(Clone, Debug)]
enum Lookup<K: Kind> {
    Map(Map<K>),
    Table(Table<K>),
}

/// A part at run time, without what earlier parts have.
#[derive(Clone, Debug)]
pub(super) struct Part<K: Kind> {
    /// Which part it is.
    pub(super) word: Word,
    lookup: Lookup<K>,
}

impl<K: Kind> Part<K> {
    /// Returns the view id that a disk id is shown as, and what says so.
    pub(super) fn present(&self, disk: Id<K, Disk>) -> Option<(Id<K, View>, Hit<K>)> {
        match &self.lookup {
            Lookup::Map(map) => map.present(disk).map(|(view, by)| (view, Hit::Extent(by))),
            Lookup::Table(table) => table.present(disk).map(|by| (by.view, Hit::Entry(by))),
        }
    }

    /// Returns the disk id that a view id is stored as, and what says so.
    pub(super) fn store(&self, view: Id<K, View>) -> Option<(Id<K, Disk>, Hit<K>)> {
        match &self.lookup {
            Lookup::Map(map) => map.store(view).map(|(disk, by)| (disk, Hit::Extent(by))),
            Lookup::Table(table) => table.store(view).map(|by| (by.disk, Hit::Entry(by))),
        }
    }

    /// Returns all that it translates, by disk id.
    pub(super) fn extents(&self) -> Vec<Extent<K>> {
        match &self.lookup {
            Lookup::Map(map) => map.by_disk.to_vec(),
            Lookup::Table(table) => {
                table.by_disk.iter().map(|e| Extent::single(e.disk, e.view)).collect()
            }
        }
    }

    /// Returns the view ids, as ranges: first number and length.
    pub(super) fn views(&self) -> Vec<(u32, u64)> {
        match &self.lookup {
            Lookup::Map(map) => {
                map.by_view.iter().map(|e| (e.view().raw(), u64::from(e.count()))).collect()
            }
            Lookup::Table(table) => table.by_view.iter().map(|e| (e.view.raw(), 1)).collect(),
        }
    }
}

/// Pairs of a part that fell away: an earlier part has one of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fallen<K: Kind> {
    /// The part that lost them.
    pub(super) word: Word,
    /// The pair that comes first.
    pub(super) first: Entry<K>,
    /// How many there are.
    pub(super) count: u64,
}

/// Puts parts in a row: each keeps the pairs of which no earlier part has an
/// id, so that whatever one of them stores it also shows.
///
/// Pairs that an earlier part has just so are not counted as fallen.
pub(super) fn cascade<K: Kind>(
    written: impl IntoIterator<Item = (Word, Pairs<K>)>,
) -> (Box<[Part<K>]>, Vec<Fallen<K>>) {
    let (mut parts, mut fallen): (Vec<Part<K>>, Vec<Fallen<K>>) = (Vec::new(), Vec::new());
    for (word, pairs) in written {
        let mut lost = Vec::new();
        let lookup = match pairs {
            Pairs::Entries(entries) => {
                let (kept, gone): (Vec<_>, Vec<_>) =
                    entries.into_iter().partition(|entry| claim(&parts, *entry).is_none());
                lost.extend(gone);
                Lookup::Table(Table::new(kept))
            }
            Pairs::Extents(extents) => {
                let kept = extents.iter().flat_map(|extent| {
                    let (pieces, gone) = cut(*extent, &parts);
                    lost.extend(gone);
                    pieces
                });
                Lookup::Map(Map::new(kept.collect()))
            }
        };
        lost.retain(|pair| claim(&parts, *pair) == Some(Claim::Other));
        if let Some(first) = lost.iter().copied().min_by_key(|pair| pair.disk) {
            fallen.push(Fallen { word, first, count: lost.len() as u64 });
        }
        parts.push(Part { word, lookup });
    }
    (parts.into_boxed_slice(), fallen)
}

/// What earlier parts have of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The same pair.
    Same,
    /// One of its ids, or both apart.
    Other,
}

fn claim<K: Kind>(parts: &[Part<K>], pair: Entry<K>) -> Option<Claim> {
    let view = parts.iter().find_map(|part| part.present(pair.disk)).map(|(view, _)| view);
    let disk = parts.iter().find_map(|part| part.store(pair.view)).map(|(disk, _)| disk);
    match (disk, view) {
        (None, None) => None,
        (Some(disk), Some(view)) if disk == pair.disk && view == pair.view => Some(Claim::Same),
        _ => Some(Claim::Other),
    }
}

/// Cuts out of an extent the ids that earlier parts have on either side; the
/// pairs that are no more come second.
///
/// The only extents are those of the one map, so that what comes before it are
/// entries.
fn cut<K: Kind>(extent: Extent<K>, parts: &[Part<K>]) -> (Vec<Extent<K>>, Vec<Entry<K>>) {
    let mut gone: Vec<Entry<K>> = Vec::new();
    for part in parts {
        let Lookup::Table(Table { by_disk, by_view }) = &part.lookup else { continue };
        let taken = within(by_disk, extent.disk().raw(), extent.count(), |entry| entry.disk.raw());
        gone.extend(taken.iter().filter_map(|entry| {
            Some(Entry { disk: entry.disk, view: extent.present(entry.disk)? })
        }));
        let taken = within(by_view, extent.view().raw(), extent.count(), |entry| entry.view.raw());
        gone.extend(
            taken.iter().filter_map(|entry| {
                Some(Entry { disk: extent.store(entry.view)?, view: entry.view })
            }),
        );
    }
    gone.sort_unstable_by_key(|pair| pair.disk);
    gone.dedup();
    let (first_disk, first_view) = (extent.disk().raw(), extent.view().raw());
    let piece = |from: u32, to: u32| {
        let disk = Id::new(first_disk.checked_add(from)?)?;
        let view = Id::new(first_view.checked_add(from)?)?;
        Extent::new(disk, view, to.checked_sub(from)?).ok()
    };
    let mut pieces = Vec::new();
    let mut from = 0;
    for pair in &gone {
        let at = pair.disk.raw().saturating_sub(first_disk);
        pieces.extend(piece(from, at));
        from = at.saturating_add(1);
    }
    pieces.extend(piece(from, extent.count()));
    (pieces, gone)
}

/// Returns the entries whose ids are among the `count` from `first` on.
fn within<K: Kind>(
    sorted: &[Entry<K>],
    first: u32,
    count: u32,
    id: impl Fn(&Entry<K>) -> u32,
) -> &[Entry<K>] {
    let start = sorted.partition_point(|entry| id(entry) < first);
    let rest = sorted.get(start..).unwrap_or_default();
    let end = rest.partition_point(|entry| id(entry).saturating_sub(first) < count);
    rest.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::User;

    fn entry(disk: u32, view: u32) -> Entry<User> {
        Entry { disk: Id::new(disk).unwrap(), view: Id::new(view).unwrap() }
    }

    fn entries(pairs: &[(u32, u32)]) -> Pairs<User> {
        Pairs::Entries(pairs.iter().map(|(disk, view)| entry(*disk, *view)).collect())
    }

    fn answers(parts: &[Part<User>], disk: u32) -> Option<u32> {
        let disk = Id::new(disk).unwrap();
        parts.iter().find_map(|part| part.present(disk)).map(|(view, _)| view.raw())
    }

    #[test]
    fn a_later_pair_falls_away_when_either_id_is_taken() {
        let (parts, fallen) = cascade([
            (Word::Names, entries(&[(1, 5)])),
            (Word::Table, entries(&[(1, 7), (2, 5), (1_000, 1_000)])),
            (Word::Prefix, entries(&[(9, 7), (2, 8), (1_000, 1_000)])),
        ]);
        // (1, 7) is not there, so that 7 is free for the last part.
        for (disk, view) in [(1, Some(5)), (2, Some(8)), (9, Some(7)), (3, None)] {
            assert_eq!(answers(&parts, disk), view, "{disk}");
        }
        let table = Fallen { word: Word::Table, first: entry(1, 7), count: 2 };
        assert_eq!(fallen, [table]);
    }

    #[test]
    fn a_later_map_keeps_the_rest_of_its_extents() {
        let extents = vec![Extent::parse("0:0:100").unwrap(), Extent::parse("200:200:1").unwrap()];
        let (parts, fallen) = cascade([
            (Word::Names, entries(&[(10, 33), (0, 0), (99, 99), (300, 200)])),
            (Word::Map, Pairs::Extents(extents)),
        ]);
        for (disk, view) in [
            (0, Some(0)),
            (1, Some(1)),
            (9, Some(9)),
            (10, Some(33)),
            (11, Some(11)),
            (33, None),
            (34, Some(34)),
            (98, Some(98)),
            (99, Some(99)),
            (200, None),
            (300, Some(200)),
        ] {
            assert_eq!(answers(&parts, disk), view, "{disk}");
        }
        // 10:10, 33:33 and 200:200; 0:0 and 99:99 are as they were.
        assert_eq!(fallen, [Fallen { word: Word::Map, first: entry(10, 10), count: 3 }]);
        for part in &parts {
            for (first, count) in part.views() {
                let view = Id::new(first).unwrap();
                let (disk, _) = part.store(view).unwrap();
                assert_eq!(answers(&parts, disk.raw()), Some(first), "{first}:{count}");
            }
        }
    }

    #[test]
    fn a_whole_extent_can_fall() {
        let one = Pairs::Extents(vec![Extent::single(entry(4, 4).disk, entry(4, 4).view)]);
        let (parts, fallen) = cascade([(Word::Names, entries(&[(4, 9)])), (Word::Map, one)]);
        assert_eq!(answers(&parts, 4), Some(9));
        assert!(parts.iter().all(|part| part.store(Id::new(4).unwrap()).is_none()));
        assert_eq!(fallen.len(), 1);
    }
}
