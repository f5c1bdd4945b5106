//! The documents are true: what they name is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn text(path: &str) -> String {
    let full = root().join(path);
    fs::read_to_string(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()))
}

/// Every file below a directory of the project.
fn files(below: &str) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![root().join(below)]);
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found
}

/// The functions of the project that are tests, by name.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files("src").into_iter().chain(files("tests")) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for part in text.split("#[test]").skip(1) {
            let name = part.split_once("fn ").map(|(_, rest)| word(rest));
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// The names that stand in brackets in a line and are no link.
fn in_brackets(line: &str) -> Vec<&str> {
    let closed = line.split('[').skip(1).filter_map(|part| part.split_once(']'));
    closed
        .filter(|(name, rest)| !rest.starts_with('(') && name.chars().all(is_word))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn every_statement_has_a_test_that_exists() {
    let (text, tests) = (text("docs/semantics.md"), tests());
    assert!(tests.len() > 300, "only {} tests were found", tests.len());
    let (mut wrong, mut statements) = (Vec::new(), 0);
    let differences = text.find("## Differences from").expect("the last section");
    for line in text[..differences].lines() {
        let row = line.starts_with("| ") && !line.starts_with("| what");
        let named = in_brackets(line);
        if (row || line.starts_with("- ")) && named.is_empty() {
            wrong.push(format!("no test: {line}"));
        }
        statements += usize::from(!named.is_empty());
        wrong.extend(
            named
                .iter()
                .filter(|name| !tests.contains(**name))
                .map(|n| format!("no such test: {n}")),
        );
    }
    assert!(statements > 60, "only {statements} statements were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_known_difference_has_its_reason() {
    let (source, document) = (text("tests/mount/oracle/known.rs"), text("docs/semantics.md"));
    let (_, body) = source.split_once("pub enum Known {").expect("the differences");
    let (body, _) = body.split_once("\n}").expect("their end");
    let names: BTreeSet<&str> = body
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(word)
        .collect();
    assert!(names.len() > 5, "{names:?}");
    let (_, table) = document.split_once("## Differences from").expect("the last section");
    let rows: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, rows, "tests/mount/oracle/known.rs and docs/semantics.md");
}

#[test]
fn every_dependency_is_explained_and_no_other() {
    let (manifest, document) = (text("Cargo.toml"), text("docs/dependencies.md"));
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let of = |section: &str| {
        manifest[section].as_table().unwrap().keys().cloned().collect::<BTreeSet<String>>()
    };
    let (document, _) = document.split_once("## What fuser").expect("the second table");
    let named: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let wanted: BTreeSet<String> =
        of("dependencies").union(&of("dev-dependencies")).cloned().collect();
    assert_eq!(wanted, named, "Cargo.toml and docs/dependencies.md");
}

/// Whether a word of a document is the path of a file that should be there.
fn names_a_file(word: &str) -> bool {
    let parts = ["docs/", "man/", "packaging/", "policies/", "src/", "tests/"];
    parts.iter().any(|part| word.starts_with(part))
        && !word.contains(['*', '{', ' ', '$', ','])
        && !word.contains("::")
}

#[test]
fn files_that_documents_name_exist() {
    let mut documents = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    documents.push("packaging/README.md".to_owned());
    for path in files("docs") {
        documents.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
    }
    let mut wrong = Vec::new();
    for document in documents {
        for word in text(&document).split('`').skip(1).step_by(2).filter(|word| names_a_file(word))
        {
            if !root().join(word).exists() {
                wrong.push(format!("{document}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_readme_stays_short() {
    let lines = text("README.md").lines().count();
    assert!(lines <= 120, "{lines} lines");
}

/// mount(8) finds its helpers, also where /sbin is a link to /usr/sbin.
#[test]
fn the_installed_helpers_lead_to_the_program() {
    for merged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("usr/sbin")).unwrap();
        if merged {
            std::os::unix::fs::symlink("usr/sbin", at("sbin")).unwrap();
        }
        let done = Command::new("sh")
            .arg(root().join("packaging/install.sh"))
            .env("DESTDIR", dir.path())
            .env("BINARY", env!("CARGO_BIN_EXE_idmapfs"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        assert!(at("usr/bin/idmapfs").is_file());
        for helper in ["sbin/mount.idmapfs", "sbin/mount.fuse.idmapfs"] {
            let target = fs::read_link(at(helper)).unwrap();
            // In the installed system, not below this directory.
            assert_eq!(target, Path::new("/usr/bin/idmapfs"), "{helper}, merged: {merged}");
        }
        assert!(at("usr/share/man/man1/idmapfs.1").is_file());
    }
}
