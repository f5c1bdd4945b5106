//! How threads of the server are scheduled, and where.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, SysconfVar, getpid, gettid, sysconf};

use super::procfs::shows_this_process;
use crate::sync::lock;

/// The nice value of threads that many wait for and that do little.
const HURRY: i32 = -10;

/// For how many nanoseconds such a thread asks for the processor at a time: the
/// shortest that the kernel takes.
const SLICE: u64 = 100_000;

/// `IOPRIO_CLASS_BE` of linux/ioprio.h, and where in a priority its class is.
const BEST_EFFORT: i32 = 2;
const CLASS: i32 = 13;

/// `IOPRIO_WHO_PROCESS`: a thread.
const THREAD: libc::c_int = 1;

/// Where the processor is among what follows the name in `/proc/PID/stat`: the 39th
/// field of all, proc_pid_stat(5).
const PROCESSOR: usize = 36;

/// More than the file has up to there.
const STAT: usize = 1024;

/// More than `/proc/loadavg` has.
const LOAD: usize = 128;

/// Lets threads [`hurry`] also when the capability for it is gone, where this
/// process may allow that.
pub fn allow_hurry() {
    let nice = 20_u64.saturating_add(HURRY.unsigned_abs().into());
    let limit = getrlimit(Resource::RLIMIT_NICE).unwrap_or((nice, nice));
    if limit.0 < nice
        && let Err(errno) = setrlimit(Resource::RLIMIT_NICE, nice, nice.max(limit.1))
    {
        log::debug!("RLIMIT_NICE: {errno}");
    }
}

/// Has this thread run soon when it is woken on a busy machine.
///
/// A higher priority takes a privilege. Without it, since Linux 6.12, a thread may say
/// that it runs for a short time only: it then takes the place of one that asks for
/// more (`PREEMPT_SHORT` of kernel/sched/features.h). Its share stays the same.
pub fn hurry() {
    let thread = 0;
    // SAFETY: takes and returns plain numbers; it fails without the privilege.
    let _asked = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, HURRY) };
    if let Err(error) = ask_for_short_slices() {
        log::debug!("short slices: {error}");
    }
}

/// Asks for short slices for this thread; a kernel before Linux 6.12 does nothing.
fn ask_for_short_slices() -> io::Result<()> {
    let mut attr = scheduling()?;
    // A real-time policy has no slices, and with a deadline this is something else.
    if !matches!(i32::try_from(attr.sched_policy), Ok(libc::SCHED_OTHER | libc::SCHED_BATCH)) {
        return Ok(());
    }
    attr.sched_runtime = SLICE;
    let (thread, flags): (libc::pid_t, libc::c_uint) = (0, 0);
    // SAFETY: the structure is whole, says its size, and outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_sched_setattr, thread, std::ptr::from_mut(&mut attr), flags)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns how this thread is scheduled, as sched_setattr(2) takes it.
fn scheduling() -> io::Result<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    let mut attr = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (thread, flags): (libc::pid_t, libc::c_uint) = (0, 0);
    // SAFETY: the structure is as large as the call is told, and outlives it.
    let done = unsafe {
        libc::syscall(libc::SYS_sched_getattr, thread, std::ptr::from_mut(&mut attr), size, flags)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attr) }
}

/// Has this thread run only where nothing else wants to (`SCHED_IDLE`).
///
/// A processor that does nothing else counts as idle to who looks for one. Disks serve
/// the thread as before: by its policy they would let all others go first, some for as
/// long as there are any (`task_nice_ioclass` of linux/ioprio.h).
///
/// # Errors
/// As sched_setscheduler(2), ioprio_set(2).
pub fn step_back() -> io::Result<()> {
    let now = scheduling()?;
    if i32::try_from(now.sched_policy) != Ok(libc::SCHED_IDLE) && disk_priority()? == 0 {
        set_disk_priority((BEST_EFFORT << CLASS) | (now.sched_nice.saturating_add(20) / 5))?;
    }
    set_policy(gettid(), libc::SCHED_IDLE)
}

/// Returns the priority that was set for what this thread reads and writes; 0 if none was.
fn disk_priority() -> io::Result<i32> {
    // SAFETY: takes and returns plain numbers.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, THREAD, 0 as libc::c_int) };
    if priority < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(priority).unwrap_or(0))
    }
}

fn set_disk_priority(priority: i32) -> io::Result<()> {
    // SAFETY: takes and returns plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, THREAD, 0 as libc::c_int, priority) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has a thread that has stepped back run as others do: as the first one does, but never
/// in real time.
///
/// # Errors
/// `EPERM` without a privilege, or the limit of `RLIMIT_NICE` that [`allow_hurry`] sets.
pub fn step_forward(thread: Pid) -> io::Result<()> {
    set_policy(thread, beside(policy_of(getpid())?))
}

/// Returns the policy of a thread beside a first one with this policy.
fn beside(first: i32) -> i32 {
    let first = first & !libc::SCHED_RESET_ON_FORK;
    let as_it_does = matches!(first, libc::SCHED_BATCH | libc::SCHED_IDLE);
    if as_it_does { first } else { libc::SCHED_OTHER }
}

/// Returns the policy of a thread.
fn policy_of(thread: Pid) -> io::Result<i32> {
    // SAFETY: takes and returns plain numbers.
    let policy = unsafe { libc::sched_getscheduler(thread.as_raw()) };
    if policy < 0 { Err(io::Error::last_os_error()) } else { Ok(policy) }
}

fn set_policy(thread: Pid, policy: i32) -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure outlives the call.
    let done = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const priority) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Threads of this process that wake up often and can do so anywhere.
static BYSTANDERS: Mutex<Bystanders> = Mutex::new(Bystanders::NONE);

/// Those threads, and where all of them are to be.
struct Bystanders {
    threads: Vec<Known>,
    on: Option<Processors>,
}

#[derive(Clone, Copy)]
struct Known {
    thread: Pid,
    asleep: bool,
}

impl Bystanders {
    const NONE: Self = Self { threads: Vec::new(), on: None };

    fn add(&mut self, thread: Pid) {
        self.threads.push(Known { thread, asleep: false });
        send(thread, self.on);
    }

    fn remove(&mut self, thread: Pid) {
        self.threads.retain(|known| known.thread != thread);
    }

    /// Notes whether one sleeps; it goes where it is to be when it does not any more.
    fn sleeps(&mut self, thread: Pid, asleep: bool) {
        for known in self.threads.iter_mut().filter(|known| known.thread == thread) {
            if std::mem::replace(&mut known.asleep, asleep) && !asleep {
                send(thread, self.on);
            }
        }
    }

    fn make_room(&mut self, on: Processors) {
        self.on = Some(on);
        let awake = self.threads.iter().filter(|known| !known.asleep);
        awake.for_each(|known| send(known.thread, Some(on)));
    }

    fn give_room_back(&mut self, on: Processors) {
        self.on = None;
        self.threads.iter().for_each(|known| send(known.thread, Some(on)));
    }
}

fn send(thread: Pid, on: Option<Processors>) {
    if let Some(Err(errno)) = on.map(|on| on.keep(thread)) {
        log::debug!("thread {thread} stays where it is: {errno}");
    }
}

/// A thread that makes room for others, for as long as it has this.
#[derive(Debug)]
pub struct Bystander {
    thread: Pid,
}

impl Bystander {
    /// Has this thread make room.
    pub fn begin() -> Self {
        let thread = gettid();
        lock(&BYSTANDERS).add(thread);
        Self { thread }
    }

    /// Notes whether this thread is about to sleep for long: it need not make room then.
    pub fn sleeps(&self, asleep: bool) {
        lock(&BYSTANDERS).sleeps(self.thread, asleep);
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // The number may soon be somebody else's.
        lock(&BYSTANDERS).remove(self.thread);
    }
}

/// Has all bystanders run on these processors, of those that the process may use, and those
/// that begin from now on.
pub fn make_room(on: Processors) {
    lock(&BYSTANDERS).make_room(on);
}

/// Has them run on these again, and those that begin from now on wherever they are.
pub fn give_room_back(on: Processors) {
    lock(&BYSTANDERS).give_room_back(on);
}

/// A set of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors(CpuSet);

impl Processors {
    /// Returns those that this process may run on.
    ///
    /// It asks for the first thread, which is kept nowhere by this process: what others
    /// set for all threads, and what becomes of cpusets and processors, is seen there.
    ///
    /// # Errors
    /// As sched_getaffinity(2).
    pub fn allowed() -> nix::Result<Self> {
        sched_getaffinity(getpid()).map(Self)
    }

    /// Returns what a thread is to be kept on that may run on all of these again: all
    /// there are, unless it is only these because somebody asked for that.
    ///
    /// Where a cpuset, or processors that are switched off, leave these, the kernel would
    /// remember them as asked for (`user_cpus_ptr` of kernel/sched/core.c) when there are
    /// more again. To find out, this thread is kept on what it returns.
    ///
    /// # Errors
    /// As sched_setaffinity(2).
    pub fn again(self) -> nix::Result<Self> {
        let (mut all, here) = (self, gettid());
        for number in 0..CpuSet::count() {
            all.0.set(number)?;
        }
        all.keep(here)?;
        if sched_getaffinity(here)? == self.0 {
            return Ok(all);
        }
        self.keep(here)?;
        Ok(self)
    }

    /// Returns how many there are.
    pub fn count(self) -> usize {
        (0..CpuSet::count()).filter(|&number| self.0.is_set(number) == Ok(true)).count()
    }

    /// Returns one of these alone, by its number; `None` if it is not among them.
    pub fn only(self, processor: usize) -> Option<Self> {
        let mut only = CpuSet::new();
        let found = self.0.is_set(processor).unwrap_or(false);
        (found && only.set(processor).is_ok()).then_some(Self(only))
    }

    /// Returns these but for one; `None` if there are no others.
    pub fn without(self, processor: usize) -> Option<Self> {
        let mut others = self;
        let gone = others.0.unset(processor).is_ok();
        (gone && others.count() > 0).then_some(others)
    }

    /// Has a thread of this process run on these; it moves at once if it runs elsewhere.
    ///
    /// # Errors
    /// As sched_setaffinity(2).
    pub fn keep(self, thread: Pid) -> nix::Result<()> {
        sched_setaffinity(thread, &self.0)
    }
}

/// Opens the `/proc` in which threads have the numbers that this process knows them by.
///
/// # Errors
/// `Unsupported` if it is one of another pid namespace; as open(2).
pub fn own_proc() -> io::Result<OwnedFd> {
    let proc = OwnedFd::from(File::open("/proc")?);
    if !shows_this_process(proc.as_fd()) {
        let why = "/proc is of another pid namespace";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(proc)
}

/// What there is to do on this machine.
#[derive(Debug)]
pub struct Load {
    loadavg: File,
    /// How many there were when this was opened.
    processors: usize,
}

impl Load {
    /// Opens what is told of that in a given `/proc`.
    ///
    /// # Errors
    /// As openat(2) and sysconf(3).
    pub fn open(proc: BorrowedFd<'_>) -> nix::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let loadavg = openat(proc, "loadavg", flags, Mode::empty())?.into();
        let processors = sysconf(SysconfVar::_NPROCESSORS_ONLN)?;
        let processors = processors.and_then(|count| count.try_into().ok());
        Ok(Self { loadavg, processors: processors.unwrap_or(usize::MAX) })
    }

    /// Reports whether each processor of the machine has something to do besides this
    /// thread and so many others.
    ///
    /// # Errors
    /// As pread(2).
    pub fn is_full_besides(&self, others: usize) -> io::Result<bool> {
        let mut text = [0; LOAD];
        let length = self.loadavg.read_at(&mut text, 0)?;
        let running = running_in(text.get(..length).unwrap_or_default());
        let running = running.ok_or(io::ErrorKind::InvalidData)?;
        Ok(running > self.processors.saturating_add(others))
    }
}

/// Returns how many threads run or wait for a turn, the 4th field, proc_loadavg(5).
fn running_in(loadavg: &[u8]) -> Option<usize> {
    let field = loadavg.split(|&byte| byte == b' ').nth(3)?;
    let running = field.split(|&byte| byte == b'/').next()?;
    std::str::from_utf8(running).ok()?.parse().ok()
}

/// A thread whose processor is asked for.
#[derive(Debug)]
pub struct Seen {
    stat: File,
}

impl Seen {
    /// Opens what is told of a thread in a given `/proc`.
    ///
    /// # Errors
    /// `ENOENT` if it has ended, or is hidden; as open(2).
    pub fn open(proc: BorrowedFd<'_>, thread: u32) -> nix::Result<Self> {
        // The first part alone leads to the sums of all threads of its process.
        let path = format!("{thread}/task/{thread}/stat");
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        openat(proc, path.as_str(), flags, Mode::empty()).map(|stat| Self { stat: stat.into() })
    }

    /// Returns the number of the processor that it runs on, or ran on last.
    ///
    /// # Errors
    /// `ESRCH` if it has ended.
    pub fn processor(&self) -> io::Result<usize> {
        let mut text = [0; STAT];
        let length = self.stat.read_at(&mut text, 0)?;
        processor_in(text.get(..length).unwrap_or_default())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Returns the processor that `/proc/PID/stat` names.
fn processor_in(stat: &[u8]) -> Option<usize> {
    // The name in brackets may be any bytes, and have brackets too.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let field = stat.get(end..)?.split(|&byte| byte == b' ').skip(1).nth(PROCESSOR)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn a_thread_that_hurries_has_short_slices() {
        let (before, after) = std::thread::spawn(|| {
            let before = scheduling().unwrap();
            hurry();
            (before, scheduling().unwrap())
        })
        .join()
        .unwrap();
        if before.sched_runtime == 0 {
            eprintln!("SKIP: this kernel tells no slice");
            return;
        }
        assert_eq!(after.sched_runtime, SLICE);
        assert_eq!(after.sched_policy, before.sched_policy);
        // Without the privilege it is as nice as it was.
        assert!(after.sched_nice == HURRY || after.sched_nice == before.sched_nice);
    }

    #[test]
    fn the_processor_of_a_thread_is_seen_whatever_its_name_is() {
        let fields = (4..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let stat = format!("1 (a) 7 (b) S {fields}\n");
        assert_eq!(processor_in(stat.as_bytes()), Some(39));
        for text in ["", "1 (a", "1 (a) S", "1 (a) S 2 3"] {
            assert_eq!(processor_in(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_machine_with_more_to_do_than_processors_is_full() {
        assert_eq!(running_in(b"0.20 0.18 0.12 3/80 11206\n"), Some(3));
        for text in ["", "0.20 0.18 0.12", "0.20 0.18 0.12 x/80 1"] {
            assert_eq!(running_in(text.as_bytes()), None, "{text}");
        }
        let mut load = Load::open(own_proc().unwrap().as_fd()).unwrap();
        assert!(!load.is_full_besides(100_000).unwrap());
        load.processors = 0;
        assert!(load.is_full_besides(0).unwrap());
    }

    #[test]
    fn a_thread_is_kept_on_a_processor_and_seen_there() {
        let proc = own_proc().unwrap();
        let allowed = Processors::allowed().unwrap();
        let thread = gettid();
        let seen = Seen::open(proc.as_fd(), thread.as_raw().unsigned_abs()).unwrap();
        for processor in (0..CpuSet::count())
            .filter_map(|number| allowed.only(number).map(|only| (number, only)))
        {
            processor.1.keep(thread).unwrap();
            assert_eq!(seen.processor().unwrap(), processor.0);
        }
        allowed.keep(thread).unwrap();
        assert!(allowed.only(CpuSet::count()).is_none());
        assert!(Seen::open(proc.as_fd(), 1 << 30).is_err());
    }

    #[test]
    fn a_thread_may_run_again_where_it_might_before() {
        let allowed = Processors::allowed().unwrap();
        // Somebody may have asked that this process uses only some, or nobody.
        let again = std::thread::spawn(move || {
            let only = (0..CpuSet::count()).find_map(|number| allowed.only(number)).unwrap();
            only.keep(gettid()).unwrap();
            let again = allowed.again().unwrap();
            let only = only.again().unwrap();
            (again, only, sched_getaffinity(gettid()).unwrap())
        });
        let (again, only, kept) = again.join().unwrap();
        let all = |set: Processors| set.count() == CpuSet::count();
        assert!(all(again) || again == allowed, "{again:?}");
        assert!(all(only) || only.0 == kept, "{only:?}");
        assert_eq!(Processors(kept).count(), 1);
        if allowed.count() < 2 {
            eprintln!("SKIP: one processor");
            return;
        }
        assert!(!all(only), "{only:?}");
    }

    #[test]
    fn who_sleeps_makes_no_room_until_awake() {
        let here = || sched_getaffinity(gettid()).map(Processors).unwrap();
        let allowed = Processors::allowed().unwrap();
        let only = (0..CpuSet::count()).find_map(|number| allowed.only(number)).unwrap();
        std::thread::spawn(move || {
            let (mut bystanders, thread) = (Bystanders::NONE, gettid());
            bystanders.add(thread);
            bystanders.sleeps(thread, true);
            bystanders.make_room(only);
            assert_eq!(here(), allowed);
            bystanders.sleeps(thread, false);
            assert_eq!(here(), only);
            // It stays nowhere, asleep or not.
            bystanders.sleeps(thread, true);
            bystanders.give_room_back(allowed);
            assert_eq!(here(), allowed);
            // What somebody else decides meanwhile stays.
            only.keep(thread).unwrap();
            bystanders.sleeps(thread, false);
            assert_eq!(here(), only);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_that_steps_back_is_idle() {
        let policy = std::thread::spawn(|| {
            step_back().unwrap();
            let (back, disk) = (scheduling().unwrap().sched_policy, disk_priority().unwrap());
            let forward = step_forward(gettid());
            (back, disk, forward.map(|()| scheduling().unwrap().sched_policy))
        });
        let (back, disk, forward) = policy.join().unwrap();
        // What its policy says of disks counts where nothing was set.
        assert_ne!(disk, 0);
        assert_eq!(i32::try_from(back), Ok(libc::SCHED_IDLE));
        // Without the privilege it stays so.
        assert!(
            forward.is_ok_and(|policy| i32::try_from(policy) == Ok(libc::SCHED_OTHER))
                || !geteuid().is_root()
        );
    }

    #[test]
    fn who_steps_forward_goes_no_further_than_the_first() {
        for policy in [libc::SCHED_IDLE, libc::SCHED_BATCH, libc::SCHED_OTHER] {
            assert_eq!(beside(policy), policy);
            assert_eq!(beside(policy | libc::SCHED_RESET_ON_FORK), policy);
        }
        assert_eq!(beside(libc::SCHED_FIFO), libc::SCHED_OTHER);
        let here = std::thread::spawn(|| {
            step_back().unwrap();
            step_forward(gettid()).map(|()| policy_of(gettid()).unwrap())
        });
        let of_first = beside(policy_of(getpid()).unwrap());
        assert!(here.join().unwrap().is_ok_and(|here| here == of_first) || !geteuid().is_root());
    }
}
