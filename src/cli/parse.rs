//! From the argument list to a request: which command, with what.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::commands::{
    ALL, COMMANDS, FOR_EXPLAIN, FOR_RUN, abort_command, check_command, explain_command,
    helper_command, matched, mount_command, reload_command, run_command, stats_command,
};
use super::dash_o::{self, Unknown};
use super::fault::Fault;
use super::form::Form;
use super::options::Area;
use super::request::{Check, Explain, How, Live, Mount, Request, Run};
use super::settings::Settings;

/// Reads an argument list whose first word is the name of the program.
///
/// # Errors
/// The list is not one that the program takes.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, Fault> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_else(|| OsString::from("idmapfs"));
    let base = Path::new(&program).file_name().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    if base.as_encoded_bytes().starts_with(b"mount.") {
        return helper(rest);
    }
    let word = rest.first().and_then(|word| word.to_str()).unwrap_or_default();
    match word {
        "run" => run(rest),
        "explain" => explain(rest),
        "check" => check(rest),
        "reload" => reload(rest),
        "stats" | "--stats" => stats(rest),
        "owners" => super::owners::ask::ask(rest),
        "image" => super::image::ask::ask(rest),
        "abort" => abort(rest),
        _ => mount(rest),
    }
}

fn mount(args: Vec<OsString>) -> Result<Request, Fault> {
    let args = dash_o::rewrite(args, "fhV", ALL, Unknown::Refuse)?;
    let matches = match matched(mount_command(), args)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Request::Print(text)),
    };
    let source = OsString::from(given(&matches, "source"));
    if let Some((name, _)) = COMMANDS.iter().find(|(name, _)| source == *name) {
        let hint = format!("idmapfs {name} ... is the command, ./{name} a directory");
        return Err(Fault::usage(format!("{name} does not come first")).hint(hint));
    }
    let foreground = matches.get_flag("foreground");
    Ok(Request::Mount(Mount {
        source,
        target: given(&matches, "target"),
        settings: Settings::of(&matches, ALL)?,
        how: if foreground { How::Foreground } else { How::Background },
        helper: false,
        verbose: false,
    }))
}

fn helper(args: Vec<OsString>) -> Result<Request, Fault> {
    let sloppy = |arg: &OsString| {
        let letters = arg.as_encoded_bytes();
        letters.starts_with(b"-")
            && letters.iter().skip(1).all(|b| b"sfnv".contains(b))
            && letters.contains(&b's')
    };
    let unknown = if args.iter().any(sloppy) { Unknown::Skip } else { Unknown::Refuse };
    let args = dash_o::rewrite(args, "sfnvhV", ALL, unknown)?;
    let matches = match matched(helper_command(), args)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Request::Print(text)),
    };
    if matches.contains_id("namespace") {
        return Err(Fault::usage("option -N: mounting in another namespace is not supported")
            .hint("nsenter --mount=NAMESPACE mount ... does it"));
    }
    let fake = matches.get_flag("fake");
    Ok(Request::Mount(Mount {
        source: OsString::from(given(&matches, "source")),
        target: given(&matches, "target"),
        settings: Settings::of(&matches, ALL)?,
        how: if fake { How::Fake } else { How::Background },
        helper: true,
        verbose: matches.get_flag("verbose"),
    }))
}

fn run(args: Vec<OsString>) -> Result<Request, Fault> {
    let args = dash_o::rewrite(args, "hV", FOR_RUN, Unknown::Refuse)?;
    let matches = match matched(run_command(), args)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Request::Print(text)),
    };
    let settings = Settings::of(&matches, FOR_RUN)?;
    if settings.remount {
        return Err(Fault::usage("option remount does not go with this command"));
    }
    Ok(Request::Run(Run {
        source: given(&matches, "source"),
        settings,
        run_as: matches.get_one::<String>("as").cloned(),
        command: matches.get_many::<OsString>("command").into_iter().flatten().cloned().collect(),
    }))
}

fn explain(args: Vec<OsString>) -> Result<Request, Fault> {
    let args = dash_o::rewrite(args, "hV", FOR_EXPLAIN, Unknown::Refuse)?;
    let matches = match matched(explain_command(), args)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Request::Print(text)),
    };
    let source: PathBuf = given(&matches, "source");
    let paths = matches.get_many::<PathBuf>("path").into_iter().flatten().cloned().collect();
    let settings = Settings::of(&matches, FOR_EXPLAIN)?;
    if settings.upper.is_some() {
        return Err(Fault::usage("option upper does not go with explain"));
    }
    let caller = matches.get_one::<String>("as").cloned();
    if matches.get_flag("mount") {
        if settings != Settings::default() {
            return Err(Fault::usage("option --mount: policy and source are those of the mount")
                .hint("leave out the options about them"));
        }
        return Ok(Request::Live(Live { target: source, paths, caller, form: form(&matches) }));
    }
    let json = matches.get_flag("json");
    Ok(Request::Explain(Explain { source, paths, settings, caller, json }))
}

fn form(matches: &ArgMatches) -> Form {
    if matches.get_flag("json") { Form::Json } else { Form::Text }
}

fn stats(args: Vec<OsString>) -> Result<Request, Fault> {
    Ok(match matched(stats_command(), args)? {
        Ok(matches) => Request::Stats(given(&matches, "target"), form(&matches)),
        Err(text) => Request::Print(text),
    })
}

fn check(args: Vec<OsString>) -> Result<Request, Fault> {
    let args = dash_o::rewrite(args, "hV", &[Area::Image], Unknown::Refuse)?;
    Ok(match matched(check_command(), args)? {
        Ok(matches) => {
            let files = matches.get_many::<PathBuf>("file");
            let settings = Settings::of(&matches, &[Area::Image])?;
            if settings.upper.is_some() {
                return Err(Fault::usage("option upper does not go with check"));
            }
            Request::Check(Check {
                files: files.into_iter().flatten().cloned().collect(),
                source: matches.get_one::<PathBuf>("source").cloned(),
                image: settings.image,
                suid: matches.get_flag("suid"),
            })
        }
        Err(text) => Request::Print(text),
    })
}

fn reload(args: Vec<OsString>) -> Result<Request, Fault> {
    Ok(match matched(reload_command(), args)? {
        Ok(matches) => Request::Reload(given(&matches, "target")),
        Err(text) => Request::Print(text),
    })
}

fn abort(args: Vec<OsString>) -> Result<Request, Fault> {
    Ok(match matched(abort_command(), args)? {
        Ok(matches) => Request::Abort(given(&matches, "target")),
        Err(text) => Request::Print(text),
    })
}

fn given(matches: &ArgMatches, name: &str) -> PathBuf {
    matches.get_one::<PathBuf>(name).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::OPTIONS;
    use crate::mount::ImageOptions;
    use crate::mount::{Atime, Cache, Submounts};

    fn of(words: &[&str]) -> Result<Request, Fault> {
        parse(words.iter().map(OsString::from))
    }

    fn mounted(words: &[&str]) -> Mount {
        match of(words) {
            Ok(Request::Mount(mount)) => mount,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str]) -> String {
        match of(words) {
            Err(fault) => {
                assert_eq!(fault.exit.code(), 1, "{words:?}");
                fault.to_string()
            }
            Ok(request) => panic!("{words:?}: {request:?}"),
        }
    }

    #[test]
    fn the_commands_are_well_formed() {
        for command in
            [mount_command(), helper_command(), run_command(), explain_command(), stats_command()]
        {
            command.debug_assert();
        }
    }

    #[test]
    fn both_forms_of_an_option_mean_the_same() {
        for opt in OPTIONS.iter().filter(|opt| opt.name != "user_id") {
            let value = match opt.name {
                "subtype" => "idmapfs",
                "cache" => "ttl=3",
                "passthrough" => "off",
                "open-files" => "16",
                "engine" => "auto",
                "submounts" => "hide",
                "owners" => "xattr",
                "in" => "17",
                "log" => "debug,file=/l",
                "with-pid" => "7",
                "offset" | "size" | "image-cache" => "4K",
                "partition" => "root",
                "verity" => "ignore",
                "replaced" => "keep",
                _ => "v:w",
            };
            for name in std::iter::once(&opt.name).chain(opt.aliases) {
                let (long, item) = match opt.value {
                    Some(_) => (format!("--{name}={value}"), format!("{name}={value}")),
                    None => (format!("--{name}"), (*name).to_owned()),
                };
                let item = item.replace(',', "\\,");
                let a = mounted(&["idmapfs", &long, "S", "T"]);
                let b = mounted(&["idmapfs", "S", "T", "-o", &item]);
                let c = mounted(&["/sbin/mount.idmapfs", "S", "T", "-o", &item]);
                assert_eq!(a.settings, b.settings, "{name}");
                assert_eq!(a.settings, c.settings, "{name}");
                if !matches!(opt.name, "subtype") {
                    assert_ne!(a.settings, Settings::default(), "{name}");
                }
            }
        }
    }

    #[test]
    fn later_options_override_and_maps_add_up() {
        let mount = mounted(&[
            "idmapfs",
            "--map",
            "1:2:3",
            "-o",
            "ro,map=u:4:5:6,suid",
            "S",
            "T",
            "--rw",
            "-o",
            "noatime,nosuid",
            "--cache=none",
            "--submounts=hide",
            "-f",
        ]);
        let settings = mount.settings;
        assert_eq!(settings.policy.map, ["1:2:3", "u:4:5:6"]);
        assert_eq!(settings.flags.read_only, Some(false));
        assert_eq!(settings.flags.suid, Some(false));
        assert_eq!(settings.flags.atime, Some(Atime::Never));
        assert_eq!(settings.cache, Some(Cache::Off));
        assert_eq!(settings.submounts, Some(Submounts::Hide));
        assert_eq!(settings.flags.dev, None);
        assert_eq!(mount.how, How::Foreground);
        assert_eq!((mount.source, mount.target), ("S".into(), "T".into()));
    }

    #[test]
    fn the_helper_takes_what_mount_passes() {
        let all = "rw,noexec,nosuid,nodev,user,noauto,_netdev,x-systemd.requires=/a,map=0:1:2";
        let mount = mounted(&["mount.idmapfs", "S", "T", "-sfnv", "-o", all, "-t", "idmapfs"]);
        assert_eq!(mount.how, How::Fake);
        assert!(mount.helper && mount.verbose);
        assert_eq!(mount.settings.flags.exec, Some(false));
        assert_eq!(mount.settings.policy.map, ["0:1:2"]);

        let table = "ro,nosuid,remount,user_id=0,group_id=0,default_permissions,allow_other";
        let mount = mounted(&["mount.fuse.idmapfs", "S", "T", "-o", table]);
        assert!(mount.settings.remount && mount.settings.from_table);
        let line = refused(&["mount.idmapfs", "S", "T", "-o", "user_id=0"]);
        assert_eq!(line, "option user_id: a mount belongs to who mounts");
        assert_eq!(mount.how, How::Background);

        mounted(&["mount.idmapfs", "S", "T", "-s", "-o", "ro,frobnicate"]);
        mounted(&["mount.idmapfs", "S", "T", "-o", "ro,frobnicate", "-sn"]);
        let line = refused(&["mount.idmapfs", "S", "T", "-o", "ro,frobnicate"]);
        assert!(line.starts_with("unknown option frobnicate"), "{line}");
        assert!(refused(&["mount.idmapfs", "S", "T", "-N", "x"]).contains("-N"));
    }

    #[test]
    fn a_first_word_is_a_command_and_a_path_is_not() {
        for (words, source, suid, offset) in [
            (&["idmapfs", "check", "a", "b"][..], None, false, 0),
            (&["idmapfs", "check", "--suid", "--source", "s", "a", "b"], Some("s".into()), true, 0),
            (
                &["idmapfs", "check", "--source=s", "--offset=9", "a", "b"],
                Some("s".into()),
                false,
                9,
            ),
        ] {
            let files = vec!["a".into(), "b".into()];
            let mut image = ImageOptions::default();
            image.part.offset = offset;
            assert_eq!(of(words), Ok(Request::Check(Check { files, source, image, suid })));
        }
        assert!(refused(&["idmapfs", "check", "--upper", "u", "a"]).contains("upper"));
        assert_eq!(of(&["idmapfs", "abort", "m"]), Ok(Request::Abort("m".into())));
        assert_eq!(mounted(&["idmapfs", "./run", "T"]).source, "./run");
        let line = refused(&["idmapfs", "--ro", "run", "T"]);
        assert_eq!(
            line,
            "run does not come first (idmapfs run ... is the command, ./run a directory)"
        );
    }

    #[test]
    fn a_command_runs_with_its_own_options() {
        let words = [
            "idmapfs",
            "run",
            "--present-as",
            "1:2",
            "-o",
            "ro",
            "--as",
            "1",
            "S",
            "--",
            "ls",
            "-o",
            "--",
        ];
        let Ok(Request::Run(run)) = of(&words) else { panic!() };
        assert_eq!(run.command, ["ls", "-o", "--"]);
        assert_eq!(run.run_as.as_deref(), Some("1"));
        assert_eq!(run.settings.flags.read_only, Some(true));
        assert_eq!(run.settings.policy.present_as.as_deref(), Some("1:2"));
    }

    #[test]
    fn explain_takes_options_about_policy_and_source() {
        let words =
            ["idmapfs", "explain", "-o", "map=1:2:3", "--json", "--as", "5:6", "S", "a", "b"];
        let Ok(Request::Explain(explain)) = of(&words) else { panic!() };
        assert_eq!(explain.paths, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(explain.json);
        assert_eq!(explain.caller.as_deref(), Some("5:6"));
        let words = ["idmapfs", "explain", "--device=/d", "--offset=4K", "S", "a"];
        let Ok(Request::Explain(explain)) = of(&words) else { panic!() };
        let image = explain.settings.image;
        assert_eq!((image.devices, image.part.offset), (vec!["/d".into()], 4096));
        assert!(refused(&["idmapfs", "explain", "--upper=U", "S", "a"]).contains("upper"));
        let words = ["idmapfs", "explain", "--mount", "--json", "M"];
        let Ok(Request::Live(live)) = of(&words) else { panic!() };
        assert_eq!((live.target, live.paths, live.form), ("M".into(), vec![], Form::Json));
    }

    #[test]
    fn stats_go_by_two_names() {
        for word in ["stats", "--stats"] {
            let want = Request::Stats("M".into(), Form::Text);
            assert_eq!(of(&["idmapfs", word, "M"]), Ok(want));
        }
        assert_eq!(
            of(&["idmapfs", "stats", "--json", "M"]),
            Ok(Request::Stats("M".into(), Form::Json))
        );
    }

    #[test]
    fn refusals_are_one_line_with_the_way_out() {
        for (words, want) in [
            (&["idmapfs"][..], "missing: <SOURCE> <MOUNTPOINT> (--help shows the usage)"),
            (&["idmapfs", "S"], "missing: <MOUNTPOINT> (--help shows the usage)"),
            (&["idmapfs", "S", "T", "U"], "one argument too many: U (--help shows the usage)"),
            (&["idmapfs", "--mapp=1", "S", "T"], "unknown option --mapp (did you mean map?)"),
            (
                &["idmapfs", "--presentas", "1", "S", "T"],
                "unknown option --presentas (did you mean present-as?)",
            ),
            (&["idmapfs", "-z", "S", "T"], "unknown option -z (--help lists the options)"),
            (&["idmapfs", "--ro=yes", "S", "T"], "option --ro takes no value"),
            (&["idmapfs", "S", "T", "--map"], "option --map needs a value"),
            (
                &["idmapfs", "S", "T", "-o"],
                "option -o needs a list (for example -o ro,map=1000:101000:1)",
            ),
            (&["idmapfs", "run", "S"], "missing: <COMMAND>... (the command comes after --)"),
            (
                &["idmapfs", "run", "S", "ls"],
                "one argument too many: ls (the command comes after --)",
            ),
            (
                &["idmapfs", "run", "--fsname=x", "S", "--", "ls"],
                "option fsname does not go with this command",
            ),
            (
                &["idmapfs", "run", "-o", "remount", "S", "--", "ls"],
                "option remount does not go with this command",
            ),
            (&["idmapfs", "explain", "--ro", "S", "p"], "option ro does not go with this command"),
            (
                &["idmapfs", "explain", "--mount", "--map=1:2:3", "M"],
                "option --mount: policy and source are those of the mount \
                 (leave out the options about them)",
            ),
            (&["idmapfs", "explain", "S"], "missing: <PATH>... (--help shows the usage)"),
            (&["idmapfs", "check"], "missing: <POLICY>... (--help shows the usage)"),
            (
                &["idmapfs", "--cache=ttl=x", "S", "T"],
                "option cache: ttl=x: not a number of seconds, in plain decimal (watch, ttl=SECONDS, exclusive or none)",
            ),
            (&["idmapfs", "--subtype=x", "S", "T"], "option subtype: x: it is always idmapfs"),
            (
                &["idmapfs", "--map-users", "1:2:3", "S", "T"],
                "option map-users: not taken in this spelling (programs disagree on the order of its numbers; write map=u:disk:view:count)",
            ),
            (
                &["idmapfs", "-o", "sync", "S", "T"],
                "unknown option sync (writes go to the source at once; mount the source with it instead)",
            ),
            (
                &["idmapfs", "--\x1b[1m", "S", "T"],
                "unknown option --\\u{1b}[1m (idmapfs --help lists the options)",
            ),
        ] {
            assert_eq!(refused(words), want, "{words:?}");
        }
    }

    #[test]
    fn help_and_version_are_printed() {
        for words in [
            &["idmapfs", "--help"][..],
            &["idmapfs", "-h"],
            &["idmapfs", "-V"],
            &["idmapfs", "run", "--help"],
            &["idmapfs", "explain", "--help"],
            &["idmapfs", "check", "--help"],
            &["idmapfs", "abort", "--help"],
            &["mount.idmapfs", "--help"],
        ] {
            assert!(matches!(of(words), Ok(Request::Print(_))), "{words:?}");
        }
        let Ok(Request::Print(help)) = of(&["idmapfs", "--help"]) else { panic!() };
        for opt in OPTIONS.iter().filter(|opt| !opt.help.is_empty()) {
            assert!(help.contains(&format!("--{}", opt.name)), "{}", opt.name);
        }
    }
}
