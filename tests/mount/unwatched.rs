//! What is said where the source cannot be watched, all of it or a part.

use std::fs;

use crate::require;
use crate::support::ours::{Ours, finish, program_for_users};
use crate::support::{raw, sandbox, sh, str, text, try_sh_as, wait_for};

const USER: u32 = 34;

/// By default nobody reads what is logged at level info.
#[test]
fn what_cannot_be_watched_is_warned_of() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let warns = |ours: &Ours| ours.log().contains("warning: source: not watched (it is served");
        assert!(!ours.log().contains("watched"), "{}", ours.log());
        let point = sandbox.dir("twice");
        for (args, warned) in [(&[][..], true), (&["--cache", "watch"], true)]
            .into_iter()
            .chain([&["--cache", "ttl=1"][..], &["--cache", "none"]].map(|args| (args, false)))
        {
            let twice = Ours::new(&ours.point, &point, args);
            assert_eq!(warns(&twice), warned, "{args:?}: {}", twice.log());
            twice.unmount();
            fs::remove_file(point.with_extension("log")).unwrap();
        }
        // The same below a source that is watched: once, and whoever asks is told.
        let outer = sandbox.dir("outer");
        let below = ["one", "other"].map(|name| outer.join(name));
        for dir in &below {
            fs::create_dir(dir).unwrap();
            sh(&format!("mount --bind {} {}", str(&ours.point), str(dir)));
        }
        fs::write(source.join("f"), "").unwrap();
        let over = Ours::new(&outer, &point, &[]);
        let asked = || finish(&["explain", "--mount", "--json", str(&point)]);
        wait_for("a server that can be asked", || asked().status.success());
        let why = || {
            let said: serde_json::Value = serde_json::from_slice(&asked().stdout).unwrap();
            said["mount"]["cache"]["why"].as_str().unwrap().to_owned()
        };
        assert_eq!(why(), "the whole file system (fanotify)");
        for _ in 0..3 {
            assert!(over.at("one/f").exists() && over.at("other/f").exists());
        }
        let warning = "warning: a file system below the source: not watched (it is served by FUSE)";
        assert_eq!(over.log().matches(warning).count(), 1, "{}", over.log());
        assert_eq!(
            why(),
            "the whole file system (fanotify); 2 file systems below it are not (it is served by \
             FUSE)"
        );
    });
}

/// A user has so many marks of fanotify, here and in other programs.
#[test]
fn directories_that_cannot_be_watched_are_warned_of_once() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (source, program) = (sandbox.dir("src"), program_for_users(sandbox));
        sh(&format!("cd {}; mkdir $(seq 50); chown -R {USER}:{USER} .", str(&source)));
        let run = format!(
            "unshare -Ur sh -euc 'echo 20 > /proc/sys/user/max_fanotify_marks; \
             exec {} run {} -- find .'",
            str(&program),
            str(&source)
        );
        let done = try_sh_as(USER, USER, &[], &run);
        assert!(done.status.success(), "{}", text(&done));
        let said = String::from_utf8_lossy(&done.stderr);
        let warning = "warning: source: not every directory is watched (fanotify: this user has as \
                       many marks as fs.fanotify.max_user_marks allows): ";
        assert_eq!(said.matches(warning).count(), 1, "{said}");
    });
}

#[test]
fn an_overlay_is_not_watched_which_is_warned_of() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let [lower, upper, work, source] =
            ["lower", "upper", "work", "src"].map(|name| sandbox.dir(name));
        sh(&format!(
            "mount -t overlay o -o lowerdir={},upperdir={},workdir={} {}",
            str(&lower),
            str(&upper),
            str(&work),
            str(&source)
        ));
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &[]);
        let why = "not watched (overlay file systems tell too little): what others change in it \
                   may be seen up to 1 s late";
        assert_eq!(ours.log(), format!("idmapfs: warning: source: {why}\n"));
        let asked = finish(&["explain", "--mount", str(&ours.point)]);
        assert!(text(&asked).contains(why), "{}", text(&asked));
    });
}

/// Whatever the system refuses: here, more groups of fanotify.
#[test]
fn a_watch_that_is_refused_is_warned_of() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (source, program) = (sandbox.dir("src"), program_for_users(sandbox));
        let run = format!(
            "unshare -Ur sh -euc 'echo 0 > /proc/sys/user/max_fanotify_groups; \
             exec {0} run {1} -- {0} explain --mount .'",
            str(&program),
            str(&source)
        );
        let runtime = sandbox.dir("run");
        raw::chown(&runtime, USER, USER, false).unwrap();
        let run = format!("export XDG_RUNTIME_DIR={}; {run}", str(&runtime));
        let done = try_sh_as(USER, USER, &[], &run);
        let why = "not watched (fanotify: this user has as many groups as \
                   fs.fanotify.max_user_groups allows, or no descriptor is free): what others \
                   change in it may be seen up to 1 s late";
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(said.matches(&format!("warning: source: {why}")).count(), 1, "{}", text(&done));
        assert!(String::from_utf8_lossy(&done.stdout).contains(why), "{}", text(&done));
    });
}
