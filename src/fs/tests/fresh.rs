//! What the kernel may believe, and what it is told when that has changed.

use super::rules::with_rules;
use super::*;
use crate::source::memory::Script;
use crate::source::{Covers, Happened, Key, What};
use crate::sync::lock;
use std::sync::atomic::Ordering;
use std::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

/// A world that trusts a watch, and the watch.
fn watched(options: &[(&str, &str)], covers: Covers) -> (World, Arc<Script>) {
    let mut world = World::new(options);
    let script = watch(&mut world, policy(options), covers);
    (world, script)
}

fn watch(world: &mut World, policy: Arc<dyn Policy>, covers: Covers) -> Arc<Script> {
    let (source, known) = (world.memory.clone(), Arc::clone(&world.processes));
    let config = Config { trust: Trust::Watch, ..config() };
    world.fs = Fs::new(source, policy, known, config).unwrap();
    let script = Script::new(covers);
    world.fs.trust_watch(script.clone());
    script
}

fn heard(fs: &Fs, what: What, own: bool) -> Vec<Notice> {
    let mut told = Vec::new();
    fs.heard(&Happened { what, own }, &mut |notice| told.push(notice));
    told
}

fn key_of(world: &World, number: u64) -> Key {
    world.memory.key(&world.fs.node(number).unwrap())
}

fn change(world: &World, dir: u64, entry: &str, file: Option<u64>) -> What {
    let file = file.map(|file| key_of(world, file));
    What::Name { dir: key_of(world, dir), name: entry.into(), file }
}

/// What the kernel may believe of `f` in the root that was asked for then.
fn times(world: &World, moment: Moment, entry: &Entry) -> (u64, u64) {
    let ttl = world.fs.entry_at(moment, world.root(), entry);
    (ttl.attributes.as_secs(), ttl.names.as_secs())
}

#[test]
fn an_answer_from_before_a_change_is_not_to_be_believed() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let (root, before) = (world.root(), world.fs.moment());
    let file = world.file("f", (1, 1), 0o644);
    assert_eq!(times(&world, before, &file), (3600, 3600));
    heard(&world.fs, What::Attributes(key_of(&world, file.node)), false);
    assert_eq!(times(&world, before, &file), (0, 0));
    let believed = |number| !world.fs.attributes_at(before, number).is_zero();
    assert!(!believed(file.node) && believed(root));
    let then = world.fs.moment();
    assert_eq!(times(&world, then, &file), (3600, 3600));
    heard(&world.fs, change(&world, root, "other", None), false);
    assert_eq!(times(&world, then, &file), (3600, 0));
    assert_eq!(world.fs.missing_at(then, root, name("x"), false).0, Duration::ZERO);
    assert_eq!(world.fs.missing_at(world.fs.moment(), root, name("x"), false).0, HOUR);
    let then = world.fs.moment();
    heard(&world.fs, What::Lost, false);
    assert_eq!(times(&world, then, &file), (0, 0));
    assert_eq!(times(&world, world.fs.moment(), &file), (3600, 3600));
}

#[test]
fn what_has_changed_is_told_by_number() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let root = world.root();
    let file = world.file("f", (1, 1), 0o644).node;
    let key = key_of(&world, file);
    let tell = |what| heard(&world.fs, what, false);
    // Its name, too: who may remove it is decided by what was last looked up.
    let want = [Notice::Attributes(file), Notice::Name(root, "f".into())];
    assert_eq!(tell(What::Attributes(key.clone())), want);
    // Of what is closed no pages count.
    assert_eq!(tell(What::Contents(key.clone())), [Notice::Attributes(file)]);
    let handle = world.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(tell(What::Contents(key.clone())), [Notice::Pages(file)]);
    world.fs.release(handle, None);
    let name = Notice::Name(root, "f".into());
    let named = [Notice::Attributes(root), name, Notice::Pages(root)];
    assert_eq!(tell(change(&world, root, "f", None)), named);
    let with_file = tell(change(&world, root, "f", Some(file)));
    assert_eq!(with_file, [named.to_vec(), vec![Notice::Attributes(file)]].concat());
    assert_eq!(tell(What::Lost), [Notice::All]);
    // What this process did is known, and so is what nobody asked for.
    assert!(heard(&world.fs, What::Attributes(key.clone()), true).is_empty());
    world.fs.forget(file, 1);
    assert!(tell(What::Contents(key)).is_empty());
}

/// A lookup may be half way when a change is heard of: it sees that, or the
/// kernel is told.
#[test]
fn a_lookup_under_way_is_told_or_not_believed() {
    let (world, wrap) = World::wrapped(IDENTITY);
    let mut world = world;
    world.disk_file("f", (1, 1), 0o644);
    let config = Config { trust: Trust::Watch, ..config() };
    let known = Arc::clone(&world.processes);
    world.fs = Fs::new(wrap.clone(), policy(IDENTITY), known, config).unwrap();
    world.fs.trust_watch(Script::new(Covers::Everything));
    let file = world.look("f").unwrap();
    let key = key_of(&world, file.node);
    world.fs.forget(file.node, 1);
    let moment = world.fs.moment();
    let (here, go) = wrap.pause(crate::source::wrap::Call::Lookup);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| world.look("f").unwrap());
        here.recv().unwrap();
        assert!(heard(&world.fs, What::Attributes(key.clone()), false).is_empty());
        go.send(()).unwrap();
        let file = looking.join().unwrap();
        assert_eq!(times(&world, moment, &file), (0, 0));
    });
}

#[test]
fn a_file_with_two_numbers_is_told_by_both() {
    let mut world = World::new(IDENTITY);
    world.fill(&["a/", "b/", "a/f"]);
    let by = caller(0, 0);
    let root = world.disk.root(&by).unwrap().node;
    let [a, b] = ["a", "b"].map(|dir| world.disk.lookup(&by, root, name(dir)).unwrap().node);
    let file = world.disk.lookup(&by, a, name("f")).unwrap().node;
    world.disk.link(&by, file, b, name("f")).unwrap();
    let rules = with_rules("[[rules]]\npath = 'b/**'\nread-only = true");
    let script = watch(&mut world, rules, Covers::Everything);
    let numbers = ["a", "b"].map(|dir| {
        let dir = world.look(dir).unwrap().node;
        world.fs.lookup(&by, dir, name("f")).unwrap().node
    });
    assert_ne!(numbers[0], numbers[1]);
    let key = key_of(&world, numbers[0]);
    for own in [false, true] {
        let mut told = heard(&world.fs, What::Attributes(key.clone()), own);
        told.retain(|notice| matches!(notice, Notice::Attributes(_)));
        told.sort_by_key(|notice| format!("{notice:?}"));
        let mut want = numbers.map(Notice::Attributes);
        want.sort_by_key(|notice| format!("{notice:?}"));
        assert_eq!(told, want, "own: {own}");
    }
    // An answer for either of them is as old.
    let before = world.fs.moment();
    heard(&world.fs, What::Attributes(key), false);
    for number in numbers {
        assert_eq!(world.fs.attributes_at(before, number), Duration::ZERO);
    }
    // What the kernel writes by one of them by itself is heard for the other.
    let write = |number| {
        let handle = world.open(number, libc::O_WRONLY).unwrap();
        assert!(world.fs.passed(handle).unwrap());
        let key = key_of(&world, number);
        let told = heard(&world.fs, What::Contents(key.clone()), false);
        let once = script.ignored.load(Ordering::SeqCst);
        assert_eq!(heard(&world.fs, What::Contents(key), false), told);
        let ignored = (once, script.ignored.load(Ordering::SeqCst));
        world.fs.release(handle, None);
        (told, ignored)
    };
    let reader = world.open(numbers[1], libc::O_RDONLY).unwrap();
    let (told, ignored) = write(numbers[0]);
    world.fs.release(reader, None);
    assert!(ignored == (0, 0) && told.contains(&Notice::Pages(numbers[1])), "{told:?}");
    world.fs.forget(numbers[1], 1);
    // What is written again and again is heard of no more; each open begins anew.
    assert_eq!(write(numbers[0]).1, (0, 1));
    assert_eq!(write(numbers[0]).1, (1, 2));
    let root = key_of(&world, numbers[0]);
    assert!(heard(&world.fs, What::Attributes(root), true).is_empty(), "one number is left");
}

#[test]
fn missing_names_are_believed_where_their_directory_is_heard_of() {
    let (world, script) = watched(IDENTITY, Covers::Directories);
    let (root, added) = (world.root(), || script.added.load(Ordering::SeqCst));
    let file = world.file("f", (1, 1), 0o644);
    let missing = |dir| world.fs.missing_at(world.fs.moment(), dir, name("x"), false).0.as_secs();
    assert_eq!((added(), missing(root)), (1, 3600));
    assert_eq!(times(&world, world.fs.moment(), &file), (1, 1), "it may have another name");
    world.look("f").unwrap();
    assert_eq!(added(), 1, "it is asked once");
    let dir = world.dir("d", (1, 1), 0o755).node;
    assert_eq!(missing(dir), 1, "nobody asked yet");
    heard(&world.fs, What::Lost, false);
    assert_eq!(missing(root), 1);
    world.look("f").unwrap();
    assert_eq!((added(), missing(root)), (2, 3600));
}

#[test]
fn a_volume_that_is_not_watched_is_believed_for_a_moment() {
    let (world, script) = watched(IDENTITY, Covers::Everything);
    let (root, _) = crate::source::Source::root(world.memory.as_ref()).unwrap();
    let below = world.memory.graft(&root, Name::new(name("below")).unwrap(), 7);
    below.unwrap();
    let mount = world.look("below").unwrap();
    assert_eq!(times(&world, world.fs.moment(), &mount), (1, 1));
    assert_eq!(
        world.fs.missing_at(world.fs.moment(), mount.node, name("x"), false).0,
        crate::fs::SHORT
    );
    assert_eq!(world.fs.held().missing, 0, "it need not be remembered");
    assert_eq!(
        world.fs.watched_now("as a whole").unwrap(),
        "as a whole; a file system below it is not (not in the script)"
    );
    lock(&script.covers).insert(7, Covers::Everything);
    assert_eq!(times(&world, world.fs.moment(), &mount), (3600, 3600));
    for said in ["once", "2 times"] {
        world.fs.has_missed();
        let ends = format!("; events were lost {said}, and all was asked for again");
        assert!(world.fs.watched_now("as a whole").unwrap().ends_with(&ends));
    }
    world.fs.is_deaf_now();
    assert_eq!(times(&world, world.fs.moment(), &mount), (1, 1));
    let said = world.fs.watched_now("as a whole").unwrap();
    assert!(said.starts_with("no longer watched: "), "{said}");
}

#[test]
fn directories_that_cannot_be_watched_are_told_of() {
    let (world, script) = watched(IDENTITY, Covers::Directories);
    let root = world.root();
    world.file("f", (1, 1), 0o644);
    world.look("f").unwrap();
    assert_eq!(world.fs.watched_now("each").unwrap(), "each");
    *lock(&script.shortage) = Some("too many".to_owned());
    let dir = world.fs.mkdir(&caller(1, 1), root, name("d"), 0o755, 0).unwrap().node;
    let missing = world.fs.lookup(&caller(1, 1), dir, name("none"));
    assert!(missing.is_err());
    assert_eq!(world.fs.names_at(world.fs.moment(), dir), crate::fs::SHORT);
    assert_eq!(world.fs.watched_now("each").unwrap(), "each; not every directory is (too many)");
}

#[test]
fn a_directory_that_comes_under_other_rules_has_all_told() {
    let mut world = World::new(IDENTITY);
    world.fill(&["shown/", "secret/", "shown/d/", "shown/e/"]);
    watch(
        &mut world,
        with_rules("[[rules]]\npath = 'secret/**'\nread-only = true"),
        Covers::Everything,
    );
    let by = caller(0, 0);
    let [shown, secret] = ["shown", "secret"].map(|dir| world.look(dir).unwrap().node);
    let moved = world.fs.lookup(&by, shown, name("d")).unwrap().node;
    let told = |dir, entry| heard(&world.fs, change(&world, dir, entry, Some(moved)), false);
    assert!(!told(shown, "e").contains(&Notice::All));
    assert!(told(secret, "d").contains(&Notice::All));
}

#[test]
fn a_name_that_is_not_remembered_is_not_believed_for_long() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let (by, root) = (caller(1, 1), world.root());
    let file = world.file("f0", (1, 1), 0o644);
    let mut believed = 1;
    for i in 1..40 {
        let link = format!("f{i}");
        let entry = world.fs.link(&by, file.node, root, link.as_ref()).unwrap();
        let (_, names) = times(&world, world.fs.moment(), &entry);
        believed += u64::from(names == 3600);
    }
    let remembered = world.fs.places(file.node).unwrap();
    assert!(believed > 10 && believed <= remembered.len() as u64, "{believed}");
    for i in 0..believed {
        let link = std::ffi::OsString::from(format!("f{i}"));
        assert!(remembered.contains(&(root, link)), "f{i}");
    }
}

/// The kernel does not compare these with what it was told meanwhile.
#[test]
fn answers_to_changes_are_believed_for_a_moment() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let entry = world.file("f", (1, 1), 0o644);
    let (file, before) = (entry.node, world.fs.moment());
    assert_eq!(world.fs.attributes_at(before, file), HOUR);
    assert_eq!(world.fs.unguarded_at(before, file), crate::fs::SHORT);
    let linked = world.fs.linked_at(before, world.root(), &entry);
    assert_eq!((linked.attributes, linked.names), (crate::fs::SHORT, crate::fs::SHORT));
    heard(&world.fs, What::Attributes(key_of(&world, file)), false);
    assert_eq!(world.fs.unguarded_at(before, file), Duration::ZERO);
}

#[test]
fn names_of_a_directory_are_told_again_that_was_asked_before_a_change() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let root = world.root();
    assert!(!world.fs.is_being_asked(root, Duration::ZERO), "nobody asked");
    world.fs.names_at(world.fs.moment(), root);
    assert!(world.fs.is_being_asked(root, Duration::ZERO));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!world.fs.is_being_asked(root, Duration::ZERO));
    assert!(world.fs.is_being_asked(root, Duration::from_secs(1)));
}

#[test]
fn while_the_kernel_takes_nothing_answers_are_short() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let root = world.root();
    let time = || world.fs.attributes_at(world.fs.moment(), root);
    for who in [Teller::Watch, Teller::Notifier] {
        assert_eq!(time(), HOUR);
        world.fs.telling(who, || {
            assert_eq!(time(), HOUR);
            std::thread::sleep(Duration::from_millis(1200));
            assert_eq!(time(), crate::fs::SHORT);
        });
    }
    assert_eq!(time(), HOUR);
}

#[test]
fn pages_are_kept_for_as_long_as_a_file_is_the_same() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let keeps = |file| {
        let handle = world.open(file, libc::O_RDONLY).unwrap();
        let keeps = world.fs.keeps_pages(handle);
        world.fs.release(handle, None);
        keeps
    };
    // On a busy machine a file that was just made may be one of long ago by the next line.
    let just_made = |count: usize| {
        let made = Instant::now();
        let file = world.file(&format!("f{count}"), (1, 1), 0o644).node;
        assert!(!keeps(file));
        (made.elapsed() < Duration::from_millis(15)).then_some(file)
    };
    let file = (0..1000).find_map(just_made).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert!(!keeps(file), "it may have changed at the time that it has");
    assert!(keeps(file));
    let handle = world.open(file, libc::O_WRONLY).unwrap();
    world.fs.write(&caller(1, 1), handle, Place::At(0), b"x", false).unwrap();
    world.fs.release(handle, None);
    std::thread::sleep(Duration::from_millis(30));
    assert!(!keeps(file));
    assert!(keeps(file));
    heard(&world.fs, What::Contents(key_of(&world, file)), false);
    assert!(!keeps(file));
    assert!(keeps(file));
}

/// A key that comes or goes is no event.
#[test]
fn what_is_encrypted_is_believed_for_a_moment() {
    let (world, _script) = watched(IDENTITY, Covers::Everything);
    let file = world.file("f", (1, 1), 0o644);
    let dir = world.dir("d", (1, 1), 0o755).node;
    let missing = |dir| world.fs.missing_at(world.fs.moment(), dir, name("x"), false).0.as_secs();
    let names = |dir| world.fs.names_at(world.fs.moment(), dir).as_secs();
    assert!(world.fs.keeps_listing(dir));
    assert_eq!((times(&world, world.fs.moment(), &file), names(dir)), ((3600, 3600), 3600));
    for number in [file.node, dir] {
        world.fs.tree.set_encrypted(number);
    }
    assert!(!world.fs.keeps_listing(dir));
    assert_eq!((times(&world, world.fs.moment(), &file), names(dir)), ((1, 1), 1));
    assert_eq!((missing(dir), world.fs.held().missing), (1, 0));
    assert_eq!((missing(world.root()), world.fs.held().missing), (3600, 1));
}

/// A mark on it would keep its key in use.
#[test]
fn a_directory_that_is_encrypted_is_not_marked() {
    let (world, script) = watched(IDENTITY, Covers::Directories);
    let dirs = ["d", "e"].map(|dir| world.dir(dir, (1, 1), 0o755).node);
    let before = script.added.load(Ordering::SeqCst);
    world.fs.tree.set_encrypted(dirs[0]);
    for dir in dirs {
        assert!(world.fs.lookup(&caller(1, 1), dir, name("none")).is_err());
    }
    assert_eq!(script.added.load(Ordering::SeqCst), before + 1);
}
