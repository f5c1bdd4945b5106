//! Files that are made through a mount on which two users are exchanged.

use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;

use nix::errno::Errno;

use super::*;
use crate::attr::FileKind;
use crate::source::host::node::held;
use crate::sys::caps;
use crate::sys::cred::NOBODY;

#[test]
fn what_is_made_through_an_exchange_is_the_same() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let host = fixture.host();
    outside(|| {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir(fixture.at("d")).unwrap();
        std::os::unix::fs::chown(fixture.at("d"), Some(0), Some(77)).unwrap();
        fs::set_permissions(fixture.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    });
    let (dir, _) = walk(&host, "d");
    let cases = [
        ("file", NewKind::Regular(None), 0o6777, 0o6755),
        ("open", NewKind::Regular(Some(libc::O_RDWR)), 0o200, 0o200),
        ("dir", NewKind::Directory, 0o777, 0o2755),
        ("link", NewKind::Symlink(OsStr::new("target")), 0, 0o777),
        ("fifo", NewKind::Special(FileKind::Fifo, 0), 0o666, 0o644),
    ];
    // As nobody for root, as root for others, of whom nobody may be one.
    for (owner, user, other) in [(0, NOBODY, NOBODY), (1234, 0, 1234), (NOBODY, 0, NOBODY)] {
        for (entry, what, mode, expected) in cases {
            let top = held(&dir, Errno::EROFS).unwrap();
            let Some(through) = host.exchange(top, other).unwrap() else {
                return eprintln!("SKIP: no idmapped copy of a mount");
            };
            let new = new(what, ids(owner, 5678), mode, 0o022);
            let entry = format!("{entry}{owner}");
            let made = host.make_through(through, user, top, OsStr::new(&entry), &new).unwrap();
            let path = format!("d/{entry}");
            assert_eq!(on_disk(&fixture.at(&path)), (owner, 77, expected), "{path}");
            let found = host.lookup(&dir, name(&entry)).unwrap();
            assert_eq!((made.found.key, made.found.attr), (found.key, found.attr), "{path}");
            if let Some(file) = made.file {
                assert_eq!(file.write(Place::At(0), b"data", PLAIN), Ok(4));
                assert_eq!(file.getattr().unwrap().owner, ids(owner, 77).into());
            }
            // It can be linked as any file of the mount, which a file of another cannot.
            if !matches!(what, NewKind::Directory) {
                let (node, _) = walk(&host, &path);
                host.link(&node, &dir, name(&format!("{entry}2")), PLAIN).unwrap();
            }
            let through = host.exchange(top, other).unwrap().unwrap();
            let again = host.make_through(through, user, top, OsStr::new(&entry), &new);
            assert!(again.unwrap_err().is(libc::EEXIST), "{path}");
        }
    }
}

/// What is lent is opened as whoever the thread acts as, or as nobody where that
/// one may have a claim.
#[test]
fn who_has_a_claim_to_the_reserve_lends_nothing() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let lent_as = |host: &Host, file: &str, owner: Ids<Disk>| {
        let what = NewKind::Regular(Some(libc::O_RDWR));
        let made = create(host, &root(host), file, &new(what, owner, 0o600, 0)).file.unwrap();
        let mut lender = None;
        made.lend(&mut |_| {
            lender = Some((setfsuid(Uid::from_raw(u32::MAX)).as_raw(), effective()));
            Ok(Arc::new(()))
        })
        .unwrap();
        lender.unwrap()
    };
    let host = fixture.host();
    for (file, owner, lender) in
        [("a", (7, 8), 7), ("b", (0, 8), NOBODY), ("c", (7, 0), NOBODY), ("d", (9, 8), 9)]
    {
        let (uid, caps) = lent_as(&host, file, ids(owner.0, owner.1));
        assert_eq!((uid, caps & caps::FSETID), (lender, 0), "{owner:?}");
    }
    for claim in ["resuid=7", "resgid=8"] {
        outside(|| {
            let mut remount = Command::new("mount");
            let done = remount.args(["-o", &format!("remount,{claim}")]).arg(fixture.path());
            assert!(done.status().unwrap().success());
        });
        assert_eq!(lent_as(&fixture.host(), claim, ids(7, 8)).0, NOBODY, "{claim}");
    }
}

fn effective() -> u64 {
    caps::Caps::get().unwrap().effective
}
