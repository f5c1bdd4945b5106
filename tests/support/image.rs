//! ext4 images, mounted by loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::mount::MntFlags;

use super::{Sandbox, output, run, str, text};

/// A mounted ext4 image; unmounted, and its loop device freed, when dropped.
#[derive(Debug)]
pub struct Ext4 {
    /// The root directory of the mounted image.
    pub root: PathBuf,
}

impl Ext4 {
    /// Makes and mounts an image of this many MiB.
    pub fn new(sandbox: &Sandbox, mib: u32) -> Self {
        Self::with(sandbox, mib, "")
    }

    /// Makes and mounts an image with further options for mkfs.
    pub fn with(sandbox: &Sandbox, mib: u32, mkfs: &str) -> Self {
        Self::try_new(sandbox, mib, mkfs).expect("an ext4 image")
    }

    /// Makes and mounts an image, or says why it cannot.
    pub fn try_new(sandbox: &Sandbox, mib: u32, mkfs: &str) -> Result<Self, String> {
        // A number of its own: an image that was unmounted lazily may still be
        // in use.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (file, root) =
            (sandbox.path(&format!("{number}.img")), sandbox.dir(&format!("ext4-{number}")));
        let sparse = std::fs::File::create(&file).map_err(|e| e.to_string())?;
        sparse.set_len(u64::from(mib) << 20).map_err(|e| e.to_string())?;
        let mkfs = format!(
            "PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -I 256 -E lazy_itable_init=1,nodiscard {mkfs} {}",
            str(&file)
        );
        succeed(&output("bash", &["-c", &mkfs]))?;
        // noatime: relatime moves the time by the clock's tick, not by the call.
        let options = "loop,acl,user_xattr,noatime";
        succeed(&output("mount", &["-t", "ext4", "-o", options, str(&file), str(&root)]))?;
        // The loop device holds the file; its space is free with the last use.
        let _ = std::fs::remove_file(&file);
        let _ = std::fs::remove_dir(root.join("lost+found"));
        Ok(Self { root })
    }

    /// Mounts the image anew with further options.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), str(&self.root)]);
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // The loop device frees itself with the last use (autoclear).
        let _ = nix::mount::umount2(&self.root, MntFlags::MNT_DETACH);
    }
}

fn succeed(output: &std::process::Output) -> Result<(), String> {
    if output.status.success() { Ok(()) } else { Err(text(output)) }
}
