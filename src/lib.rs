//! idmapfs: a FUSE file system that shows a directory with other owners and
//! permissions than those stored, per mount, by a policy.
//!
//! `docs/architecture.md` is the map of the modules; data flows one way:
//! `fuse` -> `fs` -> `policy`, `tree`, `source` -> `sys`.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test fails by panicking"
    )
)]

pub mod acl;
pub mod attr;
pub mod cli;
mod control;
pub mod count;
pub mod error;
mod fs;
mod fuse;
pub mod id;
mod mount;
pub mod policy;
mod run;
pub mod source;
mod sync;
#[allow(unsafe_code, reason = "system calls; the only place for them")]
mod sys;
mod text;
mod threads;
pub mod tree;
