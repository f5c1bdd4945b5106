//! Set-id bits, capabilities and whom writes count for.

use std::fs;

use super::*;
use crate::acl::{Acl, AclKind, Capability};
use crate::id::Id;
use crate::source::{Change, NewKind};
use crate::sys::cred::{SetId, Who};

/// Makes a file of mode and group, with a capability, as the host's root.
fn fresh(fixture: &Fixture, mode: u32, gid: u32) {
    let path = fixture.at("f");
    outside(|| {
        use std::os::unix::fs::PermissionsExt;
        drop(fs::remove_file(&path));
        fs::write(&path, "0123456789").unwrap();
        std::os::unix::fs::chown(&path, Some(1), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    });
}

type Act = fn(&Host, &Node, Rights);

fn acts() -> [(&'static str, Act); 6] {
    [
        ("write", |host, node, rights| {
            host.open(node, libc::O_RDWR)
                .unwrap()
                .write(Place::At(0), b"x", rights)
                .map(drop)
                .unwrap();
        }),
        ("append", |host, node, rights| {
            let file = host.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap();
            file.write(Place::End, b"x", rights).map(drop).unwrap();
        }),
        ("truncate", |host, node, rights| {
            let change = Change { size: Some(3), ..Change::default() };
            host.setattr(node, None, &change, rights).map(drop).unwrap();
        }),
        ("ftruncate", |host, node, rights| {
            let file = host.open(node, libc::O_RDWR).unwrap();
            let change = Change { size: Some(3), ..Change::default() };
            host.setattr(node, Some(&*file), &change, rights).map(drop).unwrap();
        }),
        ("fallocate", |host, node, rights| {
            host.open(node, libc::O_RDWR).unwrap().allocate(0, 0, 50, rights).unwrap();
        }),
        ("copy", |host, node, rights| {
            let file = host.open(node, libc::O_RDWR).unwrap();
            file.copy_to(0, &*file, 20, 5, rights).map(drop).unwrap();
        }),
    ]
}

#[test]
fn changing_contents_clears_set_id_bits_unless_kept() {
    if !is_root() {
        return;
    }
    let Some(ext4) = Fixture::ext4() else { return };
    for fixture in [Fixture::tmpfs(), ext4] {
        let host = fixture.host();
        // Group 0 too: the server being root must not make it a member.
        for (act, run) in acts() {
            for (mode, gid, cleared) in [(0o6777, 0, 0o777), (0o2767, 0, 0o767), (0o4755, 5, 0o755)]
            {
                fresh(&fixture, mode, gid);
                run(&host, &walk(&host, "f").0, PLAIN);
                assert_eq!(on_disk(&fixture.at("f")), (1, gid, cleared), "{act} {mode:o}");
                fresh(&fixture, mode, gid);
                run(&host, &walk(&host, "f").0, KEEPING);
                assert_eq!(on_disk(&fixture.at("f")), (1, gid, mode), "{act} {mode:o} kept");
            }
        }
    }
}

#[test]
fn chown_clears_as_the_kernel_does() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    let change = Change { uid: Id::new(9), ..Change::default() };
    let cases = [
        (0o6777, PLAIN, 0o777),
        (0o6777, KEEPING, 0o777),
        (0o2767, PLAIN, 0o767),
        (0o2767, KEEPING, 0o2767),
    ];
    for (mode, rights, left) in cases {
        fresh(&fixture, mode, 0);
        let attr = host.setattr(&walk(&host, "f").0, None, &change, rights).unwrap();
        assert_eq!(u32::from(attr.mode.bits()), left, "{mode:o} {rights:?}");
    }
    // A mode comes after the owner, and is taken as the caller's kernel sent it.
    fresh(&fixture, 0o600, 0);
    let both = Change { mode: Some(Mode::new(0o6711)), gid: Id::new(3), ..change };
    let attr = host.setattr(&walk(&host, "f").0, None, &both, PLAIN).unwrap();
    assert_eq!((attr.mode.bits(), attr.owner), (0o6711, ids(9, 3).into()));
}

#[test]
fn an_acl_clears_the_set_group_id_bit_for_strangers() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let host = fixture.host();
    if !host.facts().acl {
        return eprintln!("SKIP: no ACLs here");
    }
    let acl = Acl::<Disk>::from_mode(Mode::new(0o750));
    for (rights, left) in [(PLAIN, 0o750), (KEEPING, 0o2750)] {
        let become_one = |who, set_id| host.context.credentials.assume(who, set_id).unwrap();
        become_one(Who::Server, SetId::Keep);
        fresh(&fixture, 0o2755, 8);
        let (node, _) = walk(&host, "f");
        // Whoever was served before by this thread may have been in that group.
        become_one(Who::Owner(7, 8), SetId::Clear);
        host.set_acl(&node, AclKind::Access, Some(&acl), rights).unwrap();
        assert_eq!(on_disk(&fixture.at("f")).2, left, "{rights:?}");
        assert_eq!(host.acl(&node, AclKind::Access), Ok(None));
    }
}

#[test]
fn capabilities_are_kept_apart_and_go_with_a_write() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    let host = fixture.host();
    fresh(&fixture, 0o755, 5);
    let (node, _) = walk(&host, "f");
    for rootid in [0, 100_000] {
        let capability = Capability::<Disk> {
            rootid: Id::new(rootid),
            effective: true,
            permitted: 1 << 10 | 1 << 39,
            inheritable: 0,
            names_root: false,
        };
        host.set_capability(&node, Some(&capability), PLAIN).unwrap();
        assert_eq!(host.capability(&node), Ok(Some(capability)));
    }
    assert_eq!(host.xattrs(&node).unwrap(), ["security.capability"]);
    host.open(&node, libc::O_WRONLY).unwrap().write(Place::At(0), b"x", KEEPING).unwrap();
    assert_eq!(host.capability(&node), Ok(None));
    assert!(host.set_capability(&node, None, PLAIN).unwrap_err().is(libc::ENODATA));
}

#[test]
fn blocks_reserved_for_root_are_not_for_others() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let host = fixture.host();
    let top = root(&host);
    let what = NewKind::Regular(Some(libc::O_RDWR));
    let file = create(&host, &top, "f", &new(what, ids(7, 8), 0o600, 0)).file.unwrap();
    let chunk = vec![1; 1 << 20];
    let fill = |from: u64, rights| {
        let mut at = from;
        while let Ok(done @ 1..) = file.write(Place::At(at), &chunk, rights) {
            at += done as u64;
        }
        file.sync(false).unwrap();
        at
    };
    let plain = fill(0, PLAIN);
    let left = host.statfs(&top).unwrap();
    assert!(left.bavail * u64::from(left.frsize) < 1 << 20, "{left:?}");
    assert!(left.bfree > left.bavail, "something is reserved: {left:?}");
    let reserve = fill(plain, Rights { keep_setid: false, reserve: true });
    assert!(reserve > plain + (1 << 20), "{plain} {reserve}");
}
