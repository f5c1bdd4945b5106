//! Real mounts of a source in memory, each in a mount namespace of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{getegid, geteuid};

use super::attach::{self, Place};
use super::options::{Cache, Engine, Flags, Options, Owners, Passthrough, Renew, Submounts};
use super::processes::Proc;
use super::reload::decide;
use super::remount::Unsaid;
use super::watch::Watching;
use crate::fs::{Config, Fs, Notice, Trust};
use crate::fuse::{Refreshed, Session, SessionOptions, VIEW};
use crate::id::{Caller, Id, Ids};
use crate::policy::{NoNames, Spec, options};
use crate::source::host::tests::unmount;
use crate::source::memory::{self, Memory, Script};
use crate::source::{Covers, Key, RenameFlags, What};
use crate::sys::mount::{self as kernel, Context};
use crate::sys::mountinfo;

/// Runs a test in a thread with a mount namespace of its own, on an empty
/// directory of a tmpfs that only it has.
fn in_private_namespace(test: fn(&Path)) {
    let run = move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
            println!("SKIP: no mount namespace of our own: {errno}");
            return;
        }
        if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
            println!("SKIP: /dev/fuse: {error}");
            return;
        }
        let none: Option<&str> = None;
        mount2(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount2(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        test(dir.path());
        umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    };
    thread::spawn(run).join().unwrap();
}

fn file_system() -> Fs {
    let source = Arc::new(Memory::new(memory::Options::new(Ids::new(0, 0).unwrap())));
    file_system_of(source, Duration::from_secs(1))
}

fn file_system_of(source: Arc<Memory>, time: Duration) -> Fs {
    let (policy, stand_in) = decide(&Spec::default(), true, "self").unwrap();
    let config = Config {
        trust: Trust::For(time),
        nodes: 64,
        descriptors: 1024,
        stand_in,
        unknown_callers: false,
        copied_up: false,
        helper: || Box::new(()),
    };
    Fs::new(source, Arc::new(policy), Arc::new(Proc::open("self")), config).unwrap()
}

fn options_of(target: &Path) -> Options {
    Options {
        source: "/".into(),
        target: target.into(),
        spec: Spec::default(),
        renew: Renew::new(|| Ok(Spec::default()), Vec::new()),
        flags: Flags::default(),
        allow_other: None,
        fsname: None,
        cache: Cache::Off,
        passthrough: Passthrough::Auto,
        open_files: None,
        allow_idmap: false,
        submounts: Submounts::Follow,
        owners: Owners::Native,
        image: super::ImageOptions::default(),
        upper: None,
        engine: Engine::Fuse,
        within: None,
        foreground: true,
        with_pid: None,
        written: Vec::new(),
    }
}

const SERVING: SessionOptions = SessionOptions {
    threads: 2,
    reserve: 0,
    near: true,
    clone_device: true,
    anchored: true,
    acl: true,
    keep_pages: false,
    exclusive: false,
    writes: true,
    passthrough: Err("it is a test"),
    allow_idmap: false,
};

const NAME: &str = "a, b";

fn start(target: &Path) -> (Session, Place) {
    let (options, name) = (options_of(target), OsStr::new(NAME));
    attach::mount(&options, target, name, Arc::new(file_system()), SERVING).unwrap()
}

/// Starts a file system of which nothing is attached yet.
fn start_detached(target: &Path, serving: SessionOptions) -> (Session, OwnedFd) {
    let context = Context::open(c"fuse").unwrap();
    let ids = (geteuid(), getegid());
    let (device, mount) =
        attach::make(&options_of(target), target, OsStr::new(NAME), &context, ids).unwrap();
    (Session::start(device, Arc::new(file_system()), serving).unwrap(), mount)
}

/// Reads a file through a second descriptor.
fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn files_and_directories_work() {
    in_private_namespace(|dir| {
        let (session, place) = start(dir);
        let there = mountinfo::mount_at(dir).unwrap().unwrap();
        assert!(mountinfo::is_ours(&there.fstype));
        assert_eq!((there.device, there.source.as_os_str()), (place.device, OsStr::new(NAME)));
        assert!(there.flags.contains("nosuid,nodev"), "{}", there.flags);

        let (sub, file) = (dir.join("sub"), dir.join("sub/file"));
        fs::create_dir(&sub).unwrap();
        let mut open = File::options().create_new(true).read(true).write(true).open(&file).unwrap();
        open.write_all(b"hello").unwrap();
        assert_eq!(content(&file), "hello");
        open.set_len(2).unwrap();
        open.write_all_at(b"!", 3 << 20).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), (3 << 20) + 1);
        fs::hard_link(&file, dir.join("other")).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().ino(),
            fs::metadata(dir.join("other")).unwrap().ino()
        );
        symlink("sub/file", dir.join("link")).unwrap();
        assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("sub/file"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(dir.join("link")).unwrap().mode(), 0o100_640);
        fs::rename(&file, dir.join("moved")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        fs::remove_file(dir.join("moved")).unwrap();
        fs::remove_file(dir.join("other")).unwrap();
        let mut start = [0; 2];
        open.rewind().unwrap();
        open.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"he", "an unlinked file is there while it is open");
        drop(open);
        fs::remove_dir(&sub).unwrap();

        for number in 0..500 {
            File::create(dir.join(format!("{number:0200}"))).unwrap();
        }
        // More than one reply holds, and `link`.
        assert_eq!(fs::read_dir(dir).unwrap().count(), 501);

        place.unmount().unwrap();
        session.wait().unwrap();
        assert!(mountinfo::mount_at(dir).unwrap().is_some_and(|top| top.fstype == "tmpfs"));
    });
}

#[test]
fn older_kernels_attach_the_visible_root_too() {
    in_private_namespace(|dir| {
        let (session, parent) = start_detached(dir, SERVING);
        attach::attach_before_6_15(parent, dir).unwrap();
        let there = mountinfo::mount_at(dir).unwrap().unwrap();
        assert_eq!(there.root, Path::new("/").join(VIEW));
        fs::create_dir(dir.join("sub")).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
        unmount(dir);
        session.wait().unwrap();
        assert!(mountinfo::mount_at(dir).unwrap().is_some_and(|top| top.fstype == "tmpfs"));
    });
}

#[test]
fn node_1_can_be_the_root_itself() {
    in_private_namespace(|dir| {
        let serving = SessionOptions { anchored: false, clone_device: false, ..SERVING };
        let (session, mount) = start_detached(dir, serving);
        kernel::attach(mount.as_fd(), dir).unwrap();
        drop(mount);
        // The source's own number of its root, which is no node of ours.
        assert_eq!(fs::metadata(dir).unwrap().ino(), 1);
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "x").unwrap();
        fs::rename(dir.join("sub/file"), dir.join("file")).unwrap();
        assert_eq!(content(&dir.join("file")), "x");
        let parent = fs::metadata(dir.join("sub/..")).unwrap();
        assert_eq!(parent.ino(), fs::metadata(dir).unwrap().ino());
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(fs::metadata(dir).unwrap().mode(), 0o40711);
        unmount(dir);
        session.wait().unwrap();
    });
}

#[test]
fn times_of_any_size_are_set_and_shown() {
    in_private_namespace(|dir| {
        let (session, place) = start(dir);
        let path = dir.join("file");
        let file = File::create(&path).unwrap();
        let long_ago = UNIX_EPOCH - Duration::new(1, 250_000_000);
        file.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
        for (sec, nsec) in [(-1, 999_999_999), (-5_000_000_000, 1), (i64::MAX, 0), (i64::MIN, 0)] {
            let time = TimeSpec::new(sec, nsec);
            utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, UtimensatFlags::FollowSymlink)
                .unwrap();
            let shown = fs::metadata(&path).unwrap();
            assert_eq!((shown.mtime(), shown.mtime_nsec()), (sec, nsec));
        }
        drop(file);
        place.unmount().unwrap();
        session.wait().unwrap();
    });
}

#[test]
fn a_busy_mount_is_taken_away_and_still_serves() {
    in_private_namespace(|dir| {
        let (session, place) = start(dir);
        let path = dir.join("file");
        let mut file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        file.write_all(b"late").unwrap();
        place.unmount().unwrap();
        assert!(mountinfo::mount_at(dir).unwrap().is_some_and(|top| top.fstype == "tmpfs"));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "late");
        drop(file);
        session.wait().unwrap();
        // What is not there any more is not unmounted twice.
        place.unmount().unwrap();
    });
}

#[test]
fn an_aborted_mount_is_dead_and_can_be_cleared() {
    in_private_namespace(|dir| {
        let (session, _place) = start(dir);
        crate::control::abort(dir).unwrap();
        session.wait().unwrap();
        let error = fs::read_dir(dir).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
        attach::clear_dead(dir).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
        // A live mount is not cleared, nor what is not ours.
        attach::clear_dead(dir).unwrap();
        assert!(mountinfo::mount_at(dir).unwrap().is_some_and(|top| top.fstype == "tmpfs"));
    });
}

#[test]
fn flags_are_changed_on_a_mount_of_ours_only() {
    in_private_namespace(|dir| {
        let flags = Flags { read_only: Some(true), ..Flags::default() };
        let refused = super::remount(dir, flags, Unsaid::Stays).unwrap_err();
        assert!(matches!(refused, super::MountError::NotMounted(_)), "{refused}");
        let (session, place) = start(dir);
        super::remount(dir, flags, Unsaid::Stays).unwrap();
        let error = File::create(dir.join("file")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let there = mountinfo::mount_at(dir).unwrap().unwrap();
        assert!(there.flags.starts_with("ro,nosuid,nodev"), "{}", there.flags);
        super::remount(dir, Flags { read_only: Some(false), ..flags }, Unsaid::Stays).unwrap();
        File::create(dir.join("file")).unwrap();
        place.unmount().unwrap();
        session.wait().unwrap();
    });
}

/// Starts a mount that the kernel may believe for an hour; returns another one of
/// the same source too, which stands for the host.
fn start_long(target: &Path, anchored: bool) -> (Session, Arc<Fs>, Fs) {
    let source = Arc::new(Memory::new(memory::Options::new(Ids::new(0, 0).unwrap())));
    let hour = Duration::from_secs(3600);
    let fs = Arc::new(file_system_of(Arc::clone(&source), hour));
    let context = Context::open(c"fuse").unwrap();
    let (options, name) = (options_of(target), OsStr::new(NAME));
    let (device, mount) =
        attach::make(&options, target, name, &context, (geteuid(), getegid())).unwrap();
    let serving = SessionOptions { anchored, ..SERVING };
    let session = Session::start(device, Arc::clone(&fs), serving).unwrap();
    if anchored {
        attach::attach(mount, target).unwrap();
    } else {
        kernel::attach(mount.as_fd(), target).unwrap();
    }
    (session, fs, file_system_of(source, hour))
}

#[test]
fn what_the_kernel_knows_is_asked_for_again() {
    in_private_namespace(|dir| {
        for anchored in [true, false] {
            let (session, fs, host) = start_long(dir, anchored);
            let (sub, file) = (dir.join("sub"), dir.join("sub/file"));
            fs::create_dir(&sub).unwrap();
            fs::write(&file, "x").unwrap();
            fs::create_dir(dir.join("below")).unwrap();
            let none: Option<&str> = None;
            mount2(Some("tmpfs"), &dir.join("below"), Some("tmpfs"), MsFlags::empty(), none)
                .unwrap();
            let open = File::open(&file).unwrap();

            fs::metadata(&file).unwrap();

            // An hour has not passed since, so only a word of ours can tell.
            let mut given = options::Options::default();
            assert!(given.set("present-as", Some("7:8")).unwrap());
            let spec = Spec::from_options(&given, &NoNames).unwrap();
            let (policy, stand_in) = decide(&spec, true, "self").unwrap();
            assert_eq!(fs.replace(Arc::new(policy), stand_in), Ok(()));
            assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
            let patience = Duration::from_secs(20);
            assert_eq!(session.notifier().all(patience), Refreshed::All);
            for path in [dir, &sub, &file] {
                let shown = fs::metadata(path).unwrap();
                assert_eq!((shown.uid(), shown.gid()), (7, 8), "{}", path.display());
            }
            assert_eq!(open.metadata().unwrap().uid(), 7);

            let caller = Caller { uid: Id::new(0), gid: Id::new(0), pid: 1 };
            let root = host.root_number();
            let parent = host.lookup(&caller, root, OsStr::new("sub")).unwrap().node;
            let [old, new] = ["file", "moved"].map(OsStr::new);
            host.rename(&caller, (parent, old), (root, new), RenameFlags::default()).unwrap();
            fs::metadata(&file).unwrap();
            assert_eq!(session.notifier().all(patience), Refreshed::All);
            assert_eq!(fs::metadata(&file).unwrap_err().raw_os_error(), Some(libc::ENOENT));
            assert_eq!(content(&dir.join("moved")), "x");
            let below = mountinfo::mount_at(&dir.join("below")).unwrap().unwrap();
            assert_eq!(below.fstype, "tmpfs", "what is mounted below stays");
            drop(open);

            unmount(&dir.join("below"));
            unmount(dir);
            session.wait().unwrap();
        }
    });
}

/// Starts a mount that believes a watch; returns another one of the same source,
/// which stands for the host, and what is said of it.
fn start_watched(target: &Path) -> (Session, Watching, Arc<Fs>, Fs, Arc<Script>) {
    let source = Arc::new(Memory::new(memory::Options::new(Ids::new(0, 0).unwrap())));
    let (policy, stand_in) = decide(&Spec::default(), true, "self").unwrap();
    let config = Config {
        trust: Trust::Watch,
        nodes: 64,
        descriptors: 1024,
        stand_in,
        unknown_callers: false,
        copied_up: false,
        helper: || Box::new(()),
    };
    let known = Arc::new(Proc::open("self"));
    let fs = Arc::new(Fs::new(source.clone(), Arc::new(policy), known, config).unwrap());
    let script = Script::new(Covers::Everything);
    fs.trust_watch(script.clone());
    let context = Context::open(c"fuse").unwrap();
    let (options, name) = (options_of(target), OsStr::new(NAME));
    let (device, mount) =
        attach::make(&options, target, name, &context, (geteuid(), getegid())).unwrap();
    let session = Session::start(device, Arc::clone(&fs), SERVING).unwrap();
    let watching = Watching::start(&fs, session.notifier()).unwrap().unwrap();
    attach::attach(mount, target).unwrap();
    (session, watching, fs, file_system_of(source, Duration::ZERO), script)
}

/// After events were lost everything is asked for again, missing names too, and
/// what is mounted below stays.
#[test]
fn what_was_lost_is_asked_for_again() {
    in_private_namespace(|dir| {
        let (session, watching, fs, host, script) = start_watched(dir);
        for name in ["below", "d"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join("d/old"), "x").unwrap();
        let none: Option<&str> = None;
        mount2(Some("tmpfs"), &dir.join("below"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let there = |name: &str| fs::symlink_metadata(dir.join(name)).is_ok();
        let listed = || fs::read_dir(dir.join("d")).unwrap().count();
        assert!(there("d/old") && !there("d/new") && listed() == 1);

        let caller = Caller { uid: Id::new(0), gid: Id::new(0), pid: 1 };
        let at = host.lookup(&caller, host.root_number(), OsStr::new("d")).unwrap().node;
        let [old, new] = ["old", "new"].map(OsStr::new);
        host.rename(&caller, (at, old), (at, new), RenameFlags::default()).unwrap();
        host.mknod(&caller, at, OsStr::new("more"), libc::S_IFREG, 0, 0).unwrap();
        assert!(there("d/old") && !there("d/new"), "nobody has said so");
        script.say(What::Lost);
        let end = Instant::now() + Duration::from_secs(20);
        while there("d/old") || !there("d/new") || listed() != 2 {
            assert!(Instant::now() < end, "not within 20 s");
            thread::sleep(Duration::from_millis(5));
        }
        let below = mountinfo::mount_at(&dir.join("below")).unwrap().unwrap();
        assert_eq!(below.fstype, "tmpfs", "what is mounted below stays");

        // What is said to be gone, and is not, leaves it too.
        let name = OsString::from("below");
        let root = fs.watch().map(|_| fs.root_number()).unwrap();
        session.notifier().later(Notice::Name(root, name));
        thread::sleep(Duration::from_millis(300));
        assert!(mountinfo::mount_at(&dir.join("below")).unwrap().is_some());
        unmount(&dir.join("below"));
        drop(watching);
        unmount(dir);
        session.wait().unwrap();
    });
}

/// Nobody asks for a name again that has gone on the host.
#[test]
fn what_is_gone_is_forgotten_on_both_sides() {
    in_private_namespace(|dir| {
        let (session, watching, fs, host, script) = start_watched(dir);
        fs::create_dir(dir.join("d")).unwrap();
        let caller = Caller { uid: Id::new(0), gid: Id::new(0), pid: 1 };
        let at = host.lookup(&caller, host.root_number(), OsStr::new("d")).unwrap().node;
        let names: Vec<OsString> = (0..200).map(|i| format!("f{i}").into()).collect();
        for name in &names {
            host.mknod(&caller, at, name, libc::S_IFREG, 0, 0).unwrap();
            fs::metadata(dir.join("d").join(name)).unwrap();
        }
        let known = || {
            let parts = (0..).map_while(|part| fs.numbers(part));
            parts.map(|part| part.len()).sum::<usize>()
        };
        assert!(known() >= 202);
        // A number of the memory is that of its file.
        let key = Key { volume: 0, ino: at, generation: fs_generation(&host, &caller, at) };
        for name in &names {
            host.unlink(&caller, at, name).unwrap();
            script.say(What::Name { dir: key.clone(), name: name.clone(), file: None });
        }
        let end = Instant::now() + Duration::from_secs(20);
        while known() > 2 {
            assert!(Instant::now() < end, "{} are still known", known());
            thread::sleep(Duration::from_millis(5));
        }
        drop(watching);
        unmount(dir);
        session.wait().unwrap();
    });
}

fn fs_generation(host: &Fs, caller: &Caller, number: u64) -> u64 {
    let root = host.root_number();
    let found = host.lookup(caller, root, OsStr::new("d")).unwrap();
    assert_eq!(found.node, number);
    found.generation
}

#[test]
fn callers_who_lock_directories_do_not_stop_it() {
    in_private_namespace(|dir| {
        let (session, _fs, _host) = start_long(dir, true);
        let refresh = session.notifier();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..4 {
                let over = &over;
                scope.spawn(move || {
                    let [one, two] = ["a", "b"].map(|name| dir.join(format!("{name}{number}")));
                    while !over.load(Ordering::Relaxed) {
                        fs::write(&one, "x").unwrap();
                        fs::rename(&one, &two).unwrap();
                        assert!(fs::read_dir(dir).unwrap().count() > 0);
                        fs::metadata(&two).unwrap();
                        fs::remove_file(&two).unwrap();
                    }
                });
            }
            for _ in 0..50 {
                let done = refresh.all(Duration::from_secs(20));
                assert_eq!(done, Refreshed::All);
            }
            over.store(true, Ordering::Relaxed);
        });
        unmount(dir);
        session.wait().unwrap();
        // Nobody is there any more, and that is no failure.
        assert_eq!(refresh.all(Duration::from_secs(20)), Refreshed::All);
        refresh.end(Duration::from_secs(20));
    });
}
