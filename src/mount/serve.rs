//! Serving a mount from its start to its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::thread;
use std::time::Duration;

use super::attach::{self, Place};
use super::check::Paths;
use super::describe::{self, Made};
use super::engine::Server;
use super::error::MountError;
use super::options::{Cache, Options, Passthrough, Submounts};
use super::processes::Proc;
use super::reload::{Reloader, decide};
use super::watch::{self, Believed, Watching};
use crate::control::Record;
use crate::fs::{Config, Fs};
use crate::fuse::{Session, SessionOptions};
use crate::policy::Policy as _;
use crate::source::host::{Host, HostOptions};
use crate::source::{Source, owners};
use crate::sys::cred::may_mount;
use crate::sys::signal::{Asked, Signals};
use crate::sys::{daemon, memory};
use crate::text::shown;

/// How often nodes are let go that nobody has used for long.
const TIDY: Duration = Duration::from_secs(5);

/// How long the last users of a mount that was taken away are still served.
const GRACE: Duration = Duration::from_secs(1);

/// How long an unmount may take before the server ends without it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long taking a mount out of the tree may take: it asks no server for
/// anything, but the way there may lead through another mount that hangs.
const ASIDE: Duration = Duration::from_secs(5);

/// Makes the mount, and serves it until it is unmounted or a signal asks for
/// the end.
///
/// `why` says why there is a server; `attached` is called with the device number as
/// soon as the mount is at its place.
///
/// # Errors
/// Whatever keeps the mount from being made, or ends its serving early.
pub(super) fn serve(
    options: &Options,
    paths: &Paths,
    why: &Server,
    attached: impl FnOnce((u32, u32)) -> io::Result<()>,
) -> Result<(), MountError> {
    // A fault of ours is answered EIO; where it was belongs into the log.
    std::panic::set_hook(Box::new(|fault| log::error!("{fault}")));
    daemon::leave_groups();
    let descriptors = daemon::raise_descriptors().map_err(MountError::doing("RLIMIT_NOFILE"))?;
    // Before the first thread, which all others come from.
    let signals = Signals::block().map_err(MountError::doing("signals"))?;
    let (source, submounts) = open_source(options, &paths.source)?;
    let can = source.facts();
    let (fs, serving, believed) = file_system(options, source, descriptors, "self")?;
    let fs = Arc::new(fs);
    keep_tidy(&fs)?;
    let (session, place, serving) =
        attach::mount(options, &paths.target, &paths.name, Arc::clone(&fs), serving)?;
    let watching = Watching::start(&fs, session.notifier()).map_err(MountError::doing("thread"));
    let watching = watching.inspect_err(|_| undo(&place))?;
    let way = place.way;
    let data = session.data_path();
    let made = Made { options, paths, why, way, serving, source: can, submounts, believed, data };
    let reloader = Reloader::new(&made, fs, session.notifier());
    let policy = options.spec.describe();
    reloader.publish(Record::new(&paths.source, &place.target, place.device, policy));
    if let Err(why) = attached(place.device) {
        undo(&place);
        return Err(MountError::System { what: "telling that the mount is there", why });
    }
    let ended = until_the_end(session, signals, &place, &reloader);
    drop(watching);
    ended
}

/// Opens the source, before anything is mounted over it or below it; says what is
/// shown of mounts below it.
///
/// # Errors
/// If it cannot be opened.
pub(super) fn open_source(
    options: &Options,
    source: &Path,
) -> Result<(Arc<dyn Source>, Submounts), MountError> {
    let submounts = options.submounts;
    let staging = !options.owners.is_native();
    let path = source;
    let source = Host::open(path, &HostOptions { submounts, staging })?;
    let shown = source.submounts();
    if submounts != shown && options.owners.is_native() {
        log::info!("without privilege, what is mounted below the source is hidden");
    }
    if !options.owners.is_native() {
        log::info!("owners: {}", options.owners.word());
    }
    Ok((owners::open(Arc::new(source), path, &options.owners)?, shown))
}

/// Starts the thread that lets nodes and memory go, for as long as the file system is
/// there.
///
/// # Errors
/// If no thread can be had.
pub(super) fn keep_tidy(fs: &Arc<Fs>) -> Result<(), MountError> {
    let fs = Arc::downgrade(fs);
    let tidy = move || {
        loop {
            thread::sleep(TIDY);
            let Some(fs) = fs.upgrade() else { return };
            fs.tidy();
            if fs.has_ebbed() {
                memory::give_back();
            }
        }
    };
    let started = thread::Builder::new().name("tidy".to_owned()).spawn(tidy);
    started.map(drop).map_err(MountError::doing("thread"))
}

/// Makes the file system of a source, and says how it is to be served, and why the
/// kernel may believe it for how long.
///
/// `process` is a process in the user namespace of the mount, by its name in
/// `/proc`.
///
/// # Errors
/// If the policy does not fit the source, or the root cannot be used.
pub(super) fn file_system(
    options: &Options,
    source: Arc<dyn Source>,
    descriptors: u64,
    process: &str,
) -> Result<(Fs, SessionOptions, String), MountError> {
    let facts = source.facts();
    let (policy, stand_in) = decide(&options.spec, facts.any_owner, process)?;
    let serving = SessionOptions {
        threads: threads(),
        clone_device: true,
        anchored: true,
        // With ACLs the kernel insists on deciding.
        acl: facts.acl && options.kernel_decides(),
        keep_pages: facts.immutable || options.cache == Cache::Exclusive,
        exclusive: options.cache == Cache::Exclusive,
        allow_idmap: options.allow_idmap,
        passthrough: match options.passthrough {
            Passthrough::Off => Err("passthrough is off"),
            Passthrough::Auto if !facts.any_file || !may_mount().unwrap_or(false) => {
                Err("passthrough takes CAP_SYS_ADMIN on the host")
            }
            Passthrough::Auto if !facts.lends => {
                Err("the source is no file system of this host alone, or is stacked on one")
            }
            Passthrough::Auto => Ok(()),
        },
    };
    // What depends on the caller is not to be shared between callers.
    let cache = if policy.inputs().caller { Cache::Off } else { options.cache };
    let Believed { trust, watch, why } = watch::begin(cache, source.as_ref());
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let unknown_callers = options.allow_idmap;
    let nodes = descriptors / 2;
    let config = Config { trust, nodes, descriptors, stand_in, unknown_callers };
    let fs = Fs::new(source, Arc::new(policy), Arc::new(Proc::open(process)), config);
    let fs = fs.map_err(|error| MountError::System {
        what: "root of the source",
        why: io::Error::from_raw_os_error(error.errno().0),
    })?;
    watch.into_iter().for_each(|watch| fs.trust_watch(watch));
    Ok((fs, serving, why))
}

/// Returns how many threads serve: more than the processors only take memory.
fn threads() -> usize {
    thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8))
}

/// What happens to a mount that is served.
#[derive(Debug)]
enum Event {
    /// The last copy of the mount is gone, or serving failed.
    Ended(io::Result<()>),
    /// A signal asks for the end.
    Asked,
    /// The unmount that was asked for is done, or failed.
    Unmounted,
}

fn until_the_end(
    session: Session,
    signals: Signals,
    place: &Place,
    reloader: &Arc<Reloader>,
) -> Result<(), MountError> {
    let (sender, events) = channel();
    let started = reloader
        .listen()
        .and_then(|reload| observe(session, signals, sender.clone(), reload, reloader));
    let ended = match started {
        Ok(()) => wait(&events, &sender, place),
        Err(error) => Err(error),
    };
    reloader.end();
    undo(place);
    ended.map_err(MountError::Session)
}

/// Takes away what is left of a mount whose serving ends now.
fn undo(place: &Place) {
    let (sender, done) = channel();
    let detach = {
        let place = place.clone();
        move || {
            if let Err(error) = place.detach() {
                log::warn!("{error}");
            }
            let _late = sender.send(());
        }
    };
    let started = thread::Builder::new().name("unmount".to_owned()).spawn(detach);
    if started.is_err() || done.recv_timeout(ASIDE).is_err() {
        log::warn!("{}: left as it is, without a server", shown(&place.target));
    }
}

/// Starts the threads that wait for what happens; `reload` takes what is to be
/// reloaded.
fn observe(
    session: Session,
    signals: Signals,
    sender: Sender<Event>,
    reload: SyncSender<()>,
    reloader: &Arc<Reloader>,
) -> io::Result<()> {
    let counted = Arc::downgrade(reloader);
    let asked = sender.clone();
    thread::Builder::new().name("session".to_owned()).spawn(move || {
        // Nobody listens any more only when the process ends.
        let _ended = sender.send(Event::Ended(session.wait()));
    })?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            match signal {
                Asked::End if asked.send(Event::Asked).is_err() => return,
                Asked::End => {}
                // One that waits already will read what is written now.
                Asked::Reload => drop(reload.try_send(())),
                Asked::Stats => {
                    if let Some(stats) = counted.upgrade().map(|reloader| reloader.stats()) {
                        log::info!("stats: {}", describe::line(&stats));
                    }
                }
            }
        }
    })?;
    Ok(())
}

fn wait(events: &Receiver<Event>, sender: &Sender<Event>, place: &Place) -> io::Result<()> {
    let mut asked = false;
    let mut patience = Duration::MAX;
    loop {
        match events.recv_timeout(patience) {
            Ok(Event::Ended(result)) => return result,
            // The second time, at once.
            Ok(Event::Asked) if asked => return Ok(()),
            Ok(Event::Asked) => {
                (asked, patience) = (true, PATIENCE);
                let (place, sender) = (place.clone(), sender.clone());
                // Not here: an unmount that hangs must not keep the server.
                thread::Builder::new().name("unmount".to_owned()).spawn(move || {
                    if let Err(error) = place.unmount() {
                        log::warn!("{error}");
                    }
                    let _ended = sender.send(Event::Unmounted);
                })?;
            }
            Ok(Event::Unmounted) => patience = GRACE,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
