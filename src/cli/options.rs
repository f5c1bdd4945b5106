//! The options, each defined once: parser, `-o`, help and tests use this table.

use clap::{Arg, ArgAction, Command};

/// What an option is about; also its heading in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// How files are shown and stored.
    Policy,
    /// What the kernel allows on the mount.
    Mount,
    /// What the mount is called, and who may enter.
    Naming,
    /// How the server works.
    Server,
    /// Where owners are kept.
    Owners,
    /// Which part of a file is the image, and what is above it.
    Image,
}

impl Area {
    const fn heading(self) -> &'static str {
        match self {
            Self::Policy => "Policy",
            Self::Mount => "Mount flags",
            Self::Naming => "Mount",
            Self::Server => "Server",
            Self::Owners => "Owners",
            Self::Image => "Images",
        }
    }
}

/// One option, written `--NAME=VALUE` or `-o NAME=VALUE`.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its name.
    pub name: &'static str,
    /// How its value is called in the help; `None`: it is a flag.
    pub value: Option<&'static str>,
    /// Other spellings of the name.
    pub aliases: &'static [&'static str],
    /// What it is about.
    pub area: Area,
    /// Its line in the help; empty for a spelling of another program, which
    /// is accepted and not advertised.
    pub help: &'static str,
}

const fn value(area: Area, name: &'static str, of: &'static str, help: &'static str) -> Opt {
    Opt { name, value: Some(of), aliases: &[], area, help }
}

const fn flag(area: Area, name: &'static str, help: &'static str) -> Opt {
    Opt { name, value: None, aliases: &[], area, help }
}

impl Opt {
    const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Reports whether this option goes by that name.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

use Area::{Image, Mount, Naming, Owners, Policy, Server};

/// Every option of a mount.
pub const OPTIONS: &[Opt] = &[
    value(Policy, "map", "EXTENT", "Show disk ids as view ids: [u:|g:]DISK:VIEW:COUNT; repeatable"),
    value(
        Policy,
        "names",
        "SIDE=LIST",
        "Pair ids by name: disk=LIST and view=LIST, each host, source or PASSWD,GROUP",
    ),
    value(
        Policy,
        "prefix",
        "TEXT",
        "Show the disk user or group called TEXT and a name as that name",
    ),
    value(Policy, "present-as", "USER[:GROUP]", "Show every file as owned by this"),
    value(Policy, "store-as", "USER[:GROUP]", "Store whatever callers create as owned by this"),
    value(Policy, "unmapped", "HOW", "Ids that no rule maps: refuse, or present-as=USER[:GROUP]"),
    value(Policy, "hide", "GLOB", "Hide this path of the source and all below it; repeatable"),
    value(Policy, "policy", "FILE", "Read the policy from a file"),
    value(Policy, "uidmapping", "LIST", ""),
    value(Policy, "gidmapping", "LIST", ""),
    value(Policy, "X-mount.idmap", "LIST", ""),
    value(Policy, "force-user", "USER", ""),
    value(Policy, "force-group", "GROUP", ""),
    value(Policy, "create-for-user", "USER", ""),
    value(Policy, "create-for-group", "GROUP", ""),
    value(Policy, "squash_to_uid", "UID", ""),
    value(Policy, "squash_to_gid", "GID", ""),
    flag(Policy, "squash_to_root", ""),
    value(Policy, "uid-offset", "N", ""),
    value(Policy, "gid-offset", "N", ""),
    value(Policy, "chmod-filter", "EXPRESSION", ""),
    value(Policy, "create-with-perms", "EXPRESSION", ""),
    value(Policy, "perms", "EXPRESSION", ""),
    flag(Policy, "create-as-user", ""),
    flag(Policy, "delete-deny", ""),
    flag(Policy, "rename-deny", ""),
    flag(Policy, "chown-normal", ""),
    flag(Policy, "chown-ignore", ""),
    flag(Policy, "chown-deny", ""),
    flag(Policy, "chgrp-normal", ""),
    flag(Policy, "chgrp-ignore", ""),
    flag(Policy, "chgrp-deny", ""),
    flag(Policy, "chmod-normal", ""),
    flag(Policy, "chmod-ignore", ""),
    flag(Policy, "chmod-deny", ""),
    flag(Policy, "chmod-allow-x", ""),
    flag(Policy, "xattr-none", ""),
    flag(Policy, "xattr-ro", ""),
    flag(Policy, "xattr-rw", ""),
    value(Policy, "map-passwd", "FILE", ""),
    value(Policy, "map-group", "FILE", ""),
    value(Policy, "map-passwd-rev", "FILE", ""),
    value(Policy, "map-group-rev", "FILE", ""),
    value(Policy, "mirror", "LIST", ""),
    value(Policy, "mirror-only", "LIST", ""),
    flag(Mount, "ro", "Mount read-only"),
    flag(Mount, "rw", "Mount read-write (the default for a directory)"),
    flag(Mount, "suid", "Honour set-user-id and set-group-id bits").or(&["allow-suid"]),
    flag(Mount, "nosuid", "Ignore set-id bits (the default)"),
    flag(Mount, "dev", "Allow device nodes to be used").or(&["allow-dev"]),
    flag(Mount, "nodev", "Refuse the use of device nodes (the default)"),
    flag(Mount, "exec", "Allow programs to be run (the default)"),
    flag(Mount, "noexec", "Refuse to run programs"),
    flag(Mount, "symfollow", "Follow symbolic links (the default)"),
    flag(Mount, "nosymfollow", "Follow no symbolic link"),
    flag(Mount, "relatime", "Update access times now and then").or(&["atime", "nostrictatime"]),
    flag(Mount, "noatime", "Never update access times"),
    flag(Mount, "strictatime", "Update access times at every read"),
    flag(Mount, "nodiratime", "Never update access times of directories"),
    flag(Mount, "diratime", "Update access times of directories too"),
    flag(Mount, "remount", "Change the flags of a mounted file system"),
    value(Mount, "user_id", "UID", ""),
    flag(Naming, "allow-other", "Let every user in (the default for root)").or(&["allow_other"]),
    flag(Naming, "no-allow-other", "Let only the mounting user in").or(&["no_allow_other"]),
    value(Naming, "fsname", "NAME", "The device shown in the mount table (default: the source)"),
    value(Naming, "subtype", "idmapfs", ""),
    value(Naming, "with-pid", "PID", "Unmount when this process ends"),
    value(
        Server,
        "cache",
        "HOW",
        "What the kernel may cache: watch (default), ttl=SECONDS, exclusive or none",
    ),
    value(
        Server,
        "passthrough",
        "HOW",
        "Whether the kernel reads and writes by itself: auto (default) or off",
    ),
    value(
        Server,
        "engine",
        "WHAT",
        "What translates: fuse (default), kernel (its idmapped mount), or auto",
    ),
    value(
        Server,
        "in",
        "WHERE",
        "Mount in the namespaces of: podman (rootless), a process PID, or one in a FILE",
    ),
    flag(
        Server,
        "allow-idmap",
        "Let the kernel map the mount's ids in its turn (idmapped mounts of it)",
    )
    .or(&["allow_idmap"]),
    value(
        Server,
        "open-files",
        "NUMBER",
        "How many files of the source stay open at most (default: half of ulimit -n)",
    )
    .or(&["open_files"]),
    value(Server, "submounts", "HOW", "What is mounted below the source: follow (default) or hide"),
    value(
        Owners,
        "owners",
        "WHERE",
        "Where owners are kept: native (default), xattr (in attributes of the files) or db",
    ),
    value(Owners, "owners-dir", "DIR", "The directory of the database of owners=db"),
    value(Image, "offset", "BYTES", "Where in its file an image begins"),
    value(Image, "size", "BYTES", "How long an image is (default: to the end of its file)"),
    value(Image, "device", "FILE", "Another file that an erofs has data in; repeatable, in order"),
    value(Image, "partition", "WHICH", "Which partition of a disk (GPT): root, a number or a name"),
    value(Image, "verity", "ignore", "Show a partition although it has dm-verity hashes"),
    value(
        Image,
        "replaced",
        "HOW",
        "Once another file has the name of an image: eio (default; no more is read) or keep",
    ),
    value(Image, "image-cache", "BYTES", "Memory for what is kept of an image (default 128M)")
        .or(&["image_cache"]),
    value(Image, "upper", "DIR", "Have what is written to an image go to this directory"),
    value(Server, "log", "LEVEL", "error, warn, info, debug or trace; then ,file=PATH"),
];

/// Options of mount(8) and fstab(5) that are for others to read.
pub const BOOKKEEPING: &[&str] = &[
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "_netdev",
    "defaults",
    "async",
    "loud",
    "silent",
    "mand",
    "nomand",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "norelatime",
    "default_permissions",
    "comment",
    // What the mount table shows of a FUSE file system; mount(8) adds it to a remount.
    "group_id",
    "max_read",
    "blksize",
    // What bindfs asks for and is always so here.
    "multithreaded",
    "enable-ioctl",
    "no-direct-io",
];

/// Finds an option by name or alias.
pub fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|opt| opt.is(name))
}

/// Returns every name that may stand before `=` or alone.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter(|opt| !opt.help.is_empty()).map(|opt| opt.name)
}

/// Gives a command the options of some areas.
pub fn with_options(command: Command, areas: &[Area]) -> Command {
    OPTIONS.iter().filter(|opt| areas.contains(&opt.area)).fold(command, |command, opt| {
        let arg = Arg::new(opt.name)
            .long(opt.name)
            .aliases(opt.aliases)
            .help(opt.help)
            .hide(opt.help.is_empty())
            .help_heading(opt.area.heading());
        command.arg(match opt.value {
            Some(of) => arg
                .value_name(of)
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(std::ffi::OsString)),
            None => arg.action(ArgAction::SetTrue),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_documented_and_completed() {
        let man = include_str!("../../man/idmapfs.1").replace('\n', " ");
        let helper = include_str!("../../man/mount.idmapfs.8");
        let completion = include_str!("../../packaging/completions/idmapfs.bash");
        for opt in OPTIONS {
            let name = if opt.help.is_empty() {
                opt.name.to_owned()
            } else {
                assert!(completion.contains(&format!("--{}", opt.name)), "{}", opt.name);
                format!("Fl \\-{}", opt.name)
            };
            // Their place is the table of mounts.
            assert!(matches!(opt.name, "subtype" | "user_id") || man.contains(&name), "{name}");
        }
        for name in BOOKKEEPING {
            assert!(helper.contains(name), "{name}");
        }
    }
}
