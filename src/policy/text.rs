//! The small grammars that options and policy files share: prefixes, extents,
//! table entries, owners; and how text is quoted in messages.

use super::error::{Code, Origin, PolicyError, Written};
use super::names::{Place, Unread};
use super::spec::{Entry, Spec};
use crate::id::{Extent, Group, Id, Ids, Kind, Side, User};
use crate::text::escape;

/// The names of the host, as the caller knows them.
///
/// They are asked once, when a policy is read.
pub trait Names {
    /// Returns the uid and the primary gid of a user.
    fn user(&self, name: &str) -> Option<(u32, u32)>;

    /// Returns the gid of a group.
    fn group(&self, name: &str) -> Option<u32>;

    /// Returns the users that the host lists, with their uids, in its order.
    ///
    /// # Errors
    /// The host cannot list them.
    fn users(&self) -> Result<Vec<(String, u32)>, Unread> {
        Ok(Vec::new())
    }

    /// Returns the groups that the host lists, with their gids, in its order.
    ///
    /// # Errors
    /// The host cannot list them.
    fn groups(&self) -> Result<Vec<(String, u32)>, Unread> {
        Ok(Vec::new())
    }

    /// Returns the bytes of a file with names; one in the source is found
    /// without leaving it.
    ///
    /// # Errors
    /// There is no such file to read, or it is too large.
    fn file(&self, place: &Place) -> Result<Vec<u8>, Unread> {
        let Place::Host(_) = place else { return Err(Unread::NoSource) };
        Err(Unread::Failed("no files can be read here".to_owned()))
    }
}

/// Names of nobody: every name is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn user(&self, _: &str) -> Option<(u32, u32)> {
        None
    }

    fn group(&self, _: &str) -> Option<u32> {
        None
    }
}

/// Which kinds of ids a rule is about, from its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Users,
    Groups,
    Both,
}

impl Scope {
    /// Takes `u:` or `g:` off the text; neither is both kinds.
    pub(super) fn split(text: &str) -> (Self, &str) {
        if let Some(rest) = text.strip_prefix("u:") {
            (Self::Users, rest)
        } else if let Some(rest) = text.strip_prefix("g:") {
            (Self::Groups, rest)
        } else {
            (Self::Both, text)
        }
    }

    pub(super) const fn users(self) -> bool {
        matches!(self, Self::Users | Self::Both)
    }

    pub(super) const fn groups(self) -> bool {
        matches!(self, Self::Groups | Self::Both)
    }
}

/// The number of characters of a value that a message shows.
const SHOWN: usize = 80;

/// Quotes a value for a message, cut where it is long.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("`");
    let mut chars = text.chars();
    out.extend(chars.by_ref().take(SHOWN));
    if chars.next().is_some() {
        out.push_str("...");
    }
    out.push('`');
    escape(&out)
}

/// Reads `[u:|g:]disk:view:count` and adds it to the maps of a policy.
pub(super) fn add_extent(spec: &mut Spec, at: &Origin, text: &str) -> Result<(), PolicyError> {
    let (scope, rest) = Scope::split(text);
    if scope.users() {
        let value = extent(at, text, rest)?;
        spec.users.map.push(Written { value, at: at.clone() });
    }
    if scope.groups() {
        let value = extent(at, text, rest)?;
        spec.groups.map.push(Written { value, at: at.clone() });
    }
    Ok(())
}

/// Reads an extent without a prefix; `whole` is what was typed.
pub(super) fn extent<K: Kind>(
    at: &Origin,
    whole: &str,
    text: &str,
) -> Result<Extent<K>, PolicyError> {
    Extent::parse(text).map_err(|why| {
        PolicyError::new(Code::Value, at.clone(), format!("extent {}: {why}", quote(whole)))
            .hint("an extent is [u:|g:]disk:view:count, such as u:1000:101000:1")
    })
}

/// Reads `[u:|g:]disk:view`, each a number or (after a prefix) a name, and
/// adds it to the tables of a policy.
pub(super) fn add_entry(
    spec: &mut Spec,
    at: &Origin,
    text: &str,
    names: &dyn Names,
) -> Result<(), PolicyError> {
    let (scope, rest) = Scope::split(text);
    let bad = |what: &str| {
        PolicyError::new(Code::Value, at.clone(), format!("table entry {}: {what}", quote(text)))
            .hint("an entry is [u:|g:]disk:view, such as u:1000:33")
    };
    let Some((disk, view)) = rest.split_once(':').filter(|(_, view)| !view.contains(':')) else {
        return Err(bad("not disk:view"));
    };
    if scope == Scope::Both && !(is_number(disk) && is_number(view)) {
        return Err(bad("a name needs u: or g: before the entry, to say what it names"));
    }
    if scope.users() {
        let value = Entry { disk: user(at, disk, names)?.uid, view: user(at, view, names)?.uid };
        spec.users.table.push(Written { value, at: at.clone() });
    }
    if scope.groups() {
        let value = Entry { disk: group(at, disk, names)?, view: group(at, view, names)? };
        spec.groups.table.push(Written { value, at: at.clone() });
    }
    Ok(())
}

/// One or both ids of an owner as written: `USER[:GROUP]`, `u:USER`, `g:GROUP`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SomeIds<S: Side> {
    pub(super) uid: Option<Id<User, S>>,
    pub(super) gid: Option<Id<Group, S>>,
}

/// Reads an owner; a user by name brings its primary group, a user by number
/// the group of the same number.
pub(super) fn owner<S: Side>(
    at: &Origin,
    text: &str,
    names: &dyn Names,
) -> Result<SomeIds<S>, PolicyError> {
    match Scope::split(text) {
        (Scope::Users, rest) => Ok(SomeIds { uid: Some(user(at, rest, names)?.uid), gid: None }),
        (Scope::Groups, rest) => Ok(SomeIds { uid: None, gid: Some(group(at, rest, names)?) }),
        (Scope::Both, _) => {
            let (name, named_group) = match text.split_once(':') {
                Some((name, group)) => (name, Some(group)),
                None => (text, None),
            };
            let Ids { uid, gid: primary } = user(at, name, names)?;
            let gid = named_group.map_or(Ok(primary), |name| group(at, name, names))?;
            Ok(SomeIds { uid: Some(uid), gid: Some(gid) })
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Reads an id by name or number, or a range of numbers: `1000-1999`. Returns its
/// first and its last.
///
/// # Errors
/// As `id`; `Value`: the range ends before it begins.
pub(super) fn range<T: Ord + Copy>(
    at: &Origin,
    text: &str,
    id: impl Fn(&str) -> Result<T, PolicyError>,
) -> Result<(T, T), PolicyError> {
    // A name may have a hyphen too.
    let ends = text.split_once('-').filter(|(first, last)| is_number(first) && is_number(last));
    let Some((first, last)) = ends else {
        let one = id(text)?;
        return Ok((one, one));
    };
    let (first, last) = (id(first)?, id(last)?);
    if last < first {
        let what = format!("the range {} ends before it begins", quote(text));
        return Err(
            PolicyError::new(Code::Value, at.clone(), what).hint("write the smaller number first")
        );
    }
    Ok((first, last))
}

/// Reads a user by name or number, with the group that comes with it.
pub(super) fn user<S: Side>(
    at: &Origin,
    text: &str,
    names: &dyn Names,
) -> Result<Ids<S>, PolicyError> {
    let ids = if is_number(text) {
        let same = Id::from_decimal(text).zip(Id::from_decimal(text));
        same.map(|(uid, gid)| Ids { uid, gid })
    } else {
        let (uid, gid) = named(at, "user", text, |name| names.user(name))?;
        Ids::new(uid, gid)
    };
    ids.ok_or_else(|| no_id(at, "user", text))
}

/// Reads a group by name or number.
pub(super) fn group<S: Side>(
    at: &Origin,
    text: &str,
    names: &dyn Names,
) -> Result<Id<Group, S>, PolicyError> {
    let id = if is_number(text) {
        Id::from_decimal(text)
    } else {
        Id::new(named(at, "group", text, |name| names.group(name))?)
    };
    id.ok_or_else(|| no_id(at, "group", text))
}

/// Looks a name up; what cannot be one is not asked for.
fn named<T>(
    at: &Origin,
    kind: &str,
    name: &str,
    find: impl FnOnce(&str) -> Option<T>,
) -> Result<T, PolicyError> {
    let bad = |code, what: String| PolicyError::new(code, at.clone(), what);
    if name.is_empty() {
        return Err(bad(Code::Value, format!("no {kind} given"))
            .hint("an owner is USER[:GROUP]; u:USER or g:GROUP is one kind alone"));
    }
    if name.starts_with(['+', '-']) || name.contains(|c: char| c == ':' || c.is_control()) {
        return Err(bad(Code::Value, format!("{} is not a {kind}", quote(name)))
            .hint("give a name or a plain decimal number"));
    }
    find(name).ok_or_else(|| {
        bad(Code::Name, format!("unknown {kind} {}", quote(name)))
            .hint("names are looked up on this host; a number always works")
    })
}

fn no_id(at: &Origin, kind: &str, text: &str) -> PolicyError {
    PolicyError::new(Code::Value, at.clone(), format!("{} is not a {kind} id", quote(text)))
        .hint("ids are plain decimal numbers from 0 to 4294967294")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_safe() {
        assert_eq!(quote("a\0"), "`a\\u{0}`");
        assert_eq!(quote(&"x".repeat(SHOWN)).len(), SHOWN + 2);
        assert_eq!(quote(&"x".repeat(SHOWN + 1)), format!("`{}...`", "x".repeat(SHOWN)));
    }
}
