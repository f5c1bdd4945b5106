//! `idmapfs check`: what is wrong or doubtful in policy files.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::fault::Fault;
use super::policy::{HostNames, read_file};
use crate::policy::check::{Severity, check_file};
use crate::text::shown;

/// Prints the findings of some files; returns whether none is an error.
///
/// # Errors
/// The findings cannot be printed.
pub fn check(files: &[PathBuf], out: &mut dyn Write) -> Result<bool, Fault> {
    let mut good = true;
    for path in files {
        let (lines, fine) = findings(path);
        good &= fine;
        for line in lines {
            Fault::printing(writeln!(out, "{line}"))?;
        }
    }
    Ok(good)
}

/// Returns what there is to say of a file, and whether it can be used.
fn findings(path: &Path) -> (Vec<String>, bool) {
    let name = shown(path);
    match read_file(path) {
        Ok(text) => {
            let findings = check_file(&name, &text, &HostNames);
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
        assert_eq!(check(std::slice::from_ref(&good), &mut out), Ok(true));
        assert_eq!(String::from_utf8_lossy(&out), "");
        assert_eq!(check(&[good, odd.clone()], &mut out), Ok(true));
        let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
        let start = format!("{}:3:8: warning[root]: ", odd.display());
        assert!(text.starts_with(&start), "{text}");
        let missing = dir.path().join("missing");
        assert_eq!(check(&[bad.clone(), missing.clone()], &mut out), Ok(false));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(&format!("{}:3:8: error[value]: ", bad.display())), "{text}");
        assert!(text.contains(&format!("\n{}: error[file]: ", missing.display())), "{text}");
    }
}
