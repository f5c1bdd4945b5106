//! The command line: arguments, and one module for each command.

mod check;
mod commands;
mod dash_o;
mod disk;
mod explain;
mod fault;
mod form;
mod image;
mod logging;
mod mount;
mod names;
mod options;
mod owners;
mod parse;
mod policy;
mod reload;
mod request;
mod run;
mod settings;
mod stats;
mod walk;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use fault::{Exit, Fault};
pub use parse::parse;
use request::Request;

/// Does what the command line asks for; returns the exit status.
///
/// Whatever is wrong is said on standard error in one line.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse(args).and_then(|request| perform(&request)) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            // The exit status says it too.
            let (Ok(()) | Err(_)) = writeln!(std::io::stderr(), "idmapfs: {fault}");
            ExitCode::from(fault.exit.code())
        }
    }
}

fn perform(request: &Request) -> Result<u8, Fault> {
    let mut out = std::io::stdout();
    match request {
        Request::Print(text) => Fault::printing(out.write_all(text.as_bytes()))?,
        Request::Mount(request) => mount::run(request)?,
        Request::Run(request) => return run::run(request),
        Request::Explain(request) => explain::explain(request, &mut out)?,
        Request::Live(request) => explain::live::explain(request, &mut out)?,
        Request::Stats(target, form) => stats::stats(target, *form, &mut out)?,
        Request::Check(request) => {
            if !check::check(request, &mut out)? {
                return Ok(Exit::Usage.code());
            }
        }
        Request::Reload(target) => reload::reload(target, &mut out)?,
        Request::Owners(request) => return owners::owners(request, &mut out),
        Request::Image(request) => return image::image(request, &mut out),
        Request::Abort(target) => crate::control::abort(target)
            .map_err(|error| Fault::unasked(error, "nobody waits for one; umount takes it away"))?,
    }
    Ok(0)
}
