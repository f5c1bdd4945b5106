//! The id maps of user namespaces: `/proc/PID/uid_map` and `gid_map`.

use std::fmt;
use std::io;

/// One line of a map, as user_namespaces(7) describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside, as the process that reads or writes the map sees
    /// it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// A whole map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Line>);

impl IdMap {
    /// Reads a map of a process, by its name in `/proc`; `kind` is `uid` or
    /// `gid`.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(process: &str, kind: &str) -> io::Result<Self> {
        std::fs::read_to_string(format!("/proc/{process}/{kind}_map")).map(|map| Self::parse(&map))
    }

    /// Takes the text of a map apart.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.split_ascii_whitespace().map(str::parse);
            let mut next = || fields.next()?.ok();
            Some(Line { inside: next()?, outside: next()?, count: next()? })
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Returns the lines.
    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    /// Reports whether every id is what it is outside, as in the namespace of the host.
    pub fn is_whole(&self) -> bool {
        self.0 == [Line { inside: 0, outside: 0, count: u32::MAX }]
    }

    /// Returns what stands outside for an id inside; `None`: it is not mapped.
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|line| moved(inside, line.inside, line.outside, line.count))
    }

    /// Returns the id inside for one outside; `None`: it is not mapped.
    pub fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|line| moved(outside, line.outside, line.inside, line.count))
    }
}

/// Moves an id that is among `count` from `near` on to those from `far` on.
fn moved(id: u32, near: u32, far: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(near).filter(|offset| *offset < count)?;
    far.checked_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_lead_both_ways() {
        let map =
            IdMap::parse("         0       1000          1\n         1     100000       10\nx\n");
        assert_eq!(map.lines().len(), 2);
        for (inside, outside) in
            [(0, Some(1000)), (1, Some(100_000)), (10, Some(100_009)), (11, None)]
        {
            assert_eq!(map.outside(inside), outside);
            assert_eq!(outside.and_then(|outside| map.inside(outside)), outside.and(Some(inside)));
        }
        assert_eq!(map.inside(999), None);
        let whole = IdMap::parse("0 0 4294967295");
        assert!(whole.is_whole() && !map.is_whole());
        assert_eq!(whole.outside(u32::MAX - 1), Some(u32::MAX - 1));
        assert_eq!(whole.outside(u32::MAX), None);
        assert!(IdMap::read("self", "uid").is_ok_and(|map| !map.lines().is_empty()));
    }
}
