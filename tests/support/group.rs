//! A control group of an ordinary user's own, as a login has: a container that shares
//! the processes of the machine is stopped by its group.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use super::{Sandbox, holds_within, raw, sh, str};

/// The group, and a namespace in which it is the root.
#[derive(Debug)]
pub struct Group {
    /// All groups of the machine: what a test mounts does not hide a descriptor.
    all: File,
    name: String,
    members: File,
    namespace: File,
}

impl Group {
    /// Makes it for a user, and has `/sys/fs/cgroup` show nothing else.
    pub fn new(sandbox: &Sandbox, user: u32) -> Self {
        while umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).is_ok() {}
        let (mounted, none) = (sandbox.dir("cgroups"), None::<&str>);
        mount(Some("cgroup2"), &mounted, Some("cgroup2"), MsFlags::empty(), none).expect("cgroup2");
        let all = File::open(&mounted).unwrap();
        let _ = umount2(&mounted, MntFlags::MNT_DETACH);
        let name = str(&sandbox.path("")).trim_matches('/').replace('/', "-");
        let dir = dir(&all, &name);
        let namespace = sandbox.file("cgroup", "");
        sh(&format!(
            "mkdir {dir}; chown {user}:{user} {dir} {dir}/cgroup.*; echo $$ >{dir}/cgroup.procs
            unshare --cgroup={} mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            str(&namespace),
            dir = str(&dir),
        ));
        let members = File::create(dir.join("cgroup.procs")).unwrap();
        Self { all, name, members, namespace: File::open(namespace).unwrap() }
    }

    /// Has a command run in it.
    pub fn takes(&self, command: &mut Command) {
        let mut members = self.members.try_clone().unwrap();
        let namespace = self.namespace.try_clone().unwrap();
        raw::first(command, move || {
            members.write_all(b"0")?;
            setns(&namespace, CloneFlags::CLONE_NEWCGROUP)?;
            Ok(())
        });
    }

    /// Who runs in it, and in the groups of its containers.
    pub fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for dir in below(&dir(&self.all, &self.name)) {
            let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(members.lines().map(|line| Pid::from_raw(line.parse().unwrap())));
        }
        found
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who has been killed is gone a moment later.
        let _ = holds_within(Duration::from_secs(3), || self.processes().is_empty());
        for dir in below(&dir(&self.all, &self.name)).iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn dir(all: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), all.as_raw_fd()))
}

/// A group and all that are in it, each before what it holds.
fn below(group: &Path) -> Vec<PathBuf> {
    let mut found = vec![group.to_owned()];
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
        }
    }
    found
}
