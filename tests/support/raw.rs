//! System calls that no safe wrapper offers; the tests' only unsafe code.
#![allow(unsafe_code, reason = "system calls that nix does not wrap")]

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::sys::signal::Signal;

pub use page::Page;

mod page;

/// The result of a system call: its value, or the error number.
pub type Sys<T = i64> = Result<T, i32>;

fn c(path: impl AsRef<OsStr>) -> CString {
    CString::new(path.as_ref().as_bytes()).expect("no NUL in a test's path")
}

fn check(ret: impl Into<i64>) -> Sys {
    let ret = ret.into();
    if ret < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(ret) }
}

fn owned(ret: impl Into<i64>) -> Sys<OwnedFd> {
    let fd = RawFd::try_from(check(ret)?).expect("a descriptor is an int");
    // SAFETY: the kernel just returned this descriptor and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// open(2), with every flag passed as it is.
pub fn open(path: &Path, flags: i32, mode: u32) -> Sys<OwnedFd> {
    let path = c(path);
    // SAFETY: `path` is a valid C string for the length of the call.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// Has each read (`FAN_ACCESS_PERM`) or open of a file wait for [`answer_next`]: fanotify(7).
pub fn hold(path: &Path, mask: u64) -> Sys<OwnedFd> {
    let (path, flags) = (c(path), libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC);
    // SAFETY: the call takes numbers only.
    let group = owned(unsafe { libc::fanotify_init(flags, 0) })?;
    let (fd, add) = (group.as_raw_fd(), libc::FAN_MARK_ADD);
    let cwd = libc::AT_FDCWD;
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe { libc::fanotify_mark(fd, add, mask, cwd, path.as_ptr()) })?;
    Ok(group)
}

/// Waits for one of these; lets it go on unless `allows` refuses it to that process.
pub fn answer_next(group: BorrowedFd<'_>, allows: impl FnOnce(i32) -> bool) -> Sys {
    let mut event = [0_u8; size_of::<libc::fanotify_event_metadata>()];
    nix::unistd::read(group, &mut event).map_err(|e| e as i32)?;
    let number = |at: usize| i32::from_ne_bytes(event[at..at + 4].try_into().expect("four"));
    let (fd, pid) = (owned(number(16))?, number(20));
    let answer = if allows(pid) { libc::FAN_ALLOW } else { libc::FAN_DENY };
    let answer = [fd.as_raw_fd().to_ne_bytes(), answer.to_ne_bytes()].concat();
    nix::unistd::write(group, &answer).map(|_| 0).map_err(|e| e as i32)
}

/// A detached copy of the mount at `path`: open_tree(OPEN_TREE_CLONE).
pub fn open_tree(path: &Path, recursive: bool) -> Sys<OwnedFd> {
    let path = c(path);
    let at_recursive = 0x8000;
    let flags = 1 | libc::O_CLOEXEC | if recursive { at_recursive } else { 0 };
    // SAFETY: `path` is a valid C string for the length of the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Gives a detached mount the id map of a user namespace, and flags.
pub fn mount_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, flags: u64) -> Sys {
    let userns_fd = u64::try_from(userns.as_raw_fd()).expect("a descriptor is not negative");
    let mount_attr_idmap = 0x0010_0000;
    let attr =
        MountAttr { attr_set: mount_attr_idmap | flags, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: `attr` is a mount_attr of the size given; the empty path is a C string.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
}

/// Attaches a detached mount at `target`.
pub fn move_mount(mount: BorrowedFd<'_>, target: &Path) -> Sys {
    let target = c(target);
    let from_empty_path = 4;
    // SAFETY: both paths are valid C strings for the length of the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            from_empty_path,
        )
    })
}

/// Starts a command in a user namespace of its own, without any id map.
pub fn spawn_in_user_namespace(command: &mut Command) -> io::Result<Child> {
    first(command, || Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?)).spawn()
}

/// Makes a command die with the thread that starts it.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    first(command, || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?))
}

/// Has a thread run as most do, whatever policy it has taken; it may have ended.
pub fn step_forward(thread: i32) {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: what is pointed to outlives the call.
    let _gone = unsafe { libc::sched_setscheduler(thread, libc::SCHED_OTHER, &raw const none) };
}

/// Has a command ignore a signal, or not, whatever this process does.
pub fn ignoring(command: &mut Command, signal: Signal, ignored: bool) -> &mut Command {
    use nix::sys::signal::{SigHandler, signal as set};
    let handler = if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: no handler is installed.
    first(command, move || Ok(unsafe { set(signal, handler) }.map(drop)?))
}

/// Has a command do something before it starts: system calls alone.
pub fn first(
    command: &mut Command,
    calls: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> &mut Command {
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(calls) }
}

/// Makes a command run with these ids, groups and (for root) no others.
pub fn run_as<'a>(command: &'a mut Command, uid: u32, gid: u32, groups: &[u32]) -> &'a mut Command {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let groups: Vec<Gid> = groups.iter().map(|&g| Gid::from_raw(g)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    first(command, move || {
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        Ok(())
    })
}

/// Forks a child that runs `body` and ends; returns its process id.
///
/// The child keeps the mount namespace of the calling thread. It may allocate,
/// but neither print nor call `exit`: another thread may have held those locks.
pub fn fork(body: impl FnOnce()) -> Sys<nix::unistd::Pid> {
    fork_and_try(|| {
        body();
        Ok(())
    })
}

/// Forks a child as [`fork`], which ends with the error number of `body`.
pub fn fork_and_try<T>(body: impl FnOnce() -> Sys<T>) -> Sys<nix::unistd::Pid> {
    // SAFETY: the child takes no lock that another thread could hold, see above.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Parent { child }) => Ok(child),
        Ok(nix::unistd::ForkResult::Child) => {
            let code = body().err().unwrap_or(0);
            // SAFETY: ends the process at once, with no destructors of the parent's.
            unsafe { libc::_exit(code) }
        }
        Err(errno) => Err(errno as i32),
    }
}

/// Closes every descriptor of this process but those below `from`.
pub fn close_from(from: u32) -> Sys {
    // SAFETY: the caller is a child that uses none of them.
    check(unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, 0) })
}

/// Puts a copy of `fd` at the number `at` and returns it.
pub fn dup_at(fd: BorrowedFd<'_>, at: RawFd) -> Sys<OwnedFd> {
    // SAFETY: the caller is a child that uses nothing at `at`.
    owned(unsafe { libc::dup2(fd.as_raw_fd(), at) })
}

/// Makes all permitted capabilities of this thread effective, or drops all.
pub fn set_capabilities(all: bool) -> Sys {
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    if all {
        // SAFETY: version 3 writes two sets of three 32-bit words.
        check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
        data[0] = data[1];
        data[3] = data[4];
    }
    // SAFETY: version 3 reads two sets of three 32-bit words.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })
}

/// faccessat2(2) from the current directory.
pub fn access(path: &Path, mode: i32, flags: i32) -> Sys {
    let path = c(path);
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe {
        libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), mode, flags)
    })
}

/// statx(2) of a name, the last symbolic link not followed, or of a descriptor.
pub fn statx(at: Result<&Path, BorrowedFd<'_>>) -> Sys<libc::statx> {
    let (fd, path, flags) = match at {
        Ok(path) => (libc::AT_FDCWD, c(path), libc::AT_SYMLINK_NOFOLLOW),
        Err(fd) => (fd.as_raw_fd(), CString::default(), libc::AT_EMPTY_PATH),
    };
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    let mut buf = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is a C string and `buf` is one statx structure.
    check(unsafe { libc::statx(fd, path.as_ptr(), flags, mask, buf.as_mut_ptr()) })?;
    // SAFETY: the structure is plain integers and was zeroed.
    Ok(unsafe { buf.assume_init() })
}

/// lsetxattr(2), the name and the value as raw bytes.
pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> Sys {
    let (path, name) = (c(path), c(name));
    // SAFETY: two C strings and a slice with its length.
    check(unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    })
}

/// lremovexattr(2).
pub fn remove_xattr(path: &Path, name: &str) -> Sys {
    let (path, name) = (c(path), c(name));
    // SAFETY: two C strings, valid for the length of the call.
    check(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

/// lgetxattr(2), with a buffer that holds any value.
pub fn get_xattr(path: &Path, name: &CStr) -> Sys<Vec<u8>> {
    let path = c(path);
    let mut buf = vec![0_u8; 65536];
    // SAFETY: two C strings and a buffer with its length.
    let n = check(unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) as i64
    })?;
    buf.truncate(usize::try_from(n).unwrap_or(0));
    Ok(buf)
}

/// llistxattr(2), the names sorted.
pub fn list_xattr(path: &Path) -> Sys<Vec<CString>> {
    let path = c(path);
    let mut buf = vec![0_u8; 65536];
    // SAFETY: a C string and a buffer with its length.
    let n = check(unsafe {
        libc::llistxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) as i64
    })?;
    buf.truncate(usize::try_from(n).unwrap_or(0));
    let mut names: Vec<CString> = buf
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| CString::new(name).expect("split at NUL"))
        .collect();
    names.sort();
    Ok(names)
}

/// chown(2) or lchown(2) with the raw numbers.
pub fn chown(path: &Path, uid: u32, gid: u32, follow: bool) -> Sys {
    let path = c(path);
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe { libc::fchownat(libc::AT_FDCWD, path.as_ptr(), uid, gid, flags) })
}

/// fchown(2) with the raw numbers.
pub fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) })
}

/// chmod(2).
pub fn chmod(path: &Path, mode: u32) -> Sys {
    let path = c(path);
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe { libc::chmod(path.as_ptr(), mode) })
}

/// mknod(2).
pub fn mknod(path: &Path, mode: u32, rdev: u64) -> Sys {
    let path = c(path);
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe { libc::mknod(path.as_ptr(), mode, rdev) })
}

/// mkdir(2).
pub fn mkdir(path: &Path, mode: u32) -> Sys {
    let path = c(path);
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe { libc::mkdir(path.as_ptr(), mode) })
}

/// renameat2(2), both names from the current directory.
pub fn rename(from: &Path, to: &Path, flags: u32) -> Sys {
    let (from, to) = (c(from), c(to));
    // SAFETY: two C strings, valid for the length of the call.
    check(unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
    })
}

/// utimensat(2) with the raw structures.
pub fn utimens(path: &Path, times: [(i64, i64); 2], follow: bool) -> Sys {
    let path = c(path);
    let times = times.map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: a C string and two timespec structures.
    check(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags) })
}

/// truncate(2).
pub fn truncate(path: &Path, len: i64) -> Sys {
    let path = c(path);
    // SAFETY: `path` is a valid C string for the length of the call.
    check(unsafe { libc::truncate(path.as_ptr(), len) })
}

/// ftruncate(2).
pub fn ftruncate(fd: BorrowedFd<'_>, len: i64) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) })
}

/// fallocate(2).
pub fn fallocate(fd: BorrowedFd<'_>, mode: i32, off: i64, len: i64) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, off, len) })
}

/// lseek(2).
pub fn lseek(fd: BorrowedFd<'_>, off: i64, whence: i32) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::lseek(fd.as_raw_fd(), off, whence) })
}

/// pwritev2(2) of one part: at an offset, with flags of this call alone (`RWF_APPEND`).
pub fn write_so(fd: BorrowedFd<'_>, data: &[u8], off: i64, flags: i32) -> Sys {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: `part` describes `data`, which the call only reads.
    let n = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, off, flags) };
    check(n as i64)
}

/// copy_file_range(2) between two descriptors at their positions.
pub fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Sys {
    let none = std::ptr::null_mut();
    // SAFETY: null offsets mean the descriptors' own positions.
    let n = unsafe { libc::copy_file_range(from.as_raw_fd(), none, to.as_raw_fd(), none, len, 0) };
    check(n as i64)
}

/// fcntl(2) with a lock; returns what the kernel put into the structure.
pub fn lock(fd: BorrowedFd<'_>, command: i32, kind: i32, start: i64, len: i64) -> Sys<libc::flock> {
    let mut lock = libc::flock {
        l_type: i16::try_from(kind).expect("a lock type is small"),
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: every command of this group takes one flock structure.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) })?;
    Ok(lock)
}

/// flock(2).
pub fn flock(fd: BorrowedFd<'_>, operation: i32) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::flock(fd.as_raw_fd(), operation) })
}

/// fcntl(2) F_SETLEASE.
pub fn set_lease(fd: BorrowedFd<'_>, kind: i32) -> Sys {
    // SAFETY: the command takes a number.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) })
}

/// FICLONE: `to` is to share the data of `from`.
pub fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Sys {
    // SAFETY: the request takes a descriptor.
    check(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) })
}

/// A descriptor of inotify(7) that tells of names that come, go and move in a
/// directory.
pub fn watch(dir: &Path) -> Sys<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) })?;
    let (dir, events) = (c(dir), libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVE);
    // SAFETY: `dir` is a valid C string for the length of the call.
    check(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), dir.as_ptr(), events) })?;
    Ok(fd)
}

/// FS_IOC_GETFLAGS, the flags that chattr(1) shows.
pub fn get_flags(fd: BorrowedFd<'_>) -> Sys<u32> {
    let mut flags = 0_u64;
    let (number, pointer) = (0x8008_6601, &raw mut flags);
    // SAFETY: the ioctl writes an int into eight bytes of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, pointer) })?;
    Ok((flags & 0xffff_ffff) as u32)
}

/// FS_IOC_SETFLAGS.
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Sys {
    let flags = u64::from(flags);
    let (number, pointer) = (0x4008_6602, &raw const flags);
    // SAFETY: the ioctl reads an int from eight bytes of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, pointer) })
}

/// FS_IOC_FSGETXATTR: the flags and the project id.
pub fn get_fsxattr(fd: BorrowedFd<'_>) -> Sys<(u32, u32)> {
    let mut fsx = [0_u32; 7];
    let (number, pointer) = (0x801c_581f, fsx.as_mut_ptr());
    // SAFETY: struct fsxattr is 28 bytes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, pointer) })?;
    Ok((fsx[0], fsx[3]))
}

/// umask(2) of this process; returns the old one.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: cannot fail and takes no pointer.
    unsafe { libc::umask(mask) }
}

/// link(2), the symbolic link itself.
pub fn link(from: &Path, to: &Path) -> Sys {
    let (from, to) = (c(from), c(to));
    // SAFETY: two C strings, valid for the length of the call.
    check(unsafe { libc::link(from.as_ptr(), to.as_ptr()) })
}

/// symlink(2).
pub fn symlink(target: &Path, path: &Path) -> Sys {
    let (target, path) = (c(target), c(path));
    // SAFETY: two C strings, valid for the length of the call.
    check(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) })
}

/// fchmod(2).
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> Sys {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })
}

/// Whether a descriptor becomes readable (or its peer goes) within a time.
pub fn readable(fd: BorrowedFd<'_>, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd structure, and the count says one.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) > 0 }
}

/// A directory stream of the C library, with positions.
#[derive(Debug)]
pub struct Directory(std::ptr::NonNull<libc::DIR>);

impl Directory {
    /// opendir(3).
    pub fn open(path: &Path) -> Sys<Self> {
        let path = c(path);
        // SAFETY: `path` is a valid C string for the length of the call.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        std::ptr::NonNull::new(stream)
            .map(Self)
            .ok_or_else(|| io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// readdir(3): the next name, `None` at the end.
    pub fn next(&self) -> Option<String> {
        // SAFETY: the stream is open, and used by one thread alone.
        let entry = unsafe { libc::readdir(self.0.as_ptr()) };
        let entry = std::ptr::NonNull::new(entry)?;
        // SAFETY: an entry is valid until the next call, its name ends with NUL.
        let name = unsafe { CStr::from_ptr((*entry.as_ptr()).d_name.as_ptr()) };
        Some(name.to_string_lossy().into_owned())
    }

    /// telldir(3).
    pub fn tell(&self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0.as_ptr()) }
    }

    /// seekdir(3).
    pub fn seek(&self, position: i64) {
        // SAFETY: the stream is open; a position is any number.
        unsafe { libc::seekdir(self.0.as_ptr(), position) }
    }

    /// rewinddir(3).
    pub fn rewind(&self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0.as_ptr()) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: the stream is open and not used again.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

/// name_to_handle_at(2): the type and the bytes of a file's handle.
pub fn handle(path: &Path) -> Sys<(i32, Vec<u8>)> {
    let mut buffer = Handle { size: 128, kind: 0, bytes: [0; 128] };
    let mut mount = 0;
    let (path, flags) = (c(path), 0);
    let pointer = (&raw mut buffer).cast::<libc::c_void>();
    // SAFETY: the path is NUL-terminated, the buffer as long as it says, both live.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            pointer,
            &raw mut mount,
            flags,
        )
    };
    check(ret)?;
    Ok((buffer.kind, buffer.bytes[..buffer.size as usize].to_vec()))
}

/// open_by_handle_at(2), for reading.
pub fn open_handle(mount: &OwnedFd, (kind, bytes): &(i32, Vec<u8>)) -> Sys<OwnedFd> {
    let mut buffer = Handle { size: bytes.len() as u32, kind: *kind, bytes: [0; 128] };
    buffer.bytes[..bytes.len()].copy_from_slice(bytes);
    let pointer = (&raw mut buffer).cast::<libc::c_void>();
    // SAFETY: the buffer is as long as it says, and lives.
    owned(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), pointer, libc::O_RDONLY)
    })
}

/// struct file_handle of fcntl.h, with room for the longest.
#[repr(C)]
struct Handle {
    size: u32,
    kind: i32,
    bytes: [u8; 128],
}
