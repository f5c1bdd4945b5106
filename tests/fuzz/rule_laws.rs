//! What is so of the rules of every policy.

use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Disk, Id, Owner};
use idmapfs::policy::rules::{By, Deny, Hide, Rule, Rules, State, Subject};
use idmapfs::policy::{Pipeline, Policy, Spec, Written, file};

use super::policy_laws::ids;
use crate::host::Host;

const KINDS: [(&str, FileKind); 7] = [
    ("file", FileKind::Regular),
    ("directory", FileKind::Directory),
    ("symlink", FileKind::Symlink),
    ("fifo", FileKind::Fifo),
    ("socket", FileKind::Socket),
    ("char-device", FileKind::CharDevice),
    ("block-device", FileKind::BlockDevice),
];

const DENY: [(&str, Deny); 8] = [
    ("delete", Deny::DELETE),
    ("rename", Deny::RENAME),
    ("chmod", Deny::CHMOD),
    ("chown", Deny::CHOWN),
    ("create", Deny::CREATE),
    ("link", Deny::LINK),
    ("exec", Deny::EXEC),
    ("xattr", Deny::XATTR),
];

/// Writes a string as TOML has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

fn list(key: &str, values: impl IntoIterator<Item = String>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| quoted(&value)).collect();
    if values.is_empty() { String::new() } else { format!("{key} = [{}]\n", values.join(", ")) }
}

/// Writes a rule as a policy file has it.
fn toml(rule: &Rule) -> String {
    let mut out = String::from("[[rules]]\n");
    out += &list("path", rule.paths.iter().map(|path| path.value.to_string()));
    out += &list("name", rule.names.iter().map(|name| name.value.to_string()));
    let kinds = KINDS.iter().filter(|(_, kind)| !rule.kinds.is_any() && rule.kinds.holds(*kind));
    out += &list("type", kinds.map(|(word, _)| (*word).to_owned()));
    out += &list("owner", rule.users.iter().map(ToString::to_string));
    out += &list("group", rule.groups.iter().map(ToString::to_string));
    let mut value = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            out += &format!("{key} = {value}\n");
        }
    };
    value("mode", rule.mode.map(|mode| quoted(&mode.to_string())));
    value("hide", rule.hide.as_ref().map(|hide| hide.value.to_string()));
    value("read-only", rule.read_only.as_ref().map(|read_only| read_only.value.to_string()));
    let (user, group) = (rule.present_user.as_ref(), rule.present_group.as_ref());
    let owner = match (user.map(|user| user.value), group.map(|group| group.value)) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(format!("u:{user}")),
        (None, Some(group)) => Some(format!("g:{group}")),
        (None, None) => None,
    };
    value("present-owner", owner.map(|owner| quoted(&owner)));
    value("present-mode", rule.present_mode.as_ref().map(|mode| mode_of(&mode.value.to_string())));
    let deny = rule.deny.as_ref().map(|deny| {
        let words = DENY.iter().filter(|(_, one)| deny.value.contains(*one));
        words.map(|(word, _)| quoted(word)).collect::<Vec<_>>().join(", ")
    });
    value("deny", deny.map(|words| format!("[{words}]")));
    out
}

/// Writes a presented mode: one for all, or `files=... directories=...`.
fn mode_of(text: &str) -> String {
    let sorts: Option<Vec<(&str, &str)>> =
        text.split(' ').map(|sort| sort.split_once('=')).collect();
    let words = ["files", "directories", "executables"];
    match sorts {
        Some(sorts) if sorts.iter().all(|(word, _)| words.contains(word)) => {
            let sorts: Vec<String> =
                sorts.iter().map(|(word, text)| format!("{word} = {}", quoted(text))).collect();
            format!("{{ {} }}", sorts.join(", "))
        }
        _ => quoted(text),
    }
}

/// Demands that rules are the same after they were written and read.
pub fn printed(spec: &Spec) {
    let rules: Vec<String> = spec.rules().iter().map(|rule| toml(&rule.value)).collect();
    let text = format!("version = 1\n{}", rules.concat());
    let again = file::parse("again.toml", &text, &Host).map_err(|error| format!("{error}\n{text}"));
    assert_eq!(again.unwrap().rules(), spec.rules(), "{text}");
}

/// Demands that the rules decide alike twice, and as they say where no rule
/// looks at the path.
pub fn decides(policy: &Pipeline, text: &str) {
    let written = policy.spec().rules();
    let (rules, other) = (policy.rules(), Rules::new(written));
    assert_eq!(rules.is_empty(), written.is_empty());
    if rules.is_empty() {
        return;
    }
    let subjects = subjects(text);
    let is_part = |c: char| c == '/' || c == '"' || c == '\'' || c.is_whitespace();
    let names = text.split(is_part).filter(|name| (1..256).contains(&name.len()));
    let names: Vec<&[u8]> = names.map(str::as_bytes).filter(|name| !name.contains(&0)).collect();
    let names: Vec<&[u8]> =
        names.into_iter().rev().take(8).chain([&b"x"[..], b".ssh", b"\xff"]).collect();
    let mut places = vec![(rules.root(), other.root(), true, 0)];
    let by_place = written.iter().any(|rule| rule.value.looks_at_path());
    while let Some((state, same, directory, depth)) = places.pop() {
        agree(rules, &state, &other, &same, &subjects, directory);
        if !by_place && depth > 0 {
            first_of_each(rules, written, &state, &subjects);
        }
        if !directory || depth == 3 {
            continue;
        }
        // Nobody sees the links of what is hidden itself.
        let hides = rules.may_hide_below(&state) || rules.hides_name(&state) == Hide::Always;
        for (at, name) in names.iter().enumerate() {
            for directory in [false, true] {
                let child = rules.step(&state, name, directory);
                let asked = subjects.iter().filter(|subject| directory && subject.kind.is_dir());
                for subject in asked.filter(|_| !hides) {
                    let verdict = rules.verdict(&child, subject);
                    assert!(!verdict.hide, "{} is hidden: {verdict:?}", name.escape_ascii());
                }
                // The first few names lead on: there are too many of all.
                if at < 8 >> (2 * depth) {
                    places.push((child, other.step(&same, name, directory), directory, depth + 1));
                }
            }
        }
    }
}

/// Files to ask about.
fn subjects(text: &str) -> Vec<Subject> {
    let ids: Vec<u32> = ids(text).into_iter().take(24).collect();
    let modes = [0, 0o644, 0o4755, 0o1777, 0o7777];
    let id = |at: usize| ids[at % ids.len()];
    let subject = |at: usize| Subject {
        kind: KINDS[at % KINDS.len()].1,
        owner: Owner::<Disk> { uid: Id::new(id(at)), gid: Id::new(id(at * 7 + 3)) },
        mode: Mode::new(modes[at % modes.len()]),
    };
    (0..ids.len()).map(subject).collect()
}

fn agree(
    rules: &Rules,
    state: &State,
    other: &Rules,
    same: &State,
    subjects: &[Subject],
    directory: bool,
) {
    assert!(state.is_of(rules));
    let hide = rules.hides_name(state);
    assert_eq!(hide, other.hides_name(same));
    for subject in subjects.iter().filter(|subject| subject.kind.is_dir() == directory) {
        let verdict = rules.verdict(state, subject);
        assert_eq!(verdict, other.verdict(same, subject));
        match hide {
            Hide::No => assert!(!verdict.hide, "{verdict:?}"),
            Hide::Always => assert!(verdict.hide, "{verdict:?}"),
            Hide::Depends => {}
        }
    }
}

/// Demands that of rules that do not look at the path the first one decides
/// that matches and mentions an effect.
fn first_of_each(rules: &Rules, written: &[Written<Rule>], state: &State, subjects: &[Subject]) {
    for subject in subjects {
        let verdict = rules.verdict(state, subject);
        if verdict.hide {
            continue;
        }
        let first = |has: fn(&Rule) -> bool| {
            let rule = written.iter().position(|r| has(&r.value) && r.value.meets(subject));
            rule.map(|at| at as u16)
        };
        let by = By {
            hide: first(|rule| rule.hide.is_some()),
            read_only: first(|rule| rule.read_only.is_some()),
            user: first(|rule| rule.present_user.is_some()),
            group: first(|rule| rule.present_group.is_some()),
            mode: first(|rule| rule.present_mode.is_some()),
            deny: first(|rule| rule.deny.is_some()),
        };
        assert_eq!(verdict.by, by, "{subject:?}");
    }
}
