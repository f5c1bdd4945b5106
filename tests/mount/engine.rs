//! `engine=kernel` and `engine=auto`: the kernel's idmapped mount, made by us.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mount::admin::install;
use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::{PROGRAM, finish, processes};
use crate::support::{
    Sandbox, mount_at, mounts, output, run, sandbox, sh, sh_as, str, text, try_sh_as,
};

const MAP: &str = "--map=0:100000:65536";

fn planted(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
    fs::create_dir(source.join("sub")).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    sh(&format!("chown 7:8 {0}/f; chmod 0640 {0}/f", str(&source)));
    (source, point)
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

/// Mounts; returns the exit status and what was printed.
fn mount(args: &[&str], source: &Path, point: &Path) -> (Option<i32>, String) {
    let done = finish(&[args, &[str(source), str(point)]].concat());
    (done.status.code(), text(&done))
}

fn engine_at(point: &Path) -> &'static str {
    match mount_at(point) {
        Some(line) if line.kind == "fuse.idmapfs" => "fuse",
        Some(line) if line.options.split(',').any(|flag| flag == "idmapped") => "kernel",
        Some(line) => panic!("{line:?}"),
        None => "none",
    }
}

#[test]
fn the_kernel_translates_without_a_server() {
    require!(Root, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let done = mount(&["--engine=kernel", MAP], &source, &point);
        assert_eq!(done.0, Some(0), "{}", done.1);
        assert_eq!(engine_at(&point), "kernel");
        assert_eq!(owner(&point.join("f")), (100_007, 100_008));
        assert!(processes(&point).is_empty(), "there is a process");
        // What callers make is stored as theirs, and what is not mapped is refused.
        sh(&format!("chmod 0777 {}", str(&source)));
        sh_as(100_001, 100_002, &[], &format!("touch {}", str(&point.join("made"))));
        assert_eq!(owner(&source.join("made")), (1, 2));
        let refused = try_sh_as(5, 5, &[], &format!("touch {}", str(&point.join("no"))));
        assert!(text(&refused).contains("too large"), "{}", text(&refused));
        // As ours by default.
        let flags = mount_at(&point).unwrap().options;
        assert!(flags.contains("nosuid") && flags.contains("nodev"), "{flags}");
        run("umount", &[str(&point)]);
        assert_eq!(engine_at(&point), "none");
    });
}

#[test]
fn auto_is_the_kernel_where_it_does_the_same() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        for (args, engine) in [
            (&[MAP][..], "fuse"),
            (&["--engine=fuse", MAP], "fuse"),
            (&["--engine=auto", MAP], "kernel"),
            (&["--engine=auto", MAP, "--unmapped=refuse", "--allow-other"], "kernel"),
            (&["--engine=auto", MAP, "--cache=none", "--passthrough=off"], "kernel"),
            (&["--engine=auto", "--map=u:7:0:1", "--map=u:0:7:1"], "kernel"),
            (&["--engine=auto"], "kernel"),
            (&["--engine=auto", "--present-as=1:1"], "fuse"),
            (&["--engine=auto", MAP, "--unmapped=present-as=9:9"], "fuse"),
            (&["--engine=auto", MAP, "--hide=sub"], "fuse"),
            (&["--engine=auto", MAP, "--chown-ignore"], "fuse"),
            (&["--engine=auto", MAP, "--mirror=7"], "fuse"),
            (&["--engine=auto", MAP, "--no-allow-other"], "fuse"),
            (&["--engine=auto", MAP, "--fsname=x"], "fuse"),
            (&["--engine=auto", MAP, "--submounts=hide"], "kernel"),
        ] {
            let done = mount(args, &source, &point);
            assert_eq!(done.0, Some(0), "{args:?}: {}", done.1);
            assert_eq!(engine_at(&point), engine, "{args:?}");
            run("umount", &[str(&point)]);
        }
    });
}

#[test]
fn kernel_is_refused_where_it_would_not_do_the_same() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        let mapped = sandbox.dir("mapped");
        assert_eq!(mount(&["--engine=kernel", MAP], &source, &mapped).0, Some(0));
        let far: Vec<String> =
            (0..341).map(|n| format!("--map=u:{n}:{}:1", 1000 + 2 * n)).collect();
        let far: Vec<&str> = far.iter().map(String::as_str).collect();
        let many = [&["--engine=kernel"][..], &far].concat();
        for (args, source, code, why) in [
            (&["--engine=kernel", "--present-as=1:1"][..], &source, 1, "present-as"),
            (&["--engine=kernel", "--hide=sub"], &source, 1, "rules by path"),
            (&["--engine=kernel", MAP, "--mirror=7"], &source, 1, "depends on the caller"),
            (&["--engine=kernel", MAP, "--fsname=x"], &source, 1, "option fsname"),
            (&["--engine=kernel", MAP, "-f"], &source, 1, "option foreground"),
            (&many, &source, 1, "341 ranges of uids"),
            (&["--engine=kernel", MAP], &PathBuf::from("/proc"), 32, "(proc)"),
            (&["--engine=kernel", MAP], &mapped, 32, "is on an idmapped mount already"),
        ] {
            let (got, said) = mount(args, source, &point);
            assert_eq!(got, Some(code), "{args:?}: {said}");
            assert!(said.contains(why) && said.contains("engine=fuse"), "{args:?}: {said}");
            assert_eq!(engine_at(&point), "none", "{args:?}");
        }
        let run = finish(&["run", "--engine=kernel", str(&source), "--", "true"]);
        assert_eq!(run.status.code(), Some(1), "{}", text(&run));
        assert!(text(&run).contains("always served"), "{}", text(&run));
    });
}

#[test]
fn submounts_are_mapped_too_or_refused() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        sh(&format!("mount -t tmpfs none {0}/sub; touch {0}/sub/g", str(&source)));
        let (code, said) = mount(&["--engine=kernel", MAP, "--submounts=hide"], &source, &point);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("would show what that mount covers"), "{said}");
        assert_eq!(mount(&["--engine=kernel", MAP, "--ro"], &source, &point).0, Some(0));
        assert_eq!(owner(&point.join("sub/g")), (100_000, 100_000));
        assert!(fs::write(point.join("sub/no"), "").is_err(), "the flags are for all of it");
        // A later mount on the source is not seen, nor does this one go back there.
        sh(&format!(
            "mkdir {0}/late; mount -t tmpfs none {0}/late; touch {0}/late/h",
            str(&source)
        ));
        assert!(!point.join("late/h").exists());
        run("umount", &["-R", str(&point)]);
        assert!(source.join("sub/g").exists());
        sh(&format!("mount -t proc none {}/late", str(&source)));
        let (code, said) = mount(&["--engine=kernel", MAP], &source, &point);
        assert_eq!(code, Some(32), "{said}");
        assert!(said.contains("late: the kernel maps no ids of that file system (proc)"), "{said}");
        assert_eq!(mount(&["--engine=auto", MAP], &source, &point).0, Some(0));
        assert_eq!(engine_at(&point), "fuse");
        run("umount", &[str(&point)]);
    });
}

/// There a capability counts for files alone that are in the map with owner and group.
#[test]
fn a_source_with_a_map_is_read_as_the_kernel_reads_it() {
    require!(Root, Fuse, Idmap, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        sh(&format!(
            "cd {}; mkdir d; echo x | tee f >d/f; chmod 600 f; chmod 700 d; chown 0:5000 f d
            mkdir -m 777 open",
            str(&image.root)
        ));
        let (mapped, point) = (sandbox.dir("mapped"), sandbox.dir("mnt"));
        assert_eq!(mount(&["--engine=kernel", "--map=0:0:1000"], &image.root, &mapped).0, Some(0));
        assert_eq!(mount(&["--cache=none"], &mapped, &point).0, Some(0));
        for round in 0..20 {
            sh_as(7, 7, &[], &format!("echo x >{}/open/{round}", str(&point)));
            for top in [&mapped, &point] {
                let read = |path| fs::read_to_string(top.join(path)).map_err(|why| why.kind());
                assert_eq!(
                    (read("f"), read("d/f")),
                    (Ok("x\n".into()), Ok("x\n".into())),
                    "{top:?}"
                );
            }
        }
        run("umount", &[str(&point)]);
    });
}

#[test]
fn the_sources_own_flags_stay_in_force() {
    require!(Root, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        sh(&format!("mount --bind {0} {0}; mount -o remount,bind,ro,nosuid {0}", str(&source)));
        for args in [&["--engine=kernel", MAP, "--rw"][..], &["--engine=kernel", MAP, "--suid"]] {
            assert_eq!(mount(args, &source, &point).0, Some(0));
            let done = fs::write(point.join("f"), "");
            assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EROFS), "{args:?}");
            // What is asked for by name is done, as with a server.
            let suid = !mount_at(&point).unwrap().options.contains("nosuid");
            assert_eq!(suid, args.contains(&"--suid"));
            run("umount", &[str(&point)]);
        }
    });
}

#[test]
fn a_remount_leaves_alone_what_is_not_ours() {
    require!(Root, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        sh(&format!("mkdir {0}/later; mount -t tmpfs none {0}/sub", str(&source)));
        sh(&format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}", str(&source)));
        sh(&format!("mount -t tmpfs none {0}/sub", str(&source)));
        assert_eq!(mount(&["--engine=kernel", "--map=0:0:65536"], &source, &point).0, Some(0));
        sh(&format!("mount -t tmpfs -o noexec,nosuid none {}/later", str(&point)));
        let flags = |name: &str| mount_at(&point.join(name)).unwrap().options;
        let denied = |name: &str| fs::write(point.join(name), "").unwrap_err().raw_os_error();
        let remount = |options: &str| {
            let (code, said) = mount(&["-o", options], &source, &point);
            assert_eq!(code, Some(0), "{options}: {said}");
        };
        // As mount(8) passes it on.
        remount("remount,rw,noexec");
        assert_eq!(denied("f"), Some(libc::EROFS));
        assert!(flags("sub").contains("noexec") && flags("sub").starts_with("rw"));
        remount("remount,ro");
        assert_eq!(denied("sub/g"), Some(libc::EROFS));
        fs::write(point.join("later/g"), "").expect("what was mounted later is not changed");
        // What the source lets write to is written to again.
        remount("remount,rw,exec,suid");
        assert_eq!(denied("f"), Some(libc::EROFS));
        fs::write(point.join("sub/g"), "").unwrap();
        assert!(!flags("sub").contains("noexec") && !flags("sub").contains("nosuid"));
        assert!(flags("later").contains("noexec") && flags("later").contains("nosuid"));
        run("umount", &["-R", str(&point)]);
    });
}

#[test]
fn names_qualify_as_ranges() {
    require!(Root, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        fs::create_dir(source.join("etc")).unwrap();
        fs::write(source.join("etc/passwd"), "root:x:0:0\nweb:x:7:8\n").unwrap();
        fs::write(source.join("etc/group"), "root:x:0:\nweb:x:8:\n").unwrap();
        let host = sandbox.file("passwd", "root:x:0:0\nweb:x:33:33\n");
        let groups = sandbox.file("group", "root:x:0:\nweb:x:34:\n");
        let view = format!("--names=view={},{}", str(&host), str(&groups));
        let done = mount(&["--engine=kernel", "--names=disk=source", &view], &source, &point);
        assert_eq!(done.0, Some(0), "{}", done.1);
        assert_eq!((owner(&point.join("f")), owner(&point)), ((33, 34), (0, 0)));
        run("umount", &[str(&point)]);
    });
}

#[test]
fn fstab_with_the_kernel_as_engine() {
    require!(Root, Fuse, Idmap);
    sandbox(|sandbox| {
        let (source, point) = planted(sandbox);
        install(sandbox);
        let table = |options: &str| {
            let line = format!("{} {} idmapfs {options} 0 0\n", str(&source), str(&point));
            sandbox.file("fstab", &line)
        };
        let fstab = table("map=0:100000:65536,engine=kernel,noexec,nofail");
        let all = |fstab: &Path| output("mount", &["-a", "-T", str(fstab)]);
        for _ in 0..2 {
            let done = all(&fstab);
            assert!(done.status.success(), "{}", text(&done));
        }
        assert_eq!(owner(&point.join("f")), (100_007, 100_008));
        assert_eq!(mounts().iter().filter(|line| line.point == point).count(), 1, "twice");
        // Flags change by a remount, and nothing else does.
        run("mount", &["-T", str(&fstab), "-o", "remount,ro", str(&point)]);
        let flags = mount_at(&point).unwrap().options;
        assert!(flags.starts_with("ro,") && flags.contains("noexec"), "{flags}");
        fs::write(source.join("f"), "y").expect("the source stays writable");
        assert_eq!(fs::read(point.join("f")).unwrap(), b"y");
        let done =
            output("mount", &["-T", str(&fstab), "-o", "remount,map=70000:5:9", str(&point)]);
        assert!(
            !done.status.success() && text(&done).contains("flags only (umount it"),
            "{}",
            text(&done)
        );
        // Another map, or another engine, is not what is mounted.
        for options in ["map=0:200000:65536,engine=kernel", "map=0:100000:65536"] {
            let done = all(&table(options));
            assert!(!done.status.success(), "{options}");
            assert!(
                text(&done).contains("mounted there already (umount it first)"),
                "{}",
                text(&done)
            );
        }
        // Nor is one that somebody has made without our flags.
        run("idmapfs", &["-o", "remount,suid", str(&source), str(&point)]);
        let done = all(&table("map=0:100000:65536,engine=kernel"));
        assert!(
            text(&done).contains("an idmapped mount without nosuid is mounted there already"),
            "{}",
            text(&done)
        );
        run("umount", &[str(&point)]);
        assert!(mount_at(&point).is_none());
        // A server that does the same is as good for `auto`, and not for `kernel`.
        assert!(all(&table("map=0:100000:65536")).status.success());
        assert!(all(&table("map=0:100000:65536,engine=auto")).status.success());
        assert_eq!(engine_at(&point), "fuse");
        let done = all(&table("map=0:100000:65536,engine=kernel"));
        assert!(
            text(&done).contains("a server's mount is mounted there already"),
            "{}",
            text(&done)
        );
        run("umount", &[str(&point)]);
    });
}

#[test]
fn commands_say_what_a_kernel_mount_is() {
    require!(Root, Ext4Loop, Idmap);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 16);
        let (source, point) = (image.root.join("dir"), sandbox.dir("mnt"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("f"), "x").unwrap();
        assert_eq!(mount(&["--engine=kernel", MAP], &source, &point).0, Some(0));
        for (command, way_out) in [
            ("reload", "to change it umount it, and mount it again with the other policy"),
            ("stats", "nothing is counted; idmapfs explain --mount says what it is"),
            ("abort", "nobody waits for one; umount takes it away"),
        ] {
            let done = finish(&[command, str(&point)]);
            assert_eq!(done.status.code(), Some(32), "{command}");
            let said = format!("a kernel idmapped mount, without a server ({way_out})");
            assert!(text(&done).contains(&said), "{command}: {}", text(&done));
        }
        let done = finish(&["explain", "--mount", "--json", str(&point), "f"]);
        assert!(done.status.success(), "{}", text(&done));
        let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(said["mount"]["engine"]["what"], "kernel");
        assert_eq!(said["mount"]["source"], str(&source));
        assert_eq!(said["mount"]["policy"], "map=0:100000:65536");
        assert_eq!(said["files"][0]["path"], "f");
        assert!(said["flags"].as_str().unwrap().contains("idmapped"));
        run("umount", &[str(&point)]);
        // Over its own source, what is on disk is not to be seen, unless elsewhere.
        assert_eq!(mount(&["--engine=kernel", MAP], &source, &source).0, Some(0));
        let done = finish(&["explain", "--mount", str(&source)]);
        assert!(done.status.success(), "{}", text(&done));
        let done = finish(&["explain", "--mount", str(&source), "f"]);
        assert_eq!(done.status.code(), Some(1), "{}", text(&done));
        assert!(text(&done).contains("it is covered by this mount"), "{}", text(&done));
        let other = sandbox.dir("other");
        sh(&format!("mount --bind {} {}", str(&image.root), str(&other)));
        let done = finish(&["explain", "--mount", "--json", str(&source), "f"]);
        let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(said["mount"]["source"], str(&other.join("dir")));
        assert_eq!(said["files"][0]["shown"][0]["answer"], 100_000, "{said}");
        run("umount", &[str(&other), str(&source)]);
    });
}

#[test]
fn root_of_a_user_namespace_maps_what_it_has() {
    require!(Root, Fuse, UserNamespaces);
    sandbox(|sandbox| {
        // One id, on a file system that is mounted inside.
        let script = "set -u; mount -t tmpfs none $2; cd $2; mkdir src mnt; touch src/f
            try() { \"$program\" --engine=$1 --map=0:$2:1 $3 mnt 2>&1; echo $?; }; program=$1
            try kernel 0 src; findmnt -no OPTIONS $2/mnt | grep -c idmapped; stat -c %u mnt/f
            umount mnt; try kernel 5 src; try kernel 0 /usr/share
            try auto 0 /usr/share; umount mnt";
        let place = sandbox.dir("place");
        let said = run("unshare", &["-Urm", "bash", "-c", script, "bash", PROGRAM, str(&place)]);
        let lines: Vec<&str> = said.lines().collect();
        let ids = "this user may not make a user namespace with those ids";
        let root = "it takes root over the file system of the source";
        let refused = |why: &str| {
            format!(
                "idmapfs: option engine: kernel: {why}; with engine=auto or engine=fuse a server does it"
            )
        };
        let want = ["0", "1", "0", &refused(ids), "32", &refused(root), "32", "0"];
        assert_eq!(lines, want, "{said}");
    });
}

#[test]
fn a_users_namespace_maps_our_mount_again() {
    require!(Root, Fuse, UserNamespaces, FuseIdmap);
    sandbox(|sandbox| {
        let ann = crate::support::rootless::Rootless::new(sandbox);
        let script = "mkdir a b; idmapfs --allow-idmap --map 0:1000:1 ~/project a
            idmapfs --engine kernel --map 1000:5:1 a b; stat -c %u:%g a/f b/f; umount b
            idmapfs --engine kernel --map 0:5:1 ~/project b 2>&1 || true";
        let unshare = "unshare --map-auto --map-root-user -m sh -euc";
        let said = ann.does(&format!("{unshare} '{script}'"));
        let want = "1000:1000\n5:5\nidmapfs: option engine: kernel: it takes root over the file \
                    system of the source; with engine=auto or engine=fuse a server does it\n";
        assert_eq!(said, want);
    });
}

#[test]
fn a_user_gets_a_server_or_the_reason() {
    require!(Root, Fuse, Fusermount);
    sandbox(|sandbox| {
        let program = crate::support::ours::program_for_users(sandbox);
        let source = sandbox.dir("src");
        let point = sandbox.dir("mnt");
        sh(&format!("chown 1000:1000 {} {}; chmod 755 {0}", str(&source), str(&point)));
        let mount = |engine: &str| {
            let (source, point) = (str(&source), str(&point));
            format!("{} --engine={engine} --map 1000:1000:1 {source} {point}", str(&program))
        };
        let done = try_sh_as(1000, 1000, &[], &mount("kernel"));
        assert_eq!(done.status.code(), Some(32), "{}", text(&done));
        assert!(text(&done).contains("it takes root over the file system"), "{}", text(&done));
        sh_as(1000, 1000, &[], &mount("auto"));
        assert_eq!(engine_at(&point), "fuse");
        run("umount", &[str(&point)]);
        // Nobody has asked it for much.
        let ended = || crate::support::ours::processes(&point).is_empty();
        assert!(crate::support::holds_within(std::time::Duration::from_secs(20), ended));
    });
}
