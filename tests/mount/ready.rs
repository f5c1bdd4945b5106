//! Ready policies: what the comment of each says of it is so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::require;
use crate::support::ours::Ours;
use crate::support::{Sandbox, raw, sandbox, sh, sh_as, str, text, try_sh_as};

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Mounts a source that a script fills, under a ready policy.
fn ready(sandbox: &Sandbox, policy: &str, fill: &str) -> (PathBuf, Ours) {
    let source = sandbox.dir("src");
    sh(&format!("cd {}; {fill}", str(&source)));
    let policy = format!("{}/policies/{policy}.toml", env!("CARGO_MANIFEST_DIR"));
    let ours = Ours::new(&source, &sandbox.dir("mnt"), &["--policy", &policy]);
    (source, ours)
}

/// Whether a script that a user runs at the mount point succeeds.
fn can(ours: &Ours, user: u32, script: &str) -> bool {
    let script = format!("cd {}; {script}", str(&ours.point));
    try_sh_as(user, user, &[], &script).status.success()
}

/// A home with secrets, and files that root and others own.
const HOME: &str = "
    mkdir -p .ssh .gnupg .aws .config/gh .config/git .mozilla/firefox/x .local/share/keyrings .cargo
    for f in .ssh/id_ed25519 .gnupg/pubring.kbx .aws/credentials .config/gh/hosts.yml \\
             .config/git/credentials .config/git/config .mozilla/firefox/x/logins.json \\
             .local/share/keyrings/login.keyring .cargo/credentials.toml .cargo/config.toml \\
             .netrc .bash_history .bashrc notes; do echo secret-$f > $f; done
    chown -R 1000:1000 .; chown 0:0 notes; chmod 700 . .ssh; chmod 600 notes";

#[test]
fn a_home_in_a_container_is_without_secrets() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ready(sandbox, "home-in-container", HOME);
        let listed = sh(&format!("cd {}; find . -type f | sort", str(&ours.point)));
        assert_eq!(listed, "./.bashrc\n./.cargo/config.toml\n./.config/git/config\n./notes\n");
        for script in [
            "ls .ssh",
            "cat .ssh/id_ed25519",
            "mkdir .ssh",
            "echo x > .netrc",
            "ln .bashrc .zsh_history",
            "mv .bashrc .gnupg",
            "mkdir -p .config/gcloud",
            "mkdir .azure",
            "chown 5 notes",
        ] {
            assert!(!can(&ours, 1000, script) && !can(&ours, 0, script), "{script}");
        }
        assert!(can(&ours, 1000, "cat notes; echo x >> notes; : > new; chmod 640 notes"));
        assert_eq!(
            (owner(&ours.at("notes")), owner(&source.join("new"))),
            ((1000, 1000), (1000, 1000))
        );
        assert_eq!(fs::read_to_string(source.join(".netrc")).unwrap(), "secret-.netrc\n");
    });
}

#[test]
fn a_home_in_a_container_may_keep_what_is_needed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/home-in-container.toml");
        let policy = fs::read_to_string(policy).unwrap();
        let exception =
            "[[rules]]\npath = ['.ssh/', '.ssh/known_hosts']\nhide = false\n\n[[rules]] #";
        let policy = sandbox.file("p.toml", &policy.replacen("[[rules]] #", exception, 1));
        let source = sandbox.dir("src");
        sh(&format!("cd {}; {HOME}\necho host > .ssh/known_hosts", str(&source)));
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["--policy", str(&policy)]);
        assert_eq!(sh(&format!("ls -A {}", str(&ours.at(".ssh")))), "known_hosts\n");
        assert!(can(&ours, 1000, "cat .ssh/known_hosts; ! cat .ssh/id_ed25519; ! ls .gnupg"));
        assert!(!can(&ours, 1000, "mkdir .ssh/id_ed25519"));
    });
}

#[test]
fn a_whole_home_in_a_container_is_all_of_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ready(sandbox, "home-in-container-whole", HOME);
        assert!(can(&ours, 1000, "cat .ssh/id_ed25519; cat notes; mkdir .azure; : > .ssh/new"));
        assert_eq!(owner(&ours.at("notes")), (1000, 1000));
        assert_eq!(owner(&source.join(".ssh/new")), (1000, 1000));
    });
}

#[test]
fn a_root_file_system_of_containers_cannot_be_changed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "mkdir etc; echo h > etc/hosts; echo s > etc/shadow; chmod 600 etc/shadow";
        let (source, ours) = ready(sandbox, "rootfs-read-only", fill);
        assert_eq!(owner(&ours.at("etc")), (100_000, 100_000));
        assert!(can(&ours, 100_000, "cat etc/shadow") && can(&ours, 101_000, "cat etc/hosts"));
        assert!(!can(&ours, 101_000, "cat etc/shadow"));
        for script in ["echo x >> etc/hosts", ": > new", "rm etc/hosts", "chmod 666 etc/shadow"] {
            for user in [0, 100_000] {
                let script = format!("cd {}; {script}", str(&ours.point));
                let done = try_sh_as(user, user, &[], &script);
                assert!(text(&done).contains("Read-only file system"), "{}", text(&done));
            }
        }
        assert_eq!(sh(&format!("ls {0} {0}/etc", str(&source))).lines().count(), 6);
    });
}

#[test]
fn a_backup_is_readable_for_one_user_alone() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "mkdir -m 700 home; echo s > home/secret; echo p > program; ln -s program link
                    chmod 0 home/secret; chmod 4755 program; chown -R 5:6 home; chown 7:8 program";
        let (source, ours) = ready(sandbox, "backup-of-one-user", fill);
        for name in ["", "home", "home/secret", "program", "link"] {
            assert_eq!(owner(&ours.at(name)), (1000, 1000), "{name}");
        }
        assert_eq!((mode(&ours.at("home")), mode(&ours.at("home/secret"))), (0o500, 0o400));
        assert_eq!(mode(&ours.at("program")), 0o500);
        sh_as(1000, 1000, &[], &format!("cd {}; cat home/secret link", str(&ours.point)));
        assert!(!can(&ours, 1001, "ls") && !can(&ours, 1001, "cat program"));
        for script in
            ["echo x >> program", ": > new", "rm -f program", "chmod 777 home", "touch link"]
        {
            assert!(!can(&ours, 1000, script) && !can(&ours, 0, script), "{script}");
        }
        assert_eq!((owner(&source.join("home")), mode(&source.join("home/secret"))), ((5, 6), 0));
    });
}

#[test]
fn a_disk_without_owners_takes_what_programs_set() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ready(sandbox, "no-owners", "echo x > f; chmod 755 f; chown 0:0 f .");
        assert!(can(&ours, 1000, "cp -a f g; chmod 600 f; chown 1000:1000 f; : > new"));
        assert!(can(&ours, 0, "chown 5:6 f; chmod 0 f; tar cf - f | tar xpf - --transform s/f/h/"));
        for name in ["f", "g", "h", "new"] {
            assert_eq!(owner(&ours.at(name)), (1000, 1000), "{name}");
        }
        assert_eq!((owner(&source.join("f")), mode(&source.join("f"))), ((0, 0), 0o755));
        assert_eq!(owner(&source.join("g")), (1000, 1000));
    });
}

#[test]
fn a_service_owns_the_directory_of_a_user() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "echo x > f; chmod 600 f; chown -R 1000:1000 .; chmod 700 .";
        let (source, ours) = ready(sandbox, "squash-to-user", fill);
        assert!(can(&ours, 33, "cat f; : > new; chmod 640 f; mkdir d"));
        assert!(!can(&ours, 34, "ls"));
        assert_eq!((owner(&ours.at("new")), owner(&source.join("new"))), ((33, 33), (1000, 1000)));
        assert_eq!((owner(&source.join("f")), mode(&source.join("f"))), ((1000, 1000), 0o640));
    });
}

#[test]
fn new_files_of_a_shared_group_belong_to_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = ready(sandbox, "shared-group", "chmod 777 .");
        assert!(can(&ours, 1001, "umask 002; echo one > a; mkdir d"));
        assert_eq!((owner(&source.join("a")), mode(&source.join("a"))), ((1001, 100), 0o664));
        let script = format!("cd {}; echo two >> a; : > d/b", str(&ours.point));
        sh_as(1002, 1002, &[100], &script);
        assert_eq!(owner(&ours.at("d/b")), (1002, 100));
        assert!(!can(&ours, 1003, "echo three >> a"));
    });
}

#[test]
fn builders_each_own_the_whole_tree() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "echo x > f; chmod 600 f; chown -R 2000:2000 .";
        let (source, ours) = ready(sandbox, "build-farm", fill);
        for member in [1000, 1001] {
            let script = format!(
                "cd {}; stat -c %u f; echo y >> f; chmod 640 f; : > by-{member}",
                str(&ours.point)
            );
            assert_eq!(sh_as(member, member, &[2001], &script), format!("{member}\n"));
            assert_eq!(owner(&source.join(format!("by-{member}"))), (2000, 2000));
        }
        assert!(!can(&ours, 1002, "ls") && can(&ours, 0, "cat f"));
    });
}

#[test]
fn trees_of_containers_and_old_disks_have_the_owners_of_their_maps() {
    require!(Root, Fuse);
    for (policy, disk, view) in [
        ("rootfs-shift", 0, 100_000),
        ("rootfs-shift", 33, 100_033),
        ("rootless-root", 1000, 0),
        ("rootless-root", 100_032, 33),
        ("renumbered-users", 1001, 1000),
        ("renumbered-users", 1000, 1001),
    ] {
        sandbox(move |sandbox| {
            let fill = format!("mkdir d; echo x > d/f; chmod 700 d; chown -R {disk}:{disk} d");
            let (source, ours) = ready(sandbox, policy, &fill);
            assert_eq!(owner(&ours.at("d/f")), (view, view), "{policy}");
            assert!(can(&ours, view, "cat d/f; : > d/new"), "{policy}");
            assert_eq!(owner(&source.join("d/new")), (disk, disk), "{policy}");
            raw::chown(&source.join("d/f"), 4_000_000, 4_000_000, false).unwrap();
            assert!(!can(&ours, 4_000_000, "echo x >> d/f"), "{policy}");
        });
    }
}
