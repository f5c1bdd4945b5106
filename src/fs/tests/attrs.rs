use super::*;
use crate::attr::Time;

fn set(change: impl FnOnce(&mut SetAttr)) -> SetAttr {
    let mut set = SetAttr::default();
    change(&mut set);
    set
}

fn chown(uid: Option<u32>, gid: Option<u32>) -> SetAttr {
    set(|set| {
        set.uid = uid.map(|uid| Id::new(uid).unwrap());
        set.gid = gid.map(|gid| Id::new(gid).unwrap());
    })
}

#[test]
fn owners_are_presented() {
    let cases = [
        (IDENTITY, (0, 5000), (Some(0), Some(5000))),
        (MAP, (0, 999), (Some(100_000), Some(200_999))),
        (MAP, (1000, 3), (None, Some(200_003))),
        (MAP, (3, 65534), (Some(100_003), None)),
        (COLLAPSE, (0, 77), (Some(1000), Some(1000))),
    ];
    for (options, disk, view) in cases {
        let world = World::new(options);
        let file = world.file("a", disk, 0o644);
        assert_eq!(numbers(&file.attr), view, "{disk:?}");
        let attr = world.fs.getattr(&caller(0, 0), file.node, None).unwrap();
        assert_eq!(attr, file.attr);
        let handle = world.open(file.node, libc::O_RDONLY).unwrap();
        assert_eq!(world.fs.getattr(&caller(0, 0), file.node, Some(handle)).unwrap(), attr);
    }
}

#[test]
fn chown_stores_what_is_shown_again() {
    let (u, g) = (100_000, 200_000);
    let cases = [
        (MAP, (1, 1), (Some(u + 5), None), Ok((5, 1))),
        (MAP, (1, 1), (None, Some(g + 6)), Ok((1, 6))),
        (MAP, (1, 1), (Some(u + 5), Some(g + 6)), Ok((5, 6))),
        (MAP, (5000, 5000), (Some(u + 3), Some(g + 3)), Ok((3, 3))),
        (MAP, (1, 1), (Some(5000), None), Err(Error::Unmapped)),
        (MAP, (1, 1), (Some(65534), None), Err(Error::Unmapped)),
        (MAP, (1, 1), (None, Some(0)), Err(Error::Unmapped)),
        (MAP, (1, 1), (Some(u + 5), Some(0)), Err(Error::Unmapped)),
        // What is shown already stays as it is on disk.
        (COLLAPSE, (7, 8), (Some(1000), Some(1000)), Ok((7, 8))),
        (COLLAPSE, (7, 8), (Some(1000), None), Ok((7, 8))),
        (COLLAPSE, (7, 8), (Some(1001), None), Err(Error::Unmapped)),
        (COLLAPSE, (7, 8), (None, Some(0)), Err(Error::Unmapped)),
    ];
    for (options, before, (uid, gid), after) in cases {
        let world = World::new(options);
        let file = world.file("a", before, 0o644);
        let result = world.fs.setattr(&caller(0, 0), file.node, None, &chown(uid, gid));
        let stored = world.stored("a");
        match after {
            Ok((uid, gid)) => {
                let attr = result.unwrap();
                assert_eq!((stored.0, stored.1), (uid, gid), "{before:?} {uid:?} {gid:?}");
                assert_eq!(attr, world.look("a").unwrap().attr);
            }
            Err(error) => {
                assert_eq!(result.unwrap_err(), error);
                assert_eq!((stored.0, stored.1), before, "{uid:?} {gid:?}");
            }
        }
    }
}

#[test]
fn a_chown_to_the_same_owner_is_a_chown() {
    for options in [IDENTITY, COLLAPSE] {
        let world = World::new(options);
        let file = world.file("a", (1000, 1000), 0o6755);
        let before = world.on_disk("a").ctime;
        let change = chown(Some(1000), Some(1000));
        let attr = world.fs.setattr(&caller(1000, 1000), file.node, None, &change).unwrap();
        assert_eq!(attr.mode.bits(), 0o755);
        assert!(world.on_disk("a").ctime > before);
    }
}

#[test]
fn chown_keeps_a_marking_setgid_for_members() {
    let cases = [
        // mode, member, CAP_FSETID, mode after, asked for capabilities
        (0o2745, true, false, 0o2745, 0),
        (0o2745, false, true, 0o2745, 1),
        (0o2745, false, false, 0o745, 1),
        (0o2755, true, true, 0o755, 0),
        (0o6745, true, false, 0o2745, 0),
        (0o4755, false, true, 0o755, 0),
        (0o755, false, false, 0o755, 0),
    ];
    for (mode, member, fsetid, after, asked) in cases {
        let world = World::new(MAP);
        let file = world.file("a", (1, 1), mode);
        {
            let mut known = lock(&world.processes.0);
            if member {
                known.groups.insert((100_001, 200_001));
            }
            if fsetid {
                known.capable.insert(100_001);
            }
            known.asked = 0;
        }
        let by = caller(100_001, 200_009);
        let attr = world.fs.setattr(&by, file.node, None, &chown(None, Some(200_007))).unwrap();
        assert_eq!(attr.mode.bits(), after, "{mode:o} {member} {fsetid}");
        assert_eq!(lock(&world.processes.0).asked, asked, "{mode:o} {member} {fsetid}");
    }
}

#[test]
fn set_id_bits_of_an_unmapped_owner_stay_and_so_does_the_owner() {
    // As on ext4: owner on disk, mode, result.
    let cases = [
        ((5000, 1), 0o755, Ok(0o755)),
        ((5000, 1), 0o4755, Err(Error::Denied)),
        ((5000, 1), 0o2755, Err(Error::Denied)),
        ((5000, 5000), 0o2745, Err(Error::Denied)),
        ((1, 5000), 0o6755, Ok(0o755)),
        ((1, 5000), 0o2745, Ok(0o745)),
        ((1, 1), 0o2745, Ok(0o2745)),
    ];
    for (owner, mode, after) in cases {
        let world = World::new(MAP);
        lock(&world.processes.0).capable.insert(0);
        let file = world.file("a", owner, mode);
        let change = chown(Some(100_003), Some(200_003));
        let result = world.fs.setattr(&caller(0, 0), file.node, None, &change);
        assert_eq!(result.map(|attr| attr.mode.bits()), after, "{owner:?} {mode:o}");
        let (uid, gid, _) = world.stored("a");
        assert_eq!((uid, gid), if after.is_ok() { (3, 3) } else { owner });
    }
}

#[test]
fn a_change_of_nothing_is_a_chown_for_those_who_may() {
    let owner = caller(100_001, 200_001);
    let (stranger, admin) = (caller(100_002, 200_002), caller(100_003, 200_003));
    let member = caller(100_002, 200_001);
    // As on ext4: who, mode, mode after unless it is refused.
    let cases = [
        (owner, 0o6755, Some(0o755)),
        (admin, 0o6755, Some(0o755)),
        (stranger, 0o755, Some(0o755)),
        (stranger, 0o4755, None),
        (stranger, 0o2755, None),
        (stranger, 0o2745, None),
        (member, 0o2745, Some(0o2745)),
        (member, 0o2755, None),
    ];
    for (by, mode, after) in cases {
        let world = World::new(MAP);
        lock(&world.processes.0).capable.insert(100_003);
        let file = world.file("a", (1, 1), mode);
        let before = world.on_disk("a").ctime;
        let touch = || world.fs.setattr(&by, file.node, None, &SetAttr::default());
        let mode_after = touch().map(|attr| u32::from(attr.mode.bits()));
        assert_eq!(mode_after, after.ok_or(Error::Denied), "{by:?} {mode:o}");
        let touched = world.on_disk("a").ctime > before;
        assert_eq!(touched, after.is_some(), "{by:?} {mode:o}");
        // It may be a write that comes next: that must not fail.
        world.open(file.node, libc::O_RDONLY).unwrap();
        assert_eq!(touch().is_ok(), after.is_some());
        world.open(file.node, libc::O_WRONLY).unwrap();
        let kept = touch().unwrap().mode.bits();
        assert_eq!(u32::from(kept), after.unwrap_or(mode));
    }
    let world = World::new(MAP);
    let dir = world.dir("d", (1, 1), 0o2755);
    let attr = world.fs.setattr(&owner, dir.node, None, &SetAttr::default()).unwrap();
    assert_eq!(attr.mode.bits(), 0o2755);
}

#[test]
fn chmod_sets_what_the_kernel_let_through() {
    let world = World::new(MAP);
    let file = world.file("a", (1, 1), 0o644);
    let change = set(|set| set.mode = Some(libc::S_IFREG | 0o6755));
    let by = caller(100_001, 200_001);
    let attr = world.fs.setattr(&by, file.node, None, &change).unwrap();
    assert_eq!(attr.mode.bits(), 0o6755);
    assert_eq!(lock(&world.processes.0).asked, 0);
}

#[test]
fn sizes_and_times() {
    let world = World::new(MAP);
    let file = world.file("a", (1, 1), 0o644);
    let by = caller(100_001, 200_001);
    let handle = world.open(file.node, libc::O_RDWR).unwrap();
    for through in [None, Some(handle)] {
        let size = set(|set| set.size = Some(12_345));
        let attr = world.fs.setattr(&by, file.node, through, &size).unwrap();
        assert_eq!(attr.size, 12_345);
        let (early, late) = (Time { sec: -5, nsec: 7 }, Time { sec: 1 << 33, nsec: 0 });
        let times = set(|set| {
            set.atime = Some(SetTime::At(early));
            set.mtime = Some(SetTime::At(late));
        });
        let attr = world.fs.setattr(&by, file.node, through, &times).unwrap();
        assert_eq!((attr.atime, attr.mtime), (early, late));
        let now = set(|set| set.mtime = Some(SetTime::Now));
        let attr = world.fs.setattr(&by, file.node, through, &now).unwrap();
        assert_eq!((attr.atime, attr.mtime), (early, attr.ctime));
    }
}

#[test]
fn the_root_and_its_totals() {
    let world = World::new(MAP);
    let root = world.fs.root(&caller(0, 0)).unwrap();
    assert_eq!(numbers(&root.attr), (Some(100_000), Some(200_000)));
    assert_eq!(root.attr.kind, FileKind::Directory);
    world.fs.forget(root.node, 1_000);
    assert_eq!(world.fs.root(&caller(0, 0)).unwrap().attr, root.attr);
    assert_eq!(world.fs.statfs(root.node).unwrap().namelen, 255);
    let handle = world.fs.getattr(&caller(0, 0), root.node, Some(99));
    assert_eq!(handle.unwrap_err(), Error::Unknown);
}
