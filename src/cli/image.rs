//! `idmapfs image`: what an image is, and making one.

pub(super) mod ask;
mod build;
mod info;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use super::fault::Fault;
use super::form::Form;
use crate::mount::{ImageOptions, Owners};

/// A request about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Say what it is.
    Info {
        /// The file.
        file: PathBuf,
        /// Which part of it.
        options: ImageOptions,
        /// How the answer is written.
        form: Form,
    },
    /// Make one.
    Build(Build),
}

/// A request to make an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The directory, or the tar archive.
    pub from: PathBuf,
    /// The image; the end of its name says which format.
    pub to: PathBuf,
    /// Where the owners of the files are kept.
    pub owners: Owners,
    /// What else the program of the format is told.
    pub more: Vec<OsString>,
}

/// Does what is asked for; returns the exit status.
///
/// # Errors
/// The image cannot be read or made.
pub fn image(request: &Image, out: &mut dyn Write) -> Result<u8, Fault> {
    match request {
        Image::Info { file, options, form } => info::info(file, options, *form, out),
        Image::Build(build) => build::build(build).map(|()| 0),
    }
}
