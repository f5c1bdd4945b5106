//! Large directories, large trees, and directories that change meanwhile.

use std::collections::BTreeSet;
use std::fs;

use crate::require;
use crate::support::ours::Ours;
use crate::support::{raw, sandbox, sh, str};

#[test]
fn a_hundred_thousand_entries_are_listed_once_each() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--map", "0:100000:1000"]);
        for n in 0..100_000 {
            fs::write(source.join(n.to_string()), "").unwrap();
        }
        let names: Vec<_> =
            fs::read_dir(&ours.point).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 100_000);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 100_000);
        let owners = sh(&format!("find {} -type f -uid 100000 | wc -l", str(&ours.point)));
        assert_eq!(owners.trim(), "100000");
    });
}

#[test]
fn deleting_while_reading_loses_nothing() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        for n in 0..3000 {
            fs::write(source.join(format!("some longer name {n}")), "").unwrap();
        }
        for entry in fs::read_dir(&ours.point).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(fs::read_dir(&ours.point).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
    });
}

#[test]
fn a_position_stays_good_while_entries_go() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let names: Vec<String> = (0..2000).map(|n| format!("entry-{n:05}")).collect();
        for name in &names {
            fs::write(source.join(name), "").unwrap();
        }
        let directory = raw::Directory::open(&ours.point).unwrap();
        let mut first = Vec::new();
        while first.len() < 700 {
            first.push(directory.next().unwrap());
        }
        let position = directory.tell();
        let rest: BTreeSet<String> = std::iter::from_fn(|| directory.next()).collect();
        // What was read before goes; what comes after the position must not move.
        for name in first.iter().filter(|name| name.starts_with("entry")) {
            fs::remove_file(ours.at(name)).unwrap();
        }
        directory.seek(position);
        let again: BTreeSet<String> = std::iter::from_fn(|| directory.next()).collect();
        assert_eq!(rest, again);
    });
}

#[test]
fn new_entries_show_after_a_rewind() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &[]);
        let directory = raw::Directory::open(&ours.point).unwrap();
        let count = || std::iter::from_fn(|| directory.next()).count();
        assert_eq!(count(), 2, "dot and dot-dot");
        fs::write(ours.at("new"), "").unwrap();
        directory.rewind();
        assert_eq!(count(), 3);
    });
}

#[test]
fn an_open_directory_that_was_removed_is_empty() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &[]);
        fs::create_dir(ours.at("d")).unwrap();
        let directory = raw::Directory::open(&ours.at("d")).unwrap();
        fs::remove_dir(ours.at("d")).unwrap();
        let left = std::iter::from_fn(|| directory.next()).filter(|n| !n.starts_with('.')).count();
        assert_eq!(left, 0);
        assert!(fs::write(ours.at("d/x"), "").is_err());
    });
}

/// More files than descriptors: the server must not keep one for each.
#[test]
fn a_walk_of_fifty_thousand_files_needs_few_descriptors() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        for d in 0..500 {
            fs::create_dir(source.join(d.to_string())).unwrap();
            for f in 0..100 {
                fs::write(source.join(format!("{d}/{f}")), "x").unwrap();
            }
        }
        let (program, point) = (crate::support::ours::PROGRAM, sandbox.dir("mnt"));
        let script = format!("ulimit -n 256; exec {program} -f {} {}", str(&source), str(&point));
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &script]);
        let ours = Ours::start(command, &point, sandbox.path("log"));
        let walk =
            format!("cd {}; find . -type f -printf '%i %s\\n' | sort -u | wc -l", str(&point));
        assert_eq!(sh(&walk).trim(), "50000");
        assert_eq!(sh(&walk).trim(), "50000");
        // Every file read, and names again after the kernel forgot them all.
        let read = format!("cd {}; find . -type f -exec cat {{}} + | wc -c", str(&point));
        assert_eq!(sh(&read).trim(), "50000");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        assert_eq!(sh(&walk).trim(), "50000");
        drop(ours);
    });
}

/// Callers that open more than the server may: they get EMFILE or ENFILE, the
/// others go on.
#[test]
fn running_out_of_descriptors_hits_the_opener_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        for n in 0..400 {
            fs::write(source.join(n.to_string()), "x").unwrap();
            fs::create_dir_all(source.join(format!("d/{n}/e"))).unwrap();
        }
        let (program, point) = (crate::support::ours::PROGRAM, sandbox.dir("mnt"));
        let script = format!("ulimit -n 256; exec {program} -f {} {}", str(&source), str(&point));
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &script]);
        let ours = Ours::start(command, &point, sandbox.path("log"));
        let results: Vec<_> =
            (0..400).map(|n| raw::open(&ours.at(&n.to_string()), libc::O_RDWR, 0)).collect();
        let refused: Vec<i32> = results.iter().filter_map(|r| r.as_ref().err().copied()).collect();
        let allowed = |errno: &i32| [libc::EMFILE, libc::ENFILE].contains(errno);
        assert!(refused.iter().all(allowed), "{refused:?}");
        assert!(refused.len() < 300, "only {} could be opened", 400 - refused.len());
        let seen = sh(&format!(
            "cd {}; find d -type d | wc -l; stat -c %s 350; mkdir new; rm 351; ls new",
            str(&ours.point)
        ));
        assert_eq!(seen, "801\n1\n");
        // No close fails, though a flush would take a descriptor.
        for file in results.into_iter().flatten() {
            let raw = std::os::fd::IntoRawFd::into_raw_fd(file);
            nix::unistd::close(raw).unwrap();
        }
        assert_eq!(fs::read_to_string(ours.at("399")).unwrap(), "x");
    });
}
