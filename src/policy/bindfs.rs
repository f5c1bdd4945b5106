//! Expressions for modes as bindfs writes them: clauses of chmod(1), octal
//! numbers among them, and clauses for directories or files alone.

use super::error::{Origin, PolicyError};
use super::mode::{ModeExpr, Sorts};

/// What a clause is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Files,
    Directories,
}

/// Reads an expression with commas or (for fstab) colons between its clauses.
///
/// # Errors
/// As [`ModeExpr::parse`].
pub(super) fn expression(at: &Origin, value: &str) -> Result<ModeExpr, PolicyError> {
    let clauses: Vec<&str> = value.split([',', ':']).collect();
    if let [whole] = clauses.as_slice()
        && !whole.contains(['+', '-', '='])
    {
        return ModeExpr::parse(at, whole);
    }
    let of = |sort| {
        let clauses: Vec<String> = clauses.iter().filter_map(|text| clause(text, sort)).collect();
        clauses.join(",")
    };
    let (files, directories) = (of(Sort::Files), of(Sort::Directories));
    if files == directories {
        return ModeExpr::parse(at, &files);
    }
    let given = |text: &'_ str| !text.is_empty();
    ModeExpr::sorts(Sorts {
        files: given(&files).then_some((at, &files)),
        directories: given(&directories).then_some((at, &directories)),
        executables: None,
    })
}

/// Returns what a clause says of one sort of files, as chmod(1) has it; `None`
/// if that is nothing.
fn clause(text: &str, sort: Sort) -> Option<String> {
    let Some(at) = text.find(['+', '-', '=']) else { return Some(letters(text)) };
    let (who, rest) = text.split_at_checked(at)?;
    let wanted = if sort == Sort::Files { 'f' } else { 'd' };
    if who.contains(['d', 'f']) && !who.contains(wanted) {
        return None;
    }
    // `D` is `X` for directories alone.
    let enter = if sort == Sort::Files { "" } else { "x" };
    let bits = rest.replace('D', enter);
    let nothing = rest.contains('D') && matches!(bits.as_str(), "+" | "-");
    (!nothing).then(|| format!("{}{bits}", who.replace(['d', 'f'], "")))
}

/// Returns what an octal number says in letters, and all else as it is.
fn letters(text: &str) -> String {
    let digits = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let bits = u16::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o777);
    let Some(bits) = bits else { return text.to_owned() };
    let class = |shift: u16| {
        let bits = bits >> shift;
        let letter = |bit, letter| if bits & bit == 0 { "" } else { letter };
        [letter(4, "r"), letter(2, "w"), letter(1, "x")].concat()
    };
    format!("u={},g={},o={}", class(6), class(3), class(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{FileKind, Mode};

    #[test]
    fn expressions_of_bindfs_mean_what_they_mean_there() {
        // expression, mode, and what it becomes for a file and for a directory
        for (text, mode, file, directory) in [
            ("o-rwx", 0o777, 0o770, 0o770),
            ("g=rD", 0o626, 0o646, 0o656),
            ("0644,a+X", 0o700, 0o644, 0o755),
            ("0600,u+D", 0o755, 0o600, 0o700),
            ("0000:u=rD", 0o755, 0o400, 0o500),
            ("og-x:og+rD:u=rwX:g+rw", 0o711, 0o764, 0o775),
            ("gd-w", 0o666, 0o666, 0o646),
            ("f-x,d+x", 0o711, 0o600, 0o711),
            ("uf+x:od=", 0o607, 0o707, 0o600),
            ("gdf+w", 0o600, 0o620, 0o620),
            ("0640", 0o777, 0o640, 0o640),
            ("u+D", 0o600, 0o600, 0o700),
        ] {
            let expression = expression(&Origin::Whole, text).unwrap();
            let apply = |kind| expression.apply(Mode::new(mode), kind).bits();
            let found = (apply(FileKind::Regular), apply(FileKind::Directory));
            assert_eq!(found, (file, directory), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["", "x", "0644,", "4755", "u+s", "a+D+", "d", "999,a+x"] {
            assert!(expression(&Origin::Whole, text).is_err(), "{text}");
        }
    }
}
