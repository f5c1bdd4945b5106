//! Hearing of changes: what is told of files below, as of those that are shown.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Inner, Kept};
use crate::error::Result;
use crate::source::{Covers, Happened, Node, Unwatched, Watch, What};

/// A watch of the source below.
#[derive(Debug)]
pub(super) struct KeptWatch {
    below: Arc<dyn Watch>,
    inner: Arc<Inner>,
}

impl KeptWatch {
    /// Wraps a watch.
    pub fn new(below: Arc<dyn Watch>, inner: Arc<Inner>) -> Self {
        Self { below, inner }
    }

    fn under(&self, node: &Node) -> Option<Node> {
        let (under, _) = self.inner.under(Kept::held(node).ok()?).ok()?;
        Some(under)
    }
}

impl Watch for KeptWatch {
    fn covers(&self, volume: u64) -> Covers {
        self.below.covers(volume)
    }

    fn unwatched(&self, volume: u64) -> Option<Unwatched> {
        self.below.unwatched(volume)
    }

    fn add(&self, dir: &Node) -> Option<u64> {
        self.below.add(&self.under(dir)?)
    }

    fn shortage(&self) -> Option<String> {
        self.below.shortage()
    }

    fn era(&self) -> u64 {
        self.below.era()
    }

    fn wait(&self, each: &mut dyn FnMut(&Happened) -> bool) -> Result<()> {
        let aliases = &self.inner.aliases;
        self.below.wait(&mut |happened| {
            let what = match happened.what.clone() {
                What::Attributes(key) => What::Attributes(aliases.shown(key)),
                What::Contents(key) => What::Contents(aliases.shown(key)),
                What::Name { dir, name, file } => {
                    What::Name { dir, name, file: file.map(|key| aliases.shown(key)) }
                }
                What::Lost => What::Lost,
            };
            each(&Happened { what, own: happened.own })
        })
    }

    fn wake(&self) {
        self.below.wake();
    }

    fn ignore_contents(&self, file: &Node) {
        if let Some(file) = self.under(file) {
            self.below.ignore_contents(&file);
        }
    }

    fn heed_contents(&self, file: &Node) {
        if let Some(file) = self.under(file) {
            self.below.heed_contents(&file);
        }
    }

    fn ignore_device(&self, device: BorrowedFd<'_>) {
        self.below.ignore_device(device);
    }

    fn describe(&self) -> String {
        self.below.describe()
    }
}
