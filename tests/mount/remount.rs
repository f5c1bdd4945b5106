//! Flags by mount(8): what fstab says, and what a remount makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::require;
use crate::support::ours::{PROGRAM, command, finish_command};
use crate::support::{Sandbox, mount_at, output, run, sandbox, sh, str, text};

use super::admin::install;

/// The flags that a remount changes, as the mount table shows them.
fn flags(point: &Path) -> BTreeSet<String> {
    let known = ["ro", "nosuid", "nodev", "noexec", "nosymfollow"];
    let shown = mount_at(point).expect("a mount").options;
    shown.split(',').filter(|flag| known.contains(flag)).map(str::to_owned).collect()
}

fn set(words: &str) -> BTreeSet<String> {
    words.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A source and a mount point.
fn planted(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    install(sandbox);
    let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
    fs::write(source.join("f"), "x").unwrap();
    (source, point)
}

/// Has fstab say this of our mount, and that of a tmpfs.
fn fstab(sandbox: &Sandbox, lines: &str) {
    let table = sandbox.file("fstab", lines);
    while nix::mount::umount2("/etc/fstab", nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    run("mount", &["--bind", str(&table), "/etc/fstab"]);
}

#[test]
fn a_remount_by_fstab_has_the_flags_of_any_file_system() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let model = sandbox.dir("model");
        for (ours, theirs) in [
            ("", "nosuid,nodev"),
            (",allow-suid,allow-dev", "rw"),
            (",noexec", "nosuid,nodev,noexec"),
            (",ro,nosymfollow,allow-suid", "ro,nosymfollow,nodev"),
            (",user,exec,allow-suid", "user,exec"),
        ] {
            fstab(
                sandbox,
                &format!(
                    "{} {} idmapfs map=0:100000:9{ours} 0 0\nnone {} tmpfs {theirs} 0 0\n",
                    str(&source),
                    str(&point),
                    str(&model)
                ),
            );
            run("mount", &[str(&point)]);
            run("mount", &[str(&model)]);
            assert_eq!(flags(&point), flags(&model), "{ours}");
            let words = "noexec ro rw exec nosuid rw nodev,nosymfollow symfollow noexec,nosuid \
                         suid dev ro,noexec,nosymfollow exec rw";
            for word in words.split_whitespace() {
                // That is asked for by names of its own.
                let may = |flag| word != flag || ours.contains(&format!("allow-{flag}"));
                if !may("suid") || !may("dev") {
                    continue;
                }
                for at in [&point, &model] {
                    run("mount", &["-o", &format!("remount,{word}"), str(at)]);
                }
                assert_eq!(flags(&point), flags(&model), "{ours}: {word}");
            }
            // Not by fstab, but all of it is said again.
            let again = ["-o", "remount,noexec,nosuid,nodev"];
            run("mount", &[&["-t", "idmapfs"], &again[..], &[str(&source), str(&point)]].concat());
            run("mount", &[&["-t", "tmpfs"], &again[..], &["none", str(&model)]].concat());
            assert_eq!(flags(&point), flags(&model), "{ours}");
            for at in [&point, &model] {
                run("umount", &[str(at)]);
            }
        }
    });
}

#[test]
fn a_remount_without_fstab_changes_what_it_says() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        fstab(sandbox, "");
        run("mount", &["-t", "idmapfs", "-o", "map=0:100000:9", str(&source), str(&point)]);
        for (word, want) in [
            ("noexec", "nosuid,nodev,noexec"),
            ("ro", "ro,nosuid,nodev,noexec"),
            ("exec,nosymfollow", "ro,nosuid,nodev,nosymfollow"),
            ("rw", "nosuid,nodev,nosymfollow"),
            ("suid", "nodev,nosymfollow"),
            ("symfollow", "nodev"),
            ("nosuid", "nosuid,nodev"),
        ] {
            run("mount", &["-o", &format!("remount,{word}"), str(&point)]);
            assert_eq!(flags(&point), set(want), "{word}");
        }
        // By hand the others stay, and what refuses something wins.
        for (word, want) in [
            ("noexec", "nosuid,nodev,noexec"),
            ("ro,allow-suid,nosuid", "ro,nosuid,nodev,noexec"),
            ("rw,exec,suid", "nodev"),
        ] {
            let words = format!("remount,{word}");
            let done = finish_command(&mut command(&["-o", &words, str(&source), str(&point)]));
            assert!(done.status.success(), "{word}: {}", text(&done));
            assert_eq!(flags(&point), set(want), "{word}");
        }
        run("umount", &[str(&point)]);
    });
}

#[test]
fn what_the_source_forbids_stays_forbidden_over_a_remount() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        sh(&format!("mount --bind {0} {0}; mount -o remount,bind,noexec {0}", str(&source)));
        let line = "map=0:0:65536,engine=kernel";
        fstab(sandbox, &format!("{} {} idmapfs {line} 0 0\n", str(&source), str(&point)));
        run("mount", &[str(&point)]);
        for (word, want) in [
            ("ro", "ro,nosuid,nodev,noexec"),
            ("rw,nosymfollow", "nosuid,nodev,noexec,nosymfollow"),
            ("rw", "nosuid,nodev,noexec"),
        ] {
            run("mount", &["-o", &format!("remount,{word}"), str(&point)]);
            assert_eq!(flags(&point), set(want), "{word}");
        }
        sh(&format!("mount -o remount,bind,exec {}", str(&source)));
        run("mount", &["-o", "remount,rw", str(&point)]);
        assert_eq!(flags(&point), set("nosuid,nodev"));
        run("umount", &["-R", str(&point)]);
    });
}

#[test]
fn symbolic_links_are_not_followed_where_that_is_asked() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        symlink("f", source.join("link")).unwrap();
        for engine in ["fuse", "kernel"] {
            let options = format!("map=0:100000:9,nosymfollow,engine={engine}");
            run("mount", &["-t", "idmapfs", "-o", &options, str(&source), str(&point)]);
            assert_eq!(flags(&point), set("nosuid,nodev,nosymfollow"));
            let link = point.join("link");
            assert_eq!(fs::read(&link).unwrap_err().raw_os_error(), Some(libc::ELOOP));
            assert_eq!(fs::read_link(&link).unwrap(), Path::new("f"));
            assert_eq!(fs::read(point.join("f")).unwrap(), b"x");
            run("umount", &[str(&point)]);
        }
        let mut private = command(&["run", "--nosymfollow", str(&source), "--", "cat", "link"]);
        let done = finish_command(&mut private);
        assert!(text(&done).contains("Too many levels of symbolic links"), "{}", text(&done));
    });
}

#[test]
fn words_that_mount_knows_are_known() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let model = sandbox.dir("model");
        for word in [
            "lazytime",
            "nolazytime",
            "iversion",
            "noiversion",
            "mand",
            "nomand",
            "silent",
            "loud",
            "norelatime",
            "nostrictatime",
            "symfollow",
            "async",
            "diratime",
            "atime",
        ] {
            run("mount", &["--bind", "-o", word, str(&source), str(&model)]);
            run("umount", &[str(&model)]);
            run("mount", &["-t", "idmapfs", "-o", word, str(&source), str(&point)]);
            run("mount", &["-o", &format!("remount,{word}"), str(&point)]);
            assert_eq!(flags(&point), set("nosuid,nodev"), "{word}");
            run("umount", &[str(&point)]);
            // As it is written, too, where mount(8) would keep it for itself.
            let done = output(PROGRAM, &["-o", word, str(&source), str(&point)]);
            assert!(done.status.success(), "{word}: {}", text(&done));
            run("umount", &[str(&point)]);
        }
    });
}
