//! Which engine translates: the kernel's own idmapped mount where it does exactly
//! what is asked, or a server of ours.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::check::{is_image, stays};
use super::error::MountError;
use super::idmapped;
use super::looped;
use super::options::{Engine, Options};
use super::unfit::Unfit;

/// What translates.
#[derive(Debug)]
pub(super) enum Chosen {
    /// The kernel, by a mount that is attached nowhere yet.
    Kernel(OwnedFd),
    /// A server, for this reason.
    Server(Server),
}

/// Why there is a server.
#[derive(Debug)]
pub(super) enum Server {
    /// It was asked for, or nothing was said.
    Asked,
    /// `auto`, and the kernel would not do the same.
    Unfit(Unfit),
    /// A private mount has one in any case, beside its command.
    Private,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("engine=fuse, which is the default"),
            Self::Unfit(why) => {
                write!(f, "engine=auto; not the kernel, when it was mounted: {why}")
            }
            Self::Private => f.write_str("a private mount is always served"),
        }
    }
}

/// Chooses the engine, and makes the mount if it is the kernel's.
///
/// # Errors
/// `Engine`: the kernel's was asked for and would not do the same.
pub(super) fn choose(options: &Options, source: &Path) -> Result<Chosen, MountError> {
    if options.engine == Engine::Fuse {
        return Ok(Chosen::Server(Server::Asked));
    }
    let is_image = is_image(source);
    if is_image {
        stays(options)?;
    }
    let made = match (is_image, options.engine) {
        (false, _) => idmapped::make(options, source),
        (true, Engine::Kernel) => looped::make(options, source),
        (true, Engine::Auto | Engine::Fuse) => {
            let asked = "the source is an image, which the kernel would have to parse itself";
            Err(Unfit::Option("engine", asked))
        }
    };
    match made {
        Ok(tree) => {
            log::info!("engine: kernel, which does all that is asked without a server");
            Ok(Chosen::Kernel(tree))
        }
        Err(why) if options.engine == Engine::Auto => {
            log::info!("engine: fuse; not the kernel: {why}");
            Ok(Chosen::Server(Server::Unfit(why)))
        }
        Err(why) => Err(MountError::Engine(why)),
    }
}

/// Checks that the engine that is asked for does what is asked; mounts nothing.
///
/// # Errors
/// `Engine`: the kernel's was asked for and would not do the same; `Source`.
pub fn check_engine(options: &Options) -> Result<(), MountError> {
    let source = super::check::source(&options.source)?;
    choose(options, &source).map(drop)
}
