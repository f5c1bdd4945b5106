//! What every source must do.

use std::sync::{Arc, Mutex};

use super::*;
use crate::source::Prepare;
use crate::source::conformance::check;
use crate::source::owners::{self, Owners};
use crate::source::wrap::Wrap;

/// Runs all checks, each on a new directory below the fixture's.
fn run(fixture: &Fixture) {
    run_with(fixture, &|path| Arc::new(Host::open(path, &HostOptions::default()).unwrap()));
}

/// Does so with files that are prepared before they have a name.
fn run_prepared(fixture: &Fixture) {
    const NOTHING: Prepare<'static> = Prepare(&|_, _| Ok(()));
    run_with(fixture, &|path| {
        let options = HostOptions { staging: true, ..HostOptions::default() };
        Arc::new(Wrap::preparing(Arc::new(Host::open(path, &options).unwrap()), NOTHING))
    });
}

fn run_with(fixture: &Fixture, open: &(dyn Fn(&Path) -> Arc<dyn Source> + Sync)) {
    let count = Mutex::new(0);
    check(&|| {
        let mut count = count.lock().unwrap();
        *count += 1;
        let path = fixture.at(&count.to_string());
        fs::create_dir(&path).unwrap();
        open(&path)
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

#[test]
fn prepared_where_temporary_files_are() {
    run_prepared(&Fixture::plain());
}

#[test]
fn prepared_on_tmpfs() {
    if is_root() {
        run_prepared(&Fixture::tmpfs());
    }
}

#[test]
fn prepared_on_ext4() {
    let fixture = if is_root() { Fixture::ext4() } else { None };
    if let Some(fixture) = fixture {
        run_prepared(&fixture);
    }
}

#[test]
fn prepared_as_a_user() {
    if let Some(path) = child::path() {
        let fixture = Fixture::below(&path);
        return run_prepared(&fixture);
    }
    if is_root() {
        let fixture = Fixture::plain();
        fixture.give_away();
        child::run("conformance::prepared_as_a_user", &fixture.path(), unprivileged::as_user);
    }
}

/// Does so with owners that are kept beside the files.
fn run_kept(fixture: &Fixture) {
    run_with(fixture, &|path| {
        let options = HostOptions { staging: true, ..HostOptions::default() };
        owners::open(Arc::new(Host::open(path, &options).unwrap()), path, &Owners::Xattr).unwrap()
    });
}

#[test]
fn with_owners_in_attributes() {
    run_kept(&Fixture::plain());
}

#[test]
fn with_owners_in_attributes_as_a_user() {
    if let Some(path) = child::path() {
        return run_kept(&Fixture::below(&path));
    }
    if is_root() {
        let fixture = Fixture::plain();
        fixture.give_away();
        let test = "conformance::with_owners_in_attributes_as_a_user";
        for act_as in [unprivileged::as_user, unprivileged::as_root_of_namespace] {
            child::run(test, &fixture.path(), act_as);
        }
    }
}
