//! What docs/semantics.md says and no other test shows: above all what is not
//! had through the mount.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{holds_within, raw, rest, sandbox, sh_as, str, try_sh_as, wait_for};

const MAP: [&str; 2] = ["--map", "0:100000:1000"];
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn an_append_only_file_takes_appends_alone() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let disk = image.root.join("log");
        fs::write(&disk, "one\n").unwrap();
        raw::chown(&disk, 5, 5, false).unwrap();
        raw::set_flags(File::open(&disk).unwrap().as_fd(), 0x20).expect("chattr +a");
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        sh_as(100_005, 100_005, &[], &format!("echo two >> {}/log", str(&ours.point)));
        assert_eq!(fs::read_to_string(&disk).unwrap(), "one\ntwo\n");
        let refused = File::options().write(true).open(ours.at("log")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        // What a mapping holds would not go where it belongs.
        let file = File::options().read(true).append(true).open(ours.at("log")).unwrap();
        if let Ok(mut page) = raw::Page::map(file.as_fd(), true) {
            page.set(0, b'O');
            assert!(page.sync().is_err(), "a page was written");
        }
        assert_eq!(fs::read_to_string(&disk).unwrap(), "one\ntwo\n");
        raw::set_flags(File::open(&disk).unwrap().as_fd(), 0).unwrap();
    });
}

#[test]
fn unnamed_files_are_refused() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        raw::open(&image.root, flags, 0o600).expect("natively");
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let refused = raw::open(&ours.point, flags, 0o600).map(drop);
        assert_eq!(refused, Err(libc::EOPNOTSUPP));
    });
}

#[test]
fn birth_times_are_not_shown() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        fs::write(image.root.join("f"), "").unwrap();
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let shown = |path: &Path| raw::statx(Ok(path)).unwrap().stx_mask & libc::STATX_BTIME != 0;
        assert!(shown(&image.root.join("f")));
        assert!(!shown(&ours.at("f")));
    });
}

#[test]
fn flags_are_not_shown_by_statx() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let disk = image.root.join("f");
        let file = open(&disk);
        raw::set_flags(file.as_fd(), 0x20).expect("chattr +a");
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let append = libc::STATX_ATTR_APPEND as u64;
        let shown = |path: &Path| raw::statx(Ok(path)).unwrap().stx_attributes & append != 0;
        assert!(shown(&disk));
        assert!(!shown(&ours.at("f")));
        raw::set_flags(file.as_fd(), 0).unwrap();
    });
}

#[test]
fn room_is_made_and_given_back_but_not_moved() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &[]);
        let file = open(&ours.at("f"));
        file.write_at(&[7; 16384], 0).unwrap();
        let (keep, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        for mode in [0, keep, punch | keep, zero, zero | keep] {
            raw::fallocate(file.as_fd(), mode, 4096, 4096).unwrap();
        }
        raw::fallocate(file.as_fd(), punch | keep, 4096, 4096).unwrap();
        assert_eq!(raw::lseek(file.as_fd(), 0, libc::SEEK_HOLE), Ok(4096));
        assert_eq!(raw::lseek(file.as_fd(), 4096, libc::SEEK_DATA), Ok(8192));
        for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
            let refused = raw::fallocate(file.as_fd(), mode, 4096, 4096);
            assert_eq!(refused, Err(libc::EOPNOTSUPP), "{mode:x}");
        }
    });
}

#[test]
fn copies_are_made_within_the_mount_and_clones_nowhere() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &[]);
        fs::write(ours.at("a"), "contents").unwrap();
        let (from, to) = (open(&ours.at("a")), open(&ours.at("b")));
        assert_eq!(raw::copy_range(from.as_fd(), to.as_fd(), 8), Ok(8));
        assert_eq!(fs::read_to_string(image.root.join("b")).unwrap(), "contents");
        let elsewhere = open(&image.root.join("c"));
        raw::lseek(from.as_fd(), 0, libc::SEEK_SET).unwrap();
        let refused = raw::copy_range(from.as_fd(), elsewhere.as_fd(), 8);
        assert_eq!(refused, Err(libc::EXDEV));
        assert_eq!(raw::clone_file(from.as_fd(), to.as_fd()), Err(libc::EOPNOTSUPP));
    });
}

#[test]
fn an_open_without_access_time_leaves_it_alone() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        image.remount("strictatime");
        let disk = image.root.join("f");
        fs::write(&disk, "contents").unwrap();
        raw::chown(&disk, 5, 5, false).unwrap();
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--cache", "none"]);
        let atime = || fs::metadata(&disk).map(|meta| (meta.atime(), meta.atime_nsec())).unwrap();
        raw::utimens(&disk, [(1000, 0), (1000, 0)], false).unwrap();
        let mut options = File::options();
        let quiet = options.read(true).custom_flags(libc::O_NOATIME).open(ours.at("f")).unwrap();
        quiet.read_at(&mut [0; 8], 0).unwrap();
        assert_eq!(atime(), (1000, 0));
        fs::read(ours.at("f")).unwrap();
        wait_for("an access time", || atime() != (1000, 0));
        // By somebody else it is refused.
        let refused = format!("dd if={} of=/dev/null iflag=noatime", str(&ours.at("f")));
        assert!(!try_sh_as(6, 6, &[], &refused).status.success());
    });
}

#[test]
fn flock_is_not_seen_outside_of_the_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let second = Ours::new(&source, &sandbox.dir("second"), &[]);
        let held = open(&ours.at("f"));
        raw::flock(held.as_fd(), libc::LOCK_EX).unwrap();
        for other in [source.join("f"), second.at("f")] {
            let other = open(&other);
            raw::flock(other.as_fd(), libc::LOCK_EX | libc::LOCK_NB).unwrap();
        }
    });
}

/// Whether a process is in a call of fcntl(2) that waits for a lock.
fn waits_for_a_lock(pid: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let words: Vec<&str> = call.split(' ').take(3).collect();
    let wanted = [libc::SYS_fcntl.to_string(), format!("{:#x}", libc::F_SETLKW)];
    matches!(words[..], [number, _, command] if [number, command] == wanted)
}

#[test]
fn a_deadlock_of_locks_is_refused() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(ours.at("f"), "0123456789").unwrap();
        // As on the source: the first waits, and has the lock when the other is gone.
        for (root, told) in [(&source, "on-source"), (&ours.point, "in-view")] {
            let (path, told) = (root.join("f"), sandbox.dir(told));
            let told = ["first", "second"].map(|name| told.join(name));
            let crossing = |n: usize, other: Option<Pid>| {
                let (path, told) = (path.clone(), told.clone());
                raw::fork(move || {
                    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                    let lock = |file: &File, command, start: usize| {
                        let start = i64::try_from(start).unwrap();
                        raw::lock(file.as_fd(), command, libc::F_WRLCK, start, 1)
                    };
                    let Ok(file) = File::options().read(true).write(true).open(path) else {
                        return;
                    };
                    let held = lock(&file, libc::F_SETLK, n).is_ok();
                    let _ = fs::write(&told[n], if held { "held" } else { "refused" });
                    holds_within(LONG, || told[1 - n].exists());
                    // The second one comes late.
                    if let Some(first) = other {
                        holds_within(LONG, || waits_for_a_lock(first));
                        rest(Duration::from_millis(300));
                    }
                    let waited = lock(&file, libc::F_SETLKW, 1 - n).map(drop);
                    let _ = fs::write(told[n].with_extension("end"), format!("{waited:?}"));
                    std::thread::sleep(LONG);
                })
                .unwrap()
            };
            let first = crossing(0, None);
            let second = crossing(1, Some(first));
            let end = |n: usize| fs::read_to_string(told[n].with_extension("end"));
            let refused = format!("{:?}", Err::<(), _>(libc::EDEADLK));
            wait_for("who is refused", || end(1).is_ok_and(|said| said == refused));
            assert!(end(0).is_err(), "{root:?}: {:?}", end(0));
            kill(second, Signal::SIGKILL).unwrap();
            waitpid(second, None).unwrap();
            wait_for("the lock", || end(0).is_ok_and(|said| said == "Ok(())"));
            kill(first, Signal::SIGKILL).unwrap();
            waitpid(first, None).unwrap();
        }
    });
}

#[test]
fn a_deadlock_with_the_source_lasts_until_one_is_killed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let told = sandbox.path("told");
        let lock = |file: &File, command, start| {
            raw::lock(file.as_fd(), command, libc::F_WRLCK, start, 1).map(drop)
        };
        let on_source = open(&source.join("f"));
        lock(&on_source, libc::F_SETLK, 0).unwrap();
        let caller = raw::fork(|| {
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            let view = open(&ours.at("f"));
            let _ = lock(&view, libc::F_SETLK, 1);
            let _ = fs::write(&told, "held");
            let waited = lock(&view, libc::F_SETLKW, 0);
            let _ = fs::write(&told, format!("{waited:?}"));
        })
        .unwrap();
        wait_for("a lock", || told.exists());
        let (waits, ended) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| waits.send(lock(&on_source, libc::F_SETLKW, 1)));
            assert!(ended.recv_timeout(Duration::from_millis(500)).is_err());
            assert_eq!(fs::read_to_string(&told).unwrap(), "held");
            kill(caller, Signal::SIGKILL).unwrap();
            waitpid(caller, None).unwrap();
            assert_eq!(ended.recv_timeout(LONG), Ok(Ok(())));
        });
    });
}

#[test]
fn leases_are_between_the_callers_of_a_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "x").unwrap();
        let (path, told) = (ours.at("f"), sandbox.path("told"));
        let holder = raw::fork({
            let (path, told) = (path.clone(), told.clone());
            move || {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                // What tells of a lease that is to be given up would end it.
                let _ = nix::sys::signal::SigSet::from(Signal::SIGIO).thread_block();
                let Ok(file) = File::open(path) else { return };
                let leased = raw::set_lease(file.as_fd(), libc::F_RDLCK).is_ok();
                let _ = fs::write(told, if leased { "leased" } else { "refused" });
                std::thread::sleep(Duration::from_secs(60));
            }
        })
        .unwrap();
        wait_for("a lease", || fs::read_to_string(&told).is_ok_and(|text| text == "leased"));
        let write = |path: &Path| raw::open(path, libc::O_WRONLY | libc::O_NONBLOCK, 0).map(drop);
        assert_eq!(write(&source.join("f")), Ok(()), "the host knows of it");
        assert_eq!(write(&path), Err(libc::EAGAIN));
        kill(holder, Signal::SIGKILL).unwrap();
        waitpid(holder, None).unwrap();
        wait_for("the end of the lease", || write(&path) == Ok(()));
    });
}

/// The kernel asks again before it refuses.
#[test]
fn a_right_given_on_the_host_counts_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        fs::create_dir(source.join("d")).unwrap();
        fs::write(source.join("d/f"), "secret").unwrap();
        raw::chmod(&source.join("d"), 0o700).unwrap();
        let args = [MAP[0], MAP[1], "--cache", "ttl=3600"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
        let read = format!("cat {}/d/f", str(&ours.point));
        assert!(!try_sh_as(100_005, 100_005, &[], &read).status.success());
        raw::chmod(&source.join("d"), 0o755).unwrap();
        sh_as(100_005, 100_005, &[], &read);
    });
}

#[test]
fn watchers_see_what_is_done_through_the_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "none"]);
        let watch = raw::watch(&ours.point).unwrap();
        fs::write(source.join("on-the-host"), "").unwrap();
        assert!(ours.at("on-the-host").exists());
        assert!(!raw::readable(watch.as_fd(), 300), "the host's change is told");
        fs::write(ours.at("through"), "").unwrap();
        assert!(raw::readable(watch.as_fd(), 2000));
    });
}

#[test]
fn devices_are_of_use_only_if_asked_for() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        raw::mknod(&source.join("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
        for (option, found) in [("nodev", Err(libc::EACCES)), ("dev", Ok(()))] {
            let ours = Ours::new(&source, &sandbox.dir(option), &["-o", option]);
            let opened = raw::open(&ours.at("null"), libc::O_WRONLY, 0).map(drop);
            assert_eq!(opened, found, "{option}");
            let number = fs::metadata(ours.at("null")).unwrap().rdev();
            assert_eq!(number, libc::makedev(1, 3));
        }
    });
}

#[test]
fn attributes_that_a_file_system_makes_up_are_refused() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &[]);
        fs::write(ours.at("f"), "").unwrap();
        assert_eq!(raw::get_xattr(&ours.at("f"), c"system.other"), Err(libc::EOPNOTSUPP));
        let set = raw::set_xattr(&ours.at("f"), "system.other", b"x", 0);
        assert_eq!(set, Err(libc::EOPNOTSUPP));
    });
}
