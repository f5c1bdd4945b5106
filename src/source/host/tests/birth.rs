//! New files that are prepared before they have a name.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, setrlimit};

use super::*;
use crate::attr::FileKind;
use crate::error::{Errno, Error, Result};
use crate::source::{File, Prepare, RenameFlags, XattrSet};

/// What every kind of file is made of.
fn kinds() -> [(&'static str, NewKind<'static>); 5] {
    [
        ("file", NewKind::Regular(None)),
        ("open", NewKind::Regular(Some(libc::O_RDWR))),
        ("dir", NewKind::Directory),
        ("link", NewKind::Symlink(OsStr::new("target"))),
        ("fifo", NewKind::Special(FileKind::Fifo, 0)),
    ]
}

fn open(path: &Path) -> Host {
    let host = Host::open(path, &HostOptions { staging: true, ..HostOptions::default() }).unwrap();
    host.clean_staging();
    host
}

/// Makes a file of this process's own.
fn make(
    host: &Host,
    dir: &Node,
    entry: &str,
    what: NewKind<'_>,
    prepare: &(dyn Fn(&Node, &Found) -> Result<()> + Sync),
) -> Result<Created> {
    let owner = ids(geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let new = New { prepare: Some(Prepare(prepare)), ..new(what, owner, 0o700, 0) };
    host.create(dir, name(entry), &new)
}

fn is_nothing(_node: &Node, _found: &Found) -> Result<()> {
    Ok(())
}

/// Lists what is in a directory on disk.
fn entries(path: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        outside(|| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect());
    names.sort();
    names
}

/// Lists what is left in the staging of a source, if there is any.
fn staged(path: &Path) -> Vec<OsString> {
    let staging = path.join(".idmapfs");
    let servers = if staging.exists() { entries(&staging) } else { Vec::new() };
    servers.iter().flat_map(|server| entries(&staging.join(server))).collect()
}

/// Runs a test as root, as a user without privilege, and as root of a
/// namespace that maps that user.
fn as_everybody(test: &str, run: impl Fn(&Path)) {
    if let Some(path) = child::path() {
        return run(&path);
    }
    let fixture = Fixture::plain();
    run(&fixture.path());
    if is_root() {
        type As = fn(&mut Command);
        let users: [As; 2] = [unprivileged::as_user, unprivileged::as_root_of_namespace];
        for user in users {
            let fixture = Fixture::plain();
            fixture.give_away();
            child::run(&format!("birth::{test}"), &fixture.path(), user);
        }
    }
}

#[test]
fn it_is_prepared_before_it_can_be_seen() {
    as_everybody("it_is_prepared_before_it_can_be_seen", |path| {
        let host = open(path);
        let top = root(&host);
        for (entry, what) in kinds() {
            let seen = AtomicUsize::new(0);
            let prepare = |node: &Node, found: &Found| {
                assert!(host.lookup(&top, name(entry)).unwrap_err().is(libc::ENOENT), "{entry}");
                assert!(!path.join(entry).exists(), "{entry}");
                assert_eq!((found.attr.kind, found.key.volume), (what.kind(), 0), "{entry}");
                assert_eq!(host.getattr(node).unwrap().ino, found.key.ino, "{entry}");
                seen.fetch_add(1, Ordering::Relaxed);
                match what.kind() {
                    FileKind::Regular | FileKind::Directory => {
                        let name = OsStr::new("user.test");
                        host.set_xattr(node, name, Some(b"v"), XattrSet::Create, PLAIN)
                    }
                    FileKind::Symlink
                    | FileKind::Fifo
                    | FileKind::Socket
                    | FileKind::CharDevice
                    | FileKind::BlockDevice => Ok(()),
                }
            };
            let Created { found, file } = make(&host, &top, entry, what, &prepare).unwrap();
            assert_eq!(seen.load(Ordering::Relaxed), 1, "{entry}");
            assert_eq!(file.is_some(), entry == "open");
            let (node, reached) = host.reach(&top, name(entry)).unwrap();
            assert_eq!((&reached.key, &reached.handle), (&found.key, &found.handle), "{entry}");
            assert_eq!(reached.attr, found.attr, "{entry}");
            let key = host.lookup(&top, name(entry)).unwrap().key;
            assert_eq!(key, found.key, "{entry}");
            if matches!(what.kind(), FileKind::Regular | FileKind::Directory) {
                assert_eq!(host.xattr(&node, OsStr::new("user.test")).unwrap(), b"v", "{entry}");
            }
            let again = make(&host, &top, entry, what, &is_nothing);
            assert!(again.unwrap_err().is(libc::EEXIST), "{entry}");
        }
        assert!(staged(path).is_empty());
    });
}

#[test]
fn the_key_seen_before_is_the_one_after() {
    as_everybody("the_key_seen_before_is_the_one_after", |path| {
        let host = open(path);
        let top = root(&host);
        for (entry, what) in kinds() {
            let before = std::sync::Mutex::new(None);
            let keep = |_: &Node, found: &Found| {
                *before.lock().unwrap() = Some((found.key.clone(), found.handle.clone()));
                Ok(())
            };
            let found = make(&host, &top, entry, what, &keep).unwrap().found;
            assert_eq!(before.into_inner().unwrap(), Some((found.key, found.handle)), "{entry}");
        }
    });
}

#[test]
fn what_cannot_be_prepared_is_not_made() {
    as_everybody("what_cannot_be_prepared_is_not_made", |path| {
        let host = open(path);
        let top = root(&host);
        for (entry, what) in kinds() {
            let full = Error::Os(Errno(libc::ENOSPC));
            let made = make(&host, &top, entry, what, &|_, _| Err(full));
            assert_eq!(made.unwrap_err(), full, "{entry}");
            assert!(!path.join(entry).exists(), "{entry}");
        }
        assert!(staged(path).is_empty());
    });
}

#[test]
fn a_name_that_appears_meanwhile_stays() {
    as_everybody("a_name_that_appears_meanwhile_stays", |path| {
        let host = open(path);
        let top = root(&host);
        for (entry, what) in kinds() {
            let made = make(&host, &top, entry, what, &|_, _| {
                fs::create_dir(path.join(entry)).map_err(Error::from)
            });
            assert!(made.unwrap_err().is(libc::EEXIST), "{entry}");
            assert!(path.join(entry).is_dir(), "{entry}");
        }
        assert!(staged(path).is_empty());
    });
}

#[test]
fn a_directory_that_goes_meanwhile_gets_nothing() {
    as_everybody("a_directory_that_goes_meanwhile_gets_nothing", |path| {
        let host = open(path);
        for (entry, what) in kinds() {
            fs::create_dir(path.join("gone")).unwrap();
            let (dir, _) = walk(&host, "gone");
            let made = make(&host, &dir, entry, what, &|_, _| {
                fs::remove_dir(path.join("gone")).map_err(Error::from)
            });
            assert!(made.unwrap_err().is(libc::ENOENT), "{entry}");
        }
        assert!(staged(path).is_empty());
    });
}

#[test]
fn one_of_many_gets_the_name() {
    as_everybody("one_of_many_gets_the_name", |path| {
        let host = open(path);
        let top = root(&host);
        for round in 0..20 {
            for (entry, what) in kinds() {
                let entry = format!("{entry}{round}");
                let made = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| match make(&host, &top, &entry, what, &is_nothing) {
                            Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => assert!(error.is(libc::EEXIST), "{entry} {error:?}"),
                        });
                    }
                });
                assert_eq!(made.into_inner(), 1, "{entry}");
            }
        }
        assert!(staged(path).is_empty());
    });
}

#[test]
fn it_is_open_as_it_was_asked() {
    as_everybody("it_is_open_as_it_was_asked", |path| {
        let host = open(path);
        let top = root(&host);
        let table = [
            ("r", libc::O_RDONLY, true, false),
            ("w", libc::O_WRONLY, false, true),
            ("rw", libc::O_RDWR, true, true),
            ("a", libc::O_WRONLY | libc::O_APPEND, false, true),
            ("s", libc::O_RDWR | libc::O_SYNC, true, true),
        ];
        for (entry, flags, reads, writes) in table {
            let what = NewKind::Regular(Some(flags));
            let created = make(&host, &top, entry, what, &is_nothing).unwrap();
            let file: Arc<dyn File> = created.file.unwrap();
            assert_eq!(file.write(Place::At(0), b"x", PLAIN).is_ok(), writes, "{entry}");
            assert_eq!(file.read(0, &mut [0; 4]).is_ok(), reads, "{entry}");
            let seen = fs::metadata(path.join(entry)).unwrap();
            assert_eq!((seen.nlink(), seen.len()), (1, u64::from(writes)), "{entry}");
            assert_eq!(created.found.attr.nlink, 1, "{entry}");
        }
    });
}

/// Lists a directory in both ways.
fn listings(host: &Host, dir: &Node) -> [Vec<OsString>; 2] {
    let listing = host.opendir(dir).unwrap();
    let upcoming = listing.upcoming(0);
    let mut listed = Vec::new();
    let each = &mut |entry: crate::source::DirEntry<'_>| {
        listed.push(entry.name.to_owned());
        std::ops::ControlFlow::Continue(())
    };
    listing.read(0, each).unwrap();
    [upcoming, listed]
}

#[test]
fn staging_of_a_source_below_is_hidden() {
    as_everybody("staging_of_a_source_below_is_hidden", |path| {
        let host = open(path);
        let top = root(&host);
        make(&host, &top, "dir", NewKind::Directory, &is_nothing).unwrap();
        let (dir, _) = walk(&host, "dir");
        let inner = open(&path.join("dir"));
        make(&inner, &root(&inner), "made", NewKind::Directory, &is_nothing).unwrap();
        assert!(path.join("dir/.idmapfs").is_dir());
        let hidden = name(".idmapfs");
        assert!(host.lookup(&dir, hidden).unwrap_err().is(libc::ENOENT));
        assert!(host.reach(&dir, hidden).unwrap_err().is(libc::ENOENT));
        assert!(host.rmdir(&dir, hidden).unwrap_err().is(libc::ENOENT));
        assert!(make(&host, &dir, ".idmapfs", NewKind::Directory, &is_nothing).is_err());
        let rename = |from, to| {
            host.rename((&dir, name(from)), (&dir, name(to)), RenameFlags::default(), None, PLAIN)
        };
        assert!(rename(".idmapfs", "x").unwrap_err().is(libc::ENOENT));
        assert!(rename("made", ".idmapfs").unwrap_err().is(libc::EPERM));
        for names in listings(&host, &dir) {
            assert!(names.iter().any(|name| name == "made"), "{names:?}");
            assert!(!names.iter().any(|name| name == ".idmapfs"), "{names:?}");
        }
        drop(inner);
        // What callers keep there themselves is as any other.
        make(&host, &dir, ".idmapfs", NewKind::Directory, &is_nothing).unwrap();
        assert!(listings(&host, &dir)[0].iter().any(|name| name == ".idmapfs"));
        rename(".idmapfs", "x").unwrap();
    });
}

#[test]
fn what_is_in_the_way_in_staging_is_left_there() {
    as_everybody("what_is_in_the_way_in_staging_is_left_there", |path| {
        let host = open(path);
        let top = root(&host);
        make(&host, &top, "dir", NewKind::Directory, &is_nothing).unwrap();
        let own = path.join(".idmapfs").join(&entries(&path.join(".idmapfs"))[0]);
        for number in 0..9 {
            fs::write(own.join(number.to_string()), "").unwrap();
        }
        for (entry, what) in kinds() {
            make(&host, &top, &format!("{entry}2"), what, &is_nothing).unwrap();
        }
        assert_eq!(entries(&own).len(), 9);
    });
}

#[test]
fn the_name_of_staging_is_hidden() {
    as_everybody("the_name_of_staging_is_hidden", |path| {
        let host = open(path);
        let top = root(&host);
        make(&host, &top, "dir", NewKind::Directory, &is_nothing).unwrap();
        assert_eq!(on_disk(&path.join(".idmapfs")).2, 0o1700);
        let hidden = name(".idmapfs");
        assert!(host.lookup(&top, hidden).unwrap_err().is(libc::ENOENT));
        assert!(host.reach(&top, hidden).unwrap_err().is(libc::ENOENT));
        assert!(host.unlink(&top, hidden).unwrap_err().is(libc::ENOENT));
        assert!(host.rmdir(&top, hidden).unwrap_err().is(libc::ENOENT));
        let key = host.root().unwrap().1.key;
        assert_eq!(host.open_by_name(&top, hidden, &key).unwrap_err(), Error::Stale);
        for (_, what) in kinds() {
            let made = make(&host, &top, ".idmapfs", what, &is_nothing);
            assert!(made.unwrap_err().is(libc::EPERM));
        }
        let (node, _) = walk(&host, "dir");
        let linked = make(&host, &top, "f", NewKind::Regular(None), &is_nothing).unwrap();
        let file = host.open_by_name(&top, name("f"), &linked.found.key).unwrap();
        assert!(host.link(&file, &top, hidden, PLAIN).unwrap_err().is(libc::EPERM));
        let rename = |from, to| {
            host.rename((&top, name(from)), (&top, name(to)), RenameFlags::default(), None, PLAIN)
        };
        assert!(rename("dir", ".idmapfs").unwrap_err().is(libc::EPERM));
        assert!(rename(".idmapfs", "x").unwrap_err().is(libc::ENOENT));
        for names in listings(&host, &top) {
            assert!(names.iter().any(|name| name == "dir"), "{names:?}");
            assert!(!names.iter().any(|name| name == ".idmapfs"), "{names:?}");
        }
        // Anywhere else it is a name as any other.
        make(&host, &node, ".idmapfs", NewKind::Directory, &is_nothing).unwrap();
        walk(&host, "dir/.idmapfs");
        drop(host);
        assert!(!path.join(".idmapfs").exists());
    });
}

#[test]
fn what_dead_servers_have_left_is_removed() {
    as_everybody("what_dead_servers_have_left_is_removed", |path| {
        let dead = path.join(".idmapfs/77.0");
        let leave = || {
            fs::create_dir_all(dead.join("1")).unwrap();
            fs::write(dead.join("2"), "x").unwrap();
            symlink("x", dead.join("3")).unwrap();
        };
        leave();
        let one = open(path);
        assert!(!path.join(".idmapfs").exists());
        make(&one, &root(&one), "a", NewKind::Directory, &is_nothing).unwrap();
        leave();
        let other = open(path);
        assert!(!dead.exists());
        // That of a server which lives stays, and is used.
        assert_eq!(entries(&path.join(".idmapfs")).len(), 1);
        leave();
        make(&other, &root(&other), "b", NewKind::Directory, &is_nothing).unwrap();
        assert!(!dead.exists());
        assert_eq!(entries(&path.join(".idmapfs")).len(), 2);
        make(&one, &root(&one), "c", NewKind::Directory, &is_nothing).unwrap();
        drop(one);
        assert_eq!(entries(&path.join(".idmapfs")).len(), 1);
        drop(other);
        assert!(!path.join(".idmapfs").exists());
    });
}

#[test]
fn staging_that_was_removed_comes_again() {
    as_everybody("staging_that_was_removed_comes_again", |path| {
        let host = open(path);
        let top = root(&host);
        for (entry, what) in kinds() {
            make(&host, &top, entry, what, &is_nothing).unwrap();
            if path.join(".idmapfs").exists() {
                fs::remove_dir_all(path.join(".idmapfs")).unwrap();
            }
        }
    });
}

#[test]
fn a_name_that_is_not_ours_is_left_alone() {
    as_everybody("a_name_that_is_not_ours_is_left_alone", |path| {
        fs::create_dir(path.join("elsewhere")).unwrap();
        symlink("elsewhere", path.join(".idmapfs")).unwrap();
        let host = open(path);
        let top = root(&host);
        let made = make(&host, &top, "d", NewKind::Directory, &is_nothing);
        assert!(made.unwrap_err().is(libc::EPERM));
        make(&host, &top, "f", NewKind::Regular(None), &is_nothing).unwrap();
        drop(host);
        assert!(entries(&path.join("elsewhere")).is_empty());
        assert!(path.join(".idmapfs").symlink_metadata().unwrap().is_symlink());
    });
}

#[test]
fn without_descriptors_nothing_is_left() {
    // The limit is the whole process's, so it takes a process of its own.
    let Some(path) = child::path() else {
        let fixture = Fixture::plain();
        child::run("birth::without_descriptors_nothing_is_left", &fixture.path(), |_| {});
        assert!(entries(&fixture.path()).is_empty(), "{:?}", entries(&fixture.path()));
        return;
    };
    let host = open(&path);
    let top = root(&host);
    for limit in 4..40 {
        setrlimit(Resource::RLIMIT_NOFILE, limit, 100).unwrap();
        for (entry, what) in kinds() {
            match make(&host, &top, entry, what, &is_nothing) {
                Ok(_) if entry == "dir" => host.rmdir(&top, name(entry)).unwrap(),
                Ok(_) => host.unlink(&top, name(entry)).unwrap(),
                Err(error) => assert!(error.is(libc::EMFILE), "{entry} {error:?}"),
            }
        }
    }
    assert!(staged(&path).is_empty());
}

#[test]
fn without_room_nothing_is_left() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let few = Some("nr_inodes=8");
    let none = None::<&str>;
    let flags = nix::mount::MsFlags::MS_REMOUNT;
    mount(none, &fixture.path(), none, flags, few).unwrap();
    let host = open(&fixture.path());
    let top = root(&host);
    let mut made = 0;
    for round in 0..8 {
        for (entry, what) in kinds() {
            match make(&host, &top, &format!("{entry}{round}"), what, &is_nothing) {
                Ok(_) => made += 1,
                Err(error) => assert!(error.is(libc::ENOSPC), "{error:?}"),
            }
        }
    }
    let visible = entries(&fixture.path());
    assert_eq!(visible.len(), made + usize::from(fixture.at(".idmapfs").exists()), "{visible:?}");
    assert!(staged(&fixture.path()).is_empty());
    for (at, is) in [("file0", false), ("fifo0", true)] {
        let kind = fs::symlink_metadata(fixture.at(at)).map(|meta| meta.file_type().is_fifo());
        assert!(kind.is_err() || kind.unwrap() == is, "{at}");
    }
}

#[test]
fn without_staging_only_regular_files_are_prepared() {
    let fixture = Fixture::plain();
    let host = fixture.host();
    let top = root(&host);
    make(&host, &top, "f", NewKind::Regular(None), &is_nothing).unwrap();
    let dir = make(&host, &top, "d", NewKind::Directory, &is_nothing);
    assert_eq!(dir.unwrap_err(), Error::Unsupported);
    // And its name is one as any other.
    fs::create_dir(fixture.at(".idmapfs")).unwrap();
    walk(&host, ".idmapfs");
}

#[test]
fn another_file_takes_a_name_over() {
    as_everybody("another_file_takes_a_name_over", |path| {
        let host = open(path);
        let top = root(&host);
        let owner = ids(geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let plain = new(NewKind::Regular(None), owner, 0o600, 0);
        for (entry, what) in kinds().into_iter().filter(|(entry, _)| *entry != "dir") {
            let old = make(&host, &top, entry, what, &is_nothing).unwrap().found;
            let found = host.replace(
                &top,
                name(entry),
                &old.key,
                &New { prepare: Some(Prepare(&is_nothing)), ..plain },
            );
            let found = found.unwrap();
            assert_eq!((found.attr.kind, found.attr.nlink), (FileKind::Regular, 1), "{entry}");
            assert_ne!(found.key, old.key, "{entry}");
            assert_eq!(host.lookup(&top, name(entry)).unwrap().key, found.key, "{entry}");
            // The one that was there is not the one any more.
            let again = host.replace(
                &top,
                name(entry),
                &old.key,
                &New { prepare: Some(Prepare(&is_nothing)), ..plain },
            );
            assert_eq!(again.unwrap_err(), Error::Stale, "{entry}");
            let swap = |_: &Node, _: &Found| {
                fs::remove_file(path.join(entry)).map_err(Error::from)?;
                fs::create_dir(path.join(entry)).map_err(Error::from)
            };
            let swapped = host.replace(
                &top,
                name(entry),
                &found.key,
                &New { prepare: Some(Prepare(&swap)), ..plain },
            );
            assert_eq!(swapped.unwrap_err(), Error::Stale, "{entry}");
            assert!(path.join(entry).is_dir(), "{entry}");
            let gone = host.replace(
                &top,
                name("none"),
                &old.key,
                &New { prepare: Some(Prepare(&is_nothing)), ..plain },
            );
            assert_eq!(gone.unwrap_err(), Error::Stale, "{entry}");
        }
        assert!(staged(path).is_empty());
    });
}

#[test]
fn what_a_user_keeps_under_the_name_of_staging_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(".idmapfs").join(path);
    for path in ["policies", "1.2", "9.0"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    for path in ["policies/home.toml", "1.2/notes", "9.0/17", "top"] {
        fs::write(at(path), "").unwrap();
    }
    let host = open(dir.path());
    let (root, _) = host.root().unwrap();
    make(&host, &root, "made", NewKind::Directory, &is_nothing).unwrap();
    drop(host);
    let left = ["policies/home.toml", "1.2/notes", "top"];
    assert!(left.iter().all(|path| at(path).exists()), "{:?}", entries(&at("")));
    assert!(!at("9.0").exists(), "what a server has left goes");
}
