//! Records and sockets, in a directory of the test's own.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Answers, Facts, Outcome, Record, Stats, directory, publish};

fn record() -> Record {
    Record::new(Path::new("/source"), Some(Path::new("/target")), 7, "identity".to_owned())
}

/// The answers of a server that is about to end, or those of one that has only
/// something to say of a reload.
struct Only(Option<Outcome>);

impl Answers for Only {
    fn reload(&self) -> Option<Outcome> {
        self.0.clone()
    }

    fn facts(&self) -> Option<Facts> {
        None
    }

    fn stats(&self) -> Option<Stats> {
        let one = |word: &str| std::iter::once((word.to_owned(), 1)).collect();
        let (requests, counts) = (one("lookup"), one("told_name"));
        self.0.is_some().then(|| Stats { version: 1, requests, counts, ..Stats::default() })
    }
}

fn never() -> Box<Only> {
    Box::new(Only(None))
}

#[test]
fn a_record_is_live_for_as_long_as_its_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("7.json");
    let record = record();
    let lock = publish::write(&path, &record.to_line().unwrap(), 0o644).unwrap();
    assert_eq!(directory::read(&path), Some(record.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

    // The next server of that number takes the name over.
    let other = Record { pid: 1, ..record };
    let other_lock = publish::write(&path, &other.to_line().unwrap(), 0o644).unwrap();
    drop(lock);
    assert_eq!(directory::read(&path), Some(other));

    std::fs::write(path.with_extension("sock"), "").unwrap();
    drop(other_lock);
    assert_eq!(directory::read(&path), None);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what is stale is removed");
}

#[test]
fn a_socket_answers_one_line_to_its_user_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("7.sock");
    let listener = publish::listen_at(&path).unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let info = || Some("a record\n".to_owned());
    thread::spawn(move || {
        publish::answer(&listener, &info, &Only(Some(Err("x:1:2: a\nb".to_owned()))))
    });
    for (line, want) in [
        ("info\n", "a record\n"),
        ("info", "a record\n"),
        ("reload\n", "error: x:1:2: a\\nb\n"),
        (
            "stats\n",
            "{\"version\":1,\"requests\":{\"lookup\":1},\"counts\":{\"told_name\":1},\"held\":{}}\n",
        ),
        ("describe\n", ""),
        ("info me\n", "error: unknown request; known are: info, describe, stats, reload\n"),
        ("\n", "error: unknown request; known are: info, describe, stats, reload\n"),
    ] {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(line.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, want);
    }
    // A second server takes the name of what a dead one has left.
    publish::listen_at(&path).unwrap();
}

#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("idmapfs");
    directory::make(&path, 0o700).unwrap();
    directory::make(&path, 0o700).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(directory::make(&path, 0o700), Err(super::ControlError::Unsafe(_))));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(directory::make(&link, 0o700).is_err());
}

#[test]
fn a_server_is_killed_only_if_it_is_the_one_recorded() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    // Of one that had its number before: this process may be as old as the child is.
    let recorded = Record { pid: child.id(), start_time: 1, ..record() };
    let error = recorded.kill().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(child.try_wait().unwrap().is_none());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let start_time = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    Record { start_time: start_time.parse().unwrap(), ..recorded }.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_mount_that_ends_leaves_the_next_of_its_number_alone() {
    let dir = tempfile::tempdir().unwrap();
    let first = publish::publish_in(dir.path(), record(), never()).unwrap();
    let next = publish::publish_in(dir.path(), Record { pid: 1, ..record() }, never()).unwrap();
    drop(first);
    let mut live = Vec::new();
    directory::live_in(dir.path(), &mut live).unwrap();
    assert_eq!(live, [Record { pid: 1, ..record() }]);
    UnixStream::connect(dir.path().join("7.sock")).unwrap();
    drop(next);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_record_is_passed_over_at_once() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    nix::unistd::mkfifo(&at("1.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", at("2.json")).unwrap();
    std::fs::create_dir(at("3.json")).unwrap();
    let line = record().to_line().unwrap();
    let _far = publish::write(&at("record"), &line, 0o644).unwrap();
    symlink(at("record"), at("4.json")).unwrap();
    let _huge = publish::write(&at("5.json"), &" ".repeat(1 << 20), 0o644).unwrap();
    let _good = publish::write(&at("6.json"), &line, 0o644).unwrap();
    let mut live = Vec::new();
    directory::live_in(dir.path(), &mut live).unwrap();
    assert_eq!(live, [record()]);
    // A directory that others can write to is not believed.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    live.clear();
    directory::live_in(dir.path(), &mut live).unwrap();
    assert_eq!(live, []);
}

/// What cannot be published leaves nothing, and at once.
#[test]
fn a_record_without_a_socket_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    // What is in the way of the socket, and cannot be removed as one.
    std::fs::create_dir_all(dir.path().join("7.sock/in the way")).unwrap();
    let begun = Instant::now();
    assert!(publish::publish_in(dir.path(), record(), never()).is_err());
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    assert!(!dir.path().join("7.json").exists());
}

/// Whoever lists mounts removes what a killed server has left, at the very moment at which
/// another one is about to have its number.
#[test]
fn who_removes_what_is_stale_leaves_the_next_of_its_number_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("7.json");
    let line = record().to_line().unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let (Some(_) | None) = directory::read(&path);
                }
            });
        }
        let mut server = None;
        let lost = (0..300).find(|_| {
            // It is killed.
            drop(server.take());
            let alone = directory::alone(dir.path()).unwrap();
            let locked = publish::write(&path, &line, 0o644).unwrap();
            let socket = path.with_extension("sock");
            server = Some((locked, publish::listen_at(&socket).unwrap()));
            drop(alone);
            // Nor a moment later.
            (0..20).any(|_| directory::read(&path).is_none() || !socket.exists())
        });
        ended.store(true, Ordering::Relaxed);
        assert_eq!(lost, None);
    });
}
