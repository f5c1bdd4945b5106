//! Our own mount, as a user would start it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::mount::MntFlags;

use super::{holds_within, mount_at, raw, str, wait_for};

/// The built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_idmapfs");

/// A mount of ours, served in the foreground by a child of the test.
#[derive(Debug)]
pub struct Ours {
    /// Where it is mounted.
    pub point: PathBuf,
    log: PathBuf,
    child: Child,
}

/// A command line of our program, not started.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// Runs our program to its end (so: not in the foreground).
///
/// The output goes to files: a server in the background may keep a pipe open.
pub fn finish(args: &[&str]) -> Output {
    finish_command(&mut command(args))
}

/// Runs a command line of ours to its end.
pub fn finish_command(command: &mut Command) -> Output {
    let (out, err) = (temporary(), temporary());
    let copy = |file: &File| Stdio::from(file.try_clone().expect("a descriptor"));
    let mut child = command.stdout(copy(&out)).stderr(copy(&err)).spawn().expect("our program");
    let mut status = None;
    let ended = holds_within(Duration::from_secs(30), || {
        status = child.try_wait().expect("our child");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
    }
    let output = Output {
        status: child.wait().expect("our child"),
        stdout: contents(out),
        stderr: contents(err),
    };
    assert!(ended, "did not return within 30 s: {command:?}: {}", super::text(&output));
    output
}

/// Whether a directory answers; a dead mount does not, though its stat may.
fn is_served(point: &Path) -> bool {
    !fs::read_dir(point).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// Every process but this one whose command line has the mount point.
pub fn processes(point: &Path) -> Vec<nix::unistd::Pid> {
    use std::os::unix::ffi::OsStrExt;
    let own = i32::try_from(std::process::id()).expect("a process id");
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|word| word == point.as_os_str().as_bytes())
        })
        .map(nix::unistd::Pid::from_raw)
        .collect()
}

/// What the threads of a process wait for, in the kernel.
pub fn waits_for(pid: nix::unistd::Pid) -> String {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let told = |task: PathBuf| format!("{}{}", read(task.join("status")), read(task.join("stack")));
    tasks.map(|task| told(task.path())).collect()
}

/// A copy of our program that every user may run.
pub fn program_for_users(sandbox: &super::Sandbox) -> PathBuf {
    let copy = sandbox.path("idmapfs");
    if !copy.exists() {
        super::copy_program(PROGRAM, &copy);
    }
    raw::chmod(&copy, 0o755).expect("chmod");
    copy
}

fn temporary() -> File {
    tempfile::tempfile().expect("a file for output")
}

fn contents(mut file: File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("output read back");
    bytes
}

impl Ours {
    /// Mounts `source` at `point` and waits until it is there.
    pub fn new(source: &Path, point: &Path, args: &[&str]) -> Self {
        let log = point.with_extension("log");
        let mut command = command(&["-f"]);
        command.args(args).arg(source).arg(point);
        Self::start(command, point, log)
    }

    /// Mounts a new directory of the sandbox; returns the source too.
    pub fn of_new(sandbox: &super::Sandbox, args: &[&str]) -> (PathBuf, Self) {
        let source = sandbox.dir("src");
        let ours = Self::new(&source, &sandbox.dir("mnt"), args);
        (source, ours)
    }

    /// Mounts as an ordinary user, whose own both directories then are; all may
    /// enter, as they may where root mounts.
    pub fn of_user(
        sandbox: &super::Sandbox,
        user: u32,
        source: &Path,
        point: &Path,
        args: &[&str],
    ) -> Self {
        let state = sandbox.dir(&format!("state-{user}"));
        for path in [source, point, &state] {
            raw::chown(path, user, user, false).expect("chown");
        }
        let allow = sandbox.file("fuse.conf", "user_allow_other\n");
        let none: Option<&str> = None;
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&allow), "/etc/fuse.conf", none, bind, none).expect("fuse.conf");
        let program = program_for_users(sandbox);
        let mut command = Command::new(&program);
        command.args(["-f", "--allow-other"]).args(args).arg(source).arg(point);
        command.stdin(Stdio::null()).env("XDG_STATE_HOME", state).env_remove("RUST_LOG");
        raw::run_as(&mut command, user, user, &[]);
        Self::start(command, point, point.with_extension("log"))
    }

    /// Starts a foreground command line that mounts at `point`.
    pub fn start(mut command: Command, point: &Path, log: PathBuf) -> Self {
        let out = File::options().create(true).append(true).open(&log).expect("a log");
        command.stdout(out.try_clone().expect("a descriptor")).stderr(out);
        let shown = format!("{command:?}");
        // A dead mount may leave its number to the new one.
        let alive = |_: &super::MountLine| is_served(point);
        let before = mount_at(point).filter(alive).map(|mount| mount.device);
        let child = raw::die_with_us(&mut command).spawn().expect("our program");
        let mut ours = Self { point: point.to_owned(), log, child };
        let mut ended = None;
        let ready = holds_within(Duration::from_secs(20), || {
            ended = ours.child.try_wait().expect("our child");
            // In this order: what is served is no dead mount that is about to be cleared.
            ended.is_some()
                || is_served(point)
                    && mount_at(point).is_some_and(|mount| {
                        mount.kind == "fuse.idmapfs" && Some(mount.device) != before
                    })
        });
        assert!(ready && ended.is_none(), "no mount ({ended:?}) of {shown}\n{}", ours.log());
        wait_for("a stat of the mount point", || fs::metadata(point).is_ok());
        ours
    }

    /// The process that serves, a child of the one that was started.
    pub fn server(&self) -> nix::unistd::Pid {
        let parent = format!("PPid:\t{}\n", self.pid());
        let is_ours = |pid: &nix::unistd::Pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&parent)
        };
        processes(&self.point).into_iter().find(is_ours).expect("a server")
    }

    /// Where the descriptors of the process that serves lead.
    pub fn held_open(&self) -> Vec<PathBuf> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.server())).unwrap().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).collect()
    }

    /// How many of them lead to files that are deleted.
    pub fn deleted_held_open(&self) -> usize {
        let links = self.held_open();
        links.iter().filter(|link| super::str(link).ends_with("(deleted)")).count()
    }

    /// Sends the process that serves a signal.
    pub fn signal_server(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.server(), signal).expect("a signal to the server");
    }

    /// The process id of the one that was started: the supervisor.
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// What the server has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A path below the mount point.
    pub fn at(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("a signal to our child");
    }

    /// Waits for the server to end by itself; returns its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        holds_within(Duration::from_secs(10), || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("the server did not end\n{}", self.log())).code()
    }

    /// Unmounts as root does, with umount(8), and waits for the server's end.
    pub fn unmount(mut self) -> Option<i32> {
        // Whoever looks into /proc keeps a program in use for a moment longer.
        wait_for("umount of a mount that nobody uses", || {
            super::output("umount", &[str(&self.point)]).status.success()
        });
        self.ended()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Not eprintln!: a test that hangs later would never show it.
            eprintln!("--- log of the server at {}\n{}---", self.point.display(), self.log());
            let _ = self.child.kill();
        }
        if mount_at(&self.point).is_some_and(|mount| mount.kind.starts_with("fuse")) {
            let _ = nix::mount::umount2(&self.point, MntFlags::MNT_DETACH);
        }
        if !holds_within(Duration::from_secs(5), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
