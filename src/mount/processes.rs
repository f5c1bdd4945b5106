//! What the kernel tells of calling processes, in `/proc`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlink, readlinkat};
use nix::sys::stat::Mode;

use super::asking::Asking;
use crate::fs::{Capability, Processes};
use crate::id::{Caller, Group, Id, NO_ID, Owner, User, View};
use crate::sys::id_map::IdMap;
use crate::sys::procfs::shows_this_process;
use crate::sys::signal;

/// Returns the bit of a capability in a set of them: linux/capability.h.
const fn bit(capability: Capability) -> u64 {
    match capability {
        Capability::Chown => 1,
        Capability::DacOverride => 1 << 1,
        Capability::DacReadSearch => 1 << 2,
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

/// Reports whether this process is in the initial user namespace.
pub(super) fn is_in_initial_namespace() -> bool {
    readlink("/proc/self/ns/user").is_ok_and(|name| name == INITIAL)
}

/// The processes of the server's process id namespace, which is the mount's.
#[derive(Debug)]
pub(super) struct Proc {
    /// `/proc`, opened before anything could be mounted over it; `None` where
    /// it is not there or shows another process id namespace.
    root: Option<OwnedFd>,
    /// The user namespace of the mount.
    namespace: Option<String>,
    /// How ids as this process sees them are called in that namespace; `None`:
    /// the same.
    maps: Option<Maps>,
    /// Who is asked of other processes; `None`: `/proc`.
    asking: Option<Asking>,
}

/// The id maps of a user namespace.
#[derive(Debug)]
struct Maps {
    users: IdMap,
    groups: IdMap,
}

impl Proc {
    /// Opens `/proc` for a mount in the user namespace of a process, by the
    /// name of that process in `/proc`: `self` for the server's own.
    pub(super) fn open(process: &str) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, "/proc", flags, Mode::empty())
            .ok()
            .filter(|root| shows_this_process(root.as_fd()));
        let mut found = Self { root, namespace: None, maps: None, asking: None };
        found.namespace = found.namespace_of(process);
        if found.namespace != found.namespace_of("self") {
            let map = |file| IdMap::parse(&found.read(process, file).unwrap_or_default());
            found.maps = Some(Maps { users: map("uid_map"), groups: map("gid_map") });
        }
        if found.namespace.is_none() {
            log::warn!("/proc: not usable; callers count as without capabilities and groups");
        }
        found
    }

    /// Has somebody else asked in which user namespace a caller is.
    pub(super) fn asking(self, asking: Asking) -> Self {
        Self { asking: Some(asking), ..self }
    }

    fn status(&self, pid: u32) -> Option<Status> {
        self.read(&pid.to_string(), "status").ok().map(|text| Status::parse(&text))
    }

    /// Returns what is known of the process behind a request.
    ///
    /// Only what belongs to the ids that the request came with counts: a thread
    /// can act for another (an overlay above us, io_uring), and `/proc` tells of
    /// the thread alone. access(2) acts with the real ids, and without the
    /// capabilities of any user but root.
    fn behind(&self, caller: &Caller) -> Option<Status> {
        let status = (caller.pid != 0).then(|| self.status(caller.pid)).flatten()?;
        let ids = (self.own_uid(caller.uid), self.own_gid(caller.gid));
        let fits = |(uid, gid): (u32, u32)| {
            ids.0.is_none_or(|own| own == uid) && ids.1.is_none_or(|own| own == gid)
        };
        if fits(status.acting) {
            Some(status)
        } else if fits(status.real) {
            Some(Status { effective: 0, ..status })
        } else {
            None
        }
    }

    /// Returns a uid of the mount's namespace as this process sees it.
    fn own_uid(&self, view: Option<Id<User, View>>) -> Option<u32> {
        match &self.maps {
            Some(maps) => maps.users.outside(view?.raw()),
            None => view.map(Id::raw),
        }
    }

    /// Returns a gid of the mount's namespace as this process sees it.
    fn own_gid(&self, view: Option<Id<Group, View>>) -> Option<u32> {
        match &self.maps {
            Some(maps) => maps.groups.outside(view?.raw()),
            None => view.map(Id::raw),
        }
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
        let namespace = self.namespace_of_caller(pid);
        if namespace.is_some() && namespace == self.namespace {
            return true;
        }
        // An ordinary user's server may not ask which one it is, but for its map.
        let covers = |file, id: Option<u32>| {
            let map = || self.read(&process, file).map(|map| IdMap::parse(&map));
            id.is_none_or(|id| map().is_ok_and(|map| map.inside(id).is_some()))
        };
        namespace.as_deref() == Some(INITIAL)
            || self.maps.is_none()
                && covers("uid_map", owner.uid.map(Id::raw))
                && covers("gid_map", owner.gid.map(Id::raw))
    }

    /// Returns the name of a caller's user namespace.
    ///
    /// An ordinary user's server may not ask for those of others, but for their
    /// maps: who has the same ones is taken to be in its own. What else would have them,
    /// a namespace that maps every id to itself, only root can make.
    fn namespace_of_caller(&self, pid: u32) -> Option<String> {
        let process = pid.to_string();
        let told = match &self.asking {
            Some(asking) => asking.namespace_of(pid),
            None => self.namespace_of(&process),
        };
        told.or_else(|| self.maps_as_here(&process).then(|| self.namespace_of("self")).flatten())
    }

    fn namespace_of(&self, process: &str) -> Option<String> {
        let root = self.root.as_ref()?;
        readlinkat(root, format!("{process}/ns/user").as_str()).ok()?.into_string().ok()
    }

    fn maps_as_here(&self, process: &str) -> bool {
        ["uid_map", "gid_map"].iter().all(|file| {
            let here = self.read("self", file);
            here.is_ok_and(|here| self.read(process, file).is_ok_and(|there| there == here))
        })
    }
}

impl Processes for Proc {
    fn capable(&self, caller: &Caller, capability: Capability) -> bool {
        self.behind(caller).is_some_and(|status| status.effective & bit(capability) != 0)
            && self.namespace_of_caller(caller.pid).as_deref() == Some(INITIAL)
    }

    fn capable_over(
        &self,
        caller: &Caller,
        capability: Capability,
        owner: Owner<View>,
    ) -> Option<bool> {
        let status = self.behind(caller)?;
        Some(status.effective & bit(capability) != 0 && self.maps(caller.pid, owner))
    }

    fn capable_over_all(&self, caller: &Caller, capability: Capability) -> bool {
        self.behind(caller).is_some_and(|status| status.effective & bit(capability) != 0)
            && self.namespace_of_caller(caller.pid).is_some_and(|namespace| {
                namespace == INITIAL || self.namespace.as_ref() == Some(&namespace)
            })
    }

    fn acting_user(&self, caller: &Caller) -> Option<Id<User, View>> {
        let uid = (caller.pid != 0).then(|| self.status(caller.pid)).flatten()?.acting.0;
        match &self.maps {
            Some(maps) => Id::new(maps.users.inside(uid)?),
            None => Id::new(uid),
        }
    }

    fn in_group(&self, caller: &Caller, group: Id<Group, View>) -> bool {
        if caller.gid == Some(group) {
            return true;
        }
        let group = self.own_gid(Some(group));
        group.is_some_and(|group| {
            self.behind(caller).is_some_and(|status| {
                status.groups.contains(&group) || caller.gid.is_none() && status.acting.1 == group
            })
        })
    }

    fn protects_links(&self) -> bool {
        // Where it cannot be seen, the stricter of the two.
        self.read("sys", "fs/protected_hardlinks").map_or(true, |text| text.trim() != "0")
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
    /// The real uid and gid.
    real: (u32, u32),
    /// The uid and gid for file systems.
    acting: (u32, u32),
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
            let ids = || {
                let mut ids = value.split_whitespace().map(|id| id.parse().unwrap_or(NO_ID));
                (ids.next().unwrap_or(NO_ID), ids.nth(2).unwrap_or(NO_ID))
            };
            match key {
                "Uid" => (status.real.0, status.acting.0) = ids(),
                "Gid" => (status.real.1, status.acting.1) = ids(),
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
    use crate::sys::cred::own_ids;

    #[test]
    fn status_is_read_by_key() {
        let text = "Name:\tGroups:\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 1000 \nSigQ:\t0/1\nSigPnd:\t0000000000000100\n\
            ShdPnd:\t0000000000000001\nSigBlk:\t0000000000010000\nSigIgn:\t0000000000001000\n\
            CapEff:\t0000000000000010\n";
        let want = Status {
            real: (1, 5),
            acting: (4, 8),
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
        // What is known of the thread is not known of whom it acts for.
        let ids = own_ids().unwrap();
        let me = Caller { uid: Id::new(ids.uid.raw()), gid: Id::new(ids.gid.raw()), ..own };
        assert!(proc.behind(&me).is_some());
        assert!(proc.behind(&Caller { uid: Id::new(4_000_000_000), ..me }).is_none());
        assert!(proc.behind(&Caller { gid: Id::new(4_000_000_000), ..me }).is_none());
        let unknown = Caller { pid: 0, ..own };
        assert!(!proc.capable(&unknown, Capability::Fsetid));
        assert!(!proc.interrupted(0));
        // Above the largest possible process id.
        let gone = Caller { pid: 1 << 23, ..own };
        assert!(!proc.capable(&gone, Capability::Fsetid));
        assert!(proc.interrupted(gone.pid));
    }
}
