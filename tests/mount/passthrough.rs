//! Files that the kernel reads, writes and maps by itself.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{copy_program, holds_within, raw, run, sandbox, sh, sh_as, str, wait_for};

const MAP: [&str; 2] = ["--map", "0:100000:1000"];

/// What the kernel does by itself goes on without the server: so this tells
/// whether it does.
fn goes_on_without_the_server(ours: &Ours, act: impl FnOnce() -> bool + Send) -> bool {
    ours.signal_server(Signal::SIGSTOP);
    let state = format!("/proc/{}/stat", ours.server());
    wait_for("a stopped server", || fs::read_to_string(&state).unwrap().contains(") T "));
    std::thread::scope(|scope| {
        let acts = scope.spawn(act);
        let went_on = holds_within(Duration::from_secs(2), || acts.is_finished());
        ours.signal_server(Signal::SIGCONT);
        acts.join().unwrap() && went_on
    })
}

/// Who reads a file again waits for no open of it; nobody on the host waits for long.
#[test]
fn a_file_stays_open_to_be_read_again_for_some_seconds() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "x").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        // The other one is what knows the file, and has no access to it.
        let kept = || ours.held_open().iter().filter(|path| path.ends_with("f")).count() == 2;
        let on_host = File::open(source.join("f")).unwrap();
        let lease = |kind| raw::set_lease(on_host.as_fd(), kind).map(drop);
        for _ in 0..3 {
            wait_for("a file that stays open", || {
                assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "x");
                kept()
            });
        }
        assert_eq!(lease(libc::F_WRLCK), Err(libc::EAGAIN));
        assert_eq!(lease(libc::F_RDLCK), Ok(()), "readers are in nobody's way");
        lease(libc::F_UNLCK).unwrap();
        // Not by this process, of which another test may fork a copy meanwhile.
        sh(&format!("echo '#!/bin/sh' > {}", str(&ours.at("program"))));
        assert_eq!(fs::read_to_string(ours.at("program")).unwrap(), "#!/bin/sh\n");
        raw::chmod(&source.join("program"), 0o755).unwrap();
        assert!(Command::new(source.join("program")).status().unwrap().success());
        wait_for("a lease for writing", || lease(libc::F_WRLCK) == Ok(()));
        assert!(!kept());
    });
}

/// Acts while a program on the host, which is asked about each open of a file
/// (fanotify(7)), refuses those of a process.
fn refusing<T>(path: &Path, process: i32, act: impl FnOnce() -> T) -> T {
    let group = raw::hold(path, libc::FAN_OPEN_PERM).unwrap();
    let until = Arc::new(());
    let asks = Arc::downgrade(&until);
    let refuser = std::thread::spawn(move || {
        while asks.strong_count() > 0 {
            let mut events = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
            if poll(&mut events, PollTimeout::from(20_u8)) == Ok(1) {
                raw::answer_next(group.as_fd(), |pid| pid != process).unwrap();
            }
        }
    });
    let done = act();
    drop(until);
    refuser.join().unwrap();
    done
}

#[test]
fn who_decides_about_opens_on_the_host_is_asked_once_a_file_has_changed() {
    require!(Root, Fuse, Passthrough);
    for (args, is_asked) in [
        (&[][..], false),
        (&["--passthrough", "off"], false),
        (&["--passthrough", "off", "--cache", "none"], true),
    ] {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, args);
            let (server, on_host) = (ours.server().as_raw(), source.join("f"));
            fs::write(&on_host, "one").unwrap();
            let read = || {
                let read = fs::read_to_string(ours.at("f"));
                read.map_err(|error| error.raw_os_error().unwrap())
            };
            let refused = Err(libc::EPERM);
            let expected = if is_asked { refused.clone() } else { Ok("one".to_owned()) };
            // What has just changed does not stay open, nor what nobody has read for long.
            wait_for("an answer", || {
                assert_eq!(read().unwrap(), "one");
                refusing(&on_host, server, read) == expected
            });
            let change_and_read = || {
                fs::write(&on_host, "two!").unwrap();
                read()
            };
            assert_eq!(refusing(&on_host, server, change_and_read), refused, "{args:?}");
        });
    }
}

/// What is removed takes no room, however often it was read.
#[test]
fn a_file_that_was_read_takes_no_room_once_it_is_removed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let disk = Ext4::new(sandbox, 64);
        let ours = Ours::new(&disk.root, &sandbox.dir("mnt"), &MAP);
        let free = || {
            let told = nix::sys::statvfs::statvfs(&disk.root).unwrap();
            told.blocks_free() * told.fragment_size()
        };
        for remove_at in [&ours.point, &disk.root] {
            let before = free();
            fs::write(disk.root.join("f"), vec![b'x'; 8 << 20]).unwrap();
            assert_eq!(fs::read(ours.at("f")).unwrap().len(), 8 << 20);
            assert_eq!(fs::read(ours.at("f")).unwrap().len(), 8 << 20);
            fs::remove_file(remove_at.join("f")).unwrap();
            wait_for("free blocks", || free().saturating_add(1 << 20) >= before);
        }
    });
}

fn reads(file: &File) -> bool {
    let mut byte = [0];
    file.read_at(&mut byte, 0).is_ok()
}

#[test]
fn the_kernel_reads_and_writes_by_itself() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--log", "info"]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let (read, write) = (
            File::open(ours.at("f")).unwrap(),
            File::options().write(true).open(ours.at("f")).unwrap(),
        );
        // What comes before a first write is asked for once.
        write.write_at(b"x", 0).unwrap();
        assert!(goes_on_without_the_server(&ours, || reads(&read)));
        assert!(goes_on_without_the_server(&ours, || write.write_at(b"ab", 1).is_ok()));
        assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "xab3456789");
        let mut made = File::create_new(ours.at("new")).unwrap();
        made.write_all(b"1").unwrap();
        assert!(goes_on_without_the_server(&ours, || made.write_all(b"2").is_ok()));
        assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "12");
        assert!(ours.log().contains("the kernel reads and writes files by itself"));
        // Nothing of it is left open when all is closed.
        drop((read, write, made));
        let is_it = |path: &PathBuf| path.ends_with("new") && path.starts_with(&source);
        wait_for("closed files", || !ours.held_open().iter().any(is_it));
    });
}

#[test]
fn it_can_be_turned_off() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) =
            Ours::of_new(sandbox, &["--log", "info", "--passthrough", "off", "--cache", "none"]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let read = File::open(ours.at("f")).unwrap();
        assert!(!goes_on_without_the_server(&ours, || reads(&read)));
        assert!(reads(&read));
        assert!(ours.log().contains("the server reads and writes files: passthrough is off"));
    });
}

/// A source on which the kernel would not do it is served all the same.
#[test]
fn an_overlay_is_read_and_written_by_the_server() {
    require!(Root, Fuse, Overlay);
    sandbox(|sandbox| {
        let dir = |name: &str| sandbox.dir(name);
        let (lower, upper, work, merged) = (dir("l"), dir("u"), dir("w"), dir("m"));
        fs::write(lower.join("f"), "0123456789").unwrap();
        let layers =
            format!("lowerdir={},upperdir={},workdir={}", str(&lower), str(&upper), str(&work));
        run("mount", &["-t", "overlay", "-o", &layers, "overlay", str(&merged)]);
        let ours = Ours::new(&merged, &dir("mnt"), &["--log", "info"]);
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "0123456789");
        fs::write(ours.at("f"), "new").unwrap();
        assert_eq!(fs::read_to_string(upper.join("f")).unwrap(), "new");
        assert!(ours.log().contains("stacked"), "{}", ours.log());
    });
}

#[test]
fn an_overlay_works_on_top() {
    require!(Root, Fuse, Overlay);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let dir = |name: &str| sandbox.dir(name);
        let (upper, work, merged) = (dir("u"), dir("w"), dir("m"));
        fs::write(source.join("f"), "0123456789").unwrap();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            str(&ours.point),
            str(&upper),
            str(&work)
        );
        run("mount", &["-t", "overlay", "-o", &layers, "overlay", str(&merged)]);
        assert_eq!(fs::read_to_string(merged.join("f")).unwrap(), "0123456789");
        sh(&format!("echo more >> {}/f", str(&merged)));
        assert_eq!(fs::read_to_string(upper.join("f")).unwrap(), "0123456789more\n");
        assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "0123456789");
        run("umount", &[str(&merged)]);
    });
}

#[test]
fn mappings_of_the_view_and_the_host_are_one() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), vec![b'a'; 4096]).unwrap();
        let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
        let (view, host) = (open(&ours.at("f")), open(&source.join("f")));
        let mut seen = raw::Page::map(view.as_fd(), true).unwrap();
        let mut own = raw::Page::map(host.as_fd(), true).unwrap();
        seen.set(1, b'v');
        own.set(2, b'h');
        assert_eq!((own.get(1), seen.get(2)), (b'v', b'h'));
        host.write_at(b"w", 3).unwrap();
        assert_eq!(seen.get(3), b'w');
        view.write_at(b"x", 4).unwrap();
        assert_eq!(own.get(4), b'x');
    });
}

/// Two programs that share memory by a file would not meet there.
#[test]
fn where_the_server_reads_mappings_of_the_view_and_the_host_are_two() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--passthrough", "off"]);
        fs::write(source.join("f"), vec![b'a'; 4096]).unwrap();
        let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
        let (view, host) = (open(&ours.at("f")), open(&source.join("f")));
        let mut seen = raw::Page::map(view.as_fd(), true).unwrap();
        let mut own = raw::Page::map(host.as_fd(), true).unwrap();
        assert_eq!((seen.get(1), own.get(1)), (b'a', b'a'));
        seen.set(1, b'v');
        own.set(2, b'h');
        assert_eq!((own.get(1), seen.get(2)), (b'a', b'a'));
        seen.sync().unwrap();
        assert_eq!(own.get(1), b'v');
    });
}

#[test]
fn stores_to_a_mapping_show_after_the_file_is_closed() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "").unwrap();
        let file = File::options().read(true).write(true).open(ours.at("f")).unwrap();
        file.set_len(4096).unwrap();
        let mut page = raw::Page::map(file.as_fd(), true).unwrap();
        drop(file);
        let told = |path: &Path| {
            let attr = fs::metadata(path).unwrap();
            (attr.mtime(), attr.mtime_nsec(), attr.blocks())
        };
        wait_for("a closed file", || told(&ours.at("f")) == told(&source.join("f")));
        let before = told(&ours.at("f"));
        std::thread::sleep(Duration::from_millis(20));
        page.set(0, b'x');
        drop(page);
        std::thread::sleep(Duration::from_millis(1200));
        let now = told(&ours.at("f"));
        assert_eq!(now, told(&source.join("f")));
        assert_ne!(now, before);
    });
}

/// Callers open, read, append, cut and seek at once; first opens meet last
/// closes all the time.
#[test]
fn files_are_opened_and_closed_by_many_at_once() {
    require!(Root, Fuse);
    for passthrough in ["auto", "off"] {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, &["--passthrough", passthrough]);
            fs::write(source.join("f"), "").unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..500 {
                            let mut file = File::options().append(true).open(ours.at("f")).unwrap();
                            file.write_all(b"0123456789\n").unwrap();
                            let mut line = [0; 11];
                            File::open(ours.at("f")).unwrap().read_exact(&mut line).unwrap();
                            assert_eq!(&line, b"0123456789\n");
                        }
                    });
                }
            });
            let lines = fs::read_to_string(source.join("f")).unwrap();
            assert_eq!(lines.len(), 4 * 500 * 11);
            assert!(lines.lines().all(|line| line == "0123456789"));
        });
    }
}

#[test]
fn what_else_is_asked_of_an_open_file_works() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let read = File::open(ours.at("f")).unwrap();
        let mut file = File::options().read(true).write(true).open(ours.at("f")).unwrap();
        file.sync_all().unwrap();
        read.sync_data().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(raw::lseek(read.as_fd(), 1 << 19, libc::SEEK_HOLE).unwrap(), 1 << 19);
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 1 << 20);
        raw::fallocate(file.as_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4)
            .unwrap();
        let mut start = [1; 10];
        read.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"\0\0\0\x00456789");
        assert_eq!(read.read_at(&mut start, 1 << 20).unwrap(), 0, "the end of the file");
        raw::lseek(read.as_fd(), 4, libc::SEEK_SET).unwrap();
        let to = File::create(ours.at("copy")).unwrap();
        let copied = raw::copy_range(read.as_fd(), to.as_fd(), 6).unwrap();
        assert_eq!(copied, 6);
        assert_eq!(fs::read_to_string(source.join("copy")).unwrap(), "456789");
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        // A file that the host deletes stays what was opened.
        fs::remove_file(source.join("f")).unwrap();
        file.write_at(b"end", 0).unwrap();
        read.read_exact_at(&mut start[..3], 0).unwrap();
        assert_eq!(&start[..3], b"end");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.sync_all().unwrap();
    });
}

#[test]
fn what_is_read_past_the_kernels_cache_is_what_the_host_has() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "ttl=3600"]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let file = File::open(ours.at("f")).unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0).unwrap();
        fs::write(source.join("f"), "other contents, longer ones").unwrap();
        file.read_exact_at(&mut bytes, 20).unwrap();
        assert_eq!(&bytes, b"er o");
        let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(ours.at("f"));
        // As on the host, where the file system may not have it.
        let host = File::options().read(true).custom_flags(libc::O_DIRECT).open(source.join("f"));
        assert_eq!(direct.is_ok(), host.is_ok());
    });
}

/// What the host refuses is refused as there, though the kernel opens the file.
#[test]
fn a_lease_of_the_host_is_met_as_there() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let (disk, view) = (source.join("f"), ours.at("f"));
        fs::write(&disk, "0123456789").unwrap();
        let (leased, give_back) = (sandbox.path("leased"), sandbox.path("give-back"));
        let holder = raw::fork(|| {
            // What tells of a lease that is to be given up would end it.
            let _ = nix::sys::signal::SigSet::from(Signal::SIGIO).thread_block();
            let Ok(file) = File::options().write(true).open(&disk) else { return };
            if raw::set_lease(file.as_fd(), libc::F_WRLCK).is_ok() {
                let _ = fs::write(&leased, "");
                holds_within(Duration::from_secs(30), || give_back.exists());
                let _ = raw::set_lease(file.as_fd(), libc::F_UNLCK);
            }
        })
        .unwrap();
        wait_for("a lease", || leased.exists());
        let open = |flags| raw::open(&view, libc::O_RDONLY | flags, 0).map(drop);
        assert_eq!(open(libc::O_NONBLOCK), Err(libc::EAGAIN));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| open(0));
            std::thread::sleep(Duration::from_millis(200));
            assert!(!waits.is_finished());
            fs::write(&give_back, "").unwrap();
            assert_eq!(waits.join().unwrap(), Ok(()));
        });
        nix::sys::wait::waitpid(holder, None).unwrap();
    });
}

#[test]
fn programs_that_run_are_not_written_nor_the_other_way_round() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        copy_program("/bin/sleep", &source.join("sleep"));
        let written = File::options().write(true).open(ours.at("sleep")).unwrap();
        let busy = Command::new(ours.at("sleep")).arg("60").spawn().unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY));
        drop(written);
        let mut child = None;
        // Another test's child may hold the descriptor for a moment.
        wait_for("a program", || {
            child = Command::new(ours.at("sleep")).arg("60").spawn().ok();
            child.is_some()
        });
        let mut child = child.unwrap();
        let busy = File::options().write(true).open(ours.at("sleep")).unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// Set-id bits go with a write, though nobody asks the server; one who may keep
/// them does.
#[test]
fn writes_by_the_kernel_take_set_id_bits() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[MAP[0], MAP[1], "-o", "suid"]);
        let mode = |name: &str| fs::metadata(source.join(name)).unwrap().mode() & 0o7777;
        for (name, held) in [("a", false), ("b", true)] {
            fs::write(source.join(name), "x").unwrap();
            raw::chmod(&source.join(name), 0o6777).unwrap();
            // A reader makes the kernel use the host's file from before.
            let reader = held.then(|| File::open(ours.at(name)).unwrap());
            sh_as(0, 0, &[], &format!("echo y >> {}", str(&ours.at(name))));
            assert_eq!(mode(name), 0o6777, "by root");
            sh_as(100_005, 100_005, &[], &format!("echo y >> {}", str(&ours.at(name))));
            assert_eq!(mode(name), 0o777, "by a user");
            assert_eq!(fs::read_to_string(source.join(name)).unwrap(), "xy\ny\n");
            drop(reader);
        }
        // Bits that come while a file is open for writing go as well.
        let file = File::options().write(true).open(ours.at("a")).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o4755)).unwrap();
        file.write_at(b"z", 0).unwrap();
        assert!([0o4755, 0o755].contains(&mode("a")));
        assert_eq!(fs::metadata(ours.at("a")).unwrap().mode() & 0o7777, mode("a"));
    });
}

#[test]
fn a_file_that_only_appends_is_never_mapped_for_writing() {
    require!(Root, Fuse, Ext4Loop, Passthrough);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &[]);
        let (disk, view) = (image.root.join("f"), ours.at("f"));
        fs::write(&disk, "0123456789").unwrap();
        let reader = File::open(&view).unwrap();
        assert!(reads(&reader));
        run("chattr", &["+a", str(&disk)]);
        let denied = File::options().write(true).open(&view).unwrap_err();
        assert_eq!(denied.raw_os_error(), Some(libc::EPERM));
        File::options().append(true).open(&view).unwrap().write_all(b"more").unwrap();
        assert_eq!(fs::read_to_string(&disk).unwrap(), "0123456789more");
        // While the kernel reads the host's file, one that can be mapped is busy.
        let both = |path: &Path| File::options().read(true).append(true).open(path);
        assert_eq!(both(&view).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert!(File::open(&view).is_ok());
        for change in ["-a", "+a"] {
            run("chattr", &[change, str(&view)]);
        }
        // One that is opened by anybody from now on is the server's.
        drop(reader);
        wait_for("the release", || both(&view).is_ok());
        let reader = File::open(&view).unwrap();
        let mut both = both(&view).unwrap();
        both.write_all(b", both").unwrap();
        assert!(!goes_on_without_the_server(&ours, || reads(&reader)));
        assert_eq!(fs::read_to_string(&disk).unwrap(), "0123456789more, both");
        run("chattr", &["-a", str(&disk)]);
        // So is one that nobody may change.
        fs::write(image.root.join("g"), "0123456789").unwrap();
        run("chattr", &["+i", str(&image.root.join("g"))]);
        let reader = File::open(ours.at("g")).unwrap();
        assert!(!goes_on_without_the_server(&ours, || reads(&reader)));
        run("chattr", &["-i", str(&image.root.join("g"))]);
    });
}

/// What is open can be read on when the server is killed or its connection
/// aborted, and nobody hangs.
#[test]
fn what_is_open_survives_the_server() {
    require!(Root, Fuse, Passthrough);
    for abort in [false, true] {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, &[]);
            fs::write(source.join("f"), "0123456789").unwrap();
            let file = File::options().read(true).write(true).open(ours.at("f")).unwrap();
            file.write_at(b"x", 0).unwrap();
            if abort {
                crate::support::ours::finish(&["abort", str(&ours.point)]);
            } else {
                ours.signal_server(Signal::SIGKILL);
            }
            let gone = || File::open(ours.at("f")).is_err();
            assert!(holds_within(std::time::Duration::from_secs(5), gone));
            assert!(reads(&file));
            let mut all = String::new();
            (&file).read_to_string(&mut all).unwrap();
            assert_eq!(all, "x123456789");
            drop(file);
        });
    }
}
