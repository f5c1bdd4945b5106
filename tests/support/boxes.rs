//! What distrobox and toolbox want: of an image, and of the machine.

use std::process::{Child, Stdio};

use super::rootless::{Rootless, programs};
use super::{Sandbox, sh, str, wait_for};

/// The image that [`image`] makes.
pub const IMAGE: &str = "localhost/box";

/// What they run in a box to set it up.
const PROGRAMS: &str = "basename capsh chpasswd diff dirname env find findmnt groupadd passwd readlink sed tr useradd usermod";

/// What distrobox would install, and does not use.
const NAMES: &str = "bc curl less lsof pinentry sudo time wget";

/// Makes an image that has all of it, so that nothing is fetched.
pub fn image(ann: &Rootless, sandbox: &Sandbox) {
    let root = sandbox.dir("box");
    sh(&format!("cp -r {}/. {}", str(&ann.rootfs), str(&root)));
    programs(&root, PROGRAMS);
    sh(&format!(
        "cd {root}; for name in {NAMES}; do ln -s true usr/bin/$name; done
        module=$(find /usr/lib /lib -name pam_permit.so | head -n 1)
        mkdir -p etc/pam.d var/log .${{module%/*}}; cp $module .$module
        for kind in auth account password; do echo $kind required pam_permit.so; done >etc/pam.d/other
        echo sudo:x:27: >>etc/group; echo 'root:*:1::::::' >etc/shadow",
        root = str(&root),
    ));
    ann.does(&format!(
        "tar -C {} -c . | podman import -q -c 'LABEL com.github.containers.toolbox=true' - {IMAGE}",
        str(&root)
    ));
}

/// A bus at the address that [`Rootless::command`] tells.
#[derive(Debug)]
pub struct Bus(Child);

impl Bus {
    /// Starts it.
    pub fn new(ann: &Rootless) -> Self {
        let script = "exec dbus-daemon --session --nofork --address=$DBUS_SYSTEM_BUS_ADDRESS";
        let daemon = ann.command(script).stderr(Stdio::null()).spawn().expect("dbus-daemon");
        let this = Self(daemon);
        let socket = "[ -S ${DBUS_SYSTEM_BUS_ADDRESS#*=} ]";
        wait_for("the bus", || ann.tries(socket).status.success());
        this
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
