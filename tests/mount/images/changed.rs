//! What becomes of a mount whose image is changed, replaced, moved or removed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::compare::{Except, differences};
use super::serving::{ONE_EACH, copied, errno};
use crate::require;
use crate::support::images;
use crate::support::ours::{Ours, PROGRAM};
use crate::support::rootless::{ANN, Rootless};
use crate::support::{Sandbox, output, raw, run, sandbox, sh, str, text, wait_for};

/// Maps a file, says so, and looks far into it when it is told to.
const MAPS: &str = "import mmap, sys; f = open(sys.argv[1]); \
                    m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); m[0]; \
                    print(end='.', flush=True); sys.stdin.readline(); m[4700000]";

/// Mounts a copy, reads some of it, has it changed, and looks at what comes then; `said` is
/// in the log once.
fn after(name: &'static str, change: fn(&Path), said: &'static str) {
    sandbox(move |sandbox| {
        let image = copied(sandbox, name);
        let ours = Ours::new(&image, &sandbox.dir("mnt"), &[]);
        assert_eq!(fs::read(ours.at("hello")).unwrap(), b"hello\n");
        let words = File::open(ours.at("data/words")).unwrap();
        let mut buf = [0; 100];
        words.read_exact_at(&mut buf, 0).unwrap();
        let mut mapped = Command::new("python3")
            .args(["-c", MAPS, str(&ours.at("data/words"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        mapped.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        change(&image);
        mapped.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(mapped.wait().unwrap().signal(), Some(libc::SIGBUS), "{name}");
        // Far from what was read, and from what was read ahead.
        let eio = Some(libc::EIO);
        assert_eq!(errno(words.read_exact_at(&mut buf, 4_900_000)), eio, "{name}");
        assert_eq!(errno(fs::read(ours.at("data/noise"))), eio, "{name}");
        assert_eq!(errno(fs::metadata(ours.at("small/17"))), eio, "{name}");
        assert_eq!(errno(fs::read_dir(ours.at("many"))), eio, "{name}");
        // By a program that would take the signal, if there were one.
        let read =
            format!("cat {}/small/* 2>&1 | grep -v 'Input/output error' || true", str(&ours.point));
        assert_eq!(crate::support::sh(&read), "", "{name}");
        let line = format!("{said} while mounted; no more of it is read: mount it again");
        assert_eq!(ours.log().matches(&line).count(), 1, "{name}: {}", ours.log());
        assert_eq!(ours.log().matches("while mounted").count(), 1, "{name}: {}", ours.log());
        assert!(!ours.log().contains(" for process "), "{name}: {}", ours.log());
        assert!(nix::sys::signal::kill(ours.server(), None).is_ok(), "{name}: no server");
        drop(words);
        assert_eq!(ours.unmount(), Some(0), "{name}");
    });
}

#[test]
fn an_image_that_is_written_to_is_read_no_more() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        let change: fn(&Path) = |image| {
            let file = File::options().write(true).open(image).unwrap();
            file.write_all_at(b"changed", 1_000_000).unwrap();
        };
        after(name, change, "img: changed");
    }
}

#[test]
fn an_image_that_is_cut_short_is_read_no_more() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        let change: fn(&Path) =
            |image| drop(raw::truncate(image, 100_000).expect("truncate").to_string());
        after(name, change, "img: changed");
    }
}

/// How the log names an image whose name is another file's.
const OTHER: &str = "img: replaced by another file";

#[test]
fn an_image_that_is_replaced_is_read_no_more() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        after(name, |image| drop(sh(&format!("echo >{i}.2; mv {i}.2 {i}", i = str(image)))), OTHER);
    }
    let cases: [fn(&Path); 4] = [
        // One that is kept by another name is not changed by losing this one.
        |image| drop(sh(&format!("ln {i} {i}.1; cp {i} {i}.2; mv {i}.2 {i}", i = str(image)))),
        |image| drop(sh(&format!("rm {i}; mkdir {i}", i = str(image)))),
        |image| drop(sh(&format!("mv {i} {i}.1; ln -s /dev/null {i}", i = str(image)))),
        |image| drop(sh(&format!("cp {i} {i}.2; install {i}.2 {i}", i = str(image)))),
    ];
    for change in cases {
        after("erofs-lz4", change, OTHER);
    }
}

#[test]
fn an_image_that_is_replaced_stays_what_it_was() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    for name in ONE_EACH {
        sandbox(move |sandbox| {
            let image = copied(sandbox, name);
            let whole = sandbox.path("whole.img");
            images::copy(&image, &whole);
            let [ours, other] =
                [(&image, "mnt", "keep"), (&whole, "other", "eio")].map(|(image, point, how)| {
                    let option = format!("--replaced={how}");
                    Ours::new(image, &sandbox.dir(point), &[&option])
                });
            fs::write(sandbox.path("new"), "nothing like it").unwrap();
            fs::rename(sandbox.path("new"), &image).unwrap();
            // The file is still there, without a name: as for the kernel's own mount.
            let (found, files) = differences(&other.point, &ours.point, Except::Nothing);
            assert!(found.is_empty() && files > 1_300, "{name}: {files} files, {found:?}");
            assert_eq!(ours.log().matches(OTHER).count(), 1, "{}", ours.log());
            assert!(!other.log().contains("replaced"), "{}", other.log());
        });
    }
}

/// A directory with an image in it, `current` that leads there, and a mount by that.
fn by_link(sandbox: &Sandbox, args: &[&str]) -> (PathBuf, Ours) {
    let (from, _) = images::image("few-erofs").expect("tools of Debian 12 make it");
    let dir = sandbox.dir("images");
    images::copy(&from, &dir.join("image"));
    std::os::unix::fs::symlink("image", dir.join("current")).unwrap();
    let ours = Ours::new(&dir.join("current"), &sandbox.dir("mnt"), args);
    (dir, ours)
}

/// What of a mount is not as it is in the image that it is to be of.
fn amiss(sandbox: &Sandbox, ours: &Ours) -> Vec<String> {
    let (whole, _) = images::image("few-erofs").expect("tools of Debian 12 make it");
    let other = Ours::new(&whole, &sandbox.dir("other"), &[]);
    let (found, files) = differences(&other.point, &ours.point, Except::Nothing);
    assert!(files > 10, "{files}");
    found
}

#[test]
fn an_image_without_its_name_is_shown() {
    require!(Root, Fuse, Erofs);
    for (change, gone) in [
        ("rm image", true),
        ("rm -r ../images", true),
        ("mv image image.1", true),
        ("mv image image.1; ln -s nothing image", true),
        ("mv image image.1; ln -s image.1 image", false),
        ("chmod 600 image; chown 7:7 image", false),
        ("ln image image.1; rm image.1", false),
        ("mv ../images ../moved", false),
        ("cp image image.2; ln -sfn image.2 current", false),
        ("cp image image.2; ln -sfn image.2 current; rm image", true),
    ] {
        sandbox(move |sandbox| {
            let (dir, ours) = by_link(sandbox, &[]);
            sh(&format!("cd {}; {change}", str(&dir)));
            let found = amiss(sandbox, &ours);
            assert!(found.is_empty(), "{change}: {found:?}");
            let line = "image: removed or moved away; the mount shows what it was until it ends";
            assert_eq!(
                ours.log().matches(line).count(),
                usize::from(gone),
                "{change}: {}",
                ours.log()
            );
            assert!(gone || !ours.log().contains("image"), "{change}: {}", ours.log());
        });
    }
}

#[test]
fn what_comes_later_to_the_name_of_an_image_has_replaced_it() {
    require!(Root, Fuse, Erofs);
    sandbox(|sandbox| {
        let (dir, ours) = by_link(sandbox, &[]);
        let hello = || errno(fs::metadata(ours.at("hello")).map(drop));
        sh(&format!("mv {0}/image {0}/image.1", str(&dir)));
        assert_eq!(hello(), None);
        fs::write(dir.join("image"), "another").unwrap();
        assert_eq!(errno(fs::read(ours.at("hello"))), Some(libc::EIO), "{}", ours.log());
        // For good, though the image comes back.
        sh(&format!("mv {0}/image.1 {0}/image", str(&dir)));
        assert_eq!(errno(fs::read(ours.at("hello"))), Some(libc::EIO));
        for said in ["removed or moved away; ", "replaced by another file while "] {
            assert_eq!(ours.log().matches(said).count(), 1, "{}", ours.log());
        }
    });
}

/// What a mount over a name hides may be replaced: the name is none of it.
#[test]
fn an_image_that_is_mounted_at_its_name_is_shown() {
    require!(Root, Fuse, Erofs);
    sandbox(|sandbox| {
        let image = copied(sandbox, "few-erofs");
        let place = sandbox.file("place", "");
        sh(&format!("mount --bind {} {}", str(&image), str(&place)));
        let ours = Ours::new(&place, &sandbox.dir("mnt"), &[]);
        sh(&format!("chmod 600 {i}; echo >{i}.2; mv {i}.2 {i}", i = str(&image)));
        assert_eq!(fs::read(ours.at("hello")).unwrap(), b"hello\n", "{}", ours.log());
    });
}

/// A file below an overlay stays as it is, whatever becomes of its name above.
#[test]
fn an_image_in_an_overlay_is_looked_for_each_time() {
    require!(Root, Fuse, Overlay, Erofs);
    for (change, shown, said) in [
        ("chmod 600 image", true, ""),
        ("rm image", true, "removed or moved away; "),
        ("cp image new; mv new image", false, "replaced by another file while mounted; "),
        ("rm image; echo >image", false, "replaced by another file while mounted; "),
    ] {
        sandbox(move |sandbox| {
            let (from, _) = images::image("few-erofs").expect("tools of Debian 12 make it");
            images::copy(&from, &sandbox.dir("lower").join("image"));
            let above = sandbox.dir("above");
            sh(&format!(
                "cd {}; mkdir upper work
                mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none above",
                str(&sandbox.path("."))
            ));
            let ours = Ours::new(&above.join("image"), &sandbox.dir("mnt"), &[]);
            // As late as no name would be looked at that had not changed.
            std::thread::sleep(std::time::Duration::from_millis(2_500));
            assert!(fs::metadata(ours.at("hello")).is_ok());
            sh(&format!("cd {}; {change}", str(&above)));
            let want = if shown { None } else { Some(libc::EIO) };
            assert_eq!(errno(fs::read(ours.at("hello"))), want, "{change}: {}", ours.log());
            assert!(ours.log().contains(said), "{change}: {}", ours.log());
        });
    }
}

/// A server of root has no more rights than others to look at directories.
#[test]
fn an_image_where_its_server_may_not_look_is_read_no_more_without_its_name() {
    require!(Root, Fuse, Erofs);
    for (change, shown) in [
        ("chmod 600 image; ln image other", true),
        ("cp image new; mv new image", false),
        ("rm image", false),
        ("mv image image.1", false),
    ] {
        sandbox(move |sandbox| {
            let dir = sandbox.dir("images");
            raw::chmod(&dir, 0o700).unwrap();
            raw::chown(&dir, ANN, ANN, false).unwrap();
            let (from, _) = images::image("few-erofs").expect("tools of Debian 12 make it");
            images::copy(&from, &dir.join("image"));
            let ours = Ours::new(&dir.join("image"), &sandbox.dir("mnt"), &[]);
            sh(&format!("cd {}; {change}", str(&dir)));
            let read = fs::read(ours.at("hello"));
            let want = if shown { None } else { Some(libc::EIO) };
            assert_eq!(errno(read), want, "{change}: {}", ours.log());
            let said =
                "removed, moved away or replaced (its directory may not be searched) while mounted";
            assert_eq!(ours.log().contains(said), !shown, "{change}: {}", ours.log());
        });
    }
}

#[test]
fn a_further_device_that_is_replaced_is_read_no_more() {
    require!(Root, Fuse, Erofs);
    sandbox(|sandbox| {
        let here = sandbox.path(".");
        sh(&format!(
            "cd {}; mkdir tree; seq 300000 >tree/big
            mkfs.erofs --chunksize=4096 --blobdev=blob image tree >/dev/null 2>&1",
            str(&here)
        ));
        let device = format!("--device={}/blob", str(&here));
        let [lost, kept] = [("lost", "eio"), ("kept", "keep")].map(|(point, how)| {
            let option = format!("--replaced={how}");
            Ours::new(&here.join("image"), &sandbox.dir(point), &[&device, &option])
        });
        sh(&format!("cd {}; cp blob new; mv new blob", str(&here)));
        assert_eq!(errno(fs::read(lost.at("big"))), Some(libc::EIO), "{}", lost.log());
        let big = fs::read(here.join("tree/big")).unwrap();
        assert!(fs::read(kept.at("big")).unwrap() == big, "{}", kept.log());
        for ours in [lost, kept] {
            let said = ours.log().matches("blob: replaced by another file").count();
            assert_eq!(said, 1, "{}", ours.log());
        }
    });
}

#[test]
fn a_user_is_told_that_an_image_was_replaced() {
    require!(Root, Fuse, Fusermount, UserNamespaces, Overlay, Erofs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does(
            "mkdir tree; cp -a $ROOTFS/. tree; seq 300000 >tree/big; echo low >tree/low
            PATH=$PATH:/usr/sbin; mkfs.erofs image tree >/dev/null; mkdir upper",
        );
        let new = "cp ~/image ~/new; mv ~/new ~/image";
        let read = "2>&1 | grep -o 'Input/output error'";
        // By fusermount3; for one command; in a namespace below an overlay.
        let out = ann.does(&format!(
            "idmapfs ~/image ~/.cache/view; {new}; cat ~/.cache/view/big {read}
            fusermount3 -u ~/.cache/view
            idmapfs run ~/image -- sh -c \"{new}; cat big {read}\" 2>log
            grep -c 'replaced by' log
            unshare --map-auto --map-root-user -m sh -euc \"
                idmapfs --upper ~/upper ~/image ~/.cache/view; cd ~/.cache/view; echo made >made
                {new}; cat big {read}; cat made; echo more >>made; cat made
                echo more 2>&1 >>low | grep -o 'Input/output error'
                cd; umount ~/.cache/view\""
        ));
        let eio = "Input/output error\n";
        assert_eq!(out, format!("{eio}{eio}1\n{eio}made\nmade\nmore\n{eio}"));
        // With the image as the root of the command; by the option it stays.
        for (option, want) in [("--replaced=keep", "300000\n1\n"), ("--replaced=eio", "ended\n1\n")]
        {
            let out = ann.does(&format!(
                "rm -f upper/ready
                {{ until [ -e upper/ready ]; do sleep 0.1; done; {new}; echo; }} |
                    idmapfs run {option} --upper ~/upper ~/image -- \
                        /bin/sh -c 'echo >/ready; read line; grep -x 300000 /big' 2>log || echo ended
                grep -c 'replaced by' log"
            ));
            assert_eq!(out, want, "{option}: {}", ann.does("cat log"));
        }
        wait_for("the servers' end", || ann.processes().is_empty());
    });
}

/// By nothing that the image would have to be asked for.
#[test]
fn an_image_that_is_gone_is_named_by_explain() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = copied(sandbox, "few-ext4");
        let ours = Ours::new(&image, &sandbox.dir("mnt"), &[]);
        let said = || {
            let done = output(PROGRAM, &["explain", "--mount", str(&ours.point), "hello"]);
            (done.status.code(), text(&done))
        };
        wait_for("a server that is known", || said().0 == Some(0));
        fs::rename(&image, sandbox.path("away")).unwrap();
        let there = || run(PROGRAM, &["explain", "--mount", str(&ours.point)]);
        assert!(there().contains("by now:   is gone; the mount shows it"), "{}", there());
        let gone = said();
        assert!(gone.0 == Some(1) && gone.1.contains(": is gone; the mount shows it"), "{gone:?}");
        for make in ["cp away", "mkdir"] {
            sh(&format!("cd {}; {make} {image}", str(&sandbox.path(".")), image = str(&image)));
            let other = said();
            assert!(other.0 == Some(1) && other.1.contains(": is another file"), "{other:?}");
            assert!(there().contains("by now:   is another file"), "{}", there());
            sh(&format!("rm -r {}", str(&image)));
        }
    });
}
