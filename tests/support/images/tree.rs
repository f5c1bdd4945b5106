//! A tree with everything in it that readers of images get wrong.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::sys::stat::makedev;

use super::{Contents, Format};
use crate::support::raw;
use crate::support::rng::Rng;

/// Names in the directory of many.
pub const MANY: usize = 20_000;

/// The size of the huge file; but for a few bytes it is a hole.
pub const HUGE: u64 = 5 << 30;

/// Where the huge file has its bytes.
pub const ISLANDS: [u64; 4] = [0, (1 << 32) - 3, (4 << 30) + 12_345, HUGE - (64 << 10)];

/// Makes the tree in a directory that is there.
pub fn make(root: &Path, contents: Contents, format: Format) {
    match contents {
        Contents::Few => few(root),
        Contents::HugeAlone => huge(root),
        Contents::Whole => whole(root, format),
        Contents::Huge => {
            whole(root, format);
            huge(root);
        }
    }
}

fn whole(root: &Path, format: Format) {
    few(root);
    many(&dir(root, "many"), MANY);
    deep(&dir(root, "deep"), 120);
    small(&dir(root, "small"), 400);
    data(&dir(root, "data"));
    names(&dir(root, "names"), if format == Format::Erofs { 254 } else { 255 });
    links(&dir(root, "links"));
    attributes(&dir(root, "xattrs"));
    devices(&dir(root, "devices"));
    raw::utimens(root, [(1, 0), (-5, 0)], false).expect("the root's time");
}

fn dir(root: &Path, name: &str) -> std::path::PathBuf {
    let path = root.join(name);
    fs::create_dir_all(&path).expect("a directory");
    path
}

fn file(path: &Path, contents: &[u8]) {
    fs::write(path, contents).expect("a file");
}

/// Bytes that nothing packs.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let words = std::iter::repeat_with(|| rng.next().to_le_bytes());
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

/// Text that packs well, but not to nothing.
fn words(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let list = ["a ", "root ", "file ", "system ", "of ", "images\n", "0123456789 ", "zz"];
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        text.extend_from_slice(rng.pick(&list).as_bytes());
    }
    text.truncate(length);
    text
}

/// A few files of each kind.
fn few(root: &Path) {
    file(&root.join("empty"), b"");
    dir(root, "emptydir");
    file(&root.join("hello"), b"hello\n");
    fs::hard_link(root.join("hello"), root.join("hello again")).expect("a link");
    file(&root.join("text"), &words(1, 20_000));
    file(&root.join("noise"), &noise(2, 9_000));
    file(&root.join("run"), b"#!/bin/sh\necho ran as $(id -u)\n");
    raw::chmod(&root.join("run"), 0o755).expect("chmod");
    raw::symlink(Path::new("hello"), &root.join("link")).expect("a link");
    raw::mknod(&root.join("null"), libc::S_IFCHR | 0o666, makedev(1, 3)).expect("a node");
    raw::mknod(&root.join("fifo"), libc::S_IFIFO | 0o640, 0).expect("a fifo");
    owned(root);
    let sub = dir(root, "sub");
    for number in 0..8 {
        file(&sub.join(format!("f{number}")), &words(number, 100 * number as usize));
    }
    raw::set_xattr(&sub, "user.note", b"of a directory", 0).expect("an attribute");
    raw::set_xattr(&sub.join("f1"), "trusted.note", b"for root", 0).expect("an attribute");
    acls(&sub);
    capabilities(&sub);
}

/// Owners of all sizes, set-id files, times.
fn owned(root: &Path) {
    let ids = dir(root, "ids");
    for (name, uid, gid, mode) in [
        ("user", 1000, 1000, 0o640),
        ("daemon", 33, 4, 0o600),
        ("last", 65_535, 65_535, 0o644),
        ("nobody", 65_534, 65_534, 0o644),
        ("above", 65_536, 65_537, 0o644),
        ("half", 0x8000_0000, 0x7fff_ffff, 0o644),
        ("most", u32::MAX - 1, u32::MAX - 1, 0o644),
        ("setuid", 0, 0, 0o4755),
        ("setgid", 1000, 8, 0o2750),
        ("both", 33, 33, 0o7711),
        ("none", 7, 7, 0),
    ] {
        let path = ids.join(name);
        file(&path, name.as_bytes());
        raw::chown(&path, uid, gid, false).expect("chown");
        raw::chmod(&path, mode).expect("chmod");
    }
    let tmp = dir(&ids, "tmp");
    raw::chmod(&tmp, 0o1777).expect("chmod");
    let group = dir(&ids, "group");
    raw::chown(&group, 1000, 50, false).expect("chown");
    raw::chmod(&group, 0o2775).expect("chmod");
    for (name, seconds) in [("1901", -2_147_483_648), ("1969", -86_400), ("2100", 4_102_444_800)] {
        let path = ids.join(name);
        file(&path, name.as_bytes());
        let times = [(seconds, 123_456_789), (seconds, 987_654_321)];
        raw::utimens(&path, times, false).expect("times");
    }
}

fn many(root: &Path, count: usize) {
    for number in 0..count {
        file(&root.join(format!("{number:05}")), b"");
    }
}

fn deep(root: &Path, depth: usize) {
    let mut at = root.to_owned();
    for level in 0..depth {
        at.push("d");
        fs::create_dir(&at).expect("a directory");
        file(&at.join("here"), level.to_string().as_bytes());
    }
}

/// Files that share what they are stored in.
fn small(root: &Path, count: u64) {
    for number in 0..count {
        let length = (number * 37 % 3000) as usize;
        let contents = if number % 3 == 0 { noise(number, length) } else { words(number, length) };
        file(&root.join(number.to_string()), &contents);
    }
}

/// Files that pack in every way, with holes and without.
fn data(root: &Path) {
    file(&root.join("noise"), &noise(11, 3_000_001));
    file(&root.join("words"), &words(12, 5_000_003));
    file(&root.join("zeros"), &vec![0; 2_000_000]);
    file(&root.join("a"), b"a");
    for (name, length) in [("4095", 4095), ("4096", 4096), ("4097", 4097), ("131072", 131_072)] {
        file(&root.join(name), &words(13, length));
    }
    file(&root.join("131073"), &noise(14, 131_073));
    // Every other stretch packs, so that packed and plain ones meet.
    let mixed: Vec<u8> = (0..40)
        .flat_map(|n| if n % 2 == 0 { noise(n, 37_123) } else { words(n, 51_001) })
        .collect();
    file(&root.join("mixed"), &mixed);
    let repeated = noise(15, 100_000).repeat(8);
    file(&root.join("repeated"), &repeated);
    let holes = File::create(root.join("holes")).expect("a file");
    for at in [0, 40_000, 1 << 20, (3 << 20) - 7] {
        holes.write_all_at(&noise(at, 5_000), at).expect("a write");
    }
    let end = File::create(root.join("hole at the end")).expect("a file");
    end.write_all_at(&words(16, 10_000), 0).expect("a write");
    end.set_len(1_234_567).expect("a length");
    File::create(root.join("hole")).and_then(|file| file.set_len(300_001)).expect("a hole");
}

fn huge(root: &Path) {
    let huge = File::create(root.join("huge")).expect("a file");
    huge.set_len(HUGE).expect("a length");
    for at in ISLANDS {
        huge.write_all_at(&noise(at, 10_000), at).expect("a write");
    }
}

/// Names of any bytes; tools of erofs before 1.6 fail on one of 255.
fn names(root: &Path, longest: usize) {
    let longest = vec![b'x'; longest];
    let list: [&[u8]; 10] = [
        &longest,
        b"\xff\xfe\x80",
        b"caf\xe9",
        "caf\u{e9}".as_bytes(),
        b"a\nb",
        b" ",
        b"\\134",
        b"\x01\x7f\x1b[31m",
        b"-rf",
        b"...",
    ];
    for name in list {
        file(&root.join(OsStr::from_bytes(name)), name);
    }
    let mut longest = longest;
    longest[0] = b'y';
    fs::create_dir(root.join(OsStr::from_bytes(&longest))).expect("a directory");
}

fn links(root: &Path) {
    for length in [1, 2, 58, 59, 60, 61, 255, 256, 257, 900, 1000, 1023] {
        let target = vec![b't'; length];
        raw::symlink(Path::new(OsStr::from_bytes(&target)), &root.join(length.to_string()))
            .expect("a link");
    }
    for length in [1024, 2000, 4000] {
        let target = vec![b't'; length];
        // An ext4 with blocks of 1 KiB has no room for it.
        let _ = raw::symlink(Path::new(OsStr::from_bytes(&target)), &root.join(length.to_string()));
    }
    raw::symlink(Path::new(OsStr::from_bytes(b"\xff\n ")), &root.join("bytes")).expect("a link");
    let owned = root.join("owned");
    raw::symlink(Path::new("."), &owned).expect("a link");
    raw::chown(&owned, 1000, u32::MAX - 1, false).expect("chown");
    raw::utimens(&owned, [(5, 0), (1_000_000_000, 0)], false).expect("times");
    raw::set_xattr(&owned, "trusted.of-a-link", b"1", 0).expect("an attribute");
    let first = root.join("one");
    file(&first, b"many names");
    for number in 0..30 {
        fs::hard_link(&first, root.join(format!("name {number}"))).expect("a link");
    }
}

fn attributes(root: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let path = root.join(name);
        if !path.exists() {
            file(&path, name.as_bytes());
        }
        raw::set_xattr(&path, attribute, value, 0).map(drop)
    };
    let must = |name: &str, attribute: &str, value: &[u8]| {
        set(name, attribute, value).unwrap_or_else(|e| panic!("{name} {attribute}: {e}"));
    };
    must("empty", "user.empty", b"");
    must("binary", "user.binary", &[0, 1, 0xff, b'\n']);
    must("trusted", "trusted.overlay.opaque", b"y");
    must("security", "security.idmapfs", b"label");
    for number in 0..12 {
        must("several", &format!("user.name-{number}"), format!("value {number}").as_bytes());
    }
    // The same on many files, which share it.
    for number in 0..20 {
        must(&format!("same {number}"), "user.shared", &words(20, 200));
    }
    must("long", "user.long", &words(21, 700));
    must("long name", &format!("user.{}", "n".repeat(200)), b"1");
    // Only some file systems have room for this.
    let _ = set("large", "user.large", &noise(22, 3_500));
    let _ = set("huge", "user.huge", &noise(23, 30_000));
    acls(root);
    capabilities(root);
}

/// Entries of an ACL: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(tag, perm, id)| {
        let ([a, b], [c, d], [e, f, g, h]) =
            (tag.to_le_bytes(), perm.to_le_bytes(), id.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    });
    2_u32.to_le_bytes().into_iter().chain(entries).collect()
}

fn acls(root: &Path) {
    const NO: u32 = u32::MAX;
    let access = acl(&[
        (1, 6, NO),
        (2, 7, 33),
        (2, 4, 1000),
        (2, 2, 3_000_000_000),
        (4, 4, NO),
        (8, 5, 4),
        (0x10, 7, NO),
        (0x20, 0, NO),
    ]);
    let default =
        acl(&[(1, 7, NO), (2, 5, 1000), (4, 5, NO), (8, 7, 100_000), (0x10, 7, NO), (0x20, 1, NO)]);
    let path = root.join("with acl");
    file(&path, b"acl");
    raw::set_xattr(&path, "system.posix_acl_access", &access, 0).expect("an ACL");
    let path = dir(root, "dir with acl");
    raw::set_xattr(&path, "system.posix_acl_access", &access, 0).expect("an ACL");
    raw::set_xattr(&path, "system.posix_acl_default", &default, 0).expect("an ACL");
    let path = dir(root, "dir with default");
    raw::set_xattr(&path, "system.posix_acl_default", &default, 0).expect("an ACL");
}

fn capabilities(root: &Path) {
    let v2: [u32; 5] = [0x0200_0001, 0x2000, 0, 0, 0];
    let v3 = |root| [0x0300_0001_u32, 0x2000, 0, 0, 0, root];
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let list: [(&str, Vec<u8>); 4] = [
        ("cap 2", bytes(&v2)),
        ("cap 3", bytes(&v3(1000))),
        ("cap 3 of root", bytes(&v3(0))),
        ("cap 3 far", bytes(&v3(100_000))),
    ];
    for (name, value) in list {
        let path = root.join(name);
        file(&path, name.as_bytes());
        raw::set_xattr(&path, "security.capability", &value, 0).expect("a capability");
    }
}

fn devices(root: &Path) {
    for (name, kind, major, minor) in [
        ("char", libc::S_IFCHR, 5, 1),
        ("block", libc::S_IFBLK, 8, 17),
        ("big char", libc::S_IFCHR, 300, 70_000),
        ("big block", libc::S_IFBLK, 4095, 1_048_575),
        ("zero", libc::S_IFCHR, 0, 0),
    ] {
        raw::mknod(&root.join(name), kind | 0o620, makedev(major, minor)).expect("a node");
    }
    raw::mknod(&root.join("fifo"), libc::S_IFIFO | 0o600, 0).expect("a fifo");
    raw::mknod(&root.join("socket"), libc::S_IFSOCK | 0o755, 0).expect("a socket");
}
