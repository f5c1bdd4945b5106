//! The server of `idmapfs run` is asked: inside by path, outside by process.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::require;
use crate::support::ours::{PROGRAM, command, finish, processes, program_for_users};
use crate::support::{Sandbox, mount_at, raw, run, sandbox, sh, str, text, try_sh_as, wait_for};

/// Users of every Debian system; the first has no subordinate ids.
const USER: u32 = 34;
const OTHER: u32 = 33;

/// A private mount whose command waits.
struct Waits {
    run: Child,
    source: PathBuf,
}

impl Waits {
    /// Starts one for `source`; it can be asked.
    fn start(source: &Path, args: &[&str]) -> Self {
        let mut command = command(&["run"]);
        Self::begin(command.args(args), source, &|pid| finish(&["stats", pid]))
    }

    /// Does the same by a command line of its own, and another one who asks.
    fn begin(command: &mut Command, source: &Path, ask: &dyn Fn(&str) -> Output) -> Self {
        command.arg(source).args(["--", "sleep", "600"]);
        let run = raw::die_with_us(command).spawn().unwrap();
        let waits = Self { run, source: source.to_owned() };
        wait_for("a server that can be asked", || ask(&waits.pid()).status.success());
        wait_for("the command", || waits.commands().len() == 1);
        waits
    }

    /// The process that was started, which serves.
    fn pid(&self) -> String {
        self.run.id().to_string()
    }

    /// The processes of the command.
    fn commands(&self) -> Vec<String> {
        let found = Command::new("pgrep").args(["-x", "-P", &self.pid(), "sleep"]).output();
        String::from_utf8(found.unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn kill(&self, pid: &str) {
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    /// Waits until all has ended; nothing is known any more.
    fn ended(mut self) {
        self.run.wait().unwrap();
        wait_for("nothing left running", || processes(&self.source).is_empty());
        assert_eq!(records(&self.source), Vec::<PathBuf>::new());
    }
}

/// The files in which mounts of a source are known.
fn records(source: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir("/run/idmapfs").unwrap().flatten().map(|entry| entry.path());
    let records = entries.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let of_source = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.contains(&format!("\"source\":\"{}\"", str(source)))
    };
    records.filter(of_source).collect()
}

fn said(done: &Output) -> String {
    assert!(done.status.success(), "{}", text(done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn refused(done: &Output, why: &str) {
    assert_eq!(done.status.code(), Some(32), "{}", text(done));
    assert!(text(done).contains(why), "{}", text(done));
}

fn planted(sandbox: &Sandbox, user: u32) -> PathBuf {
    let source = sandbox.dir("src");
    fs::write(source.join("f"), "contents").unwrap();
    for path in [&source, &source.join("f")] {
        raw::chown(path, user, user, false).unwrap();
    }
    source
}

#[test]
fn a_private_mount_is_asked_by_its_command() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, file) = (planted(sandbox, 0), sandbox.path("p.toml"));
        fs::write(&file, "version = 1\n[ids]\nmap = ['0:0:1', '5:7:1']\n").unwrap();
        raw::chown(&source.join("f"), 5, 0, false).unwrap();
        let script = format!(
            "stat -c %u f; {PROGRAM} stats . | grep -c 'lookup  *[1-9]'
             {PROGRAM} explain --mount . | grep -c -e 'engine: *fuse (a private mount is always' \
                -e 'flags: .*nosuid' -e 'namespaces: *its own, of process' -e 'directly (its command'
             sed -i s/5:7/5:8/ {0}; {PROGRAM} reload .; stat -c %u f
             echo wrong >{0}; {PROGRAM} reload {1} || echo $?; stat -c %u f",
            str(&file),
            str(&source)
        );
        let policy = ["run", "--policy", str(&file), str(&source), "--", "bash", "-euc", &script];
        let done = finish(&policy);
        assert_eq!(said(&done), "7\n1\n4\n8\n1\n8\n", "{}", text(&done));
        assert!(text(&done).contains("p.toml:1:"), "{}", text(&done));
        assert!(records(&source).is_empty());
    });
}

#[test]
fn a_private_mount_is_known_outside_by_its_processes_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = planted(sandbox, 0);
        let waits = Waits::start(&source, &["--map", "0:7:1"]);
        for pid in [waits.pid(), waits.commands().remove(0)] {
            assert!(said(&finish(&["stats", &pid])).contains("requests:"));
            said(&finish(&["reload", &pid]));
            // What is at its path here is not the mount, so that the source is to be seen.
            let done = said(&finish(&["explain", "--mount", "--json", &pid, "f"]));
            let done: serde_json::Value = serde_json::from_str(&done).unwrap();
            assert_eq!(done["mount"]["pid"].to_string(), waits.pid());
            assert_eq!(
                (&done["flags"], &done["mount"]["target"]),
                (&"".into(), &str(&source).into())
            );
            assert_eq!(done["files"][0]["shown"][0]["answer"], 7, "{done}");
        }
        // Neither by its path, nor by another process.
        let own = std::process::id().to_string();
        for word in [str(&source), &own, "99999999"] {
            refused(&finish(&["stats", word]), "no idmapfs is mounted there, nor known of");
            refused(&finish(&["reload", word]), "no idmapfs is mounted there, nor known of");
            refused(&finish(&["explain", "--mount", word]), "no idmapfs is mounted there");
            refused(&finish(&["abort", word]), "no idmapfs is mounted there, nor known of");
        }
        // Nobody else is told anything.
        let [record] = &records(&source)[..] else { panic!("one record") };
        for path in [record.clone(), record.with_extension("sock")] {
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.mode() & 0o777, found.uid()), (0o600, 0), "{path:?}");
        }
        let program = program_for_users(sandbox);
        for word in [&waits.pid(), str(&source)] {
            let asked = format!("{} stats {word}", str(&program));
            refused(&try_sh_as(OTHER, OTHER, &[], &asked), "nor known of");
        }
        waits.kill(&waits.commands()[0]);
        waits.ended();
    });
}

#[test]
fn what_is_mounted_outside_at_the_path_of_a_private_mount_is_another() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, other) = (planted(sandbox, 0), sandbox.dir("other"));
        let waits = Waits::start(&source, &["--map", "0:7:1"]);
        // Over the same directory, here.
        said(&finish(&["--ro", "--map", "0:9:1", str(&other), str(&source)]));
        let policy = |word: &str, flags: &str| {
            let done = said(&finish(&["explain", "--mount", "--json", word]));
            let done: serde_json::Value = serde_json::from_str(&done).unwrap();
            assert!(done["flags"].as_str().unwrap().starts_with(flags), "{done}");
            assert_eq!(done["flags"] == "", flags.is_empty(), "{done}");
            done["mount"]["policy"].as_str().unwrap().to_owned()
        };
        assert_eq!(policy(str(&source), "ro"), "map=0:9:1");
        assert_eq!(policy(&waits.pid(), ""), "map=0:7:1");
        said(&finish(&["abort", str(&source)]));
        wait_for("the end of the other", || mount_at(&source).is_none());
        assert_eq!(policy(&waits.pid(), ""), "map=0:7:1");
        waits.kill(&waits.commands()[0]);
        waits.ended();
    });
}

#[test]
fn nothing_is_known_of_a_private_mount_that_has_been_killed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = planted(sandbox, 0);
        let waits = Waits::start(&source, &[]);
        let command = waits.commands().remove(0);
        waits.kill(&waits.pid());
        waits.ended();
        wait_for("the end of the command", || !Path::new(&format!("/proc/{command}")).exists());
        refused(&finish(&["stats", &command]), "nor known of");
    });
}

#[test]
fn a_user_asks_a_private_mount_and_so_does_root() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (program, source) = (program_for_users(sandbox), planted(sandbox, USER));
        // Where systemd has it, for this namespace alone.
        fs::create_dir_all("/run/user").unwrap();
        run("mount", &["-t", "tmpfs", "none", "/run/user"]);
        let runtime = PathBuf::from(format!("/run/user/{USER}"));
        fs::DirBuilder::new().mode(0o700).create(&runtime).unwrap();
        raw::chown(&runtime, USER, USER, false).unwrap();
        let asked = |user: u32, words: &str| {
            let env = format!("export XDG_RUNTIME_DIR={}", str(&runtime));
            try_sh_as(user, user, &[], &format!("{env}; {} {words}", str(&program)))
        };
        let (own, src) = (str(&program), str(&source));
        let script = format!(
            "{own} stats . | head -1; {own} reload .; {own} explain --mount . | grep -c 'process.* 1000 {USER} 1)'"
        );
        let done = asked(USER, &format!("run --present-as 1000 {src} -- bash -euc \"{script}\""));
        assert_eq!(said(&done), "requests:\n1\n", "{}", text(&done));

        let mut command = Command::new(&program);
        command.args(["run", "--present-as", "1000"]).env("XDG_RUNTIME_DIR", &runtime);
        raw::run_as(&mut command, USER, USER, &[]);
        let ask = |pid: &str| asked(USER, &format!("stats {pid}"));
        let waits = Waits::begin(&mut command, &source, &ask);
        for pid in [waits.pid(), waits.commands().remove(0)] {
            for user in [USER, 0] {
                assert!(said(&asked(user, &format!("stats {pid}"))).contains("requests:"));
                said(&asked(user, &format!("reload {pid}")));
                let file = said(&asked(user, &format!("explain --mount {pid} f")));
                assert!(file.contains("disk uid 34 is shown as uid 1000"), "{file}");
            }
            refused(&try_sh_as(OTHER, OTHER, &[], &format!("{own} stats {pid}")), "nor known of");
        }
        waits.kill(&waits.pid());
        wait_for("nothing left", || sh(&format!("ls {}/idmapfs", str(&runtime))).is_empty());
        waits.ended();

        // Without such a directory there is nowhere to ask, and all else is as it was.
        let line = format!("unset XDG_RUNTIME_DIR; {own} run --present-as 1000 {src} --");
        let done = try_sh_as(USER, USER, &[], &format!("{line} cat f"));
        assert_eq!((said(&done).as_str(), done.stderr.len()), ("contents", 0), "{}", text(&done));
        refused(&try_sh_as(USER, USER, &[], &format!("{line} {own} stats .")), "keeps no socket");
    });
}

/// A private mount of root's runs its command as others, who may ask no server of root's.
#[test]
fn a_command_that_runs_as_another_user_may_not_ask() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (program, source) = (program_for_users(sandbox), planted(sandbox, 0));
        let command = [str(&source), "--", str(&program), "stats", "."];
        let done = finish(&[&["run", "--present-as", "1000:1000"][..], &command].concat());
        refused(&done, "only its user and root may ask it");
    });
}

/// Signals are the command's, also the one by which other servers say what they counted.
#[test]
fn the_signal_for_counters_goes_to_the_command() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, log) = (planted(sandbox, 0), sandbox.path("log"));
        let level = format!("info,file={}", str(&log));
        let script =
            "trap 'echo heard; exit 3' USR1; kill -USR1 $PPID; while :; do sleep 0.01; done";
        let done = finish(&["run", "--log", &level, str(&source), "--", "sh", "-c", script]);
        assert_eq!(done.status.code(), Some(3), "{}", text(&done));
        assert_eq!(String::from_utf8_lossy(&done.stdout), "heard\n");
        assert!(!fs::read_to_string(&log).unwrap().contains("stats: "));
    });
}
