//! `idmapfs check`: what is wrong or doubtful in policy files.

use std::io::{self, Write};
use std::path::Path;

use super::fault::Fault;
use super::names::HostNames;
use super::policy::{read_file, server};
use super::request::Check;
use super::walk::{self, Walked, walk, walk_in};
use crate::mount::{ImageOptions, is_image, keep_nothing, of_directory};
use crate::policy::check::{Finding, Matches, Reach, Severity, Situation, check_for};
use crate::policy::{Code, Origin, PolicyError, Spec, file};
use crate::source::image::{self, ImageError, ImageSource};
use crate::sys::id_map::IdMap;
use crate::text::{plain, shown};

/// Prints the findings of some files; returns whether none is an error.
///
/// # Errors
/// An option makes no sense without an image; the findings cannot be printed.
pub fn check(request: &Check, out: &mut dyn Write) -> Result<bool, Fault> {
    if request.source.as_deref().is_none_or(|source| !is_image(source)) {
        of_directory(&request.image)?;
    }
    let names = request.source.as_deref().map_or_else(HostNames::default, HostNames::new);
    let names = names.image(request.image.clone());
    let situation = Situation { suid: request.suid, reach: reach() };
    let policies: Vec<_> = request.files.iter().map(|path| (path, read(path, &names))).collect();
    // Of an image this is the last file that is opened.
    let files = request.source.as_deref().map(|source| files(source, &request.image));
    let mut good = true;
    for (path, policy) in policies {
        let (lines, fine) = findings(path, policy, files.as_ref(), &situation);
        good &= fine;
        for line in lines {
            Fault::printing(writeln!(out, "{line}"))?;
        }
    }
    Ok(good)
}

/// Returns what a server of this user can store; `None`: that is not known.
fn reach() -> Option<Reach> {
    let server = server().ok()?;
    if !server.privileged {
        let (uid, gid) = (server.ids.uid.raw(), server.ids.gid.raw());
        let who = format!("a server of uid {uid} and gid {gid}");
        return Some(Reach { who, users: vec![(uid, 1)], groups: vec![(gid, 1)] });
    }
    let ranges = |kind| {
        let map = IdMap::read("self", kind).ok()?;
        Some(map.lines().iter().map(|line| (line.inside, line.count)).collect())
    };
    let who = "a server in this user namespace".to_owned();
    Some(Reach { who, users: ranges("uid")?, groups: ranges("gid")? })
}

/// What a policy file says, or what is wrong with that, or with the file.
type Policy = Result<Result<Spec, PolicyError>, String>;

fn read(path: &Path, names: &HostNames) -> Policy {
    let text = read_file(path).map_err(|fault| fault.text)?;
    Ok(file::parse(&shown(path), &text, names))
}

/// The files of a source.
#[derive(Debug)]
struct Files<'a> {
    source: &'a Path,
    /// Those of an image, or what is wrong with it; none: the source is a directory.
    image: Option<Result<ImageSource, String>>,
}

/// Opens a source, if it is an image.
fn files<'a>(source: &'a Path, options: &ImageOptions) -> Files<'a> {
    let open = || -> Result<ImageSource, ImageError> {
        let device = image::device(source, options)?;
        keep_nothing();
        image::open(device, options)
    };
    let image = is_image(source).then(|| open().map_err(|error| format!("image {error}")));
    Files { source, image }
}

/// Returns what there is to say of a file, and whether it can be used.
fn findings(
    path: &Path,
    policy: Policy,
    files: Option<&Files<'_>>,
    situation: &Situation,
) -> (Vec<String>, bool) {
    let name = shown(path);
    let policy = match policy {
        Ok(policy) => policy,
        // The form of a finding, for scripts.
        Err(what) => return (vec![format!("{name}: error[file]: {what}")], false),
    };
    let found = match policy {
        Err(error) => vec![error.into()],
        Ok(spec) => {
            let mut found = check_for(&spec, situation);
            match files.map(|files| in_source(&spec, files)).transpose() {
                Ok(more) => found.extend(more.into_iter().flatten()),
                Err(what) => found.push(Finding {
                    severity: Severity::Error,
                    code: Code::File,
                    at: Origin::Whole,
                    what,
                    hint: None,
                }),
            }
            found
        }
    };
    let fine = found.iter().all(|finding| finding.severity < Severity::Error);
    (found.iter().map(ToString::to_string).collect(), fine)
}

/// Looks for files that the rules decide about.
fn in_source(spec: &Spec, files: &Files<'_>) -> Result<Vec<Finding>, String> {
    let image = files.image.as_ref().map(|image| image.as_ref().map_err(Clone::clone));
    let image = image.transpose()?;
    let Some(first) = spec.rules().first() else { return Ok(Vec::new()) };
    let name = shown(files.source);
    let mut matches = Matches::new(spec);
    let walked = match image {
        None => walk(files.source, &mut matches, walk::MOST).map_err(io::Error::from),
        Some(image) => walk_in(image, &mut matches, walk::MOST).map_err(io::Error::from),
    };
    let walked = walked.map_err(|error| format!("source {name}: {}", plain(&error)))?;
    let mut found = matches.findings(spec, &name);
    let left = limits(&walked).filter(|_| !found.is_empty());
    found.extend(left.map(|what| Finding {
        severity: Severity::Note,
        code: Code::Unread,
        at: first.at.clone(),
        what: format!("not all of {name} was looked at: {what}"),
        hint: None,
    }));
    Ok(found)
}

/// Says what was left out.
fn limits(walked: &Walked) -> Option<String> {
    let cut = walked.cut.then(|| format!("only its first {} names", walked.names));
    let shut = (walked.shut > 0).then(|| {
        let shut = walked.shut;
        format!("not what is in {shut} directories, other mounts, damaged or without permission")
    });
    let all: Vec<String> = cut.into_iter().chain(shut).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn of(path: &Path, source: Option<PathBuf>, suid: bool) -> Check {
        let image = ImageOptions::default();
        Check { files: vec![path.to_owned()], source, image, suid }
    }

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
            suid: false,
            image: ImageOptions::default(),
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
            let request = Check {
                files: vec![path.clone()],
                source: source.map(Path::to_path_buf),
                suid: false,
                image: ImageOptions::default(),
            };
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

    #[test]
    fn patterns_that_match_nothing_in_the_source_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("src");
        for path in [".ssh/deep", "bin", "d/e/f"] {
            std::fs::create_dir_all(source.join(path)).unwrap();
        }
        for path in [".ssh/deep/x.log", "bin/tool", "d/e/f/a.key"] {
            std::fs::write(source.join(path), "").unwrap();
        }
        std::os::unix::fs::symlink("/", source.join("out")).unwrap();
        let path = dir.path().join("p.toml");
        let text = "version = 1
[[rules]]
path = ['.ssh/**', 'none/**']
hide = true
[[rules]]
name = ['*.key', '*.log', 'bin', 'etc']
deny = ['delete']
[[rules]]
path = 'd/**'
type = 'fifo'
read-only = true
";
        std::fs::write(&path, text).unwrap();
        let request = of(&path, Some(source.clone()), false);
        let mut out = Vec::new();
        assert_eq!(check(&request, &mut out), Ok(true));
        let text = String::from_utf8(out).unwrap();
        let said: Vec<&str> = text
            .lines()
            .map(|line| line.rsplit("p.toml:").next().unwrap().split(" in ").next().unwrap())
            .collect();
        let note = "note[unmatched]:";
        assert_eq!(
            said,
            [
                format!("3:20: {note} `none/**` decides about nothing"),
                format!("6:18: {note} `*.log` decides about nothing"),
                format!("6:34: {note} `etc` decides about nothing"),
                format!("8:1: {note} the rule decides about nothing"),
            ],
            "{text}"
        );
        let spec = file::parse("p.toml", &read_file(&path).unwrap(), &HostNames::default());
        let mut matches = Matches::new(&spec.unwrap());
        let walked = walk(&source, &mut matches, 3).unwrap();
        assert_eq!(walked, Walked { names: 3, cut: true, shut: 0 });
        assert_eq!(limits(&walked).unwrap(), "only its first 3 names");
        let request = Check { source: Some(dir.path().join("none")), ..request };
        let mut out = Vec::new();
        assert_eq!(check(&request, &mut out), Ok(false));
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("error[file]: source ") && text.contains("No such file"), "{text}");
    }

    #[test]
    fn set_id_bits_make_errors_of_warnings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "version = 1\n[ids]\nmap = ['1000:0:1']\n").unwrap();
        for suid in [false, true] {
            let request = of(&path, None, suid);
            let mut out = Vec::new();
            assert_eq!(check(&request, &mut out), Ok(!suid));
            let text = String::from_utf8(out).unwrap();
            let word = if suid { "error[root]" } else { "warning[root]" };
            assert!(text.contains(word), "{text}");
        }
    }
}
