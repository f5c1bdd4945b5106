//! Every image beside the kernel's loop mount of it, with ids as they are and shifted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::compare::{Except, differences, disorder};
use crate::require;
use crate::support::idmap::{self, IdMap};
use crate::support::images::{self, Contents, Format, KINDS, Loop, image, tree};
use crate::support::ours::{self, Ours};
use crate::support::{raw, run, sandbox, sh, str};

const SHIFT: &str = "0:100000:65536";

/// Fails where two trees differ; there are to be this many files at least.
fn same(what: &str, [one, other]: [&Path; 2], except: Except, least: usize) {
    let (found, files) = differences(one, other, except);
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
    assert!(files >= least, "{what}: only {files} files");
}

/// Compares a mount of ours with the kernel's, each of them with ids shifted as well.
fn alike(name: &'static str) {
    let Some((path, kind)) = image(name) else { return };
    sandbox(move |sandbox| {
        let before = images::state(&path);
        let kernel = Loop::new(sandbox, &path, kind);
        let least = if matches!(kind.contents, Contents::Whole | Contents::Huge) { 900 } else { 2 };
        let plain = Ours::new(&path, &sandbox.dir("plain"), &[]);
        same(name, [&kernel.root, &plain.point], Except::Nothing, least);
        let map = IdMap::both(SHIFT);
        let moved = sandbox.dir("kernel-shifted");
        idmap::mount(&kernel.root, &moved, &map);
        let shifted = Ours::new(&path, &sandbox.dir("shifted"), &["--map", SHIFT]);
        let what = format!("{name}, shifted");
        same(&what, [&moved, &shifted.point], Except::StandIns, least);
        for dir in ["", "many", "names", "links"].map(|dir| plain.at(dir)) {
            if let Some(wrong) = dir.exists().then(|| disorder(&dir)).flatten() {
                panic!("{name}: {wrong}");
            }
        }
        assert_eq!(images::state(&path), before, "{name}: was changed");
    });
}

fn all(format: Format) {
    let of = KINDS.iter().filter(|kind| kind.format == format && kind.contents != Contents::Few);
    of.for_each(|kind| alike(kind.name));
}

#[test]
fn every_ext4_is_as_the_kernel_shows_it() {
    require!(Root, Fuse, Idmap);
    all(Format::Ext4);
}

#[test]
fn every_squashfs_is_as_the_kernel_shows_it() {
    require!(Root, Fuse, Squashfs);
    all(Format::Squashfs);
}

#[test]
fn every_erofs_is_as_the_kernel_shows_it() {
    require!(Root, Fuse, Erofs);
    all(Format::Erofs);
}

/// Chunks of an erofs may be in other files, which several images share.
#[test]
fn an_erofs_with_data_in_other_files_is_as_the_kernel_shows_it() {
    require!(Root, Fuse, Idmap, Erofs);
    sandbox(|sandbox| {
        let (tree, kernel) = (sandbox.dir("tree"), sandbox.dir("kernel"));
        tree::make(&tree, Contents::Few, Format::Erofs);
        let [image, blob] = ["image", "blob"].map(|name| sandbox.path(name));
        sh(&format!(
            "cd {tree}; seq 300000 >big; truncate -s 3M hole; seq 99999 >>hole; cp big again
             mkfs.erofs --chunksize=4096 --blobdev={blob} {image} . >/dev/null 2>&1
             mount -t erofs -o loop,ro,device=$(losetup -rf --show {blob}) {image} {kernel}
             for loop in $(losetup -nO NAME -j {blob}); do losetup -d $loop; done",
            tree = str(&tree),
            blob = str(&blob),
            image = str(&image),
            kernel = str(&kernel)
        ));
        let device = format!("--device={}", str(&blob));
        let plain = Ours::new(&image, &sandbox.dir("plain"), &[&device]);
        same("two files", [&kernel, &plain.point], Except::Nothing, 6);
        same("what was packed", [&tree.join("big"), &plain.at("big")], Except::Identity, 1);
        let moved = sandbox.dir("moved");
        idmap::mount(&kernel, &moved, &IdMap::both(SHIFT));
        let shifted = Ours::new(&image, &sandbox.dir("shifted"), &["--map", SHIFT, &device]);
        same("two files, shifted", [&moved, &shifted.point], Except::StandIns, 6);
        let said = run(ours::PROGRAM, &["explain", "--mount", str(&plain.point), "big"]);
        assert!(said.contains(str(&blob)), "{said}");
        // Whichever of them changes, no more of it is read.
        let late = Ours::new(&image, &sandbox.dir("late"), &[&device]);
        sh(&format!("truncate -s +4096 {}", str(&blob)));
        let read = fs::read(late.at("big")).map(|bytes| bytes.len());
        assert_eq!(read.map_err(|error| error.raw_os_error()), Err(Some(libc::EIO)));
    });
}

/// Images have what they were made of, as the kernel sees it: or there is nothing to
/// compare with.
#[test]
fn images_have_what_they_were_made_of() {
    require!(Root, Squashfs, Erofs, Ext4Loop);
    for name in ["ext4-kernel", "squashfs", "erofs"] {
        let (path, kind) = image(name).expect("tools of Debian 12 make it");
        sandbox(move |sandbox| {
            let made = sandbox.dir("made");
            tree::make(&made, kind.contents, kind.format);
            let kernel = Loop::new(sandbox, &path, kind);
            same_but_times(name, &made, &kernel.root);
            assert_eq!(disorder(&kernel.root.join("many")), None);
        });
    }
}

/// Fails where an image has not what a tree has that was made a moment later.
fn same_but_times(name: &str, made: &Path, shown: &Path) {
    for dir in ["data", "deep", "devices", "ids", "many", "names"] {
        let (found, files) = differences(&made.join(dir), &shown.join(dir), Except::Identity);
        // Whole seconds without a sign are all that squashfs has.
        let times = |line: &&String| !line.contains(": mtime: ");
        let found: Vec<_> = found.iter().filter(times).collect();
        assert!(found.is_empty() && files > 5, "{name}/{dir}: {files} files, {found:?}");
    }
}

/// Two trees of one file each, in which one thing is not the same.
fn changed(dir: PathBuf, change: fn(&Path)) -> PathBuf {
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "contents").unwrap();
    symlink("target", dir.join("link")).unwrap();
    raw::set_xattr(&dir.join("file"), "user.a", b"value", 0).unwrap();
    change(&dir);
    for name in ["file", "link", "sub"] {
        // It may be what was removed.
        let _ = raw::utimens(&dir.join(name), [(5, 5), (5, 5)], false);
    }
    raw::utimens(&dir, [(5, 5), (5, 5)], false).unwrap();
    dir
}

#[test]
fn the_comparison_sees_each_difference() {
    require!(Root);
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 12] = [
        ("", |_| ()),
        ("mode", |dir| {
            raw::chmod(&dir.join("file"), 0o600).unwrap();
        }),
        ("uid", |dir| {
            raw::chown(&dir.join("file"), 5, 0, false).unwrap();
        }),
        ("gid", |dir| {
            raw::chown(&dir.join("link"), 0, 5, false).unwrap();
        }),
        ("the first that differs", |dir| fs::write(dir.join("file"), "contentz").unwrap()),
        ("size", |dir| fs::write(dir.join("file"), "content").unwrap()),
        ("nlink", |dir| fs::hard_link(dir.join("file"), dir.join("sub/file")).unwrap()),
        ("is too many", |dir| fs::write(dir.join("more"), "").unwrap()),
        ("is missing", |dir| fs::remove_dir(dir.join("sub")).unwrap()),
        ("value of", |dir| {
            raw::set_xattr(&dir.join("file"), "user.a", b"valuf", 0).unwrap();
        }),
        ("attributes", |dir| {
            raw::set_xattr(&dir.join("sub"), "user.b", b"", 0).unwrap();
        }),
        ("target", |dir| {
            fs::remove_file(dir.join("link")).unwrap();
            symlink("Target", dir.join("link")).unwrap();
        }),
    ];
    sandbox(move |sandbox| {
        let one = changed(sandbox.dir("one"), |_| ());
        for (at, (want, change)) in changes.into_iter().enumerate() {
            let other = changed(sandbox.dir(&at.to_string()), change);
            let (found, _) = differences(&one, &other, Except::Identity);
            assert_eq!(found.is_empty(), want.is_empty(), "{want}: {found:?}");
            assert!(want.is_empty() || found.iter().any(|line| line.contains(want)), "{found:?}");
        }
        let (found, _) = differences(&one, &one, Except::Nothing);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(disorder(&one), None);
    });
}
