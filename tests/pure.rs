//! Tests that need no privilege, no mount and no file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod pure {
    mod changes;
    mod changes_laws;
    mod check_situations;
    mod familiar;
    mod host;
    mod inputs_laws;
    mod policies;
    mod policy;
    mod policy_laws;
    mod policy_names;
    mod policy_words;
    mod ranges;
    mod rules;
    mod rules_laws;
    mod rules_words;
}
