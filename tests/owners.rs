//! `idmapfs owners`, run as an ordinary user on directories of the host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod owners {
    mod checked;
    mod ground;
    mod hostile;
    mod lines;
    mod packed;
}
