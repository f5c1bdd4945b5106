//! Tests that need a process of their own: the test program runs itself again
//! for the one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const VARIABLE: &str = "IDMAPFS_TEST_CHILD";

/// In the child: the directory to work on.
pub fn path() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// Starts a test of this directory again, in a child.
pub fn start(test: &str, path: &Path) -> Child {
    command(test, path).stdout(Stdio::null()).spawn().unwrap()
}

fn command(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("source::host::tests::{test}");
    command.args(["--exact", &test, "--nocapture"]).env(VARIABLE, path).current_dir("/");
    command
}

/// Runs a test of this directory again, in a child, and expects it to pass.
pub fn run(test: &str, path: &Path, prepare: impl FnOnce(&mut Command)) {
    let mut command = command(test, path);
    prepare(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{told}");
    if told.contains("SKIP") {
        eprintln!("{told}");
    }
}
