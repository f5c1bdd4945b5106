//! What the kernel tells of calling processes, in `/proc`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::fs::{Capability, Processes};
use crate::id::{Caller, Group, Id, Owner, View};
use crate::sys::id_map::IdMap;
use crate::sys::signal;

/// Returns the bit of a capability in a set of them: linux/capability.h.
const fn bit(capability: Capability) -> u64 {
    match capability {
        Capability::Fowner => 1 << 3,
        Capability::Fsetid => 1 << 4,
        Capability::LinuxImmutable => 1 << 9,
        Capability::SysAdmin => 1 << 21,
        Capability::Setfcap => 1 << 31,
    }
}

/// The name of the initial user namespace, which is above all others: its
/// inode number is fixed (`PROC_USER_INIT_INO`).
const INITIAL: &str = "user:[4026531837]";

/// The processes of the server's process id namespace, which is the mount's.
#[derive(Debug)]
pub(super) struct Proc {
    /// `/proc`, opened before anything could be mounted over it; `None` where
    /// it is not there or shows another process id namespace.
    root: Option<OwnedFd>,
    /// The user namespace of the mount.
    namespace: Option<String>,
    /// How group ids as this process sees them are called in that namespace;
    /// `None`: the same.
    groups: Option<IdMap>,
}

impl Proc {
    /// Opens `/proc` for a mount in the user namespace of a process, by the
    /// name of that process in `/proc`: `self` for the server's own.
    pub(super) fn open(process: &str) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, "/proc", flags, Mode::empty()).ok().filter(shows_this_process);
        let mut found = Self { root, namespace: None, groups: None };
        found.namespace = found.namespace_of(process);
        if found.namespace != found.namespace_of("self") {
            let map = found.read(process, "gid_map").unwrap_or_default();
            found.groups = Some(IdMap::parse(&map));
        }
        if found.namespace.is_none() {
            log::warn!("/proc: not usable; callers count as without capabilities and groups");
        }
        found
    }

    fn status(&self, pid: u32) -> Option<Status> {
        self.read(&pid.to_string(), "status").ok().map(|text| Status::parse(&text))
    }

    fn read(&self, process: &str, file: &str) -> io::Result<String> {
        let root = self.root.as_ref().ok_or(Errno::ENOTSUP)?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let path = format!("{process}/{file}");
        let mut text = Vec::new();
        File::from(openat(root, path.as_str(), flags, Mode::empty())?).read_to_end(&mut text)?;
        // The name of the process may be any bytes.
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Reports whether the user namespace of a process maps ids of the mount's;
    /// one that is not given is not asked for.
    ///
    /// A map is told in terms of this process's own namespace. Where that is
    /// not the mount's, only callers in the mount's count.
    fn maps(&self, pid: u32, owner: Owner<View>) -> bool {
        let process = pid.to_string();
        let namespace = self.namespace_of(&process);
        if namespace.is_none() || namespace == self.namespace {
            return namespace.is_some();
        }
        let covers = |file, id: Option<u32>| {
            let map = || self.read(&process, file).map(|map| IdMap::parse(&map));
            id.is_none_or(|id| map().is_ok_and(|map| map.inside(id).is_some()))
        };
        namespace.as_deref() == Some(INITIAL)
            || self.groups.is_none()
                && covers("uid_map", owner.uid.map(Id::raw))
                && covers("gid_map", owner.gid.map(Id::raw))
    }

    fn namespace_of(&self, process: &str) -> Option<String> {
        let root = self.root.as_ref()?;
        readlinkat(root, format!("{process}/ns/user").as_str()).ok()?.into_string().ok()
    }
}

fn shows_this_process(root: &OwnedFd) -> bool {
    readlinkat(root, "self").is_ok_and(|link| *link == *std::process::id().to_string())
}

impl Processes for Proc {
    fn capable(&self, caller: &Caller, capability: Capability) -> bool {
        caller.pid != 0
            && self.status(caller.pid).is_some_and(|s| s.effective & bit(capability) != 0)
            && self.namespace_of(&caller.pid.to_string()).as_deref() == Some(INITIAL)
    }

    fn capable_over(
        &self,
        caller: &Caller,
        capability: Capability,
        owner: Owner<View>,
    ) -> Option<bool> {
        let status = (caller.pid != 0).then(|| self.status(caller.pid)).flatten()?;
        Some(status.effective & bit(capability) != 0 && self.maps(caller.pid, owner))
    }

    fn in_group(&self, caller: &Caller, group: Id<Group, View>) -> bool {
        if caller.gid == Some(group) {
            return true;
        }
        let group = match &self.groups {
            Some(map) => map.outside(group.raw()),
            None => Some(group.raw()),
        };
        group.is_some_and(|group| {
            caller.pid != 0
                && self.status(caller.pid).is_some_and(|status| status.groups.contains(&group))
        })
    }

    fn interrupted(&self, pid: u32) -> bool {
        // A process that cannot be seen is one that cannot be told apart from
        // one that waits; if it is gone, nobody needs the answer.
        pid != 0
            && self.status(pid).map_or_else(
                || !signal::exists(pid),
                |status| status.pending & !status.blocked & !status.ignored != 0,
            )
    }
}

/// What is needed of `/proc/PID/status`: proc_pid_status(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    /// Supplementary groups.
    groups: Vec<u32>,
    /// Effective capabilities.
    effective: u64,
    /// Signals that wait for the thread or its process.
    pending: u64,
    /// Signals that the thread does not take now.
    blocked: u64,
    /// Signals that the process ignores.
    ignored: u64,
}

impl Status {
    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(":\t") else { continue };
            let mask = || u64::from_str_radix(value.trim(), 16).unwrap_or(0);
            match key {
                "Groups" => {
                    status.groups = value.split(' ').filter_map(|id| id.parse().ok()).collect();
                }
                "CapEff" => status.effective = mask(),
                "SigPnd" | "ShdPnd" => status.pending |= mask(),
                "SigBlk" => status.blocked = mask(),
                "SigIgn" => status.ignored = mask(),
                _ => {}
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_by_key() {
        let text = "Name:\tGroups:\nUmask:\t0022\nGroups:\t4 24 1000 \nSigQ:\t0/1\nSigPnd:\t0000000000000100\n\
            ShdPnd:\t0000000000000001\nSigBlk:\t0000000000010000\nSigIgn:\t0000000000001000\n\
            CapEff:\t0000000000000010\n";
        let want = Status {
            groups: vec![4, 24, 1000],
            effective: bit(Capability::Fsetid),
            pending: 0x101,
            blocked: 0x1_0000,
            ignored: 0x1000,
        };
        assert_eq!(Status::parse(text), want);
        assert_eq!(Status::parse(""), Status::default());
    }

    #[test]
    fn this_process_is_seen_and_others_are_not_made_up() {
        let proc = Proc::open("self");
        let own = Caller { uid: None, gid: Id::new(7), pid: std::process::id() };
        assert!(proc.namespace.is_some());
        assert!(proc.in_group(&own, Id::new(7).unwrap()));
        assert!(!proc.in_group(&own, Id::new(4_000_000_000).unwrap()));
        assert!(!proc.interrupted(own.pid));
        let unknown = Caller { pid: 0, ..own };
        assert!(!proc.capable(&unknown, Capability::Fsetid));
        assert!(!proc.interrupted(0));
        // Above the largest possible process id.
        let gone = Caller { pid: 1 << 23, ..own };
        assert!(!proc.capable(&gone, Capability::Fsetid));
        assert!(proc.interrupted(gone.pid));
    }
}
