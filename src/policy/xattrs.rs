//! What becomes of extended attributes, by their names: passed, hidden,
//! refused, or stored under another name.

use std::borrow::Cow;
use std::fmt;

use super::error::{Code, Origin, PolicyError, Written, quote, unknown};
use super::glob::{Glob, Shape};
use crate::text::shown;

/// Attributes that permissions depend on: the kernel asks for them.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// The attribute that holds a user id, which is translated.
const CAPABILITY: &str = "security.capability";

/// The namespaces of attributes: no name begins otherwise.
const NAMESPACES: [&str; 4] = ["user.", "trusted.", "security.", "system."];

/// What becomes of an attribute that a caller names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xattr<'a> {
    /// It is this one, on disk too.
    Is(Cow<'a, [u8]>),
    /// It can be read, and neither set nor removed.
    Refused(&'a [u8]),
    /// It is not there, and cannot be set.
    Hidden,
}

/// What a rule does with the attributes that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Pass,
    Hide,
    Refuse,
    Rename,
}

/// A rule about attributes by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    name: Glob,
    action: Action,
    /// What names on disk begin with, for `rename`; else empty.
    to: Box<[u8]>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, action, to } = self;
        let name = shown(name.to_string());
        match action {
            Action::Pass => write!(f, "{name} pass"),
            Action::Hide => write!(f, "{name} hide"),
            Action::Refuse => write!(f, "{name} refuse"),
            Action::Rename => write!(f, "{name} rename {}", to.escape_ascii()),
        }
    }
}

impl Rule {
    /// Reports whether this rule decides about a name of the view. One that
    /// renames also decides that its names on disk are not seen.
    fn decides(&self, name: &[u8]) -> bool {
        self.name.matches(name) || self.action == Action::Rename && name.starts_with(&self.to)
    }

    /// Reports whether every name that another rule is about is decided here.
    fn covers(&self, other: &Self) -> bool {
        let prefix = other.name.prefix();
        match (self.name.shape(), other.name.shape()) {
            _ if self.name == other.name => true,
            (_, Shape::Literal) => self.decides(prefix),
            // A lone `*`.
            (Shape::Suffix, _) => self.name.suffix().is_empty(),
            (Shape::Prefix, _) => prefix.starts_with(self.name.prefix()),
            (Shape::Literal | Shape::General, _) => false,
        }
    }

    /// Reports whether no attribute has such a name.
    fn matches_nothing(&self) -> bool {
        let prefix = self.name.prefix();
        let fits = |space: &&str| {
            let space = space.as_bytes();
            match self.name.shape() {
                Shape::Literal => prefix.starts_with(space),
                Shape::Prefix | Shape::Suffix | Shape::General => {
                    prefix.starts_with(space) || space.starts_with(prefix)
                }
            }
        };
        !NAMESPACES.iter().any(fits)
    }
}

/// The rules about extended attributes; the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Xattrs(Vec<Written<Rule>>);

impl Xattrs {
    /// No rule.
    pub(super) const NONE: Self = Self(Vec::new());

    /// Returns the rules in order.
    pub(super) fn rules(&self) -> &[Written<Rule>] {
        &self.0
    }

    /// Returns each rule that never decides, with the earlier one that decides
    /// in its place, if it is that.
    pub(super) fn dead(&self) -> impl Iterator<Item = (&Written<Rule>, Option<&Written<Rule>>)> {
        self.0.iter().enumerate().filter_map(|(at, rule)| {
            let before = self.0.get(..at).unwrap_or_default();
            let earlier = before.iter().find(|earlier| earlier.value.covers(&rule.value));
            (earlier.is_some() || rule.value.matches_nothing()).then_some((rule, earlier))
        })
    }

    /// Returns each rule that stores attributes which only root may set where
    /// users may set them.
    pub(super) fn lowered(&self) -> impl Iterator<Item = &Written<Rule>> {
        self.0.iter().filter(|rule| {
            let Rule { name, action, to } = &rule.value;
            *action == Action::Rename
                && to.starts_with(b"user.")
                && !name.prefix().starts_with(b"user.")
        })
    }

    /// Returns what becomes of a name of the view.
    pub(super) fn decide<'a>(&self, name: &'a [u8]) -> Xattr<'a> {
        let Some(rule) = self.deciding(name) else { return Xattr::Is(Cow::Borrowed(name)) };
        match rule.action {
            Action::Pass => Xattr::Is(Cow::Borrowed(name)),
            Action::Hide => Xattr::Hidden,
            Action::Refuse => Xattr::Refused(name),
            Action::Rename => match name.strip_prefix(rule.name.prefix()) {
                Some(rest) => Xattr::Is(Cow::Owned([&rule.to, rest].concat())),
                None => Xattr::Hidden,
            },
        }
    }

    /// Returns the names of the view that lead to a name on disk.
    pub(super) fn shown<'a>(&self, disk: &'a [u8]) -> Vec<Cow<'a, [u8]>> {
        let itself = match self.decide(disk) {
            Xattr::Is(Cow::Borrowed(name)) | Xattr::Refused(name) => Some(Cow::Borrowed(name)),
            Xattr::Is(Cow::Owned(_)) | Xattr::Hidden => None,
        };
        let renamed = self.0.iter().filter_map(|rule| {
            let rule = &rule.value;
            let rest = disk.strip_prefix(&*rule.to).filter(|_| rule.action == Action::Rename)?;
            let name = [rule.name.prefix(), rest].concat();
            let leads = self.deciding(&name).is_some_and(|deciding| std::ptr::eq(deciding, rule));
            leads.then_some(Cow::Owned(name))
        });
        itself.into_iter().chain(renamed).collect()
    }

    fn deciding(&self, name: &[u8]) -> Option<&Rule> {
        self.0.iter().map(|rule| &rule.value).find(|rule| rule.decides(name))
    }

    /// Adds a rule after those that are there.
    ///
    /// # Errors
    /// A pattern or action that cannot be read, or that an attribute with a
    /// meaning of its own does not allow.
    pub(super) fn add(
        &mut self,
        at: &Origin,
        name: (&Origin, &str),
        action: (&Origin, &str),
        to: Option<(&Origin, &str)>,
    ) -> Result<(), PolicyError> {
        let pattern = Glob::parse(name.0, name.1)?;
        let known = ["pass", "hide", "refuse", "rename"];
        let kind = match action.1 {
            "pass" => Action::Pass,
            "hide" => Action::Hide,
            "refuse" => Action::Refuse,
            "rename" => Action::Rename,
            other => {
                return Err(unknown(action.0, "an attribute", other, known));
            }
        };
        let to = match (kind, to) {
            (Action::Rename, Some(to)) => {
                self.check_rename(name, &pattern, to)?;
                to.1
            }
            (Action::Rename, None) => {
                return Err(bad(action.0, "`rename` does not say to what")
                    .hint("add `to`, such as to = \"user.overlay.\""));
            }
            (_, None) => "",
            (_, Some((at, _))) => {
                return Err(bad(at, "`to` is for `rename` alone").hint("leave it out"));
            }
        };
        self.check_meaning(name, &pattern, kind)?;
        let value = Rule { name: pattern, action: kind, to: to.as_bytes().into() };
        self.0.push(Written { value, at: at.clone() });
        Ok(())
    }

    /// Checks that names can be stored as others, and be found again.
    fn check_rename(
        &self,
        (at, name): (&Origin, &str),
        pattern: &Glob,
        (to_at, to): (&Origin, &str),
    ) -> Result<(), PolicyError> {
        if pattern.shape() != Shape::Prefix {
            let what = format!("{} cannot be renamed", quote(name));
            return Err(
                bad(at, what).hint("a name to rename is PREFIX*, such as trusted.overlay.*")
            );
        }
        let spaces = NAMESPACES.iter().filter(|space| **space != "system.");
        if !spaces.clone().any(|space| to.starts_with(space)) {
            let what = format!("{} is not where attributes can be stored", quote(to));
            return Err(bad(to_at, what).hint("begin it with user., trusted. or security."));
        }
        if CAPABILITY.starts_with(to) {
            let what = format!("{} may become {CAPABILITY}, which holds an id", quote(to));
            return Err(bad(to_at, what).hint("choose another name to store attributes under"));
        }
        let taken = self.0.iter().find(|rule| {
            let other = &rule.value;
            let (one, two) = (&*other.to, to.as_bytes());
            other.action == Action::Rename && (one.starts_with(two) || two.starts_with(one))
        });
        match taken {
            Some(rule) => {
                let what = format!("{} is where `{}` stores ({})", quote(to), rule.value, rule.at);
                Err(PolicyError::new(Code::Conflict, to_at.clone(), what)
                    .hint("two rules cannot store under the same names"))
            }
            None => Ok(()),
        }
    }

    /// Checks that attributes with a meaning of their own keep it.
    fn check_meaning(
        &self,
        (at, name): (&Origin, &str),
        pattern: &Glob,
        action: Action,
    ) -> Result<(), PolicyError> {
        let decides = |known: &str| {
            pattern.matches(known.as_bytes()) && self.deciding(known.as_bytes()).is_none()
        };
        let word = if action == Action::Rename { "renamed" } else { "hidden" };
        let acl = || ACLS.into_iter().find(|acl| decides(acl));
        if matches!(action, Action::Hide | Action::Rename)
            && let Some(acl) = acl()
        {
            let what = format!(
                "{} matches {acl}, which cannot be {word}: permissions depend on it",
                quote(name)
            );
            return Err(bad(at, what)
                .hint("let it pass by a rule before: name = \"system.*\", action = \"pass\""));
        }
        if action == Action::Rename && decides(CAPABILITY) {
            let what = format!(
                "{} matches {CAPABILITY}, which cannot be renamed: it holds an id",
                quote(name)
            );
            let hint =
                format!("let it pass by a rule before: name = \"{CAPABILITY}\", action = \"pass\"");
            return Err(bad(at, what).hint(hint));
        }
        Ok(())
    }
}

fn bad(at: &Origin, what: impl AsRef<str>) -> PolicyError {
    PolicyError::new(Code::Value, at.clone(), what)
}
