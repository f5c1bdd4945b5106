//! Changes of texts that know lines, words, values, tables and nesting.

use super::bytes;
use crate::rng::Rng;

/// Words of the language, of its options, and others.
const WORDS: &[&str] = &[
    "version",
    "ids",
    "map",
    "table",
    "names",
    "prefix",
    "disk",
    "view",
    "users",
    "groups",
    "passwd",
    "group",
    "collapse",
    "present-as",
    "store-as",
    "unmapped",
    "refuse",
    "callers",
    "mirror",
    "others",
    "normal",
    "rules",
    "path",
    "name",
    "type",
    "owner",
    "mode",
    "hide",
    "read-only",
    "present-owner",
    "present-mode",
    "files",
    "directories",
    "executables",
    "deny",
    "changes",
    "chown",
    "chgrp",
    "chmod",
    "create",
    "user",
    "xattrs",
    "action",
    "pass",
    "rename",
    "to",
    "ignore",
    "only=",
    "filter=",
    "ignore,allow-x",
    "deny,allow-x",
    "delete",
    "link",
    "exec",
    "xattr",
    "file",
    "directory",
    "symlink",
    "fifo",
    "socket",
    "char-device",
    "block-device",
    "host",
    "source:etc/passwd",
    "source:etc/group",
    "/srv/web/etc/passwd",
    "alice",
    "www-data",
    "staff",
    "nobody",
    "broken",
    "@staff",
    "u:",
    "g:",
    "u:0:0:1",
    "g:1000:0:4294966295",
    "0:1:2",
    "1000-1999",
    "true",
    "false",
    "[rules]",
    "[[rules]]",
    "[ids]",
    "[ids.names.disk.users]",
    "[[changes.xattrs]]",
    "**",
    "**/",
    "/**",
    "*",
    "?",
    "[a-z]",
    "[!a]",
    "\\\\x41",
    "\\\\",
    "./",
    "user.*",
    "trusted.overlay.",
    "security.capability",
    "system.posix_acl_access",
    "a+X",
    "go-w",
    "u=rw,g=r",
    "g=u",
    "&0755",
    "0644",
    "/6000",
    "-0111",
    "=",
    "= ",
    "\"\"",
    "''",
    "{}",
    "[]",
    "{ a = 1 }",
    "\"\"\"",
    "'''",
    "#",
    ".",
    ",",
    ":",
    "\n",
    "-o",
    "ro",
    "allow_other",
    "uidmapping=",
    "X-mount.idmap=",
    "uid-offset=",
    "policy=",
    "cache=",
    "log=",
    "fsname=",
];

/// Numbers, and what looks like one.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "65533",
    "65534",
    "65535",
    "4294967294",
    "4294967295",
    "4294967296",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-1",
    "+1",
    "00",
    "007",
    "0x10",
    "0o17",
    "1_000",
    "1e9",
    "1.5",
    "inf",
    "nan",
    "0777",
    "7777",
    "10000",
    "99999999999999999999999999999999999999",
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
];

/// Characters that are seldom thought of.
const ODD: &[&str] = &[
    "\0",
    "\t",
    "\r",
    "\r\n",
    "\n",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{85}",
    "\u{9b}",
    "\u{e9}",
    "e\u{301}",
    "\u{200e}",
    "\u{2028}",
    "\u{202e}",
    "\u{2066}",
    "\u{feff}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{1f600}",
    "\u{10ffff}",
    "\\u0000",
    "\\U0010FFFF",
    "\\x00",
    "\\xff",
    "\\n",
    "\"",
    "'",
    "`",
    "\u{3000}",
    "\u{a0}",
    "\u{130}",
    "\u{df}",
];

/// Changes a text once.
pub fn change(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let other = String::from_utf8_lossy(other).into_owned();
    *input = match rng.below(10) {
        0..3 => lines(rng, &text, &other),
        3..8 => words(rng, &text, &other),
        8 => nested(rng, &text),
        _ => {
            bytes::change(rng, input, other.as_bytes());
            return;
        }
    }
    .into_bytes();
}

fn lines(rng: &mut Rng, text: &str, other: &str) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let theirs: Vec<&str> = other.split_inclusive('\n').collect();
    let (from, to) = bytes::part(rng, lines.len(), 3);
    let at = rng.below(lines.len() + 1);
    let (a, b) = bytes::part(rng, theirs.len(), 4);
    match rng.below(7) {
        0 => drop(lines.drain(from..to)),
        1 => {
            let copy = lines[from..to].to_vec();
            lines.splice(at..at, copy);
        }
        2 if at < lines.len() && from < lines.len() => lines.swap(at, from),
        3 => drop(lines.splice(at..at, theirs[a..b].iter().copied())),
        4 => drop(lines.splice(from..to, theirs[a..b].iter().copied())),
        5 => {
            let (a, b) = table(rng, &theirs);
            lines.splice(at..at, theirs[a..b].iter().copied());
        }
        _ => {
            let (a, b) = table(rng, &lines);
            if rng.chance(50) {
                lines.drain(a..b);
            } else {
                let copy = lines[a..b].to_vec();
                lines.extend(copy);
            }
        }
    }
    lines.concat()
}

/// Returns where a table begins and ends: its header and all up to the next.
fn table(rng: &mut Rng, lines: &[&str]) -> (usize, usize) {
    let is_header = |line: &&str| line.starts_with('[');
    let headers: Vec<usize> =
        lines.iter().enumerate().filter(|(_, line)| is_header(line)).map(|(at, _)| at).collect();
    if headers.is_empty() {
        return bytes::part(rng, lines.len(), 4);
    }
    let from = rng.pick(&headers);
    let length = lines[from + 1..].iter().position(is_header);
    (from, length.map_or(lines.len(), |length| from + 1 + length))
}

/// Takes a text apart: words, strings in quotes, white space, other characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |class: fn(char) -> bool| rest.find(|c| !class(c)).unwrap_or(rest.len());
        let length = match first {
            '"' | '\'' => rest[1..].find([first, '\n']).map_or(rest.len(), |at| at + 2),
            c if is_word(c) => run(is_word),
            c if c.is_whitespace() => run(char::is_whitespace),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length.min(rest.len()));
        found.push(token);
        rest = after;
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

fn words(rng: &mut Rng, text: &str, other: &str) -> String {
    let (mut ours, theirs) = (tokens(text), tokens(other));
    if ours.is_empty() {
        ours.push("");
    }
    let (at, to) = (rng.below(ours.len()), rng.below(ours.len()));
    let inside = rng.pick(&["\"", "'", ""]);
    let one = match rng.below(4) {
        0 if !theirs.is_empty() => rng.pick(&theirs).to_owned(),
        1 => rng.pick(NUMBERS).to_owned(),
        2 => format!("{inside}{}{inside}", rng.pick(WORDS)),
        _ => rng.pick(WORDS).to_owned(),
    };
    let (repeated, odd);
    match rng.below(9) {
        0 => ours[at] = &one,
        1 => ours.insert(at, &one),
        2 => ours.swap(at, to),
        3 => drop(ours.remove(at)),
        4 => {
            let (from, to) = bytes::part(rng, ours.len(), 8);
            let copy = ours[from..to].to_vec();
            ours.splice(at..at, copy);
        }
        5 => {
            let unit = if rng.chance(50) { ours[at] } else { &one };
            repeated = unit.repeat(1 << rng.below(12));
            ours[at] = &repeated;
        }
        6 => {
            // Between two characters of a word.
            let ends: Vec<usize> = ours[at].char_indices().map(|(at, _)| at).collect();
            let (a, b) = ours[at].split_at(if ends.is_empty() { 0 } else { rng.pick(&ends) });
            odd = format!("{a}{}{b}", rng.pick(ODD));
            ours[at] = &odd;
        }
        7 => {
            // A value of two lines, or more or less of a word.
            odd = ours[at].chars().skip(1 + rng.below(3)).collect();
            ours[at] = &odd;
        }
        _ => {
            // The values of two keys.
            let values: Vec<usize> =
                (1..ours.len()).filter(|at| ours[at - 1].starts_with(['=', ' ', ','])).collect();
            if !values.is_empty() {
                ours.swap(rng.pick(&values), at);
            }
        }
    }
    ours.concat()
}

/// Puts a word deep into lists, tables or quotes.
fn nested(rng: &mut Rng, text: &str) -> String {
    let ours = tokens(text);
    if ours.is_empty() {
        return rng.pick(WORDS).to_owned();
    }
    let depth = 1 << rng.below(11);
    let depth = if rng.chance(70) { 1 } else { depth };
    let (before, after) =
        rng.pick(&[("[", "]"), ("{ a = ", " }"), ("a.", ""), ("\"", "\""), ("[[", "]]")]);
    let (from, to) = bytes::part(rng, ours.len(), 5);
    let [first, middle, last] = [&ours[..from], &ours[from..to], &ours[to..]].map(<[_]>::concat);
    [first, before.repeat(depth), middle, after.repeat(depth), last].concat()
}
