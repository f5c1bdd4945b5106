//! Images made by `mke2fs -d` from trees that are known.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::attr::{FileKind, Time};
use crate::source::image::{Part, Stretch};

/// How names are hashed, whether with signs (1) or without (2), and how the kernel
/// lists them on a mount of such an image.
const ORDERS: [(&str, u32, &str); 4] = [
    ("half_md4", 1, "again über cedar beech ash elm fir"),
    ("tea", 1, "fir über beech again elm ash cedar"),
    ("tea", 2, "fir beech again elm ash über cedar"),
    ("legacy", 2, "elm fir beech again ash cedar über"),
];

/// A directory with a tree and images of it.
struct Fixture {
    dir: TempDir,
}

/// Fills a file with bytes that are not the same in any two places.
fn bytes(length: u32) -> Vec<u8> {
    (0..length).flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_be_bytes()).step_by(3).collect()
}

impl Fixture {
    /// Makes a tree; `None` where there is no `mke2fs`.
    fn new() -> Option<Self> {
        if Command::new("mke2fs").arg("-V").output().is_err() {
            eprintln!("SKIP: needs mke2fs");
            return None;
        }
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        let tree = fixture.tree();
        for dir in ["", "empty", "few", "many"] {
            fs::create_dir(tree.join(dir)).unwrap();
        }
        for length in [0, 1, 45, 80, 110, 800, 3072, 3073, 90_000] {
            fs::write(tree.join(format!("file{length}")), bytes(length)).unwrap();
        }
        let holes = fs::File::create(tree.join("holes")).unwrap();
        for at in [100_000, 3 << 20] {
            holes.write_all_at(&bytes(5000), at).unwrap();
        }
        for length in [1, 59, 60, 61, 130, 1000] {
            symlink("x".repeat(length), tree.join(format!("link{length}"))).unwrap();
        }
        for number in 0..3 {
            fs::write(tree.join("few").join(OsStr::from_bytes(&[0xff, b'a' + number])), "")
                .unwrap();
        }
        for number in 0..600 {
            fs::write(tree.join(format!("many/a longer name than needed {number}")), "").unwrap();
        }
        fs::hard_link(tree.join("file45"), tree.join("empty/again")).unwrap();
        Some(fixture)
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Makes an image with options as mke2fs(8) has them.
    fn image(&self, options: &str) -> PathBuf {
        let path = self.dir.path().join("image");
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F", "-t", "ext4", "-d"]).arg(self.tree());
        command.args(options.split_whitespace()).arg(&path).arg("32M");
        let out = command.output().unwrap();
        assert!(out.status.success(), "{options}: {}", String::from_utf8_lossy(&out.stderr));
        path
    }

    fn open(path: &Path) -> std::result::Result<Arc<dyn Image>, ImageError> {
        open(Arc::new(Device::open(path, Part::default()).unwrap()))
    }
}

/// Returns the entries of a directory by their names.
fn find(image: &dyn Image, dir: Nid, name: &OsStr) -> Nid {
    let found = image.list(dir).unwrap().into_iter().find(|entry| entry.name == name);
    found.unwrap_or_else(|| panic!("{}", name.display())).nid
}

fn read(contents: &dyn Contents, size: u64) -> Vec<u8> {
    let (mut all, mut buf, mut at) = (Vec::new(), vec![0; 50_001], 0);
    while let length @ 1.. = contents.read(at, &mut buf).unwrap() {
        all.extend_from_slice(&buf[..length]);
        at += u64::try_from(length).unwrap();
    }
    assert_eq!(at, size);
    assert_eq!(contents.read(u64::MAX, &mut buf).unwrap(), 0);
    all
}

/// Compares a directory of an image with the one it was made of.
fn compare(image: &dyn Image, dir: Nid, of: &Path) {
    let mut entries = image.list(dir).unwrap();
    entries.retain(|entry| entry.name != "lost+found");
    assert_eq!(entries.len(), fs::read_dir(of).unwrap().count(), "{}", of.display());
    for entry in entries {
        let path = of.join(&entry.name);
        let (attr, metadata) = (image.attr(entry.nid).unwrap(), path.symlink_metadata().unwrap());
        assert_eq!(attr.kind.bits() | u32::from(attr.mode.bits()), metadata.mode());
        assert_eq!((entry.kind, entry.ino), (Some(attr.kind), attr.ino));
        assert_eq!(u64::from(attr.nlink), metadata.nlink(), "{}", path.display());
        assert_eq!(attr.mtime.sec, metadata.mtime());
        match attr.kind {
            FileKind::Directory => compare(image, entry.nid, &path),
            FileKind::Symlink => {
                assert_eq!(image.readlink(entry.nid).unwrap(), fs::read_link(&path).unwrap());
            }
            FileKind::Regular => {
                let contents = image.open(entry.nid).unwrap();
                let same = read(&*contents, metadata.size()) == fs::read(&path).unwrap();
                assert!(same && attr.size == metadata.size(), "{}", path.display());
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                panic!("{attr:?}");
            }
        }
    }
}

#[test]
fn a_tree_is_what_it_was_made_of() {
    let Some(fixture) = Fixture::new() else { return };
    for (options, format) in [
        ("-b 4096", "ext4"),
        ("-b 1024 -O meta_bg,^resize_inode", "ext4"),
        ("-b 2048 -O ^metadata_csum,^has_journal", "ext4"),
        ("-b 4096 -O inline_data,^dir_index", "ext4"),
        ("-b 1024 -I 512 -O inline_data", "ext4"),
        ("-b 4096 -I 128 -O ^filetype,^huge_file", "ext4"),
        ("-b 4096 -O bigalloc -N 800", "ext4"),
        ("-b 1024 -O ^extent,^64bit", "ext4"),
        ("-b 1024 -O none,large_file,filetype,has_journal", "ext3"),
        ("-b 2048 -O none,filetype,dir_index", "ext2"),
        ("-b 4096 -r 0 -O none", "ext2"),
        // The kernel takes no blocks that are larger than a page of memory.
        ("-b 16384 -N 800 -O ^has_journal", "ext4"),
        ("-b 65536 -N 800 -O ^has_journal", "ext4"),
        ("-b 65536 -N 800 -O ^has_journal,^metadata_csum,inline_data", "ext4"),
    ] {
        let image = Fixture::open(&fixture.image(options)).unwrap();
        if !options.contains("^filetype") && !options.contains("-r 0") {
            compare(&*image, image.root(), &fixture.tree());
        }
        let about = image.about();
        assert_eq!(about.format, format, "{options}");
        assert_eq!(about.files, Some(624), "{about:?}");
        assert_eq!(about.features.contains(&"inline_data".to_owned()), options.contains("inline"));
    }
}

/// Returns where there is data in a file of an image, in bytes.
fn data(contents: &dyn Contents, size: u64) -> Vec<Range<u64>> {
    let (mut found, mut at, mut steps) = (Vec::<Range<u64>>::new(), 0, 0);
    while at < size {
        let Stretch { is_hole, end } = contents.stretch(at).unwrap();
        let end = end.min(size);
        match found.last_mut() {
            _ if is_hole => {}
            Some(last) if last.end == at => last.end = end,
            _ => found.push(at..end),
        }
        (at, steps) = (end, steps + 1);
    }
    assert!(steps < 1000, "{steps} steps");
    found
}

#[test]
fn holes_are_told_and_passed_over_at_once() {
    let Some(fixture) = Fixture::new() else { return };
    let (size, block) = (300 << 20, 4096);
    // More extents than there are in an inode; the last is in the middle of the file.
    let islands: Vec<u64> = (1..=12).chain([0x4000]).map(|at| at * 3 * block).collect();
    let sparse = fs::File::create(fixture.tree().join("sparse")).unwrap();
    sparse.set_len(size).unwrap();
    for at in &islands {
        sparse.write_all_at(&bytes(3072), *at).unwrap();
    }
    fs::File::create(fixture.tree().join("hole")).and_then(|file| file.set_len(size)).unwrap();
    for options in ["-b 4096", "-b 1024", "-b 1024 -O ^extent,^64bit", "-b 4096 -O ^metadata_csum"]
    {
        let image = Fixture::open(&fixture.image(options)).unwrap();
        let open = |name| image.open(find(&*image, image.root(), OsStr::new(name))).unwrap();
        let expected: Vec<_> = islands.iter().map(|at| *at..at + block).collect();
        assert_eq!(data(&*open("sparse"), size), expected, "{options}");
        assert_eq!(data(&*open("hole"), size), [], "{options}");
        let dense = Range { start: 0, end: 120_000 };
        assert_eq!(data(&*open("file90000"), 120_000), [dense], "{options}");
    }
    let image = Fixture::open(&fixture.image("-b 4096 -O inline_data")).unwrap();
    let inline = image.open(find(&*image, image.root(), OsStr::new("file45"))).unwrap();
    assert!(!inline.stretch(0).unwrap().is_hole);
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let Some(fixture) = Fixture::new() else { return };
    let sound = fixture.image("-b 4096");
    for (changes, wanted) in [
        (&[(0x60, 0x2_0000_u32)][..], "casefold"),
        (&[(0x60, 0x1)], "compression"),
        (&[(0x60, 0x8)], "journal_dev"),
        (&[(0x60, 0x1000_0000)], "an unknown feature (bit 28)"),
        (&[(0xe4, 1), (0x60, 0x4)], "needs_recovery and an external journal"),
        // Changes in such a journal are in a form of their own.
        (&[(0x5c, 0x400), (0x60, 0x4)], "fast_commit and needs_recovery"),
    ] {
        let path = fixture.dir.path().join("changed");
        fs::copy(&sound, &path).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for (at, bits) in changes {
            let mut word = [0; 4];
            file.read_exact_at(&mut word, 1024 + at).unwrap();
            let word = u32::from_le_bytes(word) | bits;
            file.write_all_at(&word.to_le_bytes(), 1024 + at).unwrap();
        }
        let refused = Fixture::open(&path).unwrap_err();
        assert!(
            matches!(&refused, ImageError::Refused { feature, .. } if feature == wanted),
            "{wanted}: {refused}"
        );
    }
}

#[test]
fn an_external_journal_counts_where_there_is_something_in_it() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.image("-b 4096 -O ^metadata_csum");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // No inode, but a device.
    file.write_all_at(&[0, 0, 0, 0, 1, 7], 1024 + 0xe0).unwrap();
    let image = Fixture::open(&path).unwrap();
    compare(&*image, image.root(), &fixture.tree());
}

#[test]
fn a_journal_of_another_form_is_no_damage() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.image("-b 4096 -O ^metadata_csum");
    let image = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The superblock of the journal (`journal_superblock_t` of linux/jbd2.h), in which
    // something begins at a block.
    let sign = b"\xc0\x3b\x39\x98\0\0\0\x04";
    let block = image.chunks(4096).position(|block| block.starts_with(sign)).unwrap();
    let at = u64::try_from(block * 4096).unwrap();
    file.write_all_at(&[1], at + 0x1f).unwrap();
    file.write_all_at(&[image[1024 + 0x60] | 4], 1024 + 0x60).unwrap();
    for (bits, refused) in [(0, false), (4, true), (0x40, true)] {
        file.write_all_at(&[bits], at + 0x2b).unwrap();
        let opened = Fixture::open(&path).map(drop);
        let is_refused = matches!(&opened, Err(ImageError::Refused { .. }));
        assert_eq!(is_refused, refused, "{bits:#x}: {opened:?}");
    }
}

#[test]
fn a_revision_without_features_has_none() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.image("-b 4096 -r 0 -O none");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for at in [0x5c, 0x60, 0x64] {
        file.write_all_at(&[4], 1024 + at).unwrap();
        let refused = Fixture::open(&path).unwrap_err().to_string();
        assert!(refused.contains("features of a revision that has none"), "{refused}");
        file.write_all_at(&[0], 1024 + at).unwrap();
    }
    Fixture::open(&path).unwrap();
}

#[test]
fn what_is_damaged_is_no_image_or_an_error() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.image("-b 1024");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(20 << 20).unwrap();
    assert!(matches!(Fixture::open(&path), Err(ImageError::Damaged { .. })));
    file.set_len(100).unwrap();
    assert!(matches!(Fixture::open(&path), Err(ImageError::Damaged { .. })));

    let path = fixture.image("-b 4096");
    let image = Fixture::open(&path).unwrap();
    for nid in [0, 1, 8, 11 << 32, 10_000_000] {
        assert!(image.attr(Nid(nid)).unwrap_err().is(libc::EIO));
    }
    let file = find(&*image, image.root(), OsStr::new("file1"));
    assert!(image.list(file).unwrap_err().is(libc::EIO));
    assert!(image.readlink(file).unwrap_err().is(libc::EIO));
    assert!(image.open(image.root()).unwrap_err().is(libc::EIO));
}

/// Runs commands of debugfs(8) on an image.
fn debugfs(path: &Path, commands: &str) -> io::Result<()> {
    let mut child = Command::new("debugfs")
        .args(["-w", "-f", "-"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(commands.as_bytes())?;
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told)?;
    assert!(child.wait()?.success() && told.lines().count() <= 1, "{told}");
    Ok(())
}

#[test]
fn what_is_encrypted_needs_a_key() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.image("-b 4096 -O encrypt");
    let flags = "sif file800 flags 0x80800\nsif few flags 0x80800\nsif link1 flags 0x800\n";
    debugfs(&path, flags).unwrap();
    let image = Fixture::open(&path).unwrap();
    let find = |name| find(&*image, image.root(), OsStr::new(name));
    assert!(image.open(find("file800")).unwrap_err().is(libc::ENOKEY));
    assert!(image.list(find("few")).unwrap_err().is(libc::ENOKEY));
    assert!(image.readlink(find("link1")).unwrap_err().is(libc::ENOKEY));
    assert!(image.open(find("file45")).is_ok());
    assert!(image.attr(find("few")).is_ok());
}

/// What the kernel of an ext2 does not look at, and what it decides by.
#[test]
fn what_is_left_in_fields_of_an_ext2_counts_for_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.image("-b 1024 -I 128 -O none,ext_attr,filetype");
    debugfs(
        &path,
        "sif few size 0x500000400\nsif few flags 0x1000\nsif link59 size 0x50000003b
         sif file800 file_acl 0x4000000000\nsif link130 size 30\nsif link61 blocks 0\n",
    )
    .unwrap();
    let image = Fixture::open(&path).unwrap();
    let find = |name| find(&*image, image.root(), OsStr::new(name));
    assert_eq!(image.attr(find("few")).unwrap().size, 1024);
    assert_eq!(image.list(find("few")).unwrap().len(), 3);
    assert_eq!(image.readlink(find("link59")).unwrap(), "x".repeat(59).as_str());
    assert_eq!(image.xattrs(find("file800")), Ok(Vec::new()));
    // Where a target is does not go by its length.
    assert_eq!(image.readlink(find("link130")).unwrap(), "x".repeat(30).as_str());
    assert!(image.readlink(find("link61")).unwrap_err().is(libc::EIO));
}

#[test]
fn names_are_in_the_order_of_their_hashes() {
    let Some(fixture) = Fixture::new() else { return };
    let few = fixture.tree().join("empty");
    for name in ["ash", "beech", "cedar", "elm", "fir", "\u{fc}ber"] {
        fs::write(few.join(name), "").unwrap();
    }
    let seed = "-E hash_seed=6f1d2c3b-0a49-4857-9667-7564535f4e3d";
    let path = fixture.image(&format!("-b 4096 {seed}"));
    for (version, flags, wanted) in ORDERS {
        let set = format!("ssv def_hash_version {version}\nssv flags {flags}\n");
        debugfs(&path, &set).unwrap();
        let image = Fixture::open(&path).unwrap();
        let dir = find(&*image, image.root(), OsStr::new("empty"));
        let names = image.list(dir).unwrap().into_iter().map(|entry| entry.name);
        let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        assert_eq!(names.join(" "), wanted, "{version} {flags}");
    }
}

#[test]
fn acls_are_shown_in_the_form_of_getxattr() {
    let kept = "01000000 01000600 02000400e8030000 04000400 0800070032000000 10000700 20000000";
    let wanted = "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 0800070032000000 \
                  10000700ffffffff 20000000ffffffff";
    let bytes = |hex: &str| -> Vec<u8> {
        let digits: Vec<_> = hex.bytes().filter(|digit| *digit != b' ').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    };
    assert_eq!(xattr::acl(&bytes(kept)), Some(Some(bytes(wanted))));
    assert_eq!(xattr::acl(&bytes("01000000")), Some(None));
    assert_eq!(xattr::acl(&[]), Some(None));
    for damaged in ["02000000", "01000000 0100", "01000000 02000400 e803", "010000"] {
        assert_eq!(xattr::acl(&bytes(damaged)), None, "{damaged}");
    }
}

#[test]
fn times_have_signs_and_more_bits_where_there_is_room() {
    let time = |sec, nsec| Some(Time { sec, nsec });
    let raw = |length: usize, used: u16, sec: u32, more: u32| {
        let mut raw = vec![0; length];
        raw[0x8..0xc].copy_from_slice(&sec.to_le_bytes());
        if length > 128 {
            raw[0x80..0x82].copy_from_slice(&used.to_le_bytes());
            raw[0x8c..0x90].copy_from_slice(&more.to_le_bytes());
        }
        attr::time(&raw, 0x8, 0x8c)
    };
    assert_eq!(raw(128, 0, u32::MAX, 0), time(-1, 0));
    assert_eq!(raw(256, 32, u32::MAX, 7 << 2), time(-1, 7));
    assert_eq!(raw(256, 32, 0x8000_0000, 1), time(1 << 31, 0));
    assert_eq!(raw(256, 32, 0x7fff_ffff, 3), time((1 << 31) - 1 + (3 << 32), 0));
    assert_eq!(raw(256, 0, 5, 1), time(5 + (1 << 32), 0), "the kernel makes use of it");
    assert_eq!(raw(256, 12, 5, 1 | (9 << 2)), time(5, 0), "no room");
    assert_eq!(raw(256, 32, 0, u32::MAX), time(3 << 32, 999_999_999));
    // Of its birth there is none without room.
    assert_eq!(attr::time(&[0; 128], 0x90, 0x94), None);
}

#[test]
fn devices_have_numbers_of_two_forms() {
    let block = |old: u32, new: u32| [old.to_le_bytes(), new.to_le_bytes()].concat();
    let rdev = |old, new| attr::rdev(FileKind::CharDevice, &block(old, new));
    assert_eq!(rdev(0x0803, 0), libc::makedev(8, 3));
    assert_eq!(rdev(0, 0xffff_ffff), libc::makedev(4095, 1_048_575));
    assert_eq!(rdev(0, 0x0010_0a2c), libc::makedev(10, 300));
    assert_eq!(attr::rdev(FileKind::Fifo, &block(1, 1)), 0);
}
