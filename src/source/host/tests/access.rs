//! Opening a source, looking up, reading and writing.

use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::attr::{FileKind, Time};
use crate::error::Error;
use crate::id::Id;
use crate::source::host::HostError;
use crate::source::{Change, File, InodeFlags, InodeFlagsKind, SetTime, XattrSet};

#[test]
fn what_is_no_source_is_named() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("file"), "").unwrap();
    let open = |path: &Path| Host::open(path, &HostOptions::default()).unwrap_err();
    let missing = open(&fixture.at("mis\nsing"));
    assert!(matches!(missing, HostError::Missing(_)), "{missing:?}");
    assert!(missing.to_string().contains("mis\\nsing: no such directory"), "{missing}");
    assert!(matches!(open(&fixture.at("file")), HostError::NotDirectory(_)));
}

#[test]
fn files_are_found_read_and_written() {
    let fixture = Fixture::plain();
    let odd = OsStr::from_bytes(b"\xff\n \\");
    fs::write(fixture.path().join(odd), "hello").unwrap();
    let host = fixture.host();
    let top = root(&host);
    let found = host.lookup(&top, name(odd)).unwrap();
    assert_eq!((found.attr.kind, found.attr.size), (FileKind::Regular, 5));
    let node = host.open_by_name(&top, name(odd), &found.key).unwrap();
    let file = host.open(&node, libc::O_RDWR | libc::O_TRUNC | libc::O_DIRECT).unwrap();
    let mut buf = [0; 16];
    assert_eq!(file.read(1, &mut buf), Ok(4));
    assert_eq!(&buf[..4], b"ello");
    assert_eq!(file.write(Place::At(5), b" world", PLAIN), Ok(6));
    assert_eq!(file.read(20, &mut buf), Ok(0));
    assert_eq!(file.getattr().unwrap().size, 11);
    file.sync(true).unwrap();
    file.flush().unwrap();
    let missing = host.lookup(&top, name("missing")).unwrap_err();
    assert!(missing.is(libc::ENOENT));
    assert!(host.lookup(&node, name("x")).unwrap_err().is(libc::ENOTDIR));
}

#[test]
fn file_systems_without_files_on_disk_can_be_read() {
    for path in ["/proc", "/sys", "/dev"] {
        let host = Host::open(Path::new(path), &HostOptions::default()).unwrap();
        let top = root(&host);
        let dir = host.opendir(&top).unwrap();
        let mut names = Vec::new();
        dir.read(0, &mut |entry| {
            names.push(entry.name.to_os_string());
            ControlFlow::Continue(())
        })
        .unwrap();
        let mut held = 0;
        for entry in names.iter().filter_map(|name| Name::new(name).ok()) {
            // Processes come and go.
            let Ok(found) = host.lookup(&top, entry) else { continue };
            held += u32::from(host.open_by_name(&top, entry, &found.key).is_ok());
        }
        assert!(held > 0, "{path}");
    }
    let host = Host::open(Path::new("/proc"), &HostOptions::default()).unwrap();
    let file = host.open(&walk(&host, "uptime").0, libc::O_RDONLY).unwrap();
    assert!(file.read(0, &mut [0; 10]).unwrap() > 5);
}

#[test]
fn appends_go_to_the_end_and_pages_to_their_place() {
    let fixture = Fixture::plain();
    let path = fixture.at("log");
    fs::write(&path, "one").unwrap();
    let host = fixture.host();
    let (node, _) = walk(&host, "log");
    let file = host.open(&node, libc::O_RDWR | libc::O_APPEND).unwrap();
    outside(|| fs::write(&path, "one two")).unwrap();
    // The caller's kernel still believes in three bytes.
    assert_eq!(file.write(Place::End, b" three", PLAIN), Ok(6));
    assert_eq!(file.write(Place::At(0), b"ONE", PLAIN), Ok(3));
    assert_eq!(fs::read_to_string(&path).unwrap(), "ONE two three");
}

#[test]
fn another_file_of_the_name_is_stale() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("a"), "").unwrap();
    let host = fixture.host();
    let top = root(&host);
    let found = host.lookup(&top, name("a")).unwrap();
    outside(|| {
        fs::write(fixture.at("b"), "").unwrap();
        fs::rename(fixture.at("b"), fixture.at("a")).unwrap();
    });
    assert_eq!(host.open_by_name(&top, name("a"), &found.key).unwrap_err(), Error::Stale);
    outside(|| fs::remove_file(fixture.at("a"))).unwrap();
    assert_eq!(host.open_by_name(&top, name("a"), &found.key).unwrap_err(), Error::Stale);
}

#[test]
fn only_regular_files_are_opened() {
    let fixture = Fixture::plain();
    nix::unistd::mkfifo(&fixture.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("fifo", fixture.at("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fixture.at("socket")).unwrap();
    fs::create_dir(fixture.at("dir")).unwrap();
    let host = fixture.host();
    let cases = [
        ("fifo", libc::ENXIO),
        ("socket", libc::ENXIO),
        ("link", libc::ELOOP),
        ("dir", libc::EISDIR),
    ];
    for (entry, errno) in cases {
        let (node, _) = walk(&host, entry);
        assert!(host.open(&node, libc::O_RDONLY).unwrap_err().is(errno), "{entry}");
    }
    let (link, _) = walk(&host, "link");
    assert_eq!(host.readlink(&link).unwrap(), "fifo");
    assert!(host.opendir(&link).unwrap_err().is(libc::ENOTDIR));
}

#[test]
fn attributes_change_together() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    fs::write(fixture.at("f"), "12345").unwrap();
    let host = fixture.host();
    let (node, _) = walk(&host, "f");
    let before_1970 = Time { sec: -86_400, nsec: 5 };
    let change = Change {
        uid: Id::new(4_294_967_294),
        gid: Id::new(4_000_000_000),
        mode: Some(Mode::new(0o6755)),
        size: Some(2),
        atime: Some(SetTime::At(before_1970)),
        mtime: Some(SetTime::Now),
    };
    let attr = host.setattr(&node, None, &change, PLAIN).unwrap();
    assert_eq!(attr.owner, ids(4_294_967_294, 4_000_000_000).into());
    // The new size takes set-id bits away again, as from any ordinary caller.
    assert_eq!((attr.mode.bits(), attr.size, attr.atime), (0o755, 2, before_1970));
    assert!(attr.mtime.sec > 0 && attr.btime.is_some());
}

#[test]
fn symbolic_links_have_attributes_of_their_own() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::plain();
    fs::write(fixture.at("f"), "").unwrap();
    std::os::unix::fs::symlink("f", fixture.at("link")).unwrap();
    let host = fixture.host();
    let (link, _) = walk(&host, "link");
    let time = Time { sec: 17, nsec: 3 };
    let change = Change { uid: Id::new(7), mtime: Some(SetTime::At(time)), ..Change::default() };
    let attr = host.setattr(&link, None, &change, PLAIN).unwrap();
    assert_eq!((attr.owner.uid, attr.mtime), (Id::new(7), time));
    let mode = Change { mode: Some(Mode::new(0o600)), ..Change::default() };
    assert!(host.setattr(&link, None, &mode, PLAIN).unwrap_err().is(libc::EOPNOTSUPP));
    assert_eq!(on_disk(&fixture.at("f")).0, 0);
    let twin = host.link(&link, &root(&host), name("twin"), PLAIN).unwrap();
    assert_eq!((twin.attr.kind, twin.attr.nlink), (FileKind::Symlink, 2));
}

#[test]
fn attributes_with_names() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("f"), "").unwrap();
    let host = fixture.host();
    let (node, _) = walk(&host, "f");
    let key = OsStr::new("user.key");
    let big = vec![b'x'; 2000];
    match host.set_xattr(&node, key, Some(&big), XattrSet::Replace, PLAIN) {
        Err(error) if error.is(libc::EOPNOTSUPP) => return eprintln!("SKIP: no user xattrs here"),
        done => assert!(done.unwrap_err().is(libc::ENODATA)),
    }
    host.set_xattr(&node, key, Some(&big), XattrSet::Create, PLAIN).unwrap();
    assert!(
        host.set_xattr(&node, key, Some(b""), XattrSet::Create, PLAIN)
            .unwrap_err()
            .is(libc::EEXIST)
    );
    assert_eq!(host.xattr(&node, key).unwrap(), big);
    assert_eq!(host.xattrs(&node).unwrap(), [key]);
    host.set_xattr(&node, key, None, XattrSet::Any, PLAIN).unwrap();
    assert!(host.xattr(&node, key).unwrap_err().is(libc::ENODATA));
    for special in ["system.posix_acl_access", "security.capability"] {
        assert_eq!(host.xattr(&node, OsStr::new(special)), Err(Error::Unsupported));
    }
}

#[test]
fn room_is_made_found_and_copied() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("a"), "data").unwrap();
    fs::write(fixture.at("b"), "").unwrap();
    let host = fixture.host();
    let open = |entry| -> Arc<dyn File> { host.open(&walk(&host, entry).0, libc::O_RDWR).unwrap() };
    let (a, b) = (open("a"), open("b"));
    assert_eq!(a.copy_to(1, &*b, 2, 3, PLAIN), Ok(3));
    assert_eq!(fs::read(fixture.at("b")).unwrap(), b"\0\0ata");
    b.allocate(0, 0, 10, PLAIN).unwrap();
    assert_eq!(b.getattr().unwrap().size, 10);
    assert_eq!(b.allocate(1 << 20, 0, 1, PLAIN), Err(Error::Unsupported));
    assert_eq!(a.seek(0, libc::SEEK_DATA), Ok(0));
    assert_eq!(a.seek(0, libc::SEEK_HOLE), Ok(4));
    assert!(a.seek(9, libc::SEEK_DATA).unwrap_err().is(libc::ENXIO));
    assert_eq!(a.seek(0, libc::SEEK_SET), Err(Error::Invalid));
    match a.inode_flags(InodeFlagsKind::Flags) {
        Ok(InodeFlags::Flags(flags)) => {
            a.set_inode_flags(&InodeFlags::Flags(flags | 0x80)).unwrap();
            let now = a.inode_flags(InodeFlagsKind::Flags).unwrap();
            assert_eq!(now, InodeFlags::Flags(flags | 0x80));
            let extended = a.inode_flags(InodeFlagsKind::Extended).unwrap();
            a.set_inode_flags(&extended).unwrap();
        }
        other => assert!(other.unwrap_err().is(libc::ENOTTY)),
    }
}
