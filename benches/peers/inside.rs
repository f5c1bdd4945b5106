//! The process inside: builds the tree, checks every mount, and measures work by work.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use crate::About as _;
use crate::args::{self, Args};
use crate::child;
use crate::images;
use crate::machine::Machine;
use crate::measure::measure;
use crate::mounts::{KINDS, Kind, Live};
use crate::place::{self, DISK_ID, Place};
use crate::report::{self, Report};
use crate::svg;
use crate::work::{How, Work};
use crate::works::WORKS;

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
    verify_disk(place, &name)
}

/// Checks on the disk what the task `verify` has made, and removes it.
fn verify_disk(place: &Place, name: &str) -> io::Result<()> {
    let dir = place.source.join("scratch").join(name);
    let meta = fs::symlink_metadata(dir.join("new"))?;
    fs::remove_dir_all(&dir)?;
    if (meta.uid(), meta.gid()) == (DISK_ID, DISK_ID) {
        return Ok(());
    }
    Err(io::Error::other(format!("a new file is stored as {}:{}", meta.uid(), meta.gid())))
}
