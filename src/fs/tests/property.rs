//! No sequence of operations puts an id outside the map on disk.

use proptest::prelude::*;

use super::*;
use crate::acl::{Acl, AclKind, Tag};
use crate::id::Owner;
use crate::source::{RenameFlags, SetTime};

/// A disk id that is there from the start and has no view id.
const UNMAPPED: u32 = 7777;

/// Makes files with disk ids 1 to 3, and ACLs that name others.
fn populate(world: &World) {
    world.file("f0", (1, 1), 0o644);
    world.dir("f1", (2, 2), 0o2777);
    world.file("f2", (3, 3), 0o6755);
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    for (file, name) in [("f1", kind(true).xattr()), ("f2", kind(false).xattr())] {
        let node = world.disk.lookup(&caller(0, 0), root, file.as_ref()).unwrap().node;
        let acl = super::xattrs::acl(&[UNMAPPED], &[1]);
        world.disk.setxattr(&caller(0, 0), node, name.as_ref(), &acl, 0).unwrap();
        world.disk.forget(node, 1);
    }
}

/// What callers ask for. Names and ids are small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Op {
    Mknod(u8, u32),
    Mkdir(u8),
    Symlink(u8),
    Create(u8, i32),
    Link(u8, u8),
    Unlink(u8),
    Rmdir(u8),
    Rename(u8, u8, u8),
    Chown(u8, Option<u32>, Option<u32>),
    Chmod(u8, u32),
    Resize(u8, u64),
    Write(u8, bool),
    SetAcl(u8, bool, u32, u32),
    SetCapability(u8, u32),
    Reread(u8, bool),
}

/// Ids inside and outside of the maps, on both of their sides.
fn id() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![
        0,
        1,
        9,
        10,
        999,
        1000,
        5000,
        65534,
        100_000,
        100_009,
        100_010,
        101_000,
        STAND_IN,
        u32::MAX,
    ])
}

fn op() -> impl Strategy<Value = Op> {
    let file = || 0..5_u8;
    prop_oneof![
        (file(), 0..0o10000_u32).prop_map(|(a, m)| Op::Mknod(a, m)),
        file().prop_map(Op::Mkdir),
        file().prop_map(Op::Symlink),
        (file(), prop::sample::select(vec![0, libc::O_EXCL])).prop_map(|(a, f)| Op::Create(a, f)),
        (file(), file()).prop_map(|(a, b)| Op::Link(a, b)),
        file().prop_map(Op::Unlink),
        file().prop_map(Op::Rmdir),
        (file(), file(), 0..5_u8).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        (file(), prop::option::of(id()), prop::option::of(id()))
            .prop_map(|(a, u, g)| Op::Chown(a, u, g)),
        (file(), 0..0o10000_u32).prop_map(|(a, m)| Op::Chmod(a, m)),
        (file(), 0..9000_u64).prop_map(|(a, s)| Op::Resize(a, s)),
        (file(), any::<bool>()).prop_map(|(a, k)| Op::Write(a, k)),
        (file(), any::<bool>(), id(), id()).prop_map(|(a, d, u, g)| Op::SetAcl(a, d, u, g)),
        (file(), id()).prop_map(|(a, r)| Op::SetCapability(a, r)),
        (file(), any::<bool>()).prop_map(|(a, d)| Op::Reread(a, d)),
    ]
}

fn path(file: u8) -> String {
    format!("f{file}")
}

/// Sends one operation, whatever comes of it.
fn send(world: &World, by: &Caller, op: &Op) -> Result<()> {
    let (fs, root) = (&world.fs, world.root());
    let node = |file: u8| world.look(&path(file)).map(|entry| entry.node);
    let at = |file: u8| path(file);
    match *op {
        Op::Mknod(a, mode) => {
            fs.mknod(by, root, at(a).as_ref(), libc::S_IFREG | mode, 0o022, 0).map(drop)
        }
        Op::Mkdir(a) => fs.mkdir(by, root, at(a).as_ref(), 0o755, 0).map(drop),
        Op::Symlink(a) => fs.symlink(by, root, at(a).as_ref(), name("x")).map(drop),
        Op::Create(a, flags) => {
            let made = fs.create(by, root, at(a).as_ref(), 0o644, 0, flags | libc::O_RDWR)?;
            fs.release(made.1, None);
            Ok(())
        }
        Op::Link(a, b) => fs.link(by, node(a)?, root, at(b).as_ref()).map(drop),
        Op::Unlink(a) => fs.unlink(by, root, at(a).as_ref()),
        Op::Rmdir(a) => fs.rmdir(by, root, at(a).as_ref()),
        Op::Rename(a, b, flags) => {
            let flags = RenameFlags {
                no_replace: flags == 1 || flags == 4,
                exchange: flags == 2,
                whiteout: flags >= 3,
            };
            fs.rename(by, (root, at(a).as_ref()), (root, at(b).as_ref()), flags)
        }
        Op::Chown(a, uid, gid) => {
            let (uid, gid) = (uid.and_then(Id::new), gid.and_then(Id::new));
            let change = SetAttr { uid, gid, ..SetAttr::default() };
            fs.setattr(by, node(a)?, None, &change).map(drop)
        }
        Op::Chmod(a, mode) => {
            let change =
                SetAttr { mode: Some(mode), atime: Some(SetTime::Now), ..SetAttr::default() };
            fs.setattr(by, node(a)?, None, &change).map(drop)
        }
        Op::Resize(a, size) => {
            let change = SetAttr { size: Some(size), ..SetAttr::default() };
            fs.setattr(by, node(a)?, None, &change).map(drop)
        }
        Op::Write(a, kill) => {
            let handle = open(fs, node(a)?, libc::O_RDWR)?;
            let written = fs.write(by, handle, Place::At(0), b"data", kill);
            fs.release(handle, None);
            written.map(drop)
        }
        Op::SetAcl(a, default, user, group) => {
            let value = super::xattrs::acl(&[user], &[group]);
            fs.setxattr(by, node(a)?, kind(default).xattr().as_ref(), &value, 0)
        }
        Op::SetCapability(a, rootid) => {
            let value = super::xattrs::caps(Some(rootid));
            fs.setxattr(by, node(a)?, name("security.capability"), &value, 0)
        }
        Op::Reread(a, default) => {
            // What was read is set again.
            let name = kind(default).xattr().as_ref();
            let value = fs.getxattr(&caller(0, 0), node(a)?, name)?;
            fs.setxattr(by, node(a)?, name, &value, 0)
        }
    }
}

const fn kind(default: bool) -> AclKind {
    if default { AclKind::Default } else { AclKind::Access }
}

/// Every id that is on disk, of whatever is below the root.
fn ids_on_disk(memory: &Memory) -> (Vec<u32>, Vec<u32>) {
    let (root, _) = memory.root().unwrap();
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for file in 0..5 {
        let name = path(file);
        let name = Name::new(name.as_ref()).unwrap();
        let Ok(found) = memory.lookup(&root, name) else { continue };
        let Owner { uid, gid } = found.attr.owner;
        uids.push(uid.unwrap().raw());
        gids.push(gid.unwrap().raw());
        let node = memory.open_by_name(&root, name, &found.key).unwrap();
        for kind in AclKind::ALL {
            let acl = memory.acl(&node, kind).ok().flatten();
            for entry in acl.iter().flat_map(Acl::entries) {
                match entry.tag {
                    Tag::User(id) => uids.push(id.unwrap().raw()),
                    Tag::Group(id) => gids.push(id.unwrap().raw()),
                    Tag::UserObj | Tag::GroupObj | Tag::Mask | Tag::Other => {}
                }
            }
        }
        if let Some(capability) = memory.capability(&node).unwrap() {
            uids.push(capability.rootid.unwrap().raw());
        }
    }
    (uids, gids)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn only_ids_of_the_policy_reach_the_disk(
        ops in prop::collection::vec((id(), id(), op()), 1..40),
    ) {
        const SHIFT: &[(&str, &str)] = &[("map", "0:100000:10")];
        for (options, allowed) in [(SHIFT, 0..=9), (COLLAPSE, 5000..=5000)] {
            let world = World::new(options);
            populate(&world);
            for (uid, gid, op) in &ops {
                let by = Caller { uid: Id::new(*uid), gid: Id::new(*gid), pid: 1 };
                // The errno does not matter here, what is stored does.
                let _ = send(&world, &by, op);
                let (uids, gids) = ids_on_disk(&world.memory);
                for id in uids.into_iter().chain(gids) {
                    let there = matches!(id, 1..=3 | UNMAPPED);
                    prop_assert!(
                        allowed.contains(&id) || there,
                        "{id} after {op:?} by {by:?} in {options:?}"
                    );
                }
            }
        }
    }
}
