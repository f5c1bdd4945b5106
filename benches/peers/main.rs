//! Mounts beside each other on one tree: ours, the kernel's idmapped mount, and
//! whatever of bindfs, fuse-overlayfs and mergerfs is installed.
//!
//! `cargo bench --bench peers -- --help`; `docs/performance.md` says what each
//! row is.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts and times of a benchmark, all far from any limit"
)]

mod args;
mod child;
mod data;
mod files;
mod floor;
mod image_works;
mod images;
mod inside;
mod job;
mod machine;
mod measure;
mod mounts;
mod outside;
mod place;
mod report;
mod svg;
#[allow(unsafe_code, dead_code, unused_imports, reason = "the program's own files, whole")]
mod sys;
mod tasks;
mod tree;
mod visible;
mod work;
mod works;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match words.first().and_then(|word| word.to_str()) {
        Some(job::WORD) => tasks::main(&words),
        Some(floor::WORD) => floor::main(&words),
        Some(outside::INSIDE) => inside::main(&words),
        _ => outside::main(&words),
    };
    done.unwrap_or_else(|error| {
        eprintln!("peers: {error}");
        ExitCode::FAILURE
    })
}

/// Says what was being done when something failed.
trait About<T> {
    /// Puts these words before the error.
    fn about(self, what: &str) -> io::Result<T>;
}

impl<T, E: std::fmt::Display> About<T> for Result<T, E> {
    fn about(self, what: &str) -> io::Result<T> {
        self.map_err(|error| io::Error::other(format!("{what}: {error}")))
    }
}
