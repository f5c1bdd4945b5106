//! The mounts that are measured: how each is made, found ready, and ended.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::About as _;
use crate::floor;
use crate::job::{STAY, WORD};
use crate::place::{self, DISK_ID, Place};
use crate::sys::id_map::Line;
use crate::sys::{mount, namespace};

/// As whom the mounts show the owner of the tree.
pub const VIEW_ID: u32 = 101_000;

const MAP: [&str; 2] = ["--map", "1000:101000:1"];
/// How long a server may need to start, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to look at the tree.
#[derive(Debug)]
pub struct Kind {
    /// Its name in tables.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// How it is made.
    pub how: How,
}

/// How a mount is made.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// An image by the kernel.
    Loop,
    /// An image by this program: its arguments for the image and the mount point.
    Image(&'static str, fn(&str, &str) -> Vec<String>),
    /// Not at all.
    Native,
    /// By the kernel alone.
    Kernel,
    /// By our program, with these options.
    Ours(&'static [&'static str]),
    /// By our program, run by the owner of the tree.
    Rootless,
    /// By a server that does the host's calls and nothing else; the last words for it.
    Floor(&'static [&'static str]),
    /// By another program: the source, with its ids shifted by the kernel if it
    /// cannot shift them, and the arguments.
    Peer(&'static str, fn(&Place, &Path) -> Vec<String>),
}

impl Kind {
    /// Reports whether it is promised that nobody else changes the source, so that
    /// nothing of that is seen.
    pub fn is_promised(&self) -> bool {
        matches!(self.how, How::Floor(_))
            || matches!(self.how, How::Ours(options) if options.contains(&"exclusive"))
    }
}

const fn kind(name: &'static str, about: &'static str, how: How) -> Kind {
    Kind { name, about, how }
}

/// Every mount, in the order of the columns.
pub const KINDS: &[Kind] = &[
    kind("native", "no mount: the owner on the disk", How::Native),
    kind("kernel", "the kernel's idmapped mount", How::Kernel),
    kind("ours", "idmapfs as root", How::Ours(&[])),
    kind("plain", "idmapfs --passthrough off", How::Ours(&["--passthrough", "off"])),
    kind(
        "exclusive",
        "idmapfs --cache exclusive --passthrough off",
        How::Ours(&["--cache", "exclusive", "--passthrough", "off"]),
    ),
    kind("rootless", "idmapfs run by an ordinary user", How::Rootless),
    kind(
        "floor",
        "a server that makes the host's calls and nothing else, over a kernel idmapped mount",
        How::Floor(&[floor::PASS]),
    ),
    kind("floor-plain", "the same without passthrough", How::Floor(&[])),
    kind("bindfs", "bindfs --multithreaded --map=", How::Peer("bindfs", bindfs)),
    kind(
        "fuse-overlayfs",
        "fuse-overlayfs -o uidmapping=,gidmapping=, the tree as upper layer",
        How::Peer("fuse-overlayfs", fuse_overlayfs),
    ),
    kind(
        "mergerfs",
        "mergerfs over a kernel idmapped mount, for it shifts no ids",
        How::Peer("mergerfs", mergerfs),
    ),
];

fn bindfs(place: &Place, point: &Path) -> Vec<String> {
    let map = "--map=1000/101000:@1000/@101000".to_owned();
    let [source, point] = [&place.source, point].map(|path| path.display().to_string());
    vec!["-f".into(), "--multithreaded".into(), map, source, point]
}

fn fuse_overlayfs(place: &Place, point: &Path) -> Vec<String> {
    let (disk, source) = (place.disk.display(), place.source.display());
    let ids = "uidmapping=1000:101000:1,gidmapping=1000:101000:1";
    let dirs = format!("lowerdir={disk}/mnt/empty,upperdir={source},workdir={disk}/mnt/work");
    let options = format!("allow_other,{ids},{dirs}");
    vec!["-f".into(), "-o".into(), options, point.display().to_string()]
}

fn mergerfs(place: &Place, point: &Path) -> Vec<String> {
    let branch = place.disk.join("mnt/branch").display().to_string();
    let options = "allow_other,use_ino".to_owned();
    vec!["-f".into(), "-o".into(), options, branch, point.display().to_string()]
}

/// A mount that answers; it ends when this is dropped.
#[derive(Debug)]
pub struct Live {
    /// The tree as it is seen there.
    pub root: PathBuf,
    /// As which user and group it is used.
    pub id: u32,
    /// The process whose namespaces it is seen in.
    pub inside: Option<i32>,
    /// How long it took from the start to the first answer.
    pub started: Duration,
    points: Vec<PathBuf>,
    server: Option<Child>,
}

impl Live {
    /// Makes a mount and waits for its first answer.
    ///
    /// # Errors
    /// It cannot be made, with the first line of what its program said.
    pub fn start(kind: &Kind, place: &Place) -> io::Result<Self> {
        let mut live = Self {
            root: place.source.clone(),
            id: DISK_ID,
            inside: None,
            started: Duration::ZERO,
            points: Vec::new(),
            server: None,
        };
        let point = place.point(kind.name)?;
        let log = place.disk.join("mnt").join(format!("{}.log", kind.name));
        let command = match kind.how {
            How::Native => return Ok(live),
            How::Rootless => return live.rootless(place, &log),
            How::Ours(options) => {
                let mut command = Command::new(&place.program);
                command.arg("-f").args(MAP).args(options).arg(&place.source).arg(&point);
                Some(command)
            }
            How::Peer(program, arguments) => {
                live.prepare(place, kind.name)?;
                let mut command = Command::new(program);
                command.args(arguments(place, &point));
                Some(command)
            }
            How::Floor(words) => {
                let source = live.below(place, &format!("{}-source", kind.name))?;
                let mut command = Command::new(&place.own);
                command.arg(floor::WORD).arg(source).arg(&point).args(words);
                Some(command)
            }
            How::Image(program, arguments) => {
                let ours = Path::new("idmapfs") == Path::new(program);
                let program = if ours { place.program.as_path() } else { Path::new(program) };
                let [image, at] = [&place.image, &point].map(|path| path.display().to_string());
                let mut command = Command::new(program);
                command.args(arguments(&image, &at));
                Some(command)
            }
            How::Kernel | How::Loop => None,
        };
        live.root.clone_from(&point);
        let of_image = !place.image.as_os_str().is_empty();
        live.id = if of_image { 0 } else { VIEW_ID };
        live.points.push(point.clone());
        let start = Instant::now();
        match command {
            Some(mut command) => {
                live.server = Some(spawn(&mut command, &log)?);
                live.wait(start, &log, of_image)?;
            }
            None if of_image => {
                by_loop(&place.image, &point)?;
            }
            None => kernel(&place.source, &point)?,
        }
        live.started = start.elapsed();
        Ok(live)
    }

    /// Makes what a peer needs beside its own mount.
    fn prepare(&mut self, place: &Place, name: &str) -> io::Result<()> {
        if name == "mergerfs" {
            self.below(place, "branch")?;
        }
        for dir in ["empty", "work"] {
            place.point(dir)?;
        }
        Ok(())
    }

    /// Has the kernel do what some do not: shift the ids of the tree, or read the image.
    fn below(&mut self, place: &Place, name: &str) -> io::Result<PathBuf> {
        let point = place.point(name)?;
        if place.image.as_os_str().is_empty() {
            kernel(&place.source, &point)?;
        } else {
            by_loop(&place.image, &point)?;
        }
        self.points.push(point.clone());
        Ok(point)
    }

    /// Waits until the server shows the tree, with the right owner where that is known.
    fn wait(&mut self, start: Instant, log: &Path, any_owner: bool) -> io::Result<()> {
        let tree = self.root.join("tree");
        loop {
            if fs::symlink_metadata(&tree).is_ok_and(|meta| any_owner || meta.uid() == self.id) {
                return Ok(());
            }
            let ended = self.server.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || start.elapsed() > PATIENCE {
                return Err(io::Error::other(first_line(log)));
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Starts the program as the owner of the tree, over the tree itself, and
    /// this one in there, which says that it has seen it and stays.
    fn rootless(mut self, place: &Place, log: &Path) -> io::Result<Self> {
        let mut command = Command::new(&place.program);
        command.arg("run").args(MAP).arg(&place.source).arg("--").arg(&place.own);
        command.args([WORD, STAY]).arg(self.root.join("tree"));
        command.uid(DISK_ID).gid(DISK_ID).current_dir("/").stdout(Stdio::piped());
        let start = Instant::now();
        let mut server = command.stdin(Stdio::null()).stderr(File::create(log)?).spawn()?;
        let output = server.stdout.take();
        self.server = Some(server);
        let mut line = String::new();
        output.map(|output| BufReader::new(output).read_line(&mut line)).transpose()?;
        self.started = start.elapsed();
        let inside = line.trim().parse();
        self.inside = Some(inside.map_err(|_| io::Error::other(first_line(log)))?);
        self.id = VIEW_ID;
        Ok(self)
    }

    /// Returns the memory of the server in bytes, if it has one.
    pub fn memory(&self) -> Option<u64> {
        let first = self.server.as_ref()?.id().to_string();
        let program = fs::read_link(format!("/proc/{first}/exe")).ok()?;
        let mut todo = vec![first];
        let mut all: Option<u64> = None;
        while let Some(process) = todo.pop() {
            // Who serves may be a child of who was started; commands are others' programs.
            if fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe == program) {
                let own = resident(&process)?;
                all = Some(all.unwrap_or_default().saturating_add(own));
            }
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            todo.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
        }
        all
    }
}

/// How much of a process is in memory, in bytes.
fn resident(process: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

impl Drop for Live {
    fn drop(&mut self) {
        // One that is busy goes with its last user; the namespace is ours alone.
        for point in self.points.iter().rev() {
            let (Ok(()) | Err(_)) = umount2(point, MntFlags::MNT_DETACH);
        }
        let Some(server) = &mut self.server else { return };
        if self.inside.is_some()
            && let Ok(pid) = i32::try_from(server.id())
        {
            let (Ok(()) | Err(_)) = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE && matches!(server.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(1));
        }
        let (Ok(()) | Err(_)) = server.kill();
        let (Ok(_) | Err(_)) = server.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> io::Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log = File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.current_dir("/").spawn().about(&program)
}

fn first_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("no answer, and nothing said").to_owned()
}

/// Mounts an image by the kernel.
fn by_loop(image: &Path, point: &Path) -> io::Result<()> {
    place::run(Command::new("mount").args(["-o", "loop,ro"]).arg(image).arg(point))
}

/// Mounts a directory with its ids shifted by the kernel.
fn kernel(source: &Path, point: &Path) -> io::Result<()> {
    let line = Line { inside: DISK_ID, outside: VIEW_ID, count: 1 };
    let namespace = namespace::make(&[line], &[line]).about("a user namespace")?;
    let tree = mount::clone_mount(AT_FDCWD, source).about("open_tree")?;
    mount::idmap(tree.as_fd(), namespace.as_fd()).about("mount_setattr")?;
    mount::attach(tree.as_fd(), point).about("move_mount")
}
