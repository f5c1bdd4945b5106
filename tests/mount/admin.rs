//! mount(8), fstab, remount, abort: what an administrator does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::require;
use crate::support::ours::{Ours, PROGRAM, command, finish, processes};
use crate::support::{
    Sandbox, holds_within, mount_at, output, run, sandbox, sh, str, text, wait_for,
};

/// Puts our program into this namespace's /sbin as mount(8)'s helper, also for the type
/// that the mount table shows.
pub fn install(sandbox: &Sandbox) {
    let sbin = fs::canonicalize("/sbin").unwrap();
    let (upper, work) = (sandbox.dir("upper"), sandbox.dir("work"));
    for name in ["mount.idmapfs", "mount.fuse.idmapfs", "idmapfs"] {
        std::os::unix::fs::symlink(PROGRAM, upper.join(name)).unwrap();
    }
    let options =
        format!("lowerdir={0},upperdir={1},workdir={2}", str(&sbin), str(&upper), str(&work));
    run("mount", &["-t", "overlay", "overlay", "-o", &options, str(&sbin)]);
}

fn planted(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    install(sandbox);
    let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
    fs::write(source.join("f"), "x").unwrap();
    (source, point)
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

#[test]
fn mount_and_umount_as_for_any_file_system() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let options = "map=0:100000:65536,noatime,nofail,x-systemd.automount,_netdev";
        run("mount", &["-t", "idmapfs", "-o", options, str(&source), str(&point)]);
        assert_eq!(owner(&point.join("f")), 100_000);
        let found = run("findmnt", &["-vno", "FSTYPE,SOURCE", str(&point)]);
        assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["fuse.idmapfs", str(&source)]);
        run("umount", &[str(&point)]);
        assert!(mount_at(&point).is_none());
        wait_for("the server's end", || processes(&point).is_empty());
    });
}

#[test]
fn an_image_with_an_upper_directory_is_mounted_like_any_file_system() {
    require!(Root, Fuse, Overlay, Squashfs);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let (image, upper) = (sandbox.dir("images").join("image"), sandbox.dir("written"));
        let quiet = ["-noappend", "-quiet", "-no-progress"];
        run("mksquashfs", &[&[str(&source), str(&image)][..], &quiet].concat());
        let mount = |upper: &Path| {
            let options = format!("upper={}", str(upper));
            output("mount", &["-t", "idmapfs", "-o", &options, str(&image), str(&point)])
        };
        assert!(mount(&upper).status.success());
        fs::write(point.join("new"), "x").unwrap();
        // As by mount -a once more.
        assert!(mount(&upper).status.success());
        for other in ["upper=/var/tmp", "defaults"] {
            let again = output("mount", &["-t", "idmapfs", "-o", other, str(&image), str(&point)]);
            assert!(text(&again).contains("another upper directory"), "{other}");
        }
        run("umount", &[str(&point)]);
        assert!(mount_at(&point).is_none() && upper.join("new").exists());
    });
}

#[test]
fn fstab_and_mount_all() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let other = sandbox.dir("with space");
        let later = sandbox.dir("later");
        let table = format!(
            "# a comment\n\
             {src} {mnt} idmapfs map=0:100000:65536,nofail,x-gvfs-hide 0 0\n\
             {src} {other} idmapfs present-as=7:8,ro 0 0\n\
             {src} {later} idmapfs noauto,user,map=u:0:500:1 0 0\n",
            src = str(&source),
            mnt = str(&point),
            other = str(&other).replace(' ', "\\040"),
            later = str(&later),
        );
        let fstab = sandbox.file("fstab", &table);
        run("mount", &["-a", "-T", str(&fstab)]);
        assert_eq!(owner(&point.join("f")), 100_000);
        assert_eq!(owner(&other.join("f")), 7);
        assert!(mount_at(&later).is_none());
        let options = mount_at(&other).unwrap().options;
        assert!(options.split(',').any(|option| option == "ro"), "{options}");
        // A second time nothing is mounted twice.
        run("mount", &["-a", "-T", str(&fstab)]);
        run("mount", &["-T", str(&fstab), str(&later)]);
        assert_eq!(owner(&later.join("f")), 500);
        for point in [&later, &other, &point] {
            run("umount", &[str(point)]);
            assert!(mount_at(point).is_none(), "mounted twice: {point:?}");
        }
    });
}

#[test]
fn a_bad_option_fails_with_its_reason() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let done = output("mount", &["-t", "idmapfs", "-o", "mop=1", str(&source), str(&point)]);
        assert!(!done.status.success());
        assert!(text(&done).contains("mop"), "{}", text(&done));
        assert!(mount_at(&point).is_none());
        run("mount", &["-f", "-t", "idmapfs", "-o", "map=0:1:1", str(&source), str(&point)]);
        assert!(mount_at(&point).is_none(), "a fake mount was real");
    });
}

#[test]
fn remount_changes_flags_and_nothing_else() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        run("mount", &["-t", "idmapfs", "-o", "map=0:100000:9", str(&source), str(&point)]);
        run("mount", &["-o", "remount,ro", str(&point)]);
        assert_eq!(fs::write(point.join("x"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        run("mount", &["-o", "remount,rw", str(&point)]);
        assert_eq!(owner(&point.join("f")), 100_000);
        let done = output(PROGRAM, &["-o", "remount,map=0:5:9", str(&source), str(&point)]);
        assert_eq!(done.status.code(), Some(1), "{}", text(&done));
        assert!(text(&done).contains("reload"), "{}", text(&done));
        run("umount", &[str(&point)]);
    });
}

#[test]
fn abort_frees_callers_of_a_stuck_server() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, mut ours) = Ours::of_new(sandbox, &["--cache", "none"]);
        fs::write(source.join("f"), "x").unwrap();
        let stuck = processes(&ours.point);
        for pid in &stuck {
            nix::sys::signal::kill(*pid, Signal::SIGSTOP).unwrap();
            let stopped = || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
            };
            wait_for("a stopped server", stopped);
        }
        let caller = std::thread::spawn({
            let path = ours.at("f");
            move || fs::read(path).is_err()
        });
        assert!(!holds_within(Duration::from_millis(300), || caller.is_finished()));
        let done = finish(&["abort", str(&ours.point)]);
        assert!(done.status.success(), "{}", text(&done));
        assert!(holds_within(Duration::from_secs(5), || caller.is_finished()), "still stuck");
        assert!(caller.join().unwrap());
        for pid in stuck {
            let _ = nix::sys::signal::kill(pid, Signal::SIGCONT);
        }
        ours.ended();
        let _ = output("umount", &[str(&ours.point)]);
        assert!(mount_at(&ours.point).is_none());
    });
}

#[test]
fn abort_asks_nothing_of_a_mount_on_the_way() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, outer) = Ours::of_new(sandbox, &["--cache", "none"]);
        fs::create_dir_all(source.join("d/inner")).unwrap();
        let (other, point) = (sandbox.dir("other"), outer.at("d/inner"));
        // Its log is not on the mount that hangs.
        let mut inner = command(&["-f"]);
        inner.arg(other).arg(&point);
        let mut inner = Ours::start(inner, &point, sandbox.path("inner.log"));
        let stuck = processes(&outer.point);
        for pid in &stuck {
            nix::sys::signal::kill(*pid, Signal::SIGSTOP).unwrap();
        }
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let done = finish(&["abort", str(&inner.point)]);
            inner.ended();
            done
        }));
        for pid in stuck {
            nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        }
        let done = done.expect("neither waits for the mount on the way");
        assert!(done.status.success(), "{}", text(&done));
        let _ = output("umount", &[str(&inner.point)]);
    });
}

#[test]
fn stats_count_what_was_asked_and_is_held() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--log", "info"]);
        for name in ["a", "b", "c"] {
            fs::write(source.join(name), name).unwrap();
        }
        // A mount is there a moment before its server can be asked.
        wait_for("a server that is known", || {
            finish(&["stats", str(&ours.point)]).status.success()
        });
        let stats = || {
            let done = finish(&["stats", "--json", str(&ours.point)]);
            assert!(done.status.success(), "{}", text(&done));
            let stats: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
            move |part: &str, word: &str| stats[part][word].as_u64().unwrap()
        };
        let before = stats();
        for name in ["a", "b", "c"] {
            assert_eq!(fs::read(ours.at(name)).unwrap(), name.as_bytes());
        }
        assert!(fs::metadata(ours.at("none")).is_err());
        let (open, list) =
            (fs::File::open(ours.at("a")).unwrap(), fs::read_dir(&ours.point).unwrap());
        let after = stats();
        let more = |part: &str, word: &str| after(part, word) - before(part, word);
        assert_eq!((more("requests", "lookup"), more("counts", "no_such_name")), (4, 1));
        assert_eq!(more("requests", "open"), 4);
        assert_eq!(more("counts", "open_cached") + more("counts", "open_passthrough"), 4);
        assert_eq!((more("held", "files"), more("held", "directories")), (1, 1));
        assert_eq!(more("held", "inodes"), 3);
        assert!(more("held", "descriptors") >= 2 && after("held", "nodes") >= 1);
        assert_eq!(more("counts", "fault"), 0);
        drop((open, list));
        wait_for("both released", || {
            stats()("held", "files") + stats()("held", "directories") == 0
        });
        let done = finish(&["--stats", str(&ours.point)]);
        let said = text(&done);
        assert!(said.contains("requests:\n  ") && said.contains("held:\n  descriptors"), "{said}");
        let done = finish(&["stats", "/proc"]);
        assert_eq!(done.status.code(), Some(32), "{}", text(&done));
    });
}

/// What costs no call of the host, or no unpacking, is told apart.
#[test]
fn what_was_at_hand_is_counted() {
    require!(Root, Fuse, Erofs);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("a"), "a").unwrap();
        let count = |ours: &Ours, word: &str| {
            let done = finish(&["stats", "--json", str(&ours.point)]);
            let stats: Option<serde_json::Value> = serde_json::from_slice(&done.stdout).ok();
            stats.map_or(0, |stats| stats["counts"][word].as_u64().unwrap())
        };
        // It stays open once it has not changed for a moment.
        wait_for("an open of what is open", || {
            assert_eq!(fs::read(ours.at("a")).unwrap(), b"a");
            count(&ours, "open_again") > 0
        });
        let image = sandbox.path("image");
        run("mkfs.erofs", &["-zlz4", str(&image), str(&source)]);
        let ours = Ours::new(&image, &sandbox.dir("of-image"), &[]);
        wait_for("a listing that is kept", || {
            assert_eq!(fs::read(ours.at("a")).unwrap(), b"a");
            assert!(fs::metadata(ours.at("none")).is_err());
            count(&ours, "image_made") > 0 && count(&ours, "image_kept") > 0
        });
    });
}

/// Who asks by a signal is answered whatever is logged otherwise.
#[test]
fn a_signal_has_the_counters_logged_at_any_level() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        for args in [&[][..], &["--log", "off"], &["--log", "info"]] {
            let ours = Ours::new(&source, &point, args);
            assert!(!ours.at("none").exists());
            ours.signal(Signal::SIGUSR1);
            wait_for("a line of the log", || ours.log().contains("info: stats: "));
            assert!(ours.log().contains("lookup "), "{}", ours.log());
            fs::remove_file(point.with_extension("log")).unwrap();
            ours.unmount();
        }
    });
}

#[test]
fn explain_says_what_the_mount_shows() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        fs::write(source.join("f"), "x").unwrap();
        sh(&format!("chown 7:5000 {}", str(&source.join("f"))));
        let map = ["--map", "0:100000:1000"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &map);
        assert_eq!(owner(&ours.at("f")), 100_007);
        let done = finish(&["explain", map[0], map[1], str(&source), "f"]);
        assert!(done.status.success(), "{}", text(&done));
        let said = text(&done);
        assert!(said.contains("100007") && said.contains("5000"), "{said}");
    });
}

/// The next mount can get the device number of one that has just gone, whose
/// server is not through yet.
#[test]
fn a_server_that_ends_leaves_the_next_mount_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        // Mounts of others may get the number first.
        for _ in 0..10 {
            let mut old = Ours::new(&source, &point, &[]);
            let before = mount_at(&point).unwrap().device;
            old.signal_server(Signal::SIGSTOP);
            sh(&format!("umount -l {}", str(&point)));
            let done = finish(&[str(&source), str(&point)]);
            assert!(done.status.success(), "{}", text(&done));
            let device = mount_at(&point).unwrap().device;
            old.signal_server(Signal::SIGCONT);
            old.ended();
            assert_eq!(mount_at(&point).map(|mount| mount.device), Some(device.clone()));
            sh(&format!("ls {0} && umount {0}", str(&point)));
            if device == before {
                break;
            }
        }
    });
}
