//! ACLs, file capabilities and extended attributes.

use std::ffi::OsStr;

use super::*;
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability, Entry, Tag};
use crate::id::{Disk, Id};
use crate::source::XattrSet;

pub(super) const CHECKS: &[Check] = &[
    ("an access ACL and the mode agree", access),
    ("default ACLs belong to directories", default),
    ("a default ACL is inherited instead of the umask", inherited),
    ("ACLs that are refused", acl_refused),
    ("a file capability is kept until something is written", capability),
    ("extended attributes are set, listed and removed", xattrs),
    ("extended attributes that carry ids have calls of their own", with_ids),
];

fn acl(named: Option<u32>, perms: [u8; 5]) -> Acl<Disk> {
    let [owner, user, group, mask, other] = perms;
    Acl::new(vec![
        Entry { tag: Tag::UserObj, perm: owner },
        Entry { tag: Tag::User(named.and_then(Id::new)), perm: user },
        Entry { tag: Tag::GroupObj, perm: group },
        Entry { tag: Tag::Mask, perm: mask },
        Entry { tag: Tag::Other, perm: other },
    ])
    .unwrap()
}

/// Reports whether the source keeps ACLs; says so if not.
fn keeps_acls(g: &Ground) -> bool {
    let acl = g.source.facts().acl;
    if !acl {
        println!("SKIP: the source keeps no ACLs");
        let none = g.source.acl(&g.root, AclKind::Access);
        assert_eq!(errno(none), libc::EOPNOTSUPP);
    }
    acl
}

fn lists(g: &Ground, node: &Node, name: &str) -> bool {
    g.source.xattrs(node).unwrap().iter().any(|listed| listed == name)
}

fn access(g: &Ground) {
    if !keeps_acls(g) {
        return;
    }
    let file = g.make_file("file", 0o640);
    let get = || g.source.acl(&file, AclKind::Access).unwrap();
    let set =
        |acl: Option<&Acl<Disk>>, rights| g.source.set_acl(&file, AclKind::Access, acl, rights);
    assert_eq!(get(), None);
    let first = acl(Some(5), [7, 6, 5, 4, 1]);
    let before = g.attr(&file);
    set(Some(&first), KEEP).unwrap();
    assert_eq!(get(), Some(first.clone()));
    assert_eq!(g.mode(&file), 0o741);
    assert!(g.attr(&file).ctime > before.ctime);
    assert!(lists(g, &file, AclKind::Access.xattr()));

    g.chmod(&file, 0o620);
    assert_eq!(get(), Some(acl(Some(5), [6, 6, 5, 2, 0])));

    set(Some(&Acl::from_mode(Mode::new(0o751))), KEEP).unwrap();
    assert_eq!((get(), g.mode(&file)), (None, 0o751));
    assert!(!lists(g, &file, AclKind::Access.xattr()));

    set(Some(&first), KEEP).unwrap();
    set(None, KEEP).unwrap();
    assert_eq!((get(), g.mode(&file)), (None, 0o741));
    set(None, KEEP).unwrap();

    if g.any_owner() {
        g.chmod(&file, 0o6755);
        set(Some(&first), KEEP).unwrap();
        assert_eq!(g.mode(&file), 0o6741);
        set(Some(&first), PLAIN).unwrap();
        assert_eq!(g.mode(&file), 0o4741);
    }
}

fn default(g: &Ground) {
    if !keeps_acls(g) {
        return;
    }
    let dir = g.make_dir(&g.root, "dir");
    let file = g.make_file("file", 0o640);
    let set = |node: &Node, acl: Option<&Acl<Disk>>| {
        errno(g.source.set_acl(node, AclKind::Default, acl, KEEP))
    };
    let minimal = Acl::from_mode(Mode::new(0o700));
    assert_eq!(set(&dir, Some(&minimal)), 0);
    assert_eq!(g.source.acl(&dir, AclKind::Default).unwrap(), Some(minimal.clone()));
    assert_eq!(g.mode(&dir), 0o755);
    assert!(lists(g, &dir, AclKind::Default.xattr()));
    assert_eq!(set(&dir, None), 0);
    assert_eq!(g.source.acl(&dir, AclKind::Default).unwrap(), None);
    assert_eq!(set(&file, Some(&minimal)), libc::EACCES);
    assert_eq!(g.source.acl(&file, AclKind::Default).unwrap(), None);
}

fn inherited(g: &Ground) {
    if !keeps_acls(g) {
        return;
    }
    let dir = g.make_dir(&g.root, "dir");
    let default = acl(Some(5), [7, 7, 5, 7, 1]);
    g.source.set_acl(&dir, AclKind::Default, Some(&default), KEEP).unwrap();
    for (name, what, mode, expected, perms) in [
        ("file", NewKind::Regular(None), 0o666, 0o660, Some([6, 7, 5, 6, 0])),
        ("open", NewKind::Regular(Some(libc::O_RDWR)), 0o600, 0o600, Some([6, 7, 5, 0, 0])),
        ("sub", NewKind::Directory, 0o777, 0o771, Some([7, 7, 5, 7, 1])),
        ("fifo", NewKind::Special(FileKind::Fifo, 0), 0o640, 0o640, Some([6, 7, 5, 4, 0])),
        ("link", NewKind::Symlink(OsStr::new("x")), 0, 0o777, None),
    ] {
        let new = New { umask: 0o077, ..g.new_of(what, mode) };
        let found = g.source.create(&dir, n(name), &new).unwrap().found;
        assert_eq!(found.attr.mode, Mode::new(expected), "{name}");
        let node = g.node(&dir, name);
        let Some(perms) = perms else {
            assert_eq!(errno(g.source.acl(&node, AclKind::Access)), libc::EOPNOTSUPP);
            continue;
        };
        let access = g.source.acl(&node, AclKind::Access).unwrap();
        assert_eq!(access, Some(acl(Some(5), perms)), "{name}");
        let passed_on = found.attr.kind.is_dir().then(|| default.clone());
        assert_eq!(g.source.acl(&node, AclKind::Default).unwrap(), passed_on, "{name}");
    }
}

fn acl_refused(g: &Ground) {
    if !keeps_acls(g) {
        return;
    }
    let file = g.make_file("file", 0o640);
    let nameless = acl(None, [7; 5]);
    let result = g.source.set_acl(&file, AclKind::Access, Some(&nameless), KEEP);
    assert_eq!(errno(result), libc::EINVAL);
    assert_eq!((g.source.acl(&file, AclKind::Access).unwrap(), g.mode(&file)), (None, 0o640));
    let link = g.make(&g.root, "link", NewKind::Symlink(OsStr::new("file")), 0);
    let result = g.source.set_acl(&link, AclKind::Access, Some(&acl(Some(5), [7; 5])), KEEP);
    assert_eq!(errno(result), libc::EOPNOTSUPP);
}

fn capability(g: &Ground) {
    if !g.any_owner() {
        return;
    }
    let (node, file) = g.open_new("file", 0);
    // An open file says the same, if it says anything.
    let is = |wanted: Option<Capability<Disk>>, why: &str| {
        assert_eq!(g.source.capability(&node).unwrap(), wanted, "{why}");
        let of_file = file.capability();
        assert!(of_file == Ok(wanted) || of_file == Err(Error::Unsupported), "{why}");
    };
    is(None, "new");
    assert_eq!(errno(g.source.set_capability(&node, None, PLAIN)), libc::ENODATA);
    let set = |rootid| {
        let capability = Capability {
            rootid,
            effective: true,
            permitted: 1 << 13,
            inheritable: 2,
            names_root: false,
        };
        g.source.set_capability(&node, Some(&capability), PLAIN).unwrap();
        is(Some(capability), "set");
        assert!(lists(g, &node, CAPABILITY_XATTR));
    };
    let gone = |why: &str| is(None, why);
    set(Id::new(0));
    set(Id::new(100_000));
    g.source.set_capability(&node, None, PLAIN).unwrap();
    gone("removed");
    set(Id::new(0));
    file.write(Place::At(0), b"x", KEEP).unwrap();
    gone("written");
    set(Id::new(0));
    g.set(&node, Change { size: Some(0), ..Change::default() }, KEEP).unwrap();
    gone("truncated");
    set(Id::new(0));
    g.set(&node, Change { gid: Id::new(9), ..Change::default() }, KEEP).unwrap();
    gone("given away");
    set(Id::new(0));
    g.chmod(&node, 0o700);
    assert!(g.source.capability(&node).unwrap().is_some());
    let nowhere = Capability {
        rootid: None,
        effective: true,
        permitted: 1,
        inheritable: 0,
        names_root: false,
    };
    assert_eq!(errno(g.source.set_capability(&node, Some(&nowhere), PLAIN)), libc::EINVAL);
}

fn xattrs(g: &Ground) {
    let file = g.make_file("file", 0o640);
    let name = OsStr::new("user.test");
    let set = |value: Option<&[u8]>, how| errno(g.source.set_xattr(&file, name, value, how, PLAIN));
    let get = || g.source.xattr(&file, name);
    if set(Some(b"one"), XattrSet::Any) == libc::EOPNOTSUPP {
        println!("SKIP: the source's file system has no user attributes");
        return;
    }
    assert_eq!(get(), Ok(b"one".to_vec()));
    assert_eq!(set(Some(b"two"), XattrSet::Create), libc::EEXIST);
    assert_eq!(set(Some(b""), XattrSet::Replace), 0);
    assert_eq!(get(), Ok(Vec::new()));
    assert!(lists(g, &file, "user.test"));
    assert_eq!(set(None, XattrSet::Any), 0);
    assert_eq!(set(None, XattrSet::Any), libc::ENODATA);
    assert_eq!(set(Some(b"x"), XattrSet::Replace), libc::ENODATA);
    assert_eq!(errno(get()), libc::ENODATA);
    assert_eq!(set(Some(b"\0\xff"), XattrSet::Create), 0);
    assert_eq!(get(), Ok(vec![0, 255]));

    let fifo = g.make(&g.root, "fifo", NewKind::Special(FileKind::Fifo, 0), 0o600);
    let on_fifo = g.source.set_xattr(&fifo, name, Some(b"x"), XattrSet::Any, PLAIN);
    assert_eq!(errno(on_fifo), libc::EPERM);
    assert_eq!(errno(g.source.xattr(&file, OsStr::new("nonsense.x"))), libc::EOPNOTSUPP);
}

fn with_ids(g: &Ground) {
    let file = g.make_file("file", 0o640);
    for name in [AclKind::Access.xattr(), AclKind::Default.xattr(), CAPABILITY_XATTR] {
        let name = OsStr::new(name);
        g.source.xattr(&file, name).unwrap_err();
        g.source.set_xattr(&file, name, Some(b"x"), XattrSet::Any, PLAIN).unwrap_err();
        g.source.set_xattr(&file, name, None, XattrSet::Any, PLAIN).unwrap_err();
    }
    assert_eq!(g.mode(&file), 0o640);
}
