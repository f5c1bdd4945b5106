//! Policies that depend on the caller: mirrors, and who is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid};

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::{Ours, finish, program_for_users};
use crate::support::{raw, sandbox, sh, sh_as, str, text, try_sh_as};

/// What a user sees as the owner of a file.
fn seen(uid: u32, groups: &[u32], path: &Path) -> String {
    sh_as(uid, 500, groups, &format!("stat -c %u:%g {}", str(path))).trim().to_owned()
}

#[test]
fn mirrored_callers_each_see_their_own() {
    require!(Root, Fuse, Ext4Loop, AclTools);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let source = &image.root;
        sh(&format!(
            "cd {}; mkdir d; echo x > d/f; printf '#!/bin/sh\\nexit 7\\n' > d/run
             chown -R 1:2 d; chmod 700 d; chmod 600 d/f; chmod 711 d/run; chmod 755 .",
            str(source)
        ));
        let ours = Ours::new(source, &sandbox.dir("mnt"), &["--mirror", "1001:1002:@77"]);
        let (dir, file) = (ours.at("d"), ours.at("d/f"));
        assert_eq!(seen(1001, &[], &file), "1001:2");
        assert_eq!(seen(1002, &[], &file), "1002:2");
        assert_eq!(seen(1003, &[77], &file), "1003:2");
        assert_eq!(seen(0, &[], &file), "1:2");
        let refused = try_sh_as(1003, 500, &[], &format!("stat {}", str(&file)));
        assert!(text(&refused).contains("Permission denied"), "{refused:?}");
        for uid in [1001, 1002] {
            sh_as(
                uid,
                500,
                &[],
                &format!(
                    "cd {}; set -e; cat f; echo {uid} >> f; test -w f; test -O f; chmod 640 f
                     chown {uid} f; touch f; setfacl -m u:9:r f; getfacl -n f | grep -q user:9:r
                     setfacl -b f; ./run && exit 1; test $? = 7; mkdir {uid}; touch {uid}/g
                     mv {uid}/g {uid}/h; ln f {uid}/l; rm -r {uid}",
                    str(&dir)
                ),
            );
        }
        let disk = fs::metadata(source.join("d/f")).unwrap();
        assert_eq!((disk.uid(), disk.gid(), disk.mode() & 0o7777), (1, 2, 0o640));
        assert_eq!(fs::read_to_string(source.join("d/f")).unwrap(), "x\n1001\n1002\n");
        // Without a mirror there, the list of the disk decides.
        sh(&format!("setfacl -m u:1005:x {0}; setfacl -m u:1005:r {0}/f", str(&source.join("d"))));
        assert_eq!(sh_as(1005, 500, &[], &format!("cat {}", str(&file))), "x\n1001\n1002\n");
        let refused = try_sh_as(1005, 500, &[], &format!("echo >> {}", str(&file)));
        assert!(!refused.status.success());
        // Whose a new file is depends on who makes it, as ever.
        sh_as(1001, 500, &[], &format!("umask 077; touch {}", str(&ours.at("d/new"))));
        let new = fs::metadata(source.join("d/new")).unwrap();
        assert_eq!((new.uid(), new.gid(), new.mode() & 0o7777), (1001, 500, 0o600));
    });
}

/// What processes do that are users: each looks at, and changes, the same files
/// for a while, and sees nothing but its own.
#[test]
fn mirrored_callers_hammer_the_same_files() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--mirror", "1001:1002"]);
        raw::chmod(&source, 0o755).unwrap();
        for n in 0..4 {
            fs::write(source.join(format!("f{n}")), "x").unwrap();
        }
        let paths: Vec<_> = (0..4).map(|n| ours.at(&format!("f{n}"))).collect();
        let until = Instant::now() + Duration::from_secs(4);
        let hammer = |uid: u32| -> Option<()> {
            let (id, gid) = (Uid::from_raw(uid), Gid::from_raw(500));
            nix::unistd::setgroups(&[]).ok()?;
            nix::unistd::setresgid(gid, gid, gid).ok()?;
            nix::unistd::setresuid(id, id, id).ok()?;
            let mut n = 0_u32;
            while Instant::now() < until || n <= 20 {
                let path = &paths[n as usize % paths.len()];
                (fs::metadata(path).ok()?.uid() == uid).then_some(())?;
                raw::chmod(path, 0o600 | (n % 8)).ok()?;
                let file = fs::File::options().read(true).write(true).open(path).ok()?;
                (file.metadata().ok()?.uid() == uid).then_some(())?;
                n += 1;
            }
            Some(())
        };
        let children: Vec<_> = [1001, 1002, 1001, 1002]
            .into_iter()
            .map(|uid| {
                let work = || hammer(uid).ok_or(libc::EBADMSG);
                raw::fork_and_try(work).expect("fork")
            })
            .collect();
        for child in children {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    });
}

#[test]
fn others_are_refused_on_the_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--mirror-only", "1001"]);
        sh(&format!("cd {}; mkdir d; echo x > d/f; chmod 777 . d; chmod 666 d/f", str(&source)));
        let at = str(&ours.point).to_owned();
        assert_eq!(seen(1001, &[], &ours.at("d/f")), "1001:0");
        assert_eq!(seen(0, &[], &ours.at("d/f")), "0:0");
        for try_it in [
            "ls {}",
            "cd {}",
            "cat {}/d/f",
            "stat {}/d",
            "echo > {}/d/f",
            "mkdir {}/e",
            "rm {}/d/f",
            "mv {}/d {}/e",
            "chmod 700 {}",
            "setfattr -n user.a -v b {}",
            "unshare -Ur cat {}/d/f",
            "unshare -Ur ls {}",
        ] {
            let refused = try_sh_as(1002, 500, &[], &try_it.replace("{}", &at));
            assert!(!refused.status.success(), "{try_it}");
        }
        // Who is there already, and then another, is out as well.
        let inside = "python3 -c 'import os; os.setresuid(1002, 1002, 1002); open(\"f\")'";
        let refused = try_sh_as(0, 0, &[], &format!("cd {at}/d && cat f && {inside} 2>&1"));
        assert!(text(&refused).contains("Permission denied"), "{refused:?}");
        assert_eq!(fs::read_to_string(source.join("d/f")).unwrap(), "x\n");
    });
}

#[test]
fn root_of_a_child_namespace_gets_nothing() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--mirror", "1001"]);
        sh(&format!(
            "cd {}; echo x > f; mkdir d; chown 0:500 f; chmod 600 f; chmod 700 d; chmod 755 .",
            str(&source)
        ));
        let at = str(&ours.point).to_owned();
        for try_it in [
            "unshare -Ur cat {}/f",
            "unshare -Ur ls {}/d",
            "unshare -Ur chmod 666 {}/f",
            "unshare -Ur touch {}/x",
            "unshare -Ur chown 0 {}/f",
        ] {
            let refused = try_sh_as(1002, 500, &[], &try_it.replace("{}", &at));
            assert!(!refused.status.success(), "{try_it}");
        }
        // A mirrored user is root of its own file there, and of no program of
        // another user.
        let own = "unshare -Ur sh -c 'cat {}/f && chmod 4755 {}/f && chown 0:0 {}/f'";
        sh_as(1001, 500, &[], &own.replace("{}", &at));
        let disk = fs::metadata(source.join("f")).unwrap();
        assert_eq!((disk.uid(), disk.gid(), disk.mode() & 0o7777), (0, 500, 0o755));
        let capability = format!("unshare -Ur setcap cap_chown+ep {at}/f");
        let _ = try_sh_as(1001, 500, &[], &capability);
        assert!(raw::get_xattr(&source.join("f"), c"security.capability").is_err());
    });
}

#[test]
fn set_id_and_devices_are_refused_beside_a_mirror() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, mnt) = (sandbox.dir("src"), sandbox.dir("mnt"));
        for option in ["suid", "dev"] {
            let flag = format!("--{option}");
            let refused = finish(&["--mirror", "7", &flag, str(&source), str(&mnt)]);
            assert_eq!(refused.status.code(), Some(1));
            assert!(text(&refused).contains(&format!("option {option}: not beside a policy")));
        }
        let ours = Ours::new(&source, &mnt, &["--mirror", "7"]);
        let refused = finish(&["-o", "remount,suid", str(&source), str(&mnt)]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let changed = finish(&["-o", "remount,ro", str(&source), str(&mnt)]);
        assert!(changed.status.success(), "{changed:?}");
        drop(ours);
    });
}

/// What the client does not check without `default_permissions`.
#[test]
fn programs_and_directories_are_entered_by_their_execute_bit() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--mirror", "1001"]);
        sh(&format!("chmod 755 {}", str(&source)));
        crate::support::copy_program("/bin/true", &source.join("p"));
        sh(&format!("cd {}; mkdir d; echo x > d/f; chown 1:2 p d", str(&source)));
        let at = str(&ours.point).to_owned();
        let works = |mode: &str, script: &str| {
            sh(&format!("cd {}; chmod {mode} p d", str(&source)));
            try_sh_as(1002, 500, &[2], &script.replace("{}", &at)).status.success()
        };
        // A program is run, and not read, by those who may do that alone.
        assert!(works("711", "{}/p") && !works("711", "cat {}/p"));
        assert!(works("710", "{}/p") && !works("710", "cat {}/p"));
        assert!(!works("744", "{}/p") && works("744", "cat {}/p"));
        assert!(!works("701", "{}/p"));
        // A directory is entered, searched and listed by what each takes.
        for (mode, enter, list) in
            [("711", true, false), ("744", false, true), ("700", false, false)]
        {
            assert_eq!(works(mode, "cd {}/d"), enter, "{mode}");
            assert_eq!(works(mode, "cat {}/d/f"), enter, "{mode}");
            assert_eq!(works(mode, "ls -f {}/d"), list, "{mode}");
        }
        // A descriptor that came without a right gives none.
        let again = "exec 9< {}; chmod 700 {} 2> /dev/null; cat /proc/self/fd/9/d/f";
        assert!(!works("700", again));
        let by_path = "import os; f = os.open(\"{}/p\", os.O_PATH); open(f\"/proc/self/fd/{f}\")";
        assert!(!works("711", &format!("python3 -c '{by_path}'")));
        assert!(works("744", &format!("python3 -c '{by_path}'")));
        // access(2) says the same.
        assert!(works("711", "test -x {}/p && test ! -r {}/p && test ! -w {}/p"));
    });
}

/// Without root: by fusermount3, and in a user namespace.
#[test]
fn an_ordinary_user_may_mount_a_mirror() {
    require!(Root, Fuse, Fusermount, UserNamespaces);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        sh(&format!("cd {}; mkdir d; echo x > d/f; chmod 600 d/f", str(&source)));
        sh(&format!("chown -R 34:34 {} {}", str(&source), str(&point)));
        let program = program_for_users(sandbox);
        let (program, mnt, src) = (str(&program), str(&point), str(&source));
        let as_user = |script: &str| sh_as(34, 34, &[], script);
        let use_it = "stat -c %u:%g d/f; cat d/f; touch g; mkfifo p; rm p; cd d; mv f h; mv h f";
        as_user(&format!("{program} --mirror 34 {src} {mnt}"));
        assert_eq!(as_user(&format!("cd {mnt}; {use_it}")), "34:34\nx\n");
        as_user(&format!("fusermount3 -u {mnt}"));
        let map = "--map u:34:34:1 --map g:34:34:1 --mirror 34";
        let run = format!("{program} run {map} {src} -- sh -ec '{use_it}'");
        assert_eq!(as_user(&run), "34:34\nx\n");
        // Of a mount inside a user namespace the client carries no ACLs.
        let list = format!("{program} run {map} {src} -- setfacl -m u:34:r d/f");
        let refused = try_sh_as(34, 34, &[], &list);
        assert!(text(&refused).contains("not supported"), "{}", text(&refused));
    });
}
