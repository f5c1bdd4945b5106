//! Every operation of the file system, on plain types: knows no FUSE.
//!
//! The model is the kernel's idmapped mount. The kernel in front has checked
//! permissions on what it was told of the files (`default_permissions`, ACLs
//! included), or `access` does where that depends on the caller; it has applied neither the umask nor the rules for set-id bits on
//! writes, and caches names and attributes. What it cannot know is decided
//! here: which id is stored, and which caller has none to store.
//!
//! | file | operations |
//! |---|---|
//! | `names`, `rename` | lookup, mknod, mkdir, symlink, link, unlink, rmdir; rename |
//! | `by_number` | lookup of `.` and `..`: files by their number alone |
//! | `attrs` | getattr, setattr, readlink, statfs |
//! | `files` | open, create, read, write, flush, release, and so on |
//! | `alone` | none: files that the kernel opens without asking |
//! | `passed` | none: open files that the kernel reads and writes by itself |
//! | `dirs` | opendir, readdirplus, fsyncdir; `ahead` looks up for them, `walks` for the next one, each by a `helper` |
//! | `xattrs`, `ioctl` | extended attributes, inode flags |
//! | `rights`, `rules` | what a caller may, and what the rules of the policy say of a file |
//! | `unknown` | none: what holds for callers whose ids the kernel does not tell |
//! | `changes` | none: what the policy lets callers change |
//! | `access` | access; whether the others are permitted, where we decide |
//! | `locks` | getlk, setlk; `owners` holds the locks, `waits` who waits, `deadlocks` for whom |
//!
//! `in_force` is the policy, which can be replaced while all of this goes on. What
//! the kernel may believe, and what it is told when that has changed, is in
//! `trust`, `fresh`, `heard`, `negative` and `stamps`.

mod access;
mod ahead;
mod alone;
mod attrs;
mod budget;
mod by_number;
mod cells;
mod changes;
mod deadlocks;
mod dirs;
mod files;
mod fresh;
mod heard;
mod helper;
mod in_force;
mod ioctl;
mod locks;
mod lost;
mod names;
mod negative;
mod open;
mod opens;
mod owners;
mod passed;
mod rename;
mod rights;
mod rules;
mod stamps;
#[cfg(test)]
mod tests;
mod trust;
mod unheard;
mod unknown;
mod waits;
mod walks;
mod xattrs;

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;

use crate::attr::{Attr, Name};
use crate::error::{Error, Result};
use crate::id::{Caller, Group, Id, Owner, User, View};
use crate::policy::Policy;
use crate::source::{Found, Lock, Node, SetTime, Source};
use crate::tree::{Handles, Tree};

pub use crate::acl::{Named, StandIn};
pub use crate::source::{Lending, Lent, Place};
pub use alone::Kept;
pub use fresh::{Moment, Teller};
pub use heard::Notice;
pub use trust::{SHORT, Trust, Ttl};
pub use unheard::late;

use ahead::Ahead;
use alone::Alone;
use budget::Budget;
use deadlocks::Deadlocks;
use dirs::OpenDir;
use fresh::Fresh;
use helper::Begin;
use in_force::InForce;
use lost::Lost;
use opens::Opens;
use passed::Mapped;
use rules::Seen;
use waits::Waits;
use walks::Walks;

/// A capability that a decision of ours depends on: capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To give files away.
    Chown,
    /// To read, write and search whatever the mode.
    DacOverride,
    /// To read and search whatever the mode.
    DacReadSearch,
    /// To act as the owner of any file.
    Fowner,
    /// To keep set-id bits.
    Fsetid,
    /// To set the flags that keep a file from being changed.
    LinuxImmutable,
    /// To set file capabilities.
    Setfcap,
    /// To see what belongs to the administration of the host.
    SysAdmin,
}

/// What is known of the process behind a request, beyond its ids. Looked up
/// only when a decision needs it.
pub trait Processes: Send + Sync + fmt::Debug {
    /// Reports whether the caller has a capability in the initial user
    /// namespace (`capable` of kernel/capability.c).
    fn capable(&self, caller: &Caller, capability: Capability) -> bool;

    /// Reports whether the caller has a capability over files of an owner: in
    /// its own user namespace, if that maps each id given
    /// (`capable_wrt_inode_uidgid`). `None` if nothing is known of the caller.
    fn capable_over(
        &self,
        caller: &Caller,
        capability: Capability,
        owner: Owner<View>,
    ) -> Option<bool>;

    /// Reports whether the caller has a capability over all that the mount shows:
    /// in the user namespace of the mount, or in the initial one.
    fn capable_over_all(&self, caller: &Caller, capability: Capability) -> bool;

    /// Returns the user that the calling thread acts as (its fsuid), whatever ids
    /// came with the request; `None` if nothing is known of it.
    fn acting_user(&self, caller: &Caller) -> Option<Id<User, View>>;

    /// Reports whether the caller is in a group, by fsgid or supplementary.
    fn in_group(&self, caller: &Caller, group: Id<Group, View>) -> bool;

    /// Reports whether the host protects hard links
    /// (`/proc/sys/fs/protected_hardlinks`).
    fn protects_links(&self) -> bool;

    /// Reports whether a signal waits for the thread `pid` that would end a
    /// wait; `true` also if the thread is gone.
    fn interrupted(&self, pid: u32) -> bool;
}

/// What a mount needs to know besides its policy and source.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the kernel may believe, and for how long.
    pub trust: Trust,
    /// How many nodes may be held open that nothing else needs.
    pub nodes: usize,
    /// How many descriptors the server may have; each caller gets a part.
    pub descriptors: usize,
    /// The view ids that an ACL may name, and what stands for the others.
    pub stand_in: StandIn,
    /// Whether the mount can be mapped by the kernel in its turn: ids of callers
    /// come with nothing but new files then, and are none to compare with.
    pub unknown_callers: bool,
    /// Whether an overlay of an ordinary user copies files up from here: all
    /// attributes that are listed, and what cannot be set again fails the copy.
    pub copied_up: bool,
    /// What a thread does first that looks something up before it is asked for.
    pub helper: Begin,
}

/// What a file system holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Files that the kernel knows.
    pub inodes: usize,
    /// Of these, files that are held open.
    pub nodes: usize,
    /// Of those, files that have no name any more.
    pub pins: usize,
    /// Files that callers have open; each may be open several times.
    pub files: usize,
    /// Directories that callers have open.
    pub directories: usize,
    /// Missing names that the kernel was told of for long.
    pub missing: usize,
}

/// A name's file, as told to the kernel: counts as one lookup.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The node id; equal to `attr.ino`.
    pub node: u64,
    /// Which file of that number.
    pub generation: u64,
    /// The attributes that callers see.
    pub attr: Attr<View>,
}

/// Changes of attributes that a caller asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (and kind, which is ignored).
    pub mode: Option<u32>,
    /// New owning user.
    pub uid: Option<Id<User, View>>,
    /// New owning group.
    pub gid: Option<Id<Group, View>>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last change of contents.
    pub mtime: Option<SetTime>,
}

/// One line of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The name, `.` and `..` included.
    pub name: &'a OsStr,
    /// Where a later read goes on.
    pub next: u64,
}

/// A request for a range lock.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest {
    /// Who asks.
    pub caller: Caller,
    /// The open file.
    pub handle: u64,
    /// The owner of the lock, as the kernel numbers them.
    pub owner: u64,
    /// The range and what is wanted.
    pub lock: Lock,
}

/// Takes the result of a request that may have to wait.
pub type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// A file system: a source seen through a policy.
#[derive(Debug)]
pub struct Fs {
    source: Arc<dyn Source>,
    in_force: InForce,
    processes: Arc<dyn Processes>,
    tree: Tree,
    /// Whether the policy depends on the caller, so that permission is decided
    /// here; the same for as long as the mount lives.
    checks: bool,
    config: Config,
    fresh: Fresh,
    budget: Arc<Budget>,
    opens: Arc<Opens>,
    alone: Alone,
    mapped: Mapped,
    dirs: Handles<OpenDir>,
    ahead: Ahead,
    walks: Walks,
    waits: Arc<Waits>,
    deadlocks: Arc<Deadlocks>,
    lost: Lost,
}

impl Fs {
    /// Makes the file system of a source and a policy.
    ///
    /// # Errors
    /// As [`Source::root`].
    pub fn new(
        source: Arc<dyn Source>,
        policy: Arc<dyn Policy>,
        processes: Arc<dyn Processes>,
        config: Config,
    ) -> Result<Self> {
        let tree = Tree::new(Arc::clone(&source), config.nodes)?;
        let budget = Budget::new(config.descriptors);
        let waits = Arc::new(Waits::new(Arc::clone(&processes)));
        let checks = policy.inputs().caller;
        let in_force = InForce::new(policy, config.stand_in.clone());
        let (opens, dirs) = (Arc::new(Opens::new(Arc::clone(&budget))), Handles::new());
        let (ahead, walks) = (Ahead::new(config.helper), Walks::new(config.helper));
        let alone = Alone::new(config.descriptors / 8);
        Ok(Self {
            source,
            in_force,
            processes,
            tree,
            checks,
            fresh: Fresh::new(config.trust),
            config,
            budget,
            opens,
            alone,
            mapped: Mapped::default(),
            dirs,
            ahead,
            walks,
            waits,
            deadlocks: Arc::default(),
            lost: Lost::new(),
        })
    }

    /// Has the thread be there in which requests wait that have to.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn begin_to_wait(&self) -> std::io::Result<()> {
        self.waits.begin()
    }

    /// Returns the root; it is never forgotten, so lookups of it do not count.
    ///
    /// # Errors
    /// As statx(2).
    pub fn root(&self, caller: &Caller) -> Result<Entry> {
        let root = self.tree.root();
        let attr = self.getattr(caller, root.number, None)?;
        Ok(Entry { node: root.number, generation: root.generation, attr })
    }

    /// Lets half of the nodes go that are held open for speed alone, those not
    /// used for longest.
    ///
    /// Belongs called now and then: a file that the host deletes takes its room
    /// on the disk for as long as it is held, and the kernel may know it for
    /// long.
    pub fn tidy(&self) {
        self.alone.shrink();
        self.tree.shrink();
        self.budget.removed(self.tree.pins());
    }

    /// Reports whether the kernel has forgotten many inodes since it last said
    /// so: their memory is worth giving back.
    pub fn has_ebbed(&self) -> bool {
        self.tree.has_ebbed()
    }

    /// Returns what is held right now.
    pub fn held(&self) -> Held {
        let (inodes, nodes) = self.tree.counts();
        let (files, directories) = (self.opens.len(), self.dirs.len());
        let (pins, missing) = (self.tree.pins(), self.fresh.negative.len());
        Held { inodes, nodes, pins, files, directories, missing }
    }

    /// Takes lookups back.
    pub fn forget(&self, node: u64, count: u64) {
        self.tree.forget(node, count);
        self.close_forgotten(node);
        self.is_unmapped_if_forgotten(node);
    }

    /// Returns the file behind a number.
    ///
    /// A file whose names are gone can still be open: then it is the one that
    /// was opened.
    fn node(&self, number: u64) -> Result<Node> {
        match self.tree.node(number) {
            Err(Error::Stale) => self.opens.node(number).ok_or_else(|| {
                self.lost.note();
                Error::Stale
            }),
            result => result,
        }
    }

    /// Reports whether a caller sees every file as its own.
    fn is_mirrored(&self, caller: &Caller) -> bool {
        self.checks && {
            let policy = self.policy();
            policy.callers().mirror(caller.uid, |group| self.processes.in_group(caller, group))
        }
    }

    /// Returns the user whom a caller sees as the owner of every file, if it
    /// does: itself.
    fn eyes(&self, caller: &Caller) -> Option<Id<User, View>> {
        caller.uid.filter(|_| self.is_mirrored(caller))
    }

    /// Returns the owner that a caller sees of a file.
    fn shown(&self, caller: &Caller, seen: &Seen) -> Owner<View> {
        self.shown_to(self.eyes(caller), seen)
    }

    /// Returns the owner that is seen with these eyes.
    fn shown_to(&self, eyes: Option<Id<User, View>>, seen: &Seen) -> Owner<View> {
        let by_rule = Self::owner_by_rule(seen);
        let owner = seen.policy.present_owner(seen.attr.owner);
        Owner { uid: eyes.or(by_rule.uid).or(owner.uid), gid: by_rule.gid.or(owner.gid) }
    }

    /// Returns what a caller sees of a file.
    fn present(&self, caller: &Caller, seen: &Seen, number: u64) -> Attr<View> {
        self.present_to(self.eyes(caller), seen, number)
    }

    /// Returns what is seen of a file with these eyes.
    fn present_to(&self, eyes: Option<Id<User, View>>, seen: &Seen, number: u64) -> Attr<View> {
        let mut shown = seen.attr.presented(self.shown_to(eyes, seen), number);
        self.dress(seen, &mut shown);
        shown
    }

    /// Counts a lookup of what a name led to.
    ///
    /// # Errors
    /// `Hidden` (`ENOENT`) if a rule hides it.
    fn entry(&self, caller: &Caller, parent: u64, name: Name<'_>, found: &Found) -> Result<Entry> {
        let seen = self.visible(parent, name, found.attr)?;
        Ok(self.entry_to(self.eyes(caller), parent, name, (found, &seen)))
    }

    /// Counts a lookup of what a name led to, seen with these eyes.
    fn entry_to(
        &self,
        eyes: Option<Id<User, View>>,
        parent: u64,
        name: Name<'_>,
        (found, seen): (&Found, &Seen),
    ) -> Entry {
        self.settle_names(found, seen);
        let identity = self.tree.remember(parent, name, found, &seen.state);
        let attr = self.present_to(eyes, seen, identity.number);
        Entry { node: identity.number, generation: identity.generation, attr }
    }
}
