//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// What was asked for.
#[derive(Debug)]
pub struct Args {
    /// The result as JSON instead of a table.
    pub json: bool,
    /// Where to draw a chart.
    pub svg: Option<PathBuf>,
    /// Rounds of each work.
    pub rounds: usize,
    /// Files of the tree.
    pub files: usize,
    /// Files to walk before the server's memory is read.
    pub memory: usize,
    /// The names of the works; empty: all.
    pub only: Vec<String>,
    /// The names of the mounts; empty: all.
    pub mounts: Vec<String>,
    /// A directory of a real disk to work in instead of an image.
    pub dir: Option<PathBuf>,
    /// Our program.
    pub program: PathBuf,
    /// Images of file systems instead of a directory.
    pub images: bool,
    /// Only say what there is.
    pub list: bool,
}

const AFTER: &str = "Needs root, and mkfs.ext4 unless --dir is given. What a mount cannot do, or a \
                     peer that is not installed, is said and left out.";

fn command() -> Command {
    let flag =
        |name: &'static str, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let value = |name: &'static str, of, help| Arg::new(name).long(name).value_name(of).help(help);
    let number = |name, default, help| {
        value(name, "N", help).default_value(default).value_parser(value_parser!(u32).range(1..))
    };
    let list = |name, of, help| value(name, of, help).value_delimiter(',').num_args(1..);
    let path = |name, of, help| value(name, of, help).value_parser(value_parser!(PathBuf));
    Command::new("peers")
        .about("Measures mounts beside each other, as ratios to no mount at all")
        .after_help(AFTER)
        .arg(flag("json", "Print JSON instead of a table"))
        .arg(path("svg", "FILE", "Draw a chart as well"))
        .arg(number("rounds", "5", "Rounds; the result is the median of their ratios"))
        .arg(number("files", "20000", "Files of the tree"))
        .arg(number("files-memory", "200000", "Files to walk before memory is read"))
        .arg(list("only", "WORK", "Only these works, by commas"))
        .arg(list("mounts", "NAME", "Only these mounts, by commas; native is always there"))
        .arg(path("dir", "DIR", "Work in this directory instead of an ext4 image"))
        .arg(
            path("program", "FILE", "Measure this idmapfs")
                .default_value(env!("CARGO_BIN_EXE_idmapfs")),
        )
        .arg(flag("images", "Measure images of file systems instead of a directory"))
        .arg(flag("list", "List the works and the mounts"))
        .arg(flag("bench", "").hide(true))
}

/// Takes the words apart.
///
/// # Errors
/// What is wrong with them, or the help that was asked for.
pub fn parse(words: &[OsString]) -> Result<Args, clap::Error> {
    let program = OsString::from("peers");
    let matches = command().try_get_matches_from(std::iter::once(&program).chain(words))?;
    Ok(from(&matches))
}

fn from(matches: &ArgMatches) -> Args {
    let number = |name| matches.get_one::<u32>(name).map_or(1, |number| *number as usize);
    let names = |name| {
        matches.get_many::<String>(name).map(|all| all.cloned().collect()).unwrap_or_default()
    };
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    Args {
        json: matches.get_flag("json"),
        svg: path("svg"),
        rounds: number("rounds"),
        files: number("files"),
        memory: number("files-memory"),
        only: names("only"),
        mounts: names("mounts"),
        dir: path("dir"),
        program: path("program").unwrap_or_default(),
        images: matches.get_flag("images"),
        list: matches.get_flag("list"),
    }
}
