//! `[changes]`: what callers may change, and how it is stored.

use toml::Spanned;

use super::rules::Modes;
use super::text::{Scalar, Source};
use crate::policy::error::{PolicyError, set};
use crate::policy::names::Names;
use crate::policy::spec::Spec;
use crate::policy::text::{self, SomeIds};

/// What callers may change.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Changes {
    chown: Option<Spanned<Scalar>>,
    chgrp: Option<Spanned<Scalar>>,
    chmod: Option<Spanned<Scalar>>,
    create: Option<Create>,
    #[serde(default)]
    xattrs: Vec<Spanned<Xattr>>,
}

/// What new files are born with.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Create {
    user: Option<Spanned<Scalar>>,
    group: Option<Spanned<Scalar>>,
    mode: Option<Spanned<Modes>>,
}

/// A rule about extended attributes.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Xattr {
    name: Spanned<Scalar>,
    action: Spanned<Scalar>,
    to: Option<Spanned<Scalar>>,
}

impl Source<'_> {
    /// Reads what callers may change into a policy.
    ///
    /// # Errors
    /// The first value that cannot be read, or that excludes another one.
    pub(super) fn changes(
        &self,
        spec: &mut Spec,
        changes: &Changes,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        if let Some(value) = &changes.chown {
            let (at, text) = self.value(value)?;
            spec.changes.set_chown(&at, text, names)?;
        }
        if let Some(value) = &changes.chgrp {
            let (at, text) = self.value(value)?;
            spec.changes.set_chgrp(&at, text, names)?;
        }
        if let Some(value) = &changes.chmod {
            let (at, text) = self.value(value)?;
            spec.changes.set_chmod(&at, text)?;
        }
        if let Some(create) = &changes.create {
            self.create(spec, create, names)?;
        }
        for rule in &changes.xattrs {
            let Xattr { name, action, to } = rule.get_ref();
            let (name, action) = (self.value(name)?, self.value(action)?);
            let to = to.as_ref().map(|to| self.value(to)).transpose()?;
            let to = to.as_ref().map(|(at, text)| (at, *text));
            let at = &name.0;
            spec.changes.xattrs.add(at, (at, name.1), (&action.0, action.1), to)?;
        }
        Ok(())
    }

    /// Reads what new files are born with: the owner is what `store-as` says
    /// too.
    fn create(
        &self,
        spec: &mut Spec,
        create: &Create,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        if let Some(value) = &create.user {
            let (at, text) = self.value(value)?;
            let uid = Some(text::user(&at, text, names)?.uid);
            spec.set_store(&at, SomeIds { uid, gid: None })?;
        }
        if let Some(value) = &create.group {
            let (at, text) = self.value(value)?;
            let gid = Some(text::group(&at, text, names)?);
            spec.set_store(&at, SomeIds { uid: None, gid })?;
        }
        if let Some(value) = &create.mode {
            let mode = self.modes("create.mode", value)?;
            set(&mut spec.changes.create_mode, &mode.at, Some(mode.value))?;
        }
        Ok(())
    }
}
