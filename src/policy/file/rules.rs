//! `[[rules]]`: what is hidden, protected or shown otherwise, by path, name
//! and attributes.

use std::collections::HashMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::text::{Scalar, Source};
use crate::attr::FileKind;
use crate::id::{Disk, Id, Ids, Kind};
use crate::policy::error::{Code, Origin, PolicyError, Written, quote};
use crate::policy::glob::{Glob, PathGlob};
use crate::policy::mode::{ModeExpr, ModeTest, Sorts};
use crate::policy::names::Names;
use crate::policy::rules::{Deny, KINDS, MOST, Range, Rule};
use crate::policy::text;
use crate::text::nearest;

/// A rule as it stands in the file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RuleText {
    path: Option<Spanned<List>>,
    name: Option<Spanned<List>>,
    #[serde(rename = "type")]
    kind: Option<Spanned<List>>,
    owner: Option<Spanned<List>>,
    group: Option<Spanned<List>>,
    mode: Option<Spanned<Scalar>>,
    hide: Option<Spanned<bool>>,
    read_only: Option<Spanned<bool>>,
    present_owner: Option<Spanned<Scalar>>,
    present_mode: Option<Spanned<Modes>>,
    deny: Option<Spanned<List>>,
}

/// One value, or a list of them.
enum List {
    One(Scalar),
    Many(Vec<Spanned<Scalar>>),
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a plain decimal number, or a list of them")
            }

            fn visit_str<E>(self, text: &str) -> Result<List, E> {
                Ok(List::One(Scalar::Text(text.to_owned())))
            }

            fn visit_i64<E>(self, _: i64) -> Result<List, E> {
                Ok(List::One(Scalar::Number))
            }

            fn visit_u64<E>(self, _: u64) -> Result<List, E> {
                Ok(List::One(Scalar::Number))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(List::Many(list))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The expressions for each sort of files.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SortsText {
    files: Option<Spanned<Scalar>>,
    directories: Option<Spanned<Scalar>>,
    executables: Option<Spanned<Scalar>>,
}

/// One expression for all files, or one for each sort.
pub(super) enum Modes {
    All(Scalar),
    Sorts(SortsText),
}

impl<'de> Deserialize<'de> for Modes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Modes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode as for chmod, or one each for files, directories, executables")
            }

            fn visit_str<E>(self, text: &str) -> Result<Modes, E> {
                Ok(Modes::All(Scalar::Text(text.to_owned())))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Modes, E> {
                Ok(Modes::All(Scalar::Number))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Modes, A::Error> {
                SortsText::deserialize(MapAccessDeserializer::new(map)).map(Modes::Sorts)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Source<'_> {
    /// Reads the rules, in order.
    ///
    /// # Errors
    /// The first value that cannot be read, and a rule that can decide nothing.
    pub(super) fn rules(
        &self,
        rules: &[Spanned<RuleText>],
        names: &dyn Names,
    ) -> Result<Vec<Written<Rule>>, PolicyError> {
        if let Some(excess) = rules.get(MOST) {
            let what = format!("{} rules, but at most {MOST} are read", rules.len());
            return Err(PolicyError::new(Code::Limit, self.at(excess.span().start), what));
        }
        rules
            .iter()
            .map(|rule| {
                let at = self.at(rule.span().start);
                let value = self.rule(&at, rule.get_ref(), names)?;
                Ok(Written { value, at })
            })
            .collect()
    }

    fn rule(&self, at: &Origin, text: &RuleText, names: &dyn Names) -> Result<Rule, PolicyError> {
        let mut rule = Rule {
            paths: self.each("path", text.path.as_ref(), PathGlob::parse)?,
            names: self.each("name", text.name.as_ref(), Glob::parse)?,
            hide: text.hide.as_ref().map(|value| self.written(value)),
            read_only: text.read_only.as_ref().map(|value| self.written(value)),
            ..Rule::default()
        };
        for kind in self.each("type", text.kind.as_ref(), kind)? {
            rule.kinds = rule.kinds.with(kind.value);
        }
        let user = |at: &Origin, text: &str| {
            range(at, text, |text| text::user(at, text, names).map(|Ids { uid, .. }| uid))
        };
        let group = |at: &Origin, text: &str| range(at, text, |text| text::group(at, text, names));
        let owners = self.each("owner", text.owner.as_ref(), user)?;
        rule.users = owners.into_iter().map(|range| range.value).collect();
        let groups = self.each("group", text.group.as_ref(), group)?;
        rule.groups = groups.into_iter().map(|range| range.value).collect();
        if let Some(value) = &text.mode {
            let (at, text) = self.mode(value.span().start, value.get_ref())?;
            rule.mode = Some(ModeTest::parse(&at, text)?);
        }
        if let Some(value) = &text.present_owner {
            let (at, text) = self.value(value)?;
            let shown = text::owner(&at, text, names)?;
            rule.present_user = shown.uid.map(|value| Written { value, at: at.clone() });
            rule.present_group = shown.gid.map(|value| Written { value, at: at.clone() });
        }
        rule.present_mode =
            text.present_mode.as_ref().map(|v| self.modes("present-mode", v)).transpose()?;
        rule.deny = text.deny.as_ref().map(|value| self.deny(value)).transpose()?;
        decides(at, &rule)?;
        Ok(rule)
    }

    fn written<T: Copy>(&self, value: &Spanned<T>) -> Written<T> {
        Written { value: *value.get_ref(), at: self.at(value.span().start) }
    }

    /// Reads a value, or each of a list, which must not be empty.
    fn each<T>(
        &self,
        key: &str,
        list: Option<&Spanned<List>>,
        read: impl Fn(&Origin, &str) -> Result<T, PolicyError>,
    ) -> Result<Vec<Written<T>>, PolicyError> {
        let Some(list) = list else { return Ok(Vec::new()) };
        let span = list.span();
        let values = match list.get_ref() {
            List::One(value) => vec![(span, value)],
            List::Many(list) if list.is_empty() => {
                let what = format!("`{key}` is empty: the rule would match nothing");
                return Err(PolicyError::new(Code::Value, self.at(span.start), what)
                    .hint("leave it out to match everything"));
            }
            List::Many(list) => list.iter().map(|value| (value.span(), value.get_ref())).collect(),
        };
        let (mut found, mut texts) = (Vec::new(), HashMap::new());
        for (span, value) in values {
            let (at, text) = self.scalar(span, value)?;
            let value = read(&at, text)?;
            if let Some(earlier) = texts.insert(text, at.clone()) {
                let what = format!("{} is given twice: first at {earlier}", quote(text));
                return Err(PolicyError::new(Code::Conflict, at, what).hint("leave one out"));
            }
            found.push(Written { value, at });
        }
        Ok(found)
    }

    /// Returns the text of a mode; a number would have lost its zeros.
    fn mode<'v>(&self, start: usize, value: &'v Scalar) -> Result<(Origin, &'v str), PolicyError> {
        let at = self.at(start);
        match value {
            Scalar::Text(text) => Ok((at, text)),
            Scalar::Number => Err(PolicyError::new(Code::Value, at, "a mode is a string")
                .hint("write it in quotes, such as \"0644\"")),
        }
    }

    /// Reads an expression for all files, or one for each sort.
    ///
    /// # Errors
    /// As [`ModeExpr::parse`].
    pub(super) fn modes(
        &self,
        key: &str,
        value: &Spanned<Modes>,
    ) -> Result<Written<ModeExpr>, PolicyError> {
        let start = value.span().start;
        let sorts = match value.get_ref() {
            Modes::All(text) => {
                let (at, text) = self.mode(start, text)?;
                let value = ModeExpr::parse(&at, text)?;
                return Ok(Written { value, at });
            }
            Modes::Sorts(sorts) => sorts,
        };
        let at = self.at(start);
        let SortsText { files, directories, executables } = sorts;
        if files.is_none() && directories.is_none() && executables.is_none() {
            let what = format!("`{key}` says nothing");
            return Err(PolicyError::new(Code::Value, at, what)
                .hint("write files, directories or executables into it, or leave it out"));
        }
        let texts = [self.sort(files)?, self.sort(directories)?, self.sort(executables)?];
        let [files, directories, executables] =
            texts.each_ref().map(|sort| sort.as_ref().map(|(at, text)| (at, *text)));
        Ok(Written { value: ModeExpr::sorts(Sorts { files, directories, executables })?, at })
    }

    fn sort<'v>(
        &self,
        sort: &'v Option<Spanned<Scalar>>,
    ) -> Result<Option<(Origin, &'v str)>, PolicyError> {
        sort.as_ref().map(|text| self.mode(text.span().start, text.get_ref())).transpose()
    }

    /// Reads what is denied; an empty list makes an exception.
    fn deny(&self, list: &Spanned<List>) -> Result<Written<Deny>, PolicyError> {
        let at = self.at(list.span().start);
        if matches!(list.get_ref(), List::Many(list) if list.is_empty()) {
            return Ok(Written { value: Deny::default(), at });
        }
        let each =
            self.each("deny", Some(list), |at, text| word(at, "an operation", text, &Deny::WORDS))?;
        let value = each.iter().fold(Deny::default(), |all, one| all.with(one.value));
        Ok(Written { value, at })
    }
}

fn kind(at: &Origin, text: &str) -> Result<FileKind, PolicyError> {
    word(at, "a type of file", text, &KINDS)
}

/// Reads one of a few words.
fn word<T: Copy>(
    at: &Origin,
    what: &str,
    text: &str,
    words: &[(&str, T)],
) -> Result<T, PolicyError> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let hint = nearest(text, known.iter().copied()).map_or_else(
        || format!("known here: {}", known.join(", ")),
        |near| format!("did you mean {near}?"),
    );
    let what = format!("{} is not {what}", quote(text));
    Err(PolicyError::new(Code::Value, at.clone(), what).hint(hint))
}

/// Reads a disk id by name or number, or a range of numbers: `1000-1999`.
fn range<K: Kind>(
    at: &Origin,
    text: &str,
    id: impl Fn(&str) -> Result<Id<K, Disk>, PolicyError>,
) -> Result<Range<K>, PolicyError> {
    text::range(at, text, id).map(|(first, last)| Range { first, last })
}

/// Refuses a rule that can say nothing of any file.
fn decides(at: &Origin, rule: &Rule) -> Result<(), PolicyError> {
    if rule.mentions().is_none() {
        return Err(PolicyError::new(Code::Value, at.clone(), "the rule has no effect")
            .hint("add hide, read-only, present-owner, present-mode or deny"));
    }
    if let Some(path) = rule.paths.first()
        && rule.paths.iter().all(|path| path.value.directories)
        && !rule.kinds.holds(FileKind::Directory)
    {
        let what =
            format!("{} is for directories, which `type` excludes", quote(&path.value.to_string()));
        return Err(PolicyError::new(Code::Conflict, path.at.clone(), what)
            .hint("leave out the slash at the end, or add directory to `type`"));
    }
    let fits = |path: &Written<PathGlob>| {
        let last = path.value.last_literal();
        last.is_none_or(|last| rule.names.iter().any(|name| name.value.matches(last)))
    };
    if let Some(name) = rule.names.first()
        && !rule.paths.is_empty()
        && !rule.paths.iter().any(fits)
    {
        let what = format!("no file of `path` has the name {}", quote(&name.value.to_string()));
        return Err(PolicyError::new(Code::Conflict, name.at.clone(), what)
            .hint("the last name of the path must match both: leave one out"));
    }
    Ok(())
}
