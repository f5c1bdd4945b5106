//! What is so of the stages, changes and callers of every policy.

use idmapfs::acl::Acl;
use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Disk, Group, Id, Ids, Kind, NO_ID, Owner, User, View};
use idmapfs::policy::explain::Decision;
use idmapfs::policy::options::Options;
use idmapfs::policy::{Asked, Now, Pipeline, Policy, Spec, Translate, Xattr};

use super::policies::plain;
use crate::host::Host;

/// Set-user-id, set-group-id, sticky.
const SPECIAL: u16 = 0o7000;

const KINDS: [FileKind; 3] = [FileKind::Regular, FileKind::Directory, FileKind::Symlink];

/// Returns ids at the edges, those that a text names, and their neighbours.
pub fn ids(text: &str) -> Vec<u32> {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let near =
        numbers.take(12).flat_map(|id: u32| [id.saturating_sub(1), id, id.saturating_add(1)]);
    let mut ids: Vec<u32> =
        [0, 1, 33, 100, 1000, 65_534, NO_ID - 1].into_iter().chain(near).collect();
    ids.retain(|id| *id != NO_ID);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Demands that a policy of words that options have is what they make of them.
pub fn described(spec: &Spec) {
    let (users, groups) = (spec.users(), spec.groups());
    let line = spec.describe();
    let has_options = line.split(',').all(|word| {
        ["identity", "map=", "store-as=", "unmapped="].iter().any(|known| word.starts_with(known))
    });
    // Options refuse a map beside present-as, which a file may have.
    if !has_options || users.present_as().is_some() || groups.present_as().is_some() {
        return;
    }
    let mut options = Options::default();
    for word in line.split(',').filter(|word| *word != "identity") {
        let (name, value) = word.split_once('=').unwrap();
        assert!(options.set(name, Some(value)).unwrap(), "{word}");
    }
    assert_eq!(Spec::from_options(&options, &Host).as_ref().unwrap(), spec, "{line}");
}

/// Demands the laws of the stages, of changes and of callers.
pub fn decides(policy: &Pipeline, text: &str) {
    let ids = ids(text);
    let announced = (policy.presentable_users(), policy.presentable_groups());
    for ranges in [&announced.0, &announced.1] {
        assert!(ranges.windows(2).all(|w| u64::from(w[0].0) + w[0].1 < u64::from(w[1].0)));
    }
    for raw in &ids {
        goes_back::<User>(policy, *raw, &announced.0);
        goes_back::<Group>(policy, *raw, &announced.1);
        explains(policy, *raw);
        changes_owner(policy, *raw);
    }
    for reason in policy.explain_changes() {
        plain(&reason.to_string());
        plain(&reason.text);
    }
    modes(policy);
    attributes(policy, text);
    let minimal: Acl<Disk> = Acl::from_mode(Mode::new(0o750));
    assert_eq!(minimal.present(policy).store(policy), Ok(minimal));
}

fn goes_back<K: Kind>(policy: &Pipeline, raw: u32, announced: &[(u32, u64)])
where
    Pipeline: Translate<K>,
{
    let view: Id<K, View> = Id::new(raw).unwrap();
    if let Some(stored) = policy.store(view) {
        assert_eq!(policy.present(Some(stored)), Some(view), "{view} stored as {stored}");
    }
    if let Some(created) = policy.create(view) {
        assert!(policy.present(Some(created)).is_some(), "{view} creates as {created}");
    }
    for disk in [Id::new(raw), None] {
        let shown: Option<Id<K, View>> = policy.present(disk);
        let is_in = |id: Id<K, View>| {
            announced.iter().any(|(first, count)| {
                id.raw().checked_sub(*first).is_some_and(|at| u64::from(at) < *count)
            })
        };
        assert!(shown.is_none_or(is_in), "{disk:?} is shown as {shown:?}");
    }
}

fn explains(policy: &Pipeline, raw: u32) {
    let (view, disk) = (Ids::<View>::new(raw, raw).unwrap(), Ids::<Disk>::new(raw, raw).unwrap());
    let told = |[uid, gid]: [Decision; 2], user: Option<u32>, group: Option<u32>| {
        assert_eq!((uid.answer, gid.answer), (user, group), "{raw}");
        for decision in [uid, gid] {
            assert!(!decision.reasons.is_empty());
            plain(&decision.to_string().replace('\n', ""));
        }
    };
    let (user, group) = (policy.store(view.uid), policy.store(view.gid));
    told(policy.explain_store(view), user.map(Id::raw), group.map(Id::raw));
    let (user, group) = (policy.create(view.uid), policy.create(view.gid));
    told(policy.explain_create(view), user.map(Id::raw), group.map(Id::raw));
    let (user, group) = (policy.present(Some(disk.uid)), policy.present(Some(disk.gid)));
    told(policy.explain_owner(disk.into()), user.map(Id::raw), group.map(Id::raw));
    let mirrored = policy.callers().mirror(Some(view.uid), |group| group == view.gid);
    let user = if mirrored { Some(view.uid) } else { user };
    let owner = Owner { uid: Some(disk.uid), gid: Some(disk.gid) };
    told(policy.explain_owner_to(owner, view), user.map(Id::raw), group.map(Id::raw));
    assert!(!mirrored || policy.inputs().caller);
}

fn changes_owner(policy: &Pipeline, raw: u32) {
    let Ids { uid, gid } = Ids::<View>::new(raw, raw).unwrap();
    assert!(
        matches!(policy.changes().chown(uid), Asked::Done(id) if id == uid)
            || !matches!(policy.changes().chown(uid), Asked::Done(_))
    );
    assert!(
        matches!(policy.changes().chgrp(gid), Asked::Done(id) if id == gid)
            || !matches!(policy.changes().chgrp(gid), Asked::Done(_))
    );
}

/// Demands that no change gives set-id or sticky bits that nobody asked for.
fn modes(policy: &Pipeline) {
    for (kind, bits) in
        KINDS.into_iter().flat_map(|kind| [0, 0o644, 0o4755, 0o7777].map(|m| (kind, m)))
    {
        let asked = Mode::new(bits);
        let now = Now { kind, shown: Mode::new(0o1640), disk: Mode::new(0o2751) };
        let may = asked.bits() | now.disk.bits();
        for asked in [policy.changes().chmod(&now, asked), policy.changes().set_acl(&now, asked)] {
            if let Asked::Done(mode) = asked {
                assert_eq!(mode.bits() & SPECIAL & !may, 0, "{kind:?} {bits:o}: {mode:?}");
            }
        }
        let (mode, umask) = policy.changes().create(kind, asked, 0o027);
        assert_eq!(mode.bits() & SPECIAL & !asked.bits(), 0, "{kind:?} {bits:o}: {mode:?}");
        assert_eq!(umask & !0o777, 0);
    }
}

/// Demands that every attribute shown is one that a caller can name.
fn attributes(policy: &Pipeline, text: &str) {
    let words = text.split(['"', '\'', '\n']).map(|word| word.trim_end_matches('*'));
    let namespaces = ["user.", "trusted.", "security.", "system."];
    let words = words.filter(|word| namespaces.iter().any(|space| word.starts_with(space)));
    let known =
        ["user.a", "trusted.overlay.origin", "security.capability", "system.posix_acl_access"];
    for name in known.into_iter().chain(words.take(8)) {
        for name in [name.to_owned(), format!("{name}x")] {
            let name = name.as_bytes();
            drop(policy.changes().xattr(name));
            for shown in policy.changes().shown_xattrs(name) {
                let meant = policy.changes().xattr(&shown);
                let same = match &meant {
                    Xattr::Is(disk) => **disk == *name,
                    Xattr::Refused(disk) => **disk == *name,
                    Xattr::Hidden => false,
                };
                assert!(
                    same,
                    "{} is shown as {}, which is {meant:?}",
                    name.escape_ascii(),
                    shown.escape_ascii()
                );
            }
        }
    }
}
