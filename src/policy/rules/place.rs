//! What is kept of places: of each directory what waits there, and in layers, which all
//! places below share, what waits in these.

use std::sync::Arc;

use super::decision::Decision;
use super::index::{Position, Waiting};
use super::intern::Interned;
use super::pattern::{Hiding, Hit};

/// Positions that wait at a place and in all places below.
#[derive(Debug)]
pub(super) struct Layer {
    /// The positions that began to wait further up.
    pub(super) above: Option<Arc<Interned<Layer>>>,
    pub(super) waiting: Waiting,
    /// The patterns that have matched, and match all below: sorted.
    pub(super) ended: Box<[u32]>,
    /// All conditions that hold here and below, of the layers above too.
    pub(super) hits: Box<[Hit]>,
    /// What they say of files and of directories that no other pattern
    /// matches; `None`: what is said of every file.
    pub(super) settled: [Option<Arc<Interned<Decision>>>; 2],
    /// The number of layers above.
    pub(super) depth: u8,
    /// What a match of the next name may hide.
    pub(super) hides: Hiding,
}

impl Layer {
    /// Reports whether whatever can still match after a position can match
    /// after one of this layer too.
    pub(super) fn covers(&self, at: Position) -> bool {
        let positions = self.waiting.positions();
        let from = positions.partition_point(|other| *other < at);
        positions.get(from).is_some_and(|other| other.pattern == at.pattern)
            || self.ended.binary_search(&at.pattern).is_ok()
    }
}

/// Goes from a layer to those above.
pub(super) fn layers(from: Option<&Arc<Interned<Layer>>>) -> impl Iterator<Item = &Layer> {
    std::iter::successors(from, |layer| layer.above.as_ref()).map(|layer| &***layer)
}

/// A directory whose children have to be looked at.
#[derive(Debug)]
pub(super) struct Place {
    /// What is said of the directory; `None`: what is said of every file.
    pub(super) decision: Option<Arc<Interned<Decision>>>,
    pub(super) layer: Option<Arc<Interned<Layer>>>,
    /// The positions that wait for one name.
    pub(super) waiting: Waiting,
    pub(super) hides: Hiding,
}
