//! Control groups that limit what is in them, of the first version or the second.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::unistd::{Pid, gettid};

use super::{Sandbox, raw};

/// A group of its own; what is in it goes back where the tests are when this is dropped.
#[derive(Debug)]
pub struct Controlled {
    group: PathBuf,
    home: PathBuf,
    /// The root of all groups, where it is of the first version.
    first: Option<PathBuf>,
}

impl Controlled {
    /// Makes a group for a controller; `name` tells it from others of this thread.
    ///
    /// # Errors
    /// If there are no such groups, or none can be made here.
    pub fn try_new(sandbox: &Sandbox, controller: &str, name: &str) -> io::Result<Self> {
        let (root, none) = (sandbox.dir(&format!("groups-{controller}")), MsFlags::empty());
        let own = fs::read_to_string("/proc/self/cgroup")?;
        // The first version has a tree for it alone, where it is not part of the second.
        let first = own.lines().find_map(|line| line.split_once(&format!(":{controller}:")));
        let (_, home) = match first {
            Some(found) => {
                mount(Some("none"), &root, Some("cgroup"), none, Some(controller))?;
                found
            }
            None => {
                mount(Some("none"), &root, Some("cgroup2"), none, None::<&str>)?;
                fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
                own.lines().find_map(|line| line.split_once("::")).unwrap_or_default()
            }
        };
        let group = root.join(format!("idmapfs-test-{}-{name}", gettid()));
        fs::create_dir(&group)?;
        let home = root.join(home.trim_start_matches('/'));
        Ok(Self { group, home, first: first.is_some().then_some(root) })
    }

    /// Makes one beside it: who has ended counts until somebody has waited for it.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn another(&self, name: &str) -> io::Result<Self> {
        let group = self.group.with_file_name(format!("idmapfs-test-{}-{name}", gettid()));
        fs::create_dir(&group)?;
        Ok(Self { group, home: self.home.clone(), first: self.first.clone() })
    }

    /// Returns the root of all groups, where it is of the first version.
    pub fn first(&self) -> Option<&Path> {
        self.first.as_deref()
    }

    /// Says something in one of its files.
    ///
    /// # Errors
    /// As write(2).
    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.group.join(file), value)
    }

    /// Has a command run in it.
    pub fn takes(&self, command: &mut Command) {
        let mut members = File::options().write(true).open(self.members()).expect("the group");
        raw::first(command, move || members.write_all(b"0"));
    }

    fn members(&self) -> PathBuf {
        self.group.join("cgroup.procs")
    }

    /// Takes a process in.
    ///
    /// # Errors
    /// As write(2).
    pub fn take(&self, process: Pid) -> io::Result<()> {
        send(&self.group, process)
    }

    /// Sends a process back.
    ///
    /// # Errors
    /// As write(2).
    pub fn give_back(&self, process: Pid) -> io::Result<()> {
        send(&self.home, process)
    }

    /// Who is in it.
    pub fn inside(&self) -> Vec<Pid> {
        let inside = fs::read_to_string(self.members()).unwrap_or_default();
        inside.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect()
    }
}

fn send(group: &Path, process: Pid) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), process.to_string())
}

impl Drop for Controlled {
    fn drop(&mut self) {
        for process in self.inside() {
            // It may have ended.
            let _gone = self.give_back(process);
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("{}: {error}", self.group.display());
        }
    }
}
