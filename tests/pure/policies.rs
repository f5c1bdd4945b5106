//! The ready policies and the reference: every file of `policies/` decides as
//! the golden table beside it says, and every example in the docs is true.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Id, Ids, Owner, View};
use idmapfs::policy::check::{Severity, check};
use idmapfs::policy::explain::{Asker, Decision, Question, Reason, Shown};
use idmapfs::policy::options::Options;
use idmapfs::policy::rules::Subject;
use idmapfs::policy::{Names, NoNames, Pipeline, Server, Spec, file};

use super::host::Host;

/// What stands in a golden table before the caller that is shown something.
const TO: &str = " to ";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn ready(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("policies")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == extension)).collect();
    found.sort();
    found
}

fn load(path: &Path) -> Spec {
    let text = fs::read_to_string(path).unwrap();
    let path = path.to_string_lossy();
    // Ready policies work on every host: none names anybody, and only those
    // that are about names look at lists.
    let by_name = text.contains("[ids.names]") || text.contains("[ids.prefix]");
    let names: &dyn Names = if by_name { &Host } else { &NoNames };
    file::parse(&path, &text, names).unwrap()
}

/// Reads `server UID:GID privileged|unprivileged`.
fn server(line: &str) -> Server {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["server", ids, privilege] = words[..] else { panic!("{line}") };
    let (uid, gid) = ids.split_once(':').unwrap();
    Server {
        ids: Ids { uid: Id::from_decimal(uid).unwrap(), gid: Id::from_decimal(gid).unwrap() },
        privileged: match privilege {
            "privileged" => true,
            "unprivileged" => false,
            _ => panic!("{line}"),
        },
    }
}

/// Reads `UID:GID` of the view.
fn ids(text: &str) -> Ids<View> {
    let (uid, gid) = text.split_once(':').unwrap();
    Ids { uid: Id::from_decimal(uid).unwrap(), gid: Id::from_decimal(gid).unwrap() }
}

/// Asks what a line of a golden table asks: `QUESTION KIND ID`, and at its end,
/// of what one caller is shown, `to UID:GID`.
fn ask(policy: &Pipeline, line: &str) -> Decision {
    let (line, to) = line.split_once(TO).map_or((line, None), |(line, to)| (line, Some(to)));
    let mut words = line.split_whitespace();
    let (question, kind, id) =
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let view = || {
        let (uid, gid) = (Id::from_decimal(id).unwrap(), Id::from_decimal(id).unwrap());
        Ids { uid, gid }
    };
    let [uid, gid] = match question {
        "present" => {
            let owner = Owner { uid: Id::from_decimal(id), gid: Id::from_decimal(id) };
            match to {
                None => policy.explain_owner(owner),
                Some(to) => policy.explain_owner_to(owner, ids(to)),
            }
        }
        "create" => policy.explain_create(view()),
        "store" => policy.explain_store(view()),
        _ => panic!("{line}"),
    };
    match kind {
        "uid" => uid,
        "gid" => gid,
        _ => panic!("{line}"),
    }
}

/// Writes a decision as a line of a golden table.
fn line(decision: &Decision) -> String {
    let Decision { question, kind, id, answer, reasons } = decision;
    let id = id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let answer = answer.map_or_else(
        || if *question == Question::Present { "unmapped" } else { "EOVERFLOW" }.to_owned(),
        |id| id.to_string(),
    );
    let by = reasons.last().unwrap();
    let rule = by.rule.as_ref().map_or_else(String::new, |rule| format!(" {rule}"));
    format!("{:7} {kind} {id:6} -> {answer:9} by {}{rule}", question.as_str(), by.stage)
}

/// Asks how a file is shown, by a line `path PATH KIND UID:GID MODE`, and at its
/// end, of what one caller is shown, `to UID:GID`. The directories on the way
/// have the same owner, and mode 0755; `.` is the source's root.
fn path(policy: &Pipeline, line: &str) -> String {
    let (asked, to) = line.split_once(TO).map_or((line, None), |(line, to)| (line, Some(to)));
    let words: Vec<&str> = asked.split_whitespace().take(5).collect();
    let ["path", path, kind, owner, mode] = words[..] else { panic!("{line}") };
    let subject = Subject {
        kind: match kind {
            "file" => FileKind::Regular,
            "directory" => FileKind::Directory,
            "symlink" => FileKind::Symlink,
            _ => panic!("{line}"),
        },
        owner: {
            let (uid, gid) = owner.split_once(':').unwrap();
            Owner { uid: Id::from_decimal(uid), gid: Id::from_decimal(gid) }
        },
        mode: Mode::new(u32::from_str_radix(mode, 8).unwrap()),
    };
    let directory = Subject { kind: FileKind::Directory, mode: Mode::new(0o755), ..subject };
    let names: Vec<&[u8]> =
        path.split('/').filter(|name| *name != ".").map(str::as_bytes).collect();
    let subjects = (0..=names.len()).map(|at| if at == names.len() { subject } else { directory });
    let subjects: Vec<Subject> = subjects.collect();
    let way: Vec<_> = names.iter().copied().zip(subjects[1..].iter().copied()).collect();
    let asker = to.map(|to| Asker::from(ids(to)));
    let shown = policy.explain_way(&subjects[0], &way, asker.as_ref());
    let to = to.map_or_else(String::new, |to| format!("{TO}{to}"));
    let asked = format!("path {path} {kind} {owner} {mode}");
    format!("{asked:42} -> {}{to}", shown_as(&shown, path))
}

/// Writes how the last file of a way is shown.
fn shown_as(way: &[Shown], path: &str) -> String {
    let shown = way.last().unwrap();
    if let Some(at) = shown.below {
        let names: Vec<&str> = path.split('/').take(at).collect();
        return format!("hidden with {}", names.join("/"));
    }
    let rules = shown.rules.iter().map(|rule| (rule.stage, rule.rule.as_ref()));
    let owners = shown.owner.iter().flat_map(|owner| &owner.reasons);
    let by_rule = owners.filter(|reason| matches!(reason.stage, "present-owner" | "mirror"));
    let by_rule = by_rule.map(|reason| (reason.stage, reason.rule.as_ref()));
    let mut by: Vec<&str> = Vec::new();
    for (stage, rule) in rules.chain(by_rule) {
        if !shown.hidden || stage == "hide" {
            let rule = rule.unwrap();
            if !by.contains(&rule.as_str()) {
                by.push(rule);
            }
        }
    }
    let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(" ")) };
    if shown.hidden {
        return format!("hidden{by}");
    }
    let id = |id: Option<u32>| id.map_or_else(|| "unmapped".to_owned(), |id| id.to_string());
    let [uid, gid] = shown.owner.each_ref().map(|owner| id(owner.answer));
    let read_only = if shown.read_only { " read-only" } else { "" };
    let deny =
        if shown.denied.is_empty() { String::new() } else { format!(" deny={}", shown.denied) };
    format!("{uid}:{gid} {:04o}{read_only}{deny}{by}", shown.mode.bits())
}

#[test]
fn a_table_has_files_by_their_paths() {
    let text = "\
version = 1
[ids]
map = ['0:100:2000']
[callers]
mirror = [7]
[[rules]]
path = '.ssh/**'
hide = true
[[rules]]
path = 'bin/**'
read-only = true
present-mode = 'a-w'
[[rules]]
name = '*.key'
present-owner = '0:9'
deny = ['delete', 'chmod']
";
    let policy = file::parse("p.toml", text, &NoNames).unwrap().build(&server(SERVER)).unwrap();
    for line in [
        "path . directory 1000:1000 0755            -> 1100:1100 0755",
        "path a file 1000:5000 0644                 -> 1100:unmapped 0644",
        "path .ssh directory 1000:1000 0700         -> hidden by rule(path=.ssh/** hide=true)",
        "path .ssh/a/b file 1000:1000 0600          -> hidden with .ssh",
        "path bin/a.key file 1000:1000 0755         -> 0:9 0555 read-only deny=delete+chmod by \
         rule(path=bin/** read-only=true present-mode=a-w) \
         rule(name=*.key present-user=0 present-group=9 deny=delete+chmod)",
        "path a.key file 1000:1000 0644             -> 7:9 0644 deny=delete+chmod by \
         rule(name=*.key present-user=0 present-group=9 deny=delete+chmod) 7 to 7:7",
    ] {
        assert_eq!(path(&policy, line), line);
    }
}

const SERVER: &str = "server 0:0 privileged";

#[test]
fn ready_policies_decide_as_their_tables_say() {
    let policies = ready("toml");
    assert!(!policies.is_empty());
    for file_path in policies {
        let golden = fs::read_to_string(file_path.with_extension("golden")).unwrap();
        let asks = |line: &&str| !line.starts_with('#') && !line.starts_with("change ");
        let mut lines = golden.lines().filter(asks);
        let header = lines.next().unwrap();
        let policy = load(&file_path).build(&server(header)).unwrap();
        let mut found = format!("{}\n{header}\n", golden.lines().next().unwrap());
        let mut paths = 0;
        for asked in lines {
            if asked.starts_with("path ") {
                writeln!(found, "{}", path(&policy, asked)).unwrap();
                paths += 1;
                continue;
            }
            let to = asked.split_once(TO).map_or_else(String::new, |(_, to)| format!("{TO}{to}"));
            writeln!(found, "{}{to}", line(&ask(&policy, asked))).unwrap();
        }
        let name = file_path.display();
        assert!(paths > 0 || policy.spec().rules().is_empty(), "{name}: no path in its table");
        for Reason { stage, text, .. } in policy.explain_changes() {
            writeln!(found, "change  {stage} {text}").unwrap();
        }
        assert!(found == golden, "{name} should be\n{found}");
    }
}

#[test]
fn every_table_has_its_policy() {
    for path in ready("golden") {
        assert!(path.with_extension("toml").exists(), "{}", path.display());
    }
}

#[test]
fn ready_policies_say_their_command_and_have_no_error() {
    for path in ready("toml") {
        let name = path.file_name().unwrap().to_string_lossy();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("#   idmapfs --policy {name} ")), "{name}: the command");
        assert!(text.contains("\n# For: "), "{name}: who uses it");
        let errors = check(&load(&path)).into_iter().filter(|f| f.severity == Severity::Error);
        assert_eq!(errors.count(), 0);
    }
}

#[test]
fn the_reference_is_true() {
    let text = fs::read_to_string(root().join("docs/policies.md")).unwrap();
    let mut examples = 0;
    for block in text.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        file::parse("docs/policies.md", block, &Host).unwrap_or_else(|e| panic!("{e}\n{block}"));
        examples += 1;
    }
    assert!(examples > 0, "no example");

    let mut spellings = 0;
    let rows = text.split("## Familiar spellings").nth(1).unwrap().split("\n## ").next().unwrap();
    for row in rows.lines().filter(|row| row.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let theirs = options(cells[1].trim_matches('`'));
        let ours = options(cells[3].trim_matches('`'));
        assert_eq!(theirs, ours, "{row}");
        spellings += 1;
    }
    assert!(spellings >= 12, "{spellings} spellings");
}

#[test]
fn the_examples_of_the_manual_are_true() {
    let text = fs::read_to_string(root().join("man/idmapfs-policy.5")).unwrap();
    let blocks: Vec<&str> = text.split(".Bd -literal -offset indent\n").skip(1).collect();
    for block in &blocks {
        let block = block.split("\n.Ed").next().unwrap();
        let policy =
            file::parse("idmapfs-policy.5", block, &Host).unwrap_or_else(|e| panic!("{e}"));
        let errors = check(&policy).into_iter().filter(|f| f.severity == Severity::Error);
        assert_eq!(errors.count(), 0, "{block}");
    }
    assert!(blocks.len() >= 6, "{} examples", blocks.len());
}

/// The options of bindfs 1.18, by its manual page.
const BINDFS: &str = "force-user force-group perms mirror mirror-only map map-passwd map-group \
    map-passwd-rev map-group-rev uid-offset gid-offset create-as-user create-as-mounter \
    create-for-user create-for-group create-with-perms chown-normal chown-ignore chown-deny \
    chgrp-normal chgrp-ignore chgrp-deny chmod-normal chmod-ignore chmod-deny chmod-filter \
    chmod-allow-x xattr-none xattr-ro xattr-rw delete-deny rename-deny read-rate write-rate \
    hide-hard-links resolve-symlinks resolved-symlink-deletion no-allow-other \
    realistic-permissions ctime-from-mtime enable-lock-forwarding disable-lock-forwarding \
    enable-ioctl block-devices-as-files multithreaded direct-io no-direct-io forward-odirect ro \
    fsname";

#[test]
fn each_option_of_bindfs_has_its_recipe() {
    let text = fs::read_to_string(root().join("docs/policies.md")).unwrap();
    let section = text.split("## Recipes for bindfs").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (mut named, mut recipes) = (Vec::new(), 0);
    for row in section.lines().filter(|row| row.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let theirs = cells[0].split('`').filter(|word| !word.trim_matches([',', ' ']).is_empty());
        for option in theirs.flat_map(|list| list.split(',')) {
            let name = option.split_once('=').map_or(option, |(name, _)| name);
            named.push(name.to_owned());
            let taken = Options::default().set(name, Some("1")).is_ok_and(|policy| policy);
            let refused = cells[1].starts_with("refused");
            assert!(!(refused && taken), "{name} is taken");
        }
        let recipe = cells[1].trim_matches('`');
        if cells.len() < 3 || recipe.is_empty() {
            continue;
        }
        let ours = format!("version = 1\n{}\n", recipe.replace("nothing", ""));
        let ours = file::parse("docs/policies.md", &ours, &Host);
        assert_eq!(options(cells[0].trim_matches('`')), ours.unwrap(), "{row}");
        recipes += 1;
    }
    assert!(recipes >= 30, "{recipes} recipes");
    let missing = BINDFS.split_whitespace().filter(|name| !named.iter().any(|known| known == name));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
}

/// Reads options as `-o` has them.
fn options(text: &str) -> Spec {
    let mut options = Options::default();
    for word in text.split(',') {
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        assert!(options.set(name, value).unwrap(), "{word}");
    }
    Spec::from_options(&options, &Host).unwrap()
}
