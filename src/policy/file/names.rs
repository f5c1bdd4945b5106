//! `[ids.names]` and `[ids.prefix]`: stages by name.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::text::{Scalar, Source};
use crate::id::{Disk, Id, User};
use crate::policy::error::{Code, Origin, PolicyError, quote};
use crate::policy::names::{ByName, List, Lists, Place, is_name};
use crate::text::nearest;

/// The stage of ids whose name is on both sides.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamesTable {
    disk: Option<Spanned<Either<Side>>>,
    view: Option<Spanned<Either<Side>>>,
}

/// The stage of ids whose name has a prefix on disk.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrefixTable {
    prefix: Option<Spanned<String>>,
    names: Option<Spanned<Either<Side>>>,
}

/// Where the names of a side come from: files, or the policy itself.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Side {
    passwd: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    users: Option<Spanned<Inline>>,
    groups: Option<Spanned<Inline>>,
}

/// A word or a table.
pub(super) enum Either<T> {
    Word(String),
    Table(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Either<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
            type Value = Either<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a table")
            }

            fn visit_str<E>(self, text: &str) -> Result<Either<T>, E> {
                Ok(Either::Word(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Either<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Either::Table)
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// Names with their ids, as they stand in the file.
struct Inline(Vec<(Spanned<String>, Spanned<Scalar>)>);

impl<'de> Deserialize<'de> for Inline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Inline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of names with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inline, A::Error> {
                let mut pairs: Vec<(Spanned<String>, _)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                // They come in the order of the alphabet; the first one counts.
                pairs.sort_by_key(|(name, _)| name.span().start);
                Ok(Inline(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Source<'_> {
    /// Reads `ids.names`.
    ///
    /// # Errors
    /// A side is missing, or cannot be read.
    pub(super) fn names(
        &self,
        table: &Spanned<NamesTable>,
    ) -> Result<(Origin, ByName), PolicyError> {
        let at = self.at(table.span().start);
        let NamesTable { disk, view } = table.get_ref();
        let missing = |side: &str| {
            PolicyError::new(Code::Value, at.clone(), format!("`names` says nothing of the {side}"))
                .hint(format!("write {side} = \"host\", or where else its names are"))
        };
        let disk = self.side("disk", disk.as_ref().ok_or_else(|| missing("disk"))?)?;
        let view = self.side("view", view.as_ref().ok_or_else(|| missing("view"))?)?;
        Ok((at.clone(), ByName::Names { disk, view }))
    }

    /// Reads `ids.prefix`.
    ///
    /// # Errors
    /// There is no prefix, or its names cannot be read.
    pub(super) fn prefix(
        &self,
        value: &Spanned<Either<PrefixTable>>,
    ) -> Result<(Origin, ByName), PolicyError> {
        let at = self.at(value.span().start);
        match value.get_ref() {
            Either::Word(text) => Ok((at.clone(), ByName::prefix(&at, text, Lists::host())?)),
            Either::Table(PrefixTable { prefix, names }) => {
                let Some(prefix) = prefix else {
                    return Err(PolicyError::new(Code::Value, at, "there is no prefix")
                        .hint("write prefix = \"alice.web.\" into it"));
                };
                let stands = self.at(prefix.span().start);
                let lists = match names {
                    Some(names) => self.side("names", names)?,
                    None => Lists::host(),
                };
                Ok((at, ByName::prefix(&stands, prefix.get_ref(), lists)?))
            }
        }
    }

    /// Reads where the names of a side come from.
    fn side(&self, key: &str, side: &Spanned<Either<Side>>) -> Result<Lists, PolicyError> {
        let at = self.at(side.span().start);
        let Side { passwd, group, users, groups } = match side.get_ref() {
            Either::Table(table) => table,
            Either::Word(word) => {
                return Lists::by_word(word).ok_or_else(|| {
                    let hint = nearest(word, ["host", "source"]).map_or_else(
                        || "write \"host\", \"source\", or a table".to_owned(),
                        |near| format!("did you mean {near}?"),
                    );
                    let what = format!("{} is no list of names", quote(word));
                    PolicyError::new(Code::Value, at.clone(), what).hint(hint)
                });
            }
        };
        let lists = Lists {
            users: self.one_list("passwd", passwd.as_ref(), "users", users.as_ref())?,
            groups: self.one_list("group", group.as_ref(), "groups", groups.as_ref())?,
        };
        if lists == Lists::default() {
            return Err(PolicyError::new(Code::Value, at, format!("`{key}` names no list"))
                .hint("write passwd and group, or users and groups into it"));
        }
        Ok(lists)
    }

    /// Reads the list of one kind: a file or what stands in the policy.
    fn one_list(
        &self,
        file: &str,
        path: Option<&Spanned<String>>,
        inline: &str,
        pairs: Option<&Spanned<Inline>>,
    ) -> Result<Option<List>, PolicyError> {
        match (path, pairs) {
            (None, None) => Ok(None),
            (Some(path), None) => {
                let at = self.at(path.span().start);
                Ok(Some(List::File(Place::parse(&at, path.get_ref())?)))
            }
            (None, Some(pairs)) => {
                let pairs = pairs.get_ref().0.iter().map(|(name, id)| self.inline(name, id));
                Ok(Some(List::Inline(pairs.collect::<Result<_, _>>()?)))
            }
            (Some(_), Some(pairs)) => {
                let at = self.at(pairs.span().start);
                let what = format!("`{inline}` stands beside `{file}`");
                Err(PolicyError::new(Code::Conflict, at, what).hint("leave one out"))
            }
        }
    }

    /// Reads a name and its id.
    fn inline(
        &self,
        name: &Spanned<String>,
        id: &Spanned<Scalar>,
    ) -> Result<(String, u32), PolicyError> {
        if !is_name(name.get_ref()) {
            let at = self.at(name.span().start);
            let what = format!("{} is no name of a user or group", quote(name.get_ref()));
            return Err(PolicyError::new(Code::Value, at, what));
        }
        let (at, text) = self.value(id)?;
        let id = Id::<User, Disk>::from_decimal(text).map(Id::raw);
        let bad = || {
            PolicyError::new(Code::Value, at, format!("{} is not an id", quote(text)))
                .hint("ids are plain decimal numbers from 0 to 4294967294")
        };
        Ok((name.get_ref().clone(), id.ok_or_else(bad)?))
    }
}
