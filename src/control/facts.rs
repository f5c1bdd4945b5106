//! What a server says of its mount: what it is and why, and what it has done.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::path;

/// Something that was decided, and why, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// What.
    pub what: String,
    /// Why, or how.
    pub why: String,
}

impl Said {
    /// Makes it of two texts.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// Some of the bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
    /// Which file it is: the device that it is on, and its inode number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<(u64, u64)>,
}

/// What a live mount is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of this form: 1. Fields may be added.
    pub version: u32,
    /// The process of the server; `None`: there is none.
    pub pid: Option<u32>,
    /// The directory that is shown. In JSON, bytes of paths that are not UTF-8, and
    /// backslashes, are `\xNN`.
    #[serde(with = "path")]
    pub source: PathBuf,
    /// Where in the source the image is that is shown; `None`: it is a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Bytes>,
    /// Other files that the image has data in, written as `source` is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Where it is mounted.
    #[serde(with = "path")]
    pub target: PathBuf,
    /// The device number of what is mounted there, major and minor: in another mount
    /// namespace that path may be something else's. `None`: it is not told.
    #[serde(default)]
    pub device: Option<(u32, u32)>,
    /// What translates: `fuse` or `kernel`.
    pub engine: Said,
    /// Why the kernel's idmapped mount would not do the same, as far as policy
    /// and options say; `None`: it would.
    pub beyond_kernel: Option<String>,
    /// The policy, in the words of the options.
    pub policy: String,
    /// The policy options as they were given, `NAME=VALUE` or `NAME` each: what
    /// the policy can be made of again.
    pub options: Vec<String>,
    /// What the kernel may keep of names and attributes.
    pub cache: Said,
    /// The way of what is read and written.
    pub data: Said,
    /// Whether there are ACLs, and who evaluates them.
    pub acl: Said,
    /// Who decides what callers may do.
    pub permission: Said,
    /// What is shown where something is mounted below the source.
    pub submounts: Said,
    /// Where owners are kept.
    pub owners: Said,
    /// How it was mounted.
    pub mounted: Said,
    /// In whose namespaces it was made, and which ids there are.
    #[serde(default)]
    pub namespace: Said,
    /// What the server has given up, and why not more.
    #[serde(default)]
    pub confined: Said,
    /// The id map of the server's user namespace: `initial`, or its lines.
    pub user_namespace: String,
    /// How many threads answer.
    pub threads: usize,
    /// Whether each of them has a descriptor of the device.
    pub clone_fd: bool,
}

/// What a server has done and what it holds, as numbers by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The version of this form: 1. Numbers may be added.
    pub version: u32,
    /// How often each kind of request came.
    pub requests: BTreeMap<String, u64>,
    /// How often everything else happened.
    pub counts: BTreeMap<String, u64>,
    /// What is held right now.
    pub held: BTreeMap<String, u64>,
}
