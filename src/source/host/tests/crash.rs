//! A server that is killed while it makes files.

use std::fs;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use super::*;
use crate::attr::FileKind;
use crate::source::{Prepare, XattrSet};
use crate::sys::xattr::{Way, get};

const MARK: &str = "user.prepared";

/// How often a server is killed.
const ROUNDS: u64 = 200;

fn open(path: &Path) -> Host {
    let host = Host::open(path, &HostOptions { staging: true, ..HostOptions::default() }).unwrap();
    host.clean_staging();
    host
}

/// Makes files and directories that have the attribute from the start, for ever.
fn make(path: &Path) {
    let host = open(path);
    let mut dir = root(&host);
    let owner = ids(geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let prepare = |node: &Node, _: &Found| {
        host.set_xattr(node, OsStr::new(MARK), Some(b"yes"), XattrSet::Any, PLAIN)
    };
    for round in 0_u32.. {
        for what in
            [NewKind::Regular(None), NewKind::Regular(Some(libc::O_RDWR)), NewKind::Directory]
        {
            let entry = match what {
                NewKind::Regular(None) => format!("f{round}"),
                NewKind::Regular(Some(_)) => format!("o{round}"),
                NewKind::Directory | NewKind::Symlink(_) | NewKind::Special(..) => {
                    format!("d{round}")
                }
            };
            let prepare = Some(Prepare(&prepare));
            let new = New { prepare, ..new(what, owner, 0o700, 0) };
            create(&host, &dir, &entry, &new);
            if what.kind() == FileKind::Directory && round % 8 == 7 {
                dir = host.reach(&dir, name(&entry)).unwrap().0;
            }
        }
    }
}

/// Looks at all that is below a directory of a source.
fn check(path: &Path) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == ".idmapfs" {
            continue;
        }
        let (path, dir) = (entry.path(), entry.file_type().unwrap().is_dir());
        let file = fs::File::open(&path).unwrap();
        let value = get(Way::Open(file.as_fd()), OsStr::new(MARK));
        assert_eq!(value, Ok(b"yes".to_vec()), "{}", path.display());
        seen += 1;
        if dir {
            seen += check(&path);
        }
    }
    seen
}

#[test]
fn what_a_killed_server_has_made_was_prepared() {
    if let Some(path) = child::path() {
        return make(&path);
    }
    let mut random = 6_u64;
    let (mut seen, mut left) = (0, 0);
    for _ in 0..ROUNDS {
        let fixture = Fixture::plain();
        let test = "crash::what_a_killed_server_has_made_was_prepared";
        let mut server = child::start(test, &fixture.path());
        while !fixture.at("d0").exists() {
            assert!(server.try_wait().unwrap().is_none(), "the server ended");
            sleep(Duration::from_micros(100));
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        sleep(Duration::from_micros((random >> 33) % 3000));
        server.kill().unwrap();
        server.wait().unwrap();
        left += usize::from(fixture.at(".idmapfs").exists());
        seen += check(&fixture.path());
        drop(open(&fixture.path()));
        assert!(!fixture.at(".idmapfs").exists());
    }
    assert!(seen > 600 && left > 100, "{seen} files, {left} times staging");
}
