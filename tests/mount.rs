//! Tests with real mounts; they need root, /dev/fuse and loop devices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::wildcard_enum_match_arm,
    let_underscore_drop,
    reason = "a test fails by panicking"
)]

mod support;

mod mount {
    mod admin;
    mod appends;
    mod basic;
    mod bindfs;
    mod cache;
    mod callers;
    mod changes;
    mod client;
    mod collapse;
    mod confine;
    mod crash;
    mod crypt;
    mod direct;
    mod directories;
    mod engine;
    mod exclusive;
    mod explain;
    mod files;
    mod handles;
    mod held_up;
    mod hidden;
    mod idmap;
    mod images;
    mod inputs;
    mod inside;
    mod interop;
    mod lifetime;
    mod limits;
    mod load;
    mod locks;
    mod names;
    mod nearby;
    mod oracle;
    mod owners;
    mod passthrough;
    mod pjdfstest;
    mod podman;
    mod private;
    mod ready;
    mod reload;
    mod remount;
    mod rights;
    mod rootless;
    mod rules;
    mod semantics;
    mod starting;
    mod systemd;
    mod threads;
    mod tools;
    mod unwatched;
    mod user;
    mod verify;
    mod watch;
}
