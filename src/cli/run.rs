//! `idmapfs run`: a command in a private mount.

use std::path::Path;

use super::fault::Fault;
use super::logging;
use super::mount::options;
use super::policy::{caller, server, spec};
use super::request::Run;
use crate::mount::{self, Engine, Within};
use crate::policy::Spec;
use crate::run::{self, Files, Private};

/// Where a source is shown over which nothing can be mounted.
const INSTEAD: &str = "/mnt";

/// Runs the command of a request; returns its exit status.
///
/// # Errors
/// The policy is wrong, the mount cannot be made, or the command not started.
pub fn run(request: &Run) -> Result<u8, Fault> {
    if request.settings.engine == Some(Engine::Kernel) {
        return Err(Fault::usage("option engine: kernel: a private mount is always served")
            .hint("leave it out, or mount with it and run the command there"));
    }
    let source = mount::source(&request.source)?;
    let spec = spec(&request.settings, &source)?;
    if let Some(within) = &request.settings.within {
        return elsewhere(request, within, spec, &source);
    }
    let wanted = request.run_as.as_deref().map(caller).transpose()?;
    let pipeline = spec.build(&server()?)?;
    let image = mount::is_image(&source);
    let files = if image { Files::Image } else { Files::Host };
    let plan = run::plan(&pipeline, files, wanted)?;
    logging::start(request.settings.log.as_ref(), true)?;
    log::info!("namespaces: {}", plan.space);
    // To mount over the root would leave the root of every process below.
    let over = !image && source != Path::new("/");
    let place = if over { source.as_path() } else { Path::new(INSTEAD) };
    let mut options = options(&request.settings, spec, &source, place, true)?;
    options.engine = Engine::Fuse;
    // The command may run as others than the user who mounts.
    options.allow_other = Some(true);
    let private = Private {
        plan: &plan,
        options: &options,
        name: source.as_os_str(),
        place,
        command: &request.command,
    };
    Ok(run::run(&private)?)
}

/// Runs the command where it was started, beside a mount in other namespaces.
fn elsewhere(request: &Run, within: &Within, spec: Spec, source: &Path) -> Result<u8, Fault> {
    if request.run_as.is_some() {
        return Err(Fault::usage("option --as: with --in the command runs as you")
            .hint("podman has --user"));
    }
    let _policy = spec.build(&server()?)?;
    // The server is in the background, whatever the command is.
    logging::start(request.settings.log.as_ref(), false)?;
    let place = run::elsewhere::place()?;
    let mut options = options(&request.settings, spec, source, &place.path, false)?;
    options.engine = Engine::Fuse;
    Ok(run::elsewhere::run(&options, place, within, &request.command)?)
}
