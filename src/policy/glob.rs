//! Patterns for names and paths: `*`, `?`, `[...]`, and `**` for any number of
//! names. They match bytes: a name need not be UTF-8.

mod path;

use std::fmt;

pub(super) use path::Part;
pub use path::PathGlob;

use super::error::{Code, Origin, PolicyError, quote};

/// The longest pattern, in bytes: the longest path that the system takes.
const LONGEST: usize = 4096;

/// A raw byte that is no part of a character is a unit from here on.
const RAW: u32 = 0x11_0000;

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// One unit: a character, or a byte that is no part of one.
    One,
    /// Any number of units.
    Many,
    /// One unit of a set.
    Class(Class),
}

/// A set of units: ranges of characters, or of raw bytes from [`RAW`] on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    negated: bool,
    ranges: Box<[(u32, u32)]>,
}

impl Class {
    fn holds(&self, unit: u32) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&unit)) != self.negated
    }
}

/// What is known of a pattern without trying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// It matches its prefix alone.
    Literal,
    /// It matches what begins with its prefix.
    Prefix,
    /// It matches what ends with its suffix.
    Suffix,
    /// It matches only what begins with its prefix and ends with its suffix.
    General,
}

/// A pattern for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    tokens: Box<[Token]>,
    shape: Shape,
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
}

impl Glob {
    /// Reads a pattern for one name; `at` is for messages only.
    ///
    /// # Errors
    /// A pattern that is malformed, or that no name can match.
    pub fn parse(at: &Origin, text: &str) -> Result<Self, PolicyError> {
        if text.contains('/') {
            let what = format!("{} is a path, not a name", quote(text));
            return Err(PolicyError::new(Code::Value, at.clone(), what)
                .hint("a pattern with a slash goes into `path`"));
        }
        limit(at, text)?;
        Self::part(at, text, text)
    }

    /// Reads a part of a path; `whole` is what was written.
    fn part(at: &Origin, whole: &str, text: &str) -> Result<Self, PolicyError> {
        let bad = |(what, hint): Bad| {
            PolicyError::new(Code::Value, at.clone(), format!("pattern {}: {what}", quote(whole)))
                .hint(hint)
        };
        let tokens = tokens(text).map_err(bad)?;
        let glob = Self::new(text, tokens);
        if glob.shape == Shape::Literal && matches!(&*glob.prefix, b"." | b"..") {
            return Err(bad(("`.` and `..` are no names", "patterns begin at the source's root")));
        }
        Ok(glob)
    }

    fn new(text: &str, tokens: Vec<Token>) -> Self {
        let byte = |token: &Token| match token {
            Token::Byte(byte) => Some(*byte),
            Token::One | Token::Many | Token::Class(_) => None,
        };
        let prefix: Box<[u8]> = tokens.iter().map_while(byte).collect();
        let mut suffix: Vec<u8> = tokens.iter().rev().map_while(byte).collect();
        suffix.reverse();
        // A suffix that begins within a character is looked at more closely.
        let whole = suffix.first().is_none_or(|first| !(0x80..0xc0).contains(first));
        let shape = match tokens.as_slice() {
            all if prefix.len() == all.len() => Shape::Literal,
            [Token::Many, rest @ ..] if rest.len() == suffix.len() && whole => Shape::Suffix,
            [rest @ .., Token::Many] if rest.len() == prefix.len() => Shape::Prefix,
            _ => Shape::General,
        };
        if shape == Shape::Literal {
            suffix.clear();
        }
        Self { text: text.into(), tokens: tokens.into(), shape, prefix, suffix: suffix.into() }
    }

    /// Reports whether a name matches, in time of at most their product.
    pub fn matches(&self, name: &[u8]) -> bool {
        match self.shape {
            Shape::Literal => *name == *self.prefix,
            Shape::Prefix => name.starts_with(&self.prefix),
            Shape::Suffix => name.ends_with(&self.suffix),
            Shape::General => self.matches_slowly(name),
        }
    }

    fn matches_slowly(&self, name: &[u8]) -> bool {
        let (mut token, mut at) = (0_usize, 0_usize);
        // Where to go on when a try fails: only the last star can help.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let next = token.saturating_add(1);
            let step = match (self.tokens.get(token), name.get(at)) {
                (None, None) => return true,
                (Some(Token::Many), _) => {
                    star = Some((next, at));
                    token = next;
                    continue;
                }
                (Some(Token::Byte(wanted)), Some(byte)) => (wanted == byte).then_some(1),
                (Some(Token::One), Some(_)) => Some(unit(name, at).1),
                (Some(Token::Class(class)), Some(_)) => {
                    let (unit, width) = unit(name, at);
                    class.holds(unit).then_some(width)
                }
                (None, Some(_)) | (Some(_), None) => None,
            };
            if let Some(width) = step {
                (token, at) = (next, at.saturating_add(width));
                continue;
            }
            let Some((after, from)) = star.filter(|(_, from)| *from < name.len()) else {
                return false;
            };
            let from = from.saturating_add(unit(name, from).1);
            star = Some((after, from));
            (token, at) = (after, from);
        }
    }

    /// Returns the only name that matches, if there is but one.
    pub(super) fn literal(&self) -> Option<&[u8]> {
        (self.shape == Shape::Literal).then_some(&*self.prefix)
    }

    /// Reports whether it is seen that all that `other` matches matches too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        *self.tokens == *other.tokens
            || *self.tokens == [Token::Many]
            || other.literal().is_some_and(|name| self.matches(name))
    }

    /// Returns what is known of the pattern without trying it.
    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns the bytes that every match begins with.
    pub(super) const fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Returns the bytes that every match ends with; of a literal, nothing.
    pub(super) const fn suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// Returns the runs of bytes that every match holds.
    pub(super) fn runs(&self) -> impl Iterator<Item = Vec<u8>> {
        self.tokens.split(|token| !matches!(token, Token::Byte(_))).map(|run| {
            run.iter()
                .filter_map(|token| match token {
                    Token::Byte(byte) => Some(*byte),
                    Token::One | Token::Many | Token::Class(_) => None,
                })
                .collect()
        })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the unit at an offset of a name, and its width in bytes.
fn unit(name: &[u8], at: usize) -> (u32, usize) {
    let rest = name.get(at..).unwrap_or_default();
    let first = rest.first().copied().unwrap_or_default();
    let width = match first {
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => 1,
    };
    let text = rest.get(..width).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match text.and_then(|text| text.chars().next()) {
        Some(c) => (u32::from(c), width),
        None => (RAW.saturating_add(u32::from(first)), 1),
    }
}

/// What is wrong with a pattern, and what to write instead.
type Bad = (&'static str, &'static str);

/// Takes a pattern for one name apart.
fn tokens(text: &str) -> Result<Vec<Token>, Bad> {
    let mut tokens = Vec::new();
    let mut rest = Rest(text);
    while let Some(c) = rest.next() {
        match c {
            '*' if tokens.last() == Some(&Token::Many) => {
                return Err((
                    "`**` must be a whole name",
                    "`**` stands for any number of names, `*` for any part of one",
                ));
            }
            '*' => tokens.push(Token::Many),
            '?' => tokens.push(Token::One),
            '[' => tokens.push(Token::Class(class(&mut rest)?)),
            _ => match rest.meant(c)? {
                Meant::Byte(byte) => tokens.push(Token::Byte(byte)),
                Meant::Char(c) => {
                    tokens.extend(c.encode_utf8(&mut [0; 4]).bytes().map(Token::Byte));
                }
            },
        }
    }
    if tokens.is_empty() {
        return Err(("no name", "`*` stands for any name"));
    }
    Ok(tokens)
}

/// What one or more characters of a pattern mean.
#[derive(Clone, Copy)]
enum Meant {
    Char(char),
    Byte(u8),
}

impl Meant {
    fn unit(self) -> u32 {
        match self {
            Self::Char(c) => u32::from(c),
            Self::Byte(byte) if byte.is_ascii() => u32::from(byte),
            Self::Byte(byte) => RAW.saturating_add(u32::from(byte)),
        }
    }
}

/// The part of a pattern that has not been read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.0.chars();
        let c = chars.next()?;
        self.0 = chars.as_str();
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    /// Returns what a character means that stands for itself or escapes.
    fn meant(&mut self, c: char) -> Result<Meant, Bad> {
        let meant = if c != '\\' {
            Meant::Char(c)
        } else {
            match self.next() {
                None => return Err(("`\\` at the end escapes nothing", "write `\\\\` for one")),
                Some('x') => {
                    let digits =
                        self.0.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    let Some(byte) = byte else {
                        return Err(("`\\x` needs two hexadecimal digits", "such as `\\xff`"));
                    };
                    self.0 = self.0.get(2..).unwrap_or_default();
                    Meant::Byte(byte)
                }
                Some(c) => Meant::Char(c),
            }
        };
        match meant {
            Meant::Char('\0') | Meant::Byte(0) => Err(("no name holds a NUL", "leave it out")),
            Meant::Char('/') | Meant::Byte(b'/') => {
                Err(("no name holds a slash", "write each name of a path by itself"))
            }
            Meant::Char(_) | Meant::Byte(_) => Ok(meant),
        }
    }
}

/// Reads a set up to its `]`.
fn class(rest: &mut Rest<'_>) -> Result<Class, Bad> {
    const OPEN: Bad = ("`[` without its `]`", "write `\\[` for a bracket itself");
    let negated = matches!(rest.peek(), Some('!' | '^'));
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let c = rest.next().ok_or(OPEN)?;
        match c {
            // The first one stands for itself, as in the shell.
            ']' if !ranges.is_empty() => break,
            '[' if matches!(rest.peek(), Some(':' | '.' | '=')) => {
                return Err(("named classes such as `[:alpha:]` are not known", "write a range"));
            }
            _ => {}
        }
        let first = rest.meant(c)?.unit();
        let mut last = first;
        let after = rest.0.strip_prefix('-').filter(|after| !after.starts_with(']'));
        if let Some(after) = after {
            rest.0 = after;
            let c = rest.next().ok_or(OPEN)?;
            last = rest.meant(c)?.unit();
            if last < first || (first < RAW && last >= RAW) {
                return Err(("a range ends before it begins", "write the smaller one first"));
            }
        }
        ranges.push((first, last));
    }
    Ok(Class { negated, ranges: ranges.into() })
}

/// Refuses what is longer than any path.
fn limit(at: &Origin, text: &str) -> Result<(), PolicyError> {
    if text.len() <= LONGEST {
        return Ok(());
    }
    let what = format!("pattern {} has more than {LONGEST} bytes", quote(text));
    Err(PolicyError::new(Code::Limit, at.clone(), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Result<Glob, String> {
        Glob::parse(&Origin::Whole, text).map_err(|error| error.to_string())
    }

    #[test]
    fn names_match_or_do_not() {
        for (pattern, yes, no) in [
            ("a", &["a"][..], &["", "b", "aa", "A"][..]),
            ("*", &["a", "abc", "\u{e9}", ".a"], &[]),
            ("*.key", &[".key", "a.key", "a.key.key"], &["key", "a.keys", "a.key "]),
            ("id_*", &["id_", "id_rsa"], &["id", "aid_"]),
            ("a*b*c", &["abc", "aXbXc", "abbcc", "abcbc"], &["ab", "acb", "abcd"]),
            ("?", &["a", "\u{e9}", "\u{1f600}"], &["", "ab", "e\u{301}"]),
            ("*?", &["a", "\u{e9}"], &[]),
            ("*??", &["ab", "\u{e9}a"], &["\u{e9}", "a"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x", "-x"]),
            ("[!a-c]", &["d", "\u{e9}", "-"], &["a", "b"]),
            ("[^a]", &["b", "^"], &["a"]),
            ("[]a]", &["]", "a"], &["[", ""]),
            ("[!]]", &["a"], &["]"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[\\]\\-z]", &["]", "-", "z"], &["\\"]),
            ("[\u{e0}-\u{ef}]", &["\u{e9}"], &["e"]),
            ("*[!\u{e9}]", &["a"], &["\u{e9}", "a\u{e9}"]),
            ("\\*\\?\\[", &["*?["], &["a?["]),
            ("\\x41\\x2a", &["A*"], &["AB"]),
            ("\\a", &["a"], &["\\a"]),
            ("{a,b}", &["{a,b}"], &["a", "b"]),
            ("\\xc3\\xa9", &["\u{e9}"], &["e"]),
            ("*\\xa9", &[], &["\u{e9}"]),
            ("*a*\\xa9", &[], &["a\u{e9}"]),
        ] {
            let glob = glob(pattern).unwrap();
            for name in yes {
                assert!(glob.matches(name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!glob.matches(name.as_bytes()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_byte_that_is_no_character_is_one_of_its_own() {
        for (pattern, name, wanted) in [
            ("?", &b"\xff"[..], true),
            ("??", b"\xc3(", true),
            ("?", b"\xc3(", false),
            ("[\\xff]", b"\xff", true),
            ("[\\x80-\\xff]", b"\x90", true),
            ("[\\x80-\\xff]", "\u{e9}".as_bytes(), false),
            ("[!a]", b"\xff", true),
            ("*\\xa9", b"a\xa9", true),
            ("caf?", b"caf\xe9", true),
            ("caf?", "caf\u{e9}".as_bytes(), true),
        ] {
            assert_eq!(glob(pattern).unwrap().matches(name), wanted, "{pattern} {name:?}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_their_product() {
        let glob = glob(&format!("{}b?", "*a?".repeat(40))).unwrap();
        assert!(!glob.matches("a".repeat(255).as_bytes()));
    }

    #[test]
    fn bad_patterns_are_refused_with_the_reason() {
        for (pattern, wanted) in [
            ("", "no name (`*` stands for any name)"),
            ("a/b", "is a path, not a name"),
            ("**", "`**` must be a whole name"),
            ("a**", "`**` must be a whole name"),
            ("[a", "`[` without its `]` (write `\\[`"),
            ("[]", "`[` without its `]`"),
            ("[a-", "`[` without its `]`"),
            ("[z-a]", "a range ends before it begins"),
            ("[a-\\xff]", "a range ends before it begins"),
            ("[[:alpha:]]", "named classes"),
            ("a\\", "escapes nothing"),
            ("\\xf", "two hexadecimal digits"),
            ("\\x\u{e9}1", "two hexadecimal digits"),
            ("\\x+1", "two hexadecimal digits"),
            ("\\x00", "no name holds a NUL"),
            ("\\x2f", "no name holds a slash"),
            ("\\.", "`.` and `..` are no names"),
            ("..", "`.` and `..` are no names"),
        ] {
            let error = glob(pattern).unwrap_err();
            assert!(error.contains(wanted), "{pattern}: {error}");
        }
        let long = glob(&"a".repeat(LONGEST + 1)).unwrap_err();
        assert!(long.contains("more than 4096 bytes"), "{long}");
    }

    #[test]
    fn paths_are_taken_apart_or_refused() {
        let parse = |text| PathGlob::parse(&Origin::Whole, text);
        for (text, parts, tail, directories) in [
            ("a", "a", false, false),
            ("/a/b", "a b", false, false),
            ("a/", "a", false, true),
            ("a/**", "a", true, false),
            ("**/a", "+a", false, false),
            ("a/**/**/b/**/", "a +b", true, true),
            ("**", "", true, false),
            ("*/\u{e9}", "* \u{e9}", false, false),
            ("a\\\\/", "a\\\\", false, true),
        ] {
            let path = parse(text).unwrap();
            let words: Vec<String> = (path.parts.iter())
                .map(|part| format!("{}{}", if part.gap { "+" } else { "" }, part.glob))
                .collect();
            assert_eq!((&*words.join(" "), path.tail), (parts, tail), "{text}");
            assert_eq!(path.directories, directories, "{text}");
            assert_eq!(path.to_string(), text);
        }
        for (text, wanted) in [
            ("", "no path (`**`"),
            ("/", "no path"),
            ("//", "no path"),
            ("a//b", "is empty"),
            ("./a", "`.` and `..` are no names (patterns begin at the source's root)"),
            ("a/../b", "`.` and `..`"),
            ("a**/b", "`**` must be a whole name"),
            ("a\\/b", "escapes nothing"),
            ("a\\/", "escapes nothing"),
            ("[a/b]", "`[` without its `]`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
