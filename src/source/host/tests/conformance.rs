//! What every source must do.

use std::sync::{Arc, Mutex};

use super::*;
use crate::source::conformance::check;

/// Runs all checks, each on a new directory below the fixture's.
fn run(fixture: &Fixture) {
    let count = Mutex::new(0);
    check(&|| {
        let mut count = count.lock().unwrap();
        *count += 1;
        let path = fixture.at(&count.to_string());
        fs::create_dir(&path).unwrap();
        Arc::new(Host::open(&path, &HostOptions::default()).unwrap())
    });
}

#[test]
fn where_temporary_files_are() {
    run(&Fixture::plain());
}

#[test]
fn on_tmpfs() {
    if is_root() {
        run(&Fixture::tmpfs());
    }
}

#[test]
fn on_ext4() {
    let fixture = if is_root() { Fixture::ext4() } else { None };
    if let Some(fixture) = fixture {
        run(&fixture);
    }
}

#[test]
fn as_a_user() {
    if let Some(path) = child::path() {
        let fixture = Fixture::below(&path);
        return run(&fixture);
    }
    if is_root() {
        let fixture = Fixture::plain();
        fixture.give_away();
        let user = unprivileged::as_user;
        child::run("conformance::as_a_user", &fixture.path(), user);
    }
}
