//! The inputs to begin with: all that the project itself has written.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the texts of files below a directory of the project, by extension.
fn files(below: &str, extensions: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![root.join(below)];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)) {
                paths.push(path);
            }
        }
    }
    // The order of a directory is the machine's.
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Returns the ready policies, and the examples of the documents.
pub fn policies() -> Vec<String> {
    let mut found = files("policies", &["toml"]);
    for text in files("docs", &["md"]) {
        let blocks = text.split("```toml\n").skip(1);
        found.extend(blocks.filter_map(|block| Some(block.split_once("```")?.0.to_owned())));
    }
    for text in files("man", &["1", "5", "8"]) {
        let blocks = text.split(".EX\n").skip(1).filter_map(|block| block.split_once(".EE"));
        found.extend(blocks.map(|(block, _)| block.replace("\\-", "-").replace("\\e", "\\")));
    }
    found.retain(|text| text.contains('='));
    found
}

/// Returns the strings in the tests and sources about policies and options.
pub fn strings() -> Vec<String> {
    let texts = ["tests/pure", "src/policy", "src/cli"].map(|below| files(below, &["rs"]));
    let mut found: Vec<String> = texts.iter().flatten().flat_map(|text| literals(text)).collect();
    found.sort();
    found.dedup();
    found
}

/// Returns the string literals of a Rust file; what it makes of a rare one that
/// it does not read as Rust does is an input as well.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let raw = rest[..at].ends_with("r#");
        rest = &rest[at + 1..];
        let Some(end) = (if raw { rest.find("\"#") } else { end(rest) }) else { break };
        let inside = &rest[..end];
        found.push(if raw { inside.to_owned() } else { unescaped(inside) });
        rest = &rest[end + 1..];
    }
    found
}

fn end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('0')) => out.push('\0'),
            ('\\', Some('\n')) => {
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                continue;
            }
            ('\\', Some('\\' | '"' | '\'')) => out.extend(chars.peek()),
            // Of `\u{..}` and `\x..` the digits: as good as any.
            ('\\', Some(_)) | (_, None | Some(_)) if c != '\\' => {
                out.push(c);
                continue;
            }
            _ => {}
        }
        chars.next();
    }
    out
}
