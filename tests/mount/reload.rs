//! A new policy on a live mount: `idmapfs reload`, and SIGHUP.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::require;
use crate::support::ours::{Ours, command, finish, finish_command, processes, program_for_users};
use crate::support::{Sandbox, mount_at, raw, run, sandbox, sh, str, text, try_sh_as, wait_for};

/// A user of every Debian system.
const USER: u32 = 34;

/// Writes a policy that shows disk ids below 1000 from `first` on.
fn map(file: &Path, first: u32) {
    policy(file, &format!("[ids]\nmap = [\"0:{first}:1000\"]\n"));
}

fn policy(file: &Path, rest: &str) {
    fs::write(file, format!("version = 1\n{rest}")).unwrap();
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

/// Waits until the server of a mount of root can be asked; in the foreground the
/// mount is seen first.
fn can_be_asked(ours: &Ours) {
    let device = mount_at(&ours.point).unwrap().device;
    let socket = format!("/run/idmapfs/{}.sock", device.trim_start_matches("0:"));
    wait_for("the socket", || UnixStream::connect(&socket).is_ok());
}

/// A mount by a policy file, believed for an hour.
struct Live {
    file: PathBuf,
    source: PathBuf,
    ours: Ours,
}

impl Live {
    fn new(sandbox: &Sandbox) -> Self {
        let (file, source) = (sandbox.path("p.toml"), sandbox.dir("src"));
        map(&file, 100_000);
        sh(&format!("cd {}; mkdir -p d/e; touch f d/g d/e/h", str(&source)));
        let args = ["--policy", str(&file), "--cache", "ttl=3600", "--log", "info"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
        can_be_asked(&ours);
        Self { file, source, ours }
    }

    fn reload(&self) -> Output {
        finish(&["reload", str(&self.ours.point)])
    }

    fn reloaded(&self) {
        let done = self.reload();
        assert!(done.status.success() && text(&done).trim_end().ends_with('0'), "{}", text(&done));
    }

    fn is_shown_from(&self, first: u32) {
        for name in ["", "f", "d", "d/g", "d/e/h"] {
            assert_eq!(owner(&self.ours.at(name)), first, "{name}");
        }
    }
}

#[test]
fn a_changed_policy_is_seen_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        live.is_shown_from(100_000);
        let acl = || sh(&format!("getfacl -nc {} | grep ^user:[0-9]", str(&live.ours.at("f"))));
        sh(&format!("setfacl -m u:5:r {}", str(&live.source.join("f"))));
        assert_eq!(acl(), "user:100005:r--\n");
        map(&live.file, 200_000);
        live.is_shown_from(100_000);
        live.reloaded();
        live.is_shown_from(200_000);
        assert_eq!(acl(), "user:200005:r--\n");
        // What is stored follows, and so does what the mount is known by.
        raw::chown(&live.ours.at("f"), 200_007, 200_007, false).unwrap();
        assert_eq!(owner(&live.source.join("f")), 7);
        let known = sh("cat /run/idmapfs/*.json 2>&- || true");
        let ours = known.lines().find(|line| line.contains(str(&live.ours.point))).unwrap();
        assert!(ours.contains("map=0:200000:1000"), "{ours}");
        assert_eq!(live.ours.unmount(), Some(0));
    });
}

#[test]
fn rights_of_the_new_policy_count_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        raw::chmod(&live.source.join("d"), 0o700).unwrap();
        let list = format!("ls {}", str(&live.ours.at("d")));
        let may = |id| try_sh_as(id, id, &[], &list).status.success();
        assert!(may(100_000) && !may(200_000));
        map(&live.file, 200_000);
        live.reloaded();
        assert!(!may(100_000) && may(200_000));
    });
}

#[test]
fn a_wrong_policy_leaves_the_old_one() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        let wrong = |want: &str| {
            let done = live.reload();
            assert_eq!(done.status.code(), Some(1), "{}", text(&done));
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.starts_with(&format!("idmapfs: {want}")), "{said}");
            live.is_shown_from(100_000);
        };
        let file = str(&live.file);
        policy(&live.file, "[ids]\nmap = [\"0:200000\"]\n");
        wrong(&format!("{file}:3:8: "));
        policy(&live.file, "[ids]\nmpa = []\n");
        wrong(&format!("{file}:3:1: "));
        // It fits no server: nothing would be shown as the owner of new files.
        policy(&live.file, "[ids]\nmap = [\"5:5:1\"]\ncollapse = { present-as = \"7:7\" }\n");
        wrong(&format!("{file}:4:27: "));
        fs::remove_file(&live.file).unwrap();
        wrong(&format!("policy file {file}: No such file"));
        fs::create_dir(&live.file).unwrap();
        wrong(&format!("policy file {file}: not a regular file"));
        fs::remove_dir(&live.file).unwrap();
        let log = live.ours.log();
        assert!(log.contains("error: reload: ") && log.contains(":3:8: "), "{log}");
        map(&live.file, 200_000);
        live.reloaded();
        live.is_shown_from(200_000);
    });
}

#[test]
fn sighup_reloads_and_logs_what_came_of_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        live.is_shown_from(100_000);
        map(&live.file, 200_000);
        live.ours.signal(Signal::SIGHUP);
        wait_for("the new ids", || owner(&live.ours.at("f")) == 200_000);
        wait_for("a line", || live.ours.log().contains("info: reloaded: map=0:200000:1000"));
        live.is_shown_from(200_000);
        fs::write(&live.file, "version = 2\n").unwrap();
        live.ours.signal(Signal::SIGHUP);
        let line = format!("error: reload: {}:1:11: ", str(&live.file));
        wait_for("a line", || live.ours.log().contains(&line));
        live.is_shown_from(200_000);
        assert_eq!(live.ours.unmount(), Some(0));
    });
}

#[test]
fn names_of_options_are_looked_up_again() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let users = |id: u32| format!("root:x:0:0::/:/bin/sh\nshown:x:{id}:{id}::/:/bin/sh\n");
        let table = sandbox.file("passwd", &users(4321));
        run("mount", &["--bind", str(&table), "/etc/passwd"]);
        let (source, ours) = Ours::of_new(sandbox, &["--present-as", "shown", "--cache", "ttl=99"]);
        can_be_asked(&ours);
        fs::write(source.join("f"), "").unwrap();
        assert_eq!(owner(&ours.at("f")), 4321);
        fs::write(&table, users(4322)).unwrap();
        assert!(finish(&["reload", str(&ours.point)]).status.success());
        assert_eq!(owner(&ours.at("f")), 4322);
    });
}

#[test]
fn a_server_in_the_background_finds_its_file_again() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "").unwrap();
        map(&sandbox.path("p.toml"), 100_000);
        let args = ["--policy", "p.toml", "--cache", "ttl=3600", "src", "mnt"];
        let mut started = command(&args);
        let done = finish_command(started.current_dir(sandbox.path("")));
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(owner(&point.join("f")), 100_000);
        map(&sandbox.path("p.toml"), 200_000);
        let mut reload = command(&["reload", "mnt"]);
        let done = finish_command(reload.current_dir(sandbox.path("")));
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(owner(&point.join("f")), 200_000);
        run("umount", &[str(&point)]);
    });
}

#[test]
fn what_is_open_or_mounted_inside_stays() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        let at = |name: &str| live.ours.at(name);
        fs::write(live.source.join("d/g"), "contents").unwrap();
        sh(&format!("mkdir {}/bound; echo other > {0}/bound/x", str(&live.source)));
        run("mount", &["-t", "tmpfs", "none", str(&at("d/e"))]);
        run("mount", &["--bind", str(&sandbox.dir("elsewhere")), str(&at("bound"))]);
        fs::write(at("d/e/new"), "in the tmpfs").unwrap();
        let mut open = File::options().read(true).write(true).open(at("d/g")).unwrap();
        let mut mapped = raw::Page::map(open.as_fd(), true).unwrap();
        let mut inside = std::process::Command::new("sh")
            .args(["-c", "read line; stat -c %u .; cat g; ls e"])
            .current_dir(at("d"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for first in [200_000, 300_000] {
            map(&live.file, first);
            live.reloaded();
            // The host may change what it likes around them.
            sh(&format!(
                "cd {}; touch d/more{first}; chmod 711 d d/e; chmod 755 bound",
                str(&live.source)
            ));
            live.reloaded();
            assert_eq!(owner(&at("d/g")), first);
            assert_eq!(mount_at(&at("d/e")).unwrap().kind, "tmpfs");
            assert!(mount_at(&at("bound")).is_some());
            assert_eq!(fs::read_to_string(at("d/e/new")).unwrap(), "in the tmpfs");
            assert_eq!(open.metadata().unwrap().uid(), first);
        }
        mapped.set(0, b'C');
        mapped.sync().unwrap();
        let mut contents = String::new();
        open.read_to_string(&mut contents).unwrap();
        assert_eq!(contents, "Contents");
        drop(inside.stdin.take());
        let out = inside.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "300000\nContentsnew\n");
        drop(mapped);
        drop(open);
        run("umount", &[str(&at("d/e"))]);
        run("umount", &[str(&at("bound"))]);
        live.is_shown_from(300_000);
        assert_eq!(live.ours.unmount(), Some(0));
    });
}

/// Does `work` while four threads look, create and rename below `dir`.
fn while_callers_work(dir: &Path, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let over = &over;
            scope.spawn(move || {
                let at = |name: &str| dir.join(format!("{name}{number}"));
                while !over.load(Ordering::Relaxed) {
                    fs::write(at("a"), "x").unwrap();
                    fs::create_dir_all(at("dir")).unwrap();
                    fs::rename(at("a"), at("dir").join("b")).unwrap();
                    fs::metadata(at("dir")).unwrap();
                    assert!(fs::read_dir(dir).unwrap().count() >= 1);
                    assert_eq!(fs::read(at("dir").join("b")).unwrap(), b"x");
                    fs::remove_file(at("dir").join("b")).unwrap();
                }
            });
        }
        work();
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn callers_at_work_are_not_disturbed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        policy(&live.file, "[ids]\nmap = [\"0:0:1000\"]\n");
        live.reloaded();
        while_callers_work(&live.ours.at("d"), || {
            for round in 1..30 {
                // Root has an id to store in each of them.
                policy(&live.file, &format!("[ids]\nmap = [\"0:0:1\", \"1:{round}000:1000\"]\n"));
                raw::chown(&live.source.join("f"), round, round, false).unwrap();
                live.reloaded();
                assert_eq!(owner(&live.ours.at("f")), round * 1000 + round - 1);
            }
        });
        assert_eq!(live.ours.unmount(), Some(0));
    });
}

#[test]
fn many_reloads_in_a_row_cost_nothing_that_stays() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(sandbox);
        let open = || live.ours.held_open().len();
        let threads =
            || fs::read_dir(format!("/proc/{}/task", live.ours.server())).unwrap().count();
        live.reloaded();
        let before = (open(), threads());
        for round in 1..=200 {
            map(&live.file, round * 1000);
            live.reloaded();
            assert_eq!(owner(&live.ours.at("d/g")), round * 1000);
        }
        wait_for("what it takes for a moment to be gone", || {
            open() <= before.0 + 2 && threads() <= before.1
        });
        // Any number of signals are as good as one.
        map(&live.file, 7000);
        (0..500).for_each(|_| live.ours.signal(Signal::SIGHUP));
        wait_for("the last policy", || owner(&live.ours.at("f")) == 7000);
        assert_eq!(live.ours.unmount(), Some(0));
    });
}

#[test]
fn an_unmount_goes_before_a_reload() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let mut live = Live::new(sandbox);
        for n in 0..2000 {
            File::create(live.source.join(format!("d/{n}"))).unwrap();
        }
        assert!(fs::read_dir(live.ours.at("d")).unwrap().count() > 2000);
        let point = live.ours.point.clone();
        let asking = std::thread::spawn(move || {
            let ask = || finish(&["reload", str(&point)]).status.code();
            let end = Instant::now() + Duration::from_secs(20);
            std::iter::repeat_with(ask).find(|code| *code != Some(0) || Instant::now() > end)
        });
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        live.ours.signal(Signal::SIGTERM);
        assert_eq!(live.ours.ended(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        assert_eq!(asking.join().unwrap(), Some(Some(32)));
        assert!(mount_at(&live.ours.point).is_none());
    });
}

#[test]
fn a_server_that_is_gone_cannot_be_asked() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let mut live = Live::new(sandbox);
        live.ours.signal(Signal::SIGKILL);
        assert_eq!(live.ours.ended(), None, "killed");
        wait_for("the server's end", || processes(&live.ours.point).is_empty());
        let done = live.reload();
        assert_eq!(done.status.code(), Some(32), "{}", text(&done));
        let said = text(&done);
        assert!(said.contains("it has ended") || said.contains("no socket"), "{said}");
        run("umount", &[str(&live.ours.point)]);
        let done = live.reload();
        assert_eq!(done.status.code(), Some(32), "{}", text(&done));
        assert!(text(&done).contains("no idmapfs is mounted there"), "{}", text(&done));
    });
}

#[test]
fn a_reload_is_for_the_servers_user_and_root() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let program = str(&program_for_users(sandbox)).to_owned();
        let (source, point, of_root) =
            (sandbox.dir("src"), sandbox.dir("mnt"), sandbox.dir("of root"));
        let (file, runtime) = (sandbox.path("p.toml"), sandbox.dir("runtime"));
        fs::write(source.join("f"), "").unwrap();
        for path in [&source, &source.join("f"), &point, &runtime] {
            raw::chown(path, USER, USER, false).unwrap();
        }
        raw::chmod(&runtime, 0o700).unwrap();
        let show = |id: u32| {
            policy(&file, &format!("[ids.collapse]\npresent-as = \"{id}:{id}\"\n"));
        };
        show(USER);
        let as_user = |id: u32, words: &str| {
            let env = format!("export XDG_RUNTIME_DIR={}", str(&runtime));
            try_sh_as(id, id, &[], &format!("{env}; {program} {words}"))
        };
        let mount = format!("--policy {} {} {}", str(&file), str(&source), str(&point));
        let done = as_user(USER, &mount);
        assert!(done.status.success(), "{}", text(&done));
        let ours = Ours::new(&source, &of_root, &["--policy", str(&file)]);
        can_be_asked(&ours);
        let reload = |id, point: &Path| as_user(id, &format!("reload '{}'", str(point)));

        show(77);
        let done = reload(USER, &point);
        assert!(done.status.success(), "{}", text(&done));
        let look = format!("stat -c %u {}/f", str(&point));
        let shown = try_sh_as(USER, USER, &[], &look);
        assert_eq!(String::from_utf8_lossy(&shown.stdout), "77\n", "{}", text(&shown));
        // Another user's mount, by whatever way it is asked for.
        for (id, point) in [(USER, &ours.point), (USER + 1, &point), (USER + 1, &ours.point)] {
            let done = reload(id, point);
            assert_eq!(done.status.code(), Some(32), "{}", text(&done));
            assert!(text(&done).contains("only its user and root"), "{}", text(&done));
        }
        // Root finds it where the user's mounts are.
        let mut asked = command(&["reload", str(&point)]);
        let done = finish_command(asked.env("XDG_RUNTIME_DIR", &runtime));
        assert!(done.status.success(), "{}", text(&done));
        let done = try_sh_as(USER, USER, &[], &format!("fusermount3 -u {}", str(&point)));
        assert!(done.status.success(), "{}", text(&done));
    });
}
