//! An ordinary user with subordinate ids, a home and an image, in a sandbox where
//! rootless containers work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::group::Group;
use super::ours::program_for_users;
use super::{Sandbox, boxes, holds_within, raw, run, sh, str, text};

/// The user; the group has the same number.
pub const ANN: u32 = 7001;

/// The first of her 65536 subordinate ids.
pub const SUBORDINATE: u32 = 700_000;

/// The image that [`Rootless::image`] makes.
pub const IMAGE: &str = "localhost/small";

/// What the image has, beside the libraries that these need.
const PROGRAMS: &str = "bash cat chmod chown cp flock grep head id ln ls mkdir mkfifo mknod mount mv rm sh \
                        sleep stat touch true umount unshare";

/// The place of such a user; its processes end with it.
#[derive(Debug)]
pub struct Rootless {
    /// Her home; `.ssh/id` and `f` are in it, and `.cache/view` is empty.
    pub home: PathBuf,
    /// The root directory of an image, all hers.
    pub rootfs: PathBuf,
    runtime: PathBuf,
    bin: PathBuf,
    group: Group,
}

impl Rootless {
    /// Makes the place.
    pub fn new(sandbox: &Sandbox) -> Self {
        let none: Option<&str> = None;
        // As podman expects it; and homes are below no directory that a container is given.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).expect("shared mounts");
        mount(Some(&sandbox.dir("home")), "/home", none, MsFlags::MS_BIND, none).expect("/home");
        let ann = Self {
            home: "/home/ann".into(),
            rootfs: sandbox.dir("rootfs"),
            runtime: sandbox.dir("run-ann"),
            bin: sandbox.dir("bin"),
            group: Group::new(sandbox, ANN),
        };
        let program = program_for_users(sandbox);
        std::os::unix::fs::symlink(program, ann.bin.join("idmapfs")).unwrap();
        accounts(sandbox, &ann.home);
        root_directory(&ann.rootfs);
        for dir in [".ssh", ".cache/view", ".config/containers", "project"] {
            fs::create_dir_all(ann.home.join(dir)).unwrap();
        }
        for (name, contents) in [
            (".ssh/id", "secret\n"),
            ("f", "hello\n"),
            ("project/f", "hello\n"),
            (".config/containers/containers.conf", CONFIG),
        ] {
            fs::write(ann.home.join(name), contents).unwrap();
        }
        fs::set_permissions(&ann.runtime, fs::Permissions::from_mode(0o700)).unwrap();
        for dir in [&ann.home, &ann.rootfs, &ann.runtime] {
            sh(&format!("chown -R {ANN}:{ANN} {}", str(dir)));
        }
        ann
    }

    /// Makes an image of the root directory.
    pub fn image(&self) {
        self.does(&format!("tar -C {} -c . | podman import -q - {IMAGE}", str(&self.rootfs)));
    }

    /// A script of hers, not started.
    pub fn command(&self, script: &str) -> Command {
        self.command_in(&[], script)
    }

    /// A script of hers as a member of these groups too, not started.
    pub fn command_in(&self, groups: &[u32], script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euc", script]).stdin(Stdio::null()).current_dir(&self.home).env_clear();
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", str(&self.bin));
        command.envs([("PATH", path.as_str()), ("HOME", str(&self.home)), ("USER", "ann")]);
        command.env("XDG_RUNTIME_DIR", &self.runtime).env("ROOTFS", &self.rootfs);
        command.env("BUILDAH_ISOLATION", "chroot").env("IMAGE", IMAGE).env("BOX", boxes::IMAGE);
        let bus = format!("unix:path={}/system-bus", str(&self.runtime));
        command.env("SHELL", "/bin/bash").env("DBUS_SYSTEM_BUS_ADDRESS", bus);
        self.group.takes(&mut command);
        raw::run_as(&mut command, ANN, ANN, groups);
        command
    }

    /// Runs a script of hers to its end.
    pub fn tries(&self, script: &str) -> Output {
        self.command(script).output().expect("bash")
    }

    /// Runs a script of hers, which must succeed; returns its output.
    pub fn does(&self, script: &str) -> String {
        let done = self.tries(script);
        assert!(done.status.success(), "{script}: {}", text(&done));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Returns podman's pause process.
    pub fn pause(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.runtime.join("libpod/tmp/pause.pid")).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    /// Her processes that run, in containers too.
    pub fn processes(&self) -> Vec<Pid> {
        self.group.processes()
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGTERM);
        }
        if !holds_within(std::time::Duration::from_secs(3), || self.processes().is_empty()) {
            for pid in self.processes() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// No network and no systemd: neither can be had everywhere.
const CONFIG: &str = "[containers]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\n\
                      [engine]\ncgroup_manager = \"cgroupfs\"\n";

/// Gives the user a name and subordinate ids, in an `/etc` of this namespace alone: what is
/// mounted on a file there goes when somebody puts another one in its place on the host.
fn accounts(sandbox: &Sandbox, home: &Path) {
    let etc = sandbox.path("etc");
    run("cp", &["-a", "/etc", str(&etc)]);
    let ids = format!("ann:{SUBORDINATE}:65536\n");
    for (file, line) in [
        ("passwd", format!("ann:x:{ANN}:{ANN}::{}:/bin/bash\n", str(home))),
        ("group", format!("ann:x:{ANN}:\n")),
        ("subuid", ids.clone()),
        ("subgid", ids),
    ] {
        let file = etc.join(file);
        let lines = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, lines + &line).unwrap();
    }
    mount(Some(&etc), "/etc", None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .unwrap();
}

/// Makes the root directory of a small image.
fn root_directory(root: &Path) {
    programs(root, PROGRAMS);
    sh(&format!(
        "cd {root}; mkdir -p etc dev proc sys tmp run root home/me
        echo root:x:0:0::/root:/bin/sh >etc/passwd; echo me:x:1000:1000::/home/me:/bin/sh >>etc/passwd
        echo you:x:2000:2000::/home/me:/bin/sh >>etc/passwd
        echo root:x:0: >etc/group; echo me:x:1000: >>etc/group; echo you:x:2000: >>etc/group",
        root = str(root)
    ));
}

/// Copies programs of this machine to the root directory of an image, with the
/// libraries that they need.
pub fn programs(root: &Path, names: &str) {
    sh(&format!(
        "PATH=$PATH:/usr/sbin:/sbin; cd {root}; mkdir -p usr/bin
        for dir in bin sbin lib lib64; do
            if [ -L /$dir ]; then mkdir -p usr/$dir; ln -sfn usr/$dir $dir; else mkdir -p $dir; fi
        done
        for name in {names}; do cp -L $(type -P $name) usr/bin/; done
        [ -L bin ] || cp usr/bin/* bin/
        for file in $(ldd usr/bin/* | grep -o '/[^ :]*' | grep -F .so | sort -u); do
            mkdir -p .${{file%/*}}; cp -L $file .$file
        done",
        root = str(root)
    ));
}

/// A user and mount namespace of the user's, with one id, and a mount of ours in it.
#[derive(Debug)]
pub struct Inside {
    process: std::process::Child,
}

impl Inside {
    /// Makes it, and the mount by these arguments.
    pub fn new(ann: &Rootless, arguments: &str) -> Self {
        let ready = ann.home.join(".ready");
        let script = format!("idmapfs {arguments}; touch {}; exec sleep 200", str(&ready));
        let mut command =
            ann.command(&format!("exec unshare --map-root-user -m sh -euc \"{script}\""));
        let process = command.spawn().expect("unshare");
        let made = holds_within(std::time::Duration::from_secs(10), || ready.exists());
        let this = Self { process };
        assert!(made, "no mount by {arguments}");
        fs::remove_file(ready).unwrap();
        this
    }

    /// A process in it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Has a process of its own do something in there, as root of it, and waits for that;
    /// returns what it has made.
    pub fn does(&self, body: impl FnOnce() -> String) -> String {
        let result = tempfile::tempfile().expect("a file for the result");
        let ns = |kind: &str| fs::File::open(format!("/proc/{}/ns/{kind}", self.pid())).unwrap();
        let (user, mount) = (ns("user"), ns("mnt"));
        let mut to = result.try_clone().unwrap();
        let pid = raw::fork(move || {
            use nix::sched::{CloneFlags, setns};
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                setns(user, CloneFlags::CLONE_NEWUSER).expect("user namespace");
                setns(mount, CloneFlags::CLONE_NEWNS).expect("mount namespace");
                nix::unistd::setresgid(0.into(), 0.into(), 0.into()).expect("gid 0");
                nix::unistd::setresuid(0.into(), 0.into(), 0.into()).expect("uid 0");
                body()
            }));
            let said = said.unwrap_or_else(|_| "panicked".to_owned());
            let _ = std::io::Write::write_all(&mut to, said.as_bytes());
        });
        nix::sys::wait::waitpid(pid.expect("fork"), None).expect("the child");
        let (mut result, mut said) = (result, String::new());
        std::io::Seek::rewind(&mut result).unwrap();
        std::io::Read::read_to_string(&mut result, &mut said).unwrap();
        said
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
