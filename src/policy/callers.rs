//! What depends on the caller: who sees every file as their own, and who gets
//! in at all.

use std::fmt;

use super::error::{Code, Origin, PolicyError, Written, quote};
use super::names::Names;
use super::text;
use crate::id::{Group, Id, Kind, User, View};

/// How callers are served that are not mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// As without mirrors.
    #[default]
    Normal,
    /// Not at all, root excepted.
    Refuse,
}

/// The rules about callers; none at all is that everybody sees the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    users: Vec<Written<Id<User, View>>>,
    groups: Vec<Written<Id<Group, View>>>,
    refuse: Option<Written<()>>,
}

impl Callers {
    /// Returns the users who see every file as their own, sorted.
    pub fn users(&self) -> impl Iterator<Item = Id<User, View>> {
        self.users.iter().map(|user| user.value)
    }

    /// Returns the groups whose members do, sorted.
    pub fn groups(&self) -> impl Iterator<Item = Id<Group, View>> {
        self.groups.iter().map(|group| group.value)
    }

    /// Returns how everybody else is served.
    pub const fn others(&self) -> Others {
        if self.refuse.is_some() { Others::Refuse } else { Others::Normal }
    }

    /// Returns where it was written that everybody else is refused.
    pub(super) fn refusal(&self) -> Option<&Origin> {
        self.refuse.as_ref().map(|refuse| &refuse.at)
    }

    /// Reports whether there is no such rule.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reports whether a user sees every file as their own, by name or by a
    /// group; `is_member` is asked for groups only if it matters.
    pub fn mirror(
        &self,
        user: Option<Id<User, View>>,
        mut is_member: impl FnMut(Id<Group, View>) -> bool,
    ) -> bool {
        let by_name = user
            .is_some_and(|user| self.users.binary_search_by_key(&user, |rule| rule.value).is_ok());
        by_name || user.is_some() && self.groups().any(&mut is_member)
    }

    /// Returns where the first mirror was written.
    pub(super) fn place(&self) -> Option<&Origin> {
        let user = self.users.first().map(|rule| &rule.at);
        user.or_else(|| self.groups.first().map(|rule| &rule.at))
    }

    /// Returns the rule that mirrors a user, or members of a group, and where
    /// it was written.
    pub(super) fn rule(
        &self,
        user: Id<User, View>,
        is_member: impl Fn(Id<Group, View>) -> bool,
    ) -> Option<(String, &Origin)> {
        let named = self.users.iter().find(|rule| rule.value == user);
        let group = || self.groups.iter().find(|rule| is_member(rule.value));
        match named {
            Some(rule) => Some((rule.value.to_string(), &rule.at)),
            None => group().map(|rule| (format!("@{}", rule.value), &rule.at)),
        }
    }

    /// Reads `USER` or `@GROUP` and adds it to the mirrors.
    pub(super) fn add(
        &mut self,
        at: &Origin,
        text: &str,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        match text.strip_prefix('@') {
            Some(group) => add(&mut self.groups, at, text, text::group::<View>(at, group, names)?),
            None => add(&mut self.users, at, text, text::user::<View>(at, text, names)?.uid),
        }
    }

    /// Refuses everybody who is not mirrored; saying it again is no offence.
    pub(super) fn refuse_others(&mut self, at: &Origin) {
        self.refuse.get_or_insert_with(|| Written { value: (), at: at.clone() });
    }

    /// Checks and sorts the rules.
    pub(super) fn finish(&mut self) -> Result<(), PolicyError> {
        if let (None, Some(refuse)) = (self.place(), &self.refuse) {
            let what = "nobody but root would get in";
            return Err(PolicyError::new(Code::Value, refuse.at.clone(), what)
                .hint("list in `mirror` who is to get in"));
        }
        self.users.sort_by_key(|rule| rule.value);
        self.groups.sort_by_key(|rule| rule.value);
        Ok(())
    }
}

fn add<K: Kind>(
    list: &mut Vec<Written<Id<K, View>>>,
    at: &Origin,
    text: &str,
    value: Id<K, View>,
) -> Result<(), PolicyError> {
    if let Some(earlier) = list.iter().find(|rule| rule.value == value) {
        let what = format!("{} is in the list already, by {}", quote(text), earlier.at);
        return Err(PolicyError::new(Code::Conflict, at.clone(), what).hint("leave one out"));
    }
    list.push(Written { value, at: at.clone() });
    Ok(())
}

/// The words of the options: `mirror=USER:@GROUP`, `mirror-only=` where others
/// are refused.
impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users().map(|user| user.to_string());
        let groups = self.groups().map(|group| format!("@{group}"));
        let list: Vec<String> = users.chain(groups).collect();
        let word = match self.others() {
            Others::Normal => "mirror",
            Others::Refuse => "mirror-only",
        };
        write!(f, "{word}={}", list.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::NoNames;

    fn callers(list: &[&str]) -> Callers {
        let mut callers = Callers::default();
        for text in list {
            callers.add(&Origin::Whole, text, &NoNames).unwrap();
        }
        callers.finish().unwrap();
        callers
    }

    #[test]
    fn users_are_mirrored_by_name_or_by_group() {
        let callers = callers(&["7", "@50", "3"]);
        assert_eq!(callers.to_string(), "mirror=3:7:@50");
        let in_50 = |group: Id<Group, View>| group.raw() == 50;
        for (user, member, wanted) in [
            (Some(3), false, true),
            (Some(7), false, true),
            (Some(8), false, false),
            (Some(50), false, false),
            (Some(8), true, true),
            // Who has no id sees nothing as their own.
            (None, true, false),
        ] {
            let user = user.and_then(Id::new);
            assert_eq!(callers.mirror(user, |g| member && in_50(g)), wanted, "{user:?} {member}");
        }
    }

    #[test]
    fn groups_are_asked_for_only_if_it_matters() {
        let callers = callers(&["7", "@50"]);
        assert!(callers.mirror(Id::new(7), |_| panic!("asked")));
        assert!(!Callers::default().mirror(Id::new(7), |_| panic!("asked")));
    }
}
