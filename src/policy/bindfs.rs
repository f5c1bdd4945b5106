//! Values as bindfs writes them. Expressions for modes: clauses of chmod(1),
//! octal numbers among them, and clauses for directories or files alone. Pairs
//! of users and groups.

use super::error::{Code, Origin, PolicyError, Written};
use super::familiar::Familiar;
use super::mode::{ModeExpr, Sorts};
use super::names::{ByName, List, Lists, Place};
use super::spec::{Rules, Spec};
use super::text::{self, Names, quote};
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

/// What a clause is for. Whether a file is executable is known from its mode
/// before any clause, as bindfs has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Files,
    Executables,
    Directories,
}

/// Reads an expression with commas or (for fstab) colons between its clauses.
///
/// # Errors
/// As [`ModeExpr::parse`]; bits copied from where an earlier clause has been.
pub(super) fn expression(at: &Origin, value: &str) -> Result<ModeExpr, PolicyError> {
    let clauses: Vec<&str> = value.split([',', ':']).collect();
    if let [whole] = clauses.as_slice()
        && !whole.contains(['+', '-', '='])
    {
        return ModeExpr::parse(at, whole);
    }
    copies_come_first(at, &clauses)?;
    let of = |sort| {
        let clauses: Vec<String> = clauses.iter().filter_map(|text| clause(text, sort)).collect();
        clauses.join(",")
    };
    let (files, directories) = (of(Sort::Files), of(Sort::Directories));
    let executables = of(Sort::Executables);
    if files == directories && files == executables {
        return ModeExpr::parse(at, &files);
    }
    let given = |text: &'_ str| !text.is_empty();
    ModeExpr::sorts(Sorts {
        files: given(&files).then_some((at, &files)),
        directories: given(&directories).then_some((at, &directories)),
        executables: (files != executables).then_some((at, &executables)),
    })
}

/// Refuses bits that are copied from a class which has been changed: bindfs
/// copies what was there before, chmod(1) and we what is there by then.
fn copies_come_first(at: &Origin, clauses: &[&str]) -> Result<(), PolicyError> {
    let mut changed = String::new();
    for clause in clauses {
        let operator = clause.find(['+', '-', '=']).unwrap_or_default();
        let (who, rest) = clause.split_at_checked(operator).unwrap_or_default();
        if rest.contains(|c| changed.contains(c) && matches!(c, 'u' | 'g' | 'o')) {
            let what = format!("{} copies from what was changed before", quote(clause));
            return Err(PolicyError::new(Code::Value, at.clone(), what)
                .hint("bindfs copies what was there at first; put this clause first"));
        }
        let all = !who.contains(['u', 'g', 'o']) || who.contains('a');
        changed.push_str(if all { "ugo" } else { who });
    }
    Ok(())
}

/// Returns what a clause says of one sort of files, as chmod(1) has it; `None`
/// if that is nothing.
fn clause(text: &str, sort: Sort) -> Option<String> {
    let Some(at) = text.find(['+', '-', '=']) else { return Some(letters(text)) };
    let (who, rest) = text.split_at_checked(at)?;
    let wanted = if sort == Sort::Directories { 'd' } else { 'f' };
    if who.contains(['d', 'f']) && !who.contains(wanted) {
        return None;
    }
    // `X` is for directories and executables, `D` for directories alone.
    let letter = |there| if there { "x" } else { "" };
    let bits = rest.replace('X', letter(sort != Sort::Files));
    let bits = bits.replace('D', letter(sort == Sort::Directories));
    let nothing = bits != rest && matches!(bits.as_str(), "+" | "-");
    (!nothing).then(|| format!("{}{bits}", who.replace(['d', 'f'], "")))
}

/// Returns what an octal number says in letters, and all else as it is.
fn letters(text: &str) -> String {
    let digits = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let bits = u16::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o777);
    let Some(bits) = bits else { return text.to_owned() };
    let class = |shift: u16| {
        let bits = bits >> shift;
        let letter = |bit, letter| if bits & bit == 0 { "" } else { letter };
        [letter(4, "r"), letter(2, "w"), letter(1, "x")].concat()
    };
    format!("u={},g={},o={}", class(6), class(3), class(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{FileKind, Mode};

    #[test]
    fn expressions_of_bindfs_mean_what_they_mean_there() {
        // expression, mode, and what it becomes for a file and for a directory;
        // a file is executable by the mode that it has at first
        for (text, mode, file, directory) in [
            ("o-rwx", 0o777, 0o770, 0o770),
            ("g=rD", 0o626, 0o646, 0o656),
            ("0644,a+X", 0o700, 0o755, 0o755),
            ("0644,a+X", 0o600, 0o644, 0o755),
            ("a-x,u+X", 0o755, 0o744, 0o744),
            ("u=rwX", 0o060, 0o660, 0o760),
            ("u-X", 0o644, 0o644, 0o644),
            ("g=u,u=", 0o640, 0o060, 0o060),
            ("0600,u+D", 0o755, 0o600, 0o700),
            ("0000:u=rD", 0o755, 0o400, 0o500),
            ("og-x:og+rD:u=rwX:g+rw", 0o711, 0o764, 0o775),
            ("gd-w", 0o666, 0o666, 0o646),
            ("f-x,d+x", 0o711, 0o600, 0o711),
            ("uf+x:od=", 0o607, 0o707, 0o600),
            ("gdf+w", 0o600, 0o620, 0o620),
            ("0640", 0o777, 0o640, 0o640),
            ("u+D", 0o600, 0o600, 0o700),
        ] {
            let expression = expression(&Origin::Whole, text).unwrap();
            let apply = |kind| expression.apply(Mode::new(mode), kind).bits();
            let found = (apply(FileKind::Regular), apply(FileKind::Directory));
            assert_eq!(found, (file, directory), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["", "x", "0644,", "4755", "u+s", "a+D+", "d", "999,a+x", "u=,g=u", "0600,o=g"]
        {
            assert!(expression(&Origin::Whole, text).is_err(), "{text}");
        }
    }
}
