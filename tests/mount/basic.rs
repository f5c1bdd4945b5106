//! Mounting and unmounting, and what everyone sees of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::require;
use crate::support::ours::{Ours, finish, processes};
use crate::support::{
    Sandbox, holds_within, mount_at, raw, run, sandbox, sh, sh_as, str, text, try_sh_as, wait_for,
};

/// Disk 0..1000 shown as 100000.., the map of most tests.
const MAP: [&str; 2] = ["--map", "0:100000:1000"];

#[test]
fn mountinfo_tells_type_and_source() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        let line = mount_at(&ours.point).unwrap();
        assert_eq!(line.kind, "fuse.idmapfs");
        assert_eq!(line.source, str(&source));
        let options: Vec<&str> = line.options.split(',').collect();
        assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{options:?}");
        assert!(options.contains(&"rw"), "{options:?}");
    });
}

#[test]
fn suid_and_dev_are_given_on_request() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &["-o", "suid,dev,fsname=other", "--ro"]);
        let line = mount_at(&ours.point).unwrap();
        let options: Vec<&str> = line.options.split(',').collect();
        assert!(!options.contains(&"nosuid") && !options.contains(&"nodev"), "{options:?}");
        assert_eq!(line.source, "other");
        let error = fs::write(ours.at("x"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    });
}

#[test]
fn options_may_come_in_one_o() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        fs::write(source.join("f"), "x").unwrap();
        raw::chown(&source.join("f"), 1000, 1001, false).unwrap();
        let options = "map=u:1000:101000:1,map=g:1001:201000:1,ro";
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &["-o", options]);
        let meta = fs::metadata(ours.at("f")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (101_000, 201_000));
        assert!(mount_at(&ours.point).unwrap().options.split(',').any(|option| option == "ro"));
    });
}

#[test]
fn returns_when_usable_and_serves_in_the_background() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
        fs::write(source.join("f"), "contents").unwrap();
        let done = finish(&[MAP[0], MAP[1], str(&source), str(&point)]);
        assert!(done.status.success(), "{}", text(&done));
        // At once: no waiting here.
        assert_eq!(fs::read_to_string(point.join("f")).unwrap(), "contents");
        assert_eq!(mount_at(&point).unwrap().kind, "fuse.idmapfs");
        run("umount", &[str(&point)]);
        assert!(mount_at(&point).is_none());
        wait_for("the server's end", || processes(&point).is_empty());
    });
}

#[test]
fn umount_ends_the_server() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (_, ours) = Ours::of_new(sandbox, &MAP);
        let point = ours.point.clone();
        assert_eq!(ours.unmount(), Some(0));
        assert!(mount_at(&point).is_none());
    });
}

#[test]
fn terminate_unmounts() {
    require!(Root, Fuse);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        sandbox(move |sandbox| {
            let (_, mut ours) = Ours::of_new(sandbox, &MAP);
            ours.signal(signal);
            assert_eq!(ours.ended(), Some(0));
            assert!(mount_at(&ours.point).is_none());
        });
    }
}

/// A killed server leaves a dead mount point.
fn dead(sandbox: &Sandbox) -> Ours {
    let (source, mut ours) = Ours::of_new(sandbox, &MAP);
    fs::write(source.join("f"), "still here").unwrap();
    for pid in processes(&ours.point) {
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    }
    ours.ended();
    wait_for("a dead mount point", || {
        // A supervisor may well unmount by itself: then nothing is dead.
        mount_at(&ours.point).is_none()
            || fs::read_dir(&ours.point)
                .is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    ours
}

#[test]
fn a_dead_mount_point_is_cleared_by_the_next_mount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let old = dead(sandbox);
        let ours = Ours::new(&sandbox.path("src"), &old.point, &MAP);
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "still here");
        ours.unmount();
        assert!(mount_at(&old.point).is_none(), "the dead mount is still below");
    });
}

#[test]
fn a_dead_mount_point_is_cleared_by_umount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let old = dead(sandbox);
        if mount_at(&old.point).is_some() {
            run("umount", &[str(&old.point)]);
        }
        assert!(mount_at(&old.point).is_none());
        fs::read_dir(&old.point).unwrap();
    });
}

#[test]
fn a_lazy_umount_serves_to_the_last_close() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, mut ours) = Ours::of_new(sandbox, &MAP);
        fs::write(source.join("f"), "contents").unwrap();
        let mut open = fs::File::open(ours.at("f")).unwrap();
        run("umount", &["-l", str(&ours.point)]);
        assert!(mount_at(&ours.point).is_none());
        let mut seen = String::new();
        std::io::Read::read_to_string(&mut open, &mut seen).unwrap();
        assert_eq!(seen, "contents");
        drop(open);
        assert_eq!(ours.ended(), Some(0));
    });
}

#[test]
fn the_server_ends_after_umount_of_a_lazily_unmounted_source() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        run("mount", &["-t", "tmpfs", "source", str(&source)]);
        fs::write(source.join("f"), "contents").unwrap();
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &MAP);
        run("umount", &["-l", str(&source)]);
        assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "contents");
        assert_eq!(ours.unmount(), Some(0));
    });
}

#[test]
fn a_mapped_user_owns_what_the_map_says() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        raw::chown(&source, 1, 1, false).unwrap();
        fs::write(source.join("out"), "").unwrap();
        raw::chown(&source.join("out"), 5000, 5000, false).unwrap();
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &MAP);
        sh_as(100_001, 100_001, &[], &format!("umask 027; echo x > {}/f", str(&ours.point)));
        let disk = fs::metadata(source.join("f")).unwrap();
        assert_eq!((disk.uid(), disk.gid(), disk.mode()), (1, 1, 0o100_640));
        let view = fs::metadata(ours.at("f")).unwrap();
        assert_eq!((view.uid(), view.gid(), view.ino()), (100_001, 100_001, disk.ino()));
        let out = fs::metadata(ours.at("out")).unwrap();
        assert_eq!((out.uid(), out.gid()), (65534, 65534));
        let refused = try_sh_as(0, 0, &[], &format!("mkdir {}/d", str(&ours.point)));
        assert!(text(&refused).contains("Value too large"), "{}", text(&refused));
    });
}

#[test]
fn without_a_policy_nothing_is_changed() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        fs::set_permissions(&source, fs::Permissions::from_mode(0o1777)).unwrap();
        wait_for("the mode of the root", || fs::metadata(&ours.point).unwrap().mode() == 0o41777);
        sh_as(1234, 4321, &[], &format!("touch {}/f", str(&ours.point)));
        let disk = fs::metadata(source.join("f")).unwrap();
        assert_eq!((disk.uid(), disk.gid()), (1234, 4321));
    });
}

#[test]
fn statfs_is_that_of_the_source() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let of = |path| run("stat", &["-f", "-c", "%s %b %c %l", str(path)]);
        assert_eq!(of(&source), of(&ours.point));
    });
}

#[test]
fn numbers_outlive_a_remount() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &MAP);
        sh(&format!("cd {}; mkdir -p a/b; touch a/b/c; ln a/b/c d", str(&source)));
        let list = |ours: &Ours| sh(&format!("cd {}; find . -printf '%i %p\\n'", str(&ours.point)));
        let first = list(&ours);
        let number = |name| fs::metadata(ours.at(name)).unwrap().ino();
        assert_eq!(number("a/b/c"), number("d"));
        let point = ours.point.clone();
        ours.unmount();
        let again = Ours::new(&source, &point, &MAP);
        assert_eq!(first, list(&again));
    });
}

#[test]
fn a_special_file_never_stops_the_server() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["-o", "dev"]);
        sh(&format!("cd {}; mkfifo p; mknod n c 1 3; mknod d c 4 99", str(&source)));
        let reader = std::thread::spawn({
            let fifo = ours.at("p");
            move || fs::read_to_string(fifo).unwrap()
        });
        assert!(!holds_within(Duration::from_millis(300), || reader.is_finished()));
        // The server answers others while the reader waits.
        sh(&format!("cd {}; stat p n d; ls -l p; chmod 600 p; echo x > n", str(&ours.point)));
        fs::write(ours.at("p"), "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
    });
}

/// The policies that the project ships can be mounted as they are.
#[test]
fn every_ready_policy_mounts() {
    require!(Root, Fuse);
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/policies");
    for entry in fs::read_dir(policies).into_iter().flatten() {
        let policy = entry.unwrap().path();
        if policy.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        sandbox(move |sandbox| {
            // One reads the lists of an image there.
            run("mount", &["-t", "tmpfs", "image", "/srv"]);
            sh("mkdir -p /srv/containers/web/etc; \
                cp /etc/passwd /etc/group /srv/containers/web/etc");
            let (source, ours) = Ours::of_new(sandbox, &["--policy", str(&policy)]);
            fs::write(source.join("f"), "x").unwrap();
            assert_eq!(fs::read_to_string(ours.at("f")).unwrap(), "x", "{policy:?}");
            assert_eq!(ours.unmount(), Some(0));
        });
    }
}
