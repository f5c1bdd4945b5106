//! Where the measuring is done: a mount namespace, and a disk in it.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::setsid;

use crate::About as _;
use crate::args::Args;

/// Who owns the tree on disk, as user and group.
pub const DISK_ID: u32 = 1000;

/// The disk and what is on it beside the tree.
#[derive(Debug)]
pub struct Place {
    /// The root of the disk, which every user may enter.
    pub disk: PathBuf,
    /// What is mounted; it belongs to the disk id.
    pub source: PathBuf,
    /// An image that is mounted instead.
    pub image: PathBuf,
    /// A copy of idmapfs that every user may run.
    pub program: PathBuf,
    /// A copy of this program that every user may run.
    pub own: PathBuf,
    /// Files of the tree.
    pub files: usize,
}

const NONE: Option<&str> = None;

impl Place {
    /// Enters namespaces and makes the disk in this directory.
    ///
    /// # Errors
    /// Whatever fails of it.
    pub fn new(scratch: &Path, args: &Args) -> io::Result<Self> {
        // Those that the process outside waits for are blocked, here and in servers.
        SigSet::empty().thread_set_mask()?;
        end_with_parent();
        enter()?;
        prefer()?;
        let disk = scratch.join("disk");
        fs::create_dir(&disk)?;
        if args.dir.is_none() {
            // Inodes: the tree and git's objects of it, and those for the memory.
            image(scratch, &disk, args.files * 4 + args.memory + 100_000)?;
        }
        let (source, bin) = (disk.join("src"), disk.join("bin"));
        for dir in [&source, &bin, &disk.join("mnt")] {
            fs::create_dir(dir)?;
        }
        chown(&source, Some(DISK_ID), Some(DISK_ID))?;
        let (program, own) = (bin.join("idmapfs"), bin.join("peers"));
        copy(&args.program, &program).about("idmapfs")?;
        copy(Path::new("/proc/self/exe"), &own)?;
        open_dev_fuse(&disk)?;
        Ok(Self { disk, source, image: PathBuf::new(), program, own, files: args.files })
    }

    /// Makes a directory to mount at.
    ///
    /// # Errors
    /// As mkdir(2), but that it may be there.
    pub fn point(&self, name: &str) -> io::Result<PathBuf> {
        let point = self.disk.join("mnt").join(name);
        fs::create_dir_all(&point)?;
        Ok(point)
    }
}

/// Ends with the process outside, which holds the other end of our input.
fn end_with_parent() {
    thread::spawn(|| {
        let (Ok(_) | Err(_)) = io::stdin().read(&mut [0]);
        std::process::exit(130)
    });
}

/// Has what else the machine does count less: a session has a priority of its
/// own where sched(7) groups processes by sessions.
fn prefer() -> io::Result<()> {
    setsid().about("a session")?;
    // Not there where sessions are no groups.
    let (Ok(()) | Err(_)) = fs::write("/proc/self/autogroup", "-10");
    Ok(())
}

fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).about("a mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).about("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE).about("/proc")?;
    // Where servers make themselves known: these are nobody else's business.
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), NONE).about("/run")
}

/// Makes an ext4 of a file that is gone as soon as it is mounted.
fn image(scratch: &Path, disk: &Path, inodes: usize) -> io::Result<()> {
    let image = scratch.join("image");
    File::create(&image)?.set_len(8 << 30)?;
    let inodes = inodes.to_string();
    let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-N", &inodes];
    run(Command::new("mkfs.ext4").args(options).arg(&image))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk))?;
    fs::remove_file(&image)
}

/// Runs a command that has to succeed.
///
/// # Errors
/// It did not; with the first line that it said.
pub fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().about(&program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{program}: {}", said.lines().next().unwrap_or("failed"))))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to).about(&from.to_string_lossy())?;
    fs::set_permissions(to, Permissions::from_mode(0o755))
}

/// Gives ordinary users /dev/fuse in this namespace, as udev does elsewhere.
fn open_dev_fuse(disk: &Path) -> io::Result<()> {
    let meta = fs::metadata("/dev/fuse").about("/dev/fuse")?;
    if meta.mode() & 0o666 == 0o666 {
        return Ok(());
    }
    let node = disk.join("fuse");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), meta.rdev())?;
    fs::set_permissions(&node, Permissions::from_mode(0o666))?;
    mount(Some(&node), "/dev/fuse", NONE, MsFlags::MS_BIND, NONE).about("/dev/fuse")
}

/// Drops what the kernel knows of names and inodes, here and on every mount.
///
/// # Errors
/// As write(2).
pub fn forget() -> io::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "2").about("drop_caches")
}

/// Drops all that the kernel remembers of the disk.
///
/// # Errors
/// As sync(2) and write(2).
pub fn forget_all() -> io::Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").about("drop_caches")
}
