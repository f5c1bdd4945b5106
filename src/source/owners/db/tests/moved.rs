//! Files and sources of the host that are moved, removed, mounted elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use super::*;
use crate::attr::Name;
use crate::source::host::{Host, HostOptions};
use crate::source::walk::Walk;

fn host(path: &Path) -> Host {
    Host::open(path, &HostOptions::default()).unwrap()
}

fn reach(host: &Host, name: &str) -> (Node, Key) {
    let (root, _) = host.root().unwrap();
    let (node, found) = host.reach(&root, Name::new(OsStr::new(name)).unwrap()).unwrap();
    (node, found.key)
}

#[test]
fn a_record_stays_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (source, outside) = (dir.path().join("source"), dir.path().join("outside"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "").unwrap();
    let below = host(&source);
    let db = Db::open(&dir.path().join("state"), &source, &below).unwrap();
    let (node, key) = reach(&below, "file");
    db.put(&below, &node, &key, &plain_record(5)).unwrap();
    for (from, to) in [
        (source.join("file"), source.join("sub/other")),
        (source.join("sub/other"), outside.clone()),
        (outside, source.join("file")),
    ] {
        fs::rename(from, to).unwrap();
    }
    let again = host(&source);
    let (node, now) = reach(&again, "file");
    assert_eq!(now, key);
    assert_eq!(db.get(&again, &node, &now).unwrap(), Some(plain_record(5)));
    // A file that is gone takes its record along, whatever number the next one has.
    for _ in 0..200 {
        fs::remove_file(source.join("file")).unwrap();
        fs::write(source.join("file"), "").unwrap();
        let (node, now) = reach(&again, "file");
        assert_eq!(db.get(&again, &node, &now).unwrap(), None);
    }
}

#[test]
fn a_source_is_the_same_one_by_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let (source, renamed) = (dir.path().join("source"), dir.path().join("renamed"));
    fs::create_dir(&source).unwrap();
    let state = dir.path().join("state");
    let open = |path: &Path| Db::open(&state, path, &host(path)).unwrap().file().to_owned();
    let first = open(&source);
    fs::rename(&source, &renamed).unwrap();
    assert_eq!(open(&renamed), first);
    std::os::unix::fs::symlink(&renamed, &source).unwrap();
    assert_eq!(open(&source), first);
    fs::remove_file(&source).unwrap();
    fs::create_dir(&source).unwrap();
    assert_ne!(open(&source), first);
}

#[test]
fn a_file_system_on_another_device_is_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = |command: &str, args: &[&OsStr]| {
        let out = Command::new(command).args(args).output();
        out.is_ok_and(|out| out.status.success())
    };
    for (make, size) in [("mkfs.ext4", 16_u64), ("mkfs.xfs", 320), ("mkfs.btrfs", 128)] {
        let (image, point) = (dir.path().join("image"), dir.path().join("point"));
        fs::create_dir_all(&point).unwrap();
        let (image, point) = (image.as_os_str(), point.as_os_str());
        fs::File::create(image).unwrap().set_len(size << 20).unwrap();
        if !run(make, &["-q".as_ref(), image]) {
            eprintln!("SKIP: {make}");
            continue;
        }
        let mut seen = Vec::new();
        // A loop device that is in the way gives the image another one.
        for option in ["loop", "loop,ro"] {
            if !run("mount", &["-o".as_ref(), option.as_ref(), image, point]) {
                eprintln!("SKIP: {make}: mount");
                break;
            }
            let path = Path::new(point);
            let device = path.metadata().unwrap().dev();
            let file = Db::open(&dir.path().join("state"), path, &host(path))
                .map(|db| db.file().to_owned());
            assert!(run("umount", &[point]));
            seen.push((device, file.unwrap()));
            // Keeps the device that was used.
            let other = dir.path().join(format!("{make}{}", seen.len()));
            fs::copy(image, &other).unwrap();
            let _held = run("losetup", &["-f".as_ref(), other.as_os_str()]);
        }
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let out = Command::new("losetup").arg("-j").arg(&path).output();
            let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
            for line in text.unwrap_or_default().lines() {
                let device = line.split(':').next().unwrap_or_default();
                let _freed = run("losetup", &["-d".as_ref(), device.as_ref()]);
            }
        }
        if let [(one, first), (other, second)] = &seen[..] {
            eprintln!("{make}: devices {one} and {other}: {}", first.display());
            assert_eq!(first.file_name(), second.file_name(), "{make}");
        }
    }
}

#[test]
fn a_database_below_its_source_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let below = host(dir.path());
    let state = dir.path().join("home/state");
    let db = Db::open(&state, dir.path(), &below).unwrap();
    let hidden = db.hides().unwrap();
    let shown: Vec<PathBuf> = Walk::new(&below)
        .unwrap()
        .map(std::result::Result::unwrap)
        .filter(|step| (step.found.key.volume, step.found.key.ino) == hidden)
        .map(|step| step.path)
        .collect();
    assert_eq!(shown, [Path::new("home/state")]);
}

#[test]
fn what_is_not_found_for_a_week_is_removed() {
    const DAY: i64 = 86_400;
    let dir = tempfile::tempdir().unwrap();
    let (source, outside) = (dir.path().join("source"), dir.path().join("outside"));
    fs::create_dir(&source).unwrap();
    for name in ["stays", "leaves", "goes"] {
        fs::write(source.join(name), "").unwrap();
    }
    let below = host(&source);
    let db = Db::open(&dir.path().join("state"), &source, &below).unwrap();
    assert_eq!(db.sweep_at(&below, DAY).unwrap(), None, "nothing to look for");
    let keys = ["stays", "leaves", "goes"].map(|name| {
        let (node, key) = reach(&below, name);
        db.put(&below, &node, &key, &plain_record(1)).unwrap();
        db.set_attribute(&below, &node, &key, OsStr::new("security.x"), Some(b"1")).unwrap();
        key
    });
    fs::remove_file(source.join("goes")).unwrap();
    fs::rename(source.join("leaves"), &outside).unwrap();
    let swept = |day: i64| db.sweep_at(&below, day * DAY).unwrap();
    let told = |marked, removed| Some(Swept { marked, removed });
    assert_eq!(swept(10), told(2, 0));
    assert_eq!(swept(10), None, "once a day");
    fs::rename(&outside, source.join("back")).unwrap();
    assert_eq!(swept(12), told(1, 0));
    assert_eq!(swept(16), told(1, 0));
    assert_eq!(swept(17), told(0, 1));
    let (root, _) = below.root().unwrap();
    let left = keys.map(|key| {
        let record = db.get(&below, &root, &key).unwrap();
        let attributes = db.attributes(&below, &root, &key).unwrap();
        assert_eq!(record.is_some(), !attributes.is_empty());
        record.is_some()
    });
    assert_eq!(left, [true, true, false]);
    assert_eq!(db.count().unwrap(), 2);
}

/// Two subvolumes have the same numbers, on one mount.
#[test]
fn a_record_stays_with_a_volume_that_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |command: &str, args: &[&OsStr]| {
        let out = Command::new(command).args(args).output();
        out.is_ok_and(|out| out.status.success())
    };
    let (image, point) = (dir.path().join("image"), dir.path().join("point"));
    fs::create_dir(&point).unwrap();
    fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    let (image, at) = (image.as_os_str(), point.as_os_str());
    if !run("mkfs.btrfs", &["-q".as_ref(), image])
        || !run("mount", &["-o".as_ref(), "loop".as_ref(), image, at])
    {
        eprintln!("SKIP: btrfs");
        return;
    }
    let done = std::panic::catch_unwind(|| {
        for name in ["a", "b"] {
            let path = point.join(name);
            assert!(run("btrfs", &["subvolume".as_ref(), "create".as_ref(), path.as_os_str()]));
            fs::write(path.join("file"), "").unwrap();
        }
        let find = |below: &Host, dir: &str| {
            let (dir, _) = reach(below, dir);
            let (node, found) = below.reach(&dir, Name::new(OsStr::new("file")).unwrap()).unwrap();
            (node, found.key)
        };
        let below = host(&point);
        let db = Db::open(&dir.path().join("state"), &point, &below).unwrap();
        for (name, id) in [("a", 1), ("b", 2)] {
            let (node, key) = find(&below, name);
            db.put(&below, &node, &key, &plain_record(id)).unwrap();
        }
        for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
            fs::rename(point.join(from), point.join(to)).unwrap();
        }
        drop(below);
        let again = host(&point);
        for (name, id) in [("b", 1), ("a", 2)] {
            let (node, key) = find(&again, name);
            assert_eq!(db.get(&again, &node, &key).unwrap(), Some(plain_record(id)));
        }
    });
    assert!(run("umount", &["-l".as_ref(), at]));
    done.unwrap();
}

#[test]
fn a_check_finds_what_is_gone_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    let below = host(&source);
    let db = Db::open(&dir.path().join("state"), &source, &below).unwrap();
    let (node, there) = reach(&below, "file");
    db.put(&below, &node, &there, &plain_record(1)).unwrap();
    let gone = Key { ino: there.ino + 1000, ..there };
    db.put(&below, &node, &gone, &plain_record(1)).unwrap();
    let elsewhere = Key { volume: 77, ..gone };
    db.put(&below, &node, &elsewhere, &plain_record(1)).unwrap();
    let seen = db.seen().unwrap();
    seen.add(&db, &below, &there).unwrap();
    let mut orphans = Vec::new();
    seen.orphans(&db, &mut |ino| orphans.push(ino)).unwrap();
    assert_eq!(orphans, [gone.ino]);
    // Of what is not mounted today nobody knows.
    assert_eq!(seen.remove_orphans(&db).unwrap(), 1);
    drop(seen);
    assert_eq!(db.get(&below, &node, &elsewhere).unwrap(), Some(plain_record(1)));
    assert_eq!(db.count().unwrap(), 2);
    db.compact().unwrap();
}
