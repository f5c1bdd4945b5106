//! Callers who hold up the thread that tells the kernel of changes.
//!
//! The kernel lets that wait for the directory of a name. Who lists a directory into memory
//! that comes from a server of its own has it locked for as long as that likes.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::require;
use crate::support::ours::Ours;
use crate::support::{Sandbox, holds_within, raw, sandbox, wait_for};

/// How late a change may be seen. What is not told is believed for an hour.
const LATE: Duration = Duration::from_secs(2);

/// Directories that are locked, and the server that has to go on for them to be free.
struct Locked {
    slow: Ours,
    callers: Vec<JoinHandle<()>>,
}

impl Locked {
    fn new(sandbox: &Sandbox, dirs: &[PathBuf]) -> Self {
        let source = sandbox.dir("slow");
        let name = |n: usize| format!("page-{n}");
        for n in 0..dirs.len() {
            fs::write(source.join(name(n)), [0; 4096]).unwrap();
        }
        let slow = Ours::new(&source, &sandbox.dir("slow-mnt"), &["--passthrough", "off"]);
        let page = |n| raw::open(&slow.at(&name(n)), libc::O_RDWR, 0).unwrap();
        let pairs: Vec<(File, OwnedFd)> =
            dirs.iter().enumerate().map(|(n, dir)| (File::open(dir).unwrap(), page(n))).collect();
        slow.signal_server(Signal::SIGSTOP);
        let list = |(dir, page): (File, OwnedFd)| {
            thread::spawn(move || {
                let mut page = raw::Page::map(page.as_fd(), true).unwrap();
                assert!(page.list(dir.as_fd()).unwrap() > 0);
            })
        };
        let callers = pairs.into_iter().map(list).collect();
        // They are on their way.
        thread::sleep(Duration::from_millis(100));
        Self { slow, callers }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.slow.signal_server(Signal::SIGCONT);
        for caller in self.callers.drain(..) {
            caller.join().unwrap();
        }
    }
}

fn is_there(dir: &Path, name: &str) -> bool {
    fs::symlink_metadata(dir.join(name)).is_ok()
}

/// The host moves a file to and fro in `dir` of the source; reports whether that is seen
/// each time.
fn is_told(source: &Path, point: &Path, dir: &str) -> bool {
    let (disk, view) = (source.join(dir), point.join(dir));
    fs::write(disk.join("a"), "").unwrap();
    let is = |name: &str, other: &str| {
        holds_within(LATE, || is_there(&view, name) && !is_there(&view, other))
    };
    let told = is("a", "b") && {
        fs::rename(disk.join("a"), disk.join("b")).unwrap();
        is("b", "a")
    };
    for name in ["a", "b"] {
        let (Ok(()) | Err(_)) = fs::remove_file(disk.join(name));
    }
    told && holds_within(LATE, || !is_there(&view, "b"))
}

#[test]
fn who_has_directories_locked_delays_nobody_elses() {
    require!(Root, Fuse);
    // A reload has everything told again, also what would have been left out.
    for reloads in [false, true] {
        sandbox(move |sandbox| delays_nobody(sandbox, reloads));
    }
}

fn delays_nobody(sandbox: &Sandbox, reloads: bool) {
    let (source, ours) = Ours::of_new(sandbox, &["--cache", "watch", "--log", "info"]);
    let names: Vec<String> = (0..12).map(|n| format!("locked-{n}")).collect();
    for name in names.iter().map(String::as_str).chain(["other", "locked-0/below"]) {
        fs::create_dir(source.join(name)).unwrap();
    }
    for name in &names {
        for file in ["gone", "moved", "file"] {
            fs::write(source.join(name).join(file), "").unwrap();
            assert!(is_there(&ours.at(name), file) && !is_there(&ours.at(name), "new"));
        }
    }
    let change = |name: &String| {
        let dir = source.join(name);
        fs::remove_file(dir.join("gone")).unwrap();
        fs::rename(dir.join("moved"), dir.join("new")).unwrap();
    };
    let dirs: Vec<PathBuf> = names.iter().map(|name| ours.at(name)).collect();
    let below = File::open(ours.at("locked-0/below")).unwrap();

    let locked = Locked::new(sandbox, &dirs);
    names.iter().for_each(change);
    // The first change of each is what the thread is held up by.
    assert!(holds_within(Duration::from_secs(5), || is_told(&source, &ours.point, "other")));
    assert!((0..10).all(|_| is_told(&source, &ours.point, "other")));
    assert!(is_told(&source, &ours.point, "."));
    // Attributes never wait, and what is told of everything leaves the locked out.
    raw::chmod(&source.join("locked-0/below"), 0o700).unwrap();
    if reloads {
        ours.signal(Signal::SIGHUP);
    }
    assert!((0..10).all(|_| is_told(&source, &ours.point, "other")));
    assert_eq!(below.metadata().unwrap().mode() & 0o777, 0o700);

    drop(locked);
    if reloads {
        wait_for("a reload", || ours.log().contains("info: reloaded: "));
    }
    for view in &dirs {
        let is_true =
            || is_there(view, "new") && !is_there(view, "moved") && !is_there(view, "gone");
        assert!(holds_within(LATE, is_true), "{view:?}");
    }
    assert!(is_told(&source, &ours.point, "locked-0") && is_told(&source, &ours.point, "other"));
}
