//! Callers: one process each, with its own ids, groups and capabilities.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid};

use super::exec::Hands;
use super::ops::{Op, Outcome};
use crate::support::raw;

/// Who a caller is.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The name in reports.
    pub name: &'static str,
    /// The uid, in the caller's own user namespace.
    pub uid: u32,
    /// The gid, likewise.
    pub gid: u32,
    /// Supplementary groups, likewise.
    pub groups: &'static [u32],
    /// With every capability, or with none.
    pub capable: bool,
    /// In a user namespace whose 0..1000 are the view ids from 100000, 200000.
    pub container: bool,
}

impl Caller {
    /// Whether the map of the runs has no disk id for the uid or the gid.
    pub fn unmapped(&self) -> bool {
        !self.container && matches!((self.uid, self.gid), (0 | 7777, _) | (_, 7777))
    }
}

const fn user(name: &'static str, uid: u32, gid: u32, groups: &'static [u32]) -> Caller {
    Caller { name, uid, gid, groups, capable: false, container: false }
}

/// The callers of every run; the ids belong to `world::map`.
pub const CALLERS: [Caller; 10] = [
    user("alice", 100_001, 200_001, &[200_002, 200_005]),
    user("bob", 100_002, 200_002, &[200_001]),
    user("single", 3000, 4000, &[200_001]),
    user("view-root", 100_000, 200_000, &[]),
    Caller { capable: true, ..user("admin", 100_003, 200_003, &[200_002]) },
    Caller { capable: true, ..user("root", 0, 0, &[]) },
    user("stranger", 7777, 7777, &[]),
    user("half", 100_001, 7777, &[200_002]),
    Caller { capable: true, container: true, ..user("container-root", 0, 0, &[]) },
    Caller { container: true, ..user("container-user", 1, 1, &[2]) },
];

/// A running caller, waiting for operations.
#[derive(Debug)]
pub struct Actor {
    /// Who it is.
    pub caller: Caller,
    pid: Pid,
    stream: BufReader<UnixStream>,
}

impl Actor {
    /// Starts a caller that works on both roots.
    pub fn start(caller: Caller, roots: [PathBuf; 2]) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let parent = ours.as_fd().try_clone_to_owned().expect("a descriptor");
        let pid = raw::fork(|| {
            drop(parent);
            // A failure shows as the end of the stream, with the step in it.
            let _ = serve(caller, roots, &theirs);
        })
        .expect("fork");
        drop(theirs);
        let mut actor = Self { caller, pid, stream: BufReader::new(ours) };
        if caller.container {
            actor.expect_line("unshared");
            for (file, map) in [("uid_map", "0 100000 1000"), ("gid_map", "0 200000 1000")] {
                std::fs::write(format!("/proc/{pid}/{file}"), map).expect("a map");
            }
            actor.send("mapped");
        }
        actor.expect_line("ready");
        actor
    }

    /// Has the caller do an operation on both sides, one after the other.
    ///
    /// # Errors
    /// Says what went wrong when the caller does not answer.
    pub fn run(&mut self, op: &Op) -> Result<[Outcome; 2], String> {
        self.send(&serde_json::to_string(op).expect("an operation is plain data"));
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| format!("{error}: {line:?}"))
    }

    /// Has what an operation wrote by a descriptor written to the disks.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn sync(&mut self, op: &Op) -> Result<(), String> {
        op.slots().into_iter().try_for_each(|slot| self.run(&Op::Fsync { slot }).map(drop))
    }

    fn send(&mut self, line: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{line}\n").as_bytes()).expect("the caller takes a line");
    }

    fn line(&mut self) -> Result<String, String> {
        // Long enough for a slow machine; a wedged server must not hang the run.
        if self.stream.buffer().is_empty() && !raw::readable(self.stream.get_ref().as_fd(), 30_000)
        {
            return Err(format!("{} got no answer within 30 s", self.caller.name));
        }
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| error.to_string())?;
        Ok(line)
    }

    fn expect_line(&mut self, want: &str) {
        let line = self.line().expect("the caller starts");
        assert_eq!(line.trim_end(), want, "starting {}", self.caller.name);
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let end = std::time::Duration::from_secs(5);
        let flag = nix::sys::wait::WaitPidFlag::WNOHANG;
        let reaped = || {
            !matches!(
                nix::sys::wait::waitpid(self.pid, Some(flag)),
                Ok(nix::sys::wait::WaitStatus::StillAlive)
            )
        };
        // One that is stuck in a system call is left behind rather than waited for.
        let _ = crate::support::holds_within(end, reaped);
    }
}

/// The life of a caller's process.
fn serve(caller: Caller, roots: [PathBuf; 2], stream: &UnixStream) -> Option<()> {
    let own = raw::dup_at(stream.as_fd(), 3).ok()?;
    raw::close_from(4).ok()?;
    let mut stream = BufReader::new(UnixStream::from(own));
    if caller.container {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).ok()?;
        writeln!(stream.get_mut(), "unshared").ok()?;
        stream.read_line(&mut String::new()).ok()?;
    }
    become_caller(caller)?;
    writeln!(stream.get_mut(), "ready").ok()?;
    raw::umask(0o022);
    let mut hands = roots.map(Hands::new);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return Some(());
        }
        let op: Op = serde_json::from_str(&line).ok()?;
        let outcomes = hands.each_mut().map(|hands| hands.run(&op));
        let reply = serde_json::to_string(&outcomes).ok()? + "\n";
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
    }
}

fn become_caller(caller: Caller) -> Option<()> {
    let groups: Vec<Gid> = caller.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    nix::sys::prctl::set_keepcaps(true).ok()?;
    nix::unistd::setgroups(&groups).ok()?;
    nix::unistd::setresgid(gid, gid, gid).ok()?;
    nix::unistd::setresuid(uid, uid, uid).ok()?;
    raw::set_capabilities(caller.capable).ok()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).ok()
}
