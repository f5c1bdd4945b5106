//! A tar of an enemy's writes nothing outside the directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

use super::ground::{Ground, STORES, Tar};

#[test]
fn nothing_is_written_outside() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.make("outside");
        let victim = ground.file("outside/victim", b"mine");
        let before = victim.metadata().unwrap();
        let absolute = victim.to_str().unwrap().as_bytes();
        let outside = ground.at("outside");
        let outside = outside.to_str().unwrap().as_bytes();
        let (root, plain) = ((0, 0, 0o777), (&b"bad"[..], &[][..]));
        let tar = Tar::new()
            .add(Regular, absolute, root, plain)
            .add(Regular, b"../outside/victim", root, plain)
            .add(Regular, b"a/../../outside/victim", root, plain)
            .add(Directory, b"..", root, (b"", &[]))
            .add(Symlink, b"away", root, (outside, &[]))
            .add(Regular, b"away/victim", root, plain)
            .add(Directory, b"away/new", root, (b"", &[]))
            .add(Link, b"taken", root, (b"../outside/victim", &[]))
            .add(Link, b"taken", root, (absolute, &[]))
            .add(Link, b"taken", root, (b"away/victim", &[]))
            .add(Symlink, b"self", root, (b".", &[]))
            .add(Regular, b"self/through", root, plain)
            .add(Symlink, b"up", root, (b"..", &[]))
            .add(Char, b"up/outside/null", root, (&[1, 3], &[]))
            .add(
                Regular,
                b"planted",
                root,
                (
                    b"",
                    &[
                        ("SCHILY.xattr.user.containers.override_stat", b"0:0:4755"),
                        ("SCHILY.xattr.user.idmapfs.security.capability", b"x"),
                    ],
                ),
            )
            // A link in the place of a directory that is filled.
            .add(Directory, b"swap", root, (b"", &[]))
            .add(Regular, b"swap/first", root, plain)
            .add(Symlink, b"swap", root, (outside, &[]))
            .add(Regular, b"swap/second", root, plain)
            .add(Regular, b"last", root, plain)
            .end();
        let told = ground.bad("import", "dir", &["--from", "-"], &tar);
        for path in ["../outside/victim", "away/victim", "self/through", "taken", "up/outside"] {
            assert!(told.contains(path), "{store}: {path}: {told}");
        }
        let after = victim.metadata().unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!((before.ctime_nsec(), 1), (after.ctime_nsec(), after.nlink()));
        let left: Vec<_> = fs::read_dir(ground.at("outside")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(!ground.at("dir/taken").exists());
        assert!(!ground.at("dir/through").exists());
        // The rest was unpacked all the same.
        assert_eq!(fs::read(ground.at("dir/last")).unwrap(), b"bad");
        let lines = ground.good("export", "dir", &[], b"");
        let lines = String::from_utf8(lines).unwrap();
        let planted = lines.lines().find(|line| line.contains("planted")).unwrap();
        assert!(planted.contains("\"mode\":\"0777\""), "{planted}");
    }
}
