//! What the client's kernel answers by itself, beside the same calls on the source; and
//! what is of one mount alone: fifos, sockets, where a process is.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::raw::Sys;
use crate::support::{Sandbox, calls, holds_within, raw, run, sandbox, sh, str, wait_for};

/// An ext4 and a view of it, another without passthrough; each has a file `f` of 64 KiB.
fn views(sandbox: &Sandbox) -> (Ext4, [Ours; 2]) {
    let image = Ext4::with(sandbox, 64, "");
    fs::write(image.root.join("f"), vec![7; 64 << 10]).unwrap();
    fs::write(image.root.join("g"), vec![7; 64 << 10]).unwrap();
    raw::mknod(&image.root.join("swap"), libc::S_IFREG | 0o600, 0).unwrap();
    let swap = image.root.join("swap");
    sh(&format!(
        "PATH=$PATH:/sbin:/usr/sbin; dd if=/dev/zero of={0} bs=1M count=4 2>&1; mkswap {0}; sync {0}",
        str(&swap)
    ));
    let view = |name: &str, args: &[&str]| Ours::new(&image.root, &sandbox.dir(name), args);
    let views = [view("view", &[]), view("off", &["--passthrough", "off"])];
    (image, views)
}

/// What a call says on the source, in a view and in one without passthrough.
fn on_each<T>((image, views): &(Ext4, [Ours; 2]), call: impl Fn(&Path) -> T) -> [T; 3] {
    [&image.root, &views[0].point, &views[1].point].map(|below| call(below))
}

fn open(path: PathBuf, flags: i32) -> File {
    File::options().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

#[test]
fn where_files_are_on_a_disk_is_not_told() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let all = views(sandbox);
        let extents = |below: &Path| {
            // struct fiemap with room for none: the number of extents comes at 20.
            let mut bytes = [[0; 8], [0xff; 8], [0; 8], [0; 8]].concat();
            calls::ioctl(open(below.join("f"), 0).as_fd(), 0xc020_660b, &mut bytes)
                .map(|_| bytes[20] > 0)
        };
        let refused = Err(libc::EOPNOTSUPP);
        assert_eq!(on_each(&all, extents), [Ok(true), refused, refused]);
        let block = |below: &Path| {
            let mut bytes = [0; 4];
            calls::ioctl(open(below.join("f"), 0).as_fd(), 1, &mut bytes).map(|_| bytes != [0; 4])
        };
        assert_eq!(on_each(&all, block), [Ok(true), Ok(false), Ok(false)]);
        let swap = |below: &Path| calls::swap(&below.join("swap"));
        assert_eq!(on_each(&all, swap), [Ok(0), Err(libc::EINVAL), Err(libc::EINVAL)]);
    });
}

/// Btrfs shares extents.
#[test]
fn no_extents_are_shared() {
    require!(Root, Fuse, Btrfs);
    sandbox(|sandbox| {
        let (file, root) = (sandbox.path("btrfs"), sandbox.dir("root"));
        sh(&format!(
            "PATH=$PATH:/sbin:/usr/sbin; truncate -s 256M {file}; mkfs.btrfs -q {file}
             mount -o loop {file} {root}",
            file = str(&file),
            root = str(&root)
        ));
        for name in ["f", "g"] {
            fs::write(root.join(name), vec![7; 64 << 10]).unwrap();
        }
        sh(&format!("sync -f {}", str(&root)));
        let ours = Ours::new(&root, &sandbox.dir("view"), &[]);
        // struct file_dedupe_range for one: how it went comes at 48.
        let dedupe = |below: &Path| {
            let (from, to) = (open(below.join("f"), 0), open(below.join("g"), 0));
            let mut bytes = [0_u8; 56];
            bytes[8..16].copy_from_slice(&(64_u64 << 10).to_ne_bytes());
            bytes[16] = 1;
            bytes[24..32].copy_from_slice(&i64::from(to.as_raw_fd()).to_ne_bytes());
            calls::ioctl(from.as_fd(), 0xc018_9436, &mut bytes).map(|_| bytes[48..52] == [0; 4])
        };
        assert_eq!([dedupe(&root), dedupe(&ours.point)], [Ok(true), Err(libc::EOPNOTSUPP)]);
        let clone = |below: &Path| {
            let (from, to) = (open(below.join("f"), 0), open(below.join("g"), 0));
            raw::clone_file(from.as_fd(), to.as_fd())
        };
        assert_eq!([clone(&root), clone(&ours.point)], [Ok(0), Err(libc::EOPNOTSUPP)]);
        let subvolume = |below: &Path| calls::statx(&below.join("f"), 0x8000).unwrap().0;
        assert_eq!([subvolume(&root), subvolume(&ours.point)], [0x8000, 0]);
        drop(ours);
    });
}

#[test]
fn reads_that_do_not_wait_are_refused() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let all = views(sandbox);
        let read = |below: &Path, flags| {
            let file = open(below.join("f"), 0);
            let mut bytes = vec![0; 4096];
            calls::read(file.as_fd(), &mut bytes, 0, 0).unwrap();
            calls::read(file.as_fd(), &mut bytes, 0, flags)
        };
        let refused = Err(libc::EOPNOTSUPP);
        let (nowait, dontcache) = (0x8, 0x80);
        let said = on_each(&all, |below| read(below, nowait));
        assert_eq!(said, [Ok(4096), refused, refused]);
        let said = on_each(&all, |below| read(below, dontcache));
        // Before Linux 6.14 nobody knows it.
        assert!(said[0] == Ok(4096) || said[0] == refused, "{said:?}");
        assert_eq!(said[1..], [refused, refused]);
    });
}

#[test]
fn statx_says_nothing_of_how_files_are_read_past_the_cache() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let all = views(sandbox);
        let (alignment, atomic, mount) = (0x2000, 0x1_0000, 0x1000);
        let asked =
            |mask: u32| on_each(&all, |below| calls::statx(&below.join("f"), mask).unwrap());
        assert_eq!(asked(alignment).map(|said| said.0), [alignment, 0, 0]);
        assert_eq!(asked(atomic).map(|said| said.0)[1..], [0, 0]);
        let mounts = asked(mount);
        assert_eq!(mounts.map(|said| said.0), [mount; 3]);
        assert!(mounts[0].1 != mounts[1].1 && mounts[1].1 != mounts[2].1, "{mounts:?}");
    });
}

#[test]
fn a_regular_file_can_be_polled() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let all = views(sandbox);
        let polled = |below: &Path| {
            let ready = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
            let (epoll, file) = (Epoll::new(EpollCreateFlags::empty())?, open(below.join("f"), 0));
            epoll.add(&file, EpollEvent::new(ready, 0))?;
            let mut events = [EpollEvent::empty()];
            epoll.wait(&mut events, EpollTimeout::ZERO)?;
            Ok(events[0].events() == ready)
        };
        assert_eq!(on_each(&all, polled), [Err(Errno::EPERM), Ok(true), Ok(true)]);
    });
}

#[test]
fn any_position_can_be_sought() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let all = views(sandbox);
        let far = 1 << 62;
        let seek = |below: &Path| raw::lseek(open(below.join("f"), 0).as_fd(), far, libc::SEEK_SET);
        assert_eq!(on_each(&all, seek), [Err(libc::EINVAL), Ok(far), Ok(far)]);
        let write =
            |below: &Path| calls::write(open(below.join("f"), 0).as_fd(), &mut [1], 1 << 45, 0);
        assert_eq!(on_each(&all, write), [Err(libc::EFBIG); 3]);
        let truncate = |below: &Path| raw::truncate(&below.join("f"), far);
        assert_eq!(on_each(&all, truncate), [Err(libc::EFBIG); 3]);
    });
}

/// The sandbox is a tmpfs, whose files have seals.
#[test]
fn files_have_no_seals() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::write(source.join("f"), "x").unwrap();
        let seals =
            |below: &Path| calls::fcntl(open(below.join("f"), 0).as_fd(), libc::F_GET_SEALS);
        assert_eq!(seals(&source), Ok(libc::F_SEAL_SEAL.into()));
        assert_eq!(seals(&ours.point), Err(libc::EINVAL));
    });
}

fn opened(fifo: PathBuf, flags: i32) -> Sys<()> {
    raw::open(&fifo, flags | libc::O_NONBLOCK, 0).map(drop)
}

#[test]
fn fifos_and_sockets_are_of_one_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let other = Ours::new(&source, &sandbox.dir("other"), &[]);
        let places = [&source, &ours.point, &other.point];
        raw::mknod(&source.join("fifo"), libc::S_IFIFO | 0o666, 0).unwrap();
        for (at, here) in places.iter().enumerate() {
            let reads =
                raw::open(&here.join("fifo"), libc::O_RDONLY | libc::O_NONBLOCK, 0).unwrap();
            let met = places.map(|place| opened(place.join("fifo"), libc::O_WRONLY));
            let mut wanted = [Err(libc::ENXIO); 3];
            wanted[at] = Ok(());
            assert_eq!(met, wanted, "{at}");
            drop(reads);
            // Another test's child may have it for a moment longer.
            let nobody = Err(libc::ENXIO);
            wait_for("nobody who reads", || {
                places.iter().all(|place| opened(place.join("fifo"), libc::O_WRONLY) == nobody)
            });
            let socket = UnixListener::bind(here.join("socket")).unwrap();
            // To the others it is made by the host.
            let is_there = || places.iter().all(|place| place.join("socket").exists());
            wait_for("a socket", is_there);
            let reached = |place: &Path| {
                let done = UnixStream::connect(place.join("socket"));
                done.map(drop).map_err(|error| error.raw_os_error().unwrap_or(0))
            };
            let mut wanted = [Err(libc::ECONNREFUSED); 3];
            wanted[at] = Ok(());
            let met = places.map(|place| reached(place));
            assert_eq!(met, wanted, "{at}");
            if at == 0 {
                // The host's own, in the place of the view's.
                let sockets = [source.join("socket"), ours.at("socket")];
                run("mount", &["--bind", str(&sockets[0]), str(&sockets[1])]);
                assert_eq!(reached(&ours.point), Ok(()));
                run("umount", &[str(&sockets[1])]);
            }
            drop(socket);
            fs::remove_file(source.join("socket")).unwrap();
            let gone = || places.iter().all(|place| !place.join("socket").exists());
            assert!(holds_within(Duration::from_secs(3), gone));
        }
    });
}

/// A sandbox has a current directory of its own.
#[test]
fn who_is_in_a_directory_that_the_host_moves_stays_in_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::create_dir_all(source.join("a/b")).unwrap();
        fs::create_dir(source.join("x")).unwrap();
        fs::write(source.join("a/b/file"), "one").unwrap();
        std::env::set_current_dir(ours.at("a/b")).unwrap();
        let mut file = File::open("file").unwrap();
        let here = || std::env::current_dir().map_err(|error| error.raw_os_error());
        let is_lost = |dir: &str| {
            let lost = PathBuf::from(format!("{} (deleted)", str(&ours.at(dir))));
            let gone = || {
                let link = fs::read_link("/proc/thread-self/cwd").unwrap();
                !ours.at(dir).exists() && link == lost && here() == Err(Some(libc::ENOENT))
            };
            holds_within(Duration::from_secs(5), gone)
        };
        let error = |done: std::io::Result<()>| done.map_err(|error| error.raw_os_error());
        assert_eq!(here(), Ok(ours.at("a/b")));
        fs::rename(source.join("a/b"), source.join("x/c")).unwrap();
        assert!(is_lost("a/b"), "{:?}", here());
        fs::write("new", "two").unwrap();
        assert_eq!(fs::read_to_string("file").unwrap(), "one");
        assert_eq!(fs::read_to_string(source.join("x/c/new")).unwrap(), "two");
        // Whoever looks it up by its new name has found it for all.
        assert!(ours.at("x/c/file").exists());
        assert_eq!(here(), Ok(ours.at("x/c")));
        // As on the source.
        fs::remove_dir_all(source.join("x/c")).unwrap();
        assert!(is_lost("x/c"), "{:?}", here());
        assert_eq!(fs::read_dir(".").unwrap().count(), 0);
        assert_eq!(error(fs::write("more", "x")), Err(Some(libc::ENOENT)));
        assert_eq!(error(fs::metadata("file").map(drop)), Err(Some(libc::ENOENT)));
        let mut said = String::new();
        file.read_to_string(&mut said).unwrap();
        assert_eq!(said, "one", "what is open stays so");
        std::env::set_current_dir("/").unwrap();
    });
}
