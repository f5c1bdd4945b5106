//! A pair of ids, as tables and lists of names have them.

use std::fmt;

use crate::id::{Disk, Id, Kind, View};

/// A single disk id and the view id that it is shown as.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry<K: Kind> {
    /// The disk id.
    pub disk: Id<K, Disk>,
    /// The view id.
    pub view: Id<K, View>,
}

impl<K: Kind> fmt::Display for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", K::LETTER, self.disk, self.view)
    }
}

impl<K: Kind> fmt::Debug for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
