//! What others mount inside our mount survives what the host does to its place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::require;
use crate::support::ours::Ours;
use crate::support::{holds_within, mount_at, raw, run, sandbox, sh, str, wait_for};

const USER: u32 = 34;

/// How long the host waits before it looks at a mount.
const QUIET: Duration = Duration::from_millis(50);

#[test]
fn what_is_mounted_inside_survives_what_the_host_does_to_its_place() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch", "--log", "info"]);
        sh(&format!("mkdir -p {}/d/e", str(&source)));
        run("mount", &["-t", "tmpfs", "none", str(&ours.at("d/e"))]);
        let is_there = || mount_at(&ours.at("d/e")).is_some_and(|mount| mount.kind == "tmpfs");
        for path in ["d/e", "d", "."] {
            raw::chmod(&source.join(path), 0o711).unwrap();
            raw::chown(&source.join(path), 7, 7, false).unwrap();
            sh(&format!("touch {}/{path}/new; rm {0}/{path}/new", str(&source)));
            std::thread::sleep(QUIET);
            assert!(is_there(), "{path}");
        }
        ours.signal(Signal::SIGHUP);
        wait_for("a reload", || ours.log().contains("info: reloaded: "));
        std::thread::sleep(QUIET);
        assert!(is_there() && fs::metadata(ours.at("d")).unwrap().uid() == 7);
        // As on the host itself: with its place a mount goes.
        sh(&format!("rmdir {}/d/e", str(&source)));
        assert!(holds_within(Duration::from_secs(2), || !is_there()));
    });
}

/// A user's server cannot look into a directory that it may not search. The kernel looks
/// names up again all the same, and lets go of what is mounted on one that has an error.
#[test]
fn what_is_mounted_inside_survives_a_directory_that_the_server_may_not_search() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let source = sandbox.dir("source");
        sh(&format!("mkdir -p {0}/d/e/f {0}/d/other; chown -R {USER}:{USER} {0}", str(&source)));
        let ours = Ours::of_user(sandbox, USER, &source, &sandbox.dir("mnt"), &[]);
        for path in ["d/e", "d/e/f"] {
            run("mount", &["-t", "tmpfs", "none", str(&ours.at(path))]);
            fs::write(ours.at(path).join("inside"), "x").unwrap();
            let is_there = || mount_at(&ours.at(path)).is_some_and(|mount| mount.kind == "tmpfs");
            raw::chmod(&source.join("d"), 0).unwrap();
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(700));
                let _kept = fs::metadata(ours.at(path).join("inside"));
                assert!(fs::metadata(ours.at("d/none")).is_err());
                assert!(is_there(), "{path}");
            }
            raw::chmod(&source.join("d"), 0o755).unwrap();
            let inside = || fs::read_to_string(ours.at(path).join("inside")).is_ok();
            assert!(holds_within(Duration::from_secs(3), inside), "{path}");
            run("umount", &[str(&ours.at(path))]);
        }
        // What is kept is the name alone: nobody reads through it what the server may not.
        fs::write(source.join("d/other/file"), "x").unwrap();
        let file = ours.at("d/other/file");
        assert_eq!(fs::read(&file).unwrap(), b"x");
        raw::chmod(&source.join("d"), 0).unwrap();
        let refused = || fs::read(&file).is_err();
        assert!(holds_within(Duration::from_millis(2500), refused));
        raw::chmod(&source.join("d"), 0o755).unwrap();
        assert!(holds_within(Duration::from_secs(3), || fs::read(&file).is_ok()));
    });
}
