//! Names, contents, mapping into memory, programs.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::wait::WaitStatus;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{copy_program, holds_within, raw, run, sandbox, sh, sh_as, str, try_sh_as};

const MAP: [&str; 2] = ["--map", "0:100000:1000"];

#[test]
fn names_are_any_bytes() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let every: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
        let names: [&[u8]; 7] = [
            &every,
            b"\xff\xfe\x80",
            b"new\nline",
            b" ",
            b"-rf",
            &[b'n'; 255],
            "\u{e4}".as_bytes(),
        ];
        for name in names {
            let name = OsStr::from_bytes(name);
            fs::write(ours.at("").join(name), "x").unwrap();
            assert_eq!(fs::read(source.join(name)).unwrap(), b"x");
            let listed = fs::read_dir(&ours.point).unwrap().any(|e| e.unwrap().file_name() == name);
            assert!(listed, "{name:?}");
            fs::rename(ours.at("").join(name), ours.at("moved")).unwrap();
            fs::remove_file(ours.at("moved")).unwrap();
        }
        let long = fs::write(ours.at(&"n".repeat(256)), "").unwrap_err();
        assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
        let missing = fs::metadata(ours.at(&"m".repeat(255))).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    });
}

#[test]
fn a_shared_mapping_is_the_file() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "none"]);
        fs::write(source.join("f"), vec![b'a'; 4096]).unwrap();
        let open = || File::options().read(true).write(true).open(ours.at("f")).unwrap();
        let (one, two) = (open(), open());
        let mut page = raw::Page::map(one.as_fd(), true).unwrap();
        let other = raw::Page::map(two.as_fd(), true).unwrap();
        page.set(10, b'b');
        assert_eq!(other.get(10), b'b');
        let mut byte = [0];
        two.read_at(&mut byte, 10).unwrap();
        assert_eq!(byte, *b"b");
        page.sync().unwrap();
        assert_eq!(fs::read(source.join("f")).unwrap()[10], b'b');
        two.write_at(b"c", 20).unwrap();
        assert_eq!(page.get(20), b'c');
        // The mapping outlives the descriptor and the name.
        drop((one, two));
        fs::remove_file(ours.at("f")).unwrap();
        page.set(30, b'd');
        page.sync().unwrap();
        assert_eq!(other.get(30), b'd');
    });
}

#[test]
fn a_mapping_of_a_file_that_appends_is_written_in_place() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), vec![b'a'; 4096]).unwrap();
        let file = File::options().read(true).append(true).open(ours.at("f")).unwrap();
        let mut page = raw::Page::map(file.as_fd(), true).unwrap();
        page.set(10, b'b');
        page.sync().unwrap();
        let contents = fs::read(source.join("f")).unwrap();
        assert_eq!((contents.len(), contents[10]), (4096, b'b'));
    });
}

#[test]
fn a_private_mapping_stays_private() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), vec![b'a'; 4096]).unwrap();
        let file = File::open(ours.at("f")).unwrap();
        let mut page = raw::Page::map(file.as_fd(), false).unwrap();
        page.set(0, b'z');
        assert_eq!(page.get(0), b'z');
        assert_eq!(fs::read(ours.at("f")).unwrap()[0], b'a');
        assert_eq!(fs::read(source.join("f")).unwrap()[0], b'a');
    });
}

#[test]
fn programs_run_from_the_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        copy_program("/bin/echo", &source.join("echo"));
        let script = sandbox.file("script", "#!/bin/sh\necho from a script\n");
        raw::chmod(&script, 0o755).unwrap();
        copy_program(str(&script), &source.join("script"));
        assert_eq!(run(str(&ours.at("echo")), &["hello"]), "hello\n");
        assert_eq!(sh_as(100_007, 100_007, &[], str(&ours.at("script"))), "from a script\n");
        copy_program("/bin/sleep", &source.join("sleep"));
        let mut child = std::process::Command::new(ours.at("sleep")).arg("60").spawn().unwrap();
        let busy = File::options().write(true).open(ours.at("sleep")).unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_set_id_program_runs_as_its_owner_in_the_view_if_asked_for() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        let id = source.join("id");
        copy_program("/usr/bin/id", &id);
        for (disk, out) in [(5, false), (5000, true)] {
            raw::chown(&id, disk, disk, false).unwrap();
            raw::chmod(&id, 0o6755).unwrap();
            for (option, honoured) in [("suid", !out), ("nosuid", false)] {
                let args = [MAP[0], MAP[1], "-o", option];
                let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
                let command = format!("{0} -u; {0} -g", str(&ours.at("id")));
                let shown = sh_as(100_009, 100_009, &[], &command);
                let want = if honoured { "100005\n100005\n" } else { "100009\n100009\n" };
                assert_eq!(shown, want, "disk {disk}, {option}");
                ours.unmount();
            }
        }
    });
}

#[test]
fn writing_takes_set_id_bits_away() {
    require!(Root, Fuse, Ext4Loop);
    for args in [&["--passthrough=auto"][..], &["--passthrough=off"], &["--cache=exclusive"]] {
        sandbox(move |sandbox| {
            let image = Ext4::new(sandbox, 16);
            let source = &image.root;
            let (f, from) = (source.join("f"), source.join("from"));
            for path in [&f, &from] {
                fs::write(path, "x").unwrap();
                raw::chown(path, 1, 1, false).unwrap();
            }
            let ours = Ours::new(source, &sandbox.dir("mnt"), &[&MAP[..], args].concat());
            let changes = [
                "echo y >> f",
                "echo y > f",
                "dd if=from of=f conv=notrunc status=none",
                "truncate -s 9 f",
                "fallocate -l 99 f",
                "fallocate -p -o 0 -l 9 f",
                "fallocate -z -o 0 -l 9 f",
                "copy_file_range",
            ];
            let view = ours.at("f");
            for change in changes {
                raw::chmod(&view, 0o6777).unwrap();
                // What has just changed is not told for long.
                std::thread::sleep(Duration::from_millis(50));
                assert_eq!(fs::metadata(&view).unwrap().mode(), 0o106_777);
                if change == "copy_file_range" {
                    let copied = raw::fork_and_try(|| copy_as(100_002, &ours.at("from"), &view));
                    let ended = nix::sys::wait::waitpid(copied.unwrap(), None).unwrap();
                    assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
                } else {
                    sh_as(100_002, 100_002, &[], &format!("cd {}; {change}", str(&ours.point)));
                }
                // Asks for the mode alone: for the size the kernel would ask anew.
                let modes = sh(&format!("stat -c %a {} {}", str(&f), str(&view)));
                assert_eq!(modes, "777\n777\n", "{args:?}: {change}");
            }
        });
    }
}

/// Copies a byte from one file to another, as a user that this process becomes.
fn copy_as(uid: u32, from: &Path, to: &Path) -> raw::Sys<usize> {
    let (user, group) = (uid.into(), uid.into());
    nix::unistd::setgroups(&[]).map_err(|errno| errno as i32)?;
    nix::unistd::setresgid(group, group, group).map_err(|errno| errno as i32)?;
    nix::unistd::setresuid(user, user, user).map_err(|errno| errno as i32)?;
    let (from, to) = (raw::open(from, libc::O_RDONLY, 0)?, raw::open(to, libc::O_WRONLY, 0)?);
    nix::fcntl::copy_file_range(from, None, to, None, 1).map_err(|errno| errno as i32)
}

/// What of an allocation was made before there was no more room is there.
#[test]
fn an_allocation_that_fails_halfway_is_seen() {
    require!(Root, Fuse, Ext4Loop);
    for args in [["--passthrough", "auto"], ["--passthrough", "off"]] {
        sandbox(move |sandbox| {
            let image = Ext4::new(sandbox, 16);
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &args);
            fs::write(ours.at("f"), "").unwrap();
            let file = File::options().write(true).open(ours.at("f")).unwrap();
            assert_eq!(fs::metadata(ours.at("f")).unwrap().len(), 0);
            let refused = raw::fallocate(file.as_fd(), 0, 0, 32 << 20);
            assert_eq!(refused.err(), Some(libc::ENOSPC), "{args:?}");
            drop(file);
            let size = |path| fs::metadata(path).unwrap().len();
            let there = size(image.root.join("f"));
            assert!(there > 0);
            assert_eq!(size(ours.at("f")), there, "{args:?}");
        });
    }
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        fs::write(source.join("f"), "contents").unwrap();
        let file = File::options().read(true).write(true).open(ours.at("f")).unwrap();
        fs::remove_file(ours.at("f")).unwrap();
        assert!(!source.join("f").exists());
        file.write_at(b"C", 0).unwrap();
        let mut buf = [0; 8];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"Contents");
        raw::fchmod(file.as_fd(), 0o600).unwrap();
        raw::fchown(file.as_fd(), 100_003, 100_003).unwrap();
        raw::ftruncate(file.as_fd(), 3).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.len(), meta.uid(), meta.mode()), (0, 3, 100_003, 0o100_600));
    });
}

/// A new file is born with its owner and mode: nobody ever sees it otherwise.
#[test]
fn a_new_file_never_has_another_owner() {
    require!(Root, Fuse, Ext4Loop);
    for (args, uid, stored) in
        [(&MAP[..], 100_005, 5), (&["--present-as", "7:7", "--store-as", "9:9"], 1234, 9)]
    {
        sandbox(move |sandbox| {
            let image = Ext4::new(sandbox, 64);
            raw::chmod(&image.root, 0o2777).unwrap();
            raw::chown(&image.root, 1, 1, false).unwrap();
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), args);
            let stop = Arc::new(AtomicBool::new(false));
            let watcher = std::thread::spawn({
                let (stop, root) = (Arc::clone(&stop), image.root.clone());
                move || {
                    let mut seen = 0_u32;
                    while !stop.load(Ordering::Relaxed) {
                        for entry in fs::read_dir(&root).unwrap().flatten() {
                            let Ok(meta) = entry.metadata() else { continue };
                            assert_eq!(meta.uid(), stored, "{entry:?}");
                            let open = meta.mode() & 0o077 != 0 && !meta.is_symlink();
                            assert!(!open, "{entry:?} {:o}", meta.mode());
                            seen += 1;
                        }
                    }
                    seen
                }
            });
            sh_as(
                uid,
                uid,
                &[],
                &format!(
                    "cd {}; umask 077; for n in $(seq 150); do : > f; mkdir d; mkfifo p; ln -s x l; \
                 rm -rf f d p l; done",
                    str(&ours.point)
                ),
            );
            stop.store(true, Ordering::Relaxed);
            assert!(watcher.join().unwrap() > 100, "nothing was looked at");
        });
    }
}

/// ext4 gives the number of a file that went to the next one at once.
#[test]
fn a_number_that_is_used_again_is_another_file() {
    require!(Root, Fuse, Ext4Loop);
    for cache in ["none", "ttl=0", "ttl=3600"] {
        sandbox(move |sandbox| {
            let image = Ext4::new(sandbox, 32);
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--cache", cache]);
            let mut again = 0;
            for n in 0..300 {
                let (old, new) = (ours.at(&format!("old{n}")), ours.at(&format!("new{n}")));
                fs::write(&old, format!("old {n}")).unwrap();
                let open = File::options().read(true).write(true).open(&old).unwrap();
                let number = open.metadata().unwrap().ino();
                // Sometimes behind the mount, where we cannot keep the file.
                let behind = n % 3 == 0;
                if behind {
                    fs::remove_file(image.root.join(format!("old{n}"))).unwrap();
                } else {
                    fs::remove_file(&old).unwrap();
                }
                fs::write(&new, format!("new {n}, longer")).unwrap();
                again += u32::from(fs::metadata(&new).unwrap().ino() == number);
                let mut buf = [0; 16];
                let read = open.read_at(&mut buf, 0);
                if let Ok(len) = read {
                    assert_eq!(&buf[..len], format!("old {n}").as_bytes(), "{cache}");
                    let _ = open.write_at(b"OLD", 0);
                }
                assert!(behind || read.is_ok(), "{cache}: {read:?}");
                assert_eq!(
                    fs::read_to_string(&new).unwrap(),
                    format!("new {n}, longer"),
                    "{cache}"
                );
            }
            println!("--cache {cache}: {again} of 300 numbers were used again");
        });
    }
}

#[test]
fn a_name_that_came_back_on_the_host_is_the_new_file() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--cache", "none"]);
        for n in 0..200 {
            let contents = format!("number {n}");
            let _ = fs::remove_file(image.root.join("f"));
            fs::write(image.root.join("f"), &contents).unwrap();
            raw::chmod(&image.root.join("f"), 0o600 + n % 0o77).unwrap();
            assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), contents);
            assert_eq!(fs::metadata(ours.at("f")).unwrap().mode() & 0o777, 0o600 + n % 0o77);
        }
    });
}

/// Open files stay what they are while the host gives their numbers to others,
/// which are looked up all the time.
#[test]
fn open_files_outlive_the_reuse_of_their_numbers() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--cache", "ttl=1"]);
        let stop = AtomicBool::new(false);
        let number = |file: &File| file.metadata().map(|meta| meta.ino());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (0_u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let name = image.root.join(format!("f{}", n % 16));
                    let _ = fs::remove_file(&name);
                    fs::write(&name, "x").unwrap();
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = fs::read_dir(&ours.point)
                        .map(|all| all.flatten().filter_map(|entry| entry.metadata().ok()).count());
                }
            });
            let mut wrong = None;
            for n in 0..4000 {
                match File::open(ours.at(&format!("f{}", n % 16))) {
                    Ok(file) => {
                        let first = number(&file);
                        let stays = |_| {
                            let (now, read) = (number(&file), file.read_at(&mut [0; 2], 0));
                            (now.as_ref().ok() != first.as_ref().ok() || read.is_err())
                                .then(|| format!("{first:?}, {now:?}, {read:?}"))
                        };
                        wrong = (0..10).find_map(stays);
                    }
                    Err(error) => {
                        let gone = [libc::ENOENT, libc::ESTALE].map(Some);
                        if !gone.contains(&error.raw_os_error()) {
                            wrong = Some(error.to_string());
                        }
                    }
                }
                if wrong.is_some() {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    });
}

/// The overflow id never reaches the disk, not even as a whiteout's owner.
#[test]
fn an_unmapped_caller_leaves_no_whiteout() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        fs::write(image.root.join("a"), "a").unwrap();
        fs::write(image.root.join("b"), "b").unwrap();
        let refused = raw::rename(&ours.at("a"), &ours.at("b"), libc::RENAME_WHITEOUT);
        assert_eq!(refused, Err(libc::EOVERFLOW));
        assert_eq!(fs::read_to_string(image.root.join("b")).unwrap(), "b");
        assert_eq!(fs::read_to_string(image.root.join("a")).unwrap(), "a");
        raw::rename(&ours.at("a"), &ours.at("b"), 0).unwrap();
    });
}

#[test]
fn direct_and_append_and_noatime_opens_work() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        image.remount("strictatime");
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--cache", "none"]);
        let f = ours.at("f");
        sh(&format!("dd if=/dev/zero of={} bs=4096 count=4 oflag=direct status=none", str(&f)));
        let size = sh(&format!("dd if={} bs=4096 iflag=direct status=none | wc -c", str(&f)));
        assert_eq!(size.trim(), "16384");
        let append = |_| File::options().append(true).open(&f).unwrap();
        let both = [0, 1].map(append);
        for n in 0..10 {
            std::io::Write::write_all(&mut &both[n % 2], b"line\n").unwrap();
        }
        assert_eq!(fs::metadata(image.root.join("f")).unwrap().len(), 16384 + 50);
        let atime = || {
            let meta = fs::metadata(image.root.join("f")).unwrap();
            (meta.atime(), meta.atime_nsec())
        };
        let before = atime();
        let mut options = File::options();
        let quiet = options.read(true).custom_flags(libc::O_NOATIME).open(&f).unwrap();
        quiet.read_at(&mut [0; 100], 0).unwrap();
        drop(quiet);
        assert_eq!(atime(), before, "a quiet read moves the access time");
        assert!(
            holds_within(Duration::from_secs(2), || {
                fs::read(&f).unwrap();
                atime() != before
            }),
            "reading never moves the access time"
        );
    });
}

#[test]
fn attributes_of_users_are_kept_as_they_are() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        fs::write(source.join("f"), "").unwrap();
        let name = c"user.some";
        for value in [&b""[..], b"\0\xff", &[7; 4000]] {
            raw::set_xattr(&ours.at("f"), "user.some", value, 0).unwrap();
            assert_eq!(raw::get_xattr(&source.join("f"), name).unwrap(), value);
            assert_eq!(raw::get_xattr(&ours.at("f"), name).unwrap(), value);
        }
        assert_eq!(raw::list_xattr(&ours.at("f")).unwrap(), [CString::from(name)]);
        raw::remove_xattr(&ours.at("f"), "user.some").unwrap();
        assert_eq!(raw::get_xattr(&ours.at("f"), name), Err(libc::ENODATA));
        let refused = try_sh_as(
            100_003,
            100_003,
            &[],
            &format!("setfattr -n user.x -v y {}", str(&ours.at("f"))),
        );
        assert!(!refused.status.success());
    });
}

/// As on the model, where the flags of the mount decide.
#[test]
fn access_times_change_when_the_mount_says() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let names = ["f", "d", "l"];
        fs::write(image.root.join("f"), "x").unwrap();
        fs::create_dir(image.root.join("d")).unwrap();
        std::os::unix::fs::symlink("f", image.root.join("l")).unwrap();
        let atimes = || names.map(|n| image.root.join(n).symlink_metadata().unwrap().atime());
        for (args, moved) in [
            (&["--relatime"][..], [true; 3]),
            (&["--noatime"], [false; 3]),
            (&["--noatime", "--passthrough", "off"], [false; 3]),
            (&["--noatime", "--passthrough", "off", "--cache", "exclusive"], [false; 3]),
            (&["--relatime", "--nodiratime"], [true, false, true]),
            (&["--ro"], [false; 3]),
        ] {
            sh(&format!("cd {} && touch -h -a -d @1000 f d l", str(&image.root)));
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), args);
            fs::read(ours.at("f")).unwrap();
            assert_eq!(fs::read_dir(ours.at("d")).unwrap().count(), 0);
            fs::read_link(ours.at("l")).unwrap();
            let seen = || atimes().map(|atime| atime != 1000);
            assert!(
                holds_within(Duration::from_secs(2), || seen() == moved),
                "{args:?} {:?}",
                seen()
            );
            assert_eq!(ours.unmount(), Some(0));
        }
    });
}
