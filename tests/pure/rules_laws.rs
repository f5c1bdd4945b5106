//! The automaton of the rules says what a naive reading of whole paths says,
//! on random patterns, paths and files.

use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Id, Owner};
use idmapfs::policy::glob::{Glob, PathGlob};
use idmapfs::policy::mode::ModeTest;
use idmapfs::policy::rules::{Deny, Hide, Kinds, Range, Rule, Rules, State, Subject};
use idmapfs::policy::{Origin, Written};
use proptest::prelude::*;

/// A unit of a name: a character, or a byte that is no part of one.
const UNITS: [(&[u8], &str); 5] = [
    (b"a", "a"),
    (b"b", "\\x62"),
    (b"*", "\\*"),
    (b"\xff", "\\xff"),
    ("\u{e9}".as_bytes(), "\u{e9}"),
];

#[derive(Clone, Debug)]
enum Token {
    Unit(usize),
    One,
    Many,
    Class(bool, Vec<usize>),
}

#[derive(Clone, Debug)]
enum Part {
    Any,
    Name(Vec<Token>),
}

/// A pattern: its names, and whether it is for directories alone.
#[derive(Clone, Debug)]
struct Pattern(Vec<Part>, bool);

fn unit() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => 2..UNITS.len()]
}

/// A name, as units.
fn name() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(unit(), 1..4)
}

fn token() -> impl Strategy<Value = Token> {
    prop_oneof![
        6 => unit().prop_map(Token::Unit),
        1 => Just(Token::One),
        2 => Just(Token::Many),
        1 => (any::<bool>(), prop::collection::vec(unit(), 1..3)).prop_map(|(n, u)| Token::Class(n, u)),
    ]
}

fn tokens() -> impl Strategy<Value = Vec<Token>> {
    prop::collection::vec(token(), 1..4).prop_map(|mut tokens| {
        tokens.dedup_by(|a, b| matches!((a, b), (Token::Many, Token::Many)));
        tokens
    })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let part = prop_oneof![1 => Just(Part::Any), 3 => tokens().prop_map(Part::Name)];
    (prop::collection::vec(part, 1..5), prop::bool::weighted(0.2)).prop_map(|(p, d)| Pattern(p, d))
}

fn text_of(tokens: &[Token]) -> String {
    let units = |units: &[usize]| units.iter().map(|unit| UNITS[*unit].1).collect::<String>();
    let text = |token: &Token| match token {
        Token::Unit(unit) => units(&[*unit]),
        Token::One => "?".to_owned(),
        Token::Many => "*".to_owned(),
        Token::Class(negated, set) => {
            format!("[{}{}]", if *negated { "!" } else { "" }, units(set))
        }
    };
    tokens.iter().map(text).collect()
}

impl Pattern {
    fn text(&self) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Any => "**".to_owned(),
            Part::Name(tokens) => text_of(tokens),
        });
        parts.collect::<Vec<_>>().join("/") + if self.1 { "/" } else { "" }
    }

    fn matches(&self, path: &[Vec<usize>], directory: bool) -> bool {
        (directory || !self.1) && matches_path(&self.0, path)
    }
}

fn matches_path(parts: &[Part], path: &[Vec<usize>]) -> bool {
    match parts {
        [] => path.is_empty(),
        [Part::Any, rest @ ..] => (0..=path.len()).any(|skip| matches_path(rest, &path[skip..])),
        [Part::Name(tokens), rest @ ..] => match path {
            [name, below @ ..] => matches_name(tokens, name) && matches_path(rest, below),
            [] => false,
        },
    }
}

fn matches_name(tokens: &[Token], name: &[usize]) -> bool {
    match (tokens, name) {
        ([], _) => name.is_empty(),
        ([Token::Many, rest @ ..], _) => {
            (0..=name.len()).any(|skip| matches_name(rest, &name[skip..]))
        }
        (_, []) => false,
        ([token, rest @ ..], [unit, after @ ..]) => {
            let fits = match token {
                Token::Unit(wanted) => wanted == unit,
                Token::Class(negated, set) => set.contains(unit) != *negated,
                Token::One | Token::Many => true,
            };
            fits && matches_name(rest, after)
        }
    }
}

fn bytes(name: &[usize]) -> Vec<u8> {
    name.iter().flat_map(|unit| UNITS[*unit].0).copied().collect()
}

fn written<T>(value: T) -> Written<T> {
    Written { value, at: Origin::Whole }
}

fn path_glob(pattern: &Pattern) -> PathGlob {
    PathGlob::parse(&Origin::Whole, &pattern.text()).unwrap()
}

fn name_glob(tokens: &[Token]) -> Glob {
    Glob::parse(&Origin::Whole, &text_of(tokens)).unwrap()
}

/// A rule in both forms.
#[derive(Clone, Debug)]
struct Both {
    rule: Rule,
    paths: Vec<Pattern>,
    names: Vec<Vec<Token>>,
}

impl Both {
    /// Whether path and name meet the conditions.
    fn at(&self, path: &[Vec<usize>], directory: bool) -> bool {
        let paths = self.paths.is_empty() || self.paths.iter().any(|p| p.matches(path, directory));
        let last = path.last();
        let name = |name| self.names.iter().any(|tokens| matches_name(tokens, name));
        paths && (self.names.is_empty() || last.is_some_and(|last| name(last)))
    }
}

fn kind() -> impl Strategy<Value = FileKind> {
    prop_oneof![Just(FileKind::Regular), Just(FileKind::Directory), Just(FileKind::Symlink)]
}

fn rule() -> impl Strategy<Value = Both> {
    let some = |weight| prop::option::weighted(weight, any::<bool>());
    let places = (
        prop::collection::vec(pattern(), 0..3),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(tokens(), 1..3)],
    );
    let conditions = (
        prop_oneof![3 => Just(None), 1 => kind().prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => (0..3_u32, 0..3_u32).prop_map(Some)],
        prop::bool::weighted(0.2),
    );
    let effects = (some(0.5), some(0.4), prop::option::weighted(0.3, 0..9_u32), some(0.3));
    (places, conditions, effects).prop_map(|((paths, names), (kind, owner, mode), effects)| {
        let (hide, read_only, owner_shown, deny) = effects;
        let id = |raw: u32| Id::new(raw).unwrap();
        let range = owner.map(|(a, b)| Range { first: id(a.min(b)), last: id(a.max(b)) });
        let rule = Rule {
            paths: paths.iter().map(|pattern| written(path_glob(pattern))).collect(),
            names: names.iter().map(|tokens| written(name_glob(tokens))).collect(),
            kinds: kind.map_or(Kinds::default(), |kind| Kinds::default().with(kind)),
            users: range.into_iter().collect(),
            mode: mode.then_some(ModeTest::Any(0o111)),
            hide: hide.map(written),
            read_only: read_only.map(written),
            present_user: owner_shown.map(|raw| written(Id::new(raw).unwrap())),
            deny: deny.map(|some| written(if some { Deny::DELETE } else { Deny::default() })),
            ..Rule::default()
        };
        Both { rule, paths, names }
    })
}

fn rules() -> impl Strategy<Value = Vec<Both>> {
    prop_oneof![
        4 => prop::collection::vec(rule(), 1..6),
        // Enough for the indexes.
        1 => prop::collection::vec(rule(), 20..40),
    ]
}

fn subject() -> impl Strategy<Value = Subject> {
    (kind(), prop::option::weighted(0.9, 0..3_u32), any::<bool>()).prop_map(|(kind, uid, exec)| {
        Subject {
            kind,
            owner: Owner { uid: uid.and_then(Id::new), gid: Id::new(0) },
            mode: Mode::new(if exec { 0o755 } else { 0o644 }),
        }
    })
}

fn compile(rules: &[Both]) -> Rules {
    Rules::new(&rules.iter().map(|both| written(both.rule.clone())).collect::<Vec<_>>())
}

/// The places of a path, from the root's to its own.
fn walk(rules: &Rules, path: &[Vec<usize>], directory: bool) -> Vec<State> {
    let mut states = vec![rules.root()];
    for (depth, name) in path.iter().enumerate() {
        let directory = directory || depth + 1 < path.len();
        let dir = states.last().unwrap().clone();
        states.push(rules.step(&dir, &bytes(name), directory));
    }
    states
}

/// The first rule that matches and mentions an effect.
fn first<'r>(
    rules: &'r [Both],
    path: &[Vec<usize>],
    subject: &Subject,
    mentions: impl Fn(&Rule) -> bool,
) -> Option<(u16, &'r Rule)> {
    let directory = subject.kind.is_dir();
    let matching = (0_u16..).zip(rules).find(|(_, both)| {
        both.at(path, directory) && both.rule.meets(subject) && mentions(&both.rule)
    });
    matching.map(|(at, both)| (at, &both.rule))
}

/// Whether a directory is hidden whatever its owner and mode.
fn surely_hidden(rules: &[Both], path: &[Vec<usize>]) -> bool {
    let matching = rules.iter().filter(|both| both.at(path, true)).map(|both| &both.rule);
    for rule in matching.filter(|rule| rule.hide.is_some()) {
        if !rule.hide.as_ref().unwrap().value {
            return false;
        }
        if !rule.looks_at_file() {
            return true;
        }
    }
    false
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() }
}

fn paths() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(name(), 0..5)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_pattern_matches_what_it_says(tokens in tokens(), name in name()) {
        prop_assert_eq!(name_glob(&tokens).matches(&bytes(&name)), matches_name(&tokens, &name));
    }

    #[test]
    fn the_automaton_decides_as_the_list(
        rules in rules(), path in paths(), subject in subject()
    ) {
        let kind = if path.is_empty() { FileKind::Directory } else { subject.kind };
        let subject = Subject { kind, ..subject };
        let compiled = compile(&rules);
        let states = walk(&compiled, &path, subject.kind.is_dir());
        let verdict = compiled.verdict(states.last().unwrap(), &subject);
        let root = path.is_empty();
        let below = (1..path.len()).any(|depth| surely_hidden(&rules, &path[..depth]));
        let hide = first(&rules, &path, &subject, |rule| rule.hide.is_some());
        let hidden = below || (!root && hide.is_some_and(|(_, rule)| rule.hide.as_ref().unwrap().value));
        prop_assert_eq!(verdict.hide, hidden);
        if !hidden {
            let read_only = first(&rules, &path, &subject, |rule| rule.read_only.is_some());
            let user = first(&rules, &path, &subject, |rule| rule.present_user.is_some());
            let deny = first(&rules, &path, &subject, |rule| rule.deny.is_some());
            let value = read_only.map(|(_, rule)| rule.read_only.as_ref().unwrap().value);
            prop_assert_eq!(verdict.read_only, value.unwrap_or_default());
            let value = user.map(|(_, rule)| rule.present_user.as_ref().unwrap().value);
            prop_assert_eq!(verdict.owner, Owner { uid: value, gid: None });
            let value = deny.map(|(_, rule)| rule.deny.as_ref().unwrap().value);
            prop_assert_eq!(verdict.deny, value.unwrap_or_default());
            let at = |found: Option<(u16, &Rule)>| found.map(|(at, _)| at);
            prop_assert!(root || verdict.by.hide == at(hide));
            prop_assert_eq!(verdict.by.read_only, at(read_only));
            prop_assert_eq!(verdict.by.user, at(user));
            prop_assert_eq!(verdict.by.deny, at(deny));
        }
    }

    #[test]
    fn the_same_path_has_the_same_state(rules in rules(), path in paths(), dir in any::<bool>()) {
        let compiled = compile(&rules);
        let (once, again) = (walk(&compiled, &path, dir), walk(&compiled, &path, dir));
        prop_assert_eq!(&once, &again);
        prop_assert!(once.iter().all(|state| state.is_of(&compiled)));
        // Two equal states behave alike: what is told by one is told by all.
        let other = compile(&rules);
        prop_assert!(once.iter().all(|state| !state.is_of(&other)));
        let ids = once.iter().map(State::id).filter(|id| *id != 0);
        let strange = walk(&other, &path, dir);
        prop_assert!(!ids.into_iter().any(|id| strange.iter().any(|state| state.id() == id)));
    }

    #[test]
    fn what_a_name_tells_holds_for_every_file(
        rules in rules(), path in paths(), name in name(), subject in subject()
    ) {
        let compiled = compile(&rules);
        let dir = walk(&compiled, &path, true).pop().unwrap();
        let name = bytes(&name);
        let state = compiled.step(&dir, &name, subject.kind.is_dir());
        let hidden = compiled.verdict(&state, &subject).hide;
        for told in [compiled.hides(&dir, &name), compiled.hides_name(&state)] {
            prop_assert!(told != Hide::No || !hidden);
            prop_assert!(told != Hide::Always || hidden);
        }
        if hidden && subject.kind.is_dir() {
            let itself = compiled.hides_name(&dir) == Hide::Always;
            prop_assert!(itself || compiled.may_hide_below(&dir));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..config() })]

    #[test]
    fn of_many_rules_without_a_path_the_first_that_matches_decides(
        rules in prop::collection::vec(by_file(), 17..60),
        subjects in prop::collection::vec(any_subject(), 60),
    ) {
        let compiled = Rules::new(&rules);
        let state = compiled.step(&compiled.root(), b"name", false);
        for subject in subjects {
            let by = compiled.verdict(&state, &subject).by;
            let first = |mentions: fn(&Rule) -> bool| {
                let found = (0_u16..).zip(&rules);
                let mut found = found.filter(|(_, r)| mentions(&r.value) && r.value.meets(&subject));
                found.next().map(|(at, _)| at)
            };
            prop_assert_eq!(by.hide, first(|rule| rule.hide.is_some()));
            prop_assert_eq!(by.read_only, first(|rule| rule.read_only.is_some()));
            prop_assert_eq!(by.deny, first(|rule| rule.deny.is_some()));
        }
    }
}

fn any_subject() -> impl Strategy<Value = Subject> {
    let id = || prop::option::weighted(0.9, 0..12_u32);
    (kind(), id(), id(), 0..0o10000_u32).prop_map(|(kind, uid, gid, mode)| Subject {
        kind,
        owner: Owner { uid: uid.and_then(Id::new), gid: gid.and_then(Id::new) },
        mode: Mode::new(mode),
    })
}

/// A rule that may ask for anything but a path; it never hides, as of what is
/// hidden nothing else is told.
fn by_file() -> impl Strategy<Value = Written<Rule>> {
    let ranges = || prop::collection::vec((0..10_u32, 0..4_u32), 0..3);
    let mode = (0..4_u8, 1..0o10000_u16).prop_map(|(sort, bits)| match sort {
        0 => Some(ModeTest::Any(bits)),
        1 => Some(ModeTest::All(bits & 0o111)),
        2 => Some(ModeTest::Exactly(bits)),
        _ => None,
    });
    (ranges(), ranges(), prop::option::of(kind()), mode, 1..8_u8).prop_map(
        |(users, groups, kind, mode, effects)| {
            let id = |raw| Id::new(raw).unwrap();
            let user = |(first, more)| Range { first: id(first), last: id(first + more) };
            let id = |raw| Id::new(raw).unwrap();
            let group = |(first, more)| Range { first: id(first), last: id(first + more) };
            written(Rule {
                users: users.into_iter().map(user).collect(),
                groups: groups.into_iter().map(group).collect(),
                kinds: kind.map_or_else(Kinds::default, |kind| Kinds::default().with(kind)),
                mode,
                hide: (effects & 1 != 0).then(|| written(false)),
                read_only: (effects & 2 != 0).then(|| written(true)),
                deny: (effects & 4 != 0).then(|| written(Deny::CHMOD)),
                ..Rule::default()
            })
        },
    )
}
