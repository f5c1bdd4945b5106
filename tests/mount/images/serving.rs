//! A mount of an image in use: nothing is changed, whatever happens to the image, and
//! memory stays bounded.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::require;
use crate::support::images::{self, Loop, image};
use crate::support::ours::{Ours, PROGRAM, finish};
use crate::support::rng::Rng;
use crate::support::{
    Sandbox, output, raw, run, sandbox, sh, sh_as, str, text, try_sh_as, wait_for,
};

/// One image of each format.
pub const ONE_EACH: [&str; 3] = ["ext4-kernel", "squashfs-zstd", "erofs-lz4"];

/// A copy of an image, which may be changed.
pub fn copied(sandbox: &Sandbox, name: &str) -> PathBuf {
    let (image, _) = image(name).expect("tools of Debian 12 make it");
    let copy = sandbox.path(&format!("{name}.img"));
    images::copy(&image, &copy);
    copy
}

pub fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn two_mounts_of_one_image_have_a_shift_each() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        sandbox(move |sandbox| {
            let image = copied(sandbox, name);
            let shifts = [100_000_u32, 200_000];
            let mounts = shifts.map(|first| {
                let map = format!("0:{first}:65536");
                Ours::new(&image, &sandbox.dir(&first.to_string()), &["--map", &map])
            });
            std::thread::scope(|scope| {
                for (ours, first) in mounts.iter().zip(shifts) {
                    scope.spawn(move || {
                        for (name, id) in [("user", 1000), ("daemon", 33), ("setuid", 0)] {
                            let owner = fs::metadata(ours.at("ids").join(name)).unwrap().uid();
                            assert_eq!(owner, first + id, "{name}");
                        }
                        for _ in 0..3 {
                            let words = fs::read(ours.at("data/words")).unwrap();
                            assert_eq!(words.len(), 5_000_003);
                        }
                    });
                }
            });
            let [one, other] = mounts;
            let daemon = |ours: &Ours| format!("cat {}/ids/daemon", str(&ours.point));
            assert_eq!(sh_as(100_033, 100_033, &[], &daemon(&one)), "daemon");
            assert_eq!(sh_as(200_033, 200_033, &[], &daemon(&other)), "daemon");
            assert!(!try_sh_as(100_033, 100_033, &[], &daemon(&other)).status.success());
            // The named user of an ACL, whom its mode alone would refuse.
            let listed = |ours: &Ours| format!("cat '{}/xattrs/with acl'", str(&ours.point));
            if name != "squashfs-zstd" {
                assert_eq!(sh_as(101_000, 101_000, &[], &listed(&one)), "acl");
                assert!(!try_sh_as(101_000, 101_000, &[], &listed(&other)).status.success());
            }
        });
    }
}

#[test]
fn explain_says_what_a_mount_of_an_image_is() {
    require!(Root, Fuse, Erofs);
    sandbox(|sandbox| {
        let image = copied(sandbox, "erofs-lz4");
        let before = finish(&["explain", "--map", "0:100000:65536", str(&image), "ids/daemon"]);
        assert!(text(&before).contains("100033"), "{}", text(&before));
        let missing = finish(&["explain", str(&image), "ids/no-such"]);
        assert!(text(&missing).contains("No such file"), "{}", text(&missing));
        let ours = Ours::new(&image, &sandbox.dir("mnt"), &[]);
        let said = || text(&finish(&["explain", "--mount", str(&ours.point)]));
        wait_for("a server that is known", || said().contains("server:"));
        let said = said();
        for line in ["recorded in the image", "none (an image has none)"] {
            assert!(said.contains(line), "{line}: {said}");
        }
    });
}

/// An image somewhere in a file: its files, and the policy that it has the lists for, are
/// those that the mount shows, however that was told where it is.
#[test]
fn explain_finds_an_image_where_its_mount_has_it() {
    require!(Root, Fuse, Erofs, Partitions);
    sandbox(|sandbox| {
        let (tree, image) = (sandbox.dir("tree"), sandbox.path("image"));
        let (part, disk) = (sandbox.path("part"), sandbox.path("disk"));
        sh(&format!(
            "cd {tree}; mkdir etc; echo daemon:x:90:90::/:/bin/sh >etc/passwd
             echo daemon:x:90: >etc/group; echo hello >f; chown 90:90 f
             PATH=$PATH:/usr/sbin; mkfs.erofs {image} . >/dev/null
             (head -c 8192 /dev/zero; cat {image}; head -c 4096 /dev/zero) >{part}
             truncate -s 16M {disk}; sgdisk -n 1:2048:8191 -t 1:8304 {disk} >/dev/null
             dd if={image} of={disk} bs=1M seek=1 conv=notrunc status=none",
            tree = str(&tree),
            image = str(&image),
            part = str(&part),
            disk = str(&disk)
        ));
        let bytes = fs::metadata(&image).unwrap().len();
        let by_name = ["--names", "disk=source", "--names", "view=host"];
        let size = format!("offset=8192,size={bytes}");
        for (file, place, said) in [
            (&part, size.as_str(), format!("{bytes} bytes of it, from byte 8192 on")),
            (&part, "offset=8K", format!("{} bytes of it, from byte 8192 on", bytes + 4096)),
            (&disk, "partition=1", "3145728 bytes of it, from byte 1048576 on".to_owned()),
            (&disk, "partition=root", "3145728 bytes of it, from byte 1048576 on".to_owned()),
        ] {
            let ours =
                Ours::new(file, &sandbox.dir("mnt"), &[&by_name[..], &["-o", place]].concat());
            let explained = || text(&finish(&["explain", "--mount", str(&ours.point), "f"]));
            wait_for("a server that is known", || explained().contains("server:"));
            let told = explained();
            assert!(told.contains(&said), "{place}: {told}");
            assert!(told.contains("disk uid 90 is shown as uid 1\n"), "{place}: {told}");
            drop(ours);
        }
    });
}

#[test]
fn check_tries_rules_on_an_image() {
    require!(Root, Squashfs, Erofs, Ext4Loop);
    sandbox(|sandbox| {
        let policy = sandbox.path("p.toml");
        let said = |words: &[&str]| {
            let done = finish(words);
            assert!(done.status.success(), "{words:?}: {}", text(&done));
            String::from_utf8(done.stdout).unwrap()
        };
        let rules = "[[rules]]\npath = ['ids/**', 'none/**']\nread-only = true\n[[rules]]\n\
                     name = ['daemon', '*.nobody']\nhide = true\n";
        fs::write(&policy, format!("version = 1\n{rules}")).unwrap();
        for name in ONE_EACH {
            let (image, _) = image(name).expect("tools of Debian 12 make it");
            let told = said(&["check", "--source", str(&image), str(&policy)]);
            for unmatched in ["`none/**` decides about nothing", "`*.nobody` decides about nothing"]
            {
                assert!(told.contains(unmatched), "{name}: {told}");
            }
            assert_eq!(told.lines().count(), 2, "{name}: {told}");
        }
        // One that is somewhere in a file, and what is none.
        let (image, _) = image("erofs").expect("tools of Debian 12 make it");
        let (part, other) = (sandbox.path("part"), sandbox.file("other", "no image"));
        sh(&format!("(head -c 8192 /dev/zero; cat {}) >{}", str(&image), str(&part)));
        let told = said(&["check", "--offset=8192", "--source", str(&part), str(&policy)]);
        assert_eq!(told.lines().count(), 2, "{told}");
        let done = finish(&["check", "--source", str(&other), str(&policy)]);
        assert!(
            !done.status.success() && text(&done).contains("other: a text;"),
            "{}",
            text(&done)
        );
        // Lists of names in one are looked at too.
        let names = "[ids.names]\ndisk = 'source'\nview = 'host'\n";
        fs::write(&policy, format!("version = 1\n{names}{rules}")).unwrap();
        let done = finish(&["check", "--source", str(&image), str(&policy)]);
        assert!(text(&done).contains("source:etc/passwd: No such file"), "{}", text(&done));
    });
}

#[test]
fn an_image_is_never_changed() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        sandbox(move |sandbox| {
            let image = copied(sandbox, name);
            let before = images::state(&image);
            let ours = Ours::new(&image, &sandbox.dir("mnt"), &[]);
            let at = |name: &str| ours.at(name);
            let rofs = Some(libc::EROFS);
            assert_eq!(errno(fs::write(at("new"), "")), rofs);
            assert_eq!(errno(fs::write(at("hello"), "")), rofs);
            assert_eq!(errno(File::options().append(true).open(at("hello"))), rofs);
            assert_eq!(errno(fs::create_dir(at("new"))), rofs);
            assert_eq!(errno(fs::remove_file(at("hello"))), rofs);
            assert_eq!(errno(fs::remove_dir(at("emptydir"))), rofs);
            assert_eq!(errno(fs::rename(at("hello"), at("new"))), rofs);
            assert_eq!(errno(fs::hard_link(at("hello"), at("new"))), rofs);
            assert_eq!(errno(symlink("x", at("new"))), rofs);
            let sys = [
                raw::chown(&at("hello"), 5, 5, false),
                raw::chmod(&at("hello"), 0o600),
                raw::mknod(&at("new"), libc::S_IFIFO | 0o600, 0),
                raw::truncate(&at("hello"), 0),
                raw::utimens(&at("hello"), [(1, 0), (1, 0)], false),
                raw::set_xattr(&at("hello"), "user.new", b"", 0),
                raw::remove_xattr(&at("sub"), "user.note"),
            ];
            assert!(sys.iter().all(|result| *result == Err(libc::EROFS)), "{name}: {sys:?}");
            // Nor once it is remounted.
            let remount = |flags| output(PROGRAM, &["-o", flags, str(&image), str(&ours.point)]);
            let refused = remount("remount,rw");
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success() && said.contains("option rw: "), "{name}: {said}");
            assert!(remount("remount,noexec").status.success(), "{name}");
            let flags = statvfs(&ours.point).unwrap().flags();
            assert!(flags.contains(FsFlags::ST_RDONLY | FsFlags::ST_NOEXEC), "{name}: {flags:?}");
            let _ = output("mount", &["-o", "remount,rw", str(&ours.point)]);
            assert_eq!(errno(fs::write(at("new"), "")), rofs, "{name}, remounted");
            assert_eq!(fs::read(at("hello")).unwrap(), b"hello\n");
            assert_eq!(images::state(&image), before);
        });
    }
}

#[test]
fn totals_are_those_that_the_kernel_shows() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in
        ["ext4", "ext4-1k", "ext4-bigalloc", "ext2", "ext3", "squashfs", "squashfs-1m", "erofs"]
    {
        let (path, kind) = image(name).expect("tools of Debian 12 make it");
        sandbox(move |sandbox| {
            let kernel = Loop::new(sandbox, &path, kind);
            let ours = Ours::new(&path, &sandbox.dir("mnt"), &[]);
            let totals = |root: &Path| {
                let stat = statvfs(root).unwrap();
                [
                    ("block", stat.block_size()),
                    ("fragment", stat.fragment_size()),
                    ("blocks", stat.blocks()),
                    ("free", stat.blocks_free()),
                    ("available", stat.blocks_available()),
                    ("files", stat.files()),
                    ("free files", stat.files_free()),
                    ("name", stat.name_max()),
                ]
            };
            assert_eq!(totals(&kernel.root), totals(&ours.point), "{name}");
        });
    }
}

/// As the server's mount, of which the others are tests.
#[test]
fn the_kernels_mount_of_an_image_is_refused_to_be_written_to() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let (image, point) = (copied(sandbox, "few-ext4"), sandbox.dir("mnt"));
        for engine in ["--engine=kernel", "--engine=auto", "--engine=fuse"] {
            let done = output(PROGRAM, &[engine, "-o", "rw", str(&image), str(&point)]);
            let said = text(&done);
            assert!(!done.status.success() && said.contains("option rw: "), "{engine}: {said}");
        }
    });
}

#[test]
fn what_can_be_no_source_is_named_with_what_can() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let point = sandbox.dir("mnt");
        let done = output(PROGRAM, &["/dev/null", str(&point)]);
        assert!(text(&done).contains("a source is a directory, or an image"), "{}", text(&done));
    });
}

#[test]
fn programs_run_and_files_are_mapped() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        sandbox(move |sandbox| {
            let image = copied(sandbox, name);
            let ours = Ours::new(&image, &sandbox.dir("mnt"), &["--map", "0:100000:65536"]);
            assert_eq!(run(str(&ours.at("run")), &[]), "ran as 0\n");
            for file in ["data/words", "data/mixed", "data/holes", "data/hole at the end"] {
                let file = File::open(ours.at(file)).unwrap();
                let mut contents = vec![0; file.metadata().unwrap().len() as usize];
                for page in (0..contents.len()).rev().step_by(4096 * 7) {
                    let start = page / 4096 * 4096;
                    let mapped = raw::Page::map_at(file.as_fd(), false, start as i64).unwrap();
                    let bytes: Vec<u8> = (0..4096).map(|at| mapped.get(at)).collect();
                    let end = contents.len().min(start + 4096);
                    contents[start..end].copy_from_slice(&bytes[..end - start]);
                    let mut read = vec![0; end - start];
                    file.read_exact_at(&mut read, start as u64).unwrap();
                    assert!(read == contents[start..end], "{name}: at {start}");
                    assert!(bytes[end - start..].iter().all(|byte| *byte == 0), "{name}: the tail");
                }
            }
        });
    }
}

/// What opens, describes, reads and closes a file, as most programs do.
#[test]
fn what_was_read_and_closed_is_asked_for_no_more() {
    require!(Root, Fuse, Erofs);
    sandbox(|sandbox| {
        let image = copied(sandbox, "erofs");
        let ours = Ours::new(&image, &sandbox.dir("mnt"), &[]);
        let read = || {
            for number in 0..50 {
                let mut file = File::open(ours.at(&format!("small/{number}"))).unwrap();
                let length = file.metadata().unwrap().len();
                let mut contents = Vec::new();
                assert_eq!(file.read_to_end(&mut contents).unwrap() as u64, length);
            }
        };
        let asked = || {
            let said = output(PROGRAM, &["stats", "--json", str(&ours.point)]).stdout;
            let stats: serde_json::Value = serde_json::from_slice(&said).unwrap();
            let counts = stats["requests"].as_object().unwrap().values();
            counts.map(|count| count.as_u64().unwrap()).sum::<u64>()
        };
        // A read by the server has the kernel ask for the time of it, once.
        (0..2).for_each(|_| read());
        let before = asked();
        (0..3).for_each(|_| read());
        // To ask is a request or two by itself.
        assert!(asked() - before < 10, "{before} and {} requests", asked());
    });
}

/// The server's memory in bytes, at most so far.
fn memory(ours: &Ours) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", ours.server())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_million_reads_stay_within_the_memory_that_was_given() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ["ext4-kernel", "squashfs-1m", "erofs-lz4hc"] {
        sandbox(move |sandbox| {
            let image = copied(sandbox, name);
            let ours = Ours::new(&image, &sandbox.dir("mnt"), &["--image-cache", "8M"]);
            let before = memory(&ours);
            let names = ["data/words", "data/noise", "data/mixed", "data/repeated", "text"];
            let files = names.map(|name| File::open(ours.at(name)).unwrap());
            let (mut rng, mut buf) = (Rng::new(7), [0; 4096]);
            for number in 0..333_334 {
                let file = rng.pick(&files.each_ref());
                let size = file.metadata().unwrap().len() as usize;
                file.read_at(&mut buf, rng.below(size) as u64).unwrap();
                if number % 10_000 == 0 {
                    // So that the server is asked again for what the kernel has.
                    for file in &files {
                        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                        nix::fcntl::posix_fadvise(file, 0, 0, advice).unwrap();
                    }
                    assert_eq!(fs::read_dir(ours.at("many")).unwrap().count(), 20_000);
                }
            }
            let more = (memory(&ours) - before) >> 20;
            assert!(more < 8 + 56, "{name}: {more} MiB more than at the start");
        });
    }
}
