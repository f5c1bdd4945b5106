//! Expressions for modes as bindfs writes them: clauses of chmod(1), octal
//! numbers among them, and clauses for directories or files alone.

use super::error::{Code, Origin, PolicyError, quote};
use super::mode::{ModeExpr, Sorts};

/// What a clause is for. Whether a file is executable is known from its mode
/// before any clause, as bindfs has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Files,
    Executables,
    Directories,
}

/// Reads an expression with commas or (for fstab) colons between its clauses.
///
/// # Errors
/// As [`ModeExpr::parse`]; bits copied from where an earlier clause has been.
pub(super) fn expression(at: &Origin, value: &str) -> Result<ModeExpr, PolicyError> {
    let clauses: Vec<&str> = value.split([',', ':']).collect();
    if let [whole] = clauses.as_slice()
        && !whole.contains(['+', '-', '='])
    {
        return ModeExpr::parse(at, whole);
    }
    copies_come_first(at, &clauses)?;
    let of = |sort| {
        let clauses: Vec<String> = clauses.iter().filter_map(|text| clause(text, sort)).collect();
        clauses.join(",")
    };
    let (files, directories) = (of(Sort::Files), of(Sort::Directories));
    let executables = of(Sort::Executables);
    if files == directories && files == executables {
        return ModeExpr::parse(at, &files);
    }
    let given = |text: &'_ str| !text.is_empty();
    ModeExpr::sorts(Sorts {
        files: given(&files).then_some((at, &files)),
        directories: given(&directories).then_some((at, &directories)),
        executables: (files != executables).then_some((at, &executables)),
    })
}

/// Refuses bits that are copied from a class which has been changed: bindfs
/// copies what was there before, chmod(1) and we what is there by then.
fn copies_come_first(at: &Origin, clauses: &[&str]) -> Result<(), PolicyError> {
    let mut changed = String::new();
    for clause in clauses {
        let operator = clause.find(['+', '-', '=']).unwrap_or_default();
        let (who, rest) = clause.split_at_checked(operator).unwrap_or_default();
        if rest.contains(|c| changed.contains(c) && matches!(c, 'u' | 'g' | 'o')) {
            let what = format!("{} copies from what was changed before", quote(clause));
            return Err(PolicyError::new(Code::Value, at.clone(), what)
                .hint("bindfs copies what was there at first; put this clause first"));
        }
        let all = !who.contains(['u', 'g', 'o']) || who.contains('a');
        changed.push_str(if all { "ugo" } else { who });
    }
    Ok(())
}

/// Returns what a clause says of one sort of files, as chmod(1) has it; `None`
/// if that is nothing.
fn clause(text: &str, sort: Sort) -> Option<String> {
    let Some(at) = text.find(['+', '-', '=']) else { return Some(letters(text)) };
    let (who, rest) = text.split_at_checked(at)?;
    let wanted = if sort == Sort::Directories { 'd' } else { 'f' };
    if who.contains(['d', 'f']) && !who.contains(wanted) {
        return None;
    }
    // `X` is for directories and executables, `D` for directories alone.
    let letter = |there| if there { "x" } else { "" };
    let bits = rest.replace('X', letter(sort != Sort::Files));
    let bits = bits.replace('D', letter(sort == Sort::Directories));
    let nothing = bits != rest && matches!(bits.as_str(), "+" | "-");
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
        // expression, mode, and what it becomes for a file and for a directory;
        // a file is executable by the mode that it has at first
        for (text, mode, file, directory) in [
            ("o-rwx", 0o777, 0o770, 0o770),
            ("g=rD", 0o626, 0o646, 0o656),
            ("0644,a+X", 0o700, 0o755, 0o755),
            ("0644,a+X", 0o600, 0o644, 0o755),
            ("a-x,u+X", 0o755, 0o744, 0o744),
            ("u=rwX", 0o060, 0o660, 0o760),
            ("u-X", 0o644, 0o644, 0o644),
            ("g=u,u=", 0o640, 0o060, 0o060),
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
        for text in ["", "x", "0644,", "4755", "u+s", "a+D+", "d", "999,a+x", "u=,g=u", "0600,o=g"]
        {
            assert!(expression(&Origin::Whole, text).is_err(), "{text}");
        }
    }
}
