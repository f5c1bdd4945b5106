//! What a test needs of the machine: asked for by trying, never by version.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Sandbox, idmap, image, output};

/// Something that a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The tests run as root.
    Root,
    /// /dev/fuse can be opened.
    Fuse,
    /// The tests may run on more than one processor.
    Processors,
    /// Control groups can say on which processors a process may run.
    Cpusets,
    /// Control groups can say how many processes and threads there may be.
    ProcessLimit,
    /// ext4 images can be mounted by loop.
    Ext4Loop,
    /// ext4 encrypts directories by keys that it is given.
    Encryption,
    /// mkfs.btrfs, and a kernel that mounts what it makes.
    Btrfs,
    /// The kernel has idmapped mounts of ext4.
    Idmap,
    /// mksquashfs, and a kernel that mounts what it makes.
    Squashfs,
    /// mkfs.erofs, and a kernel that mounts what it makes.
    Erofs,
    /// sgdisk, which makes partitions.
    Partitions,
    /// Ordinary users can make user namespaces, and newuidmap is there.
    UserNamespaces,
    /// fusermount3 is installed set-uid root.
    Fusermount,
    /// The kernel can read and write files of a FUSE source by itself.
    Passthrough,
    /// The kernel maps ids of FUSE mounts.
    FuseIdmap,
    /// Overlay file systems can be mounted.
    Overlay,
    /// setfacl, getfacl.
    AclTools,
    /// setcap, getcap.
    CapTools,
    /// What packs files whole: gzip, zstd, xz, bzip2, lz4, lzop, lzip.
    Packers,
    /// setquota, and ext4 with the quota feature.
    Quota,
    /// systemd, which need not run here, and cgroup2 for it.
    Systemd,
    /// systemd-nspawn, and cgroup2 for it.
    Nspawn,
    /// bindfs, which ours is compared with.
    Bindfs,
    /// Rootless podman can run a container.
    Podman,
    /// buildah.
    Buildah,
    /// distrobox.
    Distrobox,
    /// toolbox, and a bus for it.
    Toolbox,
    /// fuse-overlayfs.
    FuseOverlayfs,
    /// pjdfstest, built by `tests/run.sh`.
    Pjdfstest,
}

/// Whether a feature is there, or why not.
type Answer = Result<(), String>;

/// Whether the machine has a feature; says `SKIP` (or fails in CI) if not.
pub fn has(feature: Feature) -> bool {
    static CACHE: Mutex<Vec<(Feature, Answer)>> = Mutex::new(Vec::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = cache.iter().find(|(known, _)| *known == feature).map(|(_, answer)| answer.clone());
    let answer = known.unwrap_or_else(|| {
        let answer = probe(feature);
        cache.push((feature, answer.clone()));
        answer
    });
    drop(cache);
    match answer {
        Ok(()) => true,
        Err(reason) => {
            assert!(may_skip(feature), "needs {feature:?}, and a skip is a failure here: {reason}");
            // Not eprintln!: the harness would keep it to itself.
            let line = format!("SKIP: {feature:?}: {reason}\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            false
        }
    }
}

/// Where pjdfstest is, if `tests/run.sh` has built it.
pub fn pjdfstest() -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/target/pjdfstest/bin/pjdfstest");
    std::env::var_os("IDMAPFS_PJDFSTEST").map_or_else(|| built.into(), PathBuf::from)
}

/// In CI nothing is skipped but what `IDMAPFS_MAY_SKIP` lists, by commas.
fn may_skip(feature: Feature) -> bool {
    let set = |name| std::env::var_os(name).is_some();
    let listed = std::env::var("IDMAPFS_MAY_SKIP").unwrap_or_default();
    let listed = listed.split(',').any(|name| name == format!("{feature:?}"));
    listed || !(set("CI") || set("IDMAPFS_NO_SKIP"))
}

fn probe(feature: Feature) -> Answer {
    match feature {
        Feature::Root => nix::unistd::geteuid().is_root().then_some(()).ok_or("not root".into()),
        Feature::Fuse => {
            let flags = libc::O_RDWR;
            super::raw::open(Path::new("/dev/fuse"), flags, 0)
                .map(drop)
                .map_err(|e| errno("/dev/fuse", e))
        }
        Feature::Processors => {
            let here = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
            let here = here.map_err(|errno| errno.to_string())?;
            let count = super::cpuset::numbers(here).count();
            (count > 1).then_some(()).ok_or("one processor".into())
        }
        Feature::Cpusets => in_sandbox(|sandbox| {
            super::cpuset::Cpuset::try_new(sandbox, 0).map(drop).map_err(|e| e.to_string())
        }),
        Feature::ProcessLimit => in_sandbox(|sandbox| {
            let group = super::controlled::Controlled::try_new(sandbox, "pids", "probe");
            group.and_then(|group| group.set("pids.max", "100")).map_err(|e| e.to_string())
        }),
        Feature::Ext4Loop => in_sandbox(|sandbox| image::Ext4::try_new(sandbox, 16, "").map(drop)),
        Feature::Encryption => in_sandbox(|sandbox| {
            let image = image::Ext4::try_new(sandbox, 16, "-O encrypt")?;
            let dir = sandbox.dir(&format!("{}/d", super::str(&image.root)));
            let encrypt = |key| super::crypt::encrypt(&dir, key);
            super::crypt::add_key(&image.root).and_then(encrypt).map_err(|e| errno("fscrypt", e))
        }),
        Feature::Idmap => in_sandbox(|sandbox| {
            let image = image::Ext4::try_new(sandbox, 16, "")?;
            let map = idmap::IdMap::both("0:100000:10");
            idmap::try_mount(&image.root, &sandbox.dir("idmapped"), &map, true)
        }),
        Feature::Btrfs => tool("mkfs.btrfs").and_then(|()| kernel_mounts("btrfs")),
        Feature::Squashfs => tool("mksquashfs").and_then(|()| kernel_mounts("squashfs")),
        Feature::Erofs => tool("mkfs.erofs").and_then(|()| kernel_mounts("erofs")),
        Feature::Partitions => tool("sgdisk"),
        Feature::UserNamespaces => {
            tool("newuidmap")?;
            let probe =
                output("setpriv", &["--reuid=65534", "--clear-groups", "unshare", "-Urm", "true"]);
            probe.status.success().then_some(()).ok_or_else(|| super::text(&probe))
        }
        Feature::Fusermount => {
            use std::os::unix::fs::PermissionsExt;
            let meta = std::fs::metadata("/usr/bin/fusermount3").map_err(|e| e.to_string())?;
            let set_uid = meta.permissions().mode() & 0o4000 != 0;
            set_uid.then_some(()).ok_or("fusermount3 is not set-uid".into())
        }
        Feature::Passthrough => in_sandbox(|sandbox| {
            let (_, ours) = super::ours::Ours::of_new(sandbox, &["--log", "info"]);
            let log = ours.log();
            log.contains("the kernel reads and writes").then_some(()).ok_or(log)
        }),
        Feature::FuseIdmap => in_sandbox(|sandbox| {
            let (_, ours) = super::ours::Ours::of_new(sandbox, &["--allow-idmap"]);
            let map = idmap::IdMap::both("0:100000:10");
            let view = sandbox.dir("idmapped");
            idmap::try_mount(&ours.point, &view, &map, true)?;
            let _ = nix::mount::umount2(&view, nix::mount::MntFlags::MNT_DETACH);
            Ok(())
        }),
        Feature::Overlay => in_sandbox(|sandbox| {
            let [lower, upper, work, at] = ["l", "u", "w", "m"].map(|name| sandbox.dir(name));
            let (lower, upper, work) = (lower.display(), upper.display(), work.display());
            let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            let at = at.display().to_string();
            let mounted = output("mount", &["-t", "overlay", "-o", &layers, "overlay", &at]);
            mounted.status.success().then_some(()).ok_or_else(|| super::text(&mounted))
        }),
        Feature::AclTools => tool("setfacl"),
        Feature::CapTools => tool("setcap"),
        Feature::Packers => {
            ["gzip", "zstd", "xz", "bzip2", "lz4", "lzop", "lzip"].into_iter().try_for_each(tool)
        }
        Feature::Quota => tool("setquota").and_then(|()| {
            in_sandbox(|sandbox| image::Ext4::try_new(sandbox, 16, "-O quota").map(drop))
        }),
        Feature::Systemd => {
            if !Path::new("/lib/systemd/systemd").exists() {
                return Err("no /lib/systemd/systemd".into());
            }
            cgroup2()
        }
        Feature::Nspawn => tool("systemd-nspawn").and_then(|()| cgroup2()),
        Feature::Bindfs => tool("bindfs"),
        Feature::Podman => tool("podman").and_then(|()| tool("newuidmap")).and_then(|()| {
            in_sandbox(|sandbox| {
                let ann = super::rootless::Rootless::new(sandbox);
                let done = ann.tries("podman run --rm --rootfs $ROOTFS true");
                done.status.success().then_some(()).ok_or_else(|| super::text(&done))
            })
        }),
        Feature::Buildah => tool("buildah"),
        Feature::Distrobox => tool("distrobox"),
        Feature::Toolbox => tool("toolbox").and_then(|()| tool("dbus-daemon")),
        Feature::FuseOverlayfs => tool("fuse-overlayfs"),
        Feature::Pjdfstest => {
            let program = pjdfstest();
            program.is_file().then_some(()).ok_or(format!("no {}", program.display()))
        }
    }
}

fn errno(what: &str, errno: i32) -> String {
    format!("{what}: {}", std::io::Error::from_raw_os_error(errno))
}

fn tool(name: &str) -> Result<(), String> {
    let found = output("bash", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin type -P {name}")]);
    found.status.success().then_some(()).ok_or(format!("{name} is not installed"))
}

/// Whether control groups can be had in a namespace.
fn cgroup2() -> Answer {
    let command = ["-mC", "mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"];
    let probe = output("unshare", &command);
    probe.status.success().then_some(()).ok_or_else(|| super::text(&probe))
}

/// Whether the kernel has a file system, or a module of it.
fn kernel_mounts(kind: &str) -> Answer {
    let _ = output("bash", &["-c", &format!("PATH=$PATH:/sbin:/usr/sbin modprobe -q {kind}")]);
    let all = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let there = all.split_whitespace().any(|word| word == kind);
    there.then_some(()).ok_or_else(|| format!("the kernel has no {kind}"))
}

fn in_sandbox(body: fn(&Sandbox) -> Result<(), String>) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root".into());
    }
    std::thread::spawn(move || body(&Sandbox::new())).join().unwrap_or(Err("probe panicked".into()))
}
