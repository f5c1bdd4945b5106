//! systemd as the first process of a namespace: fstab and mount units.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::require;
use crate::support::group::Group;
use crate::support::{raw, run, sandbox, str};

/// What systemd runs once the mount from fstab is there, in the directory of
/// the test; it then ends the namespace with everything in it.
const SCRIPT: &str = r#"
exec > log 2>&1
say() { echo "$1: $(systemctl is-active "$2")"; }
say booted "$WANTED"
findmnt -vno FSTYPE wanted
systemctl start "$ASKED"; say started "$ASKED"
stat -c 'owner %u:%g' asked
mount -a; echo "mount -a: $?"
echo "mounts: $(grep fuse.idmapfs /proc/self/mountinfo | grep -c "$PWD")"
systemctl stop "$ASKED"; say stopped "$ASKED"
umount wanted; echo "umount: $?"
for _ in $(seq 300); do [ "$(systemctl is-active "$WANTED")" = inactive ] && break; sleep 0.1; done
say unmounted "$WANTED"
echo "mounts: $(grep fuse.idmapfs /proc/self/mountinfo | grep -c "$PWD")"
sed -i 's/^Options=.*/&,engine=kernel/' "/run/systemd/system/$ASKED"; systemctl daemon-reload
systemctl start "$ASKED"; say kernel "$ASKED"
findmnt -no OPTIONS asked | grep -o idmapped; stat -c 'owner %u:%g' asked
systemctl stop "$ASKED"; say ended "$ASKED"; mountpoint -q asked || echo gone
sed -i s/map=.*/map=nonsense/ "/run/systemd/system/$ASKED"; systemctl daemon-reload
systemctl start "$ASKED" 2>/dev/null; say refused "$ASKED"
systemctl poweroff -ff &>/dev/null
"#;

const WANT: &str = "booted: active
fuse.idmapfs
started: active
owner 200000:200000
mount -a: 0
mounts: 2
stopped: inactive
umount: 0
unmounted: inactive
mounts: 0
kernel: active
idmapped
owner 200000:200000
ended: inactive
gone
refused: failed
";

/// Makes the namespace ready: the machine's own directories, with places to
/// write laid over those that are written.
const BOOT: &str = r#"set -e
umount -l /sys/fs/cgroup || true
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs none /run
for dir in etc sbin; do mkdir -p $dir/up $dir/work; done
mount -t overlay -o lowerdir=/etc,upperdir=etc/up,workdir=etc/work overlay /etc
mount -t overlay -o lowerdir=/usr/sbin,upperdir=sbin/up,workdir=sbin/work overlay /usr/sbin
mkdir -p /run/systemd/system
cp "$ASKED" try.service /run/systemd/system
cp fstab /etc/fstab
cp "$PROGRAM" /usr/sbin/idmapfs
ln -sf /usr/sbin/idmapfs /usr/sbin/mount.idmapfs
ln -sf /usr/sbin/idmapfs /usr/sbin/mount.fuse.idmapfs
exec /lib/systemd/systemd --system --unit=try.service --log-target=null
"#;

#[test]
fn fstab_and_units_under_systemd() {
    require!(Root, Fuse, Systemd);
    sandbox(|sandbox| {
        let root = sandbox.path("");
        let source = sandbox.dir("source");
        let unit = |point: &Path| {
            run("systemd-escape", &["-p", "--suffix=mount", str(point)]).trim().to_owned()
        };
        let (wanted, asked) = (sandbox.dir("wanted"), sandbox.dir("asked"));
        let (wanted_unit, asked_unit) = (unit(&wanted), unit(&asked));
        let write = |name: &str, text: String| fs::write(root.join(name), text).unwrap();
        write("script", SCRIPT.into());
        write(
            "fstab",
            format!("{} {} idmapfs map=0:100000:65536,nofail 0 0\n", str(&source), str(&wanted)),
        );
        write(
            &asked_unit,
            format!(
                "[Mount]\nWhat={}\nWhere={}\nType=idmapfs\nOptions=map=0:200000:65536\n",
                str(&source),
                str(&asked)
            ),
        );
        let directory = str(&root);
        // Percent signs and backslashes mean something in a unit, so names
        // come by the environment.
        let service = "[Unit]\nDefaultDependencies=no\nRequires=WANTED\nAfter=WANTED\n[Service]\n\
            Type=oneshot\nWorkingDirectory=ROOT\nEnvironmentFile=ROOT/names\nExecStart=/bin/bash ROOT/script\n";
        write("try.service", service.replace("WANTED", &wanted_unit).replace("ROOT", directory));
        write("names", format!("WANTED='{wanted_unit}'\nASKED='{asked_unit}'\n"));
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "90", "unshare", "-pm", "--fork", "--kill-child"]);
        command.args(["bash", "-c", BOOT]).current_dir(&root);
        command.env("ASKED", &asked_unit).env("PROGRAM", env!("CARGO_BIN_EXE_idmapfs"));
        // What systemd makes for its units goes with the group.
        let group = Group::new(sandbox, 0);
        group.takes(&mut command);
        let out = raw::die_with_us(&mut command).output().unwrap();
        let log = fs::read_to_string(root.join("log")).unwrap_or_default();
        assert_eq!(log, WANT, "{}", String::from_utf8_lossy(&out.stderr));
    });
}
