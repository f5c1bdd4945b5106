//! `idmapfs explain`: how files are shown and stored, and why.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstat;
use serde::Serialize;

use super::fault::Fault;
use super::parse::Explain;
use super::policy::{caller, server, spec};
use crate::id::{Disk, Id, Ids, Owner, View};
use crate::policy::Pipeline;
use crate::policy::explain::{Decision, Reason};
use crate::text::shown;

/// What is said of one file.
#[derive(Debug, Serialize)]
struct Explained {
    path: String,
    /// As whom its owner and group are shown.
    shown: [Decision; 2],
}

/// What is said of a caller.
#[derive(Debug, Serialize)]
struct Caller {
    /// Whose its new files are.
    creates: [Decision; 2],
    /// What a change of owner to its ids stores.
    chown: [Decision; 2],
}

#[derive(Debug, Serialize)]
struct Answer {
    policy: String,
    files: Vec<Explained>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<Caller>,
    /// What callers may change, where the policy says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Reason>,
}

/// Prints how the files of a request are shown.
///
/// # Errors
/// The policy is wrong, or a path does not lead to a file below the source.
pub fn explain(request: &Explain, out: &mut dyn Write) -> Result<(), Fault> {
    let spec = spec(&request.settings, &request.source)?;
    let pipeline = spec.build(&server()?)?;
    let caller = request.caller.as_deref().map(caller).transpose()?;
    let root = open_root(&request.source)?;
    let answer = Answer {
        policy: spec.describe(),
        files: request
            .paths
            .iter()
            .map(|path| explained(&pipeline, caller, &root, &request.source, path))
            .collect::<Result<_, _>>()?,
        caller: caller.map(|ids| Caller {
            creates: pipeline.explain_create(ids),
            chown: pipeline.explain_store(ids),
        }),
        changes: pipeline.explain_changes(),
    };
    Fault::printing(if request.json { json(&answer, out) } else { text(&answer, out) })
}

fn open_root(source: &Path) -> Result<OwnedFd, Fault> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(AT_FDCWD, source, flags, nix::sys::stat::Mode::empty())
        .map_err(|errno| unreachable_file("source", source.as_os_str(), errno))
}

fn explained(
    pipeline: &Pipeline,
    caller: Option<Ids<View>>,
    root: &OwnedFd,
    source: &Path,
    path: &Path,
) -> Result<Explained, Fault> {
    let owner = owner(root, source, path)
        .map_err(|errno| unreachable_file("path", path.as_os_str(), errno))?;
    let decisions = match caller {
        Some(caller) => pipeline.explain_owner_to(owner, caller),
        None => pipeline.explain_owner(owner),
    };
    Ok(Explained { path: shown(path), shown: decisions })
}

/// Returns the owner on disk of a file below a directory; no step may lead
/// outside, and the last one follows no symbolic link.
fn owner(root: impl AsFd, source: &Path, path: &Path) -> nix::Result<Owner<Disk>> {
    let below: PathBuf = match path.strip_prefix(source) {
        Ok(below) if path.is_absolute() => below.components().collect(),
        _ => path.to_owned(),
    };
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let stat = fstat(openat2(root, below, how)?)?;
    Ok(Owner { uid: Id::new(stat.st_uid), gid: Id::new(stat.st_gid) })
}

fn unreachable_file(what: &str, path: &OsStr, errno: Errno) -> Fault {
    let why = if errno == Errno::EXDEV { "it leads out of the source" } else { errno.desc() };
    Fault::usage(format!("{what} {}: {why}", shown(path)))
}

fn json(answer: &Answer, out: &mut dyn Write) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, answer)?;
    writeln!(out)
}

fn text(answer: &Answer, out: &mut dyn Write) -> std::io::Result<()> {
    for file in &answer.files {
        writeln!(out, "{}:", file.path)?;
        indented(&file.shown, out)?;
    }
    if let Some(caller) = &answer.caller {
        indented(&caller.creates, out)?;
        indented(&caller.chown, out)?;
    }
    if !answer.changes.is_empty() {
        writeln!(out, "changes by callers:")?;
    }
    answer.changes.iter().try_for_each(|reason| writeln!(out, "  {reason}"))
}

fn indented(decisions: &[Decision], out: &mut dyn Write) -> std::io::Result<()> {
    let text: String = decisions.iter().map(ToString::to_string).collect();
    text.lines().try_for_each(|line| writeln!(out, "  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::Settings;
    use nix::unistd::{getegid, geteuid};
    use std::os::unix::fs::symlink;

    fn request(source: &Path, paths: &[&str], json: bool) -> Explain {
        let (uid, gid) = (geteuid(), getegid());
        let mut settings = Settings::default();
        settings.policy.map = vec![format!("u:{uid}:7:1"), format!("g:{gid}:8:1")];
        Explain {
            source: source.to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            settings,
            caller: Some("7:8".to_owned()),
            json,
        }
    }

    fn printed(request: &Explain) -> Result<String, String> {
        let mut out = Vec::new();
        explain(request, &mut out).map_err(|fault| fault.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn files_below_the_source_are_explained() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        symlink("sub", dir.path().join("in")).unwrap();
        let absolute = dir.path().join("sub").display().to_string();
        for path in ["sub", ".", "out", "in", "in/", absolute.as_str()] {
            let text = printed(&request(dir.path(), &[path], false)).unwrap();
            assert!(text.starts_with(&format!("{path}:\n")), "{text}");
            assert!(
                text.contains(&format!("  disk uid {} is shown as uid 7\n", geteuid())),
                "{text}"
            );
            assert!(text.contains("    map: in extent"), "{text}");
            assert!(text.contains("a file created by uid 7 belongs to disk uid"), "{text}");
        }
        for (path, why) in [
            ("out/passwd", "it leads out of the source"),
            ("../x", "it leads out of the source"),
            ("/etc/passwd", "it leads out of the source"),
            ("none", "No such file or directory"),
        ] {
            let error = printed(&request(dir.path(), &[path], false)).unwrap_err();
            assert!(error.starts_with(&format!("path {path}: ")) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_callers_may_change_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let mut request = request(dir.path(), &["."], false);
        assert!(!printed(&request).unwrap().contains("changes by callers"));
        request.settings.policy.set("chown-ignore", None).unwrap();
        let text = printed(&request).unwrap();
        let end = "changes by callers:\n  chown: ignore (option chown-ignore)\n";
        assert!(text.ends_with(end), "{text}");
        request.json = true;
        let value: serde_json::Value = serde_json::from_str(&printed(&request).unwrap()).unwrap();
        assert_eq!(value["changes"][0]["text"], "ignore");
    }

    #[test]
    fn programs_get_json() {
        let dir = tempfile::tempdir().unwrap();
        let text = printed(&request(dir.path(), &["."], true)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["files"][0]["shown"][0]["answer"], 7);
        assert_eq!(value["files"][0]["shown"][1]["answer"], 8);
        assert_eq!(value["caller"]["creates"][0]["id"], 7);
    }
}
