//! Owners that other programs keep in extended attributes, shown by us, and ours shown by
//! them.

use std::fs;

use crate::require;
use crate::support::rootless::{ANN, Rootless};
use crate::support::{Sandbox, sandbox, sh, str, text};

/// Waits until a server has taken away what it has made for its own use.
const LEFT: &str = "for i in $(seq 3000); do [ -e ~/src/.idmapfs ] || break; sleep 0.01; done";

/// All names below the working directory, but whiteouts of fuse-overlayfs, with owners,
/// modes and kinds.
const LIST: &str = "find . -mindepth 1 ! -name '.wh.*' | sort | xargs -r stat -c '%n %u:%g %a %F'";

/// A user with the directories of the scripts.
fn place(sandbox: &Sandbox) -> Rootless {
    let ann = Rootless::new(sandbox);
    ann.does("mkdir src up work over view; chmod 755 src up work over view");
    ann
}

/// Runs a script of hers as root of a namespace of hers with many ids.
fn inside(ann: &Rootless, script: &str) -> String {
    let file = ann.home.join(".script");
    fs::write(&file, script).unwrap();
    let unshare = "unshare --map-auto --map-root-user -m bash -euc";
    let done = ann.tries(&format!("{unshare} '. {}'", str(&file)));
    assert!(done.status.success(), "{script}: {}", text(&done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Lists a directory as we show it by its records.
fn by_us(ann: &Rootless, dir: &str) -> String {
    inside(ann, &format!("idmapfs -o owners=xattr {dir} view; cd view; {LIST}"))
}

/// As it is written through us.
const WRITTEN: &str = "./d 7:8 2775 directory
./d/t 9:10 3777 directory
./d/x 33:33 600 regular file
./link 0:0 777 symbolic link
./ping 0:0 4755 regular file
./su 1000:1001 4711 regular file
";

/// What regular files stand for on disk.
const STOOD_FOR: &str = "./given 5:5 777 symbolic link
./pipe 6:6 640 fifo
";

fn write(ann: &Rootless) -> String {
    inside(
        ann,
        &format!(
            "idmapfs -o owners=xattr src view; cd view
            echo s >su; chown 1000:1001 su; chmod 4711 su; echo p >ping; chmod 4755 ping
            mkdir d; echo x >d/x; chown 33:33 d/x; chmod 600 d/x; chown 7:8 d; chmod 2775 d
            mkdir d/t; chown 9:10 d/t; chmod 3777 d/t; ln -s su link
            ln -s su given; chown -h 5:5 given; mkfifo -m 640 pipe; chown 6:6 pipe
            {LIST}; cd ..; umount view; {LEFT}"
        ),
    )
}

#[test]
fn a_tree_that_we_wrote_has_right_owners_to_fuse_overlayfs() {
    require!(Root, Fuse, UserNamespaces, FuseOverlayfs);
    sandbox(|sandbox| {
        let ann = place(sandbox);
        let ours = write(&ann);
        let stands = |line: &&str| line.starts_with("./given") || line.starts_with("./pipe");
        let (stood, plain): (Vec<&str>, Vec<&str>) = ours.lines().partition(stands);
        assert_eq!(plain, WRITTEN.lines().collect::<Vec<_>>());
        assert_eq!(stood, STOOD_FOR.lines().collect::<Vec<_>>());
        let src = ann.home.join("src");
        let open = format!("find {} -mindepth 1 ! -type l", str(&src));
        assert_eq!(sh(&format!("{open} '(' ! -uid {ANN} -o -perm /6077 ')'")), "");
        let theirs = inside(
            &ann,
            &format!(
                "fuse-overlayfs -o lowerdir=src,xattr_permissions=2 over 2>/dev/null; cd over
                stat -c '%u:%g %a' .; {LIST}; cat given"
            ),
        );
        let rest = theirs.strip_prefix("0:0 755\n").expect("the root, by its record");
        let rest = rest.strip_suffix("su").expect("a file with the target");
        let (stood, plain): (Vec<&str>, Vec<&str>) = rest.lines().partition(stands);
        assert_eq!(plain, WRITTEN.lines().collect::<Vec<_>>());
        // Versions before 1.15 do not look at the kind.
        for (line, ours) in stood.iter().zip(STOOD_FOR.lines()) {
            let known = |line: &str| line.split(' ').take(3).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(known(line), known(ours));
        }
    });
}

/// Versions before 1.14 fail for a file without a record in a tree that has some.
#[test]
fn files_get_records_for_fuse_overlayfs_by_a_chmod() {
    require!(Root, Fuse, UserNamespaces, FuseOverlayfs);
    sandbox(|sandbox| {
        let ann = place(sandbox);
        ann.does("mkdir src/d; echo x >src/d/bare; chmod 640 src/d/bare");
        let through = |script: &str| {
            inside(
                &ann,
                &format!(
                    "idmapfs -o owners=xattr src view; (cd view; {script}); umount view; {LEFT}"
                ),
            )
        };
        through("touch new; chown 33:33 new; chmod -R u+r .");
        let theirs = inside(
            &ann,
            &format!(
                "fuse-overlayfs -o lowerdir=src,xattr_permissions=2 over 2>/dev/null; cd over; {LIST}"
            ),
        );
        let want = "./d 0:0 755 directory\n./d/bare 0:0 640 regular file\n\
                    ./new 33:33 644 regular empty file\n";
        assert_eq!((theirs.as_str(), by_us(&ann, "src").as_str()), (want, want));
    });
}

#[test]
fn a_tree_that_fuse_overlayfs_wrote_has_right_owners_through_us() {
    require!(Root, Fuse, UserNamespaces, FuseOverlayfs);
    sandbox(|sandbox| {
        let ann = place(sandbox);
        write(&ann);
        let theirs = inside(
            &ann,
            &format!(
                "fuse-overlayfs -o lowerdir=src,upperdir=up,workdir=work,xattr_permissions=2 over 2>/dev/null
                cd over; chmod 1777 .
                setpriv --reuid 33 --regid 34 --clear-groups sh -c 'echo t >t'
                echo a >a; chown 1000:1001 a; mv a b; echo q >q; chmod 4755 q; cp -a t copy
                mkdir e sg sticky; chown 7:8 e; chmod 2775 sg; chown 3:4 sg; chown 5:6 sticky; chmod 1777 sticky
                mkdir -m 1777 tmp; chown 9:9 tmp; ln -s a soft; mkfifo pipe2
                chown 12:13 d/x; echo more >>su; chmod 755 .
                (umask 0; echo o >open; chown 3:4 open; mkdir wide; chown 3:4 wide)
                {LIST}"
            ),
        );
        for line in [
            "./b 1000:1001 755",
            "./d/x 12:13 600",
            "./sg 3:4 2775",
            "./t 33:34 755",
            "./tmp 9:9 1777",
            "./open 3:4 777",
        ] {
            assert!(theirs.lines().any(|found| found.starts_with(line)), "{line}: {theirs}");
        }
        // What it has copied up or made; the rest of the tree is in the lower layer.
        let ours = by_us(&ann, "up");
        let exposed = |line: &&str| line.starts_with("./open") || line.starts_with("./wide");
        for line in ours.lines().filter(|line| !exposed(line)) {
            assert!(theirs.lines().any(|found| found == line), "{line}: {theirs}");
        }
        assert_eq!(ours.lines().filter(|line| !exposed(line)).count(), 13, "{ours}");
        // What it left open to others on disk may have its record from them.
        let shown: Vec<&str> = ours.lines().filter(exposed).collect();
        assert_eq!(shown, ["./open 0:0 777 regular file", "./wide 0:0 777 directory"]);
        let said = ann.tries("idmapfs owners check up");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        for name in ["open", "wide"] {
            let want = format!(
                "{name}: its record does not count: on disk others may write it (mode 0777); if it is sound: chmod go-w"
            );
            assert!(said.contains(&want), "{said}");
        }
        ann.does("find up -perm /022 ! -type l -exec chmod go-w {} +");
        for line in by_us(&ann, "up").lines() {
            assert!(theirs.lines().any(|found| found == line), "{line}: {theirs}");
        }
    });
}

/// fuse-overlayfs in a view of ours: what it keeps in attributes there is a file's attribute
/// to us, and a record to it alone.
#[test]
fn fuse_overlayfs_works_on_top_of_kept_owners() {
    require!(Root, Fuse, UserNamespaces, FuseOverlayfs);
    sandbox(|sandbox| {
        let ann = place(sandbox);
        for permissions in ["0", "2"] {
            let out = inside(
                &ann,
                &format!(
                    "rm -rf src; mkdir src; idmapfs -o owners=xattr src view; cd view
                    mkdir low up work; echo x >low/x; chown 5:6 low/x; mkdir low/d; touch low/d/gone
                    chown 5:6 low/d low/d/gone
                    upper=upperdir=up,workdir=work,xattr_permissions={permissions}
                    fuse-overlayfs -o lowerdir=low,$upper ../over 2>/dev/null
                    cd ../over; echo y >y; chown 7:8 y; echo more >>x; rm -r d; mkdir d; chown 9:9 d; {LIST}
                    cd ..; umount over; cd view
                    fuse-overlayfs -o lowerdir=low,$upper ../over 2>/dev/null; cd ../over; {LIST}; ls d
                    cd ../view/up; stat -c '%u:%g' y"
                ),
            );
            let lines: Vec<&str> = out.lines().collect();
            assert_eq!(lines.len(), 7, "{out}");
            assert_eq!(lines[..3], lines[3..6], "{permissions}: after a remount");
            for (line, start) in lines.iter().zip(["./d 9:9 ", "./x 5:6 ", "./y 7:8 "]) {
                assert!(line.starts_with(start), "{permissions}: {out}");
            }
            // Its record says nothing to us.
            assert_eq!(lines[6], if permissions == "0" { "7:8" } else { "0:0" });
        }
    });
}

/// Storage in which files are all the user's, and owners in records.
const STORAGE: &str = "[storage]\ndriver = \"overlay\"\n[storage.options.overlay]\n\
                       mount_program = \"/usr/bin/fuse-overlayfs\"\nforce_mask = \"700\"\n";

#[test]
fn an_image_that_podman_unpacked_has_its_owners() {
    require!(Root, Fuse, Podman, Buildah, FuseOverlayfs);
    sandbox(|sandbox| {
        let ann = place(sandbox);
        ann.does(&format!("printf '{STORAGE}' >~/.config/containers/storage.conf"));
        inside(
            &ann,
            "idmapfs -o owners=xattr src view; cp -a $ROOTFS/. view; cd view
            mkdir own own/d; echo x >own/x; chown 33:34 own/x; chmod 640 own/x; chown 7:8 own/d
            echo s >own/s; chmod 4755 own/s; chown 9:9 own; mkdir own/t; chmod 1777 own/t
            tar --numeric-owner -c . >../image.tar",
        );
        ann.does("podman import -q - localhost/owned <image.tar");
        let diff = |image: &str| {
            let script =
                format!("podman image inspect -f '{{{{.GraphDriver.Data.UpperDir}}}}' {image}");
            ann.does(&script).trim().to_owned()
        };
        let layer = diff("localhost/owned");
        let of = |list: String| -> Vec<String> {
            list.lines().filter(|line| line.starts_with("./own")).map(str::to_owned).collect()
        };
        // podman 4.3 leaves the set-id and sticky bits out of records.
        let want = [
            "./own 9:9 755 directory",
            "./own/d 7:8 755 directory",
            "./own/s 0:0 755 regular file",
            "./own/t 0:0 777 directory",
            "./own/x 33:34 640 regular file",
        ];
        assert_eq!(of(by_us(&ann, &layer)), want);
        assert_eq!(sh(&format!("find {layer} ! -uid {ANN} -o ! -type l -perm /077")), "");
        // What a container has written is the upper layer of fuse-overlayfs.
        ann.does(
            "buildah from --name c --pull-never localhost/owned
            buildah run c sh -c 'echo n >/own/new; chown 12:13 /own/new /own/x; chmod 700 /own/d'",
        );
        let upper = ann.does("dirname ~/.local/share/containers/storage/overlay/*/diff/own/new");
        let upper = of(by_us(&ann, upper.trim().strip_suffix("/own").unwrap()));
        for line in ["./own/new 12:13 755 regular file", "./own/x 12:13 640 regular file"] {
            assert!(upper.iter().any(|found| found == line), "{line}: {upper:?}");
        }
        // The image that buildah makes of it: in these versions what was copied up has the
        // owner of the first record again, whoever looks.
        ann.does("buildah commit -q --squash c localhost/built");
        let theirs = ann.does(&format!(
            "podman unshare sh -euc \"cd \\$(podman image mount localhost/built); {LIST}\""
        ));
        let built = of(by_us(&ann, &diff("localhost/built")));
        assert_eq!(built, of(theirs));
        assert!(built.iter().any(|line| line == "./own/new 12:13 755 regular file"), "{built:?}");
    });
}
