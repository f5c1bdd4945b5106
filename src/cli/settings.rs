//! What the options of a mount say, as plain data.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use log::LevelFilter;

use super::fault::Fault;
use super::options::{self, Area, OPTIONS, Opt};
use crate::mount::{
    Atime, Cache, Engine, Flags, ImageOptions, Owners, Partition, Passthrough, Replaced, Submounts,
    Within,
};
use crate::policy;
use crate::text::{coded, decoded, nearest, shown};

/// With fewer, not even the directories above a file would stay open.
const OPEN_FILES_MIN: usize = 16;

/// What is logged and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is logged.
    pub level: LevelFilter,
    /// The file; `None`: standard error in the foreground, else syslog.
    pub file: Option<PathBuf>,
}

/// The options of a mount; `None` where the option was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The options about owners, as written.
    pub policy: policy::options::Options,
    /// The file with the policy.
    pub policy_file: Option<PathBuf>,
    /// What the kernel allows on the mount.
    pub flags: Flags,
    /// Whether only the flags of a mounted file system are to change.
    pub remount: bool,
    /// Whether the options are those of the mount table, with changes: then a
    /// flag that is not there is one to be lifted.
    pub from_table: bool,
    /// Whether users other than the mounting one may enter.
    pub allow_other: Option<bool>,
    /// The device shown in the mount table.
    pub fsname: Option<OsString>,
    /// What the kernel may cache.
    pub cache: Option<Cache>,
    /// Whether the kernel may read and write files by itself.
    pub passthrough: Option<Passthrough>,
    /// How many files of the source that nobody uses stay open at most.
    pub open_files: Option<usize>,
    /// What is to translate.
    pub engine: Option<Engine>,
    /// Whether the kernel may map the ids of the mount in its turn.
    pub allow_idmap: bool,
    /// What is shown of submounts.
    pub submounts: Option<Submounts>,
    /// Where owners are kept.
    pub owners: Option<Owners>,
    /// Which part of a file the image is, and what is kept of it.
    pub image: ImageOptions,
    /// The directory above an image that takes what is written.
    pub upper: Option<PathBuf>,
    /// The directory of a database of them.
    pub owners_dir: Option<PathBuf>,
    /// Whose namespaces the mount is to be made in.
    pub within: Option<Within>,
    /// The process whose end is to end the mount.
    pub with_pid: Option<i32>,
    /// What is logged.
    pub log: Option<Log>,
    /// The options about owners once more, `NAME=VALUE` or `NAME` each, with paths
    /// in full.
    pub written: Vec<String>,
}

impl Settings {
    /// Reads the options of these areas; a later one overrides an earlier one, but for
    /// flags: what refuses something holds wherever it stands. mount(8) puts `nosuid` of
    /// a command line before `allow-suid` of fstab.
    ///
    /// # Errors
    /// A value is not one that its option takes.
    pub fn of(matches: &ArgMatches, areas: &[Area]) -> Result<Self, Fault> {
        let mut given: Vec<(usize, &Opt, &OsStr)> = Vec::new();
        for opt in OPTIONS.iter().filter(|opt| areas.contains(&opt.area)) {
            if opt.value.is_none() && !matches.get_flag(opt.name) {
                continue; // Its default has an index too.
            }
            let values: Vec<&OsStr> = match opt.value {
                Some(_) => {
                    let values = matches.get_many::<OsString>(opt.name);
                    values.into_iter().flatten().map(OsString::as_os_str).collect()
                }
                None => Vec::new(),
            };
            let mut values = values.into_iter();
            for index in matches.indices_of(opt.name).into_iter().flatten() {
                given.push((index, opt, values.next().unwrap_or_default()));
            }
        }
        given.sort_by_key(|(index, ..)| *index);
        let mut settings = Self::default();
        for (_, opt, value) in given {
            settings.apply(opt, value)?;
            if opt.area == Area::Policy {
                settings.written.push(written(opt, value)?);
            }
        }
        if settings.from_table && !settings.remount {
            return Err(Fault::usage("option user_id: a mount belongs to who mounts"));
        }
        Ok(settings)
    }

    /// Makes the settings about owners of what was [`Settings::written`].
    ///
    /// # Errors
    /// As [`Settings::of`].
    pub fn rewritten(words: &[String]) -> Result<Self, Fault> {
        let mut settings = Self::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let opt = options::find(name).filter(|opt| opt.area == Area::Policy);
            let opt = opt.ok_or_else(|| Fault::usage(format!("unknown option {}", shown(name))))?;
            let value = if name == "policy" { decoded(value) } else { value.into() };
            settings.apply(opt, &value)?;
        }
        settings.written = words.to_vec();
        Ok(settings)
    }

    fn apply(&mut self, opt: &Opt, value: &OsStr) -> Result<(), Fault> {
        match opt.name {
            "ro" => self.flags.read_only = Some(true),
            "rw" => self.flags.read_only = Some(false),
            "suid" => allow(&mut self.flags.suid),
            "nosuid" => self.flags.suid = Some(false),
            "dev" => allow(&mut self.flags.dev),
            "nodev" => self.flags.dev = Some(false),
            "exec" => allow(&mut self.flags.exec),
            "noexec" => self.flags.exec = Some(false),
            "symfollow" => allow(&mut self.flags.symfollow),
            "nosymfollow" => self.flags.symfollow = Some(false),
            "relatime" => self.flags.atime = Some(Atime::Relative),
            "noatime" => self.flags.atime = Some(Atime::Never),
            "strictatime" => self.flags.atime = Some(Atime::Strict),
            "diratime" => self.flags.diratime = Some(true),
            "nodiratime" => self.flags.diratime = Some(false),
            "remount" => self.remount = true,
            "user_id" => self.from_table = true,
            "allow-other" => self.allow_other = Some(true),
            "no-allow-other" => self.allow_other = Some(false),
            "fsname" => self.fsname = Some(fsname(value)?),
            "subtype" => subtype(value)?,
            "cache" => self.cache = Some(cache(text("cache", value)?)?),
            "passthrough" => self.passthrough = Some(passthrough(text("passthrough", value)?)?),
            "open-files" => self.open_files = Some(open_files(text("open-files", value)?)?),
            "engine" => self.engine = Some(engine(text("engine", value)?)?),
            "allow-idmap" => self.allow_idmap = true,
            "submounts" => self.submounts = Some(submounts(text("submounts", value)?)?),
            "owners" => self.owners = Some(owners(text("owners", value)?)?),
            "owners-dir" => self.owners_dir = Some(file("owners-dir", value)?),
            "offset" => self.image.part.offset = size("offset", value)?,
            "size" => self.image.part.size = Some(size("size", value)?),
            "device" => self.image.devices.push(file("device", value)?),
            "partition" => self.image.partition = Some(partition(text("partition", value)?)?),
            "verity" => self.image.verity_ignored = verity(text("verity", value)?)?,
            "replaced" => self.image.replaced = Some(replaced(text("replaced", value)?)?),
            "image-cache" => self.image.cache = size("image-cache", value)?,
            "upper" => self.upper = Some(file("upper", value)?),
            "in" => self.within = Some(within(value)?),
            "with-pid" => self.with_pid = Some(with_pid(text("with-pid", value)?)?),
            "log" => self.log = Some(log(value)?),
            "policy" => self.policy_file = Some(PathBuf::from(value)),
            "names" => {
                let value = from_here("names", text("names", value)?)?;
                self.policy.set("names", Some(&value))?;
            }
            name @ ("map-passwd" | "map-group" | "map-passwd-rev" | "map-group-rev") => {
                self.policy.set(name, Some(&list_from_here(name, value)?))?;
            }
            name => {
                let value = opt.value.map(|_| text(name, value)).transpose()?;
                self.policy.set(name, value)?;
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Returns the name of an option that was given and is neither a flag nor
    /// about owners.
    pub fn beside_flags(&self) -> Option<&'static str> {
        let given = [
            (self.allow_other.is_some(), "allow-other"),
            (self.fsname.is_some(), "fsname"),
            (self.cache.is_some(), "cache"),
            (self.passthrough.is_some(), "passthrough"),
            (self.open_files.is_some(), "open-files"),
            (self.engine.is_some(), "engine"),
            (self.allow_idmap, "allow-idmap"),
            (self.submounts.is_some(), "submounts"),
            (self.owners.is_some(), "owners"),
            (self.owners_dir.is_some(), "owners-dir"),
            (
                self.image != ImageOptions::default(),
                "offset, size, device, partition, verity, replaced or image-cache",
            ),
            (self.upper.is_some(), "upper"),
            (self.with_pid.is_some(), "with-pid"),
            (self.log.is_some(), "log"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }
}

/// Allows something, unless that was refused.
const fn allow(flag: &mut Option<bool>) {
    if flag.is_none() {
        *flag = Some(true);
    }
}

fn partition(value: &str) -> Result<Partition, Fault> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = || decimal(value).and_then(|number| u32::try_from(number).ok());
    match value {
        "root" => Ok(Partition::Root),
        _ if is_number => {
            let number = number().filter(|number| *number > 0).map(Partition::Number);
            let wrong = || Fault::usage(format!("option partition: {value}: no number of one"));
            number.ok_or_else(|| wrong().hint("they are counted from 1 on"))
        }
        name => Ok(Partition::Name(name.to_owned())),
    }
}

fn verity(value: &str) -> Result<bool, Fault> {
    match value {
        "ignore" => Ok(true),
        _ => Err(Fault::usage(format!("option verity: {value}")).hint("ignore")),
    }
}

fn replaced(value: &str) -> Result<Replaced, Fault> {
    match value {
        "eio" => Ok(Replaced::Eio),
        "keep" => Ok(Replaced::Keep),
        _ => Err(Fault::usage(format!("option replaced: {value}")).hint("eio or keep")),
    }
}

/// Reads a number of bytes, with K, M or G for powers of 1024.
fn size(name: &str, value: &OsStr) -> Result<u64, Fault> {
    let value = text(name, value)?;
    let units = [("K", 10), ("M", 20), ("G", 30), ("", 0)];
    let unit = units.iter().find_map(|(unit, shift)| Some((value.strip_suffix(unit)?, shift)));
    let bytes = unit.and_then(|(number, shift)| {
        let number: u64 = number.parse().ok().filter(|_| !number.starts_with('+'))?;
        number.checked_mul(1 << shift)
    });
    bytes.ok_or_else(|| {
        Fault::usage(format!("option {name}: {value}: no number of bytes"))
            .hint("write 1048576, 1024K or 1M")
    })
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str, Fault> {
    value.to_str().ok_or_else(|| Fault::usage(format!("option {name}: not text: {}", shown(value))))
}

/// Makes the paths of an option's value absolute: a server has its working
/// directory elsewhere.
fn from_here(name: &str, value: &str) -> Result<String, Fault> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let here = here.to_str().ok_or_else(|| {
        Fault::usage(format!("option {name}: not text: {}", shown(&here)))
            .hint("write the paths in full")
    })?;
    Ok(policy::options::absolute(value, here))
}

/// Does the same for a value that is one path, or two with a comma between.
fn list_from_here(name: &str, value: &OsStr) -> Result<String, Fault> {
    let value = from_here(name, &format!("disk={}", text(name, value)?))?;
    Ok(value.strip_prefix("disk=").unwrap_or_default().to_owned())
}

/// Returns an option about owners such that it means the same wherever it is read.
fn written(opt: &Opt, value: &OsStr) -> Result<String, Fault> {
    let name = opt.name;
    if opt.value.is_none() {
        return Ok(name.to_owned());
    }
    let value = match name {
        "policy" => {
            let path = std::path::absolute(value).unwrap_or_else(|_| PathBuf::from(value));
            coded(path)
        }
        "names" => from_here(name, text(name, value)?)?,
        "map-passwd" | "map-group" | "map-passwd-rev" | "map-group-rev" => {
            list_from_here(name, value)?
        }
        _ => text(name, value)?.to_owned(),
    };
    Ok(format!("{name}={value}"))
}

fn fsname(value: &OsStr) -> Result<OsString, Fault> {
    if value.is_empty() || value.as_encoded_bytes().contains(&0) {
        return Err(Fault::usage("option fsname: a name is needed"));
    }
    Ok(value.to_os_string())
}

fn subtype(value: &OsStr) -> Result<(), Fault> {
    if value == "idmapfs" {
        return Ok(());
    }
    Err(Fault::usage(format!("option subtype: {}: it is always idmapfs", shown(value))))
}

fn cache(value: &str) -> Result<Cache, Fault> {
    let bad = |why| {
        let hint = "watch, ttl=SECONDS, exclusive or none";
        Fault::usage(format!("option cache: {value}: {why}")).hint(hint)
    };
    match value {
        "none" => Ok(Cache::Off),
        "watch" => Ok(Cache::Watch),
        "exclusive" => Ok(Cache::Exclusive),
        _ => {
            let seconds = value.strip_prefix("ttl=").ok_or_else(|| bad("not a way to cache"))?;
            match decimal(seconds) {
                Some(0) => Ok(Cache::Off),
                Some(seconds) if u32::try_from(seconds).is_ok() => {
                    Ok(Cache::Ttl(Duration::from_secs(seconds)))
                }
                _ => Err(bad("not a number of seconds, in plain decimal")),
            }
        }
    }
}

/// Reads a plain decimal number: digits only, no sign, no space.
fn decimal(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn passthrough(value: &str) -> Result<Passthrough, Fault> {
    match value {
        "auto" => Ok(Passthrough::Auto),
        "off" => Ok(Passthrough::Off),
        _ => Err(Fault::usage(format!("option passthrough: {value}")).hint("auto or off")),
    }
}

fn open_files(value: &str) -> Result<usize, Fault> {
    let number = decimal(value).and_then(|number| usize::try_from(number).ok());
    number.filter(|number| *number >= OPEN_FILES_MIN).ok_or_else(|| {
        Fault::usage(format!("option open-files: {value}"))
            .hint(format!("a plain number, {OPEN_FILES_MIN} or more"))
    })
}

fn engine(value: &str) -> Result<Engine, Fault> {
    match value {
        "fuse" => Ok(Engine::Fuse),
        "kernel" => Ok(Engine::Kernel),
        "auto" => Ok(Engine::Auto),
        _ => Err(Fault::usage(format!("option engine: {value}")).hint("fuse, kernel or auto")),
    }
}

fn submounts(value: &str) -> Result<Submounts, Fault> {
    match value {
        "follow" => Ok(Submounts::Follow),
        "hide" => Ok(Submounts::Hide),
        _ => Err(Fault::usage(format!("option submounts: {value}: neither follow nor hide"))),
    }
}

fn owners(value: &str) -> Result<Owners, Fault> {
    match value {
        "native" => Ok(Owners::Native),
        "xattr" => Ok(Owners::Xattr),
        "db" => Ok(Owners::Db(None)),
        _ => Err(Fault::usage(format!("option owners: {value}")).hint("native, xattr or db")),
    }
}

fn file(name: &str, value: &OsStr) -> Result<PathBuf, Fault> {
    std::path::absolute(value)
        .map_err(|error| Fault::usage(format!("option {name}: {}: {error}", shown(value))))
}

fn within(value: &OsStr) -> Result<Within, Fault> {
    Within::parse(value).ok_or_else(|| {
        Fault::usage(format!("option in: {}", shown(value)))
            .hint("podman, a process id, or the path of a file with one")
    })
}

fn with_pid(value: &str) -> Result<i32, Fault> {
    let pid = decimal(value).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    pid.ok_or_else(|| Fault::usage(format!("option with-pid: {value}: not a process id")))
}

const LEVELS: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

fn log(value: &OsStr) -> Result<Log, Fault> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut parts = value.as_bytes().splitn(2, |byte| *byte == b',');
    let word = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let level = LEVELS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level);
    let level = level.ok_or_else(|| {
        let known = LEVELS.iter().map(|(name, _)| *name);
        let hint = nearest(&word, known).map_or_else(
            || "off, error, warn, info, debug or trace".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        Fault::usage(format!("option log: {word}: not a level")).hint(hint)
    })?;
    let file = match parts.next() {
        None => None,
        Some(rest) => match rest.strip_prefix(b"file=") {
            Some(path) if path.starts_with(b"/") => Some(PathBuf::from(OsStr::from_bytes(path))),
            Some(_) => return Err(Fault::usage("option log: file= needs an absolute path")),
            None => {
                let rest = shown(OsStr::from_bytes(rest));
                return Err(Fault::usage(format!("option log: {rest}: not file=PATH")));
            }
        },
    };
    Ok(Log { level, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_decimal() {
        for (text, want) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("4294967295", Some(4_294_967_295)),
            ("", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("0x1", None),
            ("1_0", None),
            ("٣", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(decimal(text), want, "{text}");
        }
    }

    #[test]
    fn what_refuses_something_holds_wherever_it_stands() {
        let flags = |words: &str| {
            let mut settings = Settings::default();
            for word in words.split(',') {
                settings.apply(options::find(word).unwrap(), OsStr::new("")).unwrap();
            }
            let Flags { suid, dev, exec, symfollow, .. } = settings.flags;
            [suid, dev, exec, symfollow]
        };
        for (words, want) in [
            ("suid,allow-dev,exec,symfollow", [Some(true); 4]),
            ("nosuid,nodev,allow-suid,dev", [Some(false), Some(false), None, None]),
            ("suid,allow-dev,nodev,nosuid", [Some(false), Some(false), None, None]),
            ("noexec,nosymfollow,exec,symfollow", [None, None, Some(false), Some(false)]),
            ("rw,ro,exec", [None, None, Some(true), None]),
        ] {
            assert_eq!(flags(words), want, "{words}");
        }
    }

    #[test]
    fn cache_and_submounts_take_their_words() {
        for (value, want) in [
            ("none", Some(Cache::Off)),
            ("ttl=0", Some(Cache::Off)),
            ("ttl=1", Some(Cache::Ttl(Duration::from_secs(1)))),
            ("ttl=86400", Some(Cache::Ttl(Duration::from_secs(86_400)))),
            ("ttl=+1", None),
            ("ttl=", None),
            ("ttl=0x10", None),
            ("ttl=4294967296", None),
            ("watch", Some(Cache::Watch)),
            ("exclusive", Some(Cache::Exclusive)),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(cache(value).ok(), want, "{value}");
        }
        assert_eq!(open_files("16"), Ok(16));
        for wrong in ["15", "0", "-1", "+16", "16k", ""] {
            assert!(open_files(wrong).is_err(), "{wrong}");
        }
        assert_eq!(passthrough("off"), Ok(Passthrough::Off));
        assert_eq!(passthrough("auto"), Ok(Passthrough::Auto));
        assert!(passthrough("on").is_err());
        assert_eq!(replaced("eio"), Ok(Replaced::Eio));
        assert_eq!(replaced("keep"), Ok(Replaced::Keep));
        assert!(replaced("ignore").is_err());
        assert_eq!(engine("auto"), Ok(Engine::Auto));
        assert!(engine("bindfs").is_err());
        assert_eq!(submounts("hide"), Ok(Submounts::Hide));
        assert_eq!(submounts("follow"), Ok(Submounts::Follow));
        assert!(submounts("show").is_err());
        assert_eq!(with_pid("7"), Ok(7));
        for value in ["", "0", "-1", "4294967296", "self"] {
            assert!(with_pid(value).is_err(), "{value}");
        }
    }

    #[test]
    fn log_takes_a_level_and_a_file() {
        let file = Some(PathBuf::from("/var/log/a,b"));
        for (value, want) in [
            ("warn", Ok(Log { level: LevelFilter::Warn, file: None })),
            ("debug,file=/var/log/a,b", Ok(Log { level: LevelFilter::Debug, file })),
            ("debug,file=rel", Err("option log: file= needs an absolute path")),
            ("debug,fil=/x", Err("option log: fil=/x: not file=PATH")),
            ("wran", Err("option log: wran: not a level")),
            ("", Err("option log: : not a level")),
        ] {
            let got = log(OsStr::new(value));
            assert_eq!(
                got.as_ref().map_err(|fault| fault.text.as_str()),
                want.as_ref().map_err(|t| *t)
            );
        }
    }

    #[test]
    fn what_was_written_means_the_same_again() {
        let words =
            ["map=u:1:2:3", "names=disk=/a/passwd,/a/group", "names=view=host", "chown-deny"];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        let settings = Settings::rewritten(&words).unwrap();
        assert_eq!(settings.policy.map, ["u:1:2:3"]);
        assert_eq!(settings.policy.order, ["map", "names"]);
        assert_eq!(settings.written, words);
        assert!(Settings::rewritten(&["ro".to_owned()]).is_err());
        let here = std::env::current_dir().unwrap();
        let policy = options::find("policy").unwrap();
        let want = format!("policy={}/p.toml", here.display());
        assert_eq!(written(policy, OsStr::new("p.toml")).unwrap(), want);
    }

    #[test]
    fn names_of_the_mount_table_are_checked() {
        assert!(subtype(OsStr::new("idmapfs")).is_ok());
        assert!(subtype(OsStr::new("bindfs")).is_err());
        assert!(fsname(OsStr::new("")).is_err());
    }
}
