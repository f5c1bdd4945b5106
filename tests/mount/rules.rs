//! Rules by path, name and attributes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::require;
use crate::support::ours::Ours;
use crate::support::{Sandbox, output, raw, sandbox, sh, sh_as, str, text, try_sh_as};

/// Mounts a source that a script fills, under these rules; long kept, to see
/// what must not be.
fn ruled(sandbox: &Sandbox, fill: &str, rules: &str) -> (PathBuf, Ours) {
    let source = sandbox.dir("src");
    sh(&format!("cd {}; {fill}", str(&source)));
    let policy = sandbox.file("policy.toml", &format!("version = 1\n{rules}"));
    let args = ["--policy", str(&policy), "--cache", "ttl=60"];
    let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
    (source, ours)
}

#[test]
fn nothing_tells_a_hidden_name_from_one_that_is_not_there() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        for there in [true, false] {
            let dir = sandbox.path(if there { "with" } else { "without" });
            fs::create_dir(&dir).unwrap();
            let (source, point) = (dir.join("src"), dir.join("mnt"));
            fs::create_dir(&source).unwrap();
            fs::create_dir(&point).unwrap();
            sh(&format!("cd {}; echo x > file; mkdir open open/sub", str(&source)));
            if there {
                sh(&format!("cd {}; mkdir -p .ssh/deep; echo k > .ssh/key", str(&source)));
            }
            let ours = Ours::new(&source, &point, &["--hide", ".ssh/**", "--cache", "ttl=60"]);
            let (secret, file) = (ours.at(".ssh"), ours.at("file"));
            assert_eq!(fs::metadata(&secret).unwrap_err().raw_os_error(), Some(libc::ENOENT));
            assert_eq!(
                fs::metadata(secret.join("key")).unwrap_err().raw_os_error(),
                Some(libc::ENOENT)
            );
            let refused = Err(libc::EPERM);
            assert_eq!(raw::open(&secret, libc::O_CREAT | libc::O_RDWR, 0o644).map(drop), refused);
            assert_eq!(raw::open(&secret, libc::O_CREAT | libc::O_EXCL, 0o644).map(drop), refused);
            assert_eq!(raw::mkdir(&secret, 0o755).map(drop), refused);
            assert_eq!(raw::mknod(&secret, libc::S_IFIFO | 0o644, 0).map(drop), refused);
            assert_eq!(raw::symlink("x".as_ref(), &secret).map(drop), refused);
            assert_eq!(raw::link(&file, &secret).map(drop), refused);
            for flags in [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE] {
                let want = match flags {
                    // The kernel finds no second file to exchange by itself.
                    libc::RENAME_EXCHANGE => Err(libc::ENOENT),
                    _ => refused,
                };
                assert_eq!(raw::rename(&file, &secret, flags).map(drop), want, "{flags}");
            }
            let gone = Err(libc::ENOENT);
            assert_eq!(raw::rename(&secret, &ours.at("new"), 0).map(drop), gone);
            assert_eq!(fs::remove_dir(&secret).unwrap_err().raw_os_error(), Some(libc::ENOENT));
            assert_eq!(sh(&format!("ls -A {}", str(&ours.point))), "file\nopen\n");
            assert_eq!(fs::metadata(&ours.point).unwrap().nlink(), 1);
            assert_eq!(fs::metadata(ours.at("open")).unwrap().nlink(), 3);
            // Nor by way of a directory that is open, or of `..`.
            let found = sh(&format!(
                "cd {}/open/sub; ls -A ../..; find {0} -name '*key*'",
                str(&ours.point)
            ));
            assert_eq!(found, "file\nopen\n");
        }
    });
}

#[test]
fn a_hidden_name_goes_and_comes_with_the_host() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ruled(
            sandbox,
            "mkdir -p home/.gnupg home/seen; echo s > home/seen/f",
            "[[rules]]\nname = '.gnupg'\nhide = true",
        );
        let home = ours.at("home");
        assert_eq!(sh(&format!("ls -A {}", str(&home))), "seen\n");
        fs::rename(source.join("home/.gnupg"), source.join("home/shown")).unwrap();
        // A hidden name's absence is not remembered, nor is that of others here.
        assert_eq!(sh(&format!("ls -A {}", str(&home))), "seen\nshown\n");
        fs::rename(source.join("home/seen"), source.join("home/.gnupg")).unwrap();
        assert!(fs::metadata(home.join(".gnupg/f")).is_err());
        assert_eq!(sh(&format!("ls -A {}", str(&home))), "shown\n");
        let refused = output("rmdir", &[str(&home)]);
        assert!(!refused.status.success());
        fs::remove_dir(source.join("home/shown")).unwrap();
        let refused = output("rmdir", &[str(&home)]);
        assert!(text(&refused).contains("not empty"), "{}", text(&refused));
    });
}

#[test]
fn mv_does_not_show_what_is_hidden() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ruled(
            sandbox,
            "mkdir -p a/b other; echo secret > a/b/key; echo plain > a/f; echo o > other/o",
            "[[rules]]\npath = 'a/b/**'\nhide = true",
        );
        let moved = output("mv", &[str(&ours.at("a")), str(&ours.at("c"))]);
        assert!(!moved.status.success(), "what stays hidden stays: {}", text(&moved));
        assert_eq!(sh(&format!("cd {}; find c | sort", str(&ours.point))), "c\nc/f\n");
        assert_eq!(fs::read_to_string(source.join("a/b/key")).unwrap(), "secret\n");
        sh(&format!("cd {}; mv other moved; mv moved/o moved/p; mv moved/p .", str(&ours.point)));
        assert_eq!(fs::read_to_string(source.join("p")).unwrap(), "o\n");
    });
}

#[test]
fn read_only_holds_against_root_and_the_owner() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ruled(
            sandbox,
            "mkdir etc var; echo c > etc/conf; ln -s conf etc/link; echo v > var/v; chmod -R a+rwX .",
            "[[rules]]\npath = 'etc/**'\nread-only = true",
        );
        for who in [0, 1000] {
            for script in [
                "echo x >> etc/conf",
                ": > etc/new",
                "rm -f etc/conf",
                "mv etc/conf var/",
                "mv var/v etc/",
                "ln etc/conf etc/hard",
                "ln -s x etc/soft",
                "mkdir etc/d",
                "mkfifo etc/p",
                "chmod 600 etc/conf",
                "touch etc/conf",
                "touch -a etc/conf",
                "setfattr -n user.a -v 1 etc/conf",
                "truncate -s 0 etc/conf",
                "chown 0 etc/conf",
                "setfacl -m u:7:r etc/conf",
                "rm -rf etc",
            ] {
                let tried = try_sh_as(who, who, &[], &format!("cd {}; {script}", str(&ours.point)));
                assert!(!tried.status.success(), "{who}: {script}");
            }
            sh_as(
                who,
                who,
                &[],
                &format!(
                    "cd {}; cat etc/conf etc/link; ls -l etc; echo y >> var/v",
                    str(&ours.point)
                ),
            );
        }
        assert_eq!(fs::read_to_string(source.join("etc/conf")).unwrap(), "c\n");
        assert_eq!(sh(&format!("ls {}/etc", str(&source))), "conf\nlink\n");
        assert_eq!(raw::mkdir(&ours.at("etc/d"), 0o755).map(drop), Err(libc::EROFS));
    });
}

#[test]
fn denied_operations_are_refused_to_everybody() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = ruled(
            sandbox,
            "mkdir log; echo l > log/l; cp /bin/true log/program; chmod -R a+rwX .",
            "[[rules]]\npath = 'log/**'\ndeny = ['delete', 'rename', 'chmod', 'exec']",
        );
        let tried = |script: &str| {
            [0, 1000].map(|who| {
                let script = format!("cd {}; {script}", str(&ours.point));
                try_sh_as(who, who, &[], &script).status.success()
            })
        };
        for script in ["rm -f log/l", "mv log/l log/m", "chmod 700 log/l", "log/program"] {
            assert_eq!(tried(script), [false, false], "{script}");
        }
        for script in ["echo more >> log/l", ": > log/new-$$", "cat log/program > /dev/null"] {
            assert_eq!(tried(script), [true, true], "{script}");
        }
    });
}

#[test]
fn the_kernel_enforces_what_a_rule_shows() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ruled(
            sandbox,
            "mkdir web; echo w > web/w; chmod 755 web; chmod 664 web/w; echo n > n; chown -R 5:5 .",
            "[[rules]]\npath = 'web/**'\npresent-owner = '1000:1000'\n\
             present-mode = { files = 'u=rw,go=', directories = '0700' }",
        );
        let web = ours.at("web/w");
        let shown = fs::metadata(&web).unwrap();
        assert_eq!((shown.uid(), shown.gid(), shown.mode() & 0o7777), (1000, 1000, 0o600));
        sh_as(1000, 1000, &[], &format!("cat {0}; echo x >> {0}", str(&web)));
        assert!(!try_sh_as(5, 5, &[], &format!("cat {}", str(&web))).status.success());
        let disk = fs::metadata(source.join("web/w")).unwrap();
        assert_eq!((disk.uid(), disk.mode() & 0o7777), (5, 0o664));
        assert_eq!(raw::chown(&web, 1000, 1000, true).map(drop), Ok(()));
        assert_eq!(raw::chown(&web, 1001, 1000, true).map(drop), Err(libc::EOVERFLOW));
    });
}

#[test]
fn two_names_under_two_rules_keep_apart() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = ruled(
            sandbox,
            "mkdir ro rw; echo x > ro/f; ln ro/f rw/f",
            "[[rules]]\npath = 'ro/**'\nread-only = true",
        );
        let (ro, rw) = (ours.at("ro/f"), ours.at("rw/f"));
        assert_ne!(fs::metadata(&ro).unwrap().ino(), fs::metadata(&rw).unwrap().ino());
        assert_eq!(raw::open(&ro, libc::O_RDWR, 0).map(drop), Err(libc::EROFS));
        fs::write(&rw, "changed").unwrap();
        // The other name has a cache of its own, which the times tell of.
        let seen = || fs::read_to_string(&ro).unwrap();
        crate::support::wait_for("the change by the other name", || {
            let _ = output("sysctl", &["-q", "vm.drop_caches=2"]);
            seen() == "changed"
        });
    });
}

/// A host that moves a file between a shown and a hidden name, all the time.
#[test]
fn what_is_hidden_is_never_read_by_its_name_in_a_race() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ruled(
            sandbox,
            "mkdir d; echo secret > d/hidden; echo open > d/shown",
            "[[rules]]\nname = 'hidden'\nhide = true",
        );
        let stop = AtomicBool::new(false);
        let dir = source.join("d");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (from, to) in [("shown", "tmp"), ("tmp", "hidden-2"), ("hidden-2", "shown")]
                    {
                        fs::rename(dir.join(from), dir.join(to)).unwrap();
                    }
                    fs::rename(dir.join("hidden"), dir.join("x")).unwrap();
                    fs::rename(dir.join("x"), dir.join("hidden")).unwrap();
                }
            });
            for _ in 0..3000 {
                assert!(fs::read(ours.at("d/hidden")).is_err());
                let names = fs::read_dir(ours.at("d")).unwrap();
                assert!(names.flatten().all(|entry| entry.file_name() != "hidden"));
                assert_eq!(raw::mkdir(&ours.at("d/hidden"), 0o755).map(drop), Err(libc::EPERM));
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}
