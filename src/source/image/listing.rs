//! The names of a directory, in order and to be found.

use std::ffi::OsStr;

use super::{Entry, Nid, eio};
use crate::attr::{FileKind, Name};
use crate::error::Result;

/// The names of a directory.
///
/// Names are in one piece of memory, since there may be very many.
#[derive(Debug)]
pub(super) struct Listing {
    lines: Vec<Line>,
    /// Indices of lines, by name.
    sorted: Vec<u32>,
    names: Vec<u8>,
}

/// What a listing has of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub nid: Nid,
    pub ino: u64,
    pub kind: Option<FileKind>,
    start: u32,
    length: u8,
}

impl Listing {
    /// Makes a listing of entries; what cannot be a name is left out, and so is a name
    /// that was there before.
    ///
    /// # Errors
    /// `EIO` if there are more than anything could hold.
    pub fn new(entries: Vec<Entry>) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut listing = Self {
            lines: Vec::with_capacity(entries.len()),
            sorted: Vec::new(),
            names: Vec::new(),
        };
        for entry in entries {
            let name = entry.name.as_bytes();
            if Name::new(&entry.name).is_err() || name == b"." || name == b".." {
                log::warn!("{:?} is no name, and left out", entry.name);
                continue;
            }
            let start = u32::try_from(listing.names.len()).map_err(|_| eio())?;
            let length = u8::try_from(name.len()).map_err(|_| eio())?;
            listing.names.extend_from_slice(name);
            listing.lines.push(Line {
                nid: entry.nid,
                ino: entry.ino,
                kind: entry.kind,
                start,
                length,
            });
        }
        listing.names.shrink_to_fit();
        listing.sorted = listing.by_name()?;
        if listing.sorted.len() < listing.lines.len() {
            log::warn!("a directory has a name twice: only the first is shown");
            let mut firsts = std::mem::take(&mut listing.sorted);
            firsts.sort_unstable();
            let lines = firsts.iter().filter_map(|index| listing.line(*index).copied());
            listing.lines = lines.collect();
            listing.sorted = listing.by_name()?;
        }
        Ok(listing)
    }

    /// Returns the indices of lines by name, only the first of each.
    fn by_name(&self) -> Result<Vec<u32>> {
        let count = u32::try_from(self.lines.len()).map_err(|_| eio())?;
        let mut sorted: Vec<u32> = (0..count).collect();
        sorted.sort_by(|a, b| self.name_at(*a).cmp(self.name_at(*b)));
        sorted.dedup_by(|b, a| self.name_at(*a) == self.name_at(*b));
        Ok(sorted)
    }

    /// Returns how many bytes of memory it takes.
    pub fn bytes(&self) -> u64 {
        let lines = self.lines.capacity().saturating_mul(size_of::<Line>());
        let sorted = self.sorted.capacity().saturating_mul(size_of::<u32>());
        let all = lines.saturating_add(sorted).saturating_add(self.names.capacity());
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// Finds a name.
    pub fn find(&self, name: &[u8]) -> Option<&Line> {
        let place = self.sorted.binary_search_by(|line| self.name_at(*line).cmp(name)).ok()?;
        self.line(*self.sorted.get(place)?)
    }

    /// Returns lines with their names, from an index on.
    pub fn from(&self, index: usize) -> impl Iterator<Item = (&OsStr, &Line)> {
        use std::os::unix::ffi::OsStrExt as _;
        let lines = self.lines.get(index..).unwrap_or_default();
        lines.iter().map(|line| (OsStr::from_bytes(self.name(line)), line))
    }

    fn name_at(&self, index: u32) -> &[u8] {
        self.line(index).map_or(&[], |line| self.name(line))
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(usize::try_from(index).ok()?)
    }

    fn name(&self, line: &Line) -> &[u8] {
        let start = usize::try_from(line.start).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::from(line.length));
        self.names.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn listing(names: &[&[u8]]) -> Listing {
        let entry = |(nid, name): (u64, &&[u8])| Entry {
            name: OsString::from_vec(name.to_vec()),
            nid: Nid(nid),
            ino: nid,
            kind: None,
        };
        Listing::new((0..).zip(names).map(entry).collect()).unwrap()
    }

    #[test]
    fn names_are_found_whatever_their_order() {
        let long = [b'x'; 255];
        let names: [&[u8]; 6] = [b"b", b"\xff\n", b"a", &long, b"ab", b"A"];
        let listing = listing(&names);
        for (nid, name) in (0..).zip(names) {
            assert_eq!(listing.find(name).map(|line| line.nid), Some(Nid(nid)));
        }
        assert!(listing.find(b"").is_none() && listing.find(b"aa").is_none());
        let order: Vec<_> = listing.from(1).map(|(_, line)| line.nid.0).collect();
        assert_eq!(order, [1, 2, 3, 4, 5]);
        assert_eq!(listing.from(7).count(), 0);
    }

    #[test]
    fn what_is_no_name_is_left_out() {
        let listing = listing(&[b"a/b", b"", b".", b"..", b"a\0", &[b'y'; 256], b"good"]);
        let names: Vec<_> = listing.from(0).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["good"]);
    }

    #[test]
    fn of_two_of_one_name_there_is_the_first() {
        let listing = listing(&[b"z", b"a", b"b", b"a", b"a", b"b", b"c"]);
        assert_eq!(listing.find(b"a").map(|line| line.nid), Some(Nid(1)));
        let shown: Vec<_> = listing.from(0).map(|(name, line)| (name, line.nid.0)).collect();
        let first = [("z", 0), ("a", 1), ("b", 2), ("c", 6)];
        assert_eq!(shown, first.map(|(name, nid)| (OsStr::new(name), nid)));
        assert!(first.iter().all(|(name, _)| listing.find(name.as_bytes()).is_some()));
    }
}
