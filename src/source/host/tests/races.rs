//! The host changes names while they are used: nothing outside is reached.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags as HostRename, renameat2};

use super::*;
use crate::source::{Change, XattrSet};

/// Swaps a directory and a link to a directory outside, over and over, while
/// everything is tried on names in it.
#[test]
fn a_link_in_place_of_a_directory_leads_nowhere() {
    let fixture = Fixture::plain();
    let secret = fixture.dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("f"), "secret").unwrap();
    fs::create_dir(fixture.at("d")).unwrap();
    fs::write(fixture.at("d/f"), "public").unwrap();
    symlink(&secret, fixture.at("link")).unwrap();
    let (d, link, other) = (fixture.at("d"), fixture.at("link"), fixture.at("other"));
    let host = fixture.host();
    let done = AtomicBool::new(false);
    let reached = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (from, to) in [(&d, &other), (&link, &d), (&d, &link), (&other, &d)] {
                    fs::rename(from, to).unwrap();
                }
            }
        });
        let trying = scope.spawn(|| {
            let (start, mut reached) = (Instant::now(), 0);
            for tried in 0.. {
                reached += u32::from(attempt(&host));
                let enough = tried > 2000 && reached > 20;
                if enough || start.elapsed() > Duration::from_secs(20) {
                    break;
                }
            }
            reached
        });
        let reached = trying.join();
        done.store(true, Ordering::Relaxed);
        reached.unwrap()
    });
    assert!(reached > 0, "the directory itself was never reached");
    assert_eq!(fs::read_to_string(secret.join("f")).unwrap(), "secret");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
}

/// Tries everything below `d`; returns whether it got there.
fn attempt(host: &Host) -> bool {
    let top = root(host);
    let Ok(found) = host.lookup(&top, name("d")) else { return false };
    let Ok(dir) = host.open_by_name(&top, name("d"), &found.key) else { return false };
    let owner = found.attr.owner;
    if let (Some(uid), Some(gid)) = (owner.uid, owner.gid) {
        let made = new(NewKind::Directory, Ids { uid, gid }, 0o700, 0);
        if host.create(&dir, name("made"), &made).is_ok() {
            host.rmdir(&dir, name("made")).unwrap();
        }
    }
    let Ok(file) = host.lookup(&dir, name("f")) else { return false };
    let Ok(node) = host.open_by_name(&dir, name("f"), &file.key) else { return false };
    let mut buf = [0; 6];
    let open = host.open(&node, libc::O_RDWR).unwrap();
    assert_eq!(open.read(0, &mut buf), Ok(6));
    assert_eq!(&buf, b"public");
    open.write(Place::At(0), b"public", PLAIN).unwrap();
    let mode = Change { mode: Some(Mode::new(0o640)), ..Change::default() };
    host.setattr(&node, None, &mode, PLAIN).unwrap();
    let _ = host.set_xattr(&node, OsStr::new("user.seen"), Some(b"1"), XattrSet::Any, PLAIN);
    true
}

/// What is told of a name is told of one file, though another one takes its
/// place all the time.
#[test]
fn a_name_that_is_swapped_leads_to_one_file_at_a_time() {
    if !is_root() {
        return;
    }
    let (tmpfs, ext4) = (Fixture::tmpfs(), Fixture::ext4());
    for fixture in [Some(tmpfs), ext4].into_iter().flatten() {
        fs::write(fixture.at("a"), "a").unwrap();
        fs::create_dir(fixture.at("b")).unwrap();
        let host = fixture.host();
        let real = ["a", "b"].map(|path| {
            let found = walk(&host, path).1;
            (found.key, found.attr.kind)
        });
        let (a, b, done) = (fixture.at("a"), fixture.at("b"), AtomicBool::new(false));
        let seen: Vec<_> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &a, AT_FDCWD, &b, HostRename::RENAME_EXCHANGE).unwrap();
                }
            });
            let looked = (0..20_000).map(|_| host.lookup(&root(&host), name("a")).unwrap());
            let seen = looked.map(|found| (found.key, found.attr.kind)).collect();
            done.store(true, Ordering::Relaxed);
            seen
        });
        for file in &real {
            assert!(seen.contains(file), "{file:?} was never there");
        }
        let torn = seen.iter().filter(|found| !real.contains(found)).count();
        assert_eq!(torn, 0, "of {} lookups", seen.len());
    }
}
