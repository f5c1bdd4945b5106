//! What a server gives up before it answers anybody.
//!
//! Capabilities, Landlock and what a thread cannot get back are the thread's, and
//! come to those that it makes later: so all of this is before the first one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};

use super::processes::is_in_initial_namespace;
use crate::control::Said;
use crate::sys::caps::{self, Caps};
use crate::sys::landlock::{Allowed, Given, Right, restrict};
use crate::sys::{fuse, mountinfo, schedule};

/// What a server does with the files of callers, whoever owns them.
const FILES: u64 = caps::CHOWN
    | caps::DAC_OVERRIDE
    | caps::DAC_READ_SEARCH
    | caps::FOWNER
    | caps::FSETID
    | caps::LINUX_IMMUTABLE
    | caps::MKNOD
    | caps::SETFCAP
    | caps::SETGID
    | caps::SETUID;

/// Where the names of users and groups are looked up: nsswitch.conf(5), its
/// modules and what they read.
const SYSTEM: [&str; 7] = ["/etc", "/usr", "/lib", "/lib64", "/run", "/var/lib/sss", "/proc"];

/// What a server goes on to use.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// The root of the source, if files of the host are what is served.
    pub(super) source: Option<OwnedFd>,
    /// Why a process under Landlock would not reach all of it.
    pub(super) unreachable: Option<&'static str>,
    /// Directories that it reads.
    pub(super) reads: Vec<PathBuf>,
    /// Directories in which it makes files.
    pub(super) writes: Vec<PathBuf>,
    /// Whether it passes signals on to a program that it has started.
    pub(super) signals: bool,
}

impl Needs {
    /// Returns every path that is still used.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let system = SYSTEM.into_iter().map(PathBuf::from).chain(["/dev".into()]);
        let paths = system.chain(self.reads.iter().cloned()).chain(self.writes.iter().cloned());
        paths.map(|path| path.canonicalize().unwrap_or(path)).collect()
    }
}

/// Gives up what this process does not need any more, and says what that was.
/// What cannot be given up is no reason not to serve.
pub(super) fn confine(needs: &Needs) -> Said {
    schedule::allow_hurry();
    let (mut given, mut kept) = (Vec::new(), Vec::new());
    let mut note = |done: Result<String, String>| match done {
        Ok(what) => given.push(what),
        Err(why) => kept.push(why),
    };
    let failed = |what: &str, errno: Errno| format!("{what}: {}", errno.desc());
    note(set_no_new_privs().map_or_else(
        |errno| Err(failed("no_new_privs", errno)),
        |()| Ok("no_new_privs".to_owned()),
    ));
    note(
        set_dumpable(false).map_or_else(
            |errno| Err(failed("dumpable", errno)),
            |()| Ok("not dumpable".to_owned()),
        ),
    );
    let hidden = processes_are_hidden();
    let set = needed_capabilities(needs, hidden);
    note(capabilities(set).map_err(|errno| failed("capabilities", errno)));
    if set & caps::SYS_ADMIN != 0 {
        note(Err(ADMIN.to_owned()));
    }
    match landlock(needs, hidden) {
        Ok((what, why)) => {
            note(Ok(what));
            why.into_iter().for_each(|why| note(Err(why)));
        }
        Err(why) => note(Err(format!("no Landlock: {why}"))),
    }
    let said = Said::new(given.join(", "), kept.join("; "));
    let why = if kept.is_empty() { String::new() } else { format!(" ({})", said.why) };
    log::info!("server: confined: {}{why}", said.what);
    said
}

/// Has this process, which has one thread, keep nothing but what is open: no capability,
/// no other file, no program. That is for commands that read what somebody has made up.
pub fn keep_nothing() {
    let note = |what: &str, failed: Option<String>| {
        failed.into_iter().for_each(|why| log::debug!("{what} is kept: {why}"));
    };
    note("new privilege", set_no_new_privs().err().map(|errno| errno.to_string()));
    note("capabilities", caps::keep(0).err().map(|errno| errno.to_string()));
    note("what Landlock takes", restrict(Some(Vec::new()), false).err());
}

/// Why the capability that can do most is kept.
const ADMIN: &str = "SYS_ADMIN is for passthrough, trusted.* attributes, watching file systems, \
                     and copies of mounts";

/// Returns which capabilities are kept, of those that there are.
fn needed_capabilities(needs: &Needs, hidden: bool) -> u64 {
    let permitted = Caps::get().map_or(0, |caps| caps.permitted);
    // An image is a file that is open.
    let host = needs.source.is_some();
    let mut set = if host { FILES } else { 0 };
    // In another user namespace it counts for none of that but mounts, which are made.
    if host && is_in_initial_namespace() {
        set |= caps::SYS_ADMIN;
    }
    if needs.signals {
        set |= caps::KILL;
    }
    if hidden {
        // It looks itself who callers are.
        set |= caps::SYS_PTRACE;
    }
    permitted & set
}

/// Keeps these capabilities alone; says which.
fn capabilities(set: u64) -> nix::Result<String> {
    if Caps::get()?.effective & caps::SETPCAP != 0 {
        // Threads act as others, and keep their capabilities; programs would get none.
        caps::set_securebits(caps::SECURE)?;
    }
    Ok(match caps::keep(set)? {
        0 => "no capabilities".to_owned(),
        left => format!("no capabilities but {}", caps::names(left)),
    })
}

/// Confines this process by Landlock; says to what, and what is left open why.
fn landlock(needs: &Needs, hidden: bool) -> Result<(String, Option<String>), String> {
    if hidden {
        return Err("/proc hides processes (hidepid), and would from it who callers are".to_owned());
    }
    let allowed = allowed(needs);
    let missing = allowed.as_ref().err().copied();
    let Given { files, tcp, scopes } = restrict(allowed.ok(), needs.signals)?;
    let mut what = Vec::new();
    let mut lacks = Vec::new();
    let parts = [
        (files, "files of the source alone, no program"),
        (tcp, "no TCP"),
        (
            scopes,
            if needs.signals { "no abstract sockets" } else { "no signals and abstract sockets" },
        ),
    ];
    for (done, part) in parts {
        if done { what.push(part) } else { lacks.push(part) }
    }
    let why = missing.map(|why| format!("Landlock leaves files open: {why}"));
    let why = why.or_else(|| {
        let lacks = (!lacks.is_empty()).then(|| lacks.join(", "));
        lacks.map(|lacks| format!("Landlock of this kernel has not: {lacks}"))
    });
    Ok((format!("Landlock: {}", what.join(", ")), why))
}

/// Returns which files are still used; or why that cannot be said.
fn allowed(needs: &Needs) -> Result<Vec<Allowed>, &'static str> {
    if let Some(why) = needs.unreachable {
        return Err(why);
    }
    let mut allowed = Vec::new();
    if let Some(source) = &needs.source {
        let source = source.try_clone().map_err(|_| "the source cannot be held once more")?;
        allowed.push(Allowed::at(source, Right::Change));
    }
    allowed.extend(Allowed::beneath(Path::new(fuse::FUSE_DEVICE), Right::Device));
    allowed.extend(needs.writes.iter().filter_map(|path| Allowed::beneath(path, Right::Change)));
    let reads = SYSTEM.iter().map(Path::new).chain(needs.reads.iter().map(PathBuf::as_path));
    allowed.extend(reads.filter_map(|path| Allowed::beneath(path, Right::Read)));
    Ok(allowed)
}

/// Reports whether `/proc` shows others' processes to those alone who might trace
/// them: proc(5), `hidepid`.
fn processes_are_hidden() -> bool {
    let hides = |option: &str| {
        option.strip_prefix("hidepid=").is_some_and(|how| !matches!(how, "0" | "off"))
    };
    let proc = mountinfo::mount_at(Path::new("/proc")).ok().flatten();
    proc.is_some_and(|proc| proc.options.split(',').any(hides))
}
