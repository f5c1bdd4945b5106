//! `idmapfs check`: what is wrong or doubtful in policy files.

use std::io::Write;
use std::path::Path;

use super::fault::Fault;
use super::names::HostNames;
use super::parse::Check;
use super::policy::read_file;
use crate::policy::check::{Severity, check_file};
use crate::text::shown;

/// Prints the findings of some files; returns whether none is an error.
///
/// # Errors
/// The findings cannot be printed.
pub fn check(request: &Check, out: &mut dyn Write) -> Result<bool, Fault> {
    let names = request.source.as_deref().map_or_else(HostNames::default, HostNames::new);
    let mut good = true;
    for path in &request.files {
        let (lines, fine) = findings(path, &names);
        good &= fine;
        for line in lines {
            Fault::printing(writeln!(out, "{line}"))?;
        }
    }
    Ok(good)
}

/// Returns what there is to say of a file, and whether it can be used.
fn findings(path: &Path, names: &HostNames) -> (Vec<String>, bool) {
    let name = shown(path);
    match read_file(path) {
        Ok(text) => {
            let findings = check_file(&name, &text, names);
            let fine = findings.iter().all(|finding| finding.severity < Severity::Error);
            (findings.iter().map(ToString::to_string).collect(), fine)
        }
        // The form of a finding, for scripts.
        Err(fault) => (vec![format!("{name}: error[file]: {}", fault.text)], false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn findings_have_a_place_and_a_code() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let good = file("good.toml", "version = 1\n");
        let odd = file("odd.toml", "version = 1\n[ids]\nmap = [\"1000:0:1\"]\n");
        let bad = file("bad.toml", "version = 1\n[ids]\nmap = [\"1000:0\"]\n");
        let mut out = Vec::new();
        let of = |files: &[&PathBuf]| Check {
            files: files.iter().map(|path| (*path).clone()).collect(),
            source: None,
        };
        assert_eq!(check(&of(&[&good]), &mut out), Ok(true));
        assert_eq!(String::from_utf8_lossy(&out), "");
        assert_eq!(check(&of(&[&good, &odd]), &mut out), Ok(true));
        let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
        let start = format!("{}:3:8: warning[root]: ", odd.display());
        assert!(text.starts_with(&start), "{text}");
        let missing = dir.path().join("missing");
        assert_eq!(check(&of(&[&bad, &missing]), &mut out), Ok(false));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(&format!("{}:3:8: error[value]: ", bad.display())), "{text}");
        assert!(text.contains(&format!("\n{}: error[file]: ", missing.display())), "{text}");
    }
    #[test]
    fn lists_in_the_source_are_looked_at_where_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("src");
        std::fs::create_dir_all(source.join("etc")).unwrap();
        std::fs::write(source.join("etc/passwd"), "root:x:0:0\na:x:1:1\nb:x:1:1\nbad\n").unwrap();
        std::fs::write(source.join("etc/group"), "root:x:0:\n").unwrap();
        let path = dir.path().join("p.toml");
        let text = "version = 1\n[ids.names]\ndisk = 'source'\nview = 'host'\n";
        std::fs::write(&path, text).unwrap();
        let said = |source: Option<&Path>| {
            let request =
                Check { files: vec![path.clone()], source: source.map(Path::to_path_buf) };
            let mut out = Vec::new();
            assert_eq!(check(&request, &mut out), Ok(true));
            String::from_utf8(out).unwrap()
        };
        let without = said(None);
        let unread = "note[unread]: source:etc/passwd was not looked at: it is in the source";
        assert!(without.contains(unread) && without.contains("etc/group"), "{without}");
        let with = said(Some(&source));
        for wanted in [
            "warning[skipped]: 1 line of source:etc/passwd is malformed",
            "warning[duplicate]: the disk's list has user `b` with uid 1 beside an earlier entry",
            "note[hole]: disk user a: no such name in the view",
        ] {
            assert!(with.contains(wanted), "{wanted}: {with}");
        }
        assert!(!with.contains("unread"), "{with}");
    }
}
