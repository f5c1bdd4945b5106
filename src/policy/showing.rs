//! What of a policy holds only where the server is asked about each change.

use super::callers::Callers;
use super::changes::Changes;
use super::error::{Code, Origin, PolicyError};
use super::spec::{Spec, digest};

/// Up to how many bytes a line is one for people.
const READABLE: usize = 200;

impl Spec {
    /// Describes in one line whose files are shown as whose, as it was written: what else
    /// the policy says makes no difference to it.
    pub fn describe_owners(&self) -> String {
        let mut rules = self.rules.clone();
        rules
            .retain(|rule| rule.value.present_user.is_some() || rule.value.present_group.is_some());
        let (changes, callers) = (Changes::default(), Callers::default());
        let line = Self { rules, changes, callers, ..self.clone() }.describe();
        if line.len() > READABLE { format!("{:016x}", digest(&line)) } else { line }
    }

    /// Checks that the policy only says how files are shown, to everybody alike: that is
    /// all that can be had where what is written goes elsewhere.
    ///
    /// # Errors
    /// `Conflict`, at the first part that says more.
    pub fn only_shows(&self) -> Result<(), PolicyError> {
        let beyond = self.stored().or_else(|| self.denied()).or_else(|| self.about_callers());
        let Some((at, what)) = beyond else { return Ok(()) };
        Err(PolicyError::new(Code::Conflict, at.clone(), what))
    }

    /// Finds what decides how something is stored, or whether its attributes are.
    fn stored(&self) -> Option<(&Origin, &'static str)> {
        let user = self.users.store_as.as_ref().map(|rule| &rule.at);
        let store = user.or_else(|| self.groups.store_as.as_ref().map(|rule| &rule.at));
        let changes = || self.changes.words().into_iter().map(|(_, _, at)| at).next();
        let stored = store.map(|at| (at, "says whose new files are"));
        stored.or_else(|| changes().map(|at| (at, "says what may be changed")))
    }

    /// Finds a rule that refuses changes; one that makes an exception alone refuses none.
    fn denied(&self) -> Option<(&Origin, &'static str)> {
        self.rules.iter().find_map(|rule| {
            let read_only = rule.value.read_only.as_ref().filter(|rule| rule.value);
            let deny = rule.value.deny.as_ref().filter(|rule| !rule.value.is_empty());
            let at = read_only.map(|rule| &rule.at).or_else(|| deny.map(|rule| &rule.at));
            at.map(|at| (at, "refuses changes"))
        })
    }

    fn about_callers(&self) -> Option<(&Origin, &'static str)> {
        let at = self.callers.place().or_else(|| self.callers.refusal());
        at.map(|at| (at, "depends on the caller"))
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::options::Options;
    use crate::policy::{NoNames, Spec, file};

    #[test]
    fn options_that_say_more_than_how_files_are_shown_are_named() {
        for (name, value, want) in [
            ("map", Some("0:10000:5000"), None),
            ("present-as", Some("7:8"), None),
            ("unmapped", Some("present-as=7:8"), None),
            ("hide", Some("/a"), None),
            ("chmod-normal", None, None),
            ("store-as", Some("7:8"), Some("says whose new files are")),
            ("create-for-group", Some("8"), Some("says whose new files are")),
            ("chown-deny", None, Some("says what may be changed")),
            ("chmod-filter", Some("go-w"), Some("says what may be changed")),
            ("create-with-perms", Some("go-w"), Some("says what may be changed")),
            ("xattr-none", None, Some("says what may be changed")),
            ("delete-deny", None, Some("refuses changes")),
            ("mirror", Some("7"), Some("depends on the caller")),
            ("mirror-only", Some("7"), Some("depends on the caller")),
        ] {
            let mut options = Options::default();
            options.set(name, value).unwrap();
            let spec = Spec::from_options(&options, &NoNames).unwrap();
            let said = spec.only_shows().err().map(|error| error.to_string());
            assert_eq!(said, want.map(|want| format!("option {name}: {want}")), "{name}");
        }
    }

    #[test]
    fn owners_are_described_whatever_else_there_is() {
        let of = |options: &[(&str, Option<&str>)]| {
            let mut given = Options::default();
            for (name, value) in options {
                given.set(name, *value).unwrap();
            }
            Spec::from_options(&given, &NoNames).unwrap().describe_owners()
        };
        assert_eq!(of(&[]), "identity");
        assert_eq!(of(&[("hide", Some("/a")), ("chown-deny", None)]), "identity");
        let map = of(&[("map", Some("0:10000:5000")), ("hide", Some("/a"))]);
        assert_eq!(map, "map=0:10000:5000");
        let long: Vec<String> = (0..40).map(|id| format!("{id}:{}:1", id + 10_000)).collect();
        let long: Vec<_> = long.iter().map(|map| ("map", Some(map.as_str()))).collect();
        assert_eq!(of(&long).len(), 16);
    }

    #[test]
    fn rules_that_refuse_changes_are_named_by_their_place() {
        for (rule, want) in [
            ("hide = true", None),
            ("present-mode = \"go-w\"", None),
            ("read-only = false", None),
            ("deny = []", None),
            ("read-only = true", Some("p:4:13: refuses changes")),
            ("deny = [\"exec\"]", Some("p:4:8: refuses changes")),
        ] {
            let text = format!("version = 1\n[[rules]]\npath = \"/a\"\n{rule}\n");
            let spec = file::parse("p", &text, &NoNames).unwrap();
            let said = spec.only_shows().err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), want, "{rule}");
        }
    }
}
