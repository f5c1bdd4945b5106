//! A user's files in rootless containers: by `podman unshare`, by `--in podman`, and
//! what a container can and cannot do to them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};

use crate::require;
use crate::support::rootless::{ANN, Rootless, SUBORDINATE};
use crate::support::{mount_at, sandbox, sh, str, text, wait_for};

/// What the issue calls scenario c, with the mount point inside the source.
const VIEW: &str = "--map 0:1000:1 --hide '.ssh/**' ~ ~/.cache/view";

/// What runs in a container, as a user, with the mount as its home.
fn container(options: &str, script: &str) -> String {
    format!(
        "podman run --rm {options} -v ~/.cache/view:/home/me --rootfs $ROOTFS sh -euc '{script}'"
    )
}

/// Files of the home that are not its owner's.
fn foreign(ann: &Rootless) -> String {
    sh(&format!("find {} ! -uid {ANN} -o ! -gid {ANN}", str(&ann.home)))
}

#[test]
fn a_container_user_has_the_home_as_its_own() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does(&format!("podman unshare idmapfs {VIEW}"));
        let script =
            "cd /home/me; stat -c %u:%g . f; cat f; echo more >>f; echo new >n; chmod 640 n
            mkdir d; mv n d/m; ln d/m d/hard; ln -s m d/soft; mkfifo p; flock d/m true; rm p d/hard
            stat -c %u:%g:%a d/m; ls -d .ssh 2>&1 || true; ls -A .cache/view";
        let out = ann.does(&container("--user 1000", script));
        let want = "1000:1000\n1000:1000\nhello\n1000:1000:640\n\
                    ls: cannot access '.ssh': No such file or directory\n";
        assert_eq!(out, want);
        assert_eq!(foreign(&ann), "");
        assert_eq!(fs::read_to_string(ann.home.join("f")).unwrap(), "hello\nmore\n");
        assert_eq!(fs::metadata(ann.home.join("d/m")).unwrap().mode() & 0o7777, 0o640);
        ann.does("rm -r ~/d ~/f; podman unshare umount ~/.cache/view");
        wait_for("the server's end", || ann.processes().len() <= 1);
    });
}

#[test]
fn a_container_root_gains_nothing_on_disk() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does(&format!("podman unshare idmapfs {VIEW}"));
        let script = "cd /home/me; stat -c %u .; (echo x >made) 2>&1 || true; \
            chown 0:0 f 2>&1 || true; chown 5:5 f 2>&1 || true; chmod 4777 f 2>&1 || true; \
            mknod null c 1 3 2>&1 || true; mknod fuse c 10 229 2>&1 || true; id -u";
        let out = ann.does(&container("--user 0 --privileged", script));
        assert!(out.starts_with("1000\n") && out.ends_with("\n0\n"), "{out}");
        assert_eq!(foreign(&ann), "", "{out}");
        let all = sh(&format!("find {} -type b -o -type c", str(&ann.home)));
        assert_eq!(all, "", "{out}");
        // What it made set-user-id, if anything, is hers and counts for nothing in the mount.
        let owner = fs::metadata(ann.home.join("f")).unwrap().uid();
        assert_eq!(owner, ANN);
    });
}

#[test]
fn two_containers_share_a_mount_with_right_owners_each() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does(
            "idmapfs --in podman --map 0:1000:1 --map 1:2000:1 ~ ~/.cache/view; chmod 777 project",
        );
        let start = |name: &str, user: u32| {
            let script = "while [ ! -e project/end ]; do sleep 0.05; done";
            let script = container(
                &format!("-d --name {name} --user {user}"),
                &format!("cd /home/me; {script}"),
            );
            ann.does(&script);
        };
        start("one", 1000);
        start("two", 2000);
        let within = |name: &str, script: &str| {
            ann.does(&format!(
                "podman exec {name} sh -uc 'cd /home/me/project; exec 2>&1; {script}' || true"
            ))
        };
        within("one", "echo one >a; chmod 600 a");
        within("two", "echo two >b; chmod 600 b");
        let seen = "stat -c %n:%u:%g a b; cat a b";
        let denied = |name: &str| format!("cat: {name}: Permission denied\n");
        let owners = "a:1000:1000\nb:2000:2000\n";
        assert_eq!(within("one", seen), format!("{owners}one\n{}", denied("b")));
        assert_eq!(within("two", seen), format!("{owners}{}two\n", denied("a")));
        assert_eq!(within("two", "chmod 666 a; chown 2000 a; id -u"), {
            let refused = |what: &str| format!("{what}: Operation not permitted\n");
            let of = |name: &str, what: &str| refused(&format!("{name}: {what} 'a'"));
            format!(
                "{}{}2000\n",
                of("chmod", "changing permissions of"),
                of("chown", "changing ownership of")
            )
        });
        // A lock that one holds is in the other's way.
        let held = "cd /home/me/project; flock lock sh -c \"touch held; sleep 30\"";
        ann.does(&format!(
            "podman exec -d one sh -c '{held}'; until [ -e project/held ]; do sleep 0.05; done"
        ));
        assert_eq!(within("two", "flock -n lock true || echo locked"), "locked\n");
        within("one", "touch end");
        let owner = |name: &str| fs::metadata(ann.home.join("project").join(name)).unwrap().uid();
        assert_eq!(owner("b"), SUBORDINATE);
        assert_eq!(owner("a"), ANN);
    });
}

#[test]
fn one_command_mounts_for_a_container_and_runs_it() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let run = "idmapfs run --in podman --map 0:1000:1 --hide '.ssh/**' ~ --";
        let podman = |options: &str, script: &str| {
            format!(
                "{run} podman run {options} --user 1000 -v .:/home/me --rootfs $ROOTFS sh -euc '{script}'"
            )
        };
        let script = "cd /home/me; stat -c %u:%g . f; ls -d .ssh || echo n >n; exit 3";
        let done = ann.tries(&podman("--rm", script));
        assert_eq!(done.status.code(), Some(3), "{}", text(&done));
        assert_eq!(String::from_utf8_lossy(&done.stdout), "1000:1000\n1000:1000\n");
        assert_eq!(fs::metadata(ann.home.join("n")).unwrap().uid(), ANN);
        // A container that stays keeps its files, and the server.
        ann.does(&podman("-d --rm --name kept", "sleep 1; cat /home/me/f >/home/me/late"));
        let late = ann.home.join("late");
        wait_for("what a container that was left does", || {
            fs::read_to_string(&late).is_ok_and(|text| text == "hello\n")
        });
        let missing = ann.tries(&format!("{run} /no/such/command"));
        assert_eq!(missing.status.code(), Some(127), "{}", text(&missing));
        // Nothing is left but podman's own process.
        wait_for("the servers' end", || ann.does("ls $XDG_RUNTIME_DIR/idmapfs").is_empty());
        let pause = ann.pause();
        wait_for("the end", || ann.processes().into_iter().all(|pid| Some(pid) == pause));
    });
}

#[test]
fn what_a_killed_run_leaves_is_removed_by_the_next() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let run = "idmapfs run --in podman --map 0:1000:1 ~ --";
        ann.does(&format!("{run} sh -c 'kill -9 $PPID' || true"));
        assert!(ann.does("ls $XDG_RUNTIME_DIR/idmapfs").contains("view-"));
        ann.does(&format!("{run} true"));
        wait_for("nothing left", || ann.does("ls $XDG_RUNTIME_DIR/idmapfs").is_empty());
    });
}

#[test]
fn a_mount_is_made_in_podmans_namespace() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        assert!(ann.pause().is_none());
        ann.does(
            "cd ~/.cache; idmapfs --in podman --log info,file=$HOME/log --map 0:1000:1 .. view",
        );
        let pause = ann.pause().expect("podman has started its process");
        assert!(mount_at(&ann.home.join(".cache/view")).is_none(), "seen on the host");
        let log = fs::read_to_string(ann.home.join("log")).unwrap();
        let ids = format!("0 {ANN} 1, 1 {SUBORDINATE} 65536");
        let want = format!(
            "namespaces: those of process {pause}, podman's (ids are those of a user namespace: {ids}); \
             mounted directly (every user of that user namespace may enter)"
        );
        assert!(log.contains(&want), "{log}");
        let said = ann.does("idmapfs explain --mount ~/.cache/view");
        assert!(
            said.contains(&format!("namespaces:     those of process {pause}, podman's")),
            "{said}"
        );
        let out = ann.does(&container("--user 1000", "stat -c %u /home/me /home/me/f"));
        assert_eq!(out, "1000\n1000\n");
        // By its number, and by a file, from inside as well.
        ann.does(&format!("mkdir 1 2 3; idmapfs --in {pause} ~ 1; idmapfs --in $XDG_RUNTIME_DIR/libpod/tmp/pause.pid ~ 2"));
        ann.does("podman unshare idmapfs --in podman ~ 3; podman unshare cat 1/f 2/f 3/f");
        // Its server is asked from outside.
        ann.does("idmapfs stats 1 >out; grep -q lookup out; idmapfs reload 1; idmapfs abort 1");
        ann.does("podman unshare umount 2 3 .cache/view");
        wait_for("the servers' end", || ann.does("ls $XDG_RUNTIME_DIR/idmapfs").is_empty());
    });
}

#[test]
fn what_keeps_a_mount_out_of_a_namespace_is_said() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let (none, other) = (sandbox.dir("none"), sandbox.dir("other"));
        let ours = nix::unistd::getpid();
        fs::create_dir_all(other.join("libpod/tmp")).unwrap();
        fs::write(other.join("libpod/tmp/pause.pid"), ours.to_string()).unwrap();
        for (script, want) in [
            (format!("idmapfs --in {ours} ~ ~/.cache/view"), "user 0 has made its namespaces".to_owned()),
            ("idmapfs --in 1073741823 ~ ~/.cache/view".to_owned(), "there is none of that number".into()),
            ("idmapfs --in ./no ~ ~/.cache/view".to_owned(), "./no: No such file".into()),
            ("idmapfs --in ./f ~ ~/.cache/view".to_owned(), "./f: has no process id".into()),
            ("idmapfs --in docker ~ ~/.cache/view".to_owned(), "podman, a process id, or the path".into()),
            (
                format!("PATH=$(dirname $(type -P idmapfs)); XDG_RUNTIME_DIR={} idmapfs --in podman ~ ~/.cache/view", str(&none)),
                "podman: No such file or directory; install podman, or name a process with --in PID".into(),
            ),
            (
                format!("XDG_RUNTIME_DIR={} idmapfs --in podman ~ ~/.cache/view", str(&other)),
                format!("process {ours} is one of user 0, not podman's pause process of this user"),
            ),
        ] {
            let done = ann.tries(&script);
            let error = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success() && error.contains(&want), "{script}: {error}");
            assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        }
        let root = crate::support::ours::finish(&["--in", "podman", str(&none), str(&other)]);
        assert!(
            text(&root).contains("root's podman uses the host's namespaces"),
            "{}",
            text(&root)
        );
        // Another user's process, whose number podman's file has by now.
        let mut sleep = ann.command("exec sleep 60").spawn().unwrap();
        ann.does("podman unshare true");
        kill(ann.pause().unwrap(), Signal::SIGKILL).unwrap();
        ann.does(&format!("echo {} >$XDG_RUNTIME_DIR/libpod/tmp/pause.pid", sleep.id()));
        wait_for("sleep", || ann.does(&format!("cat /proc/{}/comm", sleep.id())) == "sleep\n");
        let done = ann.tries("idmapfs --in podman ~ ~/.cache/view");
        assert!(text(&done).contains("is sleep, not podman's pause process"), "{}", text(&done));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    });
}

#[test]
fn a_mount_in_the_namespaces_of_a_process_ends_with_it() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        // Somebody else stays there, and the directory that is the mount is used.
        let mut process = ann
            .command(
                "exec unshare --map-root-user -m sh -c 'sleep 100 & touch ~/ready; exec sleep 100'",
            )
            .spawn()
            .unwrap();
        wait_for("the process", || ann.home.join("ready").exists());
        let pid = process.id();
        wait_for("sleep", || ann.does(&format!("cat /proc/{pid}/comm")) == "sleep\n");
        ann.does(&format!(
            "idmapfs --in {pid} ~ ~/.cache/view; ls $XDG_RUNTIME_DIR/idmapfs | grep -q ."
        ));
        process.kill().unwrap();
        process.wait().unwrap();
        wait_for("the server's end", || ann.does("ls $XDG_RUNTIME_DIR/idmapfs").is_empty());
    });
}

#[test]
fn a_place_of_a_run_is_its_own_while_it_runs() {
    require!(Root, Fuse, Podman);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let run = "idmapfs run --in podman --map 0:1000:1 ~ --";
        // In another pid namespace no number of this one says anything.
        let other = "unshare --map-root-user -p -f --mount-proc idmapfs run --in podman --map 0:1000:1 ~ -- true || true";
        let script = format!(
            "({other}) >other 2>&1; {run} true; ls -d $XDG_RUNTIME_DIR/idmapfs/view-*; pwd"
        );
        let out = ann.does(&format!("{run} sh -euc 'cd ~; {script}' | wc -l"));
        assert_eq!(out, "2\n", "{}", ann.does("cat other"));
        wait_for("nothing left", || ann.does("ls $XDG_RUNTIME_DIR/idmapfs").is_empty());
    });
}

#[test]
fn a_runtime_directory_that_is_somebody_elses_is_refused() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        let path = format!("/tmp/podman-run-{ANN}");
        // Another /tmp, in which this test's own place is where it was.
        let (tmp, root) = (sandbox.dir("tmp"), sandbox.path("."));
        sh(&format!(
            "cd {root}; here=$PWD; chmod 1777 tmp; mkdir -p tmp/${{here#/tmp/}}
            mount --bind $here $here/tmp/${{here#/tmp/}}; mount --rbind {tmp} /tmp; mkdir -m 777 {path}",
            root = str(&root),
            tmp = str(&tmp)
        ));
        for script in ["idmapfs --in podman ~ ~/.cache/view", "idmapfs run --in podman ~ -- true"] {
            let done = ann.tries(&format!("unset XDG_RUNTIME_DIR; {script}"));
            let error = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success(), "{script}: {error}");
            let want =
                format!("{path}: is somebody else's, or open to others; set XDG_RUNTIME_DIR");
            assert!(error.contains(&want) && error.lines().count() == 1, "{script}: {error}");
        }
        sh("umount -l /tmp");
    });
}
