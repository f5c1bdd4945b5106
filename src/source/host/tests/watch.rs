//! Hearing of what others change.

mod cover;
mod directories;
mod flood;
mod heard;

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::source::{Covers, Happened, Key, Watch, What};

/// A source that is watched.
#[derive(Debug)]
struct Ear {
    path: PathBuf,
    host: Host,
    watch: Arc<dyn Watch>,
}

impl Ear {
    fn new(path: PathBuf) -> Self {
        let host = Host::open(&path, &HostOptions::default()).unwrap();
        let watch = host.watch().unwrap();
        Self { path, host, watch }
    }

    fn key(&self, path: &str) -> Key {
        walk(&self.host, path).1.key
    }

    fn root(&self) -> Key {
        self.host.root().unwrap().1.key
    }

    /// Returns what is heard by now: an event is there before the call returns
    /// that it tells of.
    fn heard(&self) -> Vec<Happened> {
        let mut heard = Vec::new();
        loop {
            let before = heard.len();
            self.watch.wake();
            let each = &mut |happened: &Happened| {
                heard.push(happened.clone());
                true
            };
            self.watch.wait(each).unwrap();
            if heard.len() == before {
                return heard;
            }
        }
    }

    /// Has a shell do something in the source, and returns what is heard of it.
    fn shell(&self, script: &str) -> Vec<What> {
        let status = outside(|| {
            Command::new("sh").args(["-ec", script]).current_dir(&self.path).status().unwrap()
        });
        assert!(status.success(), "{script}");
        let foreign = |happened: Happened| {
            assert!(!happened.own, "{script}: {happened:?}");
            happened.what
        };
        self.heard().into_iter().map(foreign).collect()
    }
}

/// Describes what happens to a name.
fn named(dir: &Key, name: &str, file: &Key) -> What {
    What::Name { dir: dir.clone(), name: name.into(), file: Some(file.clone()) }
}
