//! Directories that the source's file system encrypts (fscrypt), as keys come and go.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::require;
use crate::support::crypt::{Key, add_key, encrypt, remove_key};
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{Sandbox, holds_within, raw, sandbox};

/// How late it may be seen that a key has come or gone: a second is believed, and there are
/// directories in directories.
const LATE: Duration = Duration::from_secs(5);

/// How long a key may stay in use by what only the server has: what was found by its name
/// once more, since it was lost by its handle as the key went, is held for some seconds.
const HELD: Duration = Duration::from_secs(60);

const USER: u32 = 34;

/// A file system with an encrypted directory `d`, and its key.
struct Source {
    image: Ext4,
    key: Key,
}

impl Source {
    fn new(sandbox: &Sandbox) -> Self {
        let image = Ext4::with(sandbox, 32, "-O encrypt");
        let key = add_key(&image.root).unwrap();
        let dir = image.root.join("d");
        fs::create_dir(&dir).unwrap();
        encrypt(&dir, key).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        for (file, contents) in [("one", "first"), ("two", "second"), ("sub/deep", "third")] {
            fs::write(dir.join(file), contents).unwrap();
        }
        symlink("sub/deep", dir.join("link")).unwrap();
        raw::mknod(&dir.join("fifo"), libc::S_IFIFO | 0o644, 0).unwrap();
        raw::mknod(&dir.join("empty"), libc::S_IFREG | 0o644, 0).unwrap();
        Self { image, key }
    }

    fn root(&self) -> &Path {
        &self.image.root
    }

    /// Takes the key away; whether it is gone with all that used it within this time. The
    /// kernel lets go of what was in use when it is told again.
    fn lock(&self, within: Duration) -> bool {
        let mut used = true;
        holds_within(within, || {
            used = used
                && match remove_key(self.root(), self.key) {
                    // What used it last is gone since it was told before.
                    Err(libc::ENOKEY) => false,
                    gone => !gone.unwrap(),
                };
            !used
        })
    }
}

/// Returns what there is below a directory: names, attributes, contents and targets.
fn all(below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![below.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for path in names(&dir) {
            let Ok(meta) = fs::symlink_metadata(&path) else {
                // Listed by an older name than it has by now.
                found.push(format!("{}: gone", path.display()));
                continue;
            };
            let kind = meta.file_type();
            let said = if kind.is_file() {
                format!("{:?}", fs::read_to_string(&path).map_err(|e| e.raw_os_error()))
            } else if kind.is_symlink() {
                format!("{:?}", fs::read_link(&path).map_err(|e| e.raw_os_error()))
            } else {
                String::new()
            };
            let name = path.strip_prefix(below).unwrap().display();
            found.push(format!("{name} {:o} {} {said}", meta.mode(), meta.len()));
            if kind.is_dir() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    found
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Waits until a mount shows what the source has.
fn settles(source: &Path, view: &Path, clear: bool) {
    let mut seen = Vec::new();
    let same = holds_within(LATE, || {
        seen = all(view);
        seen == all(source)
    });
    assert!(same, "{seen:#?}\nis not\n{:#?}", all(source));
    let has = |dir: &Path| dir.join("d/sub/deep").exists();
    assert_eq!((has(source), has(view)), (clear, clear));
    assert_eq!(seen.len(), 7 + 1, "{seen:#?}");
}

/// The errors of what cannot be done without the key.
fn refusals(below: &Path) -> Vec<Option<i32>> {
    let dir = below.join("d");
    let mut found = names(&dir);
    found.sort();
    let of = |kind: fn(&fs::FileType) -> bool| {
        let is = |path: &&PathBuf| kind(&fs::symlink_metadata(path).unwrap().file_type());
        found.iter().find(is).unwrap()
    };
    let (file, sub) = (of(fs::FileType::is_file), of(fs::FileType::is_dir));
    let error = |done: std::io::Result<()>| done.err().and_then(|e| e.raw_os_error());
    vec![
        error(fs::write(dir.join("new"), "x")),
        error(fs::create_dir(dir.join("new"))),
        error(symlink("x", dir.join("new"))),
        error(fs::hard_link(file, dir.join("new"))),
        error(fs::rename(file, dir.join("new"))),
        error(fs::rename(file, sub.join("new"))),
        error(fs::write(file, "x")),
        error(File::options().append(true).open(file).map(drop)),
        error(fs::metadata(dir.join("one")).map(drop)),
        error(fs::remove_dir(sub)),
        raw::truncate(file, 2).err(),
    ]
}

/// The source itself is the model. No event tells of a key.
#[test]
fn keys_that_come_and_go_are_seen_after_a_moment() {
    require!(Root, Fuse, Encryption);
    let ways: [&[&str]; 4] =
        [&[], &["--passthrough", "off"], &["--cache", "ttl=1"], &["--cache", "none"]];
    for args in ways {
        sandbox(move |sandbox| {
            let source = Source::new(sandbox);
            assert!(source.lock(Duration::ZERO), "the source alone uses nothing");
            let ours = Ours::new(source.root(), &sandbox.dir("mnt"), args);
            for _ in 0..2 {
                settles(source.root(), &ours.point, false);
                assert_eq!(refusals(&ours.point), refusals(source.root()), "{args:?}");
                add_key(source.root()).unwrap();
                settles(source.root(), &ours.point, true);
                // Read and listed once more, as what is kept would be.
                assert_eq!(all(&ours.point), all(source.root()), "{args:?}");
                assert!(source.lock(HELD), "a key stays in use: {args:?} {:?}", ours.held_open());
            }
            settles(source.root(), &ours.point, false);
            ours.unmount();
        });
    }
}

/// What a caller has open is used as on the source; then nothing is.
#[test]
fn a_key_is_in_use_while_something_is_open() {
    require!(Root, Fuse, Encryption);
    sandbox(|sandbox| {
        let source = Source::new(sandbox);
        let ours = Ours::new(source.root(), &sandbox.dir("mnt"), &[]);
        settles(source.root(), &ours.point, true);
        let open = File::open(ours.at("d/sub/deep")).unwrap();
        assert!(!source.lock(Duration::from_millis(500)), "a file is open");
        assert_eq!(std::io::read_to_string(&open).unwrap(), "third");
        drop(open);
        assert!(source.lock(Duration::from_secs(2)), "{:?}", ours.held_open());
        settles(source.root(), &ours.point, false);
    });
}

/// It is found without a name, and held no longer than by one.
#[test]
fn what_is_found_by_its_handle_does_not_keep_a_key_in_use() {
    require!(Root, Fuse, Encryption);
    sandbox(|sandbox| {
        let source = Source::new(sandbox);
        let point = sandbox.dir("mnt");
        let ours = Ours::new(source.root(), &point, &[]);
        let handles = ["d/one", "d/sub"].map(|path| raw::handle(&ours.at(path)).unwrap());
        ours.unmount();
        let _ours = Ours::new(source.root(), &point, &[]);
        for handle in &handles {
            let root = File::open(&point).unwrap().into();
            drop(raw::open_handle(&root, handle).unwrap());
        }
        assert!(source.lock(Duration::from_millis(700)), "the server keeps it in use");
    });
}

/// It has no handles to open files by, so it holds what was used last.
#[test]
fn a_users_server_holds_a_key_for_some_seconds() {
    require!(Root, Fuse, Fusermount, Encryption);
    sandbox(|sandbox| {
        let source = Source::new(sandbox);
        let ours = Ours::of_user(sandbox, USER, source.root(), &sandbox.dir("mnt"), &[]);
        settles(source.root(), &ours.point, true);
        let times = || ours.held_open().iter().filter(|path| path.ends_with("d/one")).count();
        let once = holds_within(Duration::from_millis(500), || times() <= 1);
        assert!(once, "a file that nobody has open stays open: {:?}", ours.held_open());
        assert!(source.lock(HELD), "{:?}", ours.held_open());
        settles(source.root(), &ours.point, false);
        add_key(source.root()).unwrap();
        settles(source.root(), &ours.point, true);
        ours.unmount();
        assert!(source.lock(LATE), "nothing is served any more");
    });
}

/// As any directory that a program has open.
#[test]
fn the_root_of_a_source_keeps_its_key_in_use() {
    require!(Root, Fuse, Encryption);
    sandbox(|sandbox| {
        let source = Source::new(sandbox);
        let root = source.root().join("d");
        let ours = Ours::new(&root, &sandbox.dir("mnt"), &[]);
        assert_eq!(all(&ours.point), all(&root));
        assert!(!source.lock(Duration::from_secs(1)), "the root is held");
        // What is not held is locked all the same.
        let locked =
            || fs::read(ours.at("one")).is_err_and(|e| e.raw_os_error() == Some(libc::ENOKEY));
        assert!(holds_within(LATE, locked), "{:?}", fs::read(ours.at("one")));
        assert_eq!(all(&ours.point), all(&root));
        ours.unmount();
        assert!(source.lock(LATE), "nothing is served any more");
    });
}

/// It would be made in the root, and no file goes from there to where another key is for it.
#[test]
fn a_directory_with_a_record_is_not_made_where_another_key_is_for_it() {
    require!(Root, Fuse, Encryption);
    sandbox(|sandbox| {
        let source = Source::new(sandbox);
        let ours = Ours::new(source.root(), &sandbox.dir("mnt"), &["--owners", "xattr"]);
        fs::create_dir(ours.at("plain")).unwrap();
        fs::write(ours.at("d/file"), "x").unwrap();
        let refused = fs::create_dir(ours.at("d/dir")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EXDEV));
        ours.unmount();
        // Where the root is encrypted, all is by the same key.
        let root = source.root().join("d");
        let ours = Ours::new(&root, &sandbox.dir("mnt"), &["--owners", "xattr"]);
        fs::create_dir(ours.at("dir")).unwrap();
    });
}
