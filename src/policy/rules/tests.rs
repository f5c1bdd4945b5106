//! What only the inside can tell: what is kept, and for how long.

use super::*;
use crate::policy::error::Origin;
use crate::policy::glob::PathGlob;

fn rules(paths: &[&str]) -> Rules {
    let rule = |path: &&str| {
        let path = PathGlob::parse(&Origin::Whole, path).unwrap();
        Written { value: Rule::hiding(path, &Origin::Whole), at: Origin::Whole }
    };
    Rules::new(&paths.iter().map(rule).collect::<Vec<_>>())
}

fn kept(rules: &Rules) -> [usize; 3] {
    rules.automaton().unwrap().kept()
}

#[test]
fn states_go_with_the_last_of_their_handles() {
    let rules = rules(&["**/a/*/*/*/*/*/*/x", "**/b/**/c/**/y", "b/d/*"]);
    let [_, layers_before, places_before] = kept(&rules);
    let mut tree = vec![rules.root()];
    for depth in 0..9 {
        let names = [&b"a"[..], b"b", b"c", b"d"];
        let dirs = tree.clone();
        let below = dirs.iter().flat_map(|dir| names.map(|name| rules.step(dir, name, true)));
        tree.extend(below.take(4_usize.pow(depth.min(5))));
    }
    let [_, layers, places] = kept(&rules);
    assert!(layers > 1 && places > 30, "{layers} {places}");
    drop(tree);
    let [decisions, layers, places] = kept(&rules);
    assert_eq!((layers, places), (layers_before, places_before));
    // Those of a single pattern stay, for files and for directories.
    assert!(decisions <= 2 + 2 * 3, "{decisions}");
}

#[test]
fn deep_trees_keep_few_layers() {
    let paths: Vec<String> = (0..100).map(|i| format!("**/d{i}/**/x{i}")).collect();
    let rules = rules(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    let mut dirs = vec![rules.root()];
    for i in (0..100).chain(0..100) {
        let dir = dirs.last().unwrap();
        dirs.push(rules.step(dir, format!("d{i}").as_bytes(), true));
    }
    // The second hundred adds nothing.
    assert_eq!(dirs.get(100), dirs.last());
    let last = dirs.last().unwrap();
    for i in 0..100 {
        let state = rules.step(last, format!("x{i}").as_bytes(), false);
        assert_eq!(rules.hides_name(&state), Hide::Always, "{i}");
    }
    assert_eq!(rules.hides_name(&rules.step(last, b"x100", false)), Hide::No);
}

#[test]
fn where_names_may_be_hidden_is_known() {
    let rules = rules(&["a/b/*", "c/**"]);
    let step = |dir: &State, name: &str| rules.step(dir, name.as_bytes(), true);
    let root = rules.root();
    let [a, other] = ["a", "other"].map(|name| step(&root, name));
    let b = step(&a, "b");
    for (dir, hides) in [(&root, true), (&a, false), (&b, true), (&other, false)] {
        assert_eq!((rules.may_hide_names(dir), rules.may_hide_below(dir)), (hides, hides));
    }
    assert!(rules.hide_anything() && !rules.mask_set_id());
    assert!(!Rules::NONE.hide_anything() && !Rules::NONE.may_hide_names(&State::NONE));
}

#[test]
fn threads_agree_on_the_state_of_a_path() {
    let rules = rules(&["a/**/b/*/c", "*/x/**"]);
    let walk = || {
        let mut dir = rules.root();
        for name in [&b"a"[..], b"b", b"q", b"b", b"r"] {
            dir = rules.step(&dir, name, true);
        }
        dir
    };
    for _ in 0..50 {
        let states: Vec<State> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(walk)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // All are held at once, so they must be the same.
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
