//! A policy that is replaced while the file system is in use.

use super::*;

#[test]
fn another_policy_is_in_force_at_once() {
    let world = World::new(MAP);
    let file = world.file("f", (5, 6), 0o644);
    assert_eq!(numbers(&file.attr), (Some(100_005), Some(200_006)));
    let since = world.fs.replaced();

    let other = standing(Some(9), u32::MAX);
    assert_eq!(world.fs.replace(policy(COLLAPSE), other), Ok(()));
    let shown = world.fs.getattr(&caller(0, 0), file.node, None).unwrap();
    assert_eq!(numbers(&shown), (Some(1000), Some(1000)));
    assert_eq!(world.fs.replaced(), since + 1);
}

#[test]
fn an_answer_from_before_is_not_to_be_believed() {
    let memory = Arc::new(Memory::new(MemoryOptions::new(Ids::new(0, 0).unwrap())));
    let second = Duration::from_secs(1);
    let known = Arc::new(FakeProcesses::default());
    let config = Config { trust: Trust::For(second), ..config() };
    let fs = Fs::new(memory, policy(MAP), known, config).unwrap();
    let (root, before) = (fs.root_number(), fs.moment());
    assert_eq!((fs.attributes_at(before, root), fs.names_at(before, root)), (second, second));
    fs.replace(policy(COLLAPSE), super::config().stand_in).unwrap();
    assert_eq!(fs.attributes_at(before, root), Duration::ZERO);
    assert_eq!(fs.names_at(before, root), Duration::ZERO);
    assert_eq!(fs.names_at(fs.moment(), root), second);
}

#[test]
fn a_policy_that_needs_another_mount_is_refused() {
    let world = World::new(MAP);
    let stand_in = config().stand_in;
    let mirror = policy(&[("mirror", "5")]);
    assert_eq!(world.fs.replace(mirror, stand_in), Err(Error::Unsupported));
    let file = world.file("f", (5, 6), 0o644);
    assert_eq!(numbers(&file.attr), (Some(100_005), Some(200_006)), "the old one stays");
}

#[test]
fn rules_that_come_later_hold_for_what_is_known_already() {
    let world = World::new(IDENTITY);
    let dir = world.dir("d", (1, 1), 0o755).node;
    let by = caller(0, 0);
    let file = world.fs.mknod(&by, dir, name("f"), libc::S_IFREG | 0o644, 0, 0).unwrap().node;
    let stand_in = config().stand_in;
    world.fs.replace(policy(&[("hide", "d/f")]), stand_in.clone()).unwrap();
    assert_eq!(world.fs.lookup(&by, dir, name("f")).unwrap_err(), Error::Hidden);
    assert_eq!(world.fs.getattr(&by, file, None).unwrap_err(), Error::Stale);
    assert_eq!(world.look("d").unwrap().node, dir, "a number stays");
    world.fs.replace(policy(IDENTITY), stand_in).unwrap();
    assert_eq!(world.fs.lookup(&by, dir, name("f")).unwrap().node, file);
    assert!(world.fs.getattr(&by, file, None).is_ok());
}
