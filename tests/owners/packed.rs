//! A tar in, and the same tar out.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use tar::EntryType::Regular;

use super::ground::{Ground, STORES, Tar, contents, full};

#[test]
fn a_tar_comes_out_as_it_went_in() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.good("import", "dir", &["--from", "-"], &full());
        let first = contents(&ground.good("export", "dir", &["--tar", "-"], b""));
        let of = |path: &str| first.get(path).unwrap_or_else(|| panic!("{path}: {first:#?}"));
        for (path, begin) in [
            ("./", "Directory 0:0 755"),
            ("etc/shared", "Directory 7:50 2775 [\"SCHILY.xattr.system.posix_acl_default="),
            ("etc/shared/plain", "Regular 1:2 640 [\"mtime=[49, 48,"),
            ("etc/ping", "Regular 0:0 755 [\"SCHILY.xattr.security.capability=[1, 0, 0, 2,"),
            ("etc/acl", "Regular 5:6 754 [\"SCHILY.xattr.system.posix_acl_access="),
            ("etc/link", "Symlink 3:4 777 -> /no//such/./place/"),
            ("null", "Char 0:0 666 1:3"),
            ("sda", "Block 0:6 660 8:0"),
            ("fifo", "Fifo 9:9 644"),
            ("big", "Regular 4000000000:3000000000 600"),
            ("late/\u{fffd}", "Regular 0:0 400"),
        ] {
            assert!(of(path).starts_with(begin), "{store}: {path}: {}", of(path));
        }
        // Of two names the one that is met first has the contents.
        let pair = [of("etc/su"), of("etc/again")];
        assert_eq!(pair.iter().filter(|about| about.starts_with("Link")).count(), 1);
        let begin = "Regular 0:0 4755 [\"mtime=[49, 50, 51, 46, 52, 53, 54,";
        assert_eq!(pair.iter().filter(|about| about.starts_with(begin)).count(), 1, "{pair:?}");
        // Once more from what came out.
        ground.make("again");
        let tar = ground.good("export", "dir", &["--tar", "-"], b"");
        ground.good("import", "again", &["--from", "-"], &tar);
        let second = ground.good("export", "again", &["--tar", "-"], b"");
        let mut second = contents(&second);
        // Which of two names comes first, the file system decides.
        let mut first = first;
        for map in [&mut first, &mut second] {
            map.retain(|path, _| path != "etc/su" && path != "etc/again");
        }
        assert_eq!(first, second);
        ground.good("check", "dir", &[], b"");
        ground.good("check", "again", &[], b"");
    }
}

#[test]
fn on_disk_everything_is_the_users_and_nothing_privileged() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.good("import", "dir", &["--from", "-"], &full());
        let mut todo = vec![ground.at("dir")];
        let mut files = 0;
        while let Some(path) = todo.pop() {
            let about = path.symlink_metadata().unwrap();
            let kind = about.file_type();
            files += 1;
            assert_eq!(about.uid(), Ground::user(), "{}", path.display());
            assert!(!kind.is_char_device() && !kind.is_block_device(), "{}", path.display());
            if !kind.is_symlink() && path != ground.at("dir") {
                assert_eq!(about.mode() & 0o7077, 0, "{store}: {}", path.display());
            }
            if kind.is_dir() {
                todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        assert_eq!(files, 16);
        assert_eq!(ground.at("dir/etc").metadata().unwrap().mtime(), 5);
        assert_eq!(ground.at("dir/etc/su").metadata().unwrap().mtime(), 123);
        assert_eq!(ground.at("dir/etc/again").metadata().unwrap().nlink(), 2);
    }
}

#[test]
fn later_entries_take_the_place_of_earlier_ones() {
    for store in STORES {
        let ground = Ground::new(store);
        for _ in 0..2 {
            ground.good("import", "dir", &["--from", "-"], &full());
        }
        // The records of the first ones may be there still.
        ground.good("check", "dir", &["--fix"], b"");
        ground.good("check", "dir", &[], b"");
        assert_eq!(ground.at("dir/etc/again").metadata().unwrap().nlink(), 2);
    }
}

/// Tars of the usual program are read.
#[test]
fn the_tar_of_gnu_is_read() {
    let ground = Ground::new("xattr");
    ground.make("plain");
    ground.make("plain/sub");
    ground.file("plain/sub/sparse", b"x");
    let long = "l".repeat(120);
    ground.file(&format!("plain/sub/{long}"), b"long");
    let sparse = fs::File::options().write(true).open(ground.at("plain/sub/sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    for format in ["gnu", "posix"] {
        let made = ground
            .command("tar")
            .args(["--sparse", "--owner=77", "--group=88", "--numeric-owner", "-cf", "-"])
            .arg(format!("--format={format}"))
            .args(["-C".as_ref(), ground.at("plain").as_os_str(), ".".as_ref()])
            .output();
        let Ok(made) = made else { return eprintln!("SKIP: needs tar") };
        assert!(made.status.success());
        ground.make(format);
        let output = ground.run("import", format, &["--from", "-"], &made.stdout);
        let got = contents(&ground.good("export", format, &["--tar", "-"], b""));
        let about = got.get(&format!("sub/{long}")).unwrap_or_else(|| panic!("{got:#?}"));
        assert!(about.starts_with("Regular 77:88"), "{about}");
        let sparse = ground.at(format).join("sub/sparse").metadata().map(|about| about.len()).ok();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if format == "gnu" {
            assert_eq!((sparse, told.as_str()), (Some(1 << 20), ""));
        } else {
            assert!(sparse.is_none() && told.contains("sparse as pax has it"), "{told}");
        }
    }
}

/// Values of attributes are any bytes: newlines, and what looks like a record.
#[test]
fn attributes_of_any_bytes_come_through() {
    for store in STORES {
        let ground = Ground::new(store);
        let value = b"a\nb\n12 size=99999\n";
        let tar = Tar::new()
            .add(
                Regular,
                b"file",
                (4_000_000_000 % 2_097_151, 5, 0o644),
                (b"contents", &[("SCHILY.xattr.user.note", value), ("uid", b"4000000000")]),
            )
            .add(Regular, b"next", (1, 1, 0o644), (b"", &[]))
            .end();
        ground.good("import", "dir", &["--from", "-"], &tar);
        let tar = ground.good("export", "dir", &["--tar", "-"], b"");
        assert!(tar.windows(value.len()).any(|part| part == value));
        ground.make("again");
        ground.good("import", "again", &["--from", "-"], &tar);
        assert_eq!(fs::read(ground.at("again/file")).unwrap(), b"contents");
        assert!(ground.at("again/next").exists());
        let lines = String::from_utf8(ground.good("export", "again", &[], b"")).unwrap();
        assert!(lines.contains("\"uid\":4000000000"), "{lines}");
    }
}

#[test]
fn what_is_no_tar_is_named() {
    let ground = Ground::new("xattr");
    for (input, wanted) in [
        (&b"\x1f\x8b compressed"[..], "gzip -dc"),
        (b"something else", "neither a tar"),
        (&full()[..2000], "FAIL"),
    ] {
        let told = ground.bad("import", "dir", &["--from", "-"], input);
        assert!(told.contains(wanted) || wanted == "FAIL", "{told}");
        assert!(told.starts_with("idmapfs: "), "{told}");
    }
    let told = ground.bad("import", "dir", &["--from", "/no/such"], b"");
    assert!(told.contains("/no/such"), "{told}");
}
