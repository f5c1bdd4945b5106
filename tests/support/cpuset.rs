//! Control groups that say on which processors a process may run.

use std::{fs, io};

use nix::sched::CpuSet;
use nix::unistd::Pid;

use super::Sandbox;
use super::controlled::Controlled;

/// The numbers of the processors of a set.
pub fn numbers(set: CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(move |&number| set.is_set(number) == Ok(true))
}

/// A group of its own; what is in it goes back where the tests are when this is dropped.
#[derive(Debug)]
pub struct Cpuset(Controlled);

impl Cpuset {
    /// Makes a group that may use one processor.
    ///
    /// # Errors
    /// If there are no such groups, or none can be made here.
    pub fn try_new(sandbox: &Sandbox, processor: usize) -> io::Result<Self> {
        let group = Controlled::try_new(sandbox, "cpuset", &processor.to_string())?;
        if let Some(root) = group.first() {
            group.set("cpuset.mems", &fs::read_to_string(root.join("cpuset.mems"))?)?;
        }
        group.set("cpuset.cpus", &processor.to_string())?;
        Ok(Self(group))
    }

    /// Takes a process in.
    ///
    /// # Errors
    /// As write(2).
    pub fn take(&self, process: Pid) -> io::Result<()> {
        self.0.take(process)
    }

    /// Sends a process back.
    ///
    /// # Errors
    /// As write(2).
    pub fn give_back(&self, process: Pid) -> io::Result<()> {
        self.0.give_back(process)
    }
}
