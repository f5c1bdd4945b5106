//! The two processes of a mount, and how they end: nothing is left.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::require;
use crate::support::ours::{Ours, finish, processes, program_for_users};
use crate::support::{mount_at, mounts, output, raw, run, sandbox, str, text, try_sh_as, wait_for};

fn is_mounted(point: &Path) -> bool {
    mount_at(point).is_some_and(|mount| mount.kind == "fuse.idmapfs")
}

fn nothing_is_left(point: &Path) {
    wait_for("the end of both processes", || processes(point).is_empty());
    assert!(!is_mounted(point), "{:?}", mounts());
    fs::read_dir(point).unwrap();
}

#[test]
fn a_killed_server_leaves_no_dead_mount_point() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, mut ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "x").unwrap();
        let open = File::open(ours.at("f")).unwrap();
        ours.signal_server(Signal::SIGKILL);
        assert_eq!(ours.ended(), Some(32), "{}", ours.log());
        assert!(ours.log().contains("ended by SIGKILL"), "{}", ours.log());
        nothing_is_left(&ours.point);
        drop(open);
    });
}

#[test]
fn a_killed_supervisor_ends_the_server() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, mut ours) = Ours::of_new(sandbox, &[]);
        ours.signal(Signal::SIGKILL);
        ours.ended();
        wait_for("the server's end", || processes(&ours.point).is_empty());
        // What is left of the mount answers nobody, and goes.
        if is_mounted(&ours.point) {
            let dead = fs::read_dir(&ours.point).unwrap_err();
            let lost = [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)];
            assert!(lost.contains(&dead.raw_os_error()), "{dead}");
            run("umount", &[str(&ours.point)]);
        }
        nothing_is_left(&ours.point);
    });
}

#[test]
fn the_mount_ends_with_a_process() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let (_, mut ours) = Ours::of_new(sandbox, &["--with-pid", &other.id().to_string()]);
        assert!(is_mounted(&ours.point));
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(ours.ended(), Some(0), "{}", ours.log());
        nothing_is_left(&ours.point);
        let (source, point) = (sandbox.path("src"), str(&ours.point).to_owned());
        let done = finish(&["--with-pid", &other.id().to_string(), str(&source), &point]);
        assert_eq!(done.status.code(), Some(32), "{}", text(&done));
        assert!(text(&done).contains("option with-pid: no process"), "{}", text(&done));
        assert!(!is_mounted(&ours.point));
    });
}

#[test]
fn a_second_signal_ends_a_mount_that_is_in_use() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, mut ours) = Ours::of_new(sandbox, &["--passthrough", "off"]);
        fs::write(source.join("f"), "x").unwrap();
        let open = File::open(ours.at("f")).unwrap();
        ours.signal(Signal::SIGTERM);
        wait_for("a mount point that is free", || !is_mounted(&ours.point));
        ours.signal(Signal::SIGTERM);
        assert_eq!(ours.ended(), Some(0), "{}", ours.log());
        nothing_is_left(&ours.point);
        drop(open);
    });
}

/// Whether a signal waits for a process to take it.
fn is_pending(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & 1 << (signal as u32 - 1) != 0
}

#[test]
fn a_server_that_hangs_keeps_nothing() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, mut ours) = Ours::of_new(sandbox, &["--cache", "none", "--log", "debug"]);
        // Until the server has said that it is known, nothing else is waited for.
        wait_for("a mount that is kept", || ours.log().contains("server: process "));
        ours.signal_server(Signal::SIGSTOP);
        let begun = Instant::now();
        ours.signal(Signal::SIGTERM);
        // Two that wait would be one.
        wait_for("the first to be taken", || !is_pending(ours.pid(), Signal::SIGTERM));
        std::thread::sleep(Duration::from_millis(200));
        ours.signal(Signal::SIGTERM);
        ours.ended();
        assert!(begun.elapsed() < Duration::from_secs(30));
        nothing_is_left(&ours.point);
    });
}

/// A script in a mount namespace of its own, which ends with it.
fn in_a_namespace_that_ends(user: u32, unshare: &str) {
    let unshare = unshare.to_owned();
    sandbox(move |sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "contents").unwrap();
        for path in [&source, &point, &source.join("f")] {
            raw::chown(path, user, user, false).unwrap();
        }
        let program = program_for_users(sandbox);
        let (program, src, mnt) = (str(&program), str(&source), str(&point));
        let script = format!("{program} {src} {mnt}; cat {mnt}/f; ls -l /proc/self/ns/mnt");
        let done = try_sh_as(user, user, &[], &format!("{unshare} bash -euc '{script}'"));
        assert!(done.status.success(), "{}", text(&done));
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(out.starts_with("contents"), "{out}");
        nothing_is_left(&point);
        // A signal unmounts there, from outside of it.
        let script = format!(
            "all() {{ grep -c fuse.idmapfs /proc/self/mountinfo || :; }}; had=$(all); \
             {program} {src} {mnt}; kill -TERM $(pgrep -of \"^{program} {src} {mnt}\"); \
             for n in $(seq 600); do grep -q \"{mnt} .*fuse.idmapfs\" /proc/self/mountinfo || break; \
             sleep 0.05; done; ls {mnt} | wc -l; echo $(($(all) - had))"
        );
        let done = try_sh_as(user, user, &[], &format!("{unshare} bash -euc '{script}'"));
        assert_eq!(String::from_utf8_lossy(&done.stdout), "0\n0\n", "{}", text(&done));
        nothing_is_left(&point);
    });
}

#[test]
fn a_mount_of_root_ends_with_its_namespace() {
    require!(Root, Fuse);
    in_a_namespace_that_ends(0, "unshare -m");
}

#[test]
fn a_mount_of_a_user_ends_with_its_namespace() {
    require!(Root, Fuse, UserNamespaces);
    in_a_namespace_that_ends(34, "unshare -Urm");
}

#[test]
fn what_the_server_does_not_use_can_be_unmounted_beside_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let other = sandbox.dir("other");
        let image = sandbox.file("image", "");
        File::options().write(true).open(&image).unwrap().set_len(8 << 20).unwrap();
        run("mkfs.ext4", &["-q", str(&image)]);
        run("mount", &["-o", "loop", str(&image), str(&other)]);
        let (_, ours) = Ours::of_new(sandbox, &[]);
        run("umount", &[str(&other)]);
        wait_for("a loop device that is free", || {
            output("losetup", &["-j", str(&image)]).stdout.is_empty()
        });
        assert_eq!(ours.unmount(), Some(0));
    });
}
