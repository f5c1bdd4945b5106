//! How two lists of names become pairs of ids.

use std::collections::{HashMap, HashSet};

use super::passwd::{self, is_name};
use super::{Doubt, List, Named, Names, Pair, Paired, Place, Unread};
use crate::id::{Id, Kind, NO_ID};
use crate::policy::entry::Entry;
use crate::policy::error::{Code, Origin, PolicyError, quote};
use crate::text::escape;

/// A list as it is searched: of two entries with one name or one id the first
/// counts, as for getpwnam(3) and getpwuid(3).
#[derive(Default)]
struct Catalog {
    entries: Vec<(String, u32)>,
    by_name: HashMap<String, u32>,
    ids: HashSet<u32>,
    /// Entries that do not count, but for mere repetitions.
    duplicates: Vec<(String, u32)>,
}

impl Catalog {
    fn add(&mut self, name: String, id: u32) {
        match self.by_name.get(&name) {
            Some(first) if *first == id => {}
            None if self.ids.insert(id) => {
                self.by_name.insert(name.clone(), id);
                self.entries.push((name, id));
            }
            Some(_) | None => self.duplicates.push((name, id)),
        }
    }

    /// Asks the host for names that it did not list: not every name service
    /// lists all that it knows.
    fn ask<K: Named>(&mut self, wanted: &[(String, u32)], names: &dyn Names) {
        for (name, _) in wanted {
            if !self.by_name.contains_key(name)
                && let Some(id) = K::one(names, name).filter(|id| *id != NO_ID)
            {
                self.add(name.clone(), id);
            }
        }
    }

    /// Says which entries do not count; `what` is the list.
    fn doubt<K: Named>(&self, what: &str) -> Option<Doubt> {
        let (name, id) = self.duplicates.first()?;
        let (noun, name) = (K::NOUN, quote(name));
        let more = match self.duplicates.len() {
            1 => String::new(),
            many => format!(", the first of {many} such entries"),
        };
        let what = format!(
            "{what} has {noun} {name} with {} {id} beside an earlier entry of that name or \
             {}{more}",
            K::WORD,
            K::WORD
        );
        let hint = "the first entry counts, as in getpwnam(3)";
        Some(Doubt { code: Code::Duplicate, what, hint })
    }
}

/// Reads a list; what is doubtful about its lines is added.
///
/// # Errors
/// `File`: it cannot be read. A file in a source that is not at hand is empty.
fn catalog<K: Named>(
    at: &Origin,
    list: &List,
    names: &dyn Names,
    doubts: &mut Vec<Doubt>,
) -> Result<Catalog, PolicyError> {
    let failed = |what: String| PolicyError::new(Code::File, at.clone(), what);
    let unseen = |what: &str| Doubt {
        code: Code::Unread,
        what: format!("{what} was not looked at: it is in the source"),
        hint: "give the source with --source",
    };
    let mut found = Catalog::default();
    let entries = match list {
        List::Inline(entries) => entries.clone(),
        List::Host => match K::all(names) {
            Ok(entries) => entries,
            Err(Unread::Failed(why)) => {
                return Err(failed(format!("the {}s of this host: {why}", K::NOUN)));
            }
            Err(Unread::NoSource) => Vec::new(),
        },
        List::File(place) => match names.file(place) {
            Ok(text) => {
                let read = passwd::read(&text, K::FORM);
                doubts.extend(skipped(place, read.malformed, read.compat));
                read.entries
            }
            Err(Unread::Failed(why)) => return Err(failed(format!("{place}: {why}"))),
            Err(Unread::NoSource) => {
                doubts.push(unseen(&place.to_string()));
                Vec::new()
            }
        },
    };
    for (name, id) in entries {
        if is_name(&name) && id != NO_ID {
            found.add(name, id);
        }
    }
    Ok(found)
}

/// Says how many lines of a file do not count.
fn skipped(place: &Place, malformed: usize, compat: usize) -> Option<Doubt> {
    let of = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 line of {place} {one}"),
        count => format!("{count} lines of {place} {many}"),
    };
    let what = [
        (malformed > 0).then(|| of(malformed, "is malformed", "are malformed")),
        (compat > 0).then(|| of(compat, "asks for NIS", "ask for NIS")),
    ];
    let what: Vec<String> = what.into_iter().flatten().collect();
    if what.is_empty() {
        return None;
    }
    let what = what.join(", ");
    Some(Doubt { code: Code::Skipped, what, hint: "they are skipped, as getpwnam(3) does" })
}

/// Pairs the ids whose name is on both sides.
pub(super) fn same_name<K: Named>(
    at: &Origin,
    disk: &List,
    view: &List,
    names: &dyn Names,
) -> Result<Paired<K>, PolicyError> {
    let mut doubts = Vec::new();
    let mut on_disk = catalog::<K>(at, disk, names, &mut doubts)?;
    let mut in_view = catalog::<K>(at, view, names, &mut doubts)?;
    if *view == List::Host {
        in_view.ask::<K>(&on_disk.entries, names);
    }
    if *disk == List::Host {
        on_disk.ask::<K>(&in_view.entries, names);
    }
    doubts.extend(on_disk.doubt::<K>("the disk's list"));
    doubts.extend(in_view.doubt::<K>("the view's list"));
    let mut found = Paired { at: at.clone(), prefix: String::new(), pairs: Vec::new(), doubts };
    let mut alone = Vec::new();
    for (name, disk) in on_disk.entries {
        match in_view.by_name.get(&name) {
            Some(view) => found.pairs.extend(pair(name, disk, *view)),
            None => alone.push(name),
        }
    }
    found.conclude(&alone);
    Ok(found)
}

/// Pairs each id whose name is the prefix and a name with that of the name.
pub(super) fn prefixed<K: Named>(
    at: &Origin,
    prefix: &str,
    list: &List,
    names: &dyn Names,
) -> Result<Paired<K>, PolicyError> {
    let mut doubts = Vec::new();
    let mut known = catalog::<K>(at, list, names, &mut doubts)?;
    let owned = |(name, id): &(String, u32)| {
        let short = name.strip_prefix(prefix).filter(|short| is_name(short))?;
        Some((short.to_owned(), *id))
    };
    let owned: Vec<(String, u32)> = known.entries.iter().filter_map(owned).collect();
    if *list == List::Host {
        known.ask::<K>(&owned, names);
    }
    doubts.extend(known.doubt::<K>("the list"));
    let mut found = Paired { at: at.clone(), prefix: prefix.to_owned(), pairs: Vec::new(), doubts };
    let mut alone = Vec::new();
    for (name, disk) in owned {
        match known.by_name.get(&name) {
            Some(view) => found.pairs.extend(pair(name, disk, *view)),
            None => alone.push(format!("{prefix}{name}")),
        }
    }
    found.conclude(&alone);
    Ok(found)
}

/// Makes a pair of two ids.
fn pair<K: Kind>(name: String, disk: u32, view: u32) -> Option<Pair<K>> {
    let entry = Entry { disk: Id::new(disk)?, view: Id::new(view)? };
    Some(Pair { name, entry })
}

/// How many names a finding lists.
const NAMED: usize = 3;

impl<K: Named> Paired<K> {
    /// Adds what is to say of the whole: no pair at all, or disk names that
    /// have no counterpart.
    fn conclude(&mut self, alone: &[String]) {
        if self.is_partial() {
            return;
        }
        let noun = K::NOUN;
        if self.pairs.is_empty() {
            let what = format!("no {noun} has its name on both sides");
            self.doubts.push(Doubt { code: Code::Dead, what, hint: "this stage decides nothing" });
        }
        if alone.is_empty() {
            return;
        }
        let shown: Vec<String> = alone.iter().take(NAMED).map(|name| escape(name)).collect();
        let more = match alone.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let s = if alone.len() == 1 { "" } else { "s" };
        let what = format!("disk {noun}{s} {}{more}: no such name in the view", shown.join(", "));
        let hint = "they are left to the stages that follow";
        self.doubts.push(Doubt { code: Code::Hole, what, hint });
    }
}
