//! The commands as clap knows them, and what it finds wrong in one line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::dash_o;
use super::fault::Fault;
use super::options::{self, Area, with_options};
use crate::text::shown;

/// The areas of a mount.
pub const ALL: &[Area] =
    &[Area::Policy, Area::Mount, Area::Naming, Area::Server, Area::Owners, Area::Image];
/// The areas of a private mount.
pub const FOR_RUN: &[Area] = &[Area::Policy, Area::Mount, Area::Server, Area::Owners, Area::Image];
/// The areas of an explanation.
pub const FOR_EXPLAIN: &[Area] = &[Area::Policy, Area::Image];

/// The commands, with what each does.
pub const COMMANDS: &[(&str, &str)] = &[
    ("run", "Run a command in a private mount"),
    ("explain", "Say how files are shown and stored, and why"),
    ("check", "Check policy files"),
    ("reload", "Put the policy of a mount in force as it is written now"),
    ("stats", "Say what the server of a mount has done, and what it holds"),
    ("owners", "Import, export, check or drop the owners kept for a directory"),
    ("image", "Say what an image is, or make one of a directory or a tar"),
    ("abort", "Free everybody who waits for a mount that hangs"),
];

fn command(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .no_binary_name(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
}

fn subcommand(name: &'static str, shown: &'static str) -> Command {
    let about = COMMANDS.iter().find(|(known, _)| *known == name).map(|(_, about)| *about);
    command(name).no_binary_name(false).bin_name(shown).about(about.unwrap_or_default())
}

fn path(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(value).help(help).required(true).value_parser(value_parser!(PathBuf))
}

/// A mount whose server is asked.
fn asked() -> Arg {
    let help = "The mount; outside of a private one the process of its idmapfs run";
    path("target", "MOUNTPOINT|PID", help)
}

fn list_option() -> Arg {
    // Rewritten before parsing; defined for the help.
    Arg::new("o").short('o').value_name("OPTION[,OPTION]...").help("The same options, as a list")
}

/// Returns the command that mounts.
pub fn mount_command() -> Command {
    let commands: Vec<String> =
        COMMANDS.iter().map(|(name, about)| format!("  {name:<9}{about}")).collect();
    let after = format!(
        "Commands (idmapfs COMMAND --help says more; ./run names a directory):\n{}",
        commands.join("\n")
    );
    let command = command("idmapfs")
        .about("Shows a directory with other owners than those stored, by a policy")
        .override_usage("idmapfs [OPTIONS] SOURCE MOUNTPOINT\n       idmapfs COMMAND ...")
        .after_help(after)
        .arg(path("source", "SOURCE", "The directory to show"))
        .arg(path("target", "MOUNTPOINT", "Where to show it"))
        .arg(
            Arg::new("foreground")
                .short('f')
                .long("foreground")
                .action(ArgAction::SetTrue)
                .help("Serve until unmounted, instead of in the background"),
        )
        .arg(list_option());
    with_options(command, ALL)
}

/// Returns the helper of mount(8).
pub fn helper_command() -> Command {
    let flag = |letter: char, name, help| {
        Arg::new(name).short(letter).action(ArgAction::SetTrue).help(help)
    };
    let command = command("mount.idmapfs")
        .about("The helper by which mount(8) mounts idmapfs")
        .arg(path("source", "SOURCE", "The directory to show"))
        .arg(path("target", "MOUNTPOINT", "Where to show it"))
        .arg(flag('s', "sloppy", "Ignore unknown options"))
        .arg(flag('f', "fake", "Check everything and mount nothing"))
        .arg(flag('n', "mtab", "Ignored: no mtab is written"))
        .arg(flag('v', "verbose", "Say what is done"))
        .arg(Arg::new("namespace").short('N').value_name("NAMESPACE").help("Not supported"))
        .arg(Arg::new("type").short('t').value_name("TYPE").help("Ignored"))
        .arg(list_option());
    // As elsewhere, every option can be written long; the help of idmapfs lists them.
    with_options(command, ALL).mut_args(|arg| match arg.get_short() {
        None if !arg.is_positional() => arg.hide(true),
        _ => arg,
    })
}

/// Returns the command that runs another.
pub fn run_command() -> Command {
    let command =
        subcommand("run", "idmapfs run")
            .override_usage("idmapfs run [OPTIONS] SOURCE -- COMMAND [ARG]...")
            .arg(path("source", "SOURCE", "The directory to show, over its own path"))
            .arg(
                Arg::new("command")
                    .value_name("COMMAND")
                    .help("What to run in it, after --")
                    .required(true)
                    .last(true)
                    .num_args(1..)
                    .value_parser(value_parser!(OsString)),
            )
            .arg(Arg::new("as").long("as").value_name("USER[:GROUP]").help(
                "Run as these view ids (default: the present-as ids, else your own as shown)",
            ))
            .arg(list_option());
    with_options(command, FOR_RUN).mut_arg("remount", |arg| arg.hide(true))
}

/// Returns the command that explains.
pub fn explain_command() -> Command {
    let command = subcommand("explain", "idmapfs explain")
        .override_usage(
            "idmapfs explain [OPTIONS] SOURCE PATH...\n       \
             idmapfs explain --mount [--as ...] [--json] MOUNTPOINT|PID [PATH]...",
        )
        .arg(path("source", "SOURCE", "The directory that would be shown, or a mount point"))
        .arg(
            path("path", "PATH", "Files below it")
                .num_args(1..)
                .required(false)
                .required_unless_present("mount"),
        )
        .arg(
            Arg::new("mount")
                .long("mount")
                .action(ArgAction::SetTrue)
                .help("Say what a live mount is, and of files how it shows them"),
        )
        .arg(
            Arg::new("as")
                .long("as")
                .value_name("USER[:GROUP][,GROUP]...")
                .help("Also say what a caller with these view ids may do, and what it stores"),
        )
        .arg(json())
        .arg(list_option());
    with_options(command, FOR_EXPLAIN)
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON")
}

/// Returns the command that checks policy files.
pub fn check_command() -> Command {
    let command = subcommand("check", "idmapfs check")
        .arg(path("file", "POLICY", "Policy files").num_args(1..))
        .arg(
            Arg::new("source")
                .long("source")
                .value_name("SOURCE")
                .help("What they are for: lists in it are read, rules tried on it")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("suid")
                .long("suid")
                .action(ArgAction::SetTrue)
                .help("They are for a mount on which set-id bits count"),
        )
        .arg(list_option());
    with_options(command, &[Area::Image])
}

/// Returns the command that reloads a policy.
pub fn reload_command() -> Command {
    subcommand("reload", "idmapfs reload").arg(asked())
}

/// Returns the command that says what a server has done.
pub fn stats_command() -> Command {
    subcommand("stats", "idmapfs stats").arg(asked()).arg(json())
}

/// Returns the command about the records of a directory.
pub fn owners_command() -> Command {
    let file = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .help(help)
            .allow_hyphen_values(true)
            .value_parser(value_parser!(PathBuf))
    };
    subcommand("owners", "idmapfs owners")
        .arg(
            Arg::new("action")
                .value_name("ACTION")
                .help("import, export, check or drop")
                .required(true),
        )
        .arg(path("dir", "DIR", "The directory whose owners they are"))
        .arg(
            Arg::new("owners")
                .long("owners")
                .value_name("WHERE")
                .help("Where owners are kept: xattr (default) or db"),
        )
        .arg(file("owners-dir", "DIR", "The directory of the database"))
        .arg(file("from", "FILE", "import: from a tar or from JSON lines; - is standard input"))
        .arg(file("tar", "FILE", "export: everything as a tar, not owners alone as JSON"))
        .arg(
            Arg::new("fix")
                .long("fix")
                .action(ArgAction::SetTrue)
                .help("check: mend what needs no guess"),
        )
}

/// Returns the command about images.
pub fn image_command() -> Command {
    let command = subcommand("image", "idmapfs image")
        .override_usage(
            "idmapfs image info [OPTIONS] [--json] FILE\n       \
             idmapfs image build [OPTIONS] DIR|TAR OUT.erofs|OUT.squashfs [-- ARG...]",
        )
        .arg(Arg::new("action").value_name("ACTION").help("info or build").required(true))
        .arg(path("path", "PATH", "The file; or of what to make which image").num_args(1..=2))
        .arg(
            Arg::new("more")
                .value_name("ARG")
                .help("build: what mkfs.erofs or mksquashfs is to be told besides, after --")
                .last(true)
                .num_args(1..)
                .value_parser(value_parser!(OsString)),
        )
        .arg(json())
        .arg(list_option());
    with_options(command, &[Area::Image, Area::Owners])
}

/// Returns the command that aborts a mount.
pub fn abort_command() -> Command {
    subcommand("abort", "idmapfs abort").arg(path("target", "MOUNTPOINT", "The mount that hangs"))
}

/// Parses; the inner error is a text (help, version) to print instead.
///
/// # Errors
/// The arguments are not those of the command.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours and may grow")]
pub fn matched(command: Command, args: Vec<OsString>) -> Result<Result<ArgMatches, String>, Fault> {
    let runs = command.get_name() == "run";
    match command.try_get_matches_from(args) {
        Ok(matches) => Ok(Ok(matches)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Err(error.to_string())),
            kind => Err(fault(kind, &error, runs)),
        },
    }
}

/// Says in one line what clap found wrong; `runs`: with a command that runs
/// another.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours and may grow")]
fn fault(kind: ErrorKind, error: &clap::Error, runs: bool) -> Fault {
    let all = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let arg = all.split(' ').next().unwrap_or_default().trim_end_matches("...");
    let line = match kind {
        ErrorKind::UnknownArgument => match arg.strip_prefix("--") {
            Some(long) => {
                let name = long.split('=').next().unwrap_or_default();
                return if options::find(name).is_some() {
                    Fault::usage(format!("option {name} does not go with this command"))
                } else {
                    dash_o::no_such(name, &format!("--{name}"))
                };
            }
            None => {
                let dash = arg.starts_with('-');
                let what = if dash { "unknown option" } else { "one argument too many:" };
                let fault = Fault::usage(format!("{what} {}", shown(arg)));
                return fault.hint(match (dash, runs) {
                    (true, _) => "--help lists the options",
                    (false, true) => "the command comes after --",
                    (false, false) => "--help shows the usage",
                });
            }
        },
        ErrorKind::MissingRequiredArgument => {
            let fault = Fault::usage(format!("missing: {all}"));
            return if runs && all.contains("COMMAND") {
                fault.hint("the command comes after --")
            } else {
                fault.hint("--help shows the usage")
            };
        }
        ErrorKind::TooManyValues => format!("option {arg} takes no value"),
        ErrorKind::InvalidValue => format!("option {arg} needs a value"),
        ErrorKind::InvalidUtf8 => "an argument is not text".to_owned(),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    Fault::usage(shown(line))
}
