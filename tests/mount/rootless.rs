//! `docs/rootless.md`: its commands print what it says, and what it says of changes and
//! of access is so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::require;
use crate::support::rootless::{ANN, Inside, Rootless};
use crate::support::{boxes, document, raw, sandbox, sh, str, text, try_sh_as};

#[test]
fn the_documents_commands_print_what_it_says() {
    require!(Root, Fuse, Podman, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.image();
        boxes::image(&ann, sandbox);
        document::run_all(&ann, "rootless.md", 9);
    });
}

/// How often each change is made.
const TIMES: usize = 60;

/// How late a change may be seen, but on a machine that has much else to do; what was not
/// told would be believed for a second.
const SOON: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_millis(600);

/// How many of 100 changes are seen that soon at the least, of those during which whoever
/// looks was not kept waiting for a processor.
const MOST: usize = 95;

/// How long whoever looks sleeps: the server wants the processor as well; and how long
/// that may take where a processor is free.
const NAP: Duration = Duration::from_micros(200);
const OVERSLEPT: Duration = Duration::from_millis(3);

/// How a change came to be seen.
#[derive(Clone, Copy)]
struct Sight {
    /// How long it took to be seen.
    time: Duration,
    /// When the last look began that did not see it: the next one did.
    late: Duration,
    /// Whether whoever looked was kept waiting for a processor.
    held_up: bool,
}

/// Looks until something holds.
fn takes(mut holds: impl FnMut() -> bool) -> Sight {
    let start = Instant::now();
    let mut sight = Sight { time: Duration::MAX, late: Duration::ZERO, held_up: false };
    loop {
        let looks = Instant::now();
        if holds() {
            return Sight { time: start.elapsed(), ..sight };
        }
        sight.late = looks.duration_since(start);
        if sight.late > Duration::from_secs(3) {
            return Sight { late: Duration::MAX, held_up: false, ..sight };
        }
        let sleeps = Instant::now();
        std::thread::sleep(NAP);
        sight.held_up |= sleeps.elapsed() > OVERSLEPT;
    }
}

/// Makes changes of all kinds in one directory and waits for each in the other; returns
/// how each was seen, by kind.
fn seen(here: &Path, there: &Path) -> Vec<(&'static str, Vec<Sight>)> {
    let listed =
        |name: &str| fs::read_dir(there).unwrap().any(|entry| entry.unwrap().file_name() == name);
    let meta = |name: &str| fs::symlink_metadata(there.join(name)).ok();
    let mut all: Vec<(&'static str, Vec<Sight>)> = Vec::new();
    let mut took =
        |kind: &'static str, time: Sight| match all.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, times)) => times.push(time),
            None => all.push((kind, vec![time])),
        };
    for round in 0..TIMES {
        let (new, other) = (format!("n{round}"), format!("o{round}"));
        // Known on the other side, so that it has to hear of the change.
        assert!(meta(&new).is_none() && !listed(&new));
        fs::write(here.join(&new), "").unwrap();
        took("create, stat", takes(|| meta(&new).is_some()));
        took("create, readdir", takes(|| listed(&new)));
        fs::write(here.join(&new), "x".repeat(round + 1)).unwrap();
        took("write", takes(|| meta(&new).is_some_and(|meta| meta.len() == round as u64 + 1)));
        raw::chmod(&here.join(&new), 0o600 + round as u32 % 8).unwrap();
        took(
            "chmod",
            takes(|| {
                meta(&new).is_some_and(|meta| meta.mode() & 0o777 == 0o600 + round as u32 % 8)
            }),
        );
        fs::rename(here.join(&new), here.join(&other)).unwrap();
        took("rename, old name", takes(|| meta(&new).is_none()));
        took("rename, new name", takes(|| meta(&other).is_some() && listed(&other)));
        fs::remove_file(here.join(&other)).unwrap();
        took("unlink", takes(|| meta(&other).is_none() && !listed(&other)));
    }
    all
}

/// Returns what was late where a processor was free: half of the changes of a kind, more
/// than a few of all, or one of them by much.
fn late(way: &str, all: Vec<(&'static str, Vec<Sight>)>) -> String {
    let mut said = String::new();
    let (mut fair, mut soon) = (0, 0);
    for (kind, mut sights) in all {
        sights.retain(|sight| !sight.held_up);
        sights.sort_by_key(|sight| sight.time);
        let at = |number: usize| sights.get(number).map_or(Duration::ZERO, |sight| sight.time);
        let (middle, last) = (at(sights.len() / 2), at(sights.len().saturating_sub(1)));
        if middle > SOON || last > LATE {
            said += &format!("{way}: {kind}: median {middle:?}, last {last:?}\n");
        }
        fair += sights.len();
        soon += sights.iter().filter(|sight| sight.late <= SOON).count();
    }
    eprintln!("{way}: {soon} of {fair} soon");
    if soon * 100 < fair * MOST {
        said += &format!("{way}: {soon} of {fair} within {SOON:?}\n");
    }
    said
}

#[test]
fn a_change_on_either_side_is_seen_at_once() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let inside = Inside::new(&ann, "--hide '.ssh/**' ~ ~/.cache/view");
        let (disk, view) = (ann.home.join("project"), ann.home.join(".cache/view/project"));
        let said = inside.does(|| {
            late("from outside", seen(&disk, &view)) + &late("from inside", seen(&view, &disk))
        });
        assert_eq!(said, "");
    });
}

#[test]
fn inotify_sees_one_way() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let inside = Inside::new(&ann, "~ ~/.cache/view");
        let (disk, view) = (ann.home.join("project"), ann.home.join(".cache/view/project"));
        let said = inside.does(|| {
            let (host, ours) = (raw::watch(&disk).unwrap(), raw::watch(&view).unwrap());
            let hears = |fd: &std::os::fd::OwnedFd| {
                use std::os::fd::AsFd;
                std::thread::sleep(Duration::from_millis(200));
                let mut buffer = [0; 4096];
                let mut poll = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                let any = nix::poll::poll(&mut poll, 0_u8).unwrap() > 0;
                any && nix::unistd::read(fd, &mut buffer).unwrap() > 0
            };
            let all =
                |what: &str| format!("{what}: host {} mount {}\n", hears(&host), hears(&ours));
            fs::write(view.join("a"), "x").unwrap();
            let first = all("inside");
            fs::write(disk.join("b"), "x").unwrap();
            first + &all("outside")
        });
        assert_eq!(said, "inside: host true mount true\noutside: host true mount false\n");
    });
}

#[test]
fn others_on_the_host_do_not_reach_a_mount_in_a_namespace() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let inside = Inside::new(&ann, "~ ~/.cache/view");
        let file = ann.home.join(".cache/view/f");
        let read = inside.does(|| fs::read_to_string(&file).unwrap());
        assert_eq!(read, "hello\n");
        for uid in [0, 34, ANN] {
            let path = format!("/proc/{}/root{}", inside.pid(), str(&file));
            let done = try_sh_as(uid, uid, &[], &format!("cat {path}"));
            assert!(text(&done).contains("Permission denied"), "{uid}: {}", text(&done));
        }
        // Not by the mount namespace alone.
        let enter = format!("nsenter -m -t {}", inside.pid());
        let done = try_sh_as(0, 0, &[], &format!("{enter} cat {}", str(&file)));
        assert!(text(&done).contains("Permission denied"), "{}", text(&done));
        // Host root can become the user, as everywhere.
        let enter = format!("nsenter --preserve-credentials -U -m -t {}", inside.pid());
        let done = ann.tries(&format!("{enter} cat {}", str(&file)));
        assert_eq!(text(&done), "exit status: 0 hello\n");
    });
}

#[test]
fn what_is_hidden_stays_hidden_from_a_container_root() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does("idmapfs --in podman --hide '.ssh/**' ~ ~/.cache/view");
        // The files are root's own in there, and it has all capabilities.
        let script = "cd /home/me; exec 2>&1; stat -c %u .; cat f
            for path in .ssh/id ./.ssh/id project/../.ssh/id /work/../.ssh/id .SSH/id .cache/view/.ssh/id \
                /proc/self/cwd/.ssh/id /proc/1/root/home/me/.ssh/id /.ssh/id; do
                cat $path && echo LEAK $path
            done
            ls -a . /work/..; ls .ssh && echo LEAK
            ln -s /home/me/.ssh/id link; cat link && echo LEAK; rm link
            ln .ssh/id hard && echo LEAK; mv .ssh other && echo LEAK; cat other/id && echo LEAK
            mkdir .ssh && echo LEAK; cat .ssh/id && echo LEAK; ln -s project .ssh && echo LEAK
            mkdir -p /tmp/b /tmp/c; mount --bind /home/me /tmp/b; cat /tmp/b/.ssh/id && echo LEAK
            mount --bind /home/me/project /tmp/c; cat /tmp/c/../.ssh/id && echo LEAK
            cd /; umount /home/me && cat /home/me/.ssh/id && echo LEAK
            for process in /proc/[0-9]*; do
                for file in root cwd fd/*; do cat $process/$file/.ssh/id $process/${file}HOME/.ssh/id; done
            done
            grep -l idmapfs /proc/[0-9]*/comm; true";
        let volumes = "-v ~/.cache/view:/home/me -v ~/.cache/view/project:/work";
        let run = format!(
            "podman run --rm --user 0 --privileged {volumes} --rootfs $ROOTFS sh -uc '{script}'"
        );
        let out = ann.does(&run.replace("HOME", str(&ann.home)));
        assert!(out.starts_with("0\nhello\n"), "{out}");
        assert!(!out.contains("LEAK") && !out.contains("secret"), "{out}");
        assert!(ann.home.join(".ssh/id").exists());
        // Nor by a handle of the file on disk, or of what would be its number here.
        let inside = Inside::new(&ann, "--hide '.ssh/**' ~ ~/.cache/view");
        let (secret, view) = (ann.home.join(".ssh/id"), ann.home.join(".cache/view"));
        let handle = raw::handle(&secret).unwrap();
        let shown = raw::handle(&ann.home.join("f")).unwrap();
        let said = inside.does(|| {
            let at = raw::open(&view, libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
            let own = raw::handle(&view.join("f"));
            let tried = [Ok(handle), Ok(shown), own].map(|handle| match handle {
                Ok(handle) => raw::open_handle(&at, &handle).map(drop),
                Err(errno) => Err(errno),
            });
            format!("{tried:?}")
        });
        let refused = |errno: &i32| [libc::EPERM, libc::ESTALE, libc::EOPNOTSUPP].contains(errno);
        let [first, second, _] = said
            .trim_matches(['[', ']'])
            .split(", ")
            .map(|word| word.trim_start_matches("Err(").trim_end_matches(')').parse::<i32>().ok())
            .collect::<Vec<_>>()[..]
        else {
            panic!("{said}")
        };
        assert!(first.is_some_and(|errno| refused(&errno)), "{said}");
        assert!(second.is_some_and(|errno| refused(&errno)), "{said}");
    });
}

/// Each thing that is missing has one line, which names the way out.
#[test]
fn what_is_missing_is_said_with_the_way_out() {
    require!(Root, Fuse, UserNamespaces, Fusermount);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let fails = |script: &str, want: &[&str]| {
            let done = ann.tries(script);
            let error = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success(), "{script}: {}", text(&done));
            assert_eq!(error.trim_end().lines().count(), 1, "{script}: {error}");
            assert!(want.iter().all(|want| error.contains(want)), "{script}: {error}");
        };
        let alone = "PATH=$(dirname $(type -P idmapfs))";
        // No newuidmap: one id is shown, and more are not.
        let out =
            ann.does(&format!("{alone}; idmapfs run --hide x ~ -- /bin/cat /proc/self/uid_map"));
        let ids: Vec<&str> = out.split_whitespace().collect();
        assert_eq!(ids, [ANN.to_string().as_str(), &ANN.to_string(), "1"]);
        fails(
            &format!("{alone}; idmapfs run --map {ANN}:0:2 ~ -- /bin/true"),
            &["newuidmap: ", "it comes with the package uidmap"],
        );
        // No range that is long enough.
        fails(
            "idmapfs run --map 0:0:70000 ~ -- true",
            &["/etc/subuid", "missing", "usermod --add-subuids"],
        );
        // No user namespaces: none may be made below this one.
        let none = "echo 0 >/proc/sys/user/max_user_namespaces; exec idmapfs run --present-as 1000 ~ -- true";
        fails(
            &format!("unshare --map-root-user -m sh -euc '{none}'"),
            &["own namespaces: ", "user.max_user_namespaces", "fusermount3"],
        );
        // No fusermount3.
        fails(
            &format!("{alone}; idmapfs ~ ~/.cache/view"),
            &["fusermount3: ", "install fuse3", "idmapfs run"],
        );
        // No /dev/fuse, or none for users.
        let node = sandbox.path("fuse");
        sh(&format!("mknod -m 600 {0} c 10 229; mount --bind {0} /dev/fuse", str(&node)));
        let want = ["/dev/fuse: Permission denied", "mode 0666"];
        fails("idmapfs run --present-as 1000 ~ -- true", &want);
        fails("unshare --map-root-user -m idmapfs ~ ~/.cache/view", &want);
    });
}

#[test]
fn ids_that_the_namespace_has_not_are_warned_of() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let mount = "idmapfs --log warn,file=$HOME/log --map 0:1000:1 ~ ~/.cache/view";
        let look = "stat -c %u ~/.cache/view; umount ~/.cache/view";
        let out = ann.does(&format!("unshare --map-root-user -m sh -c '{mount}; {look}'"));
        assert_eq!(out, "65534\n");
        let log = fs::read_to_string(ann.home.join("log")).unwrap();
        let want = format!(
            "uid 1000 is none of this user namespace (0 {ANN} 1): what it owns is nobody's there"
        );
        assert!(log.contains(&want), "{log}");
    });
}

/// A server in the user's namespaces reaches what the user's groups may reach.
#[test]
fn a_users_groups_count_in_a_namespace() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let source = sandbox.dir("shared");
        fs::write(source.join("f"), "contents").unwrap();
        raw::chown(&source, 0, 7100, false).unwrap();
        raw::chmod(&source, 0o750).unwrap();
        let script = format!(
            "idmapfs --present-as 0:0 {} ~/.cache/view; cat ~/.cache/view/f; umount ~/.cache/view",
            str(&source)
        );
        for namespace in ["--map-root-user", "--map-root-user --map-auto"] {
            let script = format!("unshare {namespace} -m sh -euc '{script}'");
            let done = ann.command_in(&[7100], &script).output().unwrap();
            assert_eq!(text(&done), "exit status: 0 contents", "{namespace}");
            assert!(!ann.tries(&script).status.success(), "{namespace}: without the group");
        }
    });
}
