//! Identity: generations and file handles.

use std::fs;
use std::os::fd::AsFd as _;

use super::*;
use crate::attr::FileKind;
use crate::error::Error;
use crate::sys::handle::Handle;
use crate::sys::stat::stat;

fn reused_numbers_differ(fixture: &Fixture) -> u32 {
    let host = fixture.host();
    let top = root(&host);
    let mut reused = 0;
    for _ in 0..100 {
        let first = create(&host, &top, "f", &new(NewKind::Regular(None), ids(1, 1), 0o600, 0));
        assert_eq!(host.lookup(&top, name("f")).unwrap().key, first.found.key);
        host.unlink(&top, name("f")).unwrap();
        let second = create(&host, &top, "f", &new(NewKind::Regular(None), ids(1, 1), 0o600, 0));
        host.unlink(&top, name("f")).unwrap();
        assert_ne!(first.found.key, second.found.key);
        reused += u32::from(first.found.key.ino == second.found.key.ino);
    }
    reused
}

#[test]
fn a_reused_number_has_another_generation() {
    if !is_root() {
        return;
    }
    reused_numbers_differ(&Fixture::tmpfs());
    let Some(fixture) = Fixture::ext4() else { return };
    assert!(reused_numbers_differ(&fixture) > 50, "ext4 reuses numbers");
}

#[test]
fn files_are_opened_by_handle_until_they_are_gone() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    fs::create_dir(fixture.at("d")).unwrap();
    fs::write(fixture.at("d/f"), "x").unwrap();
    std::os::unix::fs::symlink("f", fixture.at("d/l")).unwrap();
    let host = fixture.host();
    assert!(host.facts().handles);
    for path in ["d", "d/f", "d/l"] {
        let (_, found) = walk(&host, path);
        let handle = found.handle.unwrap();
        let node = host.open_by_key(&found.key, &handle, found.attr.kind).unwrap();
        assert_eq!(host.getattr(&node), Ok(found.attr), "{path}");
    }
    let (dir, found) = walk(&host, "d");
    let moved = walk(&host, "d/f").1;
    outside(|| fs::rename(fixture.at("d/f"), fixture.at("g"))).unwrap();
    let handle = moved.handle.as_ref().unwrap();
    host.open_by_key(&moved.key, handle, FileKind::Regular).unwrap();
    let wrong = host.open_by_key(&found.key, handle, FileKind::Directory);
    assert_eq!(wrong.unwrap_err(), Error::Stale);
    outside(|| fs::remove_file(fixture.at("g"))).unwrap();
    let gone = host.open_by_key(&moved.key, handle, FileKind::Regular);
    assert_eq!(gone.unwrap_err(), Error::Stale);
    drop(dir);
}

#[test]
fn names_of_one_file_have_one_key() {
    let fixture = Fixture::plain();
    fs::write(fixture.at("a"), "").unwrap();
    fs::create_dir(fixture.at("d")).unwrap();
    let host = fixture.host();
    let (node, found) = walk(&host, "a");
    let (dir, _) = walk(&host, "d");
    let linked = host.link(&node, &dir, name("b"), PLAIN).unwrap();
    assert_eq!((&linked.key, linked.attr.nlink), (&found.key, 2));
    assert_eq!(walk(&host, "d/b").1.key, found.key);
    host.unlink(&root(&host), name("a")).unwrap();
    host.unlink(&dir, name("b")).unwrap();
    assert_eq!(host.getattr(&node).unwrap().nlink, 0);
    assert!(host.link(&node, &dir, name("c"), PLAIN).unwrap_err().is(libc::ENOENT));
}

/// A handle that names its inode spares a lookup the descriptor.
#[test]
fn handles_of_the_usual_file_systems_name_their_inode() {
    if !is_root() {
        return;
    }
    let images = [
        Fixture::ext4(),
        Fixture::image(&["mkfs.xfs", "-q"], 400),
        Fixture::image(&["mkfs.btrfs", "-q"], 200),
    ];
    for fixture in [Some(Fixture::tmpfs())].into_iter().chain(images).flatten() {
        fs::write(fixture.at("a"), "").unwrap();
        fs::write(fixture.at("b"), "").unwrap();
        let host = fixture.host();
        let (volume, top) = (host.volumes.root(), host.root.as_fd());
        let handle = volume.handle(top, OsStr::new("a")).unwrap();
        let of = |name| stat(top, OsStr::new(name)).unwrap();
        assert_eq!(volume.vouches(handle.as_ref(), &of("a")), Some(true), "{handle:?}");
        assert_eq!(volume.vouches(handle.as_ref(), &of("b")), Some(false), "{handle:?}");
        let (handle, key) = (handle.unwrap(), walk(&host, "a").1.key);
        assert!(volume.is_sure(&(&handle).into(), &key), "{handle:?}");
        assert!(!volume.is_sure(&(&handle).into(), &walk(&host, "b").1.key), "{handle:?}");
        // Of none in particular: on tmpfs none has it.
        if let Some(any) = handle.inode().and_then(|ino| handle.of_inode(ino, 0)) {
            let key = volume.key(&any).unwrap();
            assert!(!volume.is_sure(&(&any).into(), &key), "{any:?}");
        }
        let later = of_other_generations(&handle);
        assert!(later.len() >= 31, "{handle:?}");
        for other in later {
            assert_eq!(volume.open(&(&other).into()).unwrap_err(), Error::Stale, "{other:?}");
        }
    }
}

/// Returns handles that another file of the same number may have: of 32 generations, less the
/// one that may be 0, which stands for any.
fn of_other_generations(handle: &Handle) -> Vec<Handle> {
    let is_other = |other: &Handle| {
        other.inode() == handle.inode()
            && other.generation() != handle.generation()
            && other.generation() != Some(0)
    };
    let bits = 0..handle.bytes().len() * 8;
    let flipped = bits.filter_map(|bit| {
        let mut bytes = handle.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Handle::new(handle.kind(), &bytes)
    });
    flipped.filter(is_other).collect()
}
