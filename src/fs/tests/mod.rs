//! Tests of every operation, on the source in memory.
//!
//! A [`World`] is one source with two file systems on it: `fs` under test,
//! and `disk`, which shows and stores ids as they are.

mod access;
mod attrs;
mod by_number;
mod changes;
mod dirs;
mod files;
mod fresh;
mod locks;
mod names;
mod property;
mod races;
mod replaced;
mod rules;
mod setid;
mod threads;
mod unknown;
mod walks;
mod xattrs;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::attr::FileKind;
use crate::error::Errno;
use crate::id::Ids;
use crate::policy::options::Options;
use crate::policy::{NoNames, Server, Spec};
use crate::source::memory::{Memory, Options as MemoryOptions};
use crate::source::wrap::Wrap;
use crate::sync::lock;

/// The view ids that stand for unmapped ones in ACLs.
const STAND_IN: u32 = 4_294_967_294;

/// What the tests say of processes: by uid who has `CAP_FSETID`, by uid and
/// gid who is in which group, by thread who is interrupted.
#[derive(Debug, Default)]
struct Known {
    capable: HashSet<u32>,
    groups: HashSet<(u32, u32)>,
    interrupted: HashSet<u32>,
    /// Whom a thread acts for.
    acting: HashMap<u32, u32>,
    /// Whether hard links are protected.
    protects_links: bool,
    /// How often a capability was asked for.
    asked: usize,
}

#[derive(Debug, Default)]
struct FakeProcesses(Mutex<Known>);

impl Processes for FakeProcesses {
    fn capable(&self, caller: &Caller, _: Capability) -> bool {
        let mut known = lock(&self.0);
        known.asked += 1;
        caller.uid.is_some_and(|uid| known.capable.contains(&uid.raw()))
    }

    fn capable_over(
        &self,
        caller: &Caller,
        capability: Capability,
        _: Owner<View>,
    ) -> Option<bool> {
        Some(self.capable(caller, capability))
    }

    fn capable_over_all(&self, caller: &Caller, capability: Capability) -> bool {
        let acting = self.acting_user(caller);
        self.capable(&Caller { uid: acting, ..*caller }, capability)
    }

    fn acting_user(&self, caller: &Caller) -> Option<Id<User, View>> {
        lock(&self.0).acting.get(&caller.pid).copied().and_then(Id::new)
    }

    fn in_group(&self, caller: &Caller, group: Id<Group, View>) -> bool {
        let known = lock(&self.0);
        let also = |uid: Id<User, View>| known.groups.contains(&(uid.raw(), group.raw()));
        caller.gid == Some(group) || caller.uid.is_some_and(also)
    }

    fn protects_links(&self) -> bool {
        lock(&self.0).protects_links
    }

    fn interrupted(&self, pid: u32) -> bool {
        lock(&self.0).interrupted.contains(&pid)
    }
}

/// A policy of command line options, for a server that is root.
fn policy(options: &[(&str, &str)]) -> Arc<dyn Policy> {
    let mut given = Options::default();
    for (name, value) in options {
        assert!(given.set(name, Some(value)).unwrap(), "{name}");
    }
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    let spec = Spec::from_options(&given, &NoNames).unwrap();
    Arc::new(spec.build(&server).unwrap())
}

/// Ids as they are.
const IDENTITY: &[(&str, &str)] = &[];
/// The map of the measurements: uids 0..=999 at 100000, gids at 200000.
const MAP: &[(&str, &str)] = &[("map", "u:0:100000:1000"), ("map", "g:0:200000:1000")];
/// All is shown as 1000:1000, and what is made is stored as 5000:5000.
const COLLAPSE: &[(&str, &str)] = &[("present-as", "1000:1000"), ("store-as", "5000:5000")];

/// An ACL may name so many ids from 0 on, and this one stands for all others.
fn standing(stand_in: Option<u32>, count: u32) -> StandIn {
    let there: Arc<[_]> = [(0, count)].into();
    StandIn {
        users: Named { stand_in: stand_in.and_then(Id::new), there: Arc::clone(&there) },
        groups: Named { stand_in: stand_in.and_then(Id::new), there },
    }
}

fn config() -> Config {
    Config {
        trust: Trust::For(Duration::ZERO),
        nodes: 8,
        descriptors: 1024,
        stand_in: standing(Some(STAND_IN), u32::MAX),
        unknown_callers: false,
        copied_up: false,
        helper: || Box::new(()),
    }
}

struct World {
    memory: Arc<Memory>,
    processes: Arc<FakeProcesses>,
    fs: Fs,
    disk: Fs,
}

impl World {
    fn new(options: &[(&str, &str)]) -> Self {
        Self::with(options, |_| {})
    }

    /// Makes a world whose source differs from the usual.
    fn with(options: &[(&str, &str)], change: impl FnOnce(&mut MemoryOptions)) -> Self {
        let mut source = MemoryOptions::new(Ids::new(0, 0).unwrap());
        change(&mut source);
        let memory = Arc::new(Memory::new(source));
        let source: Arc<dyn Source> = memory.clone();
        Self::over(options, memory, source)
    }

    /// Makes a world whose source can be told to fail.
    fn wrapped(options: &[(&str, &str)]) -> (Self, Arc<Wrap>) {
        let memory = Arc::new(Memory::new(MemoryOptions::new(Ids::new(0, 0).unwrap())));
        let wrap = Arc::new(Wrap::new(memory.clone()));
        (Self::over(options, memory, wrap.clone()), wrap)
    }

    /// Makes a world with `source` under test, which stands on `memory`.
    fn over(options: &[(&str, &str)], memory: Arc<Memory>, source: Arc<dyn Source>) -> Self {
        Self::under(policy(options), memory, source)
    }

    /// Makes a world with a policy as a file says it, without its first line.
    fn of_file(text: &str) -> Self {
        let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
        let text = format!("version = 1\n{text}\n");
        let spec = crate::policy::file::parse("p.toml", &text, &NoNames).unwrap();
        let memory = Arc::new(Memory::new(MemoryOptions::new(Ids::new(0, 0).unwrap())));
        Self::under(Arc::new(spec.build(&server).unwrap()), memory.clone(), memory)
    }

    fn under(tested: Arc<dyn Policy>, memory: Arc<Memory>, source: Arc<dyn Source>) -> Self {
        let processes = Arc::new(FakeProcesses::default());
        let known = Arc::clone(&processes);
        let fs = Fs::new(source, tested, known, config()).unwrap();
        let (plain, known) = (memory.clone(), Arc::clone(&processes));
        let disk = Fs::new(plain, policy(IDENTITY), known, config()).unwrap();
        Self { memory, processes, fs, disk }
    }

    fn root(&self) -> u64 {
        self.fs.root(&caller(0, 0)).unwrap().node
    }

    fn look(&self, name: &str) -> Result<Entry> {
        self.fs.lookup(&caller(0, 0), self.root(), name.as_ref())
    }

    /// Makes a file on disk, and returns it as the mount knows it.
    fn file(&self, name: &str, owner: (u32, u32), mode: u32) -> Entry {
        self.disk_file(name, owner, mode);
        self.look(name).unwrap()
    }

    fn disk_file(&self, name: &str, owner: (u32, u32), mode: u32) {
        let root = self.disk.root(&caller(0, 0)).unwrap().node;
        let by = caller(owner.0, owner.1);
        let made = self.disk.mknod(&by, root, name.as_ref(), libc::S_IFREG, 0, 0).unwrap();
        let mode = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.disk.setattr(&by, made.node, None, &mode).unwrap();
        self.disk.forget(made.node, 1);
    }

    fn dir(&self, name: &str, owner: (u32, u32), mode: u32) -> Entry {
        let root = self.disk.root(&caller(0, 0)).unwrap().node;
        let by = caller(owner.0, owner.1);
        let made = self.disk.mkdir(&by, root, name.as_ref(), 0o755, 0).unwrap();
        let mode = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.disk.setattr(&by, made.node, None, &mode).unwrap();
        self.disk.forget(made.node, 1);
        self.look(name).unwrap()
    }

    /// Returns a file as it is on disk; the name is below the root.
    fn on_disk(&self, name: &str) -> Attr<View> {
        let mut at = vec![self.disk.root(&caller(0, 0)).unwrap()];
        for part in name.split('/') {
            at.push(self.disk.lookup(&caller(0, 0), at[at.len() - 1].node, part.as_ref()).unwrap());
        }
        at[1..].iter().for_each(|entry| self.disk.forget(entry.node, 1));
        at[at.len() - 1].attr
    }

    /// Returns owner and mode on disk.
    fn stored(&self, name: &str) -> (u32, u32, u16) {
        let attr = self.on_disk(name);
        let (uid, gid) = numbers(&attr);
        (uid.unwrap(), gid.unwrap(), attr.mode.bits())
    }

    fn open(&self, node: u64, flags: i32) -> Result<u64> {
        open(&self.fs, node, flags)
    }
}

fn open(fs: &Fs, node: u64, flags: i32) -> Result<u64> {
    let (done, result) = reply();
    fs.open(&caller(0, 0), node, flags, done);
    result.recv_timeout(Duration::from_secs(10)).unwrap()
}

/// A place for an answer that may come later.
fn reply<T: Send + 'static>() -> (Done<T>, Receiver<Result<T>>) {
    let (sender, receiver) = channel();
    (Box::new(move |result| sender.send(result).unwrap()), receiver)
}

fn caller(uid: u32, gid: u32) -> Caller {
    Caller { uid: Id::new(uid), gid: Id::new(gid), pid: 1 }
}

fn numbers(attr: &Attr<View>) -> (Option<u32>, Option<u32>) {
    (attr.owner.uid.map(Id::raw), attr.owner.gid.map(Id::raw))
}

const fn os(errno: i32) -> Error {
    Error::Os(Errno(errno))
}

fn name(name: &str) -> &OsStr {
    name.as_ref()
}
