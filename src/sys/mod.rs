//! System calls: the only place with `unsafe` code, one call a block.
//!
//! What `nix` offers safely is used from there; here is what it lacks, and what
//! belongs together with it. Numbers are raw here: whoever calls gives them
//! their types.

pub mod accounts;
pub mod caps;
pub mod cred;
pub mod daemon;
pub mod dirent;
pub mod fanotify;
pub mod file;
pub mod fsid;
pub mod fuse;
pub mod handle;
pub mod id_map;
pub mod inode_flags;
pub mod landlock;
pub mod loops;
pub mod memory;
pub mod mount;
pub mod mount_namespace;
pub mod mountinfo;
pub mod namespace;
pub mod process;
pub mod procfs;
pub mod schedule;
pub mod signal;
pub mod sqlite;
pub mod stat;
pub mod statmount;
pub mod xattr;
pub mod xfs;
