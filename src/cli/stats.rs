//! `idmapfs stats`: what the server of a mount has done, and what it holds.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::fault::Fault;
use super::form::{Form, json};
use crate::control::{self, Stats};

/// Prints what the server of a mount says of itself.
///
/// # Errors
/// The server cannot be asked, or nothing is mounted there.
pub fn stats(target: &Path, form: Form, out: &mut dyn Write) -> Result<(), Fault> {
    let stats = control::stats(target).map_err(|error| {
        Fault::unasked(error, "nothing is counted; idmapfs explain --mount says what it is")
    })?;
    Fault::printing(match form {
        Form::Text => text(&stats, out),
        Form::Json => json(&stats, out),
    })
}

/// The most frequent requests first, and none that never came.
fn text(stats: &Stats, out: &mut dyn Write) -> io::Result<()> {
    let mut requests: Vec<(&String, &u64)> =
        stats.requests.iter().filter(|(_, count)| **count > 0).collect();
    requests.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    part("requests", requests.into_iter(), out)?;
    let all = |part: &'static str, numbers: &BTreeMap<String, u64>, out: &mut dyn Write| {
        self::part(part, numbers.iter(), out)
    };
    all("counted", &stats.counts, out)?;
    all("held", &stats.held, out)
}

fn part<'a>(
    title: &str,
    numbers: impl Iterator<Item = (&'a String, &'a u64)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "{title}:")?;
    for (word, count) in numbers {
        writeln!(out, "  {word:<17} {count:>12}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_in_three_parts() {
        let numbers = |list: &[(&str, u64)]| {
            list.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
        };
        let stats = Stats {
            version: 1,
            requests: numbers(&[("lookup", 7), ("open", 9), ("poll", 0)]),
            counts: numbers(&[("refused", 0)]),
            held: numbers(&[("inodes", 3)]),
        };
        let mut out = Vec::new();
        text(&stats, &mut out).unwrap();
        let want = "requests:\n  open                         9\n  lookup                       7\n\
                    counted:\n  refused                      0\nheld:\n  inodes                       3\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
