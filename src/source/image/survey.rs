//! Whose the files of an image are: a walk through all of it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{Image, Nid};
use crate::attr::FileKind;
use crate::id::{Disk, Owner};

/// What a walk has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The owners of the files.
    pub owners: HashSet<Owner<Disk>>,
    /// Whether every file was looked at: there was time, and nothing was damaged.
    pub all: bool,
}

/// Looks at the files of an image, for no longer than this.
pub fn survey(image: &dyn Image, time: Duration) -> Survey {
    let start = Instant::now();
    let mut found = Survey { owners: HashSet::new(), all: true };
    let mut known: HashSet<Nid> = HashSet::from([image.root()]);
    let mut waiting = vec![image.root()];
    while let Some(nid) = waiting.pop() {
        if start.elapsed() > time {
            found.all = false;
            break;
        }
        let Ok(attr) = image.attr(nid) else {
            found.all = false;
            continue;
        };
        found.owners.insert(attr.owner);
        if attr.kind != FileKind::Directory {
            continue;
        }
        match image.list(nid) {
            Ok(entries) => {
                let new = entries.into_iter().map(|entry| entry.nid);
                waiting.extend(new.filter(|nid| known.insert(*nid)));
            }
            Err(_) => found.all = false,
        }
    }
    found
}
