//! What is compared after an operation, and the differences that are known.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::exec::{describe, digest, hex};
use super::known::{self, BTIME, CAPABILITY, Known, LATE_CTIME, OWN_TIMES, TAKEN};
use super::ops::{Op, Outcome};
use super::world::Side;
use crate::support::raw;

/// Times before this were set by an operation: compared as they are.
const NOW: i64 = 1_600_000_000;

/// `STATX_ATTR_IMMUTABLE` and `STATX_ATTR_APPEND`.
const LOCKED: u64 = 0x30;

/// These and `STATX_ATTR_NODUMP`.
const FLAGS: u64 = LOCKED | 0x40;

/// A path on one side, as its disk holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OnDisk {
    stat: libc::statx,
    shown: String,
}

fn on_disk(side: &Side, path: &str) -> Result<OnDisk, i32> {
    let path = join(&side.disk, path);
    let stat = raw::statx(Ok(&path))?;
    let mut shown = describe(&stat);
    if stat.stx_attributes & FLAGS != 0 {
        shown += &format!(" flags {:x}", stat.stx_attributes & FLAGS);
    }
    for name in raw::list_xattr(&path)? {
        let value = raw::get_xattr(&path, &name).map_or_else(|e| format!("errno {e}"), |v| hex(&v));
        shown += &format!(" {}={value}", name.to_string_lossy());
    }
    if u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFLNK {
        shown += &format!(" -> {:?}", fs::read_link(&path));
    }
    Ok(OnDisk { stat, shown })
}

fn join(root: &Path, path: &str) -> std::path::PathBuf {
    if path == "." { root.to_owned() } else { root.join(path) }
}

fn is_regular(stat: &libc::statx) -> bool {
    u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFREG
}

type Time = (i64, u32);

fn times(stat: &libc::statx) -> [Time; 3] {
    [stat.stx_atime, stat.stx_mtime, stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec))
}

/// A file before an operation.
#[derive(Debug, Clone, Copy)]
struct Moment {
    number: u64,
    times: [Time; 3],
    capability: bool,
    locked: bool,
}

/// The paths that an operation may touch, before it is done.
#[derive(Debug)]
pub struct Before(Vec<(String, [Option<Moment>; 2])>);

impl Before {
    /// Whether any of them is immutable or append-only.
    fn locked(&self) -> bool {
        self.0.iter().flat_map(|(_, old)| old).flatten().any(|moment| moment.locked)
    }
}

/// Every path that an operation can change: those it names, what they lead to,
/// and their parents.
fn touched(side: &Side, op: &Op, opened: &[String]) -> Vec<String> {
    let mut paths: Vec<String> = op.paths().into_iter().map(str::to_owned).collect();
    let root = fs::canonicalize(&side.disk).expect("the root of a side");
    let target = |path: &String| {
        let real = fs::canonicalize(join(&side.disk, path)).ok()?;
        Some(real.strip_prefix(&root).ok()?.to_str()?.to_owned()).filter(|path| !path.is_empty())
    };
    paths.extend(paths.iter().filter_map(target).collect::<Vec<_>>());
    paths.extend(opened.iter().cloned());
    let parents: Vec<String> = paths
        .iter()
        .map(|path| path.rsplit_once('/').map_or(".", |(parent, _)| parent).to_owned())
        .collect();
    paths.extend(parents);
    paths.sort();
    paths.dedup();
    paths
}

/// Looks at what an operation may touch, before it; `opened` are the paths of
/// the slots it uses.
pub fn before(sides: &[Side; 2], op: &Op, opened: &[String]) -> Before {
    let see = |side: &Side, path: &str| {
        on_disk(side, path).ok().map(|file| Moment {
            number: file.stat.stx_ino,
            times: times(&file.stat),
            capability: file.shown.contains(CAPABILITY),
            locked: file.stat.stx_attributes & LOCKED != 0,
        })
    };
    let both = |path: String| {
        let seen = [see(&sides[0], &path), see(&sides[1], &path)];
        (path, seen)
    };
    Before(touched(&sides[0], op, opened).into_iter().map(both).collect())
}

/// Looks again afterwards; returns the differences between the sides.
pub fn after(
    sides: &[Side; 2],
    op: &Op,
    outcomes: &[Outcome; 2],
    before: &Before,
    fine_times: bool,
    seen: &mut BTreeMap<Known, u64>,
) -> Vec<String> {
    let errors = outcomes.each_ref().map(|outcome| outcome.errno);
    let mut differences = Vec::new();
    for (path, old) in &before.0 {
        let mut lines = [0, 1].map(|n| look(&sides[n], path, old[n], fine_times));
        normalise(&mut lines, seen);
        if lines[0] == lines[1] {
            continue;
        }
        let capability = old.iter().all(|old| old.is_some_and(|old| old.capability));
        if let Some(known) = known::of_lines(op, errors, capability, &lines) {
            *seen.entry(known).or_default() += 1;
            known::settle(known, &join(&sides[0].disk, path), &join(&sides[1].disk, path));
        } else {
            differences.push(format!("{path}:\n    {}\n    {}", lines[0], lines[1]));
        }
    }
    differences
}

/// One path on one side: on disk, in the view, and which times moved.
fn look(side: &Side, path: &str, old: Option<Moment>, fine_times: bool) -> String {
    let disk = match on_disk(side, path) {
        Ok(disk) => disk,
        Err(errno) => return format!("disk errno {errno}; view {}", view(side, path, None)),
    };
    let mut line = format!("disk {}; view {};", disk.shown, view(side, path, Some(&disk.stat)));
    let new = times(&disk.stat);
    // Another file under the name has other times for no reason of ours.
    let old = old.filter(|old| fine_times && old.number == disk.stat.stx_ino);
    for (n, name) in ["atime", "mtime", "ctime"].into_iter().enumerate() {
        let shown = match new[n] {
            (sec, nsec) if sec < NOW => format!(" {name} {sec}.{nsec:09}"),
            now if old.is_some_and(|old| old.times[n] != now) => match name {
                "ctime" if side.caches_writes && is_regular(&disk.stat) => LATE_CTIME.into(),
                _ => format!(" {name} moved"),
            },
            _ => continue,
        };
        line += &shown;
    }
    line
}

/// What the test's own root sees through the mount, and whether it is true.
fn view(side: &Side, path: &str, disk: Option<&libc::statx>) -> String {
    let stat = match raw::statx(Ok(&join(&side.view, path))) {
        Ok(stat) => stat,
        Err(errno) => return format!("errno {errno}"),
    };
    let mut shown = describe(&stat);
    if stat.stx_mask & libc::STATX_BTIME != 0 {
        shown += BTIME;
    }
    let Some(disk) = disk else { return shown };
    if path != "." && stat.stx_ino != disk.stx_ino && stat.stx_ino >> 62 == 0b11 {
        shown += TAKEN;
    } else if path != "." && stat.stx_ino != disk.stx_ino {
        shown += &format!(" number {} for {}", stat.stx_ino, disk.stx_ino);
    }
    if times(&stat) != times(disk) && side.caches_writes && is_regular(disk) {
        shown += OWN_TIMES;
    } else if times(&stat) != times(disk) {
        shown += &format!(" times {:?} for {:?}", times(&stat), times(disk));
    }
    shown
}

fn normalise(lines: &mut [String; 2], seen: &mut BTreeMap<Known, u64>) {
    if lines[0].contains(BTIME) && !lines[1].contains(BTIME) {
        *seen.entry(Known::BirthTime).or_default() += 1;
        lines[0] = lines[0].replace(BTIME, "");
    }
    if lines[1].contains(TAKEN) && !lines[0].contains(TAKEN) {
        *seen.entry(Known::NumberTaken).or_default() += 1;
        lines[1] = lines[1].replace(TAKEN, "");
    }
    if lines[1].contains(OWN_TIMES) {
        *seen.entry(Known::TimesOfTheClient).or_default() += 1;
        lines[1] = lines[1].replace(OWN_TIMES, "");
    }
    if lines[1].contains(LATE_CTIME) {
        let moved = " ctime moved";
        let [kernel, ours] = lines;
        *ours = ours.replace(LATE_CTIME, if kernel.contains(moved) { moved } else { "" });
        *seen.entry(Known::TimesOfTheClient).or_default() += u64::from(!kernel.contains(moved));
    }
    // Over what is unmapped not even root has capabilities.
    let special = ["disk mode 01", "disk mode 14"].iter().any(|kind| lines[0].starts_with(kind));
    let disk = |line: &str| line.split("; view").next().map(str::to_owned);
    if special && lines[1].contains("; view errno 13") && disk(&lines[0]) == disk(&lines[1]) {
        *seen.entry(Known::SpecialNotShown).or_default() += 1;
        lines[0] = lines[1].clone();
    }
}

/// Compares the outcomes; a known difference is counted and counts as equal.
///
/// The first outcome is the kernel's, the second ours.
pub fn outcomes(
    op: &Op,
    [kernel, ours]: &[Outcome; 2],
    before: &Before,
    seen: &mut BTreeMap<Known, u64>,
) -> Option<String> {
    if kernel == ours {
        return None;
    }
    match known::of_outcomes(op, kernel, ours, before.locked()) {
        Some(known) => {
            *seen.entry(known).or_default() += 1;
            None
        }
        None => Some(format!("outcome:\n    {}\n    {}", show(kernel), show(ours))),
    }
}

/// An outcome in a line.
pub fn show(outcome: &Outcome) -> String {
    format!("{} {} {}", error(outcome.errno), outcome.value, outcome.after)
}

/// An error number by name.
pub fn error(errno: i32) -> String {
    match errno {
        0 => "ok".to_owned(),
        errno => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    }
}

/// Every path of a side, directories and others, sorted.
pub fn walk(side: &Side) -> (Vec<String>, Vec<String>) {
    let (mut dirs, mut files) = (vec![".".to_owned()], Vec::new());
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(join(&side.disk, &dir)).expect("a directory on disk") {
            let entry = entry.expect("an entry on disk");
            let name = String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned();
            let path = if dir == "." { name } else { format!("{dir}/{name}") };
            let is_dir = entry.file_type().expect("a type").is_dir();
            if is_dir { dirs.push(path) } else { files.push(path) }
        }
    }
    dirs.sort();
    files.sort();
    (dirs, files)
}

/// Compares the whole of both trees, contents too.
pub fn trees(sides: &[Side; 2], seen: &mut BTreeMap<Known, u64>) -> Vec<String> {
    let [one, two] = [walk(&sides[0]), walk(&sides[1])];
    if one != two {
        return vec![format!("the trees differ: {one:?}\n{two:?}")];
    }
    let mut differences = Vec::new();
    for path in one.0.iter().chain(&one.1) {
        let mut lines = [0, 1].map(|n| {
            let side = &sides[n];
            let disk = join(&side.disk, path);
            let regular = fs::symlink_metadata(&disk).is_ok_and(|meta| meta.is_file());
            let contents = regular.then(|| digest(&fs::read(&disk).expect("a file on disk")));
            let seen = regular.then(|| match fs::read(join(&side.view, path)) {
                Ok(bytes) => digest(&bytes),
                Err(error) => format!("errno {:?}", error.raw_os_error()),
            });
            format!("{} {contents:?} in view {seen:?}", look(side, path, None, false))
        });
        normalise(&mut lines, seen);
        if lines[0] != lines[1] {
            differences.push(format!("{path}:\n    {}\n    {}", lines[0], lines[1]));
        }
    }
    differences
}
