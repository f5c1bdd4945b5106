//! Two servers of one source, each with descriptors of its own.

use std::path::Path;
use std::sync::Barrier;

use super::super::super::{Owners, open, real_mode};
use super::*;
use crate::source::host::{Host, HostOptions};

const ROUNDS: u32 = 200;

fn serve(source: &Path, owners: &Owners) -> Arc<dyn Source> {
    let host = Host::open(source, &HostOptions { staging: true, ..HostOptions::default() });
    open(Arc::new(host.unwrap()), source, owners).unwrap()
}

fn with_stores(check: &dyn Fn(&Path, &Owners)) {
    let dir = tempfile::tempdir().unwrap();
    for (name, owners) in
        [("xattr", Owners::Xattr), ("db", Owners::Db(Some(dir.path().join("state"))))]
    {
        let source = dir.path().join(name);
        std::fs::create_dir(&source).unwrap();
        check(&source, &owners);
        let left = std::fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!left.into_iter().any(|name| name == ".idmapfs"), "{owners:?}");
    }
}

fn reach(source: &dyn Source) -> Node {
    let (root, _) = source.root().unwrap();
    source.reach(&root, n("file")).unwrap().0
}

fn acl(id: u32, perm: u8) -> Acl<Disk> {
    let entries = [
        (Tag::UserObj, 6),
        (Tag::User(Id::new(id)), perm),
        (Tag::GroupObj, 4),
        (Tag::Mask, 7),
        (Tag::Other, 0),
    ];
    Acl::new(entries.map(|(tag, perm)| Entry { tag, perm }).to_vec()).unwrap()
}

/// In each round one server gives the file to another user, the other one changes its
/// mode: of both nothing is lost.
#[test]
fn two_servers_lose_no_change_of_a_file() {
    with_stores(&|path, owners| {
        let (one, other) = (serve(path, owners), serve(path, owners));
        let (root, _) = one.root().unwrap();
        one.create(&root, n("file"), &new(NewKind::Regular(None), (1, 1), 0o600)).unwrap();
        let (first, second) = (reach(&*one), reach(&*other));
        let round = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for id in 1..ROUNDS {
                    round.wait();
                    one.setattr(&first, None, &chown(id, id + 1), PLAIN).unwrap();
                    round.wait();
                }
            });
            for id in 1..ROUNDS {
                let change = Change { mode: Some(Mode::new(id)), ..Change::default() };
                round.wait();
                if id % 2 == 0 {
                    other.setattr(&second, None, &change, PLAIN).unwrap();
                } else {
                    other.set_acl(&second, AclKind::Access, Some(&acl(id, 5)), PLAIN).unwrap();
                }
                round.wait();
                let shown = other.getattr(&second).unwrap();
                assert_eq!(shown.owner, Ids::new(id, id + 1).unwrap().into(), "{owners:?}");
                if id % 2 == 0 {
                    assert_eq!(shown.mode, Mode::new(id), "{owners:?}");
                } else {
                    assert_eq!(shown.mode, Mode::new(0o670), "{owners:?}");
                    let kept = other.acl(&second, AclKind::Access).unwrap();
                    assert_eq!(kept, Some(acl(id, 5)), "{owners:?}");
                }
                let disk = std::fs::metadata(path.join("file")).unwrap();
                let mode = Mode::new(std::os::unix::fs::PermissionsExt::mode(&disk.permissions()));
                assert_eq!(mode, real_mode(FileKind::Regular, shown.mode), "{owners:?}");
            }
        });
    });
}

/// Where one server has put a regular file in the place of a link, the number that it
/// shows is another one than that on disk, by which the other server knows the file.
#[test]
fn two_servers_lose_no_change_of_what_stands_for_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (serve(dir.path(), &Owners::Xattr), serve(dir.path(), &Owners::Xattr));
    let (root, _) = one.root().unwrap();
    let own = crate::sys::cred::own_ids().unwrap();
    let link = New { owner: own, ..new(NewKind::Symlink(OsStr::new("to")), (0, 0), 0o777) };
    one.create(&root, n("file"), &link).unwrap();
    let first = reach(&*one);
    one.setattr(&first, None, &chown(5, 6), PLAIN).unwrap();
    let second = reach(&*other);
    let numbers = [one.getattr(&first).unwrap().ino, other.getattr(&second).unwrap().ino];
    assert_ne!(numbers[0], numbers[1]);
    let round = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 1..ROUNDS {
                round.wait();
                let change = Change { gid: None, ..chown(id, 0) };
                one.setattr(&first, None, &change, PLAIN).unwrap();
                round.wait();
            }
        });
        for id in 1..ROUNDS {
            round.wait();
            let change = Change { uid: None, ..chown(0, id) };
            other.setattr(&second, None, &change, PLAIN).unwrap();
            round.wait();
            let shown = other.getattr(&second).unwrap();
            assert_eq!(shown.owner, Ids::new(id, id).unwrap().into());
        }
    });
}
