//! Owners kept beside the files, by an ordinary user with subordinate ids.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::require;
use crate::support::ours::program_for_users;
use crate::support::{Sandbox, ours, raw, run, sandbox, sh, str, text, try_sh_as};

const USER: u32 = 4242;

/// A user with subordinate ids, and a source and a mount point of theirs.
struct Keeper {
    program: PathBuf,
    source: PathBuf,
    point: PathBuf,
}

impl Keeper {
    fn new(sandbox: &Sandbox) -> Self {
        let user = format!("keeper:x:{USER}:{USER}::/tmp:/bin/sh\n");
        let passwd = fs::read_to_string("/etc/passwd").unwrap() + &user;
        for (name, contents) in [
            ("passwd", passwd.as_str()),
            ("subuid", "keeper:500000:65536\n"),
            ("subgid", "keeper:500000:65536\n"),
        ] {
            let file = sandbox.file(name, contents);
            let at = format!("/etc/{name}");
            if !fs::exists(&at).unwrap() {
                fs::write(&at, "").unwrap();
            }
            run("mount", &["--bind", str(&file), &at]);
        }
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        for path in [&source, &point] {
            raw::chown(path, USER, USER, false).unwrap();
        }
        Self { program: program_for_users(sandbox), source, point }
    }

    /// Runs a script as root of the user's namespace, where `$M` is mounted of `$S`.
    fn inside(&self, script: &str) -> String {
        let Self { program, source, point } = self;
        let (b, s, m) = (str(program), str(source), str(point));
        let mount = format!("{b} --owners xattr {s} {m}");
        let script = format!("S={s}; M={m}; {mount}; cd {m}; {script}\ncd /; umount {m}");
        let file = format!("{s}.sh");
        fs::write(&file, script).unwrap();
        let unshare = "unshare --map-auto --map-root-user -m bash -euc";
        let done = try_sh_as(USER, USER, &[], &format!("{unshare} '. {file}' 2>&1"));
        assert!(done.status.success(), "{}", text(&done));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

const STAT: &str = "stat -c '%n %u:%g %a %F' f d d/x l p w";

const SHOWN: &str = "f 1000:1001 4775 regular file
d 7:8 2775 directory
d/x 0:8 644 regular empty file
l 1000:1000 777 symbolic link
p 5:6 644 fifo
w 0:0 644 character special file
";

#[test]
fn a_user_keeps_any_owner_mode_and_kind() {
    require!(Root, Fuse, UserNamespaces, AclTools);
    sandbox(|sandbox| {
        let keeper = Keeper::new(sandbox);
        let made = keeper.inside(&format!(
            "echo hi >f; chown 1000:1001 f; chmod 4755 f; setfacl -m u:1234:rwx f
            setcap cap_net_raw+ep f; mkdir d; chmod 2775 d; chown 7:8 d; touch d/x
            ln -s f l; I=$(stat -c %i l); chown -h 1000:1000 l; [ $I = $(stat -c %i l) ]
            mkfifo p; chown 5:6 p; mknod w c 0 0; ln f g; mv g d/g; {STAT}"
        ));
        assert_eq!(made, SHOWN);
        let again = keeper.inside(&format!(
            "{STAT}; readlink l; getcap f; getfacl -cn d/g | grep 1234; stat -c %h f"
        ));
        assert_eq!(again, format!("{SHOWN}f\nf cap_net_raw=ep\nuser:1234:rwx\n2\n"));
        let disk = sh(&format!("cd {}; stat -c '%n %u:%g %a' f d d/x l p", str(&keeper.source)));
        let own = format!("{USER}:{USER}");
        let expected =
            format!("f {own} 700\nd {own} 700\nd/x {own} 600\nl {own} 700\np {own} 600\n");
        assert_eq!(disk, expected);
    });
}

#[test]
fn records_can_neither_be_seen_nor_set_through_the_mount() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let keeper = Keeper::new(sandbox);
        let out = keeper.inside(
            "touch f; chown 5:6 f; getfattr -d -m - f
            for n in user.containers.override_stat user.virtfs.uid user.idmapfs.security.capability; do
                setfattr -x $n f || echo none; setfattr -n $n -v 0:0:4755 f; stat -c '%u:%g %a' f
                getfattr --only-values -n $n f; echo; setfattr -x $n f
            done; setfattr -n user.fuseoverlayfs.override_stat -v 0:0:4755 f; getcap f",
        );
        assert!(!out.contains("override_stat="), "{out}");
        let each = "none\n5:6 644\n0:0:4755\n";
        let lines: String = out
            .lines()
            .filter(|line| !line.starts_with("setfattr: "))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(lines, each.repeat(3));
        let disk = sh(&format!("getfattr -d -m - {}/f | grep '^user' | sort", str(&keeper.source)));
        assert_eq!(
            disk,
            "user.containers.override_stat=\"5:6:0644\"\n\
             user.idmapfs.user.fuseoverlayfs.override_stat=\"0:0:4755\"\n"
        );
    });
}

#[test]
fn a_record_that_another_user_planted_does_not_count() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let keeper = Keeper::new(sandbox);
        let source = str(&keeper.source);
        sh(&format!(
            "cd {source}; touch foreign group own; chown {USER}:{USER} group own; chmod 664 group
            setfattr -n user.containers.override_stat -v 1000:0:4755 foreign group own"
        ));
        let out = keeper.inside("stat -c '%n %u %a' group own; stat -c '%n %a' foreign");
        assert_eq!(out, "group 0 664\nown 1000 4755\nforeign 644\n");
        assert_eq!(fs::metadata(keeper.source.join("foreign")).unwrap().uid(), 0);
    });
}

#[test]
fn a_database_is_refused_where_nothing_tells_files_apart() {
    require!(Root, Fuse, Overlay);
    sandbox(|sandbox| {
        let [lower, upper, work, at] = ["l", "u", "w", "o"].map(|name| sandbox.dir(name));
        let layers =
            format!("lowerdir={},upperdir={},workdir={}", str(&lower), str(&upper), str(&work));
        run("mount", &["-t", "overlay", "-o", &layers, "overlay", str(&at)]);
        // Ours tells no birth time.
        let (_, below) = ours::Ours::of_new(sandbox, &[]);
        let point = sandbox.dir("point");
        let state = format!("--owners-dir={}", str(&sandbox.path("state")));
        for source in [&at, &below.point] {
            let done = ours::finish(&["--owners=db", &state, str(source), str(&point)]);
            assert!(!done.status.success());
            let why = "its file system does not tell a file from an earlier one of its number";
            assert!(text(&done).contains(why), "{}", text(&done));
            assert!(text(&done).contains("use owners=xattr"), "{}", text(&done));
        }
    });
}
