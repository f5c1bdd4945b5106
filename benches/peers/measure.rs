//! The process inside: builds the tree, checks every mount, and measures work by
//! work, round by round, mount by mount.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::About as _;
use crate::args::{self, Args};
use crate::child;
use crate::data::read_whole;
use crate::images;
use crate::machine::Machine;
use crate::mounts::{KINDS, Kind, Live};
use crate::place::{self, Place};
use crate::report::{self, Report};
use crate::svg;
use crate::visible;
use crate::work::{Before, How, Unit, WORKS, Work};

/// Time for servers to take in that the kernel has forgotten all.
const SETTLE: Duration = Duration::from_millis(100);
/// Between making a mount and using it.
const PAUSE: Duration = Duration::from_millis(20);
/// A name for the tasks that no mount is measured with.
const NOBODY: &str = "native.0";

/// Does it all, in namespaces of its own.
///
/// # Errors
/// The place cannot be made, or the tree not be built, or the result not be
/// written.
pub fn main(words: &[OsString]) -> io::Result<ExitCode> {
    let (own, rest) = words.split_at(2.min(words.len()));
    let args = args::parse(rest).map_err(io::Error::other)?;
    let scratch = own.last().ok_or(io::ErrorKind::InvalidInput)?;
    let place = Place::new(Path::new(scratch), &args)?;
    if args.images {
        images::main(place, &args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let works: Vec<&Work> = chosen(WORKS, &args.only, |work| work.name);
    let native = "native".to_owned();
    let mut names = args.mounts.clone();
    if !names.is_empty() {
        names.push(native);
    }
    build(&place, &works, &args)?;
    let (mut kinds, mut missing) = (Vec::new(), Vec::new());
    for kind in chosen(KINDS, &names, |kind| kind.name) {
        match check(kind, &place) {
            Ok(()) => kinds.push(kind),
            Err(error) if kind.name == "native" => return Err(error),
            Err(error) => {
                eprintln!("peers: {} is not available: {error}", kind.name);
                missing.push((kind.name, error.to_string()));
            }
        }
    }
    let mut report = Report::new(Machine::new(&place, &args), kinds.clone(), missing);
    for work in works {
        measure(work, &kinds, &place, &args, &mut report);
    }
    let text = if args.json { report::json(&report)? } else { report::table(&report) };
    print!("{text}");
    if let Some(file) = &args.svg {
        fs::write(file, svg::chart(&report)).about(&file.to_string_lossy())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen<'a, T>(all: &'a [T], names: &[String], name: fn(&T) -> &'static str) -> Vec<&'a T> {
    let wanted = |item: &&T| names.is_empty() || names.iter().any(|one| one == name(item));
    all.iter().filter(wanted).collect()
}

fn native(place: &Place) -> io::Result<Live> {
    let kind = KINDS.first().ok_or(io::ErrorKind::InvalidInput)?;
    Live::start(kind, place)
}

fn build(place: &Place, works: &[&Work], args: &Args) -> io::Result<()> {
    eprintln!("peers: building a tree of {} files", args.files);
    let live = native(place)?;
    child::run("build", &live, place, NOBODY).about("a tree, as user 1000")?;
    if works.iter().any(|work| work.name == "git")
        && let Err(error) = child::run("repository", &live, place, NOBODY)
    {
        eprintln!("peers: no git status: {error}");
    }
    if works.iter().any(|work| matches!(work.how, How::Memory)) {
        child::run("many", &live, place, &args.memory.to_string()).about("many files")?;
    }
    // The kernel keeps inodes that have pages, and is to forget them later.
    place::forget_all()?;
    child::run("cold-walk", &live, place, NOBODY).map(drop)
}

/// Checks that a mount shows and stores the right owners and contents.
fn check(kind: &Kind, place: &Place) -> io::Result<()> {
    let live = Live::start(kind, place)?;
    let name = format!("{}.check", kind.name);
    child::run("verify", &live, place, &name)?;
    child::verify_disk(place, &name)
}

/// Measures a work on all mounts, round by round.
pub fn measure(
    work: &Work,
    kinds: &[&'static Kind],
    place: &Place,
    args: &Args,
    report: &mut Report,
) {
    let rounds = match work.how {
        How::Child(..) | How::Start => args.rounds,
        How::Visible | How::Memory => 1,
    };
    eprintln!("peers: {}", work.name);
    let mut done = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (turn + round) % kinds.len();
            let Some((kind, values)) = kinds.get(at).zip(done.get_mut(at)) else { continue };
            at_work(&format!("{}, round {} of {rounds}, {}", work.name, round + 1, kind.name));
            let value = sample(work, kind, place, &format!("{}.{}.{round}", kind.name, work.name));
            if let Err(error) = &value {
                at_work("");
                eprintln!("peers: {} on {}: {error}", work.name, kind.name);
            }
            values.push(value.ok());
        }
    }
    at_work("");
    for (at, row) in work.rows.iter().enumerate() {
        let one = |value: &Option<Vec<f64>>| value.as_ref()?.get(at).copied();
        let all = done.iter().map(|values| values.iter().map(one).collect()).collect();
        report.add(work, row, all);
    }
}

/// Says on a terminal what is being done, in place of what was said before.
fn at_work(what: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// Measures one work once on a mount that is made for it; one number for each row.
fn sample(work: &Work, kind: &Kind, place: &Place, name: &str) -> io::Result<Vec<f64>> {
    let live = Live::start(kind, place)?;
    // Every child starts on a machine that has done nothing for a moment: one that
    // is started in the middle of something else waits longer for a processor.
    thread::sleep(PAUSE);
    match work.how {
        How::Start => {
            if live.started.is_zero() {
                return Ok(Vec::new());
            }
            Ok(vec![live.started.as_secs_f64() * 1e3])
        }
        How::Memory => {
            if live.memory().is_none() {
                return Ok(Vec::new());
            }
            child::run("walk-many", &live, place, name)?;
            Ok(live.memory().map(|bytes| bytes as f64 / 1_048_576.0).into_iter().collect())
        }
        How::Visible => {
            let times = visible::measure(&live, place, name)?;
            Ok(times.into_iter().map(|nanos| nanos / 1e6).collect())
        }
        How::Child(_, before) => {
            prepare(before, &live, place, name)?;
            let numbers = child::run(work.name, &live, place, name)?;
            let [nanos, count] = numbers[..] else { return Err(io::ErrorKind::InvalidData.into()) };
            let sample = child::Sample { nanos, count };
            // Or what one has written is written back while the next is measured.
            if work.rows.iter().any(|row| row.unit == Unit::Mib) || work.name.starts_with("random")
            {
                nix::unistd::sync();
            }
            Ok(vec![sample.each()])
        }
    }
}

fn prepare(before: Before, live: &Live, place: &Place, name: &str) -> io::Result<()> {
    match before {
        Before::Any => {}
        Before::Forgotten => {
            child::run("cold-walk", live, place, name)?;
            place::forget()?;
            thread::sleep(SETTLE);
        }
        Before::Cold => {
            place::forget_all()?;
            thread::sleep(SETTLE);
        }
        Before::WarmOnDisk => read_whole(&place.source.join("big"))?,
    }
    Ok(())
}
