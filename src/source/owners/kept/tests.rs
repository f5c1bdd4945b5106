//! Over the memory source: what every source must do, and what is on disk by then.

mod db;
mod halfway;
mod servers;

use std::ffi::OsStr;
use std::sync::Arc;

use super::super::live::Hold;
use super::super::xattr::Xattrs;
use super::Kept;
use crate::acl::{Acl, AclKind, Entry, Tag};
use crate::attr::{Attr, FileKind, Mode, Name};
use crate::error::Error;
use crate::id::{Disk, Id, Ids};
use crate::source::memory::{Memory, Options};
use crate::source::{
    Change, New, NewKind, Node, RenameFlags, Rights, Source, XattrSet, conformance,
};

const PLAIN: Rights = Rights { keep_setid: false, reserve: false };
const RECORD: &str = "user.containers.override_stat";

fn own() -> Ids<Disk> {
    Ids::new(77, 78).unwrap()
}

fn kept(options: Options) -> (Arc<Memory>, Kept) {
    let below = Arc::new(Memory::new(options));
    let store = Arc::new(Xattrs::new(&*below).unwrap());
    (Arc::clone(&below), Kept::new(below, store, own(), Hold::default()))
}

#[test]
fn conforms() {
    conformance::check(&|| Arc::new(kept(Options::new(own())).1));
}

#[test]
fn conforms_over_less() {
    let less = Options { acl: false, handles: false, reuse_numbers: false, ..Options::new(own()) };
    conformance::check(&|| Arc::new(kept(less).1));
}

fn n(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

fn new<'a>(what: NewKind<'a>, owner: (u32, u32), mode: u32) -> New<'a> {
    let owner = Ids::new(owner.0, owner.1).unwrap();
    New { what, owner, mode: Mode::new(mode), umask: 0, reserve: false, prepare: None }
}

fn chown(uid: u32, gid: u32) -> Change {
    Change { uid: Id::new(uid), gid: Id::new(gid), ..Change::default() }
}

/// A source, and what is below it.
struct Pair {
    below: Arc<Memory>,
    kept: Kept,
    root: Node,
    under: Node,
}

impl Pair {
    fn new() -> Self {
        Self::over(Arc::new(Memory::new(Options::new(own()))))
    }

    fn over(below: Arc<Memory>) -> Self {
        let store = Arc::new(Xattrs::new(&*below).unwrap());
        let kept = Kept::new(Arc::clone(&below) as Arc<dyn Source>, store, own(), Hold::default());
        let (root, under) = (kept.root().unwrap().0, below.root().unwrap().0);
        Self { below, kept, root, under }
    }

    fn make(&self, name: &str, what: NewKind<'_>, owner: (u32, u32), mode: u32) -> Node {
        self.kept.create(&self.root, n(name), &new(what, owner, mode)).unwrap();
        self.node(name)
    }

    /// Makes a file as others on the host do.
    fn plant(&self, name: &str, what: NewKind<'_>, owner: (u32, u32), mode: u32) -> Node {
        self.below.create(&self.under, n(name), &new(what, owner, mode)).unwrap();
        self.below.reach(&self.under, n(name)).unwrap().0
    }

    fn node(&self, name: &str) -> Node {
        let key = self.kept.lookup(&self.root, n(name)).unwrap().key;
        self.kept.open_by_name(&self.root, n(name), &key).unwrap()
    }

    fn shown(&self, name: &str) -> Attr<Disk> {
        self.kept.lookup(&self.root, n(name)).unwrap().attr
    }

    fn disk(&self, name: &str) -> Attr<Disk> {
        self.below.lookup(&self.under, n(name)).unwrap().attr
    }

    fn record(&self, name: &str) -> Option<String> {
        let node = self.below.reach(&self.under, n(name)).unwrap().0;
        let text = self.below.xattr(&node, OsStr::new(RECORD)).ok()?;
        Some(String::from_utf8(text).unwrap())
    }

    /// Mounts the same once more.
    fn again(&self) -> Self {
        Self::over(Arc::clone(&self.below))
    }
}

fn set(source: &dyn Source, node: &Node, name: &str, value: &[u8]) -> crate::error::Result<()> {
    source.set_xattr(node, OsStr::new(name), Some(value), XattrSet::Any, PLAIN)
}

#[test]
fn on_disk_everything_is_the_servers() {
    let pair = Pair::new();
    let device = libc::makedev(8, 1);
    let table = [
        ("file", NewKind::Regular(None), 0o6755, FileKind::Regular, 0o700, "1000:1001:6755"),
        ("data", NewKind::Regular(None), 0o4644, FileKind::Regular, 0o600, "1000:1001:4644"),
        ("dir", NewKind::Directory, 0o1700, FileKind::Directory, 0o700, "1000:1001:1700"),
        (
            "link",
            NewKind::Symlink(OsStr::new("to")),
            0o777,
            FileKind::Regular,
            0o700,
            "1000:1001:0777:symlink",
        ),
        (
            "fifo",
            NewKind::Special(FileKind::Fifo, 0),
            0o640,
            FileKind::Regular,
            0o600,
            "1000:1001:0640:pipe",
        ),
        (
            "disk",
            NewKind::Special(FileKind::BlockDevice, device),
            0o660,
            FileKind::Regular,
            0o600,
            "1000:1001:0660:block-8-1",
        ),
    ];
    for (name, what, mode, kind, real, record) in table {
        pair.make(name, what, (1000, 1001), mode);
        let disk = pair.disk(name);
        assert_eq!((disk.kind, disk.mode), (kind, Mode::new(real)), "{name}");
        assert_eq!(disk.owner, own().into(), "{name}");
        assert_eq!(pair.record(name).as_deref(), Some(record), "{name}");
        for pair in [&pair, &pair.again()] {
            let shown = pair.shown(name);
            assert_eq!((shown.kind, shown.mode), (what.kind(), Mode::new(mode)), "{name}");
            assert_eq!(shown.owner, Ids::new(1000, 1001).unwrap().into(), "{name}");
        }
    }
    let link = pair.node("link");
    assert_eq!(pair.kept.readlink(&link).unwrap(), "to");
    assert_eq!(pair.shown("link").size, 2);
    assert_eq!(pair.shown("disk").rdev, device);
    let root = pair.below.xattr(&pair.under, OsStr::new(RECORD)).unwrap();
    assert_eq!(root, b"77:78:0755", "so that others see that there are records");
}

#[test]
fn what_needs_no_record_stays_what_it_is() {
    let pair = Pair::new();
    pair.make("link", NewKind::Symlink(OsStr::new("to")), (77, 78), 0);
    pair.make("whiteout", NewKind::Special(FileKind::CharDevice, 0), (77, 78), 0o600);
    assert_eq!(pair.disk("link").kind, FileKind::Symlink);
    assert_eq!(pair.disk("whiteout").kind, FileKind::CharDevice);
}

#[test]
fn what_is_no_ones_record_is_shown_as_it_is() {
    let pair = Pair::new();
    for (name, owner, mode) in
        [("foreign", (5, 6), 0o644), ("group", (77, 78), 0o664), ("all", (77, 78), 0o602)]
    {
        let node = pair.plant(name, NewKind::Regular(None), owner, mode);
        set(&*pair.below, &node, RECORD, b"0:0:4755").unwrap();
        set(&*pair.below, &node, "user.idmapfs.security.x", b"planted").unwrap();
        let shown = pair.shown(name);
        assert_eq!(shown.owner, Ids::new(owner.0, owner.1).unwrap().into(), "{name}");
        assert_eq!(shown.mode, Mode::new(mode), "{name}");
        let node = pair.node(name);
        let read = pair.kept.xattr(&node, OsStr::new("security.x"));
        assert_eq!(read, Err(Error::Os(crate::error::Errno(libc::ENODATA))), "{name}");
    }
    let own = pair.plant("own", NewKind::Regular(None), (77, 5), 0o640);
    assert_eq!(pair.shown("own").owner, Ids::new(77, 5).unwrap().into());
    set(&*pair.below, &own, RECORD, b"0:0:4755").unwrap();
    assert_eq!(pair.shown("own").owner, Ids::new(0, 0).unwrap().into());
    set(&*pair.below, &own, RECORD, b"nonsense").unwrap();
    assert_eq!(pair.kept.lookup(&pair.root, n("own")).unwrap_err(), Error::Internal);
}

#[test]
fn what_others_planted_goes_when_a_file_is_recorded() {
    let pair = Pair::new();
    let node = pair.plant("group", NewKind::Regular(None), (77, 78), 0o664);
    set(&*pair.below, &node, RECORD, b"0:0:4755").unwrap();
    set(&*pair.below, &node, "user.idmapfs.security.capability", b"planted").unwrap();
    pair.kept.setattr(&pair.node("group"), None, &chown(5, 6), PLAIN).unwrap();
    let shown = pair.shown("group");
    assert_eq!((shown.owner, shown.mode), (Ids::new(5, 6).unwrap().into(), Mode::new(0o664)));
    assert_eq!(pair.disk("group").mode, Mode::new(0o600));
    assert_eq!(pair.kept.capability(&pair.node("group")).unwrap(), None);
}

#[test]
fn records_of_other_programs_are_read() {
    let pair = Pair::new();
    let node = pair.plant("qemu", NewKind::Regular(None), (77, 78), 0o600);
    set(&*pair.below, &node, "user.virtfs.uid", &1000_u32.to_le_bytes()).unwrap();
    set(&*pair.below, &node, "user.virtfs.mode", &0o104_755_u32.to_le_bytes()).unwrap();
    let shown = pair.shown("qemu");
    assert_eq!(shown.owner, Ids::new(1000, 78).unwrap().into());
    assert_eq!((shown.kind, shown.mode), (FileKind::Regular, Mode::new(0o4755)));
    pair.kept.setattr(&pair.node("qemu"), None, &chown(1, 2), PLAIN).unwrap();
    assert_eq!(pair.record("qemu").as_deref(), Some("1:2:0755:file"));
    let left = pair.below.xattrs(&node).unwrap();
    assert_eq!(left, [RECORD], "one record is enough");

    let node = pair.plant("krun", NewKind::Regular(None), (77, 78), 0o600);
    set(&*pair.below, &node, RECORD, b"0:0:0100755").unwrap();
    assert_eq!(pair.shown("krun").mode, Mode::new(0o755));
}

/// fuse-overlayfs up to 1.13 has a name of its own for layers that it wrote.
#[test]
fn a_layer_of_fuse_overlayfs_keeps_its_name() {
    const OVERLAY: &str = "user.fuseoverlayfs.override_stat";
    let below = Arc::new(Memory::new(Options::new(own())));
    set(&*below, &below.root().unwrap().0, OVERLAY, b"0:0:555").unwrap();
    let pair = Pair::over(below);
    let node = pair.plant("both", NewKind::Regular(None), (77, 78), 0o600);
    set(&*pair.below, &node, OVERLAY, b"1:2:644").unwrap();
    set(&*pair.below, &node, RECORD, b"3:4:0600").unwrap();
    assert_eq!(pair.shown("both").owner, Ids::new(1, 2).unwrap().into());
    pair.make("new", NewKind::Regular(None), (5, 6), 0o640);
    let node = pair.below.reach(&pair.under, n("new")).unwrap().0;
    assert_eq!(pair.below.xattr(&node, OsStr::new(OVERLAY)).unwrap(), b"5:6:0640");
    assert_eq!(pair.record("new"), None);
}

#[test]
fn a_symbolic_link_that_is_given_away_stays_the_same_file() {
    let pair = Pair::new();
    for (name, what) in [
        ("link", NewKind::Symlink(OsStr::new("a/target"))),
        ("fifo", NewKind::Special(FileKind::Fifo, 0)),
    ] {
        pair.plant(name, what, (77, 78), 0o644);
        let (first, other) = (pair.node(name), pair.node(name));
        let before = pair.kept.lookup(&pair.root, n(name)).unwrap();
        let attr = pair.kept.setattr(&first, None, &chown(5, 6), PLAIN).unwrap();
        assert_eq!(attr.owner, Ids::new(5, 6).unwrap().into(), "{name}");
        assert_eq!((attr.kind, attr.ino), (what.kind(), before.attr.ino), "{name}");
        assert_eq!(attr.mtime, before.attr.mtime, "{name}");
        let after = pair.kept.lookup(&pair.root, n(name)).unwrap();
        assert_eq!((&after.key, after.attr.ino), (&before.key, before.attr.ino), "{name}");
        for node in [&first, &other, &pair.node(name)] {
            let attr = pair.kept.getattr(node).unwrap();
            assert_eq!((attr.owner, attr.ino), (after.attr.owner, before.attr.ino), "{name}");
        }
        assert_eq!(pair.disk(name).kind, FileKind::Regular, "{name}");
    }
    let link = pair.node("link");
    assert_eq!(pair.kept.readlink(&link).unwrap(), "a/target");
    let times = Change { mtime: Some(crate::source::SetTime::Now), ..chown(7, 8) };
    pair.kept.setattr(&link, None, &times, PLAIN).unwrap();
    assert_eq!(pair.again().shown("link").owner, Ids::new(7, 8).unwrap().into());
    assert_eq!(pair.again().kept.readlink(&pair.again().node("link")).unwrap(), "a/target");
}

#[test]
fn what_has_more_names_cannot_be_given_away_as_a_stand_in() {
    let pair = Pair::new();
    pair.make("link", NewKind::Symlink(OsStr::new("to")), (77, 78), 0);
    let link = pair.node("link");
    pair.kept.link(&link, &pair.root, n("second"), PLAIN).unwrap();
    let given = pair.kept.setattr(&link, None, &chown(5, 6), PLAIN);
    assert_eq!(given.unwrap_err(), Error::NotOurs);
    pair.kept.setattr(&link, None, &chown(77, 78), PLAIN).unwrap();
}

#[test]
fn a_whiteout_belongs_to_whom_it_should() {
    let pair = Pair::new();
    for (owner, kind) in [((5, 6), FileKind::Regular), ((77, 78), FileKind::CharDevice)] {
        pair.make("a", NewKind::Regular(None), (5, 6), 0o600);
        let flags = RenameFlags { whiteout: true, ..RenameFlags::default() };
        let owner = Ids::new(owner.0, owner.1).unwrap();
        let (from, to) = ((&pair.root, n("a")), (&pair.root, n("b")));
        pair.kept.rename(from, to, flags, Some(owner), PLAIN).unwrap();
        let left = pair.shown("a");
        assert_eq!((left.kind, left.rdev), (FileKind::CharDevice, 0));
        assert_eq!(left.owner, owner.into());
        assert_eq!(pair.disk("a").kind, kind);
        pair.kept.unlink(&pair.root, n("a")).unwrap();
    }
}

#[test]
fn a_whiteout_has_the_acl_that_its_directory_gives() {
    let pair = Pair::new();
    let acl = |entries: [(Tag<Disk>, u8); 5]| {
        Acl::new(entries.map(|(tag, perm)| Entry { tag, perm }).to_vec()).unwrap()
    };
    let entries = [
        (Tag::UserObj, 7),
        (Tag::User(Id::new(9)), 4),
        (Tag::GroupObj, 5),
        (Tag::Mask, 7),
        (Tag::Other, 5),
    ];
    pair.kept.set_acl(&pair.root, AclKind::Default, Some(&acl(entries)), PLAIN).unwrap();
    pair.make("a", NewKind::Regular(None), (5, 6), 0o600);
    let flags = RenameFlags { whiteout: true, ..RenameFlags::default() };
    let (from, to) = ((&pair.root, n("a")), (&pair.root, n("b")));
    pair.kept.rename(from, to, flags, Ids::new(5, 6), PLAIN).unwrap();
    let left = pair.shown("a");
    assert_eq!((left.kind, left.mode), (FileKind::CharDevice, Mode::new(0)));
    let mut inherited = entries;
    for at in [0, 3, 4] {
        inherited[at].1 = 0;
    }
    let given = pair.kept.acl(&pair.node("a"), AclKind::Access).unwrap();
    assert_eq!(given, Some(acl(inherited)));
}

#[test]
fn records_are_out_of_callers_reach() {
    let pair = Pair::new();
    let file = pair.make("file", NewKind::Regular(None), (5, 6), 0o600);
    let under = pair.below.reach(&pair.under, n("file")).unwrap().0;
    for name in [
        RECORD,
        "user.containers.override_xattr",
        "user.fuseoverlayfs.override_stat",
        "user.virtfs.uid",
        "user.idmapfs.security.capability",
    ] {
        // These two mean something here.
        let planted = name != RECORD && !name.starts_with("user.idmapfs.");
        if planted {
            set(&*pair.below, &under, name, b"below").unwrap();
        }
        let read = || pair.kept.xattr(&file, OsStr::new(name));
        assert!(read().unwrap_err().is(libc::ENODATA), "{name}");
        let none = pair.kept.set_xattr(&file, OsStr::new(name), None, XattrSet::Any, PLAIN);
        assert!(none.unwrap_err().is(libc::ENODATA), "{name}");
        // What is set by such a name is an attribute, and no record.
        set(&pair.kept, &file, name, b"0:0:4755").unwrap();
        assert_eq!(read().unwrap(), b"0:0:4755", "{name}");
        assert_eq!(pair.kept.xattrs(&file).unwrap(), [name]);
        assert_eq!(pair.shown("file").owner, Ids::new(5, 6).unwrap().into(), "{name}");
        assert_eq!(pair.shown("file").mode, Mode::new(0o600), "{name}");
        assert_eq!(pair.record("file").as_deref(), Some("5:6:0600"), "{name}");
        if planted {
            let below = pair.below.xattr(&under, OsStr::new(name)).unwrap();
            assert_eq!(below, b"below", "{name}");
            pair.below.set_xattr(&under, OsStr::new(name), None, XattrSet::Any, PLAIN).unwrap();
        }
        let again = set(&pair.kept, &file, name, b"");
        assert_eq!(again, Ok(()), "{name}");
        pair.kept.set_xattr(&file, OsStr::new(name), None, XattrSet::Any, PLAIN).unwrap();
        assert!(read().unwrap_err().is(libc::ENODATA), "{name}");
    }
    // On a file of others nothing is kept, and nothing by such a name is set.
    let other = pair.plant("other", NewKind::Regular(None), (1, 2), 0o666);
    for name in [RECORD, "user.fuseoverlayfs.opaque"] {
        assert_eq!(set(&pair.kept, &pair.node("other"), name, b"y"), Err(Error::Denied), "{name}");
        set(&*pair.below, &other, name, b"0:0:4755").unwrap();
        let read = pair.kept.xattr(&pair.node("other"), OsStr::new(name)).unwrap_err();
        assert!(read.is(libc::ENODATA), "{name}");
        assert!(pair.kept.xattrs(&pair.node("other")).unwrap().is_empty(), "{name}");
    }
    set(&pair.kept, &file, "user.overlay.opaque", b"y").unwrap();
    set(&pair.kept, &file, "trusted.x", b"1").unwrap();
    set(&pair.kept, &file, "security.y", b"2").unwrap();
    let mut listed = pair.kept.xattrs(&file).unwrap();
    listed.sort();
    assert_eq!(listed, ["security.y", "trusted.x", "user.overlay.opaque"]);
    let again = pair.again();
    assert_eq!(again.kept.xattr(&again.node("file"), OsStr::new("trusted.x")).unwrap(), b"1");
}

#[test]
fn an_acl_of_the_file_itself_is_kept_from_its_first_change_on() {
    let pair = Pair::new();
    let acl = Acl::new(vec![
        Entry { tag: Tag::UserObj, perm: 6 },
        Entry { tag: Tag::User(Id::new(9)), perm: 4 },
        Entry { tag: Tag::GroupObj, perm: 4 },
        Entry { tag: Tag::Mask, perm: 4 },
        Entry { tag: Tag::Other, perm: 0 },
    ])
    .unwrap();
    let node = pair.plant("file", NewKind::Regular(None), (77, 78), 0o640);
    pair.below.set_acl(&node, AclKind::Access, Some(&acl), PLAIN).unwrap();
    let file = pair.node("file");
    assert_eq!(pair.kept.acl(&file, AclKind::Access).unwrap(), Some(acl.clone()));
    pair.kept.setattr(&file, None, &chown(5, 6), PLAIN).unwrap();
    assert_eq!(pair.kept.acl(&file, AclKind::Access).unwrap(), Some(acl));
    assert_eq!(pair.below.acl(&node, AclKind::Access).unwrap(), None);
    assert_eq!(pair.disk("file").mode, Mode::new(0o600));
    assert_eq!(pair.shown("file").mode, Mode::new(0o640));
}
