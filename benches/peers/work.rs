//! The works, in the order they are done and shown, with the goal of each.

use std::io;

use crate::child::{Job, Sample};
use crate::{data, files, images};

/// What is done, and how it is measured.
#[derive(Debug)]
pub struct Work {
    /// Its name on the command line.
    pub name: &'static str,
    /// What comes of it.
    pub rows: &'static [Row],
    /// How.
    pub how: How,
}

/// How a work is measured.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// A child does it as the user of the mount and takes the time.
    Child(Body, Before),
    /// The memory of the server after a walk of many files.
    Memory,
    /// Changes of the source are awaited on the mount.
    Visible,
    /// The time that a mount takes to answer.
    Start,
}

/// What a child does.
pub type Body = fn(&Job) -> io::Result<Sample>;

/// The state of the caches before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// As it is.
    Any,
    /// The tree was walked, and then the kernel forgot names and inodes.
    Forgotten,
    /// Nothing of any file is in memory.
    Cold,
    /// The big file is in memory, though this mount has not read it.
    WarmOnDisk,
}

/// One number of a work.
#[derive(Debug)]
pub struct Row {
    /// What it is of.
    pub title: &'static str,
    /// What it is.
    pub unit: Unit,
    /// What ours are to reach: a ratio, or in the unit.
    pub goals: Goals,
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Time an operation, shown as a ratio to native.
    Each,
    /// Time a mebibyte, shown as a ratio to native.
    Mib,
    /// Milliseconds in all, not compared with native.
    Millis,
    /// Mebibytes in all, not compared with native.
    Mebibytes,
}

impl Unit {
    /// Reports whether it is shown as a ratio to native.
    pub fn is_ratio(self) -> bool {
        matches!(self, Self::Each | Self::Mib)
    }
}

/// What ours are to reach.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goals {
    ours: Option<f64>,
    plain: Option<f64>,
    exclusive: Option<f64>,
}

impl Goals {
    /// Returns the goal of a mount; other mounts than ours have none.
    pub fn of(self, mount: &str) -> Option<f64> {
        match mount {
            "ours" => self.ours,
            "plain" | "rootless" => self.plain.or(self.ours),
            "exclusive" => self.exclusive.or(self.plain).or(self.ours),
            _ => None,
        }
    }
}

/// Returns one for all of ours.
pub const fn goal(ours: f64) -> Goals {
    Goals { ours: Some(ours), plain: None, exclusive: None }
}

/// Of what depends on the disk, or is to be seen beside a peer.
pub const NO_GOAL: Goals = Goals { ours: None, plain: None, exclusive: None };

const fn goals(ours: f64, plain: f64) -> Goals {
    Goals { plain: Some(plain), ..goal(ours) }
}

/// One for mounts without passthrough alone.
const fn plain(plain: f64, exclusive: Option<f64>) -> Goals {
    Goals { ours: None, plain: Some(plain), exclusive }
}

/// Returns a row.
pub const fn row(title: &'static str, unit: Unit, goals: Goals) -> Row {
    Row { title, unit, goals }
}

/// Returns a work that a child does.
pub const fn work(name: &'static str, rows: &'static [Row], body: Body, before: Before) -> Work {
    Work { name, rows, how: How::Child(body, before) }
}

use Before::{Any, Forgotten, WarmOnDisk};
use Unit::{Each, Mebibytes, Mib, Millis};

/// Every work. Those that read files come after those that want inodes
/// forgotten: the kernel keeps an inode that has pages.
pub const WORKS: &[Work] = &[
    work("stat", &[row("warm stat", Each, goal(1.05))], files::stat, Any),
    work("missing", &[row("missing name", Each, goal(1.1))], files::missing, Any),
    work("walk", &[row("warm walk", Each, goal(1.2))], files::walk, Any),
    work("cold-walk", &[row("cold walk", Each, goal(2.0))], files::cold_walk, Forgotten),
    work("two-walkers", &[row("cold walk by two", Each, goal(2.5))], files::two_walkers, Forgotten),
    work("cold-stat", &[row("cold stat by path", Each, goal(3.0))], files::cold_stat, Forgotten),
    work(
        "read-small",
        &[row("open, read, close small files", Each, goals(2.5, 1.3))],
        files::read_small,
        Any,
    ),
    work("create", &[row("create, write 100 bytes, close", Each, goal(1.2))], files::create, Any),
    work("change", &[row("chmod and rename", Each, goal(3.0))], files::change, Any),
    work("unlink", &[row("unlink", Each, goal(3.0))], files::unlink, Any),
    work("untar", &[row("untar", Each, goal(1.1))], files::untar, Any),
    work("git", &[row("git status", Each, goal(1.1))], files::git_status, Any),
    work("write", &[row("write 256 MiB by 1 MiB", Mib, goals(1.05, 3.0))], data::write_large, Any),
    work(
        "write-4k",
        &[row(
            "write 256 MiB by 4 KiB",
            Mib,
            Goals { ours: Some(1.1), plain: Some(12.0), exclusive: Some(5.0) },
        )],
        data::write_small,
        Any,
    ),
    work("reread", &[row("read 512 MiB again", Mib, goal(1.05))], data::reread, Any),
    work("random-read", &[row("random 4 KiB reads", Each, goal(1.05))], data::random_read, Any),
    work(
        "first-read",
        &[row("read 512 MiB first", Mib, plain(2.0, None))],
        data::first_read,
        WarmOnDisk,
    ),
    work(
        "random-write",
        &[row("random 4 KiB writes", Each, plain(12.0, Some(5.0)))],
        data::random_write,
        Any,
    ),
    Work {
        name: "start",
        rows: &[row("start to first stat", Millis, goal(15.0))],
        how: How::Start,
    },
    Work {
        name: "visible",
        rows: &[
            row("host-side change seen, median", Millis, goal(0.1)),
            row("host-side change seen, 99 of 100", Millis, goal(5.0)),
        ],
        how: How::Visible,
    },
    Work {
        name: "memory",
        rows: &[row("server memory after a walk", Mebibytes, goal(150.0))],
        how: How::Memory,
    },
];

/// Returns what a child does for a work.
pub fn body(name: &str) -> Option<Body> {
    let work = WORKS.iter().chain(images::WORKS).find(|work| work.name == name)?;
    match work.how {
        How::Child(body, _) => Some(body),
        How::Memory | How::Visible | How::Start => None,
    }
}
