//! What callers may change: owners, modes, extended attributes, with the
//! programs that do it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::require;
use crate::support::ours::Ours;
use crate::support::{Sandbox, raw, sandbox, sh, sh_as, str, text, try_sh_as};

/// Mounts a new directory that anybody may write to, with a policy as a file
/// says it, without its first line.
fn mounted(sandbox: &Sandbox, policy: &str) -> (PathBuf, Ours) {
    let source = sandbox.dir("src");
    raw::chmod(&source, 0o777).unwrap();
    let file = sandbox.file("p.toml", &format!("version = 1\n{policy}\n"));
    let ours = Ours::new(&source, &sandbox.dir("mnt"), &["--policy", str(&file)]);
    (source, ours)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

/// The words of an error that a program of a user prints; it must fail.
fn failure(uid: u32, script: &str) -> String {
    let output = try_sh_as(uid, uid, &[], script);
    assert!(!output.status.success(), "{script}: {}", text(&output));
    text(&output)
}

#[test]
fn programs_that_set_owners_and_modes_work_where_that_is_ignored() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        // A source that keeps neither owners nor modes.
        let policy = "[ids.collapse]\npresent-as = '1000:1000'\nstore-as = '2000:2000'\n\
                      [changes]\nchown = 'ignore'\nchgrp = 'ignore'\nchmod = 'ignore'\n\
                      create.mode = 'u=rwX,go=rX'";
        let (source, ours) = mounted(sandbox, policy);
        let from = sandbox.dir("from");
        sh(&format!(
            "cd {}; mkdir d; echo x > d/f; ln -s f d/l; chmod 4711 d/f; chmod 700 d; chown -R 5:6 d
             setfacl -m u:7:r d/f; setfattr -n user.a -v b d/f; tar cf ../a.tar d",
            str(&from)
        ));
        let copy = |how: &str, user: u32| {
            let script = format!("cd {}; rm -rf new; mkdir new; {how}", str(&ours.point));
            sh_as(user, user, &[], &script);
            for (name, wanted) in [("new/d", 0o755), ("new/d/f", 0o644), ("new/d/l", 0o777)] {
                let on_disk = source.join(name);
                assert_eq!(owner(&on_disk), (2000, 2000), "{how} as {user}: {name}");
                // A program that makes a file with execute bits may leave them.
                let special = mode(&on_disk) & 0o7022;
                assert!(special == 0 || name == "new/d/l", "{how} as {user}: {name}");
                assert_eq!(owner(&ours.at(name)), (1000, 1000), "{how} as {user}: {name}");
                assert!(mode(&on_disk) & wanted & 0o444 == wanted & 0o444, "{how}: {name}");
            }
            fs::read(source.join("new/d/f")).unwrap()
        };
        raw::chmod(&from, 0o755).unwrap();
        let (tree, archive) = (str(&from).to_owned(), sandbox.path("a.tar"));
        for how in [
            format!("cp -a {tree}/d new/"),
            format!("tar xpf {} -C new", str(&archive)),
            format!("rsync -aAX {tree}/d new/"),
            format!("cp -r {tree}/d new/; chown -R 3:4 new; chgrp 9 new; chmod -R 777 new"),
        ] {
            assert_eq!(copy(&how, 0), b"x\n", "{how}");
        }
        sh(&format!("chmod -R a+rX {tree}"));
        // The kernel lets an ordinary user ask for nothing but its own groups.
        copy(&format!("cp -r {tree}/d new/; chown 1000:1000 new; chmod -R 777 new"), 1000);
        let why = failure(1000, &format!("chown 0 {}", str(&ours.at("new/d/f"))));
        assert!(why.contains("Operation not permitted"), "{why}");
    });
}

#[test]
fn owners_that_may_not_be_given_are_refused() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = mounted(sandbox, "[changes]\nchown = 'only=5,7-9'\nchgrp = 'deny'");
        fs::write(source.join("f"), "").unwrap();
        let point = str(&ours.point).to_owned();
        sh(&format!("cd {point}; chown 5 f; chown 8 f"));
        for wrong in ["chown 6 f", "chown 5:5 f", "chgrp 5 f", "chown :0 f"] {
            let why = failure(0, &format!("cd {point}; {wrong}"));
            assert!(why.contains("Operation not permitted"), "{wrong}: {why}");
        }
        assert_eq!(owner(&source.join("f")), (8, 0));
        // A write, a truncation and times are no change of owner or mode.
        sh(&format!("cd {point}; echo x >> f; truncate -s 9 f; touch -d @5 f"));
    });
}

#[test]
fn modes_are_filtered_or_refused_and_writes_go_on() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = mounted(sandbox, "changes.chmod = 'filter=o=,g+rX'");
        let on =
            |script: &str| sh_as(1000, 1000, &[], &format!("cd {}; {script}", str(&ours.point)));
        on("umask 077; : > f; mkdir d; chmod 777 f d; setfacl -m u:7:rwx f");
        assert_eq!((mode(&source.join("f")), mode(&source.join("d"))), (0o770, 0o770));
        on("chmod 600 f d");
        assert_eq!((mode(&source.join("f")), mode(&source.join("d"))), (0o640, 0o650));
        assert_eq!(mode(&ours.at("f")), 0o640);
    });
    sandbox(|sandbox| {
        let (source, ours) = mounted(sandbox, "changes.chmod = 'deny,allow-x'");
        let file = source.join("f");
        fs::write(&file, "").unwrap();
        raw::chown(&file, 1000, 1000, false).unwrap();
        raw::chmod(&file, 0o6755).unwrap();
        let point = str(&ours.point).to_owned();
        for wrong in ["chmod 644 f", "chmod u-s f", "setfacl -m u:7:r f", "chmod 700 ."] {
            let why = failure(1000, &format!("cd {point}; {wrong}"));
            assert!(why.contains("Operation not permitted"), "{wrong}: {why}");
        }
        assert_eq!(mode(&file), 0o6755);
        // The client takes set-id bits away by a change without a mode.
        sh_as(1000, 1000, &[], &format!("cd {point}; echo x >> f"));
        assert_eq!(mode(&file), 0o755);
        sh_as(1000, 1000, &[], &format!("cd {point}; chmod a-x f"));
        assert_eq!(mode(&file), 0o644);
        sh_as(1000, 1000, &[], &format!("cd {point}; chmod u+x f; : > f; touch f"));
        assert_eq!(mode(&file), 0o744);
    });
}

#[test]
fn new_files_are_born_with_the_mode_of_the_expression() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = mounted(sandbox, "changes.create.mode = 'g=u,o='");
        let acl = sandbox.dir("src/acl");
        raw::chmod(&acl, 0o777).unwrap();
        sh(&format!("setfacl -d -m u::rwx,u:7:rwx,g::r,o::r {}", str(&acl)));
        let script = "umask 077; : > f; mkdir d; mkfifo p; install -m 700 /dev/null x";
        for below in ["", "acl"] {
            let script = format!("cd {}/{below}; {script}", str(&ours.point));
            sh_as(1000, 1000, &[], &script);
        }
        let modes = |below: &str| ["f", "d", "p"].map(|name| mode(&source.join(below).join(name)));
        assert_eq!(modes(""), [0o660, 0o770, 0o660]);
        // There the umask does not count, and the ACL, mask included, limits.
        assert_eq!(modes("acl"), [0o660, 0o770, 0o660]);
        let entries = sh(&format!("getfacl -cnE {}", str(&ours.at("acl/f"))));
        assert!(entries.contains("user:7:rwx") && entries.contains("mask::rw-"), "{entries}");
        // A mode that a program sets afterwards is its own.
        assert_eq!(mode(&source.join("x")), 0o700);
    });
}

#[test]
fn attributes_are_hidden_refused_and_stored_under_other_names() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = "[[changes.xattrs]]\nname = 'user.secret*'\naction = 'hide'\n\
                      [[changes.xattrs]]\nname = 'user.fixed'\naction = 'refuse'\n\
                      [[changes.xattrs]]\nname = 'trusted.overlay.*'\naction = 'rename'\n\
                      to = 'user.overlay.'";
        let (source, ours) = mounted(sandbox, policy);
        let disk = source.join("f");
        sh(&format!(
            "cd {}; : > f; chmod 666 f
             for a in secret fixed plain overlay.opaque; do setfattr -n user.$a -v d f; done",
            str(&source)
        ));
        let on = |uid, script: &str| {
            try_sh_as(uid, uid, &[], &format!("cd {}; {script}", str(&ours.point)))
        };
        let list = |uid| {
            let output = on(uid, "getfattr -m - --absolute-names f");
            assert!(output.status.success(), "{}", text(&output));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines()
                .filter(|l| !l.starts_with('#') && !l.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(list(0), ["trusted.overlay.opaque", "user.fixed", "user.plain"]);
        assert_eq!(list(1000), ["user.fixed", "user.plain"]);
        for (script, wanted) in [
            ("getfattr -n user.secret f", "No such attribute"),
            ("setfattr -n user.secret -v x f", "Operation not permitted"),
            ("setfattr -n user.secret2 -v x f", "Operation not permitted"),
            ("setfattr -x user.secret f", "No such attribute"),
            ("setfattr -n user.fixed -v x f", "Operation not permitted"),
            ("setfattr -x user.fixed f", "Operation not permitted"),
            ("getfattr -n user.overlay.opaque f", "No such attribute"),
            ("setfattr -n user.overlay.new -v x f", "Operation not permitted"),
        ] {
            for uid in [0, 1000] {
                let output = on(uid, script);
                assert!(!output.status.success(), "{script} as {uid}");
                assert!(text(&output).contains(wanted), "{script} as {uid}: {}", text(&output));
            }
        }
        sh(&format!(
            "cd {}; setfattr -n trusted.overlay.new -v n f; setfattr -x trusted.overlay.opaque f
             [ $(getfattr --only-values -n trusted.overlay.new f) = n ]
             [ $(getfattr --only-values -n user.fixed f) = d ]",
            str(&ours.point)
        ));
        let stored = sh(&format!("getfattr -m - --absolute-names {}", str(&disk)));
        assert!(stored.contains("user.overlay.new") && stored.contains("user.secret"), "{stored}");
        assert!(!stored.contains("trusted.") && !stored.contains("opaque"), "{stored}");
    });
}

/// Makes a file with a capability in a source, and returns it as it is on disk.
fn capable(source: &Path, name: &str) -> PathBuf {
    sh(&format!("cd {}; : > {name}; chmod 777 {name}; setcap cap_chown=p {name}", str(source)));
    source.join(name)
}

fn capability(path: &Path) -> String {
    sh(&format!("getcap {}", str(path)))
}

#[test]
fn a_capability_that_may_not_be_changed_goes_with_a_write() {
    require!(Root, Fuse);
    for action in ["refuse", "hide"] {
        sandbox(move |sandbox| {
            let policy = format!("name = 'security.capability', action = '{action}'");
            let (source, ours) = mounted(sandbox, &format!("changes.xattrs = [{{ {policy} }}]"));
            let changes =
                [(0, "echo x >>"), (1000, "echo x >>"), (0, "chown 7"), (0, "truncate -s 9")];
            for (at, (uid, change)) in changes.into_iter().enumerate() {
                let name = format!("f{at}");
                let (disk, view) = (capable(&source, &name), ours.at(&name));
                assert_eq!(capability(&view).contains("cap_chown"), action == "refuse");
                for wrong in ["setcap -r", "setcap cap_kill=p"] {
                    failure(0, &format!("{wrong} {}", str(&view)));
                }
                assert!(capability(&disk).contains("cap_chown"), "{action}");
                sh_as(uid, uid, &[], &format!("{change} {}", str(&view)));
                assert_eq!(capability(&disk), "", "{action} {uid} {change}");
                assert_eq!(capability(&view), "", "{action} {uid} {change}");
            }
        });
    }
}

#[test]
fn a_chown_that_is_ignored_may_take_a_capability() {
    require!(Root, Fuse);
    for how in ["ignore", "deny"] {
        sandbox(move |sandbox| {
            let (source, ours) = mounted(sandbox, &format!("changes.chown = '{how}'"));
            let disk = capable(&source, "f");
            let done = try_sh_as(0, 0, &[], &format!("chown 7 {}", str(&ours.at("f"))));
            assert_eq!(done.status.success(), how == "ignore", "{}", text(&done));
            assert_eq!((owner(&disk), capability(&disk)), ((0, 0), String::new()), "{how}");
        });
    }
}

#[test]
fn the_options_of_bindfs_are_taken() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let options = "force-user=1000,force-group=1000,create-for-user=2000,\
                       create-for-group=2000,create-with-perms=0640:a+X,chown-ignore,\
                       chgrp-ignore,chmod-ignore,chmod-allow-x,xattr-ro";
        let (source, ours) = Ours::of_new(sandbox, &["-o", options]);
        raw::chmod(&source, 0o777).unwrap();
        let from = sandbox.file("from", "x");
        sh(&format!("setfattr -n user.a -v b {0}; chmod 600 {0}; chown 5:6 {0}", str(&from)));
        let point = str(&ours.point).to_owned();
        let output = try_sh_as(0, 0, &[], &format!("cd {point}; cp -p {} f", str(&from)));
        assert!(output.status.success(), "{}", text(&output));
        sh_as(1000, 1000, &[], &format!("cd {point}; mkdir d; chmod 711 f; chmod 700 d"));
        assert_eq!(owner(&source.join("f")), (2000, 2000));
        assert_eq!((mode(&source.join("f")), mode(&source.join("d"))), (0o751, 0o751));
        sh(&format!("setfattr -n user.a -v b {}", str(&source.join("f"))));
        let why = failure(0, &format!("cd {point}; setfattr -x user.a f"));
        assert!(why.contains("Operation not permitted"), "{why}");
        // It says so where all attributes are to be copied, and goes on.
        let why = try_sh_as(0, 0, &[], &format!("cd {point}; cp -a {} g", str(&from)));
        assert!(why.status.success() && fs::read(source.join("g")).unwrap() == b"x");
    });
}

#[test]
fn a_group_works_on_files_of_one_user_whatever_the_umask() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        raw::chown(&source, 990, 100, false).unwrap();
        raw::chmod(&source, 0o2770).unwrap();
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/shared-directory.toml");
        let ours = Ours::new(&source, &point, &["--policy", policy]);
        let at = |user: u32, script: &str| {
            sh_as(user, user, &[100], &format!("umask 077; cd {}; {script}", str(&point)));
        };
        at(1001, "echo one > a; mkdir d; echo two > d/b; ln -s a l");
        at(1002, "echo more >> a; echo more > d/c; sed -i s/two/2/ d/b; mv d/c c; rm l");
        at(1001, "rm c; touch a d; cp a d/e; chmod -f 600 a || :");
        sh(&format!("cd {}; chmod 640 a; chown 5:5 a d", str(&point)));
        for (name, wanted) in [("a", 0o660), ("d", 0o2770), ("d/b", 0o660), ("d/e", 0o660)] {
            let path = source.join(name);
            assert_eq!((owner(&path), mode(&path)), ((990, 100), wanted), "{name}");
        }
        assert_eq!(fs::read_to_string(ours.at("a")).unwrap(), "one\nmore\n");
        let stranger = try_sh_as(1003, 1003, &[], &format!("cat {}", str(&ours.at("a"))));
        assert!(!stranger.status.success(), "{}", text(&stranger));
    });
}
