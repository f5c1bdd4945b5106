//! Landlock: landlock(7). What a thread gives up for good, and with it all
//! threads that it makes.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

/// The newest rights that are given up: those of Linux 6.12. Of later ones it
/// is not known yet what they would break.
const NEWEST: ABI = ABI::V6;

/// What may be done with files beneath a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Everything but to execute them.
    Change,
    /// To read them.
    Read,
    /// To use a device, which is the file itself.
    Device,
}

/// A directory, or a device, and what may be done there. Whatever leads there.
#[derive(Debug)]
pub struct Allowed {
    place: OwnedFd,
    right: Right,
}

impl Allowed {
    /// Allows something beneath an open directory; `O_PATH` will do.
    pub const fn at(place: OwnedFd, right: Right) -> Self {
        Self { place, right }
    }

    /// Allows something beneath a path; `None` where nothing is there.
    pub fn beneath(path: &Path, right: Right) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let place = openat(AT_FDCWD, path, flags, Mode::empty()).ok()?;
        Some(Self { place, right })
    }
}

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// All files but those that are allowed, and to execute any.
    pub files: bool,
    /// TCP.
    pub tcp: bool,
    /// Abstract sockets of other processes, and signals to them.
    pub scopes: bool,
}

fn right(right: Right) -> BitFlags<AccessFs> {
    match right {
        Right::Change => AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::IoctlDev),
        Right::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Right::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
    }
}

/// Confines this thread, and those that it makes from now on, to what is
/// allowed; `None`: files are left as they are.
///
/// With `signals` those to other processes are not given up.
///
/// What the kernel does not know is not given up. Of files nothing is before
/// Linux 5.19, where a file could not be moved to another directory any more.
///
/// # Errors
/// In one line, why nothing was given up.
pub fn restrict(allowed: Option<Vec<Allowed>>, signals: bool) -> Result<Given, String> {
    let failed = |error: RulesetError| error.to_string();
    let can_move = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .is_ok();
    let allowed = allowed.filter(|_| can_move);
    let files = allowed.is_some();
    let status = apply(allowed, signals).map_err(failed)?;
    match status.landlock {
        LandlockStatus::Available { .. } if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the kernel knows nothing of what is to be given up".to_owned())
        }
        LandlockStatus::Available { effective_abi, .. } => {
            Ok(Given { files, tcp: effective_abi >= ABI::V4, scopes: effective_abi >= ABI::V6 })
        }
        LandlockStatus::NotEnabled => Err("it is not enabled at boot (lsm=)".to_owned()),
        LandlockStatus::NotImplemented => {
            Err("the kernel has none; Linux 5.19 or later".to_owned())
        }
    }
}

fn apply(allowed: Option<Vec<Allowed>>, signals: bool) -> Result<RestrictionStatus, RulesetError> {
    let mut scopes = Scope::from_all(NEWEST);
    if signals {
        scopes.remove(Scope::Signal);
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(scopes)?;
    if allowed.is_some() {
        rules = rules.handle_access(AccessFs::from_all(NEWEST))?;
    }
    let mut rules = rules.create()?;
    for Allowed { place, right: what } in allowed.into_iter().flatten() {
        rules = rules.add_rule(PathBeneath::new(place, right(what)))?;
    }
    rules.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;

    fn refused<T>(result: std::io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    /// It is for the thread alone, so one is made for it.
    fn apart(body: impl FnOnce() + Send + 'static) {
        std::thread::spawn(body).join().unwrap();
    }

    /// What this kernel lets a thread give up; says what is skipped.
    fn given(allowed: Option<Vec<Allowed>>) -> Option<Given> {
        restrict(allowed, false).map_err(|why| eprintln!("SKIP: landlock: {why}")).ok()
    }

    #[test]
    fn only_what_is_allowed_can_be_changed_or_read() {
        apart(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["source/a", "source/b", "lists", "outside"] {
                fs::create_dir_all(at(name)).unwrap();
            }
            for name in ["source/f", "lists/f", "outside/f"] {
                fs::write(at(name), name).unwrap();
            }
            let open = File::open(at("outside/f")).unwrap();
            let allowed = [("source", Right::Change), ("lists", Right::Read)];
            let allowed = allowed.map(|(name, right)| Allowed::beneath(&at(name), right).unwrap());
            assert!(Allowed::beneath(&at("none"), Right::Read).is_none());
            let Some(Given { files: true, .. }) = given(Some(allowed.into())) else { return };
            // Names move between directories, and links are made.
            fs::rename(at("source/f"), at("source/a/f")).unwrap();
            fs::hard_link(at("source/a/f"), at("source/b/f")).unwrap();
            fs::write(at("source/b/f"), "longer than before").unwrap();
            File::options().write(true).open(at("source/a/f")).unwrap().set_len(3).unwrap();
            fs::remove_file(at("source/a/f")).unwrap();
            assert_eq!(fs::read_to_string(at("lists/f")).unwrap(), "lists/f");
            let denied = Some(libc::EACCES);
            assert_eq!(refused(fs::write(at("lists/f"), "")), denied);
            assert_eq!(refused(fs::remove_file(at("lists/f"))), denied);
            assert_eq!(refused(fs::create_dir(at("outside/d"))), denied);
            assert_eq!(refused(fs::read(at("outside/f"))), denied);
            assert_eq!(refused(fs::rename(at("source/b/f"), at("outside/g"))), denied);
            assert_eq!(refused(Command::new("/bin/true").status()), denied);
            // What was open stays open.
            assert_eq!(std::io::read_to_string(open).unwrap(), "outside/f");
        });
    }

    #[test]
    fn neither_tcp_nor_abstract_sockets_of_others_nor_their_signals() {
        let name = format!("idmapfs-landlock-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(other.id().try_into().unwrap());
        apart(move || {
            let Some(given) = given(None) else { return };
            assert!(!given.files);
            fs::write(tempfile::tempdir().unwrap().path().join("f"), "").unwrap();
            assert!(Command::new("/bin/true").status().unwrap().success());
            if given.tcp {
                assert_eq!(refused(TcpListener::bind("127.0.0.1:0")), Some(libc::EACCES));
            }
            if given.scopes {
                assert_eq!(refused(UnixStream::connect_addr(&address)), Some(libc::EPERM));
                assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::EPERM));
            }
        });
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
