//! Files that are found by their handles: name_to_handle_at(2), open_by_handle_at(2), which is
//! what servers of NFS keep.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, setgid, setuid};

use crate::require;
use crate::support::idmap::{self, IdMap};
use crate::support::image::Ext4;
use crate::support::images::{self, image};
use crate::support::ours::{Ours, finish};
use crate::support::{Sandbox, holds_within, raw, run, sandbox, sh, str};

type Handle = (i32, Vec<u8>);

const MAP: [&str; 2] = ["--map", "0:100000:65536"];

fn handle(path: &Path) -> Handle {
    raw::handle(path).unwrap_or_else(|errno| panic!("{}: {errno}", path.display()))
}

/// Opens what a handle is of, on the mount at a directory.
fn open(point: &Path, handle: &Handle) -> Result<OwnedFd, i32> {
    raw::open_handle(&File::open(point).unwrap().into(), handle)
}

/// Returns every file below a directory that can be opened.
fn files(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let opens = |path: &PathBuf| {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        kind.is_file() || kind.is_dir()
    };
    found.retain(opens);
    found
}

/// The link in /proc of what is open.
fn link(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// What is known of a file, contents and names in a directory included.
fn described(file: OwnedFd) -> String {
    let file = File::from(file);
    let stat = file.metadata().unwrap();
    let contents = if stat.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(link(&file)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        format!("{names:?}")
    } else {
        let mut buffer = vec![0; 1 << 16];
        let length = file.read_at(&mut buffer, 0).unwrap();
        format!("{:?}", &buffer[..length])
    };
    format!("{} {:o} {} {} {contents}", stat.ino(), stat.mode(), stat.uid(), stat.gid())
}

/// A file system with some files, owned by users of the map.
fn filled(sandbox: &Sandbox) -> Ext4 {
    let image = Ext4::new(sandbox, 32);
    fs::create_dir_all(image.root.join("a/b/c")).unwrap();
    fs::write(image.root.join("a/b/c/f"), "deep").unwrap();
    fs::write(image.root.join("top"), "flat").unwrap();
    fs::hard_link(image.root.join("top"), image.root.join("a/again")).unwrap();
    symlink("top", image.root.join("a/link")).unwrap();
    for (path, uid) in [("a/b", 5), ("a/b/c/f", 7), ("top", 9)] {
        raw::chown(&image.root.join(path), uid, uid, false).unwrap();
    }
    image
}

/// The same handles on two mounts, one after the other; nothing of the first is known to
/// the second.
#[test]
fn handles_outlive_a_remount() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = filled(sandbox);
        let point = sandbox.dir("mnt");
        let ours = Ours::new(&image.root, &point, &MAP);
        let known: Vec<_> = files(&point)
            .into_iter()
            .map(|path| {
                let described = described(File::open(&path).unwrap().into());
                (handle(&path), described, path)
            })
            .collect();
        assert_eq!(known.len(), 7);
        let gone = handle(&ours.at("a/b/c/f"));
        ours.unmount();
        let ours = Ours::new(&image.root, &point, &MAP);
        for (handle, before, path) in known.iter().rev() {
            let opened = open(&point, handle).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(&described(opened), before, "{}", path.display());
        }
        // A directory has its path again, a file that of a directory that was looked into.
        let named = |handle| fs::read_link(link(&open(&point, handle).unwrap())).unwrap();
        let deep = known.iter().find(|known| known.2.ends_with("a/b/c")).unwrap();
        assert_eq!(named(&deep.0), ours.at("a/b/c"));
        let file = open(&point, &gone).unwrap();
        assert_eq!(File::from(file).metadata().unwrap().uid(), 100_007);
        fs::remove_file(image.root.join("a/b/c/f")).unwrap();
        ours.unmount();
        let ours = Ours::new(&image.root, &point, &MAP);
        assert_eq!(open(&point, &gone).map(drop), Err(libc::ESTALE));
        // ext4 gives the number away again.
        for n in 0..20 {
            fs::write(image.root.join(format!("a/b/c/{n}")), "other").unwrap();
        }
        assert_eq!(open(&point, &gone).map(drop), Err(libc::ESTALE));
        ours.unmount();
    });
}

/// The kernel forgets what nobody uses, and asks again.
#[test]
fn handles_outlive_what_the_kernel_knows() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = filled(sandbox);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let handles = ["a/b/c/f", "a/b/c", "a", "top"].map(|path| handle(&ours.at(path)));
        for round in 0..3 {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            for (at, handle) in handles.iter().enumerate() {
                let opened = open(&ours.point, handle);
                assert!(opened.is_ok(), "{round}, {at}: {opened:?}");
            }
        }
        let opened = open(&ours.point, &handles[0]).unwrap();
        fs::rename(image.root.join("a/b"), image.root.join("moved")).unwrap();
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        assert_eq!(described(opened), described(File::open(ours.at("moved/c/f")).unwrap().into()));
        let dir = open(&ours.point, &handles[1]).unwrap();
        assert_eq!(fs::read_link(link(&dir)).unwrap(), ours.at("moved/c"));
    });
}

/// A number is of the whole file system; only what is below the source may be had by it.
#[test]
fn no_handle_leads_outside_of_the_source() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = filled(sandbox);
        let all = Ours::new(&image.root, &sandbox.dir("all"), &MAP);
        let handles = |paths: &[&str]| paths.iter().map(|p| handle(&all.at(p))).collect::<Vec<_>>();
        let (inside, outside) = (handles(&["a/b/c", "a/b/c/f"]), handles(&["", "a", "top"]));
        all.unmount();
        let part = Ours::new(&image.root.join("a/b"), &sandbox.dir("part"), &MAP);
        for handle in &outside {
            assert_eq!(open(&part.point, handle).map(drop), Err(libc::ESTALE));
        }
        let _named = File::open(image.root.join("a/b/c/f")).unwrap();
        for handle in &inside {
            assert!(open(&part.point, handle).is_ok());
        }
    });
}

/// Whoever opens by handle needs the rights over the mount that the kernel asks for.
#[test]
fn root_of_a_container_opens_by_handle_what_it_may_on_a_mount_of_the_kernel() {
    require!(Root, Fuse, Ext4Loop, Idmap, UserNamespaces);
    sandbox(|sandbox| {
        let image = filled(sandbox);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &MAP);
        let kernel = sandbox.dir("kernel");
        let map = IdMap::both("0:100000:65536");
        idmap::mount(&image.root, &kernel, &map);
        let user = idmap::user_namespace(&map).unwrap();
        let by_root = |point: &Path, path: &str| {
            let handle = handle(&point.join(path));
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let child = raw::fork_and_try(|| {
                setns(user.as_fd(), CloneFlags::CLONE_NEWUSER)
                    .and_then(|()| unshare(CloneFlags::CLONE_NEWNS))
                    .and_then(|()| setgid(Gid::from_raw(0)))
                    .and_then(|()| setuid(Uid::from_raw(0)))
                    .map_err(|errno| errno as i32)?;
                open(point, &handle).map(drop)
            });
            match waitpid(child.unwrap(), None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            }
        };
        for path in ["a", "a/b/c", "a/b/c/f"] {
            assert_eq!(by_root(&ours.point, path), by_root(&kernel, path), "{path}");
        }
    });
}

/// Where rules say what is shown, by the path, a number alone does not do.
#[test]
fn where_there_are_rules_handles_last_as_long_as_the_kernel_knows_the_file() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = filled(sandbox);
        let policy =
            sandbox.file("p.toml", "version = 1\n[[rules]]\npath = \"/a/b/**\"\nhide = true\n");
        let args = ["--policy", str(&policy)];
        let all = Ours::new(&image.root, &sandbox.dir("all"), &[]);
        let hidden = handle(&all.at("a/b/c/f"));
        all.unmount();
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &args);
        assert_eq!(open(&ours.point, &hidden).map(drop), Err(libc::ESTALE));
        let top = handle(&ours.at("top"));
        assert!(open(&ours.point, &top).is_ok());
        ours.unmount();
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &args);
        assert_eq!(open(&ours.point, &top).map(drop), Err(libc::ESTALE));
    });
}

/// What was found by its handle has no name, and so nobody knows which rules it is under that
/// come later: not even while somebody has it open.
#[test]
fn rules_that_come_later_are_in_force_for_what_was_found_by_handle() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = filled(sandbox);
        let policy = sandbox.file("p.toml", "version = 1\n");
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &["--policy", str(&policy)]);
        let [hidden, shown] = ["a/b/c/f", "top"].map(|path| handle(&ours.at(path)));
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let found = [&hidden, &shown].map(|handle| open(&ours.point, handle).unwrap());
        let hide = "version = 1\n[[rules]]\npath = \"/a/b/**\"\nhide = true\n";
        fs::write(&policy, hide).unwrap();
        let reload = || finish(&["reload", str(&ours.point)]).status.success();
        assert!(holds_within(Duration::from_secs(10), reload));
        for handle in [&hidden, &shown] {
            assert_eq!(open(&ours.point, handle).map(drop), Err(libc::ESTALE));
        }
        // A name leads to one of them.
        assert_eq!(fs::read(ours.at("top")).unwrap(), b"flat");
        assert!(open(&ours.point, &shown).is_ok());
        let mut read = [0; 4];
        File::from(found.into_iter().next().unwrap()).read_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"deep", "what is open stays so");
    });
}

/// Files with owners beside them are found too, but not those that another file stands for.
#[test]
fn owners_are_shown_of_what_is_found_by_handle() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let point = sandbox.dir("mnt");
        let args = ["--owners", "xattr"];
        let ours = Ours::new(&image.root, &point, &args);
        fs::create_dir(ours.at("d")).unwrap();
        fs::write(ours.at("d/f"), "x").unwrap();
        sh(&format!("mkfifo {p}/d/n; chown 5:6 {p}/d/f {p}/d/n", p = str(&point)));
        let handles = ["d/f", "d", "d/n"].map(|path| handle(&ours.at(path)));
        ours.unmount();
        let ours = Ours::new(&image.root, &point, &args);
        let file = File::from(open(&point, &handles[0]).unwrap()).metadata().unwrap();
        assert_eq!((file.uid(), file.gid()), (5, 6));
        assert!(open(&point, &handles[1]).is_ok());
        assert_eq!(open(&point, &handles[2]).map(drop), Err(libc::ESTALE));
        ours.unmount();
    });
}

/// Every file of every format, after a remount of the image; of one with many names again and
/// again, while the kernel forgets it each time.
#[test]
fn files_of_images_are_found_by_handle() {
    require!(Root, Fuse, Squashfs, Erofs, Ext4Loop);
    sandbox(|sandbox| {
        for name in
            ["few-ext4", "few-ext4-unchecked", "few-ext2", "few-squashfs", "few-erofs", "erofs-lz4"]
        {
            let (made, _) = image(name).expect("tools of Debian 12 make it");
            let copy = sandbox.path(&format!("{name}.img"));
            images::copy(&made, &copy);
            let point = sandbox.dir(name);
            let ours = Ours::new(&copy, &point, &MAP);
            let known: Vec<_> = files(&point)
                .into_iter()
                .map(|path| (handle(&path), described(File::open(&path).unwrap().into()), path))
                .collect();
            ours.unmount();
            let ours = Ours::new(&copy, &point, &MAP);
            assert!(known.len() > 5, "{name}: {}", known.len());
            for (handle, before, path) in known.iter().rev() {
                let opened = open(&point, handle);
                let opened = opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert_eq!(&described(opened), before, "{}", path.display());
            }
            ours.unmount();
        }
        let tree = sandbox.dir("tree");
        fs::write(tree.join("f"), "").unwrap();
        let image = sandbox.path("no-exports");
        run("mksquashfs", &[str(&tree), str(&image), "-quiet", "-no-progress", "-no-exports"]);
        let point = sandbox.dir("mnt");
        let ours = Ours::new(&image, &point, &[]);
        let file = handle(&ours.at("f"));
        ours.unmount();
        let _ours = Ours::new(&image, &point, &[]);
        assert_eq!(open(&point, &file).map(drop), Err(libc::ESTALE));
    });
}

/// Where the root is the first node itself, the client's number of it is another one.
#[test]
fn the_root_keeps_its_number_when_a_handle_leads_there() {
    require!(Root, Fuse, Fusermount, Ext4Loop);
    sandbox(|sandbox| {
        let (made, _) = image("few-ext4").expect("tools of Debian 12 make it");
        let copy = sandbox.path("image");
        images::copy(&made, &copy);
        let ours = Ours::of_user(sandbox, 34, &copy, &sandbox.dir("mnt"), &[]);
        let number = || fs::metadata(&ours.point).unwrap().ino();
        assert_eq!(number(), 2);
        let is_dir = |path: &PathBuf| path != &ours.point && path.is_dir();
        let inner = files(&ours.point).into_iter().find(is_dir).unwrap();
        let handle = handle(&inner);
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let dir = open(&ours.point, &handle).unwrap();
        assert_eq!(fs::read_link(link(&dir)).unwrap(), inner);
        assert_eq!(number(), 2);
    });
}
