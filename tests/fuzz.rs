//! Random texts and bytes for all that reads what others wrote.
//!
//! Each test changes inputs of a good collection at random, and demands laws of
//! what is made of them. Without `IDMAPFS_FUZZ_SECONDS` that is a few hundred
//! inputs, always the same; `IDMAPFS_FUZZ_SEED` repeats a run. `bash tests/run.sh fuzz` runs each for a minute and
//! builds the library so that it counts which code has run: an input that
//! reaches something new joins the collection. No nightly compiler is needed
//! for that, nor anything that is not built here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    let_underscore_drop,
    reason = "a test fails by panicking"
)]

mod fuzz {
    mod acls;
    mod bytes;
    mod collection;
    mod engine;
    mod images;
    #[allow(unsafe_code, reason = "an allocator, and counters that the compiler fills")]
    mod measure;
    mod policies;
    mod policy_laws;
    mod rule_laws;
    mod text;
    mod words;
}

#[path = "pure/host.rs"]
mod host;
#[allow(dead_code, unused_imports, reason = "the harness of mounts, of which images are made here")]
mod support;
use support::rng;
