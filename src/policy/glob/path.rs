//! Patterns for paths: names with slashes between, and `**` for any number.

use std::fmt;

use super::{Bad, Glob, limit};
use crate::policy::error::{Code, Origin, PolicyError, quote};

/// A name of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Part {
    /// Whether any number of names may stand before this one: `**`.
    pub(in crate::policy) gap: bool,
    /// The pattern of the name.
    pub(in crate::policy) glob: Glob,
}

/// A pattern for a path below the source's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    text: Box<str>,
    pub(in crate::policy) parts: Box<[Part]>,
    /// Whether any number of names may follow: `**` at the end.
    pub(in crate::policy) tail: bool,
    /// Whether it matches directories alone: a slash at the end.
    pub(in crate::policy) directories: bool,
}

impl PathGlob {
    /// Reads a pattern for a path; `at` is for messages only.
    ///
    /// # Errors
    /// A pattern that is malformed, or that no path can match.
    pub fn parse(at: &Origin, text: &str) -> Result<Self, PolicyError> {
        let bad = |(what, hint): Bad| {
            PolicyError::new(Code::Value, at.clone(), format!("pattern {}: {what}", quote(text)))
                .hint(hint)
        };
        limit(at, text)?;
        let inner = text.strip_prefix('/').unwrap_or(text);
        let (inner, directories) =
            inner.strip_suffix('/').map_or((inner, false), |inner| (inner, true));
        if inner.is_empty() {
            return Err(bad(("no path", "`**` stands for the root and all below it")));
        }
        let (mut parts, mut gap) = (Vec::new(), false);
        for part in inner.split('/') {
            match part {
                "" => return Err(bad(("a name of the path is empty", "write one slash"))),
                "." | ".." => {
                    let hint = "patterns begin at the source's root";
                    return Err(bad(("`.` and `..` are no names", hint)));
                }
                "**" => gap = true,
                part => {
                    let glob = Glob::part(at, text, part)?;
                    parts.push(Part { gap, glob });
                    gap = false;
                }
            }
        }
        Ok(Self { text: text.into(), parts: parts.into(), tail: gap, directories })
    }

    /// Returns the name that every match has, where the pattern tells it.
    pub(in crate::policy) fn last_literal(&self) -> Option<&[u8]> {
        self.parts.last().filter(|_| !self.tail)?.glob.literal()
    }

    /// The names, with `None` for any number of them.
    fn names(&self) -> Vec<Option<&Glob>> {
        let each = self
            .parts
            .iter()
            .flat_map(|part| part.gap.then_some(None).into_iter().chain([Some(&part.glob)]));
        each.chain(self.tail.then_some(None)).collect()
    }

    /// Reports whether it is seen that all that `other` matches matches too.
    pub(in crate::policy) fn covers(&self, other: &Self) -> bool {
        if self.directories && !other.directories {
            return false;
        }
        let (names, others) = (self.names(), other.names());
        let (mut name, mut at) = (0_usize, 0_usize);
        // As with the stars of a name, only the last gap can help.
        let mut gap: Option<(usize, usize)> = None;
        loop {
            let fits = match (names.get(name), others.get(at)) {
                (None, None) => return true,
                (Some(None), _) => {
                    name = name.saturating_add(1);
                    gap = Some((name, at));
                    continue;
                }
                (Some(Some(glob)), Some(Some(other))) => glob.covers(other),
                (None | Some(Some(_)), _) => false,
            };
            if fits {
                (name, at) = (name.saturating_add(1), at.saturating_add(1));
                continue;
            }
            let Some((after, from)) = gap.filter(|(_, from)| *from < others.len()) else {
                return false;
            };
            gap = Some((after, from.saturating_add(1)));
            (name, at) = (after, from.saturating_add(1));
        }
    }

    /// Returns the pattern for a name at any depth: `**/NAME`.
    pub(in crate::policy) fn anywhere(glob: Glob) -> Self {
        let text = glob.text.clone();
        Self { text, parts: [Part { gap: true, glob }].into(), tail: false, directories: false }
    }
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
