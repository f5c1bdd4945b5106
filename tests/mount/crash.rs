//! Servers that are killed: what is there afterwards is whole.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::require;
use crate::support::ours::{processes, program_for_users, waits_for};
use crate::support::rng::Rng;
use crate::support::{Sandbox, holds_within, mount_at, raw, sandbox, sh, str, text, try_sh_as};

/// A user of every Debian system without subordinate ids.
const USER: u32 = 34;

/// Whom the callers, who are root, give some files to.
const OTHER: u32 = 1000;

/// How often the server is killed, in how many sandboxes: each has so much time, and where
/// processors are busy the kernel takes seconds for a mount or unmount
/// (`synchronize_rcu_expedited` in `namespace_unlock`).
const ROUNDS: usize = 50;
const SANDBOXES: u64 = 4;

/// A mount of a user that keeps owners.
struct Kept {
    /// Where they are kept.
    owners: &'static str,
    state: PathBuf,
    program: PathBuf,
    source: PathBuf,
    point: PathBuf,
}

impl Kept {
    fn new(sandbox: &Sandbox, owners: &'static str) -> Self {
        let (source, point, state) = (sandbox.dir("src"), sandbox.dir("mnt"), sandbox.dir("state"));
        for path in [&source, &point, &state] {
            raw::chown(path, USER, USER, false).unwrap();
        }
        let conf = sandbox.file("fuse.conf", "user_allow_other\n");
        crate::support::run("mount", &["--bind", str(&conf), "/etc/fuse.conf"]);
        Self { owners, state, program: program_for_users(sandbox), source, point }
    }

    fn start(&self) {
        let [program, source, point] =
            [&self.program, &self.source, &self.point].map(|path| str(path));
        let (owners, state) = (self.owners, str(&self.state));
        let mount = format!(
            "XDG_STATE_HOME={state} {program} --owners {owners} -o allow_other {source} {point}"
        );
        let done = try_sh_as(USER, USER, &[], &mount);
        assert!(done.status.success(), "{}", text(&done));
        assert!(mount_at(&self.point).is_some());
    }

    /// Kills the server.
    fn kill(&self) {
        let all = processes(&self.point);
        // Stopped first: a supervisor would unmount, and callers go on in the directory below.
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in &all {
                // One may end because another one has.
                let _gone = kill(*pid, signal);
            }
        }
        all.iter().copied().for_each(step_forward);
        let ended = holds_within(Duration::from_secs(30), || all.iter().all(|pid| has_ended(*pid)));
        assert!(ended, "{}", all.iter().map(|pid| waits_for(*pid)).collect::<String>());
    }

    /// Takes what a killed server leaves of the mount away.
    fn detach(&self) {
        let _gone = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

/// Has no thread of a process wait for processors that are busy: the worker near its client
/// has the idle policy, which a user's server cannot leave, and if it is the last to end it
/// takes the process apart (`exit_mmap`, `fanotify_release`) by a turn a second or less.
fn step_forward(pid: Pid) {
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        if let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
            raw::step_forward(thread);
        }
    }
}

/// Whether the last thread of a process has gone, and with it what it held.
fn has_ended(pid: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let state = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    threads.count() <= 1 && (state.is_empty() || state.contains("State:\tZ"))
}

fn number(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Makes files of all kinds until the server is gone; returns how many.
fn make(top: &Path) -> usize {
    for round in 0.. {
        let dir = top.join(format!("d{round}"));
        let one = || -> Result<(), i32> {
            fs::create_dir(&dir).map_err(number)?;
            fs::write(dir.join("file"), "contents").map_err(number)?;
            std::os::unix::fs::symlink("target", dir.join("link")).map_err(number)?;
            raw::mknod(&dir.join("fifo"), libc::S_IFIFO | 0o600, 0)?;
            raw::mknod(&dir.join("null"), libc::S_IFCHR | 0o600, libc::makedev(1, 3))?;
            for name in ["file", "link", "fifo"] {
                raw::chown(&dir.join(name), OTHER, OTHER, false)?;
            }
            fs::rename(dir.join("file"), dir.join("moved")).map_err(number)
        };
        if let Err(error) = one() {
            assert!([libc::ENOTCONN, libc::ECONNABORTED].contains(&error), "{error}");
            return round;
        }
    }
    0
}

/// Looks at all files below a directory, and removes them.
fn check(top: &Path) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(top).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let owner = (meta.uid(), meta.gid());
        assert!([(0, 0), (OTHER, OTHER)].contains(&owner), "{}: {owner:?}", path.display());
        seen += 1;
        if meta.is_dir() {
            seen += check(&path);
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
    seen
}

/// Whether something is prepared there: the lock of servers is there all the time.
fn is_staged(dir: &Path) -> bool {
    fs::read_dir(dir)
        .is_ok_and(|names| names.map(|entry| entry.unwrap().file_name()).any(|name| name != "lock"))
}

#[test]
fn a_killed_server_leaves_no_file_with_an_owner_nobody_gave_it() {
    require!(Root, Fuse, Fusermount);
    killed_in_the_middle("xattr");
}

#[test]
fn a_killed_server_leaves_a_database_that_tells_no_other_owner() {
    require!(Root, Fuse, Fusermount);
    killed_in_the_middle("db");
}

fn killed_in_the_middle(owners: &'static str) {
    for seed in 6..6 + SANDBOXES {
        killed_again_and_again(owners, seed);
    }
}

fn killed_again_and_again(owners: &'static str, seed: u64) {
    sandbox(move |sandbox| {
        let kept = Kept::new(sandbox, owners);
        let mut rng = Rng::new(seed);
        let (mut seen, mut left) = (0, 0);
        for _ in 0..ROUNDS {
            kept.start();
            seen += check(&kept.point);
            let staging = kept.source.join(".idmapfs");
            assert!(!is_staged(&staging), "{}", sh(&format!("find {} -ls", str(&staging))));
            thread::scope(|scope| {
                scope.spawn(|| make(&kept.point));
                thread::sleep(Duration::from_micros(500 + rng.next() % 15_000));
                kept.kill();
            });
            kept.detach();
            left += usize::from(is_staged(&kept.source.join(".idmapfs")));
        }
        kept.start();
        seen += check(&kept.point);
        kept.kill();
        kept.detach();
        assert!(seen > ROUNDS && left > ROUNDS / 2, "{seen} files, {left} times staging");
    });
}
