//! What must stay outside: submounts, links, races; mounts in each other.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::require;
use crate::support::ours::{Ours, finish};
use crate::support::{mount_at, raw, run, sandbox, sh, str, text, try_sh_as, wait_for};

const MAP: [&str; 2] = ["--map", "0:100000:1000"];

/// A source with a tmpfs in `sub`, which hides a file.
fn with_submount(source: &Path) {
    let sub = source.join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("hidden"), "hidden by the mount").unwrap();
    run("mount", &["-t", "tmpfs", "inner", str(&sub)]);
    fs::write(sub.join("inside"), "inside").unwrap();
    fs::write(source.join("outside"), "outside").unwrap();
}

#[test]
fn submounts_are_followed_by_default() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        with_submount(&source);
        let map = ["--map", "0:0:1000"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &map);
        assert_eq!(fs::read_to_string(ours.at("sub/inside")).unwrap(), "inside");
        assert!(!ours.at("sub/hidden").exists());
        // tmpfs numbers its files alike: none may be shown twice.
        let numbers = sh(&format!("find {} -printf '%i\\n' | sort | uniq -d", str(&ours.point)));
        assert_eq!(numbers, "", "two files share a number");
        let rename = fs::rename(ours.at("outside"), ours.at("sub/outside")).unwrap_err();
        assert_eq!(rename.raw_os_error(), Some(libc::EXDEV));
        let list =
            |ours: &Ours| sh(&format!("find {} -printf '%i %P\\n' | sort", str(&ours.point)));
        let before = list(&ours);
        let point = ours.point.clone();
        ours.unmount();
        assert_eq!(before, list(&Ours::new(&source, &point, &map)), "numbers changed");
    });
}

#[test]
fn submounts_can_be_hidden() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        with_submount(&source);
        let args = [MAP[0], MAP[1], "-o", "submounts=hide"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
        assert_eq!(fs::read_dir(ours.at("sub")).unwrap().count(), 0);
        assert!(fs::write(ours.at("sub/new"), "").is_err());
        assert_eq!(fs::read_to_string(ours.at("outside")).unwrap(), "outside");
        run("umount", &[str(&source.join("sub"))]);
        assert!(!ours.at("sub/hidden").exists(), "what lay under a mount is shown");
    });
}

#[test]
fn a_later_mount_on_the_source_is_not_shown() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        fs::create_dir(source.join("sub")).unwrap();
        fs::write(source.join("sub/below"), "").unwrap();
        assert!(ours.at("sub/below").exists());
        run("mount", &["-t", "tmpfs", "later", str(&source.join("sub"))]);
        fs::write(source.join("sub/above"), "").unwrap();
        assert!(!ours.at("sub/above").exists());
    });
}

#[test]
fn links_lead_where_the_callers_names_lead() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let secret = sandbox.file("secret", "secret");
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        raw::symlink(&secret, &source.join("absolute")).unwrap();
        raw::symlink(Path::new("../secret"), &source.join("relative")).unwrap();
        assert_eq!(fs::read_link(ours.at("absolute")).unwrap(), secret);
        assert_eq!(fs::symlink_metadata(ours.at("relative")).unwrap().len(), 9);
    });
}

/// A process on the host swaps a directory and a link that leads outside.
fn race(swap: fn(&Path), look: &'static str) {
    sandbox(move |sandbox| {
        let outside = sandbox.dir("outside");
        fs::write(outside.join("f"), "SECRET").unwrap();
        let source = sandbox.dir("src");
        fs::create_dir(source.join("real")).unwrap();
        fs::write(source.join("real/f"), "public").unwrap();
        raw::symlink(&outside, &source.join("link")).unwrap();
        fs::create_dir(source.join("d")).unwrap();
        fs::write(source.join("d/f"), "public").unwrap();
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &[MAP[0], MAP[1], "--cache", "none"]);
        let stop = Arc::new(AtomicBool::new(false));
        let racer = std::thread::spawn({
            let (stop, source) = (Arc::clone(&stop), source.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    swap(&source);
                }
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        let (mut seen, mut failed) = (0_u32, 0_u32);
        // The kernel of a caller follows links itself: no link on the way here.
        let flags = libc::O_NOFOLLOW | libc::O_RDONLY;
        // On a busy machine nothing may be seen by then.
        while Instant::now() < if seen > 0 { end } else { end + Duration::from_secs(30) } {
            let dir = raw::open(&ours.at("d"), flags | libc::O_DIRECTORY, 0);
            let path = |fd: &std::os::fd::OwnedFd| {
                use std::os::fd::AsRawFd;
                format!("/proc/self/fd/{}/{look}", fd.as_raw_fd())
            };
            match dir.map(|fd| fs::read_to_string(path(&fd))) {
                Ok(Ok(text)) => {
                    assert_ne!(text, "SECRET");
                    seen += 1;
                }
                _ => failed += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap();
        println!("seen {seen} times, refused {failed} times");
        assert!(seen > 0, "nothing was ever seen");
        fs::read_dir(&ours.point).unwrap();
    });
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    require!(Root, Fuse);
    let swap = |source: &Path| {
        raw::rename(&source.join("d"), &source.join("link"), libc::RENAME_EXCHANGE).unwrap();
    };
    race(swap, "f");
}

#[test]
fn a_directory_moved_outside_shows_nothing_of_the_outside() {
    require!(Root, Fuse);
    let swap = |source: &Path| {
        let out = source.with_file_name("moved");
        raw::rename(&source.join("d"), &out, 0).unwrap();
        raw::rename(&out, &source.join("d"), 0).unwrap();
    };
    race(swap, "f");
    race(
        |source| {
            let out = source.with_file_name("outside").join("d");
            raw::rename(&source.join("d"), &out, 0).unwrap();
            raw::rename(&out, &source.join("d"), 0).unwrap();
        },
        "f",
    );
}

#[test]
fn dot_dot_ends_at_the_visible_root() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        sandbox.file("secret", "secret");
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        fs::create_dir_all(source.join("a/b")).unwrap();
        let up = fs::metadata(ours.at("a/b/../../..")).unwrap().ino();
        assert_eq!(up, fs::metadata(ours.point.parent().unwrap()).unwrap().ino());
    });
}

/// Either refused with the reason, or it works: never a hang.
fn works_or_says_why(source: &Path, point: &Path, check: &str) {
    let done = finish(&[MAP[0], MAP[1], str(source), str(point)]);
    if !done.status.success() {
        assert!(matches!(done.status.code(), Some(1 | 32)), "{}", text(&done));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        return;
    }
    let mut command = std::process::Command::new("timeout");
    let looked = command.args(["20", "bash", "-euc", check]).output().unwrap();
    assert!(looked.status.success(), "{}", text(&looked));
    run("umount", &[str(point)]);
    assert_ne!(mount_at(point).map(|mount| mount.kind), Some("fuse.idmapfs".into()));
}

#[test]
fn a_mount_point_inside_its_source() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        fs::write(source.join("f"), "x").unwrap();
        let point = sandbox.dir("src/mnt");
        let look = format!("cat {0}/f; find {0} | head -1000 | wc -l", str(&point));
        works_or_says_why(&source, &point, &look);
    });
}

#[test]
fn a_source_inside_its_mount_point() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let point = sandbox.dir("mnt");
        let source = sandbox.dir("mnt/src");
        fs::write(source.join("f"), "x").unwrap();
        works_or_says_why(&source, &point, &format!("cat {}/f", str(&point)));
    });
}

#[test]
fn a_mount_over_its_source() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        fs::write(source.join("f"), "x").unwrap();
        let look = format!("[ $(stat -c %u {0}/f) = 100000 ]; cat {0}/f", str(&source));
        works_or_says_why(&source, &source, &look);
    });
}

#[test]
fn a_source_that_is_a_mount_of_ours() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, first) = Ours::of_new(sandbox, &MAP);
        fs::write(source.join("f"), "x").unwrap();
        let point = sandbox.dir("second");
        let done = finish(&["--map", "100000:7000:1000", str(&first.point), str(&point)]);
        assert!(done.status.success() || done.status.code() == Some(32), "{}", text(&done));
        if done.status.success() {
            assert_eq!(fs::metadata(point.join("f")).unwrap().uid(), 7000);
            run("umount", &[str(&point)]);
        }
        assert!(try_sh_as(0, 0, &[], &format!("cat {}/f", str(&first.point))).status.success());
    });
}

/// A line of `/proc/PID/status`, as a number to the base of 16.
fn of_status(pid: nix::unistd::Pid, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn the_server_of_root_keeps_what_it_uses_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &["--log", "info"]);
        let server = ours.server();
        assert_ne!(server, ours.pid());
        assert_eq!(of_status(server, "NoNewPrivs:"), 1);
        let kept = of_status(server, "CapPrm:");
        // CHOWN to FSETID, SETGID, SETUID, LINUX_IMMUTABLE, SYS_ADMIN, MKNOD, SETFCAP.
        let used = 0x1f | 0xc0 | 1 << 9 | 1 << 21 | 1 << 27 | 1 << 31;
        assert_eq!(kept & !used, 0, "{kept:x}");
        let tasks = fs::read_dir(format!("/proc/{server}/task")).unwrap().flatten();
        for task in tasks {
            let task = task.file_name().to_str().unwrap().parse().unwrap();
            let task = nix::unistd::Pid::from_raw(task);
            for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
                assert_eq!(of_status(task, set) & !kept, 0, "{set} of {task}");
            }
            for set in ["CapInh:", "CapAmb:"] {
                assert_eq!(of_status(task, set), 0, "{set} of {task}");
            }
            assert_eq!(of_status(task, "NoNewPrivs:"), 1);
        }
        assert!(ours.log().contains("server: confined: no_new_privs"), "{}", ours.log());
        wait_for("an answer", || finish(&["stats", str(&ours.point)]).status.success());
        let said = text(&finish(&["explain", "--mount", str(&ours.point)]));
        assert!(said.contains("confined:") && said.contains("SYS_ADMIN is for"), "{said}");
    });
}

/// Everything that callers do, and a reload, through a server that Landlock confines.
#[test]
fn a_confined_server_of_a_user_does_all_that_it_did() {
    require!(Root, Fuse, UserNamespaces);
    const USER: u32 = 34;
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        for dir in ["a", "b", "a/sub", "secret"] {
            fs::create_dir(source.join(dir)).unwrap();
        }
        fs::write(source.join("a/f"), "contents").unwrap();
        for path in ["", "a", "b", "a/f", "a/sub", "secret"] {
            raw::chown(&source.join(path), USER, USER, false).unwrap();
        }
        let policy =
            sandbox.file("p.toml", "version = 1\n[[rules]]\npath = \"secret\"\nhide = true\n");
        let log = sandbox.dir("log");
        raw::chown(&log, USER, USER, false).unwrap();
        let program = crate::support::ours::program_for_users(sandbox);
        let script = format!(
            "export XDG_RUNTIME_DIR={log}
             mount -t tmpfs inner {src}/a/sub; echo inner > {src}/a/sub/i
             {program} --log info,file={log}/log --policy {policy} {src} {mnt}
             cd {mnt}; cat a/sub/i; [ ! -e secret ]
             mv a/f b/g; ln b/g a/h; ln -s h a/link; mkfifo a/fifo; mkdir -p a/x/y; mv a/x b
             echo more >> a/h; truncate -s 5 a/h; cat a/link; chmod 4711 a/h; stat -c %a b/g
             cp /bin/true b/true; b/true; touch -d @7 a/h; stat -c %Y a/h
             rm -r b/x a/fifo; exec 3> b/open; rm b/open; echo y >&3; exec 3>&-
             mv {policy} {policy}.old; cp {policy}.old {policy}
             {program} reload {mnt}; {program} stats {mnt} | grep -c descriptors
             {program} explain --mount {mnt} | grep confined: > {log}/said; cd /; umount {mnt}",
            log = str(&log),
            src = str(&source),
            program = str(&program),
            policy = str(&policy),
            mnt = str(&point),
        );
        raw::chown(&policy, USER, USER, false).unwrap();
        raw::chmod(policy.parent().unwrap(), 0o777).unwrap();
        let script_file = sandbox.file("script", &script);
        let line = format!("unshare -Urm bash -eu {}", str(&script_file));
        let done = try_sh_as(USER, USER, &[], &line);
        let logged = fs::read_to_string(log.join("log")).unwrap_or_default();
        let out = String::from_utf8_lossy(&done.stdout);
        assert_eq!(out, "inner\nconte4711\n7\n1\n", "{}\n{logged}", text(&done));
        assert!(logged.contains("info: reloaded: "), "{logged}");
        let said = fs::read_to_string(log.join("said")).unwrap();
        assert!(said.contains("no_new_privs") && !said.contains("SYS_ADMIN"), "{said}");
        // In this namespace a tmpfs of its own is below the source: with handles.
        assert!(said.contains("Landlock"), "{said}");
    });
}

/// Makes two directories, one with a file, of a user.
fn plant(source: &Path, user: u32) {
    for dir in ["a", "b"] {
        fs::create_dir(source.join(dir)).unwrap();
    }
    fs::write(source.join("a/f"), "contents").unwrap();
    for path in ["", "a", "b", "a/f"] {
        raw::chown(&source.join(path), user, user, false).unwrap();
    }
}

#[test]
fn a_confined_server_reaches_the_source_alone() {
    require!(Root, Fuse, UserNamespaces);
    const USER: u32 = 34;
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        plant(&source, USER);
        let program = crate::support::ours::program_for_users(sandbox);
        let (program, src, mnt) = (str(&program), str(&source), str(&point));
        let (log, outside) = (sandbox.dir("log"), sandbox.dir("outside"));
        for dir in [&log, &outside] {
            raw::chown(dir, USER, USER, false).unwrap();
        }
        let (log, outside) = (str(&log), str(&outside));
        let policy = |dir: &str| fs::write(format!("{dir}/p.toml"), "version = 1\n").unwrap();
        policy(outside);
        policy(log);
        // What a reload reads is beside the file that was named.
        let script = format!(
            "export XDG_RUNTIME_DIR={log}; ln -s p.toml {log}/link
             {program} --cache none --policy {log}/link --log info,file={log}/log {src} {mnt}
             cat {mnt}/a/f; mv {mnt}/a/f {mnt}/b/f; ln {mnt}/b/f {mnt}/a/f; echo x > {mnt}/b/new
             touch {mnt}/b/new; chown 0:0 {mnt}/b/new; setfattr -n user.x -v 1 {mnt}/b/new || :
             {program} reload {mnt}; ln -sf {outside}/p.toml {log}/link
             ! {program} reload {mnt} 2> {log}/why
             {program} explain --mount {mnt} > {log}/said; umount {mnt}"
        );
        let script_file = sandbox.file("script", &script);
        let line = format!("unshare -Urm bash -eu {}", str(&script_file));
        let done = try_sh_as(USER, USER, &[], &line);
        assert_eq!(String::from_utf8_lossy(&done.stdout), "contents", "{}", text(&done));
        let said = fs::read_to_string(Path::new(log).join("said")).unwrap();
        if said.contains("no Landlock") {
            eprintln!("SKIP: {said}");
            return;
        }
        assert!(said.contains("files of the source alone"), "{said}");
        let why = fs::read_to_string(Path::new(log).join("why")).unwrap();
        assert!(why.contains("Permission denied"), "{why}");
    });
}

#[test]
fn the_server_of_a_run_is_confined() {
    require!(Root, Fuse, UserNamespaces);
    const USER: u32 = 34;
    sandbox(|sandbox| {
        let (source, log) = (sandbox.dir("src"), sandbox.dir("log"));
        raw::chmod(&log, 0o777).unwrap();
        plant(&source, USER);
        let program = crate::support::ours::program_for_users(sandbox);
        let said = |name: &str| fs::read_to_string(log.join(name)).unwrap();

        // A signal is passed on all the same.
        let line = format!(
            "{} run --log info,file={}/user --present-as 1000:1000 {} -- sh -c \
             'cat a/f; mv a/f b/f; echo x >b/new; stat -c %u b/new; trap \"echo; exit 3\" TERM; \
              kill -TERM $PPID; while :; do sleep 0.01; done' || [ $? = 3 ]",
            str(&program),
            str(&log),
            str(&source)
        );
        let done = try_sh_as(USER, USER, &[], &line);
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(String::from_utf8_lossy(&done.stdout), "contents1000\n\n", "{}", text(&done));
        let user = said("user");
        if user.contains("no Landlock") {
            eprintln!("SKIP: {user}");
            return;
        }
        assert!(user.contains("files of the source alone"), "{user}");
        assert!(user.contains("confined: ") && !user.contains("PTRACE"), "{user}");

        // Root's keeps what it passes signals on with, to a command of another user.
        let line = format!(
            "{} run --log info,file={}/root {} -- sh -c 'chmod 2755 b/f; stat -c %a b/f'",
            str(&program),
            str(&log),
            str(&source)
        );
        let done = crate::support::try_sh_as(0, 0, &[], &line);
        assert_eq!(String::from_utf8_lossy(&done.stdout), "2755\n", "{}", text(&done));
        let root = said("root");
        assert!(root.contains("Landlock: ") && root.contains("KILL"), "{root}");
        assert!(!root.contains("PTRACE"), "{root}");
    });
}

/// Callers in a user namespace with the same ids have no capability outside of it. A
/// confined server sees of them that they have all, and the ids; not in which they are.
#[test]
fn the_server_of_a_run_is_told_in_which_namespace_a_caller_is() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (source, log) = (sandbox.dir("src"), sandbox.path("log"));
        fs::write(source.join("f"), "").unwrap();
        sh(&format!("setfattr -n trusted.secret -v x {}/f", str(&source)));
        let line = format!(
            "{} run --log info,file={} {} -- sh -euc 'getfattr -m - f | grep -o trusted.secret
             unshare -U sh -c \"until [ \\$(id -u) = 0 ]; do sleep 0.01; done; getfattr -m - f; id -u\" & inside=$!
             until [ $(readlink /proc/$inside/ns/user) != $(readlink /proc/self/ns/user) ]; do sleep 0.01; done
             for kind in uid gid; do cat /proc/self/${{kind}}_map >/proc/$inside/${{kind}}_map; done
             wait $inside'",
            crate::support::ours::PROGRAM,
            str(&log),
            str(&source)
        );
        let done = try_sh_as(0, 0, &[], &line);
        assert_eq!(String::from_utf8_lossy(&done.stdout), "trusted.secret\n0\n", "{}", text(&done));
        assert!(fs::read_to_string(&log).unwrap().contains("confined: "));
    });
}
