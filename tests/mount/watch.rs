//! Caches that are true: what the host changes is seen, and nothing stays behind.
//!
//! `IDMAPFS_CHANGES=N` has the long test make that many changes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::require;
use crate::support::idmap::IdMap;
use crate::support::ours::{Ours, finish, program_for_users};
use crate::support::rng::Rng;
use crate::support::{
    holds_within, mount_at, raw, run, sandbox, sh, str, text, try_sh_as, wait_for,
};

/// How long the host waits before it looks at a mount: twenty milliseconds are
/// enough, but on a machine that has much else to do.
const QUIET: Duration = Duration::from_millis(50);

/// How long one of the naps is in which it waits, and how long one takes at most while a
/// processor is free.
const NAP: Duration = Duration::from_millis(2);
const OVERSLEPT: Duration = Duration::from_millis(8);

/// How late a change may be seen there. What was not told would be believed for
/// an hour, and for a second where it cannot be watched.
const LATE: Duration = Duration::from_millis(600);

const USER: u32 = 34;

/// Returns what is to be compared of a file, with its name.
fn shown(dir: &Path, name: &str) -> Option<(u64, u32, u32, u32, u64)> {
    let meta = fs::symlink_metadata(dir.join(name)).ok()?;
    Some((meta.nlink(), meta.mode(), meta.uid(), meta.gid(), meta.len()))
}

/// Returns the names in a directory, in order.
fn names(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits for that long; reports whether a processor was free all the time.
fn waits_alone() -> bool {
    let naps = QUIET.as_millis() / NAP.as_millis();
    let overslept = (0..naps).filter(|_| {
        let began = Instant::now();
        std::thread::sleep(NAP);
        began.elapsed() > OVERSLEPT
    });
    overslept.count() == 0
}

/// Waits until a mount shows what is there.
fn settles(source: &Path, point: &Path, all: &[String]) {
    std::thread::sleep(QUIET);
    let mut stale = String::new();
    let is_true = || match is_true(source, point, all) {
        Ok(()) => true,
        Err(found) => {
            stale = found;
            false
        }
    };
    assert!(holds_within(LATE, is_true), "{stale}");
}

/// Compares what a mount without a map shows with what is there.
fn is_true(source: &Path, point: &Path, names_of: &[String]) -> Result<(), String> {
    let (disk, seen) = (names(source), names(point));
    if disk != seen {
        return Err(format!("listing: {seen:?} instead of {disk:?}"));
    }
    for name in names_of {
        let (disk, seen) = (shown(source, name), shown(point, name));
        if disk != seen {
            return Err(format!("{name}: {seen:?} instead of {disk:?}"));
        }
        if disk.is_some_and(|disk| disk.1 & libc::S_IFMT == libc::S_IFREG)
            && fs::read(source.join(name)).unwrap() != fs::read(point.join(name)).unwrap()
        {
            return Err(format!("{name}: other contents"));
        }
    }
    Ok(())
}

/// Owners that files have in these tests: those that a change knows of.
const OWNERS: [u32; 3] = [3, 40_000, 70_000];

/// Makes one change on the host, of one of these names.
fn change(rng: &mut Rng, source: &Path, all: &[String]) {
    let [one, two] = [0, 1].map(|_| source.join(rng.pick(all)));
    let owner = rng.pick(&OWNERS);
    let _ = match rng.below(9) {
        0 => raw::chmod(&one, rng.pick(&[0o600, 0o644, 0o755])).is_ok(),
        1 | 2 => raw::chown(&one, owner, owner, false).is_ok(),
        3 => raw::rename(&one, &two, 0).is_ok(),
        4 => raw::rename(&one, &two, libc::RENAME_EXCHANGE).is_ok(),
        5 => fs::remove_file(&one).is_ok(),
        6 => raw::link(&one, &two).is_ok(),
        7 => fs::write(&one, format!("{}", rng.below(1 << 20)))
            .is_ok_and(|()| raw::chown(&one, owner, owner, false).is_ok()),
        _ => {
            let new = source.with_extension("new");
            fs::write(&new, "replaced").unwrap();
            raw::chown(&new, owner, owner, false).unwrap();
            raw::rename(&new, &one, 0).is_ok()
        }
    };
}

fn planted(source: &Path, count: usize) -> Vec<String> {
    let all: Vec<String> = (0..count).map(|i| format!("f{i}")).collect();
    for name in &all {
        fs::write(source.join(name), name).unwrap();
        raw::chown(&source.join(name), OWNERS[0], OWNERS[0], false).unwrap();
    }
    all
}

/// Runs readers until what is given has been done; no reader may see an owner that
/// was never one.
fn with_readers(point: &Path, all: &[String], act: impl FnOnce()) -> u64 {
    let (over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (over, looks) = (&over, &looks);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                while !over.load(Ordering::Relaxed) {
                    let path = point.join(rng.pick(all));
                    if let Ok(meta) = fs::symlink_metadata(&path) {
                        // A file is born as root's on the host, and given away then.
                        let owners = [&OWNERS[..], &[0]].concat();
                        assert!(owners.contains(&meta.uid()), "{}", meta.uid());
                    }
                    match rng.below(20) {
                        0 => drop(names(point)),
                        1 => drop(File::open(&path)),
                        _ => {}
                    }
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        act();
        over.store(true, Ordering::Relaxed);
    });
    looks.into_inner()
}

/// What the server takes of memory, in KiB.
fn resident(ours: &Ours) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", ours.server())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the server says that it has done and holds.
fn stats(ours: &Ours) -> serde_json::Value {
    let mut asked = finish(&["stats", "--json", str(&ours.point)]);
    // It can be asked a moment after the mount is there.
    wait_for("counters", || {
        if !asked.status.success() {
            asked = finish(&["stats", "--json", str(&ours.point)]);
        }
        asked.status.success()
    });
    serde_json::from_slice(&asked.stdout).unwrap()
}

/// The inodes and the descriptors that the server has.
fn held(ours: &Ours) -> (u64, usize) {
    (stats(ours)["held"]["inodes"].as_u64().unwrap(), ours.held_open().len())
}

#[test]
fn a_storm_of_host_changes_leaves_nothing_stale_and_no_growth() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let changes: Option<u64> =
            std::env::var("IDMAPFS_CHANGES").ok().map(|n| n.parse().unwrap());
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        let all = planted(&source, 40);
        let (mut rng, mut done, started) = (Rng::new(7), 0, Instant::now());
        let (mut first, mut few) = (0, (0, 0));
        let mut rounds = 0;
        let goes_on = |done: u64| match changes {
            Some(changes) => done < changes,
            None => started.elapsed() < Duration::from_secs(12),
        };
        let mut looks = 0;
        while goes_on(done) {
            looks += with_readers(&ours.point, &all, || {
                for _ in 0..2000 {
                    change(&mut rng, &source, &all);
                }
            });
            done += 2000;
            rounds += 1;
            settles(&source, &ours.point, &all);
            if rounds == 2 {
                (first, few) = (resident(&ours), held(&ours));
            }
        }
        let (last, all) = (resident(&ours), held(&ours));
        println!("{done} host changes, {looks} looks, {first} KiB, then {last} KiB");
        println!("inodes and descriptors: {few:?}, then {all:?}");
        assert!(last < first + 16 * 1024, "{first} KiB, then {last} KiB");
        assert!(all.0 < few.0 + 200 && all.1 < few.1 + 50, "{few:?}, then {all:?}");
    });
}

/// The two owners, a user and a group on disk, that a file has by turns: nobody else's.
fn owners_of(file: u32) -> [(u32, u32); 2] {
    [(file * 4, file * 4 + 1), (file * 4 + 2, file * 4 + 3)]
}

/// Gives files away, or puts others with another owner in their place.
fn give_away(source: &Path, files: u32, rng: &mut Rng) -> raw::Sys<()> {
    for _ in 0..400 {
        let file = u32::try_from(rng.below(files as usize)).unwrap_or(0);
        let (path, (uid, gid)) = (source.join(format!("f{file}")), rng.pick(&owners_of(file)));
        if rng.chance(50) {
            raw::chown(&path, uid, gid, false)?;
        } else {
            let new = source.with_extension("new");
            drop(raw::open(&new, libc::O_CREAT | libc::O_WRONLY, 0o644)?);
            raw::chown(&new, uid, gid, false)?;
            raw::rename(&new, &path, 0)?;
        }
    }
    Ok(())
}

/// Another process changes the source, and callers see owners by a map.
#[test]
fn another_process_never_makes_a_file_look_anybody_elses() {
    const FILES: u32 = 40;
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let map = IdMap::of(&["0:100000:1000"], &["0:200000:1000"]).arguments();
        let map: Vec<&str> = map.iter().map(String::as_str).collect();
        let (source, ours) = Ours::of_new(sandbox, &[&["--cache", "watch"], &map[..]].concat());
        for file in 0..FILES {
            let (path, [(uid, gid), _]) = (source.join(format!("f{file}")), owners_of(file));
            fs::write(&path, "").unwrap();
            raw::chown(&path, uid, gid, false).unwrap();
        }
        let owner = |dir: &Path, file: u32| {
            let meta = fs::symlink_metadata(dir.join(format!("f{file}"))).ok()?;
            Some((meta.uid(), meta.gid()))
        };
        let there = |file| owner(&source, file).map(|(uid, gid)| (uid + 100_000, gid + 200_000));
        let is_true = || (0..FILES).all(|file| owner(&ours.point, file) == there(file));
        let (over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut rounds, mut fair, mut late, mut failed) = (0, 0, 0, None);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for file in (0..FILES).cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                        let seen = owner(&ours.point, file);
                        let [one, two] = owners_of(file);
                        let users = [one.0, two.0].map(|id| Some(id + 100_000));
                        let groups = [one.1, two.1].map(|id| Some(id + 200_000));
                        let is_theirs = users.contains(&seen.map(|seen| seen.0))
                            && groups.contains(&seen.map(|seen| seen.1));
                        // A name may be gone for a moment while another file takes it.
                        assert!(seen.is_none() || is_theirs, "f{file}: {seen:?}");
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(4) && failed.is_none() {
                let mut rng = Rng::new(rounds);
                // A child prints nothing: that it fails is how it ends.
                let works = || give_away(&source, FILES, &mut rng);
                let host = raw::fork_and_try(works).expect("fork");
                let done = nix::sys::wait::waitpid(host, None);
                let alone = waits_alone();
                fair += u64::from(alone);
                late += u64::from(alone && !is_true());
                let right = done == Ok(WaitStatus::Exited(host, 0)) && holds_within(LATE, is_true);
                failed = (!right).then(|| format!("round {rounds}: {done:?}"));
                rounds += 1;
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(failed, None);
        println!("{late} of {fair} not true after {QUIET:?}, {rounds} rounds, {looks:?} looks");
        // Late are those that waited for a processor.
        assert!(late * 5 <= fair, "{late} of {fair} not true after {QUIET:?}");
    });
}

/// Names come and go that are never used again.
#[test]
fn what_is_gone_takes_no_memory() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        let rounds = |range: std::ops::Range<u32>| {
            for i in range {
                let name = format!("file {i}");
                fs::write(source.join(&name), "").unwrap();
                assert!(holds_within(LATE, || fs::metadata(ours.at(&name)).is_ok()));
                fs::remove_file(source.join(&name)).unwrap();
            }
            std::thread::sleep(QUIET);
        };
        rounds(0..500);
        let before = resident(&ours);
        rounds(500..8000);
        let more = resident(&ours).saturating_sub(before);
        assert!(more < 1024, "{more} KiB more");
    });
}

/// Everybody looks names up while the host moves them around.
#[test]
fn lookups_in_flight_are_not_left_behind_by_renames() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        let all = planted(&source, 4);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(6) {
            with_readers(&ours.point, &all, || {
                for i in 0..60_u32 {
                    let [one, two] = [0, 1].map(|n| source.join(&all[(i as usize + n) % 4]));
                    raw::rename(&one, &two, libc::RENAME_EXCHANGE).unwrap();
                    raw::chown(&one, OWNERS[(i % 3) as usize], 3, false).unwrap();
                }
            });
            settles(&source, &ours.point, &all);
        }
    });
}

#[test]
fn a_right_taken_away_on_the_host_ends_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        sh(&format!("cd {}; mkdir -p d/e; echo secret > d/e/f", str(&source)));
        let (_, point) = (ours.at("d/e/f"), str(&ours.point).to_owned());
        let read = format!("cat {point}/d/e/f");
        let may = || try_sh_as(5, 5, &[], &read).status.success();
        for path in ["d", "d/e", "d/e/f"] {
            assert!(may());
            raw::chmod(&source.join(path), 0o700).unwrap();
            assert!(holds_within(LATE, || !may()), "{path}");
            raw::chmod(&source.join(path), 0o755).unwrap();
            assert!(holds_within(LATE, may), "{path}");
        }
        // Another directory in its place.
        sh(&format!("cd {}; mv d gone; mkdir -p d/e; chmod 700 d", str(&source)));
        assert!(holds_within(LATE, || !may()));
    });
}

/// The kernel drops events that nobody reads: the server is to ask for all again, and
/// yet leave alone what is mounted inside.
#[test]
fn what_is_mounted_inside_survives_events_that_are_lost() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
        let many: u32 = limit.trim().parse::<u32>().unwrap() + 4000;
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        sh(&format!("mkdir -p {0}/d/e {0}/many", str(&source)));
        let all = planted(&source, 600);
        let gone: Vec<String> = all.iter().map(|name| format!("{name}.moved")).collect();
        let known = [&all[..], &gone].concat();
        run("mount", &["-t", "tmpfs", "none", str(&ours.at("d/e"))]);
        fs::write(ours.at("d/e/inside"), "").unwrap();
        settles(&source, &ours.point, &known);
        let before = stats(&ours);
        assert_eq!(before["counts"]["heard_lost"], 0, "{before}");

        ours.signal_server(Signal::SIGSTOP);
        // Each of another name: the kernel makes one of events that are alike.
        for n in 0..many {
            File::create(source.join(format!("many/{n}"))).unwrap();
        }
        for (n, name) in all.iter().enumerate() {
            let path = source.join(name);
            match n % 4 {
                0 => drop(raw::rename(&path, &source.join(&gone[n]), 0).unwrap()),
                1 => drop(raw::chown(&path, OWNERS[1], OWNERS[2], false).unwrap()),
                2 => fs::write(&path, "other contents").unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
        }
        for path in ["d/e", "d"] {
            raw::chmod(&source.join(path), 0o711).unwrap();
            raw::chown(&source.join(path), 7, 7, false).unwrap();
        }
        ours.signal_server(Signal::SIGCONT);
        wait_for("events that are lost", || {
            stats(&ours)["counts"]["heard_lost"].as_u64().unwrap() > 0
        });
        // By default nobody reads what is logged at level info.
        let warning = "warning: source: events of changes were lost, and the kernel asks for";
        wait_for("a warning", || ours.log().contains(warning));
        let asked = finish(&["explain", "--mount", str(&ours.point)]);
        assert!(text(&asked).contains("; events were lost "), "{}", text(&asked));
        settles(&source, &ours.point, &known);
        assert_eq!(ours.log().matches(warning).count(), 1, "{}", ours.log());
        assert_eq!(shown(&source, "d"), shown(&ours.point, "d"));
        assert_eq!(names(&ours.at("many")).len(), usize::try_from(many).unwrap());
        assert!(mount_at(&ours.at("d/e")).is_some_and(|mount| mount.kind == "tmpfs"));
        assert_eq!(names(&ours.at("d/e")), ["inside"]);
        run("umount", &[str(&ours.at("d/e"))]);
        assert_eq!(shown(&source, "d/e"), shown(&ours.point, "d/e"));
    });
}

/// Pages that were read stay true, and so do listings.
#[test]
fn pages_and_listings_are_those_of_the_host() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        fs::write(source.join("f"), "0000").unwrap();
        let mut open = File::open(ours.at("f")).unwrap();
        let mapped = raw::Page::map(std::os::fd::AsFd::as_fd(&open), false);
        let _mapped = mapped.unwrap();
        for i in 0..300_u32 {
            use std::io::{Read, Seek};
            let want = format!("{i:04}");
            // The same size, and maybe the same time.
            fs::write(source.join("f"), &want).unwrap();
            fs::write(source.join(format!("n{i}")), "").unwrap();
            let seen = |open: &mut File| {
                let mut text = String::new();
                open.rewind().unwrap();
                open.read_to_string(&mut text).unwrap();
                text
            };
            assert!(holds_within(LATE, || seen(&mut open) == want), "{i}");
            assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), want);
            assert!(holds_within(LATE, || names(&ours.point).len() == names(&source).len()), "{i}");
            // Of our own making, between.
            fs::write(ours.at(&format!("o{i}")), "").unwrap();
            assert_eq!(names(&ours.point), names(&source));
        }
    });
}

/// The same files have numbers of their own at each place.
#[test]
fn what_is_done_by_one_place_is_seen_at_another() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        sh(&format!("cd {}; mkdir a b; printf 0000 > a/f; mount --bind a b", str(&source)));
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["--cache", "watch"]);
        let [one, other] = ["a", "b"].map(|dir| ours.at(dir));
        let read = || fs::read_to_string(other.join("f")).unwrap();
        assert_eq!((read(), names(&other)), ("0000".into(), vec!["f".into()]));
        assert!(fs::metadata(other.join("new")).is_err());
        assert_ne!(
            fs::metadata(one.join("f")).unwrap().ino(),
            fs::metadata(other.join("f")).unwrap().ino()
        );
        fs::write(one.join("f"), "11").unwrap();
        assert!(holds_within(LATE, || read() == "11" && shown(&other, "f").unwrap().4 == 2));
        raw::chown(&one.join("f"), OWNERS[1], OWNERS[1], false).unwrap();
        assert!(holds_within(LATE, || shown(&other, "f").unwrap().2 == OWNERS[1]));
        let mut open = File::options().append(true).open(one.join("f")).unwrap();
        for i in 3..10 {
            // Still open, so that the kernel writes it by itself.
            std::io::Write::write_all(&mut open, b"1").unwrap();
            assert!(holds_within(LATE, || shown(&other, "f").unwrap().4 == i), "{i}");
            assert_eq!(read().len(), usize::try_from(i).unwrap());
        }
        fs::write(one.join("new"), "").unwrap();
        assert!(holds_within(LATE, || fs::metadata(other.join("new")).is_ok()));
        assert!(holds_within(LATE, || names(&other).len() == 2));
        fs::remove_file(one.join("new")).unwrap();
        assert!(holds_within(LATE, || fs::metadata(other.join("new")).is_err()));
    });
}

/// An ordinary user has directories watched, one by one.
#[test]
fn an_ordinary_users_mount_hears_of_names() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (source, program) = (sandbox.dir("src"), program_for_users(sandbox));
        sh(&format!("cd {}; mkdir d; touch d/f; chown -R {USER}:{USER} .", str(&source)));
        let script = "cd d; cat missing 2>&-; ls > /dev/null; touch ../go; \
                      for i in $(seq 1500); do [ -e missing ] && [ ! -e f ] && \
                      [ \"$(echo $(ls))\" = missing ] && break; sleep .02; done; \
                      cat missing; cat f 2>&- || echo $(ls)";
        let (program, shown) = (str(&program), str(&source));
        let run = format!(
            "{program} run --present-as 1000:1000 --log info {shown} -- bash -c '{script}'"
        );
        let host: PathBuf = source.join("d");
        let go = source.join("go");
        let waits = std::thread::spawn(move || {
            assert!(holds_within(Duration::from_secs(20), || go.exists()));
            fs::remove_file(host.join("f")).unwrap();
            fs::write(host.join("missing"), "here").unwrap();
        });
        let done = try_sh_as(USER, USER, &[], &run);
        assert!(waits.join().is_ok(), "{}", text(&done));
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(text(&done).contains("watched: each directory"), "{}", text(&done));
        assert!(out == "heremissing\n", "{}", text(&done));
    });
}

/// What is stored through a mapping raises no event, and moves the times once.
#[test]
fn stores_of_the_host_to_a_mapping_are_seen_with_the_next_change() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch"]);
        fs::write(source.join("f"), "0000").unwrap();
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "0000");
        let disk = File::options().read(true).write(true).open(source.join("f")).unwrap();
        let mut mapped = raw::Page::map(std::os::fd::AsFd::as_fd(&disk), true).unwrap();
        std::thread::sleep(QUIET);
        mapped.set(0, b'1');
        // The next open sees that the times have moved.
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "1000");
        mapped.set(1, b'1');
        raw::chmod(&source.join("f"), 0o600).unwrap();
        assert!(holds_within(LATE, || fs::read_to_string(ours.at("f")).unwrap() == "1100"));
    });
}

/// In a container `/dev` may be on the file system that is shown: each answer is written
/// to a file of it then.
#[test]
fn answers_are_no_changes_of_the_source() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let device = sandbox.path("fuse");
        sh(&format!(
            "mknod {device} c 10 229; mount --bind {device} /dev/fuse",
            device = str(&device)
        ));
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let point = &ours.point;
        fs::write(source.join("file"), "").unwrap();
        for n in 0..100 {
            assert!(!point.join(format!("missing-{n}")).exists());
        }
        let stats = stats(&ours);
        assert_eq!(stats["counts"]["heard_own"], 0, "{stats}");
        assert!(point.join("file").exists());
        fs::remove_file(source.join("file")).unwrap();
        assert!(holds_within(LATE, || !point.join("file").exists()));
    });
}
