//! New entries: owner, group, mode and ACL from the first moment.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{Resource, setrlimit};

use super::*;
use crate::acl::{Acl, AclKind};
use crate::attr::FileKind;
use crate::source::RenameFlags;

#[test]
fn every_kind_is_born_with_owner_and_mode() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    let top = root(&host);
    let rdev = libc::makedev(1, 3);
    let cases = [
        ("file", NewKind::Regular(None), 0o6777, 0o6755),
        ("open", NewKind::Regular(Some(libc::O_RDONLY | libc::O_TRUNC)), 0o200, 0o200),
        ("dir", NewKind::Directory, 0o1777, 0o1755),
        ("link", NewKind::Symlink(OsStr::new("\u{e4} target")), 0, 0o777),
        ("fifo", NewKind::Special(FileKind::Fifo, 0), 0o666, 0o644),
        ("socket", NewKind::Special(FileKind::Socket, 0), 0o666, 0o644),
        ("null", NewKind::Special(FileKind::CharDevice, rdev), 0o666, 0o644),
        ("whiteout", NewKind::Special(FileKind::CharDevice, 0), 0, 0),
    ];
    for (entry, what, mode, expected) in cases {
        let created = create(&host, &top, entry, &new(what, ids(1234, 5678), mode, 0o022));
        assert_eq!(on_disk(&fixture.at(entry)), (1234, 5678, expected), "{entry}");
        assert_eq!(created.found.attr.owner, ids(1234, 5678).into(), "{entry}");
        assert_eq!(created.found.key, host.lookup(&top, name(entry)).unwrap().key, "{entry}");
        assert_eq!(created.file.is_some(), entry == "open");
        let again = host.create(&top, name(entry), &new(what, ids(1, 1), 0o600, 0));
        assert!(again.unwrap_err().is(libc::EEXIST), "{entry}");
    }
    assert_eq!(host.lookup(&top, name("null")).unwrap().attr.rdev, rdev);
    assert_eq!(host.readlink(&walk(&host, "link").0).unwrap(), "\u{e4} target");
}

#[test]
fn a_watcher_never_sees_another_owner() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    let (top, path) = (root(&host), fixture.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                for i in 0..20 {
                    let file = path.join(format!("f{i}"));
                    let Ok(meta) = fs::symlink_metadata(file) else { continue };
                    use std::os::unix::fs::MetadataExt;
                    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (77, 88, 0o640));
                    seen += 1;
                }
            }
            seen
        });
        for round in 0..300 {
            let entry = format!("f{}", round % 20);
            let what = if round % 2 == 0 { NewKind::Regular(None) } else { NewKind::Directory };
            let removed = if round % 2 == 0 {
                host.unlink(&top, name(&entry))
            } else {
                host.rmdir(&top, name(&entry))
            };
            assert_eq!(removed.is_ok(), round >= 20);
            create(&host, &top, &entry, &new(what, ids(77, 88), 0o666, 0o027));
        }
        done.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0);
    });
}

#[test]
fn threads_act_as_different_owners_at_once() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let host = fixture.host();
    let top = root(&host);
    std::thread::scope(|scope| {
        for thread in 1..5_u32 {
            let (host, top, fixture) = (&host, &top, &fixture);
            scope.spawn(move || {
                for i in 0..200_u32 {
                    let entry = format!("{thread}-{i}");
                    let (owner, mask) = (ids(thread * 1000 + i, thread), 0o1 << thread);
                    let what = NewKind::Regular(Some(libc::O_WRONLY));
                    let made = create(host, top, &entry, &new(what, owner, 0o777, mask));
                    made.file.unwrap().write(Place::At(0), b"x", PLAIN).unwrap();
                    let expected = (owner.uid.raw(), thread, u32::from(0o777 & !mask));
                    assert_eq!(on_disk(&fixture.at(&entry)), expected);
                }
            });
        }
    });
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    // Before this thread has given up the capability that keeps the bit.
    fs::create_dir(fixture.at("team")).unwrap();
    std::os::unix::fs::chown(fixture.at("team"), Some(1), Some(500)).unwrap();
    fs::set_permissions(fixture.at("team"), fs::Permissions::from_mode(0o2777)).unwrap();
    let own = create(&host, &root(&host), "own", &new(NewKind::Directory, ids(1, 500), 0o777, 0));
    assert_eq!(own.found.attr.mode.bits(), 0o777);
    let (dir, _) = walk(&host, "team");
    create(&host, &dir, "f", &new(NewKind::Regular(None), ids(7, 8), 0o2775, 0o002));
    create(&host, &dir, "d", &new(NewKind::Directory, ids(7, 8), 0o755, 0));
    assert_eq!(on_disk(&fixture.at("team/f")), (7, 500, 0o2775));
    assert_eq!(on_disk(&fixture.at("team/d")), (7, 500, 0o2755));
}

#[test]
fn a_default_acl_decides_instead_of_the_umask() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    if !host.facts().acl {
        return eprintln!("SKIP: no ACLs here");
    }
    let top = root(&host);
    create(&host, &top, "d", &new(NewKind::Directory, ids(7, 8), 0o755, 0));
    let (dir, _) = walk(&host, "d");
    let value = acl_value(&[(1, 7, 0), (2, 7, 4_000_000_000), (4, 5, 0), (16, 7, 0), (32, 5, 0)]);
    let default = Acl::<Disk>::decode(&value).unwrap().unwrap();
    host.set_acl(&dir, AclKind::Default, Some(&default), PLAIN).unwrap();
    assert_eq!(host.acl(&dir, AclKind::Default).unwrap(), Some(default));
    create(&host, &dir, "f", &new(NewKind::Regular(None), ids(7, 8), 0o664, 0o077));
    assert_eq!(on_disk(&fixture.at("d/f")), (7, 8, 0o664));
    let (file, _) = walk(&host, "d/f");
    let access = host.acl(&file, AclKind::Access).unwrap().unwrap();
    assert_eq!(access.encode()[4 + 8..][..8], value[4 + 8..][..8], "the named user is inherited");
    host.set_acl(&dir, AclKind::Default, None, PLAIN).unwrap();
    host.set_acl(&dir, AclKind::Default, None, PLAIN).unwrap();
    assert_eq!(host.acl(&dir, AclKind::Default), Ok(None));
    create(&host, &dir, "g", &new(NewKind::Regular(None), ids(7, 8), 0o664, 0o077));
    assert_eq!(on_disk(&fixture.at("d/g")).2, 0o600);
}

/// Encodes an ACL of tags, permissions and ids.
fn acl_value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        let id = if matches!(tag, 2 | 8) { *id } else { u32::MAX };
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn without_descriptors_nothing_is_half_made() {
    if !is_root() {
        return;
    }
    // The limit is the whole process's, so it takes a process of its own.
    let Some(path) = child::path() else {
        let fixture = Fixture::plain();
        let test = "create::without_descriptors_nothing_is_half_made";
        child::run(test, &fixture.path(), |_| {});
        let entries = fs::read_dir(fixture.path()).unwrap();
        let mut names: Vec<OsString> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dir", "file"]);
        return;
    };
    let host = Host::open(&path, &HostOptions::default()).unwrap();
    let top = root(&host);
    setrlimit(Resource::RLIMIT_NOFILE, 0, 100).unwrap();
    let open = new(NewKind::Regular(Some(libc::O_RDWR)), ids(7, 8), 0o600, 0);
    assert!(host.create(&top, name("open"), &open).unwrap_err().is(libc::EMFILE));
    for (entry, what) in [("file", NewKind::Regular(None)), ("dir", NewKind::Directory)] {
        host.create(&top, name(entry), &new(what, ids(7, 8), 0o600, 0)).unwrap();
    }
}

#[test]
fn names_move() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    let top = root(&host);
    for entry in ["a", "b"] {
        create(&host, &top, entry, &new(NewKind::Regular(None), ids(7, 8), 0o600, 0));
    }
    let key = |entry| host.lookup(&top, name(entry)).unwrap().key;
    let (a, b) = (key("a"), key("b"));
    let rename = |from, to, flags, owner| {
        host.rename((&top, name(from)), (&top, name(to)), flags, owner, PLAIN)
    };
    let none = RenameFlags::default();
    let no_replace = RenameFlags { no_replace: true, ..none };
    assert!(rename("a", "b", no_replace, None).unwrap_err().is(libc::EEXIST));
    rename("a", "b", RenameFlags { exchange: true, ..none }, None).unwrap();
    assert_eq!((key("a"), key("b")), (b.clone(), a));
    let whiteout = RenameFlags { whiteout: true, ..none };
    match rename("a", "c", whiteout, Some(ids(70, 80))) {
        Err(error) if error.is(libc::EINVAL) => eprintln!("SKIP: no whiteouts here"),
        done => {
            done.unwrap();
            assert_eq!(on_disk(&fixture.at("a")), (70, 80, 0));
            assert_eq!(key("c"), b);
        }
    }
}
