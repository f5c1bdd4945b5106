//! Few processes and threads: a mount is there and works, or it is not there and says why.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::require;
use crate::support::controlled::Controlled;
use crate::support::ours::{command, finish, finish_command, processes, program_for_users};
use crate::support::{
    holds_within, mount_at, output, raw, run, sandbox, str, text, try_sh_as, wait_for,
};

/// What is said of a limit that is too low.
const WAY_OUT: &str = "Resource temporarily unavailable; raise the limit of processes (pids.max, \
                       ulimit -u)";

/// How long a command may take on a busy machine that is to come back at once.
const SOON: Duration = Duration::from_secs(15);

/// The threads without which something would not be done.
const NEEDED: [&str; 13] = [
    "control",
    "fuser-0",
    "fuser-1",
    "fuser-bg",
    "notifier",
    "reload",
    "session",
    "signals",
    "starter",
    "supervisor",
    "tidy",
    "waits",
    "watch",
];

/// The names of the threads of all processes of a mount.
fn threads(point: &Path) -> BTreeSet<String> {
    let tasks = processes(point).into_iter();
    let tasks = tasks.flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten());
    tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap().trim().into()).collect()
}

/// Whether a command line has mounted; else it has said why, and left nothing.
fn has_mounted(done: &Output, point: &Path, most: u32) -> bool {
    if done.status.code() == Some(0) {
        return true;
    }
    let said = text(done);
    assert_eq!(done.status.code(), Some(32), "{most}: {said}");
    assert!(said.contains(WAY_OUT), "{most}: {said}");
    assert!(mount_at(point).is_none(), "{most}: left a mount: {said}");
    wait_for("the end of all processes", || processes(point).is_empty());
    false
}

/// A group in which so many processes and threads may be.
fn of(all: &Controlled, most: u32) -> Controlled {
    let group = all.another(&format!("of-{most}")).unwrap();
    group.set("pids.max", &most.to_string()).unwrap();
    group
}

fn is_gone(point: &Path) {
    assert!(mount_at(point).is_none());
    wait_for("the end of all processes", || processes(point).is_empty());
}

#[test]
fn a_mount_is_made_in_full_or_not_at_all_whatever_number_of_processes_is_allowed() {
    require!(Root, Fuse, ProcessLimit);
    sandbox(|sandbox| {
        let all = Controlled::try_new(sandbox, "pids", "mount").unwrap();
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "x").unwrap();
        let mut mounted = Vec::new();
        for most in 1..=60 {
            let group = of(&all, most);
            let mut command = command(&["--map=0:100000:9", str(&source), str(&point)]);
            group.takes(&mut command);
            let begun = Instant::now();
            let done = finish_command(&mut command);
            assert!(begun.elapsed() < SOON, "{most}: {:?}", begun.elapsed());
            mounted.push(has_mounted(&done, &point, most));
            if mounted.last() == Some(&true) {
                assert_eq!(fs::metadata(point.join("f")).unwrap().uid(), 100_000);
                assert_eq!(fs::read_dir(&point).unwrap().count(), 1);
                assert_eq!(fs::read(point.join("f")).unwrap(), b"x");
                // A thread says its name itself, a moment after it has begun.
                let needed = NEEDED.map(str::to_owned).into();
                let all_there = || threads(&point).is_superset(&needed);
                assert!(holds_within(SOON, all_there), "{most}: {:?}", threads(&point));
                run("umount", &[str(&point)]);
            }
            is_gone(&point);
        }
        // More is never too much, and what is needed is less than any default.
        assert!(mounted.is_sorted(), "{mounted:?}");
        assert!(!mounted[9] && mounted[39], "{mounted:?}");
    });
}

#[test]
fn a_private_mount_is_made_in_full_or_not_at_all() {
    require!(Root, Fuse, ProcessLimit);
    sandbox(|sandbox| {
        let all = Controlled::try_new(sandbox, "pids", "run").unwrap();
        let source = sandbox.dir("src");
        fs::write(source.join("f"), "x").unwrap();
        let mut ran = Vec::new();
        for most in 1..=40 {
            let group = of(&all, most);
            let mut command = command(&["run", str(&source), "--", "cat", "f"]);
            group.takes(&mut command);
            let begun = Instant::now();
            let done = finish_command(&mut command);
            assert!(begun.elapsed() < SOON, "{most}: {:?}", begun.elapsed());
            ran.push(has_mounted(&done, &source, most));
            let said = if ran.last() == Some(&true) { &b"x"[..] } else { b"" };
            assert_eq!(done.stdout, said, "{most}");
            wait_for("an empty group", || group.inside().is_empty());
        }
        assert!(ran.is_sorted() && !ran[5] && ran[39], "{ran:?}");
    });
}

#[test]
fn a_limit_of_a_user_is_said_and_leaves_nothing() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "x").unwrap();
        // Each has a user of its own: who has ended counts until somebody has waited for it.
        let user = |most: u32| 54_300 + most;
        // fusermount3 asks for the user's name.
        let mut users = fs::read_to_string("/etc/passwd").unwrap();
        for id in (0..=60).map(user) {
            users += &format!("limited{id}:x:{id}:{id}::/:/bin/sh\n");
        }
        run("mount", &["--bind", str(&sandbox.file("passwd", &users)), "/etc/passwd"]);
        let program = program_for_users(sandbox);
        let mut mounted = Vec::new();
        for most in (1..=30).chain([45, 60]) {
            let id = user(most);
            for path in [&source, &point] {
                raw::chown(path, id, id, false).unwrap();
            }
            let mut command = Command::new("prlimit");
            command.arg(format!("--nproc={most}")).arg(&program).args([&source, &point]);
            command.stdin(Stdio::null()).env("XDG_RUNTIME_DIR", sandbox.path("none"));
            let begun = Instant::now();
            let done = finish_command(raw::run_as(&mut command, id, id, &[]));
            assert!(begun.elapsed() < SOON, "{most}: {:?}", begun.elapsed());
            mounted.push(has_mounted(&done, &point, most));
            if mounted.last() == Some(&true) {
                let script = format!("cat {0}/f; fusermount3 -u {0}", str(&point));
                let read = try_sh_as(id, id, &[], &script);
                assert_eq!(read.stdout, b"x", "{most}: {}", text(&read));
            }
            is_gone(&point);
        }
        assert!(mounted.is_sorted(), "{mounted:?}");
        assert_eq!((mounted.first(), mounted.last()), (Some(&false), Some(&true)), "{mounted:?}");
    });
}

/// Mounts in a group in which nothing can be started any more then.
fn mounted_in_a_full_group(group: &Controlled, source: &Path, point: &Path) {
    fs::write(source.join("f"), "x").unwrap();
    group.set("pids.max", "max").unwrap();
    let mut command = command(&["--map=0:100000:9", str(source), str(point)]);
    group.takes(&mut command);
    let done = finish_command(&mut command);
    assert!(done.status.success(), "{}", text(&done));
    group.set("pids.max", "1").unwrap();
}

#[test]
fn a_limit_that_is_reached_later_takes_nothing_from_a_mount() {
    require!(Root, Fuse, ProcessLimit);
    sandbox(|sandbox| {
        let group = Controlled::try_new(sandbox, "pids", "full").unwrap();
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        mounted_in_a_full_group(&group, &source, &point);
        // Who waits for a lock gets it.
        let [held, waits] = [&source, &point]
            .map(|dir| File::options().read(true).write(true).open(dir.join("f")).unwrap());
        raw::lock(held.as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, 0, 10).unwrap();
        std::thread::scope(|scope| {
            let lock = || raw::lock(waits.as_fd(), libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 10);
            let waiting = scope.spawn(move || lock().map(drop));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!waiting.is_finished(), "{:?}", waiting.join());
            drop(held);
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        drop(waits);
        // What is changed on the host is seen, and a policy is read again.
        assert_eq!(fs::metadata(point.join("f")).unwrap().mode() & 0o777, 0o644);
        raw::chmod(&source.join("f"), 0o640).unwrap();
        let seen = || fs::metadata(point.join("f")).unwrap().mode() & 0o777 == 0o640;
        assert!(holds_within(Duration::from_secs(5), seen));
        for ask in ["reload", "stats"] {
            let done = finish(&[ask, str(&point)]);
            assert!(done.status.success(), "{ask}: {}", text(&done));
        }
        run("umount", &[str(&point)]);
        is_gone(&point);
    });
}

#[test]
fn a_mount_in_a_full_group_ends_when_it_is_told_to() {
    require!(Root, Fuse, ProcessLimit);
    sandbox(|sandbox| {
        let all = Controlled::try_new(sandbox, "pids", "ends").unwrap();
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        for (signal, to_the_server) in
            [(Signal::SIGTERM, false), (Signal::SIGKILL, false), (Signal::SIGKILL, true)]
        {
            let group = all.another(&format!("{signal}-{to_the_server}")).unwrap();
            mounted_in_a_full_group(&group, &source, &point);
            let mut both = processes(&point);
            both.sort_unstable();
            let parent = |pid| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                both.iter().any(|other| status.contains(&format!("PPid:\t{other}\n")))
            };
            let target = both.iter().find(|pid| parent(**pid) == to_the_server).unwrap();
            kill(*target, signal).unwrap();
            wait_for("the end of both processes", || processes(&point).is_empty());
            if signal == Signal::SIGKILL && !to_the_server && mount_at(&point).is_some() {
                // A server may not take away what nobody keeps any more.
                run("umount", &[str(&point)]);
            }
            is_gone(&point);
            assert!(output("ls", &[str(&point)]).status.success());
        }
    });
}
