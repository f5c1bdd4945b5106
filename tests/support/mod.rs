//! The harness: a mount namespace for each test, sources, oracles, our mount.

pub mod boxes;
pub mod calls;
pub mod controlled;
pub mod cpuset;
pub mod crypt;
pub mod document;
pub mod features;
pub mod group;
pub mod idmap;
pub mod image;
pub mod images;
pub mod ours;
pub mod raw;
pub mod rng;
pub mod rootless;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags};

/// Ends a test that needs features which the machine has not; says `SKIP`.
#[macro_export]
macro_rules! require {
    ($($feature:ident),+ $(,)?) => {
        $(if !$crate::support::features::has($crate::support::features::Feature::$feature) {
            return;
        })+
    };
}

/// A test's own place: a private mount namespace with a scratch tmpfs in it.
///
/// Everything that a test mounts goes away with the namespace. The scratch
/// directory is a tmpfs of that namespace, so nothing is ever deleted through
/// a mount that was left behind.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
}

/// The longest that a test may take before its mounts are aborted.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs a test's body in a thread with a mount namespace of its own.
///
/// A test that hangs on a mount of ours fails instead: its connections are
/// aborted, which frees every process that waits for them.
pub fn sandbox(body: impl FnOnce(&Sandbox) + Send + 'static) {
    let (told, thread) = std::sync::mpsc::channel();
    let running = std::thread::spawn(move || {
        let _ = told.send(nix::unistd::gettid());
        let sandbox = Sandbox::new();
        body(&sandbox);
    });
    let thread = thread.recv().expect("the thread starts");
    if !holds_within(LIMIT, || running.is_finished()) {
        abort_mounts_of(thread);
        let freed = holds_within(Duration::from_secs(30), || running.is_finished());
        assert!(freed, "a test hangs, and aborting its mounts did not help");
        panic!("not done within {} s; its mounts were aborted", LIMIT.as_secs());
    }
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Aborts the FUSE connections of another thread's namespace.
fn abort_mounts_of(thread: nix::unistd::Pid) {
    let control = Path::new("/sys/fs/fuse/connections");
    if fs::read_dir(control).is_ok_and(|mut list| list.next().is_none()) {
        let none: Option<&str> = None;
        let _ = nix::mount::mount(none, control, Some("fusectl"), MsFlags::empty(), none);
    }
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/mountinfo"));
    for mount in text.unwrap_or_default().lines().filter_map(parse_mount_line) {
        if let Some(minor) = mount.device.strip_prefix("0:")
            && mount.kind.starts_with("fuse.")
        {
            let _ = fs::write(control.join(minor).join("abort"), "1");
        }
    }
}

impl Sandbox {
    fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("own mount namespace");
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(none, "/", none, private, none).expect("private mounts");
        let root = tempfile::Builder::new()
            .prefix("idmapfs-test-")
            .tempdir_in("/tmp")
            .expect("scratch directory")
            .keep();
        let options = Some("mode=0755,size=4g");
        nix::mount::mount(Some("scratch"), &root, Some("tmpfs"), MsFlags::empty(), options)
            .expect("scratch tmpfs");
        open_dev_fuse(&root);
        Self { root }
    }

    /// Returns the path of a name in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a directory in the scratch directory and returns its path.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a new directory");
        path
    }

    /// Makes a file with these contents in the scratch directory.
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a new file");
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for point in mounts_below(&self.root).iter().rev() {
            // A mount that cannot go stays: it is of this namespace alone.
            let _ = nix::mount::umount2(point, MntFlags::MNT_DETACH);
        }
        let _ = nix::mount::umount2(&self.root, MntFlags::MNT_DETACH);
        // Fails where a mount is still there, which then leaks an empty directory.
        let _ = fs::remove_dir(&self.root);
    }
}

/// Gives ordinary users /dev/fuse in this namespace, as udev does elsewhere.
fn open_dev_fuse(root: &Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Ok(meta) = fs::metadata("/dev/fuse") else { return };
    if meta.permissions().mode() & 0o666 == 0o666 {
        return;
    }
    let node = root.join(".fuse");
    raw::mknod(&node, libc::S_IFCHR | 0o666, meta.rdev()).expect("a node like /dev/fuse");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("its mode");
    let none: Option<&str> = None;
    nix::mount::mount(Some(&node), "/dev/fuse", none, MsFlags::MS_BIND, none).expect("bind it");
}

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone)]
pub struct MountLine {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Per-mount options.
    pub options: String,
    /// The type, such as `ext4` or `fuse.idmapfs`.
    pub kind: String,
    /// The device or source.
    pub source: String,
    /// The device number, as `major:minor`.
    pub device: String,
}

/// The mounts of the calling thread's namespace, in order.
pub fn mounts() -> Vec<MountLine> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    text.lines().filter_map(parse_mount_line).collect()
}

fn parse_mount_line(line: &str) -> Option<MountLine> {
    let (head, tail) = line.split_once(" - ")?;
    let head: Vec<&str> = head.split(' ').collect();
    let tail: Vec<&str> = tail.split(' ').collect();
    Some(MountLine {
        point: unescape(head.get(4)?).into(),
        options: (*head.get(5)?).to_owned(),
        device: (*head.get(2)?).to_owned(),
        kind: (*tail.first()?).to_owned(),
        source: unescape(tail.get(1)?),
    })
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The mount at exactly this point, the topmost if there are several.
pub fn mount_at(point: &Path) -> Option<MountLine> {
    mounts().into_iter().rfind(|mount| mount.point == point)
}

fn mounts_below(root: &Path) -> Vec<PathBuf> {
    mounts().into_iter().map(|m| m.point).filter(|p| p.starts_with(root) && p != root).collect()
}

/// Runs a command to its end; fails the test when the command fails.
///
/// A mount that is in use is unmounted a moment later: whoever looks into `/proc` keeps it
/// in use for that long, and tests beside this one do.
pub fn run(program: &str, args: &[&str]) -> String {
    let mut done = output(program, args);
    let end = Instant::now() + Duration::from_secs(10);
    while program == "umount" && text(&done).contains("is busy") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(3));
        done = output(program, args);
    }
    assert!(done.status.success(), "{program} {args:?}: {}", text(&done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Copies a program, so that it can be run at once.
///
/// By a process of its own: a descriptor for writing in this one could live on
/// in a child that another test has just forked, and make the program busy.
pub fn copy_program(from: &str, to: &Path) {
    run("cp", &[from, str(to)]);
}

/// Runs a command to its end and returns what came of it.
pub fn output(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// A shell script run to its end, which must succeed; returns its output.
pub fn sh(script: &str) -> String {
    run("bash", &["-euc", script])
}

/// A shell script run as a user, which must succeed; returns its output.
pub fn sh_as(uid: u32, gid: u32, groups: &[u32], script: &str) -> String {
    let output = try_sh_as(uid, gid, groups, script);
    assert!(output.status.success(), "as {uid}:{gid}: {script}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A shell script run as a user; returns what came of it.
pub fn try_sh_as(uid: u32, gid: u32, groups: &[u32], script: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-euc", script]).stdin(Stdio::null()).current_dir("/");
    raw::run_as(&mut command, uid, gid, groups).output().expect("bash")
}

/// What a command printed, both streams, for messages.
pub fn text(output: &Output) -> String {
    format!(
        "{} {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The path as text; every path of the tests is.
pub fn str(path: &Path) -> &str {
    path.to_str().expect("a test's own path is UTF-8")
}

/// Waits until something holds; fails the test after ten seconds.
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(Duration::from_secs(10), holds), "not within 10 s: {what}");
}

/// How long whoever waits sleeps between two looks, and how much of a look and a sleep
/// counts at most.
const NAP: Duration = Duration::from_millis(3);
const COUNTS: Duration = Duration::from_millis(10);

/// Waits this long, and longer where others have the processors.
pub fn rest(time: Duration) {
    holds_within(time, || false);
}

/// Waits until something holds, for at most this long; longer where others have the
/// processors.
///
/// Who has to wait for a turn to look knows that whom it waits for has to, as well: of
/// that time little counts. The last look begins when the time is up, so that what it saw
/// is from before the end.
pub fn holds_within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let mut left = limit;
    loop {
        let (last, looks) = (left.is_zero(), Instant::now());
        if holds() {
            return true;
        }
        if last {
            return false;
        }
        std::thread::sleep(NAP);
        left = left.saturating_sub(looks.elapsed().min(COUNTS));
    }
}
