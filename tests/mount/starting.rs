//! Mounts whose end is asked for while they are being made: nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;

use crate::require;
use crate::support::ours::{Ours, command, processes, waits_for};
use crate::support::rng::Rng;
use crate::support::{Sandbox, holds_within, mount_at, raw, run, sandbox, sh, str, wait_for};

/// How often a signal comes at some moment of a start.
const ROUNDS: usize = 100;

/// The exit status of a mount that failed.
const FAILED: i32 = 32;

/// Where live mounts are listed.
const CONTROL: &str = "/run/idmapfs";

/// A list of live mounts that no other test has.
fn own_list() {
    sh(&format!("mkdir -p {CONTROL}; mount -t tmpfs -o mode=0755 list {CONTROL}"));
}

/// A start of ours, which a test waits for.
struct Start {
    child: Child,
    point: PathBuf,
    log: PathBuf,
}

impl Start {
    fn new(source: &Path, point: &Path, args: &[&str]) -> Self {
        Self::ignoring(source, point, args, &[])
    }

    fn ignoring(source: &Path, point: &Path, args: &[&str], ignored: &[Signal]) -> Self {
        let log = point.with_extension("log");
        let out = fs::File::create(&log).unwrap();
        let mut command = command(args);
        command.arg(source).arg(point).stdout(out.try_clone().unwrap()).stderr(out);
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            raw::ignoring(&mut command, signal, ignored.contains(&signal));
        }
        let child = command.spawn().unwrap();
        Self { child, point: point.to_owned(), log }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until there are so many processes of it, one of which waits for its source.
    fn hangs(&self, count: usize) {
        let waits = |pid: &Pid| {
            let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            place.contains("request_wait_answer")
        };
        wait_for("a server that hangs", || {
            let all = processes(&self.point);
            all.len() == count && all.iter().any(waits)
        });
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = holds_within(Duration::from_secs(30), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let all = || processes(&self.point).into_iter().map(waits_for).collect::<String>();
        assert!(ended, "it does not end: {}{}", self.said(), all());
        status.unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn is_mounted(point: &Path) -> bool {
    mount_at(point).is_some_and(|mount| mount.kind.starts_with("fuse"))
}

fn nothing_is_left(point: &Path) {
    wait_for("the end of all processes", || processes(point).is_empty());
    assert!(!is_mounted(point));
    let listed: Vec<_> = fs::read_dir(CONTROL).unwrap().flatten().map(|it| it.path()).collect();
    let theirs = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|it| it.contains(str(point)));
    assert!(!listed.iter().any(theirs), "{listed:?}");
}

/// A source that does not answer as long as this is there.
struct Mute(Ours);

impl Mute {
    fn new(sandbox: &Sandbox) -> Self {
        let (_, ours) = Ours::of_new(sandbox, &["--passthrough", "off"]);
        // What is known of it is not asked for: only who opens it is to hang.
        fs::metadata(&ours.point).unwrap();
        ours.signal_server(Signal::SIGSTOP);
        Self(ours)
    }

    fn path(&self) -> &Path {
        &self.0.point
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.0.signal_server(Signal::SIGCONT);
    }
}

#[test]
fn a_start_that_hangs_is_ended_by_a_signal() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        own_list();
        let source = Mute::new(sandbox);
        let point = sandbox.dir("point");
        for (args, count, signal) in [
            (&["-f"][..], 2, Signal::SIGTERM),
            (&["-f"], 2, Signal::SIGINT),
            (&[], 3, Signal::SIGTERM),
            (&[], 3, Signal::SIGINT),
            (&[], 3, Signal::SIGHUP),
        ] {
            let mut start = Start::new(source.path(), &point, args);
            start.hangs(count);
            start.signal(signal);
            assert_eq!(start.ended().code(), Some(FAILED), "{args:?} {signal}: {}", start.said());
            let said = "idmapfs: the mount was not made: its end was asked for, and the server";
            assert!(start.said().contains(said), "{args:?} {signal}: {}", start.said());
            nothing_is_left(&point);
        }
    });
}

#[test]
fn a_second_signal_ends_a_start_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        own_list();
        let source = Mute::new(sandbox);
        let point = sandbox.dir("point");
        for (args, count) in [(&["-f"][..], 2), (&[], 3)] {
            let mut start = Start::new(source.path(), &point, args);
            start.hangs(count);
            // One that asks for something else is for later.
            start.signal(if count == 2 { Signal::SIGHUP } else { Signal::SIGUSR1 });
            thread::sleep(Duration::from_millis(300));
            assert!(!start.has_ended());
            start.signal(Signal::SIGINT);
            thread::sleep(Duration::from_millis(300));
            assert!(!start.has_ended());
            start.signal(Signal::SIGINT);
            assert!(holds_within(Duration::from_millis(2000), || start.has_ended()));
            assert_eq!(start.ended().code(), Some(FAILED), "{}", start.said());
            nothing_is_left(&point);
        }
    });
}

/// As nohup(1) has it, and a shell that runs a list of commands in the background.
#[test]
fn a_signal_that_is_ignored_ends_no_start() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        own_list();
        let source = Mute::new(sandbox);
        let point = sandbox.dir("point");
        let ignored = [Signal::SIGINT, Signal::SIGHUP];
        let mut start = Start::ignoring(source.path(), &point, &[], &ignored);
        start.hangs(3);
        for signal in ignored {
            start.signal(signal);
        }
        thread::sleep(Duration::from_millis(300));
        assert!(!start.has_ended());
        drop(source);
        assert_eq!(start.ended().code(), Some(0), "{}", start.said());
        assert!(is_mounted(&point));
        run("umount", &[str(&point)]);
        nothing_is_left(&point);
    });
}

/// Nobody would know of the mount that comes when the source answers again.
#[test]
fn a_start_that_nobody_waits_for_ends() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        own_list();
        let source = Mute::new(sandbox);
        let point = sandbox.dir("point");
        let mut start = Start::new(source.path(), &point, &[]);
        start.hangs(3);
        start.signal(Signal::SIGKILL);
        assert_eq!(start.ended().signal(), Some(libc::SIGKILL));
        nothing_is_left(&point);

        let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let with = ["-f", "--with-pid", &other.id().to_string()];
        let mut start = Start::new(source.path(), &point, &with);
        start.hangs(2);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(start.ended().code(), Some(FAILED), "{}", start.said());
        nothing_is_left(&point);
    });
}

/// Sends signals at all moments of starts: some come too early, some too late.
fn at_all_moments(args: &'static [&str], signals: &'static [Signal], seed: u64) {
    sandbox(move |sandbox| {
        own_list();
        let (source, point) = (sandbox.dir("src"), sandbox.dir("point"));
        let begun = Instant::now();
        let mut start = Start::new(&source, &point, args);
        wait_for("a mount", || is_mounted(&point));
        let most = u64::try_from(begun.elapsed().as_micros()).unwrap() * 2;
        let unmount = || {
            run("umount", &[str(&point)]);
            nothing_is_left(&point);
        };
        unmount();
        start.ended();
        let (mut rng, mut stopped, mut made) = (Rng::new(seed), 0, 0);
        for round in 0..ROUNDS {
            let signal = signals[round % signals.len()];
            let mut start = Start::new(&source, &point, args);
            thread::sleep(Duration::from_micros(rng.next() % most));
            if !start.has_ended() {
                start.signal(signal);
            }
            let status = start.ended();
            match status.code() {
                // In the background the signal came too late.
                Some(0) if args.is_empty() => {
                    assert!(is_mounted(&point), "{}", start.said());
                    fs::read_dir(&point).unwrap();
                    made += 1;
                    unmount();
                }
                Some(0) => made += 1,
                Some(FAILED) => {
                    let said = "idmapfs: the mount was not made: its end was asked for";
                    assert!(start.said().contains(said), "{}", start.said());
                    stopped += 1;
                }
                Some(code) => panic!("{signal}: {code}: {}", start.said()),
                // It had not begun.
                None => assert_eq!(status.signal(), Some(signal as i32), "{}", start.said()),
            }
            nothing_is_left(&point);
        }
        assert!(made > 0 && stopped > 0, "{made} made, {stopped} stopped, of {ROUNDS}");
    });
}

#[test]
fn a_signal_at_any_moment_of_a_start_leaves_nothing() {
    require!(Root, Fuse);
    at_all_moments(&["-f"], &[Signal::SIGTERM, Signal::SIGINT], 7);
}

#[test]
fn a_signal_at_any_moment_of_a_start_in_the_background_leaves_all_or_nothing() {
    require!(Root, Fuse);
    at_all_moments(&[], &[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP], 8);
}
