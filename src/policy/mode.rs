//! Changes of permission bits as chmod(1) writes them, and tests of them as
//! find(1) does.

use std::fmt;

use super::error::{Code, Origin, PolicyError, quote};
use crate::attr::{FileKind, Mode};

/// The bits that a change may set: read, write, execute of three classes.
const PERMISSIONS: u16 = 0o777;

const HINT: &str = "write it as for chmod: `u=rw,go=r`, `go-w`, `a+X`, `0644`; or a mask, `&0755`";

/// What a clause does with its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

/// The bits of a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    /// These bits of every class, 0 to 7; and execute, where the file is a
    /// directory or somebody may execute it (`X`).
    Named { bits: u16, execute: bool },
    /// Those of the class at this shift.
    Of(u16),
}

/// One change: `go-w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    /// The permission bits of the classes that it is about.
    classes: u16,
    operator: Operator,
    bits: Bits,
    /// The set-id and sticky bits that it removes.
    special: u16,
}

/// An expression for one sort of files.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// The permission bits become these.
    Become(u16),
    /// The permission bits outside this mask are removed.
    Keep(u16),
    /// One clause after the other.
    Clauses(Box<[Clause]>),
}

impl Change {
    fn apply(&self, mode: Mode, directory: bool) -> Mode {
        let bits = mode.bits();
        let bits = match self {
            Self::Become(new) => (bits & !PERMISSIONS) | new,
            Self::Keep(mask) => bits & (!PERMISSIONS | mask),
            Self::Clauses(clauses) => {
                clauses.iter().fold(bits, |bits, clause| clause.apply(bits, directory))
            }
        };
        Mode::new(u32::from(bits))
    }
}

impl Clause {
    fn apply(&self, old: u16, directory: bool) -> u16 {
        let one = match self.bits {
            Bits::Named { bits, execute } => {
                let also = execute && (directory || old & Mode::EXECUTE != 0);
                bits | u16::from(also)
            }
            Bits::Of(shift) => old >> shift & 7,
        };
        let named = (one << 6 | one << 3 | one) & self.classes;
        let new = match self.operator {
            Operator::Add => old | named,
            Operator::Remove => old & !named,
            Operator::Set => (old & !self.classes) | named,
        };
        new & !self.special
    }
}

/// A change of permission bits.
///
/// It never sets the set-user-id, set-group-id and sticky bits; they stay as
/// they are unless a `-` removes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeExpr {
    text: Box<str>,
    files: Option<Change>,
    directories: Option<Change>,
    executables: Option<Change>,
}

/// The expressions of a [`ModeExpr`] as written, for each sort of files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sorts<'a> {
    /// For all that is no directory; executable files too if those have none.
    pub files: Option<(&'a Origin, &'a str)>,
    /// For directories.
    pub directories: Option<(&'a Origin, &'a str)>,
    /// For regular files that somebody may execute.
    pub executables: Option<(&'a Origin, &'a str)>,
}

impl ModeExpr {
    /// Reads one expression for all files and directories.
    ///
    /// # Errors
    /// An expression that is malformed or would set other bits than read,
    /// write and execute.
    pub fn parse(at: &Origin, text: &str) -> Result<Self, PolicyError> {
        let all = Some(change(at, text)?);
        let (files, directories) = (all.clone(), all.clone());
        Ok(Self { text: text.into(), files, directories, executables: all })
    }

    /// Reads an expression for each sort of files; a sort without one stays.
    ///
    /// # Errors
    /// As for [`ModeExpr::parse`].
    pub fn sorts(sorts: Sorts<'_>) -> Result<Self, PolicyError> {
        let read =
            |sort: Option<(&Origin, &str)>| sort.map(|(at, text)| change(at, text)).transpose();
        let words = [
            ("files", sorts.files),
            ("directories", sorts.directories),
            ("executables", sorts.executables),
        ];
        let words: Vec<String> = (words.iter())
            .filter_map(|(word, sort)| sort.map(|(_, text)| format!("{word}={text}")))
            .collect();
        let (files, directories) = (read(sorts.files)?, read(sorts.directories)?);
        let executables = read(sorts.executables)?;
        Ok(Self { text: words.join(" ").into(), files, directories, executables })
    }

    /// Returns what a mode becomes.
    ///
    /// The mode of a symbolic link means nothing and stays.
    #[must_use]
    pub fn apply(&self, mode: Mode, kind: FileKind) -> Mode {
        let change = match kind {
            FileKind::Symlink => return mode,
            FileKind::Directory => &self.directories,
            FileKind::Regular if mode.has(Mode::EXECUTE) && self.executables.is_some() => {
                &self.executables
            }
            FileKind::Regular
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => &self.files,
        };
        change.as_ref().map_or(mode, |change| change.apply(mode, kind.is_dir()))
    }

    /// Reports whether a file can lose a set-id bit by this.
    pub fn masks_set_id(&self) -> bool {
        let set_id = Mode::SETUID | Mode::SETGID;
        let all = Mode::new(0o7777);
        [&self.files, &self.executables]
            .into_iter()
            .flatten()
            .any(|change| change.apply(all, false).bits() & set_id != set_id)
    }
}

impl fmt::Display for ModeExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn bad(at: &Origin, text: &str, what: &str) -> PolicyError {
    PolicyError::new(Code::Value, at.clone(), format!("mode {}: {what}", quote(text))).hint(HINT)
}

fn change(at: &Origin, text: &str) -> Result<Change, PolicyError> {
    let (number, mask) = text.strip_prefix('&').map_or((text, false), |rest| (rest, true));
    if !mask && !number.starts_with(|c: char| c.is_ascii_digit()) {
        let clauses: Result<Vec<_>, _> = text
            .split(',')
            .map(|clause| clauses(clause).map_err(|what| bad(at, text, what)))
            .collect();
        return Ok(Change::Clauses(clauses?.concat().into()));
    }
    let Some(bits) = octal(number) else {
        return Err(bad(at, text, "not an octal number of at most four digits"));
    };
    if bits & !PERMISSIONS != 0 {
        let what = "set-user-id, set-group-id and sticky bits are never set: they would give \
                    rights that the file does not have";
        return Err(bad(at, text, what));
    }
    Ok(if mask { Change::Keep(bits) } else { Change::Become(bits) })
}

/// Reads one to four octal digits.
fn octal(text: &str) -> Option<u16> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    if digits { u16::from_str_radix(text, 8).ok() } else { None }
}

/// Reads what stands between two commas: `u+x`, or `u+r-w`.
fn clauses(text: &str) -> Result<Vec<Clause>, &'static str> {
    let end = text.find(['+', '-', '=']).ok_or("no `+`, `-` or `=`")?;
    let (who, mut rest) = text.split_at_checked(end).unwrap_or_default();
    let mut classes = 0;
    for c in who.chars() {
        classes |= match c {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => PERMISSIONS,
            _ => return Err("before `+`, `-` and `=` stand u, g, o and a"),
        };
    }
    let classes = if who.is_empty() { PERMISSIONS } else { classes };
    let mut found = Vec::new();
    while let Some(c) = rest.chars().next() {
        let operator = match c {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Set,
        };
        let after = rest.get(1..).unwrap_or_default();
        let end = after.find(['+', '-', '=']).unwrap_or(after.len());
        let (what, next) = after.split_at_checked(end).unwrap_or_default();
        found.push(clause(classes, operator, what)?);
        rest = next;
    }
    Ok(found)
}

fn clause(classes: u16, operator: Operator, text: &str) -> Result<Clause, &'static str> {
    let of = match text {
        "u" => Some(6),
        "g" => Some(3),
        "o" => Some(0),
        _ => None,
    };
    if let Some(shift) = of {
        return Ok(Clause { classes, operator, bits: Bits::Of(shift), special: 0 });
    }
    if text.is_empty() && operator != Operator::Set {
        return Err("nothing is added or removed");
    }
    let (mut bits, mut execute, mut special) = (0, false, 0);
    for c in text.chars() {
        match c {
            'r' => bits |= 4,
            'w' => bits |= 2,
            'x' => bits |= 1,
            'X' => execute = true,
            's' | 't' if operator != Operator::Remove => {
                return Err("set-user-id, set-group-id and sticky bits are never set: they would \
                            give rights that the file does not have");
            }
            's' => {
                let user = if classes & 0o700 == 0 { 0 } else { Mode::SETUID };
                let group = if classes & 0o070 == 0 { 0 } else { Mode::SETGID };
                special |= user | group;
            }
            't' => special |= Mode::STICKY,
            'u' | 'g' | 'o' => return Err("u, g or o to copy from stand alone"),
            _ => return Err("after `+`, `-` and `=` stand r, w, x, X, or one of u, g, o"),
        }
    }
    Ok(Clause { classes, operator, bits: Bits::Named { bits, execute }, special })
}

/// A test of mode bits, as `find -perm` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModeTest {
    /// `/6000`: any of these bits.
    Any(u16),
    /// `-0111`: all of these bits.
    All(u16),
    /// `0644`: exactly these bits.
    Exactly(u16),
}

impl ModeTest {
    /// Reads a test; all twelve bits may be tested.
    ///
    /// # Errors
    /// What is no octal number after `/`, `-` or nothing; a test for no bit.
    pub fn parse(at: &Origin, text: &str) -> Result<Self, PolicyError> {
        let error = |what: &str| {
            let what = format!("mode {}: {what}", quote(text));
            PolicyError::new(Code::Value, at.clone(), what)
                .hint("`/6000` is any of these bits, `-0111` all of them, `0644` exactly these")
        };
        let make: (fn(u16) -> Self, &str) = match text.split_at_checked(1) {
            Some(("/", rest)) => (Self::Any, rest),
            Some(("-", rest)) => (Self::All, rest),
            Some(_) | None => (Self::Exactly, text),
        };
        let (make, digits) = make;
        let bits = octal(digits).ok_or_else(|| error("not an octal number of four digits"))?;
        let test = make(bits);
        if matches!(test, Self::Any(0) | Self::All(0)) {
            return Err(error("tests no bit"));
        }
        Ok(test)
    }

    /// Reports whether a mode passes.
    pub const fn passes(self, mode: Mode) -> bool {
        match self {
            Self::Any(bits) => mode.has(bits),
            Self::All(bits) => mode.bits() & bits == bits,
            Self::Exactly(bits) => mode.bits() == bits,
        }
    }
}

impl fmt::Display for ModeTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(bits) => write!(f, "/{bits:04o}"),
            Self::All(bits) => write!(f, "-{bits:04o}"),
            Self::Exactly(bits) => write!(f, "{bits:04o}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expr(text: &str) -> Result<ModeExpr, String> {
        ModeExpr::parse(&Origin::Whole, text).map_err(|error| error.to_string())
    }

    #[test]
    fn set_id_bits_are_masked_by_what_removes_them() {
        for (text, masks) in [("u-s", true), ("a-s", true), ("go-w,g-s", true), ("a-t", false)] {
            assert_eq!(expr(text).unwrap().masks_set_id(), masks, "{text}");
        }
        for text in ["0", "&0755", "u=rw,go=", "g=u"] {
            assert!(!expr(text).unwrap().masks_set_id(), "{text}");
        }
    }

    #[test]
    fn modes_change_as_chmod_changes_them() {
        use FileKind::{Directory, Fifo, Regular, Symlink};
        for (text, kind, from, to) in [
            ("0644", Regular, 0o777, 0o644),
            ("644", Regular, 0o4777, 0o4644),
            ("0", Directory, 0o1777, 0o1000),
            ("&0755", Regular, 0o666, 0o644),
            ("&0755", Directory, 0o2777, 0o2755),
            ("u=rw,g=r,o=", Regular, 0o777, 0o640),
            ("go-w", Regular, 0o666, 0o644),
            ("g+w", Fifo, 0o600, 0o620),
            ("+x", Regular, 0o644, 0o755),
            ("=r", Regular, 0o333, 0o444),
            ("a+X", Regular, 0o644, 0o644),
            ("a+X", Regular, 0o744, 0o755),
            ("a+X", Directory, 0o644, 0o755),
            ("a-x,a+X", Regular, 0o744, 0o644),
            ("g=u", Regular, 0o640, 0o660),
            ("go=u-w", Regular, 0o640, 0o644),
            ("o+g", Regular, 0o650, 0o655),
            ("u=,u+r", Regular, 0o777, 0o477),
            ("ug+w-x", Regular, 0o555, 0o665),
            ("a-s", Regular, 0o6755, 0o755),
            ("u-s", Regular, 0o6755, 0o2755),
            ("g-s", Regular, 0o6755, 0o4755),
            ("o-s", Regular, 0o6755, 0o6755),
            ("-t", Directory, 0o1777, 0o777),
            ("u=rwx", Regular, 0o4000, 0o4700),
            ("0600", Symlink, 0o777, 0o777),
        ] {
            let got = expr(text).unwrap().apply(Mode::new(from), kind);
            assert_eq!(got, Mode::new(to), "{text} {from:o}: {:o}", got.bits());
        }
    }

    #[test]
    fn no_expression_sets_a_special_bit() {
        for text in ["u+s", "g+s", "+t", "u=s", "4755", "1777", "&4755", "u=rwxs"] {
            let error = expr(text).unwrap_err();
            assert!(error.contains("are never set"), "{text}: {error}");
        }
    }

    #[test]
    fn bad_expressions_are_refused_with_the_reason() {
        for (text, wanted) in [
            ("", "no `+`, `-` or `=`"),
            ("u", "no `+`"),
            ("888", "octal"),
            ("00644", "octal"),
            ("&", "octal"),
            ("&u+r", "octal"),
            ("x+r", "stand u, g, o and a"),
            ("u+q", "stand r, w, x, X"),
            ("u+", "nothing is added"),
            ("g=ur", "stand alone"),
            ("u+r,", "no `+`"),
            ("u+\u{e9}", "stand r, w, x, X"),
        ] {
            let error = expr(text).unwrap_err();
            assert!(error.contains(wanted) && error.contains("as for chmod"), "{text}: {error}");
        }
    }

    #[test]
    fn each_sort_of_files_has_its_expression() {
        let at = Origin::Whole;
        let some = |text| Some((&at, text));
        let sorts = Sorts { files: some("0640"), directories: some("0750"), executables: None };
        let both = ModeExpr::sorts(sorts).unwrap();
        let mode = |bits| Mode::new(bits);
        assert_eq!(both.apply(mode(0o777), FileKind::Regular), mode(0o640));
        assert_eq!(both.apply(mode(0o777), FileKind::Directory), mode(0o750));
        assert_eq!(both.to_string(), "files=0640 directories=0750");
        let programs = ModeExpr::sorts(Sorts { executables: some("0711"), ..Sorts::default() });
        let programs = programs.unwrap();
        assert_eq!(programs.apply(mode(0o755), FileKind::Regular), mode(0o711));
        assert_eq!(programs.apply(mode(0o644), FileKind::Regular), mode(0o644));
        assert_eq!(programs.apply(mode(0o755), FileKind::Directory), mode(0o755));
        assert_eq!(programs.apply(mode(0o755), FileKind::Socket), mode(0o755));
    }

    #[test]
    fn modes_are_tested_as_find_does() {
        let test = |text| ModeTest::parse(&Origin::Whole, text);
        for (text, mode, wanted) in [
            ("/6000", 0o4755, true),
            ("/6000", 0o755, false),
            ("-0111", 0o755, true),
            ("-0111", 0o754, false),
            ("0644", 0o644, true),
            ("0644", 0o4644, false),
            ("0", 0, true),
        ] {
            assert_eq!(test(text).unwrap().passes(Mode::new(mode)), wanted, "{text} {mode:o}");
        }
        for text in ["", "/", "-", "/0", "-0000", "u+s", "9", "77777", "+1"] {
            assert!(test(text).is_err(), "{text}");
        }
        assert_eq!(test("/22").unwrap().to_string(), "/0022");
    }
}
