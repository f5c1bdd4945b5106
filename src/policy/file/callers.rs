//! `[callers]`: what depends on who asks.

use toml::Spanned;

use super::text::{Scalar, Source};
use crate::policy::error::{Code, PolicyError, quote};
use crate::policy::names::Names;
use crate::policy::spec::Spec;
use crate::text::nearest;

/// The values of `others`.
const OTHERS: [&str; 2] = ["normal", "refuse"];

/// Who sees files as their own, and who else gets in.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Callers {
    mirror: Option<Spanned<Vec<Spanned<Scalar>>>>,
    others: Option<Spanned<Scalar>>,
}

impl Source<'_> {
    /// Reads the rules about callers.
    ///
    /// # Errors
    /// The first value that cannot be read.
    pub(super) fn callers(
        &self,
        spec: &mut Spec,
        callers: &Callers,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        for value in
            self.list("mirror", "leave it out: nobody is mirrored then", callers.mirror.as_ref())?
        {
            let (at, text) = self.value(value)?;
            spec.callers.add(&at, text, names)?;
        }
        let Some(value) = &callers.others else { return Ok(()) };
        let (at, text) = self.value(value)?;
        match text {
            "normal" => {}
            "refuse" => spec.callers.refuse_others(&at),
            _ => {
                let what = format!("{} is not a way to treat other callers", quote(text));
                let hint = nearest(text, OTHERS).map_or_else(
                    || "write normal or refuse".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                return Err(PolicyError::new(Code::Value, at, what).hint(hint));
            }
        }
        Ok(())
    }
}
