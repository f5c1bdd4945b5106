//! The spelling of name lists on the command line, and in descriptions.

use std::fmt;

use super::{ByName, List, Lists, Place, is_name};
use crate::id::{Disk, Side as _, View};
use crate::policy::error::{Code, Origin, PolicyError, quote};
use crate::text::escape;

/// The files of a source that has the usual ones.
const PASSWD: &str = "etc/passwd";
/// See [`PASSWD`].
const GROUP: &str = "etc/group";

/// What begins a path below the source.
const IN_SOURCE: &str = "source:";

impl Lists {
    /// Returns the users and groups of the host, by its name services.
    pub(in crate::policy) fn host() -> Self {
        Self { users: Some(List::Host), groups: Some(List::Host) }
    }

    /// Returns the users and groups of a source with the usual files.
    pub(in crate::policy) fn source() -> Self {
        let file = |path: &str| Some(List::File(Place::Source(path.to_owned())));
        Self { users: file(PASSWD), groups: file(GROUP) }
    }

    /// Reads `host` or `source`.
    pub(in crate::policy) fn by_word(word: &str) -> Option<Self> {
        match word {
            "host" => Some(Self::host()),
            "source" => Some(Self::source()),
            _ => None,
        }
    }
}

impl Place {
    /// Reads `source:PATH`, or an absolute path of the host.
    ///
    /// # Errors
    /// `Value`: it is neither.
    pub(in crate::policy) fn parse(at: &Origin, text: &str) -> Result<Self, PolicyError> {
        if let Some(path) = text.strip_prefix(IN_SOURCE) {
            let below = path.trim_start_matches('/');
            if !below.is_empty() && !path.contains('\0') {
                return Ok(Self::Source(below.to_owned()));
            }
        } else if text.starts_with('/') && !text.contains('\0') {
            return Ok(Self::Host(text.to_owned()));
        }
        let what = format!("{} is not the path of a list of names", quote(text));
        Err(PolicyError::new(Code::Value, at.clone(), what)
            .hint("an absolute path of this host, or source:PATH for one in the source"))
    }
}

/// Reads a value of `--names`: which side, and its lists.
///
/// # Errors
/// `Value`: it cannot be read.
pub(in crate::policy) fn side(
    at: &Origin,
    text: &str,
) -> Result<(&'static str, Lists), PolicyError> {
    let bad = |what: String| {
        PolicyError::new(Code::Value, at.clone(), what).hint(
            "write disk=LIST and view=LIST, each host, source or the paths of a passwd and a \
             group file",
        )
    };
    let (word, list) = text.split_once('=').unwrap_or((text, ""));
    let side = match word {
        "disk" => Disk::WORD,
        "view" => View::WORD,
        _ => return Err(bad(format!("{} names neither disk nor view", quote(text)))),
    };
    if let Some(lists) = Lists::by_word(list) {
        return Ok((side, lists));
    }
    let mut paths = paths(list).map(|path| match path {
        "" => Ok(None),
        path => Place::parse(at, path).map(|place| Some(List::File(place))),
    });
    let lists = Lists {
        users: paths.next().transpose()?.flatten(),
        groups: paths.next().transpose()?.flatten(),
    };
    if paths.next().is_some() {
        return Err(bad(format!("{} has more than two paths", quote(text))));
    }
    if lists == Lists::default() {
        return Err(bad(format!("{} names no list", quote(text))));
    }
    Ok((side, lists))
}

/// What may stand between two paths: a list of `-o` splits at commas.
const SEPARATORS: [char; 2] = [',', ':'];

/// Returns the paths of a list; those in the source have a colon of their own.
fn paths(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let path = list.strip_prefix(IN_SOURCE).unwrap_or(list);
        let (path, after) = path.split_once(SEPARATORS).map_or((path, None), |(p, a)| (p, Some(a)));
        rest = after;
        let length =
            list.len().saturating_sub(after.map_or(0, |after| after.len().saturating_add(1)));
        if path.is_empty() { Some(path) } else { list.get(..length) }
    })
}

/// Makes the paths of a value of `--names` absolute, from this directory.
pub fn absolute(text: &str, from: &str) -> String {
    let Some((side, list)) = text.split_once('=') else { return text.to_owned() };
    if Lists::by_word(list).is_some() {
        return text.to_owned();
    }
    let from = from.trim_end_matches('/');
    let whole = |path: &str| match path {
        "" => String::new(),
        path if path.starts_with('/') || path.starts_with(IN_SOURCE) => path.to_owned(),
        path => format!("{from}/{}", path.trim_start_matches("./")),
    };
    let paths: Vec<String> = paths(list).map(whole).collect();
    format!("{side}={}", paths.join(":"))
}

impl ByName {
    /// Makes the stage of a prefix.
    ///
    /// # Errors
    /// `Value`: no name begins so.
    pub(in crate::policy) fn prefix(
        at: &Origin,
        prefix: &str,
        lists: Lists,
    ) -> Result<Self, PolicyError> {
        if is_name(prefix) {
            return Ok(Self::Prefix { prefix: prefix.to_owned(), lists });
        }
        let what = format!("{} is not how a name can begin", quote(prefix));
        Err(PolicyError::new(Code::Value, at.clone(), what)
            .hint("a prefix is a text such as alice.web."))
    }

    /// Returns the values of the options that say the same.
    ///
    /// What no option can say is written after it.
    pub(in crate::policy) fn words(&self) -> Vec<String> {
        match self {
            Self::Names { disk, view } => vec![format!("disk={disk}"), format!("view={view}")],
            Self::Prefix { prefix, lists } if *lists == Lists::host() => vec![prefix.clone()],
            Self::Prefix { prefix, lists } => vec![format!("{prefix} in {lists}")],
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(path) => f.write_str(&escape(path)),
            Self::Source(path) => write!(f, "{IN_SOURCE}{}", escape(path)),
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::File(place) => place.fmt(f),
            Self::Inline(entries) => {
                let pairs: Vec<String> =
                    entries.iter().map(|(name, id)| format!("{name:?}={id}")).collect();
                write!(f, "{{{}}}", pairs.join(" "))
            }
        }
    }
}

impl fmt::Display for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(word) =
            ["host", "source"].into_iter().find(|word| Self::by_word(word).as_ref() == Some(self))
        {
            return f.write_str(word);
        }
        if let Some(users) = &self.users {
            users.fmt(f)?;
        }
        self.groups.as_ref().map_or(Ok(()), |groups| write!(f, ":{groups}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_and_described_alike() {
        for (text, wanted) in [
            ("disk=host", Some("disk host")),
            ("view=source", Some("view source")),
            ("disk=/a/passwd", Some("disk /a/passwd")),
            ("disk=/a/passwd,/a/group", Some("disk /a/passwd:/a/group")),
            ("disk=/a/passwd:/a/group", Some("disk /a/passwd:/a/group")),
            ("view=:/a/group", Some("view :/a/group")),
            ("disk=source:etc/p", Some("disk source:etc/p")),
            ("disk=source:etc/p:source:etc/g", Some("disk source:etc/p:source:etc/g")),
            ("disk=/p,source:etc/g", Some("disk /p:source:etc/g")),
            ("disk=source:p:g:/h", None),
            ("disk", None),
            ("disk=", None),
            ("disk=:", None),
            ("side=host", None),
            ("disk=hots", None),
            ("disk=a/passwd", None),
            ("disk=/a:/b:/c", None),
            ("disk=/a:/b:", None),
        ] {
            let got = side(&Origin::Option("names"), text);
            let got = got.map(|(side, lists)| format!("{side} {lists}"));
            assert_eq!(got.ok().as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn paths_of_the_command_line_are_made_absolute() {
        for (text, wanted) in [
            ("disk=host", "disk=host"),
            ("view=source", "view=source"),
            ("disk=img/etc/passwd,./img/etc/group", "disk=/w/img/etc/passwd:/w/img/etc/group"),
            ("disk=/a:b", "disk=/a:/w/b"),
            ("disk=,g", "disk=:/w/g"),
            ("disk=../p", "disk=/w/../p"),
            ("disk=source:p,g", "disk=source:p:/w/g"),
            ("disk=source:p:source:g", "disk=source:p:source:g"),
            ("v:w", "v:w"),
            ("disk=", "disk="),
        ] {
            assert_eq!(absolute(text, "/w"), wanted, "{text}");
        }
        assert_eq!(absolute("disk=p", "/"), "disk=/p");
    }
}
