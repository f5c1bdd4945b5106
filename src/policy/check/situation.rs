//! Findings that depend on where a policy is used: on what kind of mount, by
//! which server.

use super::{Findings, Severity};
use crate::id::{Disk, Extent, Id, Kind, View};
use crate::policy::error::{Code, Origin, Written};
use crate::policy::rules::Rule;
use crate::policy::spec::{Rules, Spec};

/// For what a policy is checked.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// Whether set-id bits count on the mount.
    pub suid: bool,
    /// What the server can store, if that is known.
    pub reach: Option<Reach>,
}

/// The disk ids that a server can store: it can make files of these owners.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Who that is, for people: `a server of uid 1000`.
    pub who: String,
    /// Ranges of users, each as its first id and its length.
    pub users: Vec<(u32, u32)>,
    /// Ranges of groups, each as its first id and its length.
    pub groups: Vec<(u32, u32)>,
}

impl Findings {
    /// Root, where it is not the root of the disk: with `suid`, files of others
    /// can make programs of root.
    pub(super) fn shown_as_root(&mut self, at: &Origin, what: String) {
        if self.suid {
            let hint = "mount it nosuid, or show another id";
            self.add(Severity::Error, Code::Root, at, what, hint);
        } else {
            let hint = "keep the mount nosuid: its set-id files would be root's";
            self.warning(Code::Root, at, what, hint);
        }
    }

    /// Findings about the mount and the server.
    pub(super) fn situation(&mut self, spec: &Spec, situation: &Situation) {
        if let Some(at) = spec.callers().place().filter(|_| situation.suid) {
            let what = "suid is refused beside a mirror".to_owned();
            let hint = "the kernel keeps one owner of each file for all callers";
            self.add(Severity::Error, Code::Conflict, at, what, hint);
        }
        let Some(reach) = &situation.reach else { return };
        self.out_of_reach(spec.users(), &reach.users, &reach.who);
        self.out_of_reach(spec.groups(), &reach.groups, &reach.who);
    }

    /// Ids that the server cannot store.
    fn out_of_reach<K: Kind>(&mut self, rules: &Rules<K>, reach: &[(u32, u32)], who: &str) {
        let word = K::WORD;
        if let Some(store) = &rules.store_as {
            if missing::<K>(store.value.raw(), 1, reach).is_some() {
                let what = format!(
                    "new files would belong to disk {word} {}, which {who} cannot store",
                    store.value
                );
                let hint = "run the server as that user or as root, or store as its own";
                self.warning(Code::Store, &store.at, what, hint);
            }
            return;
        }
        let stages = rules.names.iter().chain(&rules.prefix).flat_map(|stage| {
            let pairs = stage.pairs.iter().map(|pair| pair.entry);
            pairs.map(|entry| (Extent::single(entry.disk, entry.view), &stage.at))
        });
        let entries = (rules.table.iter())
            .map(|rule| (Extent::single(rule.value.disk, rule.value.view), &rule.at));
        let lost = (rules.map.iter().map(|rule| (rule.value, &rule.at)))
            .chain(entries)
            .chain(stages)
            .find_map(|(extent, at)| {
                let disk = missing(extent.disk().raw(), extent.count(), reach)?;
                Some((disk, extent.present(disk)?, at))
            });
        if let Some((disk, view, at)) = lost {
            let disk: Id<K, Disk> = disk;
            let what = format!(
                "{word} {view}, for one, cannot create: {who} cannot store disk {word} {disk}"
            );
            self.note(Code::Store, at, what, "store-as gives new files to one owner");
        }
    }

    /// What a rule shows as somebody else's.
    pub(super) fn presented(&mut self, rule: &Written<Rule>, spec: &Spec) {
        let Rule { present_user, present_group, .. } = &rule.value;
        if let Some(user) = present_user {
            self.presented_as(user, spec.users());
        }
        if let Some(group) = present_group {
            self.presented_as(group, spec.groups());
        }
    }

    fn presented_as<K: Kind>(&mut self, shown: &Written<Id<K, View>>, rules: &Rules<K>) {
        let (word, view, at) = (K::WORD, shown.value, &shown.at);
        if view.is_root() {
            self.shown_as_root(at, format!("files of others are shown as {word} 0, root"));
        }
        if let Some(disk) = rules.stages().store_mapped(view, &mut ()) {
            let what = format!(
                "{word} {view} is what disk {word} {disk} is shown as, and these files are too: \
                 chown to it leaves them to whom they belong on disk"
            );
            self.note(Code::Alias, at, what, "present them as an id that nobody has");
        }
    }
}

/// Returns the first of `count` ids that is in none of these ranges.
fn missing<K: Kind>(first: u32, count: u32, ranges: &[(u32, u32)]) -> Option<Id<K, Disk>> {
    let end = u64::from(first).saturating_add(u64::from(count));
    let mut at = u64::from(first);
    while at < end {
        let holding = ranges.iter().find_map(|(first, count)| {
            let (first, count) = (u64::from(*first), u64::from(*count));
            let past = first.saturating_add(count);
            (first <= at && at < past).then_some(past)
        });
        match holding {
            Some(past) => at = past,
            None => return u32::try_from(at).ok().and_then(Id::new),
        }
    }
    None
}
