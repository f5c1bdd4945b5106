//! The policy file: TOML, read in one go, with errors that name their place.

mod callers;
mod changes;
mod ids;
mod names;
mod rules;
mod text;

use serde::de::{Deserialize, IgnoredAny};
use toml::Spanned;
use toml::de::DeTable;

use super::error::{Code, PolicyError, quote};
use super::names::Names;
use super::spec::Spec;
use callers::Callers;
use changes::Changes;
use ids::Ids;
use rules::RuleText;
use text::Source;

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
    #[serde(default)]
    callers: Callers,
    #[serde(default)]
    rules: Vec<Spanned<RuleText>>,
    #[serde(default)]
    changes: Changes,
}

/// Parses a policy file; `path` is for messages only.
///
/// # Errors
/// The first thing wrong with the file, with its line and column.
pub fn parse(path: &str, text: &str, names: &dyn Names) -> Result<Spec, PolicyError> {
    let source = Source::new(path, text);
    if text.len() > MAX_BYTES {
        let what = format!("{} bytes, but at most {MAX_BYTES} are read", text.len());
        return Err(PolicyError::new(Code::Limit, source.at(0), what));
    }
    let table = DeTable::parse(text).map_err(|error| source.error(&error))?;
    source.version(&table)?;
    let order = ids::order(table.get_ref());
    let document = Document::deserialize(toml::de::Deserializer::from(table))
        .map_err(|error| source.error(&error))?;
    let mut spec = source.ids(&document.ids, order, names)?;
    spec.rules = source.rules(&document.rules, names)?;
    source.changes(&mut spec, &document.changes, names)?;
    source.callers(&mut spec, &document.callers, names)?;
    spec.finish()
}

impl Source<'_> {
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
}
