//! Images that are damaged at random: readers neither panic nor hang nor take all
//! memory, and a mount lives on.
//!
//! `IDMAPFS_SEED` is the seed to begin with, `IDMAPFS_DAMAGED` how many of each format.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};

use crate::require;
use crate::support::images::damage::{damaged, edits, open, read_all};
use crate::support::images::{Format, KINDS, image};
use crate::support::ours::{self, Ours};
use crate::support::rng::Rng;
use crate::support::{holds_within, mount_at, run, sandbox, sh, str, text};

/// How many images of each format are read.
const IMAGES: u64 = 500;

/// How many of each format are mounted.
const MOUNTS: u64 = 15;

/// The longest that one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The most memory that a reader may have.
const MEMORY: u64 = 1 << 30;

/// What tells a process of this program that it is to read, and what.
const CHILD: &str = "IDMAPFS_READ_DAMAGED";

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The names of small images of a format.
fn few(format: Format) -> Vec<&'static str> {
    let few = KINDS.iter().filter(|kind| kind.name.starts_with("few-") && kind.format == format);
    few.map(|kind| kind.name).collect()
}

/// Returns the damaged image of a seed.
fn of_seed(whole: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let whole = &whole[seed as usize % whole.len()];
    damaged(whole, &edits(&mut rng, whole))
}

/// Has a process of its own read damaged images, and fails if it does not end well.
fn read_damaged(format: Format) {
    let first = number("IDMAPFS_SEED", 1);
    let count = number("IDMAPFS_DAMAGED", IMAGES);
    let paths: Vec<_> = few(format).into_iter().map(|name| image(name).unwrap().0).collect();
    let paths: Vec<_> = paths.iter().map(|path| str(path)).collect();
    let job = format!("{} {first} {count} {}", format.name(), paths.join(" "));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "mount::images::damaged::a_reader_of_damaged_images", "--nocapture"]);
    child.env(CHILD, job).stdin(Stdio::null());
    let done = child.output().unwrap();
    let said = text(&done);
    let last: String = said.lines().rev().take(40).collect::<Vec<_>>().join("\n");
    assert!(done.status.success() && said.contains("all were read"), "backwards:\n{last}");
}

/// Reads damaged images where it is asked to; a process of its own, with little memory.
#[test]
fn a_reader_of_damaged_images() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let mut words = job.split(' ');
    let mut word = || words.next().expect("a word").to_owned();
    let format = word();
    let [first, count] = [word(), word()].map(|word| word.parse::<u64>().unwrap());
    let formats = [Format::Ext4, Format::Squashfs, Format::Erofs];
    let format = formats.into_iter().find(|one| one.name() == format).unwrap();
    let whole: Vec<Vec<u8>> = words.map(|path| fs::read(path).unwrap()).collect();
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
    static AT: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(move || {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = AT.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() > LIMIT {
                println!("{}: IDMAPFS_SEED={now} takes longer than {LIMIT:?}", format.name());
                std::process::abort();
            }
        }
    });
    for seed in first..first + count {
        AT.store(seed, Ordering::Relaxed);
        // Before it is read: it may be the last that is heard.
        println!("IDMAPFS_SEED={seed} IDMAPFS_DAMAGED=1");
        if let Ok(image) = open(format, &of_seed(&whole, seed)) {
            read_all(&*image);
        }
    }
    println!("all were read");
}

/// Mounts damaged images: what is wrong is an error, and the server lives.
fn mount_damaged(format: Format) {
    let whole: Vec<_> =
        few(format).iter().map(|name| fs::read(image(name).unwrap().0).unwrap()).collect();
    let first = number("IDMAPFS_SEED", 10_001);
    sandbox(move |sandbox| {
        for seed in first..first + MOUNTS {
            let file = sandbox.path("damaged.img");
            fs::write(&file, of_seed(&whole, seed)).unwrap();
            let point = sandbox.dir("mnt");
            let mounted = ours::finish(&[str(&file), str(&point)]);
            if !mounted.status.success() {
                let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
                let plain = said.lines().count() == 1 && !said.contains("panicked");
                assert!(plain && mount_at(&point).is_none(), "IDMAPFS_SEED={seed}: {said}");
                continue;
            }
            walk(&point, seed);
            // What is there of the root still is.
            let again = sh(&format!("stat -c %F {}", str(&point)));
            assert_eq!(again, "directory\n", "IDMAPFS_SEED={seed}");
            run("umount", &[str(&point)]);
        }
    });
}

/// Reads what can be read; anything may be damaged, but there is always an answer.
fn walk(point: &Path, seed: u64) {
    let script = format!(
        "cd {}; set +e
        ended() {{ [ $? -lt 124 ] || echo \"$1 hangs\"; }}
        exec 3>&1 >/dev/null 2>{}
        timeout 10 find . -maxdepth 12 -printf '%s %l\\n'; ended find >&3
        timeout 20 find . -maxdepth 12 -type f -size -64M -exec head -c 1000000 {{}} +; ended head >&3
        timeout 10 getfattr -R -P -d -m - .; ended getfattr >&3
        true",
        str(point),
        str(&point.with_extension("errors")),
    );
    let said = sh(&script);
    assert!(said.is_empty(), "IDMAPFS_SEED={seed}: {said}");
    let errors = fs::read_to_string(point.with_extension("errors")).unwrap_or_default();
    let gone = ["not connected", "aborted", "Bus error", "No such device"];
    assert!(!gone.iter().any(|what| errors.contains(what)), "IDMAPFS_SEED={seed}: {errors}");
}

#[test]
fn a_damaged_ext4_is_read_to_its_end() {
    require!(Root, Ext4Loop);
    read_damaged(Format::Ext4);
}

#[test]
fn a_damaged_squashfs_is_read_to_its_end() {
    require!(Root, Squashfs);
    read_damaged(Format::Squashfs);
}

#[test]
fn a_damaged_erofs_is_read_to_its_end() {
    require!(Root, Erofs);
    read_damaged(Format::Erofs);
}

#[test]
fn what_is_damaged_has_its_name_in_a_listing() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let (tree, kernel) = (sandbox.dir("tree"), sandbox.dir("kernel"));
        let image = sandbox.path("image");
        sh(&format!(
            "cd {tree}; touch a c; mkdir b; mke2fs -q -F -O ^has_journal -d . {image} 8M
             debugfs -w -R 'clri b' {image} 2>/dev/null; mount -t ext4 -o loop,ro {image} {kernel}",
            tree = str(&tree),
            image = str(&image),
            kernel = str(&kernel)
        ));
        let ours = Ours::new(&image, &sandbox.dir("ours"), &[]);
        let names = |dir: &Path| {
            let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<Vec<_>>()
        };
        // The second time it is what the kernel has kept.
        for _ in 0..2 {
            assert_eq!(names(&ours.point), names(&kernel));
            assert_eq!(names(&kernel).len(), 4);
            let error = fs::symlink_metadata(ours.at("b")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            assert!(fs::metadata(ours.at("c")).is_ok());
        }
    });
}

#[test]
fn a_mount_of_a_damaged_image_lives() {
    require!(Root, Fuse, Ext4Loop, Squashfs, Erofs);
    [Format::Ext4, Format::Squashfs, Format::Erofs].into_iter().for_each(mount_damaged);
}

#[test]
fn a_mount_lives_though_each_read_fails() {
    require!(Root, Fuse, Ext4Loop, Squashfs, Erofs);
    for name in ["ext4-kernel", "squashfs", "erofs"] {
        let whole = fs::read(image(name).unwrap().0).unwrap();
        sandbox(move |sandbox| {
            // All but the first and the last part, which is needed to mount it.
            let (mut bytes, size) = (whole.clone(), whole.len());
            let from = size / 3;
            for at in (from..size - size / 3).step_by(64) {
                bytes[at] ^= 0x5a;
            }
            let file = sandbox.path("damaged.img");
            fs::write(&file, bytes).unwrap();
            let ours = Ours::new(&file, &sandbox.dir("mnt"), &[]);
            walk(&ours.point, 0);
            assert!(holds_within(LIMIT, || fs::metadata(&ours.point).is_ok()), "{name}");
            assert_eq!(ours.unmount(), Some(0), "{name}");
        });
    }
}
