//! As whom a thread asks the kernel: file system ids, `CAP_FSETID`, umask.
//!
//! A server with the privilege acts as the owner of what it makes, so that the
//! kernel itself sets owner, group, mode and default ACL, and charges quota.
//! All of this is per thread and costs calls, so a thread keeps what was last
//! set and changes only what differs.
//!
//! A thread that has served must never start a program: file system ids, umask
//! and `SECBIT_NO_SETUID_FIXUP` would go with it.

use std::cell::Cell;
use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};

use crate::error::{Error, Result};
use crate::id::{Disk, Ids, NO_ID};
use crate::sys::caps::{self, Caps};
use crate::sys::id_map::{IdMap, Line};

/// An id that nobody has: 4294967294.
///
/// Data written for callers is written as this, so that neither blocks
/// reserved for root nor membership of a group come into play. (65534
/// will not do: administrators reserve blocks for it.)
pub const NOBODY: u32 = NO_ID.wrapping_sub(1);

/// What it takes to act as others: less than all of these is as none.
const NEEDED: u64 = caps::CHOWN
    | caps::DAC_OVERRIDE
    | caps::FOWNER
    | caps::FSETID
    | caps::SETGID
    | caps::SETUID
    | caps::SETPCAP;

/// Returns the ids that this process runs with.
///
/// # Errors
/// `EOVERFLOW` for ids that nobody can have.
pub fn own_ids() -> io::Result<Ids<Disk>> {
    let ids = Ids::new(geteuid().as_raw(), getegid().as_raw());
    ids.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Reports whether this process may mount: `CAP_SYS_ADMIN` is in effect.
///
/// # Errors
/// As capget(2).
pub fn may_mount() -> io::Result<bool> {
    Ok(Caps::get()?.effective & caps::SYS_ADMIN != 0)
}

/// Reports whether files of some file systems may be opened by handle:
/// `CAP_DAC_READ_SEARCH` is in effect.
pub fn may_open_handles() -> bool {
    Caps::get().is_ok_and(|caps| caps.effective & caps::DAC_READ_SEARCH != 0)
}

/// As whom a thread acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The server's own user, in no group that owns files.
    Server,
    /// An id that nobody has.
    Nobody,
    /// Whoever it acts as already, unless that is root or of root's group: then an
    /// id that nobody has.
    Ordinary,
    /// Whoever it acts as already: what is done looks at capabilities alone.
    Anyone,
    /// A user and a group, in that order.
    Owner(u32, u32),
}

/// Whether set-id bits stay that the kernel clears for ordinary callers: whether
/// `CAP_FSETID` is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetId {
    /// They stay.
    Keep,
    /// They are cleared.
    Clear,
    /// What is done does not touch them.
    Unaffected,
}

/// What this process may be, found once before threads serve.
#[derive(Clone, Debug)]
pub struct Credentials {
    any_owner: bool,
    uid: u32,
    gid: u32,
    nobody: (u32, u32),
    uids: Mapped,
    gids: Mapped,
}

/// The state that a thread is in.
#[derive(Clone, Copy, Debug)]
struct Thread {
    uid: u32,
    gid: u32,
    caps: Caps,
    umask: Option<u16>,
}

thread_local! {
    static THREAD: Cell<Option<Thread>> = const { Cell::new(None) };
}

impl Credentials {
    /// Finds out what this process may be.
    ///
    /// # Errors
    /// As read(2) of the process's id maps, capget(2).
    pub fn of_process() -> io::Result<Self> {
        let caps = Caps::get()?;
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let uids = Mapped::read("uid")?;
        let gids = Mapped::read("gid")?;
        let nobody = (
            if uids.contains(NOBODY) { NOBODY } else { uid },
            if gids.contains(NOBODY) { NOBODY } else { gid },
        );
        let any_owner = caps.permitted & NEEDED == NEEDED;
        Ok(Self { any_owner, uid, gid, nobody, uids, gids })
    }

    /// Reports whether threads can act as any user and group that this user
    /// namespace maps.
    pub const fn any_owner(&self) -> bool {
        self.any_owner
    }

    /// Reports whether this user namespace maps more than one user and group.
    pub fn knows_others(&self) -> bool {
        self.uids.is_plural() || self.gids.is_plural()
    }

    /// Reports whether no user or group is missing in this user namespace.
    pub fn knows_all(&self) -> bool {
        self.nobody == (NOBODY, NOBODY)
    }

    /// Reports whether this is root of the host, or all but: no id is missing
    /// in this user namespace.
    pub fn is_host_root(&self) -> bool {
        self.any_owner && self.uid == 0 && self.knows_all()
    }

    /// Reports whether a uid is the server's own.
    pub const fn is_own_uid(&self, uid: u32) -> bool {
        self.uid == uid
    }

    /// Reports whether a gid is the server's own.
    pub const fn is_own_gid(&self, gid: u32) -> bool {
        self.gid == gid
    }

    /// Returns the uid behind one that the kernel reports; `None` if it stands
    /// for all that this user namespace does not map.
    pub fn uid(&self, reported: u32) -> Option<u32> {
        self.uids.named(reported)
    }

    /// Returns the gid behind one that the kernel reports; `None` if it stands
    /// for all that this user namespace does not map.
    pub fn gid(&self, reported: u32) -> Option<u32> {
        self.gids.named(reported)
    }

    /// Makes this thread act as someone, from now on.
    ///
    /// A server without the privilege always acts as itself.
    ///
    /// # Errors
    /// `NotOurs` if the ids cannot be had.
    pub fn assume(&self, who: Who, set_id: SetId) -> Result<()> {
        let mut thread = self.thread()?;
        if !self.any_owner {
            return Ok(());
        }
        let (uid, gid) = match who {
            Who::Server => (self.uid, self.nobody.1),
            Who::Nobody => self.nobody,
            Who::Ordinary if thread.is_roots() => self.nobody,
            Who::Ordinary | Who::Anyone => (thread.uid, thread.gid),
            Who::Owner(uid, gid) => (uid, gid),
        };
        let done = thread.switch(uid, gid, set_id);
        THREAD.set(Some(thread));
        done
    }

    /// Sets the umask of this thread.
    ///
    /// # Errors
    /// As unshare(2).
    pub fn umask(&self, mask: u16) -> Result<()> {
        let mut thread = self.thread()?;
        if thread.umask != Some(mask) {
            umask(Mode::from_bits_truncate(libc::mode_t::from(mask)));
            thread.umask = Some(mask);
            THREAD.set(Some(thread));
        }
        Ok(())
    }

    /// Returns the state of this thread, which its first call prepares.
    fn thread(&self) -> Result<Thread> {
        if let Some(thread) = THREAD.get() {
            return Ok(thread);
        }
        // The umask belongs to what CLONE_FS shares between threads.
        unshare(CloneFlags::CLONE_FS)?;
        let mut caps = Caps::get()?;
        if self.any_owner {
            // Capabilities stay when the file system uid is not 0.
            caps::set_securebits(libc::SECBIT_NO_SETUID_FIXUP)?;
            // It would let callers exceed quotas and use reserved blocks.
            // `CAP_SETPCAP` is gone where the securebit was set for the whole process.
            let needed = NEEDED & caps.permitted;
            caps.effective = (caps.effective | needed) & !caps::SYS_RESOURCE & !caps::FSETID;
            caps.permitted &= !caps::SYS_RESOURCE;
            caps.set()?;
        }
        let (uid, gid) = (current_uid(), current_gid());
        let thread = Thread { uid, gid, caps, umask: None };
        THREAD.set(Some(thread));
        Ok(thread)
    }
}

impl Thread {
    /// Reports whether it acts as root, or as one of root's group.
    const fn is_roots(&self) -> bool {
        self.uid == 0 || self.gid == 0
    }

    fn switch(&mut self, uid: u32, gid: u32, set_id: SetId) -> Result<()> {
        if self.gid != gid {
            setfsgid(Gid::from_raw(gid));
            // The call reports no failure, so look.
            self.gid = current_gid();
        }
        if self.uid != uid {
            setfsuid(Uid::from_raw(uid));
            self.uid = current_uid();
        }
        if (self.uid, self.gid) != (uid, gid) {
            return Err(Error::NotOurs);
        }
        let mut caps = self.caps;
        match set_id {
            SetId::Keep => caps.effective |= caps::FSETID,
            SetId::Clear => caps.effective &= !caps::FSETID,
            SetId::Unaffected => {}
        }
        if caps != self.caps {
            caps.set()?;
            self.caps = caps;
        }
        Ok(())
    }
}

/// Returns this thread's file system uid: setting no id at all only asks.
fn current_uid() -> u32 {
    setfsuid(Uid::from_raw(NO_ID)).as_raw()
}

/// Returns this thread's file system gid.
fn current_gid() -> u32 {
    setfsgid(Gid::from_raw(NO_ID)).as_raw()
}

/// The ids that the user namespace of this process maps, and the one that
/// stands for all others.
#[derive(Clone, Debug)]
struct Mapped {
    map: IdMap,
    overflow: u32,
}

impl Mapped {
    /// Reads the map of a kind of id: `uid` or `gid`.
    fn read(kind: &str) -> io::Result<Self> {
        let overflow = fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(65_534);
        Ok(Self { map: IdMap::read("self", kind)?, overflow })
    }

    fn contains(&self, id: u32) -> bool {
        self.map.outside(id).is_some()
    }

    fn is_plural(&self) -> bool {
        !matches!(self.map.lines(), [] | [Line { count: 1, .. }])
    }

    fn named(&self, id: u32) -> Option<u32> {
        (id != self.overflow || self.contains(id)).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_map() {
        let of = |map: &str| Mapped { map: IdMap::parse(map), overflow: 65_534 };
        let init = of("         0          0 4294967295\n");
        assert_eq!(init.named(65_534), Some(65_534));
        assert!(init.contains(NOBODY) && !init.contains(NO_ID));
        let small = of("0 1000 1\n1 100000 65533\n");
        assert_eq!(small.named(65_533), Some(65_533));
        assert_eq!(small.named(65_534), None);
        assert_eq!(small.named(0), Some(0));
        assert!(!small.contains(65_534) && !small.contains(NOBODY));
        assert!(init.is_plural() && small.is_plural());
        assert!(!of("0 1000 1\n").is_plural());
        assert!(!of("").contains(0));
    }
}
