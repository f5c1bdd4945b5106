//! Large directories, large trees, and directories that change meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::{Ours, finish};
use crate::support::rng::Rng;
use crate::support::{Sandbox, raw, sandbox, sh, str, text, try_sh_as, wait_for};

#[test]
fn a_hundred_thousand_entries_are_listed_once_each() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--map", "0:100000:1000"]);
        for n in 0..100_000 {
            fs::write(source.join(n.to_string()), "").unwrap();
        }
        let names: Vec<_> =
            fs::read_dir(&ours.point).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 100_000);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 100_000);
        let owners = sh(&format!("find {} -type f -uid 100000 | wc -l", str(&ours.point)));
        assert_eq!(owners.trim(), "100000");
    });
}

#[test]
fn what_is_read_before_it_is_asked_for_keeps_its_access_time() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        image.remount("strictatime");
        let dirs = ["a", "b", "c", "d"].map(|name| image.root.join(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("f"), "").unwrap();
        }
        let old = std::fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
        for dir in dirs.iter().chain([&image.root]) {
            File::open(dir).unwrap().set_times(old).unwrap();
        }
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--map", "0:0:1000"]);
        for name in ["a", "b"] {
            assert_eq!(fs::read_dir(ours.at(name)).unwrap().count(), 1);
        }
        if std::thread::available_parallelism().unwrap().get() > 1 {
            let tasks = format!("cat /proc/{}/task/*/comm", ours.server());
            wait_for("somebody who reads ahead", || sh(&tasks).lines().any(|name| name == "walk"));
        }
        std::thread::sleep(Duration::from_millis(300));
        let is_old = |dir: &Path| fs::metadata(dir).unwrap().atime() == 0;
        assert_eq!(dirs.each_ref().map(|dir| is_old(dir)), [false, false, true, true]);
        assert!(is_old(&image.root), "the directory that they are in");
    });
}

#[test]
fn deleting_while_reading_loses_nothing() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        for n in 0..3000 {
            fs::write(source.join(format!("some longer name {n}")), "").unwrap();
        }
        for entry in fs::read_dir(&ours.point).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(fs::read_dir(&ours.point).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
    });
}

#[test]
fn a_position_stays_good_while_entries_go() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let names: Vec<String> = (0..2000).map(|n| format!("entry-{n:05}")).collect();
        for name in &names {
            fs::write(source.join(name), "").unwrap();
        }
        let directory = raw::Directory::open(&ours.point).unwrap();
        let mut first = Vec::new();
        while first.len() < 700 {
            first.push(directory.next().unwrap());
        }
        let position = directory.tell();
        let rest: BTreeSet<String> = std::iter::from_fn(|| directory.next()).collect();
        // What was read before goes; what comes after the position must not move.
        for name in first.iter().filter(|name| name.starts_with("entry")) {
            fs::remove_file(ours.at(name)).unwrap();
        }
        directory.seek(position);
        let again: BTreeSet<String> = std::iter::from_fn(|| directory.next()).collect();
        assert_eq!(rest, again);
    });
}

#[test]
fn new_entries_show_after_a_rewind() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &[]);
        let directory = raw::Directory::open(&ours.point).unwrap();
        let count = || std::iter::from_fn(|| directory.next()).count();
        assert_eq!(count(), 2, "dot and dot-dot");
        fs::write(ours.at("new"), "").unwrap();
        directory.rewind();
        assert_eq!(count(), 3);
    });
}

#[test]
fn an_open_directory_that_was_removed_is_empty() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &[]);
        fs::create_dir(ours.at("d")).unwrap();
        let directory = raw::Directory::open(&ours.at("d")).unwrap();
        fs::remove_dir(ours.at("d")).unwrap();
        let left = std::iter::from_fn(|| directory.next()).filter(|n| !n.starts_with('.')).count();
        assert_eq!(left, 0);
        assert!(fs::write(ours.at("d/x"), "").is_err());
    });
}

/// A mount whose server may have 256 descriptors.
fn with_few_descriptors(sandbox: &Sandbox, source: &Path) -> Ours {
    with_descriptors(sandbox, source, 256)
}

/// A mount whose server may have so many descriptors.
fn with_descriptors(sandbox: &Sandbox, source: &Path, count: u32) -> Ours {
    let (program, point) = (crate::support::ours::PROGRAM, sandbox.dir("mnt"));
    let script = format!("ulimit -n {count}; exec {program} -f {} {}", str(source), str(&point));
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &script]);
    Ours::start(command, &point, sandbox.path("log"))
}

/// More files than descriptors: the server must not keep one for each.
#[test]
fn a_walk_of_fifty_thousand_files_needs_few_descriptors() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        for d in 0..500 {
            fs::create_dir(source.join(d.to_string())).unwrap();
            for f in 0..100 {
                fs::write(source.join(format!("{d}/{f}")), "x").unwrap();
            }
        }
        let ours = with_few_descriptors(sandbox, &source);
        let at = str(&ours.point);
        let walk = format!("cd {at}; find . -type f -printf '%i %s\\n' | sort -u | wc -l");
        assert_eq!(sh(&walk).trim(), "50000");
        assert_eq!(sh(&walk).trim(), "50000");
        // Every file read, and names again after the kernel forgot them all.
        let read = format!("cd {at}; find . -type f -exec cat {{}} + | wc -c");
        assert_eq!(sh(&read).trim(), "50000");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        assert_eq!(sh(&walk).trim(), "50000");
        drop(ours);
    });
}

/// What is not open is opened again: it is the file that was looked up, or what has its
/// name now, and never another one.
#[test]
fn what_is_opened_again_is_the_same_though_the_host_replaces_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        let name = |n: usize| format!("{}/{}", n % 30, n / 30);
        for n in 0..1500 {
            let path = source.join(name(n));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name(n)).unwrap();
        }
        // Not even a mount with too few: nothing could be looked at there.
        let (program, point) = (crate::support::ours::PROGRAM, sandbox.dir("none"));
        let with = |count| format!("ulimit -n {count}; {program} {} {}", str(&source), str(&point));
        let refused = try_sh_as(0, 0, &[], &with(63));
        assert_eq!(refused.status.code(), Some(32), "{}", text(&refused));
        assert!(text(&refused).contains("ulimit -n 64"), "{}", text(&refused));

        let ours = with_descriptors(sandbox, &source, 64);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (new, aside) = (source.join("new"), source.join("aside"));
                for n in (0..).step_by(7).take_while(|_| !over.load(Ordering::Relaxed)) {
                    let path = source.join(name(n));
                    fs::write(&new, name(n)).unwrap();
                    fs::rename(&new, &path).unwrap();
                    // And the directory, by one with the same files.
                    let dir = path.parent().unwrap();
                    fs::create_dir(&new).unwrap();
                    raw::rename(dir, &new, libc::RENAME_EXCHANGE).unwrap();
                    fs::rename(&new, &aside).unwrap();
                    for file in fs::read_dir(&aside).unwrap().map(|file| file.unwrap()) {
                        fs::rename(file.path(), dir.join(file.file_name())).unwrap();
                    }
                    fs::remove_dir(&aside).unwrap();
                }
            });
            let mut rng = Rng::new(5);
            let mut held = VecDeque::new();
            let mut found = 0;
            while found < 3000 {
                let n = rng.below(1500);
                let Ok(file) = fs::File::open(ours.at(&name(n))) else { continue };
                found += 1;
                held.push_back((n, file));
                let (n, file) = if held.len() > 5 { held.pop_front().unwrap() } else { continue };
                assert_eq!(std::io::read_to_string(file).unwrap(), name(n));
            }
            over.store(true, Ordering::Relaxed);
        });
    });
}

/// Does something as an ordinary user.
fn by<T>(uid: u32, what: impl FnOnce() -> T) -> T {
    nix::unistd::setfsuid(uid.into());
    let result = what();
    nix::unistd::setfsuid(0.into());
    result
}

/// Opens as many as a user gets; what refuses it is checked.
fn as_many_as_there_are<T>(uid: u32, open: impl Fn(usize) -> raw::Sys<T>) -> Vec<T> {
    let mut opened = Vec::new();
    loop {
        match by(uid, || open(opened.len())) {
            Ok(file) => opened.push(file),
            Err(errno) => {
                assert!([libc::EMFILE, libc::ENFILE].contains(&errno), "{errno}");
                return opened;
            }
        }
    }
}

/// What everybody must still be able to do.
fn goes_on(uid: u32, ours: &Ours) {
    by(uid, || {
        assert_eq!(fs::read_to_string(ours.at("399")).unwrap(), "x");
        assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 1);
        let name = ours.at(&format!("new {uid}"));
        fs::write(&name, "new").unwrap();
        let (one, two) = (File::open(&name).unwrap(), File::options().write(true).open(&name));
        raw::lock(one.as_fd(), libc::F_OFD_SETLK, libc::F_RDLCK, 0, 1).unwrap();
        let locked = raw::lock(two.unwrap().as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, 0, 1);
        assert_eq!(locked.map(|_| ()), Err(libc::EAGAIN));
        fs::remove_file(name).unwrap();
    });
}

fn for_greed(sandbox: &Sandbox) -> Ours {
    let source = sandbox.dir("src");
    for n in 0..400 {
        fs::write(source.join(n.to_string()), "x").unwrap();
        raw::chmod(&source.join(n.to_string()), 0o666).unwrap();
    }
    fs::create_dir_all(source.join("d/e")).unwrap();
    raw::chmod(&source, 0o777).unwrap();
    with_few_descriptors(sandbox, &source)
}

/// Callers that open more than the server may: they get EMFILE or ENFILE, and
/// can still look, walk and list; the others go on.
#[test]
fn running_out_of_descriptors_hits_the_opener_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        for n in 0..400 {
            fs::write(source.join(n.to_string()), "x").unwrap();
            fs::create_dir_all(source.join(format!("d/{n}/e"))).unwrap();
        }
        let ours = with_few_descriptors(sandbox, &source);
        let results: Vec<_> =
            (0..400).map(|n| raw::open(&ours.at(&n.to_string()), libc::O_RDWR, 0)).collect();
        let refused: Vec<i32> = results.iter().filter_map(|r| r.as_ref().err().copied()).collect();
        let allowed = |errno: &i32| [libc::EMFILE, libc::ENFILE].contains(errno);
        assert!(refused.iter().all(allowed), "{refused:?}");
        assert!(refused.len() < 300, "only {} could be opened", 400 - refused.len());
        let seen = sh(&format!(
            "cd {}; find d -type d | wc -l; stat -c %s 350; mkdir new; rm 351; ls new",
            str(&ours.point)
        ));
        assert_eq!(seen, "801\n1\n");
        by(1000, || {
            assert_eq!(fs::read_to_string(ours.at("399")).unwrap(), "x");
            assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 400);
        });
        // No close fails, though a flush would take a descriptor.
        for file in results.into_iter().flatten() {
            let raw = std::os::fd::IntoRawFd::into_raw_fd(file);
            nix::unistd::close(raw).unwrap();
        }
        assert_eq!(fs::read_to_string(ours.at("399")).unwrap(), "x");
    });
}

/// With room for 16 and hundreds asked for, those that clients have open on top.
#[test]
fn no_more_files_stay_open_than_is_asked_for() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--open-files", "16"]);
        let names: Vec<_> = (0..400).map(|n| format!("{}/{n}", n % 20)).collect();
        for name in &names {
            fs::create_dir_all(source.join(name).parent().unwrap()).unwrap();
            fs::write(source.join(name), name).unwrap();
        }
        wait_for("a server that is known", || {
            finish(&["stats", str(&ours.point)]).status.success()
        });
        let nodes = || {
            let said = finish(&["stats", "--json", str(&ours.point)]).stdout;
            let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
            said["held"]["nodes"].as_u64().unwrap()
        };
        for _ in 0..2 {
            assert_eq!(sh(&format!("find {} -type f -size 1 | wc -l", str(&ours.point))), "400\n");
            for name in &names {
                assert_eq!(fs::read_to_string(ours.at(name)).unwrap(), *name);
            }
        }
        let open: Vec<_> =
            names.iter().step_by(4).map(|n| File::open(ours.at(n)).unwrap()).collect();
        for (file, name) in open.iter().zip(names.iter().step_by(4)) {
            fs::rename(ours.at(name), ours.at(&format!("{name}.new"))).unwrap();
            assert_eq!(std::io::read_to_string(file).unwrap(), *name);
            assert_eq!(fs::read_to_string(ours.at(&format!("{name}.new"))).unwrap(), *name);
        }
        drop(open);
        // And the root.
        wait_for("nodes that are let go", || nodes() <= 17);
        // Each may be open to be read again.
        wait_for("what was open", || {
            ours.held_open().iter().filter(|link| link.starts_with(&source)).count() <= 34
        });
        let refused = finish(&["--open-files", "1000000000", str(&source), str(&ours.point)]);
        assert_eq!(refused.status.code(), Some(32));
        assert!(text(&refused).contains("ulimit -n 2000000000"), "{}", text(&refused));
    });
}

/// Users that open, list or lock more and more, one after the other: each is
/// refused, and those who come after it are not.
#[test]
fn a_user_who_opens_too_much_leaves_some_for_others() {
    require!(Root, Fuse);
    let once = |path: &Path| raw::open(path, libc::O_RDWR, 0);
    // Another one that was open is still there for whoever reads it again, perhaps.
    let twice = |path: &Path| {
        let first = raw::open(path, libc::O_RDONLY, 0)?;
        let second = raw::open(path, libc::O_RDONLY, 0)?;
        drop(first);
        Ok(second)
    };
    let other = |path: &Path| {
        drop(raw::open(path, libc::O_RDONLY, 0)?);
        let written = raw::open(path, libc::O_RDWR, 0)?;
        drop(raw::open(path, libc::O_RDONLY, 0)?);
        Ok(written)
    };
    // The last one has no room for a moment's second open.
    let ways: [(usize, Way); 3] = [(75, once), (74, twice), (74, other)];
    for (least, open) in ways {
        sandbox(move |sandbox| {
            let ours = for_greed(sandbox);
            let file = |n: usize| open(&ours.at(&n.to_string()));
            let most = as_many_as_there_are(1001, file);
            assert!(most.len() > least, "{}", most.len());
            // For each its own and that of its node, which are all that is counted.
            wait_for("no third descriptor", || {
                let links = ours.held_open();
                let of = |n: usize| links.iter().filter(|l| l.ends_with(n.to_string())).count();
                (0..most.len()).all(|n| of(n) <= 2)
            });
            goes_on(1002, &ours);
            // Who is refused still walks and lists.
            by(1001, || assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 1));
            let some = as_many_as_there_are(1002, file);
            assert!(some.len() > 15, "{}", some.len());
            goes_on(1003, &ours);
            goes_on(0, &ours);
            let few = as_many_as_there_are(1003, file);
            assert!(!few.is_empty());
            by(1004, || assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 1));
            assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 1);
            drop((most, some, few));
            // The kernel tells of a close a moment after it.
            wait_for("all of it", || as_many_as_there_are(1003, file).len() > least);
        });
    }
}

/// How a caller comes by an open file.
type Way = fn(&Path) -> raw::Sys<OwnedFd>;

/// Files that are deleted through the mount and still known take descriptors
/// too, which nobody else may count on.
#[test]
fn deleted_files_that_are_known_leave_enough_for_others() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let ours = for_greed(sandbox);
        let known = |n: &usize| {
            // What was read of it stays open for whoever reads it again.
            assert_eq!(fs::read_to_string(ours.at(&n.to_string())).unwrap(), "x");
            raw::open(&ours.at(&n.to_string()), libc::O_PATH, 0).unwrap()
        };
        let deleted: Vec<_> = (300..360).map(|n| by(1000, || known(&n))).collect();
        let remove = |n: usize| fs::remove_file(ours.at(&n.to_string())).unwrap();
        (300..330).for_each(remove);
        assert_eq!(ours.deleted_held_open(), 30);
        (330..360).for_each(remove);
        let file = |n: usize| raw::open(&ours.at(&n.to_string()), libc::O_RDWR, 0);
        let held: Vec<_> = [1001, 1002, 0].map(|uid| as_many_as_there_are(uid, file)).into();
        assert!(held[0].len() > 60, "{}", held[0].len());
        for uid in [1003, 1001, 0] {
            by(uid, || {
                assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 1);
                assert_eq!(fs::metadata(ours.at("d/e/../../399")).unwrap().len(), 1);
            });
        }
        drop((deleted, held));
    });
}

#[test]
fn open_directories_and_locks_count_for_who_has_them() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let ours = for_greed(sandbox);
        let listings = as_many_as_there_are(1001, |_| raw::Directory::open(&ours.at("d")));
        assert!(listings.len() > 75, "{}", listings.len());
        goes_on(1002, &ours);
        drop(listings);
        // Each description is an owner of locks.
        let locked = |n: usize| {
            let file = raw::open(&ours.at("0"), libc::O_RDWR, 0)?;
            let at = i64::try_from(n).unwrap();
            raw::lock(file.as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, at, 1)?;
            Ok(file)
        };
        wait_for("all of it", || as_many_as_there_are(1001, locked).len() > 45);
        let locks = as_many_as_there_are(1001, locked);
        goes_on(1002, &ours);
        drop(locks);
        wait_for("no lock", || as_many_as_there_are(1002, locked).len() > 45);
    });
}
