//! What the command line asks about owners.

use std::ffi::OsString;
use std::path::PathBuf;

use super::super::commands::{matched, owners_command};
use super::super::fault::Fault;
use super::super::request::Request;
use super::{Action, Kind, Owners};
use crate::text::shown;

/// Reads the arguments of `idmapfs owners`.
///
/// # Errors
/// They are none that it takes.
pub fn ask(args: Vec<OsString>) -> Result<Request, Fault> {
    let matches = match matched(owners_command(), args)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Request::Print(text)),
    };
    let word = |name| matches.get_one::<String>(name).map(String::as_str);
    let file = |name| matches.get_one::<PathBuf>(name).cloned();
    let action = word("action").unwrap_or_default();
    for (option, of) in [("from", "import"), ("tar", "export"), ("fix", "check")] {
        let given = if option == "fix" { matches.get_flag(option) } else { file(option).is_some() };
        if given && of != action {
            return Err(Fault::usage(format!("option {option} goes with owners {of}")));
        }
    }
    let action = match action {
        "import" => Action::Import(file("from").ok_or_else(|| {
            Fault::usage("owners import: from where?").hint("--from FILE, a tar or JSON lines")
        })?),
        "export" => Action::Export(file("tar")),
        "check" => Action::Check(matches.get_flag("fix")),
        "drop" => Action::Drop,
        other => {
            let line = format!("owners: no such action {}", shown(other));
            return Err(Fault::usage(line).hint("import, export, check or drop"));
        }
    };
    let kind = match word("owners") {
        None | Some("xattr") => Kind::Xattr,
        Some("db") => Kind::Db,
        Some(other) => {
            let line = format!("option owners: {}: no such place", shown(other));
            return Err(Fault::usage(line).hint("xattr or db"));
        }
    };
    let database = file("owners-dir");
    if database.is_some() && kind == Kind::Xattr {
        return Err(Fault::usage("option owners-dir goes with --owners db"));
    }
    Ok(Request::Owners(Owners { action, dir: file("dir").unwrap_or_default(), kind, database }))
}
