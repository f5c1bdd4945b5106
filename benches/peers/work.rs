//! What a work is: what is done, how it is measured, and what is to come of it.

use std::io;

use crate::job::{Job, Sample};

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
    /// Of all of ours, but for what the others say.
    pub ours: Option<f64>,
    /// Of those without passthrough.
    pub plain: Option<f64>,
    /// Of the one that has the source to itself.
    pub exclusive: Option<f64>,
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

/// Returns one for ours, and one for those without passthrough.
pub const fn goals(ours: f64, plain: f64) -> Goals {
    Goals { plain: Some(plain), ..goal(ours) }
}

/// One for mounts without passthrough alone.
pub const fn plain(plain: f64, exclusive: Option<f64>) -> Goals {
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
