//! Owners by name: an image's users are the host's, whatever their numbers.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::require;
use crate::support::ours::{Ours, command, finish, finish_command, program_for_users};
use crate::support::{Sandbox, raw, run, sandbox, sh, sh_as, str, text, try_sh_as};

/// The host's users in these tests, in an `/etc` that only they see.
const HOST: &str = "\
    useradd -o -M -N -u 4033 -g 4033 web-server 2>/dev/null || \
        echo web-server:x:4033:4033::/:/bin/sh >> /etc/passwd; \
    echo editor:x:4001:4001::/:/bin/sh >> /etc/passwd; \
    echo alice.web.web-server:x:70033:70033::/:/bin/sh >> /etc/passwd; \
    echo alice.web.editors:x:70001: >> /etc/group";

fn host(sandbox: &Sandbox) {
    let etc = sandbox.path("etc");
    run("cp", &["-a", "/etc", str(&etc)]);
    run("mount", &["--bind", str(&etc), "/etc"]);
    sh("echo web-server:x:4033: >> /etc/group; echo editors:x:4001: >> /etc/group");
    sh(HOST);
}

/// An image with users of its own; nobody else knows `local`.
fn image(sandbox: &Sandbox) -> PathBuf {
    let source = sandbox.dir("src");
    fs::create_dir(source.join("etc")).unwrap();
    let passwd = "root:x:0:0::/root:/bin/sh\n# comment\nweb-server:x:82:82::/:/bin/false\n\
                  broken\nlocal:x:90:90::/:/bin/sh\neditor:x:4033:10::/:/bin/sh\n";
    fs::write(source.join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:\nweb-server:x:82:\neditors:x:10:editor\nlocal:x:90:\n";
    fs::write(source.join("etc/group"), group).unwrap();
    sh(&format!(
        "cd {}; mkdir www; touch www/page own lost; chown -R 82:82 www; chown 90:90 own; \
         chown 12345:12345 lost; chmod 755 www",
        str(&source)
    ));
    source
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

const BY_NAME: [&str; 4] = ["--names", "disk=source", "--names", "view=host"];

#[test]
fn the_images_web_server_is_the_hosts() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        host(sandbox);
        let source = image(sandbox);
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &BY_NAME);
        assert_eq!(owner(&ours.at("www/page")), (4033, 4033));
        assert_eq!(owner(&ours.at("etc/passwd")), (0, 0));
        let www = str(&ours.point).to_owned() + "/www";
        let script = format!(
            "cd {www}; echo x >> page; mkdir dir; : > dir/new; ln -s page link; mkfifo pipe"
        );
        sh_as(4033, 4033, &[], &script);
        for name in ["page", "dir", "dir/new", "link", "pipe"] {
            assert_eq!(owner(&source.join("www").join(name)), (82, 82), "{name}");
            assert_eq!(owner(&ours.at("www").join(name)), (4033, 4033), "{name}");
        }
        // By name and back: user and group apart, though the numbers cross.
        sh(&format!("chown editor:editors {www}/page"));
        assert_eq!(owner(&source.join("www/page")), (4033, 10));
        assert_eq!(owner(&ours.at("www/page")), (4001, 4001));
        // The image has no such user or group; nothing is changed.
        for ids in ["4034", "0:4034", "82", "90:90"] {
            let refused = try_sh_as(0, 0, &[], &format!("chown {ids} {www}/dir"));
            assert!(text(&refused).contains("Value too large"), "{ids}: {}", text(&refused));
        }
        assert_eq!(owner(&source.join("www/dir")), (82, 82));
        assert_eq!(ours.unmount(), Some(0));
    });
}

#[test]
fn ids_without_a_name_fall_through() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        host(sandbox);
        let source = image(sandbox);
        let point = sandbox.dir("mnt");
        let ours = Ours::new(&source, &point, &BY_NAME);
        for name in ["own", "lost"] {
            assert_eq!(owner(&ours.at(name)), (65534, 65534), "{name}");
        }
        ours.unmount();
        let alias = [&BY_NAME[..], &["--unmapped", "present-as=77:77"]].concat();
        let ours = Ours::new(&source, &point, &alias);
        assert_eq!(owner(&ours.at("own")), (77, 77));
        ours.unmount();
        // By number, but for those whom somebody else is by name.
        let policy = "version = 1\n[ids]\nnames = { disk = 'source', view = 'host' }\n\
                      map = ['0:0:4294967295']\n";
        let policy = sandbox.file("p.toml", policy);
        raw::chown(&source.join("own"), 4001, 90, false).unwrap();
        let by_number = [&BY_NAME[..], &["--map", "0:0:4294967295"]].concat();
        for args in [&["--policy", str(&policy)][..], &by_number] {
            raw::chown(&source.join("lost"), 12345, 12345, false).unwrap();
            let ours = Ours::new(&source, &point, args);
            assert_eq!(owner(&ours.at("lost")), (12345, 12345));
            assert_eq!(owner(&ours.at("www/page")), (4033, 4033));
            assert_eq!(owner(&ours.at("own")), (65534, 90));
            sh(&format!("chown 54321:4033 {}", str(&ours.at("lost"))));
            assert_eq!(owner(&source.join("lost")), (54321, 82));
            ours.unmount();
        }
    });
}

#[test]
fn acls_name_the_same_people() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        host(sandbox);
        let source = image(sandbox);
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &BY_NAME);
        let (disk, view) = (source.join("own"), ours.at("own"));
        raw::chown(&disk, 82, 82, false).unwrap();
        sh(&format!("setfacl -m u:editor:rw,g:editors:r {}", str(&view)));
        let listed = sh(&format!("getfacl -n {}", str(&disk)));
        assert!(listed.contains("user:4033:rw-\ngroup::"), "{listed}");
        assert!(listed.contains("group:10:r--"), "{listed}");
        let listed = sh(&format!("getfacl -n {}", str(&view)));
        assert!(listed.contains("user:4001:rw-") && listed.contains("group:4001:r--"), "{listed}");
    });
}

#[test]
fn lists_may_be_named_by_paths() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        host(sandbox);
        let source = image(sandbox);
        let point = sandbox.dir("mnt");
        let (passwd, group) = (source.join("etc/passwd"), source.join("etc/group"));
        let (passwd, group) = (str(&passwd), str(&group));
        for args in [
            vec![format!("--names=disk={passwd},{group}"), "--names=view=host".to_owned()],
            vec!["-o".to_owned(), format!("names=disk={passwd}:{group},names=view=host")],
        ] {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let ours = Ours::new(&source, &point, &args);
            assert_eq!(owner(&ours.at("www/page")), (4033, 4033));
            ours.unmount();
        }
        // From where the command was typed, though the server is elsewhere.
        let mut mount = command(&["--names", "disk=src/etc/passwd,./src/etc/group"]);
        mount.args(["--names", "view=host", "src", "mnt"]).current_dir(sandbox.path(""));
        let done = finish_command(&mut mount);
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(owner(&point.join("www/page")), (4033, 4033));
        run("umount", &[str(&point)]);
    });
}

#[test]
fn a_list_in_the_source_leads_nowhere_else() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = image(sandbox);
        let point = sandbox.dir("mnt");
        sandbox.file("secret", "secret:x:5:5::/:\n");
        let list = source.join("etc/passwd");
        let in_source = format!("disk={}", str(&list));
        let refused = |why: &str| {
            for disk in ["disk=source", in_source.as_str()] {
                let args = ["--names", disk, "--names", "view=host", str(&source), str(&point)];
                let done = finish(&args);
                assert_eq!(done.status.code(), Some(1), "{}", text(&done));
                assert!(text(&done).contains(why), "{disk}: {}", text(&done));
            }
        };
        for target in ["/etc/passwd", "../../secret", "/proc/self/environ"] {
            fs::remove_file(&list).unwrap();
            symlink(target, &list).unwrap();
            refused("it leads out of the source");
        }
        fs::remove_file(&list).unwrap();
        refused("No such file or directory");
        // To open these would wait, or take the terminal.
        for make in ["mkfifo", "mknod -m 666"] {
            let kind = if make == "mkfifo" { "" } else { "c 5 0" };
            sh(&format!("rm -f {0}; {make} {0} {kind}", str(&list)));
            refused("not a regular file");
        }
    });
}

#[test]
fn sub_users_are_seen_as_those_they_stand_for() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        host(sandbox);
        let source = sandbox.dir("src");
        sh(&format!(
            "cd {}; touch a b; chown 70033:70001 . a; chown 4033:4001 b; chmod 777 .",
            str(&source)
        ));
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["--prefix", "alice.web."]);
        assert_eq!(owner(&ours.at("a")), (4033, 4001));
        // The real one has no files here.
        assert_eq!(owner(&ours.at("b")), (65534, 65534));
        sh_as(4033, 4001, &[], &format!("cd {}; : > new; echo x >> a", str(&ours.point)));
        assert_eq!(owner(&source.join("new")), (70033, 70001));
        assert_eq!(owner(&ours.at("new")), (4033, 4001));
        let refused = try_sh_as(4001, 4001, &[], &format!("cd {}; : > other", str(&ours.point)));
        assert!(!refused.status.success());
        assert!(!source.join("other").exists());
    });
}

#[test]
fn explain_and_run_know_the_names() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        host(sandbox);
        let source = image(sandbox);
        let args = [&["explain"], &BY_NAME[..], &["--as", "web-server", str(&source), "www/page"]]
            .concat();
        let said = text(&finish(&args));
        let wanted = "names: user web-server is disk uid 82 and view uid 4033 (option names)";
        assert!(said.contains(wanted), "{said}");
        assert!(said.contains("a file created by uid 4033 belongs to disk uid 82"), "{said}");
        let script = "stat -c %U:%G www/page; : > www/here";
        let words = ["--as", "web-server", str(&source), "--", "sh", "-c", script];
        let done = finish(&[&["run"], &BY_NAME[..], &words].concat());
        let out = String::from_utf8_lossy(&done.stdout);
        assert_eq!(out.trim(), "web-server:web-server", "{}", text(&done));
        assert_eq!(owner(&source.join("www/here")), (82, 82));
    });
}

#[test]
fn a_user_runs_as_whom_names_make_of_them() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        let (source, program) = (sandbox.dir("src"), program_for_users(sandbox));
        raw::chown(&source, 34, 34, false).unwrap();
        let policy = "version = 1\n[ids.names]\n\
                      disk = { users = { me = 34, other = 7 }, groups = { me = 34 } }\n\
                      view = { users = { me = 5 }, groups = { me = 6 } }\n";
        let policy = sandbox.file("p.toml", policy);
        let (program, policy, source) = (str(&program), str(&policy), str(&source));
        let script = format!(
            "{program} run --policy {policy} {source} -- \
             sh -c 'id -u; id -g; : > new; stat -c %u:%g new'; stat -c %u:%g {source}/new"
        );
        assert_eq!(sh_as(34, 34, &[], &script), "5\n6\n5:6\n34:34\n");
    });
}
