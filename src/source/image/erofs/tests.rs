//! Images made by mkfs.erofs, held against the directory that they were made from.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::{NamedTempFile, TempDir};

use super::super::Part;
use super::*;
use crate::id::Id;

/// Options that change where and how data is; which of them there are depends on the
/// version.
const KINDS: [&[&str]; 14] = [
    &[],
    &["--chunksize=4096"],
    &["-zlz4"],
    &["-zlz4hc", "-C65536"],
    &["-zlz4hc", "-Elegacy-compress"],
    &["-zlz4", "-Eztailpacking"],
    &["-zlz4hc", "-C65536", "-Efragments,dedupe"],
    &["-zzstd", "-C65536", "-Eall-fragments"],
    &["-zdeflate", "-C32768"],
    &["-zlzma", "-C65536", "-Efragments,dedupe,ztailpacking"],
    &["-b1024", "-zzstd", "-C4096"],
    &["-zlz4hc", "-C65536", "-E48bit"],
    &["-zzstd", "-C4096", "-E48bit,fragments", "--max-extent-bytes=65536"],
    &["-zzstd", "-C65536", "-m65536:0", "--MZ=id", "--zD", "-E48bit", "-Efragments"],
];

/// Bytes that look like nothing, always the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

/// A directory with files that are plain, packed, both in turn, sparse and of odd sizes.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text: Vec<u8> =
        (0..40_000).flat_map(|i| format!("line {}\n", i % 777).into_bytes()).collect();
    let mixed: Vec<u8> =
        text.chunks(30_000).flat_map(|part| [part, &noise(9_000)].concat()).collect();
    for (name, bytes) in [("text", &text), ("mixed", &mixed), ("noise", &noise(100_001))] {
        fs::write(at(name), bytes).unwrap();
        for size in [1, 4095, 4096, 4097, 65_536, 70_000] {
            fs::write(at(&format!("{name}-{size}")), &bytes[..size]).unwrap();
        }
        fs::write(at(&format!("{name}-shifted")), [b"x", &bytes[777..]].concat()).unwrap();
    }
    fs::write(at("empty"), b"").unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"data", 1 << 20).unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..1000 {
        fs::write(at(&format!("many/a name that is rather long {i}")), b"").unwrap();
    }
    symlink("some/target", at("link")).unwrap();
    symlink("y".repeat(4000), at("long link")).unwrap();
    fs::hard_link(at("text"), at("many/linked")).unwrap();
    dir
}

/// Makes an image; `None` if this mkfs.erofs cannot.
fn image(tree: &Path, options: &[&str]) -> Option<NamedTempFile> {
    let file = NamedTempFile::new().unwrap();
    let mut make = Command::new("mkfs.erofs");
    let made = make.args(options).arg(file.path()).arg(tree).output();
    if made.is_ok_and(|made| made.status.success()) {
        return Some(file);
    }
    eprintln!("SKIP: no mkfs.erofs that knows {options:?}");
    None
}

fn opened(path: &Path) -> std::result::Result<Arc<dyn Image>, ImageError> {
    open(Arc::new(Device::open(path, Part::default()).unwrap()))
}

fn contents(image: &dyn Image, nid: Nid, size: u64, step: usize) -> Result<Vec<u8>> {
    let file = image.open(nid)?;
    let mut all = Vec::new();
    let mut buf = vec![0; step];
    while u64::try_from(all.len()).unwrap() < size {
        let at = u64::try_from(all.len()).unwrap();
        let read = file.read(at, &mut buf)?;
        all.extend_from_slice(&buf[..read]);
        if read == 0 {
            let range = file.packed(at)?.ok_or_else(eio)?;
            assert!(range.contains(&at));
            let skip = usize::try_from(at - range.start).unwrap();
            all.extend_from_slice(&file.unpack(range)?[skip..]);
        }
    }
    assert_eq!((file.read(size, &mut buf), file.packed(size)), (Ok(0), Ok(None)));
    Ok(all)
}

fn compare(image: &dyn Image, nid: Nid, path: &Path) {
    let expected = fs::symlink_metadata(path).unwrap();
    let attr = image.attr(nid).unwrap();
    assert_eq!(attr.kind.bits() | u32::from(attr.mode.bits()), expected.mode(), "{path:?}");
    assert_eq!(attr.mtime.sec, expected.mtime(), "{path:?}");
    assert_eq!(attr.owner.uid.map(Id::raw), Some(expected.uid()), "{path:?}");
    match attr.kind {
        FileKind::Directory => {
            let mut entries = image.list(nid).unwrap();
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            let mut names: Vec<_> =
                fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            let found: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
            assert_eq!(found, names, "{path:?}");
            for entry in entries {
                let attr = image.attr(entry.nid).unwrap();
                assert_eq!((Some(attr.kind), attr.ino), (entry.kind, entry.ino), "{path:?}");
                compare(image, entry.nid, &path.join(entry.name));
            }
        }
        FileKind::Symlink => {
            assert_eq!(image.readlink(nid).unwrap(), fs::read_link(path).unwrap());
        }
        FileKind::Regular
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => {
            assert_eq!((attr.size, u64::from(attr.nlink)), (expected.size(), expected.nlink()));
            for step in [1 << 17, 5000] {
                let found = contents(image, nid, attr.size, step).unwrap();
                assert!(found == fs::read(path).unwrap(), "{path:?} by {step}");
            }
        }
    }
}

#[test]
fn what_was_put_in_comes_out_however_it_is_laid_out() {
    let tree = tree();
    for options in KINDS {
        let Some(file) = image(tree.path(), options) else { continue };
        let image = opened(file.path()).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        eprintln!("{options:?}: {:?}", image.about());
        compare(&*image, image.root(), tree.path());
    }
}

#[test]
fn extended_attributes_come_out_of_both_places() {
    let tree = tempfile::tempdir().unwrap();
    for i in 0..8 {
        let path = tree.path().join(i.to_string());
        fs::write(&path, b"").unwrap();
        let set = |name: &str, value: &str| {
            let mut set = Command::new("setfattr");
            set.args(["-n", name, "-v", value]).arg(&path).status().is_ok_and(|s| s.success())
        };
        if !set("user.same", "for all of them") || !set("user.own", &format!("value {i}")) {
            return eprintln!("SKIP: needs setfattr and extended attributes");
        }
    }
    for options in [&[][..], &["--xattr-prefix=user.sa"]] {
        let Some(file) = image(tree.path(), options) else { continue };
        let image = opened(file.path()).unwrap();
        for entry in image.list(image.root()).unwrap() {
            let mut found = image.xattrs(entry.nid).unwrap();
            found.sort();
            let own = format!("value {}", entry.name.display()).into_bytes();
            let same = b"for all of them".to_vec();
            assert_eq!(found, [("user.own".into(), own), ("user.same".into(), same)]);
        }
    }
}

#[test]
fn images_that_are_cut_short_or_wrong_at_the_start_are_refused() {
    let tree = tree();
    let Some(file) = image(tree.path(), &[]) else { return };
    let bytes = fs::read(file.path()).unwrap();
    let refused = |bytes: &[u8]| {
        let copy = NamedTempFile::new().unwrap();
        fs::write(copy.path(), bytes).unwrap();
        opened(copy.path()).unwrap_err().to_string()
    };
    let cut = refused(&bytes[..bytes.len() - 4096]);
    assert!(cut.contains("and the file ends before"), "{cut}");
    assert!(refused(&bytes[..1100]).contains("ends within the superblock"));
    assert!(refused(&noise(8192)).contains("no superblock"));
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        refused(&bytes)
    };
    assert!(changed(1024 + 64, b'?').contains("checksum"));
    assert!(changed(1024 + 82, 1).contains("features 0x10000"));
    let mut composed = bytes.clone();
    composed[..4].copy_from_slice(b"\x9a\x62\x78\xd0");
    let said = refused(&composed);
    assert!(said.contains("composefs") && said.contains("mount.composefs"), "{said}");
}

/// Everything that can be asked of an image, whatever the answers are.
fn ask_everything(image: &dyn Image) {
    let (mut left, mut seen) = (vec![image.root()], 0);
    while let Some(nid) = left.pop().filter(|_| seen < 3000) {
        seen += 1;
        let Ok(attr) = image.attr(nid) else { continue };
        let _answers = (image.xattrs(nid), image.readlink(nid));
        left.extend(image.list(nid).into_iter().flatten().map(|entry| entry.nid));
        if image.open(nid).is_ok() {
            for from in [0, attr.size / 2, attr.size.saturating_sub(5000)] {
                let size = attr.size.min(from.saturating_add(50_000));
                let _bytes = middle(image, nid, from, size);
            }
        }
    }
}

fn middle(image: &dyn Image, nid: Nid, from: u64, to: u64) -> Result<()> {
    let file = image.open(nid)?;
    let mut at = from;
    let mut buf = [0; 9000];
    while at < to {
        at += match file.read(at, &mut buf)? {
            0 => {
                let range = file.packed(at)?.ok_or_else(eio)?;
                let end = range.end;
                let _bytes = file.unpack(range)?;
                end - at
            }
            read => u64::try_from(read).unwrap(),
        };
    }
    Ok(())
}

#[test]
fn damage_anywhere_is_an_error_or_other_bytes_and_nothing_worse() {
    let tree = tempfile::tempdir().unwrap();
    let text = noise(300).repeat(200);
    for (name, bytes) in [("a", &text[..]), ("b", &noise(9000)), ("c", &text[..5000])] {
        fs::write(tree.path().join(name), bytes).unwrap();
    }
    symlink("a", tree.path().join("d")).unwrap();
    for options in KINDS {
        let Some(file) = image(tree.path(), options) else { continue };
        let bytes = fs::read(file.path()).unwrap();
        for (round, chance) in noise(200).chunks(5).enumerate() {
            let mut damaged = bytes.clone();
            // The superblock's checksum is none that damage would be stopped by.
            damaged[1024 + 8] &= !1;
            for byte in chance {
                let at = usize::from(*byte) * 83 + round * 31;
                let at = if round % 2 == 0 { 1024 + at % 3072 } else { at % damaged.len() };
                damaged[at] ^= byte | 1;
            }
            let copy = NamedTempFile::new().unwrap();
            fs::write(copy.path(), damaged).unwrap();
            if let Ok(image) = opened(copy.path()) {
                ask_everything(&*image);
            }
        }
    }
}
