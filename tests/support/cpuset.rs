//! Control groups that say on which processors a process may run.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::mount::{MsFlags, mount};
use nix::sched::CpuSet;
use nix::unistd::Pid;

use super::Sandbox;

/// The numbers of the processors of a set.
pub fn numbers(set: CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(move |&number| set.is_set(number) == Ok(true))
}

/// A group of its own; what is in it goes back where the tests are when this is dropped.
#[derive(Debug)]
pub struct Cpuset {
    group: PathBuf,
    home: PathBuf,
}

impl Cpuset {
    /// Makes a group that may use one processor.
    ///
    /// # Errors
    /// If there are no such groups, or none can be made here.
    pub fn try_new(sandbox: &Sandbox, processor: usize) -> io::Result<Self> {
        let (root, none) = (sandbox.dir("cpusets"), MsFlags::empty());
        let own = fs::read_to_string("/proc/self/cgroup")?;
        // The first version has a tree for it alone, where it is not part of the second.
        let first = own.lines().find_map(|line| line.split_once(":cpuset:"));
        let (_, home) = match first {
            Some(found) => {
                mount(Some("none"), &root, Some("cgroup"), none, Some("cpuset"))?;
                found
            }
            None => {
                mount(Some("none"), &root, Some("cgroup2"), none, None::<&str>)?;
                fs::write(root.join("cgroup.subtree_control"), "+cpuset")?;
                own.lines().find_map(|line| line.split_once("::")).unwrap_or_default()
            }
        };
        let group = root.join(format!("idmapfs-test-{}-{processor}", nix::unistd::gettid()));
        fs::create_dir(&group)?;
        let made = Self { group, home: root.join(home.trim_start_matches('/')) };
        if first.is_some() {
            let memory = fs::read_to_string(root.join("cpuset.mems"))?;
            fs::write(made.group.join("cpuset.mems"), memory)?;
        }
        fs::write(made.group.join("cpuset.cpus"), processor.to_string())?;
        Ok(made)
    }

    /// Takes a process in.
    pub fn take(&self, process: Pid) -> io::Result<()> {
        send(&self.group, process)
    }

    /// Sends a process back.
    pub fn give_back(&self, process: Pid) -> io::Result<()> {
        send(&self.home, process)
    }
}

fn send(group: &Path, process: Pid) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), process.to_string())
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        let inside = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for process in inside.lines().filter_map(|line| line.parse().ok()) {
            // It may have ended.
            let _gone = self.give_back(Pid::from_raw(process));
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("{}: {error}", self.group.display());
        }
    }
}
