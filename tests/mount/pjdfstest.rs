//! pjdfstest on our mount: nothing fails that does not fail on the ext4 below.
//!
//! `tests/run.sh` builds the program; `IDMAPFS_PJDFSTEST` names another one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::require;
use crate::support::features::pjdfstest;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{Sandbox, output, raw, sandbox, str, text};

/// A user of every Debian system.
const USER: u32 = 34;

/// How pjdfstest is set up: everything that ext4 on Linux has.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    exception: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    test: String,
    reason: String,
    /// Only for a mount with this option.
    with: Option<String>,
}

fn exceptions(args: &[&str]) -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pjdfstest.toml");
    let list: Exceptions = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let fits = |with: &Option<String>| with.as_deref().is_none_or(|with| args.contains(&with));
    let list = list.exception.into_iter().filter(|exception| fits(&exception.with));
    list.map(|exception| (exception.test, exception.reason)).collect()
}

/// Runs the suite in a directory; returns each test's result.
fn results(sandbox: &Sandbox, dir: &Path) -> BTreeMap<String, String> {
    let config = sandbox.file("pjdfstest.toml", CONFIGURATION);
    let second = sandbox.dir("second");
    let args = ["-c", str(&config), "-p", str(dir), "-s", str(&second)];
    let done = output(str(&pjdfstest()), &args);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let results: BTreeMap<String, String> = said
        .lines()
        .filter(|line| line.contains("::") && !line.starts_with(char::is_whitespace))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(name, result)| (name.to_owned(), result.trim().to_owned()))
        .filter(|(_, result)| !result.contains(' '))
        .collect();
    assert!(results.len() > 350, "pjdfstest ran {} tests: {}", results.len(), text(&done));
    results
}

/// Compares ours, with these arguments, to the image alone.
fn no_new_failure(args: &'static [&'static str], root_on_disk: u32) {
    compare(args, move |sandbox, image| {
        raw::chown(&image.root, root_on_disk, root_on_disk, false).unwrap();
        Ours::new(&image.root, &sandbox.dir("mnt"), args)
    });
}

/// Compares the mount of an ordinary user, who keeps the owners, to the image alone.
fn no_new_failure_of_a_user(args: &'static [&'static str]) {
    compare(args, move |sandbox, image| {
        let ours = Ours::of_user(sandbox, USER, &image.root, &sandbox.dir("mnt"), args);
        raw::chown(&ours.point, 0, 0, false).unwrap();
        raw::chmod(&ours.point, 0o755).unwrap();
        ours
    });
}

fn compare(
    args: &'static [&'static str],
    mount: impl FnOnce(&Sandbox, &Ext4) -> Ours + Send + 'static,
) {
    sandbox(move |sandbox| {
        let image = Ext4::new(sandbox, 200);
        image.remount("relatime");
        let native = results(sandbox, &image.root);
        let ours = mount(sandbox, &image);
        let found = results(sandbox, &ours.point);
        let exceptions = exceptions(args);
        let fails = |of: &BTreeMap<String, String>, test: &str| {
            of.get(test).is_none_or(|result| result != "ok")
        };
        let mut wrong = Vec::new();
        for (test, result) in &native {
            let new = result == "ok" && fails(&found, test);
            match (new, exceptions.get(test)) {
                (true, None) => wrong.push(format!("{test}: {:?}", found.get(test))),
                (true, Some(reason)) => println!("exception: {test}: {reason}"),
                (false, Some(_)) => wrong.push(format!("{test} passes: not an exception any more")),
                (false, None) => {}
            }
        }
        let passed = found.values().filter(|result| *result == "ok").count();
        let there = native.values().filter(|result| *result == "ok").count();
        println!(
            "pjdfstest, engine fuse, {args:?}: {passed} passed of {}, natively {there}",
            found.len()
        );
        let log: Vec<String> = ours.log().lines().rev().take(20).map(str::to_owned).collect();
        assert!(wrong.is_empty(), "{}\n{log:#?}", wrong.join("\n"));
    });
}

#[test]
fn nothing_fails_with_identity() {
    require!(Root, Fuse, Ext4Loop, Pjdfstest);
    no_new_failure(&["-o", "suid,dev"], 0);
}

#[test]
fn nothing_fails_with_ids_moved() {
    require!(Root, Fuse, Ext4Loop, Pjdfstest);
    no_new_failure(&["-o", "suid,dev", "--map", "500000:0:100000"], 500_000);
}

/// Permission is decided by us, and nobody is mirrored.
#[test]
fn nothing_fails_where_we_decide() {
    require!(Root, Fuse, Ext4Loop, Pjdfstest);
    no_new_failure(&["--mirror", "9999"], 0);
}

#[test]
fn nothing_fails_with_owners_in_attributes() {
    require!(Root, Fuse, Ext4Loop, Fusermount, Pjdfstest);
    no_new_failure_of_a_user(&["--owners=xattr"]);
}

#[test]
fn nothing_fails_with_owners_in_a_database() {
    require!(Root, Fuse, Ext4Loop, Fusermount, Pjdfstest);
    no_new_failure_of_a_user(&["--owners=db"]);
}

/// The suite itself can run here: else the two others would prove nothing.
#[test]
fn the_suite_passes_natively() {
    require!(Root, Ext4Loop, Pjdfstest);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 200);
        image.remount("relatime");
        let native = results(sandbox, &image.root);
        let failed: Vec<_> = native.iter().filter(|(_, result)| *result == "FAILED").collect();
        assert!(failed.len() < 5, "{failed:?}");
    });
}
