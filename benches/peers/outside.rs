//! The process outside: it starts the measuring one in namespaces of its own,
//! and removes what that leaves, however it ends.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;

use crate::About as _;
use crate::args::{self, Args};
use crate::mounts::KINDS;
use crate::works;

/// The first word of the process inside; the second is its directory.
pub const INSIDE: &str = "--inside";

/// Runs the whole bench.
///
/// # Errors
/// It cannot be started here.
pub fn main(words: &[OsString]) -> io::Result<ExitCode> {
    let args = match args::parse(words).and_then(known) {
        Ok(args) => args,
        Err(error) => {
            error.print()?;
            return Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)));
        }
    };
    if args.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    if !geteuid().is_root() {
        eprintln!(
            "peers: only root can mount what is measured here and drop the kernel's caches: run it \
             with sudo, or sudo the binary that `cargo bench --bench peers --no-run` names"
        );
        return Ok(ExitCode::FAILURE);
    }
    guarded(&args, words)
}

/// Checks that there are works and mounts of the names that were given.
fn known(args: Args) -> Result<Args, clap::Error> {
    let unknown = |given: &[String], known: &[&str]| {
        given.iter().find(|name| !known.contains(&name.as_str())).cloned()
    };
    let works: Vec<&str> = works::all().map(|work| work.name).collect();
    let mounts: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let wrong = unknown(&args.only, &works).or_else(|| unknown(&args.mounts, &mounts));
    if let Some(name) = wrong {
        let text = format!("{name}: no such work or mount; --list says what there is\n");
        return Err(clap::Error::raw(clap::error::ErrorKind::InvalidValue, text));
    }
    Ok(args)
}

fn list() {
    println!("works:");
    for work in works::all() {
        for row in work.rows {
            println!("  {:12} {}", work.name, row.title);
        }
    }
    println!("mounts:");
    for kind in KINDS {
        println!("  {:12} {}", kind.name, kind.about);
    }
}

fn guarded(args: &Args, words: &[OsString]) -> io::Result<ExitCode> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    // Removed from here, where nothing is mounted below it.
    let scratch = tempfile::Builder::new().prefix("idmapfs-peers-").tempdir_in(&base)?;
    std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
    let signals: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
    signals.thread_block()?;
    // The kernel ends all that is in it when its first process ends.
    unshare(CloneFlags::CLONE_NEWPID).about("a pid namespace")?;
    let mut child = Command::new("nice")
        // What else the machine does is to count less.
        .args(["-n", "-10"])
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .arg(scratch.path())
        .args(words)
        // Closed when this process dies, even by SIGKILL.
        .stdin(Stdio::piped())
        .spawn()?;
    let code = wait(&mut child, &signals)?;
    scratch.close()?;
    Ok(code)
}

fn wait(child: &mut Child, signals: &SigSet) -> io::Result<ExitCode> {
    let mut interrupted = false;
    loop {
        if let Some(status) = child.try_wait()? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(if interrupted { 130 } else { code.unwrap_or(1) }));
        }
        if signals.wait()? != Signal::SIGCHLD {
            interrupted = true;
            child.kill()?;
        }
    }
}
