//! The works on a directory, in the order they are done and shown, with the goal of each.

use crate::work::Before::{Any, Forgotten, WarmOnDisk};
use crate::work::Unit::{Each, Mebibytes, Mib, Millis};
use crate::work::{Body, Goals, How, Work, goal, goals, plain, row, work};
use crate::{data, files, image_works};

/// All of them. Those that read files come after those that want inodes
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

/// Returns all works: those on a directory, and those on an image.
pub fn all() -> impl Iterator<Item = &'static Work> {
    WORKS.iter().chain(image_works::WORKS)
}

/// Returns what a child does for a work.
pub fn body(name: &str) -> Option<Body> {
    let work = all().find(|work| work.name == name)?;
    match work.how {
        How::Child(body, _) => Some(body),
        How::Memory | How::Visible | How::Start => None,
    }
}
