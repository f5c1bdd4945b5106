//! Who made an image chose what is read of it: whoever reads it has given up everything
//! before. Each read is held while the test looks who reads.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::require;
use crate::support::ours::finish;
use crate::support::rootless::Rootless;
use crate::support::{Sandbox, raw, run, sandbox, sh, str, text, wait_for};

/// A process that read, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reader {
    /// Its effective and permitted capabilities.
    caps: (u64, u64),
    no_new_privs: bool,
    /// What the log had by then.
    log: String,
}

/// Notes who reads a file, from now on until it is asked.
struct Readers {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Reader>>,
}

impl Readers {
    fn of(image: &Path, log: &Path) -> Self {
        let group = raw::hold(image, libc::FAN_ACCESS_PERM).expect("fanotify with permission");
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (stop, log) = (Arc::clone(&stop), log.to_owned());
            move || note(&group, &stop, &log)
        });
        Self { stop, thread }
    }

    fn all(self) -> Vec<Reader> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn note(group: &OwnedFd, stop: &AtomicBool, log: &Path) -> Vec<Reader> {
    let mut readers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(20_u8)).unwrap_or(0) == 0 {
            continue;
        }
        raw::answer_next(group.as_fd(), |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
            let set = |key| u64::from_str_radix(field(key).unwrap_or("0").trim(), 16).unwrap();
            readers.push(Reader {
                caps: (set("CapEff:"), set("CapPrm:")),
                no_new_privs: field("NoNewPrivs:").is_some_and(|value| value.trim() == "1"),
                log: fs::read_to_string(log).unwrap_or_default(),
            });
            true
        })
        .unwrap();
    }
    readers
}

/// Makes an image with users of its own, as a file, and as a partition of a disk.
fn images(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let (tree, image, disk) = (sandbox.dir("tree"), sandbox.path("image"), sandbox.path("disk"));
    sh(&format!(
        "cd {tree}; mkdir etc bin; echo local:x:90:90::/:/bin/sh >etc/passwd; echo local:x:90: >etc/group
         echo hello >f; chown 90:90 f; PATH=$PATH:/usr/sbin; mkfs.erofs -zlz4 {image} . >/dev/null
         truncate -s 16M {disk}; sgdisk -n 1:2048:8191 {disk} >/dev/null
         dd if={image} of={disk} bs=1M seek=1 conv=notrunc status=none",
        tree = str(&tree),
        image = str(&image),
        disk = str(&disk)
    ));
    (image, disk)
}

/// `CAP_KILL` and `CAP_SYS_PTRACE`, which are no use for what is in a file.
const RUN: u64 = 1 << 5 | 1 << 19;

#[test]
fn a_server_reads_an_image_when_it_has_given_up_everything() {
    require!(Root, Fuse, Erofs, Partitions);
    sandbox(|sandbox| {
        let (image, disk) = images(sandbox);
        let (point, log) = (sandbox.dir("mnt"), sandbox.path("log"));
        let by_name: &[&str] = &["--names", "disk=source", "--names", "view=host"];
        let shift: &[&str] = &["--map", "0:100000:65536"];
        for (file, args) in [(&image, shift), (&image, by_name), (&disk, &["-o", "partition=1"])] {
            let _ = fs::remove_file(&log);
            let readers = Readers::of(file, &log);
            let logged = format!("info,file={}", str(&log));
            let words = [args, &["--log", &logged, str(file), str(&point)]].concat();
            let done = finish(&words);
            assert!(done.status.success(), "{words:?}: {}", text(&done));
            assert_eq!(fs::read_to_string(point.join("f")).unwrap(), "hello\n");
            if args == by_name {
                let done = finish(&["reload", str(&point)]);
                assert!(done.status.success(), "{}", text(&done));
            }
            let readers = readers.all();
            assert!(!readers.is_empty(), "{words:?}");
            for reader in &readers {
                assert!(reader.caps == (0, 0) && reader.no_new_privs, "{words:?}: {reader:?}");
            }
            // That is the last thing it does before it reads; what names there are is
            // read before there is a server.
            let first = readers.iter().find(|_| args != by_name).map(|reader| &reader.log);
            if let Some(first) = first.filter(|log| !log.contains("no Landlock")) {
                assert!(first.contains("confined: ") && first.contains("Landlock:"), "{first:?}");
            }
            run("umount", &[str(&point)]);
        }
    });
}

#[test]
fn commands_read_an_image_when_they_have_given_up_everything() {
    require!(Root, Fuse, Erofs, Partitions);
    sandbox(|sandbox| {
        let (image, disk) = images(sandbox);
        let (none, policy) = (sandbox.path("none"), sandbox.path("p.toml"));
        fs::write(&policy, "version = 1\n[[rules]]\npath = 'etc/**'\nhide = true\n").unwrap();
        for words in [
            &["image", "info", str(&image)][..],
            &["image", "info", "--json", "--partition=1", str(&disk)],
            &["explain", "--names", "disk=source", "--names", "view=host", str(&image), "f"],
            &["check", "--source", str(&image), str(&policy)],
            &["run", str(&image), "--", "cat", "f"],
        ] {
            let file = if words.contains(&str(&disk)) { &disk } else { &image };
            let readers = Readers::of(file, &none);
            let done = finish(words);
            let readers = readers.all();
            assert!(done.status.success(), "{words:?}: {}", text(&done));
            assert!(!readers.is_empty(), "{words:?}");
            let left = if words[0] == "run" { RUN } else { 0 };
            for reader in &readers {
                let had = reader.caps.0 | reader.caps.1;
                assert!(had & !left == 0 && reader.no_new_privs, "{words:?}: {reader:?}");
            }
        }
    });
}

#[test]
fn root_of_a_namespace_looks_at_owners_when_it_has_given_up_everything() {
    require!(Root, Fuse, UserNamespaces, Overlay, Erofs, Partitions);
    sandbox(|sandbox| {
        let (image, _) = images(sandbox);
        let ann = Rootless::new(sandbox);
        let readers = Readers::of(&image, &sandbox.path("none"));
        let script = format!(
            "mkdir upper; unshare --map-auto --map-root-user -m sh -euc 'idmapfs --upper ~/upper {} \
             ~/.cache/view; cat ~/.cache/view/f; umount ~/.cache/view'",
            str(&image)
        );
        assert_eq!(ann.does(&script), "hello\n");
        wait_for("the server's end", || ann.processes().is_empty());
        let readers = readers.all();
        assert!(!readers.is_empty());
        for reader in &readers {
            assert!(reader.caps == (0, 0) && reader.no_new_privs, "{reader:?}");
        }
    });
}
