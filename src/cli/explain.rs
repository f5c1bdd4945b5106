//! `idmapfs explain`: how files are shown and stored, and why.

mod access;
pub mod live;
mod way;

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::Serialize;

use super::disk::open_root;
use super::fault::Fault;
use super::form::json;
use super::policy::{asker, server, spec};
use super::request::Explain;
use crate::acl::Acl;
use crate::mount::{self, ImageOptions, MountError};
use crate::policy::explain::{Asker, Decision, Reason, Shown};
use crate::policy::rules::Subject;
use crate::policy::{Pipeline, Spec};
use crate::source::image;
use crate::text::shown;
use access::{Access, Judge, Place};
use way::{Root, Step};

/// What is said of one file.
#[derive(Debug, Serialize)]
struct Explained {
    path: String,
    #[serde(flatten)]
    shown: Shown,
    /// The hidden directory that it is below.
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<String>,
    /// What the caller may do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    access: Vec<Access>,
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
    let asker = request.caller.as_deref().map(asker).transpose()?;
    let root = root(&request.source, &request.settings.image)?;
    let tops = [request.source.as_path()];
    let answer = answer(&spec, (&tops, &root), &request.paths, asker.as_ref())?;
    let asker = asker.as_ref();
    Fault::printing(if request.json { json(&answer, out) } else { text(&answer, asker, out) })
}

/// Opens a source. Of an image this is the last file that is opened.
fn root(source: &Path, options: &ImageOptions) -> Result<Root, Fault> {
    if mount::is_image(source) {
        let device = image::device(source, options).map_err(MountError::from)?;
        mount::keep_nothing();
        let image = image::open(device, options).map_err(MountError::from)?;
        return Ok(Root::Image(Box::new(image)));
    }
    mount::of_directory(options)?;
    let failed = |errno| unreachable_file("source", source.as_os_str(), errno);
    open_root(source).map(Root::Directory).map_err(failed)
}

/// Explains files of a source by a policy.
fn answer(
    spec: &Spec,
    (tops, root): (&[&Path], &Root),
    paths: &[PathBuf],
    asker: Option<&Asker>,
) -> Result<Answer, Fault> {
    let server = server()?;
    let pipeline = spec.build(&server)?;
    let judge = asker.map(|asker| Judge { pipeline: &pipeline, server, asker });
    Ok(Answer {
        policy: spec.describe(),
        files: paths
            .iter()
            .map(|path| explained(&pipeline, judge.as_ref(), (tops, root), path))
            .collect::<Result<_, _>>()?,
        caller: asker.map(|asker| Caller {
            creates: pipeline.explain_create(asker.ids),
            chown: pipeline.explain_store(asker.ids),
        }),
        changes: pipeline.explain_changes(),
    })
}

fn explained(
    pipeline: &Pipeline,
    judge: Option<&Judge<'_>>,
    (tops, root): (&[&Path], &Root),
    path: &Path,
) -> Result<Explained, Fault> {
    let steps = way::way(root, tops, path)
        .map_err(|errno| unreachable_file("path", path.as_os_str(), errno))?;
    let asker = judge.map(|judge| judge.asker);
    let names: Vec<(&[u8], Subject)> =
        steps.iter().skip(1).map(|step| (step.name.as_bytes(), step.subject)).collect();
    let Some(first) = steps.first() else {
        return Err(unreachable_file("path", path.as_os_str(), Errno::ENOENT));
    };
    let all = pipeline.explain_way(&first.subject, &names, asker);
    let mut so_far = PathBuf::new();
    let places: Vec<Place> = all
        .into_iter()
        .zip(&steps)
        .map(|(shown, step)| place(pipeline, shown, step, &mut so_far))
        .collect();
    let access = judge.map(|judge| judge.all(&places)).unwrap_or_default();
    let mut places = places;
    let last = places.pop();
    let Some(Place { shown: mut seen, .. }) = last else {
        return Err(unreachable_file("path", path.as_os_str(), Errno::ENOENT));
    };
    let above = seen.below.and_then(|at| places.get(at));
    if let Some(reason) = above.and_then(|above| above.shown.reason("hide")) {
        seen.rules = vec![reason.clone()];
    }
    let below = above.map(|above| above.name.clone());
    Ok(Explained { path: shown(path), shown: seen, below, access })
}

/// Puts together how a file on the way is shown, and its ACL.
fn place(pipeline: &Pipeline, seen: Shown, step: &Step, so_far: &mut PathBuf) -> Place {
    so_far.push(&step.name);
    let dressed =
        |acl: Acl<_>| if seen.mode == seen.disk_mode { acl } else { acl.chmod(seen.mode) };
    let acl = step.acl.as_ref().map(|acl| dressed(acl.present(pipeline)));
    let root = so_far.as_os_str().is_empty();
    let name = if root { "the source's root".to_owned() } else { shown(&*so_far) };
    Place { name, shown: seen, acl }
}

fn unreachable_file(what: &str, path: &OsStr, errno: Errno) -> Fault {
    let why = if errno == Errno::EXDEV { "it leads out of the source" } else { errno.desc() };
    Fault::usage(format!("{what} {}: {why}", shown(path)))
}

fn text(answer: &Answer, asker: Option<&Asker>, out: &mut dyn Write) -> std::io::Result<()> {
    for file in &answer.files {
        writeln!(out, "{}:", file.path)?;
        indented(&file.shown.to_string(), out)?;
        if let Some(below) = &file.below {
            writeln!(out, "  with {below}, which it is below")?;
        }
        if file.shown.hidden {
            continue;
        }
        if let Some(asker) = asker {
            writeln!(out, "  for {}:", described(asker))?;
        }
        file.access.iter().try_for_each(|access| writeln!(out, "    {access}"))?;
    }
    if let Some(caller) = &answer.caller {
        for decision in caller.creates.iter().chain(&caller.chown) {
            indented(&decision.to_string(), out)?;
        }
    }
    if !answer.changes.is_empty() {
        writeln!(out, "changes by callers:")?;
    }
    answer.changes.iter().try_for_each(|reason| writeln!(out, "  {reason}"))
}

fn described(asker: &Asker) -> String {
    let groups: Vec<String> = asker.groups.iter().map(ToString::to_string).collect();
    let more = if groups.is_empty() { String::new() } else { format!(",{}", groups.join(",")) };
    format!("{}{more}", asker.ids)
}

fn indented(text: &str, out: &mut dyn Write) -> std::io::Result<()> {
    text.lines().try_for_each(|line| writeln!(out, "  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::Settings;
    use nix::unistd::{getegid, geteuid};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

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
    fn what_rules_do_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let mut request = request(dir.path(), &["a/b", "."], false);
        request.settings.policy.set("hide", Some("a")).unwrap();
        let text = printed(&request).unwrap();
        let start =
            "a/b:\n  it is hidden\n    hide: true (option hide)\n  with a, which it is below\n.:\n";
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.contains("\n  mode 0755\n  for 7:8:\n    read     allowed            mode: "),
            "{text}"
        );
        request.caller = Some("7:8,9,x!".to_owned());
        assert_eq!(
            printed(&request).unwrap_err(),
            "option as: unknown group `x!` (names are looked up on this host; a number always works)"
        );
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

    const RULES: &str = "
[[rules]]
path = 'bin/**'
read-only = true
[[rules]]
path = '.ssh/**'
hide = true
[[rules]]
name = '*.key'
deny = ['delete', 'exec']
[[rules]]
name = 'odd'
present-owner = '7:7'
present-mode = 'a-w'
";

    /// A source whose files are shown as of 1000:1000, and an explanation of
    /// some of them by a policy with these words at its end.
    fn ruled(words: &str, caller: &str, paths: &[&str]) -> serde_json::Value {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin", ".ssh", "shared", "shut"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for (name, mode) in [
            ("bin/tool", 0o755),
            (".ssh/id", 0o600),
            ("a.key", 0o755),
            ("odd", 0o644),
            ("free", 0o666),
            ("shared/group", 0o664),
            ("shut/in", 0o644),
            ("shut", 0o700),
            ("shared", 0o1777),
            (".", 0o755),
        ] {
            let path = dir.path().join(name);
            if !path.is_dir() {
                std::fs::write(&path, "").unwrap();
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let (uid, gid) = (geteuid(), getegid());
        let map = format!("version = 1\n[ids]\nmap = ['u:{uid}:1000:1', 'g:{gid}:1000:1']\n");
        std::fs::write(dir.path().join("p.toml"), format!("{map}{words}")).unwrap();
        let request = Explain {
            source: dir.path().to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            settings: Settings {
                policy_file: Some(dir.path().join("p.toml")),
                ..Settings::default()
            },
            caller: Some(caller.to_owned()),
            json: true,
        };
        serde_json::from_str(&printed(&request).unwrap()).unwrap()
    }

    /// What becomes of the operations: the error or the outcome, and by what.
    fn outcomes(words: &str, caller: &str, path: &str) -> String {
        let answer = ruled(words, caller, &[path]);
        let rows = answer["files"][0]["access"].as_array().unwrap().iter().map(|row| {
            let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let end = if row["errno"].is_null() { word("answer") } else { word("errno") };
            format!("{} {end} {}", word("operation"), row["by"]["stage"].as_str().unwrap())
        });
        rows.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn access_is_explained_for_a_caller() {
        let ours = "1000:1000";
        for (words, caller, path, wanted) in [
            (
                RULES,
                ours,
                "bin/tool",
                "read allowed mode, write EROFS read-only, execute allowed mode, delete EROFS \
                 read-only, link EROFS read-only, chmod EROFS read-only, chown EROFS read-only",
            ),
            (
                RULES,
                ours,
                "a.key",
                "read allowed mode, write allowed mode, execute EACCES deny, delete EPERM deny, \
                 link allowed owner, chmod allowed owner, chown allowed owner",
            ),
            (
                RULES,
                "7:7",
                "odd",
                "read allowed mode, write EACCES mode, execute EACCES mode, delete EACCES mode, \
                 link allowed owner, chmod allowed owner, chown allowed owner",
            ),
            (
                RULES,
                ours,
                ".",
                "read allowed mode, search allowed mode, create allowed mode, \
                 chmod allowed owner, chown allowed owner",
            ),
            (
                RULES,
                "9:9",
                "shared",
                "read allowed mode, search allowed mode, create EOVERFLOW \
                 unmapped, delete EACCES mode, chmod EPERM owner, chown EPERM owner",
            ),
            (
                RULES,
                "9:9",
                "shared/group",
                "read allowed mode, write EACCES mode, execute EACCES mode, delete EPERM mode, \
                 link EPERM hard links, chmod EPERM owner, chown EPERM owner",
            ),
            (
                "",
                "9:9,1000",
                "shared/group",
                "read allowed mode, write allowed mode, execute EACCES mode, delete EPERM mode, \
                 link allowed mode, chmod EPERM owner, chown EPERM owner",
            ),
            (
                "[changes]\nchown = 'ignore'\nchgrp = 'ignore'\nchmod = 'deny'",
                "0:0",
                "free",
                "read allowed mode, write allowed mode, execute EACCES mode, delete allowed root, \
                 link allowed root, chmod EPERM chmod, chown ignored chown",
            ),
            (
                "[callers]\nmirror = [8]\nothers = 'refuse'",
                "8:8",
                "shared/group",
                "read allowed mode, write allowed mode, execute EACCES mode, delete allowed mode, \
                 link allowed owner, chmod allowed owner, chown EOVERFLOW unmapped",
            ),
        ] {
            assert_eq!(outcomes(words, caller, path), wanted, "{words} {caller} {path}");
        }
        for (words, caller, path, wanted) in [
            (RULES, ours, ".ssh/id", "ENOENT hide"),
            (RULES, "9:9", "shut/in", "EACCES mode"),
            ("[callers]\nmirror = [8]\nothers = 'refuse'", "9:9", "free", "EACCES others"),
        ] {
            let all = outcomes(words, caller, path);
            assert!(all.split(", ").all(|row| row.ends_with(wanted)), "{path}: {all}");
        }
        let answer = ruled(RULES, ours, &[".ssh/id", "odd"]);
        let [hidden, odd] = [0, 1].map(|at| &answer["files"][at]);
        assert_eq!((&hidden["hidden"], &hidden["below"]), (&true.into(), &".ssh".into()));
        assert_eq!(hidden["rules"][0]["stage"], "hide");
        let mode = (&odd["disk_mode"], &odd["mode"]);
        assert_eq!(mode, (&"0644".into(), &"0444".into()));
        assert_eq!(odd["shown"][0]["answer"], 7);
        assert_eq!(odd["rules"][0]["text"], "a-w");
        assert!(odd["rules"][0]["at"].as_str().unwrap().ends_with("p.toml:17:16"), "{odd}");
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
