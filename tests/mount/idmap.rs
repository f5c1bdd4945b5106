//! Our mount, mapped by the kernel in its turn: `--allow-idmap`.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::WaitStatus;

use crate::require;
use crate::support::idmap::{self, IdMap};
use crate::support::image::Ext4;
use crate::support::ours::{Ours, finish, program_for_users};
use crate::support::{Sandbox, raw, sandbox, sh, sh_as, str, text, try_sh_as, wait_for};

/// What the kernel maps: ids of the mount below to those of callers.
fn pod() -> IdMap {
    IdMap::both("0:300000:1000")
}

/// The same tree twice: mapped by the kernel alone, and by the kernel on top of ours.
struct Both {
    views: [PathBuf; 2],
    disks: [PathBuf; 2],
    _ours: Ours,
    _image: Ext4,
}

impl Both {
    /// Makes it; `below` is the map of ours, and what stands on the other disk is
    /// what ours shows.
    fn new(sandbox: &Sandbox, plant: impl Fn(&Path)) -> Self {
        let image = Ext4::new(sandbox, 32);
        let [plain, source] = ["plain", "source"].map(|name| image.root.join(name));
        for disk in [&plain, &source] {
            fs::create_dir(disk).unwrap();
            raw::chmod(disk, 0o777).unwrap();
            plant(disk);
        }
        let ours = Ours::new(&source, &sandbox.dir("ours"), &["--allow-idmap", "--suid"]);
        let [model, view] = ["model", "view"].map(|name| sandbox.dir(name));
        idmap::try_mount(&plain, &model, &pod(), false).expect("the kernel's alone");
        idmap::try_mount(&ours.point, &view, &pod(), false).expect("the kernel's on ours");
        Self { views: [model, view], disks: [plain, source], _ours: ours, _image: image }
    }

    /// Runs a script as a caller in each, and compares what it says and leaves.
    fn same(&self, (uid, gid): (u32, u32), groups: &[u32], script: &str) -> String {
        let [model, view] = self.views.each_ref().map(|top| {
            let script = format!("cd {}; {script}", str(top));
            text(&try_sh_as(uid, gid, groups, &script)).replace(str(top), "TOP")
        });
        assert_eq!(model, view, "{uid}:{gid}: {script}");
        let look = "find . -printf '%p %U:%G %m %s %n %l\\n' | sort; getfacl -Rnp . 2>/dev/null; \
                    getcap -r . 2>/dev/null || true";
        let [model, ours] =
            self.disks.each_ref().map(|top| sh(&format!("cd {}; {look}", str(top))));
        assert_eq!(model, ours, "{uid}:{gid}: {script}");
        let [model, ours] =
            self.views.each_ref().map(|top| sh(&format!("cd {}; {look}", str(top))));
        assert_eq!(model, ours, "{uid}:{gid}: {script}");
        view
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        for view in &self.views {
            let _ = nix::mount::umount2(view, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Callers of a pod: its root, two users, and somebody of the host.
const POD_ROOT: (u32, u32) = (300_000, 300_000);
const ONE: (u32, u32) = (300_001, 300_001);
const TWO: (u32, u32) = (300_002, 300_002);
const HOST: (u32, u32) = (1, 1);

#[test]
fn a_mapped_mount_of_ours_is_as_one_of_a_directory() {
    require!(Root, Fuse, FuseIdmap, Ext4Loop, Idmap, AclTools, CapTools);
    sandbox(|sandbox| {
        let both = Both::new(sandbox, |disk| {
            for (name, id, mode) in [("f1", 1, 0o640), ("f2", 2, 0o664), ("out", 5000, 0o666)] {
                let path = disk.join(name);
                fs::write(&path, name).unwrap();
                raw::chown(&path, id, id, false).unwrap();
                raw::chmod(&path, mode).unwrap();
            }
        });
        // Makes, and is shown as whom.
        let made = "umask 022; echo x > n$UID; mkdir d$UID; ln -s x l$UID; mkfifo p$UID; \
                    ln n$UID h$UID; mv n$UID m$UID; stat -c '%n %u:%g %a' *$UID f? out";
        for caller in [POD_ROOT, ONE, TWO, HOST] {
            both.same(caller, &[], &made.replace("$UID", &caller.0.to_string()));
        }
        assert_eq!(fs::metadata(both.disks[1].join("m300001")).unwrap().uid(), 1);
        // Changes of owner and mode.
        let changes =
            "chmod 600 f1 f2 out; chown 300002 f1; chgrp 300001 f1 f2; chown 1 f1; chmod 1777 d*";
        for caller in [ONE, TWO, HOST, POD_ROOT] {
            both.same(caller, &[300_002], changes);
        }
        both.same(
            (0, 0),
            &[],
            "chown 300001:300002 f1; chmod 2755 f1; chown 7:7 f2; chown 300005 out",
        );
        // Sticky directories: whose a file is decides.
        let [make, take] = [
            "mkdir -m 1777 s; echo x > s/one; echo x > s/mine; chmod 666 s/*",
            "rm -f s/one; mv s/one s/x; ls s",
        ];
        both.same(ONE, &[], make);
        both.same(TWO, &[], &format!("echo x > s/two; {take}"));
        both.same(HOST, &[], take);
        both.same(ONE, &[], "rm s/one; mv s/mine s/yours; rm s/two; ls s; rmdir s");
        // ACLs name ids of callers.
        let acl = "setfacl -m u:300002:rw,g:300001:r m300001; getfacl -nc m300001; \
                   setfacl -d -m u:300002:rwx d300001; echo x > d300001/in; getfacl -nc d300001/in; \
                   setfacl -m u:1:rw m300001";
        both.same(ONE, &[], acl);
        both.same(TWO, &[], &format!("echo y >> m300001; echo y >> d300001/in; {acl}"));
        both.same(HOST, &[], acl);
        // Set-id bits and capabilities go with writes, and count as theirs.
        both.same(ONE, &[], "cp /usr/bin/id id1; chmod 4755 id1; ls -ln id1");
        assert!(both.same(TWO, &[], "./id1 -u; true").contains("300001"));
        both.same(ONE, &[], "echo x >> id1; chmod 4755 id1; : > id1; stat -c %a id1");
        both.same(
            (0, 0),
            &[],
            "cp /usr/bin/id cap; setcap cap_net_raw+ep cap; getcap cap; echo >> cap",
        );
        both.same(
            TWO,
            &[],
            "setfattr -n user.a -v 1 f2 id1; getfattr -d f2 id1; truncate -s 3 f1 m300002",
        );
    });
}

#[test]
fn a_directory_that_is_shared_stays_so() {
    require!(Root, Fuse, FuseIdmap, Ext4Loop, Idmap, AclTools);
    sandbox(|sandbox| {
        let both = Both::new(sandbox, |disk| {
            fs::create_dir(disk.join("team")).unwrap();
            raw::chown(&disk.join("team"), 1, 5, false).unwrap();
            raw::chmod(&disk.join("team"), 0o2775).unwrap();
        });
        let team = [300_005];
        both.same(ONE, &team, "setfacl -m u:300002:rwx team; stat -c %a team; echo > team/f");
        both.same(
            TWO,
            &[],
            "mkdir team/d; echo > team/g; chmod 2755 team/g; stat -c '%g %a' team/*",
        );
        both.same(TWO, &team, "echo > team/h; chmod 2755 team/h; stat -c '%g %a' team/h");
    });
}

#[test]
fn without_the_option_the_kernel_refuses_the_map() {
    require!(Root, Fuse, FuseIdmap);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &[]);
        let refused = idmap::try_mount(&ours.point, &sandbox.dir("view"), &pod(), true);
        let why = refused.unwrap_err();
        assert!(why.starts_with("mount_setattr: Invalid argument"), "{why}");
    });
}

#[test]
fn callers_who_count_must_be_known() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        let ends = [str(&source), str(&point)];
        let done = finish(&[&["--allow-idmap", "--mirror=5"][..], &ends].concat());
        assert_eq!(done.status.code(), Some(1), "{}", text(&done));
        let said = text(&done);
        assert!(
            said.contains("allow-idmap") && said.contains("leave one of the two out"),
            "{said}"
        );
        let done = finish(&[&["-o", "allow_idmap,engine=kernel"][..], &ends].concat());
        assert_eq!(done.status.code(), Some(1), "{}", text(&done));
        assert!(text(&done).contains("the kernel maps ids of a mount once"), "{}", text(&done));
    });
}

/// Both maps hold, one after the other, and a caller of a plain copy is as ever.
#[test]
fn ours_and_the_kernels_map_add_up() {
    require!(Root, Fuse, FuseIdmap);
    sandbox(|sandbox| {
        let (source, view) = (sandbox.dir("src"), sandbox.dir("view"));
        raw::chmod(&source, 0o777).unwrap();
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["-o", "allow_idmap,map=1000:0:100"]);
        idmap::mount(&ours.point, &view, &pod());
        raw::chown(&source, 1000, 1000, false).unwrap();
        sh_as(300_005, 300_006, &[], &format!("echo x > {}/f", str(&view)));
        let owner = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.uid(), found.gid())
        };
        assert_eq!(owner(&source.join("f")), (1005, 1006));
        assert_eq!(owner(&ours.at("f")), (5, 6));
        assert_eq!(owner(&view.join("f")), (300_005, 300_006));
        sh_as(
            7,
            8,
            &[],
            &format!("echo x > {0}/g; mv {0}/g {0}/h; rm {0}/h; : > {0}/i", str(&ours.point)),
        );
        assert_eq!(owner(&source.join("i")), (1007, 1008));
        // Nobody here has an id for that, says the kernel.
        let done = try_sh_as(9, 9, &[], &format!("echo x > {}/n", str(&view)));
        assert!(text(&done).contains("Value too large"), "{}", text(&done));
        let _ = nix::mount::umount2(&view, nix::mount::MntFlags::MNT_DETACH);
    });
}

/// As an ordinary user who has some ids, in a user namespace of its own.
#[test]
fn a_mount_in_a_user_namespace_is_mapped_there() {
    require!(Root, Fuse, FuseIdmap, UserNamespaces);
    sandbox(|sandbox| {
        let program = program_for_users(sandbox);
        let (source, point, view) = (sandbox.dir("src"), sandbox.dir("mnt"), sandbox.dir("view"));
        for path in [&source, &point, &view] {
            raw::chown(path, 100_000, 100_000, false).unwrap();
        }
        raw::chmod(&source, 0o1777).unwrap();
        let namespace = idmap::user_namespace(&IdMap::both("0:100000:65536")).unwrap();
        let user = format!("--user=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        // The server leaves the namespace; the shell stays in it.
        let words = ["-S", "0", "-G", "0", "unshare", "-m", "bash", "-c"];
        let serve =
            format!("{} -f --allow-idmap {} {} & wait", str(&program), str(&source), str(&point));
        let mut server = Command::new("nsenter");
        server.arg(user).args(words).arg(serve);
        let server = Server(raw::die_with_us(&mut server).spawn().unwrap());
        let mounts = format!("/proc/{}/mounts", server.0.id());
        wait_for("the mount", || {
            fs::read_to_string(&mounts).is_ok_and(|m| m.contains(str(&point)))
        });
        let map = idmap::user_namespace(&IdMap::both("0:100500:100")).unwrap();
        let there = File::open(format!("/proc/{}/ns/mnt", server.0.id())).unwrap();
        let (from, to) = (point.clone(), view.clone());
        let child = raw::fork_and_try(move || {
            setns(there, CloneFlags::CLONE_NEWNS).map_err(|e| e as i32)?;
            let mount = raw::open_tree(&from, false)?;
            raw::mount_idmap(mount.as_fd(), map.as_fd(), 0)?;
            raw::move_mount(mount.as_fd(), &to)
        });
        let ended = nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
        assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
        let by = "setpriv --reuid 507 --regid 508 --clear-groups";
        let (at, view) = (str(&point), str(&view));
        let script = format!(
            "stat -c %u:%g {view}; {by} touch {view}/n; stat -c %u:%g {view}/n {at}/n; \
             {by} mv {view}/n {view}/m; {by} rm {view}/m; ls {view}; umount {view} {at}"
        );
        let inside = format!("nsenter -t {} -U -m -S 0 -G 0 bash -ec '{script}'", server.0.id());
        let said = sh(&inside);
        assert_eq!(said.lines().collect::<Vec<_>>(), ["500:500", "507:508", "7:8"], "{said}");
    });
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
