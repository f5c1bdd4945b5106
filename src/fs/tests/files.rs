use super::open::Open;
use super::*;

#[test]
fn reads_and_writes_through_a_handle() {
    let world = World::new(MAP);
    let by = caller(100_001, 200_001);
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_TRUNC;
    let (file, handle) = world.fs.create(&by, world.root(), name("a"), 0o600, 0, flags).unwrap();
    let fs = &world.fs;
    assert_eq!(fs.write(&by, handle, Place::At(2), b"hello", true).unwrap(), 5);
    let mut buf = [1; 8];
    assert_eq!(fs.read(handle, 0, &mut buf).unwrap(), 7);
    assert_eq!(&buf[..7], b"\0\0hello");
    fs.fsync(handle, true).unwrap();
    fs.flush(handle, 1).unwrap();
    assert_eq!(fs.lseek(handle, 0, libc::SEEK_DATA).unwrap(), 0);
    assert_eq!(fs.lseek(handle, 0, libc::SEEK_HOLE).unwrap(), 7);
    assert_eq!(fs.lseek(handle, 0, libc::SEEK_END).unwrap_err(), Error::Invalid);
    assert!(fs.lseek(handle, 7, libc::SEEK_DATA).unwrap_err().is(libc::ENXIO));
    fs.fallocate(&by, handle, 0, 0, 100).unwrap();
    assert_eq!(fs.getattr(&caller(0, 0), file.node, None).unwrap().size, 100);
    fs.release(handle, None);
    fs.release(handle, None);
    assert_eq!(fs.read(handle, 0, &mut buf).unwrap_err(), Error::Unknown);
    assert_eq!(fs.flush(handle, 1).unwrap_err(), Error::Unknown);
}

#[test]
fn a_write_says_where_it_goes_however_its_file_was_opened() {
    let world = World::new(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    let opened = [libc::O_APPEND, 0].map(|flags| world.open(file.node, libc::O_RDWR | flags));
    let by = caller(1, 1);
    for handle in opened {
        let handle = handle.unwrap();
        let size = world.look("a").unwrap().attr.size;
        world.fs.write(&by, handle, Place::End, b"one", true).unwrap();
        world.fs.write(&by, handle, Place::End, b"two", true).unwrap();
        world.fs.write(&by, handle, Place::At(size + 1), b"NE", true).unwrap();
        world.fs.write_back(handle, size, b"O").unwrap();
        assert_eq!(world.look("a").unwrap().attr.size, size + 6);
        let mut buf = [0; 7];
        assert_eq!(world.fs.read(handle, size, &mut buf).unwrap(), 6);
        assert_eq!(&buf, b"ONEtwo\0");
    }
}

#[test]
fn opens_do_not_empty_files() {
    let world = World::new(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    let handle = world.open(file.node, libc::O_RDWR).unwrap();
    world.fs.write(&caller(1, 1), handle, Place::At(0), b"data", true).unwrap();
    world.open(file.node, libc::O_RDWR | libc::O_TRUNC).unwrap();
    assert_eq!(world.look("a").unwrap().attr.size, 4);
}

#[test]
fn what_is_there_already_is_never_made_or_opened() {
    let world = World::new(IDENTITY);
    world.disk_file("a", (1, 1), 0o600);
    let by = caller(2, 2);
    let cases = [(libc::O_RDWR, Error::Stale), (libc::O_EXCL, os(libc::EEXIST))];
    for (flags, error) in cases {
        let made = world.fs.create(&by, world.root(), name("a"), 0o666, 0, flags);
        assert_eq!(made.unwrap_err(), error);
    }
    assert_eq!(world.stored("a"), (1, 1, 0o600));
}

#[test]
fn copies_stay_within_the_source() {
    let (world, other) = (World::new(IDENTITY), World::new(IDENTITY));
    let a = world.file("a", (1, 1), 0o644);
    let by = caller(1, 1);
    let from = world.open(a.node, libc::O_RDWR).unwrap();
    world.fs.write(&by, from, Place::At(0), b"data", true).unwrap();
    let b = world.file("b", (1, 1), 0o644);
    let to = world.open(b.node, libc::O_RDWR).unwrap();
    assert_eq!(world.fs.copy_file_range(&by, (from, 1), (to, 0), 10).unwrap(), 3);
    // A file of another source, as another volume would be.
    let c = other.file("c", (1, 1), 0o644);
    let far = other.fs.opens.get(other.open(c.node, libc::O_RDWR).unwrap()).unwrap();
    let far = Open::new(
        b.node,
        Arc::clone(&far.file),
        libc::O_RDWR,
        None,
        world.fs.opens.share(&by).unwrap(),
    );
    let far = world.fs.opens.insert(far);
    let copied = world.fs.copy_file_range(&by, (from, 0), (far, 0), 4);
    assert!(copied.unwrap_err().is(libc::EXDEV));
}

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;
const NODUMP: u32 = 0x40;
const IMMUTABLE: u32 = 0x10;

#[test]
fn inode_flags_are_for_the_owner_and_the_capable() {
    let (owner, root, stranger) =
        (caller(100_001, 200_001), caller(0, 0), caller(100_002, 200_001));
    let cases = [
        (owner, NODUMP, true),
        (root, NODUMP, true),
        (stranger, NODUMP, false),
        (owner, IMMUTABLE, false),
        (root, IMMUTABLE | NODUMP, true),
        (stranger, IMMUTABLE, false),
    ];
    for (by, flags, allowed) in cases {
        for directory in [false, true] {
            let world = World::new(MAP);
            lock(&world.processes.0).capable.insert(0);
            let handle = if directory {
                world.fs.opendir(&by, world.dir("d", (1, 1), 0o755).node).unwrap()
            } else {
                world.open(world.file("a", (1, 1), 0o644).node, libc::O_RDONLY).unwrap()
            };
            let ioctl =
                |command, input: &[u8]| world.fs.ioctl(&by, handle, directory, command, input);
            let set = ioctl(SET_FLAGS, &flags.to_ne_bytes());
            let expected = if allowed { Ok(Vec::new()) } else { Err(Error::Denied) };
            assert_eq!(set, expected, "{by:?} {flags:x} {directory}");
            let now = if allowed { flags } else { 0 };
            assert_eq!(ioctl(GET_FLAGS, &[]).unwrap(), now.to_ne_bytes());
            let extended = ioctl(GET_EXTENDED, &[]).unwrap();
            assert_eq!(extended.len(), 28);
            let again = ioctl(SET_EXTENDED, &extended);
            assert_eq!(again.is_ok(), by != stranger, "{by:?} {flags:x}");
        }
    }
}

#[test]
fn inode_flags_of_unmapped_owners_are_nobodys() {
    let world = World::new(MAP);
    let file = world.file("a", (5000, 1), 0o666);
    let handle = world.open(file.node, libc::O_RDONLY).unwrap();
    for by in [caller(0, 0), Caller { uid: None, gid: None, pid: 1 }] {
        let set = world.fs.ioctl(&by, handle, false, SET_FLAGS, &NODUMP.to_ne_bytes());
        assert_eq!(set.unwrap_err(), Error::Denied);
    }
}

#[test]
fn other_ioctls_are_not_known() {
    let world = World::new(IDENTITY);
    let file = world.file("a", (1, 1), 0o644);
    let handle = world.open(file.node, libc::O_RDONLY).unwrap();
    // TCGETS, FS_IOC32_SETFLAGS, FICLONE
    for command in [0x5401, 0x4004_6602, 0x4004_9409] {
        let result = world.fs.ioctl(&caller(1, 1), handle, false, command, &[0; 28]);
        assert!(result.unwrap_err().is(libc::ENOTTY), "{command:x}");
    }
    let short = world.fs.ioctl(&caller(1, 1), handle, false, SET_FLAGS, &[0; 3]);
    assert_eq!(short.unwrap_err(), Error::Invalid);
}
