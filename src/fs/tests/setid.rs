use super::*;

#[test]
fn a_collapse_plants_no_setid_file() {
    let (present, store) = (("present-as", "1000:1000"), ("store-as", "5000:5000"));
    let both: &[(&str, &str)] = &[present, store];
    let user: &[(&str, &str)] = &[("present-as", "1000"), ("store-as", "5000")];
    let rest: &[(&str, &str)] = &[("map", "1000:1000:10"), ("unmapped", "present-as=1000:1000")];
    let cases = [
        // policy, caller, mode on disk of what is made as 07755
        (both, (33, 44), 0o1755),
        (both, (1000, 44), 0o5755),
        (both, (33, 1000), 0o3755),
        (both, (1000, 1000), 0o7755),
        (both, (0, 0), 0o7755),
        (user, (33, 44), 0o1755),
        (rest, (1001, 1001), 0o7755),
        (IDENTITY, (33, 44), 0o7755),
    ];
    for (options, by, mode) in cases {
        let world = World::new(options);
        let (root, by) = (world.root(), caller(by.0, by.1));
        if world.fs.policy().create_owner(&by).is_none() {
            panic!("{by:?} creates nothing");
        }
        let fs = &world.fs;
        fs.mknod(&by, root, name("file"), libc::S_IFREG | 0o7755, 0, 0).unwrap();
        fs.mknod(&by, root, name("fifo"), libc::S_IFIFO | 0o7755, 0, 0).unwrap();
        fs.create(&by, root, name("open"), 0o7755, 0, libc::O_RDWR).unwrap();
        for name in ["file", "fifo", "open"] {
            assert_eq!(world.stored(name).2, mode, "{name} by {by:?} in {options:?}");
        }
    }
}

#[test]
fn a_collapse_inherits_setgid_directories() {
    let world = World::new(COLLAPSE);
    let dir = world.dir("d", (5000, 77), 0o2777);
    let made = world.fs.mkdir(&caller(33, 44), dir.node, name("sub"), 0o755, 0).unwrap();
    assert_eq!(made.attr.mode.bits(), 0o2755);
    assert_eq!(world.stored("d/sub"), (5000, 77, 0o2755));
}

/// What changes contents, through a handle or without.
type Change = fn(&World, &Caller, Entry, u64);

fn truncate(world: &World, by: &Caller, file: Entry, _: u64) {
    let size = SetAttr { size: Some(1), ..SetAttr::default() };
    world.fs.setattr(by, file.node, None, &size).unwrap();
}

fn ftruncate(world: &World, by: &Caller, file: Entry, handle: u64) {
    let size = SetAttr { size: Some(1), ..SetAttr::default() };
    world.fs.setattr(by, file.node, Some(handle), &size).unwrap();
}

fn fallocate(world: &World, by: &Caller, _: Entry, handle: u64) {
    world.fs.fallocate(by, handle, 0, 0, 10).unwrap();
}

fn copy(world: &World, by: &Caller, _: Entry, handle: u64) {
    let from = world.open(world.look("full").unwrap().node, libc::O_RDONLY).unwrap();
    assert_eq!(world.fs.copy_file_range(by, (from, 0), (handle, 0), 4).unwrap(), 4);
}

fn write(world: &World, by: &Caller, _: Entry, handle: u64) {
    // The kernel asks for the capability itself.
    let kill = !lock(&world.processes.0).capable.contains(&by.uid.unwrap().raw());
    assert_eq!(world.fs.write(by, handle, Place::At(0), b"data", kill).unwrap(), 4);
}

#[test]
fn changes_of_contents_take_setid_bits() {
    let changes: [(&str, Change); 5] = [
        ("truncate", truncate),
        ("ftruncate", ftruncate),
        ("fallocate", fallocate),
        ("copy", copy),
        ("write", write),
    ];
    let cases = [
        // mode, member, CAP_FSETID, mode after, may ask for capabilities
        (0o6755, true, false, 0o755, true),
        (0o6755, true, true, 0o6755, true),
        (0o2755, true, false, 0o755, true),
        (0o2745, true, false, 0o2745, true),
        (0o2745, false, false, 0o745, true),
        (0o2745, false, true, 0o2745, true),
        (0o6745, true, false, 0o745, true),
        (0o755, false, false, 0o755, false),
    ];
    for (what, change) in changes {
        for (mode, member, fsetid, after, asked) in cases {
            let world = World::new(MAP);
            world.disk_file("full", (1, 1), 0o644);
            let full = world.open(world.look("full").unwrap().node, libc::O_RDWR).unwrap();
            world.fs.write(&caller(0, 0), full, Place::At(0), b"full", true).unwrap();
            let file = world.file("a", (1, 1), mode);
            let handle = world.open(file.node, libc::O_RDWR).unwrap();
            {
                let mut known = lock(&world.processes.0);
                if member {
                    known.groups.insert((100_002, 200_001));
                }
                if fsetid {
                    known.capable.insert(100_002);
                }
                known.asked = 0;
            }
            let by = caller(100_002, 200_002);
            change(&world, &by, file, handle);
            let case = format!("{what} {mode:o} {member} {fsetid}");
            // Before any but truncate(2) the client has set-user-id taken away.
            let after = if mode == 0o6745 && what.contains("truncate") { 0o2745 } else { after };
            assert_eq!(world.stored("a").2, after, "{case}");
            assert!(asked || lock(&world.processes.0).asked == 0, "{case}");
        }
    }
}

#[test]
fn reserved_blocks_are_for_root() {
    for (uid, reserve) in [(Some(0), true), (Some(100_000), false), (None, false)] {
        let by = Caller { uid: uid.and_then(Id::new), gid: Id::new(0), pid: 1 };
        assert_eq!(Fs::rights(&by, false).reserve, reserve);
    }
}
