use super::*;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPS: &str = "security.capability";

/// Returns an ACL as setfacl(1) would send it: owner rw, some named users and
/// groups, group r, mask rwx, others nothing.
pub(super) fn acl(users: &[u32], groups: &[u32]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, perm: u16, id: u32| {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    };
    entry(0x01, 6, u32::MAX);
    users.iter().for_each(|id| entry(0x02, 7, *id));
    entry(0x04, 4, u32::MAX);
    groups.iter().for_each(|id| entry(0x08, 5, *id));
    entry(0x10, 7, u32::MAX);
    entry(0x20, 0, u32::MAX);
    value
}

/// Returns a file capability; without a root id it is of version 2.
pub(super) fn caps(rootid: Option<u32>) -> Vec<u8> {
    let magic: u32 = if rootid.is_some() { 0x0300_0001 } else { 0x0200_0001 };
    let words = [magic, 1 << 10, 0, 0, 0].into_iter().chain(rootid);
    words.flat_map(u32::to_le_bytes).collect()
}

impl World {
    fn set(&self, by: &Caller, file: &str, attribute: &str, value: &[u8]) -> Result<()> {
        let node = self.look(file).unwrap().node;
        self.fs.setxattr(by, node, attribute.as_ref(), value, 0)
    }

    fn get(&self, file: &str, attribute: &str) -> Result<Vec<u8>> {
        self.fs.getxattr(&caller(0, 0), self.look(file).unwrap().node, attribute.as_ref())
    }

    fn get_disk(&self, file: &str, attribute: &str) -> Result<Vec<u8>> {
        let root = self.disk.root(&caller(0, 0)).unwrap().node;
        let node = self.disk.lookup(&caller(0, 0), root, file.as_ref()).unwrap().node;
        self.disk.getxattr(&caller(0, 0), node, attribute.as_ref())
    }

    fn set_disk(&self, file: &str, attribute: &str, value: &[u8]) {
        let root = self.disk.root(&caller(0, 0)).unwrap().node;
        let node = self.disk.lookup(&caller(0, 0), root, file.as_ref()).unwrap().node;
        self.disk.setxattr(&caller(0, 0), node, attribute.as_ref(), value, 0).unwrap();
    }
}

#[test]
fn acls_are_translated_both_ways() {
    let cases: [(&[(&str, &str)], _, _, _, _); 3] = [
        (IDENTITY, &[7, 8][..], &[9][..], &[7, 8][..], &[9][..]),
        (MAP, &[7, 8], &[9], &[100_007, 100_008], &[200_009]),
        // Every owner is shown as one, but an alias never grants.
        (COLLAPSE, &[7, 5000], &[9], &[STAND_IN, 1000], &[STAND_IN]),
    ];
    for (options, disk_users, disk_groups, users, groups) in cases {
        let world = World::new(options);
        world.dir("d", (1, 1), 0o700);
        for attribute in [ACCESS, DEFAULT] {
            world.set_disk("d", attribute, &acl(disk_users, disk_groups));
            assert_eq!(world.get("d", attribute).unwrap(), acl(users, groups), "{options:?}");
        }
        assert_eq!(world.look("d").unwrap().attr.mode.bits(), 0o670);
        if !users.contains(&STAND_IN) {
            for attribute in [ACCESS, DEFAULT] {
                let by = caller(100_001, 200_001);
                world.set(&by, "d", attribute, &[]).unwrap();
                assert!(world.get("d", attribute).unwrap_err().is(libc::ENODATA));
                world.set(&by, "d", attribute, &acl(users, groups)).unwrap();
                let stored = world.get_disk("d", attribute).unwrap();
                assert_eq!(stored, acl(disk_users, disk_groups));
            }
        }
    }
}

#[test]
fn unmapped_entries_are_shown_and_inherited_but_never_set() {
    let world = World::new(MAP);
    let dir = world.dir("d", (1, 1), 0o755);
    world.set_disk("d", DEFAULT, &acl(&[5000, 3], &[5000]));
    let shown = acl(&[STAND_IN, 100_003], &[STAND_IN]);
    assert_eq!(world.get("d", DEFAULT).unwrap(), shown);
    let by = caller(100_001, 200_001);
    let made = world.fs.mknod(&by, dir.node, name("a"), libc::S_IFREG | 0o666, 0o077, 0).unwrap();
    // The mask is cut by the mode, and the umask is not asked.
    assert_eq!(made.attr.mode.bits(), 0o660);
    let mut inherited = shown.clone();
    let mask = inherited.len() - 16;
    inherited[mask + 2] = 6;
    assert_eq!(world.fs.getxattr(&caller(0, 0), made.node, ACCESS.as_ref()).unwrap(), inherited);
    for (users, groups) in [
        (&[STAND_IN][..], &[][..]),
        (&[], &[STAND_IN]),
        (&[u32::MAX], &[]),
        (&[3], &[]),
        (&[65534], &[]),
        (&[100_003], &[3]),
        (&[100_003, 101_000], &[]),
    ] {
        for attribute in [ACCESS, DEFAULT] {
            let set = world.set(&by, "d", attribute, &acl(users, groups));
            assert_eq!(set, Err(Error::UnmappedEntry), "{users:?} {groups:?}");
        }
    }
    assert_eq!(world.set(&by, "d", DEFAULT, &shown), Err(Error::UnmappedEntry));
    assert_eq!(world.get_disk("d", DEFAULT).unwrap(), acl(&[5000, 3], &[5000]));
}

#[test]
fn acls_that_say_no_more_than_the_mode() {
    let world = World::new(MAP);
    world.file("a", (1, 1), 0o600);
    let by = caller(100_001, 200_001);
    let mut minimal = acl(&[], &[]);
    minimal.drain(20..28);
    world.set(&by, "a", ACCESS, &minimal).unwrap();
    assert_eq!(world.stored("a").2, 0o640);
    assert!(world.get("a", ACCESS).unwrap_err().is(libc::ENODATA));
    let default = world.set(&by, "a", DEFAULT, &minimal);
    assert!(default.unwrap_err().is(libc::EACCES));
    assert_eq!(world.set(&by, "a", ACCESS, &minimal[..9]), Err(Error::Invalid));
    // Flags are ignored for ACLs.
    let node = world.look("a").unwrap().node;
    for flags in [libc::XATTR_CREATE, libc::XATTR_REPLACE, 77] {
        world.fs.setxattr(&by, node, ACCESS.as_ref(), &acl(&[100_002], &[]), flags).unwrap();
    }
    world.fs.removexattr(&by, node, ACCESS.as_ref()).unwrap();
    assert!(world.get("a", ACCESS).unwrap_err().is(libc::ENODATA));
}

#[test]
fn an_access_acl_drops_setgid_for_those_outside_the_group() {
    let cases = [
        (0o2755, true, false, 0o2670, 0),
        (0o2755, false, true, 0o2670, 1),
        (0o2755, false, false, 0o670, 1),
        (0o4755, false, false, 0o4670, 0),
    ];
    for (mode, member, fsetid, after, asked) in cases {
        let world = World::new(MAP);
        world.file("a", (1, 1), mode);
        {
            let mut known = lock(&world.processes.0);
            if member {
                known.groups.insert((100_001, 200_001));
            }
            if fsetid {
                known.capable.insert(100_001);
            }
            known.asked = 0;
        }
        let by = caller(100_001, 200_009);
        world.set(&by, "a", ACCESS, &acl(&[100_005], &[])).unwrap();
        assert_eq!(world.stored("a").2, after, "{mode:o} {member} {fsetid}");
        assert_eq!(lock(&world.processes.0).asked, asked, "{mode:o} {member} {fsetid}");
    }
}

#[test]
fn a_source_without_acls_has_none() {
    let world = World::with(MAP, |source| source.acl = false);
    world.file("a", (1, 1), 0o600);
    for attribute in [ACCESS, DEFAULT] {
        assert_eq!(world.get("a", attribute), Err(Error::Unsupported));
        let set = world.set(&caller(0, 0), "a", attribute, &acl(&[100_001], &[]));
        assert_eq!(set, Err(Error::Unsupported));
    }
}

#[test]
fn capabilities_are_translated_both_ways() {
    let shift = &[("map", "0:100000:10")][..];
    let cases = [
        // policy, on disk, in the view
        (IDENTITY, caps(None), caps(None)),
        (IDENTITY, caps(Some(7)), caps(Some(7))),
        (shift, caps(None), caps(Some(100_000))),
        (shift, caps(Some(5)), caps(Some(100_005))),
        (&[("map", "100000:0:10")], caps(Some(100_000)), caps(None)),
    ];
    for (options, disk, view) in cases {
        let world = World::new(options);
        lock(&world.processes.0).capable.insert(0);
        // An owner that each of the policies maps.
        let owner = if disk == caps(Some(100_000)) { 100_001 } else { 1 };
        world.file("a", (owner, owner), 0o755);
        world.set_disk("a", CAPS, &disk);
        assert_eq!(world.get("a", CAPS).unwrap(), view, "{options:?}");
        let node = world.look("a").unwrap().node;
        world.fs.removexattr(&caller(0, 0), node, CAPS.as_ref()).unwrap();
        assert!(world.get("a", CAPS).unwrap_err().is(libc::ENODATA));
        let removed = world.fs.removexattr(&caller(0, 0), node, CAPS.as_ref());
        assert!(removed.unwrap_err().is(libc::ENODATA));
        world.set(&caller(0, 0), "a", CAPS, &view).unwrap();
        assert_eq!(world.get_disk("a", CAPS).unwrap(), disk, "{options:?}");
        // Asked of the file that is open, too.
        let open = world.open(node, libc::O_WRONLY).unwrap();
        assert_eq!(world.get("a", CAPS).unwrap(), view, "{options:?}");
        world.fs.write(&caller(0, 0), open, Place::At(0), b"x", false).unwrap();
        assert!(world.get("a", CAPS).unwrap_err().is(libc::ENODATA));
    }
}

#[test]
fn capabilities_of_unmapped_roots() {
    let world = World::new(&[("map", "1000:101000:10")]);
    world.file("a", (1000, 1000), 0o755);
    for value in [caps(None), caps(Some(0)), caps(Some(5000)), caps(Some(u32::MAX))] {
        let set = world.set(&caller(0, 0), "a", CAPS, &value);
        assert_eq!(set, Err(Error::UnmappedEntry), "{value:?}");
    }
    let bad = world.set(&caller(0, 0), "a", CAPS, &caps(None)[..19]);
    assert_eq!(bad, Err(Error::Invalid));
    world.set_disk("a", CAPS, &caps(None));
    // No id: the kernel makes EOVERFLOW of it, and exec goes on without.
    assert_eq!(world.get("a", CAPS).unwrap(), caps(Some(u32::MAX)));
    let node = world.look("a").unwrap().node;
    let list = world.fs.listxattr(&caller(1, 1), node).unwrap();
    assert_eq!(list, b"security.capability\0");
}

#[test]
fn attributes_without_ids_pass_through() {
    let world = World::new(MAP);
    let node = world.file("a", (1, 1), 0o644).node;
    let by = caller(100_001, 200_001);
    let set = |name: &str, flags| world.fs.setxattr(&by, node, name.as_ref(), b"v", flags);
    for name in ["user.a", "trusted.b", "security.selinux"] {
        set(name, 0).unwrap();
        assert_eq!(world.get("a", name).unwrap(), b"v");
    }
    assert!(set("user.a", libc::XATTR_CREATE).unwrap_err().is(libc::EEXIST));
    assert!(set("user.c", libc::XATTR_REPLACE).unwrap_err().is(libc::ENODATA));
    assert_eq!(set("user.a", 4), Err(Error::Invalid));
    assert!(set(CAPS, libc::XATTR_REPLACE).is_err());
    lock(&world.processes.0).capable.insert(0);
    let all = b"security.selinux\0trusted.b\0user.a\0";
    assert_eq!(world.fs.listxattr(&caller(0, 0), node).unwrap(), all);
    let list = world.fs.listxattr(&by, node).unwrap();
    assert_eq!(list, b"security.selinux\0user.a\0");
    world.fs.removexattr(&by, node, name("user.a")).unwrap();
    assert!(world.get("a", "user.a").unwrap_err().is(libc::ENODATA));
    assert!(world.fs.removexattr(&by, node, name("user.a")).unwrap_err().is(libc::ENODATA));
    for name in ["system.nfs4_acl", "system."] {
        assert_eq!(set(name, 0), Err(Error::Unsupported));
        assert_eq!(world.get("a", name), Err(Error::Unsupported));
        assert_eq!(world.fs.removexattr(&by, node, name.as_ref()), Err(Error::Unsupported));
    }
}

#[test]
fn flags_of_setxattr_hold_for_capabilities() {
    let world = World::new(IDENTITY);
    let node = world.file("a", (1, 1), 0o755).node;
    let set = |flags| world.fs.setxattr(&caller(0, 0), node, CAPS.as_ref(), &caps(None), flags);
    assert!(set(libc::XATTR_REPLACE).unwrap_err().is(libc::ENODATA));
    set(libc::XATTR_CREATE).unwrap();
    assert!(set(libc::XATTR_CREATE).unwrap_err().is(libc::EEXIST));
    set(libc::XATTR_REPLACE).unwrap();
}

#[test]
fn entries_that_nothing_can_stand_for_are_not_shown_and_not_lost() {
    let world = World::new(MAP);
    world.fs.replace(policy(MAP), standing(None, u32::MAX)).unwrap();
    world.file("a", (1, 1), 0o644);
    let (by, stored) = (caller(100_001, 200_001), acl(&[5000, 3], &[6000]));
    world.set_disk("a", ACCESS, &stored);
    assert_eq!(world.get("a", ACCESS).unwrap(), acl(&[100_003], &[]));
    for value in [acl(&[100_003], &[]), acl(&[], &[])] {
        let refused = world.set(&by, "a", ACCESS, &value);
        assert_eq!(refused.unwrap_err(), Error::UnmappedEntry);
    }
    let mode = SetAttr { mode: Some(0o664), ..SetAttr::default() };
    world.fs.setattr(&by, world.look("a").unwrap().node, None, &mode).unwrap();
    let kept = world.get_disk("a", ACCESS).unwrap();
    assert_eq!(kept.len(), stored.len());
    world.fs.removexattr(&by, world.look("a").unwrap().node, ACCESS.as_ref()).unwrap();
    assert!(world.get_disk("a", ACCESS).unwrap_err().is(libc::ENODATA));
    world.set(&by, "a", ACCESS, &acl(&[100_003], &[])).unwrap();
    assert_eq!(world.get_disk("a", ACCESS).unwrap(), acl(&[3], &[]));
}

#[test]
fn what_the_namespace_has_not_is_shown_as_unmapped_entries_are() {
    let world = World::new(IDENTITY);
    world.fs.replace(policy(IDENTITY), standing(None, 100)).unwrap();
    world.dir("d", (1, 1), 0o755);
    let (by, stored) = (caller(1, 1), acl(&[99, 100], &[70_000]));
    for kind in [ACCESS, DEFAULT] {
        world.set_disk("d", kind, &stored);
        assert_eq!(world.get("d", kind).unwrap(), acl(&[99], &[]), "{kind}");
        let refused = world.set(&by, "d", kind, &acl(&[99], &[]));
        assert_eq!(refused.unwrap_err(), Error::UnmappedEntry, "{kind}");
        assert_eq!(world.get_disk("d", kind).unwrap(), stored, "{kind}");
    }
}

#[test]
fn an_overlay_is_shown_what_it_can_copy() {
    let memory = Arc::new(Memory::new(MemoryOptions::new(Ids::new(0, 0).unwrap())));
    let (by, stand_in) = (caller(0, 0), standing(None, 100));
    let known = Arc::new(FakeProcesses::default());
    let whole = Fs::new(memory.clone(), policy(IDENTITY), known.clone(), config()).unwrap();
    let below = Config { copied_up: true, stand_in, ..config() };
    let below = Fs::new(memory, policy(IDENTITY), known, below).unwrap();
    for (file, rootid, shown) in [("a", None, true), ("b", Some(99), true), ("c", Some(100), false)]
    {
        let root = whole.root_number();
        let made = whole.mknod(&by, root, name(file), libc::S_IFREG | 0o644, 0, 0).unwrap().node;
        for (attribute, value) in
            [(CAPS, &*caps(rootid)), ("security.other", b"x"), ("user.note", b"y")]
        {
            whole.setxattr(&by, made, attribute.as_ref(), value, 0).unwrap();
        }
        let list = |fs: &Fs, node| String::from_utf8(fs.listxattr(&by, node).unwrap()).unwrap();
        assert_eq!(list(&whole, made).matches("security.").count(), 2, "{file}");
        let node = below.lookup(&by, below.root_number(), name(file)).unwrap().node;
        let names: Vec<_> = if shown { vec![CAPS, "user.note"] } else { vec!["user.note"] };
        let mut listed: Vec<_> =
            list(&below, node).split_terminator('\0').map(str::to_owned).collect();
        listed.sort_unstable();
        assert_eq!(listed, names, "{file}");
        assert_eq!(below.getxattr(&by, node, CAPS.as_ref()).is_ok(), shown, "{file}");
    }
}
