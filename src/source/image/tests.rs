//! The source of an image, on an image that is made up.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{About, Contents, Device, Entry, Image, ImageSource, Nid, Part};
use crate::acl::AclKind;
use crate::attr::{Attr, FileKind, Mode, Name, Time};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Ids};
use crate::source::{
    Dir, DirEntry, File as SourceFile, Lock, LockKind, NewKind, Node, Source, Statfs,
};
use crate::sync::lock;

/// How many bytes are packed together.
const PIECE: u64 = 1000;

/// The first bytes of a file, which are not packed.
const PLAIN: u64 = 10;

/// The size of the file.
const SIZE: u64 = 2500;

/// A larger file: its number, its size, and how many bytes of it are packed together.
const LONG: Nid = Nid(220);
const LONG_SIZE: u64 = 4 << 20;
const LONG_PIECE: u64 = 100_000;

/// An image with a directory and a file.
#[derive(Debug)]
struct Made {
    about: About,
    unpacked: Arc<AtomicUsize>,
    late: Arc<Late>,
}

/// The file of an image that is to change while the next thing is read.
#[derive(Debug, Default)]
struct Late(Mutex<Option<File>>);

impl Late {
    fn is_over(&self) {
        if let Some(file) = lock(&self.0).take() {
            file.set_len(1).unwrap();
        }
    }
}

impl Made {
    fn new() -> Self {
        let about = About {
            format: "made",
            features: Vec::new(),
            codecs: Vec::new(),
            block: 4096,
            used: 0,
            files: Some(2),
            label: None,
            uuid: None,
            acl: true,
            notes: Vec::new(),
        };
        Self { about, unpacked: Arc::default(), late: Arc::default() }
    }
}

impl Image for Made {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> Nid {
        Nid(100)
    }

    fn attr(&self, nid: Nid) -> Result<Attr<Disk>> {
        self.late.is_over();
        let dir = nid == self.root();
        Ok(Attr {
            ino: nid.0 / 10,
            kind: if dir { FileKind::Directory } else { FileKind::Regular },
            mode: Mode::new(0o755),
            nlink: 2,
            owner: Ids::new(1, 2).unwrap().into(),
            rdev: 0,
            size: if nid == LONG { LONG_SIZE } else { SIZE },
            blocks: 8,
            blksize: 4096,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            locked: false,
            encrypted: false,
        })
    }

    fn list(&self, _dir: Nid) -> Result<Vec<Entry>> {
        self.late.is_over();
        let names = ["zz", "file", "aa"].into_iter().zip([200, 210, 220]);
        let entry = |(name, nid): (&str, u64)| Entry {
            name: name.into(),
            nid: Nid(nid),
            ino: nid / 10,
            kind: Some(FileKind::Regular),
        };
        Ok(names.map(entry).collect())
    }

    fn readlink(&self, _nid: Nid) -> Result<OsString> {
        self.late.is_over();
        Ok("target".into())
    }

    fn xattrs(&self, _nid: Nid) -> Result<Vec<(OsString, Vec<u8>)>> {
        self.late.is_over();
        let acl = [2, 0, 0, 0].to_vec();
        Ok(vec![("user.a".into(), b"value".to_vec()), (AclKind::Access.xattr().into(), acl)])
    }

    fn open(&self, nid: Nid) -> Result<Box<dyn Contents>> {
        let (size, piece) = if nid == LONG { (LONG_SIZE, LONG_PIECE) } else { (SIZE, PIECE) };
        let (broken, unpacked) = (nid == Nid(200), Arc::clone(&self.unpacked));
        let late = Arc::clone(&self.late);
        Ok(Box::new(Pieces { size, piece, broken, unpacked, late }))
    }

    fn statfs(&self) -> Statfs {
        Statfs {
            blocks: 1,
            bfree: 0,
            bavail: 0,
            files: 2,
            ffree: 0,
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
        }
    }
}

#[derive(Debug)]
struct Pieces {
    size: u64,
    piece: u64,
    broken: bool,
    unpacked: Arc<AtomicUsize>,
    late: Arc<Late>,
}

/// Returns the byte at an offset.
fn byte(offset: u64) -> u8 {
    u8::try_from(offset % 251).unwrap()
}

impl Contents for Pieces {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.late.is_over();
        let most = usize::try_from(PLAIN - offset).unwrap().min(buf.len());
        for (to, at) in buf[..most].iter_mut().zip(offset..) {
            *to = byte(at);
        }
        Ok(most)
    }

    fn packed(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let piece = offset / self.piece * self.piece;
        let range = piece.max(PLAIN)..(piece + self.piece).min(self.size);
        Ok((offset >= PLAIN).then_some(range))
    }

    fn unpack(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.late.is_over();
        self.unpacked.fetch_add(1, Ordering::Relaxed);
        if self.broken {
            return Err(Error::Os(Errno(libc::EIO)));
        }
        Ok(range.map(byte).collect())
    }
}

/// A source, and the file that it would be in.
fn source() -> (ImageSource, tempfile::NamedTempFile, Arc<AtomicUsize>) {
    source_with(1 << 20)
}

fn source_with(cache: u64) -> (ImageSource, tempfile::NamedTempFile, Arc<AtomicUsize>) {
    let image = Made::new();
    let unpacked = Arc::clone(&image.unpacked);
    let (source, file) = source_of(image, cache);
    (source, file, unpacked)
}

fn source_of(image: Made, cache: u64) -> (ImageSource, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"image").unwrap();
    let device = Device::open(file.path(), Part::default()).unwrap();
    (ImageSource::new(Arc::new(image), Arc::new(device), cache), file)
}

fn reach(source: &ImageSource, name: &str) -> Node {
    let (root, _) = source.root().unwrap();
    source.reach(&root, Name::new(OsStr::new(name)).unwrap()).unwrap().0
}

#[test]
fn bytes_are_read_across_pieces_and_unpacked_once() {
    let (source, _file, unpacked) = source();
    let file = source.open(&reach(&source, "file"), libc::O_RDONLY).unwrap();
    for (offset, length, expected) in
        [(0, 2500, 2500), (5, 10, 10), (995, 10, 10), (2490, 100, 10), (2500, 5, 0), (9999, 5, 0)]
    {
        let mut buf = vec![0xee; length];
        let read = file.read(offset, &mut buf).unwrap();
        assert_eq!(read, expected, "at {offset}");
        assert!(buf[..read].iter().zip(offset..).all(|(got, at)| *got == byte(at)), "at {offset}");
    }
    assert_eq!(unpacked.load(Ordering::Relaxed), 3);
}

#[test]
fn what_is_far_behind_who_reads_on_and_on_is_given_up() {
    let (source, _file, _) = source_with(64 << 20);
    let file = source.open(&reach(&source, "aa"), libc::O_RDONLY).unwrap();
    let read = |offset: u64, length: u64| {
        let mut buf = vec![0; usize::try_from(length).unwrap()];
        assert_eq!(file.read(offset, &mut buf).map(u64::try_from), Ok(Ok(length)));
        assert!(buf.iter().copied().eq((offset..offset + length).map(byte)), "at {offset}");
    };
    // The kernel sends two at once; the later one may be answered first.
    for offset in (0..LONG_SIZE).step_by(128 << 10) {
        let middle = offset + (64 << 10);
        read(middle, 64 << 10);
        read(offset, 64 << 10);
    }
    let last = LONG_SIZE / LONG_PIECE * LONG_PIECE;
    assert!(source.keeps(LONG, last) && source.keeps(LONG, last - 5 * LONG_PIECE));
    for piece in 0..20 {
        assert!(!source.keeps(LONG, (piece * LONG_PIECE).max(PLAIN)), "{piece}");
    }
    read(20, 10);
    assert!(source.keeps(LONG, PLAIN));
}

#[test]
fn what_cannot_be_unpacked_is_an_error_of_whoever_reads_it() {
    let (source, _file, _) = source();
    let file = source.open(&reach(&source, "zz"), libc::O_RDONLY).unwrap();
    assert_eq!(file.read(0, &mut [0; 10]), Ok(10));
    for _ in 0..3 {
        assert!(file.read(0, &mut [0; 11]).unwrap_err().is(libc::EIO));
    }
}

#[test]
fn names_come_in_the_order_of_the_image_from_any_of_them() {
    let (source, _file, _) = source();
    let (root, found) = source.root().unwrap();
    assert_eq!(found.key.ino, 10);
    let dir = source.opendir(&root).unwrap();
    let all = names(&*dir, 0);
    assert_eq!(
        all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [".", "..", "zz", "file", "aa"]
    );
    for (index, (_, next)) in all.iter().enumerate() {
        assert_eq!(names(&*dir, *next), all[index + 1..]);
    }
}

#[test]
fn a_listing_has_the_files_that_a_lookup_finds() {
    let (source, _file, _) = source();
    let (root, _) = source.root().unwrap();
    let mut seen = 0;
    let each = &mut |entry: DirEntry<'_>| {
        if let Some(found) = entry.found {
            let lookup = source.lookup(&root, Name::new(entry.name).unwrap()).unwrap();
            let same = (&found.key, &found.handle, found.attr);
            assert_eq!(same, (&lookup.key, &lookup.handle, lookup.attr));
            seen += 1;
        }
        ControlFlow::Continue(())
    };
    source.opendir(&root).unwrap().read(0, each).unwrap();
    assert_eq!(seen, 3);
}

fn names(dir: &dyn Dir, offset: u64) -> Vec<(String, u64)> {
    let mut names = Vec::new();
    dir.read(offset, &mut |entry| {
        names.push((entry.name.to_str().unwrap().to_owned(), entry.next));
        ControlFlow::Continue(())
    })
    .unwrap();
    names
}

#[test]
fn files_are_found_by_their_handle() {
    let (source, _file, _) = source();
    let (root, _) = source.root().unwrap();
    let found = source.lookup(&root, Name::new(OsStr::new("aa")).unwrap()).unwrap();
    let node = source.open_by_key(&found.key, found.handle.as_ref().unwrap(), FileKind::Regular);
    assert_eq!(source.getattr(&node.unwrap()).unwrap().ino, 22);
    let none = source.lookup(&root, Name::new(OsStr::new("none")).unwrap());
    assert!(none.unwrap_err().is(libc::ENOENT));
}

#[test]
fn a_file_is_read_by_its_path() {
    let (source, _file, _) = source();
    let read = |path: &str| source.contents(Path::new(path), 3000);
    assert!(read("file").unwrap().into_iter().eq((0..SIZE).map(byte)));
    for (path, errno) in
        [("none", libc::ENOENT), ("file/x", libc::ENOTDIR), ("../file", libc::EINVAL)]
    {
        assert!(read(path).unwrap_err().is(errno), "{path}");
    }
    assert!(source.contents(Path::new("file"), 2499).unwrap_err().is(libc::EFBIG));
}

#[test]
fn attributes_are_those_of_the_image() {
    let (source, _file, _) = source();
    let node = reach(&source, "file");
    assert_eq!(source.xattr(&node, OsStr::new("user.a")).unwrap(), b"value");
    assert!(source.xattr(&node, OsStr::new("user.b")).unwrap_err().is(libc::ENODATA));
    assert_eq!(source.xattrs(&node).unwrap().len(), 2);
    assert_eq!(source.acl(&node, AclKind::Default).unwrap(), None);
    assert_eq!(source.capability(&node).unwrap(), None);
}

#[test]
fn nothing_can_be_changed() {
    let (source, _file, _) = source();
    let node = reach(&source, "file");
    let refused = source.open(&node, libc::O_RDWR).unwrap_err();
    assert!(refused.is(libc::EROFS));
    let (root, _) = source.root().unwrap();
    let name = Name::new(OsStr::new("new")).unwrap();
    let new = crate::source::New {
        what: NewKind::Directory,
        owner: Ids::new(0, 0).unwrap(),
        mode: Mode::new(0o755),
        umask: 0,
        reserve: false,
        prepare: None,
    };
    assert!(source.create(&root, name, &new).unwrap_err().is(libc::EROFS));
    assert!(source.unlink(&root, name).unwrap_err().is(libc::EROFS));
}

#[test]
fn callers_lock_each_other_out() {
    let (source, _file, _) = source();
    let file = source.open(&reach(&source, "file"), libc::O_RDONLY).unwrap();
    let (one, other) = (file.locks().unwrap(), file.locks().unwrap());
    let lock = Lock { kind: LockKind::Exclusive, start: 0, end: 9, pid: 0 };
    one.set(&lock).unwrap();
    assert!(other.set(&lock).unwrap_err().is(libc::EAGAIN));
    drop(one);
    other.set(&lock).unwrap();
}

#[test]
fn nothing_is_shown_any_more_once_the_image_has_changed() {
    let (source, file, _) = source();
    let node = reach(&source, "file");
    let open = source.open(&node, libc::O_RDONLY).unwrap();
    let mut buf = [0; 2500];
    open.read(0, &mut buf).unwrap();
    file.as_file().set_len(1).unwrap();
    for error in [
        open.read(100, &mut buf).unwrap_err(),
        source.getattr(&node).unwrap_err(),
        source.root().unwrap_err(),
        source.xattrs(&node).unwrap_err(),
    ] {
        assert!(error.is(libc::EIO), "{error}");
    }
}

#[test]
fn nothing_is_shown_that_was_read_as_the_image_changed() {
    type Ask = fn(&ImageSource, &(Node, Node, Arc<dyn SourceFile>, Arc<dyn Dir>)) -> Option<Error>;
    let all: [(&str, Ask); 10] = [
        ("root", |source, _| source.root().err()),
        ("lookup", |source, (root, ..)| {
            source.lookup(root, Name::new(OsStr::new("aa")).unwrap()).err()
        }),
        ("getattr", |source, (_, node, ..)| source.getattr(node).err()),
        ("readlink", |source, (_, node, ..)| source.readlink(node).err()),
        ("xattrs", |source, (_, node, ..)| source.xattrs(node).err()),
        ("acl", |source, (_, node, ..)| source.acl(node, AclKind::Access).err()),
        ("open", |source, (_, node, ..)| source.open(node, libc::O_RDONLY).err()),
        ("opendir", |source, (root, ..)| source.opendir(root).err()),
        ("read", |_, (.., file, _)| file.read(0, &mut [0; 100]).err()),
        ("readdir", |_, (.., dir)| {
            let each = &mut |entry: DirEntry<'_>| {
                assert!(matches!(entry.name.as_encoded_bytes(), b"." | b".."), "{entry:?}");
                ControlFlow::Continue(())
            };
            dir.read(0, each).err()
        }),
    ];
    for (what, ask) in all {
        let image = Made::new();
        let late = Arc::clone(&image.late);
        let (source, file) = source_of(image, 1 << 20);
        let (root, node) = (source.root().unwrap().0, reach(&source, "file"));
        let open = source.open(&node, libc::O_RDONLY).unwrap();
        let dir = source.opendir(&root).unwrap();
        let known = (root, node, open, dir);
        *lock(&late.0) = Some(file.reopen().unwrap());
        // What is kept is no more than what is read to be shown then.
        for _ in 0..2 {
            assert!(ask(&source, &known).is_some_and(|error| error.is(libc::EIO)), "{what}");
        }
        assert!(lock(&late.0).is_none(), "{what} reads nothing");
    }
}

/// Whoever writes to it may set its time back before the next request.
#[test]
fn an_image_that_changes_while_it_is_read_ahead_is_read_no_more() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"image").unwrap();
    let device = Arc::new(Device::open(file.path(), Part::default()).unwrap());
    let image = Made::new();
    let (late, unpacked) = (Arc::clone(&image.late), Arc::clone(&image.unpacked));
    let source = ImageSource::new(Arc::new(image), Arc::clone(&device), 4 << 20);
    let open = source.open(&reach(&source, "aa"), libc::O_RDONLY).unwrap();
    let wait = |is: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    open.read(20, &mut [0; 10]).unwrap();
    wait(&|| unpacked.load(Ordering::Relaxed) == 11 && source.keeps(LONG, 10 * LONG_PIECE));
    *lock(&late.0) = Some(file.reopen().unwrap());
    // What it needs is there, and what follows is not.
    open.read(LONG_PIECE, &mut [0; 10]).unwrap();
    wait(&|| device.read(0, &mut [0]).is_err());
}
