//! The small grammars that options and policy files share: prefixes, extents,
//! ranges, owners.

use super::error::{Code, Origin, PolicyError, quote};
use super::names::Names;
use crate::id::{Extent, Group, Id, Ids, Kind, Side, User};

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

pub(super) fn is_number(text: &str) -> bool {
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
