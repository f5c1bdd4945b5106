//! The policy file: TOML, read in one go, with errors that name their place.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use toml::Spanned;
use toml::de::DeTable;

use super::error::{Code, Origin, PolicyError};
use super::options::unmapped;
use super::spec::Spec;
use super::text::{self, Names, quote};
use crate::text::nearest;

/// The largest policy file that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The only version of the language so far.
const VERSION: &str = "1";

/// The whole file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Read before all else: see [`Source::version`].
    #[serde(rename = "version")]
    _version: IgnoredAny,
    #[serde(default)]
    ids: Ids,
    rules: Option<Spanned<Reserved>>,
    changes: Option<Spanned<Reserved>>,
}

/// The stages that translate ids, in the order in which they are asked.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Ids {
    map: Option<Spanned<Vec<Spanned<Scalar>>>>,
    table: Option<Spanned<Vec<Spanned<Scalar>>>>,
    collapse: Option<Spanned<Collapse>>,
    unmapped: Option<Spanned<Scalar>>,
}

/// The stage that shows all the rest as one owner.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Collapse {
    present_as: Option<Spanned<Scalar>>,
    store_as: Option<Spanned<Scalar>>,
}

/// A string, or a whole number as it stands in the file.
enum Scalar {
    Text(String),
    Number,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a plain decimal number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What a later version will read: whether it is empty is all that matters.
struct Reserved {
    empty: bool,
}

impl<'de> Deserialize<'de> for Reserved {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Reserved;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table or an array")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Reserved, A::Error> {
                let mut empty = true;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    empty = false;
                }
                Ok(Reserved { empty })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Reserved, A::Error> {
                let mut empty = true;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    empty = false;
                }
                Ok(Reserved { empty })
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Parses a policy file; `path` is for messages only.
///
/// # Errors
/// The first thing wrong with the file, with its line and column.
pub fn parse(path: &str, text: &str, names: &dyn Names) -> Result<Spec, PolicyError> {
    let source = Source { path: Arc::from(path), text, last: Cell::new(Place::START) };
    if text.len() > MAX_BYTES {
        let what = format!("{} bytes, but at most {MAX_BYTES} are read", text.len());
        return Err(PolicyError::new(Code::Limit, source.at(0), what));
    }
    let table = DeTable::parse(text).map_err(|error| source.error(&error))?;
    source.version(&table)?;
    let document = Document::deserialize(toml::de::Deserializer::from(table))
        .map_err(|error| source.error(&error))?;
    source.reserved("rules", document.rules.as_ref())?;
    source.reserved("changes", document.changes.as_ref())?;
    source.spec(&document.ids, names)
}

/// A point in the text with its line and column.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    line: u32,
    column: u32,
}

impl Place {
    const START: Self = Self { offset: 0, line: 1, column: 1 };
}

/// The text of a file, for finding places and what is written there.
struct Source<'a> {
    path: Arc<str>,
    text: &'a str,
    /// The place asked for last: values are read in order, so that counting
    /// on from there keeps the whole linear.
    last: Cell<Place>,
}

impl Source<'_> {
    /// Returns the origin of what begins at this byte.
    fn at(&self, offset: usize) -> Origin {
        let last = self.last.get();
        let mut place = if last.offset <= offset { last } else { Place::START };
        for c in self.text.get(place.offset..offset).unwrap_or_default().chars() {
            if c == '\n' {
                place.line = place.line.saturating_add(1);
                place.column = 1;
            } else {
                place.column = place.column.saturating_add(1);
            }
        }
        place.offset = offset;
        self.last.set(place);
        Origin::File { path: Arc::clone(&self.path), line: place.line, column: place.column }
    }

    /// Turns an error of the parser into ours, with the key that was meant.
    fn error(&self, error: &toml::de::Error) -> PolicyError {
        let span = error.span().unwrap_or(0..0);
        let at = self.at(span.start);
        let message = error.message();
        if let Some(known) = message.strip_prefix("unknown field ") {
            let key = self.text.get(span).unwrap_or_default();
            // After the unknown key come the known ones, each in backticks.
            let known: Vec<&str> = known.split('`').skip(3).step_by(2).collect();
            let hint = nearest(key.trim_matches(['"', '\'']), known.iter().copied()).map_or_else(
                || format!("known here: {}", known.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            return PolicyError::new(Code::Key, at, format!("unknown key {}", quote(key)))
                .hint(hint);
        }
        PolicyError::new(Code::Syntax, at, message.lines().collect::<Vec<_>>().join("; "))
    }

    /// Checks the version before anything that a later one may have added.
    fn version(&self, table: &Spanned<DeTable<'_>>) -> Result<(), PolicyError> {
        let hint = "write `version = 1` at the top";
        let Some(value) = table.get_ref().get("version") else {
            return Err(PolicyError::new(Code::Version, self.at(0), "no version").hint(hint));
        };
        let written = self.text.get(value.span()).unwrap_or_default();
        if written == VERSION {
            return Ok(());
        }
        let at = self.at(value.span().start);
        let what = format!("version {} is not supported", quote(written));
        Err(PolicyError::new(Code::Version, at, what).hint(hint))
    }

    /// Refuses a part of the language that this version cannot do.
    fn reserved(&self, key: &str, part: Option<&Spanned<Reserved>>) -> Result<(), PolicyError> {
        match part {
            Some(part) if !part.get_ref().empty => {
                let at = self.at(part.span().start);
                let what = format!("`{key}` is not supported by this version");
                Err(PolicyError::new(Code::Reserved, at, what).hint("leave it out"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the text of a value; of a number, the digits in the file.
    fn value<'v>(&'v self, value: &'v Spanned<Scalar>) -> Result<(Origin, &'v str), PolicyError> {
        let Range { start, end } = value.span();
        let at = self.at(start);
        match value.get_ref() {
            Scalar::Text(text) => Ok((at, text)),
            Scalar::Number => {
                let written = self.text.get(start..end).unwrap_or_default();
                if written.bytes().all(|b| b.is_ascii_digit()) {
                    return Ok((at, written));
                }
                let what = format!("{} is not a plain decimal number", quote(written));
                Err(PolicyError::new(Code::Value, at, what)
                    .hint("no sign, no other base, no underscores"))
            }
        }
    }

    /// Returns the values of a list, which must not be empty.
    fn list<'v>(
        &self,
        key: &str,
        list: Option<&'v Spanned<Vec<Spanned<Scalar>>>>,
    ) -> Result<&'v [Spanned<Scalar>], PolicyError> {
        let Some(list) = list else { return Ok(&[]) };
        if list.get_ref().is_empty() {
            let what = format!("`{key}` is empty");
            return Err(PolicyError::new(Code::Value, self.at(list.span().start), what)
                .hint("without any rule ids are shown as themselves: leave it out to say that"));
        }
        Ok(list.get_ref())
    }

    /// Reads the stages.
    fn spec(&self, ids: &Ids, names: &dyn Names) -> Result<Spec, PolicyError> {
        let mut spec = Spec::default();
        for value in self.list("map", ids.map.as_ref())? {
            let (at, text) = self.value(value)?;
            text::add_extent(&mut spec, &at, text)?;
        }
        for value in self.list("table", ids.table.as_ref())? {
            let (at, text) = self.value(value)?;
            text::add_entry(&mut spec, &at, text, names)?;
        }
        if let Some(collapse) = &ids.collapse {
            self.collapse(&mut spec, collapse, names)?;
        }
        if let Some(value) = &ids.unmapped {
            let (at, text) = self.value(value)?;
            unmapped(&mut spec, &at, text, names)?;
        }
        spec.finish()
    }

    fn collapse(
        &self,
        spec: &mut Spec,
        collapse: &Spanned<Collapse>,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        let Collapse { present_as, store_as } = collapse.get_ref();
        if present_as.is_none() && store_as.is_none() {
            let at = self.at(collapse.span().start);
            return Err(PolicyError::new(Code::Value, at, "`collapse` says nothing")
                .hint("write present-as or store-as into it, or leave it out"));
        }
        if let Some(value) = present_as {
            let (at, text) = self.value(value)?;
            spec.set_present(&at, text::owner(&at, text, names)?)?;
        }
        if let Some(value) = store_as {
            let (at, text) = self.value(value)?;
            spec.set_store(&at, text::owner(&at, text, names)?)?;
        }
        Ok(())
    }
}
