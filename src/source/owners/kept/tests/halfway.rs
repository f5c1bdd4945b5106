//! A server that is killed between two writes of one change.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::super::{Record, Store};
use super::*;
use crate::acl::Capability;
use crate::acl::permission::{EXEC, READ, WRITE, acl_counts, granted};
use crate::error::Result;
use crate::id::{Owner, View};
use crate::source::Key;

/// A store that ends after so many writes.
#[derive(Debug)]
struct Ending {
    store: Xattrs,
    left: AtomicUsize,
}

impl Ending {
    fn writes(&self) -> Result<()> {
        let less = |left: usize| left.checked_sub(1);
        let had = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        had.map(drop).map_err(|_| Error::Internal)
    }
}

impl Store for Ending {
    fn get(&self, below: &dyn Source, node: &Node, key: &Key) -> Result<Option<Record>> {
        self.store.get(below, node, key)
    }

    fn put(&self, below: &dyn Source, node: &Node, key: &Key, record: &Record) -> Result<()> {
        self.writes()?;
        self.store.put(below, node, key, record)
    }

    fn takes(&self, kind: FileKind) -> bool {
        self.store.takes(kind)
    }

    fn is_own(&self, name: &OsStr) -> bool {
        self.store.is_own(name)
    }

    fn attribute(&self, s: &dyn Source, node: &Node, key: &Key, name: &OsStr) -> Result<Vec<u8>> {
        self.store.attribute(s, node, key, name)
    }

    fn attributes(&self, below: &dyn Source, node: &Node, key: &Key) -> Result<Vec<OsString>> {
        self.store.attributes(below, node, key)
    }

    fn set_attribute(
        &self,
        below: &dyn Source,
        node: &Node,
        key: &Key,
        name: &OsStr,
        value: Option<&[u8]>,
    ) -> Result<()> {
        self.writes()?;
        self.store.set_attribute(below, node, key, name, value)
    }
}

fn acl(named: u8, group: u8, mask: u8, other: u8) -> Acl<Disk> {
    let entries = [
        (Tag::UserObj, 6),
        (Tag::User(Id::new(9)), named),
        (Tag::GroupObj, group),
        (Tag::Mask, mask),
        (Tag::Other, other),
    ];
    Acl::new(entries.map(|(tag, perm)| Entry { tag, perm }).to_vec()).unwrap()
}

/// Everybody: a user and a group each is in, by what the files below belong to.
const PEOPLE: [(u32, u32); 7] = [(1, 99), (2, 99), (9, 99), (50, 11), (51, 12), (77, 78), (60, 99)];

/// Returns what each may do: also become somebody by running the file.
fn rights(pair: &Pair) -> Vec<BTreeSet<String>> {
    let attr = pair.shown("file");
    let node = pair.node("file");
    let kept = pair.kept.acl(&node, AclKind::Access).unwrap();
    let kept = kept.filter(|_| acl_counts(attr.mode));
    let kept = kept.and_then(|acl| Acl::<View>::decode(&acl.encode()).unwrap());
    let (uid, gid) = (attr.owner.uid.unwrap().raw(), attr.owner.gid.unwrap().raw());
    let owner: Owner<View> = Ids::new(uid, gid).unwrap().into();
    let capability = pair.kept.capability(&node).unwrap().is_some();
    let of = |(user, group): (u32, u32)| {
        let may = |want| {
            let is_member = |id: Id<crate::id::Group, View>| id.raw() == group;
            granted(attr.mode, kept.as_ref(), || owner, Id::new(user), is_member, want).0
        };
        let runs = may(EXEC);
        [
            (may(READ), "reads".to_owned()),
            (may(WRITE), "writes".to_owned()),
            (runs, "runs".to_owned()),
            (runs && attr.mode.has(Mode::SETUID), format!("becomes user {uid}")),
            (runs && attr.mode.has(Mode::SETGID), format!("becomes group {gid}")),
            (runs && capability, "has capabilities".to_owned()),
            (user == uid, "owns".to_owned()),
        ]
        .into_iter()
        .filter_map(|(may, what)| may.then_some(what))
        .collect()
    };
    PEOPLE.map(of).to_vec()
}

/// How a file stands to records before the change.
#[derive(Clone, Copy, Debug)]
enum Before {
    Recorded,
    /// Made on the host, with an ACL of its own if it has one.
    Planted,
}

fn begin(before: Before, mode: u32, acl: Option<&Acl<Disk>>, capability: bool) -> Pair {
    let pair = Pair::new();
    let what = NewKind::Regular(None);
    let source: (&dyn Source, Node) = match before {
        Before::Recorded => (&pair.kept, pair.make("file", what, (1, 11), mode)),
        Before::Planted => (&*pair.below, pair.plant("file", what, (77, 78), mode)),
    };
    let keep = Rights { keep_setid: true, ..PLAIN };
    if let Some(acl) = acl {
        source.0.set_acl(&source.1, AclKind::Access, Some(acl), keep).unwrap();
    }
    if capability {
        let value = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let capability = Capability::decode(&value).unwrap();
        pair.kept.set_capability(&pair.node("file"), Some(&capability), keep).unwrap();
    }
    let mode = Change { mode: Some(Mode::new(mode)), ..Change::default() };
    if mode.mode.is_some_and(|mode| mode.has(0o6000)) {
        source.0.setattr(&source.1, None, &mode, keep).unwrap();
    }
    pair
}

type Act = (&'static str, Box<dyn Fn(&Kept, &Node) -> Result<()>>);

fn acts() -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    let mut change = |name, change: Change| {
        let act =
            move |kept: &Kept, node: &Node| kept.setattr(node, None, &change, PLAIN).map(drop);
        acts.push((name, Box::new(act)));
    };
    for mode in [0o600, 0o640, 0o604, 0o670, 0o777, 0o4755] {
        change("chmod", Change { mode: Some(Mode::new(mode)), ..Change::default() });
        change("both", Change { mode: Some(Mode::new(mode)), ..chown(2, 12) });
    }
    change("chown", chown(2, 12));
    change("truncate", Change { size: Some(0), ..Change::default() });
    for new in [Some(acl(7, 0, 7, 0)), Some(acl(4, 7, 7, 5)), Some(acl(7, 4, 0, 0)), None] {
        let act = move |kept: &Kept, node: &Node| {
            kept.set_acl(node, AclKind::Access, new.as_ref(), PLAIN)
        };
        acts.push(("setfacl", Box::new(act)));
    }
    let minimal = [(Tag::UserObj, 6), (Tag::GroupObj, 4), (Tag::Other, 1)];
    let minimal = Acl::new(minimal.map(|(tag, perm)| Entry { tag, perm }).to_vec()).unwrap();
    let act =
        move |kept: &Kept, node: &Node| kept.set_acl(node, AclKind::Access, Some(&minimal), PLAIN);
    acts.push(("setfacl minimal", Box::new(act)));
    let act = |kept: &Kept, node: &Node| set(kept, node, "trusted.x", b"1");
    acts.push(("setfattr", Box::new(act)));
    acts
}

#[test]
fn at_every_write_of_a_change_nobody_has_more_than_before_or_after() {
    let acls = [None, Some(acl(6, 0, 6, 0)), Some(acl(0, 4, 7, 1)), Some(acl(7, 7, 0, 4))];
    let mut prefixes = 0;
    for before in [Before::Recorded, Before::Planted] {
        for (mode, old) in [0o600, 0o640, 0o755, 0o6775, 0o4711]
            .into_iter()
            .flat_map(|mode| acls.iter().map(move |acl| (mode, acl.as_ref())))
        {
            for capability in [false, true] {
                for (name, act) in acts() {
                    let at = format!("{before:?} {mode:o} {old:?} {capability} {name}");
                    let start = || begin(before, mode, old, capability);
                    let (first, last) = (rights(&start()), {
                        let pair = start();
                        let done = act(&pair.kept, &pair.node("file"));
                        done.unwrap_or_else(|error| panic!("{at}: {error}"));
                        rights(&pair.again())
                    });
                    for left in 0.. {
                        let pair = start();
                        let store = Xattrs::new(&*pair.below).unwrap();
                        let store = Arc::new(Ending { store, left: AtomicUsize::new(left) });
                        let below = Arc::clone(&pair.below) as Arc<dyn Source>;
                        let kept = Kept::new(below, store, own(), Hold::default());
                        let (root, _) = kept.root().unwrap();
                        let (node, _) = kept.reach(&root, n("file")).unwrap();
                        let done = act(&kept, &node).is_ok();
                        let now = rights(&pair.again());
                        for (who, now) in now.iter().enumerate() {
                            let (first, last) = (&first[who], &last[who]);
                            assert!(
                                now.is_subset(first) || now.is_subset(last),
                                "{at}: after {left} writes {:?}: {first:?}, {now:?}, {last:?}",
                                PEOPLE[who]
                            );
                        }
                        prefixes += 1;
                        if done {
                            assert_eq!(now, last, "{at}");
                            break;
                        }
                    }
                }
            }
        }
    }
    assert!(prefixes > 3000, "{prefixes}");
}
