//! Files that are found by their inode number alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::Error;
use crate::source::host::Submounts;

/// What every file system here has below its root.
const FILES: [&str; 6] = ["d", "d/e", "d/e/f", "d/l", "d/n", "g"];

fn fill(fixture: &Fixture) {
    fs::create_dir_all(fixture.at("d/e")).unwrap();
    fs::write(fixture.at("d/e/f"), "x").unwrap();
    fs::write(fixture.at("g"), "x").unwrap();
    symlink("f", fixture.at("d/l")).unwrap();
    let fifo = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&fixture.at("d/n"), fifo).unwrap();
}

/// Returns the file system without what the kernel remembers of its files.
fn forgotten(fixture: &Fixture) {
    outside(|| {
        unmount(&fixture.path());
        let image = fixture.dir.path().join("image");
        let mut mount = Command::new("mount");
        assert!(
            mount.args(["-o", "loop"]).arg(image).arg(fixture.path()).status().unwrap().success()
        );
    });
}

fn is_stale(host: &Host, (volume, ino): (u64, u64)) -> bool {
    host.by_number(volume, ino).is_err_and(|error| error == Error::Stale)
}

#[test]
fn all_files_of_a_whole_file_system_are_found() {
    if !is_root() {
        return;
    }
    for (make, size) in [
        (&["mkfs.ext4", "-q"][..], 64),
        (&["mkfs.xfs", "-q"], 400),
        (&["mkfs.xfs", "-q", "-i", "maxpct=1"], 400),
        (&["mkfs.btrfs", "-q"], 200),
    ] {
        let Some(fixture) = Fixture::image(make, size) else { return };
        fill(&fixture);
        let before = {
            let host = fixture.host();
            FILES.map(|path| walk(&host, path).1)
        };
        forgotten(&fixture);
        let host = fixture.host();
        for (path, before) in FILES.iter().zip(&before) {
            let (node, found) = host.by_number(0, before.key.ino).unwrap();
            assert_eq!((&found.key, found.attr), (&before.key, before.attr), "{make:?} {path}");
            assert_eq!(host.getattr(&node), Ok(before.attr));
            let handle = found.handle.unwrap();
            host.open_by_key(&found.key, &handle, found.attr.kind).unwrap();
        }
        let above = ["d/e", "d"].map(|path| {
            let (_, found) = host.parent(&walk(&host, path).0).unwrap();
            found.key.ino
        });
        assert_eq!(above, [before[0].key.ino, host.root().unwrap().1.key.ino], "{make:?}");
        outside(|| fs::remove_file(fixture.at("g"))).unwrap();
        let gone = before[5].key.ino;
        assert!(is_stale(&host, (0, gone)), "{make:?}");
        for none in [0, 1, 1 << 20, 1 << 40, u64::MAX] {
            assert!(is_stale(&host, (0, none)), "{make:?} {none}");
        }
        assert!(is_stale(&host, (5, before[0].key.ino)), "of another volume");
    }
}

/// Where not all of a file system is shown, the number of what is outside leads nowhere.
#[test]
fn nothing_is_found_outside_of_the_source() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    fs::create_dir(fixture.at("source")).unwrap();
    fs::create_dir_all(fixture.at("source/in/side")).unwrap();
    fs::write(fixture.at("source/in/file"), "").unwrap();
    fill(&fixture);
    let number = |path: &str| fs::symlink_metadata(fixture.at(path)).unwrap().ino();
    let inside = ["source/in", "source/in/side", "source/in/file"].map(number);
    let outside_it = [".", "d", "d/e", "d/e/f", "d/l", "d/n", "g"].map(number);
    forgotten(&fixture);
    let host = Host::open(&fixture.at("source"), &HostOptions::default()).unwrap();
    for ino in outside_it {
        assert!(is_stale(&host, (0, ino)), "{ino}");
    }
    // Of a file nothing but its names says where it is.
    assert_eq!(inside.map(|ino| is_stale(&host, (0, ino))), [false, false, true]);
    let _known = fs::File::open(fixture.at("source/in/file")).unwrap();
    assert!(!is_stale(&host, (0, inside[2])), "the kernel knows its name");
    // The root has nothing above it, and neither has what has left the source.
    let parent = |host: &Host, node: &Node| host.parent(node).map(|(_, found)| found.key.ino);
    let side = walk(&host, "in/side").0;
    assert_eq!(parent(&host, &side), Ok(inside[0]));
    assert_eq!(parent(&host, &root(&host)), Ok(host.root().unwrap().1.key.ino));
    outside(|| fs::rename(fixture.at("source/in/side"), fixture.at("d/side"))).unwrap();
    assert!(parent(&host, &side).is_err());
    assert!(is_stale(&host, (0, inside[1])));
}

#[test]
fn what_a_mount_covers_is_not_found() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    fill(&fixture);
    let number = |path: &str| fs::symlink_metadata(fixture.at(path)).unwrap().ino();
    let (covered, file) = (["d", "d/e"].map(number), number("d/e/f"));
    tmpfs_at(&fixture.at("d"));
    fs::create_dir(fixture.at("d/new")).unwrap();
    for submounts in [Submounts::Follow, Submounts::Hide] {
        let options = HostOptions { submounts, ..HostOptions::default() };
        let host = Host::open(&fixture.path(), &options).unwrap();
        for ino in covered {
            assert!(is_stale(&host, (0, ino)), "{submounts:?}");
        }
        // All of the file system is shown, and where a file is nobody knows.
        assert!(!is_stale(&host, (0, file)), "{submounts:?}");
        if submounts == Submounts::Follow {
            let (mount, found) = walk(&host, "d");
            // A number of tmpfs does not open anything.
            assert!(is_stale(&host, (found.key.volume, found.key.ino)));
            let (new, _) = walk(&host, "d/new");
            assert_eq!(host.parent(&new).unwrap().1.key, found.key);
            assert_eq!(host.parent(&mount).unwrap().1.key, host.root().unwrap().1.key);
        }
    }
}

#[test]
fn subvolumes_are_searched_apart() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::image(&["mkfs.btrfs", "-q"], 128) else { return };
    ["a", "b"].iter().for_each(|name| subvolume(&fixture, name));
    forgotten(&fixture);
    let host = fixture.host();
    let [a, b] = ["a/f", "b/f"].map(|path| walk(&host, path).1.key);
    assert_eq!(a.ino, b.ino);
    for key in [a, b] {
        assert_eq!(host.by_number(key.volume, key.ino).unwrap().1.key, key);
        assert!(is_stale(&host, (0, key.ino)) || host.by_number(0, key.ino).unwrap().1.key != key);
    }
}

/// What is mounted below the source, and what is moved out of it with all its files.
#[test]
fn a_volume_that_has_left_the_source_is_not_searched() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::image(&["mkfs.btrfs", "-q"], 128) else { return };
    fs::create_dir(fixture.at("source")).unwrap();
    subvolume(&fixture, "source/sub");
    let host = Host::open(&fixture.at("source"), &HostOptions::default()).unwrap();
    let key = walk(&host, "sub/f").1.key;
    assert_eq!(host.by_number(key.volume, key.ino).unwrap().1.key, key);
    outside(|| fs::rename(fixture.at("source/sub"), fixture.at("sub"))).unwrap();
    assert!(is_stale(&host, (key.volume, key.ino)));
    outside(|| fs::rename(fixture.at("sub"), fixture.at("source/again"))).unwrap();
    assert!(!is_stale(&host, (key.volume, key.ino)));
}

/// A directory that is below another which others move all the time.
#[test]
fn what_stays_in_the_source_is_found_while_it_is_moved() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    fs::create_dir_all(fixture.at("source/one/in/side")).unwrap();
    let ino = fs::metadata(fixture.at("source/one/in/side")).unwrap().ino();
    let host = Host::open(&fixture.at("source"), &HostOptions::default()).unwrap();
    let done = AtomicBool::new(false);
    let [one, other] = ["source/one", "source/other"].map(|path| fixture.at(path));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
        });
        let lost = (0..5_000).filter(|_| is_stale(&host, (0, ino))).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
}

/// What servers keep in the root of a source whose owners are beside the files.
#[test]
fn files_of_the_servers_are_not_found() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let options = HostOptions { staging: true, ..HostOptions::default() };
    let host = Host::open(&fixture.path(), &options).unwrap();
    fs::create_dir_all(fixture.at("d/.idmapfs/in")).unwrap();
    fs::write(fixture.at("d/.idmapfs/in/f"), "").unwrap();
    fs::write(fixture.at("f"), "").unwrap();
    let number = |path: &str| fs::symlink_metadata(fixture.at(path)).unwrap().ino();
    let seen = ["f", "d", "d/.idmapfs", "d/.idmapfs/in", "d/.idmapfs/in/f"].map(number);
    let stage = host.stage().unwrap();
    let staged = fixture.path().join(stage.path()).join("0");
    fs::write(&staged, "").unwrap();
    fs::write(fixture.at(".idmapfs/lock"), "").unwrap();
    let hidden = [".idmapfs", ".idmapfs/lock"].map(number);
    let hidden = [hidden[0], hidden[1], fs::metadata(&staged).unwrap().ino()];
    for ino in hidden {
        assert!(is_stale(&host, (0, ino)), "{ino}");
    }
    for ino in seen {
        assert!(!is_stale(&host, (0, ino)), "{ino}");
    }
    fs::rename(&staged, fixture.at("out")).unwrap();
    assert!(!is_stale(&host, (0, hidden[2])));
    let open = fs::File::open(fixture.at("out")).unwrap();
    fs::remove_file(fixture.at("out")).unwrap();
    assert!(is_stale(&host, (0, open.metadata().unwrap().ino())));
}
