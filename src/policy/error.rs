//! Errors of a policy as written: where, what, and the way out; how text is quoted
//! in them.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::text::{escape, nearest};

/// Where a rule was written.
///
/// Two rules that say the same are equal whatever their origins.
#[derive(Clone, Debug)]
pub enum Origin {
    /// An option of the command line, by its name.
    Option(&'static str),
    /// A place in a policy file.
    File {
        /// The path of the file, as it was given.
        path: Arc<str>,
        /// The line, from 1 on.
        line: u32,
        /// The column in characters, from 1 on.
        column: u32,
    },
    /// Nowhere in particular: the policy as a whole.
    Whole,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "option {name}"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", escape(path)),
            Self::Whole => f.write_str("policy"),
        }
    }
}

/// A value of a policy together with where it was written.
///
/// Equality is that of the values alone, so that two policies that say the
/// same are equal wherever they were read.
#[derive(Clone, Debug)]
pub struct Written<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub at: Origin,
}

impl<T: PartialEq> PartialEq for Written<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Written<T> {}

/// Fills a rule that can be given once.
pub(super) fn set<T>(
    slot: &mut Option<Written<T>>,
    at: &Origin,
    value: Option<T>,
) -> Result<(), PolicyError> {
    let Some(value) = value else { return Ok(()) };
    if let Some(earlier) = slot {
        let what = format!("said before by {}", earlier.at);
        return Err(PolicyError::new(Code::Conflict, at.clone(), what).hint("leave one out"));
    }
    *slot = Some(Written { value, at: at.clone() });
    Ok(())
}

/// The stable code of an error or finding, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The text is not TOML, or a value has the wrong type.
    Syntax,
    /// The file is too large.
    Limit,
    /// The `version` of the file is missing or unknown.
    Version,
    /// A key that does not exist.
    Key,
    /// An owner, extent or entry that cannot be read.
    Value,
    /// A user or group that the host does not know.
    Name,
    /// Two rules of a map or table claim the same id.
    Overlap,
    /// Two rules or options that exclude each other.
    Conflict,
    /// An option of another program that means something else there.
    Spelling,
    /// What callers create could not be shown, or has no owner on disk.
    Lost,
    /// Root of one side is an ordinary user of the other.
    Root,
    /// An owner that other files are shown as can act on all of them.
    Alias,
    /// Ids between two extents that no rule covers.
    Hole,
    /// Users are translated and groups are not, or the other way round.
    OneKind,
    /// The owner of new files depends on who runs the server.
    Server,
    /// New files are shown as another owner than everything else.
    Elsewhere,
    /// The overflow id is named by a rule.
    Overflow,
    /// Directories that nobody can enter.
    Closed,
    /// A rule that never decides anything.
    Dead,
    /// A list of names that cannot be read.
    File,
    /// A list of names that was not at hand.
    Unread,
    /// Lines of a list of names that are no entries.
    Skipped,
    /// Two entries of a list have one name or one id.
    Duplicate,
    /// Pairs of a stage, or effects of a rule, that earlier ones decide.
    Shadowed,
    /// An owner that the server cannot store.
    Store,
    /// A pattern that decides about nothing in a given source.
    Unmatched,
}

impl Code {
    /// Returns the code as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Limit => "limit",
            Self::Version => "version",
            Self::Key => "key",
            Self::Value => "value",
            Self::Name => "name",
            Self::Overlap => "overlap",
            Self::Conflict => "conflict",
            Self::Spelling => "spelling",
            Self::Lost => "lost",
            Self::Root => "root",
            Self::Alias => "alias",
            Self::Hole => "hole",
            Self::OneKind => "one-kind",
            Self::Server => "server",
            Self::Elsewhere => "elsewhere",
            Self::Overflow => "overflow",
            Self::Closed => "closed",
            Self::Dead => "dead",
            Self::File => "file",
            Self::Unread => "unread",
            Self::Skipped => "skipped",
            Self::Duplicate => "duplicate",
            Self::Shadowed => "shadowed",
            Self::Store => "store",
            Self::Unmatched => "unmatched",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a policy cannot be used: one line that names the thing and the way out.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{at}: {what}{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct PolicyError {
    /// The stable code.
    pub code: Code,
    /// Where it was written.
    pub at: Origin,
    /// What is wrong; without control characters.
    pub what: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl PolicyError {
    /// Makes an error; control characters in the text are escaped.
    pub fn new(code: Code, at: Origin, what: impl AsRef<str>) -> Self {
        Self { code, at, what: escape(what.as_ref()), hint: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(self, hint: impl AsRef<str>) -> Self {
        Self { hint: Some(escape(hint.as_ref())), ..self }
    }
}

/// Returns the error for a word that is none of those known.
pub(super) fn unknown<'a>(
    at: &Origin,
    key: &str,
    value: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> PolicyError {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = nearest(value, known.iter().copied()).map_or_else(
        || format!("write one of {}", known.join("; ")),
        |near| format!("did you mean {near}?"),
    );
    let what = format!("{} is not a way to treat {key}", quote(value));
    PolicyError::new(Code::Value, at.clone(), what).hint(hint)
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
