//! What a server says of its mount: what it is and why, and what was done.

use std::collections::BTreeMap;

use super::attach::Way;
use super::check::Paths;
use super::engine::Server;
use super::namespace;
use super::options::{Cache, Options, Owners, Submounts};
use super::unfit;
use crate::control::{Bytes, Facts, Said, Stats};
use crate::count;
use crate::fs::Fs;
use crate::fuse::{DataPath, SessionOptions};
use crate::policy::Spec;
use crate::source;
use crate::text::{coded, shown};

/// A mount as it was made.
#[derive(Clone, Debug)]
pub(super) struct Made<'a> {
    pub(super) options: &'a Options,
    pub(super) paths: &'a Paths,
    pub(super) why: &'a Server,
    pub(super) way: Way,
    pub(super) serving: SessionOptions,
    /// What the source can do.
    pub(super) source: source::Facts,
    /// What is shown of mounts below the source.
    pub(super) submounts: Submounts,
    /// Where in its file an image is.
    pub(super) part: Option<Bytes>,
    /// Why the kernel may believe it for how long.
    pub(super) believed: String,
    /// Who reads and writes files.
    pub(super) data: &'a DataPath,
    /// What the server has given up.
    pub(super) confined: Said,
    /// The device number of what is at the mount point.
    pub(super) device: (u32, u32),
    /// A process in the user namespace of the mount, by its name in `/proc`.
    pub(super) process: &'a str,
}

impl Made<'_> {
    /// Reports whether it is the mount of one command.
    const fn is_private(&self) -> bool {
        matches!(self.why, Server::Private)
    }
}

/// Says what a mount is.
pub(super) fn facts(made: &Made<'_>) -> Facts {
    let Made { options, paths, why, serving, .. } = made;
    Facts {
        version: 1,
        pid: Some(std::process::id()),
        source: paths.source.clone(),
        image: made.part,
        devices: made.options.image.devices.iter().map(coded).collect(),
        target: paths.target.clone(),
        device: Some(made.device),
        engine: Said::new("fuse", why.to_string()),
        beyond_kernel: beyond_kernel(options_beyond(made), &options.spec),
        policy: options.spec.describe(),
        options: options.written.clone(),
        cache: cache(made),
        data: data(made),
        acl: acl(made),
        permission: permission(options),
        submounts: submounts(made),
        owners: owners(made),
        mounted: mounted(made),
        namespace: namespace(made),
        confined: made.confined.clone(),
        user_namespace: namespace::map("self"),
        threads: serving.threads,
        clone_fd: serving.clone_device,
    }
}

/// Says why the kernel would not do what options ask for, but for the policy.
pub(super) fn options_beyond(made: &Made<'_>) -> Option<String> {
    if made.is_private() {
        return Some(made.why.to_string());
    }
    unfit::of_options(made.options).err().map(|why| why.to_string())
}

/// Says why the kernel would not do the same: by what is said of the options, or by a
/// policy.
pub(super) fn beyond_kernel(options: Option<String>, spec: &Spec) -> Option<String> {
    options.or_else(|| unfit::of_policy(spec).err().map(|why| why.to_string()))
}

fn cache(made: &Made<'_>) -> Said {
    let how = match made.options.cache {
        _ if !made.options.kernel_decides() => {
            return Said::new("none", "the policy depends on the caller");
        }
        Cache::Ttl(time) => format!("ttl={}", time.as_secs()),
        Cache::Exclusive => "exclusive".to_owned(),
        Cache::Off => "none".to_owned(),
        Cache::Watch => "watch".to_owned(),
    };
    Said::new(how, made.believed.clone())
}

fn data(made: &Made<'_>) -> Said {
    let how = match made.data {
        DataPath::Kernel => "passthrough",
        DataPath::Cache => "the kernel's cache",
        DataPath::Server(_) => "by way of the server",
    };
    Said::new(how, made.data.to_string())
}

fn acl(made: &Made<'_>) -> Said {
    match (made.source.acl, made.serving.acl) {
        (false, _) => Said::new("none", "the source keeps none"),
        (true, true) => Said::new("translated", "the kernel evaluates them"),
        (true, false) => Said::new("translated", "the server evaluates them"),
    }
}

fn permission(options: &Options) -> Said {
    if options.kernel_decides() {
        Said::new("the kernel", "by what all callers are shown")
    } else {
        Said::new("the server", "the policy depends on the caller")
    }
}

fn submounts(made: &Made<'_>) -> Said {
    let options = made.options;
    match (options.submounts, made.submounts) {
        _ if made.source.immutable => Said::new("none", "an image has none"),
        _ if !options.owners.is_native() => Said::new("hide", "owners are kept of one file system"),
        (Submounts::Follow, Submounts::Follow) => Said::new("follow", "as they were at the mount"),
        (Submounts::Follow, Submounts::Hide) => {
            Said::new("hide", "the mounts could not be copied, which takes privilege")
        }
        (Submounts::Hide, _) => Said::new("hide", "as asked"),
    }
}

fn owners(made: &Made<'_>) -> Said {
    let owners = &made.options.owners;
    let why = match owners {
        Owners::Native if made.source.immutable => "those that are recorded in the image",
        Owners::Native => "those that files have in the source",
        Owners::Xattr => "in extended attributes of the files, which are all this user's",
        Owners::Db(_) => "in a database beside the files, which are all this user's",
    };
    Said::new(owners.word(), why)
}

fn mounted(made: &Made<'_>) -> Said {
    let (options, way) = (made.options, made.way);
    let uid = nix::unistd::geteuid();
    let everyone = match way {
        Way::Own => options.allow_other.unwrap_or(uid.is_root()),
        Way::Helper => options.allow_other == Some(true),
    };
    let who = if made.is_private() {
        "its command has it, and what that has started".to_owned()
    } else if everyone {
        match namespace::map("self").as_str() {
            "initial" => "every user may enter".to_owned(),
            _ => "every user of that user namespace may enter".to_owned(),
        }
    } else {
        format!("only user {uid} may enter")
    };
    let who = match &options.upper {
        Some(upper) => format!("{who}; what is written goes to {}", shown(upper)),
        None => who,
    };
    match way {
        Way::Own => Said::new("directly", who),
        Way::Helper => {
            Said::new("by fusermount3", format!("{who}; to mount by itself takes privilege"))
        }
    }
}

/// Says in whose namespaces the mount is made, and which ids there are.
fn namespace(made: &Made<'_>) -> Said {
    let what = match &made.options.within {
        _ if made.is_private() => format!("its own, of process {}", made.process),
        Some(entered) => format!("those of process {}, {}", entered.pid, entered.why),
        None => "those it was started in".to_owned(),
    };
    Said::new(
        what,
        match namespace::map(made.process).as_str() {
            "initial" => "ids are those of the host".to_owned(),
            map => format!("ids are those of a user namespace: {map}"),
        },
    )
}

/// Says in the log where the mount was made and how.
pub(super) fn log_place(facts: &Facts) {
    let Facts { namespace, mounted, .. } = facts;
    log::info!(
        "namespaces: {} ({}); mounted {} ({})",
        namespace.what,
        namespace.why,
        mounted.what,
        mounted.why
    );
}

/// Says what was done, and what is held.
pub(super) fn stats(fs: &Fs) -> Stats {
    let held = fs.held();
    let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let mut all: BTreeMap<String, u64> = [
        ("inodes", held.inodes),
        ("nodes", held.nodes),
        ("pins", held.pins),
        ("files", held.files),
        ("directories", held.directories),
        ("missing_names", held.missing),
    ]
    .into_iter()
    .map(|(word, count)| (word.to_owned(), number(count)))
    .collect();
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // One of them is open for this.
        all.insert("descriptors".to_owned(), number(descriptors.count()).saturating_sub(1));
    }
    let named = |(word, count): (&str, u64)| (word.to_owned(), count);
    Stats {
        version: 1,
        requests: count::requests().map(named).collect(),
        counts: count::counts().map(named).collect(),
        held: all,
    }
}

/// Has the log say the same, whatever its level: somebody has asked. The macros of
/// `log` would drop it there, the logger itself knows no level.
pub(super) fn answer(stats: &Stats) {
    log::logger().log(
        &log::Record::builder()
            .level(log::Level::Info)
            .target(module_path!())
            .args(format_args!("stats: {}", line(stats)))
            .build(),
    );
}

/// Says it in one line, without what is 0.
fn line(stats: &Stats) -> String {
    let parts = [&stats.requests, &stats.counts, &stats.held];
    let words = parts.into_iter().flatten().filter(|(_, count)| **count > 0);
    words.map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
}
