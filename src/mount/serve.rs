//! The process that serves a mount, from its start to its end.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread;
use std::time::Duration;

use super::asking::Asking;
use super::attach::{self, Place, Way};
use super::check::{Paths, is_image, of_directory, of_image};
use super::confine::{Needs, confine};
use super::describe::{self, Made};
use super::engine::Server;
use super::error::MountError;
use super::link::{Link, Word};
use super::namespace;
use super::options::{Cache, Options, Passthrough, Submounts};
use super::processes::Proc;
use super::reload::{Reloader, decide};
use super::room;
use super::upper::{self, Upper};
use super::watch::{self, Believed, Watching};
use crate::control::{self, Bytes, Record, Said};
use crate::fs::{Config, Fs};
use crate::fuse::{Notifier, Session, SessionOptions};
use crate::policy::Policy as _;
use crate::source::host::{Host, HostOptions};
use crate::source::image::{Device, Image, Part};
use crate::source::{Source, image, owners};
use crate::sys::cred::may_mount;
use crate::sys::schedule::Bystander;
use crate::sys::signal::{Asked, Signals};
use crate::sys::{daemon, memory, mount_namespace};
use crate::text::shown;
use crate::threads;

/// How many threads and processes there are beside those of the session and of its file
/// system: those of [`observe`], what reloads, answers the control socket and watches;
/// and of the supervisor, which unmounts by another process.
const BESIDE: usize = 7;

/// How long it may take to attach the mount, or what is above it.
const ATTACHING: Duration = Duration::from_secs(30);

/// How often nodes are let go that nobody has used for long.
const TIDY: Duration = Duration::from_secs(5);

/// How long taking a mount out of the tree may take: it asks no server for
/// anything, but the way there may lead through another mount that hangs.
pub(super) const ASIDE: Duration = Duration::from_secs(5);

/// What joins a server to its supervisor.
#[derive(Debug)]
pub(super) struct Ties {
    pub(super) link: Link,
    pub(super) asking: Asking,
    pub(super) signals: Signals,
}

/// Serves the mount that the supervisor makes, until that is unmounted or the
/// supervisor ends.
///
/// `why` says why there is a server.
///
/// # Errors
/// Whatever keeps the mount from being served, or ends that early.
pub(super) fn serve(
    options: &Options,
    paths: &Paths,
    why: &Server,
    upper: Option<&Upper>,
    ties: Ties,
) -> Result<(), MountError> {
    let Ties { link, asking, signals } = ties;
    // A fault of ours is answered EIO; where it was belongs into the log.
    std::panic::set_hook(Box::new(|fault| log::error!("{fault}")));
    let descriptors = daemon::raise_descriptors().map_err(MountError::doing("RLIMIT_NOFILE"))?;
    // Before the source is copied: copies are of the namespace that they were made in.
    let mut left = namespace::passing().map(|_| mount_namespace::leave());
    let Begun { files, needs } = begin(options, &paths.source)?;
    let confined = files.are_of_an_image().then(|| withdraw(options, &needs, left.take()));
    let confined = confined.transpose()?;
    let Opened { source, submounts, image, part } = files.open(options)?;
    fits(options, upper, image.as_deref(), "self")?;
    let can = source.facts();
    let served = Arc::clone(&source);
    let proc = Proc::open("self").asking(asking);
    let (fs, serving, believed) = file_system(options, source, descriptors, "self", proc)?;
    tell(&link, &Word::Opened)?;
    let made = |word| {
        let Word::Made { way, device } = word else { return None };
        Some((way, device))
    };
    let (way, device) = link.expect(made)?;
    let anchored = way == Way::Own;
    let serving = SessionOptions { anchored, ..attach::with_clones(serving, device.as_fd()) };
    let confined = confined.map_or_else(|| withdraw(options, &needs, left.take()), Ok)?;
    if let Some(watch) = fs.watch() {
        watch.ignore_device(device.as_fd());
    }
    let fs = Arc::new(fs);
    let serving = room::find(serving, BESIDE)?;
    let session = start(device, &fs, serving)?;
    let notifier = session.notifier();
    let watching = watch_with(&fs, notifier.clone())?;
    tell(&link, &Word::Serving)?;
    let attached = |word| {
        let Word::Attached { device, mount, connection } = word else { return None };
        Some((device, mount, connection))
    };
    // It asks this server for the root, and should that not be answered, only the end of
    // the server is of help.
    let attaching = "attaching the mount";
    let (number, mount, connection) = link.expect_within(ATTACHING, attaching, attached)?;
    let place = Place::new(&paths.target, number, mount, connection, way);
    let data = session.data_path();
    let made = Made {
        options,
        paths,
        why,
        way,
        serving,
        source: can,
        submounts,
        part,
        believed,
        data,
        confined,
        device: number,
        process: "self",
    };
    let reloader = Reloader::new(&made, fs, notifier);
    describe::log_place(&reloader.facts());
    let policy = options.spec.describe();
    reloader.publish(Record::new(&paths.source, Some(&place.target), connection, policy));
    let ended = until_the_end(session, signals, link, &place, &reloader);
    drop(watching);
    // Threads that still have it end with the process, and would not.
    served.leave();
    ended
}

fn tell(link: &Link, word: &Word) -> Result<(), MountError> {
    link.tell(word).map_err(MountError::doing("the supervisor"))
}

/// Leaves what serving takes no more: mounts in the namespace that this process has
/// `left`, the terminal, and all privilege that is not needed. Says what was given up.
///
/// # Errors
/// If there is no `/dev/null`.
fn withdraw(
    options: &Options,
    needs: &Needs,
    left: Option<io::Result<()>>,
) -> Result<Said, MountError> {
    let pruned = left.map(|left| left.and_then(|()| mount_namespace::prune(&needs.paths(), None)));
    if let Some(Err(error)) = pruned {
        log::info!("the mount stays when the rest of its container ends: {error}");
    }
    if !options.foreground {
        daemon::silence().map_err(MountError::doing("/dev/null"))?;
    }
    Ok(confine(needs))
}

/// A source, as far as it takes privilege to open it, and what a server of it goes on
/// to use.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) files: Files,
    pub(super) needs: Needs,
}

/// Where the files of a source are.
#[derive(Debug)]
pub(super) enum Files {
    /// On this host; that is open.
    Host(Opened),
    /// In an image, of which nothing has been read: who made it chose what is.
    Image(Device),
}

impl Files {
    /// Reports whether to open them is to read what somebody has made up.
    pub(super) const fn are_of_an_image(&self) -> bool {
        matches!(self, Self::Image(_))
    }

    /// Opens what is left to be opened.
    ///
    /// # Errors
    /// If the image cannot be served.
    pub(super) fn open(self, options: &Options) -> Result<Opened, MountError> {
        let device = match self {
            Self::Host(opened) => return Ok(opened),
            Self::Image(device) => device,
        };
        let source = image::open(device, &options.image)?;
        let Part { offset, size } = source.part();
        let part = size.map(|size| Bytes { offset, size, file: source.file() });
        let image = Some(source.image());
        Ok(Opened { source: Arc::new(source), submounts: Submounts::Hide, image, part })
    }
}

/// A source.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) source: Arc<dyn Source>,
    /// What is shown of mounts below it.
    pub(super) submounts: Submounts,
    /// The image, if it is one.
    pub(super) image: Option<Arc<dyn Image>>,
    /// Where in its file that is.
    pub(super) part: Option<Bytes>,
}

/// Why the files of a source are out of reach for a process under Landlock.
const BY_HANDLE: &str = "it judges a file by the directories above it, and those that are opened \
                         again by handle have none";

/// Opens the source, before anything is mounted over it or below it; of an image the
/// file alone.
///
/// # Errors
/// If it cannot be opened, or an option makes no sense for it.
pub(super) fn begin(options: &Options, path: &Path) -> Result<Begun, MountError> {
    if is_image(path) {
        of_image(options)?;
        let files = Files::Image(image::device(path, &options.image)?);
        let reads = options.renew.directories().to_vec();
        let writes = control::directory().into_iter().collect();
        return Ok(Begun { files, needs: Needs { reads, writes, ..Needs::default() } });
    }
    of_directory(&options.image)?;
    let submounts = options.submounts;
    let staging = !options.owners.is_native();
    let (attributes, reopen) = (options.flags.access_times(), options.cache == Cache::Off);
    let source = Host::open(path, &HostOptions { submounts, staging, reopen, attributes })?;
    if !source.obeys() {
        // By a read-only mount alone nobody has asked.
        let level =
            if options.flags.say_access_times() { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "access times change as the host has it: this user may not say otherwise");
    }
    source.clean_staging();
    let shown = source.submounts();
    if submounts != shown && options.owners.is_native() {
        log::info!("without privilege, what is mounted below the source is hidden");
    }
    if !options.owners.is_native() {
        log::info!("owners: {}", options.owners.word());
    }
    let root = source.top().try_clone_to_owned().map_err(MountError::doing("the source"))?;
    let unreachable = source.opens_files_by_handle().then_some(BY_HANDLE);
    // Lists in the source are read by its path again.
    let mut reads: Vec<PathBuf> = options.renew.directories().to_vec();
    reads.push(path.to_owned());
    // Where it cannot be, publishing says why.
    let writes = control::directory().into_iter().chain(options.owners.directory()).collect();
    let needs = Needs { source: Some(root), unreachable, reads, writes, signals: false };
    let source = owners::open(Arc::new(source), path, &options.owners)?;
    Ok(Begun {
        files: Files::Host(Opened { source, submounts: shown, image: None, part: None }),
        needs,
    })
}

/// Checks that what is above a source, if anything is, can hold its files.
///
/// `process` is a process in the user namespace of the
/// mount, by its name in `/proc`.
///
/// # Errors
/// `Upper`: what was written there is of other files; `Outside`, `Unmapped`: that namespace, or the policy, has not all of their ids.
pub(super) fn fits(
    options: &Options,
    upper: Option<&Upper>,
    image: Option<&dyn Image>,
    process: &str,
) -> Result<(), MountError> {
    let (Some(upper), Some(image)) = (upper, image) else { return Ok(()) };
    let (policy, _) = decide(&options.spec, true, process)?;
    upper::reaches(image, &policy, process)?;
    upper.settle(image, policy.spec())
}

/// Starts to serve a device. From here on there are threads.
///
/// # Errors
/// If there is no room for those that it takes, or the kernel does not greet.
pub(super) fn start(
    device: OwnedFd,
    fs: &Arc<Fs>,
    serving: SessionOptions,
) -> Result<Session, MountError> {
    begin_threads(fs).map_err(MountError::starting("thread"))?;
    Session::start(device, Arc::clone(fs), serving).map_err(MountError::session)
}

/// Starts to hear of changes, where that is trusted.
///
/// # Errors
/// If no thread can be had.
pub(super) fn watch_with(fs: &Arc<Fs>, notifier: Notifier) -> Result<Option<Watching>, MountError> {
    Watching::start(fs, notifier).map_err(MountError::starting("thread"))
}

/// Starts the thread that starts others, the one that requests wait in, and the one that
/// lets nodes and memory go for as long as the file system is there.
fn begin_threads(fs: &Arc<Fs>) -> io::Result<()> {
    threads::begin_starter()?;
    fs.begin_to_wait()?;
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
    threads::start("tidy", tidy).map(drop)
}

/// Makes the file system of a source, and says how it is to be served, and why the
/// kernel may believe it for how long.
///
/// `process` is a process in the user namespace of the mount, by its name in
/// `/proc`, `proc` looks at callers.
///
/// # Errors
/// If the policy does not fit the source, or the root cannot be used.
pub(super) fn file_system(
    options: &Options,
    source: Arc<dyn Source>,
    descriptors: u64,
    process: &str,
    proc: Proc,
) -> Result<(Fs, SessionOptions, String), MountError> {
    let facts = source.facts();
    let limit = usize::try_from(descriptors).unwrap_or(usize::MAX);
    if limit < FEWEST {
        return Err(MountError::Descriptors { limit, least: FEWEST });
    }
    let reserve = if limit < ENOUGH { 0 } else { RESERVE };
    let descriptors = limit.saturating_sub(reserve);
    let (policy, stand_in) = decide(&options.spec, facts.any_owner, process)?;
    let serving = SessionOptions {
        threads: threads(),
        reserve,
        near: true,
        clone_device: true,
        anchored: true,
        // With ACLs the kernel insists on deciding.
        acl: facts.acl && options.kernel_decides(),
        keep_pages: facts.immutable || options.cache == Cache::Exclusive,
        // Nobody changes what never changes, too.
        exclusive: facts.immutable || options.cache == Cache::Exclusive,
        writes: !facts.immutable,
        allow_idmap: options.allow_idmap,
        passthrough: match options.passthrough {
            Passthrough::Off => Err("passthrough is off"),
            Passthrough::Auto if facts.immutable => {
                Err("only a reader finds the pieces of a file in an image")
            }
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
    let unknown_callers = options.allow_idmap;
    let copied_up = options.upper.is_some()
        && !upper::is_of_the_host(process).map_err(MountError::doing("user namespace"))?;
    let most = limit / 2;
    let nodes = match options.open_files {
        Some(asked) if asked > most => return Err(MountError::OpenFiles { asked, most }),
        asked => asked.unwrap_or(most),
    };
    // Beside a worker that is near its client, a helper would take its processor.
    let helper = || Box::new(Bystander::begin()) as _;
    let config = Config { trust, nodes, descriptors, stand_in, unknown_callers, copied_up, helper };
    let fs = Fs::new(source, Arc::new(policy), Arc::new(proc), config);
    let fs = fs.map_err(|error| MountError::System {
        what: "root of the source",
        why: io::Error::from_raw_os_error(error.errno().0),
    })?;
    watch.into_iter().for_each(|watch| fs.trust_watch(watch));
    Ok((fs, serving, why))
}

/// How many requests may wait for something (a disk, a server far away) before others
/// wait for them, besides those of all threads that serve. Each takes a descriptor.
const RESERVE: usize = 16;

/// With fewer descriptors than these a mount would be made in which nothing can be looked
/// at: a server with 8 workers holds 31 before it is asked for anything.
const FEWEST: usize = 64;

/// From how many descriptors on some are left for those: callers need the others.
const ENOUGH: usize = 1024;

/// Returns how many threads serve at once: more than the processors are of no use.
fn threads() -> usize {
    threads::processors().clamp(2, 8)
}

/// What ends serving.
#[derive(Debug)]
enum Event {
    /// The last copy of the mount is gone, or serving failed.
    Ended(io::Result<()>),
    /// The supervisor has ended, or wants the end.
    Alone,
}

fn until_the_end(
    session: Session,
    signals: Signals,
    link: Link,
    place: &Place,
    reloader: &Arc<Reloader>,
) -> Result<(), MountError> {
    let (sender, events) = channel();
    let link = Arc::new(link);
    let started = reloader
        .listen()
        .and_then(|reload| observe(session, signals, Arc::clone(&link), sender, reload, reloader))
        .map_err(MountError::starting("thread"));
    // Whoever waits for the mount goes on only now, when nothing is missing any more.
    let ended = started
        .and_then(|()| tell(&link, &Word::Known))
        .and_then(|()| wait(&events, place).map_err(MountError::Session));
    reloader.end();
    ended
}

/// Starts the threads that wait for what happens; `reload` takes what is to be
/// reloaded.
fn observe(
    session: Session,
    signals: Signals,
    link: Arc<Link>,
    sender: Sender<Event>,
    reload: SyncSender<()>,
    reloader: &Arc<Reloader>,
) -> io::Result<()> {
    let counted = Arc::downgrade(reloader);
    let ended = sender.clone();
    thread::Builder::new().name("session".to_owned()).spawn(move || {
        // Nobody listens any more only when the process ends.
        let _ended = ended.send(Event::Ended(session.wait()));
    })?;
    thread::Builder::new().name("supervisor".to_owned()).spawn(move || {
        // There is nothing more to be told.
        while link.hear().is_ok() {}
        let _ended = sender.send(Event::Alone);
    })?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            match signal {
                // One that waits already will read what is written now.
                Some(Asked::Reload) => drop(reload.try_send(())),
                Some(Asked::Stats) => {
                    if let Some(stats) = counted.upgrade().map(|reloader| reloader.stats()) {
                        describe::answer(&stats);
                    }
                }
                Some(Asked::End) | None => {}
            }
        }
    })?;
    Ok(())
}

/// Waits for the end. With this process the connection to the kernel ends, and
/// whoever waits for an answer gets an error.
fn wait(events: &Receiver<Event>, place: &Place) -> io::Result<()> {
    match events.recv() {
        Ok(Event::Ended(result)) => result,
        Ok(Event::Alone) => {
            undo(place);
            Ok(())
        }
        Err(_all_threads_are_gone) => Ok(()),
    }
}

/// Takes the mount away whose supervisor is gone, where this process may: it is
/// cleared by umount, or the next mount, elsewhere.
fn undo(place: &Place) {
    let (sender, done) = channel();
    let detach = |place: &Place| place.way == Way::Own && place.detach().is_ok();
    let aside = {
        let place = place.clone();
        move || {
            let _late = sender.send(detach(&place));
        }
    };
    let started = thread::Builder::new().name("unmount".to_owned()).spawn(aside);
    let gone = match started {
        Ok(_) => done.recv_timeout(ASIDE) == Ok(true),
        // There is no room for another one.
        Err(_) => detach(place),
    };
    if !gone {
        log::warn!("{}: left as it is, without a server", shown(&place.target));
    }
}
