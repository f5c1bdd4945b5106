//! The text of a policy file: values, and the places where they stand.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Visitor};
use toml::Spanned;

use crate::policy::error::{Code, Origin, PolicyError, quote};
use crate::text::nearest;

/// A string, or a whole number as it stands in the file.
pub(super) enum Scalar {
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
pub(super) struct Source<'a> {
    path: Arc<str>,
    pub(super) text: &'a str,
    /// The place asked for last: values are read nearly in order, so that
    /// counting on or back from there keeps the whole linear.
    last: Cell<Place>,
}

impl<'a> Source<'a> {
    /// Takes the text of a file; `path` is for messages only.
    pub(super) fn new(path: &str, text: &'a str) -> Self {
        Self { path: Arc::from(path), text, last: Cell::new(Place::START) }
    }

    /// Returns the origin of what begins at this byte.
    pub(super) fn at(&self, offset: usize) -> Origin {
        let mut place = self.last.get();
        if offset < place.offset {
            let between = self.text.get(offset..place.offset).unwrap_or_default();
            let lines = between.bytes().filter(|b| *b == b'\n').count();
            place.line = place.line.saturating_sub(u32::try_from(lines).unwrap_or(u32::MAX));
            let before = self.text.get(..offset).unwrap_or_default();
            place.offset = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
            place.column = 1;
        }
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
    pub(super) fn error(&self, error: &toml::de::Error) -> PolicyError {
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

    /// Returns the text of a value; of a number, the digits in the file.
    pub(super) fn value<'v>(
        &'v self,
        value: &'v Spanned<Scalar>,
    ) -> Result<(Origin, &'v str), PolicyError> {
        self.scalar(value.span(), value.get_ref())
    }

    /// As [`Source::value`], of a value and where it stands.
    pub(super) fn scalar<'v>(
        &'v self,
        span: Range<usize>,
        value: &'v Scalar,
    ) -> Result<(Origin, &'v str), PolicyError> {
        let Range { start, end } = span;
        let at = self.at(start);
        match value {
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

    /// Returns the values of a list, which must not be empty: `hint` says what
    /// to write instead.
    pub(super) fn list<'v>(
        &self,
        key: &str,
        hint: &str,
        list: Option<&'v Spanned<Vec<Spanned<Scalar>>>>,
    ) -> Result<&'v [Spanned<Scalar>], PolicyError> {
        let Some(list) = list else { return Ok(&[]) };
        if list.get_ref().is_empty() {
            let what = format!("`{key}` is empty");
            return Err(PolicyError::new(Code::Value, self.at(list.span().start), what).hint(hint));
        }
        Ok(list.get_ref())
    }
}
