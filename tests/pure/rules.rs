//! Rules: what they say of a file, and what their states are.

use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::Ids;
use idmapfs::policy::glob::{Glob, PathGlob};
use idmapfs::policy::rules::{Deny, Hide, Kinds, Rule, Rules, State, Subject};
use idmapfs::policy::{Origin, Written};

fn written<T>(value: T) -> Written<T> {
    Written { value, at: Origin::Whole }
}

/// A rule for paths and names, those with a `=` before them.
fn at(places: &[&str]) -> Rule {
    let (names, paths): (Vec<&str>, Vec<&str>) =
        places.iter().partition(|text| text.starts_with('='));
    let path = |text: &str| written(PathGlob::parse(&Origin::Whole, text).unwrap());
    let name = |text: &str| written(Glob::parse(&Origin::Whole, &text[1..]).unwrap());
    Rule {
        paths: paths.into_iter().map(path).collect(),
        names: names.into_iter().map(name).collect(),
        ..Rule::default()
    }
}

fn hide(places: &[&str], hide: bool) -> Rule {
    Rule { hide: Some(written(hide)), ..at(places) }
}

fn compile(rules: &[Rule]) -> Rules {
    Rules::new(&rules.iter().cloned().map(written).collect::<Vec<_>>())
}

/// The state of a path; a slash at its end: a directory.
fn state(rules: &Rules, path: &str) -> State {
    let directory = path.ends_with('/');
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let mut state = rules.root();
    for (depth, name) in names.iter().enumerate() {
        let directory = directory || depth + 1 < names.len();
        state = rules.step(&state, name.as_bytes(), directory);
    }
    state
}

fn file() -> Subject {
    subject(FileKind::Regular)
}

fn subject(kind: FileKind) -> Subject {
    Subject { kind, owner: Ids::new(1, 1).unwrap().into(), mode: Mode::new(0o644) }
}

fn hidden(rules: &Rules, path: &str) -> bool {
    let kind = if path.ends_with('/') { FileKind::Directory } else { FileKind::Regular };
    rules.verdict(&state(rules, path), &subject(kind)).hide
}

#[test]
fn without_rules_there_is_nothing_to_know() {
    let rules = Rules::new(&[]);
    assert!(rules.is_empty());
    let state = state(&rules, "a/b/c");
    assert_eq!((state.id(), &state), (0, &rules.root()));
    assert!(state.is_of(&rules) && state.is_of(Rules::NONE));
    let verdict = rules.verdict(&state, &file());
    assert!(!verdict.hide && !verdict.read_only && verdict.deny.is_empty());
    assert_eq!(rules.hides(&state, b"a"), Hide::No);
    assert!(!rules.may_hide_below(&state));
}

#[test]
fn the_first_rule_that_mentions_an_effect_decides_it() {
    let rules = compile(&[
        hide(&[".ssh/known_hosts"], false),
        Rule { deny: Some(written(Deny::DELETE)), ..at(&[".ssh/**"]) },
        hide(&[".ssh/id_*"], true),
        Rule { read_only: Some(written(true)), deny: Some(written(Deny::CHMOD)), ..at(&["**"]) },
    ]);
    let verdict = rules.verdict(&state(&rules, ".ssh/known_hosts"), &file());
    assert!(!verdict.hide && verdict.read_only && verdict.deny == Deny::DELETE);
    assert_eq!(
        (verdict.by.hide, verdict.by.deny, verdict.by.read_only),
        (Some(0), Some(1), Some(3))
    );
    assert!(hidden(&rules, ".ssh/id_rsa"));
    assert!(!hidden(&rules, ".ssh/config"));
    assert!(!hidden(&rules, "sub/.ssh/id_rsa"));
    let verdict = rules.verdict(&rules.root(), &subject(FileKind::Directory));
    assert!(verdict.read_only && verdict.deny == Deny::CHMOD);
}

#[test]
fn what_is_hidden_hides_all_below_and_never_the_root() {
    let rules = compile(&[hide(&["a/b"], true), hide(&["**/keep"], false), hide(&["**/k*"], true)]);
    for (path, wanted) in [
        ("a", false),
        ("a/b/", true),
        ("a/b", true),
        ("a/b/c", true),
        ("a/b/keep", true),
        ("a/keep", false),
        ("key/", true),
        ("key/keep", true),
    ] {
        assert_eq!(hidden(&rules, path), wanted, "{path}");
    }
    let all = compile(&[hide(&["**"], true)]);
    assert!(!hidden(&all, "/"));
    assert!(hidden(&all, "a") && hidden(&all, "a/b"));
    assert_eq!(all.hides_name(&all.root()), Hide::No);
    assert_eq!(all.hides(&all.root(), b"a"), Hide::Always);
}

#[test]
fn a_name_is_hidden_whether_or_not_it_exists() {
    let key = Rule { kinds: Kinds::default().with(FileKind::Regular), ..hide(&["=*.key"], true) };
    let rules = compile(&[hide(&["secret/**"], true), hide(&["dirs/"], true), key]);
    let root = rules.root();
    assert_eq!(rules.hides(&root, b"secret"), Hide::Always);
    assert_eq!(rules.hides(&root, b"public"), Hide::No);
    assert_eq!(rules.hides(&root, b"dirs"), Hide::Depends);
    assert_eq!(rules.hides(&root, b"a.key"), Hide::Depends);
    assert!(hidden(&rules, "dirs/") && !hidden(&rules, "dirs"));
    assert!(hidden(&rules, "x/a.key") && !hidden(&rules, "x/a.key/"));
    // A file alone is hidden in `x`: its link count tells nothing.
    assert!(rules.may_hide_below(&root));
    assert!(!rules.may_hide_below(&state(&rules, "x/")));
}

#[test]
fn neutral_places_share_one_state() {
    let rules = compile(&[hide(&["a/b/**"], true), hide(&["=*.key"], true)]);
    for path in ["x", "x/", "x/y/", "x/y/z", "a/c", "a/c/", "b/"] {
        assert_eq!(state(&rules, path).id(), 0, "{path}");
    }
    let (root, a) = (rules.root(), state(&rules, "a/"));
    assert!(root.id() != 0 && a.id() != 0 && root != a);
    // A file in `a` cannot be moved to where `a/b` would be.
    assert_ne!(state(&rules, "a/b"), state(&rules, "x/b"));
    assert_eq!(state(&rules, "a/x.key"), state(&rules, "y/z.key"));
}

#[test]
fn a_state_of_other_rules_is_known_and_hidden() {
    let old = compile(&[hide(&["a"], true)]);
    let new = compile(&[hide(&["b"], true)]);
    for state in [old.root(), state(&old, "x"), state(&old, "a"), Rules::NONE.root()] {
        assert!(!state.is_of(&new));
        assert!(new.verdict(&state, &file()).hide);
        assert!(!new.step(&state, b"x", false).is_of(&new));
        assert_eq!(new.hides_name(&state), Hide::Always);
    }
    assert!(state(&new, "a").is_of(&new));
    assert!(!state(&new, "a").is_of(Rules::NONE));
}

#[test]
fn many_rules_decide_as_their_list_does() {
    let place = |i: usize| match i % 4 {
        0 => format!("**/file{i}"),
        1 => format!("**/*.e{i}"),
        2 => format!("**/pre{i}*"),
        _ => format!("**/*x{i}y*"),
    };
    let rules: Vec<Rule> = (0..1000).map(|i| hide(&[&place(i)], true)).collect();
    let rules = compile(&rules);
    let dir = state(&rules, "some/where/");
    for i in 0..1000_u16 {
        let name = match i % 4 {
            0 => format!("file{i}"),
            1 => format!("a.e{i}"),
            2 => format!("pre{i}z"),
            _ => format!("a.x{i}y.b"),
        };
        let state = rules.step(&dir, name.as_bytes(), false);
        let verdict = rules.verdict(&state, &file());
        // `pre10z` begins with `pre10` and with nothing shorter in the list.
        let by = verdict.by.hide.unwrap();
        assert!(verdict.hide && (by == i || name.starts_with(&format!("pre{by}"))), "{name} {by}");
        let other = rules.step(&dir, format!("_{name}_").as_bytes(), false);
        assert_eq!(rules.verdict(&other, &file()).hide, i % 4 == 3, "_{name}_");
    }
}
