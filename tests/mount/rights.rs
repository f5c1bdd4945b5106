//! POSIX ACLs and file capabilities, with the tools that people use.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::require;
use crate::support::idmap::{self, IdMap};
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::{copy_program, raw, run, sandbox, sh, sh_as, str, text, try_sh_as};

const MAP: [&str; 4] = ["--map", "0:100000:1000", "--cache", "none"];

#[test]
fn lists_are_shown_and_set_in_view_ids() {
    require!(Root, Fuse, Ext4Loop, AclTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let (disk, view) = (image.root.join("f"), ours.at("f"));
        fs::write(&disk, "secret").unwrap();
        sh(&format!("chmod 600 {0}; setfacl -m u:5:r,g:7:r {0}", str(&disk)));
        let shown = run("getfacl", &["-nc", str(&view)]);
        assert!(shown.contains("user:100005:r--") && shown.contains("group:100007:r--"), "{shown}");
        for (uid, gid, groups, may) in [
            (100_005, 100_005, &[][..], true),
            (100_006, 100_007, &[], true),
            (100_006, 100_006, &[100_007][..], true),
            (100_006, 100_006, &[], false),
            (5, 7, &[], false),
        ] {
            let read = try_sh_as(uid, gid, groups, &format!("cat {}", str(&view)));
            assert_eq!(read.status.success(), may, "{uid}:{gid} {groups:?}");
        }
        run("setfacl", &["-m", "u:100008:rw", "-x", "u:100005", str(&view)]);
        let stored = run("getfacl", &["-nc", str(&disk)]);
        assert!(stored.contains("user:8:rw-") && !stored.contains("user:5:"), "{stored}");
        let refused = crate::support::output("setfacl", &["-m", "u:5:r", str(&view)]);
        assert!(!refused.status.success(), "an unmapped id was taken");
        run("setfacl", &["-b", str(&view)]);
        assert!(!run("getfacl", &["-nc", str(&disk)]).contains("user:8"));
    });
}

#[test]
fn a_default_list_is_inherited_in_disk_ids() {
    require!(Root, Fuse, Ext4Loop, AclTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let dir = image.root.join("d");
        fs::create_dir(&dir).unwrap();
        sh(&format!("chown 1:1 {0}; setfacl -d -m u:5:rwx,u:5000:rwx,o::- {0}", str(&dir)));
        sh_as(
            100_001,
            100_001,
            &[],
            &format!("cd {}; umask 077; touch f; mkdir sub", str(&ours.at("d"))),
        );
        for name in ["f", "sub"] {
            let stored = run("getfacl", &["-nc", str(&dir.join(name))]);
            assert!(stored.contains("user:5:rwx") && stored.contains("user:5000:rwx"), "{stored}");
            assert!(stored.contains("other::---"), "{stored}");
            // The umask does not count where a default ACL decides.
            assert!(stored.contains("mask::rw"), "{stored}");
        }
        assert!(run("getfacl", &["-nc", str(&dir.join("sub"))]).contains("default:user:5000:rwx"));
    });
}

/// An entry that the map has not: it stays, matches nobody, survives chmod.
#[test]
fn an_unmapped_entry_stays_on_disk_and_matches_nobody() {
    require!(Root, Fuse, Ext4Loop, AclTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let (disk, view) = (image.root.join("f"), ours.at("f"));
        fs::write(&disk, "secret").unwrap();
        sh(&format!("chown 1:1 {0}; chmod 600 {0}; setfacl -m u:5000:rw,u:5:r {0}", str(&disk)));
        let shown = run("getfacl", &["-nc", str(&view)]);
        assert!(shown.contains("user:4294967294:rw-"), "{shown}");
        for (uid, may) in [(100_005, true), (5000, false), (65534, false), (100_007, false)] {
            let read = try_sh_as(uid, uid, &[], &format!("cat {}", str(&view)));
            assert_eq!(read.status.success(), may, "{uid}: {}", text(&read));
        }
        sh_as(100_001, 100_001, &[], &format!("chmod 640 {}", str(&view)));
        let stored = run("getfacl", &["-nc", str(&disk)]);
        assert!(stored.contains("user:5000:rw-\t") || stored.contains("user:5000:rw-"), "{stored}");
        assert!(stored.contains("mask::r--"), "{stored}");
        // What was read cannot be written back: an entry names no one of the view.
        let read = raw::get_xattr(&view, c"system.posix_acl_access").unwrap();
        let value: String = read.iter().map(|byte| format!("{byte:02x}")).collect();
        let set = format!("setfattr -n system.posix_acl_access -v 0x{value} {}", str(&view));
        let refused = text(&try_sh_as(100_001, 100_001, &[], &set));
        assert!(refused.contains("Invalid argument"), "{refused}");
        assert!(run("getfacl", &["-nc", str(&disk)]).contains("user:5000:rw-"));
    });
}

#[test]
fn the_list_of_the_visible_root_counts() {
    require!(Root, Fuse, Ext4Loop, AclTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        fs::write(image.root.join("f"), "x").unwrap();
        sh(&format!("chmod 700 {0}; setfacl -m u:5:x {0}", str(&image.root)));
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let read = format!("cat {}", str(&ours.at("f")));
        sh_as(100_005, 100_005, &[], &read);
        assert!(!try_sh_as(100_006, 100_006, &[], &read).status.success());
        run("setfacl", &["-m", "u:100006:x", str(&ours.point)]);
        sh_as(100_006, 100_006, &[], &read);
    });
}

/// What a caller reads as security.capability: as the model shows it.
#[test]
fn capabilities_are_shown_as_the_kernel_shows_them() {
    require!(Root, Fuse, Ext4Loop, Idmap, CapTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let f = image.root.join("f");
        fs::write(&f, "").unwrap();
        let map = IdMap::both("0:100000:1000");
        let model = sandbox.dir("model");
        idmap::mount(&image.root, &model, &map);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let read = |root: &std::path::Path| raw::get_xattr(&root.join("f"), c"security.capability");
        for set in ["cap_net_raw+ep", "-n 7 cap_net_raw+ep", "-n 5000 cap_chown+p"] {
            sh(&format!("PATH=$PATH:/sbin:/usr/sbin setcap {} {}", set, str(&f)));
            assert_eq!(read(&model), read(&ours.point), "{set}");
            raw::remove_xattr(&ours.at("f"), "security.capability").unwrap();
            assert_eq!(read(&image.root), Err(libc::ENODATA), "{set}");
        }
        for (root, name) in [(&model, "model"), (&ours.point, "ours")] {
            let set = |rootid: &str| {
                let command = format!(
                    "PATH=$PATH:/sbin:/usr/sbin setcap {rootid} cap_net_raw+ep {}",
                    str(&root.join("f"))
                );
                let done = try_sh_as(0, 0, &[], &command).status.success();
                (done, read(&image.root))
            };
            let stored = [set("-n 100000"), set("-n 100007"), set("-n 9999"), set("")];
            assert!(
                stored[0].0 && stored[1].0 && !stored[2].0 && !stored[3].0,
                "{name}: {stored:?}"
            );
            assert_ne!(stored[0].1, stored[1].1, "{name}");
        }
        assert_eq!(read(&model), read(&ours.point));
    });
}

#[test]
fn a_capability_works_for_those_whom_it_is_for() {
    require!(Root, Fuse, Ext4Loop, CapTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let program = image.root.join("grep");
        copy_program("/bin/grep", &program);
        run("bash", &["-c", &format!("PATH=$PATH:/sbin setcap cap_chown+ep {}", str(&program))]);
        let effective = |ours: &Ours| {
            let point = str(&ours.point).to_owned();
            sh_as(100_009, 100_009, &[], &format!("{point}/grep CapEff /proc/self/status"))
        };
        let none = "0000000000000000";
        let identity = ["-o", "suid"];
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &identity);
        assert!(!effective(&ours).contains(none), "identity, suid: nothing gained");
        ours.unmount();
        for args in [&["-o", "nosuid"][..], &["-o", "suid", "--map", "0:100000:1000"]] {
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), args);
            assert!(effective(&ours).contains(none), "{args:?}: a capability was gained");
            ours.unmount();
        }
    });
}

#[test]
fn writing_takes_capabilities_away() {
    require!(Root, Fuse, Ext4Loop, CapTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let f = image.root.join("f");
        fs::write(&f, "x").unwrap();
        raw::chmod(&f, 0o666).unwrap();
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        for change in ["echo y >> f", "echo y > f", "truncate -s 9 f"] {
            sh(&format!("PATH=$PATH:/sbin:/usr/sbin setcap cap_chown+ep {}", str(&f)));
            sh_as(100_009, 100_009, &[], &format!("cd {}; {change}", str(&ours.point)));
            assert_eq!(raw::get_xattr(&f, c"security.capability"), Err(libc::ENODATA), "{change}");
        }
    });
}

/// A store to a mapping takes nothing on the source. Where the server writes what was
/// stored, that is a write to the host.
#[test]
fn stores_to_a_mapping_take_a_capability_where_the_server_writes() {
    require!(Root, Fuse, Passthrough, Ext4Loop, CapTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 256);
        let f = image.root.join("f");
        fs::write(&f, vec![b'x'; 4096]).unwrap();
        let store = |path: &Path, mode| {
            raw::chmod(&f, mode).unwrap();
            sh(&format!("PATH=$PATH:/sbin:/usr/sbin setcap cap_chown+ep {}", str(&f)));
            let file = fs::File::options().read(true).write(true).open(path).unwrap();
            let mut page = raw::Page::map(file.as_fd(), true).unwrap();
            page.set(0, b'y');
            page.sync().unwrap();
            let kept = raw::get_xattr(&f, c"security.capability").is_ok();
            let now = fs::metadata(&f).unwrap().permissions().mode() & 0o7777;
            assert_eq!(now, mode, "{}", str(path));
            kept
        };
        for mode in [0o755, 0o4755] {
            assert!(store(&f, mode), "by the host, {mode:o}");
        }
        for (args, kept) in [(&[][..], [true, false]), (&["--passthrough", "off"], [false; 2])] {
            for (mode, kept) in [0o755, 0o4755].into_iter().zip(kept) {
                let point = sandbox.dir(&format!("{mode:o}{}", args.len()));
                let ours = Ours::new(&image.root, &point, args);
                assert_eq!(store(&ours.at("f"), mode), kept, "{args:?}, {mode:o}");
                ours.unmount();
            }
        }
    });
}

/// chattr(1) through the mount, and what the flags forbid, as on the model.
#[test]
fn immutable_and_append_only_files_are_as_on_the_model() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    const TRY: [&str; 9] = [
        "echo y > f",
        "echo y >> f",
        "truncate -s 0 f",
        "chmod 600 f",
        "mv f g",
        "ln f h",
        "rm f",
        "setfattr -n user.a -v b f",
        "cat f",
    ];
    sandbox(|sandbox| {
        let map = IdMap::both("0:0:1000");
        let mut seen = Vec::new();
        for ours in [false, true] {
            let image = Ext4::new(sandbox, 32);
            let view = sandbox.dir(if ours { "ours" } else { "model" });
            let server = if ours {
                Some(Ours::new(&image.root, &view, &["--map", "0:0:1000", "--cache", "none"]))
            } else {
                idmap::mount(&image.root, &view, &map);
                None
            };
            let mut results = String::new();
            for flag in ["+i", "+a", "-ia"] {
                fs::write(view.join("f"), "x\n").unwrap();
                results +=
                    &text(&try_sh_as(0, 0, &[], &format!("cd {}; chattr {flag} f", str(&view))));
                for command in TRY {
                    let done = try_sh_as(0, 0, &[], &format!("cd {}; {command}", str(&view)));
                    results += &format!("{flag} {command}: {}\n", text(&done));
                    let _ = try_sh_as(0, 0, &[], &format!("cd {}; mv g f; rm -f h", str(&view)));
                }
                sh(&format!("cd {}; [ ! -e f ] || chattr -ia f; rm -f f", str(&image.root)));
            }
            drop(server);
            seen.push(results);
        }
        assert_eq!(seen[0], seen[1]);
    });
}

/// A name that the kernel remembers for the caller's own file, when somebody
/// else's has been made there since.
#[test]
fn a_sticky_directory_protects_what_is_there_now() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "ttl=60"]);
        raw::chmod(&source, 0o1777).unwrap();
        let (attacker, victim) = ((2001, 2001), (2002, 2002));
        let actions = ["rm -f x", "mv -T x y", "mv -T z x", "rmdir x"];
        for action in actions {
            let make = if action == "rmdir x" { "mkdir x" } else { "touch x z" };
            let on_disk = |script: &str| format!("cd {}; {script}", str(&source));
            sh_as(attacker.0, attacker.1, &[], &on_disk(make));
            sh(&format!("stat {} > /dev/null", str(&ours.at("x"))));
            sh_as(attacker.0, attacker.1, &[], &on_disk("rm -r x"));
            sh_as(victim.0, victim.1, &[], &on_disk(make.split(" z").next().unwrap()));
            let tried = format!("cd {}; {action}", str(&ours.point));
            let tried = try_sh_as(attacker.0, attacker.1, &[], &tried);
            assert!(!tried.status.success(), "{action} was allowed");
            sh_as(victim.0, victim.1, &[], &format!("cd {}; [ -O x ]", str(&source)));
            // Root may.
            sh_as(0, 0, &[], &format!("cd {}; rm -r x", str(&ours.point)));
            sh(&format!("rm -rf {}/*", str(&source)));
        }
    });
}
