//! Locks through the mount, on the source and in a second mount.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::require;
use crate::support::ours::Ours;
use crate::support::{holds_within, raw, sandbox, str, wait_for};

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn set(file: &File, kind: i32) -> raw::Sys<libc::flock> {
    raw::lock(file.as_fd(), libc::F_OFD_SETLK, kind, 0, 10)
}

/// A process that takes a POSIX lock, says so by a file, and waits.
fn holder(path: &Path, command: i32, told: &Path) -> nix::unistd::Pid {
    let (path, told) = (path.to_owned(), told.to_owned());
    raw::fork(move || {
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        if raw::lock(file.as_fd(), command, libc::F_WRLCK, 0, 10).is_ok() {
            let _ = fs::write(told, "held");
            std::thread::sleep(Duration::from_secs(60));
        }
    })
    .unwrap()
}

fn end(pid: nix::unistd::Pid) {
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    let started = Instant::now();
    waitpid(pid, None).unwrap();
    assert!(started.elapsed() < Duration::from_secs(30), "a process could not be killed");
}

#[test]
fn a_lock_excludes_on_the_source_and_in_a_second_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let second = Ours::new(&source, &sandbox.dir("second"), &["--map", "0:100000:1000"]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let places = [source.join("f"), ours.at("f"), second.at("f")];
        for holding in &places {
            let held = open(holding);
            // A lock of an open file ends with RELEASE, a moment after close.
            let taken = || set(&held, libc::F_WRLCK).is_ok();
            wait_for(&format!("{holding:?} unlocked"), taken);
            for trying in &places {
                let other = open(trying);
                let found = set(&other, libc::F_WRLCK).map(|_| ());
                assert_eq!(found, Err(libc::EAGAIN), "{holding:?} held, {trying:?} asked");
                let (command, kind) = (libc::F_OFD_GETLK, libc::F_RDLCK);
                let told = raw::lock(other.as_fd(), command, kind, 0, 0).unwrap();
                assert_eq!(i32::from(told.l_type), libc::F_WRLCK, "{holding:?}, {trying:?}");
                assert_eq!((told.l_start, told.l_len), (0, 10));
                for kind in [libc::F_WRLCK, libc::F_UNLCK] {
                    raw::lock(other.as_fd(), libc::F_OFD_SETLK, kind, 10, 5).unwrap();
                }
            }
            drop(held);
            for trying in &places {
                let other = open(trying);
                let free = || set(&other, libc::F_WRLCK).is_ok();
                wait_for(&format!("{holding:?} closed, {trying:?} free"), free);
            }
        }
    });
}

#[test]
fn readers_share_and_a_writer_waits_for_them() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let (one, two, three) = (open(&ours.at("f")), open(&ours.at("f")), open(&source.join("f")));
        for file in [&one, &two, &three] {
            set(file, libc::F_RDLCK).unwrap();
        }
        assert_eq!(set(&one, libc::F_WRLCK).map(|_| ()), Err(libc::EAGAIN));
        set(&two, libc::F_UNLCK).unwrap();
        set(&three, libc::F_UNLCK).unwrap();
        set(&one, libc::F_WRLCK).unwrap();
        raw::lock(one.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, 3, 2).unwrap();
        raw::lock(two.as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, 3, 2).unwrap();
        assert_eq!(set(&three, libc::F_RDLCK).map(|_| ()), Err(libc::EAGAIN));
    });
}

#[test]
fn a_waiting_lock_is_granted_when_the_holder_ends() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        for holding in [ours.at("f"), source.join("f")] {
            let (first, second) = (sandbox.path("first"), sandbox.path("second"));
            let a = holder(&holding, libc::F_SETLK, &first);
            wait_for("a holder", || first.exists());
            let waiting: Vec<_> = (0..20)
                .map(|n| {
                    holder(&ours.at("f"), libc::F_SETLKW, &second.with_extension(n.to_string()))
                })
                .collect();
            let granted =
                || (0..20).filter(|n| second.with_extension(n.to_string()).exists()).count();
            // While many wait, the server still answers.
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(granted(), 0, "granted while held");
            assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "0123456789");
            end(a);
            wait_for("one that is granted", || granted() == 1);
            for pid in waiting {
                end(pid);
            }
            for n in 0..20 {
                let _ = fs::remove_file(second.with_extension(n.to_string()));
            }
            let _ = fs::remove_file(first);
        }
    });
}

#[test]
fn more_can_wait_than_there_are_descriptors() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "0123456789").unwrap();
        let (program, from, to) = (crate::support::ours::PROGRAM, str(&source), str(&point));
        let script = format!("ulimit -n 64; exec {program} -f {from} {to}");
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &script]);
        let ours = Ours::start(command, &point, sandbox.path("log"));
        let held = open(&source.join("f"));
        set(&held, libc::F_WRLCK).unwrap();
        let shared = open(&ours.at("f"));
        let waiting: Vec<_> = (0..200)
            .map(|_| {
                let wait = || raw::lock(shared.as_fd(), libc::F_SETLKW, libc::F_WRLCK, 0, 10);
                raw::fork_and_try(wait).unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(fs::read_dir(&ours.point).unwrap().count(), 1);
        // The waiting processes have a copy of it.
        set(&held, libc::F_UNLCK).unwrap();
        for pid in waiting {
            assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
        }
    });
}

#[test]
fn a_waiting_process_can_be_killed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let held = open(&source.join("f"));
        set(&held, libc::F_WRLCK).unwrap();
        let told = sandbox.path("told");
        let waiting = holder(&ours.at("f"), libc::F_SETLKW, &told);
        std::thread::sleep(Duration::from_millis(300));
        end(waiting);
        drop(held);
        // Nor does the dead one hold it now.
        let file = open(&ours.at("f"));
        wait_for("a free lock", || set(&file, libc::F_WRLCK).is_ok());
        assert!(!told.exists());
    });
}

#[test]
fn a_lock_in_the_way_names_its_process() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let told = sandbox.path("told");
        let held_by = |path: &Path| {
            let found = raw::lock(open(path).as_fd(), libc::F_GETLK, libc::F_RDLCK, 5, 1).unwrap();
            (i32::from(found.l_type), found.l_pid)
        };
        for through in [ours.at("f"), source.join("f")] {
            fs::write(source.join("f"), "0123456789").unwrap();
            let pid = holder(&through, libc::F_SETLK, &told);
            wait_for("a lock", || told.exists());
            assert_eq!(held_by(&ours.at("f")), (libc::F_WRLCK, pid.as_raw()), "{through:?}");
            end(pid);
            wait_for("no lock", || held_by(&ours.at("f")).0 == libc::F_UNLCK);
            fs::remove_file(&told).unwrap();
        }
    });
}

#[test]
fn close_of_any_descriptor_drops_posix_locks() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let (one, two) = (open(&ours.at("f")), open(&ours.at("f")));
        raw::lock(one.as_fd(), libc::F_SETLK, libc::F_WRLCK, 0, 10).unwrap();
        let other = open(&source.join("f"));
        assert_eq!(set(&other, libc::F_WRLCK).map(|_| ()), Err(libc::EAGAIN));
        drop(two);
        wait_for("a free lock", || set(&other, libc::F_WRLCK).is_ok());
    });
}

/// The kernel does not tell of closes of such a descriptor but the last.
#[test]
fn a_reader_that_came_before_all_locks_drops_its_own_at_the_last_close() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let read = File::open(ours.at("f")).unwrap();
        let write = open(&ours.at("f"));
        raw::lock(read.as_fd(), libc::F_SETLK, libc::F_RDLCK, 0, 5).unwrap();
        raw::lock(write.as_fd(), libc::F_SETLK, libc::F_WRLCK, 5, 5).unwrap();
        let other = open(&source.join("f"));
        let copy = read.try_clone().unwrap();
        drop(read);
        assert_eq!(set(&other, libc::F_WRLCK).map(|_| ()), Err(libc::EAGAIN));
        drop(copy);
        wait_for("a free lock", || set(&other, libc::F_WRLCK).is_ok());
        drop(write);
        // One that has set none leaves those of others alone.
        raw::lock(other.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, 0, 10).unwrap();
        wait_for("a file without locks", || set(&other, libc::F_WRLCK).is_ok());
        raw::lock(other.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, 0, 10).unwrap();
        let (read, write) = (File::open(ours.at("f")).unwrap(), open(&ours.at("f")));
        raw::lock(write.as_fd(), libc::F_SETLK, libc::F_WRLCK, 0, 10).unwrap();
        drop(read);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(set(&other, libc::F_WRLCK).map(|_| ()), Err(libc::EAGAIN));
        drop(write);
        wait_for("a free lock", || set(&other, libc::F_WRLCK).is_ok());
    });
}

/// The host changes two pages of a file under a lock, again and again. Whoever is given
/// one through the mount, at once or after a wait, reads no older one by any call.
#[test]
fn who_has_a_lock_sees_what_was_written_under_one() {
    require!(Root, Fuse);
    let ways: [&[&str]; 4] = [
        &[],
        &["--passthrough", "off"],
        &["--passthrough", "off", "--cache", "ttl=60"],
        &["--passthrough", "off", "--cache", "none"],
    ];
    for options in ways {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, options);
            fs::write(source.join("f"), [0; 9 * 4096]).unwrap();
            let lock = |file: &File, kind| {
                raw::lock(file.as_fd(), libc::F_OFD_SETLKW, kind, 0, 10).unwrap();
            };
            let (wrote, stop) = (AtomicU64::new(0), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let host = scope.spawn(|| {
                    let file = open(&source.join("f"));
                    for n in 1.. {
                        lock(&file, libc::F_WRLCK);
                        file.write_all_at(&u64::to_ne_bytes(n), 0).unwrap();
                        file.write_all_at(&u64::to_ne_bytes(n), 8 * 4096).unwrap();
                        wrote.store(n, Ordering::SeqCst);
                        lock(&file, libc::F_UNLCK);
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        std::thread::sleep(Duration::from_micros(n % 7 * 50));
                    }
                });
                let file = open(&ours.at("f"));
                let page = raw::Page::map(file.as_fd(), false).unwrap();
                let old = (0..2000).filter(|_| {
                    lock(&file, libc::F_RDLCK);
                    let wrote = wrote.load(Ordering::SeqCst);
                    let mapped = u64::from_ne_bytes(std::array::from_fn(|at| page.get(at)));
                    let read = [0, 8 * 4096].map(|at| {
                        let mut bytes = [0; 8];
                        file.read_exact_at(&mut bytes, at).unwrap();
                        u64::from_ne_bytes(bytes)
                    });
                    lock(&file, libc::F_UNLCK);
                    [mapped, read[0], read[1]].iter().any(|seen| *seen < wrote)
                });
                let old = old.count();
                stop.store(true, Ordering::SeqCst);
                host.join().unwrap();
                assert_eq!(old, 0, "{options:?}");
            });
        });
    }
}

#[test]
fn flock_excludes_between_callers_and_not_fcntl() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let (one, two) = (open(&ours.at("f")), open(&ours.at("f")));
        raw::flock(one.as_fd(), libc::LOCK_EX).unwrap();
        let busy = raw::flock(two.as_fd(), libc::LOCK_SH | libc::LOCK_NB);
        assert_eq!(busy, Err(libc::EWOULDBLOCK));
        set(&two, libc::F_WRLCK).unwrap();
        drop(one);
        // Another test's child may have it for a moment longer.
        let free = || raw::flock(two.as_fd(), libc::LOCK_EX | libc::LOCK_NB).is_ok();
        wait_for("a free lock", free);
    });
}

/// A process of the host leases a file: who opens or cuts it through the mount
/// waits until the lease is given back, and nobody else does.
#[test]
fn who_meets_a_lease_of_the_host_waits_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let (disk, view) = (source.join("f"), ours.at("f"));
        fs::write(&disk, "0123456789").unwrap();
        fs::write(source.join("g"), "g").unwrap();
        let (leased, give_back) = (sandbox.path("leased"), sandbox.path("give-back"));
        let holder = raw::fork(|| {
            // What tells of a lease that is to be given up would end it.
            let _ = nix::sys::signal::SigSet::from(Signal::SIGIO).thread_block();
            let Ok(file) = File::open(&disk) else { return };
            if raw::set_lease(file.as_fd(), libc::F_RDLCK).is_ok() {
                let _ = fs::write(&leased, "");
                holds_within(Duration::from_secs(30), || give_back.exists());
                let _ = raw::set_lease(file.as_fd(), libc::F_UNLCK);
            }
        })
        .unwrap();
        wait_for("a lease", || leased.exists());
        let cut: Vec<_> = (0..12)
            .map(|n| {
                let cut = || match n % 2 {
                    0 => raw::truncate(&view, 4).map(|_| ()),
                    _ => raw::open(&view, libc::O_WRONLY, 0).map(|_| ()),
                };
                raw::fork_and_try(cut).unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(fs::read_to_string(ours.at("g")).unwrap(), "g");
        assert_eq!(fs::metadata(&disk).unwrap().len(), 10);
        fs::write(&give_back, "").unwrap();
        for pid in cut {
            assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
        }
        waitpid(holder, None).unwrap();
        assert_eq!(fs::metadata(&disk).unwrap().len(), 4);
    });
}
