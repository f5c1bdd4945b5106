//! Owners kept beside the files, for a server that may not give files away.
//!
//! A source around another one: every file on disk belongs to the server's own
//! ids, and what it is to callers (owner, mode, kind) is a [`Record`], kept by a
//! [`Store`].

mod store;

pub use store::{Record, Store};
