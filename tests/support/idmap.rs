//! The kernel's own idmapped mount: the model that ours is compared with.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::raw;

/// A range map, one list of `disk:view:count` extents for each kind.
#[derive(Debug, Clone)]
pub struct IdMap {
    /// Extents of users.
    pub users: Vec<String>,
    /// Extents of groups.
    pub groups: Vec<String>,
}

impl IdMap {
    /// One extent for both kinds.
    pub fn both(extent: &str) -> Self {
        Self { users: vec![extent.into()], groups: vec![extent.into()] }
    }

    /// Extents of each kind.
    pub fn of(users: &[&str], groups: &[&str]) -> Self {
        let own = |list: &[&str]| list.iter().map(|&extent| extent.to_owned()).collect();
        Self { users: own(users), groups: own(groups) }
    }

    /// The same map as arguments of our command.
    pub fn arguments(&self) -> Vec<String> {
        let users = self.users.iter().map(|extent| format!("u:{extent}"));
        let groups = self.groups.iter().map(|extent| format!("g:{extent}"));
        users.chain(groups).flat_map(|extent| ["--map".to_owned(), extent]).collect()
    }
}

/// A user namespace whose map is the given one.
pub fn user_namespace(map: &IdMap) -> Result<File, String> {
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = raw::spawn_in_user_namespace(&mut command).map_err(|e| e.to_string())?;
    let lines = |extents: &[String]| {
        extents.iter().map(|extent| extent.replace(':', " ") + "\n").collect::<String>()
    };
    let proc = format!("/proc/{}", child.id());
    let made = fs::write(format!("{proc}/uid_map"), lines(&map.users))
        .and_then(|()| fs::write(format!("{proc}/gid_map"), lines(&map.groups)))
        .and_then(|()| File::open(format!("{proc}/ns/user")));
    let _ = child.kill();
    let _ = child.wait();
    made.map_err(|e| format!("user namespace: {e}"))
}

/// Mounts `source` at `target` with the kernel's id map; `safe`: nosuid,nodev.
pub fn try_mount(source: &Path, target: &Path, map: &IdMap, safe: bool) -> Result<(), String> {
    let says =
        |what: &str, errno: i32| format!("{what}: {}", std::io::Error::from_raw_os_error(errno));
    let userns = user_namespace(map)?;
    let mount = raw::open_tree(source, false).map_err(|e| says("open_tree", e))?;
    let flags = if safe { libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV } else { 0 };
    raw::mount_idmap(mount.as_fd(), userns.as_fd(), flags).map_err(|e| says("mount_setattr", e))?;
    raw::move_mount(mount.as_fd(), target).map_err(|e| says("move_mount", e))?;
    Ok(())
}

/// Mounts `source` at `target` with the kernel's id map, nosuid,nodev.
pub fn mount(source: &Path, target: &Path, map: &IdMap) {
    try_mount(source, target, map, true).expect("an idmapped mount");
}
