//! A database that cannot be used is said to be, and never taken for an empty one.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A database with records, closed.
fn filled() -> (Ground, PathBuf) {
    let ground = Ground::new();
    let db = ground.open();
    for number in 0..500 {
        ground.put(&db, &key(number, 1), &plain_record(1));
    }
    let file = db.file().to_owned();
    drop(db);
    (ground, file)
}

fn refused(ground: &Ground) -> String {
    let line = ground.try_open().unwrap_err().to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn a_damaged_database_is_refused_and_the_way_out_is_named() {
    let (ground, file) = filled();
    let whole = std::fs::read(&file).unwrap();
    assert!(whole.len() > 5 * 4096, "{}", whole.len());
    let mut spoiled = whole.clone();
    spoiled[2 * 4096..4 * 4096].fill(0xa5);
    let mut none_of_ours = whole.clone();
    none_of_ours[68..72].fill(0);
    let cases: [&[u8]; 5] = [
        b"",
        b"no database at all, but text that is longer",
        &whole[..8192],
        &spoiled,
        &none_of_ours,
    ];
    for (number, case) in cases.into_iter().enumerate() {
        std::fs::write(&file, case).unwrap();
        let line = refused(&ground);
        assert!(line.contains("damaged") && line.contains("move it away"), "{number}: {line}");
        assert_eq!(std::fs::read(&file).unwrap(), case, "{number}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(ground.open().count().unwrap(), 500);
}

#[test]
fn a_database_of_another_version_is_left_alone() {
    let (ground, file) = filled();
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
    drop(connection);
    assert!(refused(&ground).contains("version 2"));
}

#[test]
fn damage_that_is_met_later_is_an_io_error() {
    let (ground, file) = filled();
    let db = ground.open();
    let mut whole = std::fs::read(&file).unwrap();
    whole[4096..].fill(0xa5);
    std::fs::write(&file, whole).unwrap();
    let got = db.get(&ground.memory, &ground.node, &key(250, 1));
    assert!(got.unwrap_err().is(libc::EIO));
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let ground = Ground::new();
    drop(ground.open());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let db = ground.open();
    assert_eq!((mode(&ground.databases()), mode(db.file())), (0o700, 0o600));
    let mut log = db.file().as_os_str().to_owned();
    log.push("-wal");
    assert_eq!(mode(Path::new(&log)), 0o600);
    for wrong in [0o755, 0o710, 0o702] {
        let permissions = std::fs::Permissions::from_mode(wrong);
        std::fs::set_permissions(ground.databases(), permissions).unwrap();
        let line = refused(&ground);
        assert!(line.contains("chmod 700") && line.contains("--owners-dir"), "{line}");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let ground = Ground::new();
    std::fs::write(ground.dir.path().join("state"), "").unwrap();
    let line = refused(&ground);
    assert!(line.contains("state/owners") && line.contains("--owners-dir"), "{line}");
}
