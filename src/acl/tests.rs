//! Tables, byte fixtures and laws of ACLs and capabilities.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Acl, Capability, Entry, Named, StandIn, Tag};
use crate::attr::Mode;
use crate::error::{Error, Result};
use crate::id::{Disk, Group, Id, Kind, Owner, Side, User, View};
use crate::policy::{Callers, Inputs, Policy, Translate};

fn id<K: Kind, S: Side>(raw: u32) -> Id<K, S> {
    Id::new(raw).unwrap()
}

/// An entry in short: `u::7`, `u:1000:5`, `g::5`, `g:-:4`, `m::5`, `o::0`.
fn entry<S: Side>(text: &str) -> Entry<S> {
    let parts: Vec<&str> = text.split(':').collect();
    let raw = parts[1].parse::<u32>().ok();
    let tag = match (parts[0], parts[1]) {
        ("u", "") => Tag::UserObj,
        ("u", _) => Tag::User(raw.and_then(Id::new)),
        ("g", "") => Tag::GroupObj,
        ("g", _) => Tag::Group(raw.and_then(Id::new)),
        ("m", _) => Tag::Mask,
        _ => Tag::Other,
    };
    Entry { tag, perm: parts[2].parse().unwrap() }
}

fn entries<S: Side>(text: &str) -> Vec<Entry<S>> {
    text.split(' ').map(entry).collect()
}

fn acl<S: Side>(text: &str) -> Acl<S> {
    Acl::new(entries(text)).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// What setxattr(2) on ext4 said to each of these (Linux 6.18).
#[test]
fn validity_is_that_of_the_kernel() {
    for (text, valid) in [
        ("u::6 g::4 o::0", true),
        ("u::7 g::4 m::2 o::1", true),
        ("u::7 u:9:5 u:3:4 u:3:6 g::4 g:7:4 g:2:4 m::5 o::1", true),
        ("u::7 u:-:5 g::4 m::5 o::1", true),
        ("u::7 u:9:5 g::4 o::1", false),
        ("u::7 g::4 g:9:5 o::1", false),
        ("u::8 g::4 o::0", false),
        ("u::7 g::4", false),
        ("g::4 o::1", false),
        ("u::7 o::1", false),
        ("g::4 u::7 o::1", false),
        ("u::7 u::7 g::4 o::1", false),
        ("u::7 g::4 m::1 m::1 o::1", false),
        ("u::7 g::4 o::1 o::1", false),
        ("u::7 g::4 u:9:5 m::1 o::1", false),
    ] {
        let expected = if valid { Ok(()) } else { Err(Error::Invalid) };
        assert_eq!(Acl::<Disk>::new(entries(text)).map(drop), expected, "{text}");
    }
}

#[test]
fn bytes_of_acls() {
    let value = hex("02000000 01000700ffffffff 02000500e8030000 04000400ffffffff \
                     08000400ffffffff 10000500ffffffff 20000100ffffffff");
    let expected = acl::<Disk>("u::7 u:1000:5 g::4 g:-:4 m::5 o::1");
    assert_eq!(Acl::decode(&value), Ok(Some(expected.clone())));
    assert_eq!(expected.encode(), value);
}

#[test]
fn values_that_are_no_acl() {
    let short = "01000600ffffffff 04000400ffffffff";
    for (text, expected) in [
        (String::new(), Ok(None)),
        ("02000000".into(), Ok(None)),
        ("020000".into(), Err(Error::Invalid)),
        ("02000000 01".into(), Err(Error::Invalid)),
        ("01000000".into(), Err(Error::Unsupported)),
        (format!("01000000 {short} 20000000ffffffff"), Err(Error::Unsupported)),
        (format!("02000000 {short}"), Err(Error::Invalid)),
        (format!("02000000 {short} 20000000ffffff"), Err(Error::Invalid)),
        (format!("02000000 {short} 20000001ffffffff"), Err(Error::Invalid)),
        (format!("02000000 {short} 21000000ffffffff"), Err(Error::Invalid)),
        (format!("02000000 {short} 2000000007000000"), Ok(Some(acl::<View>("u::6 g::4 o::0")))),
    ] {
        assert_eq!(Acl::decode(&hex(&text)), expected, "{text}");
    }
}

/// The second is what setcap(8) writes for `cap_net_raw=ep`.
#[test]
fn bytes_of_capabilities() {
    let sets = |rootid, effective, permitted, inheritable| Capability::<Disk> {
        rootid,
        effective,
        permitted,
        inheritable,
        names_root: false,
    };
    for (text, expected) in [
        (
            "00000002 01000000 02000000 03000000 04000000",
            sets(Id::new(0), false, 3 << 32 | 1, 4 << 32 | 2),
        ),
        ("01000002 00200000 00000000 00000000 00000000", sets(Id::new(0), true, 1 << 13, 0)),
        (
            "01000003 00200000 00000000 00000000 00000000 a0860100",
            sets(Id::new(100_000), true, 1 << 13, 0),
        ),
        ("00000003 00000000 00000000 00000000 00000000 ffffffff", sets(None, false, 0, 0)),
    ] {
        assert_eq!(Capability::decode(&hex(text)), Ok(expected), "{text}");
        assert_eq!(expected.encode(), hex(text), "{text}");
    }
    let third = hex("01000003 00200000 00000000 00000000 00000000 00000000");
    let root = Capability::<View>::decode(&third).unwrap();
    assert_eq!((root.rootid, root.names_root), (Id::new(0), true));
    assert_eq!(root.encode(), third);
}

#[test]
fn values_that_are_no_capability() {
    for text in [
        "",
        "000002",
        "01000001 00200000 00000000",
        "00000002 00000000 00000000 00000000",
        "00000002 00000000 00000000 00000000 00000000 00",
        "00000002 00000000 00000000 00000000 00000000 00000000",
        "00000003 00000000 00000000 00000000 00000000",
        "02000002 00000000 00000000 00000000 00000000",
        "00000004 00000000 00000000 00000000 00000000 00000000",
    ] {
        assert_eq!(Capability::<Disk>::decode(&hex(text)), Err(Error::Invalid), "{text}");
    }
}

/// Presents by a table, and stores by another one.
#[derive(Debug, Default)]
struct Tables {
    callers: Callers,
    present: BTreeMap<u32, u32>,
    store: BTreeMap<u32, u32>,
}

impl<K: Kind> Translate<K> for Tables {
    fn present(&self, disk: Option<Id<K, Disk>>) -> Option<Id<K, View>> {
        self.present.get(&disk?.raw()).and_then(|&raw| Id::new(raw))
    }

    fn store(&self, view: Id<K, View>) -> Option<Id<K, Disk>> {
        self.store.get(&view.raw()).and_then(|&raw| Id::new(raw))
    }

    fn create(&self, caller: Id<K, View>) -> Option<Id<K, Disk>> {
        self.store(caller)
    }
}

impl Policy for Tables {
    fn inputs(&self) -> Inputs {
        Inputs::default()
    }

    fn callers(&self) -> &Callers {
        &self.callers
    }
}

/// 0 and 1 have view ids of their own, 2 and 3 share one that is stored as 3,
/// 4 is shown under an id that cannot be stored, 5 is not shown.
fn tables() -> Tables {
    Tables {
        present: [(0, 100), (1, 101), (2, 102), (3, 102), (4, 104)].into(),
        store: [(100, 0), (101, 1), (102, 3)].into(),
        ..Tables::default()
    }
}

#[test]
fn acls_by_policy() {
    let disk = acl::<Disk>("u::7 u:0:1 u:2:2 u:3:3 u:4:4 u:5:5 u:-:6 g::4 g:1:1 g:2:2 m::7 o::1");
    let view =
        acl::<View>("u::7 u:100:1 u:-:2 u:102:3 u:-:4 u:-:5 u:-:6 g::4 g:101:1 g:-:2 m::7 o::1");
    assert_eq!(disk.present(&tables()), view);
    for (text, expected) in [
        ("u::7 u:102:1 g::4 g:101:6 m::7 o::1", Ok("u::7 u:3:1 g::4 g:1:6 m::7 o::1")),
        ("u::7 u:104:1 g::4 m::7 o::1", Err(Error::UnmappedEntry)),
        ("u::7 u:-:1 g::4 m::7 o::1", Err(Error::UnmappedEntry)),
        ("u::7 g::4 g:-:1 m::7 o::1", Err(Error::UnmappedEntry)),
        ("u::7 g::4 o::1", Ok("u::7 g::4 o::1")),
    ] {
        let stored = acl::<View>(text).store(&tables());
        assert_eq!(stored, expected.map(acl::<Disk>), "{text}");
    }
}

#[test]
fn capabilities_by_policy() {
    let with = |rootid| Capability {
        rootid,
        effective: true,
        permitted: 1,
        inheritable: 2,
        names_root: false,
    };
    for (disk, view) in [(0, Some(100)), (2, None), (3, Some(102)), (4, None), (5, None)] {
        let shown = with(Id::<User, Disk>::new(disk)).present(&tables());
        assert_eq!(shown.rootid, view.map(id), "{disk}");
        assert_eq!((shown.effective, shown.permitted, shown.inheritable), (true, 1, 2));
    }
    let store = |rootid: Option<u32>| -> Result<Option<u32>> {
        let view = Capability {
            rootid: rootid.map(id),
            effective: true,
            permitted: 1,
            inheritable: 2,
            names_root: false,
        };
        view.store(&tables()).map(|stored| stored.rootid.map(Id::raw))
    };
    assert_eq!(store(Some(100)), Ok(Some(0)));
    assert_eq!(store(Some(0)), Err(Error::UnmappedEntry));
    assert_eq!(store(None), Err(Error::UnmappedEntry));
}

const STAND_IN: (u32, u32) = (65535, 65534);

fn stand_in() -> StandIn {
    standing(Some(STAND_IN.0), Some(STAND_IN.1))
}

/// Every id is there, and these stand for those that are unmapped.
fn standing(user: Option<u32>, group: Option<u32>) -> StandIn {
    let there: Arc<[_]> = [(0, u32::MAX)].into();
    StandIn {
        users: Named { stand_in: user.and_then(Id::new), there: Arc::clone(&there) },
        groups: Named { stand_in: group.and_then(Id::new), there },
    }
}

#[test]
fn unmapped_entries_travel_as_the_stand_in() {
    let view = acl::<View>("u::7 u:5:1 u:-:2 g::4 g:-:2 m::7 o::1");
    let wire = view.to_wire(&stand_in());
    assert_eq!(
        Acl::<View>::decode(&wire),
        Ok(Some(acl("u::7 u:5:1 u:65535:2 g::4 g:65534:2 m::7 o::1")))
    );
    assert_eq!(Acl::from_wire(&wire, &stand_in()), Ok(Some(view.clone())));
    assert_eq!(view.store(&tables()), Err(Error::UnmappedEntry));
    let other_kind = acl::<View>("u::7 u:65534:1 g::4 g:65535:2 m::7 o::1");
    assert_eq!(Acl::from_wire(&other_kind.encode(), &stand_in()), Ok(Some(other_kind)));
    assert_eq!(Acl::from_wire(&hex("02000000"), &stand_in()), Ok(None));
}

#[test]
fn unmapped_entries_are_left_out_where_nothing_can_stand_in() {
    let view = acl::<View>("u::7 u:5:1 u:-:2 g::4 g:-:2 m::7 o::1");
    let (user, group) = (Some(STAND_IN.0), Some(STAND_IN.1));
    for (stand_in, shown) in [
        ((None, group), "u::7 u:5:1 g::4 g:65534:2 m::7 o::1"),
        ((user, None), "u::7 u:5:1 u:65535:2 g::4 m::7 o::1"),
        ((None, None), "u::7 u:5:1 g::4 m::7 o::1"),
    ] {
        let stand_in = &standing(stand_in.0, stand_in.1);
        assert!(view.hides(stand_in));
        let wire = view.to_wire(stand_in);
        assert_eq!(Acl::<View>::decode(&wire), Ok(Some(acl(shown))));
        let read = Acl::from_wire(&wire, stand_in).unwrap().unwrap();
        assert!(!read.hides(stand_in) && !acl::<View>("u::7 u:5:1 g::4 m::7 o::1").hides(stand_in));
    }
    assert!(!view.hides(&stand_in()));
    let all = acl::<View>("u::7 u:-:2 g::4 m::6 o::1");
    let left = Acl::<View>::decode(&all.to_wire(&standing(None, None)));
    assert_eq!(left, Ok(Some(acl("u::7 g::4 m::6 o::1"))), "the mask stays");
}

#[test]
fn ids_that_the_namespace_has_not_go_out_as_unmapped_ones() {
    let view = acl::<View>("u::7 u:5:1 u:99:2 u:100:3 u:109:4 g::4 g:110:2 m::7 o::1");
    let named = |stand_in: Option<u32>| StandIn {
        users: Named { stand_in: stand_in.and_then(Id::new), there: [(0, 6), (100, 10)].into() },
        groups: Named { stand_in: stand_in.and_then(Id::new), there: [].into() },
    };
    for (stand_in, hides, shown) in [
        (None, true, "u::7 u:5:1 u:100:3 u:109:4 g::4 m::7 o::1"),
        (Some(3), false, "u::7 u:5:1 u:3:2 u:100:3 u:109:4 g::4 g:3:2 m::7 o::1"),
    ] {
        let stand_in = named(stand_in);
        assert_eq!(view.hides(&stand_in), hides);
        assert_eq!(Acl::<View>::decode(&view.to_wire(&stand_in)), Ok(Some(acl(shown))));
    }
}

#[test]
fn acls_and_modes() {
    for (text, mode, minimal) in [
        ("u::6 g::4 o::0", 0o640, true),
        ("u::6 g::7 m::4 o::1", 0o641, false),
        ("u::6 u:5:7 g::7 m::5 o::1", 0o651, false),
    ] {
        let acl = acl::<Disk>(text);
        assert_eq!(acl.mode(Mode::new(0o7777)), Mode::new(0o7000 | mode), "{text}");
        assert_eq!(acl.is_minimal(), minimal, "{text}");
    }
    assert_eq!(Acl::from_mode(Mode::new(0o4751)), acl::<Disk>("u::7 g::5 o::1"));
    for (text, mode, expected) in [
        ("u::6 g::4 o::0", 0o4751, "u::7 g::5 o::1"),
        ("u::6 g::4 m::1 o::0", 0o751, "u::7 g::4 m::5 o::1"),
        ("u::6 u:5:7 g::4 g:-:3 m::1 o::0", 0o070, "u::0 u:5:7 g::4 g:-:3 m::7 o::0"),
    ] {
        let changed = acl::<Disk>(text).chmod(Mode::new(mode));
        assert_eq!(changed, acl(expected), "{text}");
    }
}

#[test]
fn default_acls_are_inherited() {
    for (text, asked, mode, access) in [
        ("u::7 g::5 o::5", 0o666, 0o644, None),
        ("u::7 g::5 o::0", 0o2775, 0o2750, None),
        ("u::7 u:5:7 g::5 m::7 o::0", 0o644, 0o640, Some("u::6 u:5:7 g::5 m::4 o::0")),
        ("u::5 g::7 m::3 o::7", 0o1777, 0o1537, Some("u::5 g::7 m::3 o::7")),
        ("u::7 u:-:7 g::5 m::7 o::5", 0, 0, Some("u::0 u:-:7 g::5 m::0 o::0")),
    ] {
        let expected = (Mode::new(mode), access.map(acl::<Disk>));
        assert_eq!(acl::<Disk>(text).inherit(Mode::new(asked)), expected, "{text}");
    }
}

#[test]
fn access_is_decided_as_by_the_kernel() {
    let owner = Owner { uid: Id::new(1), gid: Id::new(10) };
    let text = "u::4 u:2:7 u:-:7 g::6 g:20:3 g:30:1 g:-:7 m::5 o::7";
    for (uid, groups, want, expected) in [
        (1, &[10, 20][..], 4, true),
        (1, &[20], 2, false), // the owner's entry alone counts
        (2, &[], 5, true),
        (2, &[], 2, false),       // by the mask
        (3, &[10], 4, true),      // owning group
        (3, &[10], 2, false),     // granted by the entry, not by the mask
        (3, &[10, 30], 1, true),  // by any of its groups
        (3, &[10, 30], 5, false), // not by two together
        (3, &[99], 7, true),      // others, without the mask
        (3, &[], 0, true),
    ] {
        let groups: Vec<Id<Group, Disk>> = groups.iter().map(|&raw| id(raw)).collect();
        let allowed =
            acl::<Disk>(text).allows(&owner, Some(id(uid)), |group| groups.contains(&group), want);
        assert_eq!(allowed, expected, "{uid} {groups:?} {want}");
    }
    let unmapped = Owner { uid: None, gid: None };
    let text = "u::7 u:-:7 g::7 m::7 o::1";
    assert!(!acl::<Disk>(text).allows(&unmapped, None, |_| true, 4), "nobody is no owner");
    assert!(!acl::<Disk>("u::7 g::7 o::0").allows(&unmapped, Some(id(0)), |_| true, 4));
}

fn any_id<K: Kind, S: Side>() -> impl Strategy<Value = Option<Id<K, S>>> {
    prop_oneof![Just(None), (0..8_u32).prop_map(Id::new), any::<u32>().prop_map(Id::new)]
}

fn any_acl<S: Side>() -> impl Strategy<Value = Acl<S>> {
    let perm = 0..8_u8;
    let users = vec((any_id(), perm.clone()), 0..4);
    let groups = vec((any_id(), perm.clone()), 0..4);
    let base = (perm.clone(), perm.clone(), perm.clone());
    (users, groups, base, proptest::option::of(perm)).prop_map(|(users, groups, base, mask)| {
        let named = !users.is_empty() || !groups.is_empty();
        let mut entries = vec![Entry { tag: Tag::UserObj, perm: base.0 }];
        entries.extend(users.into_iter().map(|(id, perm)| Entry { tag: Tag::User(id), perm }));
        entries.push(Entry { tag: Tag::GroupObj, perm: base.1 });
        entries.extend(groups.into_iter().map(|(id, perm)| Entry { tag: Tag::Group(id), perm }));
        let mask = mask.or(named.then_some(7));
        entries.extend(mask.map(|perm| Entry { tag: Tag::Mask, perm }));
        entries.push(Entry { tag: Tag::Other, perm: base.2 });
        Acl::new(entries).unwrap()
    })
}

fn any_tables() -> impl Strategy<Value = Tables> {
    let table = || proptest::collection::btree_map(0..8_u32, 0..8_u32, 0..8);
    (table(), table()).prop_map(|(present, store)| Tables { present, store, ..Tables::default() })
}

proptest! {
    #[test]
    fn decode_undoes_encode(acl in any_acl::<Disk>()) {
        prop_assert_eq!(Acl::decode(&acl.encode()), Ok(Some(acl)));
    }

    #[test]
    fn what_decodes_encodes_again(value in vec(any::<u8>(), 0..64)) {
        let mut value = value;
        if let Some(head) = value.first_chunk_mut() {
            *head = [2, 0, 0, 0];
        }
        if let Ok(Some(acl)) = Acl::<View>::decode(&value) {
            prop_assert_eq!(Acl::decode(&acl.encode()), Ok(Some(acl)));
        }
    }

    #[test]
    fn capability_decode_never_panics(value in vec(any::<u8>(), 0..32), magic in (0..2_u8, 0..4_u8)) {
        let mut value = value;
        if let Some(head) = value.first_chunk_mut() {
            *head = [magic.0, 0, 0, magic.1];
        }
        if let Ok(capability) = Capability::<View>::decode(&value) {
            prop_assert_eq!(Capability::decode(&capability.encode()), Ok(capability));
        }
    }

    #[test]
    fn capability_decode_undoes_encode(
        rootid in any_id(),
        effective: bool,
        permitted: u64,
        inheritable: u64,
    ) {
        let capability = Capability::<Disk> { rootid, effective, permitted, inheritable, names_root: false  };
        prop_assert_eq!(Capability::decode(&capability.encode()), Ok(capability));
    }

    /// What is shown can be stored only as itself, whatever the policy.
    #[test]
    fn a_presented_acl_stores_as_it_was(acl in any_acl::<Disk>(), tables in any_tables()) {
        let shown = acl.present(&tables);
        prop_assert_eq!(shown.entries().len(), acl.entries().len());
        for (shown, entry) in shown.entries().iter().zip(acl.entries()) {
            prop_assert_eq!(shown.perm, entry.perm);
            match (shown.tag, entry.tag) {
                (Tag::User(Some(view)), Tag::User(disk)) => {
                    prop_assert_eq!(tables.store(view), disk);
                }
                (Tag::Group(Some(view)), Tag::Group(disk)) => {
                    prop_assert_eq!(tables.store(view), disk);
                }
                (shown, entry) => prop_assert_eq!(shown.rank(), entry.rank()),
            }
        }
        match shown.store(&tables) {
            Ok(stored) => prop_assert_eq!(stored, acl),
            Err(error) => prop_assert_eq!(error, Error::UnmappedEntry),
        }
    }

    #[test]
    fn the_wire_keeps_every_entry(acl in any_acl::<View>()) {
        let apart = |raw| raw != STAND_IN.0 && raw != STAND_IN.1;
        prop_assume!(acl.entries().iter().all(|e| match e.tag {
            Tag::User(Some(id)) => apart(id.raw()),
            Tag::Group(Some(id)) => apart(id.raw()),
            Tag::User(None) | Tag::Group(None) => true,
            Tag::UserObj | Tag::GroupObj | Tag::Mask | Tag::Other => true,
        }));
        prop_assert_eq!(Acl::from_wire(&acl.to_wire(&stand_in()), &stand_in()), Ok(Some(acl)));
    }

    #[test]
    fn chmod_and_inherit_agree_with_the_mode(acl in any_acl::<Disk>(), bits in 0..0o10000_u32) {
        let mode = Mode::new(bits);
        prop_assert_eq!(acl.chmod(mode).mode(mode), mode);
        let (inherited, access) = acl.inherit(mode);
        prop_assert_eq!(inherited.bits() & !mode.bits(), 0);
        prop_assert_eq!(access.is_none(), acl.is_minimal());
        if let Some(access) = access {
            prop_assert_eq!(access.mode(mode), inherited);
        }
    }

    /// An ACL of mode bits alone decides as the mode bits do.
    #[test]
    fn minimal_acls_decide_as_modes(bits in 0..0o1000_u32, uid in 1..3_u32, gid in 1..3_u32, want in 0..8_u8) {
        let owner = Owner { uid: Id::new(1), gid: Id::new(1) };
        let class = if uid == 1 { bits >> 6 } else if gid == 1 { bits >> 3 } else { bits };
        let acl = Acl::<Disk>::from_mode(Mode::new(bits));
        let expected = class & u32::from(want) == u32::from(want);
        prop_assert_eq!(acl.allows(&owner, Some(id(uid)), |group| group == id(gid), want), expected);
    }
}
