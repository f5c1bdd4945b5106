//! The shape of the sources: imports follow the arrows, files stay small, and
//! no file is forgotten.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which module imports which others, by the table of docs/architecture.md;
/// `main` is the binary.
///
/// Data flows from `fuse` through `fs` to `policy`, `tree` and `source`, and
/// only `sys` is below a source. Whoever needs an edge that is not there needs
/// a reason first, in that file.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let edges = rows.map(|row| {
        let (module, rest) = row.split_once('`').unwrap();
        let imports = rest.trim_end().trim_end_matches('|').rsplit('|').next().unwrap().trim();
        let imports = imports.split(", ").filter(|name| *name != "nothing").map(str::to_owned);
        (module.trim_end_matches('/').to_owned(), imports.collect())
    });
    let edges: BTreeMap<_, _> = edges.collect();
    assert!(edges.len() > 10, "no table of modules in docs/architecture.md");
    edges
}

/// Modules that see no file, clock, environment or system call.
const PURE: [&str; 6] = ["acl", "attr", "error", "id", "policy", "text"];

/// What a pure module may not name.
const IMPURE: [&str; 12] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os::fd",
    "std::os::unix::fs",
    "std::process",
    "std::thread",
    "std::time",
    "Instant",
    "SystemTime",
    "nix::",
];

/// One word of the above is fine: errors are made of what `nix` and `std` say.
const PURE_EXCEPTIONS: [(&str, &str); 3] =
    [("error", "nix::"), ("error", "std::io"), ("text", "std::io")];

const LONGEST: usize = 600;

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Every Rust file below a directory of the project, by its path from there.
fn files(below: &str) -> BTreeMap<PathBuf, String> {
    let (top, mut found) = (root().join(below), BTreeMap::new());
    let mut dirs = vec![top.clone()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(&top).unwrap().to_owned(), text);
            }
        }
    }
    found
}

/// Takes comments, the contents of strings, and unit tests away.
fn code(text: &str) -> String {
    let text = text.find("#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end]);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with('"') {
            rest = after_string(rest);
            out.push_str("\"\"");
        } else {
            let quoted = ["'\"'", "'\\\"'", "'/'"].iter().find(|quote| rest.starts_with(**quote));
            let skip = quoted.map_or(1, |quote| quote.len());
            out.push_str(if quoted.is_some() { "''" } else { &rest[..1] });
            rest = &rest[skip..];
        }
    }
    out + rest
}

/// What follows a string literal that starts here.
fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// The first word of a text, as an identifier.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The modules that follow a path prefix, alone or in braces.
fn named_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if !rest.starts_with('{') {
            found.push(word(rest));
            continue;
        }
        let mut depth = 0;
        let mut start = true;
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => start = true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && start && (c.is_alphabetic()) {
                found.push(word(&rest[at..]));
                start = false;
            }
        }
    }
    found
}

/// The module of the crate that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether a file holds tests only; those may use what they like.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| ["tests", "tests.rs", "conformance"].iter().any(|name| part == *name))
}

fn sources() -> BTreeMap<PathBuf, String> {
    files("src").into_iter().filter(|(path, _)| !is_test(path)).collect()
}

#[test]
fn imports_follow_the_arrows() {
    let sources = sources();
    let modules: BTreeSet<String> =
        sources.keys().map(|path| module(path)).filter(|module| module != "lib").collect();
    let mut found: BTreeMap<String, BTreeSet<String>> =
        modules.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for (path, text) in &sources {
        let from = module(path);
        let Some(imports) = found.get_mut(&from) else { continue };
        let code = code(text);
        let siblings: BTreeSet<String> = sources
            .keys()
            .filter(|other| other.parent() == path.parent())
            .filter_map(|other| Some(other.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        let by_crate = named_after(&code, "crate::").into_iter();
        let by_name = named_after(&code, "idmapfs::").into_iter();
        // `super::` out of the module, unless the word is a file beside this one.
        let by_super = named_after(&code, "super::")
            .into_iter()
            .filter(|name| path.components().count() == 1 || !siblings.contains(*name))
            .filter(|_| path.components().count() < 3);
        let all = by_crate.chain(by_name).chain(by_super);
        imports.extend(all.filter(|to| modules.contains(*to) && *to != from).map(str::to_owned));
    }
    let told = edges();
    for (module, imports) in &found {
        let row = told.get(module);
        assert_eq!(row, Some(imports), "{module}: docs/architecture.md and what it imports");
    }
    assert_eq!(told.len(), found.len(), "docs/architecture.md has a module that is not there");
}

#[test]
fn the_arrows_make_no_circle() {
    let mut left = edges();
    while !left.is_empty() {
        let is_bottom =
            |imports: &BTreeSet<String>| !imports.iter().any(|to| left.contains_key(to));
        let bottom: Vec<String> = left
            .iter()
            .filter(|(_, imports)| is_bottom(imports))
            .map(|(module, _)| module.clone())
            .collect();
        assert!(!bottom.is_empty(), "a circle of {:?}", left.keys());
        left.retain(|module, _| !bottom.contains(module));
    }
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        if !PURE.contains(&module.as_str()) {
            continue;
        }
        let code = code(&text);
        for word in IMPURE.into_iter().filter(|word| names(&code, word)) {
            if !PURE_EXCEPTIONS.contains(&(module.as_str(), word)) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether code has this as a word or path of its own.
fn names(code: &str, needle: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(needle).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + needle.len()..].chars().next();
        !before.is_some_and(is_word) && (needle.ends_with(':') || !after.is_some_and(is_word))
    })
}

/// A word that only one module may use.
fn only_in(module_name: &str, needle: &str) {
    let wrong: Vec<String> = files("src")
        .iter()
        .filter(|(path, _)| module(path) != module_name)
        .filter(|(_, text)| names(&code(text), needle))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "{needle} outside {module_name}: {}", wrong.join(", "));
}

#[test]
fn only_fuse_names_the_library() {
    only_in("fuse", "fuser");
}

#[test]
fn only_sys_is_unsafe() {
    only_in("sys", "unsafe");
}

#[test]
fn files_stay_small() {
    let mut wrong = Vec::new();
    for below in ["src", "tests", "benches", "examples"] {
        for (path, text) in files(below) {
            let lines = text.lines().count();
            if lines > LONGEST {
                wrong.push(format!("{below}/{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The files that may declare a file as a module.
fn parents(path: &Path) -> Vec<PathBuf> {
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    let dir = path.parent().unwrap();
    let dir = if is_mod { dir.parent().unwrap() } else { dir };
    let beside = if dir == Path::new("") { PathBuf::new() } else { dir.with_extension("rs") };
    vec![dir.join("mod.rs"), beside, dir.join("lib.rs"), dir.join("main.rs")]
}

/// The name under which a file is a module.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    if stem != "mod" {
        return stem;
    }
    path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
}

fn is_declared(path: &Path, all: &BTreeMap<PathBuf, String>, is_root: fn(&Path) -> bool) -> bool {
    if is_root(path) {
        return true;
    }
    let (name, file) = (name_of(path), path.file_name().unwrap().to_string_lossy().into_owned());
    let roots = all.keys().filter(|path| is_root(path)).cloned();
    parents(path).into_iter().chain(roots).any(|parent| {
        let Some(text) = all.get(&parent).filter(|_| parent != path) else { return false };
        let declared = text.lines().any(|line| {
            let line = line.trim();
            line.ends_with(&format!("mod {name};"))
                || (line.starts_with("#[path") && line.contains(&file))
                || (line.contains(&format!("=> {name}")) && line.contains(&file))
        });
        declared && is_declared(&parent, all, is_root)
    })
}

#[test]
fn no_file_is_forgotten() {
    let mut forgotten = Vec::new();
    let in_src = |path: &Path| path == Path::new("lib.rs") || path == Path::new("main.rs");
    let in_tests = |path: &Path| path.components().count() == 1;
    let roots: [fn(&Path) -> bool; 2] = [in_src, in_tests];
    for (below, is_root) in ["src", "tests"].into_iter().zip(roots) {
        let all = files(below);
        assert!(!all.is_empty(), "nothing below {below}");
        let lost = all.keys().filter(|path| !is_declared(path, &all, is_root));
        forgotten.extend(lost.map(|path| format!("{below}/{}", path.display())));
    }
    assert!(forgotten.is_empty(), "no harness includes {}", forgotten.join(", "));
}
