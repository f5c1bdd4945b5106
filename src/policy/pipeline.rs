//! The run-time form of a whole policy.

use super::callers::Callers;
use super::changes::Changes;
use super::error::{Code, Origin, PolicyError};
use super::rules;
use super::spec::{Rules, Spec};
use super::stages::Stages;
use super::{Inputs, Policy, Translate};
use crate::id::{Disk, Group, Id, Ids, Kind, User, View};

/// As whom the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// The server's own ids, in disk ids.
    pub ids: Ids<Disk>,
    /// Whether it may make files of other owners.
    pub privileged: bool,
}

/// A policy ready to decide: stages for users and for groups.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub(super) spec: Spec,
    pub(super) users: Stages<User>,
    pub(super) groups: Stages<Group>,
    rules: rules::Rules,
}

impl Spec {
    /// Makes the run-time form for a server.
    ///
    /// # Errors
    /// A `present-as` without a `store-as`, where what callers create has no
    /// owner on disk that would be shown as the present-as id.
    pub fn build(&self, server: &Server) -> Result<Pipeline, PolicyError> {
        Ok(Pipeline {
            users: build(&self.users, server.ids.uid, server.privileged)?,
            groups: build(&self.groups, server.ids.gid, server.privileged)?,
            rules: rules::Rules::new(&self.rules),
            spec: self.clone(),
        })
    }
}

/// Makes the stages of one kind, for a server with this id of its own.
fn build<K: Kind>(
    rules: &Rules<K>,
    own: Id<K, Disk>,
    privileged: bool,
) -> Result<Stages<K>, PolicyError> {
    let mut stages = rules.stages();
    let (Some(present), None) = (&rules.present_as, &rules.store_as) else {
        return Ok(stages);
    };
    let (shown, word) = (present.value, K::WORD);
    let lost = |what: String| {
        let at: Origin = present.at.clone();
        let hint = "say with store-as what new files belong to on disk";
        Err(PolicyError::new(Code::Lost, at, what).hint(hint))
    };
    let sink = if !privileged {
        own
    } else if !rules.has_parts() {
        match Id::new(shown.raw()) {
            Some(same) => same,
            None => return lost(format!("{shown} is no {word}")),
        }
    } else {
        match stages.store_mapped(shown, &mut ()) {
            Some(disk) => disk,
            None => {
                return lost(format!("no disk {word} is mapped to the present-as {word} {shown}"));
            }
        }
    };
    match stages.present(Some(sink), &mut ()) {
        Some(view) if view == shown => {
            stages.set_sink(sink);
            Ok(stages)
        }
        Some(view) => lost(format!(
            "new files would belong to disk {word} {sink}, which is shown as {view}, not as {shown}"
        )),
        None => lost(format!("disk {word} {sink} is unmapped")),
    }
}

impl Pipeline {
    /// Returns the rules that this was made of.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Returns the view uids that the policy can present.
    ///
    /// Sorted ranges that neither overlap nor touch: first id and count.
    pub fn presentable_users(&self) -> Vec<(u32, u64)> {
        self.users.presentable()
    }

    /// Returns the view gids that the policy can present.
    ///
    /// Sorted ranges that neither overlap nor touch: first id and count.
    pub fn presentable_groups(&self) -> Vec<(u32, u64)> {
        self.groups.presentable()
    }
}

impl Translate<User> for Pipeline {
    fn present(&self, disk: Option<Id<User, Disk>>) -> Option<Id<User, View>> {
        self.users.present(disk, &mut ())
    }

    fn store(&self, view: Id<User, View>) -> Option<Id<User, Disk>> {
        self.users.store(view, &mut ())
    }

    fn create(&self, caller: Id<User, View>) -> Option<Id<User, Disk>> {
        self.users.create(caller, &mut ())
    }
}

impl Translate<Group> for Pipeline {
    fn present(&self, disk: Option<Id<Group, Disk>>) -> Option<Id<Group, View>> {
        self.groups.present(disk, &mut ())
    }

    fn store(&self, view: Id<Group, View>) -> Option<Id<Group, Disk>> {
        self.groups.store(view, &mut ())
    }

    fn create(&self, caller: Id<Group, View>) -> Option<Id<Group, Disk>> {
        self.groups.create(caller, &mut ())
    }
}

impl Policy for Pipeline {
    fn inputs(&self) -> Inputs {
        // Names have become ids; all stages know nothing but those.
        let path = self.spec.rules.iter().any(|rule| rule.value.looks_at_path());
        Inputs { path, caller: !self.spec.callers.is_empty() }
    }

    fn rules(&self) -> &rules::Rules {
        &self.rules
    }

    fn changes(&self) -> &Changes {
        self.spec.changes()
    }

    fn callers(&self) -> &Callers {
        &self.spec.callers
    }
}
