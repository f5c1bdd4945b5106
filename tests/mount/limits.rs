//! Full disks, quotas, and a source that becomes read-only.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::require;
use crate::support::idmap::{self, IdMap};
use crate::support::image::Ext4;
use crate::support::ours::{self, Ours};
use crate::support::{
    Sandbox, holds_within, output, raw, run, sandbox, sh, sh_as, str, text, try_sh_as,
};

const MAP: [&str; 2] = ["--map", "0:100000:1000"];

/// One engine after the other on a fresh image: what `body` returns is equal.
fn as_on_the_oracle(mkfs: &'static str, prepare: fn(&Ext4), body: fn(&Ext4, &Path) -> String) {
    sandbox(move |sandbox| {
        let engine = |ours: bool, sandbox: &Sandbox| {
            let image = Ext4::with(sandbox, 32, mkfs);
            prepare(&image);
            let view = sandbox.dir(if ours { "ours" } else { "model" });
            let server = if ours {
                Some(Ours::new(&image.root, &view, &MAP))
            } else {
                idmap::mount(&image.root, &view, &IdMap::both("0:100000:1000"));
                None
            };
            let seen = body(&image, &view);
            drop(server);
            let _ = nix::mount::umount2(&view, nix::mount::MntFlags::MNT_DETACH);
            seen
        };
        let model = engine(false, sandbox);
        println!("{model}");
        assert_eq!(model, engine(true, sandbox));
    });
}

/// Fills a file as a user; returns the error and how much went in, about.
fn fill(dir: &Path, uid: u32) -> String {
    let command = format!(
        "cd {}; dd if=/dev/zero of=big{uid} bs=64k count=1000 conv=fsync 2>&1 || true; \
         stat -c %s big{uid}",
        str(dir)
    );
    let said = sh_as(uid, uid, &[], &command);
    let word = ["No space left", "quota exceeded"].into_iter().find(|word| said.contains(word));
    let size: u64 = said.lines().last().unwrap_or_default().parse().unwrap_or(0);
    // To the half MiB: metadata blocks are taken as the disk likes.
    format!("uid {uid}: {word:?} after about {} half MiB; ", (size + (1 << 18)) >> 19)
}

#[test]
fn reserved_blocks_stay_reserved() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let prepare = |image: &Ext4| {
        raw::chmod(&image.root, 0o777).unwrap();
    };
    as_on_the_oracle("-m 25", prepare, |image, view| {
        let by_user = fill(view, 100_005);
        let left = || {
            let free = run("stat", &["-f", "-c", "%f %a", str(&image.root)]);
            let free: Vec<u64> = free.split_whitespace().map(|n| n.parse().unwrap()).collect();
            // A write of 64 KiB fails where a little less is left.
            free[0] > 4000 && free[1] < 100
        };
        assert!(left(), "the reserve is used up, or much is left for users");
        by_user + &fill(view, 100_006)
    });
}

/// The server has left root's groups, one of which could have a reserve.
#[test]
fn the_server_is_in_no_group() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, view) = (sandbox.dir("source"), sandbox.dir("view"));
        let program = env!("CARGO_BIN_EXE_idmapfs");
        let command = format!("{program} {} {}", str(&source), str(&view));
        run("setpriv", &["--groups", "4,24", "sh", "-c", &command]);
        let server = ours::processes(&view)[0];
        let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap();
        assert_eq!(groups.trim(), "Groups:");
        run("umount", &[str(&view)]);
    });
}

#[test]
fn the_quota_of_the_disk_owner_holds() {
    require!(Root, Fuse, Ext4Loop, Idmap, Quota);
    let prepare = |image: &Ext4| {
        raw::chmod(&image.root, 0o777).unwrap();
        let root = str(&image.root);
        sh(&format!(
            "export PATH=$PATH:/sbin:/usr/sbin; mount -o remount,usrquota {root} || true; \
             quotaon -u {root} 2>/dev/null || true; \
             setquota -u 5 0 1024 0 10 {root}; setquota -u 6 0 0 0 4 {root}"
        ));
    };
    as_on_the_oracle("-O quota -E quotatype=usrquota", prepare, |image, view| {
        let blocks = fill(view, 100_005);
        assert!(blocks.contains("quota"), "the quota is not in force: {blocks}");
        let many = format!("cd {}; for n in 1 2 3 4 5 6; do mkdir d$n || echo $n; done", str(view));
        let inodes = sh_as(100_006, 100_006, &[], &format!("({many}) 2>&1"));
        let made = fs::read_dir(&image.root).unwrap().flatten();
        let made = made.filter(|entry| entry.metadata().unwrap().uid() == 6).count();
        // Others are not charged, and nothing half-made is left.
        let others = fill(view, 100_007);
        format!("{blocks}{others}{made} made; {}", inodes.replace(str(view), ""))
    });
}

#[test]
fn the_source_can_be_remounted_read_only() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &[]);
        fs::write(ours.at("f"), "written").unwrap();
        let reading = fs::File::open(ours.at("f")).unwrap();
        fs::create_dir(ours.at("d")).unwrap();
        sh(&format!("ls -R {0} > /dev/null; sync -f {0}", str(&ours.point)));
        let done = output("mount", &["-o", "remount,ro", str(&image.root)]);
        assert!(done.status.success(), "something holds it for writing: {}", text(&done));
        for refused in ["echo x > f", "mkdir e", "rm f", "chmod 600 f"] {
            let said = try_sh_as(0, 0, &[], &format!("cd {}; {refused}", str(&ours.point)));
            assert!(text(&said).contains("Read-only file system"), "{refused}: {}", text(&said));
        }
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "written");
        drop(reading);
    });
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::with(sandbox, 16, "-N 32");
        raw::chmod(&image.root, 0o777).unwrap();
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let many = format!(
            "cd {}; for n in $(seq 60); do touch f$n 2>&1 || true; mkdir d$n 2>&1 || true; done",
            str(&ours.point)
        );
        let said = sh_as(100_005, 100_005, &[], &many);
        assert!(said.contains("No space left"), "{said}");
        let wrong = sh(&format!("find {} -mindepth 1 ! -uid 5", str(&image.root)));
        assert_eq!(wrong, "", "files with another owner");
    });
}

#[test]
fn a_file_deleted_on_the_host_gives_its_room_back() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let free = || run("stat", &["-f", "-c", "%f", str(&source)]);
        let before = free();
        fs::write(source.join("f"), vec![1; 8 << 20]).unwrap();
        // Known by the kernel, and held open by the server.
        raw::chmod(&ours.at("f"), 0o600).unwrap();
        fs::remove_file(source.join("f")).unwrap();
        let given = holds_within(std::time::Duration::from_secs(30), || free() == before);
        assert!(given, "{before} blocks were free, now {}", free());
    });
}
