//! Mounts below the source.

use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;

use super::*;
use crate::attr::FileKind;
use crate::error::Error;
use crate::id::Owner;
use crate::source::Change;
use crate::source::host::{HostOptions, Submounts};

/// A tmpfs with a tmpfs on `m` that hides `m/covered`, and one file each.
fn nested() -> Fixture {
    let fixture = Fixture::tmpfs();
    fs::create_dir(fixture.at("m")).unwrap();
    fs::write(fixture.at("m/covered"), "").unwrap();
    fs::write(fixture.at("top"), "").unwrap();
    tmpfs_at(&fixture.at("m"));
    fs::write(fixture.at("m/inner"), "").unwrap();
    fixture
}

fn open(fixture: &Fixture, submounts: Submounts) -> Host {
    Host::open(&fixture.path(), &HostOptions { submounts, ..HostOptions::default() }).unwrap()
}

fn names(host: &Host, node: &Node) -> Vec<OsString> {
    let mut names = Vec::new();
    let dir = host.opendir(node).unwrap();
    dir.read(0, &mut |entry| {
        names.push(entry.name.to_os_string());
        ControlFlow::Continue(())
    })
    .unwrap();
    names.sort();
    names
}

#[test]
fn followed_mounts_are_volumes_that_keep_their_tag() {
    if !is_root() {
        return;
    }
    let fixture = nested();
    let host = open(&fixture, Submounts::Follow);
    assert_eq!(host.submounts(), Submounts::Follow);
    let (mount, found) = walk(&host, "m");
    assert_ne!(found.key.volume, 0);
    assert_eq!(walk(&host, "top").1.key.volume, 0);
    let inner = walk(&host, "m/inner").1.key;
    assert_eq!(inner.volume, found.key.volume);
    assert_eq!(names(&host, &mount), [".", "..", "inner"]);
    assert!(host.lookup(&mount, name("covered")).unwrap_err().is(libc::ENOENT));
    assert!(host.rmdir(&root(&host), name("m")).unwrap_err().is(libc::EBUSY));
    let again = open(&fixture, Submounts::Follow);
    assert_eq!(walk(&again, "m/inner").1.key, inner);
}

#[test]
fn what_is_mounted_later_does_not_show() {
    if !is_root() {
        return;
    }
    let fixture = nested();
    let host = open(&fixture, Submounts::Follow);
    let before = walk(&host, "m").1.key;
    outside(|| {
        tmpfs_at(&fixture.at("m"));
        fs::write(fixture.at("m/later"), "").unwrap();
        tmpfs_at(&fixture.path());
    });
    let (mount, found) = walk(&host, "m");
    assert_eq!(found.key, before);
    assert_eq!(names(&host, &mount), [".", "..", "inner"]);
    outside(|| unmount(&fixture.path()));
    outside(|| unmount(&fixture.at("m")));
    outside(|| unmount(&fixture.at("m")));
    assert_eq!(names(&host, &mount), [".", "..", "inner"]);
}

#[test]
fn hidden_mounts_are_empty_and_read_only() {
    if !is_root() {
        return;
    }
    let fixture = nested();
    let host = open(&fixture, Submounts::Hide);
    let (mount, found) = walk(&host, "m");
    let attr = found.attr;
    assert_eq!((attr.kind, attr.mode.bits()), (FileKind::Directory, 0o555));
    assert_eq!(attr.owner, Owner { uid: None, gid: None });
    assert_ne!(found.key.volume, 0);
    assert_eq!(host.getattr(&mount), Ok(attr));
    assert_eq!(names(&host, &mount), [".", ".."]);
    for entry in ["inner", "covered"] {
        assert!(host.lookup(&mount, name(entry)).unwrap_err().is(libc::ENOENT));
        assert!(host.unlink(&mount, name(entry)).unwrap_err().is(libc::ENOENT));
    }
    let made = new(NewKind::Directory, ids(0, 0), 0o755, 0);
    assert!(host.create(&mount, name("x"), &made).unwrap_err().is(libc::EROFS));
    let change = host.setattr(&mount, None, &Change::default(), PLAIN);
    assert!(change.unwrap_err().is(libc::EROFS));
    assert!(host.rmdir(&root(&host), name("m")).unwrap_err().is(libc::EBUSY));
    let (top, _) = walk(&host, "top");
    assert!(host.link(&top, &mount, name("x"), PLAIN).unwrap_err().is(libc::EROFS));
    let again = open(&fixture, Submounts::Hide);
    assert_eq!(walk(&again, "m").1.key, found.key);
}

#[test]
fn what_an_unbindable_mount_covers_stays_covered() {
    if !is_root() {
        return;
    }
    let fixture = nested();
    let none = None::<&str>;
    mount(none, &fixture.at("m"), none, MsFlags::MS_UNBINDABLE, none).unwrap();
    let host = open(&fixture, Submounts::Follow);
    assert_eq!(host.submounts(), Submounts::Hide);
    assert_eq!(names(&host, &walk(&host, "m").0), [".", ".."]);
}

#[test]
fn subvolumes_are_volumes_that_keep_their_tag() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::image(&["mkfs.btrfs", "-q"], 128) else { return };
    ["a", "b"].iter().for_each(|name| subvolume(&fixture, name));
    let keys = |submounts, order: [&str; 2]| {
        let host = open(&fixture, submounts);
        let mut keys = order.map(|entry| (entry.to_owned(), walk(&host, &format!("{entry}/f"))));
        keys.sort_by(|one, other| one.0.cmp(&other.0));
        keys.map(|(_, (_, found))| {
            let handle = found.handle.as_ref().unwrap();
            let node = host.open_by_key(&found.key, handle, found.attr.kind).unwrap();
            assert_eq!(host.getattr(&node).unwrap(), found.attr);
            found.key
        })
    };
    let first = keys(Submounts::Follow, ["a", "b"]);
    assert_eq!(first[0].ino, first[1].ino);
    assert_ne!(first[0].volume, first[1].volume);
    assert!(first.iter().all(|key| key.volume != 0));
    assert_eq!(keys(Submounts::Follow, ["b", "a"]), first);
    assert_eq!(keys(Submounts::Hide, ["b", "a"]), first);
}

#[test]
fn copying_up_does_not_change_who_a_file_is() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    for entry in ["lower", "upper", "work", "top"] {
        fs::create_dir(fixture.at(entry)).unwrap();
    }
    fs::write(fixture.at("lower/f"), "x").unwrap();
    let part = |entry| fixture.at(entry).display().to_string();
    let (lower, upper, work) = (part("lower"), part("upper"), part("work"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let top = fixture.at("top");
    let overlay = Some("overlay");
    if mount(overlay, &top, overlay, MsFlags::empty(), Some(options.as_str())).is_err() {
        return eprintln!("SKIP: needs an overlay file system");
    }
    let host = Host::open(&top, &HostOptions::default()).unwrap();
    let (node, before) = walk(&host, "f");
    host.open(&node, libc::O_RDWR).unwrap().write(Place::At(0), b"y", PLAIN).unwrap();
    assert!(fixture.at("upper/f").exists());
    assert_eq!(walk(&host, "f").1.key, before.key);
    let made = create(&host, &root(&host), "g", &new(NewKind::Regular(None), ids(7, 8), 0o600, 0));
    assert_eq!(made.found.attr.owner, ids(7, 8).into());
    assert_eq!(on_disk(&fixture.at("upper/g")), (7, 8, 0o600));
}

#[test]
fn a_file_that_is_mounted_over_is_denied_where_mounts_are_hidden() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    for entry in ["a", "b"] {
        fs::write(fixture.at(entry), entry).unwrap();
    }
    let none = None::<&str>;
    mount(Some(&fixture.at("a")), &fixture.at("b"), none, MsFlags::MS_BIND, none).unwrap();
    let host = open(&fixture, Submounts::Hide);
    assert_eq!(host.lookup(&root(&host), name("b")).unwrap_err(), Error::Denied);
    let host = open(&fixture, Submounts::Follow);
    assert_eq!(walk(&host, "b").1.attr.ino, walk(&host, "a").1.attr.ino);
}
