//! Findings about what callers may change.

use super::Findings;
use crate::attr::{FileKind, Mode};
use crate::id::Kind;
use crate::policy::changes::Chown;
use crate::policy::error::{Code, Written};
use crate::policy::spec::{Rules, Spec};

impl Findings {
    /// What the changes do that their writer may not expect.
    pub(super) fn changes(&mut self, spec: &Spec) {
        let changes = spec.changes();
        self.only(spec.users(), "chown", changes.chown.as_ref());
        self.only(spec.groups(), "chgrp", changes.chgrp.as_ref());
        if let Some(mode) = &changes.create_mode
            && !mode.value.apply(Mode::new(0o777), FileKind::Directory).has(Mode::EXECUTE)
        {
            let what = format!("`{}` makes directories that nobody can enter", mode.value);
            self.warning(Code::Closed, &mode.at, what, "give execute with X, such as u=rwX,g=rX");
        }
        for rule in changes.xattrs.lowered() {
            let what = format!("`{}` stores what root sets where users can set it", rule.value);
            let hint = "on the disk itself, whoever may write a file";
            self.note(Code::Root, &rule.at, what, hint);
        }
        for (rule, earlier) in changes.xattrs.dead() {
            let (what, hint) = match earlier {
                Some(earlier) => (
                    format!(
                        "`{}` never decides: `{}` at {} does",
                        rule.value, earlier.value, earlier.at
                    ),
                    "the first rule that matches decides: write it before",
                ),
                None => (
                    format!("`{}` matches no attribute", rule.value),
                    "names begin with user., trusted., security. or system.",
                ),
            };
            self.warning(Code::Dead, &rule.at, what, hint);
        }
    }

    /// Ids that callers may give and that cannot be stored.
    fn only<K: Kind>(&mut self, rules: &Rules<K>, word: &str, change: Option<&Written<Chown<K>>>) {
        let Some(change) = change else { return };
        let stages = rules.stages();
        let lost =
            |id: &_| stages.store_mapped(*id, &mut ()).is_none() && rules.present_as() != Some(*id);
        for id in change.value.singles().filter(lost) {
            let what = format!("{word} to {id} fails all the same: nothing is shown as it");
            self.warning(Code::Dead, &change.at, what, "map that id, or leave it out");
        }
    }
}
