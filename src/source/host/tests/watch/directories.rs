//! Watching as an ordinary user: directory by directory.

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
                std::fs::create_dir(fixture.at(dir)).unwrap();
            }
            for file in ["f", "d/f"] {
                std::fs::write(fixture.at(file), "").unwrap();
                chown(fixture.at(file), Some(1000), Some(1000)).unwrap();
            }
            chown(fixture.at("d"), Some(1000), Some(1000)).unwrap();
            let mode = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(fixture.at("locked"), mode).unwrap();
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
    std::fs::write(ear.path.join("own"), "").unwrap();
    assert!(ear.heard().iter().all(|happened| happened.own));
}
