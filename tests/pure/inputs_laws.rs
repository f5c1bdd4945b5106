//! What a policy says it depends on is all that it depends on: the kernel's
//! cache is right because of it.

use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Group, Id, Ids, Owner, View};
use idmapfs::policy::explain::{Asker, Shown};
use idmapfs::policy::rules::{Hide, Subject};
use idmapfs::policy::{NoNames, Others, Pipeline, Policy, Server, file};
use proptest::prelude::*;

/// What may stand in a policy, each word with what it makes it depend on.
#[derive(Clone, Debug)]
struct Words {
    text: String,
    path: bool,
    caller: bool,
}

fn ids() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("map = ['0:100:6']\n".to_owned()),
        (0..8_u32).prop_map(|id| format!("table = ['{id}:{id}', '9:20']\n")),
        (0..8_u32).prop_map(|id| format!("collapse = {{ present-as = '{id}', store-as = '0' }}\n")),
        (0..8_u32).prop_map(|id| format!("map = ['0:0:3']\nunmapped = 'present-as={id}'\n")),
    ]
}

fn rule() -> impl Strategy<Value = (String, bool)> {
    let place = prop_oneof![
        3 => Just(""),
        1 => Just("path = 'a/**'\n"),
        1 => Just("path = '*/b'\n"),
        1 => Just("path = '**'\n"),
        1 => Just("name = ['a', 'c*']\n"),
    ];
    let condition = prop_oneof![
        3 => Just(""),
        1 => Just("type = 'file'\n"),
        1 => Just("type = 'directory'\n"),
        1 => Just("owner = '0-3'\n"),
        1 => Just("group = 2\n"),
        1 => Just("mode = '/0111'\n"),
    ];
    let effect = prop_oneof![
        Just("hide = true\n"),
        Just("hide = false\n"),
        Just("read-only = true\n"),
        Just("present-owner = '3:4'\n"),
        Just("present-owner = 'g:5'\n"),
        Just("present-mode = 'go-w,a+X'\n"),
        Just("present-mode = { files = '0640', directories = 'a-w' }\n"),
        Just("deny = ['delete', 'exec']\n"),
    ];
    (place, condition, effect).prop_map(|(place, condition, effect)| {
        (format!("[[rules]]\n{place}{condition}{effect}"), !place.is_empty())
    })
}

fn callers() -> impl Strategy<Value = (String, bool)> {
    prop_oneof![
        3 => Just((String::new(), false)),
        1 => (0..6_u32).prop_map(|id| (format!("[callers]\nmirror = [{id}]\n"), true)),
        1 => (0..6_u32).prop_map(|id| (format!("[callers]\nmirror = ['@{id}']\n"), true)),
        1 => Just(("[callers]\nmirror = [2, '@3']\nothers = 'refuse'\n".to_owned(), true)),
    ]
}

fn policy() -> impl Strategy<Value = Words> {
    (ids(), prop::collection::vec(rule(), 0..5), callers()).prop_map(|(ids, rules, callers)| {
        let path = rules.iter().any(|(_, path)| *path);
        let rules: String = rules.into_iter().map(|(text, _)| text).collect();
        let (callers, caller) = callers;
        Words { text: format!("version = 1\n[ids]\n{ids}{callers}{rules}"), path, caller }
    })
}

fn build(words: &Words) -> Pipeline {
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    let spec = file::parse("p.toml", &words.text, &NoNames);
    spec.unwrap_or_else(|error| panic!("{error}\n{}", words.text)).build(&server).unwrap()
}

fn subject() -> impl Strategy<Value = Subject> {
    let kind =
        prop_oneof![Just(FileKind::Regular), Just(FileKind::Directory), Just(FileKind::Symlink)];
    let id = || prop::option::weighted(0.9, 0..10_u32);
    let mode = prop_oneof![Just(0o644), Just(0o755), Just(0o600), Just(0o2775)];
    (kind, id(), id(), mode).prop_map(|(kind, uid, gid, mode)| Subject {
        kind,
        owner: Owner { uid: uid.and_then(Id::new), gid: gid.and_then(Id::new) },
        mode: Mode::new(mode),
    })
}

fn asker() -> impl Strategy<Value = Asker> {
    (0..6_u32, 0..6_u32, prop::collection::vec(0..6_u32, 0..3)).prop_map(|(uid, gid, groups)| {
        let groups = groups.into_iter().map(|id| Id::<Group, View>::new(id).unwrap());
        Asker { ids: Ids::new(uid, gid).unwrap(), groups: groups.collect() }
    })
}

fn path() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "cc", "d"]), 1..5)
}

/// How a file below directories that are all alike is shown.
fn shown(policy: &Pipeline, path: &[&str], subject: Subject, asker: Option<&Asker>) -> Shown {
    // Of no kind that a condition is about but the type.
    let directory = Subject {
        kind: FileKind::Directory,
        owner: Owner { uid: Id::new(9), gid: Id::new(9) },
        mode: Mode::new(0o600),
    };
    let last = path.len() - 1;
    let way: Vec<(&[u8], Subject)> = path
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_bytes(), if at == last { subject } else { directory }))
        .collect();
    policy.explain_way(&directory, &way, asker).pop().unwrap()
}

/// All that a caller can tell of a file; not through whose eyes it is seen.
fn told(shown: &Shown) -> (bool, Owner<View>, Mode, bool, idmapfs::policy::rules::Deny) {
    (shown.hidden, shown.seen, shown.mode, shown.read_only, shown.denied)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn inputs_are_what_is_written(words in policy()) {
        let inputs = build(&words).inputs();
        prop_assert_eq!((inputs.path, inputs.caller), (words.path, words.caller));
    }

    /// The root is another matter: no rule hides it. What is below a hidden
    /// directory is hidden with it, so ways on which nothing is hidden count.
    #[test]
    fn what_does_not_look_at_the_path_is_the_same_everywhere(
        words in policy(), (one, two) in (path(), path()), subject in subject(), who in asker()
    ) {
        let policy = build(&words);
        if !policy.inputs().path {
            let [one, two] = [one, two].map(|path| shown(&policy, &path, subject, Some(&who)));
            if one.below.is_none() && two.below.is_none() {
                prop_assert_eq!(told(&one), told(&two));
                prop_assert_eq!(&one.rules, &two.rules);
            }
            // The states of all places say the same too, whatever is in them.
            let rules = policy.rules();
            let states = ["a", "b"].map(|name| {
                let dir = rules.step(&rules.root(), name.as_bytes(), true);
                rules.step(&dir, b"x", subject.kind.is_dir())
            });
            let [one, two] = states.each_ref().map(|state| rules.verdict(state, &subject));
            prop_assert_eq!(one, two);
            prop_assert_eq!(rules.hides_name(&states[0]), rules.hides_name(&states[1]));
        }
    }

    #[test]
    fn what_does_not_look_at_the_caller_is_the_same_for_all(
        words in policy(), path in path(), subject in subject(), (one, two) in (asker(), asker())
    ) {
        let policy = build(&words);
        if !policy.inputs().caller {
            let [to_one, to_two] =
                [&one, &two].map(|who| shown(&policy, &path, subject, Some(who)));
            prop_assert_eq!(&to_one, &to_two);
            prop_assert_eq!(&to_one, &shown(&policy, &path, subject, None));
            prop_assert_eq!(policy.callers().others(), Others::Normal);
            for who in [&one, &two] {
                prop_assert!(policy.explain_refusal(who).is_none());
                prop_assert!(!policy.callers().mirror(Some(who.ids.uid), |group| who.is_in(group)));
            }
        }
    }

    /// The explanation is what the request path is told.
    #[test]
    fn what_is_explained_is_what_is_decided(
        words in policy(), path in path(), subject in subject(), who in asker()
    ) {
        let policy = build(&words);
        let shown = shown(&policy, &path, subject, Some(&who));
        let rules = policy.rules();
        let mut state = rules.root();
        for (at, name) in (1..).zip(&path) {
            let directory = at < path.len() || subject.kind.is_dir();
            state = rules.step(&state, name.as_bytes(), directory);
        }
        let verdict = rules.verdict(&state, &subject);
        prop_assert!(verdict.hide == shown.hidden || shown.below.is_some());
        prop_assert!(rules.hides_name(&state) != Hide::Always || shown.hidden);
        if !shown.hidden {
            let policy: &dyn Policy = &policy;
            let stages = policy.present_owner(subject.owner);
            let mirrored = policy.callers().mirror(Some(who.ids.uid), |group| who.is_in(group));
            let eyes = mirrored.then_some(who.ids.uid);
            let owner = Owner {
                uid: eyes.or(verdict.owner.uid).or(stages.uid),
                gid: verdict.owner.gid.or(stages.gid),
            };
            let mode = verdict.mode.map_or(subject.mode, |m| m.apply(subject.mode, subject.kind));
            let wanted = (false, owner, mode, verdict.read_only, verdict.deny);
            prop_assert_eq!(told(&shown), wanted);
        }
    }
}
