//! Tests of the table as a whole.

mod fake;
mod model;
mod threads;

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use fake::{Fake, Held, Hook, key};

use super::*;

const ROOT: Key = Key { volume: 0, ino: 5, generation: 0 };

fn name(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

fn tree(handles: bool, capacity: usize) -> (Arc<Fake>, Tree) {
    let fake = Fake::new(ROOT, handles);
    let tree = Tree::new(Arc::clone(&fake) as Arc<dyn Source>, capacity).unwrap();
    (fake, tree)
}

/// Looks a name up as the kernel would.
fn look(fake: &Fake, tree: &Tree, parent: u64, child: &str) -> u64 {
    let found = fake.find(&tree.key(parent).unwrap(), child).unwrap();
    tree.remember(parent, name(child), &found, &State::default()).number
}

fn file_of(node: &Node) -> Key {
    node.get::<Held>().unwrap().key.clone()
}

/// However short the time is in which many inodes were known.
#[test]
fn a_crowd_that_is_forgotten_is_told_of_once() {
    let (fake, tree) = tree(true, 8);
    let many = u64::try_from(table::MANY).unwrap();
    let numbers: Vec<u64> = (0..many + 9)
        .map(|n| {
            tree.remember(ROOT.ino, name("f"), &fake.found(&key(n + 100, 0)), &State::default())
                .number
        })
        .collect();
    assert!(!tree.has_ebbed());
    let (last, numbers) = numbers.split_last().unwrap();
    let (gone, left) = numbers.split_at(numbers.len() / 2 + 1);
    gone.iter().for_each(|number| tree.forget(*number, 1));
    assert!(!tree.has_ebbed(), "more may be forgotten");
    tree.forget(*last, 1);
    assert!(!tree.has_ebbed(), "and was");
    assert!(tree.has_ebbed() && !tree.has_ebbed());
    left.iter().for_each(|number| tree.forget(*number, 1));
    assert!(!tree.has_ebbed() && !tree.has_ebbed(), "the rest are not many");
}

#[test]
fn the_root_is_always_known() {
    for (ino, shown) in [(5, Some(5)), (1, None), (0, None), (u64::MAX, None)] {
        let root = key(ino, 3);
        let fake = Fake::new(root.clone(), false);
        let tree = Tree::new(Arc::clone(&fake) as Arc<dyn Source>, 8).unwrap();
        let Identity { number, generation } = tree.root();
        assert!(shown.is_none_or(|shown| shown == number) && number > 1);
        assert_eq!(generation, 3);
        assert_eq!(
            tree.remember(7, name("loop"), &fake.found(&root), &State::default()),
            tree.root()
        );
        tree.forget(number, u64::MAX);
        tree.forget(number, 1);
        assert_eq!(tree.key(number), Ok(root.clone()));
        assert_eq!(tree.known(&root, &State::default()), Some(number));
        assert_eq!(tree.number(&root), number);
        assert_eq!(tree.place(number), Ok(None));
        tree.moved(number, 9, name("x"));
        tree.pin(number).unwrap();
        tree.unpin(number);
        assert_eq!(file_of(&tree.node(number).unwrap()), root);
        assert_eq!(tree.counts(), (1, 1));
        assert_eq!(fake.open.load(SeqCst), 1);
    }
}

#[test]
fn all_names_of_a_file_are_known_but_for_very_many() {
    let (fake, tree) = tree(true, 8);
    let found = fake.found(&key(6, 0));
    let look = |at: u64, called: &str| {
        tree.remember(at, name(called), &found, &State::default());
        let mut all = tree.other_names(6);
        all.extend(tree.place(6).unwrap());
        all.into_iter().map(|(at, name)| format!("{at}/{}", name.display())).collect::<Vec<_>>()
    };
    assert_eq!(look(5, "a"), ["5/a"]);
    assert_eq!(look(5, "a"), ["5/a"]);
    assert_eq!(look(5, "b"), ["5/a", "5/b"]);
    assert_eq!(look(5, "a"), ["5/b", "5/a"]);
    assert_eq!(look(7, "a"), ["5/b", "5/a", "7/a"]);
    // The kernel has moved its name along.
    tree.moved_from(6, (5, name("b")), (5, name("c")));
    assert_eq!(look(5, "c"), ["5/a", "7/a", "5/c"]);
    for n in 0..1000 {
        assert!(look(5, &n.to_string()).len() <= 17);
    }
    tree.forget(6, 1006);
    assert_eq!(tree.other_names(6), []);
}

#[test]
fn a_number_not_given_out_is_unknown() {
    let (_, tree) = tree(true, 8);
    for number in [0, ANCHOR, 6, 1 << 63, u64::MAX] {
        tree.forget(number, 1);
        assert_eq!(tree.key(number), Err(Error::Unknown));
        assert_eq!(tree.place(number), Err(Error::Unknown));
        assert_eq!(tree.node(number).err(), Some(Error::Unknown));
        assert_eq!(tree.pin(number), Err(Error::Unknown));
        tree.unpin(number);
        tree.moved(number, 5, name("x"));
    }
    assert_eq!(tree.known(&key(6, 0), &State::default()), None);
    assert_eq!(tree.counts(), (1, 1));
}

#[test]
fn hard_links_have_one_number_and_one_count() {
    let (fake, tree) = tree(false, 8);
    fake.add(&ROOT, "a", &key(9, 1));
    fake.add(&ROOT, "b", &key(9, 1));
    assert_eq!(look(&fake, &tree, 5, "a"), 9);
    assert_eq!(look(&fake, &tree, 5, "b"), 9);
    assert_eq!(tree.counts().0, 2);
    assert_eq!(tree.place(9), Ok(Some((5, "b".into()))));
    tree.forget(9, 1);
    assert_eq!(tree.key(9), Ok(key(9, 1)));
    tree.forget(9, 1);
    assert_eq!(tree.key(9), Err(Error::Unknown));
    tree.forget(9, 1);
    assert_eq!(tree.counts().0, 1);
}

#[test]
fn a_reused_number_goes_on_for_the_old_file_while_that_is_known() {
    for handles in [false, true] {
        let (fake, tree) = tree(handles, 8);
        let known = |generation| tree.known(&key(9, generation), &State::default());
        fake.add(&ROOT, "a", &key(9, 1));
        look(&fake, &tree, 5, "a");
        let old = tree.node(9).unwrap();
        fake.remove(&ROOT, "a");
        fake.add(&ROOT, "b", &key(9, 2));
        let found = fake.find(&ROOT, "b").unwrap();
        let told = tree.remember(5, name("b"), &found, &State::default());
        assert_ne!(told.number, 9);
        assert_eq!(told.generation, 2);
        assert_eq!((known(1), known(2)), (Some(9), Some(told.number)));
        assert_eq!(tree.place(told.number), Ok(Some((5, "b".into()))));
        assert_eq!(file_of(&tree.node(told.number).unwrap()), key(9, 2));
        assert_eq!(file_of(&tree.node(9).unwrap()), key(9, 1), "it is still open");
        drop(old);
        tree.forget(9, 1);
        assert_eq!(fake.open.load(SeqCst), 2, "the node of the old file is closed");
        // The number stays as long as the kernel knows it, and is then the file's own.
        assert_eq!(look(&fake, &tree, 5, "b"), told.number);
        tree.forget(told.number, 2);
        assert_eq!(look(&fake, &tree, 5, "b"), 9);
        tree.forget(9, 1);
        assert!(tree.numbers.remapped().is_empty());
        assert_eq!((tree.counts(), fake.open.load(SeqCst)), ((1, 1), 1));
    }
}

#[test]
fn numbers_agree_with_lookups() {
    let (fake, tree) = tree(true, 8);
    let other = |ino, volume| Key { volume, ino, generation: 0 };
    let files = [other(2, 0), other(1, 0), other(0, 0), other(1 << 63, 0), other(5, 77)];
    let more = [other(1, 77), other(5, 78), other(1 << 40, 77), other(u64::MAX, 78)];
    let all: Vec<Key> = files.into_iter().chain(more).collect();
    let listed: Vec<u64> = all.iter().map(|file| tree.number(file)).collect();
    for _ in 0..2 {
        for (file, listed) in all.iter().zip(&listed) {
            let shown = tree.remember(5, name("x"), &fake.found(file), &State::default()).number;
            assert_eq!((shown, tree.number(file)), (*listed, *listed), "{file:?}");
            assert_eq!(tree.known(file, &State::default()), Some(shown));
        }
        for number in &listed {
            tree.forget(*number, 1);
        }
    }
    assert!(tree.numbers.remapped().is_empty());
    let distinct: std::collections::HashSet<u64> = listed.iter().copied().collect();
    assert_eq!(distinct.len(), all.len());
    assert!(!distinct.contains(&5) && !distinct.contains(&0) && !distinct.contains(&1));
    assert_eq!(tree.counts().0, 1);
}

/// A chain of directories `d` below the root, numbers from 100 on.
fn chain(fake: &Fake, tree: &Tree, depth: u64) -> u64 {
    let mut at = (ROOT, 5);
    for ino in (100..).take(usize::try_from(depth).unwrap()) {
        fake.add(&at.0, "d", &key(ino, 1));
        at = (key(ino, 1), look(fake, tree, at.1, "d"));
    }
    at.1
}

#[test]
fn a_deep_path_is_opened_again_within_the_limit() {
    for handles in [false, true] {
        let (fake, tree) = tree(handles, 8);
        fake.limit.store(20, SeqCst);
        let deepest = chain(&fake, &tree, 5000);
        assert_eq!(file_of(&tree.node(deepest).unwrap()), key(deepest, 1));
        let opened = (fake.opened.0.load(SeqCst) - 1, fake.opened.1.load(SeqCst));
        assert_eq!(opened, if handles { (0, 1) } else { (5000, 0) });
        assert!(fake.open.load(SeqCst) <= 9);
        let before = fake.opened.0.load(SeqCst);
        assert_eq!(file_of(&tree.node(deepest).unwrap()), key(deepest, 1));
        assert_eq!(fake.opened.0.load(SeqCst), before, "cached");
        for number in 100..5100 {
            assert_eq!(file_of(&tree.node(number).unwrap()), key(number, 1));
        }
    }
}

#[test]
fn want_of_descriptors_reaches_only_the_caller() {
    let (fake, tree) = tree(false, 1000);
    let deepest = chain(&fake, &tree, 100);
    fake.limit.store(20, SeqCst);
    assert!(tree.node(deepest).is_ok(), "cached nodes make room");
    assert!(tree.shrink() > 0);
    while tree.shrink() > 0 {}
    fake.limit.store(1, SeqCst);
    assert!(tree.node(deepest).is_err_and(|error| error.is(libc::EMFILE)));
    fake.limit.store(20, SeqCst);
    assert!(tree.node(deepest).is_ok());
    let held: Vec<Node> = (100..).map_while(|number| tree.node(number).ok()).collect();
    assert_eq!(held.len(), 19, "all in use but the root");
    drop(held);
    assert!(tree.node(deepest).is_ok());
}

#[test]
fn a_renamed_directory_takes_its_files_along() {
    let (fake, tree) = tree(false, 8);
    let deepest = chain(&fake, &tree, 20);
    while tree.shrink() > 0 {}
    fake.rename((&key(104, 1), "d"), (&ROOT, "moved"));
    assert_eq!(tree.node(deepest).err(), Some(Error::Stale));
    tree.moved(105, 5, name("moved"));
    assert_eq!(file_of(&tree.node(deepest).unwrap()), key(deepest, 1));
    assert_eq!(tree.place(105), Ok(Some((5, "moved".into()))));
}

#[test]
fn a_pinned_directory_can_be_renamed_at_leisure() {
    let (fake, tree) = tree(false, 8);
    let deepest = chain(&fake, &tree, 20);
    tree.pin(105).unwrap();
    while tree.shrink() > 0 {}
    fake.rename((&key(104, 1), "d"), (&ROOT, "moved"));
    assert_eq!(file_of(&tree.node(deepest).unwrap()), key(deepest, 1));
    tree.moved(105, 5, name("moved"));
    tree.unpin(105);
    while tree.shrink() > 0 {}
    assert_eq!(file_of(&tree.node(deepest).unwrap()), key(deepest, 1));
}

#[test]
fn a_move_while_a_path_is_walked_is_followed() {
    let (fake, tree) = tree(false, 8);
    let tree = Arc::new(tree);
    let deepest = chain(&fake, &tree, 20);
    while tree.shrink() > 0 {}
    let inner = (Arc::clone(&fake), Arc::clone(&tree));
    let hook = Hook(Box::new(move || {
        inner.0.rename((&ROOT, "d"), (&ROOT, "moved"));
        inner.1.moved(100, 5, name("moved"));
    }));
    *fake.hook.lock().unwrap() = Some(hook);
    assert_eq!(file_of(&tree.node(deepest).unwrap()), key(deepest, 1));
}

#[test]
fn a_file_forgotten_while_it_is_opened_is_not_kept_open() {
    for handles in [false, true] {
        let (fake, tree) = tree(handles, 8);
        let tree = Arc::new(tree);
        chain(&fake, &tree, 1);
        let inner = Arc::clone(&tree);
        *fake.hook.lock().unwrap() = Some(Hook(Box::new(move || inner.forget(100, 1))));
        assert_eq!(file_of(&tree.node(100).unwrap()), key(100, 1));
        assert_eq!(fake.open.load(SeqCst), 1);
        assert_eq!(tree.counts(), (1, 1));
    }
}

#[test]
fn another_file_is_never_served() {
    let (fake, tree) = tree(false, 8);
    let deepest = chain(&fake, &tree, 3);
    while tree.shrink() > 0 {}
    // The middle directory is replaced by one of the same number, with a file
    // of the same name and number in it.
    fake.remove(&key(100, 1), "d");
    fake.add(&key(100, 1), "d", &key(101, 2));
    fake.add(&key(101, 2), "d", &key(102, 2));
    assert_eq!(tree.node(deepest).err(), Some(Error::Stale));
    let middle = look(&fake, &tree, 100, "d");
    assert_ne!(middle, 101);
    assert_eq!(tree.node(deepest).err(), Some(Error::Stale), "the parent is another now");
    let new = look(&fake, &tree, middle, "d");
    assert_eq!(file_of(&tree.node(new).unwrap()), key(102, 2));
    assert_eq!(tree.node(deepest).err(), Some(Error::Stale));
}

#[test]
fn places_that_go_round_in_a_circle_are_stale() {
    let (fake, tree) = tree(false, 8);
    let deepest = chain(&fake, &tree, 3);
    while tree.shrink() > 0 {}
    tree.moved(100, deepest, name("d"));
    assert_eq!(tree.node(deepest).err(), Some(Error::Stale));
    tree.moved(deepest, deepest, name("d"));
    assert_eq!(tree.node(deepest).err(), Some(Error::Stale));
}

#[test]
fn a_lost_parent_is_stale_without_handles() {
    for handles in [false, true] {
        let (fake, tree) = tree(handles, 8);
        let deepest = chain(&fake, &tree, 3);
        tree.forget(101, 1);
        let node = tree.node(deepest);
        assert_eq!(node.as_ref().err(), if handles { None } else { Some(&Error::Stale) });
    }
}

#[test]
fn a_pinned_node_outlives_its_name_and_the_cache() {
    let (fake, tree) = tree(false, 1);
    fake.add(&ROOT, "a", &key(9, 1));
    fake.add(&ROOT, "b", &key(10, 1));
    look(&fake, &tree, 5, "a");
    look(&fake, &tree, 5, "b");
    tree.pin(9).unwrap();
    assert_eq!(tree.counts(), (3, 2), "no longer in the cache");
    fake.remove(&ROOT, "a");
    assert!(tree.node(10).is_ok());
    while tree.shrink() > 0 {}
    assert_eq!(file_of(&tree.node(9).unwrap()), key(9, 1));
    tree.forget(9, 1);
    assert_eq!(tree.counts(), (2, 1));
    assert_eq!(fake.open.load(SeqCst), 1);
}

#[test]
fn pins_are_counted() {
    let (fake, tree) = tree(false, 4);
    chain(&fake, &tree, 1);
    tree.pin(100).unwrap();
    tree.pin(100).unwrap();
    tree.unpin(100);
    assert_eq!((tree.shrink(), tree.counts()), (0, (2, 2)));
    tree.unpin(100);
    tree.unpin(100);
    assert_eq!((tree.shrink(), tree.counts()), (1, (2, 1)));
    tree.pin(100).unwrap();
    fake.remove(&ROOT, "d");
    fake.add(&ROOT, "d", &key(100, 2));
    look(&fake, &tree, 5, "d");
    assert_eq!(tree.counts(), (3, 2), "the old file stays pinned");
    tree.forget(100, 1);
    assert_eq!(tree.counts(), (2, 1));
}

/// Held, it would keep the key in use that the host wants to take away.
#[test]
fn what_is_encrypted_is_held_only_where_it_has_no_handle() {
    for (handles, held) in [(true, 2), (false, 3)] {
        let (fake, tree) = tree(handles, 8);
        fake.add(&ROOT, "plain", &key(6, 0));
        fake.add(&ROOT, "secret", &key(7, 0));
        let (plain, secret) = (look(&fake, &tree, 5, "plain"), look(&fake, &tree, 5, "secret"));
        assert!(!tree.is_encrypted(secret));
        tree.set_encrypted(secret);
        assert!(tree.is_encrypted(secret) && !tree.is_encrypted(plain));
        for number in [plain, secret, secret] {
            assert_eq!(file_of(&tree.node(number).unwrap()), tree.key(number).unwrap());
        }
        assert_eq!(fake.open.load(SeqCst), held, "handles: {handles}");
        tree.forget(secret, 1);
        assert_eq!(fake.open.load(SeqCst), 2);
        let mut found = fake.found(&key(8, 0));
        found.attr.encrypted = true;
        let number = tree.remember(5, name("new"), &found, &State::default()).number;
        assert!(tree.is_encrypted(number));
    }
}
