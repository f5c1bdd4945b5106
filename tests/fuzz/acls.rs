//! Extended attributes that hold ids: ACLs and file capabilities.

use std::sync::Arc;
use std::time::Duration;

use idmapfs::acl::{Acl, Capability, Named, StandIn};
use idmapfs::attr::Mode;
use idmapfs::id::{Disk, Id, Ids, NO_ID, Owner, View};
use idmapfs::policy::{NoNames, Pipeline, Server, file};

use super::bytes;
use super::engine::{Target, run};
use crate::rng::Rng;

/// What has broken a law before.
const FOUND: &[&[u8]] = &[];

/// Tags of entries by linux/posix_acl_xattr.h, and two that are none.
const TAGS: [u16; 8] = [1, 2, 4, 8, 0x10, 0x20, 0, 3];
const IDS: [u32; 10] = [0, 1, 5, 33, 1000, 101_000, 65_534, NO_ID - 1, NO_ID, 0x0100_0000];

/// Policies in which ids move, meet, or have no counterpart.
const POLICIES: [&str; 5] = [
    "",
    "map = ['0:100000:65536', 'u:100000:0:10']",
    "table = ['1000:33', '33:1000']\nunmapped = 'present-as=5:5'",
    "collapse = { present-as = '1000:1000', store-as = '33:33' }",
    "map = ['u:0:1000:1']\ncollapse = { present-as = 'g:5' }",
];

struct Acls(Vec<Pipeline>);

#[test]
fn acls() {
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    let policy = |ids: &&str| {
        let text = format!("version = 1\n[ids]\n{ids}\n");
        file::parse("p.toml", &text, &NoNames).unwrap().build(&server).unwrap()
    };
    run(&Acls(POLICIES.iter().map(policy).collect()));
}

fn entry(tag: u16, perm: u16, id: u32) -> [u8; 8] {
    let ([t0, t1], [p0, p1], [a, b, c, d]) =
        (tag.to_le_bytes(), perm.to_le_bytes(), id.to_le_bytes());
    [t0, t1, p0, p1, a, b, c, d]
}

fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(tag, perm, id)| entry(*tag, *perm, *id));
    2_u32.to_le_bytes().into_iter().chain(entries).collect()
}

impl Target for Acls {
    const NAME: &'static str = "acls";
    const MEMORY: (usize, usize) = (64 << 10, 64);
    const TIME: (Duration, Duration) = (Duration::from_millis(20), Duration::from_micros(10));

    fn collection(&self) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = FOUND.iter().map(|input| input.to_vec()).collect();
        found.push(list(&[(1, 7, NO_ID), (4, 5, NO_ID), (0x20, 0, NO_ID)]));
        found.push(list(&[
            (1, 6, NO_ID),
            (2, 7, 1000),
            (4, 4, NO_ID),
            (0x10, 7, NO_ID),
            (0x20, 4, 0),
        ]));
        let named = [(2, 7, 33), (2, 0, 33), (4, 4, NO_ID), (8, 2, 5), (8, 1, NO_ID)];
        found.push(list(&[&[(1, 6, 0)], &named[..], &[(0x10, 5, 1), (0x20, 4, 2)]].concat()));
        found.push(list(&[]));
        let capability = |magic: u32, root: Option<u32>| {
            let words = [magic, 0x3000, 0, 0xff, 1].into_iter().chain(root);
            words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
        };
        found.push(capability(0x0200_0001, None));
        found.push(capability(0x0200_0000, None));
        found.extend([0, 1000, 100_000, NO_ID].map(|root| capability(0x0300_0001, Some(root))));
        found.push(capability(0x0100_0000, None)[..12].to_vec());
        found
    }

    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
        let entries = input.len().saturating_sub(4) / 8;
        let at = 4 + 8 * rng.below(entries + 1);
        let new = entry(rng.pick(&TAGS), rng.below(9) as u16, rng.pick(&IDS));
        match rng.below(8) {
            0 if input.len() >= 4 => drop(input.splice(at..at, new)),
            1 if at + 8 <= input.len() => drop(input.drain(at..at + 8)),
            2 if at + 8 <= input.len() => drop(input.splice(at..at + 2, new[..2].iter().copied())),
            3 if at + 8 <= input.len() => {
                drop(input.splice(at + 2..at + 4, new[2..4].iter().copied()))
            }
            4 if at + 8 <= input.len() => {
                drop(input.splice(at + 4..at + 8, new[4..].iter().copied()))
            }
            5 if input.len() >= 4 => {
                // Entries in their order: most lists that are not, are refused.
                let mut all: Vec<[u8; 8]> = input[4..].as_chunks().0.to_vec();
                all.sort_by_key(|entry| u16::from_le_bytes([entry[0], entry[1]]));
                input.truncate(4);
                input.extend(all.concat());
            }
            6 => {
                let word = 4 * rng.below(input.len() / 4 + 1);
                let to = (word + 4).min(input.len());
                input.splice(word..to, rng.pick(&IDS).to_le_bytes());
            }
            _ => bytes::change(rng, input, other),
        }
    }

    fn check(&self, input: &[u8]) {
        acl(input, &self.0);
        capability(input, &self.0);
    }
}

/// Returns what encodes the same list: the ids of entries that name nobody are
/// not read. `None`: `posix_acl_valid` of fs/posix_acl.c refuses it.
fn reference(input: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = input.split_first_chunk::<4>()?;
    let (entries, []) = entries.as_chunks::<8>() else { return None };
    if *version != 2_u32.to_le_bytes() {
        return None;
    }
    let (mut out, mut last, mut needs_mask) = (version.to_vec(), 0, false);
    let mut seen = Vec::new();
    for bytes in entries {
        let tag = u16::from_le_bytes([bytes[0], bytes[1]]);
        let named = tag == 2 || tag == 8;
        let known = matches!(tag, 1 | 2 | 4 | 8 | 0x10 | 0x20);
        if !known || tag < last || bytes[2] > 7 || bytes[3] != 0 || (!named && seen.contains(&tag))
        {
            return None;
        }
        needs_mask |= named;
        last = tag;
        seen.push(tag);
        out.extend(&bytes[..4]);
        out.extend(if named { bytes[4..].to_vec() } else { NO_ID.to_le_bytes().to_vec() });
    }
    let complete = [1, 4, 0x20].iter().all(|tag| seen.contains(tag));
    (complete && (!needs_mask || seen.contains(&0x10))).then_some(out)
}

fn acl(input: &[u8], policies: &[Pipeline]) {
    let read = Acl::<Disk>::decode(input);
    let wire = reference(input);
    let Ok(Some(acl)) = read else {
        assert_eq!(wire, None, "{read:?}");
        let nothing = input.is_empty() || *input == 2_u32.to_le_bytes();
        assert_eq!(read.is_ok(), nothing, "{read:?}");
        return;
    };
    let value = acl.encode();
    assert_eq!(Some(&value), wire.as_ref());
    assert_eq!(Acl::decode(&value), Ok(Some(acl.clone())));
    algebra(&acl);
    for policy in policies {
        let shown = acl.present(policy);
        assert_eq!(shown.entries().len(), acl.entries().len());
        if let Ok(stored) = shown.store(policy) {
            assert_eq!(stored, acl, "what is seen of all entries is what is there");
        }
    }
    let view: Acl<View> = Acl::decode(input).unwrap().unwrap();
    for policy in policies {
        if let Ok(stored) = view.store(policy) {
            assert_eq!(stored.present(policy), view);
        }
    }
    for (user, group) in [(None, None), (Id::new(7), None), (Id::new(1000), Id::new(5))] {
        for count in [NO_ID, 2000] {
            let there: Arc<[_]> = [(0, count)].into();
            let users = Named { stand_in: user, there: Arc::clone(&there) };
            let groups = Named { stand_in: group, there };
            on_the_wire(&view, &StandIn { users, groups });
        }
    }
}

fn on_the_wire(acl: &Acl<View>, stand_in: &StandIn) {
    let wire = acl.to_wire(stand_in);
    // What is left out may take the reason for a mask with it, never its place.
    let sent = Acl::<View>::decode(&wire).unwrap().unwrap();
    assert_eq!(sent.entries().len() == acl.entries().len(), !acl.hides(stand_in));
    let back = Acl::from_wire(&wire, stand_in).unwrap().unwrap();
    assert_eq!(back.to_wire(stand_in), wire);
}

fn algebra(acl: &Acl<Disk>) {
    for bits in [0, 0o640, 0o777, 0o4711, 0o7777] {
        let mode = Mode::new(bits);
        let changed = acl.chmod(mode);
        assert_eq!(changed.mode(mode), mode, "{acl:?}");
        assert_eq!(changed.chmod(mode), changed);
        assert_eq!(acl.is_minimal(), changed.is_minimal());
        let (new, access) = acl.inherit(mode);
        assert_eq!(new.bits() & !mode.bits(), 0, "{acl:?}: {new:?}");
        let access = access.unwrap_or_else(|| Acl::from_mode(new));
        assert_eq!(access.mode(mode), new);
        assert_eq!(Acl::decode(&access.encode()), Ok(Some(access)));
    }
    let owner = Owner { uid: Id::new(33), gid: Id::new(5) };
    for uid in [None, Id::new(33), Id::new(1000)] {
        for want in 0..8 {
            let may = |want| acl.allows(&owner, uid, |gid| gid.raw() == 5, want);
            // Whoever may do more may do less.
            assert!(!may(want) || (0..8).all(|less| less & want != less || may(less)), "{acl:?}");
        }
    }
}

fn capability(input: &[u8], policies: &[Pipeline]) {
    let Ok(capability) = Capability::<Disk>::decode(input) else { return };
    assert_eq!(capability.encode(), input);
    for policy in policies {
        let shown = capability.present(policy);
        let value = shown.encode();
        assert_eq!(Capability::<View>::decode(&value).map(|again| again.encode()), Ok(value));
        if let Ok(stored) = shown.store(policy) {
            assert_eq!(stored.rootid, capability.rootid);
            assert_eq!(
                (stored.effective, stored.permitted),
                (capability.effective, capability.permitted)
            );
        }
    }
    let view = Capability::<View>::decode(input).unwrap();
    for policy in policies {
        if let Ok(stored) = view.store(policy) {
            assert_eq!(stored.present(policy).rootid, view.rootid);
            assert_eq!(Capability::decode(&stored.encode()), Ok(stored));
        }
    }
}
