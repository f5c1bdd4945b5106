//! The `idmapfs` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    idmapfs::cli::main(std::env::args_os())
}
