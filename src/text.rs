//! Text for people: shown so that it cannot change a terminal or fake a line,
//! errors of the system in plain words, and near misses.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStringExt as _;

/// Escapes what could change a terminal or fake another line of a log:
/// control characters and those that turn the direction of text.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Reports whether a character changes the direction or the line of text.
const fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes any bytes of an argument, a name or a path safe to print, on one line.
///
/// Bytes that are not UTF-8 are written as `\xNN`.
pub fn shown(raw: impl AsRef<OsStr>) -> String {
    let mut out = String::new();
    for chunk in raw.as_ref().as_encoded_bytes().utf8_chunks() {
        out.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _never: std::fmt::Result = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Writes any bytes as text from which [`decoded`] has them back: those that are not
/// UTF-8, and backslashes, as `\xNN`.
pub fn coded(raw: impl AsRef<OsStr>) -> String {
    let mut out = String::new();
    for chunk in raw.as_ref().as_encoded_bytes().utf8_chunks() {
        out.push_str(&chunk.valid().replace('\\', "\\x5c"));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _never: std::fmt::Result = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Returns the bytes that [`coded`] has written.
pub fn decoded(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\x").and_then(|digits| digits.get(..2));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = rest.get(4..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

/// Returns what went wrong, without the number that the library adds.
pub fn plain(why: &io::Error) -> String {
    let text = why.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The most letters of a word that is looked for.
const LONGEST: usize = 80;

/// Returns the known word that was most likely meant; `-` and `_` are alike.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(LONGEST).map(fold).collect();
    let costs = known.into_iter().map(|candidate| (distance(&word, candidate), candidate));
    let (cost, best) = costs.min_by_key(|(cost, _)| *cost)?;
    // Two slips in a short word make it another word.
    (cost <= best.len().div_ceil(3).min(3)).then_some(best)
}

fn fold(c: char) -> char {
    if c == '_' { '-' } else { c.to_ascii_lowercase() }
}

/// Counts the single letters to insert, delete or replace between two words.
fn distance(word: &[char], candidate: &str) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for c in candidate.chars().map(fold) {
        let mut diagonal = row.first().copied().unwrap_or_default();
        let mut left = diagonal.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, w) in row.iter_mut().skip(1).zip(word) {
            let replaced = diagonal.saturating_add(usize::from(*w != c));
            diagonal = *cell;
            left = replaced.min(diagonal.saturating_add(1)).min(left.saturating_add(1));
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn messages_cannot_change_the_terminal() {
        for (text, wanted) in [
            ("plain \u{e9} text", "plain \u{e9} text"),
            ("a\nb\tc", "a\\nb\\tc"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("\u{7f}\u{9b}", "\\u{7f}\\u{9b}"),
            ("\u{202e}abc", "\\u{202e}abc"),
        ] {
            assert_eq!(escape(text), wanted);
            assert_eq!(escape(&escape(text)), wanted);
        }
        let raw = OsStr::from_bytes(b"p\xc3\xa4th\xff\x1b[0m\n\xc2\x9bz");
        assert_eq!(shown(raw), "p\u{e4}th\\xff\\u{1b}[0m\\n\\u{9b}z");
    }

    #[test]
    fn bytes_come_back_from_text() {
        for (raw, text) in [
            (&b"/srv/a b"[..], "/srv/a b"),
            (b"a\xff\xc3\xa4", "a\\xff\u{e4}"),
            (b"a\\xff", "a\\x5cxff"),
            (b"", ""),
        ] {
            let raw = OsStr::from_bytes(raw);
            assert_eq!(coded(raw), text);
            assert_eq!(decoded(text), raw);
        }
        // What was written by hand stays as it is.
        assert_eq!(decoded("a\\b\\x\\x4"), "a\\b\\x\\x4");
    }

    #[test]
    fn errors_of_the_system_are_words() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(plain(&error), "No such file or directory");
        assert_eq!(plain(&io::Error::other("no (os error)")), "no");
        assert_eq!(plain(&io::ErrorKind::NotFound.into()), "entity not found");
    }

    #[test]
    fn slips_find_the_word_that_was_meant() {
        let known = ["map", "table", "collapse", "unmapped", "present-as", "ro", "allow-other"];
        for (word, wanted) in [
            ("map", Some("map")),
            ("maps", Some("map")),
            ("mapp", Some("map")),
            ("mpa", None),
            ("tabel", Some("table")),
            ("colapse", Some("collapse")),
            ("unmaped", Some("unmapped")),
            ("presentas", Some("present-as")),
            ("present_as", Some("present-as")),
            ("Present-As", Some("present-as")),
            ("alow_other", Some("allow-other")),
            ("owner", None),
            ("frob", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), wanted, "{word}");
        }
        assert_eq!(nearest(&"map".repeat(1000), known), None);
        assert_eq!(nearest("map", []), None);
    }

    #[test]
    fn distances_count_single_letters() {
        for (a, b, wanted) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "bc", 1),
            ("kitten", "sitting", 3),
        ] {
            let a: Vec<char> = a.chars().collect();
            assert_eq!(distance(&a, b), wanted, "{a:?} {b}");
        }
    }
}
