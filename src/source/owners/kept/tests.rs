//! Over the memory source: what every source must do, and what is on disk by then.

use std::sync::Arc;

use super::super::xattr::Xattrs;
use super::Kept;
use crate::id::{Disk, Ids};
use crate::source::conformance;
use crate::source::memory::{Memory, Options};

fn own() -> Ids<Disk> {
    Ids::new(77, 78).unwrap()
}

fn kept(options: Options) -> (Arc<Memory>, Kept) {
    let below = Arc::new(Memory::new(options));
    let store = Arc::new(Xattrs::new(&*below).unwrap());
    (Arc::clone(&below), Kept::new(below, store, own()))
}

#[test]
fn conforms() {
    conformance::check(&|| Arc::new(kept(Options::new(own())).1));
}

#[test]
fn conforms_over_less() {
    let less = Options { acl: false, handles: false, reuse_numbers: false, ..Options::new(own()) };
    conformance::check(&|| Arc::new(kept(less).1));
}
