//! Paths in JSON, which has text only: [`coded`] and read back.

use std::path::{Path, PathBuf};

use serde::{Deserialize as _, Deserializer, Serializer};

use crate::text::{coded, decoded};

pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&coded(path))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    String::deserialize(from).map(|text| decoded(&text).into())
}

/// Those that there may be none of.
pub(super) mod optional {
    use super::{Deserializer, PathBuf, Serializer};

    pub(in crate::control) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => super::serialize(path, to),
            None => to.serialize_none(),
        }
    }

    pub(in crate::control) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        super::deserialize(from).map(Some)
    }
}
