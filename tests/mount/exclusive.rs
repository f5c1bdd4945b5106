//! A source that nobody else changes, where the kernel opens files without
//! asking and caches what is written.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::{Ours, finish, program_for_users};
use crate::support::{
    Sandbox, output, raw, run, sandbox, sh, sh_as, str, text, try_sh_as, wait_for,
};

const ARGS: [&str; 6] = ["--cache", "exclusive", "--passthrough", "off", "--log", "info"];

fn exclusive(sandbox: &Sandbox, more: &[&str]) -> (PathBuf, Ours) {
    let (source, ours) = Ours::of_new(sandbox, &[&ARGS, more].concat());
    (source, ours)
}

#[test]
fn what_was_closed_is_on_disk_and_opens_are_not_asked() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = exclusive(sandbox, &[]);
        assert!(ours.log().contains("the kernel opens files without asking"), "{}", ours.log());
        fs::write(ours.at("f"), "0123456789").unwrap();
        assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "0123456789");
        // Parts of pages, by descriptors that cannot read, appended and not.
        sh(&format!("echo more >> {}", str(&ours.at("f"))));
        let part = File::options().write(true).open(ours.at("f")).unwrap();
        part.write_at(b"ab", 3).unwrap();
        drop(part);
        assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "012ab56789more\n");
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "012ab56789more\n");
        let mut file = File::options().read(true).write(true).open(ours.at("f")).unwrap();
        file.set_len(5).unwrap();
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 5);
        raw::fallocate(file.as_fd(), 0, 0, 1 << 20).unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs::metadata(source.join("f")).unwrap().len(), 1 << 20);
        let to = File::options().write(true).create(true).truncate(true).open(ours.at("copy"));
        let to = to.unwrap();
        file.rewind().unwrap();
        assert_eq!(raw::copy_range(file.as_fd(), to.as_fd(), 5).unwrap(), 5);
        drop(to);
        assert_eq!(fs::read_to_string(source.join("copy")).unwrap(), "012ab");
        let mut page = raw::Page::map(file.as_fd(), true).unwrap();
        page.set(0, b'm');
        page.sync().unwrap();
        assert_eq!(fs::read(source.join("f")).unwrap()[0], b'm');
        // Times that were set stay, and those of a write come.
        let old = std::time::SystemTime::UNIX_EPOCH;
        file.set_modified(old).unwrap();
        drop((page, file));
        assert_eq!(fs::metadata(source.join("f")).unwrap().mtime(), 0);
        fs::write(ours.at("f"), "new").unwrap();
        assert_ne!(fs::metadata(source.join("f")).unwrap().mtime(), 0);
    });
}

/// What is cached is sent later, and so is refused later.
#[test]
fn what_does_not_fit_on_the_disk_is_told_by_fsync() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &ARGS);
        let (view, disk) = (ours.at("f"), image.root.join("f"));
        let mut file = File::create(&view).unwrap();
        let page = |n: usize| vec![u8::try_from(n % 251).unwrap() + 1; 1 << 20];
        let written: std::io::Result<()> = (0..48).try_for_each(|n| file.write_all(&page(n)));
        // It may be met by a write, too, which waits for what was written before.
        let told = written.and_then(|()| file.sync_all()).unwrap_err();
        assert_eq!(told.raw_os_error(), Some(libc::ENOSPC), "{told}");
        drop(file);
        // Pages are stored in any order: its length may be that of all.
        let stored = fs::metadata(&disk).unwrap().blocks() * 512;
        assert!(stored < 32 << 20, "{stored}");
        // Until it is forgotten the client has it as it was written.
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        wait_for("what was stored", || fs::read(&view).unwrap() == fs::read(&disk).unwrap());
        fs::remove_file(&view).unwrap();
        // What it took of the disk is free when the server has been told that it is forgotten.
        wait_for("room for another one", || {
            let mut file = File::create(&view).unwrap();
            file.write_all(&page(0)).unwrap();
            file.sync_all().is_ok() && fs::read(&disk).unwrap() == page(0)
        });
    });
}

/// The kernel tells it by a flag of the file, which is taken by the first who looks
/// (`filemap_check_errors` in `fuse_flush`), and to fsync by a number for each who opened
/// it. In processes of their own: a child that a test beside this one has just forked has
/// copies of all its descriptors, and closes them when it starts its program.
#[test]
fn what_does_not_fit_is_told_to_the_first_who_closes_and_to_all_who_sync() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &ARGS);
        let script = sandbox.file(
            "close.py",
            r"
import errno, os, sys
def told(do):
    try: do()
    except OSError as error: return errno.errorcode[error.errno]
    return 'nothing'
def filled(name):
    file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    for n in range(48):
        page, at = bytes([n + 1]) * (1 << 20), 0
        while at < len(page): at += os.write(file, page[at:])
    return file
for n in range(3):
    file = filled('f')
    print('alone:', told(lambda: os.close(file)))
    os.unlink('f')
for last in ('close', 'fsync'):
    file = filled('f')
    child = os.fork()
    if child == 0:
        print('child:', told(lambda: os.close(file)), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(last + ':', told(lambda: getattr(os, last)(file)), flush=True)
    if last == 'fsync': os.close(file)
    os.unlink('f')
",
        );
        let mut busy: Vec<_> = (0..2)
            .map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
            .collect();
        let done = output(
            "sh",
            &["-c", &format!("cd {} && exec python3 -u {}", str(&ours.point), str(&script))],
        );
        for one in &mut busy {
            one.kill().unwrap();
            one.wait().unwrap();
        }
        let alone = "alone: ENOSPC\n".repeat(3);
        let rest = "child: ENOSPC\nclose: nothing\nchild: ENOSPC\nfsync: ENOSPC\n";
        assert_eq!(String::from_utf8_lossy(&done.stdout), alone + rest, "{}", text(&done));
    });
}

#[test]
fn what_is_written_and_not_sent_yet_is_no_hole() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = exclusive(sandbox, &[]);
        let path = ours.at("f");
        let written = File::create_new(&path).unwrap();
        let read = File::open(&path).unwrap();
        let find = |from, whence| raw::lseek(read.as_fd(), from, whence);
        for at in [0, 1 << 20, 3 << 20] {
            written.write_all_at(&[b'x'; 1 << 16], at).unwrap();
            let at = i64::try_from(at).unwrap();
            assert_eq!(find(at, libc::SEEK_DATA), Ok(at));
            assert_eq!(find(at, libc::SEEK_HOLE), Ok(at + (1 << 16)));
        }
        assert_eq!(find(1 << 16, libc::SEEK_DATA), Ok(1 << 20));
        sh(&format!("cp --sparse=always {0} {0}2 && cmp {0} {0}2", str(&path)));
        assert_eq!(fs::read(source.join("f")).unwrap(), fs::read(&path).unwrap());
    });
}

/// Any number of files can be open that have no name any more: nothing was asked
/// when they were opened.
#[test]
fn files_without_names_stay_what_was_opened() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = exclusive(sandbox, &[]);
        let open: Vec<File> = (0..300)
            .map(|n| {
                let path = ours.at(&n.to_string());
                fs::write(&path, n.to_string()).unwrap();
                let file = File::options().read(true).write(true).open(&path).unwrap();
                fs::remove_file(&path).unwrap();
                // The number of the file is for another one now, on some file systems.
                fs::write(&path, "another").unwrap();
                file
            })
            .collect();
        sh("echo 1 > /proc/sys/vm/drop_caches");
        for (n, mut file) in open.iter().enumerate() {
            let mut contents = String::new();
            file.read_to_string(&mut contents).unwrap();
            assert_eq!(contents, n.to_string());
            file.write_all(b"!").unwrap();
            file.sync_all().unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
        }
        assert!(ours.deleted_held_open() >= 300);
        drop(open);
        wait_for("no file without a name held", || ours.deleted_held_open() == 0);
        assert_eq!(fs::read_to_string(source.join("7")).unwrap(), "another");
    });
}

/// More files than are kept open are read and written in turn.
#[test]
fn many_files_are_read_and_written_in_turn() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        let point = sandbox.dir("mnt");
        let mut command = Command::new("bash");
        let line = format!("ulimit -n 256; exec {} -f \"$@\"", crate::support::ours::PROGRAM);
        command.args(["-c", &line, "bash"]).args(ARGS).arg(&source).arg(&point);
        let ours = Ours::start(command, &point, sandbox.path("log"));
        let names: Vec<String> = (0..400).map(|n| format!("f{n}")).collect();
        let files: Vec<File> = names
            .iter()
            .map(|name| {
                fs::write(source.join(name), name).unwrap();
                File::options().read(true).write(true).open(ours.at(name)).unwrap()
            })
            .collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (files, names) = (&files, &names);
                scope.spawn(move || {
                    for (name, file) in names.iter().zip(files).skip(thread).step_by(4) {
                        let mut contents = vec![0; name.len()];
                        file.read_exact_at(&mut contents, 0).unwrap();
                        assert_eq!(contents, name.as_bytes());
                        file.write_all_at(b"g", 0).unwrap();
                        file.sync_all().unwrap();
                    }
                });
            }
        });
        for name in &names {
            let contents = fs::read_to_string(source.join(name)).unwrap();
            assert_eq!(contents, name.replace('f', "g"));
        }
    });
}

#[test]
fn rights_and_set_id_bits_are_as_ever() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = exclusive(sandbox, &["--map", "0:100000:1000", "-o", "suid"]);
        fs::write(source.join("f"), "x").unwrap();
        raw::chmod(&source.join("f"), 0o6777).unwrap();
        sh_as(100_005, 100_005, &[], &format!("echo y >> {}", str(&ours.at("f"))));
        assert_eq!(fs::metadata(source.join("f")).unwrap().mode() & 0o7777, 0o777);
        assert_eq!(fs::read_to_string(source.join("f")).unwrap(), "xy\n");
        raw::chmod(&ours.at("f"), 0o600).unwrap();
        let denied = format!("! cat {0} && ! ( echo z >> {0} )", str(&ours.at("f")));
        sh_as(100_005, 100_005, &[], &denied);
    });
}

#[test]
fn locks_are_between_the_callers_of_the_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = exclusive(sandbox, &[]);
        fs::write(source.join("f"), "0123456789").unwrap();
        let open = |path: PathBuf| File::options().read(true).write(true).open(path).unwrap();
        let (one, two, host) = (open(ours.at("f")), open(ours.at("f")), open(source.join("f")));
        let set = |file: &File| raw::lock(file.as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, 0, 10);
        set(&one).unwrap();
        assert_eq!(set(&two).map(|_| ()), Err(libc::EAGAIN));
        set(&host).unwrap();
        drop(one);
        wait_for("a free lock", || set(&two).is_ok());
    });
}

#[test]
fn rules_are_for_another_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = sandbox.file("p.toml", "version = 1\n");
        let (_, ours) = exclusive(sandbox, &["--policy", str(&policy)]);
        fs::write(&policy, "version = 1\n[[rules]]\npath = \"x\"\nhide = true\n").unwrap();
        // The socket is there a moment after the mount.
        wait_for("a refusal", || {
            let refused = finish(&["reload", str(&ours.point)]);
            assert!(!refused.status.success());
            text(&refused).contains("opens files without asking")
        });
    });
}

/// Nothing is taken from callers that such a server cannot write later.
#[test]
fn a_server_without_privilege_is_asked_at_every_open() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, program) = (sandbox.dir("src"), program_for_users(sandbox));
        raw::chown(&source, 34, 34, false).unwrap();
        let write = "exec 3>new; chmod 444 new; echo kept >&3";
        let options = "--cache exclusive --map 34:34:1";
        let line = format!("{} run {options} {} -- sh -c '{write}'", str(&program), str(&source));
        let done = try_sh_as(34, 34, &[], &line);
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "kept\n");
    });
}

/// A descriptor that is kept open does not go on where a file is to be changed no
/// more.
#[test]
fn what_is_kept_open_does_not_outlive_a_file_that_is_locked() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &ARGS);
        fs::write(ours.at("f"), "0123456789").unwrap();
        let file = File::options().read(true).write(true).open(ours.at("f")).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
        run("chattr", &["+a", str(&ours.at("f"))]);
        file.write_at(b"y", 0).unwrap();
        assert!(file.sync_all().is_err());
        assert_eq!(fs::read_to_string(image.root.join("f")).unwrap(), "x123456789");
        run("chattr", &["-a", str(&ours.at("f"))]);
    });
}

/// Directories are listed without being opened first, and again from where a caller
/// was; what they lose and get meanwhile is seen by the next who lists them.
#[test]
fn directories_are_listed_without_being_opened() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = exclusive(sandbox, &[]);
        let dir = ours.at("d");
        fs::create_dir(&dir).unwrap();
        let count = || fs::read_dir(&dir).unwrap().count();
        for index in 0..3000 {
            fs::write(dir.join(format!("{index}")), "").unwrap();
        }
        assert_eq!((count(), count()), (3000, 3000));
        let mut open = fs::read_dir(&dir).unwrap();
        let first = open.next().unwrap().unwrap().file_name();
        for index in 0..1000 {
            fs::remove_file(dir.join(format!("{index}"))).unwrap();
        }
        assert_eq!(count(), 2000);
        assert!(open.filter(|entry| entry.as_ref().unwrap().file_name() != first).count() >= 1999);
        // One that is gone is empty to who has it open.
        let held = File::open(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(held.sync_all().is_ok());
        assert!(!source.join("d").exists());
        let closed = ours.at("closed");
        fs::create_dir(&closed).unwrap();
        raw::chmod(&closed, 0).unwrap();
        raw::chown(&closed, 1000, 1000, false).unwrap();
        let refused = try_sh_as(1001, 1001, &[], &format!("ls {}", str(&closed)));
        assert!(!refused.status.success() && text(&refused).contains("Permission denied"));
        let asked = finish(&["stats", "--json", str(&ours.point)]);
        let stats: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
        let opened = stats["requests"]["opendir"].as_u64().unwrap_or(0);
        assert!(opened <= 4, "{opened} times");
    });
}

#[test]
fn a_directory_that_was_not_opened_has_its_flags() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let (disk, ours) = exclusive(sandbox, &[]);
        fs::create_dir(disk.join("dir")).unwrap();
        let flags = |path: &Path| raw::get_flags(File::open(path).unwrap().as_fd());
        raw::set_flags(File::open(disk.join("dir")).unwrap().as_fd(), 0x40).expect("chattr +d");
        // An overlay asks this of a directory before it copies it up.
        for _ in 0..2 {
            assert_eq!(flags(&ours.at("dir")), flags(&disk.join("dir")));
        }
    });
}
