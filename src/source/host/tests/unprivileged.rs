//! A server that is an ordinary user.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;
use crate::attr::FileKind;
use crate::error::Error;
use crate::id::{Id, Owner};
use crate::source::host::Submounts;
use crate::source::{Change, NewKind};

/// Makes a child run as the user 1000.
pub fn as_user(command: &mut Command) {
    command.uid(1000).gid(1000);
}

/// Makes a child run as root of a namespace that maps the user 1000 and nobody
/// else.
pub fn as_root_of_namespace(command: &mut Command) {
    let program = command.get_program().to_os_string();
    let arguments: Vec<_> = command.get_args().map(OsStr::to_os_string).collect();
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(key, value)| Some((key.to_os_string(), value?.to_os_string())))
        .collect();
    *command = Command::new("unshare");
    command.args(["-r", "-m"]).arg(program).args(arguments).envs(environment);
    as_user(command.current_dir("/"));
}

#[test]
fn a_user_makes_files_of_its_own_only() {
    let Some(path) = child::path() else {
        if !is_root() {
            return;
        }
        let fixture = Fixture::plain();
        fixture.give_away();
        fs::write(fixture.at("roots"), "x").unwrap();
        fs::create_dir(fixture.at("team")).unwrap();
        chown(fixture.at("team"), Some(1000), Some(55)).unwrap();
        fs::set_permissions(fixture.at("team"), fs::Permissions::from_mode(0o2777)).unwrap();
        let test = "unprivileged::a_user_makes_files_of_its_own_only";
        child::run(test, &fixture.path(), as_user);
        assert_eq!(on_disk(&fixture.at("f")), (1000, 1000, 0o640));
        assert_eq!(on_disk(&fixture.at("team/f")), (1000, 55, 0o664));
        return;
    };
    let host = Host::open(&path, &HostOptions::default()).unwrap();
    assert!(!host.facts().any_owner);
    assert_eq!(host.submounts(), Submounts::Hide);
    let top = root(&host);
    let regular = NewKind::Regular(None);
    create(&host, &top, "f", &new(regular, ids(1000, 1000), 0o666, 0o027));
    for owner in [ids(1000, 55), ids(0, 1000), ids(1001, 1000)] {
        let made = host.create(&top, name("g"), &new(regular, owner, 0o666, 0));
        assert_eq!(made.unwrap_err(), Error::NotOurs, "{owner}");
        assert!(host.lookup(&top, name("g")).unwrap_err().is(libc::ENOENT));
    }
    let (team, _) = walk(&host, "team");
    create(&host, &team, "f", &new(regular, ids(1000, 1000), 0o664, 0));
    create(&host, &team, "g", &new(regular, ids(1000, 77), 0o664, 0));
    let (own, _) = walk(&host, "f");
    let change = Change { uid: Id::new(0), ..Change::default() };
    assert_eq!(host.setattr(&own, None, &change, PLAIN), Err(Error::NotOurs));
    let (roots, _) = walk(&host, "roots");
    assert!(host.open(&roots, libc::O_RDWR).unwrap_err().is(libc::EACCES));
    let file = host.open(&roots, libc::O_RDONLY | libc::O_NOATIME).unwrap();
    assert_eq!(file.read(0, &mut [0; 4]), Ok(1));
    let file = host.open(&own, libc::O_RDWR).unwrap();
    assert_eq!(file.write(Place::At(0), b"abc", PLAIN), Ok(3));
    let linked = host.link(&own, &top, name("h"), PLAIN).unwrap();
    assert_eq!(linked.attr.nlink, 2);
}

#[test]
fn in_a_user_namespace_only_mapped_ids_are_known() {
    let Some(path) = child::path() else {
        if !is_root() {
            return;
        }
        let fixture = Fixture::plain();
        fixture.give_away();
        fs::write(fixture.at("roots"), "x").unwrap();
        let test = "unprivileged::in_a_user_namespace_only_mapped_ids_are_known";
        child::run(test, &fixture.path(), as_root_of_namespace);
        assert_eq!(on_disk(&fixture.at("f")), (1000, 1000, 0o644));
        return;
    };
    let host = Host::open(&path, &HostOptions::default()).unwrap();
    assert!(!host.facts().any_owner);
    assert_eq!(host.submounts(), Submounts::Follow);
    let top = root(&host);
    assert_eq!(walk(&host, "roots").1.attr.owner, Owner { uid: None, gid: None });
    let regular = NewKind::Regular(None);
    create(&host, &top, "f", &new(regular, ids(0, 0), 0o644, 0));
    for owner in [ids(0, 1), ids(1, 0), ids(65534, 65534)] {
        let made = host.create(&top, name("g"), &new(regular, owner, 0o666, 0));
        assert_eq!(made.unwrap_err(), Error::NotOurs, "{owner}");
        assert!(host.lookup(&top, name("g")).unwrap_err().is(libc::ENOENT));
    }
    let (own, _) = walk(&host, "f");
    let change = Change { gid: Id::new(1), ..Change::default() };
    assert_eq!(host.setattr(&own, None, &change, PLAIN), Err(Error::NotOurs));
    host.open(&own, libc::O_RDWR).unwrap().write(Place::At(0), b"abc", PLAIN).unwrap();
    create(&host, &top, "d", &new(NewKind::Directory, ids(0, 0), 0o755, 0));
    let (_, found) = walk(&host, "d");
    match found.handle {
        // The kernel lets a user reopen directories by handle since 6.13.
        Some(handle) => {
            let node = host.open_by_key(&found.key, &handle, FileKind::Directory).unwrap();
            create(&host, &node, "g", &new(regular, ids(0, 0), 0o644, 0));
            assert_eq!(host.lookup(&node, name("g")).unwrap().handle, None);
        }
        None => eprintln!("SKIP: no handles for users here"),
    }
}
