//! Watching as an ordinary user: directory by directory.

use std::fs;
use std::sync::mpsc::channel;

use super::super::unprivileged::{as_root_of_namespace, as_user};
use super::*;

/// Runs a test as the user 1000, and as root of a namespace of that user's.
fn as_users(test: &str, prepare: impl Fn(&Fixture)) {
    if !is_root() {
        return;
    }
    for become_user in [as_user, as_root_of_namespace] {
        let fixture = Fixture::plain();
        fixture.give_away();
        prepare(&fixture);
        child::run(&format!("watch::directories::{test}"), &fixture.path(), become_user);
    }
}

#[test]
fn a_user_hears_of_the_directories_that_were_added() {
    let Some(path) = child::path() else {
        return as_users("a_user_hears_of_the_directories_that_were_added", |fixture| {
            for dir in ["d", "locked"] {
                fs::create_dir(fixture.at(dir)).unwrap();
            }
            for file in ["f", "d/f"] {
                fs::write(fixture.at(file), "").unwrap();
                chown(fixture.at(file), Some(1000), Some(1000)).unwrap();
            }
            chown(fixture.at("d"), Some(1000), Some(1000)).unwrap();
            let mode = fs::Permissions::from_mode(0o711);
            fs::set_permissions(fixture.at("locked"), mode).unwrap();
        });
    };
    let ear = Ear::new(path);
    assert_eq!(ear.watch.covers(0), Covers::Directories);
    assert!(ear.watch.describe().contains("each directory"));
    let top = root(&ear.host);
    let (d, locked) = (walk(&ear.host, "d").0, walk(&ear.host, "locked").0);
    let (root, d_key, f) = (ear.root(), ear.key("d"), ear.key("f"));
    assert_eq!(ear.watch.add(&top), Some(ear.watch.era()));
    assert_eq!(ear.watch.add(&top), Some(ear.watch.era()));
    assert_eq!(ear.watch.add(&locked), None);

    assert_eq!(ear.shell("chmod 600 f"), [What::Attributes(f.clone())]);
    assert_eq!(ear.shell("echo x >>f"), [What::Contents(f.clone())]);
    assert_eq!(ear.shell("chmod 700 d"), [What::Attributes(d_key.clone())]);
    assert_eq!(ear.shell("chmod 600 d/f; : >d/g"), []);
    assert_eq!(ear.watch.add(&d), Some(ear.watch.era()));
    let heard = ear.shell("mv f d/f");
    assert!(heard.contains(&named(&root, "f", &f)), "{heard:?}");
    assert!(heard.contains(&named(&d_key, "f", &f)), "{heard:?}");
    fs::write(ear.path.join("own"), "").unwrap();
    assert!(ear.heard().iter().all(|happened| happened.own));
}

/// A user has so many marks; who has used them up begins anew.
#[test]
fn an_era_ends_when_there_are_too_many_directories() {
    const LIMIT: usize = 1500;
    let test = "watch::directories::an_era_ends_when_there_are_too_many_directories";
    let Some(path) = child::path() else {
        if !is_root() {
            return;
        }
        let fixture = Fixture::plain();
        fixture.give_away();
        return child::run(test, &fixture.path(), as_root_of_namespace);
    };
    let lower = |limit: usize| {
        fs::write("/proc/sys/user/max_fanotify_marks", limit.to_string()).unwrap();
    };
    lower(LIMIT);
    // A thread that serves does without the privilege.
    let (go, wait) = channel();
    let lowering = std::thread::spawn(move || wait.recv().map(lower));
    for number in 0..LIMIT {
        fs::create_dir(path.join(number.to_string())).unwrap();
    }
    let ear = Ear::new(path);
    let nodes: Vec<_> = (0..LIMIT).map(|number| walk(&ear.host, &number.to_string()).0).collect();
    let first = ear.watch.era();
    let (last, others) = nodes.split_last().unwrap();
    assert!(others.iter().all(|dir| ear.watch.add(dir) == Some(first)));
    assert_eq!(ear.watch.era(), first);
    assert_eq!(ear.shell(": >7/f").len(), 1);

    // The directory of the root is marked too.
    let second = ear.watch.add(last).unwrap();
    assert_ne!(first, second);
    assert_eq!(ear.watch.era(), second);
    assert_eq!(ear.heard(), [Happened { what: What::Lost, own: false }]);
    assert_eq!(ear.shell(": >7/g"), []);
    assert_eq!(ear.shell(&format!(": >{}/g", LIMIT - 1)).len(), 1);

    assert_eq!(ear.watch.shortage(), None, "there was room after that");
    go.send(1).unwrap();
    lowering.join().unwrap().unwrap();
    assert_eq!(ear.watch.add(&nodes[7]), None, "the limit is not ours to free");
    let why = ear.watch.shortage().unwrap();
    assert!(why.contains("fs.fanotify.max_user_marks"), "{why}");
    assert_eq!(ear.watch.era(), second);
}
