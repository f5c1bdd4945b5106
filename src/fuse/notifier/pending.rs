//! What the kernel has still to be told, and when.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::fs::Notice;

/// How much may wait to be told; if it is more, all is told again instead.
pub(super) const MOST: usize = 1 << 16;

/// Everything, to be told again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct All {
    /// Whether it is to be.
    pub(super) wanted: bool,
    /// Whether pages are to be read again, too.
    pub(super) pages: bool,
}

impl All {
    pub(super) fn want(&mut self, pages: bool) {
        *self = Self { wanted: true, pages: self.pages | pages };
    }
}

/// What is to be told next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// A file, and whether its pages are to go; what the pause was before.
    File(u64, bool, Duration),
    /// A name, and how often it was told.
    Name(u64, OsString, usize),
    /// All names that somebody was asking for; how often that was done.
    Names(usize),
    /// Everything.
    All(All),
}

/// What is to be told soon, each once.
///
/// Trees, which give memory back as they get smaller.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// By the number of the directory.
    pub(super) names: BTreeSet<(u64, OsString)>,
    /// By number, and whether their pages are to go, too.
    pub(super) files: BTreeMap<u64, bool>,
    pub(super) all: All,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.files.is_empty() && !self.all.wanted
    }

    /// Adds a notice. If more than `most` would wait, all is told again instead: whatever
    /// the kernel knows is remembered where that is looked up.
    pub(super) fn add(&mut self, notice: Notice, most: usize) {
        match notice {
            Notice::Attributes(number) => {
                self.files.entry(number).or_insert(false);
            }
            Notice::Pages(number) => {
                self.files.insert(number, true);
            }
            Notice::Name(dir, name) => {
                self.names.insert((dir, name));
            }
            Notice::All => self.all.want(true),
        }
        if self.names.len().saturating_add(self.files.len()) > most {
            self.names = BTreeSet::new();
            let pages = std::mem::take(&mut self.files).into_values().any(|pages| pages);
            self.all.want(pages);
        }
    }

    /// Takes one thing out. Names come before files, since the kernel lets that wait for whoever lists
    /// the directory, and then its pages are there to be dropped.
    pub(super) fn pop(&mut self) -> Option<Job> {
        let all = std::mem::take(&mut self.all);
        if all.wanted {
            return Some(Job::All(all));
        }
        if let Some((dir, name)) = self.names.pop_first() {
            return Some(Job::Name(dir, name, 0));
        }
        let (number, pages) = self.files.pop_first()?;
        Some(Job::File(number, pages, Duration::ZERO))
    }

    /// Adds what another one has.
    pub(super) fn merge(&mut self, other: Self, most: usize) {
        if other.all.wanted {
            self.all.want(other.all.pages);
        }
        for (dir, name) in other.names {
            self.add(Notice::Name(dir, name), most);
        }
        for (number, pages) in other.files {
            self.add(file(number, pages), most);
        }
    }
}

/// Returns the notice of a file, and perhaps of its pages.
pub(super) const fn file(number: u64, pages: bool) -> Notice {
    if pages { Notice::Pages(number) } else { Notice::Attributes(number) }
}

/// What is to be told again, in the order of time.
#[derive(Debug, Default)]
pub(super) struct Later {
    by_time: BTreeMap<(Instant, u64), Job>,
    /// The files among it.
    files: HashSet<u64>,
    /// The names among it that wait for long.
    slow: HashSet<(u64, OsString)>,
    count: u64,
}

/// After how many times a name waits for long, and only while there is room.
pub(super) const SLOW: usize = 3;

impl Later {
    pub(super) fn add(&mut self, after: Duration, what: Job) {
        if let Job::File(number, ..) = what
            && !self.files.insert(number)
        {
            return;
        }
        if let Job::Name(dir, name, times) = &what
            && *times > SLOW
            && !self.slow.insert((*dir, name.clone()))
        {
            return;
        }
        let Some(when) = Instant::now().checked_add(after) else { return };
        self.count = self.count.wrapping_add(1);
        self.by_time.insert((when, self.count), what);
    }

    /// Reports whether nothing that can be avoided belongs added.
    pub(super) fn is_long(&self) -> bool {
        self.by_time.len() > MOST / 2
    }

    /// Gives up all of it if it is too much; returns what is to be told again instead.
    pub(super) fn overflow(&mut self) -> Option<All> {
        if self.by_time.len() <= MOST {
            return None;
        }
        let pages = self.by_time.values().any(|job| matches!(job, Job::File(_, true, _)));
        *self = Self::default();
        Some(All { wanted: true, pages })
    }

    /// Takes the first out that is due.
    pub(super) fn due(&mut self) -> Option<Job> {
        let first = self.by_time.first_entry()?;
        if first.key().0 > Instant::now() {
            return None;
        }
        let what = first.remove();
        match &what {
            Job::File(number, ..) => drop(self.files.remove(number)),
            Job::Name(dir, name, times) if *times > SLOW => {
                self.slow.remove(&(*dir, name.clone()));
            }
            Job::Name(..) | Job::Names(_) | Job::All(_) => {}
        }
        Some(what)
    }

    /// Returns how long nothing is due.
    pub(super) fn pause(&self) -> Option<Duration> {
        let (when, _) = self.by_time.first_key_value()?.0;
        Some(when.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_waits_once_for_long_and_often_for_a_moment() {
        let mut later = Later::default();
        let name = |times| Job::Name(2, "f".into(), times);
        for times in [1, 1, SLOW + 1, SLOW + 1, SLOW + 2] {
            later.add(Duration::ZERO, name(times));
        }
        assert_eq!(later.by_time.len(), 3);
        while later.due().is_some() {}
        later.add(Duration::ZERO, name(SLOW + 2));
        assert!(later.due().is_some() && later.slow.is_empty());
    }

    #[test]
    fn what_is_too_much_is_told_as_all() {
        let mut batch = Batch::default();
        let name = |n: u64| Notice::Name(1, n.to_string().into());
        for n in [7, 7, 8] {
            batch.add(name(n), 2);
        }
        batch.add(Notice::Attributes(9), 3);
        assert!(!batch.all.wanted);
        batch.add(Notice::Attributes(8), 3);
        assert_eq!(batch.all, All { wanted: true, pages: false });
        assert!(batch.names.is_empty() && batch.files.is_empty());
        batch.add(Notice::Pages(9), 0);
        assert!(batch.all.pages);
    }

    #[test]
    fn names_come_before_files_and_pages_stay_wanted() {
        let (mut batch, mut other) = (Batch::default(), Batch::default());
        for notice in [Notice::Pages(3), Notice::Attributes(3), Notice::Name(3, "f".into())] {
            other.add(notice, 9);
        }
        batch.merge(other, 9);
        let all: Vec<_> = std::iter::from_fn(|| batch.pop()).collect();
        assert_eq!(all, [Job::Name(3, "f".into(), 0), Job::File(3, true, Duration::ZERO)]);
    }
}
