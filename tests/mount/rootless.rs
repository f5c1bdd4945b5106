//! `docs/rootless.md`: its commands print what it says, and what it says of changes and
//! of access is so.

use std::fs;
use std::path::Path;

use crate::require;
use crate::support::features::{Feature, has};
use crate::support::rootless::Rootless;
use crate::support::{sandbox, text, wait_for};

/// The document's scripts: the heading, the commands, and what they print.
fn scripts() -> Vec<(String, String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rootless.md");
    let document = fs::read_to_string(path).unwrap();
    let (mut found, mut heading, mut block) = (Vec::new(), "", None);
    for line in document.lines() {
        match (line, &mut block) {
            ("```sh", None) => block = Some((String::new(), String::new())),
            ("```", Some(_)) => {
                let (script, want) = block.take().unwrap();
                found.push((heading.to_owned(), script, want));
            }
            (_, Some((script, want))) => match line.strip_prefix("#> ") {
                Some(printed) => *want += &format!("{printed}\n"),
                None => *script += &format!("{line}\n"),
            },
            (_, None) => heading = line.strip_prefix("## ").unwrap_or(heading),
        }
    }
    found
}

#[test]
fn the_documents_commands_print_what_it_says() {
    require!(Root, Fuse, Podman, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.image();
        let scripts = scripts();
        assert!(scripts.len() > 10, "only {} scripts were found", scripts.len());
        let mut run = 0;
        for (heading, script, want) in scripts {
            let untested = script.contains("#no test");
            if untested || script.contains("#needs buildah") && !has(Feature::Buildah) {
                continue;
            }
            let done = ann.tries(&script);
            assert!(done.status.success(), "{heading}: {script}{}", text(&done));
            let printed = String::from_utf8_lossy(&done.stdout);
            assert_eq!(printed, want, "{heading}: {script}{}", text(&done));
            run += 1;
            // Nothing is left but podman's own process.
            let pause = ann.pause();
            wait_for("the end of all servers", || {
                ann.processes().into_iter().all(|pid| Some(pid) == pause)
            });
        }
        assert!(run > 9, "only {run} scripts were run");
    });
}
