//! What the command line asks for, before anything is looked up: one request for each
//! command.

use std::ffi::OsString;
use std::path::PathBuf;

use super::form::Form;
use super::image::Image;
use super::owners::Owners;
use super::settings::Settings;
use crate::mount::ImageOptions;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Print a text and end well.
    Print(String),
    /// Mount.
    Mount(Mount),
    /// Run a command in a private mount.
    Run(Run),
    /// Say how files are shown and stored, and why.
    Explain(Explain),
    /// Say what a live mount is.
    Live(Live),
    /// Check policy files.
    Check(Check),
    /// Put the policy of a mount in force as it is written now.
    Reload(PathBuf),
    /// Say what the server of a mount has done.
    Stats(PathBuf, Form),
    /// Work on the records of a directory.
    Owners(Owners),
    /// Say what an image is, or make one.
    Image(Image),
    /// Free everybody who waits for a mount.
    Abort(PathBuf),
}

/// How far a mount goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Mount and serve in the background.
    Background,
    /// Mount and serve until unmounted.
    Foreground,
    /// Check everything and mount nothing.
    Fake,
}

/// A request to mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory that is shown.
    pub source: OsString,
    /// Where it is shown.
    pub target: PathBuf,
    /// The options.
    pub settings: Settings,
    /// How far to go.
    pub how: How,
    /// Whether mount(8) asks, so that what is mounted already is well.
    pub helper: bool,
    /// Whether to say what was done.
    pub verbose: bool,
}

/// A request to run a command in a private mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The directory that is shown.
    pub source: PathBuf,
    /// The options.
    pub settings: Settings,
    /// As whom, in view ids: `USER[:GROUP]`.
    pub run_as: Option<String>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// A request to explain.
#[derive(Debug, PartialEq, Eq)]
pub struct Explain {
    /// The directory that would be shown.
    pub source: PathBuf,
    /// Files below it.
    pub paths: Vec<PathBuf>,
    /// The options about owners.
    pub settings: Settings,
    /// The caller to explain for, in view ids: `USER[:GROUP][,GROUP]...`.
    pub caller: Option<String>,
    /// Whether to answer in JSON.
    pub json: bool,
}

/// A request to say what a live mount is.
#[derive(Debug, PartialEq, Eq)]
pub struct Live {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Files below its source.
    pub paths: Vec<PathBuf>,
    /// The caller to explain for, in view ids: `USER[:GROUP][,GROUP]...`.
    pub caller: Option<String>,
    /// How the answer is written.
    pub form: Form,
}

/// A request to check policy files.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// The files.
    pub files: Vec<PathBuf>,
    /// The directory or image that they are for.
    pub source: Option<PathBuf>,
    /// Which part of a file the image is.
    pub image: ImageOptions,
    /// Whether they are for a mount on which set-id bits count.
    pub suid: bool,
}
