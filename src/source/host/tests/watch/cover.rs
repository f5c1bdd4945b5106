//! What can be watched, and what cannot.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::*;

fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
fn mounts_below_are_watched_from_the_moment_they_are_met() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    fs::create_dir(fixture.at("m")).unwrap();
    tmpfs_at(&fixture.at("m"));
    fs::write(fixture.at("m/f"), "").unwrap();
    let ear = Ear::new(fixture.path());
    let m = ear.host.lookup(&root(&ear.host), name("m")).unwrap().key;
    assert_ne!(m.volume, 0);
    assert_eq!(ear.watch.covers(m.volume), Covers::Everything);
    assert_eq!(ear.watch.unwatched(m.volume), None);
    let heard = ear.shell("chmod 600 m/f; : >m/g");
    let (f, g) = (ear.key("m/f"), ear.key("m/g"));
    assert!(heard.contains(&What::Attributes(f)), "{heard:?}");
    assert!(heard.contains(&named(&m, "g", &g)), "{heard:?}");
}

#[test]
fn what_is_shown_twice_is_heard_of_twice() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    for entry in ["d", "b"] {
        fs::create_dir(fixture.at(entry)).unwrap();
    }
    fs::write(fixture.at("d/f"), "").unwrap();
    fs::write(fixture.at("one"), "").unwrap();
    fs::write(fixture.at("other"), "").unwrap();
    bind(&fixture.at("d"), &fixture.at("b"));
    bind(&fixture.at("one"), &fixture.at("other"));
    let ear = Ear::new(fixture.path());
    for (one, other) in [("d/f", "b/f"), ("one", "other")] {
        let keys = [ear.key(one), ear.key(other)];
        assert_ne!(keys[0].volume, keys[1].volume);
        let heard = ear.shell(&format!("chmod 600 {one}"));
        assert!(keys.map(What::Attributes).iter().all(|what| heard.contains(what)), "{heard:?}");
    }
}

/// Subvolumes have ids of their own; it is the whole that is marked.
#[test]
fn subvolumes_are_heard_of_apart() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::image(&["mkfs.btrfs", "-q"], 128) else { return };
    for entry in ["a", "a/b", "c"] {
        let mut command = Command::new("btrfs");
        command.args(["subvolume", "create"]).arg(fixture.at(entry));
        assert!(command.output().unwrap().status.success());
        fs::write(fixture.at(&format!("{entry}/f")), "").unwrap();
    }
    let served = [("", vec!["a", "a/b", "c"]), ("a", vec!["", "b"])];
    for (top, parts) in served {
        let ear = Ear::new(fixture.at(top));
        let file = |part: &str| Path::new(part).join("f").display().to_string();
        let keys: Vec<_> = parts.iter().map(|part| ear.key(&file(part))).collect();
        for (part, key) in parts.iter().zip(&keys) {
            assert_eq!(ear.watch.covers(key.volume), Covers::Everything);
            let heard = ear.shell(&format!("chmod 600 {}", file(part)));
            assert_eq!(heard, [What::Attributes(key.clone())], "{part} of {top}");
        }
        assert!(keys.iter().all(|key| key.ino == keys[0].ino));
    }
}

#[test]
fn nothing_changes_in_an_image_that_cannot_be_written() {
    if !is_root() {
        return;
    }
    for make in ["mksquashfs FROM TO", "mkfs.erofs TO FROM"] {
        let fixture = Fixture::tmpfs();
        for entry in ["from", "top"] {
            fs::create_dir(fixture.at(entry)).unwrap();
        }
        fs::write(fixture.at("from/f"), "").unwrap();
        let make = make.replace("FROM", "from").replace("TO", "image");
        let script = format!("{make} >image.log 2>&1 && mount -o loop image top");
        let mut shell = Command::new("sh");
        if !shell.args(["-c", &script]).current_dir(fixture.path()).status().unwrap().success() {
            eprintln!("SKIP: {script}");
            continue;
        }
        let ear = Ear::new(fixture.at("top"));
        assert_eq!(ear.watch.covers(ear.key("f").volume), Covers::Everything);
        assert!(ear.shell("cat f; ! chmod 600 f 2>/dev/null").is_empty());
    }
}

#[test]
fn an_overlay_file_system_says_why_it_is_not_watched() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    for entry in ["lower", "upper", "work", "top"] {
        fs::create_dir(fixture.at(entry)).unwrap();
    }
    fs::write(fixture.at("lower/f"), "").unwrap();
    let part = |entry| fixture.at(entry).display().to_string();
    let (lower, upper, work) = (part("lower"), part("upper"), part("work"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let overlay = Some("overlay");
    if mount(overlay, &fixture.at("top"), overlay, MsFlags::empty(), Some(&*options)).is_err() {
        return eprintln!("SKIP: needs an overlay file system");
    }
    let host = Host::open(&fixture.at("top"), &HostOptions::default()).unwrap();
    assert!(host.watch().unwrap_err().0.contains("overlay"));
    let ear = Ear::new(fixture.path());
    let (top, found) = walk(&ear.host, "top");
    assert_eq!(ear.watch.covers(found.key.volume), Covers::Nothing);
    assert!(ear.watch.unwatched(found.key.volume).unwrap().0.contains("overlay"));
    assert_eq!(ear.watch.add(&top), None);
}

#[test]
fn what_is_served_over_fuse_says_why_it_is_not_watched() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let mut bindfs = Command::new("bindfs");
    if !bindfs.arg("/usr").arg(fixture.path()).status().is_ok_and(|status| status.success()) {
        return eprintln!("SKIP: needs bindfs");
    }
    let host = fixture.host();
    assert!(host.watch().unwrap_err().0.contains("FUSE"));
    umount2(&fixture.path(), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_source_is_watched_once() {
    if !is_root() {
        return;
    }
    let ear = Ear::new(Fixture::tmpfs().path());
    assert!(ear.host.watch().unwrap_err().0.contains("already"));
    assert_eq!(ear.watch.add(&root(&ear.host)), Some(ear.watch.era()));
    assert!(ear.watch.describe().contains("whole file system"));
}

#[test]
fn a_server_that_is_killed_leaves_nothing() {
    if let Some(path) = child::path() {
        let ear = Ear::new(path);
        fs::write(ear.path.join("ready"), "").unwrap();
        loop {
            sleep(Duration::from_secs(1));
        }
    }
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let mut server =
        child::start("watch::cover::a_server_that_is_killed_leaves_nothing", &fixture.path());
    while !fixture.at("ready").exists() {
        assert!(server.try_wait().unwrap().is_none(), "the server has ended");
        sleep(Duration::from_millis(5));
    }
    fs::write(fixture.at("f"), "").unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    fs::write(fixture.at("g"), "").unwrap();
    unmount(&fixture.path());
}
