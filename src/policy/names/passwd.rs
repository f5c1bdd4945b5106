//! The text of passwd(5) and group(5), read as getpwnam(3) reads it.

/// The names and ids of a passwd or group file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// The names with their ids, in the order of the file.
    pub(super) entries: Vec<(String, u32)>,
    /// The lines that are no entries, though they should be.
    pub(super) malformed: usize,
    /// The lines that begin with `+` or `-`: they ask for NIS.
    pub(super) compat: usize,
}

/// The fields of a line up to the numbers that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Form {
    /// `name:password:uid:gid...`
    Passwd,
    /// `name:password:gid...`
    Group,
}

/// Reads all lines; blank ones and comments are nothing.
pub(super) fn read(text: &[u8], form: Form) -> Read {
    let mut found = Read::default();
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start) {
        match line.first() {
            None | Some(b'#') => {}
            Some(b'+' | b'-') => found.compat = found.compat.saturating_add(1),
            Some(_) => match entry(line, form) {
                Some(entry) => found.entries.push(entry),
                None => found.malformed = found.malformed.saturating_add(1),
            },
        }
    }
    found
}

/// Finds a user in the text of a passwd file: uid and primary gid.
pub fn user(text: &[u8], name: &str) -> Option<(u32, u32)> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    lines.filter(|line| !line.starts_with(b"#")).find_map(|line| {
        let (_, uid) = entry(line, Form::Passwd).filter(|(found, _)| found == name)?;
        Some((uid, number(line.split(|byte| *byte == b':').nth(3)?)?))
    })
}

/// Returns the users in the text of a passwd file, with their uids.
pub fn users(text: &[u8]) -> Vec<(String, u32)> {
    read(text, Form::Passwd).entries
}

/// Returns the groups in the text of a group file, with their gids.
pub fn groups(text: &[u8]) -> Vec<(String, u32)> {
    read(text, Form::Group).entries
}

/// Reads a line; the fields after the numbers may be missing, as in the GNU C
/// library.
fn entry(line: &[u8], form: Form) -> Option<(String, u32)> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = std::str::from_utf8(fields.next()?).ok()?;
    let (_password, id) = (fields.next()?, number(fields.next()?)?);
    if form == Form::Passwd {
        number(fields.next()?)?;
    }
    is_name(name).then(|| (name.to_owned(), id))
}

/// Reports whether a text can be the name of a user or a group.
pub(in crate::policy) fn is_name(text: &str) -> bool {
    let odd = |c: char| c == ':' || c.is_control();
    !text.is_empty() && !text.starts_with(['+', '-']) && !text.contains(odd)
}

/// Reads a decimal number that is an id; zeros may lead.
fn number(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = if digits { text.parse().ok()? } else { return None };
    (id != crate::id::NO_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8], form: Form) -> (Vec<(String, u32)>, usize, usize) {
        let Read { entries, malformed, compat } = read(text, form);
        (entries, malformed, compat)
    }

    #[test]
    fn the_first_user_of_a_name_counts() {
        let text = b"# a:x:1:1\n\n+a:x:2:2::/:\nb:x:3\nb:x:4:5::/:\na:x:6:7::/:\na:x:8:9::/:\n";
        assert_eq!(user(text, "a"), Some((6, 7)));
        assert_eq!(user(text, "b"), Some((4, 5)));
        assert_eq!(user(text, "+a"), None);
        assert_eq!(user(text, ""), None);
    }

    #[test]
    fn lines_are_entries_or_skipped() {
        let one = |name: &str, id| (vec![(name.to_owned(), id)], 0, 0);
        for (line, wanted) in [
            (&b"root:x:0:0:root:/root:/bin/bash"[..], one("root", 0)),
            (b"a:x:5:6", one("a", 5)),
            (b"a::5:6:", one("a", 5)),
            (b"  a:x:005:6::/:", one("a", 5)),
            // What is not UTF-8 matters in the name alone.
            (b"a:x:5:6:M\xfcller:/:", one("a", 5)),
            (b"m\xfcller:x:5:6::/:", (vec![], 1, 0)),
            (b"a:x:5", (vec![], 1, 0)),
            (b"a:x", (vec![], 1, 0)),
            (b"a", (vec![], 1, 0)),
            (b"a:x::6::/:", (vec![], 1, 0)),
            (b"a:x:+5:6::/:", (vec![], 1, 0)),
            (b"a:x:-5:6::/:", (vec![], 1, 0)),
            (b"a:x:5x:6::/:", (vec![], 1, 0)),
            (b"a:x:4294967294:6::/:", one("a", 4_294_967_294)),
            (b"a:x:4294967295:6::/:", (vec![], 1, 0)),
            (b"a:x:4294967296:6::/:", (vec![], 1, 0)),
            (b":x:5:6::/:", (vec![], 1, 0)),
            (b"a\x1b[1m:x:5:6::/:", (vec![], 1, 0)),
            (b"+", (vec![], 0, 1)),
            (b"+nis::0:0:::", (vec![], 0, 1)),
            (b"-@netgroup::::::", (vec![], 0, 1)),
            (b"# a:x:5:6", (vec![], 0, 0)),
            (b" # a:x:5:6", (vec![], 0, 0)),
            (b"", (vec![], 0, 0)),
            (b" \t", (vec![], 0, 0)),
        ] {
            assert_eq!(of(line, Form::Passwd), wanted, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn groups_have_one_number() {
        let text = b"root:x:0:\nstaff:x:50:a,b\nbad:x:\nlast:x:7";
        let wanted = [("root", 0), ("staff", 50), ("last", 7)].map(|(n, id)| (n.to_owned(), id));
        assert_eq!(of(text, Form::Group), (wanted.to_vec(), 1, 0));
    }
}
