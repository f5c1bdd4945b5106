//! Documents whose commands are run, and print what they say.

use std::fs;
use std::path::Path;

use super::boxes::Bus;
use super::features::{Feature, has};
use super::rootless::Rootless;
use super::{text, wait_for};

/// A script of a document.
#[derive(Debug)]
struct Script {
    heading: String,
    commands: String,
    /// What they print.
    want: String,
}

/// The scripts of a document in `docs`.
fn scripts(name: &str) -> Vec<Script> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let document = fs::read_to_string(path).unwrap();
    let (mut found, mut heading, mut block) = (Vec::new(), "", None);
    for line in document.lines() {
        match (line, &mut block) {
            ("```sh", None) => block = Some((String::new(), String::new())),
            ("```", Some(_)) => {
                let (commands, want) = block.take().unwrap();
                found.push(Script { heading: heading.to_owned(), commands, want });
            }
            (_, Some((commands, want))) => match line.strip_prefix("#> ") {
                Some(printed) => *want += &format!("{printed}\n"),
                None => *commands += &format!("{line}\n"),
            },
            (_, None) => heading = line.strip_prefix("## ").unwrap_or(heading),
        }
    }
    found
}

/// Runs all scripts of a document as a user; there are to be more than so many.
///
/// One that says `#no test` is left out, and one that says `#needs buildah` or the
/// like where that is not installed.
pub fn run_all(ann: &Rootless, document: &str, least: usize) {
    let mut run = 0;
    for Script { heading, commands, want } in scripts(document) {
        let untested = commands.contains("#no test");
        let needs = [
            ("#needs buildah", Feature::Buildah),
            ("#needs distrobox", Feature::Distrobox),
            ("#needs fuse-overlayfs", Feature::FuseOverlayfs),
            ("#needs toolbox", Feature::Toolbox),
        ];
        let lacks = |&(line, feature): &(&str, _)| commands.contains(line) && !has(feature);
        if untested || needs.iter().any(lacks) {
            continue;
        }
        let bus = commands.contains("#needs toolbox").then(|| Bus::new(ann));
        let done = ann.tries(&commands);
        drop(bus);
        assert!(done.status.success(), "{heading}: {commands}{}", text(&done));
        let printed = String::from_utf8_lossy(&done.stdout);
        assert_eq!(printed, want, "{heading}: {commands}{}", text(&done));
        run += 1;
        // Nothing is left but podman's own process.
        let pause = ann.pause();
        wait_for("the end of all servers", || {
            ann.processes().into_iter().all(|pid| Some(pid) == pause)
        });
    }
    assert!(run > least, "{document}: only {run} scripts were run");
}
