//! The worker that stays on its client's processor: where it is, and that it is nobody's loss.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::require;
use crate::support::cpuset::{Cpuset, numbers};
use crate::support::ours::{Ours, PROGRAM};
use crate::support::{Sandbox, holds_within, raw, sandbox};

const HERE: Pid = Pid::from_raw(0);

/// Mounts a new directory with one file, of which nothing is cached.
fn asked(sandbox: &Sandbox) -> Ours {
    let (source, ours) = Ours::of_new(sandbox, &["--map", "0:0:1000", "--cache", "none"]);
    fs::write(source.join("f"), "x").unwrap();
    ours
}

/// Has another thread, where this one is, ask a mount until something is so; on a busy
/// machine that may be for a moment only.
fn ask_until(ours: &Ours, limit: Duration, so: impl FnMut() -> bool) -> bool {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                fs::symlink_metadata(ours.at("f")).unwrap();
            }
        });
        let held = holds_within(limit, so);
        ended.store(true, Ordering::SeqCst);
        held
    })
}

/// The threads of the server.
fn threads(ours: &Ours) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", ours.server())).unwrap().flatten();
    tasks.map(|task| Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())).collect()
}

/// Where they may run.
fn places(ours: &Ours) -> Vec<CpuSet> {
    threads(ours).into_iter().filter_map(|thread| sched_getaffinity(thread).ok()).collect()
}

/// One processor alone.
fn only(number: usize) -> CpuSet {
    let mut only = CpuSet::new();
    only.set(number).unwrap();
    only
}

/// Has this thread run on each processor for a while, and a worker of the server too.
fn follows(ours: &Ours) {
    let all = sched_getaffinity(HERE).unwrap();
    for number in numbers(all) {
        sched_setaffinity(HERE, &only(number)).unwrap();
        let here = || places(ours).contains(&only(number));
        assert!(ask_until(ours, Duration::from_secs(30), here), "nobody comes to {number}");
    }
    sched_setaffinity(HERE, &all).unwrap();
    // Who asks no more has nobody stay.
    let anywhere = || places(ours).into_iter().all(|place| place == all);
    assert!(holds_within(Duration::from_secs(10), anywhere), "{:?}", places(ours));
}

#[test]
fn a_worker_comes_where_its_client_is() {
    require!(Root, Fuse, Processors);
    sandbox(|sandbox| follows(&asked(sandbox)));
}

#[test]
fn a_worker_of_an_ordinary_user_does_too() {
    require!(Root, Fuse, Processors);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "x").unwrap();
        raw::chown(&source.join("f"), 1000, 1000, false).unwrap();
        let ours = Ours::of_user(sandbox, 1000, &source, &point, &["--cache", "none"]);
        follows(&ours);
    });
}

/// Its scheduling policy, the 41st field of its `stat`.
fn policy(server: Pid, thread: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{server}/task/{thread}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().to_owned()
}

/// It would be put where the worker is, as on a processor that does nothing; and what that
/// worker has started must not be as it is.
#[test]
fn who_reads_ahead_keeps_away() {
    require!(Root, Fuse, Processors);
    sandbox(|sandbox| {
        let ours = asked(sandbox);
        for dir in ["a", "b", "c"] {
            fs::create_dir(ours.at(dir)).unwrap();
            ask_until(&ours, Duration::ZERO, || true);
            assert_eq!(fs::read_dir(ours.at(dir)).unwrap().count(), 0);
        }
        let name = |thread| fs::read_to_string(format!("/proc/{thread}/comm")).unwrap();
        let walk = || threads(&ours).into_iter().find(|thread| name(*thread) == "walk\n");
        assert!(holds_within(Duration::from_secs(10), || walk().is_some()), "nobody reads ahead");
        let (walk, all) = (walk().unwrap(), sched_getaffinity(HERE).unwrap());
        for number in numbers(all) {
            sched_setaffinity(HERE, &only(number)).unwrap();
            let mut others = all;
            others.unset(number).unwrap();
            let away = || sched_getaffinity(walk).unwrap() == others;
            assert!(ask_until(&ours, Duration::from_secs(30), away), "it stays on {number}");
        }
        let idle = threads(&ours).into_iter();
        let idle = idle.filter(|thread| policy(ours.server(), *thread) == "5");
        assert!(idle.count() <= 1, "the worker alone runs where nothing else wants to");
        sched_setaffinity(HERE, &all).unwrap();
    });
}

#[test]
fn a_server_of_one_processor_answers_without() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let number = numbers(sched_getaffinity(HERE).unwrap()).next().unwrap();
        sched_setaffinity(HERE, &only(number)).unwrap();
        let ours = asked(sandbox);
        for name in 0..1000 {
            fs::symlink_metadata(ours.at("f")).unwrap();
            fs::write(ours.at(&name.to_string()), "x").unwrap();
        }
        let name = |thread| fs::read_to_string(format!("/proc/{thread}/comm")).unwrap();
        assert!(threads(&ours).into_iter().all(|thread| name(thread) != "scout\n"));
    });
}

/// What has the client's number there is somebody else.
#[test]
fn nobody_is_followed_in_the_proc_of_another_namespace() {
    require!(Root, Fuse, Processors);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "x").unwrap();
        let ours = ["-f", "--map", "0:0:1000", "--cache", "none", "--log", "debug"];
        let mut command = std::process::Command::new("unshare");
        command.args(["-pf", "--kill-child", PROGRAM]).args(ours);
        command.arg(&source).arg(&point);
        let ours = Ours::start(command, &point, point.with_extension("log"));
        ask_until(&ours, Duration::from_secs(10), || true);
        let said = "no worker stays near its client: /proc is of another pid namespace";
        assert!(ours.log().contains(said));
    });
}

/// Waits until whatever was near its client is that no more.
fn be_quiet() {
    std::thread::sleep(Duration::from_secs(1));
}

#[test]
fn what_others_set_for_the_server_stays() {
    require!(Root, Fuse, Processors);
    sandbox(|sandbox| {
        let ours = asked(sandbox);
        let all = sched_getaffinity(HERE).unwrap();
        for number in numbers(all) {
            let comes = || places(&ours).into_iter().any(|place| place != all);
            // On a busy machine nobody may, which is no matter here.
            ask_until(&ours, Duration::from_secs(10), comes);
            let set = |on: CpuSet| {
                for thread in threads(&ours) {
                    // It may have ended.
                    let _gone = sched_setaffinity(thread, &on);
                }
            };
            let kept = || places(&ours).into_iter().all(|place| place == only(number));
            set(only(number));
            assert!(ask_until(&ours, Duration::from_secs(10), kept), "{:?}", places(&ours));
            be_quiet();
            assert!(holds_within(Duration::from_secs(5), kept), "{:?}", places(&ours));
            set(all);
        }
    });
}

#[test]
fn a_server_whose_cpuset_was_small_for_a_while_may_run_anywhere_again() {
    require!(Root, Fuse, Processors, Cpusets);
    sandbox(|sandbox| {
        let ours = asked(sandbox);
        let all = sched_getaffinity(HERE).unwrap();
        let number = numbers(all).next().unwrap();
        let cpuset = Cpuset::try_new(sandbox, number).unwrap();
        cpuset.take(ours.server()).unwrap();
        sched_setaffinity(HERE, &only(number)).unwrap();
        // Two times: what was set before is what comes back.
        for _ in 0..2 {
            ask_until(&ours, Duration::from_secs(1), || false);
            be_quiet();
        }
        cpuset.give_back(ours.server()).unwrap();
        let anywhere = || places(&ours).into_iter().all(|place| place == all);
        assert!(holds_within(Duration::from_secs(10), anywhere), "{:?}", places(&ours));
    });
}

/// Programs that only compute, one on each processor, until this is dropped.
struct Busy(Vec<std::process::Child>);

impl Busy {
    fn everywhere() -> Self {
        let all = sched_getaffinity(HERE).unwrap();
        let busy = |_| {
            let mut command = std::process::Command::new("sh");
            raw::die_with_us(command.args(["-c", "while :; do :; done"])).spawn().unwrap()
        };
        Self(numbers(all).map(busy).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().and_then(|()| child.wait()).unwrap();
        }
    }
}

/// Its scheduling policy gives it hardly a turn beside others that want one: others
/// answer then.
#[test]
fn a_busy_machine_does_not_starve_who_asks() {
    require!(Root, Fuse, Processors);
    sandbox(|sandbox| {
        let ours = asked(sandbox);
        let all = sched_getaffinity(HERE).unwrap();
        let ended = AtomicBool::new(false);
        let (came, went) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    fs::symlink_metadata(ours.at("f")).unwrap();
                }
            });
            let comes = || places(&ours).into_iter().any(|place| place != all);
            let came = holds_within(Duration::from_secs(30), comes);
            let _busy = Busy::everywhere();
            let went = holds_within(Duration::from_secs(30), || !comes());
            ended.store(true, Ordering::SeqCst);
            (came, went)
        });
        assert!(came, "nobody comes");
        assert!(went, "{:?}", places(&ours));
    });
}

/// A process that closes a file while it starts a program waits for the answer with
/// `exec_update_lock` held, for which who looks at it in `/proc` waits.
#[test]
fn who_closes_a_file_by_starting_a_program_is_answered() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let ours = asked(sandbox);
        for round in 0..50 {
            let path = ours.at("f");
            let child = raw::fork(move || {
                use std::io::Write as _;
                use std::os::unix::process::CommandExt as _;
                let mut file = fs::File::options().write(true).open(&path).unwrap();
                for _ in 0..50 + round {
                    fs::symlink_metadata(&path).unwrap();
                }
                file.write_all(b"y").unwrap();
                panic!("{}", std::process::Command::new("true").exec());
            });
            let child = child.expect("fork");
            let ended = || {
                let status = waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap();
                status == WaitStatus::Exited(child, 0)
            };
            assert!(holds_within(Duration::from_secs(20), ended), "round {round}");
        }
    });
}
