//! Subordinate ids of a user, from `/etc/subuid` and `/etc/subgid`.

use super::layout::Span;
use crate::id::NO_ID;

/// Returns the ranges that a file in the format of subuid(5) gives to a user.
///
/// The owner of a range is written by name or by uid. Lines that are no
/// ranges are skipped, as newuidmap(1) does.
pub fn ranges(file: &str, name: Option<&str>, uid: u32) -> Vec<Span> {
    file.lines().filter_map(|line| range(line, name, uid)).collect()
}

fn range(line: &str, name: Option<&str>, uid: u32) -> Option<Span> {
    let mut fields = line.trim_end().split(':');
    let owner = fields.next()?;
    let first = number(fields.next()?)?;
    let count = number(fields.next()?)?;
    if fields.next().is_some() {
        return None;
    }
    if Some(owner) != name && number(owner) != Some(uid) {
        return None;
    }
    let last = first.checked_add(count.checked_sub(1)?).filter(|last| *last != NO_ID)?;
    Some(Span { first, last })
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_uid() {
        let file = "\
root:1:2\nalice:100000:65536\n# alice:1:1\n1000:5:1\nbob:7:7\nalice:x:1\nalice:1\nalice:1:2:3\n\
alice:4294967295:1\nalice:9:0\nalice:+9:1\nalice:300000:10  \n";
        let span = |first, last| Span { first, last };
        assert_eq!(
            ranges(file, Some("alice"), 1000),
            [span(100_000, 165_535), span(5, 5), span(300_000, 300_009)]
        );
        assert_eq!(ranges(file, None, 1000), [span(5, 5)]);
        assert_eq!(ranges(file, Some("carol"), 1001), []);
        assert_eq!(ranges(file, Some(""), 1001), []);
    }
}
