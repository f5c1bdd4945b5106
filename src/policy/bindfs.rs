//! Pairs of users and groups as bindfs writes them.

use super::error::{Code, Origin, PolicyError, Written, quote};
use super::familiar::Familiar;
use super::names::{ByName, List, Lists, Names, Place};
use super::spec::{Rules, Spec};
use super::text;
use crate::id::{Disk, Extent, Group, Id, Kind, User, View};

/// A disk id and the view id that it is shown as.
type Pair<K> = (Id<K, Disk>, Id<K, View>);

/// Reports whether a value of `map=` is one of bindfs and not of ours.
pub(super) fn is_map(value: &str) -> bool {
    value.contains(['/', '@'])
}

/// Reads all values of bindfs' `map=`: `disk/view` for users, `@disk/@view` for
/// groups, with commas or colons between.
///
/// Who is in no pair stays as is, unless another is shown as that one.
///
/// # Errors
/// A pair that is malformed, an unknown name.
pub(super) fn map(
    spec: &mut Spec,
    at: &Origin,
    values: &[&str],
    names: &dyn Names,
) -> Result<(), PolicyError> {
    let (mut users, mut groups): (Vec<Pair<User>>, Vec<Pair<Group>>) = Default::default();
    for pair in values.iter().flat_map(|value| value.split([':', ','])) {
        let bad = || {
            let what = format!("{} is no pair of users or of groups", quote(pair));
            PolicyError::new(Code::Value, at.clone(), what)
                .hint("write DISKUSER/VIEWUSER, @DISKGROUP/@VIEWGROUP, or [u:|g:]disk:view:count")
        };
        let (disk, view) = pair.split_once('/').ok_or_else(bad)?;
        match (disk.strip_prefix('@'), view.strip_prefix('@')) {
            (Some(disk), Some(view)) => {
                groups.push((text::group(at, disk, names)?, text::group(at, view, names)?));
            }
            (None, None) => {
                users.push((text::user(at, disk, names)?.uid, text::user(at, view, names)?.uid));
            }
            _ => return Err(bad()),
        }
    }
    pairs(&mut spec.users, at, &users);
    pairs(&mut spec.groups, at, &groups);
    Ok(())
}

/// The lists of a kind on disk and in the view.
type Sides = (Option<List>, Option<List>);

/// Reads `map-passwd=`, `map-group=` and their `-rev`: ids pair up whose name
/// is in the file on one side and on the host on the other, and all else stays.
///
/// # Errors
/// A path that is not absolute, a file that cannot be read, names that another
/// option gives already.
pub(super) fn lists(
    spec: &mut Spec,
    given: &[(Familiar, String)],
    names: &dyn Names,
) -> Result<(), PolicyError> {
    let mut sides: [Option<Sides>; 2] = [None, None];
    let mut last = Origin::Whole;
    for (spelling, path) in given.iter().filter(|(spelling, _)| spelling.is_list()) {
        let at = Origin::Option(spelling.name());
        let (file, host) = (Some(List::File(Place::parse(&at, path)?)), Some(List::Host));
        let rev = matches!(spelling, Familiar::MapPasswdRev | Familiar::MapGroupRev);
        let pair = if rev { (host, file) } else { (file, host) };
        let [users, groups] = &mut sides;
        let of_groups = matches!(spelling, Familiar::MapGroup | Familiar::MapGroupRev);
        let slot = if of_groups { groups } else { users };
        if slot.replace(pair).is_some() || spec.names.is_some() {
            let what = "the names of one kind are given twice";
            return Err(PolicyError::new(Code::Conflict, at, what).hint("leave one out"));
        }
        last = at;
    }
    let [users, groups] = sides;
    if users.is_none() && groups.is_none() {
        return Ok(());
    }
    if users.is_some() {
        spec.users.map.push(Written { value: Extent::IDENTITY, at: last.clone() });
    }
    if groups.is_some() {
        spec.groups.map.push(Written { value: Extent::IDENTITY, at: last.clone() });
    }
    // A kind without a file has its names on the host's side alone, so on none.
    let host = |sides: &Option<Sides>| {
        let (disk, view) = sides.clone().unwrap_or_default();
        (disk.filter(|list| *list == List::Host), view.filter(|list| *list == List::Host))
    };
    let (of_users, of_groups) = (host(&groups), host(&users));
    let (users, groups) = (users.unwrap_or(of_users), groups.unwrap_or(of_groups));
    let disk = Lists { users: users.0, groups: groups.0 };
    let view = Lists { users: users.1, groups: groups.1 };
    spec.set_by_name(&last, ByName::Names { disk, view }, names)
}

/// Adds pairs, and that all ids which are in none are shown as themselves.
fn pairs<K: Kind>(rules: &mut Rules<K>, at: &Origin, pairs: &[Pair<K>]) {
    if pairs.is_empty() {
        return;
    }
    let mut taken: Vec<u32> =
        pairs.iter().flat_map(|(disk, view)| [disk.raw(), view.raw()]).collect();
    // Where all ids end.
    taken.push(u32::MAX);
    taken.sort_unstable();
    let mut first = 0;
    for id in taken {
        let same = Id::new(first).zip(Id::new(first));
        let rest =
            same.and_then(|(disk, view)| Extent::new(disk, view, id.saturating_sub(first)).ok());
        rules.map.extend(rest.map(|value| Written { value, at: at.clone() }));
        first = id.saturating_add(1);
    }
    let singles = pairs.iter().map(|(disk, view)| Extent::single(*disk, *view));
    rules.map.extend(singles.map(|value| Written { value, at: at.clone() }));
}
