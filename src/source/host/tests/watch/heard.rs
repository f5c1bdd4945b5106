//! What is heard of each change.

use std::fs;

use super::*;
use crate::source::{Change, NewKind, RenameFlags};

/// All that a shell can do to a file and a name.
fn every_change(fixture: &Fixture) {
    fs::write(fixture.at("a"), "").unwrap();
    fs::create_dir(fixture.at("d")).unwrap();
    let ear = Ear::new(fixture.path());
    assert_eq!(ear.watch.covers(0), Covers::Everything);
    let (root, a, d) = (ear.root(), ear.key("a"), ear.key("d"));
    let cases = [
        ("chmod 600 a", vec![What::Attributes(a.clone())]),
        ("chown 5:6 a", vec![What::Attributes(a.clone())]),
        ("touch -d 2001-01-01 a", vec![What::Attributes(a.clone())]),
        ("chmod 755 d", vec![What::Attributes(d.clone())]),
        ("chmod 755 .", vec![What::Attributes(root.clone())]),
        ("echo x >>a", vec![What::Contents(a.clone())]),
        ("truncate -s 9 a", vec![What::Contents(a.clone())]),
        ("cat a >/dev/null; ls -l d >/dev/null", vec![]),
        ("ln a d/b", vec![What::Attributes(a.clone()), named(&d, "b", &a)]),
        ("chmod 644 d/b", vec![What::Attributes(a.clone())]),
        ("mv d/b c", vec![named(&d, "b", &a), named(&root, "c", &a)]),
        ("rm c", vec![What::Attributes(a.clone()), named(&root, "c", &a)]),
    ];
    for (script, expected) in cases {
        assert_eq!(ear.shell(script), expected, "{script}");
    }
    for script in ["mkdir e", "ln -s a e", "mkfifo e", ": >e"] {
        let heard = ear.shell(script);
        let made = named(&root, "e", &ear.key("e"));
        assert!(heard.contains(&made), "{script}: {heard:?}");
        let gone = ear.shell("rm -r e");
        assert!(gone.contains(&made), "{script}: {gone:?}");
    }
    let heard = ear.shell("mkdir e; mv e d/f");
    let e = ear.key("d/f");
    assert_eq!(heard, [named(&root, "e", &e), named(&root, "e", &e), named(&d, "f", &e)]);
    assert_eq!(ear.shell("rmdir d/f"), [named(&d, "f", &e)]);
}

/// Events name files as lookups do, whatever the file system.
#[test]
fn each_kind_of_change_is_heard() {
    if !is_root() {
        return;
    }
    let images = [
        Fixture::ext4(),
        Fixture::image(&["mkfs.xfs", "-q"], 400),
        Fixture::image(&["mkfs.btrfs", "-q"], 200),
    ];
    for fixture in [Some(Fixture::tmpfs())].into_iter().chain(images).flatten() {
        every_change(&fixture);
    }
}

#[test]
fn attributes_beside_the_mode_are_heard() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    fs::write(fixture.at("a"), "").unwrap();
    if Command::new("setfattr").arg("--version").output().is_err() {
        return eprintln!("SKIP: needs setfattr and setfacl");
    }
    let ear = Ear::new(fixture.path());
    let a = ear.key("a");
    for script in ["setfattr -n user.x -v 1 a", "setfattr -x user.x a", "setfacl -m u:7:r a"] {
        assert_eq!(ear.shell(script), [What::Attributes(a.clone())], "{script}");
    }
}

#[test]
fn what_this_process_does_is_its_own() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let ear = Ear::new(fixture.path());
    let top = root(&ear.host);
    let file = NewKind::Regular(Some(libc::O_RDWR));
    let made = create(&ear.host, &top, "f", &new(file, ids(7, 8), 0o600, 0));
    made.file.unwrap().write(Place::At(0), b"x", PLAIN).unwrap();
    let (node, found) = walk(&ear.host, "f");
    ear.host.setattr(&node, None, &Change::default(), PLAIN).unwrap();
    outside(|| fs::rename(fixture.at("f"), fixture.at("g"))).unwrap();
    let heard = ear.heard();
    assert!(heard.iter().all(|happened| happened.own), "{heard:?}");
    let heard: Vec<_> = heard.into_iter().map(|happened| happened.what).collect();
    for what in [named(&ear.root(), "g", &found.key), What::Contents(found.key.clone())] {
        assert!(heard.contains(&what), "{what:?}: {heard:?}");
    }
    assert_eq!(ear.shell("chmod 644 g"), [What::Attributes(found.key)]);
}

#[test]
fn names_that_change_hands_are_heard_of_at_both_ends() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    for file in ["a", "b", "c"] {
        fs::write(fixture.at(file), "").unwrap();
    }
    fs::create_dir(fixture.at("d")).unwrap();
    let ear = Ear::new(fixture.path());
    let (root, d) = (ear.root(), ear.key("d"));
    let (a, b, c) = (ear.key("a"), ear.key("b"), ear.key("c"));
    let replaced = ear.shell("mv a c");
    for what in [named(&root, "a", &a), named(&root, "c", &a), What::Attributes(c)] {
        assert!(replaced.contains(&what), "{what:?}: {replaced:?}");
    }
    ear.shell("mv b d/b");
    let flags = RenameFlags { exchange: true, ..RenameFlags::default() };
    let (top, dir) = (super::root(&ear.host), walk(&ear.host, "d").0);
    ear.host.rename((&top, name("c")), (&dir, name("b")), flags, None, PLAIN).unwrap();
    let heard: Vec<_> = ear.heard().into_iter().map(|happened| happened.what).collect();
    for (file, other) in [(&a, &b), (&b, &a)] {
        assert!(heard.contains(&named(&root, "c", file)), "{heard:?}");
        assert!(heard.contains(&named(&d, "b", other)), "{heard:?}");
    }
}

/// A number that comes back for another file has another key.
#[test]
fn a_file_that_takes_a_number_over_is_another_one() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let ear = Ear::new(fixture.path());
    ear.shell(": >a");
    let first = ear.key("a");
    let heard = ear.shell("rm a; : >b");
    let second = ear.key("b");
    assert_eq!(first.ino, second.ino, "ext4 reuses numbers");
    assert!(heard.contains(&named(&ear.root(), "a", &first)), "{heard:?}");
    assert!(heard.contains(&named(&ear.root(), "b", &second)), "{heard:?}");
    assert_ne!(first, second);
}

#[test]
fn contents_that_are_ignored_are_not_heard() {
    if !is_root() {
        return;
    }
    for fixture in [Some(Fixture::tmpfs()), Fixture::ext4()].into_iter().flatten() {
        fs::write(fixture.at("a"), "").unwrap();
        fs::write(fixture.at("b"), "").unwrap();
        let ear = Ear::new(fixture.path());
        let (node, found) = walk(&ear.host, "a");
        let (attributes, contents) =
            (What::Attributes(found.key.clone()), What::Contents(found.key.clone()));
        ear.watch.ignore_contents(&node);
        ear.watch.ignore_contents(&node);
        assert_eq!(ear.shell("echo x >>a; echo y >>a; truncate -s 1 a"), []);
        assert_eq!(ear.shell("echo x >>b"), [What::Contents(ear.key("b"))]);
        assert_eq!(ear.shell("chmod 600 a"), [attributes]);
        ear.watch.heed_contents(&node);
        assert_eq!(ear.shell("echo x >>a"), [contents]);
        ear.watch.heed_contents(&node);
    }
}
