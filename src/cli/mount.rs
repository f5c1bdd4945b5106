//! Mounting, by hand or for mount(8).

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::logging;
use super::policy::{renew, server, spec};
use super::request::{How, Mount};
use super::settings::Settings;
use crate::control::{self, Record};
use crate::mount::{
    self, Cache, Engine, Flags, IdMapped, MountError, Options, Owners, Passthrough, Submounts,
    Unsaid,
};
use crate::policy::Spec;
use crate::sys::mountinfo::{self, Mount as MountLine};
use crate::text::shown;

/// What the kernel caches unless told otherwise.
const DEFAULT_CACHE: Cache = Cache::Watch;

/// How long a server that has mounted may need to make its mount known.
const PUBLISHING: Duration = Duration::from_secs(2);

/// Mounts, or changes the flags of a mount.
///
/// # Errors
/// What is wrong with the options, or why the mount failed.
pub fn run(request: &Mount) -> Result<(), Fault> {
    let (source, target) = (Path::new(&request.source), Path::new(&request.target));
    // Before anything is looked at: all of it is there.
    let within = request.settings.within.as_ref().map(mount::enter);
    let within = within.transpose().map_err(MountError::from)?;
    let spec = spec(&request.settings, source)?;
    if request.settings.remount {
        return remount(request, target, &spec);
    }
    if request.how == How::Fake {
        return fake(request, &spec);
    }
    if request.helper && is_mounted(source, target, &spec, &request.settings)? {
        if request.verbose {
            say(&format!("{} is mounted already", shown(target)));
        }
        return Ok(());
    }
    let foreground = request.how == How::Foreground;
    logging::start(request.settings.log.as_ref(), foreground)?;
    let mut options = options(&request.settings, spec, source, target, foreground)?;
    options.within = within;
    keep_image(request, &mut options);
    mount::mount(&options)?;
    if request.verbose {
        let (source, target) = (shown(source), shown(target));
        say(&format!("{source} mounted on {target}"));
    }
    Ok(())
}

fn say(line: &str) {
    use std::io::Write as _;
    // The work is done, whoever listens.
    let (Ok(()) | Err(_)) = writeln!(std::io::stdout(), "idmapfs: {line}");
}

/// Puts settings and defaults together.
///
/// # Errors
/// As [`renew`].
pub fn options(
    settings: &Settings,
    spec: Spec,
    source: &Path,
    target: &Path,
    foreground: bool,
) -> Result<Options, Fault> {
    Ok(Options {
        source: source.to_owned(),
        target: target.to_owned(),
        spec,
        renew: renew(settings, source)?,
        flags: flags(settings, source),
        allow_other: settings.allow_other,
        fsname: settings.fsname.clone(),
        cache: settings.cache.unwrap_or(DEFAULT_CACHE),
        passthrough: settings.passthrough.unwrap_or(Passthrough::Auto),
        open_files: settings.open_files,
        submounts: submounts(settings)?,
        owners: owners(settings)?,
        image: settings.image.clone(),
        upper: settings.upper.clone(),
        engine: engine(settings),
        within: None,
        allow_idmap: settings.allow_idmap,
        foreground,
        with_pid: settings.with_pid,
        written: settings.written.clone(),
    })
}

/// Returns the flags of the mount: that of an image can be written only where something
/// is above it.
fn flags(settings: &Settings, source: &Path) -> Flags {
    let fixed = settings.upper.is_none() && mount::is_image(source);
    let read_only = settings.flags.read_only.or(fixed.then_some(true));
    Flags { read_only, ..settings.flags }
}

/// Returns where owners are kept.
///
/// # Errors
/// `owners-dir` is given, and there is no database.
pub fn owners(settings: &Settings) -> Result<Owners, Fault> {
    match (settings.owners.clone().unwrap_or_default(), &settings.owners_dir) {
        (Owners::Db(_), dir) => Ok(Owners::Db(dir.clone())),
        (owners, None) => Ok(owners),
        (Owners::Native | Owners::Xattr, Some(_)) => {
            Err(Fault::usage("option owners-dir: there is no database").hint("add owners=db"))
        }
    }
}

/// Returns what is shown of submounts: what is kept of owners is of one file system.
fn submounts(settings: &Settings) -> Result<Submounts, Fault> {
    let kept = settings.owners.as_ref().filter(|owners| !owners.is_native());
    match (kept, settings.submounts) {
        (None, asked) => Ok(asked.unwrap_or(Submounts::Follow)),
        (Some(_), None | Some(Submounts::Hide)) => Ok(Submounts::Hide),
        (Some(owners), Some(Submounts::Follow)) => Err(Fault::usage(format!(
            "option submounts: follow: owners={} are kept of one file system",
            owners.word()
        ))
        .hint("leave it out: what is mounted below the source is hidden then")),
    }
}

fn engine(settings: &Settings) -> Engine {
    settings.engine.unwrap_or(Engine::Fuse)
}

/// Takes `rw` of an image for nothing where mount(8) says it by itself.
fn keep_image(request: &Mount, options: &mut Options) {
    if request.helper && options.upper.is_none() && mount::is_image(&options.source) {
        options.flags.read_only = Some(true);
    }
}

/// Checks what can be checked without mounting.
fn fake(request: &Mount, spec: &Spec) -> Result<(), Fault> {
    let (source, target) = (Path::new(&request.source), Path::new(&request.target));
    let _policy = spec.build(&server()?)?;
    let mut options = options(&request.settings, spec.clone(), source, target, false)?;
    keep_image(request, &mut options);
    mount::compatible(&options)?;
    mount::check_engine(&options)?;
    mount::is_target(target)?;
    Ok(())
}

/// Reports whether the mount that is asked for is there.
///
/// mount(8) cannot tell: the root of our mounts is below that of their file
/// system, which it takes for another mount.
///
/// # Errors
/// Something else of ours is mounted there.
fn is_mounted(
    source: &Path,
    target: &Path,
    spec: &Spec,
    settings: &Settings,
) -> Result<bool, Fault> {
    let engine = engine(settings);
    if let Some(there) = idmapped_at(target)?.filter(|there| there.shows(source)) {
        return match (engine, there.is_by(spec)) {
            (Engine::Fuse, _) => Err(already(target, "the kernel's idmapped mount", REMAKE)),
            (_, Some(false)) => Err(already(target, "another policy", REMAKE)),
            // Where the kernel does not tell its map, it is taken to be this one.
            (Engine::Kernel | Engine::Auto, Some(true) | None) => {
                let flag = there.lacks(settings.flags);
                flag.map_or(Ok(true), |flag| {
                    let what = format!("an idmapped mount without {flag}");
                    Err(already(target, &what, REMAKE))
                })
            }
        };
    }
    let Some(record) = live_at(target)? else { return Ok(false) };
    let same_source = source.canonicalize().is_ok_and(|source| record.source == source);
    if !same_source {
        return Err(already(target, "another source", REMAKE));
    }
    if record.policy != spec.describe() {
        let hint = "idmapfs reload has it read its policy file again; else umount it first";
        return Err(already(target, "another policy", hint));
    }
    let fits = |there: MountLine| match &settings.upper {
        Some(upper) => mount::upper_directory(upper).is_ok_and(|upper| there.has_upper(&upper)),
        None => !there.is_above_ours(),
    };
    if !ours_at(target)?.is_some_and(fits) {
        return Err(already(target, "another upper directory", REMAKE));
    }
    match engine {
        Engine::Kernel => Err(already(target, "a server's mount", REMAKE)),
        Engine::Fuse | Engine::Auto => Ok(true),
    }
}

const REMAKE: &str = "umount it first";
const RELOAD: &str = "idmapfs reload has the mount read its policy file again";

fn already(target: &Path, what: &str, hint: &str) -> Fault {
    Fault::mount(format!("{}: {what} is mounted there already", shown(target))).hint(hint)
}

/// Returns the kernel's idmapped mount at a path, if one is there.
fn idmapped_at(target: &Path) -> Result<Option<IdMapped>, Fault> {
    IdMapped::at(target).map_err(|error| Fault::mount(format!("mount table: {error}")))
}

/// Returns the record of the live mount at a path.
fn live_at(target: &Path) -> Result<Option<Record>, Fault> {
    let Some(there) = ours_at(target)? else { return Ok(None) };
    let records = control::live()?;
    // The number of an overlay is no connection's.
    let is_its = |record: &Record| match there.is_above_ours() {
        true => record.target.as_ref() == Some(&there.point),
        false => record.connection == there.device.1,
    };
    Ok(records.into_iter().find(is_its))
}

/// Returns the mount of ours at a path, or the overlay above one, if one is there.
fn ours_at(target: &Path) -> Result<Option<MountLine>, Fault> {
    let there = mountinfo::mount_behind(target)
        .map_err(|error| Fault::mount(format!("mount table: {error}")))?;
    Ok(there.filter(MountLine::is_ours))
}

/// Does as [`live_at`], but waits for a server that has just started: its mount is
/// there a moment before it is known.
fn known_at(target: &Path) -> Result<Option<Record>, Fault> {
    if ours_at(target)?.is_none() {
        return Ok(None);
    }
    let start = Instant::now();
    loop {
        match live_at(target)? {
            None if start.elapsed() < PUBLISHING => thread::sleep(Duration::from_millis(20)),
            known => return Ok(known),
        }
    }
}

/// Reports whether what is mounted at a path is an image, with nothing to be written above.
fn shows_image(target: &Path) -> Result<bool, Fault> {
    if ours_at(target)?.is_none_or(|mount| !mountinfo::is_ours(&mount.fstype)) {
        return Ok(false);
    }
    Ok(known_at(target)?.is_some_and(|record| mount::is_image(&record.source)))
}

/// Changes the flags of a mount.
fn remount(request: &Mount, target: &Path, spec: &Spec) -> Result<(), Fault> {
    let settings = &request.settings;
    let given = match &settings.policy_file {
        Some(_) => Some("policy"),
        None => settings.policy.first_given(),
    };
    if let Some(name) = given {
        // mount(8) adds what fstab says; no change is no offence.
        let (same, hint) = match idmapped_at(target)? {
            Some(there) => (there.is_by(spec) != Some(false), REMAKE),
            None => {
                (known_at(target)?.is_some_and(|record| record.policy == spec.describe()), RELOAD)
            }
        };
        if !same {
            return Err(
                Fault::usage(format!("option {name}: a remount changes flags only")).hint(hint)
            );
        }
    }
    if !request.helper
        && !settings.from_table
        && let Some(name) = settings.beside_flags()
    {
        return Err(Fault::usage(format!("option {name}: a remount changes flags only")));
    }
    let mut flags = if settings.from_table { lifted(settings.flags) } else { settings.flags };
    if flags.read_only == Some(false) && shows_image(target)? {
        // mount(8) says `rw` by itself, unless the table of mounts says what there is.
        if !request.helper || settings.from_table {
            return Err(MountError::OfImage("rw", "it is never changed; leave it out").into());
        }
        flags.read_only = None;
    }
    let lifts = [(flags.suid, "suid"), (flags.dev, "dev")];
    if let Some((_, name)) = lifts.into_iter().find(|(flag, _)| *flag == Some(true))
        && ours_at(target)?.is_some()
    {
        let Some(record) = known_at(target)? else {
            return Err(Fault::mount(format!(
                "option {name}: the policy of that mount is not known"
            ))
            .hint("umount it, and mount it with that option"));
        };
        if record.policy.split(',').any(is_about_callers) {
            return Err(MountError::Callers(name).into());
        }
    }
    // Without fstab mount(8) passes the flags in force, and leaves out those to be lifted.
    let is_complete = request.helper && !settings.from_table;
    let unsaid = if is_complete { Unsaid::Default } else { Unsaid::Stays };
    Ok(mount::remount(target, flags, unsaid)?)
}

/// Reports whether a word of a policy's description is about callers.
fn is_about_callers(word: &str) -> bool {
    word.starts_with("mirror")
}

/// Lifts the flags that mount(8) has left out of those in the mount table: this
/// is how it passes `suid`, `dev`, `exec`, `symfollow` and `diratime` on.
fn lifted(flags: Flags) -> Flags {
    Flags {
        suid: flags.suid.or(Some(true)),
        dev: flags.dev.or(Some(true)),
        exec: flags.exec.or(Some(true)),
        symfollow: flags.symfollow.or(Some(true)),
        diratime: flags.diratime.or(Some(true)),
        ..flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse::parse;
    use crate::cli::request::Request;
    use std::ffi::OsString;

    fn request(words: &[&str]) -> Mount {
        match parse(words.iter().map(OsString::from)) {
            Ok(Request::Mount(mount)) => mount,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let request = request(&["idmapfs", "/s", "/t", "-o", "ro,fsname=x"]);
        let source = Path::new(&request.source);
        let options =
            options(&request.settings, Spec::default(), source, &request.target, false).unwrap();
        assert_eq!(options.flags, Flags { read_only: Some(true), ..Flags::default() });
        assert_eq!(options.cache, DEFAULT_CACHE);
        assert_eq!(options.submounts, Submounts::Follow);
        assert_eq!(options.fsname, Some("x".into()));
        assert_eq!(options.allow_other, None);
    }

    #[test]
    fn what_is_mounted_below_has_no_records() {
        for (more, wanted) in [
            ("owners=xattr", Some(Submounts::Hide)),
            ("owners=db,submounts=hide", Some(Submounts::Hide)),
            ("owners=xattr,submounts=follow", None),
            ("owners=native,submounts=follow", Some(Submounts::Follow)),
        ] {
            let request = request(&["idmapfs", "/s", "/t", "-o", more]);
            assert_eq!(submounts(&request.settings).ok(), wanted, "{more}");
        }
    }

    #[test]
    fn a_fake_mount_finds_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (dir, file) = (dir.path().to_str().unwrap(), file.to_str().unwrap());
        for (source, target, extra, want) in [
            (dir, dir, "ro", None),
            (dir, file, "ro", Some((32, "mount point "))),
            ("/nonexistent", dir, "ro", Some((32, "source /nonexistent: No such file"))),
            (dir, dir, "cache=watch", None),
            (dir, dir, "mirror=7", None),
            (dir, dir, "engine=auto,mirror=7", None),
            (dir, dir, "engine=kernel,mirror=7", Some((1, "kernel: the policy depends on the"))),
            (dir, dir, "engine=kernel,fsname=x", Some((1, "engine: kernel: option fsname"))),
            (dir, dir, "mirror=7,suid", Some((1, "option suid: not beside a policy that depends"))),
            (
                dir,
                dir,
                "mirror-only=7,dev",
                Some((1, "option dev: not beside a policy that depends")),
            ),
            (dir, dir, "map=1:2", Some((1, "option map: extent"))),
            (dir, dir, "map=1:2:3,present-as=4", Some((1, "option present-as: excludes"))),
        ] {
            let got = run(&request(&["mount.idmapfs", source, target, "-f", "-o", extra]));
            match (got, want) {
                (Ok(()), None) => {}
                (Err(fault), Some((code, text))) => {
                    assert_eq!(fault.exit.code(), code);
                    assert!(fault.text.contains(text), "{fault}");
                }
                (got, want) => panic!("{got:?} {want:?}"),
            }
        }
    }

    #[test]
    fn a_remount_changes_flags_only() {
        for (words, text) in [
            (&["idmapfs", "/s", "/nonexistent", "-o", "remount,map=1:2:3"][..], "option map: "),
            (&["idmapfs", "/s", "/nonexistent", "-o", "remount,cache=none"], "option cache: "),
            (&["idmapfs", "/s", "/nonexistent", "-o", "remount,fsname=x"], "option fsname: "),
            (&["idmapfs", "/s", "/nonexistent", "-o", "remount,engine=auto"], "option engine: "),
        ] {
            let fault = run(&request(words)).unwrap_err();
            assert_eq!(fault.exit.code(), 1, "{fault}");
            assert!(fault.text.starts_with(text), "{fault}");
        }
        let fault = run(&request(&["idmapfs", "/s", "/", "-o", "remount,ro"])).unwrap_err();
        assert_eq!(
            (fault.exit.code(), fault.text.as_str()),
            (32, "/: no idmapfs is mounted there")
        );
    }
}
