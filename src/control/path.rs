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
