//! `[ids]`: the stages that translate.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::names::{Either, NamesTable, PrefixTable};
use super::text::{Scalar, Source};
use crate::policy::error::{Code, PolicyError};
use crate::policy::names::Names;
use crate::policy::options::unmapped;
use crate::policy::parts::Word;
use crate::policy::spec::Spec;
use crate::policy::text;

/// The stages that translate ids.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Ids {
    map: Option<Spanned<Vec<Spanned<Scalar>>>>,
    table: Option<Spanned<Vec<Spanned<Scalar>>>>,
    names: Option<Spanned<NamesTable>>,
    prefix: Option<Spanned<Either<PrefixTable>>>,
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

/// Returns the order in which the stages of a file stand in it; those that are
/// not there come last.
pub(super) fn order(document: &DeTable<'_>) -> [Word; 4] {
    let mut order = Word::ORDER;
    let Some(DeValue::Table(ids)) = document.get("ids").map(Spanned::get_ref) else { return order };
    let place = |word: &Word| {
        let key = ids.keys().find(|key| key.get_ref() == word.as_str())?;
        Some(key.span().start)
    };
    order.sort_by_key(|word| place(word).unwrap_or(usize::MAX));
    order
}

/// What to write instead of an empty list.
const NO_RULE: &str = "without any rule ids are shown as themselves: leave it out to say that";

impl Source<'_> {
    /// Reads the stages, which stand in this order.
    ///
    /// # Errors
    /// The first value that cannot be read.
    pub(super) fn ids(
        &self,
        ids: &Ids,
        order: [Word; 4],
        names: &dyn Names,
    ) -> Result<Spec, PolicyError> {
        let mut spec = Spec::default();
        for value in self.list("map", NO_RULE, ids.map.as_ref())? {
            let (at, text) = self.value(value)?;
            spec.add_extent(&at, text)?;
        }
        for value in self.list("table", NO_RULE, ids.table.as_ref())? {
            let (at, text) = self.value(value)?;
            spec.add_entry(&at, text, names)?;
        }
        if let Some(table) = &ids.names {
            let (at, stage) = self.names(table)?;
            spec.set_by_name(&at, stage, names)?;
        }
        if let Some(value) = &ids.prefix {
            let (at, stage) = self.prefix(value)?;
            spec.set_by_name(&at, stage, names)?;
        }
        spec.set_order(order);
        if let Some(collapse) = &ids.collapse {
            self.collapse(&mut spec, collapse, names)?;
        }
        if let Some(value) = &ids.unmapped {
            let (at, text) = self.value(value)?;
            unmapped(&mut spec, &at, text, names)?;
        }
        Ok(spec)
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
